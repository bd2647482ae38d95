"""Adversarial training: a generator learns to produce images that a discriminator takes for real.

A training step consists of `discriminator_steps` updates of the discriminator, each on its own part of
the batch, and one update of the generator, which reuses the images generated for the last of them. The
whole step is one compiled function.

Random keys are folded from the seed, the step, the purpose and the example's index. A step can thus be
replayed alone and does not depend on the number of devices. If a batch spans the end of an epoch and
holds an example twice, both copies get the same latent.

Note: `training.batch_size` counts the real images of a whole *step*. With `discriminator_steps=5` each
update sees a fifth of them.
"""

import dataclasses
import functools
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from deconv_jax.data.augment import center_resize, example_keys
from deconv_jax.data.batch import Batch
from deconv_jax.data.differentiable_augment import AugmentName, differentiable_augment
from deconv_jax.data.random_keys import step_key
from deconv_jax.errors import InputError, at_least
from deconv_jax.models.interfaces import GeneratorModel, HasNumClasses
from deconv_jax.models.latent_sampling import draw_latents
from deconv_jax.ops.collectives import mean_over_devices
from deconv_jax.tasks.gan_losses import LOSSES, LossName, gradient_penalty, r1_penalty
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Precision, Scalars, TrainState, Tree
from deconv_jax.training.step import apply_model, images_in_unit_range, split_batch

Images = Float[Array, "batch height width channels"]
Labels = Array | None


