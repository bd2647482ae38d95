"""Files are restored, written, measured and compared one at a time."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from deconv_jax.data.images import read_image, write_image
from deconv_jax.errors import InputError
from deconv_jax.inference.image_files import Job
from deconv_jax.inference.progress import SILENT
from deconv_jax.inference.restoration import restore_files
from deconv_jax.inference.restoration.restore_files import restore_file
from deconv_jax.metrics.protocol import EvaluationProtocol
from deconv_jax.ops import imresize


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A restorer that enlarges by repeating pixels and multiplies them by a factor."""

    scale: int = 1
    factor: float = 1.0

    def __call__(self, pixels, progress, jpeg_table=None):
        del jpeg_table
        progress.on_progress(1.0)
        return np.float32(self.factor) * pixels.repeat(self.scale, 0).repeat(self.scale, 1)


@pytest.fixture
def photo(tmp_path, draw):
    """A 16-bit color PNG with alpha and an ICC profile, as an `ImageFile`."""
    pixels, alpha = draw(6, 7, 3), np.full((6, 7, 1), 0.25, np.float32)
    Image.new("RGB", (1, 1)).save(
        tmp_path / "small.png", icc_profile=b"a profile", exif=_exif("somebody")
    )
    like = dataclasses.replace(read_image(tmp_path / "small.png"), bit_depth=16, alpha=alpha)
    write_image(tmp_path / "photo.png", pixels, like)
    return read_image(tmp_path / "photo.png")


def _exif(artist):
    exif = Image.Exif()
    exif[315] = artist
    return exif


def test_metadata_and_alpha_are_kept(tmp_path, photo):
    job = Job(tmp_path / "photo.png", tmp_path / "out" / "photo.png")
    result = restore_file(Scaled(scale=2), job, SILENT)
    assert result.size == (12, 14)
    assert result.metrics is None
    restored = read_image(job.output)
    np.testing.assert_array_equal(restored.pixels[::2, ::2], photo.pixels)
    np.testing.assert_allclose(restored.alpha, np.full((12, 14, 1), 0.25), atol=1e-4)
    assert photo.icc_profile == b"a profile"
    for name in ("bit_depth", "mode", "icc_profile", "exif", "format"):
        assert getattr(restored, name) == getattr(photo, name)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["photo.png"]


@pytest.mark.parametrize("outscale", [1.5, 0.4, 2.0])
def test_the_result_is_resized_to_outscale(tmp_path, draw, outscale):
    write_image(tmp_path / "a.png", draw(5, 7, 3))
    job = Job(tmp_path / "a.png", tmp_path / "b.png", comparison=tmp_path / "c.png")
    result = restore_file(Scaled(scale=2), job, SILENT, outscale=outscale)
    # Halves are rounded up: 7.5 to 8, and 10.5 to 11.
    assert result.size == {1.5: (8, 11), 0.4: (2, 3), 2.0: (10, 14)}[outscale]
    enlarged = read_image(job.source).pixels.repeat(2, 0).repeat(2, 1)
    expected = imresize(jnp.asarray(enlarged), size=result.size)
    written = read_image(job.output).pixels
    np.testing.assert_allclose(written, np.clip(expected, 0, 1), atol=0.51 / 255)
    assert job.comparison.exists()


def test_an_enormous_result_is_an_error(tmp_path, draw):
    write_image(tmp_path / "a.png", draw(5, 7, 3))
    job = Job(tmp_path / "a.png", tmp_path / "b.png")
    message = r"the result would have 35000 x 25000 pixels; the limit is 250000000 in all"
    with pytest.raises(InputError, match=message):
        restore_file(Scaled(), job, SILENT, outscale=5e3)


def test_alpha_is_restored_like_a_gray_image_on_request(tmp_path, photo, draw):
    alpha = draw(6, 7, 1)
    for opacity in (alpha, photo.alpha):
        like = dataclasses.replace(photo, alpha=opacity)
        write_image(tmp_path / "photo.png", photo.pixels, like)
        job = Job(tmp_path / "photo.png", tmp_path / "out.png")
        restore_file(Scaled(2, factor=0.5), job, SILENT, overwrite=True, alpha="network")
        written = read_image(job.output).alpha
        # Constant alpha is not restored.
        expected = 0.5 * alpha.repeat(2, 0).repeat(2, 1) if opacity is alpha else 0.25
        np.testing.assert_allclose(written, np.broadcast_to(expected, (12, 14, 1)), atol=1e-4)


