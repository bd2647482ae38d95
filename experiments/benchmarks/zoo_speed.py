"""Inference of named models, compared with the same network in PyTorch.

Every network that has a version in PyTorch here runs on about a quarter of a megapixel, in float32 on the CPU, after
both got the model's weights and their outputs were compared. Restoration networks get one image, the others a batch.

  python experiments/benchmarks/zoo_speed.py
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from peers import OURS, TORCH, channels_last, check_outputs, copy_weights, parameter_count
from recognition_step import TorchCenterNet, TorchClassifier, TorchUNet
from restoration_step import TorchFSRCNN, channels_first
from timing import parse_arguments, processors, time_in_turns, time_ratios, write_record
from torch.nn import functional

from deconv_jax import models, zoo
from deconv_jax.cli.process import retain_freed_memory
from deconv_jax.compilation import jit
from deconv_jax.training.step import apply_model

SIDE = 512
"""Height and width of restored images, in pixels."""
SCENE = (28, 96, 96)
"""Number, height and width of scenes."""
CALLS = 1
TOLERANCE = 1e-3
"""Largest absolute difference of outputs, relative to their largest value."""


def main() -> None:
    """Check that both agree, then time them, one model after the other."""
    arguments = parse_arguments(__file__, __doc__, rounds=11)
    jax.config.update("jax_platforms", "cpu")
    retain_freed_memory()
    torch.set_num_threads(processors())
    times: dict[str, list[float]] = {}
    ratios, megapixels, parameters = {}, {}, {}
    for name in zoo.names():
        model = zoo.load(name)
        make = PEERS.get(type(getattr(model.task, "model", None)))
        if make is None:
            continue
        inputs = inputs_of(model)
        candidates, outputs = candidates_of(model, inputs, make)
        size = max(np.prod(x.shape[:3]) for x in (inputs, *outputs))
        of_model = time_in_turns(candidates, rounds=arguments.rounds, calls=CALLS)
        times |= {f"{name}: {who}": ms for who, ms in of_model.items()}
        (ratios[name],) = time_ratios(of_model, (OURS, TORCH)).values()
        megapixels[name] = size / 1e6
        parameters[name] = parameter_count(model.variables["params"])
    write_record(
        arguments.output,
        measured="inference of named models: forward, float32, CPU",
        protocol=f"restoration networks have one image of {SIDE} x {SIDE} pixels as output, the others a batch of "
        "about as many pixels; both keep freed memory; torch eager, channels_last, inference mode; median over "
        f"rounds of {CALLS} call after a warm-up call; candidates interleaved in one process; same weights; "
        f"outputs are checked first (to {TOLERANCE:g} of the largest)",
        times=times,
        ratios={f"{name}: {OURS} / {TORCH}": ratio for name, ratio in ratios.items()},
        versions={"torch": torch.__version__},
        megapixels=megapixels,
        parameters=parameters,
    )


def inputs_of(model: zoo.ZooModel) -> np.ndarray:
    """Return random images in [0, 1] for a model, followed by a noise-level map if it takes one."""
    network, random = model.task.model, np.random.default_rng(0)
    if isinstance(network, (models.FFDNet, models.FSRCNN)):
        channels = network.channels + model.task.noise_conditional
        shape: tuple[int, ...] = (1, SIDE // network.scale, SIDE // network.scale, channels)
    elif isinstance(network, models.Classifier):
        height, width, channels = model.card["inputs"]["image"]["shape"]
        shape = (SIDE**2 // (height * width), height, width, channels)
    else:
        first = "_ConvBlock_0" if isinstance(network, models.UNet) else None
        params = model.variables["params"]
        kernel = (params[first] if first else params)["Conv_0"]["kernel"]
        shape = (*SCENE, kernel.shape[2])
    return random.random(shape, np.float32)


def candidates_of(
    model: zoo.ZooModel, inputs: np.ndarray, make: Callable[[Any, np.ndarray], torch.nn.Module]
) -> tuple[dict[str, Callable[[], Any]], list[np.ndarray]]:
    """Return both candidates, after their outputs were compared, and the outputs."""
    network, variables = model.task.model, jax.device_put(model.variables)

    @jit
    def apply(variables: Any, images: jax.Array) -> Any:
        return apply_model(network, variables, images, train=False, precision="f32")[0]

    net = make(network, inputs).to(memory_format=torch.channels_last).eval()
    merged = merge(model.variables["params"], model.variables["batch_stats"])
    layers = net.layers_of(merged)  # type: ignore[operator]
    copy_weights(net, model.variables["params"], net.layers_of(model.variables["params"]))  # type: ignore[operator]
    with torch.no_grad():
        for layer, part in layers.items():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.copy_(torch.from_numpy(part["mean"]))
                layer.running_var.copy_(torch.from_numpy(part["var"]))
    images, pixels = jnp.asarray(inputs), channels_first(inputs)

    def theirs() -> Any:
        with torch.inference_mode():
            return net(pixels)

    found = theirs()
    ours = [np.asarray(x) for x in jax.tree.leaves(apply(variables, images))]
    peers = [channels_last(t).numpy() for t in (found if isinstance(found, tuple) else (found,))]
    for one, other in zip(ours, peers, strict=True):
        outputs = {OURS: one, TORCH: other}
        check_outputs(model.name, outputs, TOLERANCE * float(np.abs(one).max()))
    candidates = {OURS: lambda: jax.block_until_ready(apply(variables, images)), TORCH: theirs}
    return candidates, [x for x in ours if x.ndim == 4]


def merge(params: Mapping[str, Any], statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights with the statistics of batch normalization beside those of its layers."""
    merged = dict(params)
    for name, value in statistics.items():
        merged[name] = merge(params[name], value) if isinstance(value, Mapping) else value
    return merged


class TorchFFDNet(torch.nn.Module):
    """PyTorch version of `FFDNet`, for images with even sides."""

    def __init__(self, model: models.FFDNet, channels: int):
        """Make the layers for inputs with `channels` channels, with or without a noise-level map."""
        super().__init__()
        self.channels, carried = model.channels, 4 * model.channels
        first = carried + channels - model.channels
        widths = [first, *[model.features] * (model.depth - 1), carried]
        self.convs = torch.nn.ModuleList(
            torch.nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Denoise images, which are followed by the map."""
        blocks = functional.pixel_unshuffle(images[:, : self.channels], 2)
        x = torch.cat([blocks, images[:, self.channels :, ::2, ::2]], dim=1)
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.convs[:-1]:
            x = layer(x).relu_()
        return functional.pixel_shuffle(self.convs[-1](x), 2)

    def layers_of(self, params: Any) -> dict[torch.nn.Module, Any]:
        """Return the part of an `FFDNet`'s weights that belongs to each layer."""
        names = [*(f"layer_{i}" for i in range(len(self.convs) - 1)), "to_image"]
        return {layer: params[name] for layer, name in zip(self.convs, names, strict=True)}


PEERS: dict[type, Callable[[Any, np.ndarray], torch.nn.Module]] = {
    models.FFDNet: lambda model, inputs: TorchFFDNet(model, inputs.shape[-1]),
    models.FSRCNN: lambda model, _: TorchFSRCNN(model),
    models.UNet: lambda model, inputs: TorchUNet(model, inputs.shape[-1]),
    models.CenterNet: lambda model, inputs: TorchCenterNet(model, inputs.shape[-1]),
    models.Classifier: lambda model, inputs: TorchClassifier(model, inputs.shape[1:]),
}
"""Version of each network in PyTorch, for a network and its inputs."""


if __name__ == "__main__":
    main()
