"""Image files: samples, metadata, errors, and files as Pillow reads them."""

import contextlib
import dataclasses
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms

from deconv_jax.data.images import (
    FORMATS,
    ImageFile,
    read_image,
    read_labels,
    read_pixels,
    write_image,
)
from deconv_jax.errors import InputError

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MAKE, EXPOSURE = 0x010F, 0x829A


def random_samples(*shape, bits=8):
    dtype = {8: np.uint8, 16: np.uint16}[bits]
    return np.random.default_rng(sum(shape)).integers(0, 2**bits, shape, dtype)


def exif_data():
    """EXIF data with the exposure time in its own directory, as cameras write it."""
    exif = Image.Exif()
    exif[MAKE] = "a camera"
    exif.get_ifd(0x8769)[EXPOSURE] = 0.25
    return exif


def like(samples, *, profile=None, exif=None):
    """Return the `ImageFile` that `read_image` returns for these samples; alpha is last of an even number of channels."""
    most = np.iinfo(samples.dtype).max
    values = samples.astype(np.float32) / np.float32(most)
    alpha = values[..., -1:] if samples.shape[-1] % 2 == 0 else None
    pixels = values if alpha is None else values[..., :-1]
    return ImageFile(pixels, alpha, 8 * samples.dtype.itemsize, "", profile, exif, "")


def samples_of(image):
    """Convert pixels in [0, 1] back to integers."""
    parts = [image.pixels] if image.alpha is None else [image.pixels, image.alpha]
    return np.rint(np.concatenate(parts, -1).astype(np.float64) * (2**image.bit_depth - 1))


PIXELS_ALONE = (".bmp", ".pgm", ".ppm")
"""Suffixes of formats without profile or EXIF data."""
LOSSLESS = [
    *[(".png", channels, bits) for channels in (1, 2, 3, 4) for bits in (8, 16)],
    *[(".tif", channels, bits) for channels in (1, 2, 3, 4) for bits in (8, 16)],
    *[(".bmp", channels, 8) for channels in (1, 3)],
    (".pgm", 1, 8),
    (".ppm", 3, 8),
    *[(".webp", channels, 8) for channels in (3, 4)],
]


@pytest.mark.parametrize(("suffix", "channels", "bits"), LOSSLESS)
def test_lossless_formats_keep_samples_profile_and_exif(tmp_path, suffix, channels, bits):
    samples = random_samples(13, 17, channels, bits=bits)
    if channels % 2 == 0:
        samples[:5, :, -1] = 0  # Colors of transparent pixels are kept too.
    path = tmp_path / f"a{suffix}"
    original = like(samples, profile=PROFILE, exif=exif_data().tobytes())
    write_image(path, original.pixels, original)
    read = read_image(path)
    np.testing.assert_array_equal(samples_of(read), samples)
    assert read.pixels.dtype == np.float32
    assert (read.bit_depth, read.format) == (bits, FORMATS[suffix])
    assert read.icc_profile == (None if suffix in PIXELS_ALONE else PROFILE)
    if suffix not in PIXELS_ALONE and not (suffix == ".tif" and bits == 16 and channels > 1):
        kept = Image.Exif()
        kept.load(read.exif)
        assert kept[MAKE] == "a camera"
        assert kept.get_ifd(0x8769)[EXPOSURE] == 0.25
    # A second copy is the first, byte by byte.
    write_image(tmp_path / f"b{suffix}", read.pixels, read)
    assert (tmp_path / f"b{suffix}").read_bytes() == path.read_bytes()


def paeth(left, up, corner):
    """Return the Paeth predictor of the PNG specification for one byte."""
    estimate = left + up - corner
    return min((left, up, corner), key=lambda value: abs(estimate - value))


def png(samples, color_type, bits):
    """Return a PNG file by the specification, whose rows use the five filters in turn."""
    height, width, channels = samples.shape
    step = channels * bits // 8
    rows = samples.astype(f">u{bits // 8}").reshape(height, -1).view(np.uint8).astype(int)
    data = b""
    for y, row in enumerate(rows):
        up = rows[y - 1] if y else np.zeros_like(row)
        left, corner = (np.concatenate([np.zeros(step, int), r[:-step]]) for r in (row, up))
        three = zip(left, up, corner, strict=True)
        guess = [0 * up, left, up, (left + up) // 2, np.array([paeth(*t) for t in three])][y % 5]
        data += bytes([y % 5]) + ((row - guess) % 256).astype(np.uint8).tobytes()
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )


