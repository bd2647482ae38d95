"""The initial state and the training step of a generator and a discriminator, for GANs and for restoration.

A training step consists of `discriminator_steps` updates of the discriminator, each on its own part of
the batch, and one update of the generator, which reuses the images generated for the last of them. The
whole step is one compiled function.

Random keys are folded from the seed, the step, the purpose and the example's index. A step can thus be
replayed alone and does not depend on the number of devices.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from deconv_jax.data.augment import example_keys
from deconv_jax.data.batch import Batch
from deconv_jax.data.differentiable_augment import AugmentName, differentiable_augment
from deconv_jax.data.random_keys import step_key
from deconv_jax.errors import InputError
from deconv_jax.ops.collectives import mean_over_devices
from deconv_jax.tasks.gan_losses import AdversarialLoss, gradient_penalty, r1_penalty
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Precision, Scalars, TrainState, Tree
from deconv_jax.training.step import apply_model, split_batch

Images = Float[Array, "batch height width channels"]
Labels = Array | None
GeneratorInputs = tuple[Array | None, ...]
"""Inputs of the generator; those that are None are omitted."""


class Purpose:
    """Purposes of a step's random numbers, folded into its key."""

    (
        INPUT,
        AUGMENT_REAL,
        AUGMENT_FAKE,
        INTERPOLATION,
        AUGMENT_FOR_GENERATOR,
        AUGMENT_REAL_FOR_GENERATOR,
    ) = range(6)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UpdateBatch:
    """The part of the batch for one discriminator update, and the key of its random numbers."""

    key: jax.Array
    batch: Batch

    def keys(self, purpose: int) -> jax.Array:
        """Return one key per example."""
        return example_keys(jax.random.fold_in(self.key, purpose), self.batch["index"])


Draw = Callable[[UpdateBatch], tuple[Images, GeneratorInputs, Labels]]
"""part of a batch -> (real images, inputs of the generator, labels of the discriminator or None)"""
Objective = Callable[[jax.Array, Images, Images], tuple[jax.Array, Scalars]]
"""(adversarial loss, generated images, real images) -> (loss of the generator, scalars to log)"""


