"""Restoration networks applied to images of any size and number of channels."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.inference import tiling
from deconv_jax.inference.progress import SILENT, ProgressCallback
from deconv_jax.inference.restoration import learned_restorer
from deconv_jax.inference.restoration.learned_restorer import LearnedRestorer
from deconv_jax.inference.restoration.noise_level import estimate_noise_sigma
from deconv_jax.models import MODELS
from deconv_jax.models.receptive_field import ReceptiveField
from deconv_jax.ops.color import rgb_to_ycbcr


class Simple(nn.Module):
    """A restoration network that is a pointwise function."""

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


class AddsNoiseLevel(Simple):
    """Adds the noise-level map to the image."""

    def values(self, images, factor):
        return images[..., : self.channels] * factor + images[..., self.channels :]


class Overflows(Simple):
    """Adds 1 / (factor - 1), which is infinite if the factor is rounded to 1."""

    def values(self, images, factor):
        return images + (1.0 / (factor - 1.0)).reshape(1, 1, 1, 1)


def learned(model, factor=1.0, **fields):
    return LearnedRestorer(model, {"params": {"factor": np.float32(factor)}}, **fields)


@pytest.fixture(scope="module")
def denoiser(random_variables):
    model = MODELS["dncnn"](depth=3, features=4)
    return model, random_variables(model, 1)


def test_gray_denoiser_restores_color_channels_separately(denoiser, draw):
    restorer = LearnedRestorer(*denoiser)
    image = draw(9, 11, 3)
    restored = restorer(image, SILENT)
    assert restored.dtype == np.float32
    for channel in range(3):
        alone = restorer(image[..., channel : channel + 1], SILENT)
        np.testing.assert_allclose(restored[..., channel : channel + 1], alone, atol=1e-5)


def test_color_network_restores_gray_as_three_equal_channels(random_variables, draw):
    model = MODELS["dncnn"](channels=3, depth=2, features=4)
    restorer = LearnedRestorer(model, random_variables(model, 3))
    image = draw(6, 7, 1)
    expected = restorer(np.repeat(image, 3, axis=-1), SILENT).mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(restorer(image, SILENT), expected, atol=1e-6)


def test_gray_network_enlarges_luma_and_chroma_is_bicubic(random_variables, draw):
    model = MODELS["espcn"](scale=2, features=(4, 4))
    restorer = LearnedRestorer(model, random_variables(model, 1))
    image = draw(9, 8, 3)
    ycbcr = np.asarray(rgb_to_ycbcr(jnp.asarray(image)))
    restored = np.asarray(rgb_to_ycbcr(jnp.asarray(restorer(image, SILENT))))
    luma = model.apply(jax.device_put(restorer.variables), jnp.asarray(ycbcr)[None, ..., :1])[0]
    np.testing.assert_allclose(restored[..., :1], luma, atol=1e-5)
    chroma = np.asarray(ops.imresize(jnp.asarray(ycbcr[..., 1:]), 2))
    np.testing.assert_allclose(restored[..., 1:], chroma, atol=1e-5)


def test_gray_image_is_enlarged_as_three_equal_channels(random_variables, draw):
    model = MODELS["espcn"](scale=2, features=(4, 4))
    restorer = LearnedRestorer(model, random_variables(model, 1))
    image = draw(9, 8, 1)
    color = restorer(np.repeat(image, 3, axis=-1), SILENT)
    np.testing.assert_allclose(np.repeat(restorer(image, SILENT), 3, axis=-1), color, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", [False, True])
def test_tiles_overlap_by_the_support_of_bicubic_chroma(draw, ensemble):
    # The network is pointwise; bicubic enlargement is not.
    image = draw(23, 30, 3)
    whole = learned(Simple(scale=2), tile=64, ensemble=ensemble)
    tiled = dataclasses.replace(whole, tile=9)
    assert tiled._field(3).before == 2
    assert tiled._field(1).before == 0
    shares = []
    tiles = tiled(image, ProgressCallback(on_progress=shares.append, on_message=SILENT.on_message))
    assert len(shares) > 9
    np.testing.assert_allclose(tiles, whole(image, SILENT), atol=1e-5)


def test_noise_conditional_network_receives_the_level_in_pixel_units(draw):
    image = draw(3, 4, 1)
    restorer = learned(AddsNoiseLevel(), noise_conditional=True, noise_sigma=51)
    assert not restorer.estimates_noise
    np.testing.assert_allclose(restorer(image, SILENT), image + 0.2, atol=1e-6)
    with pytest.raises(
        InputError, match=r"requires a noise-conditional network, such as .*; got noise_sigma=5"
    ):
        learned(Simple(), noise_sigma=5)
    with pytest.raises(InputError, match="noise_sigma must be at least 0"):
        learned(AddsNoiseLevel(), noise_conditional=True, noise_sigma=-1)


def test_level_outside_the_training_is_noted(draw):
    notes = []
    progress = ProgressCallback(SILENT.on_progress, SILENT.on_message, on_note=notes.append)
    for sigma in (75.0, 80.0):
        settings = {"noise_sigma": sigma, "trained_sigmas": (0.0, 75.0)}
        learned(AddsNoiseLevel(), noise_conditional=True, **settings)(draw(3, 4, 1), progress)
    assert notes == ["noise level 80.0 is outside the training range, 0 to 75"]


def test_an_unknown_noise_level_is_estimated(draw):
    notes = []
    progress = ProgressCallback(SILENT.on_progress, SILENT.on_message, on_note=notes.append)
    image = draw(16, 16, 1)
    level = estimate_noise_sigma(image) / 255.0
    for strength in (1.0, 0.5, 0.0):
        restorer = learned(AddsNoiseLevel(), noise_conditional=True, strength=strength)
        assert restorer.estimates_noise
        np.testing.assert_allclose(restorer(image, progress), image + strength * level, atol=1e-6)
    assert notes == [f"sigma {255.0 * level:.1f} estimated"] * 3
    restored = restorer.restore_at(image, 51.0, progress)
    np.testing.assert_allclose(restored, image, atol=1e-6)


def test_gray_noise_is_stronger_for_a_color_network(draw):
    restorer = learned(AddsNoiseLevel(channels=3), noise_conditional=True, noise_sigma=51)
    for channels, factor in ((1, 3**0.5), (3, 1.0)):
        image = draw(3, 4, channels)
        np.testing.assert_allclose(restorer(image, SILENT), image + 0.2 * factor, atol=1e-6)


def test_strength_blends_the_input_with_the_result_of_a_blind_network(draw):
    image = draw(3, 4, 1)
    restored = learned(Simple(), factor=2.0, strength=0.25)(image, SILENT)
    np.testing.assert_allclose(restored, 1.25 * image, rtol=1e-6)
    for model, strength, message in (
        (
            Simple(),
            1.5,
            r"strength must be in \[0, 1\] for a network without a noise level; got 1.5",
        ),
        (Simple(), -1.0, "strength must be at least 0"),
        (Simple(scale=2), 0.5, "strength requires a network that keeps the size"),
    ):
        with pytest.raises(InputError, match=message):
            learned(model, strength=strength)


def test_overflow_in_bfloat16_is_retried_in_float32(draw):
    messages = []
    progress = ProgressCallback(on_progress=SILENT.on_progress, on_message=messages.append)
    image = draw(3, 4, 1)
    restored = learned(Overflows(), factor=1.001, precision="bf16")(image, progress)
    np.testing.assert_allclose(restored, image + 1000.0, rtol=1e-3)
    assert messages == ["the output is not finite in bf16; retrying in f32"]
    with pytest.raises(InputError, match="not finite"):
        learned(Overflows())(image, progress)
    # Without overflow the computation is in bfloat16.
    restored = learned(Simple(), precision="bf16")(image, progress)
    np.testing.assert_array_equal(restored, image.astype(jnp.bfloat16).astype(np.float32))


def test_modules_that_are_not_restoration_networks_are_refused():
    with pytest.raises(InputError, match="Classifier is not a restoration network"):
        LearnedRestorer(MODELS["classifier"](), {})
    with pytest.raises(InputError, match="1 or 3 channels; the network expects 2"):
        learned(Simple(channels=2))
    with pytest.raises(InputError, match="at least 1 pixels"):
        learned(Simple(), tile=0)


def test_large_images_are_tiled_to_fit_the_free_memory(monkeypatch, denoiser, draw):
    image = draw(tiling.PROBE_TILE + 9, 7, 1)
    whole = LearnedRestorer(*denoiser, tile=1000)(image, SILENT)
    monkeypatch.setattr(tiling, "free_memory", lambda: 0)
    shares = []
    tiled = LearnedRestorer(*denoiser)
    progress = ProgressCallback(on_progress=shares.append, on_message=SILENT.on_message)
    shapes, compiled = set(), learned_restorer._restore_tile

    def restore_tile(*arguments, precision):
        shapes.add(arguments[-1].shape)
        return compiled(*arguments, precision=precision)

    restore_tile.lower = compiled.lower
    monkeypatch.setattr(learned_restorer, "_restore_tile", restore_tile)
    np.testing.assert_allclose(tiled(image, progress), whole, atol=1e-5)
    # The only program is that of the smallest tile, 7 pixels.
    assert tiled._tiles == {1: 7}
    assert shapes == {(1, 7, 7, 1)}
    assert len(shares) == tiling.PROBE_TILE + 9 - 6
    assert shares[-1] == 1.0
    # Images no larger than the probe are restored whole, without measuring memory.
    small = LearnedRestorer(*denoiser)
    small(image[:8], SILENT)
    small(image[: tiling.PROBE_TILE], SILENT)
    assert not small._tiles
