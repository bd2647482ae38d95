"""Classical methods as restorers of images: they invert a known blur or remove noise.

A `ClassicalRestorer` describes the degradation of a photograph (the blur kernel, the noise level, the
boundary) as a forward model and calls a method of `deconv_jax.classical`.

Note: The image is a single inverse problem and is not tiled, so memory grows with the image, by 40 to
120 bytes per sample. An image that does not fit the free memory is refused before work starts.
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
from deconv_jax.classical import METHODS, LatentGenerator
from deconv_jax.classical.problem import UnknownNoise
from deconv_jax.compilation import jit
from deconv_jax.data.degradations import Blur, Chain, GaussianNoise, Mask
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.inference.memory import free_memory, working_bytes
from deconv_jax.inference.progress import ProgressCallback
from deconv_jax.inference.restoration.learned_restorer import Pixels
from deconv_jax.inference.restoration.pnp_denoiser import PnpDenoiser
from deconv_jax.inference.restoration.wrapping import Wrap, crop, extend
from deconv_jax.inference.tiling import PROBE_TILE

MEMORY_CHECK_MIN_SAMPLES = 2**22
"""Minimum number of samples (pixels times channels) of an image whose memory use is checked in advance."""
_TRANSFORM_BYTES = 24
"""Bytes per sample of Fourier transforms on a CPU that XLA does not report, measured."""

Boundary = Literal["unknown", "circular", "reflect", "zeros"]
"""Scene beyond the border of an image: unknown, or as in `degradations.Boundary`."""
_WRAP_MARGIN = 64
"""Pixels by which a periodic image is extended, beside twice the size of the kernel."""
WITHOUT_KERNEL = ("tv", "wavelet", "generative_prior")
"""Methods that work without a blur kernel."""
FILLING = (*WITHOUT_KERNEL, "plug_and_play")
"""Methods that fill missing pixels, also without a blur kernel."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClassicalRestorer:
    """A method of `deconv_jax.classical` applied to whole images in float32.

    Attributes:
      method: Key of `METHODS`.
      kernel: Blur kernel (height, width) with sum 1 and center at index `size // 2`; None for images
        without blur, for the methods in `WITHOUT_KERNEL`, and with a mask for those in `FILLING`.
      noise_sigma: Standard deviation of the image's noise, in units of 1/255; None if unknown.
      boundary: Scene beyond the border. "unknown" suits photographs, whose scene continues beyond the
        frame: the scene just outside the frame, which the blur mixed in, is restored too and then
        cropped.
      options: Keyword arguments of the method, other than its denoiser and generator.
      denoiser: Denoiser of the method "plug_and_play", as from `make_pnp_denoiser`; None for others.
      generator: Generator of the method "generative_prior", as from `make_latent_generator`, which determines
        the size of the images; None for others.
      mask: 0 for missing pixels and 1 for known ones (height, width), for images of this size and the methods in
        `FILLING`; None if all are known.
      wrap: Axes along which images are periodic. With "xy" and a kernel, the boundary is "circular", and the
        result is exactly periodic. Otherwise images are extended by 64 pixels and twice the kernel's size;
        the result then depends on the border of that extension, as little as the method is local. A mask and a
        generator require "none".

    Raises:
      InputError: The method, the boundary or an option is unknown; an option has the wrong type or
        value; the noise level is not positive, or is None and required; the kernel, the
        denoiser or the generator is missing, or one is given to a method that takes none; the method does not
        fill missing pixels; or the boundary of a blur is unknown and there is a generator.
    """

    method: str
    kernel: Float[np.ndarray, "height width"] | None
    noise_sigma: float | None = None
    boundary: Boundary = "unknown"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    denoiser: PnpDenoiser | None = None
    generator: LatentGenerator | None = None
    mask: Float[np.ndarray, "height width"] | None = None
    wrap: Wrap = "none"
    _bytes_per_sample: dict[int, float] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"no method {self.method!r}; {did_you_mean(self.method, METHODS)}")
        if self.boundary not in get_args(Boundary):
            raise InputError(
                f"no boundary {self.boundary!r}; {did_you_mean(self.boundary, get_args(Boundary))}"
            )
        if self.wrap != "none" and (self.mask is not None or self.generator is not None):
            raise InputError(f"a mask or a generator requires wrap='none'; got {self.wrap!r}")
        if self._is_circular and self.boundary not in ("unknown", "circular"):
            raise InputError(
                f"wrap='xy' requires the boundary 'circular', which is then the default; got {self.boundary!r}"
            )
        if self.noise_sigma is not None and not 0 < self.noise_sigma < np.inf:
            raise InputError(f"noise-sigma must be a positive number; got {self.noise_sigma:g}")
        if self.mask is not None and self.method not in FILLING:
            raise InputError(
                f"{self.method} does not fill missing pixels; methods that do are {', '.join(FILLING)}"
            )
        without = WITHOUT_KERNEL if self.mask is None else FILLING
        if self.kernel is None and self.method not in without:
            raise InputError(
                f"{self.method} requires a blur kernel; only {', '.join(without)} work without"
            )
        self._check_arguments()
        if self.generator is not None and self.kernel is not None and self.boundary == "unknown":
            raise InputError(
                f"{self.method} with a kernel requires a boundary other than unknown, because the generator makes "
                "no pixels beyond the frame"
            )
        # Tracing on a small image raises the method's own errors without computing anything.
        side = 2 * max(self._kernel_size) + 1
        shape = (side, side, 1) if self.generator is None else self._generated_shape
        try:
            jax.eval_shape(self._restore, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
        except UnknownNoise as error:
            needed = str(error).partition(",")[0]
            raise InputError(
                f"{needed}, or noise-sigma, the standard deviation of the noise in units of 1/255"
            ) from None

    @property
    def scale(self) -> int:
        """Upscaling factor, always 1."""
        return 1

    def __call__(
        self,
        pixels: Pixels,
        progress: ProgressCallback,
        jpeg_table: Float[np.ndarray, "8 8"] | None = None,
    ) -> Pixels:
        """Return the restored image, of the same size, not clipped.

        Args:
          pixels: Image in [0, 1] of any number of channels.
          progress: Callbacks; the progress is reported once, at the end.
          jpeg_table: Not used.

        Raises:
          InputError: The output is not finite, the kernel is larger than the image, the image does not have the
            size of the mask or the shape of the generator's images, or an image of at least 2^22 samples needs
            more memory than is free.
        """
        del jpeg_table
        kernel_size = self._kernel_size
        wrap: Wrap = "none" if self._is_circular else self.wrap
        margin = (_WRAP_MARGIN + 2 * kernel_size[0], _WRAP_MARGIN + 2 * kernel_size[1])
        pixels = extend(pixels, wrap, margin)
        size = pixels.shape[:2]
        if any(k > n for k, n in zip(kernel_size, size, strict=True)):
            raise InputError(
                f"the kernel must be no larger than the image, {size} pixels; got {kernel_size}"
            )
        if self.mask is not None and self.mask.shape != size:
            raise InputError(
                f"the mask must have the size of the image, {size} pixels; got {self.mask.shape}"
            )
        if self.generator is not None and pixels.shape != self._generated_shape:
            raise InputError(
                f"the generator makes images of shape {self._generated_shape}; got an image of shape "
                f"{pixels.shape}"
            )
        if pixels.size >= MEMORY_CHECK_MIN_SAMPLES:
            needed, free = self.needed_memory(pixels.shape), free_memory()
            if needed > free:
                raise InputError(
                    f"{self.method} needs {needed / 1e9:.1f} GB of memory for {size[0]} x {size[1]} "
                    f"pixels, but {free / 1e9:.1f} GB are free; restore a smaller image or a part "
                    "of this one"
                )
        restored = np.asarray(self._restore(jnp.asarray(pixels)[None])[0])
        if self._boundary == "unknown":
            start = [(k - 1) // 2 for k in kernel_size]
            restored = restored[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))]
        if not np.isfinite(restored).all():
            raise InputError(f"the output of {self.method} is not finite for this image")
        progress.on_progress(1.0)
        return crop(restored, wrap, margin)

    def needed_memory(self, shape: tuple[int, ...]) -> int:
        """Return an estimate of the bytes needed for an image of shape (height, width, channels).

        The estimate scales the memory of a small program, which is compiled once per number of channels.
        """
        height, width, channels = shape
        if channels not in self._bytes_per_sample:
            side = max(PROBE_TILE, *(2 * k for k in self._kernel_size))
            probe = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
            total = working_bytes(jit(self._restore).lower(probe).compile())
            self._bytes_per_sample[channels] = total / (side**2 * channels) + _TRANSFORM_BYTES
        return int(self._bytes_per_sample[channels] * height * width * channels)

    @property
    def _is_circular(self) -> bool:
        """Whether the blur itself is periodic, so that images need no extension."""
        return self.wrap == "xy" and self.kernel is not None

    @property
    def _boundary(self) -> Boundary:
        return "circular" if self._is_circular else self.boundary

    @property
    def _kernel_size(self) -> tuple[int, ...]:
        return (1, 1) if self.kernel is None else self.kernel.shape

    @property
    def _generated_shape(self) -> tuple[int, ...]:
        """Shape (height, width, channels) of the generator's images."""
        assert self.generator is not None
        latents = jnp.zeros((1, self.generator.latent_dim))
        labels = jnp.zeros(1, jnp.int32) if self.generator.num_classes else None
        return jax.eval_shape(self.generator.decode, latents, labels).shape[1:]

    def _restore(self, images: Array) -> Array:
        boundary = "valid" if self._boundary == "unknown" else self._boundary
        blurs = () if self.kernel is None else (Blur(self.kernel, boundary=boundary),)
        noises = () if self.noise_sigma is None else (GaussianNoise(self.noise_sigma),)
        masks: tuple[Mask, ...] = ()
        if self.mask is not None:
            # The small images that estimate the memory have another size; their mask is of no importance.
            masks = (Mask(np.resize(self.mask, images.shape[1:3])),)
            images = masks[0].forward(images)
        forward_model = Chain((*blurs, *masks, *noises))
        method: Any = METHODS[self.method]
        options = dict(self.options)
        if self.denoiser is not None:
            # The denoiser's recommended options assume its recommended splitting.
            recommended = {} if "splitting" in options else self.denoiser.options
            options = {"denoiser": self.denoiser.denoiser, **recommended, **options}
        if self.generator is not None:
            options["generator"] = self.generator
        return method(images, forward_model, **options)

    def _check_arguments(self) -> None:
        """Raise InputError for options that the method, or the command line, does not have."""
        function: Any = METHODS[self.method]
        hints = typing.get_type_hints(function)
        parameters = list(inspect.signature(function).parameters.values())[2:]
        for name, given in (("denoiser", self.denoiser), ("generator", self.generator)):
            takes = any(p.name == name for p in parameters)
            if takes != (given is not None):
                raise InputError(f"{self.method} {'requires a' if takes else 'takes no'} {name}")
        fields = [
            (p.name, hints[p.name], dataclasses.field(default=p.default))
            for p in parameters
            if p.name not in ("denoiser", "generator", "size") and not p.name.startswith("return_")
        ]
        options = dataclasses.make_dataclass(self.method, fields)
        schema.build(options, self.options, {}, f"options of {self.method}")
