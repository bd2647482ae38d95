"""Losses of restoration beside the pixel loss: an adversary, and the distance of features.

    loss = pixel loss + adversary.weight * adversarial loss + feature_loss.weight * feature loss

This is the loss of SRGAN (Ledig et al., arXiv:1609.04802), up to its weights; with a relativistic adversary it
is that of ESRGAN (Wang et al., arXiv:1809.00219).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax.data.differentiable_augment import AugmentName
from deconv_jax.errors import InputError, at_least
from deconv_jax.models.extractors import load_extractor
from deconv_jax.models.vgg import VGG, load_vgg_extractor
from deconv_jax.tasks.adversarial_step import AdversarialStep, check_discriminator, check_optimizers
from deconv_jax.tasks.gan_losses import LOSSES, AdversarialLoss, LossName, relativistic_average
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Precision

Images = Float[Array, "batch height width channels"]


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A discriminator that tells restored from clean patches, and its loss.

    Attributes:
      discriminator: Module that maps images to logits, without classes.
      weight: Weight of the adversarial loss of the restoration network, lambda in the papers.
      discriminator_optimizer: Optimizer of the discriminator, without `ema_decay`; None for a copy of
        that of the restoration network.
      loss: Adversarial loss; see `gan_losses`.
      relativistic: Whether the loss has its relativistic average form, as in ESRGAN; requires the loss
        "non_saturating" or "hinge".
      discriminator_steps: Number of discriminator updates per update of the restoration network.
      gradient_penalty: Weight of the penalty (|grad D| - 1)^2 between clean and restored patches; 0 for
        none. It requires a discriminator without batch norm.
      r1: Weight of the penalty |grad D|^2 / 2 on clean patches; 0 for none.
      augment: Augmentations of all patches shown to the discriminator: "color", "translation" and
        "cutout"; see `differentiable_augment`.

    Raises:
      InputError: A setting is out of range, or settings contradict each other.
    """

    discriminator: nn.Module
    weight: float = 5e-3
    discriminator_optimizer: Optimizer | None = None
    loss: LossName = "non_saturating"
    relativistic: bool = False
    discriminator_steps: int = 1
    gradient_penalty: float = 0.0
    r1: float = 0.0
    augment: tuple[AugmentName, ...] = ()

    def __post_init__(self) -> None:
        at_least("task.adversary.discriminator_steps", self.discriminator_steps, 1)
        for field in ("weight", "gradient_penalty", "r1"):
            at_least(f"task.adversary.{field}", getattr(self, field), 0)
        check_discriminator(
            self.discriminator,
            "task.adversary",
            gradient_penalty=self.gradient_penalty,
            required=self.loss == "wasserstein",
            r1=self.r1,
        )
        classes = getattr(self.discriminator, "num_classes", 0)
        if classes:
            raise InputError(
                f"task.adversary.discriminator.num_classes must be 0, because images to restore have no "
                f"class; got {classes}"
            )
        _ = self.adversarial_loss  # Raises InputError for a loss without a relativistic form.

    @property
    def adversarial_loss(self) -> AdversarialLoss:
        """The losses of both networks."""
        if not self.relativistic:
            return LOSSES[self.loss]
        try:
            return relativistic_average(self.loss)
        except InputError as error:
            raise InputError(f"task.adversary.relativistic: {error}") from error

    def check_optimizers(self, optimizer: Optimizer) -> None:
        """Raise InputError for optimizer settings that adversarial training does not support."""
        check_optimizers("task.adversary", optimizer, self.discriminator_optimizer)

    def step(
        self, model: nn.Module, optimizer: Optimizer, precision: Precision, seed: int
    ) -> AdversarialStep:
        """Return the training step of a restoration network and this discriminator.

        Args:
          model: Restoration network.
          optimizer: Its optimizer.
          precision: Precision of the computation.
          seed: Seed of all random numbers.
        """
        other = self.discriminator_optimizer or optimizer
        if other.decay_steps is None:
            other = dataclasses.replace(other, decay_steps=optimizer.decay_steps)
        return AdversarialStep(
            model,
            self.discriminator,
            optimizer,
            other,
            self.adversarial_loss,
            precision=precision,
            discriminator_steps=self.discriminator_steps,
            gradient_penalty=self.gradient_penalty,
            r1=self.r1,
            augment=self.augment,
            seed=seed,
        )


@dataclasses.dataclass(frozen=True)
class FeatureLoss:
    """The mean squared distance between the features of restored and clean patches.

    Attributes:
      extractor: "vgg19" for VGG-19 with weights from the file that $DECONV_JAX_VGG names, or a feature
        extractor of `models.extractors`: "digits", "mnist", "fashion", "pixels", "inception" or
        "inception-clean".
      weight: Weight of the loss.
    """

    extractor: str = VGG
    weight: float = 1.0

    def __post_init__(self) -> None:
        at_least("task.feature_loss.weight", self.weight, 0)

    def distance(self, output: Images, clean: Images) -> jax.Array:
        """Return the mean over features and examples of the squared difference, a scalar.

        Raises:
          InputError: There is no such extractor, its weights are missing or damaged, or the images do not
            fit it.
        """
        load = load_vgg_extractor if self.extractor == VGG else load_extractor
        extractor = load(self.extractor)
        ours, theirs = (extractor.apply(extractor.variables, x)[0] for x in (output, clean))
        return jnp.mean(jnp.square(ours - theirs))
