"""The page of the command line, generated from the parsers of the program."""

import argparse
import html
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File

from deconv_jax import cli

_INTRODUCTION = """\
# Command line

Generated from the parsers of the program; `deconv-jax COMMAND --help` prints the same.
"""


def on_files(files: Any, config: Any) -> Any:
    """Add the page."""
    files.append(File.generated(config, "reference/cli.md", content=page()))
    return files


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands and of their kinds, by name."""
    commands = argparse.ArgumentParser(prog="deconv-jax").add_subparsers()
    for found in pkgutil.iter_modules(cli.__path__):
        if found.name != "__main__":
            module = importlib.import_module(f"{cli.__name__}.{found.name}")
            if hasattr(module, "add_commands"):
                module.add_commands(commands)
    return dict(_with_kinds(commands.choices))


def _with_kinds(choices: dict[str, argparse.ArgumentParser]) -> Iterator[tuple[str, Any]]:
    """Yield the commands, each followed by its kinds, such as "launch slurm"."""
    for name, parser in choices.items():
        yield name, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from ((f"{name} {kind}", of_kind) for kind, of_kind in action.choices.items())


def page() -> str:
    """Return the page: usage, description and flags of each command."""
    lines = [_INTRODUCTION]
    for name, parser in command_parsers().items():
        usage = parser.format_usage().removeprefix("usage: ")
        description = parser.description or ""
        lines += [f"## {name}", "", *_description(f"{description[:1].upper()}{description[1:]}")]
        lines += ["", "```text", inspect.cleandoc(usage), "```", ""]
        for group in parser._action_groups:
            actions = [a for a in group._group_actions if not isinstance(a, argparse._HelpAction)]
            if actions and group.title not in ("options", "positional arguments"):
                lines += [f"**{(group.title or '').capitalize()}**", ""]
            for action in actions:
                lines += [_flag(action), f":   {_help(action)}", ""]
    return "\n".join(lines) + "\n"


def _description(text: str) -> Iterator[str]:
    """Yield the lines of a description, in which indented lines are commands."""
    in_code = False
    for line in text.splitlines():
        if line.strip() and line.startswith("  ") != in_code:
            in_code = not in_code
            yield "\n```bash" if in_code else "```\n"
        yield line.removeprefix("  ") if in_code else _escape(line)
    if in_code:
        yield "```"


def _flag(action: argparse.Action) -> str:
    value = action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
    text = ", ".join(action.option_strings) or str(value)
    if action.option_strings and action.nargs != 0:
        text += f" [{value}]" if action.nargs == "?" else f" {value}"
    required = " (required)" if action.required and action.option_strings else ""
    return f"<code>{html.escape(text)}</code>{required}"


def _help(action: argparse.Action) -> str:
    text = re.sub(r"\s+", " ", (action.help or "").replace("%%", "%")).strip()
    return _escape(f"{text[:1].upper()}{text[1:]}") or "&nbsp;"


def _escape(text: str) -> str:
    return re.sub(r"([<*_`\[$])", r"\\\1", text)
