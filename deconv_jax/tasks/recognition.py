"""Recognition: learn the class of an image, by cross-entropy.

Training images may be moved at random by a few pixels, on the device, each by a key folded from the
seed, the step and the example's place in the data set.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from deconv_jax.data.augment import example_keys, random_translate
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError
from deconv_jax.metrics.mean import masked_sums, mean_over
from deconv_jax.training.logging import picture_grid
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
from deconv_jax.training.task import Batch, Task


@dataclasses.dataclass(frozen=True)
class Recognition(Task):
    """Classifier of images in [0, 1] with softmax cross-entropy.

    Attributes:
      model: maps images in [0, 1] to logits.
      optimizer, precision: see `Optimizer` and `apply_model`.
      translate: training images are moved by up to so many pixels along each axis.
      label_smoothing: weight of the uniform distribution in the training targets.
      seed: of the translations.
    """

    model: nn.Module
    optimizer: Optimizer
    precision: Precision = "f32"
    translate: int = 0
    label_smoothing: float = 0.0
    seed: int = 0

    monitor: ClassVar[str] = "accuracy"
    protocol: ClassVar[str] = (
        "accuracy is the fraction of images whose largest logit is their label's; one view an "
        "image, 8-bit images scaled to [0, 1]; cross_entropy in nats, mean over images"
    )

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """A state for images of the batch's shape."""
        if "label" not in batch:
            raise InputError(f"recognition needs labelled data; the batch has {sorted(batch)}")
        return init_state(self.model, self.optimizer, key, batch["image"])

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """One descent of the batch's mean cross-entropy."""
        step_key = jax.random.fold_in(jax.random.key(self.seed), state.step)

        def loss(variables: Any, batch: Batch) -> Any:
            images = images_in_unit_range(batch["image"])
            if self.translate:
                keys = example_keys(step_key, batch["index"])
                images = random_translate(keys, images, self.translate)
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
        """Gives "accuracy" in [0, 1] and "cross_entropy" in nats, means over images."""
        return mean_over(batches, functools.partial(self._sums, state))

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Under "predictions": each image below its label and the class predicted, wrong ones marked."""
        predicted = np.asarray(jnp.argmax(self._logits(state, batch), -1))
        labels = np.asarray(batch["label"])
        names = [
            f"{label} > {guess}{'' if label == guess else ' !'}"
            for label, guess in zip(labels, predicted, strict=True)
        ]
        images = {"label > prediction": np.asarray(batch["image"])}
        return {"predictions": picture_grid(images, names=names)}

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Gives "nearest_mean_accuracy": the class whose mean training image is closest."""
        fitted, measured = (s.gather(np.arange(len(s))) for s in (train, test))
        classes = np.unique(fitted["label"])
        flat = [b["image"].reshape(len(b["image"]), -1) / 255.0 for b in (fitted, measured)]
        means = np.stack([flat[0][fitted["label"] == c].mean(axis=0) for c in classes])
        scores = flat[1] @ means.T - 0.5 * np.sum(means**2, axis=1)[None, :]
        right = classes[scores.argmax(axis=1)] == measured["label"]
        return {"nearest_mean_accuracy": float(right.mean())}

    @functools.partial(jax.jit, static_argnums=0)
    def _logits(self, state: TrainState, batch: Batch) -> jax.Array:
        images = images_in_unit_range(batch["image"])
        variables = state.inference_variables()
        return apply_model(self.model, variables, images, train=False, precision=self.precision)[0]

    @functools.partial(jax.jit, static_argnums=0)
    def _sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        logits = self._logits(state, batch)
        measures = {
            "accuracy": (jnp.argmax(logits, -1) == batch["label"]).astype(jnp.float32),
            "cross_entropy": optax.softmax_cross_entropy_with_integer_labels(
                logits, batch["label"]
            ),
        }
        return masked_sums(measures, batch["mask"])
