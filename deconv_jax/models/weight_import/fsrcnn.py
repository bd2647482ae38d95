"""Published weights of FSRCNN, whose scale they do not determine.

    first_part.0          mid_part.0   mid_part.2  mid_part.10  last_part      J. Yeo
    feature_extraction.0  shrink.0     map.0       expand.0     deconv         Lornatang
    feature_extraction.0  shrinking.0  mapping.0   expanding.0  deconvolution  others

A PReLU has one slope for each channel, or one for all.
"""

import re
from collections.abc import Callable

import numpy as np

from deconv_jax.errors import InputError
from deconv_jax.models.fsrcnn import FSRCNN
from deconv_jax.models.weight_files import Tensors
from deconv_jax.models.weight_import.architecture import (
    Architecture,
    Hints,
    LayerPaths,
    Recognized,
    conv_indices,
    kernel_shape,
    rename,
)


def _recognize(tensors: Tensors, hints: Hints) -> Recognized | None:
    tensors = _with_yeo_names(tensors)
    if "last_part.weight" not in tensors:
        return None
    d, channels, *_ = kernel_shape(tensors, "first_part.0.weight")
    s = kernel_shape(tensors, "mid_part.0.weight")[0]
    m = len(conv_indices(tensors, "mid_part")) - 2
    if hints.scale is None:
        raise InputError("the weights of an FSRCNN do not determine its scale: give scale")
    module = FSRCNN(scale=hints.scale, channels=channels, d=d, s=s, m=max(m, 0))
    return Recognized(module, _with_channel_slopes(tensors))


def _with_yeo_names(tensors: Tensors) -> Tensors:
    """Return the tensors under J. Yeo's names if they have one of the other namings."""
    if not any(re.fullmatch(r"expand(?:ing)?\.0\.weight", name) for name in tensors):
        return tensors
    maps = {name for name in tensors if re.fullmatch(r"map(?:ping)?\.\d+\.weight", name)}
    last = 2 + len(maps)

    def shifted(first: int) -> Callable[[re.Match[str]], str]:
        return lambda match: f"mid_part.{first + int(match[1])}"

    return rename(
        tensors,
        (r"feature_extraction\b", "first_part"),
        (r"shrink(?:ing)?\.(\d+)", shifted(0)),
        (r"map(?:ping)?\.(\d+)", shifted(2)),
        (r"expand(?:ing)?\.(\d+)", shifted(last)),
        (r"deconv(?:olution)?\b", "last_part"),
    )


def _with_channel_slopes(tensors: Tensors) -> Tensors:
    """Return the tensors with one slope for each channel of the layer before."""
    slopes: Tensors = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"(\w+)\.(\d+)\.weight", name)
        layer = tensors.get(f"{match[1]}.{int(match[2]) - 1}.weight") if match else None
        if value.shape == (1,) and layer is not None:
            slopes[name] = np.repeat(value, layer.shape[0])
    return tensors | slopes


def _layers(module: FSRCNN) -> LayerPaths:
    if module.upsampling != "transposed":
        raise InputError(
            f"exporting an FSRCNN requires upsampling='transposed'; got {module.upsampling!r}"
        )
    middle = ["shrink", *(f"map_{i}" for i in range(module.m)), "expand"]
    names = {"first_part.0": "extract", "first_part.1": "extract_prelu"}
    for i, name in enumerate(middle):
        names |= {f"mid_part.{2 * i}": name, f"mid_part.{2 * i + 1}": f"{name}_prelu"}
    names["last_part"] = "upsample"
    return {theirs: (ours,) for theirs, ours in names.items()}


FSRCNN_ = Architecture(
    name="FSRCNN",
    module=FSRCNN,
    namings=(
        "first_part.0.weight, first_part.1.weight, mid_part.0.weight, last_part.weight",
        "feature_extraction.0.weight, shrink.0.weight, map.0.weight, expand.0.weight, deconv.weight",
    ),
    recognize=_recognize,
    layers=_layers,
)
