"""Peers of the training-step benchmarks, and the check that all candidates agree.

The peers are PyTorch, `flax.linen.ConvTranspose` in place of the transposed convolution here, and plain `lax`,
which is one `lax` convolution per operator under the same derivative rules and compiler options. All candidates
get the same weights. A benchmark exits unless parameter counts, outputs and the losses of the first steps agree.
"""

import argparse
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import process_time
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from timing import time_in_turns, time_ratios, write_record

from deconv_jax.cli.process import retain_freed_memory
from deconv_jax.compilation import jit
from deconv_jax.data.batch import Batch
from deconv_jax.models.layers import ConvTranspose, Upsample
from deconv_jax.ops.conv import cpu
from deconv_jax.ops.conv import lax as plain
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Scalars, TrainState

Train = Callable[[], list[float]]
"""Each call trains one more step and returns its losses."""

OURS, PLAIN, FLAX, TORCH = "deconv_jax", "plain lax", "flax.linen", "torch"
LOSS_TOLERANCE = 1e-3
"""Largest relative difference of the losses."""
STEP_PROTOCOL = (
    "all candidates keep freed memory as `deconv-jax train` does; plain lax has the derivative rules "
    "and compiler options of deconv_jax; torch eager, channels_last, fused Adam"
)


def with_flax_transposes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` with every transposed convolution computed by `flax.linen.ConvTranspose`.

    It affects the layers `ConvTranspose` and, with method "transposed", `Upsample`.
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


@contextlib.contextmanager
def plain_lax() -> Iterator[None]:
    """Compile convolutions as plain `lax` within this context, with the derivative rules here."""
    names = ("conv", "conv_transpose", "kernel_gradient")
    with mock.patch.multiple(cpu, **{name: getattr(plain, name) for name in names}):
        yield


class JaxTraining:
    """The compiled training step of a task. A call trains one step and returns its losses.

    Attributes:
      cost: CPU seconds of tracing, lowering and compilation, and peak megabytes of temporary memory.
    """

    def __init__(
        self,
        step: Callable[[TrainState, Batch], tuple[TrainState, Scalars]],
        state: TrainState,
        batch: Batch,
        losses: Sequence[str] = ("loss",),
    ):
        """Compile `step`; `losses` are the names of the scalars to return."""

        def fresh(state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
            return step(state, batch)  # a new function, because JAX caches what it lowers

        started = process_time()
        self._compiled = jit(fresh, donate_argnums=0).lower(state, batch).compile()
        seconds = process_time() - started
        size = self._compiled.memory_analysis().temp_size_in_bytes
        self.cost = {"compile_s": round(seconds, 2), "temporaries_mb": round(size / 1e6, 1)}
        self._state, self._batch = jax.tree.map(jnp.copy, state), batch
        self._losses = losses

    def __call__(self) -> list[float]:
        """Train one step."""
        self._state, scalars = jax.block_until_ready(self._compiled(self._state, self._batch))
        return [float(scalars[name]) for name in self._losses]


def jax_trainings(
    step: Callable[[TrainState, Batch], tuple[TrainState, Scalars]],
    state: TrainState,
    batch: Batch,
    losses: Sequence[str] = ("loss",),
) -> dict[str, JaxTraining]:
    """Return the training step with the convolutions here, and with plain `lax`."""
    ours = JaxTraining(step, state, batch, losses)
    with plain_lax():
        return {OURS: ours, PLAIN: JaxTraining(step, state, batch, losses)}


def costs(candidates: Mapping[str, Train]) -> dict[str, dict[str, float]]:
    """Return the compilation cost of each compiled candidate."""
    compiled = {n: c for n, c in candidates.items() if isinstance(c, JaxTraining)}
    return {name: candidate.cost for name, candidate in compiled.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A network and its training step, here and in PyTorch.

    Attributes:
      step: One training step here.
      outputs: The network's outputs in training mode, as a function of a state and a batch.
      state: First state.
      batch: Batch of every step.
      optimizer: Optimizer settings of both.
      net: The network in PyTorch. Its images are (batch, channels, height, width).
      layers: PyTorch layer of each part of the weights.
      inputs: Function that returns PyTorch's input.
      loss: PyTorch's loss of the network's outputs.
    """

    step: Callable[[TrainState, Batch], tuple[TrainState, Scalars]]
    outputs: Callable[[TrainState, Batch], Any]
    state: TrainState
    batch: Batch
    optimizer: Optimizer
    net: torch.nn.Module
    layers: Mapping[torch.nn.Module, Any]
    inputs: Callable[[], torch.Tensor]
    loss: Callable[[Any], torch.Tensor]


def time_case(
    case: Case, *, rounds: int, calls: int, steps: int, tolerance: float
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Return milliseconds per step of each candidate and the costs of compilation.

    Args:
      case: The network and its training step.
      rounds: As for `time_in_turns`.
      calls: As for `time_in_turns`.
      steps: Number of steps whose losses must agree.
      tolerance: Largest absolute difference of the outputs.
    """
    copy_weights(case.net, case.state.params, case.layers)
    ours = jax.tree.leaves(jit(case.outputs)(case.state, case.batch))
    statistics = {name: value.clone() for name, value in case.net.state_dict().items()}
    with torch.no_grad():
        found = case.net(case.inputs())
    case.net.load_state_dict(statistics)  # Undo the update of the running statistics.
    theirs = [channels_last(t).numpy() for t in (found if isinstance(found, tuple) else (found,))]
    for number, pair in enumerate(zip(ours, theirs, strict=True)):
        check_outputs(f"outputs {number}", dict(zip((OURS, TORCH), pair, strict=True)), tolerance)
    candidates: dict[str, Train] = dict(jax_trainings(case.step, case.state, case.batch))
    candidates[TORCH] = torch_training(case)
    check_losses(candidates, steps)
    return time_in_turns(candidates, rounds=rounds, calls=calls), costs(candidates)


def measure_cases(
    arguments: argparse.Namespace,
    cases: Mapping[str, Callable[[], Case]],
    *,
    calls: int,
    steps: int,
    tolerance: float,
    measured: str,
    protocol: str,
) -> None:
    """Check and time the networks one after the other, and write the record.

    Args:
      arguments: Result of `parse_arguments`.
      cases: Functions that make the case of each network.
      calls: As for `time_case`.
      steps: As for `time_case`.
      tolerance: As for `time_case`.
      measured: As for `write_record`.
      protocol: Details of the protocol that are specific to these networks.
    """
    jax.config.update("jax_platforms", "cpu")
    retain_freed_memory()
    torch.set_num_threads(processors())
    times, ratios, cost, parameters, shapes = {}, {}, {}, {}, {}
    for name, make in cases.items():
        case = make()
        of_case, cost_of_case = time_case(
            case, rounds=arguments.rounds, calls=calls, steps=steps, tolerance=tolerance
        )
        times |= {f"{name}: {who}": ms for who, ms in of_case.items()}
        cost |= {f"{name}: {who}": value for who, value in cost_of_case.items()}
        of_pairs = time_ratios(of_case, (OURS, PLAIN), (OURS, TORCH))
        ratios |= {f"{name}: {pair}": ratio for pair, ratio in of_pairs.items()}
        parameters[name] = parameter_count(case.state.params)
        shapes[name] = list(case.batch["image"].shape)
    write_record(
        arguments.output,
        measured=measured,
        protocol=f"{STEP_PROTOCOL}; median over rounds of the mean of {calls} steps after a warm-up step; "
        "candidates interleaved in one process; same weights; parameter counts, outputs (to "
        f"{tolerance:g}) and the losses of {steps} steps (to {LOSS_TOLERANCE:g}, relative) are checked "
        f"first; {protocol}",
        times=times,
        ratios=ratios,
        versions={"torch": torch.__version__},
        cost=cost,
        shapes=shapes,
        parameters=parameters,
    )


def torch_training(case: Case) -> Train:
    """Return the training step of a PyTorch network."""
    optimizer = torch_adam(case.net, case.optimizer)

    def train() -> list[float]:
        optimizer.zero_grad(set_to_none=True)
        loss = case.loss(case.net(case.inputs()))
        loss.backward()
        optimizer.step()
        return [loss.item()]

    return train


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Move the channels of maps (batch, channels, height, width) last; return other arrays unchanged."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def torch_adam(net: torch.nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """Return PyTorch's fused Adam with the same settings. Only Adam with a constant rate is supported."""
    return torch.optim.Adam(
        net.parameters(),
        lr=settings.learning_rate,
        betas=(settings.momentum, settings.beta2),
        fused=True,
    )


def torch_images(pixels: torch.Tensor) -> torch.Tensor:
    """Convert uint8 images (batch, height, width, channels) to floats in [0, 1], channels first."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0


def weight_pairs(layer: torch.nn.Module, params: Any) -> list[tuple[torch.Tensor, np.ndarray]]:
    """Return the PyTorch parameters of a layer, each with the array to copy into it.

    Kernels are (height, width, in, out) for convolutions and (height, width, out, in) for transposed ones here,
    and (out, in, height, width) and (in, out, height, width) in PyTorch.
    """
    if hasattr(layer, "weight_pairs"):
        return layer.weight_pairs(params)
    if isinstance(layer, torch.nn.PReLU):
        return [(layer.weight, params["slope"])]
    if isinstance(layer, torch.nn.BatchNorm2d):
        weight = params["scale"]
    elif isinstance(layer, torch.nn.Linear):
        weight = params["kernel"].T
    else:
        weight = params["kernel"].transpose(3, 2, 0, 1)
    pairs = [(layer.weight, weight)]
    return pairs if layer.bias is None else [*pairs, (layer.bias, params["bias"])]


def copy_weights(net: torch.nn.Module, params: Any, layers: Mapping[torch.nn.Module, Any]) -> None:
    """Copy the weights `params` into `net`. Exit unless every weight is copied.

    Args:
      net: PyTorch network.
      params: Weights to copy.
      layers: PyTorch layer of each part of `params`.
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
    """Exit unless all outputs equal those of `OURS` up to an absolute tolerance."""
    for name, output in outputs.items():
        difference = float(np.abs(np.asarray(outputs[OURS]) - np.asarray(output)).max())
        if not difference <= tolerance:
            raise SystemExit(f"{what} of {OURS} and {name} differ by {difference:g}")


def check_losses(candidates: Mapping[str, Train], steps: int) -> None:
    """Exit unless the losses of the first steps agree."""
    losses = {name: [train() for _ in range(steps)] for name, train in candidates.items()}
    for name, of_steps in losses.items():
        if not np.allclose(of_steps, losses[OURS], rtol=LOSS_TOLERANCE, atol=0):
            raise SystemExit(f"losses of {OURS} and {name} differ: {losses[OURS]} and {of_steps}")


def parameter_count(params: Any) -> int:
    """Return the number of trainable parameters."""
    return sum(a.size for a in jax.tree.leaves(params))
