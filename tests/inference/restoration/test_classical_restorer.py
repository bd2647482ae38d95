"""Classical methods as restorers of images."""

import numpy as np
import pytest
import scipy.signal

from deconv_jax.classical import METHODS
from deconv_jax.data.degradations import Blur, Chain, GaussianNoise
from deconv_jax.errors import InputError
from deconv_jax.inference.progress import SILENT
from deconv_jax.inference.restoration import classical_restorer
from deconv_jax.inference.restoration.classical_restorer import ClassicalRestorer
from deconv_jax.inference.restoration.pnp_denoiser import PnpDenoiser

KERNEL = np.outer([1, 3, 1], [1, 2, 4, 2, 1]).astype(np.float32) / 50


def test_method_receives_the_forward_model_and_its_options(draw):
    image = draw(12, 16, 3)
    options = {"iterations": 4, "tv_weight": 0.002}
    restorer = ClassicalRestorer("richardson_lucy", KERNEL, boundary="circular", options=options)
    expected = METHODS["richardson_lucy"](image[None], Blur(KERNEL), **options)[0]
    np.testing.assert_allclose(restorer(image, SILENT), expected, atol=1e-6)
    restorer = ClassicalRestorer("wiener", KERNEL, noise_sigma=4.0, boundary="reflect")
    model = Chain((Blur(KERNEL, boundary="reflect"), GaussianNoise(4.0)))
    expected = METHODS["wiener"](image[None], model)[0]
    np.testing.assert_allclose(restorer(image, SILENT), expected, atol=1e-6)
    assert restorer.scale == 1
    with pytest.raises(InputError, match="kernel must be no larger than the image"):
        restorer(image[:2], SILENT)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tv", "wavelet"])
def test_without_a_kernel_the_forward_model_is_noise(draw, method):
    image = draw(12, 16, 3)
    restorer = ClassicalRestorer(method, None, noise_sigma=15.0, options={"iterations": 3})
    expected = METHODS[method](image[None], GaussianNoise(15.0), iterations=3)[0]
    np.testing.assert_allclose(restorer(image, SILENT), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "weiner"}, "no method 'weiner'; did you mean 'wiener'"),
        ({"boundary": "reflct"}, "no boundary 'reflct'; did you mean 'reflect'"),
        ({"options": {"iteration": 3}}, "iteration; did you mean 'iterations'"),
        ({"options": {"iterations": "ten"}}, "iterations must be int; got 'ten'"),
        ({"options": {"iterations": 0}}, "iterations must be at least 1; got 0"),
        ({"options": {"return_objective": True}}, "unknown key .*return_objective"),
        ({"method": "wiener"}, "wiener requires noise_to_signal .*, or noise-sigma, the stand"),
        ({"method": "tv", "noise_sigma": 0.0}, "noise-sigma must be a positive number; got 0"),
        ({"method": "plug_and_play"}, "plug_and_play requires a denoiser"),
        ({"denoiser": lambda x, sigma: x}, "richardson_lucy takes no denoiser"),  # noqa: ARG005
        ({"noise_sigma": -3.0}, "sigma"),
        (
            {"kernel": None},
            "richardson_lucy requires a blur kernel; only tv, wavelet, generative_prior work without",
        ),
        ({"method": "wavelet", "kernel": None}, "wavelet requires a weight, or noise-sigma"),
    ],
)
def test_invalid_settings_are_refused_before_any_image(fields, message):
    with pytest.raises(InputError, match=message):
        ClassicalRestorer(**({"method": "richardson_lucy", "kernel": KERNEL} | fields))


def test_non_finite_output_is_an_error(draw):
    restorer = ClassicalRestorer("richardson_lucy", KERNEL)
    image = draw(8, 8, 1)
    image[3, 3] = np.nan
    with pytest.raises(InputError, match="richardson_lucy is not finite"):
        restorer(image, SILENT)


def _denoise(images, sigma):
    return METHODS["tv"](images, Chain((GaussianNoise(255 * sigma),)), iterations=20)


def _psnr(image, truth):
    return -10 * np.log10(np.mean(np.square(image - truth)))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4, 6), (8, 5)])
@pytest.mark.parametrize("method", ["tv", "plug_and_play"])
def test_unknown_boundary_restores_the_border_as_well_as_the_center(method, size):
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:72, :72]
    scene = np.full((72, 72), 0.4)
    for _ in range(40):
        (row, column), radius = draw.uniform(0, 72, 2), draw.uniform(3, 12)
        scene[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = draw.uniform(0.1, 0.9)
    kernel = np.outer(np.arange(1, size[0] + 1), np.ones(size[1])).astype(np.float32)
    kernel /= kernel.sum()
    frame = slice(12, 60), slice(12, 60)
    truth = scene[frame]
    whole = scipy.signal.convolve2d(scene, kernel)
    observed = whole[size[0] // 2 :, size[1] // 2 :][frame] + draw.normal(0, 1 / 255, truth.shape)
    denoiser = PnpDenoiser(_denoise, {}) if method == "plug_and_play" else None
    restorer = ClassicalRestorer(method, kernel, noise_sigma=1.0, denoiser=denoiser)
    restored = restorer(observed.astype(np.float32)[..., None], SILENT)[..., 0]
    inner = slice(10, -10), slice(10, -10)
    assert _psnr(restored, truth) > _psnr(restored[inner], truth[inner]) - 2
    assert _psnr(restored, truth) > _psnr(observed, truth) + 8


def test_images_that_exceed_the_free_memory_are_refused(monkeypatch):
    monkeypatch.setattr(classical_restorer, "free_memory", lambda: 10**8)
    restorer = ClassicalRestorer("inverse", KERNEL)
    image = np.broadcast_to(np.float32(0.5), (2048, 2048, 1))
    needed = restorer.needed_memory(image.shape) / image.size
    assert 24 < needed < 60
    message = rf"inverse needs {needed * image.size / 1e9:.1f} GB .* 2048 x 2048 pixels, but 0.1 GB"
    with pytest.raises(InputError, match=message):
        restorer(image, SILENT)
