"""Image codecs: strided convolutions make latents that are rounded and coded, their adjoints the image.

Generalised divisive normalisation stands between the layers (Balle et al., arXiv:1511.06281). The
latents y are coded by a density a channel (`FactorizedCodec`, arXiv:1611.01704), or by a Gaussian each,
whose means and scales come from side information z, coded first (`HyperpriorCodec`, arXiv:1802.01436 with
the means of arXiv:1809.02736).

The layers start as wavelets of blocks of 16 x 16 pixels, with some noise, and the way back as their
adjoint (`haar_start`): a codec begins as a transform coder and learns to be a better one.

What a reader would get wrong: a codec has `levels` of quality in one set of weights. A level scales
the latents of each channel before they are rounded, and back after (Cui et al., arXiv:2003.02012,
section 3.1): coarse steps for few bits, fine ones for many. With one level there are no scales, and
the networks are the papers'.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from deconv_jax.errors import InputError, at_least
from deconv_jax.models.entropy_models import FactorizedPrior, gaussian_bits
from deconv_jax.models.haar_init import haar_kernels
from deconv_jax.models.layers import RELU_GAIN, Conv, ConvTranspose
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker
from deconv_jax.ops.straight_through import lower_bound, straight_through

Images = Float[Array, "batch height width channels"]
Latents = Float[Array, "batch latent_height latent_width latent_channels"]
HyperLatents = Float[Array, "batch side_height side_width side_channels"]
QualityLevels = Int[Array, " batch"]
Keys = Key[Array, " batch"]

KERNEL_SIZE, STRIDE, STAGES = 5, 2, 4
LATENT_STRIDE = STRIDE**STAGES
"""Pixels a latent, along an axis."""
HYPER_STRIDE = STRIDE**2
"""Latents y a latent z, along an axis."""
HYPER_UP_STRIDES = (2, 2, 1)
"""Of the layers from z to the means and scales of y; the last is no transposed convolution."""
SCALE_OFFSET = 1.0
"""Of the scales of y: what the side information's network gives, and this."""

_PEDESTAL = 2.0**-36
_LEAST_BETA = 1e-6
_FIRST_GAMMA = 0.1
_STEPS = 40.0
"""Latents over what the last layer gives. Without, its weights would have to be large, and those that
undo it so small that a step of Adam, which is as large for all, would shake them."""
_FIRST_NOISE = 0.02


class GDN(nn.Module):
    """Generalised divisive normalisation, x_i / sqrt(beta_i + sum_j gamma_ij x_j^2), or its like upwards.

    beta and gamma are squares of what is learnt, less 2^-36, so that they stay positive and their
    gradients finite (arXiv:1611.01704, appendix).

    Attributes:
      inverse: multiply by the root instead (an approximate inverse, arXiv:1611.01704).
    """

    inverse: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*shape channels"]) -> Float[Array, "*shape channels"]:
        """x, normalised."""
        channels = x.shape[-1]

        def first_gamma(key: Any, shape: tuple[int, int]) -> Array:
            del key
            return jnp.sqrt(_FIRST_GAMMA * jnp.eye(shape[0]) + _PEDESTAL)

        ones = nn.initializers.constant((1.0 + _PEDESTAL) ** 0.5)
        beta = _positive(self.param("beta", ones, (channels,)), _LEAST_BETA)
        gamma = _positive(self.param("gamma", first_gamma, (channels, channels)), 0.0)
        flat = (1,) * (x.ndim - 1) + (channels,)
        power = jnp.square(x) @ gamma.T.astype(x.dtype) + beta.astype(x.dtype).reshape(flat)
        return x * (jnp.sqrt(power) if self.inverse else jax.lax.rsqrt(power))


def _positive(root: Array, least: float) -> Array:
    return jnp.square(lower_bound(root, (least + _PEDESTAL) ** 0.5)) - _PEDESTAL


class CodecOutput(NamedTuple):
    """What comes of images: their decoded copies (not clipped), and bits an image of y and of z."""

    images: Any
    bits: Any
    side_bits: Any


