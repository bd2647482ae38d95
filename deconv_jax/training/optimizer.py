"""Optimizers and learning-rate schedules, by name, from optax."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from deconv_jax.errors import InputError, at_least

Tree = Any


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How gradients become updates.

    Attributes:
      name: "adam", "adamw" (decoupled weight decay) or "sgd".
      learning_rate: at its peak, after the warm-up.
      schedule: after the warm-up, "constant"; "cosine" or "linear" down to `end_factor` times the
        peak at `decay_steps`; or "step": times `step_factor` at each of `step_boundaries`.
      warmup_steps: linear rise from zero.
      decay_steps: the step where the decay ends, warm-up included; None for the run's last.
      end_factor: learning rate at the end over the peak.
      step_boundaries: steps, rising.
      step_factor: what the rate is multiplied by at each boundary.
      momentum: first-moment decay (adam's beta 1, sgd's momentum).
      beta2: second-moment decay of adam and adamw.
      weight_decay: of adamw, on every parameter of two axes or more.
      clip_norm: gradients of a larger global norm are scaled down to it; None for never.
      accumulate_steps: the batch is taken in so many parts, one after the other, and their
        gradients averaged: the memory of a part, the gradient of the whole (but for batch norm,
        which sees the parts).
      ema_decay: of the running average of the weights that evaluation then uses, see `averaged`;
        None for none.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "linear", "step"] = "constant"
    warmup_steps: int = 0
    decay_steps: int | None = None
    end_factor: float = 0.0
    step_boundaries: tuple[int, ...] = ()
    step_factor: float = 0.1
    momentum: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip_norm: float | None = None
    accumulate_steps: int = 1
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        if self.weight_decay and self.name != "adamw":
            raise InputError(
                f"optimizer.weight_decay={self.weight_decay} needs optimizer.name='adamw'; "
                f"got {self.name!r}"
            )
        at_least("optimizer.accumulate_steps", self.accumulate_steps, 1)
        for field in ("learning_rate", "warmup_steps", "end_factor", "weight_decay"):
            at_least(f"optimizer.{field}", getattr(self, field), 0)
        for field in ("momentum", "beta2", "ema_decay"):
            decay = getattr(self, field)
            if decay is not None and not 0 <= decay < 1:
                raise InputError(f"optimizer.{field} must be in [0, 1); got {decay}")
        if any(b <= self.warmup_steps for b in self.step_boundaries):
            raise InputError(
                f"optimizer.step_boundaries must lie after optimizer.warmup_steps "
                f"({self.warmup_steps}); got {self.step_boundaries}"
            )
        decays = self.schedule in ("cosine", "linear") and self.decay_steps is not None
        if decays and self.decay_steps <= self.warmup_steps:  # type: ignore[operator]
            raise InputError(
                f"optimizer.decay_steps ({self.decay_steps}, the run's length unless set) must be "
                f"larger than optimizer.warmup_steps ({self.warmup_steps})"
            )

    def scale_schedule(self, factor: int) -> "Optimizer":
        """The same for one that makes `factor` updates where the schedule counts a step."""
        return dataclasses.replace(
            self,
            warmup_steps=factor * self.warmup_steps,
            decay_steps=None if self.decay_steps is None else factor * self.decay_steps,
            step_boundaries=tuple(factor * b for b in self.step_boundaries),
        )

    def update_ema(self, average: Tree, latest: Tree, step: jax.Array) -> Tree:
        """The running average after an update.

        Its decay is (1 + step) / (10 + step) until that reaches `ema_decay`, so that the first weights,
        which nothing was learned by, are soon forgotten in a short run too.

        Args:
          average: before it; the first weights at first. Returned as it is where none is kept.
          latest: the weights after the update.
          step: updates before this one.
        """
        if self.ema_decay is None:
            return average
        decay = jnp.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
        return optax.incremental_update(latest, average, 1.0 - decay)

    def rate(self) -> optax.Schedule:
        """Learning rate as a function of the step."""
        peak, end = self.learning_rate, self.learning_rate * self.end_factor
        if self.schedule == "constant":
            main = optax.constant_schedule(peak)
        elif self.schedule == "step":
            boundaries = {b - self.warmup_steps: self.step_factor for b in self.step_boundaries}
            main = optax.piecewise_constant_schedule(peak, boundaries)
        else:
            if self.decay_steps is None:
                raise InputError(f"schedule {self.schedule!r} needs optimizer.decay_steps")
            steps = self.decay_steps - self.warmup_steps
            main = (
                optax.cosine_decay_schedule(peak, steps, alpha=self.end_factor)
                if self.schedule == "cosine"
                else optax.linear_schedule(peak, end, steps)
            )
        if not self.warmup_steps:
            return main
        warmup = optax.linear_schedule(0.0, peak, self.warmup_steps)
        return optax.join_schedules([warmup, main], [self.warmup_steps])

    def transform(self) -> optax.GradientTransformation:
        """Clipping, then the optimizer."""
        if self.name == "sgd":
            update = optax.sgd(self.rate(), momentum=self.momentum)
        elif self.name == "adam":
            update = optax.adam(self.rate(), b1=self.momentum, b2=self.beta2)
        else:
            update = optax.adamw(
                self.rate(),
                b1=self.momentum,
                b2=self.beta2,
                weight_decay=self.weight_decay,
                mask=_matrices,
            )
        if self.clip_norm is None:
            return update
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), update)


def _matrices(params: Any) -> Any:
    """Which parameters weight decay is for: kernels, not biases and scales."""
    return jax.tree.map(lambda p: p.ndim > 1, params)
