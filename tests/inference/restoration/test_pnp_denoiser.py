"""Networks as denoisers of plug and play, against iterations in NumPy where the network is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.classical import plug_and_play
from deconv_jax.data.degradations import Blur, Chain, GaussianBlur, GaussianNoise
from deconv_jax.errors import InputError
from deconv_jax.inference.restoration.classical_restorer import ClassicalRestorer
from deconv_jax.inference.restoration.learned_restorer import ProgressCallback
from deconv_jax.inference.restoration.pnp_denoiser import TrainedDenoiser, make_pnp_denoiser
from deconv_jax.models import MODELS
from deconv_jax.models.receptive_field import ReceptiveField

QUIET = ProgressCallback(on_progress=lambda _: None, on_message=lambda _: None)
KERNEL = np.outer([1, 3, 1], [1, 2, 4, 2, 1]).astype(np.float32) / 50
SIGMA, FIRST, DATA_WEIGHT, ITERATIONS = 5.1, 49 / 255, 0.23, 3


class Adds(nn.Module):
    """The image and a number, and what is in the channels after it."""

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


def adds(number=0.0, name="adds", channels=1, scale=1, **known):
    variables = {"params": {"number": np.float32(number)}}
    return TrainedDenoiser(name, Adds(channels, scale), variables, **known)


def restored(denoiser, image, **fields):
    options = {"splitting": "half_quadratic", "iterations": ITERATIONS}
    fields = {"noise_sigma": SIGMA, "boundary": "circular", "options": options} | fields
    restorer = ClassicalRestorer("plug_and_play", KERNEL, denoiser=denoiser, **fields)
    return restorer(image, QUIET)


def by_numpy(image, added):
    """Half-quadratic splitting of Zhang et al. for a denoiser x -> x + added(sigma)."""
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
        # The identity: Tikhonov's filter over and over.
        ([adds()], [25.0], lambda sigma: 0.0),  # noqa: ARG005
        # Told the level, in the unit of the pixels.
        ([adds(noise_conditional=True)], [], lambda sigma: sigma),
        # Trained for 25: where the noise is half of that, what is added is halved as well.
        ([adds(0.1, degradation=GaussianNoise(25.0))], [], lambda sigma: 0.1 * sigma * 255 / 25),
        # Asked for are 49, 15.8 and 5.1; for each there is one level just below, in whatever order.
        (
            [adds(0.1), adds(-0.2), adds(0.3, degradation=Chain((GaussianNoise(15.0),)))],
            [5.0, 48.0, 15.0],
            lambda sigma: (
                {49: -0.2 / 48, 16: 0.3 / 15, 5: 0.1 / 5}[round(255 * sigma)] * sigma * 255
            ),
        ),
    ],
)
def test_plug_and_play_asks_a_known_network_what_it_should(draw, networks, sigmas, added):
    image = draw(12, 16, 1)
    expected = by_numpy(image, added)
    np.testing.assert_allclose(
        restored(make_pnp_denoiser(networks, sigmas), image), expected, atol=2e-5
    )


def test_networks_of_single_levels_end_at_the_lowest_unless_told_otherwise(draw):
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
def test_colour_goes_channel_by_channel_through_a_gray_denoiser(gray, draw):
    image = draw(9, 11, 3)
    denoiser = make_pnp_denoiser([gray], [25.0])
    whole = restored(denoiser, image)
    assert whole.shape == image.shape
    for channel in range(3):
        one = slice(channel, channel + 1)
        alone = restored(denoiser, image[..., one])
        np.testing.assert_allclose(whole[..., one], alone, atol=1e-4)
    # The network has a say in it.
    assert np.abs(whole - restored(make_pnp_denoiser([adds()], [25.0]), image)).max() > 0.1


def test_gray_goes_three_times_through_a_colour_denoiser(random_variables, draw):
    model = MODELS["dncnn"](channels=3, depth=2, features=4)
    colour = TrainedDenoiser("colour", model, random_variables(model, 3))
    denoiser = make_pnp_denoiser([colour], [25.0])
    image = jnp.asarray(draw(6, 7, 1))[None]
    sigma = jnp.float32(0.1)
    denoise = denoiser.denoiser
    expected = denoise(jnp.repeat(image, 3, axis=-1), sigma).mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(denoise(image, sigma), expected, atol=1e-6)


@pytest.fixture
def compiled_names():
    """The functions that were compiled since the test began."""
    names = []

    def listen(event, seconds, fun_name="", **about):  # noqa: ARG001
        if event.endswith("backend_compile_duration"):
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_weights_are_no_constants_of_the_program(gray, draw, compiled_names):
    denoiser = make_pnp_denoiser([gray], [25.0])
    weights = jax.tree.leaves(gray.variables)
    leaves = {leaf.shape for leaf in jax.tree.leaves(denoiser.denoiser)}
    assert leaves >= {leaf.shape for leaf in weights}
    restored(denoiser, draw(8, 10, 1))
    assert compiled_names.count("jit(_plug_and_play)") == 1
    # Another image, another blur: the same program.
    model = Chain((Blur(KERNEL[::-1] ** 2), GaussianNoise(2.0)))
    image = draw(1, 8, 10, 1, seed=1)
    plug_and_play(image, model, denoiser=denoiser.denoiser, iterations=ITERATIONS)
    assert compiled_names.count("jit(_plug_and_play)") == 1


@pytest.mark.parametrize(
    ("network", "told", "said"),
    [
        ({}, None, r"adds was trained for has to be told \(denoiser-sigma\): it is not known"),
        ({}, 0.0, "of adds must be a positive number; got 0"),
        ({}, float("inf"), "of adds must be a positive number; got inf"),
        ({"degradation": GaussianNoise(25.0)}, 15.0, "must be 25 to 25; got 15"),
        ({"degradation": GaussianNoise((0.0, 55.0))}, None, "has to be told .*: 0 to 55"),
        ({"degradation": GaussianNoise((0.0, 55.0))}, 60.0, "must be 0 to 55; got 60"),
        ({"degradation": GaussianNoise(0.0)}, None, "must be 0 to 0; got 0"),
        ({"degradation": GaussianBlur(1.6)}, None, "adds is no denoiser of Gaussian noise"),
        (
            {"degradation": Chain((GaussianBlur(1.6), GaussianNoise(2.0)))},
            None,
            "adds is no denoiser of Gaussian noise: it was trained on Chain",
        ),
        ({"scale": 2}, None, "adds is no denoiser: it enlarges 2 times"),
        ({"channels": 2}, None, "1 or 3 channels; this network takes 2"),
    ],
)
def test_a_network_that_is_no_denoiser_of_the_level_is_refused(network, told, said):
    with pytest.raises(InputError, match=said):
        adds(**network).trained_sigma(told)


def test_a_level_is_known_or_told():
    assert adds().trained_sigma(15.0) == 15.0
    assert adds(degradation=GaussianNoise(25.0)).trained_sigma() == 25.0
    assert adds(degradation=GaussianNoise(25.0)).trained_sigma(25.0) == 25.0
    assert adds(degradation=GaussianNoise((5.0, 55.0))).trained_sigma(30.0) == 30.0


@pytest.mark.parametrize(
    ("networks", "sigmas", "said"),
    [
        ([], [], "at least one network"),
        ([adds(), adds(channels=3)], [1.0, 2.0], "of 1 or of 3 channels; got both"),
        ([adds(), adds()], [25.0], "got 1 for 2"),
        ([adds()], [25.0, 50.0], "got 2 for 1"),
        ([adds(noise_conditional=True)], [25.0], "works alone .* no single level"),
        ([adds(noise_conditional=True), adds()], [], "works alone .* 2 networks"),
    ],
)
def test_networks_that_do_not_go_together_are_refused(networks, sigmas, said):
    with pytest.raises(InputError, match=said):
        make_pnp_denoiser(networks, sigmas)
