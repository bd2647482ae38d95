"""The page of all keys of a config, generated from the dataclasses that check it."""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from flax import linen as nn
from mkdocs.structure.files import File

from deconv_jax import experiment

_INTRODUCTION = """\
# Config keys

Generated from the dataclasses that check a config. Some groups have a key `name`, which picks a class; the other
keys of the group are the fields of this class. [Configs](../guides/configs.md) explains how to write a config.
"""

_ENTRY = re.compile(
    r"^  (?P<names>\w+(?:, \w+)*): (?P<text>.*(?:\n   +.*|\n(?=\n    ))*)", re.MULTILINE
)


def on_files(files: Any, config: Any) -> Any:
    """Add the page."""
    files.append(File.generated(config, "reference/config.md", content=page()))
    return files


def page() -> str:
    """Return the page: the experiment, its groups, and the classes that a `name` picks."""
    lines = [_INTRODUCTION, *_section("## The config", experiment.Experiment)]
    bases: dict[Any, Mapping[str, type]] = {}
    done: set[Any] = set()
    for path, cls in _groups(experiment.Experiment, "config", bases):
        lines += _section(f"## `{path}`", cls)
        done.add(cls)
    # Classes may have further groups, with further bases.
    while set(bases) - done:
        base = next(b for b in bases if b not in done)
        done.add(base)
        groups: dict[type, str] = {}
        lines += ["", f"## {_kind(base)}", ""]
        for name, cls in sorted(bases[base].items()):
            lines += _section(f"### {name}", cls)
            groups |= {group: path for path, group in _groups(cls, "", bases)}
        for group, path in groups.items():
            if group not in done:
                done.add(group)
                lines += _section(f"### {path.lstrip('.')} (group)", group)
    return "\n".join(lines) + "\n"


def _groups(
    cls: type, path: str, bases: dict[Any, Mapping[str, type]]
) -> Iterator[tuple[str, type]]:
    """Yield the nested dataclasses of a class with their paths; add the named choices to `bases`."""
    hints = typing.get_type_hints(cls)
    for field in _fields(cls):
        for hint in (hints[field.name], *typing.get_args(hints[field.name])):
            if hint in experiment._CHOICES:
                bases.setdefault(hint, experiment._CHOICES[hint])
            elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
                yield f"{path}.{field.name}", hint
                yield from _groups(hint, f"{path}.{field.name}", bases)


def _section(heading: str, cls: type) -> Iterator[str]:
    """Yield the summary of a class, and its fields with type, default and description."""
    summary = (inspect.getdoc(cls) or "").partition("\nAttributes:")[0]
    described = {
        name: " ".join(entry["text"].split())
        for base in reversed(cls.__mro__)
        for entry in _ENTRY.finditer(_attributes(base))
        for name in entry["names"].split(", ")
    }
    yield from ("", heading, "", summary.strip(), "")
    hints = typing.get_type_hints(cls)
    for field in _fields(cls):
        text = described.get(field.name) or "&nbsp;"
        yield from (
            f"`{field.name}` : {_type(hints[field.name])}{_default(field, hints[field.name])}",
            f":   {text}",
            "",
        )


def _attributes(cls: type) -> str:
    """Return the section "Attributes" of a class's own docstring."""
    return inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")[2]


def _fields(cls: type) -> list[Any]:
    hidden = {"parent", "name"} if issubclass(cls, nn.Module) else set()
    if cls in experiment._CHOICES.get(experiment.Task, {}).values():
        hidden |= experiment._SHARED_FIELDS
    return [f for f in dataclasses.fields(cls) if f.init and f.name not in hidden]


def _kind(base: Any) -> str:
    """Return the title of the section on the classes of a base, such as "Models"."""
    titles = {
        "LabeledSourceConfig": "Labeled data sources",
        "Module": "Models",
        "SourceConfig": "Data sources",
    }
    return titles.get(base.__name__, f"{base.__name__}s")


def _type(hint: Any) -> str:
    """Return an annotation as Markdown."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in experiment._CHOICES:
        return f"[{hint.__name__}](#{_kind(hint).lower().replace(' ', '-')})"
    if origin is typing.Literal:
        return " or ".join(f"`{value!r}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(a) for a in arguments)
    if origin is tuple:
        inner = [_type(a) for a in arguments if a is not ...]
        return f"sequence of {inner[0]}" if ... in arguments else f"({', '.join(inner)})"
    if hint is type(None):
        return "`None`"
    return getattr(hint, "__name__", str(hint))


def _required(cls: Any) -> list[Any]:
    unset = dataclasses.MISSING
    return [f for f in _fields(cls) if f.default is unset and f.default_factory is unset]


def _default(field: Any, hint: Any) -> str:
    """Return the default of a field as Markdown."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "" if dataclasses.is_dataclass(hint) and not _required(hint) else " (required)"
    if dataclasses.is_dataclass(value):
        return ""
    return f", default `{value!r}`"
