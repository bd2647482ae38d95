"""Overlays: class tints, bounding boxes in place, and legends."""

import numpy as np
import pytest
from PIL import ImageColor

from deconv_jax.viz.overlays import (
    class_color,
    class_name,
    tint_by_class,
    with_boxes,
    with_legend,
)
from deconv_jax.viz.pixels import rgb_pixels
from deconv_jax.viz.plots import COLORS


def draw(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def at(pixels, color):
    return (pixels == np.array(color)).all(axis=-1)


def test_classes_have_colors_and_names():
    assert class_color(2) == ImageColor.getrgb(COLORS[2]) == class_color(2 + len(COLORS))
    assert class_name(1, ("cat", "dog")) == "dog"
    assert class_name(2, ("cat", "dog")) == "2"
    assert class_name(0, ()) == "0"


@pytest.mark.parametrize("background", [0, None, 3])
def test_tinted_pixels_are_half_the_color_of_their_class(background):
    image = draw(6, 7, 3)
    segments = np.random.default_rng(1).integers(0, 13, (6, 7))
    segments[0] = 255
    tinted = tint_by_class(image, segments, background=background)
    for place in np.ndindex(6, 7):
        number = segments[place]
        expected = image[place].astype(float)
        if number != 255 and number != background:
            expected = (expected + class_color(number)) / 2
        np.testing.assert_allclose(tinted[place], expected, atol=0.5)


@pytest.mark.parametrize("scale", [1, 3])
def test_frame_covers_the_outermost_pixels_of_its_box(scale):
    """The box covers rows 30 to 49 and columns 10 to 39."""
    image = np.zeros((60, 60, 1), np.uint8)
    boxes, color = np.array([[30.0, 10.0, 50.0, 40.0]]), class_color(3)
    drawn = with_boxes(image, boxes, np.array([3]), scale=scale, names=("", "", "", ""))
    assert drawn.shape == (60 * scale, 60 * scale, 3)
    below = at(drawn, color)[32 * scale :]
    rows, columns = np.nonzero(below)
    assert rows.max() == 18 * scale - 1
    assert (columns.min(), columns.max()) == (10 * scale, 40 * scale - 1)
    # The interior is empty.
    assert not below[: 18 * scale - 5, 14 * scale : 36 * scale].any()
    top = at(drawn, color)[30 * scale, 10 * scale : 40 * scale]
    assert top.all()


def test_boxes_without_a_class_are_not_drawn_and_the_image_is_enlarged():
    image = draw(9, 8, 1)
    boxes = np.array([[1.0, 1, 5, 5], [0, 0, 9, 8]])
    drawn = with_boxes(image, boxes, np.array([-1, -1]), scale=4)
    repeated = rgb_pixels(image).repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_array_equal(drawn, repeated)
    assert with_boxes(image, np.zeros((0, 4)), np.zeros(0, int)).shape == (9, 8, 3)


@pytest.mark.parametrize("top", [0.0, 40.0])
def test_label_is_above_the_box_or_inside_at_the_top_of_the_picture(top):
    image = np.zeros((90, 90, 3), np.uint8)
    boxes, color = np.array([[top, 10.0, top + 40, 80.0]]), class_color(1)
    drawn = with_boxes(image, boxes, np.array([1]), scores=np.array([0.75]), names=("cat", "dog"))
    unscored = with_boxes(image, boxes, np.array([1]), names=("cat", "dog"))
    white, fewer = (np.argwhere((pixels > 180).all(axis=-1)) for pixels in (drawn, unscored))
    assert len(white) > len(fewer) > 0
    # The descender of the g reaches into the frame.
    assert white[:, 0].min() > top if top == 0 else white[:, 0].max() < top + 3
    assert white[:, 1].min() > 10
    # The score makes the label longer.
    assert white[:, 1].max() > fewer[:, 1].max() + 10
    assert at(drawn, color).any()


def test_boxes_beyond_the_image_or_without_area_are_drawn():
    image = np.zeros((40, 40, 1), np.uint8)
    for box in ([-9.0, -9, 60, 60], [20, 20, 20, 20], [39, 39, 39.2, 39.4]):
        drawn = with_boxes(image, np.array([box]), np.array([0]))
        assert drawn.shape == (40, 40, 3)
        assert at(drawn, class_color(0)).any()


def test_labels_are_not_cut_off_at_the_edges_of_the_picture():
    """They have as many bright pixels there as elsewhere."""
    image, number, score = np.zeros((90, 90, 3), np.uint8), np.array([1]), np.array([0.75])

    def letters(box):
        drawn = with_boxes(image, np.array([box]), number, scores=score)
        return np.sum((drawn > 180).all(axis=-1))

    inside = letters([40.0, 20, 80, 70])
    for box in ([40.0, -30, 80, 40], [40.0, 85, 80, 90], [-9.0, 30, 80, 70], [-20.0, -20, 99, 99]):
        assert letters(box) == pytest.approx(inside, rel=0.2)


def test_legend_is_right_of_the_image_with_each_label_after_its_color():
    image = draw(100, 30, 3)
    entries = [(class_color(4), "first"), (class_color(7), "a longer second")]
    picture = with_legend(image, entries)
    np.testing.assert_array_equal(picture[:100, :30], image)
    legend = picture[:, 30:]
    patches = [np.argwhere(at(legend, color)) for color, _ in entries]
    assert all(len(patch) >= 100 for patch in patches)
    assert patches[0][:, 0].max() < patches[1][:, 0].min()
    for patch in patches:
        (top, left), (bottom, right) = patch.min(axis=0), patch.max(axis=0)
        assert len(patch) == (bottom - top + 1) * (right - left + 1)
        letters = (legend[top : bottom + 1, right + 2 :] < 128).all(axis=-1)
        assert letters.any()
        assert not letters[:, -2:].any()
    assert with_legend(image, []) is image


def test_legend_may_be_taller_than_its_image():
    image = draw(10, 30, 3)
    whole = with_legend(image, [(class_color(number), str(number)) for number in range(9)])
    assert len(whole) > 100
    for number in range(9):
        assert at(whole, class_color(number)).any()
    assert (whole[10:, :30] == 255).all()
