"""Weights in the files that PyTorch users publish, read and written: DnCNN, FSRCNN and ESPCN.

The names are those of the implementations that most published files come from: K. Zhang's DnCNN
(`model.0.weight`, ...), with or without batch normalisation, and J. Yeo's FSRCNN and ESPCN
(`first_part.0.weight`, `mid_part.0.weight`, `last_part.weight`, ...). A file says nothing but names
and shapes; from these the network and its fields are recognised.

Note: a file does not hold everything. The stride of FSRCNN's deconvolution, its `scale`, is in no shape
and has to be given, unless the file was written here. The epsilon of a batch normalization is not in the
file either; the names tell which code wrote it:

    names                                 code                              epsilon
    model.0.weight, model.0.bias          K. Zhang's KAIR                   1e-4
    dncnn.0.weight, dncnn.0.bias          K. Zhang's training code          1e-4
    dncnn.0.weight without a bias         SaoYan's DnCNN-PyTorch            1e-5, PyTorch's default

IRCNN, seven layers with dilations, has the names of a DnCNN of depth 7, which is therefore refused.

A pickle can execute what its author likes when it is opened. `.pth` files go through PyTorch's
restricted reader, which makes tensors and containers and nothing else.
"""

import math
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from deconv_jax.errors import InputError
from deconv_jax.io import check_regular, write_atomically
from deconv_jax.models.dncnn import DnCNN, fold_batch_norm
from deconv_jax.models.espcn import ESPCN
from deconv_jax.models.fsrcnn import FSRCNN
from deconv_jax.ops.weight_layouts import layer_from_torch, layer_to_torch

MAX_FILE_BYTES = 2 * 1024**3
"""Bytes; these networks' weights are a few million at most."""

_WRAPPERS = ("state_dict", "params_ema", "params", "model_state_dict", "model")
"""Names under which a training checkpoint keeps its weights."""

_PREFIXES = ("module.", "_orig_mod.", "net.", "net_g.", "netG.", "generator.")
"""What wrappers put before all names: data parallelism, compilation, training frameworks."""

_DEEPEST = 4
_ZHANG_EPSILON, _TORCH_EPSILON = 1e-4, 1e-5
_IRCNN_DEPTH = 7
_READABLE = {"F16": "float16", "F32": "float32", "F64": "float64", "I64": "int64"}
"""Types of numbers as safetensors and as PyTorch call them."""

_KNOWN = (
    "known are DnCNN (model.0.weight, model.2.weight, ...), FSRCNN (first_part.0.weight, "
    "mid_part.0.weight, ..., last_part.weight) and ESPCN (first_part.0.weight, "
    "first_part.2.weight, last_part.0.weight)"
)

Tensors = dict[str, np.ndarray]
Params = dict[str, Any]
TorchModel = DnCNN | FSRCNN | ESPCN


