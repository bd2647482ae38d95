"""Panels: signed maps, scaling of tiles, and sheets with all blocks and labels."""

import numpy as np

from deconv_jax.viz.panels import (
    Section,
    diverging_gray,
    hstack,
    red_blue_overlay,
    scale_to_side,
    sheet,
    square_grid,
)


def test_diverging_gray_maps_zero_to_mid_gray_and_the_largest_magnitude_to_black_or_white():
    values = np.array([[[0.0], [2.0]], [[-4.0], [-1.0]]])
    np.testing.assert_array_equal(diverging_gray(values, 4.0)[..., 0], [[128, 191], [0, 96]])
    np.testing.assert_array_equal(diverging_gray(0 * values, 0.0)[..., 0], 128)
    colors = diverging_gray(np.array([[[1.0, -1.0, 0.0]]]), 1.0)
    np.testing.assert_array_equal(colors, [[[255, 0, 128]]])


def test_overlay_is_red_for_positive_and_blue_for_negative_values():
    image = np.zeros((1, 3, 3), np.uint8)
    image[0, 2] = 255
    found = red_blue_overlay(np.array([[2.0, -1.0, 0.0]]), image).astype(int)
    red, blue, zero = found[0]
    assert red[0] > 200 > 50 > red[1]
    assert blue[2] > blue[0]
    assert np.ptp(zero) == 0  # A faint gray image where the map is zero.
    assert 150 < zero[0] < 200
    blank = red_blue_overlay(np.zeros((1, 3)), image)
    np.testing.assert_array_equal(blank[0, 0], 255)


def test_scaling_repeats_or_averages_pixels():
    tile = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = scale_to_side(tile, 5)
    assert large.shape == (4, 4, 3)
    np.testing.assert_array_equal(large[::2, ::2], tile)
    np.testing.assert_array_equal(large[1::2, 1::2], tile)
    halves = scale_to_side(np.tile(np.uint8([[[0], [100]]]), (8, 4, 3)), 4)
    np.testing.assert_array_equal(halves, np.full((4, 4, 3), 50))


def test_square_grid_is_framed_and_has_as_many_rows_as_columns():
    tiles = np.zeros((2, 3, 4, 3), np.uint8)
    grid = square_grid(tiles)
    assert grid.shape == (2 * (3 + 2) + 2, 2 * (4 + 2) + 2, 3)
    black = (grid == 0).all(axis=-1)
    expected = np.zeros(black.shape, bool)
    expected[2:5, 2:6] = expected[2:5, 8:12] = True
    np.testing.assert_array_equal(black, expected)
    assert len(np.unique(grid[~black], axis=0)) == 1


def test_sheet_has_every_block_with_its_label():
    random = np.random.default_rng(0)
    tiles = random.integers(0, 200, (9, 6, 6, 3)).astype(np.uint8)
    grid = square_grid(tiles)
    block = hstack([grid, grid])
    assert block.shape == (grid.shape[0], 2 * grid.shape[1] + 8, 3)
    blocks = [np.where(block == 255, 255, (block + n) % 250).astype(np.uint8) for n in range(30)]
    labels = [f"map {n} with a name that is longer than its block is wide" for n in range(30)]
    drawn = np.asarray(sheet([Section("one", labels, blocks), Section("two", ["x"], blocks[:1])]))
    height, width = block.shape[:2]
    places = np.lib.stride_tricks.sliding_window_view(drawn[..., 0], (height, width))
    corners = places[:, :, 2, 2], places[:, :, -4, -4], places[:, :, 5, 9]
    for number, wanted in enumerate(blocks):
        rough = [wanted[2, 2, 0], wanted[-4, -4, 0], wanted[5, 9, 0]]
        candidates = np.argwhere(
            np.all([c == r for c, r in zip(corners, rough, strict=True)], axis=0)
        )
        hits = [
            (top, left)
            for top, left in candidates
            if np.array_equal(drawn[top : top + height, left : left + width], wanted)
        ]
        assert len(hits) == (2 if number == 0 else 1)
        for top, left in hits:
            label = drawn[top - 16 : top, left : left + 20]
            assert (label < 200).any()  # The label is above the block.
