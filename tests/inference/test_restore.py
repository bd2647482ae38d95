"""Restorers of pixels and of files."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from deconv_jax import ops
from deconv_jax.classical import METHODS
from deconv_jax.data.degradations import Blur, Chain, GaussianNoise
from deconv_jax.data.images import read_image, write_image
from deconv_jax.errors import InputError
from deconv_jax.inference import restore, tiling
from deconv_jax.inference.files import Job
from deconv_jax.inference.restore import ClassicalRestorer, LearnedRestorer, Watch, restore_file
from deconv_jax.metrics.color import rgb_to_ycbcr
from deconv_jax.metrics.protocol import Protocol
from deconv_jax.models import MODELS
from deconv_jax.models.receptive_field import ReceptiveField

QUIET = Watch(share=lambda share: None, say=lambda message: None)  # noqa: ARG005
KERNEL = np.outer([1, 3, 1], [1, 2, 4, 2, 1]).astype(np.float32) / 50


class Simple(nn.Module):
    """What a restoration network has, and a function of pixels instead of layers."""

    channels: int = 1
    scale: int = 1

    @nn.compact
    def __call__(self, images, train=False):
        del train
        factor = self.param("factor", nn.initializers.ones, ())
        enlarged = images.repeat(self.scale, axis=1).repeat(self.scale, axis=2)
        return self.values(enlarged, factor)

    def values(self, images, factor):
        return images[..., : self.channels] * factor

    @nn.nowrap
    def receptive_field(self):
        return ReceptiveField(0, 0, scale=self.scale)


class Leveled(Simple):
    """Adds the last channel, the noise's level."""

    def values(self, images, factor):
        return images[..., :1] * factor + images[..., 1:]


class Delicate(Simple):
    """1 / (factor - 1): infinite if the factor is rounded to 1."""

    def values(self, images, factor):
        return images + (1.0 / (factor - 1.0)).reshape(1, 1, 1, 1)


def learned(model, factor=1.0, **fields):
    return LearnedRestorer(model, {"params": {"factor": np.float32(factor)}}, **fields)


@pytest.fixture(scope="module")
def denoiser(random_variables):
    model = MODELS["dncnn"](depth=3, features=4)
    return model, random_variables(model, 1)


def test_colour_goes_channel_by_channel_through_a_gray_denoiser(denoiser, draw):
    restorer = LearnedRestorer(*denoiser)
    image = draw(9, 11, 3)
    restored = restorer(image, QUIET)
    assert restored.dtype == np.float32
    for channel in range(3):
        alone = restorer(image[..., channel : channel + 1], QUIET)
        np.testing.assert_allclose(restored[..., channel : channel + 1], alone, atol=1e-5)


def test_gray_goes_three_times_through_a_colour_network(random_variables, draw):
    model = MODELS["dncnn"](channels=3, depth=2, features=4)
    restorer = LearnedRestorer(model, random_variables(model, 3))
    image = draw(6, 7, 1)
    expected = restorer(np.repeat(image, 3, axis=-1), QUIET).mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(restorer(image, QUIET), expected, atol=1e-6)


def test_colour_is_enlarged_by_its_luma(random_variables, draw):
    model = MODELS["espcn"](scale=2, features=(4, 4))
    restorer = LearnedRestorer(model, random_variables(model, 1))
    image = draw(9, 8, 3)
    ycbcr = np.asarray(rgb_to_ycbcr(jnp.asarray(image)))
    restored = np.asarray(rgb_to_ycbcr(jnp.asarray(restorer(image, QUIET))))
    luma = restorer(ycbcr[..., :1], QUIET)
    np.testing.assert_allclose(restored[..., :1], luma, atol=1e-5)
    chroma = np.asarray(ops.imresize(jnp.asarray(ycbcr[..., 1:]), 2))
    np.testing.assert_allclose(restored[..., 1:], chroma, atol=1e-5)


@pytest.mark.parametrize("ensemble", [False, True])
def test_tiles_allow_for_the_bicubic_chroma(draw, ensemble):
    # The network itself sees one pixel; bicubic enlarging sees more.
    image = draw(23, 30, 3)
    whole = learned(Simple(scale=2), tile=64, ensemble=ensemble)
    tiled = dataclasses.replace(whole, tile=9)
    assert tiled._field(3).before == 2
    assert tiled._field(1).before == 0
    shares = []
    tiles = tiled(image, Watch(share=shares.append, say=QUIET.say))
    assert len(shares) > 9
    np.testing.assert_allclose(tiles, whole(image, QUIET), atol=1e-5)


def test_a_network_is_told_the_noise_in_the_unit_of_its_pixels(draw):
    image = draw(3, 4, 1)
    restorer = learned(Leveled(), noise_conditional=True, noise_sigma=51)
    np.testing.assert_allclose(restorer(image, QUIET), image + 0.2, atol=1e-6)
    with pytest.raises(InputError, match="told the noise's level"):
        learned(Leveled(), noise_conditional=True)
    with pytest.raises(InputError, match=r"takes no level of noise; got noise_sigma=5"):
        learned(Simple(), noise_sigma=5)
    with pytest.raises(InputError, match="noise_sigma must be at least 0"):
        learned(Leveled(), noise_conditional=True, noise_sigma=-1)


