"""The InceptionV3 of the Fréchet Inception Distance (FID), and its two image resizers.

The network is that of Szegedy et al., arXiv:1512.00567, in the TensorFlow graph of 2015-12-05,
which Heusel et al., arXiv:1706.08500, use to define FID. Layers and published weights have the
names of torchvision's InceptionV3.

Note: The network differs from torchvision's. Average pooling excludes the padding, the last block
uses max pooling, and there are 1008 classes. The input is (x - 128) / 128 for gray levels x, so
that white is 127 / 128. pytorch-fid, which published the weights for PyTorch, maps white to 1
instead.

Note: FID depends on how images are resized to 299x299 pixels (Parmar et al., arXiv:2104.11222). The
original resizer aliases. Only values obtained with the same resizer are comparable.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import kind_of
from deconv_jax.models.layers import RELU_GAIN, Conv
from deconv_jax.models.weight_files import Tensors, check_tensors, read_tensors
from deconv_jax.ops.conv.window import IntOrPerAxis, Padding
from deconv_jax.ops.weight_layouts import layer_from_torch

SIZE = 299
"""Height and width of the network's input, in pixels."""

CLASSES = 1008
"""Number of logits of the network."""

WEIGHTS_FILENAME = "pt_inception-2015-12-05-6726825d.pth"
"""Name of the file of weights in the releases of pytorch-fid."""

InceptionResize = Literal["legacy", "clean"]
"""Image resizer, see `resize_for_inception`."""

_BATCH_NORM_EPSILON = 1e-3
_CONV_TENSORS = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
_DENSE_TENSORS = ("weight", "bias")


class _Conv(NamedTuple):
    """Arguments of a `layers.Conv` with folded normalization, which is followed by a ReLU."""

    features: int
    kernel_size: IntOrPerAxis
    stride: int = 1
    padding: Padding = "SAME"


_Pool = Callable[[Array], Array]
_Fork = list[_Conv]
"""Parallel convolutions of the same input; their outputs are concatenated."""

_Step = _Pool | _Conv | _Fork
_Block = dict[str, Sequence[_Step]]
"""Branches by name; their outputs are concatenated in this order."""

_halve: _Pool = functools.partial(ops.max_pool, window=3, stride=2)
_mean: _Pool = functools.partial(
    ops.avg_pool, window=3, stride=1, padding="SAME", count_include_pad=False
)
_max: _Pool = functools.partial(ops.max_pool, window=3, stride=1, padding="SAME")

_STEM: dict[str, _Step] = {
    "Conv2d_1a_3x3": _Conv(32, 3, 2, "VALID"),
    "Conv2d_2a_3x3": _Conv(32, 3, 1, "VALID"),
    "Conv2d_2b_3x3": _Conv(64, 3),
    "maxpool1": _halve,
    "Conv2d_3b_1x1": _Conv(80, 1),
    "Conv2d_4a_3x3": _Conv(192, 3, 1, "VALID"),
    "maxpool2": _halve,
}


def _block_35(pooled: int) -> _Block:
    """Return a block at 35x35 pixels (figure 5 of the paper, with an unfactorized 5x5 convolution)."""
    return {
        "branch1x1": [_Conv(64, 1)],
        "branch5x5": [_Conv(48, 1), _Conv(64, 5)],
        "branch3x3dbl": [_Conv(64, 1), _Conv(96, 3), _Conv(96, 3)],
        "branch_pool": [_mean, _Conv(pooled, 1)],
    }


def _block_17(inner: int) -> _Block:
    """Return a block at 17x17 pixels (figure 6)."""
    across, down = _Conv(inner, (1, 7)), _Conv(inner, (7, 1))
    last_across, last_down = _Conv(192, (1, 7)), _Conv(192, (7, 1))
    return {
        "branch1x1": [_Conv(192, 1)],
        "branch7x7": [_Conv(inner, 1), across, last_down],
        "branch7x7dbl": [_Conv(inner, 1), down, across, down, last_across],
        "branch_pool": [_mean, _Conv(192, 1)],
    }


