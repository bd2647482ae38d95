"""Helpers of several tables: images of a folder, trained configs, and networks as restorers."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from deconv_jax import zoo
from deconv_jax.cli import load_config
from deconv_jax.data.images import Color, list_images, read_pixels
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.inference.restoration.evaluation import Restore
from deconv_jax.inference.restoration.learned_restorer import apply_at_noise_level
from deconv_jax.inference.restoration.load import load_restoration
from deconv_jax.inference.tiling import restore_tiled
from deconv_jax.models.weight_import import load_torch_weights
from deconv_jax.tables import linked, markdown
from deconv_jax.train import train
from deconv_jax.zoo.text import steps_text, time_text

CONFIGS = Path(__file__).parent.parent

Records = Mapping[str, dict[str, Any]]
"""Records by part."""
Part = Callable[[Path], dict[str, Any]]

RUNS = Path("runs/tables")
"""Folder of the workdirs."""


def images_in(folder: Path, color: Color) -> list[tuple[str, np.ndarray]]:
    """Return the names and images of a folder, in the order of the file names.

    Args:
      folder: Folder of image files.
      color: Color of the pixels, as for `read_pixels`.

    Returns:
      Pairs of a name and an image (height, width, channels) in [0, 1].
    """
    paths = list_images(folder)
    return [(p.name, read_pixels(p, color).astype(np.float32) / 255) for p in paths]


def protocol_line(protocols: Iterable[str]) -> list[str]:
    """Return the protocols of a table's records as one Markdown block, or [] without records.

    Clauses that all protocols share come first, then those that differ.
    """
    # The first clause is the degradation, which the text of the table states.
    clauses = [protocol.split("; ")[1:] for protocol in protocols]
    if not clauses:
        return []
    common = [clause for clause in clauses[0] if all(clause in other for other in clauses)]
    own = dict.fromkeys(", ".join(c for c in line if c not in common) for line in clauses)
    line = f"Protocol: {'; '.join(common)}."
    which = "Some rows" if "" in own else "Per row"
    return [f"{line} {which}: {'; '.join(filter(None, own))}." if len(own) > 1 else line]


def tiled_restorer(module: nn.Module, variables: Any, noise_sigma: float | None = None) -> Restore:
    """Return a function that restores images of any size with a network, tile by tile.

    Args:
      module: Restoration network for images with its number of channels.
      variables: Its weights.
      noise_sigma: Standard deviation of the noise, in units of 1/255, for a noise-conditional network;
        None for others.
    """
    field = module.receptive_field()
    level = None if noise_sigma is None else jnp.float32(noise_sigma / 255)
    variables = {"batch_stats": {}} | dict(variables)
    apply = jax.jit(lambda images: apply_at_noise_level(module, variables, level, images))
    return lambda image: restore_tiled(apply, image, field)


def published_restorer(weights: Path, sigma: float | None = None) -> Restore:
    """Return a restorer with published weights.

    Args:
      weights: File of the weights.
      sigma: Standard deviation of the noise, in units of 1/255, for noise-conditional networks.
    """
    network = load_torch_weights(weights)
    level = sigma if network.noise_conditional else None
    return tiled_restorer(network.module, network.variables, level)


def named_restorer(name: str, sigma: float | None = None) -> Restore:
    """Return a restorer with a named model; `sigma` is that of `published_restorer`."""
    model = zoo.load(name)
    level = sigma if model.task.noise_conditional else None
    return tiled_restorer(model.task.model, model.variables, level)


def named_record(name: str) -> dict[str, Any]:
    """Return the "model" of a record: name, SHA-256, parameters and training of a named model."""
    card = zoo.card(name)
    keys = ("steps", "batch_size", "wall_time_s", "earlier")
    training = {key: card["training"][key] for key in keys}
    return {key: card[key] for key in ("name", "sha256", "parameters")} | {"training": training}


def named_title(record: Mapping[str, Any]) -> str:
    """Return the title of a row that was measured with a named model."""
    model = record["model"]
    return f"`{model['name']}`, trained here: {training_summary(model['training'])}"


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
      module: The network.
      variables: Its weights.
      record: How it was trained; see `finished_run`.
    """

    module: nn.Module
    variables: Any
    record: dict[str, Any]

    def apply(self, images: jax.Array) -> jax.Array:
        """Apply the network to a batch."""
        return self.module.apply(self.variables, images)


