"""Pure functions on arrays, without Flax and without state."""

from deconv_jax.ops import initializers
from deconv_jax.ops.color import (
    rgb_to_gray_uint8,
    rgb_to_y,
    rgb_to_y_uint8,
    rgb_to_ycbcr,
    ycbcr_to_rgb,
)
from deconv_jax.ops.conv import (
    conv,
    conv_output_size,
    conv_transpose,
    conv_transpose_output_size,
)
from deconv_jax.ops.jpeg import jpeg
from deconv_jax.ops.pool import (
    avg_pool,
    avg_unpool,
    blur_pool,
    global_avg_pool,
    global_max_pool,
    max_pool,
    max_pool_with_switches,
    max_unpool,
)
from deconv_jax.ops.resize import imresize, resize
from deconv_jax.ops.spectral import (
    constrained_least_squares_filter,
    edge_taper,
    fft_conv,
    fft_conv_transpose,
    inverse_filter,
    psf2otf,
    wiener_filter,
)
from deconv_jax.ops.upsample import (
    depth_to_space,
    space_to_depth,
    upsample,
    upsample_kernel_shape,
)
from deconv_jax.ops.weight_layouts import (
    kernel_from_keras,
    kernel_from_lax,
    kernel_from_torch,
    kernel_to_keras,
    kernel_to_lax,
    kernel_to_torch,
    layer_from_keras,
    layer_from_lax,
    layer_from_torch,
    layer_to_keras,
    layer_to_lax,
    layer_to_torch,
)

__all__ = [
    "avg_pool",
    "avg_unpool",
    "blur_pool",
    "constrained_least_squares_filter",
    "conv",
    "conv_output_size",
    "conv_transpose",
    "conv_transpose_output_size",
    "depth_to_space",
    "edge_taper",
    "fft_conv",
    "fft_conv_transpose",
    "global_avg_pool",
    "global_max_pool",
    "imresize",
    "initializers",
    "inverse_filter",
    "jpeg",
    "kernel_from_keras",
    "kernel_from_lax",
    "kernel_from_torch",
    "kernel_to_keras",
    "kernel_to_lax",
    "kernel_to_torch",
    "layer_from_keras",
    "layer_from_lax",
    "layer_from_torch",
    "layer_to_keras",
    "layer_to_lax",
    "layer_to_torch",
    "max_pool",
    "max_pool_with_switches",
    "max_unpool",
    "psf2otf",
    "resize",
    "rgb_to_gray_uint8",
    "rgb_to_y",
    "rgb_to_y_uint8",
    "rgb_to_ycbcr",
    "space_to_depth",
    "upsample",
    "upsample_kernel_shape",
    "wiener_filter",
    "ycbcr_to_rgb",
]
