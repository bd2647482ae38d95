"""Forward models: every way in which images are degraded here, and what a config calls it.

The same value y = A(x) + noise makes training pairs on the device, feeds classical solvers A and its
transpose, tells a network which noise to expect, and names the protocol of a table. What it is and
how it behaves under `jax.jit` says `forward_model`; the families are in `blurs`, `masks` and
`noise`. Import from here.

    degradation = Chain((GaussianBlur(1.6), Decimate(3), GaussianNoise((0, 10))))
    y = degradation(x, keys)                      # a training pair
    settled = degradation.draw(keys, x.shape)     # each example's own noise level
    y = settled.apply(x, other_keys)              # another pair, of which is known
    linear_part(settled), noise_sigma(settled)    # what a solver is told

What a reader would get wrong: a call draws its own parameters, other ones than `draw` does of the
same keys, so what `draw` settles is only of images that it is applied to. And `noise_sigma` is in
units of images in [0, 1], the `sigma` of `GaussianNoise` in 8-bit levels.
"""

from jaxtyping import Array, Float

from deconv_jax.data.blurs import (
    Blur,
    Boundary,
    Convolution,
    Decimate,
    Downsample,
    GaussianBlur,
    Method,
    MotionBlur,
)
from deconv_jax.data.forward_model import Chain, Degradation, Linear, Noise, linear_part
from deconv_jax.data.masks import BoxMask, Mask, RandomMask, RandomPixelMask, StrokeMask, TextMask
from deconv_jax.data.noise import (
    GaussianNoise,
    Jpeg,
    PoissonNoise,
    SaltAndPepperNoise,
    SpeckleNoise,
)
from deconv_jax.errors import InputError

__all__ = [
    "DEGRADATIONS",
    "Blur",
    "Boundary",
    "BoxMask",
    "Chain",
    "Convolution",
    "Decimate",
    "Degradation",
    "Downsample",
    "GaussianBlur",
    "GaussianNoise",
    "Jpeg",
    "Linear",
    "Mask",
    "Method",
    "MotionBlur",
    "Noise",
    "PoissonNoise",
    "RandomMask",
    "RandomPixelMask",
    "SaltAndPepperNoise",
    "SpeckleNoise",
    "StrokeMask",
    "TextMask",
    "linear_part",
    "noise_sigma",
]

DEGRADATIONS: dict[str, type] = {
    "blur": Blur,
    "gaussian_blur": GaussianBlur,
    "motion_blur": MotionBlur,
    "downsample": Downsample,
    "decimate": Decimate,
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


def noise_sigma(degradation: Degradation) -> float | Float[Array, " batch"] | None:
    """Standard deviation of the Gaussian noise in a degradation, in units of images in [0, 1].

    Returns:
      A number, or one an example; None for a degradation without Gaussian noise. Of a chain it is
      that of the noise as it was added, whatever comes after.

    Raises:
      InputError: for a range that was not drawn, or a chain with more than one Gaussian noise.
    """
    if isinstance(degradation, Noise):
        return degradation.sigma_01
    if not isinstance(degradation, Chain):
        return None
    found = [s for s in map(noise_sigma, degradation.steps) if s is not None]
    if len(found) > 1:
        raise InputError(
            f"a chain with {len(found)} Gaussian noises has no one standard deviation; got "
            f"{degradation}"
        )
    return found[0] if found else None
