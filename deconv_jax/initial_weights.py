"""Initial weights of a run, copied from a named model, a run or a weights file: `config.init_from`.

Parameters and batch statistics with the same path and shape are copied. The others keep their
initialization and are listed. A path is a name such as "layer_0/Conv_0/kernel"; in adversarial training it starts
with "generator/" or "discriminator/".
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from deconv_jax import zoo
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import kind_of, open_regular
from deconv_jax.models.weight_files import abbreviate_names
from deconv_jax.models.weight_import import load_torch_weights
from deconv_jax.tasks import GAN, TASKS
from deconv_jax.training.parallel import Devices
from deconv_jax.training.state import TrainState, Tree
from deconv_jax.training.task import Task
from deconv_jax.workdir import load_state

_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """Variables to copy.

    Attributes:
      variables: "params" and "batch_stats", nested dicts of NumPy arrays.
      origin: JSON-serializable description: "source", "kind", "sha256" (of the weights file; for a run, of the
        names and values of its variables) and, for a run, "step".
    """

    variables: Mapping[str, Tree]
    origin: Mapping[str, Any]


def read_initial_weights(
    source: str, task: Task, report: Callable[[str], None] | None = None
) -> InitialWeights:
    """Read the weights that `config.init_from` names.

    Args:
      source: Name of a model in the package (`zoo.names`) or of a family; a weights file (.safetensors, .pth
        or .pt); or the workdir of a run, of which the last checkpoint is read, with averaged weights if there
        are any. ~ and environment variables are expanded. A folder with the name of a model is written "./NAME".
      task: Task to initialize. Its kind, channels and scale select the model of a family, and its scale is that
        of an FSRCNN whose file has none.
      report: Function that is called with a message about each attribute of a network that its file does not
        state.

    Raises:
      InputError: There is no such model, file or run, or it cannot be read.
    """
    path = Path(os.path.expanduser(os.path.expandvars(source)))
    facts: dict[str, Any]
    variables: Mapping[str, Tree]
    if source in zoo.FAMILIES or source in zoo.names():
        model = _load_model(source, task)
        variables, facts = model.variables, {"sha256": model.card["sha256"]}
        kind, source = "model", model.name
    elif path.suffix in _WEIGHT_SUFFIXES:
        kind, variables = "weights file", _read_file(path, task, report)
        facts = {"sha256": _hash_file(path)}
    elif kind_of(path) == "folder":
        kind = "run"
        step, variables = _read_run(path)
        facts = {"step": step, "sha256": _hash_variables(variables)}
    else:
        raise InputError(
            "config.init_from must be the name of a model, the workdir of a run or a "
            f"{', '.join(_WEIGHT_SUFFIXES)} file; got {source!r}; "
            f"{did_you_mean(source, [*zoo.names(), *zoo.FAMILIES])}"
        )
    variables = _like_networks(variables, task)
    return InitialWeights(variables, {"source": source, "kind": kind} | facts)


def copy_weights(
    state: TrainState, weights: InitialWeights, devices: Devices, exclude: tuple[str, ...] = ()
) -> tuple[TrainState, dict[str, Any]]:
    """Copy weights of the same path and shape into an initial state, and into its averaged weights.

    Args:
      state: Initial state.
      weights: Weights to copy.
      devices: Devices that hold the state.
      exclude: Paths not to copy, with all paths below them, such as "upsample".

    Returns:
      The state, and a JSON-serializable description: the origin of the weights; "copied", the number of
      arrays; "excluded", "missing" (in the source) and "unused" (of the source), lists of paths; and
      "other_shape", the shapes here and in the source by path.

    Raises:
      InputError: Nothing is copied, or an entry of `exclude` is not the beginning of a path.
    """
    given = {key: _by_path(weights.variables[key]) for key in ("params", "batch_stats")}
    here = {key: _by_path(getattr(state, key)) for key in given}
    paths = [path for arrays in here.values() for path in arrays]
    for prefix in exclude:
        if not any(_is_below(path, prefix) for path in paths):
            raise InputError(
                f"config.init_exclude: no parameter {prefix!r}; the model has {abbreviate_names(paths)}"
            )
    copied: list[str] = []
    report: dict[str, Any] = {"excluded": [], "missing": [], "other_shape": {}}

    def choose(key: str, path: str, value: jax.Array) -> np.ndarray | jax.Array:
        if any(_is_below(path, prefix) for prefix in exclude):
            report["excluded"].append(path)
        elif path not in given[key]:
            report["missing"].append(path)
        elif given[key][path].shape != value.shape:
            report["other_shape"][path] = [list(value.shape), list(given[key][path].shape)]
        else:
            copied.append(path)
            return given[key][path].astype(value.dtype)
        return value

    chosen = {
        key: jax.tree_util.tree_map_with_path(
            lambda path, value, key=key: choose(key, _name(path), value), getattr(state, key)
        )
        for key in given
    }
    if not copied:
        theirs = [path for arrays in given.values() for path in arrays]
        raise InputError(
            f"config.init_from={weights.origin['source']!r} has no weights of the same path and shape as "
            f"the model: it has {abbreviate_names(theirs)}; the model has {abbreviate_names(paths)}"
        )
    state = dataclasses.replace(state, **{key: devices.replicate(v) for key, v in chosen.items()})
    if state.ema:
        # Replicated again, because the state is donated to the step and no buffer may be donated twice.
        state = dataclasses.replace(state, ema=devices.replicate(_like_average(state.ema, chosen)))
    used = {*report["excluded"], *report["other_shape"], *copied}
    report["unused"] = [path for arrays in given.values() for path in arrays if path not in used]
    return state, dict(weights.origin) | {"copied": len(copied)} | report


def describe_copy(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a message about the result of `copy_weights`, which names all that is not copied."""
    step = f", step {report['step']}" if "step" in report else ""
    total = report["copied"] + sum(len(report[k]) for k in ("excluded", "missing", "other_shape"))
    yield (
        f"initial weights from the {report['kind']} {report['source']}{step}: "
        f"{report['copied']} of {total} arrays copied"
    )
    for path, (here, there) in report["other_shape"].items():
        yield f"not copied, {path} has shape {tuple(here)} here and {tuple(there)} there"
    for key, reason in (
        ("excluded", "not copied, excluded by init_exclude"),
        ("missing", "not copied, missing in the source"),
        ("unused", "unused arrays of the source"),
    ):
        if report[key]:
            yield f"{reason} ({len(report[key])}): {', '.join(report[key])}"


