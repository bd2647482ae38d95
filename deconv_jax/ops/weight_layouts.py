"""Kernels of other libraries in the layout of this one, and back, with the layers they belong to.

`conv` here takes (*kernel size, in / groups, out), and `conv_transpose` the kernel of the `conv` it
transposes: (*kernel size, out / groups, in) in its own terms. What a reader would get wrong: a
transposed kernel of PyTorch or Keras needs no flip, since their layers are adjoints too and only
order the axes otherwise; the one of `jax.lax.conv_transpose` and `flax.linen.ConvTranspose` does,
since by default they convolve the spread image with the kernel as it is.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from deconv_jax.errors import InputError

Kernel = Float[Array, "*kernel_size channels_per_group channels"]


def kernel_from_torch(weight: ArrayLike) -> Kernel:
    """The kernel of `torch.nn.Conv{1,2,3}d` or `ConvTranspose{1,2,3}d`.

    Args:
      weight: (out, in / groups, *kernel size) of a convolution, (in, out / groups, *kernel size) of
        a transposed one; a numpy array or a tensor on the CPU as `state_dict` holds it.

    Returns:
      (*kernel size, in / groups, out) for `conv`, (*kernel size, out / groups, in) for
      `conv_transpose`: the axes of both are reversed in the same way.

    Raises:
      InputError: not 3, 4 or 5 axes.
    """
    return jnp.asarray(np.moveaxis(_kernel("weight", weight), (1, 0), (-2, -1)))


def kernel_to_torch(kernel: ArrayLike) -> np.ndarray:
    """The inverse of `kernel_from_torch`.

    Raises:
      InputError: not 3, 4 or 5 axes.
    """
    return _own(np.moveaxis(_kernel("kernel", kernel), (-2, -1), (1, 0)))


def kernel_from_keras(kernel: ArrayLike, *, depthwise: bool = False) -> Kernel:
    """The kernel of Keras's `Conv{1,2,3}D`, `Conv{1,2,3}DTranspose` or `DepthwiseConv{1,2}D`.

    Args:
      kernel: as `layer.get_weights()` holds it: in this library's layout already, unless it is
        depthwise, (*kernel size, in, multiplier).
      depthwise: whether it is.

    Returns:
      The kernel; for a depthwise one (*kernel size, 1, in * multiplier), to use with `groups=in`.

    Raises:
      InputError: not 3, 4 or 5 axes.
    """
    array = _kernel("kernel", kernel)
    return jnp.asarray(array.reshape(*array.shape[:-2], 1, -1) if depthwise else array)


def kernel_to_keras(kernel: ArrayLike, *, depthwise_inputs: int | None = None) -> np.ndarray:
    """The inverse of `kernel_from_keras`.

    Args:
      kernel: of `conv` or `conv_transpose`.
      depthwise_inputs: for a depthwise layer, the channels of its input.

    Raises:
      InputError: not 3, 4 or 5 axes, or no depthwise kernel for so many inputs.
    """
    array = _kernel("kernel", kernel)
    if depthwise_inputs is None:
        return _own(array)
    if depthwise_inputs < 1 or array.shape[-2] != 1 or array.shape[-1] % depthwise_inputs:
        raise InputError(
            f"a depthwise kernel for {depthwise_inputs} inputs has one channel a group and a "
            f"multiple of {depthwise_inputs} outputs; got {array.shape}"
        )
    return _own(array.reshape(*array.shape[:-2], depthwise_inputs, -1))


def kernel_from_lax(
    kernel: ArrayLike, *, transposed: bool = False, transpose_kernel: bool = False
) -> Kernel:
    """The kernel of a channels-last `lax` convolution or of `flax.linen.Conv(Transpose)`.

    Args:
      kernel: (*kernel size, in / groups, out) of a convolution; of a transposed one (*kernel size,
        in, out), or (*kernel size, out, in) with `transpose_kernel`.
      transposed: whether it belongs to `lax.conv_transpose` or `flax.linen.ConvTranspose`.
      transpose_kernel: that function's argument of the same name.

    Returns:
      The kernel for `conv` or `conv_transpose`.

    Raises:
      InputError: not 3, 4 or 5 axes.
    """
    return jnp.asarray(_turned(_kernel("kernel", kernel), transposed and not transpose_kernel))


def kernel_to_lax(
    kernel: ArrayLike, *, transposed: bool = False, transpose_kernel: bool = False
) -> np.ndarray:
    """The inverse of `kernel_from_lax`.

    Raises:
      InputError: not 3, 4 or 5 axes.
    """
    return _own(_turned(_kernel("kernel", kernel), transposed and not transpose_kernel))


def layer_from_torch(parameters: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """A layer's parameters from PyTorch's.

    Args:
      parameters: "weight" and, if it has one, "bias" of `torch.nn.Conv{1,2,3}d` or
        `ConvTranspose{1,2,3}d`, as its `state_dict()` holds them.

    Returns:
      "kernel" and "bias" as `models.layers.Conv` and `ConvTranspose` have them.

    Raises:
      InputError: without "weight", or a kernel without 3, 4 or 5 axes.
    """
    if "weight" not in parameters:
        raise InputError(f'a layer of PyTorch has a "weight"; got {sorted(parameters)}')
    return _layer(kernel_from_torch(parameters["weight"]), parameters.get("bias"))


def layer_to_torch(parameters: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """The inverse of `layer_from_torch`, as numpy arrays.

    Raises:
      InputError: without "kernel", or one without 3, 4 or 5 axes.
    """
    layer = _numpy_layer(parameters)
    return {"weight": kernel_to_torch(layer.pop("kernel")), **layer}


def layer_from_keras(weights: Sequence[ArrayLike], *, depthwise: bool = False) -> dict[str, Array]:
    """A layer's parameters from Keras's.

    Args:
      weights: `layer.get_weights()`: the kernel and, if it has one, the bias.
      depthwise: as for `kernel_from_keras`.

    Returns:
      "kernel" and "bias" as `models.layers.Conv` and `ConvTranspose` have them.

    Raises:
      InputError: not one or two arrays, or a kernel without 3, 4 or 5 axes.
    """
    if not 1 <= len(weights) <= 2:
        raise InputError(f"weights are a kernel and at most a bias; got {len(weights)} arrays")
    bias = weights[1] if len(weights) == 2 else None
    return _layer(kernel_from_keras(weights[0], depthwise=depthwise), bias)


def layer_to_keras(
    parameters: Mapping[str, ArrayLike], *, depthwise_inputs: int | None = None
) -> list[np.ndarray]:
    """The inverse of `layer_from_keras`: what `layer.set_weights` takes.

    Raises:
      InputError: as `kernel_to_keras`, or without "kernel".
    """
    layer = _numpy_layer(parameters)
    kernel = kernel_to_keras(layer.pop("kernel"), depthwise_inputs=depthwise_inputs)
    return [kernel, *layer.values()]


def layer_from_lax(
    parameters: Mapping[str, ArrayLike], *, transposed: bool = False, transpose_kernel: bool = False
) -> dict[str, Array]:
    """A layer's parameters from those of `flax.linen.Conv` or `ConvTranspose`.

    Args:
      parameters: "kernel" and, if it has one, "bias".
      transposed: as for `kernel_from_lax`.
      transpose_kernel: as for `kernel_from_lax`.

    Returns:
      "kernel" and "bias" as `models.layers.Conv` and `ConvTranspose` have them.

    Raises:
      InputError: without "kernel", or one without 3, 4 or 5 axes.
    """
    layer = _numpy_layer(parameters)
    kernel = kernel_from_lax(
        layer["kernel"], transposed=transposed, transpose_kernel=transpose_kernel
    )
    return _layer(kernel, layer.get("bias"))


def layer_to_lax(
    parameters: Mapping[str, ArrayLike], *, transposed: bool = False, transpose_kernel: bool = False
) -> dict[str, np.ndarray]:
    """The inverse of `layer_from_lax`.

    Raises:
      InputError: without "kernel", or one without 3, 4 or 5 axes.
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
            f"{name} has 3, 4 or 5 axes: 1, 2 or 3 of space and two of channels; got {array.shape}"
        )
    return array


def _turned(kernel: np.ndarray, turn: bool) -> np.ndarray:
    """Flipped in space and its channel axes exchanged, or as it is; its own inverse."""
    if not turn:
        return kernel
    return np.flip(kernel, tuple(range(kernel.ndim - 2))).swapaxes(-1, -2)


def _own(array: np.ndarray) -> np.ndarray:
    """A copy: JAX's memory is read-only, and another library may train in place what it is given."""
    return np.array(array, order="C")


def _layer(kernel: Array, bias: ArrayLike | None) -> dict[str, Array]:
    return {"kernel": kernel} | ({} if bias is None else {"bias": jnp.asarray(np.asarray(bias))})


def _numpy_layer(parameters: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    if "kernel" not in parameters:
        raise InputError(f'a layer has a "kernel"; got {sorted(parameters)}')
    names = [name for name in ("kernel", "bias") if name in parameters]
    return {name: _own(np.asarray(parameters[name])) for name in names}
