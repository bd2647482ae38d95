"""Operators and training steps in float32 and bfloat16, beside PyTorch eager and `torch.compile`.

`check.py` runs this on a device. Both frameworks run on the same device, in channels-last memory; float32 is
multiplied in TF32 where the device has it.
"""

import copy
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import operators
from peers import FLAX, OURS, TORCH, Case, JaxTraining, Train, copy_weights, torch_training
from restoration_step import TorchDnCNN, TorchFSRCNN, restorer
from timing import time_in_turns, time_ratios, write_record

from deconv_jax.ops import conv, conv_transpose, kernel_to_lax
from deconv_jax.training.state import Precision

COMPILED = "torch.compile"
PRECISIONS: tuple[Precision, ...] = ("f32", "bf16")
DTYPES: Mapping[Precision, tuple[Any, torch.dtype]] = {
    "f32": (jnp.float32, torch.float32),
    "bf16": (jnp.bfloat16, torch.bfloat16),
}
TOLERANCES: Mapping[Precision, float] = {"f32": 1e-2, "bf16": 5e-2}
"""Largest difference of outputs and gradients, relative to the largest element, and of losses, relative. TF32 has 10
bits of significand, and bfloat16 has 7."""
CASES = (
    operators.Case("DCGAN 8 to 16 px, 256 to 128", (8, 8), 256, 128, 4, 2, 128),
    operators.Case("DCGAN 32 to 64 px, 64 to 3", (32, 32), 64, 3, 4, 2, 128),
    operators.Case("DnCNN 40 px, 64 to 64", (40, 40), 64, 64, 3, 1, 128),
    operators.Case("FSRCNN x3, 24 px, 56 to 1", (24, 24), 56, 1, 9, 3, 128),
)
SMALL_CASES = (operators.Case("small, 6 px, 4 to 3", (6, 6), 4, 3, 4, 2, 2),)
NETWORKS = {
    "DnCNN, batch 128": ("dncnn.py", TorchDnCNN, 40, 128),
    "FSRCNN x3, batch 128": ("super_resolution.py", TorchFSRCNN, 24, 128),
}
SMALL_NETWORKS = {"small DnCNN": ("dncnn.py:depth=3,features=4", TorchDnCNN, 8, 2)}
CHECKED_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Setup:
    """How to measure.

    Attributes:
      small: Whether to use tiny shapes and one call, to try the script.
      deadline: Value of `perf_counter` after which no further case starts.
      device: Device of PyTorch, or None if it has no counterpart of JAX's.
      missing: Reason why `device` is None.
    """

    small: bool
    deadline: float
    device: str | None
    missing: str

    @classmethod
    def of(cls, small: bool, seconds: float) -> "Setup":
        """Return the setup for JAX's device, with `seconds` left for cases to start."""
        backend = jax.default_backend()
        device = {"cpu": "cpu", "gpu": "cuda" if torch.cuda.is_available() else None}.get(backend)
        missing = "" if device else f"PyTorch {torch.__version__} has no {backend} device here"
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        return cls(small, perf_counter() + seconds, device, missing)

    @property
    def peers(self) -> dict[str, str | None]:
        """Backend of `torch.compile` of each PyTorch candidate; None runs eagerly."""
        if self.device is None:
            return {}
        # The default backend needs a C++ compiler on a CPU.
        return {TORCH: None, COMPILED: "inductor" if self.device == "cuda" else "aot_eager"}

    def time(self, made: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
        """Return milliseconds per call of each candidate, one value per round."""
        if self.small:
            return time_in_turns(made, rounds=1, calls=1)
        started = perf_counter()
        made[OURS]()
        calls = max(1, min(50, int(0.1 / (perf_counter() - started))))
        return time_in_turns(made, rounds=5, calls=calls)

    def record(
        self,
        output: Path,
        what: str,
        rows: list[dict[str, Any]],
        times: Mapping[str, list[float]],
        number_of_all_cases: int,
    ) -> None:
        """Write the record of all rows so far."""
        ratios = {}
        for row in rows:
            ratios |= {f"{row['case']}: {pair}": ratio for pair, ratio in row["ratios"].items()}
        write_record(
            output,
            measured=f"{what}, float32 (TF32 where the device has it) and bfloat16",
            protocol="median over 5 rounds of the mean time of up to 0.1 s of calls after a warm-up call; "
            "candidates interleaved in one process, each call waits for its results; channels last; "
            "torch eager, torch.compile, bfloat16 by autocast in training steps; small: 1 round of 1 call",
            times=times,
            ratios=ratios,
            versions={"torch": torch.__version__},
            small=self.small,
            missing=self.missing,
            number_of_all_cases=number_of_all_cases,
            torch_compile_backend=self.peers.get(COMPILED),
            cases=rows,
        )


def measure_operators(output: Path, setup: Setup) -> list[str]:
    """Time output and both gradients of each operator; return what is wrong."""
    todo = [
        (case, name, precision)
        for name in ("conv_transpose", "conv")
        for case in (SMALL_CASES if setup.small else CASES)
        for precision in PRECISIONS
    ]

    def run(case: operators.Case, name: str, precision: Precision) -> tuple[str, Any, float]:
        made = dict(_operator_candidates(setup, case, name, precision))
        return f"{name}, {case.label}, {precision}", made, _difference(made)

    return _measure(output, setup, "output and both gradients of one operator", todo, run)


def _operator_candidates(
    setup: Setup, case: operators.Case, name: str, precision: Precision
) -> Iterator[tuple[str, Callable[[], Any]]]:
    arrays, (dtype, torch_dtype) = case.arrays(), DTYPES[precision]
    images, cotangent, kernel = arrays["small"], arrays["large"], arrays["kernel"]
    if name == "conv":
        images, cotangent = cotangent, images
    operator = functools.partial(
        {"conv": conv, "conv_transpose": conv_transpose}[name], stride=case.stride
    )
    yield OURS, operators.jax_candidate(operator, images, kernel, cotangent, dtype)
    if name == "conv_transpose":
        layer = operators.ConvTranspose(
            case.outputs, kernel.shape[:-2], (case.stride,) * len(case.size), use_bias=False
        )

        def flax(images: jax.Array, kernel: jax.Array) -> Any:
            return layer.apply({"params": {"kernel": kernel}}, images)

        theirs = kernel_to_lax(kernel, transposed=True)
        yield FLAX, operators.jax_candidate(flax, images, theirs, cotangent, dtype)
    for who, compiler in setup.peers.items():
        yield (
            who,
            operators.torch_candidate(
                case,
                name,
                images,
                kernel,
                cotangent,
                device=str(setup.device),
                dtype=torch_dtype,
                compiler=compiler,
            ),
        )


def _difference(made: Mapping[str, Callable[[], Any]]) -> float:
    """Return the largest relative difference of output and image gradient between JAX and PyTorch."""
    ours = [np.asarray(a, np.float32) for a in made[OURS]()[:2]]
    largest = 0.0
    for who in {TORCH, COMPILED} & set(made):
        for a, b in zip(ours, made[who]()[:2], strict=True):
            theirs = b.detach().float().cpu().movedim(1, -1).numpy()
            largest = max(largest, float(np.abs(a - theirs).max() / np.abs(theirs).max()))
    return largest


def measure_steps(output: Path, setup: Setup) -> list[str]:
    """Time a training step of each network; return what is wrong."""
    networks = SMALL_NETWORKS if setup.small else NETWORKS
    todo = [(name, precision) for name in networks for precision in PRECISIONS]

    def run(name: str, precision: Precision) -> tuple[str, Any, float]:
        config, kind, patch, batch_size = networks[name]
        case = restorer(
            config,
            kind,
            patch,
            batch_size=batch_size,
            precision=precision,
            device=setup.device or "cpu",
        )
        copy_weights(case.net, case.state.params, case.layers)
        made: dict[str, Train] = {OURS: JaxTraining(case.step, case.state, case.batch)}
        for who, compiler in setup.peers.items():
            made[who] = _torch_step(case, compiler, precision, str(setup.device))
        losses = {who: [train()[0] for _ in range(CHECKED_STEPS)] for who, train in made.items()}
        worst = max(
            float(np.max(np.abs(np.divide(of, losses[OURS]) - 1))) for of in losses.values()
        )
        return f"{name}, {precision}", made, worst

    return _measure(output, setup, "one training step: forward, backward, Adam", todo, run)


def _torch_step(case: Case, compiler: str | None, precision: Precision, device: str) -> Train:
    net = copy.deepcopy(case.net)
    if compiler:
        net = torch.compile(net, backend=compiler)
    train = torch_training(dataclasses.replace(case, net=net))

    def step() -> list[float]:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return train()

    return step


def _measure(
    output: Path,
    setup: Setup,
    what: str,
    todo: list[Any],
    run: Callable[..., tuple[str, Any, float]],
) -> list[str]:
    """Time the candidates of each case, and write the record after each."""
    rows: list[dict[str, Any]] = []
    times: dict[str, list[float]] = {}
    problems = [setup.missing] if setup.missing else []
    for number, arguments in enumerate(todo):
        if rows and perf_counter() > setup.deadline:
            print(f"note: the time was too short for {len(todo) - number} of {len(todo)} cases")
            break
        label, made, difference = run(*arguments)
        of_case = setup.time(made)
        times |= {f"{label}: {who}": ms for who, ms in of_case.items()}
        agrees = difference <= TOLERANCES[arguments[-1]]
        if not agrees:
            problems.append(f"{label}: JAX and PyTorch differ by {difference:.2g}")
        rows.append(
            {
                "case": label,
                "median_ms": {who: float(f"{np.median(ms):.4g}") for who, ms in of_case.items()},
                "ratios": time_ratios(of_case, *((OURS, who) for who in of_case if who != OURS)),
                "difference": difference,
                "agrees": agrees,
            }
        )
        setup.record(output, what, rows, times, len(todo))
    return problems
