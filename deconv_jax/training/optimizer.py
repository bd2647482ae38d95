"""Optimizers and learning-rate schedules of optax, by name."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from deconv_jax.errors import InputError, at_least

Tree = Any

_MUON_RMS = 0.2
"""Root mean square of Muon's updates at learning rate 1, that of Adam in practice (arXiv:2502.16982)."""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer with a learning-rate schedule, clipping, accumulation and weight averaging.

    Attributes:
      name: "adam", "adamw" (decoupled weight decay), "sgd", or "muon": parameters named "kernel" are updated by their momentum
        with all singular values replaced by 1 (Jordan et al. 2024, github.com/KellerJordan/Muon), each as the
        matrix whose columns belong to the last axis; other parameters by Adam. Both use Nesterov momentum.
      learning_rate: Peak learning rate, after the warm-up. Updates by "muon" are scaled to a root mean square of
        0.2 times the learning rate, so that values for Adam suit it (arXiv:2502.16982, equation 4).
      schedule: Learning rate after the warm-up: "constant"; "cosine" or "linear" decay to `end_factor` times
        the peak at `decay_steps`; or "step", multiplied by `step_factor` at each of `step_boundaries`.
      warmup_steps: Number of steps of a linear rise from zero.
      decay_steps: Step at which the decay of "cosine" or "linear" ends, counted from the start of
        the run; must be larger than `warmup_steps`. `Experiment.from_dict` replaces None by the
        last step of the run; elsewhere these schedules require a number.
      end_factor: Learning rate at the end of the decay, relative to the peak.
      step_boundaries: Increasing steps, counted from the start of the run; must be larger than
        `warmup_steps`.
      step_factor: Factor of the learning rate at each boundary.
      momentum: Decay of the first moment (Adam's beta 1, momentum of SGD and Muon).
      beta2: Decay of the second moment of Adam, AdamW and the Adam in Muon.
      weight_decay: Weight decay, applied to parameters with at least two axes; must be 0 except for "adamw".
      clip_norm: Largest global norm of the gradients, to which larger ones are scaled down; None disables
        clipping.
      accumulate_steps: Number of parts of the batch whose gradients are computed one after the other and
        averaged. Memory is that of one part, and the gradient is that of the whole batch, except that batch
        norm sees the parts.
      ema_decay: Decay of the moving average of the weights, which evaluation then uses; the decay is lower
        during the first steps (`update_ema`). None disables averaging.

    Raises:
      InputError: A value is out of range, or settings contradict each other.
    """

    name: Literal["adam", "adamw", "sgd", "muon"] = "adam"
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
                f"optimizer.weight_decay={self.weight_decay} requires optimizer.name='adamw'; "
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
        decays = self.schedule in ("cosine", "linear")
        if decays and self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            raise InputError(
                f"optimizer.decay_steps ({self.decay_steps}, by default the length of the run) must "
                f"be larger than optimizer.warmup_steps ({self.warmup_steps})"
            )

    def scale_schedule(self, factor: int) -> "Optimizer":
        """Return this optimizer for `factor` updates per step, with a schedule `factor` times as long."""
        return dataclasses.replace(
            self,
            warmup_steps=factor * self.warmup_steps,
            decay_steps=None if self.decay_steps is None else factor * self.decay_steps,
            step_boundaries=tuple(factor * b for b in self.step_boundaries),
        )

    def update_ema(self, average: Tree, latest: Tree, step: jax.Array) -> Tree:
        """Return the moving average of the weights after an update.

        Its decay is min(`ema_decay`, (1 + step) / (10 + step)), so the initial weights are soon forgotten
        even in a short run.

        Args:
          average: Average before the update, initially the initial weights. Returned unchanged if
            `ema_decay` is None.
          latest: Weights after the update.
          step: Number of updates before this one.
        """
        if self.ema_decay is None:
            return average
        decay = jnp.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
        return optax.incremental_update(latest, average, 1.0 - decay)

    def rate(self) -> optax.Schedule:
        """Return the learning rate as a function of the number of updates so far.

        Raises:
          InputError: The schedule is "cosine" or "linear", and `decay_steps` is None.
        """
        peak, end = self.learning_rate, self.learning_rate * self.end_factor
        if self.schedule == "constant":
            main = optax.constant_schedule(peak)
        elif self.schedule == "step":
            boundaries = {b - self.warmup_steps: self.step_factor for b in self.step_boundaries}
            main = optax.piecewise_constant_schedule(peak, boundaries)
        else:
            if self.decay_steps is None:
                raise InputError(f"schedule {self.schedule!r} requires optimizer.decay_steps")
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
        """Return the gradient transformation: clipping, if any, then the optimizer with its schedule.

        Accumulation and weight averaging are not part of it.

        Raises:
          InputError: The schedule is "cosine" or "linear", and `decay_steps` is None.
        """
        if self.name == "sgd":
            update = optax.sgd(self.rate(), momentum=self.momentum)
        elif self.name == "adam":
            update = optax.adam(self.rate(), b1=self.momentum, b2=self.beta2)
        elif self.name == "muon":
            update = optax.contrib.muon(
                self.rate(),
                beta=self.momentum,
                adam_b1=self.momentum,
                adam_b2=self.beta2,
                muon_weight_dimension_numbers=_kernels_as_matrices,
                consistent_rms=_MUON_RMS,
            )
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
    """Return the mask of parameters with weight decay: kernels, but not biases and scales."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _kernels_as_matrices(params: Any) -> Any:
    """Return for each kernel which of its axes are rows and which columns, and None for other parameters."""

    def axes(path: Any, p: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name != "kernel" or p.ndim < 2:
            return None
        last = p.ndim - 1
        return optax.contrib.MuonDimensionNumbers(tuple(range(last)), last)

    return jax.tree_util.tree_map_with_path(axes, params)