def find_columns(image, picture):
    """Return the columns where a picture shows an image (height, width, 1)."""
    height, width, _ = image.shape
    pixels = image[..., 0] * (1 if image.dtype == np.uint8 else 255.0)
    windows = np.lib.stride_tricks.sliding_window_view(
        picture[44 : 44 + height, :, 0], width, axis=1
    )
    differences = np.abs(windows.swapaxes(0, 1) - pixels[None]).max(axis=(1, 2))
    return np.flatnonzero(differences < 1).tolist()


def test_result_and_input_are_measured_and_drawn(tmp_path, draw):
    truth, noisy = draw(24, 24, 1), draw(24, 24, 1, seed=1)
    for name, pixels in (("truth", truth), ("noisy", noisy)):
        write_image(tmp_path / f"{name}.png", pixels)
    job = Job(
        tmp_path / "noisy.png",
        tmp_path / "out.png",
        reference=tmp_path / "truth.png",
        comparison=tmp_path / "compare.png",
    )
    protocol = EvaluationProtocol(border=2)
    result = restore_file(Scaled(factor=0.6), job, SILENT, protocol=protocol)
    stored = [read_image(tmp_path / f"{n}.png").pixels for n in ("truth", "noisy", "out")]
    inner = [image[2:-2, 2:-2].astype(np.float64) for image in stored]
    for row, image in ((result.input_metrics, inner[1]), (result.metrics, inner[2])):
        expected = -10 * np.log10(np.mean((image - inner[0]) ** 2))
        assert row["psnr"] == pytest.approx(expected, abs=1e-3)
    picture = np.asarray(Image.open(tmp_path / "compare.png"))
    shown = [find_columns(image, picture) for image in (noisy, stored[2], truth)]
    assert [len(columns) for columns in shown] == [1, 1, 1]
    assert shown == sorted(shown)


def test_enlargement_is_measured_against_bicubic(tmp_path, draw):
    small = draw(12, 12, 1)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    write_image(tmp_path / "small.png", small)
    # The reference has one more row and column, to be cropped as for "modcrop".
    write_image(tmp_path / "large.png", np.pad(large, ((0, 1), (0, 1), (0, 0))))
    job = Job(
        tmp_path / "small.png", tmp_path / "out.png", tmp_path / "large.png", tmp_path / "c.png"
    )
    result = restore_file(Scaled(scale=2), job, SILENT)
    assert result.metrics["psnr"] > 100
    stored = read_image(tmp_path / "small.png").pixels
    bicubic = np.asarray(imresize(jnp.asarray(stored), 2))
    error = np.mean((np.round(255 * np.clip(bicubic, 0, 1)) / 255 - large) ** 2, dtype=np.float64)
    assert result.input_metrics["psnr"] == pytest.approx(-10 * np.log10(error), abs=0.02)
    picture = np.asarray(Image.open(tmp_path / "c.png"))
    shown = [
        find_columns(image, picture)
        for image in (large, np.round(255 * bicubic.clip(0, 1)).astype(np.uint8))
    ]
    # The repeated input, its bicubic enlargement, the result and the reference.
    assert [len(columns) for columns in shown] == [3, 1]
    assert sorted([*shown[0], *shown[1]])[1] == shown[1][0]


