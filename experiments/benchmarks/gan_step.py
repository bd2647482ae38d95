"""One training step of a DCGAN, compared with flax.linen and PyTorch.

A step updates the discriminator and the generator once, with Adam and the non-saturating loss, in float32 on the
CPU. It converts uint8 images to floats, draws latents, and generates the images once for both updates. The
networks are those of arXiv:1511.06434 for 32 x 32 pixels.

The `flax.linen` candidate differs only in its transposed convolution, `flax.linen.ConvTranspose`, so the ratio is
that of the operator. PyTorch differs in everything, so the ratio is that of the whole system. PyTorch runs
eagerly and with both networks compiled by `torch.compile`, in channels-last memory, with fused Adam, and without
the gradient of the discriminator's weights in the generator's update. The step here also returns gradient norms
and accuracies.

All candidates get the same weights and latents. The script fails unless parameter counts, generated images,
logits and the losses of the first steps agree.

  python experiments/benchmarks/gan_step.py
"""

import copy
import itertools
import os
import shutil
from collections.abc import Iterable
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
from timing import parse_arguments, processors, time_in_turns, time_ratios, write_record
from torch.nn.functional import softplus

from deconv_jax.cli.process import retain_freed_memory
from deconv_jax.data.augment import example_keys
from deconv_jax.data.batch import Batch
from deconv_jax.models.gan import DCGANDiscriminator, DCGANGenerator
from deconv_jax.models.latent_sampling import draw_latents
from deconv_jax.tasks.gan import GAN
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import TrainState
from deconv_jax.training.step import apply_model, images_in_unit_range

BATCH_SIZE, SIZE, CHANNELS, LATENT_DIM = 64, 32, 3, 100
WIDTHS = (64, 128)
"""Channels of the largest hidden map: 64 as in common small DCGANs, 128 as in the paper (figure 1)."""
STAGES = 3
"""Enlargements from 4 x 4 pixels to 32 x 32."""
CALLS = 2
FLAX_ROUNDS, FLAX_CALLS = 3, 1
"""A step with flax.linen takes seconds, so it has few rounds."""
FORWARD_TOLERANCE = 1e-4
"""Largest absolute difference of pixels in [0, 1]."""
LOGIT_TOLERANCE = 1e-3
CHECKED_STEPS = 3

COMPILED = "torch.compile"
LOSSES = ("discriminator_loss", "generator_loss")
GEOMETRY = {"kernel_size": 4, "stride": 2, "padding": 1}
"""Padding of all convolutions: "SAME"."""


def main() -> None:
    """Check that all candidates agree, then time them, one width after the other."""
    arguments = parse_arguments(__file__, __doc__, rounds=15)
    jax.config.update("jax_platforms", "cpu")
    retain_freed_memory()
    torch.set_num_threads(processors())

    times, ratios, cost, parameters = {}, {}, {}, {}
    for width in WIDTHS:
        task, state, batch = training_of(width)
        measured, cost_of_width = timed(task, state, batch, arguments.rounds)
        cost |= {f"width {width}: {name}": value for name, value in cost_of_width.items()}
        peers = [(OURS, peer) for peer in (PLAIN, TORCH, COMPILED, FLAX) if peer in measured]
        times |= {f"width {width}: {name}": ms for name, ms in measured.items()}
        of_width = time_ratios(measured, *peers)
        ratios |= {f"width {width}: {names}": ratio for names, ratio in of_width.items()}
        counts = {name: parameter_count(params) for name, params in state.params.items()}
        parameters[f"width {width}"] = counts
    compiled = "compiled" if has_compiler() else "not compiled: there is no C++ compiler"
    write_record(
        arguments.output,
        measured="one training step of a DCGAN, an update of each network; float32, CPU",
        protocol=f"{STEP_PROTOCOL}, and with both networks {compiled}; "
        f"median over rounds of the mean of {CALLS} steps after a warm-up step; candidates interleaved "
        f"in one process, except {FLAX}: {FLAX_ROUNDS} rounds of {FLAX_CALLS} step at the end; same weights "
        "and latents; parameter counts, generated images (to "
        f"{FORWARD_TOLERANCE:g}), logits (to {LOGIT_TOLERANCE:g}) and both losses of "
        f"{CHECKED_STEPS} steps (to {LOSS_TOLERANCE:g}, relative) are checked first",
        times=times,
        ratios=ratios,
        cost=cost,
        versions={"torch": torch.__version__},
        shapes={
            "images": [BATCH_SIZE, SIZE, SIZE, CHANNELS],
            "latent": LATENT_DIM,
            "widths": [hidden(width) for width in WIDTHS],
        },
        parameters=parameters,
    )


