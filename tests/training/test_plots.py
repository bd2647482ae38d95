"""Plots as pictures: what is drawn is where the axes say it is."""

import numpy as np
import pytest
from PIL import ImageColor

from deconv_jax.training.plots import COLORS, HEIGHT, WIDTH, Plot, Series, _ticks, draw


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
