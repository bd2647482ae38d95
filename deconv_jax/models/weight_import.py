"""Import and export of published PyTorch weights for DnCNN, FSRCNN and ESPCN.

The tensor names are those of the implementations that most published files come from: K. Zhang's
DnCNN (`model.0.weight`, ...), with or without batch normalization, and J. Yeo's FSRCNN and ESPCN
(`first_part.0.weight`, `mid_part.0.weight`, `last_part.weight`, ...). The network and its
attributes are inferred from the names and shapes.

Note: Some attributes are in neither. The scale of an FSRCNN must be given, unless the file was
written by `save_torch_weights`. The epsilon of a DnCNN's batch normalization follows from the code
that wrote the file, which the names identify:

    names                                 code                              epsilon
    model.0.weight, model.0.bias          K. Zhang's KAIR                   1e-4
    dncnn.0.weight, dncnn.0.bias          K. Zhang's training code          1e-4
    dncnn.0.weight without a bias         SaoYan's DnCNN-PyTorch            1e-5, PyTorch's default

IRCNN, which has seven dilated layers, has the same names and shapes as a DnCNN of depth 7. Such
files are an error.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from deconv_jax.errors import InputError
from deconv_jax.io import write_atomically
from deconv_jax.models.dncnn import DnCNN, fold_batch_norm
from deconv_jax.models.espcn import ESPCN
from deconv_jax.models.fsrcnn import FSRCNN
from deconv_jax.models.weight_files import (
    Tensors,
    abbreviate_names,
    check_names,
    check_tensors,
    read_tensors,
)
from deconv_jax.ops.weight_layouts import layer_from_torch, layer_to_torch

_ZHANG_EPSILON, _TORCH_EPSILON = 1e-4, 1e-5
_IRCNN_DEPTH = 7

_SUPPORTED = (
    "supported are DnCNN (model.0.weight, model.2.weight, ...), FSRCNN (first_part.0.weight, "
    "mid_part.0.weight, ..., last_part.weight) and ESPCN (first_part.0.weight, "
    "first_part.2.weight, last_part.0.weight)"
)

Params = dict[str, Any]
TorchModel = DnCNN | FSRCNN | ESPCN
"""Networks whose published PyTorch weights can be read."""


def load_torch_weights(
    path: str | Path,
    scale: int | None = None,
    *,
    batch_norm_epsilon: float | None = None,
    report: Callable[[str], None] | None = None,
) -> tuple[TorchModel, Params]:
    """Load a network and its variables from a file of PyTorch weights.

    Args:
      path: A `.safetensors` file, or a `.pth` or `.pt` file, which requires PyTorch. See
        `weight_files.read_tensors`.
      scale: Scale of the network; required for an FSRCNN, unless `save_torch_weights` wrote the
        file.
      batch_norm_epsilon: Constant that a DnCNN's batch normalization adds to the variance, in (0,
        1). By default it is inferred from the names: 1e-5 for `dncnn.0.weight` without a bias, 1e-4
        otherwise.
      report: Function that is called with a message if the epsilon is inferred.

    Returns:
      The module and {"params": ...} in float32. Batch normalization is folded into the
      convolutions.

    Raises:
      InputError: The file cannot be read, does not contain a supported network, or contradicts
        `scale` or `batch_norm_epsilon` (which requires batch normalization); or an FSRCNN has no
        scale.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    try:
        given = scale if scale is not None else _scale_from_metadata(metadata)
        tensors, epsilon = _with_kair_names(tensors)
        normalized = any(name.endswith(".running_mean") for name in tensors)
        if batch_norm_epsilon is not None:
            if not normalized:
                raise InputError(
                    f"it has no batch normalization; got batch_norm_epsilon={batch_norm_epsilon}"
                )
            if not 0 < batch_norm_epsilon < 1:
                raise InputError(
                    f"batch_norm_epsilon must be above 0 and below 1; got {batch_norm_epsilon}"
                )
            epsilon = batch_norm_epsilon
        elif normalized and report is not None:
            report(
                f"{path}: assuming batch normalization with epsilon {epsilon:g}, inferred from the "
                "names of the weights"
            )
        module, tensors = _recognize(tensors, given, epsilon)
        if scale not in (None, module.scale):
            raise InputError(f"the network has scale {module.scale}; got scale={scale}")
        return module, {"params": _params(module, tensors)}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def save_torch_weights(path: str | Path, module: nn.Module, params: Mapping[str, Any]) -> None:
    """Save weights as a `.safetensors` file that PyTorch users and `load_torch_weights` can read.

    Args:
      path: File to create or replace.
      module: A DnCNN with norm "none" (see `fold_batch_norm`) and a depth other than 7, an FSRCNN
        with upsampling "transposed", or an ESPCN with upsampling "subpixel" and activation "tanh".
      params: Parameters of the module, the value of "params" in its variables.

    Raises:
      InputError: Another suffix or network, parameters that do not match the module, or a file that
        cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"weights are written to a .safetensors file; got {path}")
    if not isinstance(module, TorchModel):
        raise InputError(f"cannot export a {type(module).__name__}; {_SUPPORTED}")
    tensors: Tensors = {}
    for name, keys in _layers(module).items():
        layer = _subtree(params, keys)
        arrays = {"weight": layer["slope"]} if "slope" in layer else layer_to_torch(layer)
        tensors |= {f"{name}.{key}": np.array(value, order="C") for key, value in arrays.items()}
    check_tensors(tensors, _shapes(module))
    data = safetensors.numpy.save(tensors, {"format": "pt", "scale": str(module.scale)})
    write_atomically(path, lambda file: file.write(data))


def _scale_from_metadata(metadata: Mapping[str, str]) -> int | None:
    text = metadata.get("scale")
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]?", text):
        raise InputError(f"the scale in the metadata must be from 1 to 99; got {text!r}")
    return int(text)


def _with_kair_names(tensors: Tensors) -> tuple[Tensors, float]:
    """Return a DnCNN's tensors under KAIR's names, and the epsilon of its batch normalization."""
    if "dncnn.0.weight" not in tensors:
        return tensors, _ZHANG_EPSILON
    epsilon = _ZHANG_EPSILON if "dncnn.0.bias" in tensors else _TORCH_EPSILON
    renamed = {re.sub(r"^dncnn\.", "model.", name): value for name, value in tensors.items()}
    for index in _conv_indices(renamed, "model"):
        channels = renamed[f"model.{index}.weight"].shape[0]
        renamed.setdefault(f"model.{index}.bias", np.zeros(channels, np.float32))
    return renamed, epsilon


def _recognize(tensors: Tensors, scale: int | None, epsilon: float) -> tuple[TorchModel, Tensors]:
    """Return the network, and its tensors under the names of `_layers`."""
    if "last_part.weight" in tensors:
        return _recognize_fsrcnn(tensors, scale), tensors
    if "last_part.0.weight" in tensors:
        return _recognize_espcn(tensors), tensors
    if "model.0.weight" in tensors:
        return _recognize_dncnn(tensors, epsilon)
    raise InputError(f"unknown network: it has {abbreviate_names(tensors)}; {_SUPPORTED}")


def _recognize_fsrcnn(tensors: Tensors, scale: int | None) -> FSRCNN:
    d, channels, *_ = _kernel_shape(tensors, "first_part.0.weight")
    s = _kernel_shape(tensors, "mid_part.0.weight")[0]
    m = len(_conv_indices(tensors, "mid_part")) - 2
    if scale is None:
        raise InputError("the weights of an FSRCNN do not determine its scale: give scale")
    return FSRCNN(scale=scale, channels=channels, d=d, s=s, m=max(m, 0))


def _recognize_espcn(tensors: Tensors) -> ESPCN:
    first, channels, *_ = _kernel_shape(tensors, "first_part.0.weight")
    second = _kernel_shape(tensors, "first_part.2.weight")[0]
    outputs = _kernel_shape(tensors, "last_part.0.weight")[0]
    scale = math.isqrt(outputs // channels)
    if scale < 1 or scale**2 * channels != outputs:
        raise InputError(
            f"the last layer of an ESPCN must have channels * scale**2 outputs; got {outputs} outputs "
            f"for {channels} channels"
        )
    return ESPCN(scale=scale, channels=channels, features=(first, second))


def _recognize_dncnn(tensors: Tensors, epsilon: float) -> tuple[DnCNN, Tensors]:
    if any(name.endswith(".running_mean") for name in tensors):
        tensors = _fold_dncnn(tensors, epsilon)
    indices = _conv_indices(tensors, "model")
    features, inputs, kernel_size, _ = _kernel_shape(tensors, "model.0.weight")
    outputs = _kernel_shape(tensors, f"model.{indices[-1]}.weight")[0]
    if inputs != outputs:
        raise InputError(
            f"a DnCNN must have equally many input and output channels; got {inputs} and {outputs}, "
            "as in FDnCNN and FFDNet, which use the same names and are not supported"
        )
    return DnCNN(inputs, max(len(indices), 2), features, kernel_size, norm="none"), tensors


def _fold_dncnn(tensors: Tensors, epsilon: float) -> Tensors:
    """Fold the batch normalization after each inner convolution, and renumber the layers."""
    convs = _conv_indices(tensors, "model")
    original = [0, *range(2, 3 * len(convs) - 3, 3)]
    norms = [index + 1 for index in original[1:-1]]
    kinds = ("weight", "bias", "running_mean", "running_var")
    expected = {f"model.{index}.{kind}" for index in original for kind in kinds[:2]}
    expected |= {f"model.{index}.{kind}" for index in norms for kind in kinds}
    counters = {f"model.{index}.num_batches_tracked" for index in norms}
    check_names(set(tensors) - counters, expected)
    folded: Tensors = {}
    for i, index in enumerate(original):
        layer = {kind: tensors[f"model.{index}.{kind}"] for kind in kinds[:2]}
        if index + 1 in norms:
            norm = [tensors[f"model.{index + 1}.{kind}"] for kind in kinds]
            channels = layer["bias"].shape
            if any(array.shape != channels for array in norm):
                raise InputError(
                    f"model.{index + 1} must have arrays of shape {channels}, as the layer that it "
                    f"normalizes; got {sorted({array.shape for array in norm})}"
                )
            scale, bias, mean, variance = norm
            folded_layer = fold_batch_norm(
                {
                    "Conv_0": layer_from_torch(layer),
                    "Norm_0": {"BatchNorm_0": {"scale": scale, "bias": bias}},
                },
                {"Norm_0": {"BatchNorm_0": {"mean": mean, "var": variance}}},
                epsilon,
            )
            layer = layer_to_torch(folded_layer["Conv_0"])
        folded |= {f"model.{2 * i}.{kind}": value for kind, value in layer.items()}
    return folded


def _layers(module: TorchModel) -> dict[str, tuple[str, ...]]:
    """Map PyTorch's name of each layer to the path of its parameters in Flax."""
    if isinstance(module, DnCNN):
        if module.norm != "none":
            raise InputError(
                f"exporting a DnCNN requires norm='none'; got norm={module.norm!r}: apply "
                "fold_batch_norm first"
            )
        if module.depth == _IRCNN_DEPTH:
            raise InputError(
                f"a DnCNN of depth {_IRCNN_DEPTH} has the same names and shapes as IRCNN, whose "
                "layers are dilated; a file cannot distinguish them"
            )
        inner = {f"model.{2 * i}": (f"layer_{i}", "Conv_0") for i in range(module.depth - 1)}
        return inner | {f"model.{2 * (module.depth - 1)}": ("to_noise",)}
    if isinstance(module, FSRCNN):
        if module.upsampling != "transposed":
            raise InputError(
                f"exporting an FSRCNN requires upsampling='transposed'; got {module.upsampling!r}"
            )
        middle = ["shrink", *(f"map_{i}" for i in range(module.m)), "expand"]
        names = {"first_part.0": "extract", "first_part.1": "extract_prelu"}
        for i, name in enumerate(middle):
            names |= {f"mid_part.{2 * i}": name, f"mid_part.{2 * i + 1}": f"{name}_prelu"}
        names["last_part"] = "upsample"
        return {theirs: (ours,) for theirs, ours in names.items()}
    if module.upsampling != "subpixel" or module.activation != "tanh":
        raise InputError(
            "exporting an ESPCN requires upsampling='subpixel' and activation='tanh'; got "
            f"{module.upsampling!r} and {module.activation!r}"
        )
    return {
        "first_part.0": ("Conv_0",),
        "first_part.2": ("Conv_1",),
        "last_part.0": ("upsample",),
    }


