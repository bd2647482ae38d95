"""Conversion of kernels and layers between this library and PyTorch, Keras, `jax.lax` and Flax.

Here, `conv` takes a kernel of shape (*kernel_size, in_channels / groups, out_channels), and
`conv_transpose` takes the kernel of the `conv` it transposes: (*kernel_size, out_channels / groups,
in_channels).

Note: transposed layers of PyTorch and Keras are adjoints too, so their kernels only need their axes
reordered. `jax.lax.conv_transpose` and `flax.linen.ConvTranspose` by default convolve the dilated
image with the kernel, so theirs must also be flipped.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from deconv_jax.errors import InputError

Kernel = Float[Array, "*kernel_size channels_per_group channels"]


def kernel_from_torch(weight: ArrayLike) -> Kernel:
    """Convert the kernel of `torch.nn.Conv{1,2,3}d` or `ConvTranspose{1,2,3}d`.

    Args:
      weight: NumPy array or CPU tensor of shape (out_channels, in_channels / groups, *kernel_size)
        for a convolution, (in_channels, out_channels / groups, *kernel_size) for a transposed one.

    Returns:
      Kernel for `conv` or `conv_transpose`.

    Raises:
      InputError: The kernel does not have 3, 4 or 5 axes.
    """
    return jnp.asarray(np.moveaxis(_kernel("weight", weight), (1, 0), (-2, -1)))


def kernel_to_torch(kernel: ArrayLike) -> np.ndarray:
    """Convert a kernel to PyTorch: invert `kernel_from_torch`.

    Args:
      kernel: Kernel for `conv` or `conv_transpose`.

    Returns:
      Writable array in PyTorch's layout.

    Raises:
      InputError: The kernel does not have 3, 4 or 5 axes.
    """
    return _writable_copy(np.moveaxis(_kernel("kernel", kernel), (-2, -1), (1, 0)))


def kernel_from_keras(kernel: ArrayLike, *, depthwise: bool = False) -> Kernel:
    """Convert a kernel of Keras: `Conv{1,2,3}D`, `Conv{1,2,3}DTranspose`, `DepthwiseConv{1,2}D`.

    Args:
      kernel: Kernel from `layer.get_weights()`. It has the layout of this library already, unless
        it is depthwise: (*kernel_size, in_channels, multiplier).
      depthwise: Whether the kernel belongs to a depthwise layer.

    Returns:
      Kernel for `conv` or `conv_transpose`. A depthwise kernel has the shape (*kernel_size, 1,
      in_channels * multiplier), for `groups=in_channels`.

    Raises:
      InputError: The kernel does not have 3, 4 or 5 axes.
    """
    array = _kernel("kernel", kernel)
    return jnp.asarray(array.reshape(*array.shape[:-2], 1, -1) if depthwise else array)


def kernel_to_keras(kernel: ArrayLike, *, depthwise_inputs: int | None = None) -> np.ndarray:
    """Convert a kernel to Keras: invert `kernel_from_keras`.

    Args:
      kernel: Kernel for `conv` or `conv_transpose`.
      depthwise_inputs: Number of input channels of a depthwise layer; None for other layers.

    Returns:
      Writable array in Keras's layout.

    Raises:
      InputError: The kernel does not have 3, 4 or 5 axes, or is not that of a depthwise layer with
        `depthwise_inputs` input channels.
    """
    array = _kernel("kernel", kernel)
    if depthwise_inputs is None:
        return _writable_copy(array)
    if depthwise_inputs < 1 or array.shape[-2] != 1 or array.shape[-1] % depthwise_inputs:
        raise InputError(
            f"a depthwise kernel for {depthwise_inputs} inputs must have one channel per group and a "
            f"multiple of {depthwise_inputs} outputs; got shape {array.shape}"
        )
    return _writable_copy(array.reshape(*array.shape[:-2], depthwise_inputs, -1))


def kernel_from_lax(
    kernel: ArrayLike, *, transposed: bool = False, transpose_kernel: bool = False
) -> Kernel:
    """Convert the kernel of a channels-last `jax.lax` convolution or of a Flax layer.

    Args:
      kernel: Kernel of shape (*kernel_size, in_channels / groups, out_channels) for a convolution.
        For a transposed one (*kernel_size, in_channels, out_channels), or with `transpose_kernel`
        (*kernel_size, out_channels, in_channels).
      transposed: Whether the kernel belongs to `lax.conv_transpose` or `flax.linen.ConvTranspose`.
      transpose_kernel: Argument of the same name of those functions; ignored unless `transposed`.

    Returns:
      Kernel for `conv` or `conv_transpose`.

    Raises:
      InputError: The kernel does not have 3, 4 or 5 axes.
    """
    return jnp.asarray(_flip_if(_kernel("kernel", kernel), transposed and not transpose_kernel))


def kernel_to_lax(
    kernel: ArrayLike, *, transposed: bool = False, transpose_kernel: bool = False
) -> np.ndarray:
    """Convert a kernel to `jax.lax` or Flax: invert `kernel_from_lax`.

    Args:
      kernel: Kernel for `conv` or `conv_transpose`.
      transposed: Whether the layer is a transposed convolution.
      transpose_kernel: Argument of the same name of that function or layer; ignored unless
        `transposed`.

    Returns:
      Writable array in the layout of `jax.lax`.

    Raises:
      InputError: The kernel does not have 3, 4 or 5 axes.
    """
    return _writable_copy(_flip_if(_kernel("kernel", kernel), transposed and not transpose_kernel))


def layer_from_torch(parameters: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """Convert the parameters of a layer of PyTorch.

    Args:
      parameters: `state_dict()` of `torch.nn.Conv{1,2,3}d` or `ConvTranspose{1,2,3}d`: "weight"
        and, if the layer has one, "bias". Other entries are ignored.

    Returns:
      Parameters "kernel" and, if the layer has one, "bias" of `models.layers.Conv` or
      `ConvTranspose`.

    Raises:
      InputError: "weight" is missing, or does not have 3, 4 or 5 axes.
    """
    if "weight" not in parameters:
        raise InputError(f'a layer of PyTorch must have a "weight"; got {sorted(parameters)}')
    return _jax_layer(kernel_from_torch(parameters["weight"]), parameters.get("bias"))


def layer_to_torch(parameters: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """Convert the parameters of a layer to PyTorch: invert `layer_from_torch`.

    Args:
      parameters: Parameters "kernel" and, if the layer has one, "bias". Others are ignored.

    Returns:
      "weight" and, if it was given, "bias" as writable NumPy arrays.

    Raises:
      InputError: "kernel" is missing, or does not have 3, 4 or 5 axes.
    """
    layer = _numpy_layer(parameters)
    return {"weight": kernel_to_torch(layer.pop("kernel")), **layer}


def layer_from_keras(weights: Sequence[ArrayLike], *, depthwise: bool = False) -> dict[str, Array]:
    """Convert the parameters of a layer of Keras.

    Args:
      weights: `layer.get_weights()`: the kernel and, if the layer has one, the bias.
      depthwise: Whether the layer is depthwise.

    Returns:
      Parameters "kernel" and, if the layer has one, "bias" of `models.layers.Conv` or
      `ConvTranspose`.

    Raises:
      InputError: There are not one or two arrays, or the kernel does not have 3, 4 or 5 axes.
    """
    if not 1 <= len(weights) <= 2:
        raise InputError(f"weights must be a kernel and at most a bias; got {len(weights)} arrays")
    bias = weights[1] if len(weights) == 2 else None
    return _jax_layer(kernel_from_keras(weights[0], depthwise=depthwise), bias)


def layer_to_keras(
    parameters: Mapping[str, ArrayLike], *, depthwise_inputs: int | None = None
) -> list[np.ndarray]:
    """Convert the parameters of a layer to Keras: invert `layer_from_keras`.

    Args:
      parameters: Parameters "kernel" and, if the layer has one, "bias". Others are ignored.
      depthwise_inputs: Number of input channels of a depthwise layer; None for other layers.

    Returns:
      Writable NumPy arrays for `layer.set_weights`: [kernel], or [kernel, bias].

    Raises:
      InputError: "kernel" is missing, does not have 3, 4 or 5 axes, or is not that of a depthwise
        layer with `depthwise_inputs` input channels.
    """
    layer = _numpy_layer(parameters)
    kernel = kernel_to_keras(layer.pop("kernel"), depthwise_inputs=depthwise_inputs)
    return [kernel, *layer.values()]


def layer_from_lax(
    parameters: Mapping[str, ArrayLike], *, transposed: bool = False, transpose_kernel: bool = False
) -> dict[str, Array]:
    """Convert the parameters of `flax.linen.Conv` or `ConvTranspose`.

    Args:
      parameters: Parameters "kernel" and, if the layer has one, "bias". Others are ignored.
      transposed: Whether the layer is a transposed convolution.
      transpose_kernel: Argument of the same name of that function or layer; ignored unless
        `transposed`.

    Returns:
      Parameters "kernel" and, if the layer has one, "bias" of `models.layers.Conv` or
      `ConvTranspose`.

    Raises:
      InputError: "kernel" is missing, or does not have 3, 4 or 5 axes.
    """
    layer = _numpy_layer(parameters)
    kernel = kernel_from_lax(
        layer["kernel"], transposed=transposed, transpose_kernel=transpose_kernel
    )
    return _jax_layer(kernel, layer.get("bias"))


def layer_to_lax(
    parameters: Mapping[str, ArrayLike], *, transposed: bool = False, transpose_kernel: bool = False
) -> dict[str, np.ndarray]:
    """Convert the parameters of a layer to Flax: invert `layer_from_lax`.

    Args:
      parameters: Parameters "kernel" and, if the layer has one, "bias". Others are ignored.
      transposed: Whether the layer is a transposed convolution.
      transpose_kernel: Argument of the same name of that function or layer; ignored unless
        `transposed`.

    Returns:
      "kernel" and, if it was given, "bias" as writable NumPy arrays.

    Raises:
      InputError: "kernel" is missing, or does not have 3, 4 or 5 axes.
    """
    layer = _numpy_layer(parameters)
    kernel = kernel_to_lax(
        layer.pop("kernel"), transposed=transposed, transpose_kernel=transpose_kernel
    )
    return {"kernel": kernel, **layer}


def _kernel(name: str, array: ArrayLike) -> np.ndarray:
    array = np.asarray(array)
    if not 3 <= array.ndim <= 5:
        raise InputError(
            f"{name} must have 3, 4 or 5 axes: 1, 2 or 3 spatial ones and two of channels; got "
            f"shape {array.shape}"
        )
    return array


def _flip_if(kernel: np.ndarray, flip: bool) -> np.ndarray:
    """Flip the spatial axes and exchange the channel axes if `flip`; this is its own inverse."""
    if not flip:
        return kernel
    return np.flip(kernel, tuple(range(kernel.ndim - 2))).swapaxes(-1, -2)


def _writable_copy(array: np.ndarray) -> np.ndarray:
    """Return a copy: memory of JAX is read-only, and other libraries may train in place."""
    return np.array(array, order="C")


def _jax_layer(kernel: Array, bias: ArrayLike | None) -> dict[str, Array]:
    return {"kernel": kernel} | ({} if bias is None else {"bias": jnp.asarray(np.asarray(bias))})


def _numpy_layer(parameters: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    if "kernel" not in parameters:
        raise InputError(f'a layer must have a "kernel"; got {sorted(parameters)}')
    names = [name for name in ("kernel", "bias") if name in parameters]
    return {name: _writable_copy(np.asarray(parameters[name])) for name in names}
