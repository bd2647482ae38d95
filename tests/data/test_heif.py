"""HEIC and AVIF files."""

import sys

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from deconv_jax.data.images import FORMATS, ImageFile, read_8bit, read_image, write_image
from deconv_jax.errors import InputError

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ARTIST, ORIENTATION = 315, 274


def smooth(channels, bits):
    """Return a smooth image, whose last of 2 or 4 channels is alpha."""
    rows, columns = np.mgrid[:32, :48] / 48
    planes = [0.5 + 0.4 * np.sin(3 * rows + k + columns) for k in range(channels)]
    exif = Image.Exif()
    exif[ARTIST] = "somebody"
    alpha = planes.pop()[..., None] if channels % 2 == 0 else None
    pixels = np.stack(planes, axis=-1).astype(np.float32)
    return ImageFile(pixels, alpha, bits, "RGB", PROFILE, exif.tobytes(), "PNG")


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_alpha_and_metadata_are_kept(tmp_path, suffix, bits, channels):
    image = smooth(channels, bits)
    write_image(tmp_path / f"a{suffix}", image.pixels, image)
    read = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(
        read.pixels, np.broadcast_to(image.pixels, read.pixels.shape), atol=0.03
    )
    if channels % 2 == 0:
        np.testing.assert_allclose(read.alpha, image.alpha, atol=0.02)
    gray = suffix == ".heic" and channels == 1
    assert read.pixels.shape[-1] == (1 if gray else 3)
    assert read.bit_depth == (bits if suffix == ".heic" else 8)
    assert (read.format, read.icc_profile) == (FORMATS[suffix], PROFILE)
    kept = Image.Exif()
    kept.load(read.exif)
    assert kept[ARTIST] == "somebody"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_ten_bits_reach_black_and_white(tmp_path, value):
    image = smooth(1, 16)
    write_image(tmp_path / "a.heic", np.full_like(image.pixels, value), image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.heic").pixels, value)


def test_the_content_decides_and_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    samples = np.rint(255 * smooth(3, 8).pixels).astype(np.uint8)
    image = pillow_heif.from_pillow(Image.fromarray(samples))
    image.save(tmp_path / "a.heic", exif=exif.tobytes(), quality=95)
    (tmp_path / "a.heic").rename(tmp_path / "a.jpg")
    pixels, notes = read_8bit(tmp_path / "a.jpg")
    np.testing.assert_allclose(pixels, np.rot90(samples, -1), atol=8)
    assert notes == ()
    assert read_image(tmp_path / "a.jpg").exif is None


def test_further_pictures_and_lost_bits_are_reported(tmp_path):
    images = pillow_heif.from_pillow(Image.new("RGB", (16, 16)))
    images.add_from_pillow(Image.new("RGB", (16, 16)))
    images.save(tmp_path / "a.heic")
    assert read_image(tmp_path / "a.heic").notes == ("1 further picture in the file left out",)
    samples = np.full((16, 16, 3), 1023, np.uint16)
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(samples, bitspersample=10))
    read = read_image(tmp_path / "a.avif")
    assert read.notes == ("10 bits rounded to 8",)
    np.testing.assert_array_equal(read.pixels, 1.0)


def test_a_missing_library_is_an_error_that_names_the_extra(tmp_path, monkeypatch):
    pixels = smooth(3, 8).pixels
    write_image(tmp_path / "a.heic", pixels)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    said = r"HEIC files require pillow-heif: pip install 'deconv_jax\[formats\]'"
    with pytest.raises(InputError, match=f"cannot read image .*a.heic: {said}"):
        read_image(tmp_path / "a.heic")
    with pytest.raises(InputError, match=said):
        write_image(tmp_path / "b.heic", pixels)
    assert not (tmp_path / "b.heic").exists()


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_damaged_and_large_files_are_errors(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_image(path, smooth(3, 8).pixels)
    with pytest.raises(InputError, match="it has 48 x 32 pixels; the limit is 100"):
        read_image(path, max_pixels=100)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=f"cannot read image .*a{suffix}: it is damaged"):
        read_image(path)
