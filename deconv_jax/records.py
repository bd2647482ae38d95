"""Records of measurements: one JSON file each, with its provenance, and the check that none is stale.

A record is `experiments/results/TABLE/PART.json`. PART is a measurement: an entry of
`PARTS` in the module TABLE of `experiments/tables`. Every record has the keys of `REQUIRED_KEYS`. A record
of a trained network also has "training" (see `TRAINING_KEYS`) and "metrics", those of the test split. A record of
a named model has "model", with its "name" and the "sha256" of its weights.
"""

import dataclasses
import fnmatch
import math
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from deconv_jax import schema
from deconv_jax.config_arguments import load_module
from deconv_jax.errors import InputError
from deconv_jax.io import read_json

RESULTS = Path("experiments/results")
TABLES = Path("experiments/tables")
CONFIGS = Path("experiments")

REQUIRED_KEYS = (
    "protocol",
    "seed",
    "commit",
    "uncommitted_changes",
    "versions",
    "device",
    "started",
    "wall_time_s",
)
"""Keys of every record: how, where, when and by which code it was measured."""
TRAINING_KEYS = (
    "config_file",
    "config",
    "task_version",
    "commit",
    "uncommitted_changes",
    "wall_time_s",
)
"""Keys of "training": config file with arguments, resolved config, version of the task, and training time."""

_OLD_METRICS = {
    "fid": "frechet_distance",
    "kid": "kernel_distance",
    "kid_standard_error": "kernel_distance_standard_error",
    "inception_score": "classifier_score",
    "inception_score_deviation": "classifier_score_deviation",
    "diversity": "pairwise_ms_ssim",
}
"""New names of metrics by their old ones, for `read_record`.

Records that were measured before the names depended on the extractor call distances between features of a
small classifier FID and KID. They are stale; once they are measured again, delete this table.
"""

NOT_COMPARED = frozenset(
    {
        *("commit", "uncommitted_changes", "versions", "table_version", "task_version"),
        *("device", "started", "resumed_at_step", "load_average"),
        *("wall_time_s", "encode_s", "decode_s", "ms_per_output_megapixel"),
    }
)
"""Keys that differ between two measurements of one record: origin, times and load."""

_MISSING = object()

Part = Callable[[Path], dict[str, Any]]
"""A measurement. The argument is the folder of data sets and weights; the result is JSON-able."""
ConfigLoader = Callable[[str], Mapping[str, Any]]
"""Load the config "FILE.py:ARGUMENTS"."""


@dataclasses.dataclass(frozen=True)
class Stale:
    """A record that has to be measured again.

    Attributes:
      name: "TABLE/PART".
      reasons: Reasons, in words.
      seconds: Time in seconds that the measurement or its training took, whichever is larger; 0 if unknown.
    """

    name: str
    reasons: tuple[str, ...]
    seconds: float


def record_path(root: Path, table: str, part: str) -> Path:
    """Return the path of a record in a project's folder, experiments/results/TABLE/PART.json."""
    return root / RESULTS / table / f"{part}.json"


def read_record(path: Path) -> dict[str, Any]:
    """Read a record, add "record", its name "TABLE/PART", and replace old names of metrics.

    Old names, such as "fid" for "frechet_distance", are replaced in "metrics" and "baseline". They are right, and kept,
    if the protocol names InceptionV3.

    Raises:
      InputError: The record is missing or not a JSON object.
    """
    record = read_json(path) | {"record": f"{path.parent.name}/{path.stem}"}
    if "InceptionV3" in record.get("protocol", ""):
        return record

    def renamed(metrics: Mapping[str, float]) -> dict[str, float]:
        names = _OLD_METRICS | {f"real_{old}": f"real_{new}" for old, new in _OLD_METRICS.items()}
        return {names.get(name, name): value for name, value in metrics.items()}

    return record | {
        key: renamed(record[key])
        for key in ("metrics", "baseline")
        if isinstance(record.get(key), dict)
    }


def command_again(name: str) -> str:
    """Return the command that measures the record "TABLE/PART" again and compares it."""
    return f"deconv-jax tables {name} --again"


def oldest_record(root: Path) -> tuple[int, str, str, str]:
    """Return the number of records, and "TABLE/PART", commit and start of the oldest one.

    Texts are empty if there is no record with a date.

    Raises:
      InputError: A record cannot be read.
    """
    paths = sorted((root / RESULTS).glob("*/*.json"))
    found = []
    for path in paths:
        record = read_json(path)
        if "started" in record:
            name, commit = f"{path.parent.name}/{path.stem}", record.get("commit") or "unknown"
            found.append((record["started"], name, commit))
    started, name, commit = min(found, default=("", "", ""))
    return len(paths), name, commit, started


