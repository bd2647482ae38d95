"""All degradations, by the names that configs use. Import them from here.

A degradation is an object that models y = A(x) + noise. It makes training pairs on the device,
provides A, its adjoint and the noise level to solvers and networks, and describes itself in tables
of results. `forward_model` explains its use; the families are in `blurs`, `masks`, `projections` and
`noise`.

    degradation = Chain((GaussianBlur(1.6), Decimate(3), GaussianNoise((0, 10))))
    y = degradation(x, keys)                    # a training pair
    drawn = degradation.draw(keys, x.shape)     # sample a noise level per example
    y = drawn.apply(x, other_keys)              # a training pair with known parameters
    linear_part(drawn), noise_sigma(drawn)      # A and sigma, for a solver

Note:
  `noise_sigma` is in units of [0, 1]; `GaussianNoise.sigma` is in 8-bit levels.
"""

import numpy as np
from jaxtyping import Array, Float

from deconv_jax.data.blurs import (
    Blur,
    Boundary,
    Convolution,
    ConvolutionMethod,
    Decimate,
    Downsample,
    GaussianBlur,
    MotionBlur,
)
from deconv_jax.data.forward_model import Chain, Degradation, LinearDegradation, Noise, linear_part
from deconv_jax.data.masks import BoxMask, Mask, RandomMask, RandomPixelMask, StrokeMask, TextMask
from deconv_jax.data.noise import (
    GaussianNoise,
    Jpeg,
    PoissonNoise,
    SaltAndPepperNoise,
    SpeckleNoise,
)
from deconv_jax.data.projections import RandomProjection
from deconv_jax.errors import InputError

__all__ = [
    "DEGRADATIONS",
    "Blur",
    "Boundary",
    "BoxMask",
    "Chain",
    "Convolution",
    "ConvolutionMethod",
    "Decimate",
    "Degradation",
    "Downsample",
    "GaussianBlur",
    "GaussianNoise",
    "Jpeg",
    "LinearDegradation",
    "Mask",
    "MotionBlur",
    "Noise",
    "PoissonNoise",
    "RandomMask",
    "RandomPixelMask",
    "RandomProjection",
    "SaltAndPepperNoise",
    "SpeckleNoise",
    "StrokeMask",
    "TextMask",
    "gaussian_noise_range",
    "linear_part",
    "noise_sigma",
]

DEGRADATIONS: dict[str, type] = {
    "blur": Blur,
    "gaussian_blur": GaussianBlur,
    "motion_blur": MotionBlur,
    "downsample": Downsample,
    "decimate": Decimate,
    "random_projection": RandomProjection,
    "mask": Mask,
    "random_pixel_mask": RandomPixelMask,
    "box_mask": BoxMask,
    "stroke_mask": StrokeMask,
    "text_mask": TextMask,
    "gaussian_noise": GaussianNoise,
    "poisson_noise": PoissonNoise,
    "speckle_noise": SpeckleNoise,
    "salt_and_pepper_noise": SaltAndPepperNoise,
    "jpeg": Jpeg,
    "chain": Chain,
}


def gaussian_noise_range(degradation: Degradation | None) -> tuple[float, float] | None:
    """Return the lowest and the highest sigma of the Gaussian noise in a degradation, in units of 1/255.

    None unless there is one Gaussian noise, alone or as a step of a chain.
    """
    steps = degradation.steps if isinstance(degradation, Chain) else (degradation,)
    found = [step for step in steps if isinstance(step, GaussianNoise)]
    if len(found) != 1:
        return None
    low, high = np.broadcast_to(np.asarray(found[0].sigma), (2,))
    return float(low), float(high)


def noise_sigma(degradation: Degradation) -> float | Float[Array, " batch"] | None:
    """Return the standard deviation of the Gaussian noise in a degradation, in units of [0, 1].

    Returns:
      A number, or one per example; None without Gaussian noise, also for other noise. In a chain, later steps
      are ignored: it is the standard deviation at the step that adds the noise.

    Raises:
      InputError: A range was not sampled, or a chain has more than one Gaussian noise.
    """
    if isinstance(degradation, Noise):
        return degradation.sigma_unit_range
    if not isinstance(degradation, Chain):
        return None
    found = [s for s in map(noise_sigma, degradation.steps) if s is not None]
    if len(found) > 1:
        raise InputError(
            f"a chain must have at most one Gaussian noise to have a standard deviation; got {len(found)} in "
            f"{degradation}"
        )
    return found[0] if found else None
