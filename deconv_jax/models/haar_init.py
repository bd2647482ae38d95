"""Initialization of strided convolutions as a Haar wavelet packet transform.

Each layer splits every input channel into the four Haar subbands of 2 x 2 blocks (Haar, 1910;
wavelet packets: Coifman & Wickerhauser, 1992). It keeps as many subbands as it has output channels,
in order of their expected energy in natural images, whose power spectra fall with the square of the
frequency. The kernels are orthonormal, so the transposed convolutions with the same kernels
reconstruct the image up to the dropped subbands.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_SUBBANDS = np.array(
    [[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]], np.float64
)
"""Mean and horizontal, vertical and diagonal differences of a block, times two."""
_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float64)
"""Luma and two chroma differences, before normalization."""
_CHROMA_ENERGY_DROP = 3.0
"""Difference of the log2 energies of luma and chroma."""


class _Channel(NamedTuple):
    """A channel of the packet transform.

    Attributes:
      log2_energy: Expected log2 energy, up to a constant.
      low_pass: Whether the channel is a low-pass subband at every level.
    """

    log2_energy: float
    low_pass: bool


def haar_kernels(
    channels: int, widths: Sequence[int]
) -> list[Float[np.ndarray, "2 2 inputs outputs"]]:
    """Return the kernels of a stack of convolutions with stride 2.

    The kernel of each output channel has norm 1. Output channels beyond the number of subbands have
    zero kernels.

    Args:
      channels: Number of image channels; three are taken as RGB and mixed to luma and chroma first.
      widths: Number of output channels of each layer.

    Returns:
      One float64 kernel for each layer; the inputs of a layer are the outputs of the layer before,
      and those of the first are the image channels.
    """
    mixing = np.eye(channels)
    current = [_Channel(0.0, True)] * channels
    if channels == 3:
        mixing = _OPPONENT / np.linalg.norm(_OPPONENT, axis=1, keepdims=True)
        current = [_Channel(-_CHROMA_ENERGY_DROP * bool(i), True) for i in range(3)]
    kernels, inputs = [], channels
    for width in widths:
        candidates = [
            (_split(channel, band), i, band)
            for (i, channel), band in itertools.product(enumerate(current), range(len(_SUBBANDS)))
        ]
        # The sort is stable: ties keep the order of the channels.
        kept = sorted(candidates, key=lambda item: -item[0].log2_energy)[:width]
        kernel = np.zeros((2, 2, inputs, width))
        for output, (_, i, band) in enumerate(kept):
            kernel[:, :, : len(mixing), output] = 0.5 * _SUBBANDS[band][:, :, None] * mixing[i]
        kernels.append(kernel)
        current = [channel for channel, _, _ in kept]
        mixing, inputs = np.eye(len(current)), width
    return kernels


def _split(channel: _Channel, band: int) -> _Channel:
    """Return one of the four subbands of a channel.

    Low-pass filtering multiplies the energy of a pure low-pass channel by 4 and keeps that of any
    other. A detail subband has less energy than its channel, the diagonal one least.
    """
    if band == 0:
        return _Channel(channel.log2_energy + 2.0 * channel.low_pass, channel.low_pass)
    return _Channel(channel.log2_energy - (0.5 if band < 3 else 1.0), False)
