"""Published weights of FFDNet, in the naming of K. Zhang's KAIR.

The first convolution takes `4 * channels` sub-images and the noise-level map, the last returns `4 *
channels` sub-images. The names are those of a DnCNN, so the channels tell the two apart. A network
without the map has 4 or 12 channels at both ends; no image has that many.
"""

from deconv_jax.models.ffdnet import FACTOR, FFDNet
from deconv_jax.models.weight_files import Tensors
from deconv_jax.models.weight_import.architecture import (
    Architecture,
    Hints,
    LayerPaths,
    Recognized,
    conv_indices,
    has_names,
)

_BLOCK = FACTOR**2


def _recognize(tensors: Tensors, hints: Hints) -> Recognized | None:
    del hints
    indices = conv_indices(tensors, "model")
    if len(indices) < 2 or indices[0] or not has_names(tensors, r"model\.\d+\.(weight|bias)"):
        return None
    features, inputs, *_ = tensors["model.0.weight"].shape
    outputs = tensors[f"model.{indices[-1]}.weight"].shape[0]
    channels, rest = divmod(outputs, _BLOCK)
    if rest or channels not in (1, 3) or inputs - outputs not in (0, 1):
        return None
    module = FFDNet(channels, len(indices), features)
    return Recognized(module, tensors, noise_conditional=inputs > outputs)


def _layers(module: FFDNet) -> LayerPaths:
    names = [*(f"layer_{i}" for i in range(module.depth - 1)), "to_image"]
    return {f"model.{2 * i}": (name,) for i, name in enumerate(names)}


FFDNET = Architecture(
    name="FFDNet",
    module=FFDNet,
    namings=("model.0.weight, model.0.bias, model.2.weight",),
    recognize=_recognize,
    layers=_layers,
)