@pytest.mark.parametrize(("channels", "color_type"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_both_bytes_of_a_16_bit_png_are_read(tmp_path, channels, color_type):
    samples = random_samples(11, 7, channels, bits=16)
    path = tmp_path / "a.png"
    path.write_bytes(png(samples, color_type, 16))
    read = read_image(path)
    np.testing.assert_array_equal(samples_of(read), samples)
    assert read.bit_depth == 16


def test_16_bit_tiffs_of_other_programs_are_read(tmp_path):
    """Planes apart, big-endian, BigTIFF, white as zero, pixels multiplied by their alpha."""
    path = tmp_path / "a.tif"
    color = random_samples(9, 12, 3, bits=16)
    planes = np.ascontiguousarray(np.moveaxis(color, -1, 0))
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", byteorder=">")
    np.testing.assert_array_equal(samples_of(read_image(path)), color)
    tifffile.imwrite(path, color, photometric="rgb", bigtiff=True, compression="zlib")
    np.testing.assert_array_equal(samples_of(read_image(path)), color)
    gray = color[..., :2].copy()
    options = {"planarconfig": "contig", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(path, gray, photometric="miniswhite", **options)
    gray[..., 0] = 65535 - gray[..., 0]
    np.testing.assert_array_equal(samples_of(read_image(path)), gray)

    alpha = np.full((9, 12, 1), 40_000, np.uint16)
    alpha[0, 0] = 0
    multiplied = np.concatenate([np.rint(color * (alpha / 65535)).astype(np.uint16), alpha], -1)
    tifffile.imwrite(path, multiplied, photometric="rgb", extrasamples=["assocalpha"])
    read = read_image(path)
    np.testing.assert_array_equal(samples_of(read)[..., 3:], alpha)
    # Rounding the product by half a level changes the quotient by up to half a level / alpha.
    error = np.abs(samples_of(read)[..., :3] - color)
    assert error.reshape(-1, 3)[1:].max() <= 0.5 * 65535 / 40_000 + 0.5
    assert (read.pixels[0, 0] == 0).all()


@pytest.mark.parametrize(("suffix", "channels"), [(".pgm", 1), (".ppm", 3)])
def test_pgm_and_ppm_round_trip_through_pillow(tmp_path, suffix, channels):
    samples = random_samples(11, 7, channels)
    squeezed = samples[..., 0] if channels == 1 else samples
    ours, theirs = tmp_path / f"ours{suffix}", tmp_path / f"theirs{suffix}"
    write_image(ours, like(samples).pixels)
    with Image.open(ours) as image:
        assert image.format == "PPM"
        np.testing.assert_array_equal(np.asarray(image), squeezed)
    Image.fromarray(squeezed).save(theirs)
    read = read_image(theirs)
    np.testing.assert_array_equal(samples_of(read), samples)
    assert (read.bit_depth, read.alpha, read.format) == (8, None, "PPM")
    np.testing.assert_array_equal(read_pixels(theirs, "gray" if channels == 1 else "rgb"), samples)


def saved(path, image, **options):
    image.save(path, **options)
    return read_image(path)


def test_palettes_transparent_colors_and_bits_are_expanded(tmp_path):
    indices = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % 3, "L")
    palette = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 30]], np.uint8)
    image = Image.frombytes("P", indices.size, indices.tobytes())
    image.putpalette(palette.ravel().tolist())
    expected = palette[np.asarray(indices)]

    plain = saved(tmp_path / "a.png", image)
    assert (plain.mode, plain.alpha) == ("P", None)
    np.testing.assert_array_equal(samples_of(plain), expected)
    see_through = saved(tmp_path / "b.png", image, transparency=bytes([255, 0, 100]))
    alpha = np.array([255, 0, 100])[np.asarray(indices)][..., None]
    np.testing.assert_array_equal(samples_of(see_through)[..., 3:], alpha)
    np.testing.assert_array_equal(samples_of(see_through)[..., :3], expected)

    color = saved(tmp_path / "c.png", Image.fromarray(expected), transparency=(10, 20, 30))
    hidden = (expected == palette[2]).all(-1, keepdims=True)
    np.testing.assert_array_equal(color.alpha == 0, hidden)
    gray = saved(tmp_path / "d.png", indices, transparency=1)
    np.testing.assert_array_equal(gray.alpha[..., 0] == 0, np.asarray(indices) == 1)
    assert gray.pixels.shape == (3, 4, 1)

    for dtype in (
        np.uint8,
        np.uint16,
    ):  # Only for color, which Pillow does not support with 16 bits.
        values = np.array([[[1, 2, 3], [1, 2, 4]]], dtype) * (257 if dtype == np.uint16 else 1)
        content = png(values, 2, 8 * values.itemsize)
        key = struct.pack(">HHH", *values[0, 1].tolist())
        chunk = struct.pack(">I", 6) + b"tRNS" + key + struct.pack(">I", zlib.crc32(b"tRNS" + key))
        (tmp_path / "key.png").write_bytes(content[:33] + chunk + content[33:])
        np.testing.assert_array_equal(read_image(tmp_path / "key.png").alpha.ravel(), [1, 0])

    bits = saved(tmp_path / "e.png", Image.fromarray(np.eye(4, dtype=bool)))
    np.testing.assert_array_equal(bits.pixels[..., 0], np.eye(4))
    assert bits.mode == "1"


