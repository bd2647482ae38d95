"""The sample photos of the page, with their truths: photographs of scikit-image."""

import dataclasses
import functools
import io
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import skimage.data
from PIL import Image

from deconv_jax import ops

_THUMBNAIL_SIDE = 288


@dataclasses.dataclass(frozen=True)
class Sample:
    """A degraded photo.

    Attributes:
      name: Name of its files.
      operation: Operation of the page that restores it.
      title: Caption.
      photo: Name of the function of `skimage.data` that returns the truth.
      degrade: Function from the pixels of the truth to the encoded degraded image.
      suffix: Suffix of the degraded image.
    """

    name: str
    operation: str
    title: str
    photo: str
    degrade: Callable[[np.ndarray], bytes]
    suffix: str = "png"

    def entry(self) -> dict[str, str]:
        """Return the description for the scripts of the page, with the names of the files."""
        file, truth, thumbnail = self.contents()
        return {
            "operation": self.operation,
            "title": self.title,
            "file": file,
            "truth": truth,
            "thumbnail": thumbnail,
        }

    def contents(self) -> dict[str, Callable[[], bytes]]:
        """Return functions that return the contents of the files, by name: the image, its truth, its thumbnail."""
        stem = f"samples/{self.name}"
        return {
            f"{stem}.{self.suffix}": self._degraded,
            f"{stem}.truth.png": lambda: _png(self._truth()),
            f"{stem}.thumbnail.jpg": lambda: _thumbnail(self._degraded()),
        }

    def _truth(self) -> np.ndarray:
        return getattr(skimage.data, self.photo)()

    @functools.cache  # noqa: B019 - there are only the samples below
    def _degraded(self) -> bytes:
        return self.degrade(self._truth())


def _noisy(sigma: float) -> Callable[[np.ndarray], bytes]:
    def degrade(image: np.ndarray) -> bytes:
        noise = np.random.default_rng(0).normal(0.0, sigma, image.shape)
        return _png(np.clip(np.round(image + noise), 0, 255).astype(np.uint8))

    return degrade


def _halved(image: np.ndarray) -> bytes:
    small = np.asarray(ops.imresize(jnp.float32(image[None]) / 255, 0.5))[0]
    return _png(np.clip(np.floor(255 * small + 0.5), 0, 255).astype(np.uint8))


def _jpeg(image: np.ndarray, quality: int = 15) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _thumbnail(data: bytes) -> bytes:
    image = Image.open(io.BytesIO(data))
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()


SAMPLES = (
    Sample("noisy-cat", "denoise", "Cat with noise", "chelsea", _noisy(25)),
    Sample("noisy-camera", "denoise", "Gray, with noise", "camera", _noisy(15)),
    Sample("small-coffee", "sr-2", "Small photo", "coffee", _halved),
    Sample("blocky-astronaut", "jpeg", "JPEG artifacts", "astronaut", _jpeg, suffix="jpg"),
)
