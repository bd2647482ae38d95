"""The ONNX file of an exported function."""

import importlib
import importlib.metadata
import json
import math
from typing import Any

import jax
import numpy as np

from deconv_jax.errors import InputError
from deconv_jax.export.functions import ModelFunction, Port
from deconv_jax.export.layout import Layout, with_layout
from deconv_jax.export.onnx.graph import Graph, tensor_type
from deconv_jax.export.onnx.interpreter import interpret
from deconv_jax.export.onnx.simplify import simplify
from deconv_jax.export.onnx.value import Value, stored
from deconv_jax.export.parity import Run

OPSET = 18
"""Version of ONNX's operators."""
_IR_VERSION = 9
"""Version of the file format, that of the first ONNX release with the operators."""


def to_onnx(function: ModelFunction, layout: Layout) -> bytes:
    """Return the ONNX file of a function, with variable sizes and the inputs' and outputs' meanings as metadata.

    Args:
      function: Function to export.
      layout: Order of the axes of images and feature maps.

    Raises:
      InputError: `onnx` is not installed, or the network has an operation that cannot be exported.
    """
    onnx = import_extra("onnx")
    laid_out = with_layout(function, layout)
    specs = laid_out.specs()
    graph = Graph(_variables(laid_out.inputs))
    inputs = [
        Value(spec.shape, tuple(range(len(spec.shape))), port.name)
        for port, spec in zip(laid_out.inputs, specs, strict=True)
    ]
    names = sorted(function.meanings)
    closed = jax.make_jaxpr(lambda *x: [laid_out.apply(*x)[name] for name in names])(*specs)
    results = interpret(graph, closed, inputs)
    computed = [stored(graph, value, range(len(value.shape)), full=True) for value in results]
    simplify(graph, computed)
    # An output that is an input, a constant or another output needs a node of its own.
    outputs = laid_out.outputs()
    renamed: dict[str, str] = {}
    produced = {name for node in graph.nodes for name in node[2]}
    for port, name in zip(outputs, computed, strict=True):
        if name in produced and name not in renamed:
            renamed[name] = port.name
        else:
            graph.nodes.append(("Identity", [name], [port.name], {}))
    nodes = [
        onnx.helper.make_node(
            operator,
            [renamed.get(name, name) for name in inputs_],
            [renamed.get(name, name) for name in outputs_],
            **attributes,
        )
        for operator, inputs_, outputs_, attributes in graph.nodes
    ]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            function.name,
            [_value_info(port) for port in laid_out.inputs],
            [_value_info(port) for port in outputs],
            [onnx.numpy_helper.from_array(a, name) for name, a in graph.constants.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="deconv_jax",
        producer_version=importlib.metadata.version("deconv_jax"),
    )
    meanings = {port.name: port.meaning for port in (*laid_out.inputs, *outputs)}
    metadata = {"name": function.name, "task": function.task, "layout": layout}
    onnx.helper.set_model_props(proto, metadata | {"meaning": json.dumps(meanings)})
    onnx.checker.check_model(proto)
    return proto.SerializeToString(deterministic=True)


def import_extra(name: str) -> Any:
    """Return the module `onnx` or `onnxruntime`; raise InputError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"--format onnx requires {name}; install it with: pip install 'deconv_jax[export]'"
        ) from error


def run_onnx(data: bytes) -> Run:
    """Return an ONNX file as a function, run by `onnxruntime` on the CPU.

    Raises:
      InputError: `onnxruntime` is not installed.
    """
    onnxruntime = import_extra("onnxruntime")
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    inputs = [port.name for port in session.get_inputs()]

    def run(*arrays: np.ndarray) -> dict[str, np.ndarray]:
        given = dict(zip(inputs, arrays, strict=True))
        return dict(zip(names, session.run(names, given), strict=True))

    return run


def _variables(inputs: tuple[Port, ...]) -> dict[str, tuple[str, int, int]]:
    """Return where each variable is: the name of an input, its axis, and the factor of its length."""
    found: dict[str, tuple[str, int, int]] = {}
    for port in inputs:
        for axis, length in enumerate(port.shape):
            if isinstance(length, str):
                *factors, variable = length.split("*")
                found.setdefault(variable, (port.name, axis, math.prod(map(int, factors))))
    return found


def _value_info(port: Port) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(port.name, tensor_type(port.dtype), port.shape)
