"""Pictures that several tasks draw in the same way."""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from deconv_jax.data.batch import Batch
from deconv_jax.data.crops import center_crops
from deconv_jax.viz.grids import picture_grid

PICTURE_EXAMPLES = 4
"""Number of images in a picture of center crops."""
_CROP_PIXELS = 192


def first_examples(batch: Batch, count: int) -> dict[str, jax.Array]:
    """Return the first `count` examples of a batch, or all if it has fewer."""
    return {name: array[:count] for name, array in batch.items()}


def center_crop_grid(
    rows: Mapping[str, Float[Array | np.ndarray, "count height width channels"]],
    sizes: Array | np.ndarray,
) -> Image.Image:
    """Draw center crops of at most 192 x 192 pixels, one row per caption, at original resolution.

    Args:
      rows: Images in [0, 1] by caption.
      sizes: Height and width of each image without padding (count, 2).
    """
    cropped = {
        caption: center_crops(np.asarray(images), np.asarray(sizes), _CROP_PIXELS)
        for caption, images in rows.items()
    }
    return picture_grid(cropped, scale=1)
