"""What the benchmarks of training steps share: the peers, and how they are held to the same numbers.

Peers are `flax.linen.ConvTranspose` in place of the transposed convolutions here, and PyTorch. What
a reader would get wrong is to believe that they compute the same thing because they look alike. So
a benchmark gives all of them the same weights, and exits unless parameter counts, outputs and the
losses of the first steps agree.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

from deconv_jax.models.layers import ConvTranspose, Upsample
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Scalars, TrainState
from deconv_jax.training.task import Batch

Train = Callable[[], list[float]]
"""Trains a step further each time and returns its losses."""

OURS, FLAX, TORCH = "deconv_jax", "flax.linen", "torch"
LOSS_TOLERANCE = 1e-3
"""Relative, after each of the checked updates."""


def with_flax_transposes(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, in which every transposed convolution computes by `flax.linen.ConvTranspose`.

    That is what `ConvTranspose` does, and `Upsample` by the method "transposed".
    """

    def as_flax(layer: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        ours = context.module
        if isinstance(ours, ConvTranspose):
            stride = ours.stride
        elif isinstance(ours, Upsample) and ours.method == "transposed":
            stride = ours.factor
        else:
            return layer(*args, **kwargs)
        params = ours.variables["params"]
        flax = nn.ConvTranspose(
            ours.features,
            params["kernel"].shape[:2],
            (stride, stride),
            padding="SAME",
            use_bias=ours.use_bias,
            transpose_kernel=True,
            parent=None,
        )
        return flax.apply({"params": params}, *args)

    @functools.wraps(function)
    def intercepted(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(as_flax):
            return function(*args, **kwargs)

    return intercepted


def jax_training(
    step: Callable[[TrainState, Batch], tuple[TrainState, Scalars]],
    state: TrainState,
    batch: Batch,
    losses: Sequence[str] = ("loss",),
) -> Train:
    """The training of a task; `losses` are the names of the scalars that are returned."""
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    state = jax.tree.map(jnp.copy, state)

    def train() -> list[float]:
        nonlocal state
        state, scalars = jax.block_until_ready(compiled(state, batch))
        return [float(scalars[name]) for name in losses]

    return train


def torch_adam(net: torch.nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """PyTorch's fused Adam of the same settings; of a constant rate, and nothing but Adam."""
    return torch.optim.Adam(
        net.parameters(),
        lr=settings.learning_rate,
        betas=(settings.momentum, settings.beta2),
        fused=True,
    )


def torch_images(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 images (batch, height, width, channels) to floats in [0, 1], channels first."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0


def weight_pairs(layer: torch.nn.Module, params: Any) -> list[tuple[torch.Tensor, np.ndarray]]:
    """PyTorch's parameters of a layer, each with the array here that it is to be.

    Kernels are (height, width, in, out) for convolutions and (height, width, out, in) for their
    transposes here, (out, in, height, width) and (in, out, height, width) there.
    """
    if isinstance(layer, torch.nn.BatchNorm2d):
        weight = params["scale"]
    elif isinstance(layer, torch.nn.Linear):
        weight = params["kernel"].T
    else:
        weight = params["kernel"].transpose(3, 2, 0, 1)
    pairs = [(layer.weight, weight)]
    return pairs if layer.bias is None else [*pairs, (layer.bias, params["bias"])]


def copy_weights(net: torch.nn.Module, params: Any, layers: Mapping[torch.nn.Module, Any]) -> None:
    """Gives `net` the weights `params`; exits unless it has as many and all of them are copied.

    Args:
      net: PyTorch's network.
      params: all its weights are to be.
      layers: what part of them belongs to which layer.
    """
    pairs = [pair for layer, of_layer in layers.items() for pair in weight_pairs(layer, of_layer)]
    counts = {
        TORCH: sum(p.numel() for p in net.parameters()),
        OURS: parameter_count(params),
        "copied": sum(p.numel() for p, _ in pairs),
    }
    if len(set(counts.values())) != 1:
        raise SystemExit(f"the networks do not have the same number of parameters: {counts}")
    with torch.no_grad():
        for parameter, array in pairs:
            parameter.copy_(torch.from_numpy(np.array(array)))


def check_outputs(what: str, outputs: Mapping[str, Any], tolerance: float) -> None:
    """Exits unless what all candidates compute is that of `OURS`, to an absolute tolerance."""
    for name, output in outputs.items():
        difference = float(np.abs(np.asarray(outputs[OURS]) - np.asarray(output)).max())
        if not difference <= tolerance:
            raise SystemExit(f"{what} of {OURS} and {name} differ by {difference:g}")


def check_losses(candidates: Mapping[str, Train], steps: int) -> None:
    """Exits unless so many steps of training go the same way in all."""
    losses = {name: [train() for _ in range(steps)] for name, train in candidates.items()}
    for name, of_steps in losses.items():
        if not np.allclose(of_steps, losses[OURS], rtol=LOSS_TOLERANCE, atol=0):
            raise SystemExit(f"losses of {OURS} and {name} differ: {losses[OURS]} and {of_steps}")


def parameter_count(params: Any) -> int:
    """Numbers that are trained."""
    return sum(a.size for a in jax.tree.leaves(params))
