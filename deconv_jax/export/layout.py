"""The order of the axes of images and feature maps in an exported file."""

import dataclasses
from typing import Literal

import jax

from deconv_jax.export.functions import ModelFunction

Layout = Literal["nhwc", "nchw"]
"""Channels last, as in this package, or channels first, as in PyTorch and ONNX."""

FROM_NCHW, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def with_layout(function: ModelFunction, layout: Layout) -> ModelFunction:
    """Return a function whose images and feature maps have another layout."""
    if layout == "nhwc":
        return function
    is_map = [port.is_map for port in function.inputs]

    def apply(*inputs: jax.Array) -> dict[str, jax.Array]:
        moved = [
            x.transpose(FROM_NCHW) if map_ else x for x, map_ in zip(inputs, is_map, strict=True)
        ]
        outputs = function.apply(*moved)
        return {name: y.transpose(TO_NCHW) if y.ndim == 4 else y for name, y in outputs.items()}

    inputs = tuple(
        dataclasses.replace(port, shape=tuple(port.shape[axis] for axis in TO_NCHW))
        if port.is_map
        else port
        for port in function.inputs
    )
    return dataclasses.replace(function, inputs=inputs, apply=apply)
