"""Tables in Markdown files, rendered from records and never typed.

A file marks the place of a table with `<!-- table: NAME -->` and `<!-- end -->`; the lines between are
replaced. NAME is a module of `experiments/tables`, or MODULE/VIEW for one of its `VIEWS`. Such a module has

    PARTS     what is measured: functions of the data folder that return a record, by name
    VERSION   an integer; raise it when a code change alters the results, which makes old records stale
    render    a function of the records by part that returns Markdown
    VIEWS     optional: further functions like `render`, by name

A part is run once. Its record is kept with its provenance, see `records`.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import kind_of, write_json, write_text
from deconv_jax.notebook_cells import colab_badge, repository_url, with_install_cell
from deconv_jax.records import load_table, read_record, record_path, table_names

NOTEBOOKS = Path("colab")
BADGE = "badge"
"""Name in the comment `<!-- table: NAME -->` that marks the place of the Colab badge."""

_MARKED = re.compile(r"(<!-- table: (?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


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
        path: lambda text: _MARKED.sub(lambda mark: _render(root, mark), text)
        for path in markdown_files(root)
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
    from deconv_jax.workdir import provenance

    name, _, only = name.partition("/")
    table = _table(root, name)
    if only and only not in table.PARTS:
        raise InputError(f"table {name!r} has no part {only!r}; {did_you_mean(only, table.PARTS)}")
    written = []
    for part, run in table.PARTS.items():
        path = record_path(root, name, part)
        if path.exists() or (only and part != only):
            continue
        print(f"{name}/{part} ...", flush=True)
        started, origin = time.perf_counter(), provenance()
        record = {"seed": 0, "table_version": table.VERSION} | origin | run(data)
        record["wall_time_s"] = round(time.perf_counter() - started, 2)
        write_json(path, record)
        written.append(path)
    return written


def markdown(header: str, rows: list[list[str]]) -> str:
    """Return a Markdown table; `header` has the names of its columns, separated by " | ".

    Each row has one text per column. Nothing is escaped, and there is no final line break.
    """
    columns = header.split(" | ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