def training_of(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the training of a record's network or named model; None for published weights."""
    return record.get("model", record).get("training")


def training_summary(training: Mapping[str, Any] | None) -> str:
    """Return steps, batch size and time of one training in words, or "" if nothing was trained."""
    if training is None:
        return ""
    return f"{steps_text(training)}, {time_text(training)}, one seed"


def gap(here: float, paper: float) -> str:
    """Return the difference of a figure from a paper's, for a cell."""
    return f"{round(here - paper, 2) + 0.0:+.2f}"  # without the sign of -0.0


def gap_reason(record: Mapping[str, Any], *others: str, untrained: str = "") -> str:
    """Return why a figure may differ from a paper's, for a cell.

    Args:
      record: The record. It has "training", or "model" with the name or the card of a named model; or neither, if the
        weights are the authors'.
      others: Further reasons.
      untrained: Reason for a record without training; "" for "the authors' weights".
    """
    model, training = record.get("model"), training_of(record)
    if training is None:
        return "; ".join([untrained or "the authors' weights", *others])
    reasons = [steps_text(training)]
    if model:
        card = model if "dtype" in model else zoo.card(model["name"])
        names = (data["name"].partition(",")[0] for data in card["training"]["data"])
        reasons.append(f"trained on {' and '.join(names)}")
        reasons += ["weights rounded to 16 bits"] if card["dtype"] == "float16" else []
    return "; ".join([*reasons, *others])


Compared = tuple[Mapping[str, Any], float, float]
"""A record, its figure, and the paper's figure."""


def gap_table(columns: Iterable[str], rows: Iterable[tuple[str, list[Compared], str]]) -> str:
    """Return a table of figures beside quoted ones, or "" without rows.

    Args:
      columns: Titles of the test sets or settings.
      rows: Title, a comparison for each column, and reason for the differences, see `gap_reason`.
    """
    cells = [
        [
            title,
            *(
                cell
                for record, here, paper in compared
                for cell in (linked(f"{here:.2f}", record), f"{paper:.2f}", gap(here, paper))
            ),
            reason,
        ]
        for title, compared, reason in rows
    ]
    titles = (t for c in columns for t in (c, f"{c}, quoted", "difference"))
    return markdown(" | ".join(["PSNR, dB", *titles, "reason"]), cells) if cells else ""


def finished_run(
    config: str, data_dir: Path | None = None
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Train a config in runs/tables. A run that exists is resumed, or only read if it has finished.

    Args:
      config: "FAMILY/FILE.py:ARGUMENTS".
      data_dir: Folder of the data, if it differs from the config's.

    Returns:
      The workdir, the content of result.json, and the "training" of a record (see `records.TRAINING_KEYS`).
    """
    workdir = RUNS / re.sub(r"[.]py:|[=,/]", "_", config)
    experiment = Experiment.from_dict(load_config(f"{CONFIGS / config}"))
    if data_dir is not None:
        moved = dataclasses.replace(experiment.data, data_dir=str(data_dir))
        experiment = dataclasses.replace(experiment, data=moved)
    result = train(experiment, workdir)
    if "test in train" in result["overlapping_splits"]:
        raise InputError(f"{config} tests on images that it trains on; it is in no table")
    settings = experiment.to_dict()
    # The path of the data is specific to this machine.
    settings["data"] |= {"data_dir": None}
    same = ("parameters", "seed", "wall_time_s", "resumed_at_step", "device")
    same += ("commit", "uncommitted_changes")
    record = {name: result[name] for name in same} | {
        "config_file": config,
        "config": settings,
        "task_version": experiment.task.version,
        "steps": result["step"],
        "batch_size": experiment.training.batch_size,
    }
    return workdir, result, record


def run_part(config: str, folder: str | None = "tfds") -> Part:
    """Return a part that trains a config and keeps its test metrics.

    Args:
      config: "FAMILY/FILE.py:ARGUMENTS".
      folder: Folder of its data in the data folder, or None if its data is embedded.
    """

    def run(data: Path) -> dict[str, Any]:
        where = None if folder is None else data / folder
        return run_record(*finished_run(config, where)[1:])

    return run


def run_record(result: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a run: test metrics, baseline, counts, and how it was trained.

    Args:
      result: Content of result.json.
      training: Third value of `finished_run`.
    """
    return {
        "metrics": result["metrics"]["test"],
        "baseline": result["baseline"]["test"],
        "protocol": result["protocol"],
        "counts": result["counts"],
        "seed": training["seed"],
        "training": training,
    }


def trained(config: str) -> Trained:
    """Train a restoration config, "FILE.py:ARGUMENTS", and return its network; see `finished_run`."""
    workdir, _, record = finished_run(f"restoration/{config}")
    task, variables = load_restoration(workdir)
    return Trained(task.model, variables, record)