@pytest.mark.parametrize("channels", [(1, 3), (3, 1), (1, 1), (3, 3)])
def test_luma_of_gray_files_is_that_of_equal_channels(channels, tmp_path, draw):
    gray, other = draw(16, 16, 1), draw(16, 16, 1, seed=1)
    for name, pixels, count in zip(("a", "b"), (gray, other), channels, strict=True):
        write_image(tmp_path / f"{name}.png", pixels.repeat(count, axis=-1))
    protocol = EvaluationProtocol(color="y")
    names = ("a", "b"), ("b", "b")
    found = []
    for source, reference in names:
        job = Job(*(tmp_path / f"{n}.png" for n in (source, f"out_{source}", reference)))
        found.append(restore_file(Scaled(), job, SILENT, protocol=protocol).metrics["psnr"])
    # 8-bit levels v become 16 + 219 v / 255.
    error = np.mean((219 / 255 * (gray - other).astype(np.float64)) ** 2)
    assert found[0] == pytest.approx(-10 * np.log10(error), abs=0.01)
    assert found[1] == np.inf


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            (20, 24, 1),
            r"the result has \(18, 24\) pixels, but its reference .*r.png has \(20, 24\)",
        ),
        ((18, 24, 3), "outputs of 1 channels cannot be compared with targets of 3"),
        ((18, 24, 1), "ssim requires images of at least 11 x 11 pixels; got 10 x 16"),
        (None, "reference .*r.png does not exist in any image format"),
        ("text", "cannot read image .*r.png"),
    ],
)
def test_unmeasurable_results_are_still_written(tmp_path, draw, reference, message):
    write_image(tmp_path / "a.png", draw(9, 12, 1))
    if reference == "text":
        (tmp_path / "r.png").write_text("text")
    elif reference is not None:
        write_image(tmp_path / "r.png", draw(*reference))
    job = Job(tmp_path / "a.png", tmp_path / "b.png", tmp_path / "r.png", tmp_path / "c.png")
    result = restore_file(Scaled(scale=2), job, SILENT, protocol=EvaluationProtocol(border=4))
    assert re.search(message, result.measurement_error)
    assert result.metrics is None
    assert result.size == (18, 24)
    assert job.output.exists()
    assert job.comparison.exists()


def test_existing_results_are_kept_without_overwrite(tmp_path, draw):
    write_image(tmp_path / "a.png", draw(4, 4, 1))
    job = Job(tmp_path / "a.png", tmp_path / "b.png")
    job.output.write_text("mine")
    with pytest.raises(InputError, match=r"b.png exists; give --overwrite"):
        restore_file(Scaled(), job, SILENT)
    assert job.output.read_text() == "mine"
    restore_file(Scaled(), job, SILENT, overwrite=True)
    np.testing.assert_array_equal(read_image(job.output).pixels, read_image(job.source).pixels)


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("none.png", "b.png", "cannot read image .*none.png"),
        ("text.png", "b.png", "cannot read image .*text.png"),
        ("a.png", "b.gif", "no image format for .*b.gif"),
    ],
)
def test_failed_files_write_nothing(tmp_path, draw, source, output, message):
    (tmp_path / "text.png").write_text("text")
    write_image(tmp_path / "a.png", draw(4, 4, 1))
    folder = tmp_path / "out"
    with pytest.raises(InputError, match=message):
        restore_file(Scaled(), Job(tmp_path / source, folder / output), SILENT)
    assert not folder.exists()


def test_out_of_memory_is_an_input_error_and_other_errors_are_not(tmp_path, draw, monkeypatch):
    write_image(tmp_path / "a.png", draw(4, 4, 1))
    job = Job(tmp_path / "a.png", tmp_path / "b.png")

    def raising(error):
        class Failing:
            scale = 1

            def __call__(self, *_):
                raise error

        return Failing()

    def fail(error):
        def failing(*_):
            raise error

        return failing

    exhausted = MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 PB")
    for error in exhausted:
        with pytest.raises(InputError, match=r"a.png: not enough memory; .* smaller tile"):
            restore_file(raising(error), job, SILENT)
        for name in ("read_image", "write_image"):
            with monkeypatch.context() as patch:
                patch.setattr(restore_files, name, fail(error))
                with pytest.raises(InputError, match=r"a.png: not enough memory"):
                    restore_file(Scaled(), job, SILENT)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        restore_file(raising(jax.errors.JaxRuntimeError("INTERNAL: x")), job, SILENT)
    with pytest.raises(InputError, match=r"a.png: too odd"):
        restore_file(raising(InputError("too odd")), job, SILENT)
    assert not job.output.exists()
    # Too little memory for the measurement does not affect the result.
    measured = dataclasses.replace(job, reference=job.source)
    for error in exhausted:
        monkeypatch.setattr(restore_files, "measure_image", fail(error))
        result = restore_file(Scaled(), measured, SILENT, overwrite=True)
        assert result.measurement_error == "not enough memory"
        assert job.output.exists()
