"""What becomes of a file."""

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
from deconv_jax.inference.restoration import restore_files as work
from deconv_jax.inference.restoration.learned_restorer import ProgressCallback
from deconv_jax.inference.restoration.restore_files import measure_in_bands, restore_file
from deconv_jax.metrics.protocol import EvaluationProtocol
from deconv_jax.ops import imresize

QUIET = ProgressCallback(on_progress=lambda _: None, on_message=lambda _: None)


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A restorer that repeats pixels and multiplies them."""

    scale: int = 1
    factor: float = 1.0

    def __call__(self, pixels, progress):
        progress.on_progress(1.0)
        return np.float32(self.factor) * pixels.repeat(self.scale, 0).repeat(self.scale, 1)


@pytest.fixture
def photo(tmp_path, draw):
    """A 16-bit colour PNG with alpha and a colour profile, as an `ImageFile`."""
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


def test_a_result_has_what_its_input_had(tmp_path, photo):
    job = Job(tmp_path / "photo.png", tmp_path / "out" / "photo.png")
    result = restore_file(Scaled(scale=2), job, QUIET)
    assert result.size == (12, 14)
    assert result.measured is None
    restored = read_image(job.output)
    np.testing.assert_array_equal(restored.pixels[::2, ::2], photo.pixels)
    np.testing.assert_allclose(restored.alpha, np.full((12, 14, 1), 0.25), atol=1e-4)
    assert photo.icc_profile == b"a profile"
    for name in ("bit_depth", "mode", "icc_profile", "exif", "format"):
        assert getattr(restored, name) == getattr(photo, name)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["photo.png"]


def places_of(image, picture):
    """Columns where a picture shows an image (height, width, 1), under its name and a caption."""
    height, width, _ = image.shape
    pixels = image[..., 0] * (1 if image.dtype == np.uint8 else 255.0)
    windows = np.lib.stride_tricks.sliding_window_view(
        picture[44 : 44 + height, :, 0], width, axis=1
    )
    differences = np.abs(windows.swapaxes(0, 1) - pixels[None]).max(axis=(1, 2))
    return np.flatnonzero(differences < 1).tolist()


def test_results_are_measured_and_compared(tmp_path, draw):
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
    result = restore_file(Scaled(factor=0.6), job, QUIET, protocol=protocol)
    stored = [read_image(tmp_path / f"{n}.png").pixels for n in ("truth", "noisy", "out")]
    inner = [image[2:-2, 2:-2].astype(np.float64) for image in stored]
    for row, image in ((result.before, inner[1]), (result.measured, inner[2])):
        expected = -10 * np.log10(np.mean((image - inner[0]) ** 2))
        assert row["psnr"] == pytest.approx(expected, abs=1e-3)
    picture = np.asarray(Image.open(tmp_path / "compare.png"))
    shown = [places_of(image, picture) for image in (noisy, stored[2], truth)]
    assert [len(places) for places in shown] == [1, 1, 1]
    assert shown == sorted(shown)


def test_an_enlargement_is_measured_against_a_larger_image(tmp_path, draw):
    small = draw(12, 12, 1)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    write_image(tmp_path / "small.png", small)
    # One row and column more than twice the size, as before "modcrop".
    write_image(tmp_path / "large.png", np.pad(large, ((0, 1), (0, 1), (0, 0))))
    job = Job(
        tmp_path / "small.png", tmp_path / "out.png", tmp_path / "large.png", tmp_path / "c.png"
    )
    result = restore_file(Scaled(scale=2), job, QUIET)
    assert result.measured["psnr"] > 100
    stored = read_image(tmp_path / "small.png").pixels
    bicubic = np.asarray(imresize(jnp.asarray(stored), 2))
    error = np.mean((np.round(255 * np.clip(bicubic, 0, 1)) / 255 - large) ** 2, dtype=np.float64)
    assert result.before["psnr"] == pytest.approx(-10 * np.log10(error), abs=0.02)
    picture = np.asarray(Image.open(tmp_path / "c.png"))
    shown = [
        places_of(image, picture)
        for image in (large, np.round(255 * bicubic.clip(0, 1)).astype(np.uint8))
    ]
    # The input in its own pixels, bicubically enlarged, restored, and the truth.
    assert [len(places) for places in shown] == [3, 1]
    assert sorted([*shown[0], *shown[1]])[1] == shown[1][0]


@pytest.mark.parametrize("channels", [(1, 3), (3, 1), (1, 1), (3, 3)])
def test_y_of_gray_files_is_that_of_equal_channels(channels, tmp_path, draw):
    gray, other = draw(16, 16, 1), draw(16, 16, 1, seed=1)
    for name, pixels, count in zip(("a", "b"), (gray, other), channels, strict=True):
        write_image(tmp_path / f"{name}.png", pixels.repeat(count, axis=-1))
    protocol = EvaluationProtocol(color="y")
    names = ("a", "b"), ("b", "b")
    found = []
    for source, reference in names:
        job = Job(*(tmp_path / f"{n}.png" for n in (source, f"out_{source}", reference)))
        found.append(restore_file(Scaled(), job, QUIET, protocol=protocol).measured["psnr"])
    # 8-bit levels v become 16 + 219 v / 255.
    error = np.mean((219 / 255 * (gray - other).astype(np.float64)) ** 2)
    assert found[0] == pytest.approx(-10 * np.log10(error), abs=0.01)
    assert found[1] == np.inf


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ((20, 24, 1), r"the result has \(18, 24\) pixels, its reference .*r.png has \(20, 24\)"),
        ((18, 24, 3), "outputs of 1 channels cannot be compared with targets of 3"),
        ((18, 24, 1), "ssim needs images of at least 11 x 11 pixels; got 10 x 16"),
        (None, "there is no reference .*r.png, nor one of another format"),
        ("text", "cannot read image .*r.png"),
    ],
)
def test_a_result_that_cannot_be_measured_is_a_result(tmp_path, draw, reference, said):
    write_image(tmp_path / "a.png", draw(9, 12, 1))
    if reference == "text":
        (tmp_path / "r.png").write_text("text")
    elif reference is not None:
        write_image(tmp_path / "r.png", draw(*reference))
    job = Job(tmp_path / "a.png", tmp_path / "b.png", tmp_path / "r.png", tmp_path / "c.png")
    result = restore_file(Scaled(scale=2), job, QUIET, protocol=EvaluationProtocol(border=4))
    assert re.search(said, result.unmeasured)
    assert result.measured is None
    assert result.size == (18, 24)
    assert job.output.exists()
    assert job.comparison.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "at_once", "protocol", "channels"),
    [
        ((47, 23), 23 * 7, EvaluationProtocol(), (3, 3)),  # six bands, the last one shorter
        (
            (45, 30),
            1,
            EvaluationProtocol(color="y", border=3),
            (1, 3),
        ),  # bands of a single window's rows
        ((16, 40), 2**20, EvaluationProtocol(border=2), (1, 1)),  # one band
    ],
)
def test_bands_measure_what_the_whole_image_does(
    monkeypatch, draw, size, at_once, protocol, channels
):
    monkeypatch.setattr(work, "MEASURED_AT_ONCE", at_once)
    target = draw(*size, channels[1])
    # Neither error nor structure is the same everywhere, so that a wrong weight shows.
    fading = np.linspace(0, 0.5, size[0], dtype=np.float32).reshape(-1, 1, 1)
    output = target[..., : channels[0]] + fading * draw(*size, channels[0], seed=1)
    row = measure_in_bands(protocol, output, target)
    (whole,) = protocol.measure_all([("whole", output, target)])
    assert row["psnr"] == pytest.approx(whole["psnr"], abs=2e-5)
    assert row["ssim"] == pytest.approx(whole["ssim"], abs=2e-6)
    black = np.zeros_like(target)
    assert measure_in_bands(EvaluationProtocol(), black, black) == {"psnr": np.inf, "ssim": 1.0}


def test_the_program_that_measures_is_of_one_size_for_higher_images(monkeypatch, draw):
    monkeypatch.setattr(work, "MEASURED_AT_ONCE", 16 * 10)
    seen = []
    monkeypatch.setattr(
        work,
        "_measured",
        lambda protocol, output, target, *_: seen.append(output.shape) or (10.0, 1.0),  # noqa: ARG005
    )
    for height in (30, 110, 210):
        measure_in_bands(EvaluationProtocol(), draw(height, 16, 1), draw(height, 16, 1))
    assert set(seen) == {(1, 20, 16, 1)}
    assert len(seen) == 2 + 10 + 20


def test_a_result_that_is_there_is_left_alone(tmp_path, draw):
    write_image(tmp_path / "a.png", draw(4, 4, 1))
    job = Job(tmp_path / "a.png", tmp_path / "b.png")
    job.output.write_text("mine")
    with pytest.raises(InputError, match=r"b.png is there already; give --overwrite"):
        restore_file(Scaled(), job, QUIET)
    assert job.output.read_text() == "mine"
    restore_file(Scaled(), job, QUIET, overwrite=True)
    np.testing.assert_array_equal(read_image(job.output).pixels, read_image(job.source).pixels)


@pytest.mark.parametrize(
    ("source", "output", "said"),
    [
        ("none.png", "b.png", "cannot read image .*none.png"),
        ("text.png", "b.png", "cannot read image .*text.png"),
        ("a.png", "b.gif", "no image format for .*b.gif"),
    ],
)
def test_a_file_that_fails_leaves_nothing(tmp_path, draw, source, output, said):
    (tmp_path / "text.png").write_text("text")
    write_image(tmp_path / "a.png", draw(4, 4, 1))
    folder = tmp_path / "out"
    with pytest.raises(InputError, match=said):
        restore_file(Scaled(), Job(tmp_path / source, folder / output), QUIET)
    assert not folder.exists()


def test_running_out_of_memory_is_the_files_error_and_a_defect_is_none(tmp_path, draw, monkeypatch):
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
            restore_file(raising(error), job, QUIET)
        for place in ("read_image", "write_image"):
            with monkeypatch.context() as patch:
                patch.setattr(work, place, fail(error))
                with pytest.raises(InputError, match=r"a.png: not enough memory"):
                    restore_file(Scaled(), job, QUIET)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        restore_file(raising(jax.errors.JaxRuntimeError("INTERNAL: x")), job, QUIET)
    with pytest.raises(InputError, match=r"a.png: too odd"):
        restore_file(raising(InputError("too odd")), job, QUIET)
    assert not job.output.exists()
    # What cannot be measured for want of memory is restored all the same.
    measured = dataclasses.replace(job, reference=job.source)
    for error in exhausted:
        monkeypatch.setattr(work, "measure_in_bands", fail(error))
        result = restore_file(Scaled(), measured, QUIET, overwrite=True)
        assert result.unmeasured == "not enough memory"
        assert job.output.exists()