class FactorizedCodec(nn.Module):
    """Analysis, rounding, synthesis, with a density for each channel of the latents.

    Attributes:
      channels: of the images, 1 or 3.
      features: channels between layers.
      latent_features: channels of the latents.
      initial_gains: what the latents are multiplied by at first at each level of quality.
    """

    channels: int = 3
    features: int = 128
    latent_features: int = 192
    initial_gains: tuple[float, ...] = (1.0,)

    multiple = LATENT_STRIDE
    """Of the sizes of images."""

    def setup(self) -> None:
        """Lays out the layers."""
        for name in ("channels", "features", "latent_features"):
            at_least(name, getattr(self, name), 1)
        if not self.initial_gains or min(self.initial_gains) <= 0:
            raise InputError(
                f"initial_gains must be one or more positive numbers; got {self.initial_gains}"
            )
        widths = [self.features] * (STAGES - 1) + [self.latent_features]
        kernels = haar_kernels(self.channels, widths)
        # Means stay about as large as the image, where GDN does next to nothing at first.
        self.down = [
            Conv(kernel.shape[3], KERNEL_SIZE, STRIDE, kernel_init=_start(kernel, 0.5))
            for kernel in kernels
        ]
        self.up = [
            ConvTranspose(kernel.shape[2], KERNEL_SIZE, STRIDE, kernel_init=_start(kernel, 2.0))
            for kernel in reversed(kernels)
        ]
        self.down_norm = [GDN() for _ in range(STAGES - 1)]
        self.up_norm = [GDN(inverse=True) for _ in range(STAGES - 1)]
        if self.levels > 1:
            shape = (self.levels, self.latent_features)

            def log_gains(key: Any, shape: tuple[int, ...], sign: float) -> Array:
                del key
                logs = jnp.log(jnp.asarray(self.initial_gains))[:, None]
                return sign * jnp.broadcast_to(logs, shape)

            self.log_gain: Any = self.param("log_gain", log_gains, shape, 1.0)
            self.log_inverse_gain: Any = self.param("log_inverse_gain", log_gains, shape, -1.0)
        self.prior = FactorizedPrior(self.prior_channels)

    @property
    def levels(self) -> int:
        """Levels of quality."""
        return len(self.initial_gains)

    @property
    def prior_channels(self) -> int:
        """Of what the prior is of."""
        return self.latent_features

    def analyze(self, images: Images, level: QualityLevels) -> Latents:
        """Images in [0, 1], sizes multiples of `multiple`, to latents that are not rounded yet."""
        x = 2.0 * images - 1.0
        for number, layer in enumerate(self.down):
            x = layer(x)
            if number < len(self.down_norm):
                x = self.down_norm[number](x)
        x = x * _STEPS
        return x if self.levels == 1 else x * self._gains(self.log_gain, level, x)

    def synthesize(self, latents: Latents, level: QualityLevels) -> Images:
        """Rounded latents to images, not clipped to [0, 1]."""
        x = latents / _STEPS
        if self.levels > 1:
            x = x * self._gains(self.log_inverse_gain, level, x)
        for number, layer in enumerate(self.up):
            x = layer(x)
            if number < len(self.up_norm):
                x = self.up_norm[number](x)
        return 0.5 * (x + 1.0)

    def __call__(
        self, images: Images, level: QualityLevels, keys: Keys | None = None
    ) -> CodecOutput:
        """Images in [0, 1] through the codec.

        Args:
          images: sizes multiples of `multiple`.
          level: of quality, of each image.
          keys: an image each, for the noise that stands for rounding in the bits; the images are of
            rounded latents, as if rounding had slope 1 (Minnen & Singh, arXiv:2007.08739). None rounds
            in both, as when files are written.
        """
        y = self.analyze(images, level)
        bits = _sum(self.prior(_noisy(y, keys, 0)))
        return CodecOutput(self.synthesize(_rounded(y), level), bits, jnp.zeros_like(bits))

    def _gains(self, logs: Array, level: QualityLevels, like: Array) -> Array:
        return jnp.exp(logs)[level][:, None, None].astype(like.dtype)


