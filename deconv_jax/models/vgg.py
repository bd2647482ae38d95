"""VGG-19 as a feature extractor of the perceptual loss of super-resolution, with weights of the user.

The features are the output of the last of the 16 convolutions, before its ReLU, as in ESRGAN (Wang et al.,
arXiv:1809.00219); SRGAN (arXiv:1609.04802) takes them after it. The network is that of Simonyan & Zisserman,
arXiv:1409.1556. The file of weights is that of torchvision, with the names "features.0.weight",
"features.0.bias", "features.2.weight", ..., and inputs are normalized as torchvision does.
"""

import functools
import hashlib
import os
from pathlib import Path
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.io import kind_of
from deconv_jax.models.extractors import Extractor, Tree
from deconv_jax.models.layers import RELU_GAIN, Conv
from deconv_jax.models.weight_files import check_tensors, read_tensors
from deconv_jax.ops.weight_layouts import layer_from_torch

VGG = "vgg19"
"""Name of the extractor."""
VGG_WEIGHTS_ENV = "DECONV_JAX_VGG"
"""Environment variable with the path of the weights."""

_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and number of convolutions of each block; max pooling lies between blocks."""
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MIN_SIDE = 2 ** (len(_BLOCKS) - 1)


class VGG19Features(nn.Module):
    """The convolutions of VGG-19, without the ReLU after the last one.

    Attributes:
      width: Number of channels of the first block, 64 in the paper; those of the others are proportional.
    """

    width: int = 64

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        """Return the feature map of gray or RGB images in [0, 1], at 1/16 of their size.

        Raises:
          InputError: The images have other than 1 or 3 channels, or a side below 16 pixels.
        """
        _, height, width, channels = images.shape
        if channels not in (1, 3) or min(height, width) < _MIN_SIDE:
            raise InputError(
                f"VGG-19 takes images with 1 or 3 channels of at least {_MIN_SIDE} x {_MIN_SIDE} pixels; "
                f"got shape {images.shape}"
            )
        x = jnp.broadcast_to(images, (*images.shape[:-1], 3))
        x = (x - jnp.asarray(_MEAN).reshape(1, 1, 1, 3)) / jnp.asarray(_DEVIATION).reshape(
            1, 1, 1, 3
        )
        last = len(_BLOCKS) - 1
        for block, (features, count) in enumerate(_BLOCKS):
            if block:
                x = ops.max_pool(x, 2)
            for i in range(count):
                name = f"conv{block + 1}_{i + 1}"
                x = Conv(features * self.width // 64, kernel_size=3, gain=RELU_GAIN, name=name)(x)
                if (block, i) != (last, count - 1):
                    x = jax.nn.relu(x)
        return x


def load_vgg(path: Path, width: int = 64) -> tuple[VGG19Features, Tree]:
    """Return VGG-19 and its variables from a file of weights.

    Args:
      path: A .pth file, which requires PyTorch, or a .safetensors file with the same names. Tensors of the
        classifier, "classifier.0.weight" and so on, are ignored.
      width: Number of channels of the first block.

    Raises:
      InputError: The file does not exist, cannot be read, or does not contain these convolutions.
    """
    if kind_of(path) is None:
        raise InputError(
            f"no weights of VGG-19 at {path}: give the path of torchvision's vgg19-dcbb9e9d.pth"
        )
    tensors, _ = read_tensors(path)
    tensors = {k: v for k, v in tensors.items() if not k.startswith("classifier.")}
    shapes: dict[str, tuple[int, ...]] = {}
    names, inputs, position = {}, 3, 0
    for block, (features, count) in enumerate(_BLOCKS):
        for i in range(count):
            outputs = features * width // 64
            shapes[f"features.{position}.weight"] = (outputs, inputs, 3, 3)
            shapes[f"features.{position}.bias"] = (outputs,)
            names[f"conv{block + 1}_{i + 1}"] = f"features.{position}"
            inputs, position = outputs, position + 2
        position += 1
    try:
        check_tensors(tensors, shapes)
    except InputError as error:
        raise InputError(f"{path} does not contain the convolutions of VGG-19: {error}") from error
    params = {
        name: layer_from_torch({key: tensors[f"{there}.{key}"] for key in ("weight", "bias")})
        for name, there in names.items()
    }
    return VGG19Features(width), {"params": jax.tree.map(np.asarray, params)}


@functools.cache
def load_vgg_extractor(name: str = VGG) -> Extractor:
    """Return VGG-19 as an extractor whose features are the flattened feature map; the result is cached.

    Raises:
      InputError: $DECONV_JAX_VGG names no file with the weights of VGG-19.
    """
    path = Path(os.environ.get(VGG_WEIGHTS_ENV, f"${VGG_WEIGHTS_ENV}"))
    try:
        module, variables = load_vgg(path)
    except InputError as error:
        raise InputError(f"${VGG_WEIGHTS_ENV}: {error}") from error

    def apply(variables: Tree, images: Array) -> tuple[Array, Array]:
        maps = cast(Array, module.apply(variables, images))
        return maps.reshape(len(images), -1), jnp.zeros((len(images), 0, 0))

    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    description = f"VGG-19, last convolution before its ReLU, weights of SHA-256 {digest}..."
    return Extractor(name, description, variables, apply, lambda images: images)
