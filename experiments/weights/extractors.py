"""Add a trained classifier to the package as a feature extractor for metrics of generated images.

  python experiments/weights/extractors.py runs/classifier mnist

The script writes the weights of the last checkpoint, without the optimizer, and the record of the training to
`deconv_jax/models/pretrained/`. A new name also needs an entry in `models.extractors.BUNDLED_CLASSIFIERS`.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deconv_jax import models
from deconv_jax.data.sources import in_memory
from deconv_jax.io import read_json, write_json
from deconv_jax.models.extractors import BUNDLED_CLASSIFIERS, save_extractor
from deconv_jax.training.step import images_in_unit_range
from deconv_jax.workdir import RESULT, load_state, open_workdir

FOLDER = Path(models.__file__).parent / "pretrained"
BATCH_SIZE = 250
"""Number of images per call."""


def main() -> None:
    """Read the run and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path, help="workdir of a finished classification run")
    parser.add_argument("name", choices=sorted(BUNDLED_CLASSIFIERS))
    arguments = parser.parse_args()
    record = read_json(arguments.workdir / RESULT)
    experiment = open_workdir(arguments.workdir)
    task: Any = experiment.task
    data = in_memory(experiment.data.open("train")).arrays
    example = {name: jnp.asarray(array[:1]) for name, array in data.items()}
    example["index"] = jnp.zeros(1, jnp.int32)
    _, state = load_state(arguments.workdir, "last", lambda key: task.init(key, example))
    variables = state.inference_variables()

    @jax.jit
    def mean_square(images: jax.Array) -> jax.Array:
        features = task.model.apply(variables, images_in_unit_range(images), method="embed")
        return jnp.mean(jnp.square(features))

    parts = np.split(
        data["image"][: len(data["image"]) // BATCH_SIZE * BATCH_SIZE],
        len(data["image"]) // BATCH_SIZE,
    )
    scale = float(np.sqrt(np.mean([mean_square(part) for part in parts])))
    save_extractor(FOLDER / f"{arguments.name}.safetensors", jax.device_get(variables), scale)
    record["config"]["data"]["data_dir"] = None  # The path of the data is specific to one machine.
    write_json(FOLDER / f"{arguments.name}.json", record)


if __name__ == "__main__":
    main()
