"""Encoding and decoding of a photograph of 768 x 512 pixels, compared with standard formats.

The learned codecs are untrained; their speed does not depend on the weights. CompressAI is not compared, because
its releases for the NumPy version of JAX do not install with this PyTorch.

  python experiments/benchmarks/codec_speed.py
"""

import io
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import skimage.data
from PIL import Image
from timing import parse_arguments, time_in_turns, time_ratios, write_record

from deconv_jax.inference.compression.codec import Codec
from deconv_jax.metrics.standard_codecs import is_available
from deconv_jax.models import FactorizedCodec, HyperpriorCodec

MODELS = {
    "hyperprior 64/96": HyperpriorCodec(3, 64, 96),
    "hyperprior 128/192": HyperpriorCodec(3, 128, 192),
    "factorized 128/192": FactorizedCodec(3, 128, 192),
}
STANDARD = {"JPEG": 50, "WEBP": 50, "AVIF": 50}


def photograph() -> np.ndarray:
    """Return two photographs side by side, uint8 (512, 768, 3)."""
    second = np.repeat(skimage.data.camera()[:, 128:384, None], 3, axis=-1)
    return np.concatenate([skimage.data.astronaut(), second], axis=1)


def learned(model: Any, image: np.ndarray) -> tuple[Callable[[], Any], Callable[[], Any], int]:
    """Return compiled functions that encode and decode, and the size of the file in bytes."""
    example = jnp.zeros((1, 64, 64, 3))
    variables = jax.jit(model.init)(jax.random.key(0), example, jnp.zeros(1, jnp.int32))
    codec = Codec(model, jax.device_get(variables))
    file = codec.compress(image, 0)
    return lambda: codec.compress(image, 0), lambda: codec.decompress(file), len(file)


def standard(name: str, quality: int, image: np.ndarray) -> tuple[Any, Any, int]:
    """Return the same as `learned` for a format of Pillow with its default settings."""

    def write() -> bytes:
        file = io.BytesIO()
        Image.fromarray(image).save(file, name, quality=quality)
        return file.getvalue()

    file = write()
    return write, lambda: np.asarray(Image.open(io.BytesIO(file))), len(file)


def main() -> None:
    """Time all candidates in turns."""
    arguments = parse_arguments(__file__, __doc__, rounds=7)
    image = photograph()
    found = {name: learned(model, image) for name, model in MODELS.items()}
    found |= {
        name: standard(name, quality, image)
        for name, quality in STANDARD.items()
        if is_available(name)  # type: ignore[arg-type]
    }
    candidates = {
        f"{name}, {what}": call
        for name, (write, read, _) in found.items()
        for what, call in (("write", write), ("read", read))
    }
    times = time_in_turns(candidates, rounds=arguments.rounds, calls=1)
    paper = "hyperprior 128/192"
    write_record(
        arguments.output,
        measured="encoding or decoding of a photograph of 768 x 512 pixels, in memory",
        protocol="one timed call per turn after a warm-up call, candidates interleaved; programs compiled "
        "beforehand; Pillow's formats have quality 50 and default settings",
        times=times,
        ratios=time_ratios(
            times,
            *(
                (f"{paper}, {what}", f"AVIF, {what}")
                for what in ("write", "read")
                if "AVIF" in found
            ),
            *((f"{paper}, {what}", f"JPEG, {what}") for what in ("write", "read")),
        ),
        file_bytes={name: size for name, (_, _, size) in found.items()},
    )


if __name__ == "__main__":
    main()
