"""A method without learning as a restorer of files: it undoes a known blur, or removes noise.

The methods are those of `deconv_jax.classical`, with what a person can say of a photograph: the blur
as a picture of it, the noise's level, and the method's own numbers. `plug_and_play` takes a denoiser
beside, see `denoiser.make_pnp_denoiser`. What a reader would get wrong: the whole image is one problem, which
does not fall into tiles, so these methods take memory by the image's size, 40 to 120 bytes a sample.
An image for which the memory does not suffice is refused before the work begins.
"""

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deconv_jax import schema
from deconv_jax.classical import METHODS
from deconv_jax.classical.problem import UnknownNoise
from deconv_jax.compilation import jit
from deconv_jax.data.degradations import Blur, Chain, GaussianNoise
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.inference.memory import free_memory, working_bytes
from deconv_jax.inference.restoration.learned_restorer import Pixels, ProgressCallback
from deconv_jax.inference.restoration.pnp_denoiser import PnpDenoiser
from deconv_jax.inference.tiling import PROBE_TILE

CHECKED_SAMPLES = 2**22
"""Samples of an image from which on the memory that a method takes is estimated beforehand."""
_TRANSFORM_BYTES = 24
"""Bytes a sample that Fourier transforms take on a CPU beside what XLA tells, measured."""

Boundary = Literal["unknown", "circular", "reflect", "zeros"]
"""What lies beyond the border of an image: anything, or as in `degradations.Boundary`."""
DENOISING = ("tv", "wavelet")
"""Methods that are of use where there is no blur."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClassicalRestorer:
    """A method of `deconv_jax.classical` on the whole image, in float32.

    Attributes:
      method: a key of `METHODS`.
      kernel: of the blur, (height, width), sum 1, centre at index `size // 2`; None where the image
        has noise alone, for the methods in `DENOISING`.
      noise_sigma: standard deviation of the image's noise in 8-bit levels, for methods that ask.
      boundary: what the blur took from beyond the picture's border, see `Boundary`. The default is
        for photographs, whose scene goes on beyond the frame: the pixels that the blur reaches there
        are restored along with the image, and cut off. "circular" is that of many test images.
      options: of the method, its keyword arguments.
      denoiser: for `plug_and_play`, see `denoiser.make_pnp_denoiser`.
    """

    method: str
    kernel: Float[np.ndarray, "height width"] | None
    noise_sigma: float | None = None
    boundary: Boundary = "unknown"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    denoiser: PnpDenoiser | None = None
    _sample_bytes: dict[int, float] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"no method {self.method!r}; {did_you_mean(self.method, METHODS)}")
        if self.boundary not in get_args(Boundary):
            raise InputError(
                f"no boundary {self.boundary!r}; {did_you_mean(self.boundary, get_args(Boundary))}"
            )
        if self.noise_sigma is not None and not 0 < self.noise_sigma < np.inf:
            raise InputError(f"noise-sigma must be a positive number; got {self.noise_sigma:g}")
        if self.kernel is None and self.method not in DENOISING:
            raise InputError(
                f"{self.method} needs the kernel of a blur; without one {' and '.join(DENOISING)} "
                "remove noise"
            )
        self._check_arguments()
        # What the method will not take is refused here, without computing anything.
        side = 2 * max(self._psf_size) + 1
        try:
            jax.eval_shape(self._method, jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32))
        except UnknownNoise as error:
            needed = str(error).partition(",")[0]
            raise InputError(
                f"{needed}, or noise-sigma, the standard deviation of the noise in levels of 255"
            ) from None

    @property
    def scale(self) -> int:
        """1."""
        return 1

    def __call__(self, pixels: Pixels, progress: ProgressCallback) -> Pixels:
        """The restored image.

        Raises:
          InputError: it is not finite, the kernel is larger than the image, or the method takes more
            memory than is free, see `needed_memory`.
        """
        size, psf_size = pixels.shape[:2], self._psf_size
        if any(k > n for k, n in zip(psf_size, size, strict=True)):
            raise InputError(
                f"the kernel must be no larger than the image, {size} pixels; got {psf_size}"
            )
        if pixels.size >= CHECKED_SAMPLES:
            needed, free = self.needed_memory(pixels.shape), free_memory()
            if needed > free:
                raise InputError(
                    f"{self.method} restores an image as a whole and needs {needed / 1e9:.1f} GB of "
                    f"memory for {size[0]} x {size[1]} pixels; {free / 1e9:.1f} GB are free; restore "
                    "parts of the image, or one of fewer pixels"
                )
        restored = np.asarray(self._method(jnp.asarray(pixels)[None])[0])
        if self.boundary == "unknown":
            start = [(k - 1) // 2 for k in psf_size]
            restored = restored[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))]
        if not np.isfinite(restored).all():
            raise InputError(f"the output of {self.method} is not finite for this image")
        progress.on_progress(1.0)
        return restored

    def needed_memory(self, shape: tuple[int, ...]) -> int:
        """About the bytes that an image of `shape`, (height, width, channels), takes, by a small one."""
        height, width, channels = shape
        if channels not in self._sample_bytes:
            side = max(PROBE_TILE, *(2 * k for k in self._psf_size))
            probe = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
            bytes_ = working_bytes(jit(self._method).lower(probe).compile())
            self._sample_bytes[channels] = bytes_ / (side**2 * channels) + _TRANSFORM_BYTES
        return int(self._sample_bytes[channels] * height * width * channels)

    @property
    def _psf_size(self) -> tuple[int, ...]:
        return (1, 1) if self.kernel is None else self.kernel.shape

    def _method(self, images: Array) -> Array:
        boundary = "valid" if self.boundary == "unknown" else self.boundary
        blurs = () if self.kernel is None else (Blur(self.kernel, boundary=boundary),)
        noises = () if self.noise_sigma is None else (GaussianNoise(self.noise_sigma),)
        model = Chain((*blurs, *noises))
        method: Any = METHODS[self.method]
        options = dict(self.options)
        if self.denoiser is not None:
            # Another splitting wants none of what suits this one.
            suited = {} if "splitting" in options else self.denoiser.options
            options = {"denoiser": self.denoiser.denoiser, **suited, **options}
        return method(images, model, **options)

    def _check_arguments(self) -> None:
        """Raises InputError for keyword arguments that the method, or a person, does not have."""
        function: Any = METHODS[self.method]
        hints = typing.get_type_hints(function)
        parameters = list(inspect.signature(function).parameters.values())[2:]
        asks = any(p.name == "denoiser" for p in parameters)
        if asks != (self.denoiser is not None):
            raise InputError(f"{self.method} {'needs a' if asks else 'takes no'} denoiser")
        fields = [
            (p.name, hints[p.name], dataclasses.field(default=p.default))
            for p in parameters
            if p.name not in ("denoiser", "size") and not p.name.startswith("return_")
        ]
        options = dataclasses.make_dataclass(self.method, fields)
        schema.build(options, self.options, {}, f"options of {self.method}")