def _block_8(pool: _Pool) -> _Block:
    """Return a block at 8x8 pixels (figure 7)."""
    fork = [_Conv(384, (1, 3)), _Conv(384, (3, 1))]
    return {
        "branch1x1": [_Conv(320, 1)],
        "branch3x3": [_Conv(384, 1), fork],
        "branch3x3dbl": [_Conv(448, 1), _Conv(384, 3), fork],
        "branch_pool": [pool, _Conv(192, 1)],
    }


_BLOCKS: dict[str, _Block] = {
    "Mixed_5b": _block_35(32),
    "Mixed_5c": _block_35(64),
    "Mixed_5d": _block_35(64),
    "Mixed_6a": {
        "branch3x3": [_Conv(384, 3, 2, "VALID")],
        "branch3x3dbl": [_Conv(64, 1), _Conv(96, 3), _Conv(96, 3, 2, "VALID")],
        "branch_pool": [_halve],
    },
    "Mixed_6b": _block_17(128),
    "Mixed_6c": _block_17(160),
    "Mixed_6d": _block_17(160),
    "Mixed_6e": _block_17(192),
    "Mixed_7a": {
        "branch3x3": [_Conv(192, 1), _Conv(320, 3, 2, "VALID")],
        "branch7x7x3": [
            _Conv(192, 1),
            _Conv(192, (1, 7)),
            _Conv(192, (7, 1)),
            _Conv(192, 3, 2, "VALID"),
        ],
        "branch_pool": [_halve],
    },
    "Mixed_7b": _block_8(_mean),
    "Mixed_7c": _block_8(_max),
}


