"""One training step of each restoration network and of the codec, compared with plain `lax` and PyTorch.

The networks are the denoiser of photographs, DnCNN, FSRCNN and the codec with a factorized prior. A step runs
forward, backward and Adam, in float32 on the CPU. Degraded images and the codec's noise are drawn beforehand and
are the same for all candidates. The step here also returns the gradient norm.

  python experiments/benchmarks/restoration_step.py
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from peers import Case, measure_cases
from timing import ROOT, parse_arguments
from torch.nn import functional

from deconv_jax.cli import load_config
from deconv_jax.data.batch import Batch
from deconv_jax.data.forward_model import fold_in
from deconv_jax.experiment import Experiment
from deconv_jax.models import FactorizedCodec
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Precision, Scalars, TrainState
from deconv_jax.training.step import apply_model, gradient_step, init_state

CONFIGS = ROOT / "experiments" / "restoration"
CALLS = 3
FORWARD_TOLERANCE = 1e-3
"""Largest absolute difference of pixels in [0, 1], and of bits per pixel."""
CHECKED_STEPS = 3
OPTIMIZER = Optimizer(name="adam", learning_rate=1e-4)
BATCH_SIZE, PATCH = 16, 40
CODEC_BATCH_SIZE, CODEC_PATCH, CODEC_LAMBDA = 8, 128, 0.01


def main() -> None:
    """Check that all agree, then time them, one network after the other."""
    arguments = parse_arguments(__file__, __doc__, rounds=15)
    measure_cases(
        arguments,
        CASES,
        calls=CALLS,
        steps=CHECKED_STEPS,
        tolerance=FORWARD_TOLERANCE,
        measured="one training step of restoration networks and of a codec: forward, backward, Adam; "
        "float32, CPU",
        protocol="degraded images and the codec's noise drawn beforehand, the same for all candidates",
    )


def restorer(
    config: str,
    kind: Callable[[Any], torch.nn.Module],
    patch: int,
    *,
    batch_size: int = BATCH_SIZE,
    precision: Precision = "f32",
    device: str = "cpu",
) -> Case:
    """Return the case of a config's network on gray patches of `patch` pixels.

    Args:
      config: File of the config, in `experiments/restoration`, with its argument.
      kind: PyTorch version of the network.
      patch: Side of the input in pixels.
      batch_size: Number of patches.
      precision: Precision of the step here.
      device: Device of PyTorch.
    """
    model = Experiment.from_dict(load_config(str(CONFIGS / config))).task.model
    random = np.random.default_rng(0)
    size = (batch_size, patch, patch, 1)
    clean = random.random((batch_size, model.scale * patch, model.scale * patch, 1), np.float32)
    batch = {"image": jnp.asarray(random.random(size, np.float32)), "clean": jnp.asarray(clean)}

    def outputs(state: TrainState, batch: Batch) -> Any:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        return apply_model(model, variables, batch["image"], train=True, precision=precision)[0]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        def loss(variables: Any, batch: Batch) -> Any:
            restored, stats = apply_model(
                model, variables, batch["image"], train=True, precision=precision
            )
            return jnp.mean((restored - batch["clean"]) ** 2), ({}, stats)

        return gradient_step(state, batch, loss, OPTIMIZER)

    state = jax.jit(functools.partial(init_state, model, OPTIMIZER))(
        jax.random.key(0), batch["image"]
    )
    net = kind(model).to(device, memory_format=torch.channels_last)
    images, target = (channels_first(batch[name]).to(device) for name in ("image", "clean"))
    return Case(
        step=step,
        outputs=outputs,
        state=state,
        batch=batch,
        optimizer=OPTIMIZER,
        net=net,
        layers=net.layers_of(state.params),  # type: ignore[operator]
        inputs=lambda: images,
        loss=functools.partial(functional.mse_loss, target=target),
    )


def codec() -> Case:
    """Return the case of a codec of one quality."""
    model = FactorizedCodec(features=64, latent_features=96)
    random = np.random.default_rng(0)
    shape = (CODEC_BATCH_SIZE, CODEC_PATCH, CODEC_PATCH, 3)
    batch = {"image": jnp.asarray(random.random(shape, np.float32))}
    keys, level = (
        jax.random.split(jax.random.key(1), CODEC_BATCH_SIZE),
        jnp.zeros(CODEC_BATCH_SIZE, int),
    )

    def coded(variables: Any, batch: Batch) -> Any:
        found, stats = apply_model(
            model, variables, batch["image"], level, keys, train=False, precision="f32"
        )
        return (found.images, found.bits / CODEC_PATCH**2), stats

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        def loss(variables: Any, batch: Batch) -> Any:
            (images, rate), stats = coded(variables, batch)
            error = jnp.mean((images - batch["image"]) ** 2)
            return CODEC_LAMBDA * 255.0**2 * error + jnp.mean(rate), ({}, stats)

        return gradient_step(state, batch, loss, OPTIMIZER)

    init = functools.partial(init_state, model, OPTIMIZER)
    state = jax.jit(init)(jax.random.key(0), batch["image"], jnp.zeros(1, jnp.int32))
    side = CODEC_PATCH // model.multiple
    noise = jax.vmap(
        lambda key: jax.random.uniform(
            key, (side, side, model.latent_features), minval=-0.5, maxval=0.5
        )
    )(fold_in(keys, 0))
    net = TorchCodec(model, channels_first(noise)).to(memory_format=torch.channels_last)
    images = channels_first(batch["image"])

    def loss(found: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        error = functional.mse_loss(found[0], images)
        return CODEC_LAMBDA * 255.0**2 * error + found[1].mean()

    return Case(
        step=step,
        outputs=lambda state, batch: coded({"params": state.params, "batch_stats": {}}, batch)[0],
        state=state,
        batch=batch,
        optimizer=OPTIMIZER,
        net=net,
        layers=net.layers_of(state.params),
        inputs=lambda: images,
        loss=loss,
    )


def channels_first(images: Any) -> torch.Tensor:
    """Return maps (batch, height, width, channels) as PyTorch takes them, in channels-last memory."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


