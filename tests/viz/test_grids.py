"""Image grids: every image in its place, white elsewhere."""

import numpy as np
import pytest

from deconv_jax.viz.grids import mosaic, picture_grid


@pytest.mark.parametrize("gap", [0, 1, 3])
@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.float32, 1)])
def test_mosaic_has_every_image_in_its_cell_and_is_white_elsewhere(dtype, white, gap):
    """Seven images in three columns leave two cells of the last row empty."""
    images = (0.9 * white * np.random.default_rng(0).random((7, 4, 5, 2))).astype(dtype)
    picture = mosaic(images, 3, gap)
    assert (picture.shape, picture.dtype) == ((3 * 4 + 2 * gap, 3 * 5 + 2 * gap, 2), dtype)
    for index, image in enumerate(images):
        top, left = (4 + gap) * (index // 3), (5 + gap) * (index % 3)
        part = picture[top : top + 4, left : left + 5]
        np.testing.assert_array_equal(part, image)
        part[:] = white
    assert (picture == white).all()


def test_mosaic_of_one_row_or_column_has_no_border():
    images = np.arange(6, dtype=np.float32).reshape(3, 2, 1, 1)
    row, column = mosaic(images, 3, 0), mosaic(images, 1, 0)
    np.testing.assert_array_equal(row[..., 0], [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(column[:, 0, 0], np.arange(6))
    np.testing.assert_array_equal(mosaic(images[:1], 1), images[0])


def test_mosaic_has_the_given_rows_and_background():
    images = np.zeros((2, 3, 4, 3), np.uint8)
    picture = mosaic(images, 2, 1, rows=2, background=(1, 2, 3))
    assert picture.shape == (7, 9, 3)
    assert not picture[:3, :4].any()
    assert not picture[:3, 5:].any()
    for empty in (picture[3:], picture[:, 4]):
        np.testing.assert_array_equal(empty, np.broadcast_to([1, 2, 3], empty.shape))


def test_picture_grid_is_wide_enough_for_images_and_captions():
    images = np.full((3, 4, 5, 1), 0.5)
    grid = np.asarray(picture_grid({"a": images, "b" * 80: images}, scale=1))
    assert grid.shape[0] == 2 * (22 + 4 + 4)
    assert grid.shape[1] > 3 * 9 + 4
    assert (grid[22, 4] == 128).all()
