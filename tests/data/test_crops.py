"""Center crops of padded images."""

import numpy as np

from deconv_jax.data.crops import center_crops


def test_crop_is_the_center_of_the_unpadded_part():
    images = np.arange(2 * 9 * 9).reshape(2, 9, 9, 1)
    crops = center_crops(images, np.array([[9, 9], [7, 5]]), 3)
    np.testing.assert_array_equal(crops, np.stack([images[0, 3:6, 3:6], images[1, 2:5, 1:4]]))


def test_shorter_axes_are_kept_whole():
    images = np.arange(2 * 4 * 8).reshape(2, 4, 8, 1)
    crops = center_crops(images, np.array([[4, 8], [2, 8]]), 6)
    np.testing.assert_array_equal(crops, images[:, :, 1:7])
