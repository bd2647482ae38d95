"""Figures in texts, rendered from the JSON files of runs and never typed.

A text marks where a table goes with `<!-- table: NAME -->` and `<!-- end -->`; what stands between is
replaced. The JSON files are those that runs and benchmarks wrote, under experiments/results.

A paper's table is a module of experiments/tables. Its `PARTS` say what there is to measure, each a
function of the data folder that returns a JSON-able record, and its `render` makes Markdown of the
records that there are, by part. A part is run once: its record is kept, with where it was run.

The project's address is told in one place, pyproject.toml, and rendered too: as badges of the README, where
it is on GitHub, and in the cell of each notebook that installs the package.
"""

import json
import re
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from deconv_jax.config_arguments import load_module
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import read_json, write_json, write_text

RESULTS = Path("experiments/results")
PAPER_TABLES = Path("experiments/tables")
TEXTS = ("README.md", "experiments/benchmarks/README.md", "experiments/tables/README.md")
PROJECT = "pyproject.toml"
NOTEBOOKS = Path("colab")

BADGES = "badges"
INSTALLS = "install"
"""The tag of a notebook's cell that installs the package."""
_INSTALL = """\
# `deconv-jax tables` writes this cell, with the address that pyproject.toml has under project.urls.
import importlib.util
import shutil
from pathlib import Path

REPOSITORY = {repository}

if importlib.util.find_spec("deconv_jax") is None:
    endings = (".whl", ".tar.gz", ".zip")
    archives = [path for path in Path.cwd().glob("deconv[_-]jax*") if path.name.endswith(endings)]
    if REPOSITORY:
        source = f"git+{{REPOSITORY}}"
    elif archives:
        newest = max(archives, key=lambda path: path.stat().st_mtime)
        source = newest.as_uri()
        print(f"installing {{newest.name}}, found beside this notebook")
    else:
        raise RuntimeError(
            "deconv_jax is not installed, and its repository has no address yet: put a wheel, which "
            f"`pip wheel --no-deps .` makes in a clone, or a source archive into {{Path.cwd()}}"
        )
    jax_for_here = "jax"
    if shutil.which("nvidia-smi"):
        jax_for_here = "jax[cuda12]"
    elif any(Path("/dev").glob("accel[0-9]*")) or Path("/dev/vfio/0").exists():
        jax_for_here = "jax[tpu]"
    %pip install -q "deconv_jax @ {{source}}" "{{jax_for_here}}"
"""

