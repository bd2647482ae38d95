"""What a rounded number costs: probability models of the latents of an image codec.

In training, rounding is replaced by uniform noise, and the density of a noisy latent, the model's
convolved with a unit box, is the probability of the rounded one (Balle et al., arXiv:1611.01704). Both
models therefore give the mass of the interval half a unit to either side of a number, of a whole one
or any other.
"""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from deconv_jax.ops.straight_through import lower_bound

MIN_LIKELIHOOD = 1e-9
"""A number costs at most its logarithm; near it the gradient leads out, far beyond there is none."""
MIN_SCALE = 0.11
"""Standard deviation at which a Gaussian is all but certain to round to its mean."""

_WIDTHS = (3, 3, 3, 3)
_FIRST_SCALE = 10.0


class FactorizedPrior(nn.Module):
    """A density for each channel, learnt without a shape given (arXiv:1802.01436, appendix 6.1).

    Its distribution function is the sigmoid of a small network that rises with its input: matrices
    are positive, and the nonlinearity x + a tanh(x) has a slope above 0 as a > -1.

    Attributes:
      channels: of the latents.
    """

    channels: int

    def setup(self) -> None:
        """Makes the parameters; at first the densities are some ten units wide."""
        widths = (1, *_WIDTHS, 1)
        scale = _FIRST_SCALE ** (1 / len(widths[1:]))
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
        """What the distribution function is the sigmoid of."""
        values = x[..., None]
        for layer in self.layers:
            values = jnp.einsum("...cj,cij->...ci", values, jax.nn.softplus(layer["matrix"]))
            values = values + _over(layer["bias"], values)
            if layer["factor"] is not None:
                values = values + _over(jnp.tanh(layer["factor"]), values) * jnp.tanh(values)
        return values[..., 0]

    def __call__(self, x: Float[Array, "*shape channels"]) -> Float[Array, "*shape channels"]:
        """-log2 of the mass of [x - 1/2, x + 1/2]."""
        lower, upper = self.logits(x - 0.5), self.logits(x + 0.5)
        # Of two numbers close to 1 the difference is nothing; of their complements it is not.
        sign = jnp.where(jax.lax.stop_gradient(lower + upper) > 0, -1.0, 1.0)
        mass = jnp.abs(jax.nn.sigmoid(sign * upper) - jax.nn.sigmoid(sign * lower))
        return _bits(mass)


def gaussian_bits(
    x: Float[Array, "*shape"], scale: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """-log2 of the mass of [x - 1/2, x + 1/2] under N(0, scale^2); scale is at least `MIN_SCALE`."""
    scale = lower_bound(scale, MIN_SCALE)
    distance = jnp.abs(x)
    upper, lower = (0.5 - distance) / scale, (-0.5 - distance) / scale
    return _bits(jax.scipy.stats.norm.cdf(upper) - jax.scipy.stats.norm.cdf(lower))


def _bits(mass: Array) -> Array:
    return -jnp.log2(lower_bound(mass, MIN_LIKELIHOOD))


def _over(of_channels: Array, values: Array) -> Array:
    return of_channels.reshape((1,) * (values.ndim - 2) + of_channels.shape)


def _symmetric_uniform(
    key: Key[Array, ""], shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Array:
    return jax.random.uniform(key, shape, dtype, -0.5, 0.5)
