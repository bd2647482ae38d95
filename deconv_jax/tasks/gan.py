"""Synthesis: a generator learns to make images that a discriminator cannot tell from real ones.

A step is one or more updates of the discriminator, each on real images of its own, and one of the
generator, which uses the images it made for the last of them. All of it is one compiled function.
Random numbers are folded from (seed, step, role, the example's place in the data set), so that a step
can be replayed alone and does not depend on the number of devices. (Where a batch crosses an epoch's
end, the rare example that is in it twice gets the same latent.)

What a reader would get wrong: `training.batch_size` counts the real images of a *step*. With
`discriminator_steps=5` each update takes a fifth of them.
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
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.augment import center_resize, example_keys
from deconv_jax.data.batch import Batch
from deconv_jax.data.differentiable_augment import AugmentName, differentiable_augment
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.checkerboard import checkerboard_energy, least_size
from deconv_jax.metrics.sample_quality import (
    METRIC_NAMES,
    PROTOCOL,
    concatenate_batches,
    sample_quality,
)
from deconv_jax.models.extractors import load_extractor
from deconv_jax.models.latent_sampling import draw_latents
from deconv_jax.ops.collectives import mean_over_devices
from deconv_jax.tasks.gan_losses import LOSSES, LossName, gradient_penalty, r1_penalty
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.parallel import gather_to_host
from deconv_jax.training.state import (
    Precision,
    Scalars,
    TrainState,
    apply_model,
    images_in_unit_range,
    split_batch,
)
from deconv_jax.training.task import Task
from deconv_jax.viz.grids import mosaic, picture_grid

Tree = Any

_EVALUATION_SEED = 20_000
"""Of the latents of measures and pictures: those of no training step, and the same in every run."""
_STRIDE = 2
"""Of a generator's layers, whose checkerboard is measured."""
_AT_A_TIME = 100
"""Images that the baseline looks at in one call."""
_VARIABLES = ("params", "batch_stats")
_PICTURED = (4, 12)
"""Rows and columns of samples in a picture."""
_WINS, _REPEATS, _LEAST_COVERAGE = 0.99, 0.05, 0.03
"""Beyond these a run warns: the discriminator's accuracies, repetition, and coverage."""


class _Role:
    """What a random number of a step is for."""

    LATENT, REAL, FAKE, BETWEEN, UPDATED = range(5)


