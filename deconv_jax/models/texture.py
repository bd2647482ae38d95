"""Networks of spatial GANs: textures of any size from a grid of latents.

A spatial GAN (Jetchev et al., arXiv:1611.08207) replaces the latent vector of a GAN by a grid of
latents and uses only convolutions, so that a larger grid gives a larger texture. A periodic spatial GAN
(Bergmann et al., arXiv:1705.06566) has three kinds of latents in each cell of the grid:

    local      standard normal, independent in every cell: irregular detail
    global     standard normal, the same in every cell: which texture it is
    periodic   sin(k . x + phase) at cell x: regular structure. The wave vector k is learned, as a
               function of the global latents; the phase is random.

Differences from the papers: the layers pad nothing, and the grid has a margin instead, so that all
pixels are computed in the same way; normal instead of uniform latents; one discriminator logit per image,
the mean over all positions, before the loss.
"""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from deconv_jax.errors import InputError, at_least
from deconv_jax.models.gan import Discriminator
from deconv_jax.models.layers import RELU_GAIN, Conv, Dense, Upsample
from deconv_jax.models.normalization import Norm, NormName
from deconv_jax.ops.upsample import UpsampleMethod

_CROPS: dict[UpsampleMethod, int] = {"transposed": 1, "resize": 1, "subpixel": 2}
"""Pixels at each border of an upsampling layer's output that depend on its padding."""
_WAVE_FEATURES = 40
"""Number of hidden units from the global latents to the wave vectors, as in the paper."""
_MAX_WAVE = math.pi / 2
"""Length of the wave vectors at initialization, in radians per cell."""