def load_torch_weights(
    path: str | Path,
    scale: int | None = None,
    *,
    batch_norm_epsilon: float | None = None,
    report: Callable[[str], None] | None = None,
) -> tuple[TorchModel, Params]:
    """A network and its variables from a file of PyTorch weights.

    Args:
      path: a `.safetensors` file, or a `.pth` or `.pt` file, for which PyTorch is needed. Weights
        may lie under "state_dict", "params" or the like, and have the prefixes "module.",
        "_orig_mod." and those of some training frameworks.
      scale: of the network; needed for an FSRCNN, whose file does not say it.
      batch_norm_epsilon: what the batch normalization of a DnCNN adds to the variance. None for that
        of the code whose names the file has; see the module.
      report: called with a sentence about what was assumed.

    Returns:
      The module, its fields taken from the names and shapes, and {"params": ...} in float32. A
      batch normalisation is folded into the convolutions.

    Raises:
      InputError: the file cannot be read, is larger than `MAX_FILE_BYTES`, holds other objects than
        tensors or no network known here, or contradicts `scale`.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    try:
        given = scale if scale is not None else _scale_of(metadata)
        tensors, epsilon = _plain_names(tensors)
        normalized = any(name.endswith(".running_mean") for name in tensors)
        if batch_norm_epsilon is not None:
            if not normalized:
                raise InputError("it has no batch normalization; got batch_norm_epsilon")
            if not 0 < batch_norm_epsilon < 1:
                raise InputError(
                    f"batch_norm_epsilon must be above 0 and below 1; got {batch_norm_epsilon}"
                )
            epsilon = batch_norm_epsilon
        elif normalized and report is not None:
            report(
                f"{path}: batch normalization with epsilon {epsilon:g}, which the names of the "
                "weights imply"
            )
        module, tensors = _recognised(tensors, given, epsilon)
        if scale not in (None, module.scale):
            raise InputError(f"it is of scale {module.scale}, not {scale}")
        return module, {"params": _params(module, tensors)}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def save_torch_weights(path: str | Path, module: nn.Module, params: Mapping[str, Any]) -> None:
    """Writes weights as a `.safetensors` file that PyTorch users and `load_torch_weights` can read.

    Args:
      path: of the file, created or replaced.
      module: a DnCNN with norm "none" (see `fold_batch_norm`), an FSRCNN with upsampling
        "transposed", or an ESPCN with "subpixel" and tanh.
      params: its parameters.

    Raises:
      InputError: another suffix or network, parameters that are not the module's, or a file that
        cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"weights are written as .safetensors; got {path}")
    if not isinstance(module, TorchModel):
        raise InputError(f"no published form of a {type(module).__name__}; {_KNOWN}")
    found: Tensors = {}
    for name, keys in _layers(module).items():
        layer = _at(params, keys)
        tensors = {"weight": layer["slope"]} if "slope" in layer else layer_to_torch(layer)
        found |= {f"{name}.{key}": np.array(value, order="C") for key, value in tensors.items()}
    check_tensors(found, _shapes(module))
    data = safetensors.numpy.save(found, {"format": "pt", "scale": str(module.scale)})
    write_atomically(path, lambda file: file.write(data))


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a file, by name, and what else a `.safetensors` file says.

    Raises:
      InputError: the file cannot be read, is larger than `MAX_FILE_BYTES`, or holds other objects than
        tensors of finite numbers.
    """
    readers: dict[str, Callable[[Path], tuple[Tensors, dict[str, str]]]] = {
        ".safetensors": _read_safetensors,
        ".pth": _read_torch,
        ".pt": _read_torch,
    }
    if path.suffix not in readers:
        raise InputError(f"weights are .safetensors, .pth or .pt files; got {path}")
    check_regular(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if size > MAX_FILE_BYTES:
        raise InputError(f"{path} has {size} bytes; weights of at most {MAX_FILE_BYTES} are read")
    tensors, metadata = readers[path.suffix](path)
    tensors = _without_prefixes(tensors)
    for name, value in tensors.items():
        if not np.all(np.isfinite(value)):
            raise InputError(f"{path}: {name} holds numbers that are not finite")
    return tensors, metadata


def _without_prefixes(tensors: Tensors) -> Tensors:
    """Remove the prefixes that all names share, however many; of "model." one is DnCNN's own."""
    found = True
    while found and tensors:
        found = False
        for prefix in (*_PREFIXES, "model."):
            own = prefix == "model." and any(re.match(r"model\.\d", name) for name in tensors)
            if not own and all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
                found = True
    return tensors


def check_tensors(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises InputError unless these are the names and the shapes."""
    _check_names(set(tensors), set(shapes))
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise InputError(f"{name} has the shape {tensors[name].shape}; wanted {shape}")


def _read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            types = {name: file.get_slice(name).get_dtype() for name in list(file.keys())}
            other = sorted({kind for kind in types.values() if kind not in _READABLE})
            if other:
                raise InputError(
                    f"{path}: weights are of type {' or '.join(_READABLE)}; got {', '.join(other)}"
                )
            tensors = {name: np.asarray(file.get_tensor(name), np.float32) for name in types}
            return tensors, file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path} as safetensors: {error}") from error


def _read_torch(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"reading {path} takes PyTorch: pip install torch, or convert the file to .safetensors"
        ) from error
    try:
        _refuse_compressed(path)
        values = torch.load(path, map_location="cpu", weights_only=True)
        return _plain_tensors(path, values), {}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    except Exception as error:  # Whatever PyTorch stumbles over in a file that is none of its.
        raise InputError(
            f"{path} is no file of PyTorch weights, tensors in a dict and nothing else; a whole "
            "module is saved as weights by torch.save(module.state_dict(), ...)"
        ) from error


def _refuse_compressed(path: Path) -> None:
    """Raises InputError for an archive that would unpack to more than the file; PyTorch writes none."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > path.stat().st_size:
        raise InputError(
            f"{path}, {path.stat().st_size:,} bytes, unpacks to {unpacked:,}; PyTorch's weights are "
            "not compressed"
        )


def _plain_tensors(path: Path, values: Any) -> Tensors:
    """The tensors among what PyTorch read, which take no more memory than they say.

    A sparse or expanded tensor of a few bytes may stand for terabytes.
    """
    import torch

    for _ in range(_DEEPEST):
        if not isinstance(values, Mapping):
            break
        inner = [name for name in _WRAPPERS if isinstance(values.get(name), Mapping)]
        if inner:  # First, as a checkpoint may hold a tensor of its own beside the weights.
            values = values[inner[0]]
            continue
        tensors = {str(name): value for name, value in values.items() if torch.is_tensor(value)}
        if tensors:
            for name, value in tensors.items():
                kind = str(value.dtype).removeprefix("torch.")
                if value.layout != torch.strided or kind not in _READABLE.values():
                    raise InputError(
                        f"{path}: weights are dense, of type {' or '.join(_READABLE.values())}; got "
                        f"{name} of {kind}, {value.layout}"
                    )
            size = sum(4 * value.numel() for value in tensors.values())
            if size > MAX_FILE_BYTES:
                raise InputError(
                    f"{path} stands for {size} bytes of numbers; weights of at most "
                    f"{MAX_FILE_BYTES} are read"
                )
            return {name: value.detach().float().numpy() for name, value in tensors.items()}
        names = _some([str(name) for name in values])
        raise InputError(f"{path} holds no tensors; it has {names}; wanted one of {_WRAPPERS}")
    raise InputError(f"{path} holds no weights by name but a {type(values).__name__}")


def _scale_of(metadata: Mapping[str, str]) -> int | None:
    text = metadata.get("scale")
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]?", text):
        raise InputError(f"its scale is a number from 1 to 99; got {text!r}")
    return int(text)


