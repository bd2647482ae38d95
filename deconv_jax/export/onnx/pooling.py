"""ONNX nodes of max pooling, which `ops.max_pool` computes by comparisons of shifted arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deconv_jax.export.onnx.graph import Graph
from deconv_jax.export.onnx.value import Value, stored

_FUNCTION = "_max_pool"


def max_pool(graph: Graph, equation: Any, values: Sequence[Value]) -> Value | None:
    """Write a MaxPool for a call of the compiled function of `ops.max_pool` whose second result is not used.

    The second result is the positions of the maxima.

    The geometry is read from its program: along each axis, from the last to the first, it pads the array, splits the
    axis into blocks of `stride`, and compares `window - 1` times.

    Returns:
      The maxima; None for other calls and other programs.
    """
    if equation.params.get("name") != _FUNCTION or len(values) != 1:
        return None
    (x,) = values
    kept = [
        e
        for e in equation.params["jaxpr"].jaxpr.eqns
        if e.primitive.name in ("pad", "reshape", "gt")
        and np.issubdtype(e.invars[0].aval.dtype, np.floating)
    ]
    names = [e.primitive.name for e in kept]
    starts = [i for i, name in enumerate(names) if name == "pad"]
    rank = len(x.shape) - 2
    shape = equation.outvars[0].aval.shape
    if len(starts) != rank:
        return None
    kernel, strides, before, after = ([0] * rank for _ in range(4))
    for place, (start, end) in enumerate(zip(starts, [*starts[1:], len(names)], strict=True)):
        axis = rank - place
        if names[start:end] != ["pad", "reshape", *["gt"] * (end - start - 2)]:
            return None
        low = kept[start].params["padding_config"][axis][0]
        stride = kept[start + 1].outvars[0].aval.shape[axis + 1]
        window = end - start - 1
        high = (shape[axis] - 1) * stride + window - x.shape[axis] - low
        if not isinstance(low, int) or not isinstance(high, int) or low < 0:
            return None
        kernel[axis - 1], strides[axis - 1] = window, stride
        before[axis - 1], after[axis - 1] = low, max(high, 0)
    axes = (0, len(shape) - 1, *range(1, rank + 1))
    content = graph.emit(
        "MaxPool",
        stored(graph, x, axes, full=True),
        kernel_shape=kernel,
        strides=strides,
        pads=before + after,
    )
    return Value(shape, axes, content)
