"""Restoration without learning, on the forward models that also train and test networks.

A method is `method(y, forward_model, *, ...) -> x`. It maps observed images (batch, height, width, channels)
to images of the size before the degradation, for any linear forward model unless stated otherwise. The noise
level is that of the model's `GaussianNoise`. Results are not clipped. `METHODS` lists the methods by name.
"""

from deconv_jax.classical.denoiser_prior import (
    any_level_denoiser,
    any_level_options,
    plug_and_play,
)
from deconv_jax.classical.filters import inverse, tikhonov, unsupervised_wiener, wiener
from deconv_jax.classical.generative_prior import (
    LatentFit,
    LatentGenerator,
    fit_latents,
    generative_prior,
)
from deconv_jax.classical.iterative import cgls, landweber, richardson_lucy
from deconv_jax.classical.proximal import tv, wavelet

METHODS = {
    "inverse": inverse,
    "wiener": wiener,
    "unsupervised_wiener": unsupervised_wiener,
    "tikhonov": tikhonov,
    "richardson_lucy": richardson_lucy,
    "landweber": landweber,
    "cgls": cgls,
    "tv": tv,
    "wavelet": wavelet,
    "plug_and_play": plug_and_play,
    "generative_prior": generative_prior,
}

__all__ = [
    "METHODS",
    "LatentFit",
    "LatentGenerator",
    "any_level_denoiser",
    "any_level_options",
    "cgls",
    "fit_latents",
    "generative_prior",
    "inverse",
    "landweber",
    "plug_and_play",
    "richardson_lucy",
    "tikhonov",
    "tv",
    "unsupervised_wiener",
    "wavelet",
    "wiener",
]
