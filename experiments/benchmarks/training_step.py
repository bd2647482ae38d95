"""One training step of the MNIST autoencoder, compared with flax.linen and PyTorch.

A step is everything except loading the batch: it converts uint8 images to floats, and runs forward, backward and
Adam, in float32 on the CPU. The `flax.linen` candidate differs only in its transposed convolution:
`flax.linen.ConvTranspose` computes the same function but leaves its gradient to automatic transposition. That
ratio is the operator's. PyTorch differs in everything, so its ratio is that of the whole system. It runs
eagerly, with channels-last memory and fused Adam. The step here also returns the gradient norm.

All candidates get the same weights. The script fails unless parameter counts, reconstructions and the losses of
the first steps agree.

  python experiments/benchmarks/training_step.py
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from peers import (
    FLAX,
    LOSS_TOLERANCE,
    OURS,
    PLAIN,
    STEP_PROTOCOL,
    TORCH,
    JaxTraining,
    Train,
    check_losses,
    check_outputs,
    copy_weights,
    costs,
    jax_trainings,
    parameter_count,
    torch_adam,
    torch_images,
    with_flax_transposes,
)
from timing import ROOT, parse_arguments, processors, time_in_turns, time_ratios, write_record

from deconv_jax.cli import load_config
from deconv_jax.cli.process import retain_freed_memory
from deconv_jax.data.batch import Batch
from deconv_jax.experiment import Experiment
from deconv_jax.models import Autoencoder
from deconv_jax.tasks.autoencoding import Autoencoding
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import TrainState
from deconv_jax.training.step import apply_model, images_in_unit_range

CONFIG = ROOT / "experiments" / "autoencoding" / "mnist.py"
BATCH_SIZE = 128
CALLS = 5
FORWARD_TOLERANCE = 1e-4
"""Largest absolute difference of pixels in [0, 1]."""
CHECKED_STEPS = 5


def main() -> None:
    """Check that the candidates agree, then time them."""
    arguments = parse_arguments(__file__, __doc__, rounds=20)
    jax.config.update("jax_platforms", "cpu")
    retain_freed_memory()
    torch.set_num_threads(processors())

    model = Experiment.from_dict(load_config(str(CONFIG))).task.model
    task = Autoencoding(model, Optimizer(name="adam", learning_rate=1e-3))
    shape = (BATCH_SIZE, *model.image_shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    batch = {"image": jnp.asarray(pixels), "index": jnp.arange(BATCH_SIZE, dtype=jnp.int32)}
    state = jax.jit(task.init)(jax.random.key(0), batch)
    net = TorchAutoencoder(model)
    copy_weights(net, state.params, layers_of(net, state.params))

    check_forward(task, state, batch, net)
    candidates: dict[str, Train] = dict(jax_trainings(task.train_step, state, batch))
    candidates[FLAX] = JaxTraining(with_flax_transposes(task.train_step), state, batch)
    candidates[TORCH] = torch_training(net, pixels, task.optimizer)
    check_losses(candidates, CHECKED_STEPS)

    times = time_in_turns(candidates, rounds=arguments.rounds, calls=CALLS)
    write_record(
        arguments.output,
        measured="one training step: uint8 images to floats, forward, backward, Adam; float32, CPU",
        protocol=f"{STEP_PROTOCOL}; "
        f"median over rounds of the mean of {CALLS} steps after a warm-up step; candidates "
        "interleaved in one process; same weights; parameter counts, "
        f"reconstructions (to {FORWARD_TOLERANCE:g}) and the losses of {CHECKED_STEPS} steps (to "
        f"{LOSS_TOLERANCE:g}, relative) are checked first",
        times=times,
        ratios=time_ratios(times, (OURS, PLAIN), (OURS, FLAX), (OURS, TORCH)),
        cost=costs(candidates),
        versions={"torch": torch.__version__},
        shapes={"images": list(shape), "code": model.latent_dim, "features": list(model.features)},
        parameters=parameter_count(state.params),
    )


class TorchAutoencoder(torch.nn.Module):
    """The `Autoencoder` of the same settings, on NCHW images in channels-last memory."""

    def __init__(self, model: Autoencoder):
        """Make the layers. Exit unless `model` has the architecture that is implemented here."""
        super().__init__()
        kind = (model.latent, model.norm, model.activation, model.remat)
        if kind != ("vector", "batch", "relu", False) or (model.kernel_size - model.stride) % 2:
            raise SystemExit(f"{CONFIG} has another autoencoder now; update this script")
        total = model.stride ** len(model.features)
        height, width, channels = model.image_shape
        self.base = (height // total, width // total, model.features[-1])
        # "SAME" padding for sides that are multiples of the stride.
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


def layers_of(net: TorchAutoencoder, params: Any) -> dict[torch.nn.Module, Any]:
    """Return the layer of `net` for each part of an `Autoencoder`'s weights."""
    names = ("to_code", "from_code", "to_image")
    layers = {getattr(net, name): params[name] for name in names}
    for stages, name, layer in ((net.down, "down", "Conv_0"), (net.up, "up", "ConvTranspose_0")):
        for i, (conv, norm, _) in enumerate(stages):
            ours = params[f"{name}_{i}"]
            layers |= {conv: ours[layer], norm: ours["Norm_0"]["BatchNorm_0"]}
    return layers


def torch_training(net: TorchAutoencoder, pixels: np.ndarray, settings: Optimizer) -> Train:
    """The training of `net`."""
    batch, optimizer = torch.from_numpy(pixels), torch_adam(net, settings)

    def train() -> list[float]:
        images = torch_images(batch)
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.mse_loss(net(images), images)
        loss.backward()
        optimizer.step()
        return [loss.item()]

    return train


def check_forward(
    task: Autoencoding, state: TrainState, batch: Batch, net: TorchAutoencoder
) -> None:
    """Exit unless the reconstructions agree, with batch norm in training mode."""

    def reconstruct(state: TrainState, batch: Batch) -> jax.Array:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        images = images_in_unit_range(batch["image"])
        return apply_model(task.model, variables, images, train=True, precision="f32")[0]

    ours = jax.jit(reconstruct)(state, batch)
    flax = jax.jit(with_flax_transposes(reconstruct))(state, batch)
    images = torch_images(torch.from_numpy(np.array(batch["image"])))
    statistics = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        theirs = net(images).permute(0, 2, 3, 1).numpy()
    net.load_state_dict(statistics)  # Undo the update of the running statistics.
    check_outputs("reconstructions", {OURS: ours, FLAX: flax, TORCH: theirs}, FORWARD_TOLERANCE)


if __name__ == "__main__":
    main()
