"""Published weights of SRVGGNetCompact, of Real-ESRGAN."""

import math

from deconv_jax.errors import InputError
from deconv_jax.models.srvgg import SRVGGNet
from deconv_jax.models.weight_files import Tensors
from deconv_jax.models.weight_import.architecture import (
    Architecture,
    Hints,
    LayerPaths,
    Recognized,
    conv_indices,
    has_names,
    kernel_shape,
)


def _recognize(tensors: Tensors, hints: Hints) -> Recognized | None:
    del hints
    indices = conv_indices(tensors, "body")
    if len(indices) < 2 or indices[0] or not has_names(tensors, r"body\.\d+\.(weight|bias)"):
        return None
    features, channels, *_ = kernel_shape(tensors, "body.0.weight")
    outputs = kernel_shape(tensors, f"body.{indices[-1]}.weight")[0]
    scale = math.isqrt(outputs // channels)
    if scale < 1 or scale**2 * channels != outputs:
        raise InputError(
            f"the last layer of an SRVGGNet must have channels * scale**2 outputs; got {outputs} "
            f"outputs for {channels} channels"
        )
    return Recognized(SRVGGNet(scale, channels, len(indices) - 2, features), tensors)


def _layers(module: SRVGGNet) -> LayerPaths:
    names: LayerPaths = {}
    for i in range(module.depth + 1):
        names |= {f"body.{2 * i}": (f"conv_{i}",), f"body.{2 * i + 1}": (f"prelu_{i}",)}
    return names | {f"body.{2 * module.depth + 2}": ("to_blocks",)}


SRVGG = Architecture(
    name="SRVGGNetCompact",
    module=SRVGGNet,
    namings=("body.0.weight, body.0.bias, body.1.weight, body.2.weight",),
    recognize=_recognize,
    layers=_layers,
)
