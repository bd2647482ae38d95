"""Simplification of a graph: scales and biases merged into weights, dead nodes removed."""

from collections import Counter
from typing import Any

import numpy as np

from deconv_jax.export.onnx.graph import Graph

Node = tuple[str, list[str], list[str], dict[str, Any]]

_AFFINE = ("Add", "Sub", "Mul")


def simplify(graph: Graph, outputs: list[str]) -> None:
    """Simplify a graph in place.

    Args:
      graph: Graph.
      outputs: Names of the outputs that are computed.
    """
    _remove_dead_nodes(graph, outputs)
    _merge_affine_maps(graph, outputs)
    _remove_dead_nodes(graph, outputs)


def _remove_dead_nodes(graph: Graph, outputs: list[str]) -> None:
    """Remove nodes and constants that no output depends on."""
    needed, kept = set(outputs), []
    for node in reversed(graph.nodes):
        if needed & set(node[2]):
            kept.append(node)
            needed |= set(node[1])
    graph.nodes[:] = reversed(kept)
    graph.constants = {name: a for name, a in graph.constants.items() if name in needed}


def _merge_affine_maps(graph: Graph, outputs: list[str]) -> None:
    """Merge additions and multiplications of each channel into the convolution before them."""
    uses = Counter(name for node in graph.nodes for name in node[1])
    uses.update(outputs)
    convolutions: dict[str, Node] = {}
    merged: list[Node] = []
    for node in graph.nodes:
        operator, inputs, results, _ = node
        source = next((name for name in inputs if name in convolutions), None)
        if operator in _AFFINE and source is not None and uses[source] == 1:
            position = inputs.index(source)
            other = graph.constants.get(inputs[1 - position])
            if other is not None and _merge(graph, convolutions[source], operator, other, position):
                convolution = convolutions.pop(source)
                convolution[2][0] = results[0]
                convolutions[results[0]] = convolution
                continue
        merged.append(node)
        if operator in ("Conv", "ConvTranspose"):
            convolutions[results[0]] = node
    graph.nodes[:] = merged


def _merge(
    graph: Graph, convolution: Node, operator: str, other: np.ndarray, position: int
) -> bool:
    """Merge an operation of the output with a constant into a convolution; return whether it fits."""
    kind, inputs, _, attributes = convolution
    weights = graph.constants[inputs[1]]
    if kind == "ConvTranspose" and attributes["group"] != 1:
        return False
    outputs = weights.shape[0 if kind == "Conv" else 1]
    rank = weights.ndim
    shape = (1,) * (rank - other.ndim) + other.shape
    if len(shape) != rank or any(n != 1 for axis, n in enumerate(shape) if axis != 1):
        return False
    if shape[1] not in (1, outputs):
        return False
    vector = np.broadcast_to(other.reshape(-1), (outputs,))
    bias = graph.constants[inputs[2]] if len(inputs) > 2 else np.zeros(outputs, weights.dtype)
    if operator == "Mul":
        along = [1] * rank
        along[0 if kind == "Conv" else 1] = outputs
        weights, bias = weights * vector.reshape(along), bias * vector
    elif operator == "Add":
        bias = bias + vector
    elif position == 0:
        bias = bias - vector
    else:
        weights, bias = -weights, vector - bias
    inputs[1:] = [graph.constant(weights), graph.constant(bias)]
    return True
