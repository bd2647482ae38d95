"""Restoration networks loaded from runs, named models and weights files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deconv_jax import zoo
from deconv_jax.data.degradations import Degradation
from deconv_jax.errors import InputError
from deconv_jax.inference.trained_model import TrainedModel, open_task
from deconv_jax.io import kind_of
from deconv_jax.models.interfaces import RestorationModel
from deconv_jax.models.weight_import import load_torch_weights
from deconv_jax.tasks import Restoration
from deconv_jax.training.state import Tree
from deconv_jax.workdir import Checkpoint, load_state
from deconv_jax.zoo import ZooModel

DEFAULT_MODEL = "photo"
"""Named model that restores photographs of unknown quality."""


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A restoration network, and what is known about its training.

    Attributes:
      name: Name for messages: of the model, or the path of the run or file.
      model: Network with the attributes of `RestorationModel`.
      variables: Collection "params", and "batch_stats" if the network has it.
      noise_conditional: Whether the network takes a noise-level map as an additional channel.
      degradation: Degradation of the training images; None if unknown, as for published weights.
    """

    name: str
    model: nn.Module
    variables: Tree
    noise_conditional: bool = False
    degradation: Degradation | None = None


def load_restoration(
    trained: TrainedModel, checkpoint: Checkpoint = "last"
) -> tuple[Restoration, dict[str, Any]]:
    """Return the task of a restoration network and its variables.

    Args:
      trained: Workdir of a run, or a named model.
      checkpoint: "last", "best" on the validation split, or a step, of a run.

    Returns:
      The task, and "params" (averaged weights, if there are any) and "batch_stats" as NumPy arrays.

    Raises:
      InputError: The run or the named model is not one of restoration, or the checkpoint is missing
        or damaged.
    """
    from deconv_jax.training.step import init_state

    task = open_task(trained, Restoration)
    if isinstance(trained, ZooModel):
        return task, trained.variables
    if task.adversary is not None:
        # The discriminator depends on the size of the patches.
        return task, jax.device_get(load_state(trained, checkpoint)[1].inference_variables())
    model = cast(RestorationModel, task.model)
    # The parameters depend neither on the image size nor on the degradation.
    side = 4 * model.receptive_field().multiple
    image = jnp.zeros((1, side, side, model.channels + task.noise_conditional))
    _, state = load_state(
        trained, checkpoint, lambda key: init_state(task.model, task.optimizer, key, image)
    )
    return task, jax.device_get(state.inference_variables())


def load_run(workdir: Path, checkpoint: Checkpoint = "last") -> LoadedNetwork:
    """Return the network of a run; arguments and errors as in `load_restoration`."""
    task, variables = load_restoration(workdir, checkpoint)
    return _trained(str(workdir), task, variables)


def load_named(name: str, *, channels: int, scale: int | None = None) -> LoadedNetwork:
    """Return a named restoration network.

    Args:
      name: Name of a model or of a family, see `zoo.resolve`. The first variant of a
        family with the scale and these channels is chosen, or else the first with the scale.
      channels: Number of channels of the images to restore.
      scale: Ratio of output to input size; None for any.

    Raises:
      InputError: There is no such model, its task is not restoration, or it has another scale.
    """
    restoring = restoration_models()
    if name not in restoring and (name in zoo.FAMILIES or name in zoo.names()):
        task = zoo.card(name)["task"]
        raise InputError(
            f"model {name!r} is for {task}; models for restoration are {', '.join(restoring)}"
        )
    fitting = (
        variant
        for variant in zoo.FAMILIES.get(name, ())
        if zoo.card(variant)["channels"] == channels and scale in (None, zoo.card(variant)["scale"])
    )
    found = zoo.load(next(fitting, name), scale=scale)
    return _trained(found.name, found.task, found.variables)


def restoration_models() -> list[str]:
    """Return the names of families and models that restore images, those of families first."""
    cards = [zoo.card(name) for name in zoo.names()]
    found = [about for about in cards if about["task"] == "restoration"]
    families = dict.fromkeys(about["family"] for about in found if about["family"])
    return [*families, *(about["name"] for about in found)]


def smallest_scale(name: str, outscale: float) -> int | None:
    """Return the smallest scale of a family's models that is at least `outscale`, or else the largest.

    None if there is no choice: all models have one scale, or `name` is not a family.
    """
    scales = {zoo.card(variant)["scale"] for variant in zoo.FAMILIES.get(name, ())}
    if len(scales) < 2:
        return None
    return min((scale for scale in scales if scale >= outscale), default=max(scales))


def load_weights(
    path: Path,
    scale: int | None = None,
    *,
    batch_norm_epsilon: float | None = None,
    report: Callable[[str], None] | None = None,
) -> LoadedNetwork:
    """Return the network of a file of published weights; arguments as in `load_torch_weights`.

    Raises:
      InputError: The file is missing or a folder, or as in `load_torch_weights`.
    """
    kind = kind_of(path)
    if kind is None:
        raise InputError(f"--weights: no such file {path}")
    if kind == "folder":
        raise InputError(f"--weights must be a file; got the folder {path} (see --workdir)")
    network = load_torch_weights(path, scale, batch_norm_epsilon=batch_norm_epsilon, report=report)
    return LoadedNetwork(str(path), *network)


def interpolate_networks(
    first: LoadedNetwork, second: LoadedNetwork, alpha: float
) -> LoadedNetwork:
    """Return the network with the weights (1 - alpha) * first + alpha * second.

    Between a network trained for PSNR and one that continued its training with an adversary, `alpha` trades
    fidelity for texture (Wang et al., arXiv:1809.00219, section 3.4). Networks of independent trainings have
    nothing useful between them.

    Args:
      first, second: Networks of the same architecture.
      alpha: Weight of the second network, from 0 to 1.

    Raises:
      InputError: The networks differ in their class, attributes or weights, or in whether they take a noise
        level.
    """
    both = (first, second)
    conditional = [network.noise_conditional for network in both]
    if first.model != second.model or conditional[0] != conditional[1]:
        # The text of a module has a line per attribute.
        models = [" ".join(str(n.model).replace("# attributes", "").split()) for n in both]
        raise InputError(
            "only networks of the same architecture can be interpolated; got "
            f"{first.name} with {models[0]} and {second.name} with {models[1]}"
        )
    shapes = [jax.tree.map(np.shape, dict(network.variables)) for network in both]
    if shapes[0] != shapes[1]:
        raise InputError(f"the weights of {first.name} and {second.name} have different shapes")
    variables = jax.tree.map(
        lambda a, b: (1 - alpha) * np.asarray(a) + alpha * np.asarray(b),
        *(dict(network.variables) for network in both),
    )
    name = f"{first.name} and {second.name}"
    return dataclasses.replace(first, name=name, variables=variables)


def _trained(name: str, task: Restoration, variables: Tree) -> LoadedNetwork:
    return LoadedNetwork(name, task.model, variables, task.noise_conditional, task.degradation)
