"""Segmentation: learn the class of every pixel, by cross-entropy and, if wanted, soft Dice.

A view makes images and the classes of their pixels of a batch, on the device, inside the step. What a
reader would get wrong: pixels of class `IGNORED` count nowhere, so the loss is a mean over the others
of the whole batch, and devices that see different numbers of them must not each take their own mean.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.batch import Batch
from deconv_jax.data.pipeline import evaluation_batches
from deconv_jax.data.sources import Source
from deconv_jax.data.views import (
    IGNORED,
    AnnotatedBatch,
    AnnotatedView,
    View,
    evaluation_view,
    training_view,
)
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.masked_mean import mean_over
from deconv_jax.metrics.segmentation import (
    boundary_counts,
    boundary_f1,
    confusion_matrix,
    nan_mean,
    one_hot,
    segmentation_scores,
)
from deconv_jax.ops.collectives import mean_over_devices
from deconv_jax.tasks.view_shapes import view_shapes
from deconv_jax.training.optimizer import Optimizer
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
from deconv_jax.viz.overlays import background_index, with_segments

Logits = Float[Array, "batch height width num_classes"]
Segments = Int[Array, "batch height width"]

_PICTURED, _PICTURED_PIXELS = 6, 192
_BASELINE_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Segmentation(Task):
    """Classifier of pixels.

    With `optimizer.accumulate_steps` the loss is the mean of the parts' means, which differs from that
    of the batch where parts have more ignored pixels, or others' classes, than one another.

    Attributes:
      model: maps images in [0, 1] to logits of each pixel.
      optimizer, precision: see `Optimizer` and `apply_model`.
      view: makes images with segments of batches.
      class_names: of the classes in their order, for people; () for their numbers.
      class_weights: of each class in the cross-entropy; () for 1.
      dice: weight of 1 - `soft_dice` beside the cross-entropy.
      seed: of the view.
    """

    model: nn.Module
    optimizer: Optimizer
    view: View = dataclasses.field(default_factory=AnnotatedView)
    precision: Precision = "f32"
    class_names: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()
    dice: float = 0.0
    seed: int = 0

    monitor: ClassVar[str] = "miou"
    metric_names: ClassVar[tuple[str, ...]] = (
        "miou",
        "pixel_accuracy",
        "boundary_f1",
        "dice",
        "cross_entropy",
        "iou_*",
    )
    protocol: ClassVar[str] = (
        "counts of pixels summed over the split, whole images, one view an image, 8-bit images scaled "
        f"to [0, 1], pixels of class {IGNORED} left out: miou and dice are means over the classes that "
        "occur in the truth or the prediction, iou_NAME is that of a class; boundary_f1 likewise of "
        "boundary pixels of the whole split, matched within 0.75 % of the arrays' diagonal and at "
        "least 1 pixel; pixel_accuracy is over all pixels; cross_entropy in nats a pixel, without "
        "class weights"
    )

    def __post_init__(self) -> None:
        at_least("task.dice", self.dice, 0)
        for weight in self.class_weights:
            at_least("task.class_weights", weight, 0)

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """A state for images of the shape that the view gives.

        Raises:
          InputError: the view gives no segments, or images that do not fit the model; or its outputs
            do not fit the segments or the settings.
        """
        seen, _ = view_shapes(self.model, self.view, batch, "segments")
        state = init_state(self.model, self.optimizer, key, jnp.zeros(seen["image"].shape))
        shapes = jax.eval_shape(self._outputs, state.inference_variables(), seen["image"])
        self._check(shapes, seen["segments"])
        return state

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """One descent of the loss of the batch's pixels."""

        def loss(variables: Any, batch: Batch) -> Any:
            seen = training_view(self.view, batch, self.seed, state.step)
            logits, stats = apply_model(
                self.model, variables, seen["image"], train=True, precision=self.precision
            )
            self._check(logits, seen["segments"])
            total = cross_entropy(logits, seen["segments"], self.class_weights)
            if self.dice:
                overlap = soft_dice(jax.nn.softmax(logits), seen["segments"])
                total = total + self.dice * (1.0 - overlap)
            known = seen["segments"] < logits.shape[-1]
            right = (jnp.argmax(logits, -1) == seen["segments"]) & known
            accuracy = jnp.sum(right) / jnp.maximum(mean_over_devices(jnp.sum(known)), 1)
            return total, ({"pixel_accuracy": accuracy}, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Gives measures over the pixels of the whole split.

        Returns:
          "miou", "pixel_accuracy", "boundary_f1" and "dice" in [0, 1], "cross_entropy" in nats; and
          "iou_NAME" of each class that has a name and occurs.

        Raises:
          InputError: segments hold a class that the model does not have, no pixel counts, or the
            model's output is not finite.
        """
        sums = mean_over(batches, functools.partial(self._sums, state))
        if not np.isfinite(sums["nats"]):
            raise InputError("the model's output is not finite for some image of the split")
        confusion = sums["confusion"]
        if sums["beyond"]:
            raise InputError(
                f"segments hold classes above {len(confusion) - 1}, the model's last; make "
                f"task.model.num_classes larger, or such pixels {IGNORED}"
            )
        measured = segmentation_scores(confusion)
        by_class = {
            f"iou_{name}": float(iou)
            for name, iou in zip(self.class_names, measured.iou, strict=False)
            if not np.isnan(iou)
        }
        return {
            "miou": measured.miou,
            "pixel_accuracy": measured.pixel_accuracy,
            "boundary_f1": nan_mean(boundary_f1(sums["boundary"])),
            "dice": measured.mean_dice,
            "cross_entropy": sums["nats"] / float(confusion.sum()),
        } | by_class

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Under "segments": images, then tinted by their pixels' classes, true and predicted.

        A class that is called "background" is not tinted.
        """
        few = {name: array[:_PICTURED] for name, array in batch.items()}
        seen, logits = self._evaluated(state, few)
        images, truth = np.asarray(seen["image"]), np.asarray(seen["segments"])
        predicted = np.asarray(jnp.argmax(logits, -1))
        tinted = functools.partial(with_segments, background=background_index(self.class_names))
        rows = {"image": images} | {
            name: np.stack([tinted(*pair) for pair in zip(images, segments, strict=True)])
            for name, segments in (("truth", truth), ("prediction", predicted))
        }
        scale = max(1, _PICTURED_PIXELS // max(images.shape[1:3]))
        return {"segments": picture_grid(rows, scale=scale)}

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Gives "majority_pixel_accuracy" and "majority_miou": every pixel of `train`'s largest class."""
        learnt, measured = (self._pixels_of_classes(source) for source in (train, test))
        confusion = np.zeros((len(measured), len(measured)))
        confusion[:, learnt.argmax()] = measured
        figures = segmentation_scores(confusion)
        return {
            "majority_pixel_accuracy": figures.pixel_accuracy,
            "majority_miou": figures.miou,
        }

    @functools.partial(jit, static_argnums=0)
    def predict(
        self, variables: Any, images: Float[Array, "batch height width channels"]
    ) -> dict[str, Array]:
        """What a person's images show.

        Args:
          variables: the model's.
          images: in [0, 1], sides multiples of `model.multiple`.

        Returns:
          "probabilities" of each class (batch, height, width, num_classes).
        """
        return {"probabilities": jax.nn.softmax(self._outputs(variables, images))}

    def _outputs(self, variables: Any, images: Array) -> Logits:
        return apply_model(self.model, variables, images, train=False, precision=self.precision)[0]

    @functools.partial(jit, static_argnums=0)
    def _evaluated(self, state: TrainState, batch: Batch) -> tuple[AnnotatedBatch, Logits]:
        seen = evaluation_view(self.view, batch)
        logits = self._outputs(state.inference_variables(), seen["image"])
        self._check(logits, seen["segments"])
        return seen, logits

    @functools.partial(jit, static_argnums=0)
    def _sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        seen, logits = self._evaluated(state, batch)
        classes = logits.shape[-1]
        truth = _without_fillings(seen["segments"], batch["mask"])
        prediction = jnp.argmax(logits, -1)
        nats = -jnp.sum(_of_true_class(jax.nn.log_softmax(logits), truth))
        return {
            "confusion": confusion_matrix(truth, prediction, classes),
            "boundary": boundary_counts(truth, prediction, classes),
            "nats": nats,
            "beyond": jnp.sum((truth >= classes) & (truth != IGNORED)),
            "count": jnp.sum(batch["mask"]),
        }

    def _pixels_of_classes(self, source: Source) -> np.ndarray:
        """How many pixels of a split, in the evaluation's view, are of each class up to 254."""

        @jit
        def segments(batch: Batch) -> Segments:
            return _without_fillings(evaluation_view(self.view, batch)["segments"], batch["mask"])

        counts = np.zeros(IGNORED + 1)
        for batch in evaluation_batches(source, batch_size=min(_BASELINE_BATCH, len(source))):
            found = np.asarray(segments(jax.tree.map(jnp.asarray, batch)))
            counts += np.bincount(found.ravel(), minlength=IGNORED + 1)
        return counts[:IGNORED]

    def _check(self, logits: Any, segments: Any) -> None:
        """Raises InputError unless the model's output fits the segments, and its classes the task's."""
        if logits.shape[:-1] != segments.shape:
            raise InputError(
                f"a segmentation network gives logits of every pixel, {segments.shape} of these "
                f"images; {type(self.model).__name__} gives {logits.shape[:-1]}"
            )
        if logits.shape[-1] > IGNORED:
            raise InputError(
                f"at most {IGNORED} classes fit 8 bits; task.model.num_classes={logits.shape[-1]}"
            )
        for field in ("class_names", "class_weights"):
            count = len(getattr(self, field))
            if count not in (0, logits.shape[-1]):
                raise InputError(
                    f"task.{field} has {count} entries; the model has {logits.shape[-1]} classes"
                )


def cross_entropy(
    logits: Logits, segments: Segments, class_weights: tuple[float, ...] = ()
) -> Float[Array, ""]:
    """Weighted mean over pixels that are not ignored of -log softmax(logits) of their class, nats.

    As `torch.nn.functional.cross_entropy(weight=..., ignore_index=255)`: the sum of weight times
    loss over the sum of weights, of the whole batch also where devices see parts of it; 0 where all
    is ignored.
    """
    weights = jnp.asarray(class_weights or (1.0,) * logits.shape[-1], logits.dtype)
    target = jnp.where(one_hot(segments, logits.shape[-1]), weights.reshape(1, 1, 1, -1), 0.0)
    total = mean_over_devices(jnp.sum(target))
    return -jnp.sum(target * jax.nn.log_softmax(logits)) / jnp.where(total > 0, total, 1.0)


def soft_dice(probabilities: Logits, segments: Segments) -> Float[Array, ""]:
    """Mean of 2 sum(p t) / (sum(p^2) + sum(t^2)) over all classes of each image that occur in it.

    Sums are over the pixels of an image that have a class of these; p is the class's probability and t 1
    where it is true, else 0. After Milletari et al., arXiv:1606.04797, section 3, who have one class;
    of several a class that an image lacks has t = 0, and is left to the cross-entropy.
    """
    is_class = one_hot(segments, probabilities.shape[-1])
    known, true = jnp.any(is_class, -1, keepdims=True), is_class.astype(probabilities.dtype)
    seen = jnp.where(known, probabilities, 0.0)
    both, sizes = (jnp.sum(a, axis=(1, 2)) for a in (seen * true, jnp.square(seen) + true))
    occurs = jnp.any(true > 0, axis=(1, 2))
    overlaps = jnp.where(occurs, 2 * both / jnp.where(occurs, sizes, 1.0), 0.0)
    count = mean_over_devices(jnp.sum(occurs.astype(overlaps.dtype)))
    return jnp.sum(overlaps) / jnp.maximum(count, jnp.finfo(overlaps.dtype).tiny)


def _of_true_class(values: Logits, segments: Segments) -> Float[Array, "batch height width"]:
    """The value of each pixel's class, 0 where it has none."""
    return jnp.sum(jnp.where(one_hot(segments, values.shape[-1]), values, 0.0), axis=-1)


def _without_fillings(segments: Segments, mask: Float[Array, " batch"]) -> Segments:
    return jnp.where(mask.reshape(-1, 1, 1) > 0, segments, IGNORED)