RESOLVED = [
    *[(suffix, bits, 3) for suffix in (".png", ".tif") for bits in (8, 16)],
    *[(".png", 16, 1), (".tif", 16, 1), (".jpg", 8, 3), (".bmp", 8, 3)],
]


@pytest.mark.parametrize(("suffix", "bits", "channels"), RESOLVED)
@pytest.mark.parametrize("source", [".png", ".jpg", ".tif", ".bmp"])
def test_resolution_is_kept_between_formats(tmp_path, source, suffix, bits, channels):
    Image.new("RGB", (8, 6)).save(tmp_path / f"a{source}", dpi=(300, 150))
    original = read_image(tmp_path / f"a{source}")
    assert original.dpi == pytest.approx((300, 150), rel=1e-4)
    values = random_samples(12, 16, channels, bits=bits)
    of_values = like(values)
    wanted = dataclasses.replace(of_values, dpi=original.dpi, exif=original.exif)
    write_image(tmp_path / f"b{suffix}", of_values.pixels, wanted)
    assert read_image(tmp_path / f"b{suffix}").dpi == pytest.approx((300, 150), rel=1e-4)
    if suffix != ".jpg":
        np.testing.assert_array_equal(samples_of(read_image(tmp_path / f"b{suffix}")), values)


def test_missing_resolution_stays_missing(tmp_path):
    exif = Image.Exif()
    exif[MAKE] = "a camera"
    for suffix in (".png", ".jpg", ".tif", ".webp"):
        assert saved(tmp_path / f"a{suffix}", Image.new("RGB", (8, 8)), exif=exif).dpi is None


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files_are_errors(tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    write_image(path, like(random_samples(40, 40, 3)).pixels)
    whole = path.read_bytes()
    for content in (whole[: len(whole) * 3 // 4], whole[:20], b"not an image", b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"cannot read image .*photo\{suffix}: "):
            read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    ("suffix", "bits"), [*((suffix, 8) for suffix in FORMATS), (".png", 16), (".tif", 16)]
)
def test_damage_gives_an_input_error_or_other_pixels_and_prints_nothing(
    tmp_path, capfd, suffix, bits
):
    """Truncated files, flipped bytes and the start of other formats, with fixed seeds."""
    path, random = tmp_path / f"photo{suffix}", np.random.default_rng(0)
    original = like(random_samples(24, 24, 3, bits=bits), exif=exif_data().tobytes())
    write_image(path, original.pixels, original)
    whole = path.read_bytes()
    starts = (b"\x89PNG\r\n\x1a\n", b"MM\0*\0\0\0\x08", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF")
    for trial in range(18):
        content = bytearray(whole)
        if trial % 3 == 0:
            content = content[: random.integers(len(content))]
        elif trial % 3 == 1:
            for place in random.integers(len(content), size=1 + trial):
                content[place] = random.integers(256)
        else:
            start = starts[random.integers(len(starts))]
            content[: len(start)] = start
        path.write_bytes(content)
        for read in (read_image, read_pixels, read_labels):
            with contextlib.suppress(InputError):
                read(path)
    assert capfd.readouterr() == ("", "")


def test_truncated_16_bit_png_is_an_error(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(random_samples(30, 30, 3, bits=16), 2, 16)[:-2000])
    with pytest.raises(InputError, match="cannot read image"):
        read_image(path)


def test_other_files_are_errors(tmp_path):
    for name, dtype in (("float", np.float32), ("long", np.int32), ("short", np.int16)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.ones((8, 8), dtype))
    lab = Image.new("LAB", (8, 8))
    lab.save(tmp_path / "lab.tif")
    Image.new("RGB", (8, 8)).save(tmp_path / "gif.png", format="GIF")
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match=f"cannot read image .*{path.name}: its? "):
            read_image(path)
    for path in (tmp_path, tmp_path / "missing.png"):
        with pytest.raises(InputError, match="cannot read image"):
            read_image(path)


def test_size_is_checked_before_anything_is_decoded(tmp_path):
    """The file claims 10 gigapixels but has none, so only its header was read."""
    path = tmp_path / "a.png"
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))
            for k, d in chunks
        )
    )
    with pytest.raises(InputError, match="100000 x 100000 pixels; the limit is 250000000 in all"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_pixel_limit_replaces_that_of_pillow(tmp_path, monkeypatch, suffix, bits):
    """Pillow's global limit is not changed."""
    path = tmp_path / f"a{suffix}"
    original = like(random_samples(6, 7, 3, bits=bits))
    write_image(path, original.pixels, original)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_image(path, max_pixels=42).pixels.shape == (6, 7, 3)
    with pytest.raises(InputError, match="7 x 6 pixels; the limit is 41 in all"):
        read_image(path, max_pixels=41)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_writing_is_atomic(tmp_path):
    path = tmp_path / "a.png"
    write_image(path, np.zeros((4, 4, 3), np.float32))
    before = path.read_bytes()
    nan = np.full((4, 4, 3), np.nan, np.float32)
    for pixels in (nan, np.zeros((4, 4)), np.zeros((4, 4, 2)), np.zeros((0, 4, 3))):
        with pytest.raises(InputError, match=r"are NaN|pixels must be \(height, width, 1 or 3\)"):
            write_image(path, pixels)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match=r"a\.pmg; did you mean '\.ppm'"):
        write_image(tmp_path / "a.pmg", np.zeros((4, 4, 3), np.float32))
    with pytest.raises(InputError, match=r"cannot write .* as WEBP"):
        write_image(tmp_path / "wide.webp", np.zeros((1, 16_384, 1), np.float32))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_values_are_clipped_and_rounded_to_the_nearest_level(tmp_path):
    values = np.array([-1.0, 0.4, 0.6, 254.4, 300.0, np.inf], np.float32).reshape(1, 6, 1) / 255
    write_image(tmp_path / "a.png", values)
    read = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(samples_of(read).ravel(), [0, 0, 1, 254, 255, 255])
    assert (read.bit_depth, read.exif, read.icc_profile) == (8, None, None)


