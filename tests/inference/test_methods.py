"""Methods without learning as restorers of pixels."""

import numpy as np
import pytest

from deconv_jax.classical import METHODS
from deconv_jax.data.degradations import Blur, Chain, GaussianNoise
from deconv_jax.errors import InputError
from deconv_jax.inference.methods import ClassicalRestorer
from deconv_jax.inference.restore import Watch

QUIET = Watch(share=lambda share: None, say=lambda message: None)  # noqa: ARG005
KERNEL = np.outer([1, 3, 1], [1, 2, 4, 2, 1]).astype(np.float32) / 50


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
        ({"method": "wiener"}, "wiener takes noise_to_signal .*, or noise-sigma, the stand"),
        ({"method": "tv", "noise_sigma": 0.0}, "noise-sigma must be a positive number; got 0"),
        ({"method": "plug_and_play"}, "plug_and_play needs a denoiser"),
        ({"denoiser": lambda x, sigma: x}, "richardson_lucy takes no denoiser"),  # noqa: ARG005
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
