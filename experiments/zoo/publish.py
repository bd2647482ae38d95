"""Add the model of a finished run to the package, with its model card.

  python experiments/zoo/publish.py runs/ffdnet_color denoise-color

The script writes `deconv_jax/zoo/weights/NAME.safetensors`, the weights in float16 (averaged ones if the run has
them), and the model card `NAME.json` beside it. A new model needs an entry in `MODELS`.
"""

import argparse
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.experiment import Experiment
from deconv_jax.io import read_json, write_atomically, write_json
from deconv_jax.workdir import INPUTS, RESULT, load_state, open_workdir, read_input_shapes
from deconv_jax.zoo.cards import CARDS, PACKAGE
from deconv_jax.zoo.model import inference_variables

LICENCE = "Apache-2.0"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a run does not tell about a model.

    Attributes:
      summary: One line about the model.
      family: Name of its family, or None.
    """

    summary: str
    family: str | None = None


MODELS = {
    "denoise-color": Entry("Gaussian noise of a known level, 0 to 75, in color images", "denoise"),
    "denoise-gray": Entry("Gaussian noise of a known level, 0 to 75, in gray images", "denoise"),
    "photo": Entry("noise and JPEG artifacts in color photographs"),
    "jpeg-color": Entry("JPEG artifacts of any quality in color images", "jpeg"),
    "jpeg-gray": Entry("JPEG artifacts of any quality in gray images", "jpeg"),
    "sr-x2": Entry("super-resolution x2 of luma", "sr"),
    "sr-x3": Entry("super-resolution x3 of luma", "sr"),
    "sr-x4": Entry("super-resolution x4 of luma", "sr"),
}


def main() -> None:
    """Read the run and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path, help="workdir of a finished run")
    parser.add_argument("name", help=f"name of the model: {', '.join(MODELS)}")
    arguments = parser.parse_args()
    workdir, name = arguments.workdir, arguments.name
    if name not in MODELS:
        raise InputError(f"no entry for model {name!r}; {did_you_mean(name, MODELS)}")
    experiment, result = open_workdir(workdir), read_json(workdir / RESULT)
    example = read_input_shapes(workdir)

    def init(key: jax.Array) -> Any:
        zeros = {name: jnp.zeros(like.shape, like.dtype) for name, like in example.items()}
        return experiment.task.init(key, zeros)

    _, state = load_state(workdir, "last", init)
    variables = jax.device_get(inference_variables(experiment.task, state))
    publish(name, experiment, variables, read_json(workdir / INPUTS), result)


def publish(
    name: str,
    experiment: Experiment,
    variables: Mapping[str, Any],
    inputs: Mapping[str, Any],
    result: Mapping[str, Any],
) -> None:
    """Write the weights and the card of a model."""
    entry = MODELS[name]
    flat = flatten_dict(dict(variables), sep="/")
    tensors = {key: np.asarray(value, np.float16) for key, value in flat.items()}
    data = safetensors.numpy.save(tensors)
    config = experiment.to_dict()
    config["data"] |= {"data_dir": None}  # The path of the data is specific to one machine.
    model = getattr(experiment.task, "model", None)
    file = CARDS / f"{name}.safetensors"
    same = ("wall_time_s", "commit", "uncommitted_changes", "versions", "device", "started")
    card = {
        "name": name,
        "family": entry.family,
        "task": config["task"]["name"],
        "summary": entry.summary,
        "config": config,
        "inputs": inputs,
        "channels": getattr(model, "channels", None),
        "scale": getattr(model, "scale", None),
        "parameters": sum(v.size for key, v in tensors.items() if key.startswith("params/")),
        "file": file.as_posix(),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "licence": LICENCE,
        "training": {"steps": result["step"], "batch_size": experiment.training.batch_size}
        | {key: result[key] for key in same},
    }
    write_atomically(PACKAGE / file, lambda target: target.write(data))
    write_json(PACKAGE / CARDS / f"{name}.json", card)
    print(f"written: {file} ({len(data):,} bytes) and its card")


if __name__ == "__main__":
    main()
