"""The protocol between the training loop and an experiment family.

A task is a frozen dataclass whose fields are the schema of `config.task`. It knows what is learned
and nothing of devices, files or flags: its methods are pure, and the loop compiles and feeds them.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Protocol

import jax
from PIL import Image

from deconv_jax.data.batch import Batch
from deconv_jax.data.sources import Source
from deconv_jax.training.state import Scalars, TrainState
from deconv_jax.viz.plots import Drawing


class Task(Protocol):
    """What one experiment family learns."""

    version: ClassVar[int] = 1
    """A number that is raised when a code change may alter figures; older records are then stale."""

    @property
    def monitor(self) -> str:
        """Validation metric that selects the best checkpoint; "-NAME" if it is minimized."""
        ...

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics that `evaluate` can return, as shell patterns such as "iou_*"."""
        ...

    @property
    def protocol(self) -> str:
        """How the measures of `evaluate` are defined, in a sentence that a result can carry."""
        ...

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """The state before the first step; only the shapes of `batch` matter."""
        ...

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """One update. Scalars hold "loss" and "grad_norm", which the loop watches for NaN."""
        ...

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Measures over a whole split."""
        ...

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """What a person would rather look at than read, by name."""
        ...

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Measures on `test` of what needs no network, fitted to `train`; {} where there is none."""
        ...

    def plots(
        self, state: TrainState, batches: Iterable[Batch], metrics: Mapping[str, float]
    ) -> Mapping[str, Drawing]:
        """What of a whole split is better drawn than told, by name; {} where that is nothing.

        Args:
          state: what is looked at.
          batches: of the split.
          metrics: what `evaluate` gave of them.
        """
        del state, batches, metrics
        return {}

    def warnings(self, metrics: Mapping[str, float], scalars: Mapping[str, float]) -> list[str]:
        """What somebody who watches a run should be told.

        Args:
          metrics: of the validation split.
          scalars: of the steps since the validation before, each a mean.
        """
        del metrics, scalars
        return []
