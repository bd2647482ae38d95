"""The training state and its types."""

from typing import Any, Literal

import flax
import jax

Tree = Any
Scalars = dict[str, jax.Array]
Precision = Literal["f32", "bf16"]


@flax.struct.dataclass
class TrainState:
    """The state of training, except for the config and the position of the data iterator.

    Attributes:
      step: Number of updates so far, int32.
      params: "params" of the module, float32.
      batch_stats: "batch_stats" of the module, or {}.
      opt_state: State of the optimizer.
      ema: Moving average of `params`, or {} without averaging. In adversarial training, the
        moving average of the generator's variables.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Tree
    ema: Tree

    @property
    def is_adversarial(self) -> bool:
        """Whether the state has two networks, "generator" and "discriminator"."""
        return set(self.params) == {"generator", "discriminator"}

    def inference_variables(self) -> dict[str, Tree]:
        """Return "params", averaged if there is an average, and "batch_stats", for evaluation.

        They are those of the generator in adversarial training.
        """
        if self.is_adversarial:
            fields = ("params", "batch_stats")
            return self.ema or {field: getattr(self, field)["generator"] for field in fields}
        return {"params": self.ema or self.params, "batch_stats": self.batch_stats}
