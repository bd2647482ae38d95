"""Add the model of a finished run to the package, with its model card.

  DECONV_JAX_DATA=/path/of/data python experiments/zoo/publish.py runs/ffdnet_color denoise-color

Run it in the folder in which the run was started: the card also lists the trainings behind its initial weights.
The script writes `deconv_jax/zoo/weights/NAME.safetensors`, the weights in float16 (averaged ones if the run has
them), and the model card `NAME.json` beside it. The figures of the card are measured with these weights.
$DECONV_JAX_DATA must name a folder with the test sets. A new model needs an entry in `MODELS`. Run `deconv-jax tables`
afterwards, which shows the card's figure in the table `zoo`.

A classifier that is also a feature extractor has its weights, in float32, in `deconv_jax/models/pretrained/`,
where the script writes them, too. New weights change all metrics that use the extractor.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from entries import DATA_SETS, MODELS, Entry
from flax.traverse_util import flatten_dict

from deconv_jax import zoo
from deconv_jax.data.sources import in_memory
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.experiment import Experiment
from deconv_jax.inference.compression.coding_tables import CodingTables
from deconv_jax.io import parse_json_object, read_json, read_text, write_atomically, write_json
from deconv_jax.models.extractors import FEATURE_SCALE, PRETRAINED
from deconv_jax.tasks import Compression
from deconv_jax.training.run_log import METRICS
from deconv_jax.training.step import images_in_unit_range
from deconv_jax.workdir import (
    CONFIG,
    INPUTS,
    RESULT,
    load_state,
    open_workdir,
    provenance,
)
from deconv_jax.zoo import ZooModel
from deconv_jax.zoo.cards import CARDS, PACKAGE

LICENCE = "Apache-2.0"
_DATA = "DECONV_JAX_DATA"
_BATCH_SIZE = 250
"""Number of images per call of a feature extractor."""


def main() -> None:
    """Read the run, measure its model, and write the weights and the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path, help="workdir of a finished run")
    parser.add_argument("name", help=f"name of the model: {', '.join(MODELS)}")
    arguments = parser.parse_args()
    workdir, name = arguments.workdir, arguments.name
    if _DATA not in os.environ:
        raise InputError(f"${_DATA} must name the folder of the test sets")
    if name not in MODELS:
        raise InputError(f"no entry for model {name!r}; {did_you_mean(name, MODELS)}")
    experiment, result = open_workdir(workdir), read_json(workdir / RESULT)
    _, state = load_state(workdir, "last")
    variables = jax.device_get(state.inference_variables())
    training = result | {
        "wall_time_s": training_time(workdir, result),
        "earlier": earlier_trainings(result.get("initial_weights")),
    }
    publish(name, experiment, variables, read_json(workdir / INPUTS), training)


def training_time(workdir: Path, result: Mapping[str, Any]) -> float:
    """Return the time of a run in seconds; without evaluations if it was resumed.

    The result of a resumed run has only the time since then.
    """
    if not result["resumed_at_step"]:
        return result["wall_time_s"]
    return _time_of_steps(workdir, result["config"]["training"]["batch_size"], result["step"])


