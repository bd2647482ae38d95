"""What a run has learned, ready for work: of its workdir alone, without the data that it learned from."""

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from deconv_jax.compilation import jit
from deconv_jax.data.images import Color
from deconv_jax.data.preprocessing import Preprocessing
from deconv_jax.data.sources import Source
from deconv_jax.data.views import evaluation_view
from deconv_jax.data.views.view import true_sizes
from deconv_jax.errors import InputError
from deconv_jax.experiment import load_state, open_workdir, read_example
from deconv_jax.inference.compression.codec import Codec
from deconv_jax.inference.compression.coding_tables import load_tables, save_tables
from deconv_jax.inference.interpretation.figures import InterpretableModel
from deconv_jax.inference.recognition.predictor import Predictor, fitted_middle
from deconv_jax.tasks import (
    GAN,
    Classification,
    Compression,
    Detection,
    Restoration,
    Segmentation,
    Variational,
)
from deconv_jax.tasks.detection import LEAST_SCORE
from deconv_jax.training.run_log import center_crops
from deconv_jax.training.state import images_in_unit_range, init_state
from deconv_jax.training.task import Batch
from deconv_jax.viz.overlays import class_name

Checkpoint = Literal["last", "best"] | int

RESTORED_SIDE = 96
"""Pixels of an image that a restoration network is shown to be looked into."""
TABLES = "codec"
"""Folder of a workdir with the tables that files of a codec are coded by."""


def load_restoration(
    workdir: Path, checkpoint: Checkpoint = "last"
) -> tuple[Restoration, dict[str, Any]]:
    """The task of a run of restoration and the variables that its network restores with.

    Args:
      workdir, checkpoint: as for `experiment.load_state`.

    Returns:
      The variables are NumPy arrays.

    Raises:
      InputError: as `experiment.load_state`, or the run learned something else.
    """
    task = _task_of(workdir, Restoration)
    model: Any = task.model
    # Parameters do not depend on the size of an image, nor on how it was degraded.
    side = 4 * model.receptive_field().multiple
    image = jnp.zeros((1, side, side, model.channels + task.noise_conditional))
    _, state = load_state(
        workdir, checkpoint, lambda key: init_state(model, task.optimizer, key, image)
    )
    return task, jax.device_get(state.inference_variables())


def load_generative(
    workdir: Path, checkpoint: Checkpoint = "last"
) -> tuple[GAN | Variational, dict[str, Any]]:
    """The task of a run that learned to make images, and the variables that it samples with.

    Args, returns and errors as for `load_restoration`.
    """
    task = _task_of(workdir, GAN, Variational)
    example = {
        "image": jnp.zeros((1, *task.image_shape), jnp.uint8),
        "label": jnp.zeros(1, jnp.int32),
    }
    _, state = load_state(workdir, checkpoint, lambda key: task.init(key, example))
    return task, jax.device_get(task.sampling_variables(state))


def load_codec(workdir: Path, checkpoint: Checkpoint = "last") -> tuple[Compression, Codec]:
    """The task of a run of compression and its codec.

    The tables of the codec are made once and kept in the workdir, so that a copy of it on another
    machine has the same.

    Args, returns and errors as for `load_restoration`.
    """
    task = _task_of(workdir, Compression)
    model: Any = task.model
    example = {"image": jnp.zeros((1, task.crop, task.crop, model.channels), jnp.uint8)}
    step, state = load_state(workdir, checkpoint, lambda key: task.init(key, example))
    variables = jax.device_get(state.inference_variables())
    path = workdir / TABLES / f"{step:07d}.safetensors"
    tables = load_tables(path, model, variables)
    codec = Codec(model, variables, tables)
    if tables is None:
        try:
            save_tables(path, codec.tables, variables)
        except InputError as error:
            print(f"warning: the codec's tables are not kept: {error}", file=sys.stderr)
    return task, codec


def load_recognition(
    workdir: Path, checkpoint: Checkpoint = "last"
) -> tuple[Classification | Segmentation | Detection, dict[str, Any]]:
    """The task of a run that learned to recognise, and the variables that it predicts with.

    Args and returns as for `load_restoration`.

    Raises:
      InputError: as for `load_restoration`, or as `experiment.read_example`.
    """
    task = _task_of(workdir, Classification, Segmentation, Detection)
    example = read_example(workdir)

    def init(key: jax.Array) -> Any:
        zeros = {name: jnp.zeros(like.shape, like.dtype) for name, like in example.items()}
        return task.init(key, zeros)

    _, state = load_state(workdir, checkpoint, init)
    return task, jax.device_get(state.inference_variables())


