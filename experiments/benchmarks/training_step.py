"""One training step of the MNIST autoencoder, beside the same step in flax.linen and in PyTorch.

A step is all of it but reading the batch: uint8 images to floats, forward, backward, Adam; float32,
on the CPU. Against `flax.linen` only the transposed convolution differs: `flax.linen.ConvTranspose`
computes the same function of the same weights, but leaves its gradient to automatic transposition.
So that ratio is the operator's. Against PyTorch everything differs, and that ratio is the whole
system's; PyTorch runs eagerly, with channels-last memory and the fused Adam. The step here also
returns the gradient's norm, which costs little and PyTorch is not asked for.

What a reader would get wrong is to believe that the three compute the same thing because they look
alike. Before anything is timed, all three are given the same weights, and this script fails unless
parameter counts, reconstructions and the losses of the first steps agree.

  python experiments/benchmarks/training_step.py
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from timing import ROOT, parse_arguments, processors, time_in_turns, time_ratios, write_record

from deconv_jax.cli import load_config
from deconv_jax.experiment import Experiment
from deconv_jax.models import Autoencoder
from deconv_jax.models.layers import ConvTranspose
from deconv_jax.tasks.autoencoding import Autoencoding
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Scalars, TrainState, apply_model, images_in_unit_range
from deconv_jax.training.task import Batch

CONFIG = ROOT / "experiments" / "autoencoding" / "mnist.py"
BATCH_SIZE = 128
CALLS = 5
FORWARD_TOLERANCE = 1e-4
"""Of pixels in [0, 1]."""
LOSS_TOLERANCE = 1e-3
"""Relative, after each of `CHECKED_STEPS` updates."""
CHECKED_STEPS = 5

OURS, FLAX, TORCH = "deconv_jax", "flax.linen", "torch"


def main() -> None:
    """Checks that the three agree, then times them."""
    arguments = parse_arguments(__file__, __doc__, rounds=20)
    jax.config.update("jax_platforms", "cpu")
    torch.set_num_threads(processors())

    model = Experiment.from_dict(load_config(str(CONFIG))).task.model
    task = Autoencoding(model, Optimizer(name="adam", learning_rate=1e-3))
    shape = (BATCH_SIZE, *model.image_shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    batch = {"image": jnp.asarray(pixels), "index": jnp.arange(BATCH_SIZE, dtype=jnp.int32)}
    state = jax.jit(task.init)(jax.random.key(0), batch)
    net = TorchAutoencoder(model)
    copy_weights(net, state.params)

    check_forward(task, state, batch, net)
    candidates = {
        OURS: jax_training(task.train_step, state, batch),
        FLAX: jax_training(with_flax_transposes(task.train_step), state, batch),
        TORCH: torch_training(net, pixels, task.optimizer),
    }
    check_losses(candidates)

    times = time_in_turns(candidates, rounds=arguments.rounds, calls=CALLS)
    write_record(
        arguments.output,
        measured="one training step: uint8 images to floats, forward, backward, Adam; float32, CPU",
        protocol=f"median over rounds of the mean of {CALLS} steps after an untimed one, the three "
        "in turns in one process; same weights, and agreement of parameter counts, "
        f"reconstructions (to {FORWARD_TOLERANCE:g}) and the losses of {CHECKED_STEPS} steps (to "
        f"{LOSS_TOLERANCE:g}, relative) checked before; torch eager, channels_last, fused Adam",
        times=times,
        ratios=time_ratios(times, (OURS, FLAX), (OURS, TORCH)),
        versions={"torch": torch.__version__},
        shapes={"images": list(shape), "code": model.latent_dim, "features": list(model.features)},
        parameters=parameter_count(state),
    )


def with_flax_transposes(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, in which every `ConvTranspose` computes by `flax.linen.ConvTranspose`."""

    def as_flax(layer: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        ours = context.module
        if not isinstance(ours, ConvTranspose):
            return layer(*args, **kwargs)
        flax = nn.ConvTranspose(
            ours.features,
            (ours.kernel_size, ours.kernel_size),
            (ours.stride, ours.stride),
            padding="SAME",
            use_bias=ours.use_bias,
            transpose_kernel=True,
            parent=None,
        )
        return flax.apply({"params": ours.variables["params"]}, *args)

    @functools.wraps(function)
    def intercepted(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(as_flax):
            return function(*args, **kwargs)

    return intercepted


class TorchAutoencoder(torch.nn.Module):
    """The `Autoencoder` of the same settings, on NCHW images in channels-last memory."""

    def __init__(self, model: Autoencoder):
        """Lays out the stages; exits unless `model` is of the kind written here."""
        super().__init__()
        kind = (model.latent, model.norm, model.activation, model.remat)
        if kind != ("vector", "batch", "relu", False) or (model.kernel_size - model.stride) % 2:
            raise SystemExit(f"{CONFIG} is no longer the autoencoder that this script writes out")
        total = model.stride ** len(model.features)
        height, width, channels = model.image_shape
        self.base = (height // total, width // total, model.features[-1])
        # "SAME" of sides that the stride divides.
        geometry = (model.kernel_size, model.stride, (model.kernel_size - model.stride) // 2)

        def stage(kind: Any, inputs: int, outputs: int) -> torch.nn.Sequential:
            return torch.nn.Sequential(
                kind(inputs, outputs, *geometry, bias=False),
                torch.nn.BatchNorm2d(outputs),
                torch.nn.ReLU(inplace=True),
            )

        encoder = [channels, *model.features]
        decoder = model.features[::-1]
        self.down = torch.nn.ModuleList(
            stage(torch.nn.Conv2d, *pair) for pair in itertools.pairwise(encoder)
        )
        self.to_code = torch.nn.Linear(int(np.prod(self.base)), model.latent_dim)
        self.from_code = torch.nn.Linear(model.latent_dim, int(np.prod(self.base)))
        self.up = torch.nn.ModuleList(
            stage(torch.nn.ConvTranspose2d, *pair) for pair in itertools.pairwise(decoder)
        )
        self.to_image = torch.nn.ConvTranspose2d(decoder[-1], channels, *geometry)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1] to their reconstructions, both (batch, channels, height, width)."""
        x = images
        for stage in self.down:
            x = stage(x)
        code = self.to_code(x.permute(0, 2, 3, 1).reshape(len(x), -1))
        x = self.from_code(code).reshape(len(x), *self.base).permute(0, 3, 1, 2).relu()
        for stage in self.up:
            x = stage(x)
        return torch.sigmoid(self.to_image(x))


def copy_weights(net: TorchAutoencoder, params: Any) -> None:
    """Gives `net` the weights of an `Autoencoder`; exits unless it has as many.

    Kernels are (height, width, in, out) for convolutions and (height, width, out, in) for their
    transposes here, (out, in, height, width) and (in, out, height, width) there.
    """
    pairs = [
        (net.to_code.weight, params["to_code"]["kernel"].T),
        (net.to_code.bias, params["to_code"]["bias"]),
        (net.from_code.weight, params["from_code"]["kernel"].T),
        (net.from_code.bias, params["from_code"]["bias"]),
        (net.to_image.weight, params["to_image"]["kernel"].transpose(3, 2, 0, 1)),
        (net.to_image.bias, params["to_image"]["bias"]),
    ]
    for stages, name, layer in ((net.down, "down", "Conv_0"), (net.up, "up", "ConvTranspose_0")):
        for i, (conv, norm, _) in enumerate(stages):
            ours = params[f"{name}_{i}"]
            scale_and_bias = ours["Norm_0"]["BatchNorm_0"]
            pairs += [
                (conv.weight, ours[layer]["kernel"].transpose(3, 2, 0, 1)),
                (norm.weight, scale_and_bias["scale"]),
                (norm.bias, scale_and_bias["bias"]),
            ]
    counts = {
        "torch": sum(p.numel() for p in net.parameters()),
        "deconv_jax": sum(a.size for a in jax.tree.leaves(params)),
        "copied": sum(p.numel() for p, _ in pairs),
    }
    if len(set(counts.values())) != 1:
        raise SystemExit(f"the networks do not have the same number of parameters: {counts}")
    with torch.no_grad():
        for parameter, array in pairs:
            parameter.copy_(torch.from_numpy(np.array(array)))


def jax_training(
    step: Callable[[TrainState, Batch], tuple[TrainState, Scalars]], state: TrainState, batch: Batch
) -> Callable[[], float]:
    """A function that trains a step further each time and returns its loss."""
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    state = jax.tree.map(jnp.copy, state)

    def train() -> float:
        nonlocal state
        state, scalars = jax.block_until_ready(compiled(state, batch))
        return float(scalars["loss"])

    return train


def torch_training(
    net: TorchAutoencoder, pixels: np.ndarray, settings: Optimizer
) -> Callable[[], float]:
    """The same in PyTorch."""
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    optimizer = torch.optim.Adam(
        net.parameters(),
        lr=settings.learning_rate,
        betas=(settings.momentum, settings.beta2),
        fused=True,
    )

    def train() -> float:
        images = batch.to(torch.float32) / 255.0
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.mse_loss(net(images), images)
        loss.backward()
        optimizer.step()
        return loss.item()

    return train


def check_forward(
    task: Autoencoding, state: TrainState, batch: Batch, net: TorchAutoencoder
) -> None:
    """Exits unless the reconstructions of the three agree, batch norm in training mode."""

    def reconstruct(state: TrainState, batch: Batch) -> jax.Array:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        images = images_in_unit_range(batch["image"])
        return apply_model(task.model, variables, images, train=True, precision="f32")[0]

    ours = jax.jit(reconstruct)(state, batch)
    flax = jax.jit(with_flax_transposes(reconstruct))(state, batch)
    images = torch.from_numpy(np.array(batch["image"])).permute(0, 3, 1, 2) / 255.0
    statistics = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        theirs = net(images).permute(0, 2, 3, 1).numpy()
    net.load_state_dict(statistics)  # As if it had not been run.
    for name, other in ((FLAX, flax), (TORCH, theirs)):
        difference = float(np.abs(np.asarray(ours) - np.asarray(other)).max())
        if not difference <= FORWARD_TOLERANCE:
            raise SystemExit(f"reconstructions of {OURS} and {name} differ by {difference:g}")


def check_losses(candidates: dict[str, Callable[[], float]]) -> None:
    """Exits unless training goes the same way in all."""
    losses = {name: [train() for _ in range(CHECKED_STEPS)] for name, train in candidates.items()}
    for name, of_steps in losses.items():
        if not np.allclose(of_steps, losses[OURS], rtol=LOSS_TOLERANCE, atol=0):
            raise SystemExit(f"losses of {OURS} and {name} differ: {losses[OURS]} and {of_steps}")


def parameter_count(state: TrainState) -> int:
    """Numbers that are trained."""
    return sum(a.size for a in jax.tree.leaves(state.params))


if __name__ == "__main__":
    main()
