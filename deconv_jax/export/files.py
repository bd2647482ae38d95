"""The exported files, and the descriptions beside them."""

import functools
import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import jax

from deconv_jax.errors import InputError
from deconv_jax.export.functions import ModelFunction, Port, model_functions
from deconv_jax.export.layout import Layout, with_layout
from deconv_jax.export.onnx import OPSET, import_extra, run_onnx, to_onnx
from deconv_jax.export.parity import check_parity
from deconv_jax.export.stablehlo import PLATFORMS, run_stablehlo, to_stablehlo
from deconv_jax.export.torch_weights import run_torch_weights, to_torch_weights
from deconv_jax.inference.trained_model import TrainedModel
from deconv_jax.io import check_output_path, kind_of, to_json, write_together
from deconv_jax.workdir import Checkpoint

Format = Literal["stablehlo", "onnx", "safetensors"]
"""Format of an exported file, which is also its suffix."""

_LAYOUTS: dict[Format, Layout] = {"stablehlo": "nhwc", "onnx": "nchw", "safetensors": "nhwc"}
"""Layout by default, that of the tools that read the format."""
_LIBRARIES: dict[Format, tuple[str, ...]] = {
    "stablehlo": ("jax", "jaxlib"),
    "onnx": ("jax", "onnx", "onnxruntime"),
    "safetensors": ("jax", "safetensors"),
}
"""Libraries whose versions are recorded."""


class ExportedFile(NamedTuple):
    """An exported file.

    Attributes:
      path: Path of the file; its description is at `path` with ".json" appended.
      description: Content of the description.
    """

    path: Path
    description: dict[str, Any]

    @property
    def max_difference(self) -> float:
        """Largest difference from this package, relative to the largest value of an output if that is above 1."""
        cases = self.description["parity"]["cases"]
        return max(value for case in cases for value in case["max_difference"].values())


def export(
    trained: TrainedModel,
    folder: Path,
    file_format: Format = "stablehlo",
    *,
    layout: Layout | None = None,
    checkpoint: Checkpoint = "last",
    overwrite: bool = False,
) -> list[ExportedFile]:
    """Export the functions of a trained model, and compare them with this package.

    All files are written, or none.

    Args:
      trained: Workdir of a run, or a named model.
      folder: Folder of the files, created if missing.
      file_format: "stablehlo" for `jax.export`, "onnx", or "safetensors" for the weights of a restoration network
        with PyTorch's names.
      layout: Axes of images and feature maps: "nhwc", the default of StableHLO, or "nchw", that of ONNX. None for the
        default; "safetensors" takes no other.
      checkpoint: "last", "best" on the validation split, or a step, of a run.
      overwrite: Whether existing files may be replaced.

    Raises:
      InputError: The model cannot be opened or exported, a file exists or cannot be written, a library is missing, or
        the exported function differs from this package by more than `parity.TOLERANCE`.
    """
    if file_format == "safetensors" and layout is not None:
        raise InputError(f"--layout requires --format stablehlo or onnx; got {file_format}")
    if kind_of(folder) not in ("folder", None):
        raise InputError(f"output {folder} is not a folder")
    if file_format == "onnx":
        for library in ("onnx", "onnxruntime"):
            import_extra(library)
    layout = layout or _LAYOUTS[file_format]
    with jax.default_device(cpu()):
        functions = model_functions(trained, checkpoint)
        paths = [folder / f"{function.name}.{file_format}" for function in functions]
        for path in paths:
            for written in (path, _description_path(path)):
                check_output_path(written, overwrite=overwrite)
        built = [build(function, file_format, layout) for function in functions]
    contents: dict[Path, bytes] = {}
    for path, (data, description) in zip(paths, built, strict=True):
        contents[path] = data
        contents[_description_path(path)] = to_json(description, indent=2).encode()
    write_together({path: functools.partial(_write, data) for path, data in contents.items()})
    return [ExportedFile(path, about) for path, (_, about) in zip(paths, built, strict=True)]


def build(
    function: ModelFunction, file_format: Format, layout: Layout
) -> tuple[bytes, dict[str, Any]]:
    """Return an exported file and its description, after a comparison with this package.

    Raises:
      InputError: The function cannot be exported, a library is missing, or the exported function differs from this
        package by more than `parity.TOLERANCE`.
    """
    laid_out = with_layout(function, layout)
    # Tracing raises the errors of networks that require fixed sizes.
    outputs = laid_out.outputs()
    details: dict[str, Any] = {}
    if file_format == "onnx":
        data = to_onnx(function, layout)
        run, details = run_onnx(data), {"opset": OPSET}
    elif file_format == "stablehlo":
        data = to_stablehlo(function, layout)
        run, details = run_stablehlo(data), {"platforms": list(PLATFORMS)}
    else:
        data = to_torch_weights(function)
        run = run_torch_weights(data)
    parity = check_parity(laid_out, run)
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES[file_format]}
    return data, {
        "name": function.name,
        "task": function.task,
        "format": file_format,
        **details,
        "layout": layout,
        "inputs": list(map(_describe, laid_out.inputs)),
        "outputs": list(map(_describe, outputs)),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "versions": {"deconv_jax": importlib.metadata.version("deconv_jax")} | versions,
        "parity": parity,
    }


def _write(data: bytes, file: BinaryIO) -> None:
    file.write(data)


def _describe(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "shape": list(port.shape),
        "dtype": port.dtype,
        "meaning": port.meaning,
    }


def _description_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def cpu() -> jax.Device:
    """Return the CPU: on an accelerator, products may be rounded to fewer bits."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise InputError(
            f"export compares the files on the CPU, which JAX_PLATFORMS excludes: {error}"
        ) from error
