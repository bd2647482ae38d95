"""Export as ONNX: an interpreter of jaxprs that writes ONNX nodes.

The program of a function is traced with symbolic sizes, and each of its primitives becomes one or a few nodes. The
primitives of `ops.conv` become Conv and ConvTranspose, which PyTorch, TensorRT and browsers run fast.

    graph.py         nodes, constants and sizes
    value.py         arrays whose transpositions, broadcasts and unit axes cost no node
    interpreter.py   the walk over the jaxpr, with constants folded
    elementwise.py   \\
    structure.py      > the rules of the primitives
    contractions.py  /
    simplify.py      weights merged with scales and biases, dead nodes removed
    model.py         the file
"""

from deconv_jax.export.onnx.model import OPSET, import_extra, run_onnx, to_onnx

__all__ = ["OPSET", "import_extra", "run_onnx", "to_onnx"]