def load_predictor(
    workdir: Path, checkpoint: Checkpoint = "last", threshold: float | None = None
) -> Predictor:
    """A run that learned to recognise, ready for images of any size.

    Args:
      workdir, checkpoint: as for `load_restoration`.
      threshold: least score of a box, in [0, 1]; None for `LEAST_SCORE`.

    Raises:
      InputError: as for `load_recognition`; or a threshold that is out of range or for a run that is of
        no detection; or a network of images that files do not have.
    """
    task, variables = load_recognition(workdir, checkpoint)
    detects = isinstance(task, Detection)
    if threshold is not None and not detects:
        raise InputError(f"threshold is for a run of Detection; got one of {type(task).__name__}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold is in [0, 1]; got {threshold}")
    data, example = open_workdir(workdir).data, read_example(workdir)
    size, canvas, multiple = None, data.canvas, 1
    if isinstance(task, Classification):
        height, width, channels = example["image"].shape[1:]
        side = task.preprocessing.resize or (height, width)
        if task.preprocessing.resize or canvas is None:
            size, canvas = side, None
    else:
        shown = jax.eval_shape(lambda batch: evaluation_view(task.view, batch), example)
        channels = shown["image"].shape[-1]
        multiple = task.model.multiple  # type: ignore[attr-defined]
        side = (multiple, multiple)
    color = _color(channels, data.color)
    if isinstance(task, Detection):
        classes = task.num_classes
    else:
        image = jax.ShapeDtypeStruct((1, *side, channels), jnp.float32)
        classes = jax.eval_shape(task.predict, variables, image)["probabilities"].shape[-1]
    return Predictor(
        task.predict,
        # Once, and not with every image.
        jax.device_put(variables),
        color,
        tuple(class_name(number, task.class_names) for number in range(classes)),
        size=size,
        canvas=canvas,
        multiple=multiple,
        threshold=LEAST_SCORE if threshold is None else threshold,
    )


def load_subject(workdir: Path, checkpoint: Checkpoint = "last") -> InterpretableModel:
    """A run's network to look inside.

    Image files are shown to it as large as the images of its data, as `fitted_middle` makes them;
    to a restoration network the middle `RESTORED_SIDE` pixels a side as they are, of its data too.

    Args:
      workdir, checkpoint: as for `load_restoration`.

    Raises:
      InputError: as for `load_recognition`; or the run learned neither to recognise nor to restore.
    """
    color = open_workdir(workdir).data.color
    kind = _task_of(workdir, Classification, Segmentation, Detection, Restoration)
    if isinstance(kind, Restoration):
        return _restoration_subject(*load_restoration(workdir, checkpoint), color)
    task, variables = load_recognition(workdir, checkpoint)
    preprocessing = task.preprocessing if isinstance(task, Classification) else Preprocessing()

    @jit
    def seen(batch: Batch) -> jax.Array:
        if isinstance(task, Classification):
            return preprocessing.resized(images_in_unit_range(batch["image"]), batch.get("size"))
        return evaluation_view(task.view, batch)["image"]

    height, width, channels = jax.eval_shape(seen, read_example(workdir)).shape[1:]
    classes = 0
    if not isinstance(task, Detection):
        image = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
        classes = jax.eval_shape(task.model.apply, variables, image).shape[-1]
    return InterpretableModel(
        task.model,
        jax.tree.map(jnp.asarray, variables),
        (height, width, channels),
        seen,
        fitted=lambda pixels: fitted_middle(pixels, (height, width)),
        color=_color(channels, color),
        prepare=lambda images: preprocessing.standardized(images)[0],
        classes=classes,
        class_names=task.class_names,
    )


def open_test_split(workdir: Path, data_dir: str | None = None) -> Source:
    """The test split of a run's data.

    Args:
      workdir: of the run.
      data_dir: where the data is now, if not where the run found it.

    Raises:
      InputError: the workdir is none, or the data cannot be opened.
    """
    data = open_workdir(workdir).data
    if data_dir is not None:
        data = dataclasses.replace(data, data_dir=data_dir)
    return data.source("test")


def _restoration_subject(
    task: Restoration, variables: dict[str, Any], color: Color
) -> InterpretableModel:
    model: Any = task.model
    degrade = jit(lambda batch: task.evaluation_pair(batch)[0])

    def seen(batch: Batch) -> jax.Array:
        sizes = np.asarray(true_sizes(batch)) // task.scale
        return jnp.asarray(center_crops(np.asarray(degrade(batch)), sizes, RESTORED_SIDE))

    def fitted(pixels: np.ndarray) -> np.ndarray:
        if task.noise_conditional:
            raise InputError(
                "this network is given the level of the noise too, which a file does not say; "
                "leave images out to see its test split"
            )
        if min(pixels.shape[:2]) < RESTORED_SIDE:
            raise InputError(
                f"a restoration network is shown {RESTORED_SIDE} pixels a side; got {pixels.shape[:2]}"
            )
        sizes = np.array([pixels.shape[:2]])
        return center_crops(pixels[None], sizes, RESTORED_SIDE)[0].astype(np.float32) / 255.0

    return InterpretableModel(
        model,
        jax.tree.map(jnp.asarray, variables),
        (RESTORED_SIDE, RESTORED_SIDE, model.channels + task.noise_conditional),
        seen,
        fitted,
        color=_color(model.channels, color),
        prepare=lambda images: images,
    )


def _color(channels: int, of_data: Color) -> Color:
    """What image files are read as for a network of so many channels."""
    if channels not in (1, 3):
        raise InputError(f"files have images of 1 or 3 channels; this network takes {channels}")
    return "rgb" if channels == 3 else "y" if of_data == "y" else "gray"


def _task_of(workdir: Path, *kinds: type) -> Any:
    task = open_workdir(workdir).task
    if not isinstance(task, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(
            f"{workdir} is a run of {type(task).__name__}; wanted is a run of {wanted}"
        )
    return task
