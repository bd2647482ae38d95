"""Tables in Markdown files, rendered from records and never typed.

A file marks the place of a table with `<!-- table: NAME -->` and `<!-- end -->`; the lines between are
replaced. NAME is a module of `experiments/tables`, or MODULE/VIEW for one of its `VIEWS`. Such a module has

    PARTS     what is measured: functions of the data folder that return a record, by name
    VERSION   an integer; raise it when a code change alters the results, which makes old records stale
    render    a function of the records by part that returns Markdown
    VIEWS     optional: further functions like `render`, by name
    TIMES     optional: True if the records are times, which differ whenever they are measured

A part is run once. Its record is kept with its provenance, see `records`.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import kind_of, read_json, to_json, write_json, write_text
from deconv_jax.notebook_cells import colab_badge, repository_url, with_install_cell
from deconv_jax.records import (
    load_table,
    read_record,
    record_differences,
    record_path,
    table_names,
)

NOTEBOOKS = Path("colab")
BADGE = "badge"
"""Name in the comment `<!-- table: NAME -->` that marks the place of the Colab badge."""

Address = Callable[[str, str], str]
"""Function of "record" and "TABLE/PART", or of "card" and the name of a model, that returns the address of a link."""

TABLE_MARK = "<!-- table: "
_MARKED = re.compile(rf"({TABLE_MARK}(?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_LINKED = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<kind>record|card):(?P<name>[^)\s]+)\)")


def render_texts(root: Path, *, check: bool = False) -> list[Path]:
    """Render every marked table of the project's Markdown files, and the install cells of the notebooks.

    Args:
      root: Top folder of the project.
      check: Whether to write nothing and only return the paths.

    Returns:
      Paths of the files that differ, or differed, from the records.

    Raises:
      InputError: A file or a record cannot be read, or a mark names no table.
    """
    if kind_of(root / "README.md") != "file":
        raise InputError(f"{root / 'README.md'} is missing; run this in the project's top folder")
    changed = []
    rendered: dict[Path, Callable[[str], str]] = {
        path: lambda text: render_text(root, text) for path in markdown_files(root)
    }
    address = repository_url(root)
    for path in sorted((root / NOTEBOOKS).glob("*.ipynb")):
        rendered[path] = lambda text: with_install_cell(text, address)
    for path, render in rendered.items():
        before = path.read_text()
        after = render(before)
        if after != before:
            changed.append(path)
            if not check:
                write_text(path, after)
    return changed


def markdown_files(root: Path) -> list[Path]:
    """Return the paths of the Markdown files that may have tables: README.md, then docs, then experiments."""
    return [
        root / "README.md",
        *sorted((root / "docs").rglob("*.md")),
        *sorted((root / "experiments").rglob("*.md")),
    ]


def run_missing(root: Path, name: str, data: Path) -> list[Path]:
    """Run the parts of a table that have no record yet, and write their records.

    A record consists of what the part returns, the provenance, "seed" (0 unless the part returns it),
    "table_version" and "wall_time_s". The name of each part is printed as it starts.

    Args:
      root: Top folder of the project.
      name: "TABLE", or "TABLE/PART" for one part.
      data: Folder of the data sets and weights.

    Returns:
      Paths of the records written; none if all exist.

    Raises:
      InputError: There is no such table or part, or data is missing.
    """
    name, _, only = name.partition("/")
    table = _table(root, name)
    written = []
    for part in [_known_part(name, table, only)] if only else table.PARTS:
        path = record_path(root, name, part)
        if not path.exists():
            write_json(path, _measure(name, table, part, data))
            written.append(path)
    return written


def measure_again(
    root: Path, name: str, data: Path, tolerance: float
) -> tuple[list[str], dict[str, Any]]:
    """Measure a record again, without changing it, and compare.

    Args:
      root: Top folder of the project.
      name: "TABLE/PART".
      data: Folder of the data sets and weights.
      tolerance: Largest relative difference of numbers that is no difference.

    Returns:
      The differences, see `records.record_differences`, and the new record.

    Raises:
      InputError: There is no such table or part, it has no record, or it is a benchmark; or data is missing.
    """
    name, _, part = name.partition("/")
    table = _table(root, name)
    path = record_path(root, name, _known_part(name, table, part))
    if kind_of(path) != "file":
        raise InputError(f"{name}/{part} has no record to compare with")
    if getattr(table, "TIMES", False):
        raise InputError(
            f"the records of {name!r} are times and memory, which cannot be compared; to measure {part!r} again, "
            f"remove {path.relative_to(root)} and run: deconv-jax tables {name}/{part}"
        )
    before = read_json(path)
    # A record in a file has lists, no tuples, and null for NaN.
    now = json.loads(to_json(_measure(name, table, part, data)))
    return list(record_differences(before, now, tolerance)), now


def _known_part(name: str, table: ModuleType, part: str) -> str:
    if part not in table.PARTS:
        raise InputError(f"table {name!r} has no part {part!r}; {did_you_mean(part, table.PARTS)}")
    return part


def _measure(name: str, table: ModuleType, part: str, data: Path) -> dict[str, Any]:
    """Return the record of a part, whose name is printed."""
    from deconv_jax.workdir import provenance

    print(f"{name}/{part} ...", flush=True)
    started, origin = time.perf_counter(), provenance()
    record = {"seed": 0, "table_version": table.VERSION} | origin | table.PARTS[part](data)
    return record | {"wall_time_s": round(time.perf_counter() - started, 2)}


def linked(text: str, record: Mapping[str, Any]) -> str:
    """Return the text of a cell with the record that it shows, to which the documentation site links.

    The link is "[TEXT](record:TABLE/PART)". Rendered files have the text alone. An empty text, or a record without
    the "record" of `records.read_record`, has no link.
    """
    return f"[{text}](record:{record['record']})" if text and "record" in record else text


def linked_to_card(text: str, model: str) -> str:
    """Return the text of a cell with a named model, to whose card the site links; see `linked`."""
    return f"[{text}](card:{model})"


def markdown(
    header: str, rows: Sequence[Sequence[str]], record: Mapping[str, Any] | None = None
) -> str:
    """Return a Markdown table.

    Nothing is escaped, and there is no final line break.

    Args:
      header: Names of the columns, separated by " | ".
      rows: One text per column each.
      record: Record that all rows show, or None; see `linked`.
    """
    columns = header.split(" | ")
    if record is not None:
        rows = [[linked(first, record), *others] for first, *others in rows]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def render_text(root: Path, text: str, address: Address | None = None) -> str:
    """Return a text with its marked tables rendered.

    Args:
      root: Top folder of the project.
      text: Markdown text.
      address: Function that returns the address of a link; None for tables without links.

    Raises:
      InputError: A record cannot be read, or a mark names no table.
    """

    def link(match: re.Match[str]) -> str:
        if address is None:
            return match["text"]
        return f"[{match['text']}]({address(match['kind'], match['name'])})"

    return _MARKED.sub(lambda mark: _LINKED.sub(link, _render(root, mark)), text)


def _render(root: Path, mark: re.Match[str]) -> str:
    if mark["name"] == BADGE:
        return f"{mark[1]}{colab_badge(repository_url(root))}\n{mark[3]}"
    name, _, view = mark["name"].partition("/")
    table = _table(root, name)
    views = getattr(table, "VIEWS", {})
    if view and view not in views:
        raise InputError(f"table {name!r} has no view {view!r}; {did_you_mean(view, views)}")
    paths = {part: record_path(root, name, part) for part in table.PARTS}
    records = {part: read_record(path) for part, path in paths.items() if path.exists()}
    text = (views[view] if view else table.render)(records)
    return f"{mark[1]}{text}\n{mark[3]}"


def _table(root: Path, name: str) -> ModuleType:
    known = table_names(root)
    if name not in known:
        raise InputError(f"no table {name!r}; {did_you_mean(name, [*known, BADGE])}")
    return load_table(root, name)