@dataclasses.dataclass(frozen=True)
class AdversarialStep:
    """The initial state and the training step of a generator and a discriminator.

    Attributes:
      generator: Module that maps its inputs to images in [0, 1].
      discriminator: Module that maps images, and labels if it has classes, to logits.
      generator_optimizer: Optimizer of the generator; its `ema_decay` averages the generator's
        variables.
      discriminator_optimizer: Optimizer of the discriminator, with a schedule in training steps.
      loss: Adversarial loss.
      precision: "f32", or "bf16" for bfloat16 weights and activations.
      discriminator_steps: Number of discriminator updates per generator update.
      gradient_penalty: Weight of `gan_losses.gradient_penalty`; 0 for none.
      r1: Weight of `gan_losses.r1_penalty`; 0 for none.
      augment: Augmentations of all images shown to the discriminator.
      seed: Seed of all random numbers.
    """

    generator: nn.Module
    discriminator: nn.Module
    generator_optimizer: Optimizer
    discriminator_optimizer: Optimizer
    loss: AdversarialLoss
    precision: Precision = "f32"
    discriminator_steps: int = 1
    gradient_penalty: float = 0.0
    r1: float = 0.0
    augment: tuple[AugmentName, ...] = ()
    seed: int = 0

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """Optimizers by network, that of the discriminator with a schedule in updates."""
        return {
            "generator": self.generator_optimizer,
            "discriminator": self.discriminator_optimizer.scale_schedule(self.discriminator_steps),
        }

    def init(
        self, key: jax.Array, real: Images, inputs: GeneratorInputs, labels: Labels = None
    ) -> TrainState:
        """Return the initial state.

        Args:
          key: Key of the initial parameters.
          real: One real image.
          inputs: Inputs of the generator for one image.
          labels: Label of the discriminator for one image; None without classes.

        Returns:
          State whose `params`, `batch_stats` and `opt_state` are dicts with keys "generator" and
          "discriminator". `ema` holds the average of the generator's "params" and "batch_stats", or is
          {} without `ema_decay`.
        """
        keys = jax.random.split(key)
        # The minibatch standard deviation needs a whole group of images.
        group = max(1, getattr(self.discriminator, "minibatch_std_group", 1))
        shown = [None if a is None else jnp.repeat(a, group, axis=0) for a in (real, labels)]
        variables = {
            "generator": self.generator.init(keys[0], *inputs),
            "discriminator": self.discriminator.init(keys[1], *shown),
        }
        params = {name: v["params"] for name, v in variables.items()}
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats={name: v.get("batch_stats", {}) for name, v in variables.items()},
            opt_state={
                name: optimizer.transform().init(params[name])
                for name, optimizer in self.optimizers.items()
            },
            ema={},
        )
        if self.generator_optimizer.ema_decay is None:
            return state
        # A copy, because the state is donated to the step and a buffer can be donated only once.
        return dataclasses.replace(state, ema=jax.tree.map(jnp.copy, generator_variables(state)))

    def take(
        self,
        state: TrainState,
        batch: Batch,
        draw: Draw,
        objective: Objective | None = None,
        update_mask: jax.Array | bool = True,
    ) -> tuple[TrainState, Scalars]:
        """Update the discriminator `discriminator_steps` times, then the generator once.

        Args:
          state: State before the step.
          batch: Batch of the whole step.
          draw: Function that prepares a part of the batch.
          objective: Loss of the generator; None for the adversarial loss.
          update_mask: Whether the discriminator is updated.

        Returns:
          The new state, and the scalars of `AdversarialTraining.train_step` and of `objective`.

        Raises:
          InputError: `discriminator_steps` does not divide the batch.
        """
        key = step_key(self.seed, state.step)
        parts = split_batch(batch, self.discriminator_steps, "task.discriminator_steps")
        for number in range(self.discriminator_steps):
            part = UpdateBatch(
                jax.random.fold_in(key, number),
                {name: array[number] for name, array in parts.items()},
            )
            real, inputs, labels = draw(part)
            fake, vjp_to_params, stats = jax.vjp(
                functools.partial(
                    self._generate, stats=state.batch_stats["generator"], inputs=inputs
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

        (loss, (more, stats)), image_gradients = jax.value_and_grad(
            self._generator_loss, has_aux=True
        )(fake, state, part, real, labels, objective)
        state = _replace_part(state, "batch_stats", "discriminator", stats, update_mask)
        (gradients,) = vjp_to_params(image_gradients)
        state, norm = self._apply_gradients(state, "generator", gradients)
        scalars |= more | {
            "generator_loss": loss,
            "generator_grad_norm": norm,
            "loss": loss + scalars["discriminator_loss"],
            "grad_norm": jnp.hypot(norm, scalars["discriminator_grad_norm"]),
            "learning_rate": jnp.asarray(self.generator_optimizer.rate()(state.step), jnp.float32),
        }
        ema = self.generator_optimizer.update_ema(state.ema, generator_variables(state), state.step)
        state = dataclasses.replace(state, step=state.step + 1, ema=ema)
        return state, mean_over_devices(scalars)

    def _discriminator_loss(
        self,
        params: Tree,
        stats: Tree,
        part: UpdateBatch,
        real: Images,
        fake: Images,
        labels: Labels,
    ) -> tuple[jax.Array, tuple[Scalars, Tree]]:
        real = self._augmented(part, Purpose.AUGMENT_REAL, real)
        fake = self._augmented(part, Purpose.AUGMENT_FAKE, fake)
        discriminate = functools.partial(self._discriminate, params, labels=labels)
        real_logits, stats = discriminate(stats, real)
        fake_logits, stats = discriminate(stats, fake)
        value = self.loss.discriminator(real_logits, fake_logits)
        accuracies = self.loss.accuracies(real_logits, fake_logits)
        scalars = {"discriminator_loss": value}
        scalars |= dict(zip(("real_accuracy", "fake_accuracy"), accuracies, strict=True))

        def logits(images: Images) -> jax.Array:
            return discriminate(stats, images)[0]

        if self.r1:
            scalars["r1_penalty"] = r1_penalty(logits, real)
            value += self.r1 * scalars["r1_penalty"]
        if self.gradient_penalty:
            position = jax.vmap(jax.random.uniform)(part.keys(Purpose.INTERPOLATION))
            scalars["gradient_penalty"] = gradient_penalty(logits, real, fake, position)
            value += self.gradient_penalty * scalars["gradient_penalty"]
        return value, (scalars, stats)

    def _generator_loss(
        self,
        fake: Images,
        state: TrainState,
        part: UpdateBatch,
        real: Images,
        labels: Labels,
        objective: Objective | None,
    ) -> tuple[jax.Array, tuple[Scalars, Tree]]:
        discriminate = functools.partial(
            self._discriminate, state.params["discriminator"], labels=labels
        )
        stats, real_logits = state.batch_stats["discriminator"], None
        if self.loss.relativistic:
            shown = self._augmented(part, Purpose.AUGMENT_REAL_FOR_GENERATOR, real)
            real_logits, stats = discriminate(stats, shown)
        logits, stats = discriminate(
            stats, self._augmented(part, Purpose.AUGMENT_FOR_GENERATOR, fake)
        )
        loss = self.loss.for_generator(real_logits, logits)
        scalars: Scalars = {}
        if objective is not None:
            loss, scalars = objective(loss, fake, real)
        return loss, (scalars, stats)

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
        transform = self.optimizers[network].transform()
        updates, opt_state = transform.update(gradients, state.opt_state[network], params)
        state = _replace_part(state, "opt_state", network, opt_state, update_mask)
        params = optax.apply_updates(params, updates)
        state = _replace_part(state, "params", network, params, update_mask)
        return state, optax.tree.norm(gradients)

    def _generate(
        self, params: Tree, *, stats: Tree, inputs: GeneratorInputs
    ) -> tuple[Images, Tree]:
        variables = {"params": params, "batch_stats": stats}
        return apply_model(self.generator, variables, *inputs, train=True, precision=self.precision)

    def _discriminate(
        self, params: Tree, stats: Tree, images: Images, *, labels: Labels
    ) -> tuple[jax.Array, Tree]:
        variables = {"params": params, "batch_stats": stats}
        return apply_model(
            self.discriminator, variables, images, labels, train=True, precision=self.precision
        )

    def _augmented(self, part: UpdateBatch, purpose: int, images: Images) -> Images:
        if not self.augment:
            return images
        return differentiable_augment(part.keys(purpose), images, self.augment)


def check_discriminator(
    discriminator: nn.Module, field: str, *, gradient_penalty: float, required: bool, r1: float
) -> None:
    """Raise InputError unless a discriminator is one, and is constrained as its losses require.

    Args:
      discriminator: Module to check.
      field: Config key of the group with the discriminator, such as "task".
      gradient_penalty: Weight of the gradient penalty.
      required: Whether the loss requires bounded gradients of the discriminator.
      r1: Weight of R1.
    """
    if getattr(discriminator, "role", None) != "discriminator":
        raise InputError(
            f"{field}.discriminator must be a discriminator such as dcgan_discriminator; got "
            f"{type(discriminator).__name__}"
        )
    if gradient_penalty and getattr(discriminator, "norm", None) == "batch":
        raise InputError(
            f"{field}.gradient_penalty requires {field}.discriminator.norm != 'batch', because the "
            "penalty is defined per image; got norm='batch'"
        )
    constrained = gradient_penalty or r1 or getattr(discriminator, "spectral_norm", False)
    if required and not constrained:
        raise InputError(
            f"{field}.loss='wasserstein' requires a discriminator with bounded gradients: set "
            f"{field}.gradient_penalty=10.0, {field}.r1 or {field}.discriminator.spectral_norm"
        )


def check_optimizers(field: str, optimizer: Optimizer, other: Optimizer | None) -> None:
    """Raise InputError for optimizer settings that adversarial training does not support.

    Args:
      field: Config key of the group with the discriminator's optimizer, such as "task".
      optimizer: Optimizer of the generator.
      other: Optimizer of the discriminator; None if it is that of the generator.
    """
    for name, checked in (
        ("optimizer", optimizer),
        (f"{field}.discriminator_optimizer", other or optimizer),
    ):
        if checked.accumulate_steps > 1:
            raise InputError(
                f"{name}.accumulate_steps must be 1 in adversarial training; got "
                f"{checked.accumulate_steps}"
            )
    if other is not None and other.ema_decay is not None:
        raise InputError(
            f"{field}.discriminator_optimizer.ema_decay must be None, because only the generator is "
            f"averaged; got {other.ema_decay}"
        )


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
