"""Convolution and its adjoint, the transposed convolution, with derivatives of every order."""

from deconv_jax.ops.conv.api import (
    PaddingMode,
    conv,
    conv_output_size,
    conv_transpose,
    conv_transpose_output_size,
)

__all__ = [
    "PaddingMode",
    "conv",
    "conv_output_size",
    "conv_transpose",
    "conv_transpose_output_size",
]