class TorchRestorer(torch.nn.Module):
    """PyTorch version of `ConvDeconv` with stride 1."""

    def __init__(self, model: Any):
        """Make the layers. Exit if `model` has settings that are not implemented here."""
        super().__init__()
        if (model.stride, model.residual, model.activation) != (1, True, "relu"):
            raise SystemExit("the network of denoise_photos.py has changed; update this script")
        (first, second), size = model.features, model.kernel_size
        options = {"kernel_size": size, "padding": size // 2}
        self.layers = torch.nn.ModuleList(
            [
                torch.nn.Conv2d(1, first, **options),
                torch.nn.Conv2d(first, second, **options),
                torch.nn.ConvTranspose2d(second, first, **options),
                torch.nn.ConvTranspose2d(first, 1, **options),
            ]
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Restore images."""
        x = images
        for layer in self.layers[:-1]:
            x = layer(x).relu_()
        return images + self.layers[-1](x)

    def layers_of(self, params: Any) -> dict[torch.nn.Module, Any]:
        """Return the part of a `ConvDeconv`'s weights that belongs to each layer."""
        names = ("Conv_0", "Conv_1", "ConvTranspose_0", "ConvTranspose_1")
        return {layer: params[name] for layer, name in zip(self.layers, names, strict=True)}


class TorchDnCNN(torch.nn.Module):
    """PyTorch version of `DnCNN`."""

    def __init__(self, model: Any):
        """Make the layers."""
        super().__init__()
        features, depth = model.features, model.depth
        self.convs, self.norms = torch.nn.ModuleList(), torch.nn.ModuleList()
        for number, inputs in enumerate([1, *[features] * (depth - 2)]):
            self.convs.append(torch.nn.Conv2d(inputs, features, 3, padding=1, bias=number == 0))
            self.norms.append(torch.nn.BatchNorm2d(features) if number else torch.nn.Identity())
        self.to_noise = torch.nn.Conv2d(features, 1, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Denoise images."""
        x = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x)).relu_()
        return images - self.to_noise(x)

    def layers_of(self, params: Any) -> dict[torch.nn.Module, Any]:
        """Return the part of a `DnCNN`'s weights that belongs to each layer."""
        layers = {self.to_noise: params["to_noise"]}
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            layers[conv] = params[f"layer_{i}"]["Conv_0"]
            if i:
                layers[norm] = params[f"layer_{i}"]["Norm_0"]["BatchNorm_0"]
        return layers


class TorchFSRCNN(torch.nn.Module):
    """PyTorch version of `FSRCNN`, with its transposed convolution."""

    def __init__(self, model: Any):
        """Make the layers."""
        super().__init__()
        maps = [f"map_{i}" for i in range(model.m)]
        sizes = {"extract": (1, model.d, 5), "shrink": (model.d, model.s, 1)}
        sizes |= dict.fromkeys(maps, (model.s, model.s, 3))
        sizes |= {"expand": (model.s, model.d, 1)}
        self.convs = torch.nn.ModuleDict(
            {name: torch.nn.Conv2d(*size, padding=size[2] // 2) for name, size in sizes.items()}
        )
        self.slopes = torch.nn.ModuleDict(
            {name: torch.nn.PReLU(size[1]) for name, size in sizes.items()}
        )
        self.upsample = torch.nn.ConvTranspose2d(
            model.d, 1, 9, stride=model.scale, padding=4, output_padding=model.scale - 1
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Enlarge images."""
        x = images
        for name, conv in self.convs.items():
            x = self.slopes[name](conv(x))
        return self.upsample(x)

    def layers_of(self, params: Any) -> dict[torch.nn.Module, Any]:
        """Return the part of an `FSRCNN`'s weights that belongs to each layer."""
        layers = {self.upsample: params["upsample"]}
        for name, conv in self.convs.items():
            layers |= {conv: params[name], self.slopes[name]: params[f"{name}_prelu"]}
        return layers


class _LowerBound(torch.autograd.Function):
    """max(x, bound). Below the bound, the gradient also passes if the update would increase x."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, bound: float) -> torch.Tensor:
        context.save_for_backward(x)
        context.bound = bound
        return x.clamp_min(bound)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> Any:
        (x,) = context.saved_tensors
        return gradient * ((x >= context.bound) | (gradient < 0)), None


class TorchGDN(torch.nn.Module):
    """PyTorch version of `GDN`."""

    def __init__(self, channels: int, *, inverse: bool):
        """Make the parameters."""
        super().__init__()
        self.inverse = inverse
        self.beta = torch.nn.Parameter(torch.zeros(channels))
        self.gamma = torch.nn.Parameter(torch.zeros(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize x."""

        def positive(root: torch.Tensor, least: float) -> torch.Tensor:
            bound = (least + 2.0**-36) ** 0.5
            return _LowerBound.apply(root, bound) ** 2 - 2.0**-36  # type: ignore[no-untyped-call]

        gamma, beta = positive(self.gamma, 0.0), positive(self.beta, 1e-6)
        power = functional.conv2d(x * x, gamma[:, :, None, None], beta)
        return x * (power.sqrt() if self.inverse else power.rsqrt())

    def weight_pairs(self, params: Any) -> list[tuple[torch.Tensor, np.ndarray]]:
        """Return each parameter with the array to copy into it."""
        return [(self.beta, params["beta"]), (self.gamma, params["gamma"])]


class TorchPrior(torch.nn.Module):
    """PyTorch version of `FactorizedPrior`."""

    WIDTHS = (1, 3, 3, 3, 3, 1)

    def __init__(self, channels: int):
        """Make the parameters."""
        super().__init__()
        zeros, widths = torch.zeros, list(itertools.pairwise(self.WIDTHS))
        self.matrices = torch.nn.ParameterList(zeros(channels, b, a) for a, b in widths)
        self.biases = torch.nn.ParameterList(zeros(channels, b) for _, b in widths)
        self.factors = torch.nn.ParameterList(zeros(channels, b) for _, b in widths[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the bits of latents (batch, channels, height, width)."""
        x = x.permute(0, 2, 3, 1)
        lower, upper = self._logits(x - 0.5), self._logits(x + 0.5)
        sign = torch.where(lower + upper > 0, -1.0, 1.0).detach()
        mass = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        return -torch.log2(_LowerBound.apply(mass, 1e-9))  # type: ignore[no-untyped-call]

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        values = x[..., None]
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            values = torch.einsum("...cj,cij->...ci", values, functional.softplus(matrix)) + bias
            if i < len(self.factors):
                values = values + torch.tanh(self.factors[i]) * torch.tanh(values)
        return values[..., 0]

    def weight_pairs(self, params: Any) -> list[tuple[torch.Tensor, np.ndarray]]:
        """Return each parameter with the array to copy into it."""
        lists = {"matrix": self.matrices, "bias": self.biases, "factor": self.factors}
        return [
            (parameter, params[f"{name}{i}"])
            for name, parameters in lists.items()
            for i, parameter in enumerate(parameters)
        ]


class TorchCodec(torch.nn.Module):
    """PyTorch version of `FactorizedCodec` with one quality."""

    STEPS = 40.0

    def __init__(self, model: FactorizedCodec, noise: torch.Tensor):
        """Make the layers. To estimate bits, `noise` is added to the latents instead of rounding."""
        super().__init__()
        self.noise = noise
        widths = [model.channels, *[model.features] * 3, model.latent_features]
        pairs = list(itertools.pairwise(widths))
        self.down = torch.nn.ModuleList(torch.nn.Conv2d(*pair, 5, stride=2) for pair in pairs)
        self.up = torch.nn.ModuleList(
            torch.nn.ConvTranspose2d(b, a, 5, stride=2, padding=1) for a, b in reversed(pairs)
        )
        self.down_norm, self.up_norm = (
            torch.nn.ModuleList(TorchGDN(model.features, inverse=inverse) for _ in range(3))
            for inverse in (False, True)
        )
        self.prior = TorchPrior(model.latent_features)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return decoded images, and bits per pixel of each."""
        x = 2.0 * images - 1.0
        for number, layer in enumerate(self.down):
            x = layer(functional.pad(x, (1, 2, 1, 2)))
            x = self.down_norm[number](x) if number < 3 else x
        y = x * self.STEPS
        bits = self.prior(y + self.noise).sum((1, 2, 3)) / images[0, 0].numel()
        x = (y + (y.round() - y).detach()) / self.STEPS
        for number, layer in enumerate(self.up):
            x = layer(x)[:, :, :-1, :-1]
            x = self.up_norm[number](x) if number < 3 else x
        return 0.5 * (x + 1.0), bits

    def layers_of(self, params: Any) -> dict[torch.nn.Module, Any]:
        """Return the part of a `FactorizedCodec`'s weights that belongs to each layer."""
        layers: dict[torch.nn.Module, Any] = {self.prior: params["prior"]}
        for name in ("down", "up", "down_norm", "up_norm"):
            of_name = getattr(self, name)
            layers |= {layer: params[f"{name}_{i}"] for i, layer in enumerate(of_name)}
        return layers


CASES: dict[str, Callable[[], Case]] = {
    "photo denoiser": functools.partial(restorer, "denoise_photos.py", TorchRestorer, 48),
    "DnCNN": functools.partial(restorer, "dncnn.py", TorchDnCNN, PATCH),
    "FSRCNN": functools.partial(restorer, "super_resolution.py", TorchFSRCNN, PATCH // 2),
    "codec": codec,
}


if __name__ == "__main__":
    main()
