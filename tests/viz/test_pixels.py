"""Conversion to 8-bit RGB and nearest-neighbor enlargement."""

import numpy as np

from deconv_jax.viz.pixels import enlarge, rgb_pixels


def test_gray_and_float_images_become_8_bit_rgb():
    gray = np.random.default_rng(0).integers(0, 256, (4, 5, 1)).astype(np.uint8)
    np.testing.assert_array_equal(rgb_pixels(gray), np.broadcast_to(gray, (4, 5, 3)))
    np.testing.assert_array_equal(rgb_pixels(gray / np.float32(255)), rgb_pixels(gray))
    beyond = np.array([-0.5, 0.5, 1.5], np.float32).reshape(1, 3, 1)
    np.testing.assert_array_equal(rgb_pixels(beyond)[0, :, 0], [0, 128, 255])


def test_rgb_takes_the_first_three_channels_or_the_first():
    images = np.array([[[0.0, 0.5, 1.0, 0.3]], [[2.0, -1.0, 0.2, 0.3]]])
    np.testing.assert_array_equal(rgb_pixels(images)[:, 0], [[0, 128, 255], [255, 0, 51]])
    np.testing.assert_array_equal(rgb_pixels(images[..., :2])[0, 0], [0, 0, 0])


def test_enlarging_repeats_pixels_of_batches():
    images = np.arange(24).reshape(2, 2, 3, 2)
    large = enlarge(images, 2)
    assert large.shape == (2, 4, 6, 2)
    for row in range(2):
        for column in range(2):
            np.testing.assert_array_equal(large[:, row::2, column::2], images)