class InceptionV3(nn.Module):
    """InceptionV3 for inference only, with batch normalization folded into the convolutions."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> tuple[Float[Array, "batch 2048"], Float[Array, "batch 1008"]]:
        """Return the features for FID and the logits of the classes.

        Args:
          images: RGB images in [0, 1] of 299x299 pixels, see `resize_for_inception`.

        Raises:
          InputError: The images have another shape.
        """
        if images.shape[1:] != (SIZE, SIZE, 3):
            raise InputError(
                f"InceptionV3 takes images of shape (batch, {SIZE}, {SIZE}, 3), as returned by "
                f"resize_for_inception; got {images.shape}"
            )
        x = (255 * images - 128) / 128
        # FID should not depend on the device, so float32 products use full precision (no TF32).
        with jax.default_matmul_precision("highest"):
            for name, step in _STEM.items():
                x = _branch(x, name, [step])
            for block, branches in _BLOCKS.items():
                outputs = [_branch(x, f"{block}.{name}", steps) for name, steps in branches.items()]
                x = jnp.concatenate(outputs, axis=-1)
            features = ops.global_avg_pool(x)
            return features, nn.Dense(CLASSES, name="fc")(features)


def _branch(x: Array, name: str, steps: Sequence[_Step]) -> Array:
    """Apply the steps in sequence; several convolutions are numbered in their names."""
    convs = sum(not callable(step) for step in steps)
    names = iter([name] if convs == 1 else [f"{name}_{i + 1}" for i in range(convs)])
    for step in steps:
        x = step(x) if callable(step) else _conv_relu(x, next(names), step)
    return x


def _conv_relu(x: Array, name: str, conv: _Conv | _Fork) -> Array:
    if isinstance(conv, _Conv):
        return jax.nn.relu(Conv(*conv, gain=RELU_GAIN, name=name)(x))
    sides = [_conv_relu(x, name + letter, side) for letter, side in zip("ab", conv, strict=True)]
    return jnp.concatenate(sides, axis=-1)


def resize_for_inception(
    images: Float[Array, "batch height width channels"], how: InceptionResize
) -> Float[Array, "batch 299 299 3"]:
    """Resize images for `InceptionV3`, in float32.

    Args:
      images: Gray or RGB images in [0, 1]; gray ones are repeated to three channels.
      how: "legacy" is the resizer of the original FID: TensorFlow 1's bilinear interpolation, which
        aliases and samples output pixel i at position i * old / new (no half-pixel centers).
        "clean" (arXiv:2104.11222) is Pillow's antialiased bicubic interpolation in floats, clipped
        to [0, 1].

    Raises:
      InputError: Unknown `how`, or images with other than 1 or 3 channels.
    """
    if images.shape[-1] not in (1, 3):
        raise InputError(f"InceptionV3 takes images with 1 or 3 channels; got shape {images.shape}")
    x = images.astype(jnp.float32)
    if how == "legacy":
        x = _resize_legacy(_resize_legacy(x, axis=2), axis=1)
    elif how == "clean":
        x = jnp.clip(ops.resize(x, (SIZE, SIZE), method="bicubic", antialias=True), 0, 1)
    else:
        raise InputError(f"no resizing {how!r}; {did_you_mean(how, get_args(InceptionResize))}")
    return jnp.broadcast_to(x, (*x.shape[:-1], 3))


def _resize_legacy(x: Array, axis: int) -> Array:
    """Resize an axis to `SIZE` as TensorFlow 1 does, including its float32 arithmetic."""
    old = x.shape[axis]
    positions = np.arange(SIZE, dtype=np.float32) * np.float32(old / SIZE)
    before = positions.astype(np.int32)
    after = np.minimum(before + 1, old - 1)
    weights = (positions - before).astype(np.float32)
    weights = np.expand_dims(weights, [other for other in range(x.ndim) if other != axis])
    first, second = jnp.take(x, before, axis), jnp.take(x, after, axis)
    return first + (second - first) * weights


def load_inception(path: str | Path) -> tuple[InceptionV3, dict[str, Any]]:
    """Load the network and its variables from the published weights.

    Args:
      path: A `.pth` file, which requires PyTorch, or a `.safetensors` file with the same names:
        "Conv2d_1a_3x3.conv.weight", "Conv2d_1a_3x3.bn.weight", ..., "fc.bias". The auxiliary
        classifier "AuxLogits" is ignored.

    Returns:
      The module and {"params": ...} in float32, with batch normalization folded into the
      convolutions.

    Raises:
      InputError: The file does not exist, `weight_files.read_tensors` cannot read it, or its
        tensors do not match the network.
    """
    path = Path(path)
    if kind_of(path) is None:
        raise InputError(
            f"no weights of InceptionV3 at {path}: give the path of {WEIGHTS_FILENAME}, from the "
            'release "fid_weights" of mseitzer/pytorch-fid on GitHub'
        )
    tensors, _ = read_tensors(path)
    tensors = {
        name: value
        for name, value in tensors.items()
        if not name.startswith("AuxLogits.") and not name.endswith(".num_batches_tracked")
    }
    try:
        check_tensors(tensors, _published_shapes())
    except InputError as error:
        raise InputError(f"{path} does not contain the InceptionV3 of FID: {error}") from error
    params = {name: _fold(tensors, name) for name in _kernel_shapes() if name != "fc"}
    fc = {"kernel": jnp.asarray(tensors["fc.weight"].T), "bias": jnp.asarray(tensors["fc.bias"])}
    return InceptionV3(), {"params": params | {"fc": fc}}


@functools.cache
def _kernel_shapes() -> Mapping[str, tuple[int, ...]]:
    """Return the shape of each layer's kernel, by the layer's name."""
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    params = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)["params"]
    return {name: layer["kernel"].shape for name, layer in params.items()}


def _published_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a file of weights."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (*size, inputs, outputs) in _kernel_shapes().items():
        kernel, *vectors = _DENSE_TENSORS if name == "fc" else _CONV_TENSORS
        shapes[f"{name}.{kernel}"] = (outputs, inputs, *size)
        shapes |= {f"{name}.{vector}": (outputs,) for vector in vectors}
    return shapes


def _fold(tensors: Tensors, name: str) -> dict[str, Array]:
    """Return the parameters of a convolution with its batch normalization folded in."""
    weight, gain, bias, mean, variance = (tensors[f"{name}.{kind}"] for kind in _CONV_TENSORS)
    scale = gain / np.sqrt(variance + _BATCH_NORM_EPSILON)
    return layer_from_torch(
        {"weight": weight * scale[:, None, None, None], "bias": bias - mean * scale}
    )
