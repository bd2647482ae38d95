"""Entropy models for the latents of an image codec: a factorized prior and a Gaussian.

Both return the rate -log2 P(x - 1/2 < X < x + 1/2). For an integer x, this is the cost of a rounded
latent. Training replaces rounding by additive uniform noise. The density of a noisy latent is the
prior's density convolved with a unit box, which is the same expression at any real x (Balle et al.,
arXiv:1611.01704).
"""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from deconv_jax.ops.straight_through import lower_bound

MIN_LIKELIHOOD = 1e-9
"""Lower bound of the likelihood, which limits the rate of a latent to 29.9 bits.

At the bound the gradient still increases the likelihood; where the likelihood underflows, the
gradient is zero.
"""
MIN_SCALE = 0.11
"""Lower bound of the scales, at which a Gaussian almost surely rounds to its mean."""

_HIDDEN_WIDTHS = (3, 3, 3, 3)
_INITIAL_SCALE = 10.0


class FactorizedPrior(nn.Module):
    """A factorized prior: a learned non-parametric density for each channel.

    See arXiv:1802.01436, appendix 6.1. The cumulative distribution function (CDF) is the sigmoid of
    a small monotonic network: its matrices are positive, and its nonlinearity x + a tanh(x) with a
    > -1 is increasing.

    Attributes:
      channels: Number of channels of the latents.
    """

    channels: int

    def setup(self) -> None:
        """Define the parameters; the initial densities are about ten units wide."""
        widths = (1, *_HIDDEN_WIDTHS, 1)
        scale = _INITIAL_SCALE ** (1 / len(widths[1:]))
        self.layers: Any = [
            {
                "matrix": self.param(
                    f"matrix{i}",
                    nn.initializers.constant(jnp.log(jnp.expm1(1 / scale / after))),
                    (self.channels, after, before),
                ),
                "bias": self.param(f"bias{i}", _symmetric_uniform, (self.channels, after)),
                "factor": self.param(f"factor{i}", nn.initializers.zeros, (self.channels, after))
                if after > 1
                else None,
            }
            for i, (before, after) in enumerate(itertools.pairwise(widths))
        ]

    def logits(self, x: Float[Array, "*shape channels"]) -> Float[Array, "*shape channels"]:
        """Return the logits of each channel's CDF at x."""
        values = x[..., None]
        for layer in self.layers:
            values = jnp.einsum("...cj,cij->...ci", values, jax.nn.softplus(layer["matrix"]))
            values = values + _expand(layer["bias"], values)
            if layer["factor"] is not None:
                values = values + _expand(jnp.tanh(layer["factor"]), values) * jnp.tanh(values)
        return values[..., 0]

    def __call__(self, x: Float[Array, "*shape channels"]) -> Float[Array, "*shape channels"]:
        """Return the rate -log2 P(x - 1/2 < X < x + 1/2) of each value, in bits, at most 29.9."""
        lower, upper = self.logits(x - 0.5), self.logits(x + 0.5)
        # In the upper tail both values are close to 1. Subtracting their complements avoids
        # cancellation.
        sign = jnp.where(jax.lax.stop_gradient(lower + upper) > 0, -1.0, 1.0)
        likelihood = jnp.abs(jax.nn.sigmoid(sign * upper) - jax.nn.sigmoid(sign * lower))
        return _bits(likelihood)


def gaussian_bits(
    x: Float[Array, "*shape"], scale: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Return the rate -log2 P(x - 1/2 < X < x + 1/2) for X ~ N(0, scale^2), in bits, at most 29.9.

    Args:
      x: Latents minus their means.
      scale: Standard deviations, raised to `MIN_SCALE` with a gradient that can increase them.
    """
    scale = lower_bound(scale, MIN_SCALE)
    distance = jnp.abs(x)
    upper, lower = (0.5 - distance) / scale, (-0.5 - distance) / scale
    return _bits(jax.scipy.stats.norm.cdf(upper) - jax.scipy.stats.norm.cdf(lower))


def _bits(likelihood: Array) -> Array:
    return -jnp.log2(lower_bound(likelihood, MIN_LIKELIHOOD))


def _expand(parameter: Array, values: Array) -> Array:
    """Add leading axes to a parameter (channels, width), for broadcasting against the values."""
    return parameter.reshape((1,) * (values.ndim - 2) + parameter.shape)


def _symmetric_uniform(
    key: Key[Array, ""], shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Array:
    return jax.random.uniform(key, shape, dtype, -0.5, 0.5)
