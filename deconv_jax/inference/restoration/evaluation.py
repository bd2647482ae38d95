"""The field's way to measure a restorer: full-size images, one at a time, under a stated protocol.

An `Evaluation` is a value: what the images went through, whose random numbers the noise is made of,
and how outputs are compared with the truth. Figures of two methods can be compared if they come
from the same one. What a reader would get wrong: published denoising figures take the noise from a
generator that is started anew for each image, leave the noisy image unclipped, and round the output.
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
    Linear,
    linear_part,
    noise_sigma,
)
from deconv_jax.errors import InputError, at_least
from deconv_jax.inference.tiling import Apply, min_tile, restore_tiled
from deconv_jax.metrics.protocol import EvaluationProtocol, mean_of_rows
from deconv_jax.models.receptive_field import ReceptiveField

Image = Float[np.ndarray, "height width channels"]
Restore = Callable[[Image], Image]
"""A degraded image to a restored one."""

MAX_PROGRAMS = 8
"""Shapes of whole images in a set up to which each has a program of its own."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is done to the images of a set, and how results are measured.

    Attributes:
      degradation: the forward model and its noise.
      protocol: colour, border, rounding and clipping of the comparison.
      noise: "numpy" draws Gaussian noise by `numpy.random.RandomState(seed).normal`, started anew
        for every image, as the field's scripts do; "jax" draws any noise from `jax.random.key(seed)`
        folded with the image's place.
      seed: of the noise.
      multiple: images are first cut at the bottom and right to multiples of it ("modcrop").
    """

    degradation: Degradation
    protocol: EvaluationProtocol
    noise: Literal["numpy", "jax"] = "numpy"
    seed: int = 0
    multiple: int = 1

    def __post_init__(self) -> None:
        at_least("multiple", self.multiple, 1)
        if self.noise == "numpy":
            *before, last = _steps(self.degradation) or [self.degradation]
            linear = before if isinstance(last, GaussianNoise) else [*before, last]
            if not all(isinstance(step, Linear) for step in linear):
                raise InputError(
                    "noise='numpy' is for linear degradations and Gaussian noise at their end; for "
                    f"{self.degradation} give noise='jax'"
                )
            noise_sigma(self.degradation)  # Refuses a range of levels.

    def crop(self, image: Image) -> Image:
        """The image that is degraded, and compared with."""
        height, width = (n - n % self.multiple for n in image.shape[:2])
        return image[:height, :width]

    def degrade(self, clean: Image, place: int) -> Image:
        """What a restorer is given, float32, not clipped."""
        batch = jnp.asarray(clean)[None]
        if self.noise == "jax":
            key = jax.random.fold_in(jax.random.key(self.seed), place)
            return np.asarray(self.degradation(batch, key[None])[0])
        blurred = np.asarray(linear_part(self.degradation).forward(batch)[0])
        sigma = noise_sigma(self.degradation)
        if sigma is None:
            return blurred
        noise = np.random.RandomState(self.seed).normal(0.0, float(sigma), blurred.shape)
        return (blurred + noise).astype(np.float32)

    def describe(self) -> str:
        """The protocol in words, for a result."""
        parts = [self.degradation.describe()]
        if self.noise == "jax":
            parts.append(
                f"random numbers by jax.random, seed {self.seed} folded with the image's place"
            )
        elif noise_sigma(self.degradation) is not None:
            parts.append(
                f"Gaussian noise by numpy.random.RandomState({self.seed}), anew for each image"
            )
        if self.multiple > 1:
            parts.append(f"images cut to multiples of {self.multiple}")
        return "; ".join([*parts, self.protocol.describe()])

    def measure(self, restore: Restore, images: Iterable[tuple[str, Image]]) -> dict[str, Any]:
        """Degrades, restores and measures every image.

        Args:
          restore: a degraded image to a restored one.
          images: names and clean images in [0, 1].

        Returns:
          {"images": a row each, "mean": {measure: value}, "count": n, "protocol": words}; JSON-able.

        Raises:
          InputError: no image, or a restored image of another shape than the clean one.
        """

        def pairs() -> Iterator[tuple[str, Image, Image]]:
            for place, (name, image) in enumerate(images):
                clean = self.crop(image)
                output = restore(self.degrade(clean, place))
                if output.shape != clean.shape:
                    raise InputError(f"{name}: restored to {output.shape}; wanted {clean.shape}")
                yield name, output, clean

        rows = self.protocol.measure_all(pairs())
        mean = mean_of_rows(rows)
        return {"images": rows, "mean": mean, "count": len(rows), "protocol": self.describe()}


def _steps(degradation: Degradation) -> list[Degradation]:
    """The steps of a chain, and of the chains in it."""
    if not isinstance(degradation, Chain):
        return [degradation]
    return [step for part in degradation.steps for step in _steps(part)]


def network_restorer(
    apply: Apply, field: ReceptiveField, sizes: Sequence[tuple[int, int]]
) -> Restore:
    """A network as a restorer of images of these sizes, by at most `MAX_PROGRAMS` programs.

    Images of up to so many different sizes are restored whole. Of more, all are restored by exact
    tiles as large as the smallest side among them, so that one program serves for all; only images
    smaller than a tile can have programs of their own then.

    Args:
      apply: the network on a batch of one image; compiled here.
      field: what it sees.
      sizes: heights and widths of the degraded images.
    """
    compiled = jit(apply)
    tile = None
    if len(set(sizes)) > MAX_PROGRAMS:
        tile = max(min(min(size) for size in sizes), min_tile(field))
    return lambda image: restore_tiled(compiled, image, field, tile)
