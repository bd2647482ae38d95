"""Random geometric warps of an image together with the class of each pixel and the boxes.

A `RandomWarp` is a distribution of `Warp`s.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from deconv_jax.data.augment import check_crop_fits
from deconv_jax.errors import InputError, at_least

_ELASTIC_GRID = 3
"""Number of random displacements per side of an elastic warp."""

_LEAST_KEPT = 0.3
"""Minimum fraction of a box's area inside the view for the box to be kept."""

_ALONG = 5
"""Number of sample points per side of a box. The corners alone suffice for a linear warp."""


def sample_bilinear(
    image: Float[Array, "height width channels"], points: Float[Array, "*view 2"]
) -> Float[Array, "*view channels"]:
    """Sample an image at points (row, column) in pixels from its top left corner.

    The center of the first pixel is (0.5, 0.5). Outside the centers of the border pixels, the nearest pixel is
    used.
    """
    height, width, channels = image.shape
    rows = jnp.clip(points[..., 0] - 0.5, 0.0, height - 1.0)
    columns = jnp.clip(points[..., 1] - 0.5, 0.0, width - 1.0)
    top, left = rows.astype(jnp.int32), columns.astype(jnp.int32)
    bottom, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    down, across = (rows - top)[..., None], (columns - left)[..., None]
    pixels = image.reshape(height * width, channels)
    above = (1 - across) * pixels[top * width + left] + across * pixels[top * width + right]
    below = (1 - across) * pixels[bottom * width + left] + across * pixels[bottom * width + right]
    return (1 - down) * above + down * below


class Warp(NamedTuple):
    """A map from positions in a view to positions in an image, both (row, column) in pixels.

    image position = center + matrix (view position - view_center) + displacement at the view position.

    Attributes:
      center, view_center: Points (2,) of the image and of the view that are mapped to each other without
        displacement.
      matrix: Linear part (2, 2).
      displacement: Displacement (view height, view width, 2) in pixels; None for none.
      shape: Height and width of the view.
      size: Height and width (2,) of the valid region of the image.
      pixel_exact: Whether pixel centers are mapped to pixel centers, so that no interpolation is needed.
    """

    center: Array
    view_center: Array
    matrix: Array
    displacement: Array | None
    shape: tuple[int, int]
    size: Array
    pixel_exact: bool

    def points(self) -> Float[Array, "view_height view_width 2"]:
        """Return the position (row, column) in the image of the center of each pixel of the view."""
        rows, columns = (
            jnp.arange(n) + 0.5 - middle
            for n, middle in zip(self.shape, self.view_center, strict=True)
        )
        mapped = [
            center + row[0] * rows[:, None] + row[1] * columns[None]
            for center, row in zip(self.center, self.matrix, strict=True)
        ]
        points = jnp.stack(mapped, axis=-1)
        return points if self.displacement is None else points + self.displacement

    def image(
        self, image: Float[Array, "height width channels"]
    ) -> Float[Array, "view_height view_width channels"]:
        """Sample an image bilinearly without antialiasing, or exactly if `pixel_exact`; 0 outside its valid region."""
        points = self.points()
        if self.pixel_exact:
            seen = self._nearest(image, points)
        else:
            # Clamp to the valid region, so that the padding is never interpolated.
            inner = [jnp.clip(points[..., axis], 0.5, self.size[axis] - 0.5) for axis in range(2)]
            seen = sample_bilinear(image, jnp.stack(inner, axis=-1))
        return jnp.where(self._inside(points)[..., None], seen, 0.0)

    def segments(
        self, segments: Int[Array, "height width"], outside: int
    ) -> Int[Array, "view_height view_width"]:
        """Sample the classes of pixels by the nearest pixel. Points outside the valid region get class `outside`."""
        points = self.points()
        seen = self._nearest(segments[..., None], points)[..., 0]
        return jnp.where(self._inside(points), seen, outside)

    def boxes(
        self, boxes: Float[Array, "most 4"]
    ) -> tuple[Float[Array, "most 4"], Bool[Array, " most"]]:
        """Return the axis-aligned bounds of warped boxes in the view, and which boxes have at least 30% of their area there.

        Boxes are (top, left, bottom, right) in pixels; the results are clipped to the view, in the same order, kept
        or not. An elastic warp is inverted by a few fixed-point iterations at sample points of each box.
        """
        along = jnp.linspace(0.0, 1.0, _ALONG)[None]
        rows = boxes[:, :1] + (boxes[:, 2:3] - boxes[:, :1]) * along
        columns = boxes[:, 1:2] + (boxes[:, 3:] - boxes[:, 1:2]) * along
        shape = (len(boxes), _ALONG, _ALONG)
        down = jnp.broadcast_to(rows[:, :, None], shape) - self.center[0]
        across = jnp.broadcast_to(columns[:, None], shape) - self.center[1]
        (a, b), (c, d) = self.matrix
        determinant = a * d - b * c

        def seen(down: Array, across: Array) -> tuple[Array, Array]:
            return (
                self.view_center[0] + (d * down - b * across) / determinant,
                self.view_center[1] + (a * across - c * down) / determinant,
            )

        rows, columns = seen(down, across)
        if self.displacement is not None:
            for _ in range(4):
                row, column = (
                    jnp.clip(place, 0, n - 1).astype(jnp.int32)
                    for place, n in zip((rows, columns), self.shape, strict=True)
                )
                moved = self.displacement[row, column]
                rows, columns = seen(down - moved[..., 0], across - moved[..., 1])
        bounds = [jnp.min(rows, (1, 2)), jnp.min(columns, (1, 2))]
        bounds += [jnp.max(rows, (1, 2)), jnp.max(columns, (1, 2))]
        whole = jnp.stack(bounds, axis=-1)
        clipped = jnp.stack(
            [jnp.clip(edge, 0, self.shape[axis % 2]) for axis, edge in enumerate(bounds)], axis=-1
        )
        left_over = _area(clipped)
        return clipped, (left_over > 0) & (left_over >= _LEAST_KEPT * _area(whole))

    def _inside(self, points: Array) -> Array:
        """Return which points are inside the valid region."""
        rows, columns = points[..., 0], points[..., 1]
        return (rows >= 0) & (rows < self.size[0]) & (columns >= 0) & (columns < self.size[1])

    def _nearest(self, values: Array, points: Array) -> Array:
        rows, columns = (
            jnp.clip(jnp.floor(points[..., axis]), 0, n - 1).astype(jnp.int32)
            for axis, n in enumerate(values.shape[:2])
        )
        return values[rows, columns]


