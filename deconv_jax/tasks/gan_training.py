"""Adversarial training: a generator learns to produce images that a discriminator takes for real.

The training step is that of `adversarial_step`. If a batch spans the end of an epoch and holds an example
twice, both copies get the same latent.

Note: `training.batch_size` counts the real images of a whole *step*. With `discriminator_steps=5` each
update sees a fifth of them.
"""

import dataclasses
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from deconv_jax.data.augment import center_resize
from deconv_jax.data.batch import Batch
from deconv_jax.data.differentiable_augment import AugmentName
from deconv_jax.errors import InputError, at_least
from deconv_jax.models.interfaces import GeneratorModel, HasNumClasses
from deconv_jax.models.latent_sampling import draw_latents
from deconv_jax.tasks.adversarial_step import (
    AdversarialStep,
    GeneratorInputs,
    Images,
    Labels,
    Purpose,
    UpdateBatch,
    check_discriminator,
    check_optimizers,
)
from deconv_jax.tasks.gan_losses import LOSSES, LossName
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Precision, Scalars, TrainState
from deconv_jax.training.step import images_in_unit_range


@dataclasses.dataclass(frozen=True)
class AdversarialTraining:
    """The networks and the training step of a generative adversarial network.

    Attributes:
      generator: Module that maps latents, and labels if it has classes, to images.
      discriminator: Module that maps images, and labels if it has classes, to logits.
      optimizer: Optimizer of the generator; its `ema_decay` averages the generator's variables.
      num_steps: Number of training steps of the run.
      discriminator_optimizer: Optimizer of the discriminator, without `ema_decay`; None for a copy of
        `optimizer`.
      precision: "f32", or "bf16" for bfloat16 weights and activations.
      loss: Adversarial loss: "minimax", "non_saturating", "least_squares", "hinge" or "wasserstein",
        see `gan_losses`. The last requires `gradient_penalty`, `r1` or spectral normalization.
      discriminator_steps: Number of discriminator updates per generator update.
      gradient_penalty: Weight of the penalty (|grad D| - 1)^2 between real and generated images, 10 in
        the paper; 0 for none. It requires a discriminator without batch norm.
      r1: Weight of the penalty |grad D|^2 / 2 on real images, gamma in the paper; 0 for none.
      augment: Augmentations of all images shown to the discriminator, in this order: "color",
        "translation" and "cutout", see `differentiable_augment`.
      freeze_discriminator_steps: Number of steps at the end of the run that train the generator alone,
        with a frozen discriminator.
      resize: Whether real images are center-cropped and resized to the generator's size.
      extractor: Feature extractor of the metrics: "pixels", "mnist", "fashion", "digits", "inception"
        or "inception-clean", see `models.extractors`.
      seed: Seed of all random numbers.
    """

    generator: nn.Module
    discriminator: nn.Module
    optimizer: Optimizer
    num_steps: int
    discriminator_optimizer: Optimizer | None = None
    precision: Precision = "f32"
    loss: LossName = "non_saturating"
    discriminator_steps: int = 1
    gradient_penalty: float = 0.0
    r1: float = 0.0
    augment: tuple[AugmentName, ...] = ()
    freeze_discriminator_steps: int = 0
    resize: bool = False
    extractor: str = "pixels"
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("task.discriminator_steps", self.discriminator_steps, 1)
        for field in ("gradient_penalty", "r1", "freeze_discriminator_steps"):
            at_least(f"task.{field}", getattr(self, field), 0)
        if getattr(self.generator, "role", None) != "generator":
            raise InputError(
                "task.generator must be a generator such as dcgan_generator; got "
                f"{type(self.generator).__name__}"
            )
        check_discriminator(
            self.discriminator,
            "task",
            gradient_penalty=self.gradient_penalty,
            required=self.loss == "wasserstein",
            r1=self.r1,
        )
        discriminator_classes = cast(HasNumClasses, self.discriminator).num_classes
        if self.num_classes != discriminator_classes:
            raise InputError(
                "task.generator.num_classes and task.discriminator.num_classes must be equal; got "
                f"{self.num_classes} and {discriminator_classes}"
            )
        check_optimizers("task", self.optimizer, self.discriminator_optimizer)

    @property
    def latent_dim(self) -> int:
        """Length of a latent vector."""
        return self._generator_model.latent_dim

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of samples."""
        return self._generator_model.image_shape

    @property
    def num_classes(self) -> int:
        """Number of classes of a conditional generator; 0 if unconditional."""
        return self._generator_model.num_classes

    @property
    def _generator_model(self) -> GeneratorModel:
        return cast(GeneratorModel, self.generator)

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """Return the initial state.

        `params`, `batch_stats` and `opt_state` are dicts with keys "generator" and "discriminator".
        `ema` holds the average of the generator's "params" and "batch_stats", or is {} without
        `optimizer.ema_decay`.

        Raises:
          InputError: The batch's images do not fit the networks, or a conditional generator's batch has
            no labels.
        """
        images, labels = self._real({name: array[:1] for name, array in batch.items()})
        return self._step.init(key, images, (jnp.zeros((1, self.latent_dim)), labels), labels)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """Update the discriminator `discriminator_steps` times, then the generator once.

        Scalars of the last update of each network: "generator_loss"; "discriminator_loss", without
        penalties; "loss", their sum; "real_accuracy" and "fake_accuracy"; "r1_penalty" and
        "gradient_penalty", unweighted, if they are enabled; "generator_grad_norm",
        "discriminator_grad_norm" and "grad_norm", of both; and "learning_rate", the generator's.

        Raises:
          InputError: `discriminator_steps` does not divide the batch, or see `init`.
        """
        update_mask: jax.Array | bool = True
        if self.freeze_discriminator_steps:
            update_mask = state.step < self.num_steps - self.freeze_discriminator_steps

        def draw(part: UpdateBatch) -> tuple[Images, GeneratorInputs, Labels]:
            real, labels = self._real(part.batch)
            latents = draw_latents(part.keys(Purpose.INPUT), self.latent_dim)
            return real, (latents, labels), labels

        return self._step.take(state, batch, draw, update_mask=update_mask)

    @property
    def _step(self) -> AdversarialStep:
        other = self.discriminator_optimizer or self.optimizer
        if other.decay_steps is None:
            other = dataclasses.replace(other, decay_steps=self.num_steps)
        return AdversarialStep(
            self.generator,
            self.discriminator,
            self.optimizer,
            other,
            LOSSES[self.loss],
            precision=self.precision,
            discriminator_steps=self.discriminator_steps,
            gradient_penalty=self.gradient_penalty,
            r1=self.r1,
            augment=self.augment,
            seed=self.seed,
        )

    def _real(self, batch: Batch) -> tuple[Images, Labels]:
        """Return a batch's images in [0, 1], and its labels if there are classes."""
        images = images_in_unit_range(batch["image"])
        if self.resize:
            images = center_resize(images, self.image_shape[:2], batch.get("size"))
        if images.shape[1:] != tuple(self.image_shape):
            raise InputError(
                f"task.generator.image_shape is {self.image_shape}, but the data has images of shape "
                f"{images.shape[1:]}; change image_shape"
                + ("" if self.resize else " or set task.resize=True")
            )
        if not self.num_classes:
            return images, None
        if "label" not in batch:
            raise InputError(
                f"task.generator.num_classes={self.num_classes} requires data with labels; the batch "
                f"has {sorted(batch)}"
            )
        return images, batch["label"]
