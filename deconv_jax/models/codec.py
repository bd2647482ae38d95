"""Learned image codecs: an analysis transform, rounding, an entropy model and a synthesis transform.

Strided convolutions map an image to latents y (analysis), which are rounded and entropy coded.
Transposed convolutions map the rounded latents to the decoded image (synthesis). Generalized
divisive normalization separates the layers (Balle et al., arXiv:1511.06281). There are two entropy
models for y:

- `FactorizedCodec`: a factorized prior, one learned density per channel (arXiv:1611.01704).
- `HyperpriorCodec`: a hyperprior, one Gaussian per latent (arXiv:1802.01436). Its means and scales
  are decoded from side information z, the hyper-latents, which are transmitted first (mean-scale
  hyperprior, arXiv:1809.02736).

The transforms are initialized as a Haar wavelet packet transform of 16 x 16 blocks and its adjoint,
plus noise (`haar_init`), so that training starts from a working transform codec.

Note: A codec has variable rate. One set of weights serves all quality levels: a level multiplies
each channel of the latents by a gain before rounding and by an inverse gain after it (Cui et al.,
arXiv:2003.02012, section 3.1). A larger gain is a finer quantization. With a single level there are
no gains, and the networks are those of the papers.
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
"""Kernel size, stride and number of the layers of the analysis and the synthesis transform."""
LATENT_STRIDE = STRIDE**STAGES
"""Total downsampling factor of the analysis transform along each axis."""
HYPER_STRIDE = STRIDE**2
"""Downsampling factor from the latents y to the hyper-latents z along each axis."""
HYPER_UP_STRIDES = (2, 2, 1)
"""Upsampling factors of the hyper-synthesis layers; the last one is a plain convolution."""
SCALE_OFFSET = 1.0
"""Constant added to the output of the hyper-synthesis to give the scales of y."""

_PEDESTAL = 2.0**-36
_MIN_BETA = 1e-6
_INITIAL_GAMMA = 0.1
_LATENT_SCALE = 40.0
"""Factor from the output of the last analysis layer to the latents.

