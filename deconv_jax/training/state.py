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
      ema: Moving average of `params`, or {} without averaging. For a GAN, the moving
        average of the generator's variables.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Tree
    ema: Tree

    def inference_variables(self) -> dict[str, Tree]:
        """Return "params", averaged if there is an average, and "batch_stats", for evaluation.

        Note: For a GAN, whose average covers other variables, use `GAN.sampling_variables`.
        """
        return {"params": self.ema or self.params, "batch_stats": self.batch_stats}
