"""Random projections: the measurements of compressed sensing."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax.data.forward_model import Images, LinearDegradation, check_integer


@dataclasses.dataclass(frozen=True, eq=False)
class RandomProjection(LinearDegradation):
    """Inner products of each channel with random images, the measurements of compressed sensing.

    The entries of the random images are independent and normal with variance 1 / count, so a measured image has
    the squared norm of the image itself, on average (Bora et al., arXiv:1703.03208, section 2). All images and
    channels are measured by the same random images. Measurements of (height, width) images have the size
    (count, 1).

    Note: The measurements do not determine the size of the image, so solvers require their argument `size`.

    Attributes:
      count: Number of measurements of each channel, at least 1.
      seed: Seed of the random images. With another count, the same random images come first, up to their scale.
    """

    leaves = ("seed",)

    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("count", self.count, 1)
        check_integer("seed", self.seed, 0)

    def forward(self, x: Images) -> Float[Array, "batch count 1 channels"]:
        """Return the measurements of images of any size."""
        key = jax.random.key(self.seed)
        rows = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(self.count))
        draw = jax.vmap(lambda row: jax.random.normal(row, x.shape[1:3], x.dtype))
        matrix = draw(rows) / self.count**0.5
        # HIGHEST keeps the adjoint exact on accelerators, which would otherwise round the operands.
        measured = jnp.einsum("mhw,bhwc->bmc", matrix, x, precision=jax.lax.Precision.HIGHEST)
        return measured[:, :, None, :]

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Return (count, 1), for images of any size."""
        del size
        return self.count, 1
