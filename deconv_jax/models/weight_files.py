"""Tensors of PyTorch weight files (`.safetensors`, `.pth`, `.pt`), read safely and checked.

Unpickling a file can execute arbitrary code. `.pth` and `.pt` files are read by PyTorch's
restricted unpickler (`weights_only=True`), which creates only tensors and containers.
"""

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from deconv_jax.errors import InputError
from deconv_jax.io import check_regular

MAX_FILE_BYTES = 2 * 1024**3
"""Largest accepted size of a file, and of its tensors in memory."""

Tensors = dict[str, np.ndarray]

_CHECKPOINT_KEYS = ("state_dict", "params_ema", "params", "model_state_dict", "model")
"""Keys under which training checkpoints store the weights."""

_PREFIXES = ("module.", "_orig_mod.", "net.", "net_g.", "netG.", "generator.")
"""Prefixes that data parallelism, compilation and training frameworks add to all names."""

_MAX_DEPTH = 4
_DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "I64": "int64"}
"""Accepted dtypes: safetensors' names and PyTorch's."""


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Read the tensors of a file.

    In a `.pth` or `.pt` file, the weights may be nested under "state_dict", "params_ema", "params",
    "model_state_dict" or "model", or another key if it is the only one with tensors under it; values
    beside them that are not tensors are ignored. Prefixes that all names share, such as "module.",
    are removed.

    Args:
      path: A `.safetensors` file, or a `.pth` or `.pt` file, which requires PyTorch.

    Returns:
      The tensors by name, in float32, and the metadata of a `.safetensors` file; {} for others.

    Raises:
      InputError: Another suffix, the file cannot be read or PyTorch is missing, it is larger than
        `MAX_FILE_BYTES`, has no tensors or several networks (`.pth` and `.pt`), or has a tensor that is sparse, of
        another dtype than float16, float32, float64 or int64, or not finite.
    """
    readers: dict[str, Callable[[Path], tuple[Tensors, dict[str, str]]]] = {
        ".safetensors": _read_safetensors,
        ".pth": _read_torch,
        ".pt": _read_torch,
    }
    if path.suffix not in readers:
        raise InputError(f"weights must be a .safetensors, .pth or .pt file; got {path}")
    check_regular(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if size > MAX_FILE_BYTES:
        raise InputError(f"{path} has {size} bytes; a weight file has at most {MAX_FILE_BYTES}")
    tensors, metadata = readers[path.suffix](path)
    tensors = _without_prefixes(tensors)
    for name, value in tensors.items():
        if not np.all(np.isfinite(value)):
            raise InputError(f"{path}: {name} contains numbers that are not finite")
    return tensors, metadata


def check_tensors(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError unless the tensors have exactly the given names and shapes."""
    check_names(set(tensors), set(shapes))
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise InputError(
                f"{name} has the wrong shape: expected {shape}, got {tensors[name].shape}"
            )


def check_names(found: set[str], expected: set[str]) -> None:
    """Raise InputError unless the two sets of names are equal."""
    if found != expected:
        raise InputError(
            f"the names do not match the network: missing {abbreviate_names(expected - found)}; "
            f"unexpected {abbreviate_names(found - expected)}"
        )


def abbreviate_names(names: Iterable[str]) -> str:
    """Return the first eight names in sorted order, and " and N more" if there are more.

    The text is for an error message; it is "nothing" if there are no names.
    """
    names = sorted(names)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "nothing") + more


def _without_prefixes(tensors: Tensors) -> Tensors:
    """Remove the prefixes that all names share, except for the "model." of DnCNN's own names."""
    found = True
    while found and tensors:
        found = False
        for prefix in (*_PREFIXES, "model."):
            own = prefix == "model." and any(re.match(r"model\.\d", name) for name in tensors)
            if not own and all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
                found = True
    return tensors


def _read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            dtypes = {name: file.get_slice(name).get_dtype() for name in list(file.keys())}
            other = sorted({dtype for dtype in dtypes.values() if dtype not in _DTYPES})
            if other:
                raise InputError(
                    f"{path}: weights must be of dtype {' or '.join(_DTYPES)}; "
                    f"got {', '.join(other)}"
                )
            tensors = {name: np.asarray(file.get_tensor(name), np.float32) for name in dtypes}
            return tensors, file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path} as safetensors: {error}") from error


def _read_torch(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"reading {path} requires PyTorch: pip install torch, or convert the file to "
            ".safetensors"
        ) from error
    try:
        _refuse_compressed(path)
        values = torch.load(path, map_location="cpu", weights_only=True)
        return _dense_tensors(path, values), {}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    except Exception as error:  # PyTorch raises many types of errors for malformed files.
        raise InputError(
            f"{path} is not a file of PyTorch weights, which contains tensors in a dict and nothing "
            "else; save the weights of a module by torch.save(module.state_dict(), ...)"
        ) from error


def _refuse_compressed(path: Path) -> None:
    """Raise InputError for an archive that unpacks to more than its size; PyTorch writes none."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > path.stat().st_size:
        raise InputError(
            f"{path} has {path.stat().st_size:,} bytes and unpacks to {unpacked:,}; PyTorch's "
            "weights are not compressed"
        )


def _dense_tensors(path: Path, values: Any) -> Tensors:
    """Return the tensors of a checkpoint, after a check of their size in memory.

    A sparse or expanded tensor stored in a few bytes can have terabytes of elements.
    """
    import torch

    for _ in range(_MAX_DEPTH):
        if not isinstance(values, Mapping):
            break
        inner = [key for key in _CHECKPOINT_KEYS if isinstance(values.get(key), Mapping)]
        if inner:  # Checked first, because a checkpoint may store other tensors beside the weights.
            values = values[inner[0]]
            continue
        tensors = {str(name): value for name, value in values.items() if torch.is_tensor(value)}
        if tensors:
            for name, value in tensors.items():
                dtype = str(value.dtype).removeprefix("torch.")
                if value.layout != torch.strided or dtype not in _DTYPES.values():
                    raise InputError(
                        f"{path}: weights must be dense, of dtype {' or '.join(_DTYPES.values())}; "
                        f"got {name} of {dtype}, {value.layout}"
                    )
            size = sum(4 * value.numel() for value in tensors.values())
            if size > MAX_FILE_BYTES:
                raise InputError(
                    f"{path} expands to {size} bytes of float32; weights have at most "
                    f"{MAX_FILE_BYTES}"
                )
            return {name: value.detach().float().numpy() for name, value in tensors.items()}
        nested = [
            key
            for key, value in values.items()
            if isinstance(value, Mapping) and any(map(torch.is_tensor, value.values()))
        ]
        if len(nested) == 1:
            values = values[nested[0]]
            continue
        names = abbreviate_names(map(str, nested or values))
        raise InputError(
            f"{path} contains several networks: {names}; save one of them to a file of its own"
            if nested
            else f"{path} contains no tensors: it has {names}; expected one of {_CHECKPOINT_KEYS}"
        )
    raise InputError(f"{path} must contain a dict of weights; got a {type(values).__name__}")