def test_what_overflows_in_bfloat16_is_done_in_float32(draw):
    said = []
    watch = Watch(share=QUIET.share, say=said.append)
    image = draw(3, 4, 1)
    restored = learned(Delicate(), factor=1.001, precision="bf16")(image, watch)
    np.testing.assert_allclose(restored, image + 1000.0, rtol=1e-3)
    assert said == ["the output is not finite in bf16; done again in f32"]
    with pytest.raises(InputError, match="not finite"):
        learned(Delicate())(image, watch)
    # And where nothing overflows it is bfloat16 that computes.
    restored = learned(Simple(), precision="bf16")(image, watch)
    np.testing.assert_array_equal(restored, image.astype(jnp.bfloat16).astype(np.float32))


def test_what_is_no_restoration_network_is_refused():
    with pytest.raises(InputError, match="Classifier is no restoration network"):
        LearnedRestorer(MODELS["classifier"](), {})
    with pytest.raises(InputError, match="1 or 3 channels; this network takes 2"):
        learned(Simple(channels=2))
    with pytest.raises(InputError, match="at least 1 pixels a side"):
        learned(Simple(), tile=0)


def test_a_large_image_is_tiled_by_the_memory_at_hand(monkeypatch, denoiser, draw):
    image = draw(tiling.PROBE + 9, 7, 1)
    whole = LearnedRestorer(*denoiser, tile=1000)(image, QUIET)
    monkeypatch.setattr(tiling, "free_memory", lambda: 0)
    shares = []
    tiled = LearnedRestorer(*denoiser)
    watch = Watch(share=shares.append, say=QUIET.say)
    before = restore._restored._cache_size()
    np.testing.assert_allclose(tiled(image, watch), whole, atol=1e-5)
    # The smallest tile is 7 pixels: a program for it, and none for the image.
    assert tiled._tiles == {1: 7}
    assert restore._restored._cache_size() == before + 1
    assert len(shares) == tiling.PROBE + 9 - 6
    assert shares[-1] == 1.0
    # An image that the measuring of memory would be larger than is not worth that.
    small = LearnedRestorer(*denoiser)
    small(image[:8], QUIET)
    small(image[: tiling.PROBE], QUIET)
    assert not small._tiles


def test_a_method_is_given_the_blur_the_noise_and_its_options(draw):
    image = draw(12, 16, 3)
    options = {"iterations": 4, "tv_weight": 0.002}
    restorer = ClassicalRestorer("richardson_lucy", KERNEL, boundary="circular", options=options)
    expected = METHODS["richardson_lucy"](image[None], Blur(KERNEL), **options)[0]
    np.testing.assert_allclose(restorer(image, QUIET), expected, atol=1e-6)
    restorer = ClassicalRestorer("wiener", KERNEL, noise_sigma=4.0)
    model = Chain((Blur(KERNEL, boundary="reflect"), GaussianNoise(4.0)))
    expected = METHODS["wiener"](image[None], model)[0]
    np.testing.assert_allclose(restorer(image, QUIET), expected, atol=1e-6)
    assert restorer.scale == 1
    with pytest.raises(InputError, match="psf is no larger than the images"):
        restorer(image[:2], QUIET)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": "weiner"}, "no method 'weiner'; did you mean 'wiener'"),
        ({"boundary": "reflct"}, "no boundary 'reflct'; did you mean 'reflect'"),
        ({"options": {"iteration": 3}}, "iteration; did you mean 'iterations'"),
        ({"options": {"iterations": "ten"}}, "iterations must be int; got 'ten'"),
        ({"options": {"iterations": 0}}, "iterations must be at least 1; got 0"),
        ({"options": {"return_objective": True}}, "unknown key .*return_objective"),
        ({"method": "wiener"}, "without Gaussian noise"),
        ({"method": "plug_and_play"}, "plug_and_play needs denoiser"),
        ({"noise_sigma": -3.0}, "sigma"),
    ],
)
def test_a_method_that_cannot_work_is_refused_before_any_image(fields, said):
    with pytest.raises(InputError, match=said):
        ClassicalRestorer(**({"method": "richardson_lucy", "kernel": KERNEL} | fields))


def test_a_method_whose_output_is_not_finite_is_an_error(draw):
    restorer = ClassicalRestorer("richardson_lucy", KERNEL)
    image = draw(8, 8, 1)
    image[3, 3] = np.nan
    with pytest.raises(InputError, match="richardson_lucy is not finite"):
        restorer(image, QUIET)


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
    result = restore_file(learned(Simple(channels=3, scale=2)), job, QUIET)
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
    result = restore_file(learned(Simple(), factor=0.6), job, QUIET, protocol=protocol)
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
    result = restore_file(learned(Simple(scale=2)), job, QUIET)
    assert result.measured["psnr"] > 100
    assert result.before is None
    picture = np.asarray(Image.open(tmp_path / "c.png"))
    np.testing.assert_array_equal(picture[44:68, 4:28], picture[44:68, 32:56])
    # Two rows more are another image: the result is there, and what is wrong is said.
    write_image(tmp_path / "large.png", np.pad(large, ((0, 2), (0, 0), (0, 0))))
    with pytest.raises(InputError, match=r"\(24, 24\) pixels cannot be measured.*\(26, 24\)"):
        restore_file(learned(Simple(scale=2)), job, QUIET, overwrite=True)
    assert job.output.exists()


def test_a_result_that_is_there_is_left_alone(tmp_path, draw):
    write_image(tmp_path / "a.png", draw(4, 4, 1))
    job = Job(tmp_path / "a.png", tmp_path / "b.png")
    job.output.write_text("mine")
    with pytest.raises(InputError, match=r"b.png is there already; give --overwrite"):
        restore_file(learned(Simple()), job, QUIET)
    assert job.output.read_text() == "mine"
    restore_file(learned(Simple()), job, QUIET, overwrite=True)
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
        restore_file(learned(Simple()), Job(tmp_path / source, folder / output), QUIET)
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