def record_differences(before: Any, now: Any, tolerance: float, path: str = "") -> Iterator[str]:
    """Yield what differs between two measurements of a record, one text each, such as "mean.psnr: 30.1, now 30.2".

    Keys in `NOT_COMPARED` are left out, everywhere in the record.

    Args:
      before: The record, or a part of it.
      now: The new record, or the same part of it.
      tolerance: Largest relative difference of numbers, of the larger magnitude, that is no difference.
      path: Path of the part in the record.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            if key not in NOT_COMPARED:
                values = before.get(key, _MISSING), now.get(key, _MISSING)
                yield from record_differences(*values, tolerance, f"{path}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, values in enumerate(zip(before, now, strict=True)):
            yield from record_differences(*values, tolerance, f"{path}[{index}]")
    elif isinstance(before, float | int) and isinstance(now, float | int):
        if not math.isclose(before, now, rel_tol=tolerance):
            size = max(abs(before), abs(now))
            yield f"{path}: {before!r}, now {now!r}, relative difference {abs(now - before) / size:.1e}"
    elif before != now:
        yield f"{path}: {_short(before)}, now {_short(now)}"


def _short(value: Any) -> str:
    if value is _MISSING:
        return "missing"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def table_names(root: Path) -> list[str]:
    """Return the sorted names of the tables, which are the modules of `experiments/tables`."""
    return [path.stem for path in sorted((root / TABLES).glob("[a-z]*.py"))]


def load_table(root: Path, name: str) -> ModuleType:
    """Run the module of a table, which has `PARTS`, `render`, `VERSION` and possibly `VIEWS`.

    Raises:
      InputError: There is no such table.
    """
    return load_module(root / TABLES / f"{name}.py")


def stale_records(root: Path, load_config: ConfigLoader) -> list[Stale]:
    """Return the records that do not show what the code would measure now.

    They are in the order of their paths. A record is stale if a required key is missing; its commit is unknown,
    not in the history of the repository or had uncommitted changes; its table has no such part or another version;
    the weights of its named model have changed; or, for a trained network, the config file resolves to another
    config, the task has another version, or the task no longer emits a metric.

    Args:
      root: Top folder of the project.
      load_config: Function that loads the config "FILE.py:ARGUMENTS".

    Raises:
      InputError: A record or a table cannot be read.
    """
    tables = {name: load_table(root, name) for name in table_names(root)}
    stale = []
    for path in sorted((root / RESULTS).glob("*/*.json")):
        table, part, record = path.parent.name, path.stem, read_json(path)
        reasons = list(_reasons(root, tables.get(table), part, record, load_config))
        if reasons:
            training = record.get("training") or {}
            seconds = max(record.get("wall_time_s") or 0, training.get("wall_time_s") or 0)
            stale.append(Stale(f"{table}/{part}", tuple(reasons), seconds))
    return stale


def _reasons(
    root: Path,
    table: ModuleType | None,
    part: str,
    record: Mapping[str, Any],
    load_config: ConfigLoader,
) -> Iterator[str]:
    missing = [key for key in REQUIRED_KEYS if key not in record]
    if missing:
        yield f"it lacks {', '.join(missing)}"
    yield from _commit_reasons(root, record)
    if table is None or part not in table.PARTS:
        yield "no table has this part"
    elif record.get("table_version") != table.VERSION:
        yield f"table version {record.get('table_version')} is now {table.VERSION}"
    if "model" in record:
        yield from _model_reasons(record["model"])
    if "training" in record:
        yield from _training_reasons(root, record, load_config)


def _commit_reasons(root: Path, origin: Mapping[str, Any]) -> Iterator[str]:
    """Yield why the code of a record, or of the training in it, is not known."""
    commit = origin.get("commit")
    if not commit:
        yield "its commit is unknown"
    elif origin.get("uncommitted_changes") is not False:
        yield "its code had uncommitted changes"
    elif not _has_commit(root, commit):
        yield f"commit {commit[:7]} is not in the history"


def _model_reasons(model: Mapping[str, Any]) -> Iterator[str]:
    """Yield why the named model of a record is not that of the package."""
    from deconv_jax import zoo

    if model["name"] not in zoo.names():
        yield f"there is no model {model['name']!r}"
    elif zoo.card(model["name"])["sha256"] != model["sha256"]:
        yield f"the weights of {model['name']} have changed"


def _training_reasons(
    root: Path, record: Mapping[str, Any], load_config: ConfigLoader
) -> Iterator[str]:
    from deconv_jax.experiment import Experiment
    from deconv_jax.workdir import UNCHECKED_DATA_KEYS

    training = record["training"]
    missing = [key for key in TRAINING_KEYS if key not in training]
    if missing:
        yield f"training lacks {', '.join(missing)}"
        return
    for reason in _commit_reasons(root, training):
        yield f"training: {reason}"
    try:
        experiment = Experiment.from_dict(
            load_config(f"{root / CONFIGS / training['config_file']}")
        )
    except InputError as error:
        yield f"its config does not load: {error}"
        return
    before, now = (dict(config) for config in (training["config"], experiment.to_dict()))
    for config in (before, now):
        config["data"] = {k: v for k, v in config["data"].items() if k not in UNCHECKED_DATA_KEYS}
    changes = list(schema.differences(before, now))
    if changes:
        yield f"its config has changed: {'; '.join(changes)}"
    task = experiment.task
    if training["task_version"] != task.version:
        yield f"task version {training['task_version']} is now {task.version}"
    unknown = [
        name
        for name in record.get("metrics", ())
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in task.metric_names)
    ]
    if unknown:
        yield f"the task no longer emits {', '.join(unknown)}"


def _has_commit(root: Path, commit: str) -> bool:
    """Return whether a commit is in the history of the checked-out commit."""
    command = ["git", "-C", str(root), "merge-base", "--is-ancestor", commit, "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
