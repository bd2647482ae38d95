"""Inference of named models, compared with the same networks in PyTorch.

The networks run on about a quarter of a megapixel, in float32 on the CPU, after both got the model's weights and
their outputs were compared. Restoration networks and the codec get one image, the others a batch. The codec's part is
its two transforms without the entropy coder, the GANs' the generator, the texture's the decoder of a grid, and the
VAE's the encoder and the decoder.

  python experiments/benchmarks/zoo_speed.py
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from peers import OURS, TORCH, channels_last, check_outputs, copy_weights, parameter_count
from recognition_step import TorchCenterNet, TorchClassifier, TorchUNet
from restoration_step import TorchFSRCNN, channels_first
from timing import parse_arguments, processors, time_in_turns, time_ratios, write_record
from torch_models import (
    ConditionalNorm,
    TorchConditionalGenerator,
    TorchFFDNet,
    TorchTexture,
    TorchTransforms,
    TorchVAE,
)

from deconv_jax import models, zoo
from deconv_jax.cli.process import retain_freed_memory
from deconv_jax.compilation import jit
from deconv_jax.tasks import GAN

SIDE = 512
"""Height and width of single images, in pixels; batches have about as many pixels."""
SCENE_SIDE = 96
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
        candidates, megapixels[name] = candidates_of(model, case_of(model))
        of_model = time_in_turns(candidates, rounds=arguments.rounds, calls=CALLS)
        times |= {f"{name}: {who}": ms for who, ms in of_model.items()}
        (ratios[f"{name}: {OURS} / {TORCH}"],) = time_ratios(of_model, (OURS, TORCH)).values()
        parameters[name] = parameter_count(model.variables["params"])
    write_record(
        arguments.output,
        measured="inference of named models, float32, CPU",
        protocol=f"one image of {SIDE} x {SIDE} pixels, the output of super-resolution, or a batch with about as many "
        "pixels; the codec without its entropy coder; both keep freed memory; torch eager, channels_last, inference "
        f"mode; median over rounds of {CALLS} call after a warm-up call; candidates interleaved in one process; same "
        f"weights; outputs are checked first (to {TOLERANCE:g} of the largest)",
        times=times,
        ratios=ratios,
        versions={"torch": torch.__version__},
        megapixels=megapixels,
        parameters=parameters,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A network, its version in PyTorch, and inputs.

    Attributes:
      apply: Function of the variables and the inputs.
      net: The network in PyTorch.
      inputs: Random inputs; those with four axes are images (batch, height, width, channels).
    """

    apply: Callable[..., Any]
    net: torch.nn.Module
    inputs: Sequence[np.ndarray]


def case_of(model: zoo.ZooModel) -> Case:
    """Return the case of a named model. Exit if its network has no version in PyTorch here."""
    task, params, random = model.task, model.variables["params"], np.random.default_rng(0)
    network = task.generator if isinstance(task, GAN) else task.model

    def images(height: int, width: int, channels: int) -> np.ndarray:
        count = SIDE**2 // (height * width)
        return random.random((count, height, width, channels), np.float32)

    if isinstance(network, models.DCGANGenerator):
        count = SIDE**2 // int(np.prod(network.image_shape[:2]))
        latents = random.standard_normal((count, network.latent_dim)).astype(np.float32)
        labels = random.integers(0, network.num_classes, count, np.int32)
        return Case(network.apply, TorchConditionalGenerator(network, params), [latents, labels])
    if isinstance(network, models.TextureGenerator):
        cells = SIDE // network.stride + 2 * network.margin
        shape = (1, cells, cells, network.local_dim + network.global_dim + network.periodic_dim)
        return Case(
            lambda variables, x: network.apply(variables, x, method="decode"),
            TorchTexture(network, shape[-1]),
            [random.standard_normal(shape).astype(np.float32)],
        )
    if isinstance(network, models.FactorizedCodec):
        return Case(
            lambda variables, x: network.apply(variables, x, method=_transforms),
            TorchTransforms(network, params),
            [images(SIDE, SIDE, network.channels)],
        )
    if isinstance(network, models.VAE):
        inputs = images(*network.image_shape)
        return Case(
            lambda variables, x: network.apply(variables, x, method=_means),
            TorchVAE(network),
            [inputs],
        )
    if isinstance(network, models.FFDNet):
        channels = network.channels + task.noise_conditional
        net: torch.nn.Module = TorchFFDNet(network, channels)
        return Case(network.apply, net, [images(SIDE, SIDE, channels)])
    if isinstance(network, models.FSRCNN):
        side = SIDE // network.scale
        inputs = images(side, side, network.channels)[:1]
        return Case(network.apply, TorchFSRCNN(network), [inputs])
    if isinstance(network, models.Classifier):
        inputs = images(*model.card["inputs"]["image"]["shape"])
        return Case(network.apply, TorchClassifier(network, inputs.shape[1:]), [inputs])
    if isinstance(network, models.UNet):
        channels = params["_ConvBlock_0"]["Conv_0"]["kernel"].shape[2]
        net = TorchUNet(network, channels)
    elif isinstance(network, models.CenterNet):
        channels = params["Conv_0"]["kernel"].shape[2]
        net = TorchCenterNet(network, channels)
    else:
        raise SystemExit(f"{type(network).__name__} of {model.name} has no version in PyTorch here")
    return Case(network.apply, net, [images(SCENE_SIDE, SCENE_SIDE, channels)])


