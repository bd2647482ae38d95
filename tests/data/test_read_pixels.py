"""Image files as data sets read them: 8-bit pixels, labels, and the files of a folder."""

import numpy as np
import pytest
import skimage.color
from PIL import Image

from deconv_jax.data.images import (
    list_images,
    read_pixels,
)
from deconv_jax.errors import InputError
from deconv_jax.ops.color import rgb_to_y_uint8


def random_samples(*shape, bits=8):
    dtype = {8: np.uint8, 16: np.uint16}[bits]
    return np.random.default_rng(sum(shape)).integers(0, 2**bits, shape, dtype)


def test_16_bits_are_rounded_to_the_nearest_of_8(tmp_path):
    samples = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(samples).save(tmp_path / "a.png")
    expected = np.rint(samples / 257.0).astype(np.uint8)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png", "gray")[..., 0], expected)


def test_gray_and_y_equal_pillow_and_skimage(tmp_path):
    """Y is compared with the evaluation's and scikit-image's, luma with Pillow's, which rounds differently."""
    samples = random_samples(64, 65, 3)
    Image.fromarray(samples).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), samples)
    y = read_pixels(tmp_path / "a.png", "y")
    np.testing.assert_array_equal(y, rgb_to_y_uint8(samples))
    np.testing.assert_array_equal(y[..., 0], np.rint(skimage.color.rgb2ycbcr(samples)[..., 0]))
    luma = read_pixels(tmp_path / "a.png", "gray")
    exact = samples @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma[..., 0] - exact).max() <= 0.5 + 1e-9
    pillow = np.asarray(Image.fromarray(samples).convert("L")).astype(int)
    assert np.abs(luma[..., 0] - pillow).max() <= 1
    assert luma.dtype == y.dtype == np.uint8
    for shape in (y.shape, luma.shape):
        assert shape == (64, 65, 1)


def test_gray_files_are_not_converted(tmp_path):
    samples = random_samples(6, 7, 1)
    Image.fromarray(samples[..., 0]).save(tmp_path / "a.png")
    for color in ("gray", "y"):
        np.testing.assert_array_equal(read_pixels(tmp_path / "a.png", color), samples)
    rgb = read_pixels(tmp_path / "a.png")
    np.testing.assert_array_equal(rgb, samples.repeat(3, axis=-1))


def test_read_pixels_composites_on_white(tmp_path):
    samples = random_samples(16, 16, 4)
    Image.fromarray(samples).save(tmp_path / "a.png")
    alpha = samples[..., 3:] / 255.0
    exact = samples[..., :3] * alpha + 255.0 * (1 - alpha)
    assert np.abs(read_pixels(tmp_path / "a.png") - exact).max() <= 0.5 + 1e-9


def test_list_images_is_sorted_by_path(tmp_path):
    names = [
        "b.png",
        "a/z.JPG",
        "a/b/c.tiff",
        "a.webp",
        "notes.txt",
        ".b.png",
        ".c/d.png",
        "B.bmp",
        "a.pgm",
        "a/y.PPM",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["B.bmp", "a.pgm", "a.webp", "a/b/c.tiff", "a/y.PPM", "a/z.JPG", "b.png"]
    with pytest.raises(InputError, match="no folder"):
        list_images(tmp_path / "b.png")