def _load_model(name: str, task: Task) -> zoo.ZooModel:
    """Return a named model. The task and its network select the model of a family."""
    variants = zoo.FAMILIES.get(name, (name,))
    if len(variants) > 1:
        kinds = {variant: zoo.card(variant)["config"]["task"]["name"] for variant in variants}
        variants = tuple(v for v, kind in kinds.items() if isinstance(task, TASKS[kind]))
    if len(variants) == 1:
        return zoo.load(variants[0])
    network = getattr(task, "model", None)
    return zoo.load(
        name, channels=getattr(network, "channels", None), scale=getattr(network, "scale", None)
    )


def _read_file(path: Path, task: Task, report: Callable[[str], None] | None) -> dict[str, Tree]:
    """Return the variables of a weights file."""
    try:
        variables = load_torch_weights(path, report=report).variables
    except InputError:
        scale = getattr(getattr(task, "model", None), "scale", 1)
        if scale == 1:
            raise
        # The variables of an FSRCNN do not determine its scale, which its file may lack.
        variables = load_torch_weights(path, scale, report=report).variables
    return {"batch_stats": {}} | jax.tree.map(np.asarray, variables)


def _read_run(workdir: Path) -> tuple[int, dict[str, Tree]]:
    """Return the step and the variables of the last checkpoint of a run."""
    step, state = load_state(workdir, "last")
    variables = state.inference_variables()
    if state.is_adversarial:
        variables = {
            key: getattr(state, key) | {"generator": variables[key]}
            for key in ("params", "batch_stats")
        }
    return step, jax.device_get(variables)


def _like_networks(variables: Mapping[str, Tree], task: Task) -> Mapping[str, Tree]:
    """Return variables of one or of two networks as those of a task: with or without "generator"."""
    here = isinstance(task, GAN) or getattr(task, "adversary", None) is not None
    there = "generator" in variables["params"]
    if here and not there:
        return {key: {"generator": variables[key]} for key in ("params", "batch_stats")}
    if there and not here:
        return {key: _without_prefix(variables[key]) for key in ("params", "batch_stats")}
    return variables


def _without_prefix(networks: Mapping[str, Tree]) -> Tree:
    """Return a tree of two networks with that of the generator at the top."""
    return networks["generator"] | {k: v for k, v in networks.items() if k != "generator"}


def _like_average(average: Tree, chosen: Mapping[str, Tree]) -> Tree:
    """Return the weights of a new state in the structure of its `ema`: parameters, or a GAN's generator."""
    if _by_path(average).keys() == _by_path(chosen["params"]).keys():
        return chosen["params"]
    return {key: chosen[key]["generator"] for key in ("params", "batch_stats")}


def _by_path(tree: Tree) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_below(path: str, prefix: str) -> bool:
    return f"{path}/".startswith(f"{prefix.rstrip('/')}/")


def _hash_file(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.sha256(file.read()).hexdigest()


def _hash_variables(variables: Tree) -> str:
    digest = hashlib.sha256()
    for path, array in _by_path(variables).items():
        digest.update(f"{path} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