@dataclasses.dataclass(frozen=True)
class GAN(Task):
    """Generative adversarial network of images in [0, 1].

    Attributes:
      generator: maps latents, and labels if it has classes, to images.
      discriminator: maps images, and labels likewise, to logits.
      optimizer: of the generator; its `ema_decay` averages the generator.
      discriminator_optimizer: of the discriminator; None for the same settings.
      precision: see `apply_model`.
      loss: see `adversarial`.
      discriminator_steps: its updates for one of the generator.
      gradient_penalty: weight of `adversarial.gradient_penalty`; 10 in the paper.
      r1: weight of `adversarial.r1_penalty`, gamma in the paper.
      augment: what the discriminator is shown of every image, see `differentiable_augment`.
      generator_only_steps: in so many last steps of the run the generator learns alone and the
        discriminator stays as it is.
      resize: real images are cut in the middle and resized to the generator's size.
      extractor: what the measures look at images with, see `models.extractors`.
      seed: of all random numbers.
      num_steps: of the run.
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
    generator_only_steps: int = 0
    resize: bool = False
    extractor: str = "pixels"
    seed: int = 0

    monitor: ClassVar[str] = "-fid"
    metric_names: ClassVar[tuple[str, ...]] = (*METRIC_NAMES, "real_accuracy", "fake_accuracy")

    def __post_init__(self) -> None:
        at_least("task.discriminator_steps", self.discriminator_steps, 1)
        for field in ("gradient_penalty", "r1", "generator_only_steps"):
            at_least(f"task.{field}", getattr(self, field), 0)
        for field, model in (("generator", self.generator), ("discriminator", self.discriminator)):
            if getattr(model, "role", None) != field:
                raise InputError(
                    f"task.{field} {type(model).__name__} is no {field}; wanted is e.g. dcgan_{field}"
                )
        if self.generator.num_classes != self.discriminator.num_classes:  # type: ignore[attr-defined]
            raise InputError(
                "task.generator.num_classes and task.discriminator.num_classes must be the same; got "
                f"{self.generator.num_classes} and "  # type: ignore[attr-defined]
                f"{self.discriminator.num_classes}"  # type: ignore[attr-defined]
            )
        self._check_constraint()
        other = self.discriminator_optimizer or self.optimizer
        for name, optimizer in (
            ("optimizer", self.optimizer),
            ("task.discriminator_optimizer", other),
        ):
            if optimizer.accumulate_steps > 1:
                raise InputError(
                    f"synthesis takes a batch at once: {name}.accumulate_steps must be 1; got "
                    f"{optimizer.accumulate_steps}"
                )
        if other is not self.optimizer and other.ema_decay is not None:
            raise InputError(
                "only the generator is averaged: task.discriminator_optimizer.ema_decay must be "
                f"None; got {other.ema_decay}"
            )

    def _check_constraint(self) -> None:
        """Raises InputError for penalties and losses that a discriminator does not fit."""
        if self.gradient_penalty and getattr(self.discriminator, "norm", None) == "batch":
            raise InputError(
                "task.gradient_penalty is of each image by itself, and task.discriminator.norm is "
                "'batch'; wanted is another"
            )
        constrained = (
            self.gradient_penalty or self.r1 or getattr(self.discriminator, "spectral_norm", False)
        )
        if self.loss == "wasserstein" and not constrained:
            raise InputError(
                "task.loss='wasserstein' needs a discriminator of bounded slope: set "
                "task.gradient_penalty=10.0, task.r1 or task.discriminator.spectral_norm"
            )

    @property
    def protocol(self) -> str:
        """How the measures of `evaluate` are defined."""
        return (
            f"features of {load_extractor(self.extractor).description}; as many samples as real "
            "images of the split, all rounded to 8 bits"
            + (", of the same classes" if self.num_classes else "")
            + ("; averaged generator" if self.optimizer.ema_decay is not None else "")
            + f"; {PROTOCOL}; "
            f"latents of seed {_EVALUATION_SEED}"
        )

    @property
    def latent_dim(self) -> int:
        """Numbers in a latent."""
        return self.generator.latent_dim  # type: ignore[attr-defined]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of samples."""
        return self.generator.image_shape  # type: ignore[attr-defined]

    @property
    def num_classes(self) -> int:
        """Classes of a conditional generator; 0 for none."""
        return self.generator.num_classes  # type: ignore[attr-defined]

    @property
    def _optimizers(self) -> dict[str, Optimizer]:
        other = self.discriminator_optimizer or self.optimizer
        if other.decay_steps is None:
            other = dataclasses.replace(other, decay_steps=self.num_steps)
        return {
            "generator": self.optimizer,
            "discriminator": other.stretched(self.discriminator_steps),
        }

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """A state whose parts are dicts of "generator" and "discriminator"; `ema` is the former's."""
        images, labels = self._real({name: array[:1] for name, array in batch.items()})
        keys = jax.random.split(key)
        latent = jnp.zeros((1, self.latent_dim))
        # A minibatch's deviation needs more than one image.
        repeats = max(1, getattr(self.discriminator, "minibatch_std_group", 1))
        shown = [None if a is None else jnp.repeat(a, repeats, axis=0) for a in (images, labels)]
        variables = {
            "generator": self.generator.init(keys[0], latent, labels),
            "discriminator": self.discriminator.init(keys[1], *shown),
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
        # A copy: the state is donated to the step, and no buffer may be donated twice.
        return dataclasses.replace(state, ema=jax.tree.map(jnp.copy, _generator_of(state)))

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """Updates of the discriminator, and one of the generator.

        Scalars are of the last update of each: both losses (the discriminator's without penalties),
        accuracies and gradient norms, and the penalties.
        """
        step_key = jax.random.fold_in(jax.random.key(self.seed), state.step)
        learns: Any = True
        if self.generator_only_steps:
            learns = state.step < self.num_steps - self.generator_only_steps
        parts = split_batch(batch, self.discriminator_steps, "task.discriminator_steps")
        for number in range(self.discriminator_steps):
            part = _Part(
                jax.random.fold_in(step_key, number),
                {name: array[number] for name, array in parts.items()},
            )
            real, labels = self._real(part.batch)
            latents = draw_latents(part.keys(_Role.LATENT), self.latent_dim)
            fake, pull_back, stats = jax.vjp(
                functools.partial(
                    self._generated,
                    stats=state.batch_stats["generator"],
                    latents=latents,
                    labels=labels,
                ),
                state.params["generator"],
                has_aux=True,
            )
            state = _with_part(state, "batch_stats", "generator", stats)
            gradients, (scalars, stats) = jax.grad(self._discriminator_loss, has_aux=True)(
                state.params["discriminator"],
                state.batch_stats["discriminator"],
                part,
                real,
                fake,
                labels,
            )
            state = _with_part(state, "batch_stats", "discriminator", stats, learns)
            state, norm = self._descend(state, "discriminator", gradients, learns)
            scalars["discriminator_grad_norm"] = norm

        (loss, stats), by_image = jax.value_and_grad(self._generator_loss, has_aux=True)(
            fake, state, part, labels
        )
        state = _with_part(state, "batch_stats", "discriminator", stats, learns)
        state, norm = self._descend(state, "generator", pull_back(by_image)[0])
        scalars |= {
            "generator_loss": loss,
            "generator_grad_norm": norm,
            "loss": loss + scalars["discriminator_loss"],
            "grad_norm": jnp.hypot(norm, scalars["discriminator_grad_norm"]),
            "learning_rate": jnp.asarray(self.optimizer.rate()(state.step), jnp.float32),
        }
        state = dataclasses.replace(state, step=state.step + 1, ema=self._averaged(state))
        return state, mean_over_devices(scalars)

    def _discriminator_loss(
        self, params: Tree, stats: Tree, part: "_Part", real: Any, fake: Any, labels: Any
    ) -> tuple[jax.Array, tuple[Scalars, Tree]]:
        loss = LOSSES[self.loss]
        real, fake = self._shown(part, _Role.REAL, real), self._shown(part, _Role.FAKE, fake)
        logits_of = functools.partial(self._logits_of, params, labels=labels)
        real_logits, stats = logits_of(stats, real)
        fake_logits, stats = logits_of(stats, fake)
        value = loss.discriminator(real_logits, fake_logits)
        accuracies = loss.accuracies(real_logits, fake_logits)
        scalars = {"discriminator_loss": value}
        scalars |= dict(zip(("real_accuracy", "fake_accuracy"), accuracies, strict=True))

        def logits(images: jax.Array) -> jax.Array:
            return logits_of(stats, images)[0]

        if self.r1:
            scalars["r1_penalty"] = r1_penalty(logits, real)
            value += self.r1 * scalars["r1_penalty"]
        if self.gradient_penalty:
            position = jax.vmap(jax.random.uniform)(part.keys(_Role.BETWEEN))
            scalars["gradient_penalty"] = gradient_penalty(logits, real, fake, position)
            value += self.gradient_penalty * scalars["gradient_penalty"]
        return value, (scalars, stats)

    def _generator_loss(
        self, fake: jax.Array, state: TrainState, part: "_Part", labels: Any
    ) -> tuple[jax.Array, Tree]:
        logits, stats = self._logits_of(
            state.params["discriminator"],
            state.batch_stats["discriminator"],
            self._shown(part, _Role.UPDATED, fake),
            labels=labels,
        )
        return jnp.mean(LOSSES[self.loss].generator(logits)), stats

    def _descend(
        self, state: TrainState, which: str, gradients: Tree, learns: Any = True
    ) -> tuple[TrainState, jax.Array]:
        """A side's update unless not `learns`, and the norm of its gradient."""
        gradients = mean_over_devices(gradients)
        params = state.params[which]
        transform = self._optimizers[which].transform()
        updates, opt_state = transform.update(gradients, state.opt_state[which], params)
        state = _with_part(state, "opt_state", which, opt_state, learns)
        params = optax.apply_updates(params, updates)
        return _with_part(state, "params", which, params, learns), optax.tree.norm(gradients)

    def _averaged(self, state: TrainState) -> Tree:
        """The running average of the generator, statistics of its batch norm included."""
        return self.optimizer.averaged(state.ema, _generator_of(state), state.step)

    def _real(self, batch: Batch) -> tuple[jax.Array, jax.Array | None]:
        """A batch's images in [0, 1], and its labels if there are classes."""
        images, size = images_in_unit_range(batch["image"]), self.generator.image_shape  # type: ignore[attr-defined]
        if self.resize:
            images = center_resize(images, size[:2], batch.get("size"))
        if images.shape[1:] != tuple(size):
            raise InputError(
                f"task.generator makes images of shape {size}, the data has {images.shape[1:]}; set "
                "task.generator.image_shape" + ("" if self.resize else " or task.resize=True")
            )
        if not self.num_classes:
            return images, None
        if "label" not in batch:
            raise InputError(
                f"task.generator.num_classes={self.num_classes} needs labelled data, a data.name that has "
                f"labels; the batch has {sorted(batch)}"
            )
        return images, batch["label"]

    def _generated(
        self, params: Tree, *, stats: Tree, latents: jax.Array, labels: Any
    ) -> tuple[jax.Array, Tree]:
        variables = {"params": params, "batch_stats": stats}
        return apply_model(
            self.generator, variables, latents, labels, train=True, precision=self.precision
        )

    def _logits_of(
        self, params: Tree, stats: Tree, images: jax.Array, *, labels: Any
    ) -> tuple[jax.Array, Tree]:
        variables = {"params": params, "batch_stats": stats}
        return apply_model(
            self.discriminator, variables, images, labels, train=True, precision=self.precision
        )

    def _shown(self, part: "_Part", role: int, images: jax.Array) -> jax.Array:
        """What the discriminator sees of images."""
        if not self.augment:
            return images
        return differentiable_augment(part.keys(role), images, self.augment)

    def sample(
        self,
        variables: Mapping[str, Tree],
        latents: jax.Array,
        labels: jax.Array | None = None,
    ) -> jax.Array:
        """Images in [0, 1] of latents (batch, latent_dim), by the variables of `sampling_variables`."""
        return apply_model(
            self.generator, variables, latents, labels, train=False, precision=self.precision
        )[0]

    def sampling_variables(self, state: TrainState) -> dict[str, Tree]:
        """The generator's variables to sample with: the average where one is kept."""
        return state.ema or _generator_of(state)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Gives the measures of `protocol`.

        Where the discriminator looks at each image by itself, also the accuracies that it has on the
        split: a low one on real images is that of a discriminator that knows its own by heart.
        """
        extractor = load_extractor(self.extractor)
        sets: dict[str, list[Any]] = {"real": [], "fake": []}
        logits: dict[str, list[np.ndarray]] = {"real": [], "fake": []}
        for batch in batches:
            looked = self._looked_at(extractor.apply, extractor.variables, state, batch)
            if self.num_classes:
                self._check_range(gather_to_host(batch["label"]))
            mask = gather_to_host(batch["mask"])
            for name, arrays in looked.items():
                on_host = {field: gather_to_host(array) for field, array in arrays.items()}
                if "logits" in on_host:
                    logits[name].append(on_host.pop("logits")[mask > 0])
                sets[name].append((on_host, mask))
        measures = sample_quality(
            concatenate_batches(sets["real"]), concatenate_batches(sets["fake"])
        )
        if not logits["real"]:
            return measures
        real, fake = (jnp.asarray(np.concatenate(logits[name])) for name in ("real", "fake"))
        accuracies = LOSSES[self.loss].accuracies(real, fake)
        names = ("real_accuracy", "fake_accuracy")
        return measures | dict(zip(names, map(float, accuracies), strict=True))

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Under "samples": images of the data above samples, each of the same latent all along.

        A conditional generator's classes have a column each.
        """
        rows, columns = _PICTURED[0], self.num_classes or _PICTURED[1]
        samples = np.asarray(self._samples(state, jnp.arange(rows * columns)))
        real = np.asarray(self._real(batch)[0])
        rows_of = {"real": mosaic(real, len(real)), "samples": mosaic(samples, columns)}
        return {"samples": picture_grid({name: image[None] for name, image in rows_of.items()})}

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Gives the measures, named "real_...", of training images in place of samples.

        As many as there are test images, drawn at random; of the same classes, if samples have them.
        """
        extractor = load_extractor(self.extractor)
        seen = []
        for source, places in (
            (test, np.arange(len(test))),
            (train, self._places_like(train, test)),
        ):
            parts = np.array_split(places, -(-len(places) // _AT_A_TIME))
            looked = [
                self._seen(extractor.apply, extractor.variables, source.gather(part))
                for part in parts
            ]
            seen.append(
                concatenate_batches(
                    (jax.device_get(a), np.ones(len(p))) for a, p in zip(looked, parts, strict=True)
                )
            )
        measures = sample_quality(*seen)
        return {f"real_{name}": value for name, value in measures.items()}

    def _check_range(self, labels: np.ndarray) -> None:
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise InputError(
                f"task.generator.num_classes={self.num_classes} takes labels from 0 to "
                f"{self.num_classes - 1}; the data has some from {labels.min()} to {labels.max()}"
            )

    def _places_like(self, train: Source, test: Source) -> np.ndarray:
        """Places of training images to compare the test images with."""
        rng = np.random.default_rng(_EVALUATION_SEED)
        if not self.num_classes:
            return rng.choice(len(train), min(len(train), len(test)), replace=False)
        of_train, of_test = (s.gather(np.arange(len(s)))["label"] for s in (train, test))
        counts = np.bincount(of_test, minlength=self.num_classes)
        places = [np.flatnonzero(of_train == label) for label in range(self.num_classes)]
        chosen = [
            rng.choice(p, min(len(p), n), replace=False)
            for p, n in zip(places, counts, strict=True)
        ]
        return np.concatenate(chosen)

    def warnings(self, metrics: Mapping[str, float], scalars: Mapping[str, float]) -> list[str]:
        """Says so when the discriminator wins outright, or when samples repeat or miss most of the data."""
        told = []
        if min(scalars["real_accuracy"], scalars["fake_accuracy"]) > _WINS:
            told.append(
                f"the discriminator tells {scalars['real_accuracy']:.1%} of real and "
                f"{scalars['fake_accuracy']:.1%} of generated images: the generator learns little "
                "from it; try r1, augment, spectral_norm or a slower discriminator_optimizer"
            )
        if metrics["repetition"] > _REPEATS or metrics["coverage"] < _LEAST_COVERAGE:
            told.append(
                f"{metrics['repetition']:.1%} of the samples repeat another one and they cover "
                f"{metrics['coverage']:.1%} of the data: the generator may have collapsed; try "
                "another loss, minibatch_std_group, r1 or augment"
            )
        return told

    @functools.partial(jit, static_argnums=0)
    def _samples(self, state: TrainState, numbers: jax.Array, labels: Any = None) -> jax.Array:
        """The samples of these numbers, rounded to 8 bits as they would be in a file."""
        if self.num_classes and labels is None:
            labels = numbers % self.num_classes
        latents = draw_latents(
            example_keys(jax.random.key(_EVALUATION_SEED), numbers), self.latent_dim
        )
        images = self.sample(self.sampling_variables(state), latents, labels)
        return _rounded(images)

    @functools.partial(jit, static_argnums=(0, 1))
    def _looked_at(
        self, apply: Any, variables: Tree, state: TrainState, batch: Batch
    ) -> dict[str, dict[str, jax.Array]]:
        """What measures need of a batch's images and of as many samples, a row an image."""
        real, labels = self._real(batch)
        real = _rounded(real)
        looked = {}
        for name, images in (
            ("real", real),
            ("fake", self._samples(state, batch["index"], labels)),
        ):
            looked[name] = self._seen_in(apply, variables, images)
            looked[name]["images"] = jnp.round(images * 255).astype(jnp.uint8)
            if min(images.shape[1:3]) >= least_size(_STRIDE):
                looked[name]["energy"] = checkerboard_energy(images, _STRIDE)
            if self._looks_at_one():
                own = {field: getattr(state, field)["discriminator"] for field in _VARIABLES}
                looked[name]["logits"], _ = apply_model(
                    self.discriminator, own, images, labels, train=False, precision=self.precision
                )
        return looked

    @functools.partial(jit, static_argnums=(0, 1))
    def _seen(self, apply: Any, variables: Tree, batch: Batch) -> dict[str, jax.Array]:
        """What the baseline needs of real images."""
        return self._seen_in(apply, variables, _rounded(self._real(batch)[0]))

    def _seen_in(self, apply: Any, variables: Tree, images: jax.Array) -> dict[str, jax.Array]:
        features, probabilities = apply(variables, images)
        seen = {"features": features}
        return seen | ({"probabilities": probabilities} if probabilities.size else {})

    def _looks_at_one(self) -> bool:
        """Whether the discriminator's logit of an image does not depend on those around it."""
        norm, group = (
            getattr(self.discriminator, f, None) for f in ("norm", "minibatch_std_group")
        )
        return norm != "batch" and not group


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Part:
    """The batch of one update of the discriminator, and the key of its random numbers."""

    key: jax.Array
    batch: Batch

    def keys(self, role: int) -> jax.Array:
        """A key an example."""
        return example_keys(jax.random.fold_in(self.key, role), self.batch["index"])


def _rounded(images: jax.Array) -> jax.Array:
    """Images in [0, 1] as a file of 8 bits would have them."""
    return jnp.round(images * 255) / 255


def _generator_of(state: TrainState) -> dict[str, Tree]:
    return {field: getattr(state, field)["generator"] for field in _VARIABLES}


def _with_part(
    state: TrainState, field: str, which: str, value: Tree, learns: Any = True
) -> TrainState:
    """The state with one side's part of a field replaced, unless not `learns`."""
    whole = getattr(state, field)
    if learns is not True:
        value = jax.tree.map(lambda new, old: jnp.where(learns, new, old), value, whole[which])
    return dataclasses.replace(state, **{field: whole | {which: value}})
