"""Published weights of RRDBNet, of ESRGAN and Real-ESRGAN.

The network has had three sets of names:

    conv_first  body.0.rdb1.conv1           conv_body       conv_up1  Real-ESRGAN, BasicSR
    conv_first  RRDB_trunk.0.RDB1.conv1     trunk_conv      upconv1   ESRGAN, BSRGAN
    model.0     model.1.sub.0.RDB1.conv1.0  model.1.sub.23  model.3   the first ESRGAN, KAIR

In the last one the number of a layer depends on the numbers of blocks and of doublings.
"""

import math
import re

from deconv_jax.errors import InputError
from deconv_jax.models.rrdb import RRDBNet
from deconv_jax.models.weight_files import Tensors
from deconv_jax.models.weight_import.architecture import (
    Architecture,
    Hints,
    LayerPaths,
    Recognized,
    kernel_shape,
    rename,
)

_TRUNK = (
    (r"RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)", r"body.\1.rdb\2.conv\3"),
    (r"trunk_conv", "conv_body"),
    (r"upconv(\d)", r"conv_up\1"),
    (r"HRconv", "conv_hr"),
)


def _recognize(tensors: Tensors, hints: Hints) -> Recognized | None:
    del hints
    tensors = rename(_with_new_names(tensors), *_TRUNK)
    if "body.0.rdb1.conv1.weight" not in tensors:
        return None
    features, inputs, *_ = kernel_shape(tensors, "conv_first.weight")
    channels = kernel_shape(tensors, "conv_last.weight")[0]
    growth = kernel_shape(tensors, "body.0.rdb1.conv1.weight")[0]
    blocks = {name.split(".")[1] for name in tensors if name.startswith("body.")}
    doublings = sum(bool(re.fullmatch(r"conv_up\d\.weight", name)) for name in tensors)
    unshuffle = math.isqrt(inputs // channels)
    scale, rest = divmod(2**doublings, max(unshuffle, 1))
    if inputs != unshuffle**2 * channels or rest:
        raise InputError(
            "an RRDBNet must take as many channels as it returns, or after a pixel unshuffle 4 or 16 "
            f"times as many; got {inputs} inputs, {channels} outputs and {doublings} enlargements"
        )
    module = RRDBNet(scale, channels, len(blocks), features, growth, unshuffle)
    return Recognized(module, tensors)


def _with_new_names(tensors: Tensors) -> Tensors:
    """Return the tensors of the first ESRGAN under new names; other tensors as they are."""
    if "model.0.weight" not in tensors or "model.1.sub.0.RDB1.conv1.0.weight" not in tensors:
        return tensors
    outer = sorted(int(m[1]) for n in tensors if (m := re.fullmatch(r"model\.(\d+)\.weight", n)))
    names = ["conv_first", *(f"conv_up{i + 1}" for i in range(len(outer) - 3))]
    names += ["conv_hr", "conv_last"]
    by_index = dict(zip(map(str, outer), names, strict=False))
    return rename(
        tensors,
        # KAIR's last convolution of a dense block has no ".0".
        (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)(?:\.0)?", r"body.\1.rdb\2.conv\3"),
        (r"model\.1\.sub\.\d+", "conv_body"),
        (r"model\.(\d+)", lambda match: by_index.get(match[1], match[0])),
    )


def _layers(module: RRDBNet) -> LayerPaths:
    names: LayerPaths = {"conv_first": ("conv_first",), "conv_body": ("conv_body",)}
    for block in range(module.blocks):
        for dense in range(3):
            for conv in range(5):
                ours = (f"block_{block}", f"dense_{dense}", f"conv_{conv}")
                names[f"body.{block}.rdb{dense + 1}.conv{conv + 1}"] = ours
    doublings = (module.scale * module.unshuffle).bit_length() - 1
    names |= {f"conv_up{i + 1}": (f"upsample_{i}",) for i in range(doublings)}
    return names | {"conv_hr": ("conv_hr",), "conv_last": ("conv_last",)}


RRDB = Architecture(
    name="RRDBNet",
    module=RRDBNet,
    namings=(
        "conv_first.weight, body.0.rdb1.conv1.weight, conv_body.weight, conv_up1.weight, "
        "conv_hr.weight, conv_last.weight",
        "conv_first.weight, RRDB_trunk.0.RDB1.conv1.weight, trunk_conv.weight, upconv1.weight, "
        "HRconv.weight, conv_last.weight",
        "model.0.weight, model.1.sub.0.RDB1.conv1.0.weight, model.1.sub.23.weight",
    ),
    recognize=_recognize,
    layers=_layers,
)
