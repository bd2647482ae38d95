"""Semantic segmentation: learn the class of every pixel by cross-entropy and, optionally, soft Dice.

A view transforms a batch to images and label maps on the device, inside the step.

Note: Pixels of class `IGNORED` are excluded from loss and metrics. The loss is a mean over the remaining
pixels of the whole batch, not a mean of means over devices.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
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
    LabelMaps,
    boundary_counts,
    boundary_f1,
    confusion_matrix,
    nan_mean,
    one_hot,
    segmentation_scores,
)
from deconv_jax.ops.collectives import mean_over_devices
from deconv_jax.tasks.pictures import first_examples
from deconv_jax.tasks.task_model import check_finite_output, run_model
from deconv_jax.tasks.view_shapes import view_shapes
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Precision, Scalars, TrainState, Tree
from deconv_jax.training.step import apply_model, gradient_step, init_state
from deconv_jax.training.task import Task
from deconv_jax.viz.grids import picture_grid
from deconv_jax.viz.overlays import background_index, tint_by_class

Logits = Float[Array, "batch height width num_classes"]

_PICTURE_EXAMPLES, _MIN_PICTURE_PIXELS = 6, 192
_BASELINE_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Segmentation(Task):
    """A pixel classifier of images in [0, 1].

    Note: With `optimizer.accumulate_steps` the loss is the mean of the means over the parts of the
    batch. It differs from the loss of the whole batch if the parts have different numbers of ignored
    pixels or different classes.

    Attributes:
      model: Module that maps images to logits of each pixel.
      optimizer: Optimizer of the model.
      view: Transform of a batch to the network's input and label maps.
      precision: "f32", or "bf16" for bfloat16 weights and activations.
      class_names: Display names of the classes in order; () for indices, and for no metrics "iou_*".
      class_weights: Weight of each class in the cross-entropy; () for equal weights.
      dice: Weight of 1 - `soft_dice` relative to the cross-entropy.
      seed: Seed of the view.
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
        "pixels counted over the whole split, whole images, one view per image, 8-bit images scaled to "
        f"[0, 1], pixels of class {IGNORED} excluded; miou and dice: means over the classes that occur "
        "in the truth or the prediction; iou_NAME: IoU of a class; boundary_f1: F1 of "
        "boundary pixels, mean over those classes, matched within 0.75 % of the diagonal of the "
        "padded image and at least 1 pixel; "
        "pixel_accuracy: over all pixels; cross_entropy: nats per pixel, without class weights"
    )

    def __post_init__(self) -> None:
        at_least("task.dice", self.dice, 0)
        for weight in self.class_weights:
            at_least("task.class_weights", weight, 0)

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """Return the initial state for images of the view's shape.

        Raises:
          InputError: The view has no segments, its images do not fit the model, or the model's outputs
            do not fit the segments or the settings.
        """
        seen, _ = view_shapes(self.model, self.view, batch, "segments")
        state = init_state(self.model, self.optimizer, key, jnp.zeros(seen["image"].shape))
        shapes = jax.eval_shape(self._logits, state.inference_variables(), seen["image"])
        self._check(shapes, seen["segments"])
        return state

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """Take a gradient step on cross-entropy and Dice.

        Scalars: "pixel_accuracy" in [0, 1]; and "loss", "grad_norm" (before clipping) and "learning_rate".
        """

        def loss(variables: Tree, batch: Batch) -> tuple[jax.Array, tuple[Scalars, Tree]]:
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
            correct = (jnp.argmax(logits, -1) == seen["segments"]) & known
            accuracy = jnp.sum(correct) / jnp.maximum(mean_over_devices(jnp.sum(known)), 1)
            return total, ({"pixel_accuracy": accuracy}, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Compute the metrics over all pixels of a split.

        Returns:
          "miou", "pixel_accuracy", "boundary_f1" and "dice" in [0, 1]; "cross_entropy" in nats; and
          "iou_NAME" of each named class that occurs.

        Raises:
          InputError: There are no examples, the segments have a class that the model lacks, all pixels
            are ignored, or the model's output is not finite.
        """
        means = mean_over(batches, functools.partial(self._metric_sums, state))
        check_finite_output(means["nats"])
        confusion = means["confusion"]
        if means["out_of_range"]:
            raise InputError(
                f"the data has pixels of classes above {len(confusion) - 1}, the model's last; increase "
                f"task.model.num_classes, or set such pixels to {IGNORED}"
            )
        scores = segmentation_scores(confusion)
        class_ious = {
            f"iou_{name}": float(iou)
            for name, iou in zip(self.class_names, scores.iou, strict=False)
            if not np.isnan(iou)
        }
        return {
            "miou": scores.miou,
            "pixel_accuracy": scores.pixel_accuracy,
            "boundary_f1": nan_mean(boundary_f1(means["boundary"])),
            "dice": scores.mean_dice,
            "cross_entropy": means["nats"] / float(confusion.sum()),
        } | class_ious

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Return "segments": six images, and the same tinted by true and by predicted class.

        A class called "background" is not tinted.
        """
        few = first_examples(batch, _PICTURE_EXAMPLES)
        seen, logits = self._view_and_logits(state, few)
        images, truth = np.asarray(seen["image"]), np.asarray(seen["segments"])
        predicted = np.asarray(jnp.argmax(logits, -1))
        tinted = functools.partial(tint_by_class, background=background_index(self.class_names))
        rows = {"image": images} | {
            name: np.stack([tinted(*pair) for pair in zip(images, segments, strict=True)])
            for name, segments in (("truth", truth), ("prediction", predicted))
        }
        scale = max(1, _MIN_PICTURE_PIXELS // max(images.shape[1:3]))
        return {"segments": picture_grid(rows, scale=scale)}

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Return "majority_pixel_accuracy" and "majority_miou" on `test`.

        Every pixel is assigned to the most frequent class of the training pixels.
        """
        train_counts, test_counts = (self._class_counts(source) for source in (train, test))
        confusion = np.zeros((len(test_counts), len(test_counts)))
        confusion[:, train_counts.argmax()] = test_counts
        scores = segmentation_scores(confusion)
        return {"majority_pixel_accuracy": scores.pixel_accuracy, "majority_miou": scores.miou}

    @functools.partial(jit, static_argnums=0)
    def predict(
        self, variables: Tree, images: Float[Array, "batch height width channels"]
    ) -> dict[str, Array]:
        """Compute class probabilities of each pixel.

        Args:
          variables: Variables from `TrainState.inference_variables`.
          images: Images in [0, 1] whose sides are multiples of `model.multiple`, if it has one.

        Returns:
          "probabilities" (batch, height, width, num_classes).
        """
        return {"probabilities": jax.nn.softmax(self._logits(variables, images))}

    def _logits(self, variables: Tree, images: Array) -> Logits:
        return run_model(self, variables, images)

    @functools.partial(jit, static_argnums=0)
    def _view_and_logits(self, state: TrainState, batch: Batch) -> tuple[AnnotatedBatch, Logits]:
        seen = evaluation_view(self.view, batch)
        logits = self._logits(state.inference_variables(), seen["image"])
        self._check(logits, seen["segments"])
        return seen, logits

    @functools.partial(jit, static_argnums=0)
    def _metric_sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        seen, logits = self._view_and_logits(state, batch)
        classes = logits.shape[-1]
        truth = _ignore_padding(seen["segments"], batch["mask"])
        prediction = jnp.argmax(logits, -1)
        nats = -jnp.sum(_at_true_class(jax.nn.log_softmax(logits), truth))
        return {
            "confusion": confusion_matrix(truth, prediction, classes),
            "boundary": boundary_counts(truth, prediction, classes),
            "nats": nats,
            "out_of_range": jnp.sum((truth >= classes) & (truth != IGNORED)),
            "count": jnp.sum(batch["mask"]),
        }

    def _class_counts(self, source: Source) -> np.ndarray:
        """Count the pixels of each class from 0 to 254 in the evaluation views of a split."""

        @jit
        def segments(batch: Batch) -> LabelMaps:
            return _ignore_padding(evaluation_view(self.view, batch)["segments"], batch["mask"])

        counts = np.zeros(IGNORED + 1)
        for batch in evaluation_batches(source, batch_size=min(_BASELINE_BATCH, len(source))):
            labels = np.asarray(segments(jax.tree.map(jnp.asarray, batch)))
            counts += np.bincount(labels.ravel(), minlength=IGNORED + 1)
        return counts[:IGNORED]

    def _check(self, logits: Any, segments: Any) -> None:
        """Raise InputError unless the logits fit the segments and the task's settings."""
        if logits.shape[:-1] != segments.shape:
            raise InputError(
                f"a segmentation network must return one logit vector per pixel, {segments.shape} for "
                f"these images; {type(self.model).__name__} returns {logits.shape[:-1]}"
            )
        if logits.shape[-1] > IGNORED:
            raise InputError(
                f"task.model.num_classes must be at most {IGNORED}; got {logits.shape[-1]}"
            )
        for field in ("class_names", "class_weights"):
            count = len(getattr(self, field))
            if count not in (0, logits.shape[-1]):
                raise InputError(
                    f"task.{field} must have one entry per class, {logits.shape[-1]}, or none; got "
                    f"{count}"
                )


def cross_entropy(
    logits: Logits, segments: LabelMaps, class_weights: tuple[float, ...] = ()
) -> Float[Array, ""]:
    """Compute the weighted mean of -log softmax(logits) over all pixels that are not ignored, in nats.

    Equal to `torch.nn.functional.cross_entropy(weight=..., ignore_index=255)`: the sum of weight times
    loss, divided by the sum of weights over the whole batch on all devices. It is 0 if all pixels are
    ignored.

    Args:
      logits: Logits of each pixel.
      segments: Class of each pixel; pixels of other classes than 0..num_classes - 1 are ignored.
      class_weights: Weight of each class; () for equal weights.
    """
    weights = jnp.asarray(class_weights or (1.0,) * logits.shape[-1], logits.dtype)
    target = jnp.where(one_hot(segments, logits.shape[-1]), weights.reshape(1, 1, 1, -1), 0.0)
    total = mean_over_devices(jnp.sum(target))
    return -jnp.sum(target * jax.nn.log_softmax(logits)) / jnp.where(total > 0, total, 1.0)


def soft_dice(probabilities: Logits, segments: LabelMaps) -> Float[Array, ""]:
    """Compute the mean of 2 sum(p t) / (sum(p^2) + sum(t^2)) over the classes that occur in each image.

    Sums are over the pixels of an image that are not ignored; p is the probability of the class and t
    its one-hot label. Milletari et al., arXiv:1606.04797, section 3, define it for one class. Classes
    absent from an image, for which t = 0, are excluded and left to the cross-entropy. It is 0 if all
    pixels are ignored, which are those of other classes than 0..num_classes - 1.
    """
    is_class = one_hot(segments, probabilities.shape[-1])
    known, true = jnp.any(is_class, -1, keepdims=True), is_class.astype(probabilities.dtype)
    seen = jnp.where(known, probabilities, 0.0)
    both, sizes = (jnp.sum(a, axis=(1, 2)) for a in (seen * true, jnp.square(seen) + true))
    occurs = jnp.any(true > 0, axis=(1, 2))
    overlaps = jnp.where(occurs, 2 * both / jnp.where(occurs, sizes, 1.0), 0.0)
    count = mean_over_devices(jnp.sum(occurs.astype(overlaps.dtype)))
    return jnp.sum(overlaps) / jnp.maximum(count, jnp.finfo(overlaps.dtype).tiny)


def _at_true_class(values: Logits, segments: LabelMaps) -> Float[Array, "batch height width"]:
    """Return the value of each pixel's class; 0 for ignored pixels."""
    return jnp.sum(jnp.where(one_hot(segments, values.shape[-1]), values, 0.0), axis=-1)


def _ignore_padding(segments: LabelMaps, mask: Float[Array, " batch"]) -> LabelMaps:
    """Set all pixels of examples with mask 0 to `IGNORED`."""
    return jnp.where(mask.reshape(-1, 1, 1) > 0, segments, IGNORED)