class TextureGenerator(nn.Module):
    """The generator of a periodic spatial GAN.

    A latent is a vector of `latent_dim` standard normal numbers: the local latents of all cells, row by
    row, then the global ones, then one for each phase. The parameters do not depend on `image_shape`,
    so a copy of a trained generator with another `image_shape` makes textures of that size.

    Attributes:
      image_shape: Shape (height, width, channels) of the images.
      width: Number of channels of the last hidden map; every map before has twice as many.
      stages: Number of upsampling layers; a cell of the grid has `2**stages` pixels per side.
      local_dim: Number of local latents of a cell.
      global_dim: Number of global latents.
      periodic_dim: Number of periodic latents of a cell; 0 for a spatial GAN.
      upsampling: Upsampling layer: "transposed", "subpixel" or "resize", see `Upsample`.
      norm: Normalization of the hidden maps: "batch" or "none".
      tileable: Whether the grid is periodic, so that opposite borders of an image fit together. The
        sides must be multiples of `stride`. Wave vectors are rounded to whole periods.
    """

    image_shape: tuple[int, int, int] = (128, 128, 3)
    width: int = 32
    stages: int = 5
    local_dim: int = 16
    global_dim: int = 8
    periodic_dim: int = 4
    upsampling: UpsampleMethod = "transposed"
    norm: NormName = "batch"
    tileable: bool = False

    role: ClassVar[str] = "generator"

    def setup(self) -> None:
        """Check the attributes and create the two networks."""
        for name in ("width", "stages", "local_dim", "global_dim"):
            at_least(f"generator.{name}", getattr(self, name), 1)
        at_least("generator.periodic_dim", self.periodic_dim, 0)
        if self.norm not in ("batch", "none"):
            raise InputError(
                "the norm of a texture_generator must be 'batch' or 'none', because others depend on the "
                f"size of the image; got {self.norm!r}"
            )
        if self.tileable and any(n % self.stride for n in self.image_shape[:2]):
            raise InputError(
                f"the sides of a tileable texture must be multiples of {self.stride} pixels; got "
                f"{self.image_shape[1]}x{self.image_shape[0]} (width x height)"
            )
        if self.periodic_dim:
            self.waves = _WaveVectors(self.periodic_dim)
        self.decoder = _Decoder(
            self.image_shape[-1], self.width, self.stages, self.upsampling, self.norm
        )

    @property
    def num_classes(self) -> int:
        """Number of classes, always 0: the global latents choose the texture."""
        return 0

    @property
    def stride(self) -> int:
        """Height and width of a cell, in pixels."""
        return 2**self.stages

    @property
    def margin(self) -> int:
        """Cells that a pixel depends on beyond its own cell, on each side."""
        return _CROPS[self.upsampling]

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells that the image covers."""
        height, width = (-(-n // self.stride) for n in self.image_shape[:2])
        return height, width

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the grid: those of `cells`, with a margin unless `tileable`."""
        margin = 0 if self.tileable else 2 * self.margin
        rows, columns = self.cells
        return rows + margin, columns + margin

    @property
    def latent_dim(self) -> int:
        """Length of a latent."""
        return math.prod(self.grid_size) * self.local_dim + self.global_dim + self.periodic_dim

    def __call__(
        self,
        latents: Float[Array, "batch latent_dim"],
        labels: Int32[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        """Generate images in [0, 1].

        Args:
          latents: Standard normal latents.
          labels: None; a texture generator has no classes.
          train: Whether batch norm uses and updates the statistics of the batch.

        Raises:
          InputError: The latents have the wrong length, there are labels, or an attribute is invalid.
        """
        if labels is not None:
            raise InputError("a texture_generator has no classes; got labels")
        grid = self.grid(latents)
        if self.tileable:
            grid = self.wrap(grid)
        height, width = self.image_shape[:2]
        return self.decode(grid, train)[:, :height, :width]

    def grid(
        self, latents: Float[Array, "batch latent_dim"]
    ) -> Float[Array, "batch rows columns cell_dim"]:
        """Return the grid of a latent: the local, the global and the periodic latents of each cell.

        Raises:
          InputError: The latents have the wrong length.
        """
        if latents.shape[-1] != self.latent_dim:
            raise InputError(
                f"latents must have length {self.latent_dim} for this generator; got shape "
                f"{latents.shape}"
            )
        rows, columns = self.grid_size
        count = rows * columns * self.local_dim
        local = latents[:, :count].reshape(-1, rows, columns, self.local_dim)
        end = count + self.global_dim
        return self.compose(local, latents[:, count:end], latents[:, end:])

    def compose(
        self,
        local: Float[Array, "batch rows columns local_dim"],
        fixed: Float[Array, "batch global_dim"],
        phases: Float[Array, "batch periodic_dim"],
    ) -> Float[Array, "batch rows columns cell_dim"]:
        """Return a grid of any size from its local and global latents and those of the phases."""
        batch, rows, columns, _ = local.shape
        everywhere = jnp.broadcast_to(fixed[:, None, None], (batch, rows, columns, self.global_dim))
        parts = [local, everywhere]
        if self.periodic_dim:
            # Uniform phases from normal numbers, so that a walk between latents is smooth.
            turns = 2 * jnp.pi * jax.scipy.stats.norm.cdf(phases)
            angles = jnp.broadcast_to(
                turns[:, None, None].astype(jnp.float32),
                (batch, rows, columns, self.periodic_dim),
            )
            vectors = self.waves(fixed).astype(jnp.float32)
            for axis, n in enumerate((rows, columns)):
                per_cell = vectors[:, axis]
                if self.tileable:
                    per_cell = jnp.round(per_cell * n / (2 * jnp.pi)) * (2 * jnp.pi / n)
                position = jnp.arange(n, dtype=jnp.float32).reshape(
                    (1, n, 1, 1) if axis == 0 else (1, 1, n, 1)
                )
                angles = angles + per_cell[:, None, None] * position
            parts.append(jnp.sin(angles).astype(local.dtype))
        return jnp.concatenate(parts, axis=-1)

    def wrap(
        self, grid: Float[Array, "batch rows columns cell_dim"]
    ) -> Float[Array, "batch more_rows more_columns cell_dim"]:
        """Return a periodic grid with a margin."""
        for axis in (1, 2):
            cells = grid.shape[axis]
            for depth in range(self.margin):
                # Cell c is at index c + depth, and cell -1 - depth equals cell `cells` - 1 - depth.
                before = jax.lax.slice_in_dim(grid, cells - 1, cells, axis=axis)
                after = jax.lax.slice_in_dim(grid, 2 * depth, 2 * depth + 1, axis=axis)
                grid = jnp.concatenate([before, grid, after], axis=axis)
        return grid

    def decode(
        self, grid: Float[Array, "batch rows columns cell_dim"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Return the image of all cells of a grid except its margin.

        The image has `(rows - 2 * margin) * stride` pixels vertically. It does not depend on what is
        beyond the grid, so the images of parts of a grid, which overlap by the margin, are parts of
        the image.

        Args:
          grid: Grid, or a part of one.
          train: Whether batch norm uses and updates the statistics of the batch.

        Raises:
          InputError: The grid is not larger than its margin.
        """
        if any(n <= 2 * self.margin for n in grid.shape[1:3]):
            raise InputError(
                f"a grid must have more than {2 * self.margin} rows and columns; got shape {grid.shape}"
            )
        return self.decoder(grid, train)


class _WaveVectors(nn.Module):
    """The wave vectors of the periodic latents, in radians per cell, from the global latents."""

    periodic_dim: int

    @nn.compact
    def __call__(self, latents: Float[Array, "batch dim"]) -> Float[Array, "batch 2 periodic_dim"]:
        """Return the vertical and the horizontal component of each wave vector."""
        hidden = jax.nn.relu(Dense(_WAVE_FEATURES, gain=RELU_GAIN)(latents))
        change = Dense(2 * self.periodic_dim, use_bias=False, gain=0.01)(hidden)

        def spread(_, shape: tuple[int, ...]) -> Array:
            """Directions spread over half a circle."""
            angles = jnp.pi * jnp.arange(shape[-1]) / shape[-1]
            return _MAX_WAVE * jnp.stack([jnp.sin(angles), jnp.cos(angles)])

        start = self.param("start", spread, (2, self.periodic_dim))
        return change.reshape(-1, 2, self.periodic_dim) + start.astype(change.dtype)[None]


class _Decoder(nn.Module):
    """Upsampling layers from a grid to an image, without any pixel that depends on padding."""

    channels: int
    width: int
    stages: int
    upsampling: UpsampleMethod
    norm: NormName

    @nn.compact
    def __call__(
        self, grid: Float[Array, "batch rows columns cell_dim"], train: bool
    ) -> Float[Array, "batch height width channels"]:
        """Return the image of the cells inside the margin, in [0, 1]."""
        use_bias = self.norm == "none"
        crop = _CROPS[self.upsampling]
        widths = [self.width * 2**i for i in reversed(range(self.stages))]
        x = Conv(widths[0], kernel_size=1, use_bias=use_bias, gain=RELU_GAIN)(grid)
        x = jax.nn.relu(Norm(self.norm, train=train)(x))
        for features in widths[1:]:
            upsample = Upsample(features, method=self.upsampling, use_bias=use_bias, gain=RELU_GAIN)
            x = upsample(x)[:, crop:-crop, crop:-crop]
            x = jax.nn.relu(Norm(self.norm, train=train)(x))
        x = Upsample(self.channels, method=self.upsampling)(x)
        # The layers have cropped stride - 1 times `crop` pixels of the margin so far, and all `stride` times
        # `crop` pixels with the last crop repeated.
        return 0.5 * (jnp.tanh(x[:, 2 * crop : -2 * crop, 2 * crop : -2 * crop]) + 1.0)


class TextureDiscriminator(Discriminator):
    """The discriminator of a spatial GAN: strided convolutions, and the mean logit of all positions.

    Attributes:
      stages: Number of convolutions with stride 2; each doubles the number of channels.
      kernel_size: Kernel size of the convolutions; 5 in the papers.
      norm: Normalization of all maps but the first: "batch", "group", "layer" or "none".
      Others: See `Discriminator` (width, num_classes, spectral_norm and minibatch_std_group).
    """

    stages: int = 4
    kernel_size: int = 4
    norm: NormName = "none"

    def _features(self, images: Array, train: bool) -> tuple[Array, Array]:
        at_least("discriminator.stages", self.stages, 1)
        x = 2.0 * images - 1.0
        for stage in range(self.stages):
            norm = self.norm if stage else "none"
            x = Conv(
                self.width * 2**stage,
                kernel_size=self.kernel_size,
                stride=2,
                use_bias=norm == "none",
                gain=RELU_GAIN,
                kernel_norm="spectral" if self.spectral_norm else "none",
                train=train,
            )(x)
            x = jax.nn.leaky_relu(Norm(norm, train=train)(x), 0.2)
        # The logit of the mean is the mean of the logits, because the last layer is linear.
        return jnp.mean(x, axis=(1, 2)), x
