"""Plots: points in proportion to the axes, and cells as dark as their share of the row."""

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


def pixels_of(picture, number):
    """Return row and column of every pixel with the color of a series."""
    return np.argwhere((np.asarray(picture) == ImageColor.getrgb(COLORS[number])).all(axis=-1))


def plot_of(*series, **options):
    return Plot("title", "x", "y", series, **options)


def test_point_is_drawn_in_proportion_between_two_others():
    corners = Series(np.array([0.0, 4.0]), np.array([-1.0, 1.0]))
    picture = draw(plot_of(corners, Series(np.array([1.0]), np.array([0.5]))))
    assert picture.size == (WIDTH, HEIGHT)
    both, between = pixels_of(picture, 0), pixels_of(picture, 1).mean(axis=0)
    left = both[both[:, 1] < WIDTH / 2].mean(axis=0)
    right = both[both[:, 1] > WIDTH / 2].mean(axis=0)
    # Rows are counted from the top.
    assert left[0] > right[0]
    expected = left + (right - left) * np.array([0.75, 0.25])
    np.testing.assert_allclose(between, expected, atol=0.6)


def test_equal_units_have_one_length_on_both_axes():
    cross = Series(np.array([-5.0, 5.0, 0.0, 0.0]), np.array([0.0, 0.0, -5.0, 5.0]))
    found = pixels_of(draw(plot_of(cross, equal_units=True)), 0)
    height, width = np.ptp(found, axis=0)
    assert abs(height - width) <= 2
    found = pixels_of(draw(plot_of(cross)), 0)
    height, width = np.ptp(found, axis=0)
    assert width > 1.2 * height


def test_joined_points_are_connected_by_a_line():
    x, y = np.array([0.0, 1.0, 2.0]), np.array([0.0, 3.0, 0.0])
    apart = len(pixels_of(draw(plot_of(Series(x, y))), 0))
    assert len(pixels_of(draw(plot_of(Series(x, y, joined=True))), 0)) > 5 * apart


def test_legend_shows_names_and_narrows_the_axes():
    x = np.array([0.0, 1.0])
    plain, named = (pixels_of(draw(plot_of(Series(x, x, name))), 0) for name in ("", "a name"))
    in_frame = named[named[:, 1] < WIDTH - 120]
    assert len(named) > len(in_frame) > 0
    assert in_frame[:, 1].max() < plain[:, 1].max()


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([3.0], [np.inf]), ([2.0, 2.0], [0.0, 0.0]), ([1e-9], [1e9])]
)
def test_empty_constant_and_infinite_series_are_drawn(x, y):
    drawn = draw(plot_of(Series(np.array(x), np.array(y), joined=True), equal_units=True))
    assert len(pixels_of(drawn, 0)) > 0 or not np.isfinite(y).any()


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (-0.1, 1.1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (21.5, 39.9, ["25", "30", "35"]),
        (-1e-3, 1.4e-2, ["0.000", "0.005", "0.010"]),
        (0, 6e6, ["0", "1000000", "2000000", "3000000", "4000000", "5000000", "6000000"]),
    ],
)
def test_ticks_are_round_numbers_between_the_limits(low, high, labels):
    ticks = _ticks(low, high)
    assert [label for _, label in ticks] == labels
    assert [value for value, _ in ticks] == pytest.approx([float(label) for label in labels])


def matrix_of(counts, names=None, columns=None):
    rows = [f"r{i}" for i in range(len(counts))] if names is None else names
    columns = [f"c{i}" for i in range(counts.shape[1])] if columns is None else columns
    return CountMatrix("title", "label", "prediction", counts, rows, columns)


def cells_of(picture, rows, columns):
    """Return the pixels of each cell inside the black frame, (rows, columns, side, side, 3)."""
    pixels = np.asarray(picture)
    black = (pixels == 0).all(axis=-1)

    def longest_run(lines):
        """Return the length of the longest run of black pixels."""
        return max(len(run) for run in "".join("x" if b else " " for b in lines).split(" "))

    lengths = (
        np.array([longest_run(line) for line in black]),
        np.array([longest_run(line) for line in black.T]),
    )
    (top, bottom), (left, right) = (np.flatnonzero(n == n.max())[[0, -1]] for n in lengths)
    inner = pixels[top + 1 : bottom, left + 1 : right]
    side = len(inner) // rows
    assert inner.shape == (rows * side, columns * side, 3)
    return inner.reshape(rows, side, columns, side, 3).swapaxes(1, 2)


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (MAX_ANNOTATED + 1, MAX_ANNOTATED + 1)])
def test_cell_is_as_dark_as_its_share_of_the_row(shape):
    counts = np.random.default_rng(0).integers(0, 50, shape)
    counts[1] = 0
    cells = cells_of(draw(matrix_of(counts)), *shape)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    dark = np.array(ImageColor.getrgb(COLORS[0]))
    expected = 255 + shares[..., None] * (dark - 255)
    # Counts do not reach the corners of a cell.
    np.testing.assert_allclose(cells[:, :, 1, 1], expected, atol=0.5)


def test_counts_are_written_unless_there_are_too_many():
    """A cell without a written count has one color."""
    for count in (MAX_ANNOTATED, MAX_ANNOTATED + 1):
        counts = np.random.default_rng(0).integers(0, 50, (count, count))
        cells = cells_of(draw(matrix_of(counts)), count, count)
        plain = (cells == cells[:, :, :1, :1]).all(axis=(2, 3, 4))
        assert plain.all() if count > MAX_ANNOTATED else not plain.any()


def test_large_counts_fit_into_their_cells():
    """Their digits do not touch the edges of the cell."""
    wide = cells_of(draw(matrix_of(np.array([[1234567, 0], [0, 1234567]]))), 2, 2)
    inked = (wide[0, 0] != wide[0, 0, 0, 0]).any(axis=(0, 2))
    assert not inked[:3].any()
    assert not inked[-3:].any()
    assert inked.sum() > 30


def test_names_are_left_of_their_rows_and_below_their_columns():
    """Changing one name changes only pixels in line with its row or column."""
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
    assert not dark.any()  # No row has all its counts in one cell.
    shades = np.asarray(plain).astype(int)
    blue = np.argwhere(shades[..., 2] - shades[..., 0] > 100)
    down, across = middle_of_change(rows)
    assert abs(down - blue.mean(axis=0)[0]) < side / 4
    assert across < blue[:, 1].min()
    down, across = middle_of_change(columns)
    assert down > blue[:, 0].max()
    assert abs(across - (blue[:, 1].max() - side / 2)) < side / 4


def test_long_names_are_shortened_and_column_names_rotated():
    counts = np.eye(2, dtype=int)
    short, long, longer = (
        draw(matrix_of(counts, [name, "b"], [name, "b"])) for name in ("a", "a" * 24, "a" * 400)
    )
    for before, after in ((short, long), (short, longer)):
        assert after.width > before.width
        assert after.height > before.height
    assert longer.width < short.width + 250
    assert longer.height < short.height + 250
