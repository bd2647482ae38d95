"""Reading and writing of weight files of the supported networks."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from deconv_jax.errors import InputError
from deconv_jax.io import write_atomically
from deconv_jax.models.interfaces import RestorationModel
from deconv_jax.models.weight_files import Tensors, abbreviate_names, check_tensors, read_tensors
from deconv_jax.models.weight_import.architecture import (
    Architecture,
    Hints,
    Recognized,
    name_patterns,
)
from deconv_jax.models.weight_import.dncnn import DNCNN
from deconv_jax.models.weight_import.espcn import ESPCN_
from deconv_jax.models.weight_import.ffdnet import FFDNET
from deconv_jax.models.weight_import.fsrcnn import FSRCNN_
from deconv_jax.models.weight_import.rednet import REDNET
from deconv_jax.models.weight_import.rrdb import RRDB
from deconv_jax.models.weight_import.srcnn import SRCNN_
from deconv_jax.models.weight_import.srvgg import SRVGG
from deconv_jax.ops.weight_layouts import layer_from_torch, layer_to_torch

ARCHITECTURES = (RRDB, FFDNET, DNCNN, SRCNN_, FSRCNN_, ESPCN_, REDNET, SRVGG)
"""Supported networks; the first that recognizes a file is the one that is loaded."""

Params = dict[str, Any]


class ImportedNetwork(NamedTuple):
    """A network from a weights file.

    Attributes:
      module: Network with the attributes of `RestorationModel`.
      variables: {"params": ...} in float32. Batch normalization is folded into the convolutions.
      noise_conditional: Whether the network takes a map of the noise's standard deviation, in [0,
        1] units, as an additional channel after those of the image.
    """

    module: nn.Module
    variables: dict[str, Any]
    noise_conditional: bool


def load_torch_weights(
    path: str | Path,
    scale: int | None = None,
    *,
    batch_norm_epsilon: float | None = None,
    report: Callable[[str], None] | None = None,
) -> ImportedNetwork:
    """Load a network and its variables from a file of PyTorch weights.

    Args:
      path: A `.safetensors` file, or a `.pth` or `.pt` file, which requires PyTorch. See
        `weight_files.read_tensors`.
      scale: Scale of the network; required if the weights do not determine it, as those of an
        FSRCNN, unless `save_torch_weights` wrote the file.
      batch_norm_epsilon: Constant that a DnCNN's batch normalization adds to the variance, in (0,
        1). By default it is inferred from the names: 1e-5 for `dncnn.0.weight` without a bias, 1e-4
        otherwise.
      report: Function that is called with a message about each attribute that the file does not state.

    Raises:
      InputError: The file cannot be read, does not contain a supported network, or contradicts
        `scale` or `batch_norm_epsilon` (which requires batch normalization); or the scale is
        required and missing.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    try:
        if batch_norm_epsilon is not None:
            _check_epsilon(batch_norm_epsilon, tensors)
        given = scale if scale is not None else _scale_from_metadata(metadata)
        architecture, recognized = _recognize(tensors, Hints(given, batch_norm_epsilon))
        if report is not None:
            for assumption in recognized.assumptions:
                report(f"{path}: assuming {assumption}, which the file does not state")
        module = recognized.module
        own_scale = cast(RestorationModel, module).scale
        if scale not in (None, own_scale):
            raise InputError(f"the network has scale {own_scale}; got scale={scale}")
        params = _params(architecture, recognized)
        return ImportedNetwork(module, {"params": params}, recognized.noise_conditional)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def save_torch_weights(path: str | Path, module: nn.Module, params: Mapping[str, Any]) -> None:
    """Save weights as a `.safetensors` file that PyTorch users and `load_torch_weights` can read.

    Args:
      path: File to create or replace.
      module: Network of a supported architecture whose attributes follow from the names and shapes
        of its weights: for example, a DnCNN has norm "none" (see `fold_batch_norm`), an FSRCNN has
        upsampling "transposed".
      params: Parameters of the module, the value of "params" in its variables.

    Raises:
      InputError: Another suffix or network, parameters that do not match the module, or a file that
        cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"weights are written to a .safetensors file; got {path}")
    architecture = next((a for a in ARCHITECTURES if type(module) is a.module), None)
    if architecture is None:
        raise InputError(f"cannot export a {type(module).__name__}; {_supported()}")
    tensors: Tensors = {}
    for name, keys in architecture.layers(module).items():
        layer = _subtree(params, keys)
        arrays = {"weight": layer["slope"]} if "slope" in layer else layer_to_torch(layer)
        tensors |= {f"{name}.{key}": np.array(value, order="C") for key, value in arrays.items()}
    scale = cast(RestorationModel, module).scale
    found = _recognize(tensors, Hints(scale))[1]
    check_tensors(tensors, _shapes(architecture, module, found.noise_conditional))
    if found.module != module:
        raise InputError(
            f"a file cannot distinguish this network from another one: {module} would be read as "
            f"{found.module}"
        )
    data = safetensors.numpy.save(tensors, {"format": "pt", "scale": str(scale)})
    write_atomically(path, lambda file: file.write(data))


def _check_epsilon(epsilon: float, tensors: Tensors) -> None:
    if not any(name.endswith(".running_mean") for name in tensors):
        raise InputError(f"it has no batch normalization; got batch_norm_epsilon={epsilon}")
    if not 0 < epsilon < 1:
        raise InputError(f"batch_norm_epsilon must be above 0 and below 1; got {epsilon}")


def _scale_from_metadata(metadata: Mapping[str, str]) -> int | None:
    text = metadata.get("scale")
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]?", text):
        raise InputError(f"the scale in the metadata must be from 1 to 99; got {text!r}")
    return int(text)


def _recognize(tensors: Tensors, hints: Hints) -> tuple[Architecture, Recognized]:
    for architecture in ARCHITECTURES:
        recognized = architecture.recognize(tensors, hints)
        if recognized is not None:
            return architecture, recognized
    nearest = _nearest(tensors)
    raise InputError(
        f"unknown network: it has {abbreviate_names(tensors)}{nearest}; {_supported()}"
    )


def _supported() -> str:
    return f"supported are {', '.join(a.name for a in ARCHITECTURES)}"


def _nearest(tensors: Tensors) -> str:
    """Return a clause with the network and naming that share most names; "" if none shares one."""
    found = name_patterns(tensors)

    def likeness(naming: str) -> float:
        names = name_patterns(naming.split(", "))
        return len(found & names) / len(found | names)

    pairs = [(likeness(naming), a.name, naming) for a in ARCHITECTURES for naming in a.namings]
    share, name, naming = max(pairs)
    return f"; nearest is {name} ({naming})" if share else ""


def _shapes(
    architecture: Architecture, module: nn.Module, noise_conditional: bool
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a file of this network."""
    channels = cast(RestorationModel, module).channels + noise_conditional
    image = jax.ShapeDtypeStruct((1, 8, 8, channels), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    shapes = {}
    for name, keys in architecture.layers(module).items():
        layer = _subtree(params, keys)
        if "slope" in layer:
            shapes[f"{name}.weight"] = layer["slope"].shape
            continue
        *size, second, first = layer["kernel"].shape
        shapes[f"{name}.weight"] = (first, second, *size)
        shapes[f"{name}.bias"] = layer["bias"].shape
    return shapes


def _params(architecture: Architecture, recognized: Recognized) -> Params:
    """Convert the tensors to parameters of the module."""
    module, tensors = recognized.module, recognized.tensors
    check_tensors(tensors, _shapes(architecture, module, recognized.noise_conditional))
    params: Params = {}
    for name, keys in architecture.layers(module).items():
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


def _subtree(params: Mapping[str, Any], keys: tuple[str, ...]) -> Mapping[str, Any]:
    for key in keys:
        if key not in params:
            raise InputError(
                f"the parameters have no {'/'.join(keys)}; they have {abbreviate_names(params)}"
            )
        params = params[key]
    return params
