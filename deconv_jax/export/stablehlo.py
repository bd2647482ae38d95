"""Export as StableHLO: a file that `jax.export.deserialize` reads, without this package.

The file holds a program for each platform, with the weights as constants. Sizes are symbolic, so
that one file serves every batch size, height and width.
"""

import jax
import numpy as np

from deconv_jax.export.functions import ModelFunction
from deconv_jax.export.layout import Layout, with_layout
from deconv_jax.export.parity import Run

PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms that the file runs on."""


def to_stablehlo(function: ModelFunction, layout: Layout) -> bytes:
    """Return a function as a serialized `jax.export.Exported`.

    Args:
      function: Function to export. The exported one takes its inputs in order, and returns a dict.
      layout: Order of the axes of images and feature maps.
    """
    laid_out = with_layout(function, layout)
    exported = jax.export.export(jax.jit(laid_out.apply), platforms=PLATFORMS)(*laid_out.specs())
    return bytes(exported.serialize())


def run_stablehlo(data: bytes) -> Run:
    """Return the function of a serialized `jax.export.Exported`."""
    exported = jax.export.deserialize(bytearray(data))

    def run(*inputs: np.ndarray) -> dict[str, np.ndarray]:
        return jax.device_get(exported.call(*inputs))

    return run
