"""Detection: learn where objects are and of which class, as the points at their centres.

CenterNet, Zhou et al., arXiv:1904.07850: the loss is that of equation 4, focal loss of the heat maps and
absolute differences of sizes and offsets at the objects' centres. What a reader would get wrong: the
paper's weight of 0.1 is for sizes in pixels; here the difference is one of logarithms, and so relative to
the object (see `models.centernet`), which is a small number even where boxes are poor.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, ClassVar

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
from deconv_jax.tasks.centernet_targets import (
    Detections,
    center_losses,
    center_targets,
    detections,
)
from deconv_jax.tasks.view_shapes import view_shapes
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.parallel import gather_to_host
from deconv_jax.training.state import (
    Precision,
    Scalars,
    TrainState,
    apply_model,
    gradient_step,
    init_state,
)
from deconv_jax.training.task import Task
from deconv_jax.viz.grids import picture_grid
from deconv_jax.viz.overlays import with_boxes

MIN_SCORE = 0.3
"""Of the detections in a picture, and of those that a person is told of unless asked otherwise."""
_DRAWN_SIDE = 192
"""Pixels that small images are enlarged to at least, about, so that names can be read."""


@dataclasses.dataclass(frozen=True)
class Detection(Task):
    """Detector of objects in images in [0, 1].

    With `optimizer.accumulate_steps` the loss is the mean of the parts' means, which differs from that
    of the batch where parts have more objects than one another.

    Attributes:
      model: a `CenterNet`.
      optimizer, precision: see `Optimizer` and `apply_model`.
      view: what of a batch the network sees, with boxes.
      class_names: for pictures; all of them or none.
      max_detections: in an image.
      size_weight, offset_weight: of their losses beside the heat maps' (equation 4).
      overlap: which width of the heat maps' bumps follows from, see `gaussian_radius`.
      seed: of the view.
    """

    model: nn.Module
    optimizer: Optimizer
    view: View = dataclasses.field(default_factory=AnnotatedView)
    precision: Precision = "f32"
    class_names: tuple[str, ...] = ()
    max_detections: int = 100
    size_weight: float = 1.0
    offset_weight: float = 1.0
    overlap: float = 0.7
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
        if not hasattr(self.model, "output_stride"):
            raise InputError(
                f"task.model {type(self.model).__name__} gives no heat maps; wanted is 'centernet'"
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise InputError(
                f"task.class_names must name all {self.num_classes} classes of task.model, or none; "
                f"got {len(self.class_names)}"
            )
        at_least("task.max_detections", self.max_detections, 1)
        for field in ("size_weight", "offset_weight"):
            at_least(f"task.{field}", getattr(self, field), 0)
        if not 0 < self.overlap < 1:
            raise InputError(f"task.overlap must be above 0 and below 1; got {self.overlap}")

    @property
    def num_classes(self) -> int:
        """Of objects."""
        return self.model.num_classes  # type: ignore[attr-defined]

    @property
    def output_stride(self) -> int:
        """Pixels a side of a cell of the heat maps."""
        return self.model.output_stride  # type: ignore[attr-defined]

    @property
    def protocol(self) -> str:
        """See `Task.protocol`."""
        return (
            "ap is COCO's average precision of boxes (IoU 0.5 to 0.95, 101 recalls, pycocotools), ap50 "
            "and ap75 at one IoU, ar the mean recall over the same IoU; ap_small, ap_medium, ap_large of "
            "objects below 32^2, below 96^2 and above, in pixels of the images that the network sees; "
            "voc_map is Pascal VOC 2007's at IoU 0.5 (11 recalls); means over the classes that have "
            f"objects; up to {self.max_detections} detections an image, one view an image, no "
            "objects set aside as difficult or crowds; of an image on a canvas, boxes end at its edge "
            "and those with their centre beyond it are left out"
        )

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """A state for images as the view makes them of the batch's.

        Raises:
          InputError: the view gives no boxes, or images that do not fit the model.
        """
        _, seen = view_shapes(self.model, self.view, batch, "boxes")
        return init_state(self.model, self.optimizer, key, jnp.zeros(seen["image"].shape))

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """One descent of the weighted losses, whose parts the scalars hold; see `center_losses`."""

        def loss(variables: Any, batch: Batch) -> Any:
            seen = training_view(self.view, batch, self.seed, state.step)
            maps, stats = apply_model(
                self.model, variables, seen["image"], train=True, precision=self.precision
            )
            targets = center_targets(
                seen["boxes"],
                seen["box_class"],
                shape=maps.heat.shape[1:],
                stride=self.output_stride,
                overlap=self.overlap,
            )
            losses = center_losses(maps, targets)
            total = losses["heat_loss"] + self.size_weight * losses["size_loss"]
            return total + self.offset_weight * losses["offset_loss"], (losses, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    @functools.partial(jit, static_argnums=0)
    def predict(self, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        """Objects found.

        Args:
          variables: see `TrainState.inference_variables`.
          images: (batch, height, width, channels) in [0, 1].

        Returns:
          By falling score: "boxes" (batch, found, 4), top, left, bottom and right edge in pixels;
          "scores" (batch, found) in [0, 1]; and int32 "classes" (batch, found), -1 in rows without
          a detection. There are `max_detections` rows, unless the heat maps have fewer places.
        """
        return self._found(variables, images)._asdict()

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Gives what `average_precision` does, exactly over all images, however they are batched.

        Raises:
          InputError: there is no object in the split, or one of a class that the model does not have.
        """
        gathered = []
        pending: dict[str, jax.Array] = {}
        for batch in batches:
            dispatched = self._measured(state, batch)
            gathered.append(jax.tree.map(gather_to_host, pending))
            pending = dispatched
        gathered.append(jax.tree.map(gather_to_host, pending))
        parts = gathered[1:]
        if not parts:
            raise InputError("the split to evaluate on has no examples")
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        counted = whole.pop("mask") > 0
        measured = {name: array[counted] for name, array in whole.items()}
        if np.any(measured["true_classes"] >= self.num_classes):
            raise InputError(
                f"boxes have classes above {self.num_classes - 1}, the model's last; make "
                "task.model.num_classes larger"
            )
        return average_precision(**measured)

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Under "detections": images with the true boxes above those with the boxes found."""
        seen, found = jax.device_get(self._seen_and_found(state, batch))
        scale = max(1, _DRAWN_SIDE // seen["image"].shape[1])
        drawn = np.where(found.scores >= MIN_SCORE, found.classes, -1)

        def draw(place: int, boxes: np.ndarray, classes: np.ndarray, **scores: Any) -> np.ndarray:
            names = self.class_names
            image = seen["image"][place]
            return with_boxes(
                image, boxes[place], classes[place], names=names, scale=scale, **scores
            )

        places = range(len(seen["image"]))
        rows = {
            "true": [draw(i, seen["boxes"], seen["box_class"]) for i in places],
            f"found, scores from {MIN_SCORE}": [
                draw(i, found.boxes, drawn, scores=found.scores[i]) for i in places
            ],
        }
        pictures = {caption: np.stack(images) for caption, images in rows.items()}
        return {"detections": picture_grid(pictures, scale=1)}

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """None."""
        del train, test
        return {}

    def _found(self, variables: Any, images: jax.Array) -> Detections:
        maps, _ = apply_model(self.model, variables, images, train=False, precision=self.precision)
        return detections(maps, stride=self.output_stride, most=self.max_detections)

    @functools.partial(jit, static_argnums=0)
    def _seen_and_found(
        self, state: TrainState, batch: Batch
    ) -> tuple[dict[str, jax.Array], Detections]:
        """The view of a batch to be measured, and what is found in what of its images is true."""
        seen = dict(evaluation_view(self.view, batch))
        found = self._found(state.inference_variables(), seen["image"])
        if "size" not in batch:
            return seen, found
        size = batch["size"][:, None].astype(jnp.float32)
        centers = (found.boxes[..., :2] + found.boxes[..., 2:]) / 2
        there = jnp.all(centers < size, axis=-1)
        return seen, Detections(
            jnp.minimum(found.boxes, jnp.tile(size, 2)),
            jnp.where(there, found.scores, 0.0),
            jnp.where(there, found.classes, -1),
        )

    @functools.partial(jit, static_argnums=0)
    def _measured(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        seen, found = self._seen_and_found(state, batch)
        truth = {"true_boxes": seen["boxes"], "true_classes": seen["box_class"]}
        return found._asdict() | truth | {"mask": batch["mask"]}
