"""Loading of named models."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from deconv_jax.errors import InputError
from deconv_jax.zoo.cards import PACKAGE, card, resolve

if TYPE_CHECKING:
    import jax

    from deconv_jax.experiment import Experiment
    from deconv_jax.training.state import Tree


_COLLECTIONS = ("params/", "batch_stats/")


@dataclasses.dataclass(frozen=True, eq=False)
class ZooModel:
    """A named model.

    Attributes:
      card: Its model card.
      experiment: Experiment that trained it.
      variables: "params" and "batch_stats" of its network, float32 NumPy arrays; those of the generator for a GAN.
      extras: Arrays of the file beside the variables, by name: the tables of a codec, or the scale of the features
        of a feature extractor.
    """

    card: dict[str, Any]
    experiment: Experiment
    variables: dict[str, Tree]
    extras: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.card["name"]

    @property
    def task(self) -> Any:
        """Task of the experiment."""
        return self.experiment.task

    @property
    def input_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch of one training example, as from `workdir.read_input_shapes`."""
        from deconv_jax.workdir import parse_input_shapes

        return parse_input_shapes(self.card["inputs"])


def load(name: str, *, channels: int | None = None, scale: int | None = None) -> ZooModel:
    """Return a named model, after a check of its weights.

    Args:
      name: Name of a model, such as "denoise-gray", or of a family, such as "denoise"; see `resolve`.
      channels: Number of image channels of the model; None accepts any.
      scale: Ratio of output to input size of a restoration network; None accepts any.

    Raises:
      InputError: There is no such model, or its files are damaged.

    Example:
      >>> load("denoise", channels=1).name
      'denoise-gray'
    """
    import jax
    import safetensors.numpy
    from flax.traverse_util import flatten_dict, unflatten_dict

    from deconv_jax.experiment import Experiment
    from deconv_jax.models.weight_files import check_tensors

    about = card(resolve(name, channels=channels, scale=scale))
    path = PACKAGE / about["file"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != about["sha256"]:
        raise InputError(
            f"{path} is damaged: its SHA-256 is {digest[:16]}..., its model card has "
            f"{about['sha256'][:16]}...; install the package again"
        )
    tensors, extras = {}, {}
    for key, value in safetensors.numpy.load(data).items():
        if key.startswith(_COLLECTIONS):
            tensors[key] = value.astype(np.float32)
        else:
            extras[key] = value
    try:
        experiment = Experiment.from_dict(about["config"])
        variables = {"batch_stats": {}} | unflatten_dict(tensors, sep="/")
        model = ZooModel(about, experiment, variables, extras)
        seed = jax.eval_shape(lambda: jax.random.key(0))
        state = jax.eval_shape(experiment.task.init, seed, model.input_shapes)
        expected = flatten_dict(state.inference_variables(), sep="/")
        check_tensors(tensors, {name: leaf.shape for name, leaf in expected.items()})
    except InputError as error:
        raise InputError(
            f"model {about['name']!r} does not fit this version of the package: {error}"
        ) from error
    return model
