"""Protocols for the model attributes that tasks and inference rely on.

A task takes any `flax.linen.Module` and checks at construction that it is of the right class. These
protocols tell a type checker which attributes such a module has:

    HasChannels        `channels`
    HasScale           `scale`
    HasMultiple        `multiple`
    HasNumClasses      `num_classes`
    HasOutputStride    `output_stride`
    HasLatentDim       `latent_dim`
    HasImageShape      `image_shape`
    HasReceptiveField  `receptive_field()`
    RestorationModel   `channels`, `scale` and `receptive_field()`
    CodecModel         `channels`, `multiple` and `levels`
    GeneratorModel     `latent_dim`, `image_shape` and `num_classes`

Use `typing.cast` to give a module the type of a protocol:

    model = typing.cast(HasScale, self.model)
"""

from typing import Protocol

from deconv_jax.models.receptive_field import ReceptiveField


class HasChannels(Protocol):
    """A model of images with a fixed number of channels."""

    @property
    def channels(self) -> int:
        """Number of image channels, without any conditioning maps."""


class HasScale(Protocol):
    """A model whose output is an integer factor larger than its input."""

    @property
    def scale(self) -> int:
        """Output height over input height; 1 if the size is kept."""


class HasMultiple(Protocol):
    """A model that accepts only images whose sides are multiples of some number."""

    @property
    def multiple(self) -> int:
        """Required divisor of the image's height and width."""


class HasNumClasses(Protocol):
    """A model of images or objects that belong to one of several classes."""

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for an unconditional generator or discriminator."""


class HasOutputStride(Protocol):
    """A model whose output is a map at lower resolution than its input."""

    @property
    def output_stride(self) -> int:
        """Input height over output height."""


class HasLatentDim(Protocol):
    """A model with latent vectors of fixed length."""

    @property
    def latent_dim(self) -> int:
        """Length of a latent vector."""


class HasImageShape(Protocol):
    """A model of images of a fixed shape."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (height, width, channels) of the images."""


class HasReceptiveField(Protocol):
    """A model whose output pixels depend on a bounded window of the input."""

    def receptive_field(self) -> ReceptiveField:
        """Return the receptive field of an output pixel.

        Raises:
          InputError: An attribute of the model is out of range, or the field is unbounded.
        """


class RestorationModel(HasChannels, HasScale, HasReceptiveField, Protocol):
    """A restoration network: maps degraded images to restored ones."""


class CodecModel(HasChannels, HasMultiple, Protocol):
    """An image codec with one or more quality levels."""

    @property
    def levels(self) -> int:
        """Number of quality levels."""


class GeneratorModel(HasLatentDim, HasImageShape, HasNumClasses, Protocol):
    """A generator of images from latent vectors."""
