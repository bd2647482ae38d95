"""Recognition: learn the class of an image, by cross-entropy.

Training images may be moved at random by a few pixels, on the device, each by a key folded from the
seed, the step and the example's place in the data set. What a reader would get wrong: they are moved after
they were resized and before they are standardised, so that what is filled in is black.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.augment import example_keys, random_translate
from deconv_jax.data.batch import Batch
from deconv_jax.data.preprocessing import Preprocessing, restore
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
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import (
    Precision,
    Scalars,
    TrainState,
    apply_model,
    gradient_step,
    images_in_unit_range,
    init_state,
)
from deconv_jax.training.task import Task
from deconv_jax.viz.grids import picture_grid
from deconv_jax.viz.overlays import class_name
from deconv_jax.viz.plots import CountMatrix, Drawing, Plot, Series


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """Classifier of images in [0, 1] with softmax cross-entropy.

    Attributes:
      model: maps images to logits.
      optimizer, precision: see `Optimizer` and `apply_model`.
      preprocessing: what images go through before the model, in training, evaluation and use.
      translate: training images are moved by up to so many pixels along each axis.
      label_smoothing: weight of the uniform distribution in the training targets.
      top_k: if more than 1, evaluation also says how often the label is among so many classes.
      class_names: of the classes in their order, for people; () for their numbers.
      seed: of the translations.
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

    @property
    def protocol(self) -> str:
        """See `Task.protocol`."""
        top = ""
        if self.top_k > 1:
            top = f"; top{self.top_k}_accuracy that of images whose label is among {self.top_k}"
        return (
            "accuracy is the fraction of images whose largest logit is their label's; one view an "
            f"image, 8-bit images scaled to [0, 1]{top}; cross_entropy in nats, mean over images; "
            f"calibration_error is the expected one of arXiv:1706.04599 with {CALIBRATION_BINS} bins of equal width"
        )

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """A state for images of the batch's shape."""
        if "label" not in batch:
            raise InputError(
                "recognition needs labelled data: a data.source that has labels, as folders of images have "
                f"not; the batch has {sorted(batch)}"
            )
        image = batch["image"][:1]
        if self.preprocessing.resize is not None:
            # What the model is initialised on has the shape that it will see.
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
                f"task.class_names has a name for each of the {classes} classes or none; got "
                f"{len(self.class_names)}"
            )
        return state

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """One descent of the batch's mean cross-entropy."""
        step_key = jax.random.fold_in(jax.random.key(self.seed), state.step)

        def loss(variables: Any, batch: Batch) -> Any:
            images = self._resized(batch)
            if self.translate:
                keys = example_keys(step_key, batch["index"])
                images = random_translate(keys, images, self.translate)
            images, _ = self.preprocessing.standardized(images)
            logits, stats = apply_model(
                self.model, variables, images, train=True, precision=self.precision
            )
            targets = optax.smooth_labels(
                jax.nn.one_hot(batch["label"], logits.shape[-1]), self.label_smoothing
            )
            right = jnp.mean(jnp.argmax(logits, -1) == batch["label"])
            cross_entropy = jnp.mean(optax.softmax_cross_entropy(logits, targets))
            return cross_entropy, ({"accuracy": right}, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Measures of a split.

        Returns:
          "accuracy" and, for `top_k`, "topK_accuracy", in [0, 1]; "cross_entropy" in nats, mean over
          images; "calibration_error" in [0, 1], see `metrics.classification`.

        Raises:
          InputError: there is no example, or the model's output is not finite.
        """
        measured = mean_over(batches, functools.partial(self._sums, state))
        if not np.isfinite(measured["calibration_error"]).all():
            raise InputError("the model's output is not finite for some image of the split")
        return measured | {"calibration_error": calibration_error(measured["calibration_error"])}

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Under "predictions": each image as the model sees it, but not standardised, below its label and
        the class predicted, wrong ones marked."""
        images, logits = self._seen(state.inference_variables(), batch)
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
        """Which classes are taken for which under "confusion", and under "reliability" how often what the
        model is so sure of is right."""
        totals = accumulate_sums(batches, functools.partial(self._tables, state))
        counts = totals["confusion"].astype(np.int64)
        names = [class_name(number, self.class_names) for number in range(len(counts))]
        right = f"{np.trace(counts):,} of {counts.sum():,} images"
        confusion = CountMatrix(f"{right} right", "label", "prediction", counts, names, names)
        filled, confidence, accurate = totals["calibration"]
        filled, some = np.maximum(filled, 1), filled > 0
        ends = np.array([0.0, 1.0])
        of_bins = Series(
            (confidence / filled)[some], (accurate / filled)[some], "bins", joined=True
        )
        reliability = Plot(
            f"expected calibration error {metrics['calibration_error']:.4f}",
            "confidence",
            "accuracy",
            [Series(ends, ends, "calibrated", joined=True), of_bins],
            equal_units=True,
        )
        return {"confusion": confusion, "reliability": reliability}

    @functools.partial(jit, static_argnums=0)
    def predict(
        self, variables: Any, images: Float[Array, "batch height width channels"]
    ) -> dict[str, Array]:
        """What the model makes of images.

        Args:
          variables: "params" and "batch_stats".
          images: in [0, 1], not preprocessed.

        Returns:
          "probabilities" (batch, classes).
        """
        prepared, _ = self.preprocessing(images)
        logits = self._logits(variables, prepared)
        return {"probabilities": jax.nn.softmax(logits)}

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Gives "nearest_mean_accuracy": the class whose mean training image is closest."""
        fitted, measured = (s.gather(np.arange(len(s))) for s in (train, test))
        classes = np.unique(fitted["label"])
        flat = [b["image"].reshape(len(b["image"]), -1) / 255.0 for b in (fitted, measured)]
        means = np.stack([flat[0][fitted["label"] == c].mean(axis=0) for c in classes])
        scores = flat[1] @ means.T - 0.5 * np.sum(means**2, axis=1)[None, :]
        right = classes[scores.argmax(axis=1)] == measured["label"]
        return {"nearest_mean_accuracy": float(right.mean())}

    def _resized(self, batch: Batch) -> jax.Array:
        """A batch's images in [0, 1], at the model's size."""
        images = images_in_unit_range(batch["image"])
        return self.preprocessing.resized(images, batch.get("size"))

    def _logits(self, variables: Any, prepared: jax.Array) -> jax.Array:
        return apply_model(self.model, variables, prepared, train=False, precision=self.precision)[
            0
        ]

    @functools.partial(jit, static_argnums=0)
    def _seen(self, variables: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Images as the model sees them, in [0, 1] again, and its logits."""
        prepared, statistics = self.preprocessing.standardized(self._resized(batch))
        return restore(prepared, statistics), self._logits(variables, prepared)

    @functools.partial(jit, static_argnums=0)
    def _sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        _, logits = self._seen(state.inference_variables(), batch)
        labels, mask = batch["label"], batch["mask"]
        measures = {"accuracy": in_top_k(logits, labels, 1)}
        if self.top_k > 1:
            measures[f"top{self.top_k}_accuracy"] = in_top_k(logits, labels, self.top_k)
        measures["cross_entropy"] = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        of_bins = calibration_sums(logits, labels, mask)
        return masked_sums(measures, mask) | {"calibration_error": of_bins}

    @functools.partial(jit, static_argnums=0)
    def _tables(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        _, logits = self._seen(state.inference_variables(), batch)
        labels, mask = batch["label"], batch["mask"]
        # Images are counted as the pixels of one.
        truth = jnp.where(mask > 0, labels, -1)[None, None]
        predicted = jnp.argmax(logits, -1)[None, None]
        return {
            "confusion": confusion_matrix(truth, predicted, logits.shape[-1]),
            "calibration": calibration_sums(logits, labels, mask),
            "count": jnp.sum(mask),
        }
