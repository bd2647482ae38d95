"""Networks as plug-and-play denoisers, compared with iterations in NumPy for known networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.classical import plug_and_play
from deconv_jax.data.degradations import Blur, Chain, GaussianBlur, GaussianNoise
from deconv_jax.errors import InputError
from deconv_jax.inference.progress import SILENT
from deconv_jax.inference.restoration.classical_restorer import ClassicalRestorer
from deconv_jax.inference.restoration.pnp_denoiser import TrainedDenoiser, make_pnp_denoiser
from deconv_jax.models import MODELS
from deconv_jax.models.receptive_field import ReceptiveField

KERNEL = np.outer([1, 3, 1], [1, 2, 4, 2, 1]).astype(np.float32) / 50
SIGMA, FIRST, DATA_WEIGHT, ITERATIONS = 5.1, 49 / 255, 0.23, 3


class Adds(nn.Module):
    """Adds a number, and the noise-level map if there is one, to the image."""

    channels: int = 1
    scale: int = 1

    @nn.compact
    def __call__(self, images, train=False):
        del train
        number = self.param("number", nn.initializers.zeros, ())
        image, maps = images[..., : self.channels], images[..., self.channels :]
        return image + number + jnp.sum(maps, axis=-1, keepdims=True)

    @nn.nowrap
    def receptive_field(self):
        return ReceptiveField(0, 0, scale=self.scale)


def adds(number=0.0, name="adds", channels=1, scale=1, **training):
    variables = {"params": {"number": np.float32(number)}}
    return TrainedDenoiser(name, Adds(channels, scale), variables, **training)


def restored(denoiser, image, **fields):
    options = {"splitting": "half_quadratic", "iterations": ITERATIONS}
    fields = {"noise_sigma": SIGMA, "boundary": "circular", "options": options} | fields
    restorer = ClassicalRestorer("plug_and_play", KERNEL, denoiser=denoiser, **fields)
    return restorer(image, SILENT)


def by_numpy(image, added):
    """Half-quadratic splitting (Zhang et al.) in NumPy, for a denoiser x -> x + added(sigma)."""
    height, width = KERNEL.shape
    psf = np.zeros(image.shape)
    for row in range(height):
        for column in range(width):
            psf[row - height // 2, column - width // 2] = KERNEL[row, column]
    response = np.fft.fft2(psf, axes=(0, 1))
    spectrum = np.fft.fft2(image, axes=(0, 1))
    z = image.astype(np.float64)
    for sigma in np.geomspace(FIRST, SIGMA / 255, ITERATIONS):
        mu = DATA_WEIGHT * (SIGMA / 255 / sigma) ** 2
        fit = np.conj(response) * spectrum + mu * np.fft.fft2(z, axes=(0, 1))
        x = np.fft.ifft2(fit / (np.abs(response) ** 2 + mu), axes=(0, 1)).real
        z = x + added(sigma)
    return z


@pytest.mark.slow
@pytest.mark.parametrize(
    ("networks", "sigmas", "added"),
    [
        # The identity: repeated Tikhonov filtering.
        ([adds()], [25.0], lambda sigma: 0.0),  # noqa: ARG005
        # Noise-conditional: receives the level in pixel units.
        ([adds(noise_conditional=True)], [], lambda sigma: sigma),
        # Trained for 25: what it adds scales with the noise level.
        ([adds(0.1, degradation=GaussianNoise(25.0))], [], lambda sigma: 0.1 * sigma * 255 / 25),
        # Each of the levels 49, 15.8 and 5.1 has one network trained just below it, in any order.
        (
            [adds(0.1), adds(-0.2), adds(0.3, degradation=Chain((GaussianNoise(15.0),)))],
            [5.0, 48.0, 15.0],
            lambda sigma: (
                {49: -0.2 / 48, 16: 0.3 / 15, 5: 0.1 / 5}[round(255 * sigma)] * sigma * 255
            ),
        ),
    ],
)
def test_plug_and_play_queries_networks_at_the_right_levels(draw, networks, sigmas, added):
    image = draw(12, 16, 1)
    expected = by_numpy(image, added)
    np.testing.assert_allclose(
        restored(make_pnp_denoiser(networks, sigmas), image), expected, atol=2e-5
    )


def test_single_level_networks_end_at_the_lowest_level_by_default(draw):
    image, plugged = draw(12, 16, 1), make_pnp_denoiser([adds(0.1), adds(-0.2)], [50.0, 15.0])
    model = Chain((Blur(KERNEL, boundary="circular"), GaussianNoise(SIGMA)))
    options = {"splitting": "admm", "last_sigma": 15 / 255, "data_weight": 0.7}
    assert plugged.options == pytest.approx(options)
    assert make_pnp_denoiser([adds(noise_conditional=True)]).options == {}
    for own in ({}, {"last_sigma": 0.2}):
        expected = plug_and_play(image[None], model, denoiser=plugged.denoiser, **options | own)
        ours = restored(plugged, image, options=own)
        np.testing.assert_allclose(ours, expected[0], atol=1e-6)


@pytest.fixture(scope="module")
def gray(random_variables):
    model = MODELS["dncnn"](depth=3, features=4)
    return TrainedDenoiser("gray", model, random_variables(model, 1))


@pytest.mark.slow
def test_gray_denoiser_restores_color_channels_separately(gray, draw):
    image = draw(9, 11, 3)
    denoiser = make_pnp_denoiser([gray], [25.0])
    whole = restored(denoiser, image)
    assert whole.shape == image.shape
    for channel in range(3):
        one = slice(channel, channel + 1)
        alone = restored(denoiser, image[..., one])
        np.testing.assert_allclose(whole[..., one], alone, atol=1e-4)
    # The network has an effect.
    assert np.abs(whole - restored(make_pnp_denoiser([adds()], [25.0]), image)).max() > 0.1


def test_color_denoiser_restores_gray_as_three_equal_channels(random_variables, draw):
    model = MODELS["dncnn"](channels=3, depth=2, features=4)
    color = TrainedDenoiser("color", model, random_variables(model, 3))
    denoiser = make_pnp_denoiser([color], [25.0])
    image = jnp.asarray(draw(6, 7, 1))[None]
    sigma = jnp.float32(0.1)
    denoise = jax.jit(denoiser.denoiser)
    equal = jnp.repeat(image, 3, axis=-1)
    expected = denoise(equal, 3**0.5 * sigma).mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(denoise(image, sigma), expected, atol=1e-6)


@pytest.fixture
def compiled_names():
    """Names of the functions compiled since the test began."""
    names = []

    def listen(event, seconds, fun_name="", **about):  # noqa: ARG001
        if event.endswith("backend_compile_duration"):
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_weights_are_arguments_of_the_program(gray, draw, compiled_names):
    denoiser = make_pnp_denoiser([gray], [25.0])
    weights = jax.tree.leaves(gray.variables)
    leaves = {leaf.shape for leaf in jax.tree.leaves(denoiser.denoiser)}
    assert leaves >= {leaf.shape for leaf in weights}
    restored(denoiser, draw(8, 10, 1))
    assert compiled_names.count("jit(_plug_and_play)") == 1
    # Another image and blur reuse the program.
    model = Chain((Blur(KERNEL[::-1] ** 2), GaussianNoise(2.0)))
    image = draw(1, 8, 10, 1, seed=1)
    plug_and_play(image, model, denoiser=denoiser.denoiser, iterations=ITERATIONS)
    assert compiled_names.count("jit(_plug_and_play)") == 1


@pytest.mark.parametrize(
    ("network", "sigma", "message"),
    [
        ({}, None, "denoiser-sigma is required for adds, whose training noise level is unknown"),
        ({}, 0.0, "of adds must be a positive number; got 0"),
        ({}, float("inf"), "of adds must be a positive number; got inf"),
        ({"degradation": GaussianNoise(25.0)}, 15.0, r"must be in \[25, 25\]; got 15"),
        (
            {"degradation": GaussianNoise((0.0, 55.0))},
            None,
            "required for adds, whose training noise level is 0 to 55",
        ),
        ({"degradation": GaussianNoise((0.0, 55.0))}, 60.0, r"must be in \[0, 55\]; got 60"),
        ({"degradation": GaussianNoise(0.0)}, None, r"must be in \[0, 0\]; got 0"),
        ({"degradation": GaussianBlur(1.6)}, None, "adds is not a denoiser of Gaussian noise"),
        (
            {"degradation": Chain((GaussianBlur(1.6), GaussianNoise(2.0)))},
            None,
            "adds is not a denoiser of Gaussian noise: it was trained on Chain",
        ),
        ({"scale": 2}, None, "a denoiser must have scale 1; adds has scale 2"),
        ({"channels": 2}, None, "1 or 3 channels; the network expects 2"),
    ],
)
def test_networks_that_do_not_denoise_at_the_level_are_refused(network, sigma, message):
    with pytest.raises(InputError, match=message):
        adds(**network).trained_sigma(sigma)


def test_trained_level_is_known_or_given():
    assert adds().trained_sigma(15.0) == 15.0
    assert adds(degradation=GaussianNoise(25.0)).trained_sigma() == 25.0
    assert adds(degradation=GaussianNoise(25.0)).trained_sigma(25.0) == 25.0
    assert adds(degradation=GaussianNoise((5.0, 55.0))).trained_sigma(30.0) == 30.0


@pytest.mark.parametrize(
    ("networks", "sigmas", "message"),
    [
        ([], [], "at least one network"),
        ([adds(), adds(channels=3)], [1.0, 2.0], "must have the same channels; got 1 and 3"),
        ([adds(), adds()], [25.0], "got 1 for 2"),
        ([adds()], [25.0, 50.0], "got 2 for 1"),
        (
            [adds(noise_conditional=True)],
            [25.0],
            "must be the only one and takes no denoiser-sigma; got 1 networks",
        ),
        ([adds(noise_conditional=True), adds()], [], "must be the only one .* got 2 networks"),
    ],
)
def test_networks_that_cannot_be_combined_are_refused(networks, sigmas, message):
    with pytest.raises(InputError, match=message):
        make_pnp_denoiser(networks, sigmas)