def test_formats_without_alpha_composite_on_white(tmp_path):
    samples = np.full((8, 8, 4), [200, 100, 0, 0], np.uint16)
    samples[4:, :, 3] = 65535
    samples[..., :3] *= 257
    original = like(samples)
    for suffix, tolerance in ((".bmp", 0), (".ppm", 0), (".jpg", 1 / 255)):
        write_image(tmp_path / f"a{suffix}", original.pixels, original)
        read = read_image(tmp_path / f"a{suffix}")
        assert (read.alpha, read.bit_depth) == (None, 8)
        np.testing.assert_allclose(read.pixels[0], np.ones((8, 3)), atol=tolerance)
        np.testing.assert_allclose(read.pixels[-1], original.pixels[-1], atol=tolerance)


def test_jpegs_have_no_chroma_subsampling(tmp_path):
    write_image(tmp_path / "a.jpg", like(random_samples(8, 8, 3)).pixels)
    with Image.open(tmp_path / "a.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_alpha_is_resized_and_profile_dropped_with_other_channels(tmp_path):
    samples = np.full((4, 4, 2), 255, np.uint8)
    samples[:, :2, 1] = 0
    gray = like(samples, profile=PROFILE)
    write_image(tmp_path / "a.png", np.ones((8, 8, 3), np.float32), gray)
    read = read_image(tmp_path / "a.png")
    assert read.alpha.shape == (8, 8, 1)
    assert read.icc_profile is None
    np.testing.assert_array_equal(read.alpha[:, [0, -1], 0], np.tile([0.0, 1.0], (8, 1)))


def test_invalid_exif_data_does_not_prevent_reading(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.XResolution] = 72.0
    data = bytearray(exif.tobytes())
    order = "little" if b"II*" in data[:12] else "big"
    place = data.index((282).to_bytes(2, order))
    data[place + 2 : place + 4] = (2).to_bytes(2, order)  # Text instead of a fraction.
    Image.new("L", (4, 4), 51).save(tmp_path / "x.jpg", exif=bytes(data))
    image = read_image(tmp_path / "x.jpg")
    np.testing.assert_allclose(image.pixels, 0.2, atol=0.01)


@pytest.mark.parametrize("bits", [2, 4])
def test_labels_of_few_bits_are_the_samples(tmp_path, bits):
    """For a gray PNG file, and PGM files with as many levels."""
    labels = np.arange(2**bits).reshape(2, -1).astype(np.uint8)
    packed = np.unpackbits(labels[..., None], axis=-1)[..., -bits:].reshape(2, -1)
    packed = np.packbits(packed, axis=-1)[..., None]
    content = bytearray(png(packed, 0, 8))
    content[16:29] = struct.pack(">IIBBBBB", labels.shape[1], 2, bits, 0, 0, 0, 0)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    levels = " ".join(map(str, labels.ravel()))
    (tmp_path / "a.pgm").write_text(f"P2 {labels.shape[1]} 2 {2**bits - 1} {levels}")
    raw = f"P5 {labels.shape[1]} 2 {2**bits - 1}\n".encode() + labels.tobytes()
    (tmp_path / "b.pgm").write_bytes(raw)
    for name in ("a.png", "a.pgm", "b.pgm"):
        np.testing.assert_array_equal(read_labels(tmp_path / name), labels)
        # As a picture the largest is white.
        assert read_image(tmp_path / name).pixels.max() == 1
