"""TIFF files: tags determine how samples become pixels; unsupported files are errors."""

import importlib.util

import numpy as np
import pytest
import tifffile
from PIL import Image

from deconv_jax.data.images import read_image, read_labels, read_pixels, write_image
from deconv_jax.errors import InputError


def samples_of(path):
    """Read a file and return its pixels as integers, alpha last."""
    image = read_image(path)
    parts = [image.pixels] if image.alpha is None else [image.pixels, image.alpha]
    most = 2**image.bit_depth - 1
    return np.rint(np.concatenate(parts, -1).astype(np.float64) * most).astype(int)


def lzw(data):
    """Encode bytes as LZW codes of single bytes; the table is cleared before codes need ten bits."""
    codes = [code for start in range(0, len(data), 250) for code in (256, *data[start:][:250])]
    bits = "".join(format(code, "09b") for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def write(path, samples, compression=None, **options):
    """Write a TIFF file of one strip. LZW, which tifffile cannot write, is appended to the file."""
    given = None if compression == "lzw" else compression
    tifffile.imwrite(path, samples, compression=given, metadata=None, **options)
    if compression != "lzw":
        return
    with tifffile.TiffFile(path, mode="r+") as tiff:
        (page,) = tiff.pages
        content = path.read_bytes()
        starts = zip(page.dataoffsets, page.databytecounts, strict=True)
        strips = [lzw(content[start : start + count]) for start, count in starts]
        ends = np.cumsum([len(content), *map(len, strips)]).tolist()
        tiff.filehandle.seek(0, 2)
        tiff.filehandle.write(b"".join(strips))
        page.tags["StripOffsets"].overwrite(ends[:-1])
        page.tags["StripByteCounts"].overwrite([len(strip) for strip in strips])
        page.tags["Compression"].overwrite(5)


STORED = [
    (compression, order, planar)
    for compression in (None, "zlib", "lzw")
    for order in "<>"
    for planar in ("contig", "separate")
    if (compression, planar) != ("lzw", "separate")
]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("compression", "order", "planar"), STORED)
def test_pixels_are_independent_of_the_storage(tmp_path, dtype, compression, order, planar):
    path, most = tmp_path / "a.tif", np.iinfo(dtype).max
    samples = np.random.default_rng(0).integers(0, most + 1, (7, 9, 4)).astype(dtype)
    options = {"compression": compression, "byteorder": order}
    for photometric in ("minisblack", "miniswhite"):
        write(path, samples[..., 0], photometric=photometric, **options)
        expected = samples[..., :1] if photometric == "minisblack" else most - samples[..., :1]
        np.testing.assert_array_equal(samples_of(path), expected)
    options |= {"photometric": "rgb", "planarconfig": planar}
    arranged = samples if planar == "contig" else np.moveaxis(samples, -1, 0).copy()
    write(path, arranged[..., :3] if planar == "contig" else arranged[:3], **options)
    np.testing.assert_array_equal(samples_of(path), samples[..., :3])
    write(path, arranged, extrasamples=["unassalpha"], **options)
    np.testing.assert_array_equal(samples_of(path), samples)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("order", "<>")
