"""Plots as pictures: what is drawn is where the axes say it is, and as dark as its share."""

import numpy as np
import pytest
from PIL import ImageColor

from deconv_jax.viz.plots import (
    COLORS,
    HEIGHT,
    MAX_ANNOTATED,
    WIDTH,
    CountMatrix,
    Plot,
    Series,
    _ticks,
    draw,
)


def places_of(picture, number):
    """Row and column of every pixel of a series's colour."""
    return np.argwhere((np.asarray(picture) == ImageColor.getrgb(COLORS[number])).all(axis=-1))


def plot_of(*series, **options):
    return Plot("title", "x", "y", series, **options)


def test_a_point_is_in_proportion_between_two_others():
    corners = Series(np.array([0.0, 4.0]), np.array([-1.0, 1.0]))
    picture = draw(plot_of(corners, Series(np.array([1.0]), np.array([0.5]))))
    assert picture.size == (WIDTH, HEIGHT)
    both, between = places_of(picture, 0), places_of(picture, 1).mean(axis=0)
    left = both[both[:, 1] < WIDTH / 2].mean(axis=0)
    right = both[both[:, 1] > WIDTH / 2].mean(axis=0)
    # Rows count downwards.
    assert left[0] > right[0]
    expected = left + (right - left) * np.array([0.75, 0.25])
    np.testing.assert_allclose(between, expected, atol=0.6)


def test_equal_units_are_of_one_length():
    cross = Series(np.array([-5.0, 5.0, 0.0, 0.0]), np.array([0.0, 0.0, -5.0, 5.0]))
    found = places_of(draw(plot_of(cross, equal_units=True)), 0)
    height, width = np.ptp(found, axis=0)
    assert abs(height - width) <= 2
    found = places_of(draw(plot_of(cross)), 0)
    height, width = np.ptp(found, axis=0)
    assert width > 1.2 * height


def test_points_of_a_line_are_joined_in_order():
    x, y = np.array([0.0, 1.0, 2.0]), np.array([0.0, 3.0, 0.0])
    apart = len(places_of(draw(plot_of(Series(x, y))), 0))
    assert len(places_of(draw(plot_of(Series(x, y, joined=True))), 0)) > 5 * apart


def test_a_name_is_in_the_legend_and_takes_its_room():
    x = np.array([0.0, 1.0])
    plain, named = (places_of(draw(plot_of(Series(x, x, name))), 0) for name in ("", "a name"))
    in_frame = named[named[:, 1] < WIDTH - 120]
    assert len(named) > len(in_frame) > 0
    assert in_frame[:, 1].max() < plain[:, 1].max()


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([3.0], [np.inf]), ([2.0, 2.0], [0.0, 0.0]), ([1e-9], [1e9])]
)
def test_no_point_one_value_and_infinity_are_drawn_too(x, y):
    drawn = draw(plot_of(Series(np.array(x), np.array(y), joined=True), equal_units=True))
    assert len(places_of(drawn, 0)) > 0 or not np.isfinite(y).any()


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (-0.1, 1.1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (21.5, 39.9, ["25", "30", "35"]),
        (-1e-3, 1.4e-2, ["0.000", "0.005", "0.010"]),
        (0, 6e6, ["0", "1000000", "2000000", "3000000", "4000000", "5000000", "6000000"]),
    ],
)
def test_ticks_are_round_and_between_the_limits(low, high, labels):
    ticks = _ticks(low, high)
    assert [label for _, label in ticks] == labels
    assert [value for value, _ in ticks] == pytest.approx([float(label) for label in labels])


def matrix_of(counts, names=None, columns=None):
    rows = [f"r{i}" for i in range(len(counts))] if names is None else names
    columns = [f"c{i}" for i in range(counts.shape[1])] if columns is None else columns
    return CountMatrix("title", "label", "prediction", counts, rows, columns)


