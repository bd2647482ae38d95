"""First weights for strided layers with which a network begins as a wavelet transform of blocks.

Each layer takes the four Haar wavelets of 2 x 2 pixels of every channel (Haar 1910; as a packet, Coifman &
Wickerhauser 1992) and keeps as many as it has output channels, those first that have most energy in images,
whose spectra fall with the square of the frequency. Its adjoint, with the same kernel, is the way back:
what was left out is all that is lost.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_BLOCKS = np.array(
    [[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]], np.float64
)
"""Mean, columns, rows and diagonal of a block, times two."""
_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float64)
"""Brightness and two differences of colours, before they are made of length 1."""
_COLORFUL = 3.0


class _Channel(NamedTuple):
    """How likely a channel is to be large: its energy as a power of two, and whether it is all means."""

    energy: float
    mean: bool


def haar_kernels(
    channels: int, widths: Sequence[int]
) -> list[Float[np.ndarray, "2 2 inputs outputs"]]:
    """Kernels of layers of stride 2, of length 1 for each output that is used; the others are 0.

    Args:
      channels: of the image; three are taken to be RGB.
      widths: output channels of the layers.
    """
    mixing = np.eye(channels)
    held = [_Channel(0.0, True)] * channels
    if channels == 3:
        mixing = _OPPONENT / np.linalg.norm(_OPPONENT, axis=1, keepdims=True)
        held = [_Channel(-_COLORFUL * bool(place), True) for place in range(3)]
    kernels, inputs = [], channels
    for width in widths:
        found = [
            (_after(channel, block), place, block)
            for (place, channel), block in itertools.product(enumerate(held), range(len(_BLOCKS)))
        ]
        # Stable: among the equal, the first channels first.
        kept = sorted(found, key=lambda item: -item[0].energy)[:width]
        kernel = np.zeros((2, 2, inputs, width))
        for output, (_, place, block) in enumerate(kept):
            kernel[:, :, : len(mixing), output] = 0.5 * _BLOCKS[block][:, :, None] * mixing[place]
        kernels.append(kernel)
        held = [channel for channel, _, _ in kept]
        mixing, inputs = np.eye(len(held)), width
    return kernels


def _after(channel: _Channel, block: int) -> _Channel:
    """Of the mean of a block of means, four times the energy; of details once, and the less the finer."""
    if block == 0:
        return _Channel(channel.energy + 2.0 * channel.mean, channel.mean)
    return _Channel(channel.energy - (0.5 if block < 3 else 1.0), False)
