"""Pages of the records, to which the rows of rendered tables link, and sortable tables on the pages of results.

A page has the records of one table, each with its origin, the command that measures it again, and its JSON file.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from deconv_jax.io import read_json
from deconv_jax.records import RESULTS, TABLES, command_again
from deconv_jax.tables import TABLE_MARK, markdown, render_text

ROOT = Path(__file__).parents[2]
FOLDER = "results/records"
"""Folder of the pages of the site."""
CARDS = "named_models.md"
_FRONT_MATTER = "---\nsearch:\n  exclude: true\n---\n"
_LONG_CELL = re.compile("<td>(?=[^<]{40})")
_INDEX = """\
# Records

Every figure in a table comes from a record: one measurement, with its protocol, code, device and time. Rows of the
tables link to their records.
"""

Records = Mapping[str, Mapping[str, Any]]


def on_files(files: Any, config: Any) -> Any:
    """Add the page of each table's records, their JSON files, and the list of all records."""
    tables: dict[str, dict[str, Any]] = {}
    for path in sorted((ROOT / RESULTS).glob("*/*.json")):
        table = path.parent.name
        tables.setdefault(table, {})[path.stem] = read_json(path)
        uri = f"{FOLDER}/{table}/{path.name}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    pages = {table: page(table, records) for table, records in tables.items()}
    files.append(File.generated(config, f"{FOLDER}.md", content=index(tables)))
    for name, text in pages.items():
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=text))
    return files


def on_page_markdown(text: str, page: Any, **_: Any) -> str:
    """Render the tables of a page with links to the records and to the cards of the named models."""
    folder = posixpath.dirname(page.file.src_uri) or "."

    def address(kind: str, name: str) -> str:
        table, _, part = name.partition("/")
        target = CARDS if kind == "card" else f"{FOLDER}/{table}.md"
        return f"{posixpath.relpath(target, folder)}#{part or name}"

    return render_text(ROOT, text, address) if TABLE_MARK in text else text


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Mark the tables of the results for js/sort_tables.js, and long cells for css/site.css."""
    uri = page.file.src_uri
    if uri.startswith("results/") and not uri.startswith(f"{FOLDER}/"):
        content = _LONG_CELL.sub("<td data-long>", content)
        return content.replace("<table>", "<table data-sortable>")
    return content


def index(tables: Mapping[str, Records]) -> str:
    """Return the page that lists all records."""
    rows = [
        [
            f"[{table}/{part}]({Path(FOLDER).name}/{table}.md#{part})",
            *_origin(record),
            _seconds(record),
        ]
        for table, records in tables.items()
        for part, record in records.items()
    ]
    header = "record | commit | date | device | wall time, s"
    return "\n".join([_INDEX, f"{len(rows)} records.", "", markdown(header, rows), ""])


def page(table: str, records: Records) -> str:
    """Return the page of a table's records, one section each."""
    lines = [_FRONT_MATTER, f"# Records of {table}", "", f"Measured by `{TABLES}/{table}.py`.", ""]
    for part, record in records.items():
        lines += [f"## {part} {{ #{part} }}", "", "```bash", command_again(f"{table}/{part}")]
        lines += ["```", "", markdown("property | value", list(_rows(table, part, record))), ""]
    return "\n".join(lines)


def _rows(table: str, part: str, record: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the name and the text of each property that a record has."""
    commit, date, device = _origin(record)
    changes = " with uncommitted changes" if record.get("uncommitted_changes") else ""
    yield ["commit", f"`{record.get('commit')}`{changes}" if commit else "unknown"]
    yield ["date", date]
    yield ["device", device]
    if "wall_time_s" in record:
        yield ["wall time", f"{_seconds(record)} s"]
    training = record.get("training") or {}
    if "wall_time_s" in training:
        seconds = f"{training['wall_time_s']:,.0f} s"
        yield [
            "training",
            f"`{training['config_file']}`, {seconds}" if "config_file" in training else seconds,
        ]
    if "model" in record:
        name = record["model"]["name"]
        yield ["named model", f"[`{name}`](../../{CARDS}#{name})"]
    if "seed" in record:
        yield ["seed", str(record["seed"])]
    if "versions" in record:
        yield ["versions", ", ".join(f"{name} {v}" for name, v in record["versions"].items())]
    if "protocol" in record:
        yield ["protocol", record["protocol"]]
    yield ["JSON", f"[{part}.json]({table}/{part}.json)"]


def _origin(record: Mapping[str, Any]) -> list[str]:
    """Return commit, date and device; "" where they are unknown."""
    device = record.get("device") or {}
    kind = f"{device.get('count', 1)} x {device['kind']}, {device['platform']}" if device else ""
    return [(record.get("commit") or "")[:7], record.get("started", "")[:10], kind]


def _seconds(record: Mapping[str, Any]) -> str:
    seconds = record.get("wall_time_s")
    return "" if seconds is None else f"{seconds:,.1f}"
