"""Standard image formats as baselines for learned codecs: Pillow's JPEG, WebP and AVIF."""

import io
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, features

from deconv_jax.errors import InputError

StandardCodec = Literal["JPEG", "WEBP", "AVIF"]

_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"optimize": True},
    "WEBP": {"method": 6},
    "AVIF": {"speed": 4},
}
"""Encoder settings that trade time for smaller files."""


def is_available(codec: StandardCodec) -> bool:
    """Return whether the installed Pillow supports a format; JPEG always."""
    return codec == "JPEG" or bool(features.check(codec.lower()))


def encode_decode(
    image: UInt8[np.ndarray, "height width channels"], codec: StandardCodec, quality: int
) -> tuple[int, UInt8[np.ndarray, "height width channels"]]:
    """Encode an image; return the file size in bytes, headers included, and the decoded image.

    Args:
      image: Gray or RGB image, of 1 or 3 channels.
      codec: Format, with its default chroma subsampling and encoder settings for small files.
      quality: Quality from 1 to 100; not checked.

    Raises:
      InputError: The installed Pillow does not support the format.
    """
    if not is_available(codec):
        raise InputError(f"the installed Pillow was built without {codec}")
    file = io.BytesIO()
    gray = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if gray else image)
    picture.save(file, codec, quality=quality, **_OPTIONS[codec])
    size = file.tell()
    decoded = Image.open(file).convert("L" if gray else "RGB")
    return size, np.asarray(decoded).reshape(image.shape)
