"""Conversion between nested dicts and frozen dataclasses, with errors that suggest the correct key.

The fields of the dataclasses are the schema; there is no other list of valid keys. A field
annotated with a key of `choices` (a base class or protocol) takes a dict whose "name" selects the
class, and whose other keys are the fields of that class. Arrays are written as nested sequences of
numbers and become float32 NumPy arrays.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import flax.linen as nn
import numpy as np

from deconv_jax.errors import InputError, closest_match, did_you_mean

Choices = Mapping[Any, Mapping[str, type]]
"""Classes that a "name" can select, by annotation and name."""


class UnknownKey(InputError):
    """A key of a dict that its dataclass does not have.

    Attributes:
      path: Path of the dict with the key, such as "config.data".
      key: Unknown key.
    """

    def __init__(self, path: str, key: str, known: Iterable[str]):
        self.path, self.key, self._known = path, key, tuple(known)
        super().__init__(f"unknown key {path}.{key}; {did_you_mean(key, self._known)}")

    def with_suggestion(self, keys: Iterable[str]) -> InputError:
        """Return an error with the best suggestion: this one, or one for a key of another group.

        Suggestions are, in this order: the same key in another group, a similar key in the same
        group (the message of this error), and a similar key in another group. If there is none, the
        error itself lists the keys of its group.

        Args:
          keys: Paths of all keys of the config, such as "config.training.batch_size".
        """
        groups: dict[str, list[str]] = {}
        for key in sorted(keys):
            groups.setdefault(key.rpartition(".")[2], []).append(key)
        name = self.key
        if name not in groups and not closest_match(name, self._known):
            name = closest_match(name, groups) or name
        if name not in groups:
            return self
        meant = " or ".join(groups[name])
        return InputError(f"unknown key {self.path}.{self.key}; did you mean {meant}?")


def build(cls: type, values: Any, choices: Choices, path: str = "config", **given: Any) -> Any:
    """Build a dataclass from a dict.

    Args:
      cls: Dataclass to build.
      values: Fields by name; nested dataclasses are dicts.
      choices: Classes that a "name" in the dict can select.
      path: Name of `values` in error messages.
      **given: Values of fields that the dict must not set, used as they are. Those that `cls` does
        not have are ignored.

    Returns:
      Instance of `cls`.

    Raises:
      UnknownKey: A key of the dict is unknown, or given by `**given`. It is an InputError.
      InputError: `values` is not a mapping, a field without default is missing, a value has the
        wrong type or is not finite, or a "name" is missing or unknown.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{path} must be a group of settings; got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in _fields(cls)}
    given = {name: value for name, value in given.items() if name in fields}
    free = [name for name in fields if name not in given]
    for key in values:
        if key not in free:
            raise UnknownKey(path, str(key), free)
    for name in free:
        field = fields[name]
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            raise InputError(f"{path}.{name} is missing")
    made = {k: _value(hints[k], v, choices, f"{path}.{k}") for k, v in values.items()}
    return cls(**made, **given)


def choose_class(
    options: Mapping[str, type], values: Any, path: str
) -> tuple[type, dict[str, Any]]:
    """Select a class by the "name" of a dict.

    Args:
      options: Classes by name.
      values: Dict with a "name".
      path: Name of `values` in error messages.

    Returns:
      (class, values without "name").

    Raises:
      InputError: `values` is not a mapping, or its name is missing or unknown.
    """
    if not isinstance(values, Mapping) or "name" not in values:
        raise InputError(f"{path}.name is missing; {did_you_mean('', options)}")
    rest = dict(values)
    name = rest.pop("name")
    if not isinstance(name, str) or name not in options:
        raise InputError(f"{path}.name: no {name!r}; {did_you_mean(str(name), options)}")
    return options[name], rest