def _shapes(module: TorchModel) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a file of this network."""
    image = jax.ShapeDtypeStruct((1, 8, 8, module.channels), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    shapes = {}
    for name, keys in _layers(module).items():
        layer = _subtree(params, keys)
        if "slope" in layer:
            shapes[f"{name}.weight"] = layer["slope"].shape
            continue
        *size, second, first = layer["kernel"].shape
        shapes[f"{name}.weight"] = (first, second, *size)
        shapes[f"{name}.bias"] = layer["bias"].shape
    return shapes


def _params(module: TorchModel, tensors: Tensors) -> Params:
    """Convert the tensors to parameters of the module."""
    check_tensors(tensors, _shapes(module))
    params: Params = {}
    for name, keys in _layers(module).items():
        kinds = ("weight", "bias")
        layer = {kind: tensors[f"{name}.{kind}"] for kind in kinds if f"{name}.{kind}" in tensors}
        is_slope = layer["weight"].ndim == 1
        inner = params
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = (
            {"slope": jnp.asarray(layer["weight"])} if is_slope else layer_from_torch(layer)
        )
    return params


def _conv_indices(tensors: Tensors, part: str) -> list[int]:
    """Return the indices of the layers of a part that have a kernel with four axes."""
    names = (re.fullmatch(rf"{part}\.(\d{{1,6}})\.weight", name) for name in tensors)
    return sorted(int(name[1]) for name in names if name and tensors[name[0]].ndim == 4)


def _kernel_shape(tensors: Tensors, name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise InputError(f"{name} is missing; it has {abbreviate_names(tensors)}")
    shape = tensors[name].shape
    if len(shape) != 4 or 0 in shape:
        raise InputError(f"{name} must be a non-empty kernel with four axes; got shape {shape}")
    return shape


def _subtree(params: Mapping[str, Any], keys: tuple[str, ...]) -> Mapping[str, Any]:
    for key in keys:
        if key not in params:
            raise InputError(
                f"the parameters have no {'/'.join(keys)}; they have {abbreviate_names(params)}"
            )
        params = params[key]
    return params
