"""Published weights of DnCNN, and of FDnCNN and IRCNN, which are variants of it.

The epsilon of the batch normalization follows from the code that wrote the file, which the names
identify:

    names                                 code                              epsilon
    model.0.weight, model.0.bias          K. Zhang's KAIR                   1e-4
    dncnn.0.weight, dncnn.0.bias          K. Zhang's training code          1e-4
    dncnn.0.weight without a bias         SaoYan's DnCNN-PyTorch            1e-5, PyTorch's default

FDnCNN has one more input than outputs, for the noise-level map. IRCNN has the same names and shapes
as a DnCNN of depth 7; such a file is taken for IRCNN, since no DnCNN of this depth is published.
"""

import re

import numpy as np

from deconv_jax.errors import InputError
from deconv_jax.models.dncnn import IRCNN_DILATIONS, DnCNN, fold_batch_norm
from deconv_jax.models.weight_files import Tensors, check_names
from deconv_jax.models.weight_import.architecture import (
    Architecture,
    Hints,
    LayerPaths,
    Recognized,
    conv_indices,
    has_names,
    kernel_shape,
)
from deconv_jax.ops.weight_layouts import layer_from_torch, layer_to_torch

_ZHANG_EPSILON, _TORCH_EPSILON = 1e-4, 1e-5


def _recognize(tensors: Tensors, hints: Hints) -> Recognized | None:
    tensors, epsilon = _with_kair_names(tensors)
    if "model.0.weight" not in tensors or not has_names(tensors, r"model\.\d+\.\w+"):
        return None
    assumptions: tuple[str, ...] = ()
    normalized = any(name.endswith(".running_mean") for name in tensors)
    if normalized:
        if hints.batch_norm_epsilon is None:
            assumptions = (f"batch normalization with epsilon {epsilon:g}",)
        tensors = _fold(tensors, hints.batch_norm_epsilon or epsilon)
    indices = conv_indices(tensors, "model")
    features, inputs, kernel_size, _ = kernel_shape(tensors, "model.0.weight")
    outputs = kernel_shape(tensors, f"model.{indices[-1]}.weight")[0]
    if inputs - outputs not in (0, 1):
        raise InputError(
            "the input of a DnCNN must have as many channels as its output, that of an FDnCNN one more "
            f"for the noise-level map; got {inputs} and {outputs}, which is no FFDNet either"
        )
    conditional = inputs > outputs
    dilations: tuple[int, ...] = ()
    if len(indices) == len(IRCNN_DILATIONS) and not conditional and not normalized:
        dilations = IRCNN_DILATIONS
        assumptions = (f"the dilations of IRCNN, {', '.join(map(str, dilations))}",)
    module = DnCNN(
        outputs,
        max(len(indices), 2),
        features,
        kernel_size,
        norm="none",
        residual=not conditional,
        dilations=dilations,
    )
    return Recognized(module, tensors, noise_conditional=conditional, assumptions=assumptions)


def _with_kair_names(tensors: Tensors) -> tuple[Tensors, float]:
    """Return the tensors under KAIR's names, and the epsilon of the batch normalization."""
    if "dncnn.0.weight" not in tensors:
        return tensors, _ZHANG_EPSILON
    epsilon = _ZHANG_EPSILON if "dncnn.0.bias" in tensors else _TORCH_EPSILON
    renamed = {re.sub(r"^dncnn\.", "model.", name): value for name, value in tensors.items()}
    for index in conv_indices(renamed, "model"):
        channels = renamed[f"model.{index}.weight"].shape[0]
        renamed.setdefault(f"model.{index}.bias", np.zeros(channels, np.float32))
    return renamed, epsilon


def _fold(tensors: Tensors, epsilon: float) -> Tensors:
    """Fold the batch normalization after each inner convolution, and renumber the layers."""
    convs = conv_indices(tensors, "model")
    original = [0, *range(2, 3 * len(convs) - 3, 3)]
    norms = [index + 1 for index in original[1:-1]]
    kinds = ("weight", "bias", "running_mean", "running_var")
    expected = {f"model.{index}.{kind}" for index in original for kind in kinds[:2]}
    expected |= {f"model.{index}.{kind}" for index in norms for kind in kinds}
    counters = {f"model.{index}.num_batches_tracked" for index in norms}
    check_names(set(tensors) - counters, expected)
    folded: Tensors = {}
    for i, index in enumerate(original):
        layer = {kind: tensors[f"model.{index}.{kind}"] for kind in kinds[:2]}
        if index + 1 in norms:
            norm = [tensors[f"model.{index + 1}.{kind}"] for kind in kinds]
            channels = layer["bias"].shape
            if any(array.shape != channels for array in norm):
                raise InputError(
                    f"model.{index + 1} must have arrays of shape {channels}, as the layer that it "
                    f"normalizes; got {sorted({array.shape for array in norm})}"
                )
            scale, bias, mean, variance = norm
            folded_layer = fold_batch_norm(
                {
                    "Conv_0": layer_from_torch(layer),
                    "Norm_0": {"BatchNorm_0": {"scale": scale, "bias": bias}},
                },
                {"Norm_0": {"BatchNorm_0": {"mean": mean, "var": variance}}},
                epsilon,
            )
            layer = layer_to_torch(folded_layer["Conv_0"])
        folded |= {f"model.{2 * i}.{kind}": value for kind, value in layer.items()}
    return folded


def _layers(module: DnCNN) -> LayerPaths:
    if module.norm != "none":
        raise InputError(
            f"exporting a DnCNN requires norm='none'; got norm={module.norm!r}: apply "
            "fold_batch_norm first"
        )
    last = "to_noise" if module.residual else "to_image"
    inner = {f"model.{2 * i}": (f"layer_{i}", "Conv_0") for i in range(module.depth - 1)}
    return inner | {f"model.{2 * (module.depth - 1)}": (last,)}


DNCNN = Architecture(
    name="DnCNN",
    module=DnCNN,
    namings=(
        "model.0.weight, model.0.bias, model.2.weight",
        "dncnn.0.weight, dncnn.2.weight, dncnn.3.running_mean",
    ),
    recognize=_recognize,
    layers=_layers,
)
