"""Description of a network whose published weights can be read, and helpers to recognize it."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn

from deconv_jax.errors import InputError
from deconv_jax.models.weight_files import Tensors, abbreviate_names

LayerPaths = dict[str, tuple[str, ...]]
"""Path of the parameters in Flax, by PyTorch's name of the layer."""


@dataclasses.dataclass(frozen=True)
class Hints:
    """Attributes of a network that its file may not determine, as given by the caller.

    Attributes:
      scale: Ratio of output to input height and width; None if unknown.
      batch_norm_epsilon: Constant that batch normalization adds to the variance; None if unknown.
    """

    scale: int | None = None
    batch_norm_epsilon: float | None = None


@dataclasses.dataclass(frozen=True)
class Recognized:
    """A network that was recognized from the names and shapes of its tensors.

    Attributes:
      module: The network.
      tensors: Its tensors, under the names of `Architecture.layers`.
      noise_conditional: Whether the network takes a noise-level map as an additional channel.
      assumptions: Attributes that the file does not state, as clauses of a message.
    """

    module: nn.Module
    tensors: Tensors
    noise_conditional: bool = False
    assumptions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network whose published weights can be read.

    Attributes:
      name: Name of the network.
      module: Class of its module.
      namings: Typical tensor names of each implementation, separated by commas. The first naming is
        the one that files are written in.
      recognize: Function from tensors to the network, or None if the names are not its own. Raises
        InputError if the names are its own and the shapes are not.
      layers: Function from a module to its layers in the first naming. Raises InputError if a file
        cannot represent the module.
    """

    name: str
    module: type[nn.Module]
    namings: tuple[str, ...]
    recognize: Callable[[Tensors, Hints], Recognized | None]
    layers: Callable[[Any], LayerPaths]


def rename(tensors: Tensors, *rules: tuple[str, str | Callable[[re.Match[str]], str]]) -> Tensors:
    """Return the tensors under other names.

    Args:
      tensors: Tensors by name.
      rules: Regular expressions for the start of a name and their replacements, as for `re.sub`. The
        first that matches a name applies; other names stay.
    """

    def renamed(name: str) -> str:
        for pattern, replacement in rules:
            new, count = re.subn(rf"^(?:{pattern})", replacement, name)
            if count:
                return new
        return name

    return {renamed(name): value for name, value in tensors.items()}


def has_names(tensors: Tensors, pattern: str) -> bool:
    """Return whether all names match a regular expression as a whole."""
    return all(re.fullmatch(pattern, name) for name in tensors)


def conv_indices(tensors: Tensors, part: str) -> list[int]:
    """Return the indices of the layers of a part that have a kernel with four axes."""
    names = (re.fullmatch(rf"{part}\.(\d{{1,6}})\.weight", name) for name in tensors)
    return sorted(int(name[1]) for name in names if name and tensors[name[0]].ndim == 4)


def kernel_shape(tensors: Tensors, name: str) -> tuple[int, ...]:
    """Return the shape of a kernel with four axes; raise InputError if there is none."""
    if name not in tensors:
        raise InputError(f"{name} is missing; it has {abbreviate_names(tensors)}")
    shape = tensors[name].shape
    if len(shape) != 4 or 0 in shape:
        raise InputError(f"{name} must be a non-empty kernel with four axes; got shape {shape}")
    return shape


def name_patterns(names: Iterable[str]) -> set[str]:
    """Return the distinct names after every number is replaced by N."""
    return {re.sub(r"\d+", "N", name) for name in names}
