"""Peak rates of accelerators, and bounds on the time of a computation that follow from them."""

import dataclasses
from typing import Literal

Precision = Literal["f32", "bf16"]


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A chip, by the data sheet of its vendor.

    Attributes:
      name: Name of the chip.
      bf16_flops: Peak FLOPs per second of dense bfloat16 matrix products.
      f32_flops: The same for float32 at JAX's default precision, which multiplies in TF32 on a GPU and in
        bfloat16 on a TPU.
      bandwidth: Memory bandwidth in bytes per second.
    """

    name: str
    bf16_flops: float
    f32_flops: float
    bandwidth: float

    def bound(self, flops: float, moved_bytes: float, precision: Precision) -> "Bound":
        """Return the least time of a computation.

        Args:
          flops: FLOPs of its convolutions and matrix products.
          moved_bytes: Bytes that it reads from or writes to memory.
          precision: Precision of the computation.
        """
        peak = self.bf16_flops if precision == "bf16" else self.f32_flops
        return Bound(flops / peak, moved_bytes / self.bandwidth)


@dataclasses.dataclass(frozen=True)
class Bound:
    """A roofline bound (Williams et al., CACM 2009): no computation is faster than its slower part.

    Attributes:
      compute_s: Seconds of arithmetic at the peak rate.
      memory_s: Seconds of memory traffic at the peak bandwidth.
    """

    compute_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        """The larger of both."""
        return max(self.compute_s, self.memory_s)


ACCELERATORS = (
    Accelerator("H200", 989.5e12, 494.7e12, 4.8e12),
    Accelerator("H100", 989.5e12, 494.7e12, 3.35e12),
    Accelerator("A100", 312e12, 156e12, 2.039e12),
    Accelerator("TPU v4", 275e12, 275e12, 1.228e12),
    Accelerator("TPU v5e", 197e12, 197e12, 0.819e12),
    Accelerator("TPU v5p", 459e12, 459e12, 2.765e12),
    Accelerator("TPU v6e", 918e12, 918e12, 1.638e12),
)
"""Chips by the data sheets: NVIDIA H200, H100 and A100 80 GB, all SXM (dense rates, without sparsity); and the
system architecture pages of Cloud TPU, per chip."""
