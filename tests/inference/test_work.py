"""What becomes of a file."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from deconv_jax.data.images import read_image, write_image
from deconv_jax.errors import InputError
from deconv_jax.inference.files import Job
from deconv_jax.inference.restore import Watch
from deconv_jax.inference.work import restore_file
from deconv_jax.metrics.protocol import Protocol

QUIET = Watch(share=lambda share: None, say=lambda message: None)  # noqa: ARG005


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A restorer that repeats pixels and multiplies them."""

    scale: int = 1
    factor: float = 1.0

    def __call__(self, pixels, watch):
        watch.share(1.0)
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
    protocol = Protocol(border=2)
    result = restore_file(Scaled(factor=0.6), job, QUIET, protocol=protocol)
    stored = [read_image(tmp_path / f"{n}.png").pixels for n in ("truth", "noisy", "out")]
    inner = [image[2:-2, 2:-2].astype(np.float64) for image in stored]
    for row, image in ((result.before, inner[1]), (result.measured, inner[2])):
        expected = -10 * np.log10(np.mean((image - inner[0]) ** 2))
        assert row["psnr"] == pytest.approx(expected, abs=1e-3)
    picture = np.asarray(Image.open(tmp_path / "compare.png"))
    top, left = 44, 4  # Under the columns' names and a caption, beside a gap.
    for column, image in enumerate((noisy, stored[2], truth)):
        shown = picture[top : top + 24, left + 28 * column : left + 28 * column + 24, 0] / 255
        np.testing.assert_allclose(shown, image[..., 0], atol=0.003)


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
    assert result.before is None
    picture = np.asarray(Image.open(tmp_path / "c.png"))
    np.testing.assert_array_equal(picture[44:68, 4:28], picture[44:68, 32:56])
    # Two rows more are another image: the result is there, and what is wrong is said.
    write_image(tmp_path / "large.png", np.pad(large, ((0, 2), (0, 0), (0, 0))))
    with pytest.raises(InputError, match=r"\(24, 24\) pixels cannot be measured.*\(26, 24\)"):
        restore_file(Scaled(scale=2), job, QUIET, overwrite=True)
    assert job.output.exists()


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


def test_running_out_of_memory_is_the_files_error_and_a_defect_is_none(tmp_path, draw):
    write_image(tmp_path / "a.png", draw(4, 4, 1))
    job = Job(tmp_path / "a.png", tmp_path / "b.png")

    def raising(error):
        class Failing:
            scale = 1

            def __call__(self, *_):
                raise error

        return Failing()

    for error in (MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 PB")):
        with pytest.raises(InputError, match=r"a.png: not enough memory .* smaller tile"):
            restore_file(raising(error), job, QUIET)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        restore_file(raising(jax.errors.JaxRuntimeError("INTERNAL: x")), job, QUIET)
    with pytest.raises(InputError, match=r"a.png: too odd"):
        restore_file(raising(InputError("too odd")), job, QUIET)
    assert not Path(job.output).exists()