_MARKED = re.compile(r"(<!-- table: (?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render_texts(root: Path, *, check: bool = False) -> list[Path]:
    """Renders every marked table of the project's texts, and the notebooks' cells that install it.

    Args:
      root: the project's top folder.
      check: change nothing.

    Returns:
      The texts that differ, or differed, from the results.

    Raises:
      InputError: a text or a result cannot be read, or a mark names no table.
    """
    changed = []
    rendered: dict[Path, Callable[[str], str]] = {
        root / name: lambda text: _MARKED.sub(lambda mark: _render(root, mark), text)
        for name in TEXTS
    }
    for path in sorted((root / NOTEBOOKS).glob("*.ipynb")):
        rendered[path] = lambda text: _with_install_cell(text, repository(root))
    for path, render in rendered.items():
        if not path.is_file():
            raise InputError(f"{path} is missing; run this in the project's top folder")
        before = path.read_text()
        after = render(before)
        if after != before:
            changed.append(path)
            if not check:
                write_text(path, after)
    return changed


def repository(root: Path) -> str:
    """The project's address, "Repository" of project.urls in pyproject.toml; "" where it has none."""
    try:
        project = tomllib.loads((root / PROJECT).read_text())["project"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot read {root / PROJECT}: {error}") from error
    return project.get("urls", {}).get("Repository", "")


def install_cell(address: str) -> str:
    """The source of a notebook's cell that installs the package from its repository, if it has an address."""
    return _INSTALL.format(repository=json.dumps(address)).rstrip("\n")


def _with_install_cell(text: str, address: str) -> str:
    """A notebook with the cell that is tagged `INSTALLS` as it should be."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if INSTALLS in cell["metadata"].get("tags", []):
            cell["source"] = install_cell(address).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _badges(address: str) -> str:
    """A link to the notebooks on Colab, which opens those of GitHub alone."""
    found = re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(\.git)?/?", address)
    if not found:
        return ""
    colab = "https://colab.research.google.com"
    return f"[![Notebooks on Colab]({colab}/assets/colab-badge.svg)]({colab}/github/{found[1]}/)"


def run_missing(root: Path, name: str, data: Path) -> list[Path]:
    """Runs the parts of a paper's table that have no record yet.

    Args:
      root: the project's top folder.
      name: the table, or "TABLE/PART" for one part of it.
      data: the folder of data sets and weights that the parts read.

    Returns:
      The records written, experiments/results/tables/TABLE/PART.json.

    Raises:
      InputError: no such table or part, or data that is missing.
    """
    from deconv_jax.workdir import provenance

    table, _, only = name.partition("/")
    parts = _paper_table(root, table).PARTS
    if only and only not in parts:
        raise InputError(f"table {table!r} has no part {only!r}; {did_you_mean(only, parts)}")
    written = []
    for part, run in parts.items():
        path = _record(root / RESULTS, table, part)
        if path.exists() or (only and part != only):
            continue
        print(f"{table}/{part} ...", flush=True)
        started, ran_in = time.perf_counter(), provenance()
        record = run(data)
        wall_time = round(time.perf_counter() - started, 2)
        write_json(path, record | {"wall_time_s": wall_time} | ran_in)
        written.append(path)
    return written


def _render(root: Path, mark: re.Match[str]) -> str:
    name = mark["name"]
    if name == BADGES:
        text = _badges(repository(root))
    elif name in _TABLES:
        text = _TABLES[name](root / RESULTS)
    else:
        table = _paper_table(root, name)
        paths = {part: _record(root / RESULTS, name, part) for part in table.PARTS}
        text = table.render({part: read_json(p) for part, p in paths.items() if p.exists()})
    return f"{mark[1]}{text}\n{mark[3]}"


def _paper_table(root: Path, name: str) -> ModuleType:
    known = [path.stem for path in sorted((root / PAPER_TABLES).glob("[a-z]*.py"))]
    if name not in known:
        raise InputError(f"no table {name!r}; {did_you_mean(name, [*known, *_TABLES, BADGES])}")
    return load_module(root / PAPER_TABLES / f"{name}.py")


def _record(results: Path, table: str, part: str) -> Path:
    return results / "tables" / table / f"{part}.json"


def _runs(folder: Path) -> str:
    """A row an experiment: its test measures beside the baseline's.

    Distances between features have a table for each feature space, as they only compare within one.
    """
    rows: dict[str | None, list[list[str]]] = {}
    left_out = []
    for path, result in _results(folder.glob("*/*.json"), "baseline"):
        config = result["config"]
        if _trained_on_test_images(result):
            left_out.append(f"`{path.relative_to(folder).with_suffix('')}`")
            continue
        device = result["device"]
        rows.setdefault(config["task"].get("extractor"), []).append(
            [
                f"`{path.relative_to(folder).with_suffix('')}`",
                _measures(result["metrics"]["test"]),
                _measures(result["baseline"]["test"]),
                f"{result['counts']['test']:,}",
                f"{result['parameters']:,}",
                f"{result['step']:,} x {config['training']['batch_size']}",
                f"{device['count']} x {device['kind']}",
                _duration(result["wall_time_s"]),
                (result["commit"] or "-")[:7],
            ]
        )
    header = "experiment | test | baseline | images | parameters | steps x batch | device | time | commit"
    texts = [
        ("" if space is None else f"Distances in the feature space `{space}`:\n\n")
        + markdown(header, of_space)
        for space, of_space in rows.items()
    ]
    if left_out:
        texts.append(
            f"Left out, tested on images that they were trained on: {', '.join(left_out)}."
        )
    return "\n\n".join(texts)


def _trained_on_test_images(result: Mapping[str, Any]) -> bool:
    """Whether the test split shares examples with the training split.

    Records of versions that did not write down overlaps have it where both splits are the same files.
    """
    if "overlapping_splits" in result:
        return "test in train" in result["overlapping_splits"]
    data = result.get("data", {})
    return "names_and_sizes" in data.get("test", {}) and data["train"] == data["test"]


def _benchmarks(folder: Path) -> str:
    """A section a benchmark: medians and ratios of one run."""
    sections = []
    for path, record in _results(folder.glob("benchmarks/*.json"), "time_ratios"):
        if "cases" in record:  # has a table of its own
            continue
        cost, header = record.get("cost", {}), "candidate | median"
        medians = [[name, f"{ms:,.4g} ms"] for name, ms in record["median_ms"].items()]
        if cost:
            header += " | compilation, CPU time | temporaries"
            for row in medians:
                of_row = cost.get(row[0])
                seconds = f"{of_row['compile_s']:.1f} s" if of_row else "-"
                row += [seconds, f"{of_row['temporaries_mb']:.0f} MB" if of_row else "-"]
        ratios = [[name, f"{ratio:.3g}"] for name, ratio in record["time_ratios"].items()]
        sections.append(
            f"### `{path.stem}.py`\n\n{_sentence(record['measured'])}.\n\n"
            f"{markdown(header, medians)}\n\n"
            f"{markdown('time ratio | median / median', ratios)}\n\n"
            f"{_protocol(record)}"
        )
    return "\n\n".join(sections)


def _operators(folder: Path) -> str:
    """A row a case: how many times as fast as its peers both operators are."""
    record = read_json(folder / "benchmarks" / "operators.json")
    by_case: dict[str, dict[str, Any]] = {}
    for row in record["cases"]:
        by_case.setdefault(row["case"], {})[row["operator"]] = row
    rows = []
    for case, operators in by_case.items():
        transposed, conv = operators["conv_transpose"], operators["conv"]
        rows.append(
            [
                case,
                f"{transposed['median_ms']['deconv_jax']:,.4g} ms",
                f"{transposed['speed']['flax.linen']:.3g}",
                f"{transposed['speed']['plain lax']:.2f}",
                f"{transposed['speed']['torch']:.2f}",
                f"{conv['median_ms']['deconv_jax']:,.4g} ms",
                f"{conv['speed']['plain lax']:.2f}",
                f"{conv['speed']['torch']:.2f}",
            ]
        )
    means = record["geometric_mean_speed"]
    rows.append(
        [
            "**geometric mean**",
            "",
            f"**{means['conv_transpose against flax.linen']:.3g}**",
            f"**{means['conv_transpose against plain lax']:.2f}**",
            f"**{means['conv_transpose against torch']:.2f}**",
            "",
            f"**{means['conv against plain lax']:.2f}**",
            f"**{means['conv against torch']:.2f}**",
        ]
    )
    header = (
        "case | conv_transpose | against flax.linen | against plain lax | against torch | conv | "
        "against plain lax | against torch"
    )
    memory = [
        [
            row["case"],
            *(f"{row['peak_mb'][who]:.1f} MB" for who in ("deconv_jax", "torch")),
            f"{row['peak_mb']['deconv_jax'] / row['peak_mb']['torch']:.2f}",
        ]
        for row in record["peak_memory"]
    ]
    return (
        f'{_sentence(record["measured"])}; "against" is how many times as fast.\n\n'
        f"{markdown(header, rows)}\n\n"
        f"{markdown('peak memory of conv_transpose | deconv_jax | torch | ratio', memory)}\n\n"
        f"{_protocol(record)}"
    )


def _operator_speed(folder: Path) -> str:
    """One sentence: both operators against their peers."""
    record = read_json(folder / "benchmarks" / "operators.json")
    means = record["geometric_mean_speed"]
    memory = [
        row["peak_mb"]["deconv_jax"] / row["peak_mb"]["torch"] for row in record["peak_memory"]
    ]
    return (
        "On a CPU, forward and both gradients, `conv_transpose` is "
        f"{means['conv_transpose against flax.linen']:.0f} times as fast as "
        f"`flax.linen.ConvTranspose` and {means['conv_transpose against torch']:.2f} times as fast "
        f"as PyTorch's, `conv` {means['conv against torch']:.2f} times (geometric means); at its peak it "
        f"takes {min(memory):.1f} to {max(memory):.1f} times PyTorch's memory."
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _protocol(record: Mapping[str, Any]) -> str:
    return (
        f"Protocol: {record['protocol']}. {record['rounds']} rounds, {record['threads']} "
        f"threads, {record['processor'] or 'processor unknown'}; jax "
        f"{record['versions']['jax']}; commit {record['commit'][:7]}; load average "
        f"{record['load_average'][0]}."
    )


def _restore_memory(folder: Path) -> str:
    """A row a case: what the command takes at its peak for a large image and for a small one."""
    record = read_json(folder / "benchmarks" / "restore_memory.json")
    rows = [
        [
            row["case"],
            f"{row['image_mb']:,.0f} MB",
            f"**{row['peak_mb'] / 1e3:.2f} GB**",
            f"{row['peak_mb_of_64_pixels_a_side'] / 1e3:.2f} GB",
            f"{row['free_mb_before'] / 1e3:.1f} GB",
        ]
        for row in record["peak_memory"]
    ]
    header = (
        "image and network | one copy in float32 | peak | peak for 64 x 64 pixels | free before"
    )
    return (
        f"{_sentence(record['measured'])}.\n\n{markdown(header, rows)}\n\n"
        f"Protocol: {record['protocol']}."
    )


def _training_ratios(folder: Path) -> str:
    """One line: the training step against its peers."""
    ratios = read_json(folder / "benchmarks" / "training_step.json")["time_ratios"]
    parts = [f"{name} = {ratio:.3g}" for name, ratio in ratios.items()]
    return f"Time of a training step of the MNIST autoencoder on a CPU: {', '.join(parts)}."


_TABLES = {
    "runs": _runs,
    "benchmarks": _benchmarks,
    "operators": _operators,
    "operator-speed": _operator_speed,
    "restore-memory": _restore_memory,
    "training-ratios": _training_ratios,
}


def _results(paths: Iterable[Path], key: str) -> list[tuple[Path, Any]]:
    read = [(path, read_json(path)) for path in sorted(paths)]
    return [(path, result) for path, result in read if key in result]


_SHOWN = (
    ("fid", "recall", "coverage", "real_fid", "real_coverage"),
    ("miou", "pixel_accuracy", "boundary_f1"),
    ("ap", "ap50", "ap75"),
)
"""Of tasks with many measures those that a table of all runs has room for."""


def _measures(values: Mapping[str, float]) -> str:
    for shown in _SHOWN:
        if any(name in values for name in shown):
            values = {name: value for name, value in values.items() if name in shown}
    return ", ".join(
        f"{name} {value:.2f} dB" if name.endswith("psnr") else f"{name} {value:.4f}"
        for name, value in values.items()
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def markdown(header: str, rows: list[list[str]]) -> str:
    """A Markdown table; `header` names its columns, with " | " between them."""
    columns = header.split(" | ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
