"""What is drawn of images: every pixel in its place."""

import numpy as np
import pytest

from deconv_jax.training.logging import mosaic


@pytest.mark.parametrize("gap", [0, 1, 3])
@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.float32, 1)])
def test_a_mosaic_has_every_image_in_its_place_and_is_white_elsewhere(dtype, white, gap):
    """Seven images in rows of three: two are missing in the last."""
    images = (0.9 * white * np.random.default_rng(0).random((7, 4, 5, 2))).astype(dtype)
    picture = mosaic(images, 3, gap)
    assert (picture.shape, picture.dtype) == ((3 * 4 + 2 * gap, 3 * 5 + 2 * gap, 2), dtype)
    for place, image in enumerate(images):
        top, left = (4 + gap) * (place // 3), (5 + gap) * (place % 3)
        part = picture[top : top + 4, left : left + 5]
        np.testing.assert_array_equal(part, image)
        part[:] = white
    assert (picture == white).all()


def test_a_mosaic_of_one_row_or_column_has_no_border():
    images = np.arange(6, dtype=np.float32).reshape(3, 2, 1, 1)
    row, column = mosaic(images, 3, 0), mosaic(images, 1, 0)
    np.testing.assert_array_equal(row[..., 0], [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(column[:, 0, 0], np.arange(6))
    np.testing.assert_array_equal(mosaic(images[:1], 1), images[0])
