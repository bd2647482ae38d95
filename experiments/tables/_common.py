"""What several tables need: images of a folder, and networks as restorers of full-size images."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from deconv_jax.cli import load_config
from deconv_jax.data.images import Color, list_images, read_pixels
from deconv_jax.experiment import Experiment, load_restoration, train
from deconv_jax.inference.tiling import restore_tiled
from deconv_jax.models.published import load_published

RUNS = Path("runs/tables")
"""Where networks are trained that a table needs."""


def images_in(folder: Path, color: Color) -> list[tuple[str, np.ndarray]]:
    """Names and images in [0, 1], in the order of the file names; see `read_pixels` for `color`."""
    paths = list_images(folder)
    return [(p.name, read_pixels(p, color).astype(np.float32) / 255) for p in paths]


def protocol_line(protocols: Iterable[str]) -> list[str]:
    """The protocols of a table's records as the last of its blocks; none where there are none."""
    different = dict.fromkeys(protocols)
    return [f"Protocol: {'; or '.join(different)}."] if different else []


def published_network(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A network with published weights, on whole images."""
    module, variables = load_published(path)
    field = module.receptive_field()
    apply = jax.jit(lambda images: module.apply(variables, images))
    return lambda image: restore_tiled(apply, image, field)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network trained here.

    Attributes:
      module, variables: the network.
      record: of its training, for a part's record.
    """

    module: nn.Module
    variables: Any
    record: dict[str, Any]

    def apply(self, images: jax.Array) -> jax.Array:
        """The network on a batch."""
        return self.module.apply(self.variables, images)


def trained(config: str, name: str) -> Trained:
    """Trains what a config says in runs/tables/`name`, unless it is there, and loads it."""
    workdir = RUNS / name.replace("=", "_").replace(",", "-")
    experiment = Experiment.from_dict(load_config(config))
    result = train(experiment, workdir)
    task, variables = load_restoration(workdir)
    record = {
        "config": result["config"],
        "steps": result["step"],
        "batch_size": result["config"]["training"]["batch_size"],
        "parameters": result["parameters"],
        "seed": result["seed"],
        "wall_time_s": result["wall_time_s"],
        "commit": result["commit"],
        "device": result["device"],
    }
    return Trained(task.model, variables, record)
