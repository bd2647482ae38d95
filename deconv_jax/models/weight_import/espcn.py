"""Published weights of ESPCN.

first_part.0    first_part.2    last_part.0  J. Yeo; tanh
feature_maps.0  feature_maps.2  sub_pixel.0  Lornatang; tanh
conv1           conv2           conv4        PyTorch's examples: three hidden layers, ReLU
"""

import math

from deconv_jax.errors import InputError
from deconv_jax.models.espcn import ESPCN
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


def _recognize(tensors: Tensors, hints: Hints) -> Recognized | None:
    del hints
    tensors = rename(
        tensors, (r"feature_maps\.(\d+)", r"first_part.\1"), (r"sub_pixel\.0", "last_part.0")
    )
    numbered = "conv3.weight" in tensors and has_names(tensors, r"conv\d\.(weight|bias)")
    if numbered:
        count = sum(name.endswith(".weight") for name in tensors)
        names = [f"conv{i + 1}" for i in range(count)]
    elif "last_part.0.weight" in tensors:
        names = ["first_part.0", "first_part.2", "last_part.0"]
    else:
        return None
    channels = kernel_shape(tensors, f"{names[0]}.weight")[1]
    *features, outputs = (kernel_shape(tensors, f"{name}.weight")[0] for name in names)
    scale = math.isqrt(outputs // channels)
    if scale < 1 or scale**2 * channels != outputs:
        raise InputError(
            f"the last layer of an ESPCN must have channels * scale**2 outputs; got {outputs} outputs "
            f"for {channels} channels"
        )
    module = ESPCN(scale, channels, tuple(features), "relu" if numbered else "tanh")
    assumptions = ("ReLU, as in PyTorch's example of ESPCN",) if numbered else ()
    return Recognized(module, tensors, assumptions=assumptions)


def _layers(module: ESPCN) -> LayerPaths:
    if module.upsampling != "subpixel":
        raise InputError(
            f"exporting an ESPCN requires upsampling='subpixel'; got {module.upsampling!r}"
        )
    if module.activation == "relu":
        hidden: LayerPaths = {f"conv{i + 1}": (f"Conv_{i}",) for i in range(len(module.features))}
        return hidden | {f"conv{len(hidden) + 1}": ("upsample",)}
    if len(module.features) != 2:
        raise InputError(
            "exporting an ESPCN with activation='tanh' requires two hidden layers; got "
            f"features={module.features}"
        )
    return {
        "first_part.0": ("Conv_0",),
        "first_part.2": ("Conv_1",),
        "last_part.0": ("upsample",),
    }


ESPCN_ = Architecture(
    name="ESPCN",
    module=ESPCN,
    namings=(
        "first_part.0.weight, first_part.2.weight, last_part.0.weight",
        "feature_maps.0.weight, feature_maps.2.weight, sub_pixel.0.weight",
        "conv1.weight, conv2.weight, conv3.weight, conv4.weight",
    ),
    recognize=_recognize,
    layers=_layers,
)