def to_dict(value: Any, choices: Choices, exclude: frozenset[str] = frozenset()) -> Any:
    """Convert a dataclass to a dict from which `build` restores it.

    Defaults are written out, and tuples and arrays become lists. A dataclass of `choices` also has
    its "name". Other values, such as numbers, strings and None, are returned as they are.

    Args:
      value: Dataclass, or a value of one of its fields.
      choices: As for `build`.
      exclude: Fields of `value` to leave out; fields of nested dataclasses are kept.
    """
    if isinstance(value, tuple):
        return [to_dict(v, choices) for v in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    names = {c: name for options in choices.values() for name, c in options.items()}
    named = {"name": names[type(value)]} if type(value) in names else {}
    return named | {
        field.name: to_dict(getattr(value, field.name), choices)
        for field in _fields(type(value))
        if field.name not in exclude
    }


def key_paths(cls: type, values: Any, choices: Choices, path: str = "config") -> Iterator[str]:
    """Yield the paths of all valid keys, such as "config.data.name", including nested dataclasses.

    The fields of a class that is selected by name are left out if its name is missing or unknown.

    Args:
      cls: Dataclass.
      values: Dict for `build`, possibly invalid. Its names select the nested dataclasses.
      choices: As for `build`.
      path: Prefix of the paths.
    """
    given = values if isinstance(values, Mapping) else {}
    hints = typing.get_type_hints(cls)
    for field in _fields(cls):
        hint, value, name = hints[field.name], given.get(field.name), f"{path}.{field.name}"
        groups = [h for h in (hint, *get_args(hint)) if _is_group(h, choices)]
        hint = groups[0] if len(groups) == 1 else hint
        if hint in choices:
            named = value.get("name") if isinstance(value, Mapping) else None
            hint = choices[hint].get(named) if isinstance(named, str) else None
            yield f"{name}.name"
        yield name
        if dataclasses.is_dataclass(hint):
            yield from key_paths(typing.cast(type, hint), value, choices, name)


def differences(old: Any, new: Any, path: str = "config") -> Iterator[str]:
    """Yield "path: old -> new" for every value that differs between two nested dicts.

    Keys are visited in sorted order. A missing key counts as None, and lists are compared as a
    whole.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}")
    elif old != new:
        yield f"{path}: {old!r} -> {new!r}"


def _fields(cls: type) -> list[Any]:
    hidden = ("parent", "name") if issubclass(cls, nn.Module) else ()
    return [f for f in dataclasses.fields(cls) if f.init and f.name not in hidden]


def _value(hint: Any, value: Any, choices: Choices, path: str) -> Any:
    if hint in choices:
        cls, rest = choose_class(choices[hint], value, path)
        return build(cls, rest, choices, path)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, choices, path)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union(arguments, value, choices, path)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise InputError(
                f"{path} must be one of {', '.join(map(repr, arguments))}; got {value!r}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{path} must be a sequence; got {value!r}")
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        if len(arguments) != len(value):
            raise InputError(f"{path} must have {len(arguments)} entries; got {value!r}")
        entries = zip(arguments, value, strict=True)
        return tuple(_value(h, v, choices, f"{path}[{i}]") for i, (h, v) in enumerate(entries))
    if hint is np.ndarray:
        return _array(value, path)
    if isinstance(value, np.generic):
        value = value.item()
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise InputError(
                f"{path} must be finite; got an integer that no float can represent"
            ) from None
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path} must be finite; got {value}")
    if hint is type(None):
        hint = types.NoneType
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{path} must be {hint.__name__}; got {value!r} ({type(value).__name__})")
    return value


def _is_group(hint: Any, choices: Choices) -> bool:
    """Return whether values with this annotation are written as dicts."""
    return hint in choices or dataclasses.is_dataclass(hint)


def _array(value: Any, path: str) -> np.ndarray:
    try:
        return np.array(value, np.float32)
    except (OverflowError, TypeError, ValueError):
        raise InputError(f"{path} must be nested sequences of numbers; got {value!r}") from None


def _union(hints: tuple[Any, ...], value: Any, choices: Choices, path: str) -> Any:
    groups = [hint for hint in hints if _is_group(hint, choices)]
    if isinstance(value, Mapping) and len(groups) == 1:
        return _value(groups[0], value, choices, path)
    for hint in hints:
        try:
            return _value(hint, value, choices, path)
        except InputError:
            continue
    wanted = " or ".join(
        "None" if h is type(None) else getattr(h, "__name__", str(h)) for h in hints
    )
    raise InputError(f"{path} must be {wanted}; got {value!r}")