def earlier_trainings(initial: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the trainings behind initial weights, in their order: steps, batch size, and time without evaluations.

    Args:
      initial: "initial_weights" of the result of a run, or None.

    Raises:
      InputError: The run or the named model is missing or has changed, or the weights are a file.
    """
    if initial is None:
        return []
    source = initial["source"]
    if initial["kind"] == "run":
        workdir, steps = Path(source), initial["step"]
        config = read_json(workdir / CONFIG)
        batch_size = config["training"]["batch_size"]
        before = read_json(workdir / RESULT) if config.get("init_from") else {}
        training = {
            "steps": steps,
            "batch_size": batch_size,
            "wall_time_s": _time_of_steps(workdir, batch_size, steps),
        }
        return [*earlier_trainings(before.get("initial_weights")), training]
    if initial["kind"] == "model":
        card = zoo.card(source)
        if card["sha256"] != initial["sha256"]:
            raise InputError(f"the weights of {source} have changed since they were copied")
        training = card["training"]
        same = {key: training[key] for key in ("steps", "batch_size", "wall_time_s")}
        return [*training["earlier"], same]
    raise InputError(f"the training of the initial weights {source} is unknown")


def _time_of_steps(workdir: Path, batch_size: int, steps: int) -> float:
    """Return the time of the first steps of a run in seconds, without evaluations."""
    seconds, last = 0.0, 0
    for line in read_text(workdir / METRICS).splitlines():
        row = parse_json_object(line)
        if row["split"] == "train" and row["step"] <= steps:
            examples = (row["step"] - last) * batch_size
            seconds += row.get("first_call_seconds") or examples / row["images_per_second"]
            last = row["step"]
    return round(seconds, 2)


def publish(
    name: str,
    experiment: Experiment,
    variables: Mapping[str, Any],
    inputs: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    """Measure a model, and write its weights and its card.

    Args:
      name: Name of the model, a key of `entries.MODELS`.
      experiment: Experiment that trained it.
      variables: Its `inference_variables`.
      inputs: Content of inputs.json of the run.
      training: Content of result.json of the run, and "earlier" (see `earlier_trainings`).
    """
    entry, measured = MODELS[name], provenance(ignored=("deconv_jax/zoo/weights",))
    dtype = np.float32 if entry.extractor else np.float16
    flat = flatten_dict(dict(variables), sep="/")
    tensors = {key: np.asarray(value, dtype) for key, value in flat.items()}
    rounded = jax.tree.map(lambda v: np.asarray(v, dtype).astype(np.float32), dict(variables))
    extras = _extras(entry, experiment, rounded)
    data = safetensors.numpy.save(tensors | extras)
    file = CARDS / f"{name}.safetensors"
    if entry.extractor:
        file = (PRETRAINED / f"{entry.extractor}.safetensors").relative_to(PACKAGE)
    card = _card(entry, name, experiment, inputs, training) | {
        "parameters": sum(v.size for key, v in tensors.items() if key.startswith("params/")),
        "file": file.as_posix(),
        "bytes": len(data),
        "dtype": np.dtype(dtype).name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "licence": LICENCE,
    }
    model = ZooModel(card, experiment, rounded, extras)
    figures, protocol = entry.measure(model, Path(os.environ[_DATA]))
    for found in figures:
        paper = entry.paper.get((found["data"], found["setting"]))
        found["compared"] |= {} if paper is None else {"paper": paper}
    card |= {"figures": figures, "protocol": protocol, "measured": measured}
    if entry.extractor:
        write_json(PRETRAINED / f"{entry.extractor}.json", dict(training))
    write_atomically(PACKAGE / file, lambda target: target.write(data))
    write_json(PACKAGE / CARDS / f"{name}.json", card)
    print(f"written: {file} ({len(data):,} bytes) and its card")


def _card(
    entry: Entry,
    name: str,
    experiment: Experiment,
    inputs: Mapping[str, Any],
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the properties of a card that do not depend on the weights."""
    config = experiment.to_dict()
    if not str(config["data"]["data_dir"]).startswith("$"):
        config["data"]["data_dir"] = None  # A path of this machine.
    model = getattr(experiment.task, "model", None)
    same = ("wall_time_s", "commit", "uncommitted_changes", "versions", "device", "started")
    same += ("earlier",)
    return {
        "name": name,
        "family": entry.family,
        "task": config["task"]["name"],
        "summary": entry.summary,
        "architecture": _architecture(config["task"]),
        "config": config,
        "inputs": dict(inputs),
        "channels": getattr(model, "channels", None),
        "scale": getattr(model, "scale", None),
        "paper": entry.reference and {"reference": entry.reference, "source": entry.source},
        "use": entry.use,
        "limits": entry.limits,
        "training": {
            "data": [
                dict(zip(("name", "licence", "source"), d, strict=True)) for d in _data(config)
            ],
            "counts": training["counts"],
            "steps": training["step"],
            "batch_size": experiment.training.batch_size,
        }
        | {key: training[key] for key in same},
    }


def _architecture(task: Mapping[str, Any]) -> str:
    """Return the network of a task and its settings in words."""
    model = dict(task.get("model") or task["generator"])
    name = model.pop("name")
    return f"{name} ({', '.join(f'{key} {_words(value)}' for key, value in model.items())})"


def _words(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_words, value))}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower()


def _data(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the entries of `DATA_SETS` that a config trains on."""
    source = config["data"]["source"]
    source = source.get("base") or source
    photographs = "+".join(source.get("images", ()))
    names = source.get("dataset") or source.get("path") or photographs or source["name"]
    if names == ".":
        names = config["data"]["train_split"]
    return [DATA_SETS[name] for name in names.split("+")]


def _extras(
    entry: Entry, experiment: Experiment, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return the arrays that the file has beside the variables."""
    task: Any = experiment.task
    if isinstance(task, Compression):
        return CodingTables.from_model(task.model, variables).to_stored()
    if not entry.extractor:
        return {}

    @jax.jit
    def mean_square(images: jax.Array) -> jax.Array:
        features = task.model.apply(variables, images_in_unit_range(images), method="embed")
        return jnp.mean(jnp.square(features))

    images = in_memory(experiment.data.open("train")).arrays["image"]
    count = len(images) // _BATCH_SIZE
    parts = np.split(images[: count * _BATCH_SIZE], count)
    scale = np.sqrt(np.mean([mean_square(part) for part in parts]))
    return {FEATURE_SCALE: np.asarray(scale, np.float32)}


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
