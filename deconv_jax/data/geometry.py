"""Distance to a line segment, for motion blur and stroke masks.

Positions are (row, column) in pixels. Rows count downwards, so an angle, counter-clockwise as seen on the
screen, points to smaller rows.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def distance_to_segment(
    height: int,
    width: int,
    center: tuple[float | Float[Array, ""], float | Float[Array, ""]],
    length: float | Float[Array, ""],
    angle: float | Float[Array, ""],
) -> Float[Array, "height width"]:
    """Return the distance of each pixel's center to a line segment, in pixels.

    Args:
      height, width: Size of the grid in pixels.
      center: Row and column of the segment's midpoint.
      length: Length of the segment in pixels; 0 for a point.
      angle: Angle in degrees, counter-clockwise from horizontal.
    """
    rows = jnp.arange(height, dtype=jnp.float32) - center[0]
    columns = jnp.arange(width, dtype=jnp.float32) - center[1]
    down, right = jnp.meshgrid(rows, columns, indexing="ij")
    radians = jnp.deg2rad(jnp.asarray(angle, jnp.float32))
    along = right * jnp.cos(radians) - down * jnp.sin(radians)
    across = right * jnp.sin(radians) + down * jnp.cos(radians)
    return jnp.hypot(jnp.maximum(jnp.abs(along) - length / 2, 0.0), across)