def _plain_names(tensors: Tensors) -> tuple[Tensors, float]:
    """Return a DnCNN's tensors under the names of KAIR, and the epsilon of the code they are from."""
    if "dncnn.0.weight" not in tensors:
        return tensors, _ZHANG_EPSILON
    epsilon = _ZHANG_EPSILON if "dncnn.0.bias" in tensors else _TORCH_EPSILON
    renamed = {re.sub(r"^dncnn\.", "model.", name): value for name, value in tensors.items()}
    for place in _kernels(renamed, "model"):
        channels = renamed[f"model.{place}.weight"].shape[0]
        renamed.setdefault(f"model.{place}.bias", np.zeros(channels, np.float32))
    return renamed, epsilon


def _recognised(tensors: Tensors, scale: int | None, epsilon: float) -> tuple[TorchModel, Tensors]:
    """The network that tensors are of, and these under the names that `_layers` gives."""
    if "last_part.weight" in tensors:
        return _recognised_fsrcnn(tensors, scale), tensors
    if "last_part.0.weight" in tensors:
        return _recognised_espcn(tensors), tensors
    if "model.0.weight" in tensors:
        return _recognised_dncnn(tensors, epsilon)
    raise InputError(f"no known network: it has {_some(tensors)}; {_KNOWN}")


def _recognised_fsrcnn(tensors: Tensors, scale: int | None) -> FSRCNN:
    d, channels, *_ = _kernel_shape(tensors, "first_part.0.weight")
    s = _kernel_shape(tensors, "mid_part.0.weight")[0]
    m = len(_kernels(tensors, "mid_part")) - 2
    if scale is None:
        raise InputError(
            "it is an FSRCNN, whose file does not say by how much it enlarges: give scale"
        )
    return FSRCNN(scale=scale, channels=channels, d=d, s=s, m=max(m, 0))


