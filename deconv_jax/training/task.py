"""The interface between the training loop and a family of experiments.

A task is a frozen dataclass whose fields are the schema of `config.task`. It defines the model's loss and
metrics, and knows nothing about devices, files and flags. Its methods are pure; the loop compiles them.
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
    """A family of experiments: initial state, training step, evaluation and sample images."""

    version: ClassVar[int] = 1
    """Version of the code, increased by changes that may alter results; older records are then stale."""

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
        """Definition of the metrics of `evaluate`, in a sentence that is stored with results."""
        ...

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """Return the initial state; only the shapes of `batch` matter."""
        ...

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """Return the state after one update, and scalars to log, among them "loss" and "grad_norm"."""
        ...

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the metrics of a whole split, by name.

        Args:
          state: State to evaluate.
          batches: Batches of the split, with "index" and with "mask", which is 0 for padding.
        """
        ...

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Return sample images of the examples in `batch` to log, by name; names become file names."""
        ...

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Return the metrics on `test` of a baseline without a network, fitted to `train`; may be {}."""
        ...

    def plots(
        self, state: TrainState, batches: Iterable[Batch], metrics: Mapping[str, float]
    ) -> Mapping[str, Drawing]:
        """Return plots that summarize a split, by name; by default none.

        Args:
          state: State to evaluate.
          batches: Batches of the split.
          metrics: Metrics of the split, from `evaluate`.
        """
        del state, batches, metrics
        return {}

    def warnings(self, metrics: Mapping[str, float], scalars: Mapping[str, float]) -> list[str]:
        """Return warnings about the progress of training, to print; by default none.

        Args:
          metrics: Metrics of the validation split, from `evaluate`.
          scalars: Means of the scalars of `train_step` since the last evaluation.
        """
        del metrics, scalars
        return []
