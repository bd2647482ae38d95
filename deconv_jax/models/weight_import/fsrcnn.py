"""Published weights of FSRCNN, whose scale they do not determine."""

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
)


def _recognize(tensors: Tensors, hints: Hints) -> Recognized | None:
    if "last_part.weight" not in tensors:
        return None
    d, channels, *_ = kernel_shape(tensors, "first_part.0.weight")
    s = kernel_shape(tensors, "mid_part.0.weight")[0]
    m = len(conv_indices(tensors, "mid_part")) - 2
    if hints.scale is None:
        raise InputError("the weights of an FSRCNN do not determine its scale: give scale")
    module = FSRCNN(scale=hints.scale, channels=channels, d=d, s=s, m=max(m, 0))
    return Recognized(module, tensors)


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
    namings=("first_part.0.weight, first_part.1.weight, mid_part.0.weight, last_part.weight",),
    recognize=_recognize,
    layers=_layers,
)
