"""Generative adversarial networks as a task: training, sampling and sample quality.

The training step is in `adversarial_step`, the metrics are in `gan_evaluation`.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.batch import Batch
from deconv_jax.data.random_keys import GAN_EVALUATION_SEED, evaluation_keys
from deconv_jax.data.sources import Source
from deconv_jax.metrics.sample_quality import PROTOCOL, metric_names
from deconv_jax.models.extractors import INCEPTION_RESIZERS, load_extractor
from deconv_jax.models.latent_sampling import draw_latents
from deconv_jax.tasks.adversarial_step import Images, Labels
from deconv_jax.tasks.gan_evaluation import (
    Extract,
    PerImageArrays,
    evaluate_samples,
    failure_warnings,
    feature_rows,
    pixel_rows,
    real_baseline,
    round_to_8_bits,
)
from deconv_jax.tasks.gan_losses import LOSSES
from deconv_jax.tasks.gan_training import AdversarialTraining
from deconv_jax.training.state import TrainState, Tree
from deconv_jax.training.step import apply_model
from deconv_jax.training.task import Task
from deconv_jax.viz.grids import mosaic, picture_grid

_PICTURE_ROWS, _PICTURE_COLUMNS = 4, 12


@dataclasses.dataclass(frozen=True)
class GAN(AdversarialTraining, Task):
    """A generative adversarial network of images in [0, 1].

    Attributes:
      Others: See `AdversarialTraining` (generator, discriminator, optimizer, num_steps,
        discriminator_optimizer, precision, loss, discriminator_steps, gradient_penalty, r1, augment,
        freeze_discriminator_steps, resize, extractor and seed).
    """

    @property
    def monitor(self) -> str:
        """Metric that selects the best checkpoint: the Fréchet distance, minimized."""
        return "-fid" if self._inception else "-frechet_distance"

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of all metrics that `evaluate` can return."""
        return (*metric_names(inception=self._inception), "real_accuracy", "fake_accuracy")

    @property
    def protocol(self) -> str:
        """Definition of the metrics of `evaluate`, a sentence that is stored with results."""
        return (
            f"features of {load_extractor(self.extractor).description}; as many samples as real "
            "images in the split, all rounded to 8 bits"
            + (", with the same labels" if self.num_classes else "")
            + ("; averaged generator" if self.optimizer.ema_decay is not None else "")
            + f"; {PROTOCOL}; latents from seed {GAN_EVALUATION_SEED}"
        )

    def sample(
        self, variables: Mapping[str, Tree], latents: jax.Array, labels: Labels = None
    ) -> Images:
        """Return the generator's images of latents, in [0, 1].

        Args:
          variables: Variables from `TrainState.inference_variables`.
          latents: Latent vectors (batch, latent_dim).
          labels: Class of each image; required for a conditional generator, and not allowed otherwise.

        Raises:
          InputError: The latents or labels do not fit the generator.
        """
        return apply_model(
            self.generator, variables, latents, labels, train=False, precision=self.precision
        )[0]

    def discriminate(
        self, variables: Mapping[str, Tree], images: Images, labels: Labels = None
    ) -> jax.Array:
        """Return the discriminator's logits (batch,) of images in [0, 1]; higher for real images.

        Args:
          variables: Variables from `discriminator_variables`.
          images: Images of the generator's shape.
          labels: Class of each image; required for a conditional discriminator, and not allowed otherwise.
        """
        return apply_model(
            self.discriminator, variables, images, labels, train=False, precision=self.precision
        )[0]

    def discriminator_variables(self, state: TrainState) -> dict[str, Tree]:
        """Return "params" and "batch_stats" of the discriminator."""
        return {
            "params": state.params["discriminator"],
            "batch_stats": state.batch_stats["discriminator"],
        }

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Compare as many samples as there are images in the split with these images.

        Returns:
          "frechet_distance" and "kernel_distance" ("fid" and "kid" for an Inception extractor),
          "precision", "recall", "density", "coverage" and "repetition"; further metrics of
          `sample_quality` that the images and the extractor permit; and the discriminator's
          "real_accuracy" and "fake_accuracy", if it has neither batch norm nor `minibatch_std_group`.

        Raises:
          InputError: The split is empty or too small for a metric, a label is out of range, or the
            extractor cannot be loaded.
        """
        extractor = load_extractor(self.extractor)
        describe = functools.partial(self._describe, extractor.apply, extractor.variables, state)
        return evaluate_samples(
            batches, describe, LOSSES[self.loss], self.num_classes, inception=self._inception
        )

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Return the metrics of sample quality, as "real_NAME", of training images instead of samples."""
        extractor = load_extractor(self.extractor)
        describe = functools.partial(self._describe_real, extractor.apply, extractor.variables)
        return real_baseline(train, test, describe, self.num_classes, inception=self._inception)

    def warnings(self, metrics: Mapping[str, float], scalars: Mapping[str, float]) -> list[str]:
        """Return warnings about a discriminator that wins and about mode collapse; [] if there are none.

        Args:
          metrics: Metrics of the validation split.
          scalars: Means of the training scalars since the last validation.
        """
        return failure_warnings(metrics, scalars)

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Return "samples": real images above samples, whose latents are the same at every step.

        There are four rows of samples, with one column per class, or 12 columns without classes.
        """
        columns = self.num_classes or _PICTURE_COLUMNS
        samples = np.asarray(self._samples(state, jnp.arange(_PICTURE_ROWS * columns)))
        real = np.asarray(self._real(batch)[0])
        rows = {"real": mosaic(real, len(real)), "samples": mosaic(samples, columns)}
        return {"samples": picture_grid({name: image[None] for name, image in rows.items()})}

    @property
    def _inception(self) -> bool:
        """Whether the extractor is InceptionV3, whose metrics have established names."""
        return self.extractor in INCEPTION_RESIZERS

    @functools.partial(jit, static_argnums=0)
    def _samples(self, state: TrainState, numbers: jax.Array, labels: Labels = None) -> Images:
        """Return samples of evaluation latents by index, rounded to 8 bits; labels default to class order."""
        if self.num_classes and labels is None:
            labels = numbers % self.num_classes
        latents = draw_latents(evaluation_keys(GAN_EVALUATION_SEED, numbers), self.latent_dim)
        return round_to_8_bits(self.sample(state.inference_variables(), latents, labels))

    @functools.partial(jit, static_argnums=(0, 1))
    def _describe(
        self, extract: Extract, variables: Tree, state: TrainState, batch: Batch
    ) -> dict[str, PerImageArrays]:
        """Describe a batch's images as "real", and the same number of samples as "fake"."""
        real, labels = self._real(batch)
        fake = self._samples(state, batch["index"], labels)
        described = {}
        for name, images in (("real", round_to_8_bits(real)), ("fake", fake)):
            described[name] = feature_rows(extract, variables, images) | pixel_rows(images)
            if self.has_independent_logits:
                own = self.discriminator_variables(state)
                described[name]["logits"] = self.discriminate(own, images, labels)
        return described

    @functools.partial(jit, static_argnums=(0, 1))
    def _describe_real(self, extract: Extract, variables: Tree, batch: Batch) -> PerImageArrays:
        return feature_rows(extract, variables, round_to_8_bits(self._real(batch)[0]))

    @property
    def has_independent_logits(self) -> bool:
        """Whether the discriminator's logit of an image depends on that image alone."""
        norm, group = (
            getattr(self.discriminator, f, None) for f in ("norm", "minibatch_std_group")
        )
        return norm != "batch" and not group