@dataclasses.dataclass(frozen=True)
class RandomWarp:
    """The distribution of random warps: the geometric augmentation of a view. A field out of range raises InputError.

    Attributes:
      crop: Side in pixels of a random crop of the valid region, centered if the region is smaller; None for the
        whole canvas.
      flip: Whether to mirror left and right with probability 1/2; no effect with `dihedral`.
      dihedral: Whether to apply a random quarter turn and reflection.
      rotate: Maximum angle of rotation about the center of the view to either side, 0 to 180 degrees.
      scale: Minimum and maximum factor by which objects are enlarged, above 0, uniform in its logarithm.
      elastic: Standard deviation in pixels of the displacements on a 3 x 3 grid, interpolated bicubically
        (Ronneberger et al., arXiv:1505.04597, section 3.1).
    """

    crop: int | None = None
    flip: bool = False
    dihedral: bool = False
    rotate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    elastic: float = 0.0

    def __post_init__(self) -> None:
        if self.crop is not None:
            at_least("crop", self.crop, 1)
        if not 0 <= self.rotate <= 180:
            raise InputError(f"rotate must be 0 to 180 degrees; got {self.rotate}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise InputError(
                f"scale must be (minimum, maximum) with 0 < minimum <= maximum; got {self.scale}"
            )
        at_least("elastic", self.elastic, 0)

    @property
    def is_active(self) -> bool:
        """Whether `draw` may return anything but the identity."""
        return self.crop is not None or self.flip or self.dihedral or not self._is_pixel_exact

    @property
    def _is_pixel_exact(self) -> bool:
        return not self.rotate and self.scale == (1.0, 1.0) and not self.elastic

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise InputError if images of this height and width are smaller than the crop.

        Without a crop, also raise it for `dihedral` and images that are not square.
        """
        if self.crop is not None:
            check_crop_fits(shape, self.crop)
        if self.dihedral and self.crop is None and shape[0] != shape[1]:
            raise InputError(
                f"dihedral requires square images or a crop; got {shape[0]} x {shape[1]} without crop"
            )

    def draw(self, key: Key[Array, ""], shape: tuple[int, int], size: Int[Array, " 2"]) -> Warp:
        """Sample a warp of one image.

        Args:
          key: Key of this image.
          shape: Height and width of the padded image.
          size: Height and width of its valid region, at the top left.

        Returns:
          A warp to a view of `shape`, or of crop x crop pixels. `check` is not called.
        """
        turn, zoom, sides, corner, grid = jax.random.split(key, 5)
        transpose, down, across = jax.random.bernoulli(sides, shape=(3,))
        if not self.dihedral:
            transpose, down = jnp.zeros_like(transpose), jnp.zeros_like(down)
            across = across & self.flip
        angle = math.radians(self.rotate) * jax.random.uniform(turn, minval=-1.0)
        least, most = map(math.log, self.scale)
        factor = jnp.exp(
            jax.random.uniform(zoom, minval=least, maxval=most) if most > least else least
        )
        signs = jnp.stack([1.0 - 2.0 * down, 1.0 - 2.0 * across])
        turned = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
        matrix = turned * signs[None] / factor
        matrix = jnp.where(transpose, matrix[:, ::-1], matrix)
        true = size.astype(jnp.float32)
        if self.crop is None:
            seen, center = shape, true / 2
            view_center = jnp.where(transpose, center[::-1], center)
        else:
            seen = (self.crop, self.crop)
            covered = self.crop / factor
            room = true - covered
            drawn = jnp.floor(jax.random.uniform(corner, (2,)) * (jnp.floor(room) + 1))
            # A valid region smaller than the crop is centered, at whole pixels.
            start = jnp.where(room >= 0, jnp.minimum(drawn, room), jnp.floor(room / 2))
            center = start + covered / 2
            view_center = jnp.full(2, self.crop / 2)
        displacement = None
        if self.elastic:
            coarse = self.elastic * jax.random.normal(grid, (_ELASTIC_GRID, _ELASTIC_GRID, 2))
            displacement = jax.image.resize(coarse, (*seen, 2), "cubic")
        return Warp(center, view_center, matrix, displacement, seen, size, self._is_pixel_exact)


def _area(boxes: Array) -> Array:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
