"""Image formats in use, as what a learned codec is held against: Pillow's JPEG, WebP and AVIF."""

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
"""The slower settings, for smaller files."""


def available(codec: StandardCodec) -> bool:
    """Whether this Pillow has it."""
    return codec == "JPEG" or bool(features.check(codec.lower()))


def encode_decode(
    image: UInt8[np.ndarray, "height width channels"], codec: StandardCodec, quality: int
) -> tuple[int, UInt8[np.ndarray, "height width channels"]]:
    """The bytes that an image's file has, headers included, and the image that it decodes to.

    Args:
      image: gray or RGB.
      codec: with the format's usual subsampling of colours, and all time it wants.
      quality: 1 to 100.

    Raises:
      InputError: this Pillow lacks the format.
    """
    if not available(codec):
        raise InputError(f"this Pillow was built without {codec}")
    file = io.BytesIO()
    gray = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if gray else image)
    picture.save(file, codec, quality=quality, **_OPTIONS[codec])
    size = file.tell()
    decoded = Image.open(file).convert("L" if gray else "RGB")
    return size, np.asarray(decoded).reshape(image.shape)