def test_fourth_sample_has_the_meaning_of_its_tag(tmp_path, dtype, compression, order):
    path, most = tmp_path / "a.tif", np.iinfo(dtype).max
    samples = np.full((3, 5, 4), [most // 4, most // 8, 0, most // 2], dtype)
    options = {"photometric": "rgb", "compression": compression, "byteorder": order}
    write(path, samples, extrasamples=["unspecified"], **options)
    np.testing.assert_array_equal(samples_of(path), samples[..., :3])
    said = ("left out 1 extra sample per pixel of unspecified kind",)
    assert read_image(path).notes == said
    write(path, samples, extrasamples=["unassalpha"], **options)
    np.testing.assert_array_equal(samples_of(path), samples)
    write(path, samples, extrasamples=["assocalpha"], **options)
    np.testing.assert_allclose(samples_of(path)[0, 0] / most, [0.5, 0.25, 0, 0.5], atol=0.01)
    assert read_image(path).notes == ()


def test_white_is_zero_with_16_bits(tmp_path):
    """Where white is zero, sample 0 is the pixel 1, in either byte order."""
    for order in "<>":
        ends = np.array([[0, 65535]], np.uint16)
        write(tmp_path / "a.tif", ends, photometric="miniswhite", byteorder=order)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels.ravel(), [1, 0])


def test_white_is_zero_with_alpha(tmp_path):
    for dtype in (np.uint8, np.uint16):
        most = np.iinfo(dtype).max
        samples = np.array([[[0, most], [most, 7]]], dtype)
        options = {"planarconfig": "contig", "extrasamples": ["unassalpha"]}
        write(tmp_path / "a.tif", samples, photometric="miniswhite", **options)
        np.testing.assert_array_equal(samples_of(tmp_path / "a.tif"), [[[most, most], [0, 7]]])


def test_single_extra_sample_without_tag_is_alpha(tmp_path):
    path = tmp_path / "a.tif"
    for dtype in (np.uint8, np.uint16):
        samples = np.arange(24).reshape(2, 3, 4).astype(dtype)
        write(path, samples, photometric="rgb", extrasamples=["unassalpha"])
        with tifffile.TiffFile(path, mode="r+") as tiff:
            tag = tiff.pages[0].tags["ExtraSamples"]
            tiff.filehandle.seek(tag.offset)
            # Another number for the tag; what it says has no meaning then.
            tiff.filehandle.write(np.array(65000, tiff.byteorder + "u2").tobytes())
        np.testing.assert_array_equal(samples_of(path), samples)


@pytest.mark.parametrize("compression", ["lzw", "zstd"])
@pytest.mark.parametrize("layout", ["planes", "gray and alpha"])
def test_imagecodecs_decodes_what_pillow_does_not(tmp_path, monkeypatch, compression, layout):
    samples = np.random.default_rng(0).integers(0, 2**16, (6, 7, 3), np.uint16)
    options = {"photometric": "rgb", "planarconfig": "separate"}
    if layout == "planes":
        write(tmp_path / "a.tif", samples.transpose(2, 0, 1).copy(), compression, **options)
    else:
        samples = samples[..., :2]
        options = {"photometric": "minisblack", "extrasamples": ["unassalpha"]}
        write(tmp_path / "a.tif", samples, compression, planarconfig="contig", **options)
    np.testing.assert_array_equal(samples_of(tmp_path / "a.tif"), samples)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    said = r"\d samples a pixel of 16 bits.* require imagecodecs: .*deconv_jax\[formats\]"
    with pytest.raises(InputError, match=said):
        read_image(tmp_path / "a.tif")


REFUSED = {
    "signed 8-bit": ({"dtype": np.int8}, "its samples are signed integers"),
    "signed 16-bit": ({"dtype": np.int16}, "its samples are signed integers"),
    "floats": ({"dtype": np.float32}, "its samples are floats"),
    "32 bits": ({"dtype": np.uint32}, "its samples have 32 bits"),
    "16-bit CMYK": (
        {"dtype": np.uint16, "shape": (6, 6, 4), "photometric": "separated"},
        "(its 16-bit samples are neither gray nor RGB|it has 4 samples a pixel of 16 bits)",
    ),
    "three pages": ({"shape": (3, 6, 6)}, "it has 3 pages; only files with one page are read"),
    "a volume": (
        {"shape": (16, 16, 16), "volumetric": True, "tile": (16, 16, 16)},
        "it has 16 pages",
    ),
}


@pytest.mark.parametrize(("options", "said"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("read", [read_image, read_pixels, read_labels])
def test_unsupported_samples_are_errors(tmp_path, read, options, said):
    options = {"photometric": "minisblack", "dtype": np.uint8, "shape": (6, 6)} | options
    samples = np.zeros(options.pop("shape"), options.pop("dtype"))
    write(tmp_path / "a.tif", samples, **options)
    with pytest.raises(InputError, match=f"cannot read image .*a.tif: {said}"):
        read(tmp_path / "a.tif")


def test_reduced_copy_is_not_a_page(tmp_path):
    samples = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(samples, photometric="rgb", metadata=None)
        tiff.write(samples[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(samples_of(tmp_path / "a.tif"), samples)
    (note,) = read_image(tmp_path / "a.tif").notes
    assert note == "1 further page (reduced copies, masks) left out"
    write(tmp_path / "b.tif", samples, photometric="rgb", subfiletype=1)
    with pytest.raises(InputError, match="its first page is a reduced copy"):
        read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_truncated_files_are_errors_without_library_messages(tmp_path, capfd, compression, cut):
    path = tmp_path / "a.tif"
    samples = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    write(path, samples, photometric="rgb", compression=compression, rowsperstrip=8)
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(InputError, match="cannot read image"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


def test_damage_found_by_libtiff_is_reported_once(tmp_path, capfd):
    path = tmp_path / "a.tif"
    samples = np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8)
    Image.fromarray(samples).save(path, compression="tiff_lzw")
    content = bytearray(path.read_bytes())
    content[200:260] = b"\xff" * 60
    path.write_bytes(content)
    with pytest.raises(InputError, match="it is damaged: its pixels cannot be decoded"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


def test_inks_other_than_cmyk_are_errors(tmp_path):
    samples = np.zeros((4, 4, 4), np.uint8)
    write(tmp_path / "a.tif", samples, photometric="separated", extratags=[(332, 3, 1, 2, True)])
    with pytest.raises(InputError, match="inks other than cyan, magenta, yellow and black"):
        read_image(tmp_path / "a.tif")
    write(tmp_path / "b.tif", samples, photometric="separated", extratags=[(332, 3, 1, 1, True)])
    assert read_image(tmp_path / "b.tif").pixels.min() == 1.0


def test_image_without_columns_is_an_error(tmp_path):
    write(tmp_path / "a.tif", np.zeros((4, 4), np.uint8), photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages[0].tags["ImageWidth"].overwrite(0)
    with pytest.raises(InputError, match="it has 0 x 4 pixels"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("photometric", [0, 1, 3])
def test_labels_of_few_bits_are_the_samples(tmp_path, bits, photometric):
    labels = (np.arange(16).reshape(2, -1) % 2**bits).astype(np.uint8)
    packed = np.packbits(
        np.unpackbits(labels[..., None], axis=-1)[..., -bits:].reshape(2, -1), axis=-1
    )
    path = tmp_path / "a.tif"
    write(path, packed, photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tags = tiff.pages[0].tags
        tags["ImageWidth"].overwrite(labels.shape[1])
        tags["BitsPerSample"].overwrite(bits)
        tags["PhotometricInterpretation"].overwrite(photometric)
        if photometric == 3:  # The colors take the place of a tag that nobody needs.
            tiff.filehandle.seek(0, 2)
            place = tiff.filehandle.tell()
            tiff.filehandle.write(np.arange(3 * 2**bits, dtype="<u2").tobytes())
            tiff.filehandle.seek(tags["Software"].offset)
            entry = np.array([320, 3], "<u2").tobytes()
            tiff.filehandle.write(entry + np.array([3 * 2**bits, place], "<u4").tobytes())
    black_and_white = bits == 1 and photometric != 3
    np.testing.assert_array_equal(read_labels(path), labels * (255 if black_and_white else 1))


def test_resolution_and_description_of_16_bit_color_are_read(tmp_path):
    samples = np.arange(48, dtype=np.uint16).reshape(4, 4, 3)
    options = {"resolution": (118, 59), "resolutionunit": "CENTIMETER", "description": "a scan"}
    write(tmp_path / "a.tif", samples, photometric="rgb", **options)
    image = read_image(tmp_path / "a.tif")
    assert image.dpi == pytest.approx((118 * 2.54, 59 * 2.54))
    kept = Image.Exif()
    kept.load(image.exif)
    assert kept[270] == "a scan"
    write_image(tmp_path / "b.tif", image.pixels, image)
    assert read_image(tmp_path / "b.tif").dpi == pytest.approx(image.dpi, rel=1e-4)