def _transforms(codec: models.FactorizedCodec, images: jax.Array) -> jax.Array:
    level = jnp.zeros(len(images), jnp.int32)
    return codec.synthesize(jnp.round(codec.analyze(images, level)), level)


def _means(vae: models.VAE, images: jax.Array) -> jax.Array:
    return vae.decode(vae.encode(images)[0])


def candidates_of(model: zoo.ZooModel, case: Case) -> tuple[dict[str, Callable[[], Any]], float]:
    """Return both candidates, after their outputs were compared, and the size of the images in megapixels.

    The size is that of the inputs or of the outputs, whichever is larger.
    """
    params, net = model.variables["params"], case.net.to(memory_format=torch.channels_last).eval()
    layers = net.layers_of(merge(params, model.variables["batch_stats"]))  # type: ignore[operator]
    if isinstance(net, TorchTransforms | TorchTexture):
        params = {name: part for name, part in params.items() if name.startswith(net.PREFIXES)}
    copy_weights(net, params, layers)
    copy_statistics(layers)
    variables = jax.device_put(model.variables)
    compiled, inputs = jit(case.apply), [jnp.asarray(x) for x in case.inputs]
    tensors = [
        channels_first(x) if x.ndim == 4 else torch.from_numpy(x.astype(_index_type(x)))
        for x in case.inputs
    ]

    def theirs() -> Any:
        with torch.inference_mode():
            return net(*tensors)

    found = theirs()
    ours = [np.asarray(x) for x in jax.tree.leaves(compiled(variables, *inputs))]
    peers = [channels_last(t).numpy() for t in (found if isinstance(found, tuple) else (found,))]
    for one, other in zip(ours, peers, strict=True):
        check_outputs(model.name, {OURS: one, TORCH: other}, TOLERANCE * float(np.abs(one).max()))
    candidates = {
        OURS: lambda: jax.block_until_ready(compiled(variables, *inputs)),
        TORCH: theirs,
    }
    sizes = [np.prod(x.shape[:3]) for x in (*case.inputs, *ours) if x.ndim == 4]
    return candidates, float(max(sizes)) / 1e6


def _index_type(x: np.ndarray) -> type:
    return np.int64 if np.issubdtype(x.dtype, np.integer) else np.float32


def copy_statistics(layers: Mapping[torch.nn.Module, Any]) -> None:
    """Copy the running statistics of batch normalization, which `merge` put beside the weights."""
    with torch.no_grad():
        for layer, part in layers.items():
            if isinstance(layer, ConditionalNorm):
                layer, part = layer.norm, part["Norm_0"]["BatchNorm_0"]
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.copy_(torch.from_numpy(part["mean"]))
                layer.running_var.copy_(torch.from_numpy(part["var"]))


def merge(params: Mapping[str, Any], statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights with the statistics of batch normalization beside those of its layers."""
    merged = dict(params)
    for name, value in statistics.items():
        nested = isinstance(value, Mapping)
        merged[name] = merge(params.get(name, {}), value) if nested else value
    return merged


if __name__ == "__main__":
    main()