It keeps the weights of both transforms near 1. Without it, the last analysis layer
would need large weights, and the first synthesis layer weights that are small compared to Adam's
step size.
"""
_INITIAL_NOISE = 0.02


class GDN(nn.Module):
    """Generalized divisive normalization (GDN), or its approximate inverse (IGDN).

    GDN is x_i / sqrt(beta_i + sum_j gamma_ij x_j^2); IGDN multiplies by the root
    (arXiv:1611.01704). The parameters are sqrt(beta + 2^-36) and sqrt(gamma + 2^-36), bounded from
    below, so that beta and gamma stay positive and their gradients finite (appendix there).

    Attributes:
      inverse: Whether to apply IGDN.
    """

    inverse: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*shape channels"]) -> Float[Array, "*shape channels"]:
        """Normalize the channels of x at each position."""
        channels = x.shape[-1]

        def initial_gamma(key: Any, shape: tuple[int, int]) -> Array:
            del key
            return jnp.sqrt(_INITIAL_GAMMA * jnp.eye(shape[0]) + _PEDESTAL)

        ones = nn.initializers.constant((1.0 + _PEDESTAL) ** 0.5)
        beta = _positive(self.param("beta", ones, (channels,)), _MIN_BETA)
        gamma = _positive(self.param("gamma", initial_gamma, (channels, channels)), 0.0)
        flat = (1,) * (x.ndim - 1) + (channels,)
        power = jnp.square(x) @ gamma.T.astype(x.dtype) + beta.astype(x.dtype).reshape(flat)
        return x * (jnp.sqrt(power) if self.inverse else jax.lax.rsqrt(power))


def _positive(root: Array, least: float) -> Array:
    return jnp.square(lower_bound(root, (least + _PEDESTAL) ** 0.5)) - _PEDESTAL


class CodecOutput(NamedTuple):
    """The decoded images and the rate.

    Attributes:
      images: Decoded images (batch, height, width, channels), not clipped to [0, 1].
      bits: Bits of the latents y of each image (batch,).
      side_bits: Bits of the hyper-latents z of each image (batch,); 0 without a hyperprior.
    """

    images: Any
    bits: Any
    side_bits: Any


class FactorizedCodec(nn.Module):
    """A codec with a factorized prior.

    Attributes:
      channels: Number of image channels, 1 or 3.
      features: Number of channels of the hidden feature maps.
      latent_features: Number of channels of the latents.
      initial_gains: Initial gain of the latents at each quality level, positive. Their number is
        that of the levels; a single level has no gains, whatever its value.
      stage_features: Number of channels at 1/2, 1/4 and 1/8 of the resolution, in place of
        `features` at each. A small network needs few at 1/2, where they cost most, and many at
        1/8, where they limit the quality at high rates.
    """

    channels: int = 3
    features: int = 128
    latent_features: int = 192
    initial_gains: tuple[float, ...] = (1.0,)
    stage_features: tuple[int, int, int] | None = None

    multiple = LATENT_STRIDE
    """Required divisor of the image's height and width."""

    def setup(self) -> None:
        """Define the layers.

        Raises:
          InputError: An attribute is out of range.
        """
        for name in ("channels", "features", "latent_features"):
            at_least(name, getattr(self, name), 1)
        stages = self.stage_features or (self.features,) * (STAGES - 1)
        at_least("stage_features", min(stages), 1)
        if not self.initial_gains or min(self.initial_gains) <= 0:
            raise InputError(
                f"initial_gains must be one or more positive numbers; got {self.initial_gains}"
            )
        kernels = haar_kernels(self.channels, [*stages, self.latent_features])
        # The scale keeps low-pass outputs in the range of the image, in which the initial GDN is
        # close to the identity.
        self.down = [
            Conv(kernel.shape[3], KERNEL_SIZE, STRIDE, kernel_init=_noisy_kernel(kernel, 0.5))
            for kernel in kernels
        ]
        self.up = [
            ConvTranspose(
                kernel.shape[2], KERNEL_SIZE, STRIDE, kernel_init=_noisy_kernel(kernel, 2.0)
            )
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
        """Number of quality levels."""
        return len(self.initial_gains)

    @property
    def prior_channels(self) -> int:
        """Number of channels of the factorized prior."""
        return self.latent_features

    def analyze(self, images: Images, level: QualityLevels) -> Latents:
        """Map images to latents at 1 / `LATENT_STRIDE` of the resolution, before rounding.

        Args:
          images: Images in [0, 1], with sides that are multiples of `multiple` (not checked).
          level: Quality level of each image, from 0 to `levels` - 1; ignored if there is one level.
        """
        x = 2.0 * images - 1.0
        for number, layer in enumerate(self.down):
            x = layer(x)
            if number < len(self.down_norm):
                x = self.down_norm[number](x)
        x = x * _LATENT_SCALE
        return x if self.levels == 1 else x * self._gains(self.log_gain, level, x)

    def synthesize(self, latents: Latents, level: QualityLevels) -> Images:
        """Map rounded latents to decoded images, not clipped to [0, 1].

        Args:
          latents: Latents of `analyze`, rounded.
          level: Quality level of each image, as in `analyze`.
        """
        x = latents / _LATENT_SCALE
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
        """Encode and decode images, without writing a bit stream.

        With keys, as in training, additive uniform noise replaces rounding in the rate, and the
        decoded images use rounded latents with a straight-through gradient (Minnen & Singh,
        arXiv:2007.08739).

        Args:
          images: Images in [0, 1], with sides that are multiples of `multiple` (not checked).
          level: Quality level of each image, from 0 to `levels` - 1; ignored if there is one level.
          keys: PRNG key of each image for the noise. None rounds the latents for both the rate and
            the decoded images, as when files are written.
        """
        y = self.analyze(images, level)
        bits = _sum_per_image(self.prior(_noisy(y, keys, 0)))
        return CodecOutput(self.synthesize(_rounded(y), level), bits, jnp.zeros_like(bits))

    def _gains(self, logs: Array, level: QualityLevels, like: Array) -> Array:
        return jnp.exp(logs)[level][:, None, None].astype(like.dtype)


class HyperpriorCodec(FactorizedCodec):
    """A codec with a mean-scale hyperprior.

    Attributes:
      features: Number of channels of the hidden feature maps and of the hyper-latents.
      hyper_features: Number of channels of both hidden layers of the hyper-synthesis; by default
        `latent_features` and 3/2 of it, as in the paper.
      Others: See `FactorizedCodec` (channels, latent_features, initial_gains and stage_features).
    """

    hyper_features: int | None = None

    multiple = LATENT_STRIDE * HYPER_STRIDE
    """Required divisor of the image's height and width."""

    @property
    def prior_channels(self) -> int:
        """Number of channels of the hyper-latents z."""
        return self.features

    def setup(self) -> None:
        """Define the layers.

        Raises:
          InputError: An attribute is out of range.
        """
        super().setup()
        wide = self.features
        if self.hyper_features is not None:
            at_least("hyper_features", self.hyper_features, 1)
        first = self.hyper_features or self.latent_features
        second = self.hyper_features or 3 * self.latent_features // 2
        self.hyper_down = [
            Conv(wide, 3, gain=RELU_GAIN),
            Conv(wide, KERNEL_SIZE, STRIDE, gain=RELU_GAIN),
            Conv(wide, KERNEL_SIZE, STRIDE),
        ]
        self.hyper_up = [
            ConvTranspose(first, KERNEL_SIZE, HYPER_UP_STRIDES[0], gain=RELU_GAIN),
            ConvTranspose(second, KERNEL_SIZE, HYPER_UP_STRIDES[1], gain=RELU_GAIN),
            Conv(2 * self.latent_features, 3),
        ]

    def hyper_analyze(self, latents: Latents) -> HyperLatents:
        """Map the latents y to the hyper-latents z, before rounding.

        The result has 1 / `HYPER_STRIDE` of the resolution of y, and `features` channels.
        """
        x = latents
        for number, layer in enumerate(self.hyper_down):
            x = layer(jax.nn.relu(x) if number else x)
        return x

    def hyper_synthesize(self, hyper_latents: HyperLatents) -> tuple[Latents, Latents]:
        """Map rounded hyper-latents z to the means and the scales of y, each of the shape of y.

        The scales can be below zero; `gaussian_bits` raises them to at least `MIN_SCALE`.
        """
        x = hyper_latents
        for number, layer in enumerate(self.hyper_up):
            x = layer(jax.nn.relu(x) if number else x)
        mean, scale = jnp.split(x, 2, axis=-1)
        return mean, scale + SCALE_OFFSET

    def __call__(
        self, images: Images, level: QualityLevels, keys: Keys | None = None
    ) -> CodecOutput:
        """Encode and decode images, without writing a bit stream.

        The arguments and the result are those of `FactorizedCodec.__call__`, with the bits of z as
        `side_bits`.
        """
        y = self.analyze(images, level)
        z = self.hyper_analyze(y)
        mean, scale = self.hyper_synthesize(_rounded(z))
        bits = _sum_per_image(gaussian_bits(_noisy(y - mean, keys, 0), scale))
        side_bits = _sum_per_image(self.prior(_noisy(z, keys, 1)))
        return CodecOutput(self.synthesize(_rounded(y - mean) + mean, level), bits, side_bits)


def _noisy_kernel(kernel: np.ndarray, scale: float) -> Any:
    """Return an initializer: `scale` times a 2 x 2 kernel, zero-padded to the center, plus noise."""

    def init(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        before = (shape[0] - STRIDE) // 2
        after = shape[0] - STRIDE - before
        padded = np.pad(kernel, ((before, after), (before, after), (0, 0), (0, 0)))
        deviation = _INITIAL_NOISE * scale * np.prod(shape[:3]) ** -0.5
        return jnp.asarray(scale * padded, dtype) + deviation * jax.random.normal(key, shape, dtype)

    return init


def _rounded(x: Array) -> Array:
    """Round x, with a straight-through gradient."""
    return straight_through(x, jnp.round(x))


def _noisy(x: Array, keys: Array | None, purpose: int) -> Array:
    """Add uniform noise in [-1/2, 1/2) to x, or round it if there are no keys."""
    if keys is None:
        return jnp.round(x)

    def noise(key: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, purpose), x.shape[1:], x.dtype, -0.5, 0.5)

    return x + jax.vmap(noise)(keys)


def _sum_per_image(values: Array) -> Array:
    return jnp.sum(values, axis=(1, 2, 3))


def encoder_receptive_field() -> ReceptiveField:
    """Return the receptive field of a latent, in units of `LATENT_STRIDE` pixels, rounded up."""
    tracker = ReceptiveFieldTracker()
    for _ in range(STAGES):
        tracker = tracker.conv(KERNEL_SIZE, STRIDE)
    return ReceptiveField(
        -(tracker.first_input[0] // LATENT_STRIDE), tracker.last_input[0] // LATENT_STRIDE
    )


def decoder_receptive_field() -> ReceptiveField:
    """Return the receptive field of a decoded pixel, in latents; its scale is `LATENT_STRIDE`."""
    tracker = ReceptiveFieldTracker()
    for _ in range(STAGES):
        tracker = tracker.conv_transpose(KERNEL_SIZE, STRIDE)
    return tracker.receptive_field()