def cells_of(picture, rows, columns):
    """The pixels of each cell, (rows, columns, side, side, 3), within the black frame about them."""
    pixels = np.asarray(picture)
    black = (pixels == 0).all(axis=-1)

    def most(lines):
        """Length of the longest unbroken run of black."""
        return max(len(word) for word in "".join("x" if b else " " for b in lines).split(" "))

    lengths = np.array([most(line) for line in black]), np.array([most(line) for line in black.T])
    (top, bottom), (left, right) = (np.flatnonzero(n == n.max())[[0, -1]] for n in lengths)
    inner = pixels[top + 1 : bottom, left + 1 : right]
    side = len(inner) // rows
    assert inner.shape == (rows * side, columns * side, 3)
    return inner.reshape(rows, side, columns, side, 3).swapaxes(1, 2)


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (MAX_ANNOTATED + 1, MAX_ANNOTATED + 1)])
def test_a_cell_is_as_dark_as_its_share_of_its_row(shape):
    counts = np.random.default_rng(0).integers(0, 50, shape)
    counts[1] = 0
    cells = cells_of(draw(matrix_of(counts)), *shape)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    dark = np.array(ImageColor.getrgb(COLORS[0]))
    expected = 255 + shares[..., None] * (dark - 255)
    # A corner, which no letter reaches.
    np.testing.assert_allclose(cells[:, :, 1, 1], expected, atol=0.5)


def test_counts_are_written_unless_there_are_too_many():
    """A cell is of one colour where nothing is written in it."""
    for count in (MAX_ANNOTATED, MAX_ANNOTATED + 1):
        counts = np.random.default_rng(0).integers(0, 50, (count, count))
        cells = cells_of(draw(matrix_of(counts)), count, count)
        plain = (cells == cells[:, :, :1, :1]).all(axis=(2, 3, 4))
        assert plain.all() if count > MAX_ANNOTATED else not plain.any()


def test_a_large_count_has_room_in_its_cell():
    """The same cell beside small counts and beside large ones: its number is not cut off."""
    wide = cells_of(draw(matrix_of(np.array([[1234567, 0], [0, 1234567]]))), 2, 2)
    inked = (wide[0, 0] != wide[0, 0, 0, 0]).any(axis=(0, 2))
    assert not inked[:3].any()
    assert not inked[-3:].any()
    assert inked.sum() > 30


def test_names_stand_beside_their_rows_and_under_their_columns():
    """What changes in the picture when one name does lies in line with its row, or its column."""
    counts = np.array([[5, 1, 0], [0, 5, 1], [2, 0, 5]])
    plain = draw(matrix_of(counts, ["aa", "bb", "cc"], ["a", "b", "c"]))
    rows = draw(matrix_of(counts, ["aa", "hh", "cc"], ["a", "b", "c"]))
    columns = draw(matrix_of(counts, ["aa", "bb", "cc"], ["a", "b", "m"]))
    side = cells_of(plain, 3, 3).shape[2]
    assert plain.size == rows.size == columns.size

    def middle_of_change(other):
        changed = (np.asarray(plain) != np.asarray(other)).any(axis=-1)
        return np.argwhere(changed).mean(axis=0)

    dark = (np.asarray(plain) == ImageColor.getrgb(COLORS[0])).all(axis=-1)
    assert not dark.any()  # No row is all in one cell.
    shades = np.asarray(plain).astype(int)
    blue = np.argwhere(shades[..., 2] - shades[..., 0] > 100)
    down, across = middle_of_change(rows)
    assert abs(down - blue.mean(axis=0)[0]) < side / 4
    assert across < blue[:, 1].min()
    down, across = middle_of_change(columns)
    assert down > blue[:, 0].max()
    assert abs(across - (blue[:, 1].max() - side / 2)) < side / 4


def test_long_names_are_shortened_and_those_under_columns_turned():
    counts = np.eye(2, dtype=int)
    short, long, longer = (
        draw(matrix_of(counts, [name, "b"], [name, "b"])) for name in ("a", "a" * 24, "a" * 400)
    )
    for before, after in ((short, long), (short, longer)):
        assert after.width > before.width
        assert after.height > before.height
    assert longer.width < short.width + 250
    assert longer.height < short.height + 250
