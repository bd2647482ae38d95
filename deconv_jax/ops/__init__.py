"""Pure functions on arrays: no Flax, no state."""

from deconv_jax.ops.conv import conv, conv_transpose

__all__ = ["conv", "conv_transpose"]
