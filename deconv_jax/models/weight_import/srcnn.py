"""Published weights of SRCNN, whose scale they do not determine.

The published networks take the bicubically enlarged image; the module enlarges the image itself.
"""

from deconv_jax.errors import InputError
from deconv_jax.models.srcnn import SRCNN
from deconv_jax.models.weight_files import Tensors
from deconv_jax.models.weight_import.architecture import (
    Architecture,
    Hints,
    LayerPaths,
    Recognized,
    has_names,
    kernel_shape,
    rename,
)

_LORNATANG = (
    (r"features\.0\b", "conv1"),
    (r"map\.0\b", "conv2"),
    (r"reconstruction\b", "conv3"),
)


def _recognize(tensors: Tensors, hints: Hints) -> Recognized | None:
    tensors = rename(tensors, *_LORNATANG)
    if "conv3.weight" not in tensors or not has_names(tensors, r"conv[123]\.(weight|bias)"):
        return None
    first, channels, size_1, _ = kernel_shape(tensors, "conv1.weight")
    second, _, size_2, _ = kernel_shape(tensors, "conv2.weight")
    outputs, _, size_3, _ = kernel_shape(tensors, "conv3.weight")
    if outputs != channels:
        return None
    if hints.scale is None:
        raise InputError("the weights of an SRCNN do not determine its scale: give scale")
    module = SRCNN(hints.scale, channels, (first, second), (size_1, size_2, size_3))
    return Recognized(module, tensors)


def _layers(module: SRCNN) -> LayerPaths:
    del module
    return {f"conv{i + 1}": (f"Conv_{i}",) for i in range(3)}


SRCNN_ = Architecture(
    name="SRCNN",
    module=SRCNN,
    namings=(
        "conv1.weight, conv2.weight, conv3.weight",
        "features.0.weight, map.0.weight, reconstruction.weight",
    ),
    recognize=_recognize,
    layers=_layers,
)
