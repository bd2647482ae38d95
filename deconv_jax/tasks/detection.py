"""Object detection with CenterNet: objects are points at their centers.

Zhou et al., arXiv:1904.07850. The loss is equation 4: a focal loss of the heat maps, and absolute
differences of sizes and offsets at the object centers.

Note: The paper weights sizes in pixels by 0.1. Here sizes are logarithms (see `models.centernet`), so
their differences are relative and small even for poor boxes, and the default weight is 1.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, ClassVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.batch import Batch
from deconv_jax.data.sources import Source
from deconv_jax.data.views import AnnotatedView, View, evaluation_view, training_view
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.detection import average_precision
from deconv_jax.models.interfaces import HasNumClasses, HasOutputStride
from deconv_jax.tasks.centernet_targets import (
    Detections,
    center_losses,
    center_targets,
    decode_detections,
)
from deconv_jax.tasks.task_model import check_model, run_model
from deconv_jax.tasks.view_shapes import view_shapes
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.parallel import gather_to_host
from deconv_jax.training.state import Precision, Scalars, TrainState, Tree
from deconv_jax.training.step import apply_model, gradient_step, init_state
from deconv_jax.training.task import Task
from deconv_jax.viz.grids import picture_grid
from deconv_jax.viz.overlays import with_boxes

MIN_SCORE = 0.3
"""Default score threshold of detections in pictures and predictions."""
_MIN_PICTURE_HEIGHT = 192
"""Approximate height that smaller images are enlarged to, so that class names are legible."""


@dataclasses.dataclass(frozen=True)
class Detection(Task):
    """An object detector of images in [0, 1].

    Note: With `optimizer.accumulate_steps` the loss is the mean of the means over the parts of the
    batch. It differs from the loss of the whole batch if the parts have different numbers of objects.

    Attributes:
      model: CenterNet.
      optimizer: Optimizer of the model.
      view: Transform of a batch to the network's input and boxes.
      precision: "f32", or "bf16" for bfloat16 weights and activations.
      class_names: Display names of all classes; () for indices.
      max_detections: Maximum number of detections per image, at least 1.
      size_weight: Weight of the size loss relative to the heat-map loss (equation 4).
      offset_weight: Weight of the offset loss relative to the heat-map loss (equation 4).
      gaussian_iou: IoU in (0, 1) that a box keeps when its corners move by the radius of the heat
        map's Gaussian; higher values give narrower Gaussians.
      seed: Seed of the view.
    """

    model: nn.Module
    optimizer: Optimizer
    view: View = dataclasses.field(default_factory=AnnotatedView)
    precision: Precision = "f32"
    class_names: tuple[str, ...] = ()
    max_detections: int = 100
    size_weight: float = 1.0
    offset_weight: float = 1.0
    gaussian_iou: float = 0.7
    seed: int = 0

    monitor: ClassVar[str] = "ap"
    metric_names: ClassVar[tuple[str, ...]] = (
        "ap",
        "ap50",
        "ap75",
        "ap_small",
        "ap_medium",
        "ap_large",
        "ar",
        "voc_map",
    )

    def __post_init__(self) -> None:
        check_model(self.model, "output_stride", "a detector", "centernet")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise InputError(
                f"task.class_names must name all {self.num_classes} classes of task.model, or none; "
                f"got {len(self.class_names)}"
            )
        at_least("task.max_detections", self.max_detections, 1)
        for field in ("size_weight", "offset_weight"):
            at_least(f"task.{field}", getattr(self, field), 0)
        if not 0 < self.gaussian_iou < 1:
            raise InputError(f"task.gaussian_iou must be in (0, 1); got {self.gaussian_iou}")

    @property
    def num_classes(self) -> int:
        """Number of object classes."""
        return cast(HasNumClasses, self.model).num_classes

    @property
    def output_stride(self) -> int:
        """Pixels per heat-map cell along each axis."""
        return cast(HasOutputStride, self.model).output_stride

    @property
    def protocol(self) -> str:
        """Definition of the metrics of `evaluate`, a sentence that is stored with results."""
        return (
            "ap: COCO average precision of boxes (IoU 0.5 to 0.95, 101 recalls, pycocotools); ap50 and "
            "ap75: at one IoU; ar: mean recall over the same IoUs; ap_small, ap_medium and ap_large: "
            "objects below 32^2, below 96^2 and above, in pixels of the network's input; voc_map: "
            "Pascal VOC 2007 at IoU 0.5 (11 recalls); means over the classes that have objects; up to "
            f"{self.max_detections} detections per image, one view per image, no objects marked "
            "difficult or crowd; in padded images, boxes are clipped to the valid region and boxes "
            "centered outside it are dropped"
        )

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """Return the initial state for images of the view's shape.

        Raises:
          InputError: The view has no boxes, or its images do not fit the model.
        """
        _, seen = view_shapes(self.model, self.view, batch, "boxes")
        return init_state(self.model, self.optimizer, key, jnp.zeros(seen["image"].shape))

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """Take a gradient step on the weighted sum of `center_losses`.

        Scalars: "heat_loss", "size_loss" and "offset_loss", unweighted; and
        "loss", "grad_norm" (before clipping) and "learning_rate".
        """

        def loss(variables: Tree, batch: Batch) -> tuple[jax.Array, tuple[Scalars, Tree]]:
            seen = training_view(self.view, batch, self.seed, state.step)
            maps, stats = apply_model(
                self.model, variables, seen["image"], train=True, precision=self.precision
            )
            targets = center_targets(
                seen["boxes"],
                seen["box_class"],
                shape=maps.heat.shape[1:],
                stride=self.output_stride,
                gaussian_iou=self.gaussian_iou,
            )
            losses = center_losses(maps, targets)
            total = losses["heat_loss"] + self.size_weight * losses["size_loss"]
            return total + self.offset_weight * losses["offset_loss"], (losses, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    @functools.partial(jit, static_argnums=0)
    def predict(self, variables: Tree, images: jax.Array) -> dict[str, jax.Array]:
        """Detect objects.

        Args:
          variables: Variables from `TrainState.inference_variables`.
          images: Images (batch, height, width, channels) in [0, 1], with sides that are multiples of
            `model.multiple`.

        Returns:
          By descending score: "boxes" (batch, max_detections, 4), the top, left, bottom and right
          edges in pixels; "scores" (batch, max_detections) in [0, 1]; and int32 "classes" (batch,
          max_detections), -1 in empty rows. There are fewer rows if the heat maps have fewer entries.
        """
        return self._detect(variables, images)._asdict()

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Compute average precision over the whole split, independent of batching.

        Returns:
          "ap", "ap50", "ap75", "ar" and "voc_map" in [0, 1]; and "ap_small", "ap_medium" and "ap_large"
          for the sizes that occur; see `protocol` for the definitions.

        Raises:
          InputError: The split has no examples or no objects, a class that the model lacks, or the
            detections are not finite.
        """
        rows = _gather_rows(self._evaluation_rows(state, batch) for batch in batches)
        if np.any(rows["true_classes"] >= self.num_classes):
            raise InputError(
                f"the data has boxes of classes above {self.num_classes - 1}, the model's last; "
                "increase task.model.num_classes"
            )
        return average_precision(**rows)

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Return "detections": images with the true boxes above images with the detected boxes.

        Detections with a score below `MIN_SCORE` are left out.
        """
        seen, found = jax.device_get(self._view_and_detections(state, batch))
        scale = max(1, _MIN_PICTURE_HEIGHT // seen["image"].shape[1])
        drawn_classes = np.where(found.scores >= MIN_SCORE, found.classes, -1)

        def draw(number: int, boxes: np.ndarray, classes: np.ndarray, **scores: Any) -> np.ndarray:
            names = self.class_names
            image = seen["image"][number]
            return with_boxes(
                image, boxes[number], classes[number], names=names, scale=scale, **scores
            )

        numbers = range(len(seen["image"]))
        rows = {
            "true": [draw(i, seen["boxes"], seen["box_class"]) for i in numbers],
            f"detected, score >= {MIN_SCORE}": [
                draw(i, found.boxes, drawn_classes, scores=found.scores[i]) for i in numbers
            ],
        }
        pictures = {caption: np.stack(images) for caption, images in rows.items()}
        return {"detections": picture_grid(pictures, scale=1)}

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Return {}: there is no baseline."""
        del train, test
        return {}

    def _detect(self, variables: Tree, images: jax.Array) -> Detections:
        maps = run_model(self, variables, images)
        return decode_detections(
            maps, stride=self.output_stride, max_detections=self.max_detections
        )

    @functools.partial(jit, static_argnums=0)
    def _view_and_detections(
        self, state: TrainState, batch: Batch
    ) -> tuple[dict[str, jax.Array], Detections]:
        """Return the evaluation view of a batch, and the detections in its valid region."""
        seen = dict(evaluation_view(self.view, batch))
        found = self._detect(state.inference_variables(), seen["image"])
        if "size" not in batch:
            return seen, found
        size = batch["size"][:, None].astype(jnp.float32)
        centers = (found.boxes[..., :2] + found.boxes[..., 2:]) / 2
        valid = jnp.all(centers < size, axis=-1)
        return seen, Detections(
            jnp.minimum(found.boxes, jnp.tile(size, 2)),
            jnp.where(valid, found.scores, 0.0),
            jnp.where(valid, found.classes, -1),
        )

    @functools.partial(jit, static_argnums=0)
    def _evaluation_rows(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        """Return detections, true boxes and mask of a batch, with one row per image."""
        seen, found = self._view_and_detections(state, batch)
        truth = {"true_boxes": seen["boxes"], "true_classes": seen["box_class"]}
        return found._asdict() | truth | {"mask": batch["mask"]}


def _gather_rows(dispatched: Iterable[dict[str, jax.Array]]) -> dict[str, np.ndarray]:
    """Concatenate the rows of all batches on the host, without those of mask 0.

    A batch is fetched after the next one has been dispatched.

    Raises:
      InputError: There are no batches.
    """
    fetched: list[dict[str, np.ndarray]] = []
    pending: dict[str, jax.Array] = {}
    for rows in dispatched:
        fetched.append(jax.tree.map(gather_to_host, pending))
        pending = rows
    fetched = [*fetched[1:], jax.tree.map(gather_to_host, pending)]
    if not pending:
        raise InputError("the split to evaluate on has no examples")
    whole = {name: np.concatenate([rows[name] for rows in fetched]) for name in pending}
    valid = whole.pop("mask") > 0
    return {name: array[valid] for name, array in whole.items()}