def training_of(width: int) -> tuple[GAN, TrainState, Batch]:
    """Return the task, its first state and the batch."""
    shape = (BATCH_SIZE, SIZE, SIZE, CHANNELS)
    task = GAN(
        generator=DCGANGenerator(image_shape=shape[1:], latent_dim=LATENT_DIM, width=width),
        discriminator=DCGANDiscriminator(width=width),
        optimizer=Optimizer(name="adam", learning_rate=2e-4, momentum=0.5),
        num_steps=1,
    )
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    batch = {"image": jnp.asarray(pixels), "index": jnp.arange(BATCH_SIZE, dtype=jnp.int32)}
    return task, jax.jit(task.init)(jax.random.key(0), batch), batch


def timed(
    task: GAN, state: TrainState, batch: Batch, rounds: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Return milliseconds of a step of each candidate and the costs of compilation."""
    latents = [latents_of_step(task, step, batch) for step in range(CHECKED_STEPS)]
    nets: dict[str, torch.nn.Module] = {}
    for name, kind in (("generator", TorchGenerator), ("discriminator", TorchDiscriminator)):
        params = state.params[name]
        nets[name] = kind(params, getattr(task, name).width)
        copy_weights(nets[name], params, nets[name].layers_of(params))

    check_forward(task, state, batch, latents[0], nets)
    pixels = np.array(batch["image"])
    candidates: dict[str, Train] = dict(jax_trainings(task.train_step, state, batch, LOSSES))
    candidates[TORCH] = torch_training(copy.deepcopy(nets), pixels, latents, task.optimizer)
    if has_compiler():
        for net in nets.values():
            net.compile()
        candidates[COMPILED] = torch_training(nets, pixels, latents, task.optimizer)
    flax = {FLAX: JaxTraining(with_flax_transposes(task.train_step), state, batch, LOSSES)}
    check_losses(candidates | flax, CHECKED_STEPS)
    times = time_in_turns(candidates, rounds=rounds, calls=CALLS)
    times |= time_in_turns(flax, rounds=FLAX_ROUNDS, calls=FLAX_CALLS)
    return times, costs(candidates | flax)


def hidden(width: int) -> list[int]:
    """Return the number of channels of the generator's hidden maps, smallest map first."""
    return [width * 2**i for i in reversed(range(STAGES))]


def latents_of_step(task: GAN, step: int, batch: Batch) -> jax.Array:
    """Return the latents that `GAN` draws for the discriminator update of a step."""
    key = jax.random.key(task.seed)
    for number in (step, 0, 0):  # step, update, purpose of the key
        key = jax.random.fold_in(key, number)
    return draw_latents(example_keys(key, batch["index"]), LATENT_DIM)


class TorchGenerator(torch.nn.Module):
    """The `DCGANGenerator` with these settings in PyTorch: NCHW images in channels-last memory."""

    def __init__(self, params: Any, width: int):
        """Make the layers, with a bias where `params` have one."""
        super().__init__()
        self.side = SIZE >> STAGES
        outputs = self.side**2 * hidden(width)[0]
        self.to_map = torch.nn.Linear(LATENT_DIM, outputs, bias="bias" in params["Dense_0"])
        self.stages = torch.nn.Sequential()
        for i, channels in enumerate(itertools.pairwise([*hidden(width), CHANNELS])):
            bias = "bias" in params[f"Upsample_{i}"]
            self.stages.append(torch.nn.BatchNorm2d(channels[0]))
            self.stages.append(torch.nn.ReLU(inplace=True))
            self.stages.append(torch.nn.ConvTranspose2d(*channels, **GEOMETRY, bias=bias))
        self.to(memory_format=torch.channels_last)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents (batch, dims) to images (batch, channels, height, width) in [0, 1]."""
        x = self.to_map(latents).reshape(len(latents), self.side, self.side, -1)
        return 0.5 * (torch.tanh(self.stages(x.permute(0, 3, 1, 2))) + 1.0)

    def layers_of(self, params: Any) -> dict[torch.nn.Module, Any]:
        """Return the layer of each part of a `DCGANGenerator`'s weights."""
        layers = {self.to_map: params["Dense_0"]}
        for i in range(STAGES):
            norm, _, enlarging = self.stages[3 * i : 3 * i + 3]
            layers[norm] = params[f"ConditionalNorm_{i}"]["Norm_0"]["BatchNorm_0"]
            layers[enlarging] = params[f"Upsample_{i}"]
        return layers


class TorchDiscriminator(torch.nn.Module):
    """The `DCGANDiscriminator` with these settings in PyTorch: NCHW images in channels-last memory."""

    def __init__(self, params: Any, width: int):
        """Make the layers, with a bias where `params` have one."""
        super().__init__()
        self.convs, self.norms = torch.nn.ModuleList(), torch.nn.ModuleList()
        for i, channels in enumerate(itertools.pairwise([CHANNELS, *hidden(width)[::-1]])):
            bias = "bias" in params[f"Conv_{i}"]
            self.convs.append(torch.nn.Conv2d(*channels, **GEOMETRY, bias=bias))
            self.norms.append(torch.nn.BatchNorm2d(channels[1]) if i else torch.nn.Identity())
        self.to_logit = torch.nn.Linear((SIZE >> STAGES) ** 2 * hidden(width)[0], 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images in [0, 1] to logits (batch,)."""
        x = 2.0 * images - 1.0
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.nn.functional.leaky_relu(norm(conv(x)), 0.2, inplace=True)
        return self.to_logit(x.permute(0, 2, 3, 1).reshape(len(x), -1))[:, 0]

    def layers_of(self, params: Any) -> dict[torch.nn.Module, Any]:
        """Return the layer of each part of a `DCGANDiscriminator`'s weights."""
        layers = {self.to_logit: params["Dense_0"]}
        layers |= {conv: params[f"Conv_{i}"] for i, conv in enumerate(self.convs)}
        for i, norm in list(enumerate(self.norms))[1:]:
            layers[norm] = params[f"Norm_{i}"]["BatchNorm_0"]
        return layers


def torch_training(
    nets: dict[str, torch.nn.Module],
    pixels: np.ndarray,
    latents: Iterable[jax.Array],
    settings: Optimizer,
) -> Train:
    """Return the training step of `nets`, which uses the given latents in the first steps."""
    batch = torch.from_numpy(pixels)
    generator, discriminator = nets["generator"], nets["discriminator"]
    optimizers = {name: torch_adam(net, settings) for name, net in nets.items()}
    given = iter([torch.from_numpy(np.array(of_step)) for of_step in latents])

    def descend(name: str, loss: torch.Tensor) -> None:
        optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        optimizers[name].step()

    def train() -> list[float]:
        real = torch_images(batch)
        of_step = next(given, None)
        fake = generator(torch.randn(BATCH_SIZE, LATENT_DIM) if of_step is None else of_step)
        discriminator.requires_grad_(True)
        of_discriminator = (
            softplus(-discriminator(real)).mean() + softplus(discriminator(fake.detach())).mean()
        )
        descend("discriminator", of_discriminator)
        discriminator.requires_grad_(False)
        of_generator = softplus(-discriminator(fake)).mean()
        descend("generator", of_generator)
        return [of_discriminator.item(), of_generator.item()]

    return train


def has_compiler() -> bool:
    """Return whether there is a C++ compiler, which `torch.compile` needs."""
    return any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++"))))


def check_forward(
    task: GAN,
    state: TrainState,
    batch: Batch,
    latents: jax.Array,
    nets: dict[str, torch.nn.Module],
) -> None:
    """Exit unless generated images and logits agree, with batch norm in training mode."""

    def outputs(state: TrainState, batch: Batch) -> tuple[jax.Array, ...]:
        def apply(name: str, inputs: jax.Array) -> jax.Array:
            variables = {"params": state.params[name], "batch_stats": state.batch_stats[name]}
            return apply_model(
                getattr(task, name), variables, inputs, train=True, precision=task.precision
            )[0]

        fake = apply("generator", latents)
        real = images_in_unit_range(batch["image"])
        return fake, apply("discriminator", real), apply("discriminator", fake)

    # Copies keep the running statistics of batch norm unchanged.
    generator, discriminator = (copy.deepcopy(nets[n]) for n in ("generator", "discriminator"))
    with torch.no_grad():
        fake = generator(torch.from_numpy(np.array(latents)))
        real = torch_images(torch.from_numpy(np.array(batch["image"])))
        theirs = fake.permute(0, 2, 3, 1).numpy(), discriminator(real), discriminator(fake)
    of_all = {
        OURS: jax.jit(outputs)(state, batch),
        FLAX: jax.jit(with_flax_transposes(outputs))(state, batch),
        TORCH: theirs,
    }
    tolerances = {
        "generated images": FORWARD_TOLERANCE,
        "logits of real images": LOGIT_TOLERANCE,
        "logits of generated images": LOGIT_TOLERANCE,
    }
    for i, (what, tolerance) in enumerate(tolerances.items()):
        check_outputs(what, {name: arrays[i] for name, arrays in of_all.items()}, tolerance)


if __name__ == "__main__":
    main()
