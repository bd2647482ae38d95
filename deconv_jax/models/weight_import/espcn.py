"""Published weights of ESPCN."""

import math

from deconv_jax.errors import InputError
from deconv_jax.models.espcn import ESPCN
from deconv_jax.models.weight_files import Tensors
from deconv_jax.models.weight_import.architecture import (
    Architecture,
    Hints,
    LayerPaths,
    Recognized,
    kernel_shape,
)


def _recognize(tensors: Tensors, hints: Hints) -> Recognized | None:
    del hints
    if "last_part.0.weight" not in tensors:
        return None
    first, channels, *_ = kernel_shape(tensors, "first_part.0.weight")
    second = kernel_shape(tensors, "first_part.2.weight")[0]
    outputs = kernel_shape(tensors, "last_part.0.weight")[0]
    scale = math.isqrt(outputs // channels)
    if scale < 1 or scale**2 * channels != outputs:
        raise InputError(
            f"the last layer of an ESPCN must have channels * scale**2 outputs; got {outputs} outputs "
            f"for {channels} channels"
        )
    return Recognized(ESPCN(scale=scale, channels=channels, features=(first, second)), tensors)


def _layers(module: ESPCN) -> LayerPaths:
    if module.upsampling != "subpixel" or module.activation != "tanh":
        raise InputError(
            "exporting an ESPCN requires upsampling='subpixel' and activation='tanh'; got "
            f"{module.upsampling!r} and {module.activation!r}"
        )
    return {
        "first_part.0": ("Conv_0",),
        "first_part.2": ("Conv_1",),
        "last_part.0": ("upsample",),
    }


ESPCN_ = Architecture(
    name="ESPCN",
    module=ESPCN,
    namings=("first_part.0.weight, first_part.2.weight, last_part.0.weight",),
    recognize=_recognize,
    layers=_layers,
)
