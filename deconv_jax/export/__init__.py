"""Export of trained models to files that run without this package: StableHLO, ONNX and PyTorch's weights.

Each file is compared with this package on inputs of three shapes before it is written, and a description of its inputs
and outputs is written beside it, with the result of the comparison.
"""

from deconv_jax.export.files import Format, export

__all__ = ["Format", "export"]