class _Purpose:
    """Purposes of a step's random numbers, folded into its key."""

    LATENT, AUGMENT_REAL, AUGMENT_FAKE, INTERPOLATION, AUGMENT_FOR_GENERATOR = range(5)


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
        for field, model in (("generator", self.generator), ("discriminator", self.discriminator)):
            if getattr(model, "role", None) != field:
                raise InputError(
                    f"task.{field} must be a {field} such as dcgan_{field}; got "
                    f"{type(model).__name__}"
                )
        discriminator_classes = cast(HasNumClasses, self.discriminator).num_classes
        if self.num_classes != discriminator_classes:
            raise InputError(
                "task.generator.num_classes and task.discriminator.num_classes must be equal; got "
                f"{self.num_classes} and {discriminator_classes}"
            )
        self._check_constraint()
        self._check_optimizers()

    def _check_constraint(self) -> None:
        """Raise InputError if the discriminator is not constrained as its loss or penalty requires."""
        if self.gradient_penalty and getattr(self.discriminator, "norm", None) == "batch":
            raise InputError(
                "task.gradient_penalty requires task.discriminator.norm != 'batch', because the "
                "penalty is defined per image; got norm='batch'"
            )
        constrained = (
            self.gradient_penalty or self.r1 or getattr(self.discriminator, "spectral_norm", False)
        )
        if self.loss == "wasserstein" and not constrained:
            raise InputError(
                "task.loss='wasserstein' requires a discriminator with bounded gradients: set "
                "task.gradient_penalty=10.0, task.r1 or task.discriminator.spectral_norm"
            )

    def _check_optimizers(self) -> None:
        """Raise InputError for optimizer settings that adversarial training does not support."""
        other = self.discriminator_optimizer or self.optimizer
        for name, optimizer in (
            ("optimizer", self.optimizer),
            ("task.discriminator_optimizer", other),
        ):
            if optimizer.accumulate_steps > 1:
                raise InputError(
                    f"{name}.accumulate_steps must be 1 in adversarial training; got "
                    f"{optimizer.accumulate_steps}"
                )
        if other is not self.optimizer and other.ema_decay is not None:
            raise InputError(
                "task.discriminator_optimizer.ema_decay must be None, because only the generator is "
                f"averaged; got {other.ema_decay}"
            )

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

    @property
    def _optimizers(self) -> dict[str, Optimizer]:
        other = self.discriminator_optimizer or self.optimizer
        if other.decay_steps is None:
            other = dataclasses.replace(other, decay_steps=self.num_steps)
        return {
            "generator": self.optimizer,
            "discriminator": other.scale_schedule(self.discriminator_steps),
        }

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
        keys = jax.random.split(key)
        latent = jnp.zeros((1, self.latent_dim))
        # The minibatch standard deviation needs a whole group of images.
        group = max(1, getattr(self.discriminator, "minibatch_std_group", 1))
        inputs = [None if a is None else jnp.repeat(a, group, axis=0) for a in (images, labels)]
        variables = {
            "generator": self.generator.init(keys[0], latent, labels),
            "discriminator": self.discriminator.init(keys[1], *inputs),
        }
        params = {name: v["params"] for name, v in variables.items()}
        stats = {name: v.get("batch_stats", {}) for name, v in variables.items()}
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=stats,
            opt_state={
                name: optimizer.transform().init(params[name])
                for name, optimizer in self._optimizers.items()
            },
            ema={},
        )
        if self.optimizer.ema_decay is None:
            return state
        # A copy, because the state is donated to the step and a buffer can be donated only once.
        return dataclasses.replace(state, ema=jax.tree.map(jnp.copy, generator_variables(state)))

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """Update the discriminator `discriminator_steps` times, then the generator once.

        Scalars of the last update of each network: "generator_loss"; "discriminator_loss", without
        penalties; "loss", their sum; "real_accuracy" and "fake_accuracy"; "r1_penalty" and
        "gradient_penalty", unweighted, if they are enabled; "generator_grad_norm",
        "discriminator_grad_norm" and "grad_norm", of both; and "learning_rate", the generator's.

        Raises:
          InputError: `discriminator_steps` does not divide the batch, or see `init`.
        """
        key = step_key(self.seed, state.step)
        update_mask: jax.Array | bool = True
        if self.freeze_discriminator_steps:
            update_mask = state.step < self.num_steps - self.freeze_discriminator_steps
        parts = split_batch(batch, self.discriminator_steps, "task.discriminator_steps")
        for number in range(self.discriminator_steps):
            part = _UpdateBatch(
                jax.random.fold_in(key, number),
                {name: array[number] for name, array in parts.items()},
            )
            real, labels = self._real(part.batch)
            latents = draw_latents(part.keys(_Purpose.LATENT), self.latent_dim)
            fake, vjp_to_params, stats = jax.vjp(
                functools.partial(
                    self._generate,
                    stats=state.batch_stats["generator"],
                    latents=latents,
                    labels=labels,
                ),
                state.params["generator"],
                has_aux=True,
            )
            state = _replace_part(state, "batch_stats", "generator", stats)
            gradients, (scalars, stats) = jax.grad(self._discriminator_loss, has_aux=True)(
                state.params["discriminator"],
                state.batch_stats["discriminator"],
                part,
                real,
                fake,
                labels,
            )
            state = _replace_part(state, "batch_stats", "discriminator", stats, update_mask)
            state, norm = self._apply_gradients(state, "discriminator", gradients, update_mask)
            scalars["discriminator_grad_norm"] = norm

        (loss, stats), image_gradients = jax.value_and_grad(self._generator_loss, has_aux=True)(
            fake, state, part, labels
        )
        state = _replace_part(state, "batch_stats", "discriminator", stats, update_mask)
        (gradients,) = vjp_to_params(image_gradients)
        state, norm = self._apply_gradients(state, "generator", gradients)
        scalars |= {
            "generator_loss": loss,
            "generator_grad_norm": norm,
            "loss": loss + scalars["discriminator_loss"],
            "grad_norm": jnp.hypot(norm, scalars["discriminator_grad_norm"]),
            "learning_rate": jnp.asarray(self.optimizer.rate()(state.step), jnp.float32),
        }
        ema = self.optimizer.update_ema(state.ema, generator_variables(state), state.step)
        state = dataclasses.replace(state, step=state.step + 1, ema=ema)
        return state, mean_over_devices(scalars)

    def _discriminator_loss(
        self,
        params: Tree,
        stats: Tree,
        part: "_UpdateBatch",
        real: Images,
        fake: Images,
        labels: Labels,
    ) -> tuple[jax.Array, tuple[Scalars, Tree]]:
        loss = LOSSES[self.loss]
        real = self._augmented(part, _Purpose.AUGMENT_REAL, real)
        fake = self._augmented(part, _Purpose.AUGMENT_FAKE, fake)
        discriminate = functools.partial(self._discriminate, params, labels=labels)
        real_logits, stats = discriminate(stats, real)
        fake_logits, stats = discriminate(stats, fake)
        value = loss.discriminator(real_logits, fake_logits)
        accuracies = loss.accuracies(real_logits, fake_logits)
        scalars = {"discriminator_loss": value}
        scalars |= dict(zip(("real_accuracy", "fake_accuracy"), accuracies, strict=True))

        def logits(images: Images) -> jax.Array:
            return discriminate(stats, images)[0]

        if self.r1:
            scalars["r1_penalty"] = r1_penalty(logits, real)
            value += self.r1 * scalars["r1_penalty"]
        if self.gradient_penalty:
            position = jax.vmap(jax.random.uniform)(part.keys(_Purpose.INTERPOLATION))
            scalars["gradient_penalty"] = gradient_penalty(logits, real, fake, position)
            value += self.gradient_penalty * scalars["gradient_penalty"]
        return value, (scalars, stats)

    def _generator_loss(
        self, fake: Images, state: TrainState, part: "_UpdateBatch", labels: Labels
    ) -> tuple[jax.Array, Tree]:
        logits, stats = self._discriminate(
            state.params["discriminator"],
            state.batch_stats["discriminator"],
            self._augmented(part, _Purpose.AUGMENT_FOR_GENERATOR, fake),
            labels=labels,
        )
        return jnp.mean(LOSSES[self.loss].generator(logits)), stats

    def _apply_gradients(
        self,
        state: TrainState,
        network: str,
        gradients: Tree,
        update_mask: jax.Array | bool = True,
    ) -> tuple[TrainState, jax.Array]:
        """Return the state after an optimizer update of one network, and the gradient's norm."""
        gradients = mean_over_devices(gradients)
        params = state.params[network]
        transform = self._optimizers[network].transform()
        updates, opt_state = transform.update(gradients, state.opt_state[network], params)
        state = _replace_part(state, "opt_state", network, opt_state, update_mask)
        params = optax.apply_updates(params, updates)
        state = _replace_part(state, "params", network, params, update_mask)
        return state, optax.tree.norm(gradients)

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

    def _generate(
        self, params: Tree, *, stats: Tree, latents: jax.Array, labels: Labels
    ) -> tuple[Images, Tree]:
        variables = {"params": params, "batch_stats": stats}
        return apply_model(
            self.generator, variables, latents, labels, train=True, precision=self.precision
        )

    def _discriminate(
        self, params: Tree, stats: Tree, images: Images, *, labels: Labels
    ) -> tuple[jax.Array, Tree]:
        variables = {"params": params, "batch_stats": stats}
        return apply_model(
            self.discriminator, variables, images, labels, train=True, precision=self.precision
        )

    def _augmented(self, part: "_UpdateBatch", purpose: int, images: Images) -> Images:
        if not self.augment:
            return images
        return differentiable_augment(part.keys(purpose), images, self.augment)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _UpdateBatch:
    """The part of the batch for one discriminator update, and the key of its random numbers."""

    key: jax.Array
    batch: Batch

    def keys(self, purpose: int) -> jax.Array:
        """Return one key per example."""
        return example_keys(jax.random.fold_in(self.key, purpose), self.batch["index"])


def generator_variables(state: TrainState) -> dict[str, Tree]:
    """Return "params" and "batch_stats" of a state's generator, without averaging."""
    return {field: getattr(state, field)["generator"] for field in ("params", "batch_stats")}


def _replace_part(
    state: TrainState,
    field: str,
    network: str,
    value: Tree,
    update_mask: jax.Array | bool = True,
) -> TrainState:
    """Return the state with one network's part of a field replaced where `update_mask` is true."""
    whole = getattr(state, field)
    if update_mask is not True:
        value = jax.tree.map(
            lambda new, old: jnp.where(update_mask, new, old), value, whole[network]
        )
    return dataclasses.replace(state, **{field: whole | {network: value}})
