"""Published weights of RED-Net, in the naming of J. Yeo's REDNet-pytorch.

That implementation has stride 2 in the first and the last layer, which the weights do not show, and
adds skips after the ReLU; RED10 has only the image skip.
"""

from deconv_jax.errors import InputError
from deconv_jax.models.rednet import REDNet
from deconv_jax.models.weight_files import Tensors
from deconv_jax.models.weight_import.architecture import (
    Architecture,
    Hints,
    LayerPaths,
    Recognized,
    kernel_shape,
)

_NO_SKIPS_DEPTH = 10


def _recognize(tensors: Tensors, hints: Hints) -> Recognized | None:
    del hints
    if "conv_layers.0.0.weight" not in tensors:
        return None
    features, channels, *_ = kernel_shape(tensors, "conv_layers.0.0.weight")
    depth = 2 * sum(n.startswith("conv_layers.") and n.endswith(".0.weight") for n in tensors)
    return Recognized(_module(channels, depth, features), tensors)


def _module(channels: int, depth: int, features: int) -> REDNet:
    skip_every = depth if depth <= _NO_SKIPS_DEPTH else 2
    return REDNet(channels, depth, features, skip_every, stride=2, add_after_relu=True)


def _layers(module: REDNet) -> LayerPaths:
    if module != _module(module.channels, module.depth, module.features):
        raise InputError(
            "exporting a RED-Net requires stride=2, add_after_relu=True and skip_every=2, or "
            f"skip_every=depth for a depth of at most {_NO_SKIPS_DEPTH}; got {module}"
        )
    half = module.depth // 2
    names: LayerPaths = {f"conv_layers.{i}.0": (f"conv_{i + 1}",) for i in range(half)}
    names |= {f"deconv_layers.{i}.0": (f"deconv_{half - i}",) for i in range(half - 1)}
    return names | {f"deconv_layers.{half - 1}": ("deconv_1",)}


REDNET = Architecture(
    name="RED-Net",
    module=REDNet,
    namings=("conv_layers.0.0.weight, conv_layers.0.0.bias, deconv_layers.0.0.weight",),
    recognize=_recognize,
    layers=_layers,
)
