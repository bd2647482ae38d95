"""Image classification with softmax cross-entropy.

Note: Random translations of training images come after resizing and before standardization. The border
that a translation exposes is therefore black.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.augment import random_translate
from deconv_jax.data.batch import Batch
from deconv_jax.data.preprocessing import Preprocessing, unstandardize
from deconv_jax.data.random_keys import training_keys
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.classification import (
    CALIBRATION_BINS,
    calibration_error,
    calibration_sums,
    in_top_k,
)
from deconv_jax.metrics.masked_mean import accumulate_sums, masked_sums, mean_over
from deconv_jax.metrics.segmentation import confusion_matrix
from deconv_jax.tasks.task_model import check_finite_output, run_model
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Precision, Scalars, TrainState, Tree
from deconv_jax.training.step import apply_model, gradient_step, images_in_unit_range, init_state
from deconv_jax.training.task import Task
from deconv_jax.viz.grids import picture_grid
from deconv_jax.viz.overlays import class_name
from deconv_jax.viz.plots import CountMatrix, Drawing, Plot, Series


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """A classifier of images in [0, 1].

    Attributes:
      model: Module that maps images to logits.
      optimizer: Optimizer of the model.
      preprocessing: Resizing and standardization of images before the model, in training, evaluation
        and prediction; none by default.
      precision: "f32", or "bf16" for bfloat16 weights and activations.
      translate: Maximum random translation of training images along each axis, in pixels.
      label_smoothing: Weight of the uniform distribution in the training targets.
      top_k: Value of k, less than the number of classes, for an additional top-k accuracy in
        evaluation; 1 for none.
      class_names: Display names of the classes in order; () for indices.
      seed: Seed of the translations.
    """

    model: nn.Module
    optimizer: Optimizer
    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
    precision: Precision = "f32"
    translate: int = 0
    label_smoothing: float = 0.0
    top_k: int = 1
    class_names: tuple[str, ...] = ()
    seed: int = 0

    monitor: ClassVar[str] = "accuracy"
    metric_names: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "top*_accuracy",
        "cross_entropy",
        "calibration_error",
    )

    def __post_init__(self) -> None:
        at_least("translate", self.translate, 0)
        at_least("top_k", self.top_k, 1)
        if not 0.0 <= self.label_smoothing < 1.0:
            raise InputError(f"label_smoothing must be in [0, 1); got {self.label_smoothing}")

    @property
    def protocol(self) -> str:
        """Definition of the metrics of `evaluate`, a sentence that is stored with results."""
        k = self.top_k
        top_k = f"; top{k}_accuracy: fraction with the label among the {k} largest" if k > 1 else ""
        return (
            "accuracy: fraction of images whose label has the largest logit"
            f"{top_k}; one view per image, 8-bit images scaled to [0, 1]; cross_entropy: nats, mean over "
            "images; calibration_error: expected calibration error (arXiv:1706.04599) with "
            f"{CALIBRATION_BINS} bins of equal width"
        )

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """Return the initial state for images of the batch's shape.

        Raises:
          InputError: The data has no labels, its images do not fit the model, or `top_k` or
            `class_names` do not fit the classes.
        """
        if "label" not in batch:
            raise InputError(
                "classification requires data with labels (folders of images have none); the batch has "
                f"{sorted(batch)}"
            )
        image = batch["image"][:1]
        if self.preprocessing.resize is not None:
            # Initialize at the resized shape, which is what the model sees.
            image = jnp.zeros((1, *self.preprocessing.resize, image.shape[-1]), image.dtype)
        state = init_state(self.model, self.optimizer, key, image)
        seen = jax.ShapeDtypeStruct(image.shape, jnp.float32)
        logits = jax.eval_shape(self.model.apply, state.inference_variables(), seen)
        classes = logits.shape[-1]
        if not (self.top_k == 1 or self.top_k < classes):
            raise InputError(
                f"task.top_k must be 1, or less than the {classes} classes; got {self.top_k}"
            )
        if len(self.class_names) not in (0, classes):
            raise InputError(
                f"task.class_names must name all {classes} classes, or none; got "
                f"{len(self.class_names)}"
            )
        return state

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """Take a gradient step on the mean cross-entropy.

        Scalars: "accuracy" in [0, 1]; and "loss", "grad_norm" (before clipping) and "learning_rate".
        """

        def loss(variables: Tree, batch: Batch) -> tuple[jax.Array, tuple[Scalars, Tree]]:
            images = self._resized(batch)
            if self.translate:
                keys = training_keys(self.seed, state.step, batch["index"])
                images = random_translate(keys, images, self.translate)
            images, _ = self.preprocessing.standardized(images)
            logits, stats = apply_model(
                self.model, variables, images, train=True, precision=self.precision
            )
            targets = optax.smooth_labels(
                jax.nn.one_hot(batch["label"], logits.shape[-1]), self.label_smoothing
            )
            accuracy = jnp.mean(jnp.argmax(logits, -1) == batch["label"])
            cross_entropy = jnp.mean(optax.softmax_cross_entropy(logits, targets))
            return cross_entropy, ({"accuracy": accuracy}, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Compute the metrics of a split.

        Returns:
          "accuracy" and, if `top_k` > 1, "topK_accuracy" with the number for K, in [0, 1];
          "cross_entropy" in nats, without label smoothing, mean over images; "calibration_error", the
          expected calibration error in [0, 1].

        Raises:
          InputError: The split is empty, or the model's output is not finite.
        """
        means = mean_over(batches, functools.partial(self._metric_sums, state))
        check_finite_output(means["calibration_error"])
        return means | {"calibration_error": calibration_error(means["calibration_error"])}

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Return "predictions": resized images with captions "label > prediction"; errors end in "!"."""
        images, logits = self._images_and_logits(state.inference_variables(), batch)
        predicted = np.asarray(jnp.argmax(logits, -1))
        labels = np.asarray(batch["label"])
        names = [
            f"{class_name(label, self.class_names)} > {class_name(guess, self.class_names)}"
            + ("" if label == guess else " !")
            for label, guess in zip(labels, predicted, strict=True)
        ]
        rows = {"label > prediction": np.asarray(images)}
        return {"predictions": picture_grid(rows, names=names)}

    def plots(
        self, state: TrainState, batches: Iterable[Batch], metrics: Mapping[str, float]
    ) -> Mapping[str, Drawing]:
        """Return the confusion matrix as "confusion" and the reliability diagram as "reliability".

        Args:
          state: State to evaluate.
          batches: Batches of the split.
          metrics: Metrics of the split from `evaluate`; "calibration_error" is used.
        """
        totals = accumulate_sums(batches, functools.partial(self._table_sums, state))
        counts = totals["confusion"].astype(np.int64)
        names = [class_name(number, self.class_names) for number in range(len(counts))]
        correct = f"{np.trace(counts):,} of {counts.sum():,} images correct"
        confusion = CountMatrix(correct, "label", "prediction", counts, names, names)
        bin_counts, confidence, accuracy = totals["calibration"]
        filled = bin_counts > 0
        bin_counts = np.maximum(bin_counts, 1)
        ends = np.array([0.0, 1.0])
        bins = Series(
            (confidence / bin_counts)[filled], (accuracy / bin_counts)[filled], "bins", joined=True
        )
        reliability = Plot(
            f"expected calibration error {metrics['calibration_error']:.4f}",
            "confidence",
            "accuracy",
            [Series(ends, ends, "calibrated", joined=True), bins],
            equal_units=True,
        )
        return {"confusion": confusion, "reliability": reliability}

    @functools.partial(jit, static_argnums=0)
    def predict(
        self, variables: Tree, images: Float[Array, "batch height width channels"]
    ) -> dict[str, Array]:
        """Classify images.

        Args:
          variables: Variables from `TrainState.inference_variables`.
          images: Images in [0, 1], before preprocessing.

        Returns:
          "probabilities" (batch, classes), float32.
        """
        prepared, _ = self.preprocessing(images)
        return {"probabilities": jax.nn.softmax(run_model(self, variables, prepared))}

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Return "nearest_mean_accuracy" on `test`: each image gets the class of the closest mean.

        The means are those of the training images of each class, without preprocessing.
        """
        fitted, measured = (s.gather(np.arange(len(s))) for s in (train, test))
        classes = np.unique(fitted["label"])
        flat = [b["image"].reshape(len(b["image"]), -1) / 255.0 for b in (fitted, measured)]
        means = np.stack([flat[0][fitted["label"] == c].mean(axis=0) for c in classes])
        scores = flat[1] @ means.T - 0.5 * np.sum(means**2, axis=1)[None, :]
        correct = classes[scores.argmax(axis=1)] == measured["label"]
        return {"nearest_mean_accuracy": float(correct.mean())}

    def _resized(self, batch: Batch) -> jax.Array:
        """Return a batch's images in [0, 1] at the model's size."""
        images = images_in_unit_range(batch["image"])
        return self.preprocessing.resized(images, batch.get("size"))

    @functools.partial(jit, static_argnums=0)
    def _images_and_logits(self, variables: Tree, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Return the model's input images, mapped back to [0, 1], and its logits."""
        prepared, statistics = self.preprocessing.standardized(self._resized(batch))
        return unstandardize(prepared, statistics), run_model(self, variables, prepared)

    @functools.partial(jit, static_argnums=0)
    def _metric_sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        _, logits = self._images_and_logits(state.inference_variables(), batch)
        labels, mask = batch["label"], batch["mask"]
        metrics = {"accuracy": in_top_k(logits, labels, 1)}
        if self.top_k > 1:
            metrics[f"top{self.top_k}_accuracy"] = in_top_k(logits, labels, self.top_k)
        metrics["cross_entropy"] = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return masked_sums(metrics, mask) | {
            "calibration_error": calibration_sums(logits, labels, mask)
        }

    @functools.partial(jit, static_argnums=0)
    def _table_sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        _, logits = self._images_and_logits(state.inference_variables(), batch)
        labels, mask = batch["label"], batch["mask"]
        # Treat the batch as the pixels of a single image.
        truth = jnp.where(mask > 0, labels, -1)[None, None]
        predicted = jnp.argmax(logits, -1)[None, None]
        return {
            "confusion": confusion_matrix(truth, predicted, logits.shape[-1]),
            "calibration": calibration_sums(logits, labels, mask),
            "count": jnp.sum(mask),
        }
