"""Pure functions on arrays: no Flax, no state."""

from deconv_jax.ops.conv import (
    conv,
    conv_output_size,
    conv_transpose,
    conv_transpose_output_size,
)

__all__ = ["conv", "conv_output_size", "conv_transpose", "conv_transpose_output_size"]