class HyperpriorCodec(FactorizedCodec):
    """Analysis, rounding, synthesis, with a Gaussian for each latent; attributes as `FactorizedCodec`."""

    multiple = LATENT_STRIDE * HYPER_STRIDE

    @property
    def prior_channels(self) -> int:
        """Of the side information."""
        return self.features

    def setup(self) -> None:
        """Lays out the layers."""
        super().setup()
        wide, between = self.features, 3 * self.latent_features // 2
        self.hyper_down = [
            Conv(wide, 3, gain=RELU_GAIN),
            Conv(wide, KERNEL_SIZE, STRIDE, gain=RELU_GAIN),
            Conv(wide, KERNEL_SIZE, STRIDE),
        ]
        self.hyper_up = [
            ConvTranspose(self.latent_features, KERNEL_SIZE, HYPER_UP_STRIDES[0], gain=RELU_GAIN),
            ConvTranspose(between, KERNEL_SIZE, HYPER_UP_STRIDES[1], gain=RELU_GAIN),
            Conv(2 * self.latent_features, 3),
        ]

    def hyper_analyze(self, latents: Latents) -> HyperLatents:
        """y to z, not rounded yet."""
        x = latents
        for number, layer in enumerate(self.hyper_down):
            x = layer(jax.nn.relu(x) if number else x)
        return x

    def hyper_synthesize(self, side: HyperLatents) -> tuple[Latents, Latents]:
        """Rounded z to the means of y and their scales, of which those below `MIN_SCALE` count as it."""
        x = side
        for number, layer in enumerate(self.hyper_up):
            x = layer(jax.nn.relu(x) if number else x)
        mean, scale = jnp.split(x, 2, axis=-1)
        return mean, scale + SCALE_OFFSET

    def __call__(
        self, images: Images, level: QualityLevels, keys: Keys | None = None
    ) -> CodecOutput:
        """See `FactorizedCodec.__call__`."""
        y = self.analyze(images, level)
        z = self.hyper_analyze(y)
        mean, scale = self.hyper_synthesize(_rounded(z))
        bits = _sum(gaussian_bits(_noisy(y - mean, keys, 0), scale))
        side_bits = _sum(self.prior(_noisy(z, keys, 1)))
        return CodecOutput(self.synthesize(_rounded(y - mean) + mean, level), bits, side_bits)


def _start(kernel: np.ndarray, scale: float) -> Any:
    """An initialiser: `scale` times a kernel of 2 x 2 pixels in the middle, and a little noise."""

    def init(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        before = (shape[0] - STRIDE) // 2
        after = shape[0] - STRIDE - before
        placed = np.pad(kernel, ((before, after), (before, after), (0, 0), (0, 0)))
        deviation = _FIRST_NOISE * scale * np.prod(shape[:3]) ** -0.5
        return jnp.asarray(scale * placed, dtype) + deviation * jax.random.normal(key, shape, dtype)

    return init


def _rounded(x: Array) -> Array:
    """x to whole numbers, with the gradient of x."""
    return straight_through(x, jnp.round(x))


def _noisy(x: Array, keys: Array | None, purpose: int) -> Array:
    """x and uniform noise between -1/2 and 1/2, or rounded where there are no keys."""
    if keys is None:
        return jnp.round(x)

    def noise(key: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, purpose), x.shape[1:], x.dtype, -0.5, 0.5)

    return x + jax.vmap(noise)(keys)


def _sum(of_latents: Array) -> Array:
    return jnp.sum(of_latents, axis=(1, 2, 3))


def encoder_receptive_field() -> ReceptiveField:
    """What a latent depends on, in blocks of the 16 x 16 pixels that a latent stands for."""
    tracker = ReceptiveFieldTracker()
    for _ in range(STAGES):
        tracker = tracker.conv(KERNEL_SIZE, STRIDE)
    return ReceptiveField(
        -(tracker.first_input[0] // LATENT_STRIDE), tracker.last_input[0] // LATENT_STRIDE
    )


def decoder_receptive_field() -> ReceptiveField:
    """What a pixel depends on, in latents."""
    tracker = ReceptiveFieldTracker()
    for _ in range(STAGES):
        tracker = tracker.conv_transpose(KERNEL_SIZE, STRIDE)
    return tracker.receptive_field()
