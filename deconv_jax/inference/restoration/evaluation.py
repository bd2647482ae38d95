"""Evaluation of a restorer on full-size images, one at a time, under a published protocol.

An `Evaluation` fixes the degradation, the source of the random noise, and the comparison with the
ground truth. Results of two methods are comparable if they come from the same `Evaluation`.

Note: The evaluation code of published denoisers restarts the random generator for each image, does not
clip the noisy image, and rounds the output.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from deconv_jax.compilation import jit
from deconv_jax.data.degradations import (
    Chain,
    Degradation,
    GaussianNoise,
    LinearDegradation,
    linear_part,
    noise_sigma,
)
from deconv_jax.data.random_keys import RESTORATION_EVALUATION_SEED
from deconv_jax.errors import InputError, at_least
from deconv_jax.inference.tiling import Apply, min_tile, restore_tiled
from deconv_jax.metrics.protocol import EvaluationProtocol, mean_of_rows
from deconv_jax.models.receptive_field import ReceptiveField

Image = Float[np.ndarray, "height width channels"]
Restore = Callable[[Image], Image]
"""Function from a degraded image to a restored one."""

MAX_PROGRAMS = 8
"""Maximum number of image shapes for which whole images are compiled."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Degradation of the images of a test set, and measurement of the results.

    Attributes:
      degradation: Forward model with its noise.
      protocol: Color, border, rounding and clipping of the comparison.
      noise: "numpy" draws Gaussian noise with `numpy.random.RandomState(seed).normal`, restarted for
        every image, as the published scripts do; "jax" draws any noise from `jax.random.key(seed)`
        folded with the index of the image.
      seed: Seed of the noise.
      multiple: Divisor of image sizes; images are cropped at the bottom and right ("modcrop").

    Raises:
      InputError: `multiple` is below 1; or noise="numpy" and the degradation does not consist of linear
        steps, followed by Gaussian noise of one level or by none.
    """

    degradation: Degradation
    protocol: EvaluationProtocol
    noise: Literal["numpy", "jax"] = "numpy"
    seed: int = RESTORATION_EVALUATION_SEED
    multiple: int = 1

    def __post_init__(self) -> None:
        at_least("multiple", self.multiple, 1)
        if self.noise == "numpy":
            *before, last = _flatten(self.degradation) or [self.degradation]
            linear = before if isinstance(last, GaussianNoise) else [*before, last]
            if not all(isinstance(step, LinearDegradation) for step in linear):
                raise InputError(
                    "noise='numpy' requires linear degradations followed by Gaussian noise; use "
                    f"noise='jax' for {self.degradation}"
                )
            noise_sigma(self.degradation)  # Raises InputError for a range of levels.

    def crop(self, image: Image) -> Image:
        """Return the ground truth: the image cropped to multiples of `multiple`."""
        height, width = (n - n % self.multiple for n in image.shape[:2])
        return image[:height, :width]

    def degrade(self, clean: Image, index: int) -> Image:
        """Return the degraded image, float32, not clipped.

        Args:
          clean: Ground truth in [0, 1], already cropped.
          index: Index of the image in the test set, which only noise="jax" uses.
        """
        batch = jnp.asarray(clean)[None]
        if self.noise == "jax":
            key = jax.random.fold_in(jax.random.key(self.seed), index)
            return np.asarray(self.degradation(batch, key[None])[0])
        blurred = np.asarray(linear_part(self.degradation).forward(batch)[0])
        sigma = noise_sigma(self.degradation)
        if sigma is None:
            return blurred
        noise = np.random.RandomState(self.seed).normal(0.0, float(sigma), blurred.shape)
        return (blurred + noise).astype(np.float32)

    def describe(self) -> str:
        """Return a description of the protocol, for records of results."""
        parts = [self.degradation.describe()]
        if self.noise == "jax":
            parts.append(
                f"random numbers by jax.random, seed {self.seed} folded with the image's index"
            )
        elif noise_sigma(self.degradation) is not None:
            parts.append(
                f"Gaussian noise by numpy.random.RandomState({self.seed}), anew for each image"
            )
        if self.multiple > 1:
            parts.append(f"images cut to multiples of {self.multiple}")
        return "; ".join([*parts, self.protocol.describe()])

    def measure(self, restore: Restore, images: Iterable[tuple[str, Image]]) -> dict[str, Any]:
        """Degrade, restore and measure every image.

        Args:
          restore: Function from a degraded image to a restored one.
          images: Names and clean images in [0, 1].

        Returns:
          JSON-serializable dict with "images" (a row "name", "psnr", "ssim" per image), "mean" ("psnr" and
          "ssim"), "count" and "protocol" (`describe()`).

        Raises:
          InputError: There is no image, a restored image has another shape than the clean one, or an
            image without the border has a side below 11 pixels.
        """

        def pairs() -> Iterator[tuple[str, Image, Image]]:
            for index, (name, image) in enumerate(images):
                clean = self.crop(image)
                output = restore(self.degrade(clean, index))
                if output.shape != clean.shape:
                    raise InputError(
                        f"{name}: the restored image has shape {output.shape}, the ground truth "
                        f"{clean.shape}"
                    )
                yield name, output, clean

        rows = self.protocol.measure_all(pairs())
        mean = mean_of_rows(rows)
        return {"images": rows, "mean": mean, "count": len(rows), "protocol": self.describe()}


def _flatten(degradation: Degradation) -> list[Degradation]:
    """Return the steps of a chain, with nested chains expanded."""
    if not isinstance(degradation, Chain):
        return [degradation]
    return [step for part in degradation.steps for step in _flatten(part)]


def network_restorer(
    apply: Apply, field: ReceptiveField, sizes: Sequence[tuple[int, int]]
) -> Restore:
    """Return a network as a restorer that compiles few programs for a test set.

    With at most 8 (`MAX_PROGRAMS`) different sizes, images are restored whole. Otherwise all are
    restored in exact tiles as large as the smallest side among them, but at least `min_tile`, so that
    one program serves all images that are no smaller than a tile.

    Args:
      apply: Network on a batch of one image, compiled here.
      field: Receptive field of the network.
      sizes: Heights and widths of the degraded images.
    """
    compiled = jit(apply)
    tile = None
    if len(set(sizes)) > MAX_PROGRAMS:
        tile = max(min(min(size) for size in sizes), min_tile(field))
    return lambda image: restore_tiled(compiled, image, field, tile)
