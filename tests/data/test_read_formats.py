"""Image files of other programs: Netpbm, CMYK, several pictures, orientation."""

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from deconv_jax.data.images import (
    read_8bit,
    read_image,
    read_labels,
    read_pixels,
    write_image,
)
from deconv_jax.errors import InputError


def random_samples(*shape, bits=8):
    dtype = {8: np.uint8, 16: np.uint16}[bits]
    return np.random.default_rng(sum(shape)).integers(0, 2**bits, shape, dtype)


ORIENTATION, MAKE = 0x0112, 0x010F
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY, COLORS = np.array([[[0], [1], [2]], [[253], [254], [255]]]), np.arange(18).reshape(2, 3, 3)


def samples_of(image):
    """Convert pixels in [0, 1] back to integers."""
    parts = [image.pixels] if image.alpha is None else [image.pixels, image.alpha]
    return np.rint(np.concatenate(parts, -1).astype(np.float64) * (2**image.bit_depth - 1))


def saved(path, image, **options):
    image.save(path, **options)
    return read_image(path)


NETPBM = {
    "P2": (b"P2\n# a comment\n3 2\n255\n0 1 2\n253 254 255\n", GRAY),
    "P3": (b"P3 3 2 255\n" + b" ".join(b"%d" % value for value in range(18)), COLORS),
    "P5": (b"P5\n# a comment\n3 2\n255\n" + bytes([0, 1, 2, 253, 254, 255]), GRAY),
    "P6": (b"P6 3 2 255\n" + bytes(range(18)), COLORS),
    "16 levels": (b"P2 3 2 15\n0 1 2\n3 4 5\n", 17 * np.arange(6).reshape(2, 3, 1)),
}


@pytest.mark.parametrize(("content", "samples"), NETPBM.values(), ids=NETPBM)
def test_pgm_and_ppm_files_follow_the_specification(tmp_path, content, samples):
    """Plain and raw. Levels up to the maximum in the header are scaled to 0 to 255."""
    path = tmp_path / "a.pnm"
    path.write_bytes(content)
    np.testing.assert_array_equal(samples_of(read_image(path)), samples)


def test_cmyk_becomes_rgb_without_its_profile(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for suffix in (".tif", ".jpg"):
        read = saved(tmp_path / f"a{suffix}", image, icc_profile=PROFILE)
        np.testing.assert_allclose(read.pixels[8, 8], [1, 0, 0], atol=2 / 255)
        assert (read.mode, read.icc_profile) == ("CMYK", None)
        said = "CMYK converted to RGB, without its color profile"
        assert read.notes == read_8bit(tmp_path / f"a{suffix}")[1] == (said,)
        # Its copy is RGB.
        write_image(tmp_path / "copy.png", read.pixels, read)
        assert read_image(tmp_path / "copy.png").mode == "RGB"


def test_second_picture_in_a_jpeg_is_left_out(tmp_path):
    """Phones append a preview or a stereo view."""
    first, second = (Image.new("RGB", (16, 8), color) for color in ("white", "black"))
    read = saved(tmp_path / "a.jpg", first, format="MPO", save_all=True, append_images=[second])
    assert read.format == "JPEG"
    assert read.notes == ("1 further picture in the file left out",)
    np.testing.assert_array_equal(read.pixels, np.ones((8, 16, 3)))


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("read", [read_image, read_pixels, read_labels])
def test_animations_are_errors_that_name_their_length(tmp_path, suffix, read):
    frames = [Image.new("RGB", (16, 8), color) for color in ("white", "black", "red")]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="it has 3 frames; only files with one image are read"):
        read(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path, orientation):
    """Compared with Pillow. The EXIF data of the result has no orientation."""
    samples = random_samples(5, 8, 3)
    image = Image.fromarray(samples)
    exif = Image.Exif()
    exif[MAKE], exif[ORIENTATION] = "a camera", orientation
    image.getexif()[ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    for suffix, options in ((".png", {}), (".tif", {}), (".tif", {"compression": "packbits"})):
        read = saved(tmp_path / f"a{suffix}", Image.fromarray(samples), exif=exif, **options)
        np.testing.assert_array_equal(samples_of(read), expected)
        kept = Image.Exif()
        kept.load(read.exif)
        assert ORIENTATION not in kept
        assert kept[MAKE] == "a camera"
        write_image(tmp_path / "copy.png", read.pixels, read)
        np.testing.assert_array_equal(samples_of(read_image(tmp_path / "copy.png")), expected)
    tag = (ORIENTATION, 3, 1, orientation, True)
    wide = samples.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "b.tif", wide, photometric="rgb", extratags=[tag])
    np.testing.assert_array_equal(samples_of(read_image(tmp_path / "b.tif")) / 257, expected)


@pytest.mark.parametrize(("size", "orientation"), [((16, 24), 6), ((20, 24), 6), ((20, 24), 1)])
def test_the_quantization_table_of_a_jpeg_is_upright(tmp_path, size, orientation):
    image, exif = Image.fromarray(random_samples(*size, 3)), Image.Exif()
    exif[ORIENTATION] = orientation
    read = saved(tmp_path / "a.jpg", image, exif=exif, quality=70)
    with Image.open(tmp_path / "a.jpg") as opened:
        table = np.reshape(opened.quantization[0], (8, 8))
    if orientation == 1:
        np.testing.assert_array_equal(read.jpeg_table, table)
    elif size == (16, 24):
        np.testing.assert_array_equal(read.jpeg_table, table.T)
        assert (table != table.T).any()
    else:
        assert read.jpeg_table is None
    assert saved(tmp_path / "a.png", image).jpeg_table is None