def _recognised_espcn(tensors: Tensors) -> ESPCN:
    first, channels, *_ = _kernel_shape(tensors, "first_part.0.weight")
    second = _kernel_shape(tensors, "first_part.2.weight")[0]
    outputs = _kernel_shape(tensors, "last_part.0.weight")[0]
    scale = math.isqrt(outputs // channels)
    if scale < 1 or scale**2 * channels != outputs:
        raise InputError(
            f"an ESPCN of {channels} channels ends in {channels} times a square of channels; got "
            f"{outputs}"
        )
    return ESPCN(scale=scale, channels=channels, features=(first, second))


def _recognised_dncnn(tensors: Tensors, epsilon: float) -> tuple[DnCNN, Tensors]:
    if any(name.endswith(".running_mean") for name in tensors):
        tensors = _folded_dncnn(tensors, epsilon)
    places = _kernels(tensors, "model")
    features, inputs, kernel_size, _ = _kernel_shape(tensors, "model.0.weight")
    outputs = _kernel_shape(tensors, f"model.{places[-1]}.weight")[0]
    if inputs != outputs:
        raise InputError(
            f"a DnCNN has as many channels before it as after it; got {inputs} and {outputs}, as "
            "FDnCNN and FFDNet have under the same names"
        )
    return DnCNN(inputs, max(len(places), 2), features, kernel_size, norm="none"), tensors


def _folded_dncnn(tensors: Tensors, epsilon: float) -> Tensors:
    """Without the normalisation after each convolution but the first and the last."""
    places = _kernels(tensors, "model")
    unfolded = [0, *range(2, 3 * len(places) - 3, 3)]
    norms = [place + 1 for place in unfolded[1:-1]]
    kinds = ("weight", "bias", "running_mean", "running_var")
    wanted = {f"model.{place}.{kind}" for place in unfolded for kind in kinds[:2]}
    wanted |= {f"model.{place}.{kind}" for place in norms for kind in kinds}
    counters = {f"model.{place}.num_batches_tracked" for place in norms}
    _check_names(set(tensors) - counters, wanted)
    folded: Tensors = {}
    for i, place in enumerate(unfolded):
        layer = {kind: tensors[f"model.{place}.{kind}"] for kind in kinds[:2]}
        if place + 1 in norms:
            norm = [tensors[f"model.{place + 1}.{kind}"] for kind in kinds]
            channels = layer["bias"].shape
            if any(array.shape != channels for array in norm):
                raise InputError(
                    f"model.{place + 1} normalises the layer before it, of shape {channels}; got "
                    f"arrays of {sorted({array.shape for array in norm})}"
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
    """PyTorch's name of each layer of a network and the keys of its parameters here."""
    if isinstance(module, DnCNN):
        if module.norm != "none":
            raise InputError("a published DnCNN has no normalisation: apply fold_batch_norm first")
        if module.depth == _IRCNN_DEPTH:
            raise InputError(
                f"a DnCNN of depth {_IRCNN_DEPTH} has the names and shapes of IRCNN, whose layers "
                "are dilated: a file does not tell them apart"
            )
        inner = {f"model.{2 * i}": (f"layer_{i}", "Conv_0") for i in range(module.depth - 1)}
        return inner | {f"model.{2 * (module.depth - 1)}": ("to_noise",)}
    if isinstance(module, FSRCNN):
        if module.upsampling != "transposed":
            raise InputError(
                f'a published FSRCNN has upsampling "transposed"; got {module.upsampling!r}'
            )
        middle = ["shrink", *(f"map_{i}" for i in range(module.m)), "expand"]
        places = {"first_part.0": "extract", "first_part.1": "extract_prelu"}
        for i, name in enumerate(middle):
            places |= {f"mid_part.{2 * i}": name, f"mid_part.{2 * i + 1}": f"{name}_prelu"}
        places["last_part"] = "upsample"
        return {theirs: (ours,) for theirs, ours in places.items()}
    if module.upsampling != "subpixel" or module.activation != "tanh":
        raise InputError(
            'a published ESPCN has upsampling "subpixel" and activation "tanh"; got '
            f"{module.upsampling!r} and {module.activation!r}"
        )
    return {
        "first_part.0": ("Conv_0",),
        "first_part.2": ("Conv_1",),
        "last_part.0": ("upsample",),
    }


def _shapes(module: TorchModel) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor that a file with this network has."""
    image = jax.ShapeDtypeStruct((1, 8, 8, module.channels), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    shapes = {}
    for name, keys in _layers(module).items():
        layer = _at(params, keys)
        if "slope" in layer:
            shapes[f"{name}.weight"] = layer["slope"].shape
            continue
        *size, second, first = layer["kernel"].shape
        shapes[f"{name}.weight"] = (first, second, *size)
        shapes[f"{name}.bias"] = layer["bias"].shape
    return shapes


def _params(module: TorchModel, tensors: Tensors) -> Params:
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


def _check_names(found: set[str], wanted: set[str]) -> None:
    if found != wanted:
        raise InputError(
            f"the names are not the network's: missing {_some(wanted - found)}; not wanted "
            f"{_some(found - wanted)}"
        )


def _kernels(tensors: Tensors, part: str) -> list[int]:
    """The places within a part that hold a kernel of four axes."""
    names = (re.fullmatch(rf"{part}\.(\d{{1,6}})\.weight", name) for name in tensors)
    return sorted(int(name[1]) for name in names if name and tensors[name[0]].ndim == 4)


def _kernel_shape(tensors: Tensors, name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise InputError(f"{name} is missing; it has {_some(tensors)}")
    shape = tensors[name].shape
    if len(shape) != 4 or 0 in shape:
        raise InputError(f"{name} is a kernel of four axes; got the shape {shape}")
    return shape


def _at(params: Mapping[str, Any], keys: tuple[str, ...]) -> Mapping[str, Any]:
    for key in keys:
        if key not in params:
            raise InputError(
                f"these parameters have no {'/'.join(keys)}; they have {_some(params)}"
            )
        params = params[key]
    return params


def _some(names: Any) -> str:
    """Some of the names, for an error message."""
    names = sorted(names)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "nothing") + more
