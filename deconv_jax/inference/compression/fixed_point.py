"""Convolution layers in exact fixed-point arithmetic, with the same result on every machine.

NumPy carries the integers in float64, in which sums below 2^53 are exact in any order.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from deconv_jax.errors import InputError

Map = Float64[np.ndarray, "height width channels"]


@dataclasses.dataclass(frozen=True, eq=False)
class FixedPointLayer:
    """A `Conv` or `ConvTranspose` layer with weights that are multiples of 2^-12.

    Inputs and outputs are multiples of 2^-10, so that sums and biases are multiples of 2^-22.

    Attributes:
      kernel: Kernel in multiples of 2^-12, in the layout of the layer, int32.
      bias: Bias in multiples of 2^-22, int32.
      stride: 1 for a convolution, 2 or more for a transposed convolution.

    Raises:
      InputError: The bias has the wrong length, or a sum might not be exact.
    """

    kernel: Int[np.ndarray, "rows columns first second"]
    bias: Int[np.ndarray, " outputs"]
    stride: int

    WEIGHT_BITS, VALUE_BITS, MAX_VALUE = 12, 10, 2**10

    @classmethod
    def from_weights(cls, weights: Mapping[str, Any], stride: int) -> "FixedPointLayer":
        """Return a layer with rounded weights.

        Args:
          weights: Arrays "kernel" and "bias" of the layer.
          stride: Stride of the layer.

        Raises:
          InputError: A weight is out of range, or a sum might not be exact.
        """
        kernel = np.rint(np.asarray(weights["kernel"], np.float64) * 2**cls.WEIGHT_BITS)
        bits = cls.WEIGHT_BITS + cls.VALUE_BITS
        bias = np.rint(np.asarray(weights["bias"], np.float64) * 2**bits)
        largest = max(np.abs(kernel).max(), np.abs(bias).max())
        if not largest < 2**31:
            raise InputError(
                f"weights of the hyperprior are too large for fixed point: {largest:g} must be "
                "below 2^31"
            )
        return cls(kernel.astype(np.int32), bias.astype(np.int32), stride)

    def __post_init__(self) -> None:
        if self.bias.shape != (self.channels[1],):
            raise InputError(f"bias must have shape ({self.channels[1]},); got {self.bias.shape}")
        summed = np.abs(self.kernel.astype(np.float64)).sum() * self.MAX_VALUE * 2**self.VALUE_BITS
        if not summed + 2.0**31 < 2.0**53:
            raise InputError("weights of the hyperprior are too large for exact sums")

    @property
    def channels(self) -> tuple[int, int]:
        """Number of input and of output channels."""
        first, second = self.kernel.shape[2:]
        return (first, second) if self.stride == 1 else (second, first)

    def __call__(self, values: Map) -> Map:
        """Return the output, rounded to the nearest multiple of 2^-10 (half up), in [-2^10, 2^10].

        Padding is "SAME" with zeros, so the output is `stride` times as large as the input.

        Args:
          values: Multiples of 2^-10 in [-2^10, 2^10].
        """
        kernel = self.kernel.astype(np.float64)
        scaled = values * 2**self.VALUE_BITS
        summed = (
            _conv(scaled, kernel)
            if self.stride == 1
            else _conv_transpose(scaled, kernel, self.stride)
        )
        rounded = np.floor((summed + self.bias) * 2.0**-self.WEIGHT_BITS + 0.5)
        return np.clip(rounded * 2.0**-self.VALUE_BITS, -self.MAX_VALUE, self.MAX_VALUE)


def _conv(x: Map, kernel: np.ndarray) -> Map:
    """Compute `ops.conv` with zero padding and stride 1."""
    height, width, _ = x.shape
    rows, columns = kernel.shape[:2]
    padded = np.pad(x, ((rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    return sum(
        padded[i : i + height, j : j + width] @ kernel[i, j]
        for i in range(rows)
        for j in range(columns)
    )


def _conv_transpose(y: Map, kernel: np.ndarray, stride: int) -> Map:
    """Compute `ops.conv_transpose` with padding "SAME"."""
    height, width, _ = y.shape
    size = kernel.shape[0]
    before = (size - stride) // 2
    full = np.zeros(((height - 1) * stride + size, (width - 1) * stride + size, kernel.shape[2]))
    for i in range(size):
        for j in range(size):
            full[i : i + height * stride : stride, j : j + width * stride : stride] += (
                y @ kernel[i, j].T
            )
    return full[before : before + height * stride, before : before + width * stride]
