"""Speed of `conv` and `conv_transpose` with their gradients, compared with other implementations.

A case is one compiled call that returns the output and, for a given cotangent, the gradients of images and
kernel, in float32 on a CPU. The peers are `flax.linen.ConvTranspose`, plain `lax` (one `lax` convolution for each of
the three, with the same compiler options), and PyTorch, which runs eagerly with channels-last memory. The results
are checked before they are timed. Peak memory is the increase of the peak resident set during the first call of a
compiled candidate, in a process of its own. It includes outputs and temporaries.

  python experiments/benchmarks/operators.py            # measures; writes the record and its picture
  python experiments/benchmarks/operators.py --draw     # draws the picture of the existing record
"""

import argparse
import ctypes
import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax.linen import ConvTranspose
from peers import FLAX, OURS, PLAIN, TORCH, plain_lax
from timing import ROOT, processors, time_in_turns, write_record

from deconv_jax.compilation import jit
from deconv_jax.io import read_json
from deconv_jax.ops import (
    conv,
    conv_transpose,
    kernel_from_lax,
    kernel_from_torch,
    kernel_to_lax,
    kernel_to_torch,
)

RECORD = ROOT / "experiments" / "results" / "benchmarks" / "operators.json"
PICTURE = ROOT / "docs" / "operators.png"
TOLERANCE = 1e-4
"""Largest difference of results, relative to the largest element."""
FLAX_CALLS = 3
"""A call of flax.linen may take seconds, so few calls are timed."""
MEMORY_CASES = (
    "DCGAN 16 to 32 px, 128 to 64",
    "kernel 3, 32 px, 64 to 64",
    "FSRCNN x2",
    "3-d, 8 px",
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A transposed convolution with padding "SAME", or the convolution whose transpose it is."""

    name: str
    size: tuple[int, ...]
    inputs: int
    outputs: int
    kernel_size: int
    stride: int
    batch: int

    @property
    def label(self) -> str:
        """Return name, geometry and batch size."""
        return f"{self.name}, k{self.kernel_size} s{self.stride}, batch {self.batch}"

    def arrays(self) -> dict[str, np.ndarray]:
        """Return small images, large images, and the kernel that maps between them."""
        random = np.random.default_rng(0)
        rank = len(self.size)
        large = tuple(self.stride * n for n in self.size)
        shapes = {
            "small": (self.batch, *self.size, self.inputs),
            "large": (self.batch, *large, self.outputs),
            "kernel": (*(self.kernel_size,) * rank, self.outputs, self.inputs),
        }
        return {
            name: random.standard_normal(shape, np.float32) / (30 if name == "kernel" else 1)
            for name, shape in shapes.items()
        }


def cases() -> Iterator[Case]:
    """Return layers of decoders, generators and super-resolution networks, at two batch sizes."""
    for batch in (8, 64):
        for taps in (4, 5):
            for px, inputs, outputs in ((4, 512, 256), (8, 256, 128), (16, 128, 64), (32, 64, 3)):
                name = f"DCGAN {px} to {2 * px} px, {inputs} to {outputs}"
                yield Case(name, (px, px), inputs, outputs, taps, 2, batch)
        yield Case("kernel 2, 16 px, 64 to 32", (16, 16), 64, 32, 2, 2, batch)
        yield Case("kernel 3, 32 px, 64 to 64", (32, 32), 64, 64, 3, 1, batch)
        for scale in (2, 3, 4):
            yield Case(f"FSRCNN x{scale}, 24 px, 56 to 1", (24, 24), 56, 1, 9, scale, batch)
        yield Case("3-d, 8 px, 32 to 16", (8, 8, 8), 32, 16, 4, 2, batch)
        yield Case("1-d, 256 px, 64 to 32", (256,), 64, 32, 4, 2, batch)


def jax_candidate(
    operator: Callable,
    images: np.ndarray,
    kernel: np.ndarray,
    cotangent: np.ndarray,
    dtype: Any = jnp.float32,
):
    """A compiled function of no arguments that returns output and gradients, computed in `dtype`."""

    def both(images, kernel, cotangent):
        value, pull = jax.vjp(operator, images, kernel)
        return value, *pull(cotangent)

    arrays = [jnp.asarray(a, dtype) for a in (images, kernel, cotangent)]
    compiled = jit(both).lower(*arrays).compile()
    return lambda: jax.block_until_ready(compiled(*arrays))


def torch_candidate(
    case: Case,
    name: str,
    images: np.ndarray,
    kernel: np.ndarray,
    cotangent: np.ndarray,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    compiler: str | None = None,
):
    """Return the same in PyTorch, whose padding is symmetric; odd padding is cropped or added by hand.

    Args:
      case: Geometry of the operator.
      name: "conv" or "conv_transpose".
      images: Images, with the channels last.
      kernel: Kernel.
      cotangent: Cotangent of the output.
      device: Device of PyTorch.
      dtype: Type of the computation.
      compiler: Backend of `torch.compile`; None runs eagerly.
    """
    rank = len(case.size)
    layout = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)[rank - 1]

    def placed(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, dtype).contiguous(memory_format=layout)

    total = max(case.kernel_size - case.stride, 0)
    odd = total % 2
    options = {"stride": case.stride, "padding": total // 2}
    weight = placed(torch.from_numpy(kernel_to_torch(kernel))).requires_grad_()
    inputs = placed(torch.from_numpy(images).movedim(-1, 1)).requires_grad_(), weight
    cotangent_tensor = placed(torch.from_numpy(cotangent).movedim(-1, 1))
    transposed = name == "conv_transpose"
    function = getattr(torch.nn.functional, f"conv{'_transpose' if transposed else ''}{rank}d")

    def forward(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if transposed:
            value = function(images, weight, **options)
            return value[(..., *[slice(0, n - odd) for n in value.shape[2:]])] if odd else value
        padded = torch.nn.functional.pad(images, (0, odd) * rank) if odd else images
        return function(padded, weight, **options)

    call = torch.compile(forward, backend=compiler) if compiler else forward

    def run():
        value = call(*inputs)
        results = value, *torch.autograd.grad(value, inputs, cotangent_tensor)
        if device == "cuda":
            torch.cuda.synchronize()
        return results

    return run


def candidates(case: Case, name: str, wanted: Sequence[str]) -> dict[str, Callable]:
    """Return the `wanted` candidates as functions without arguments, compiled where possible."""
    arrays = case.arrays()
    images, cotangent = arrays["small"], arrays["large"]
    if name == "conv":
        images, cotangent = cotangent, images
    kernel = arrays["kernel"]
    operator = functools.partial(
        {"conv": conv, "conv_transpose": conv_transpose}[name], stride=case.stride
    )
    made = {}
    if OURS in wanted:
        made[OURS] = jax_candidate(operator, images, kernel, cotangent)
    if PLAIN in wanted:
        with plain_lax():
            made[PLAIN] = jax_candidate(operator, images, kernel, cotangent)
    if TORCH in wanted:
        made[TORCH] = torch_candidate(case, name, images, kernel, cotangent)
    if FLAX in wanted:
        layer = ConvTranspose(
            case.outputs, kernel.shape[:-2], (case.stride,) * len(case.size), use_bias=False
        )
        theirs = kernel_to_lax(kernel, transposed=True)

        def apply(images, kernel):
            return layer.apply({"params": {"kernel": kernel}}, images)

        made[FLAX] = jax_candidate(apply, images, theirs, cotangent)
    return made


def check(label: str, made: dict[str, Callable]) -> None:
    """Exit unless outputs and gradients agree."""
    ours = [np.asarray(a) for a in made[OURS]()]
    for name in set(made) - {OURS}:
        theirs = made[name]()
        if name == TORCH:
            value, images, kernel = (t.detach() for t in theirs)
            theirs = value.movedim(1, -1), images.movedim(1, -1), kernel_from_torch(kernel)
        else:
            flax = name == FLAX
            theirs = *theirs[:2], kernel_from_lax(theirs[2], transposed=True) if flax else theirs[2]
        of_all = zip(("output", "images", "kernel"), ours, map(np.asarray, theirs), strict=True)
        for what, a, b in of_all:
            if not np.abs(a - b).max() <= TOLERANCE * np.abs(b).max():
                raise SystemExit(f"{label}: {what} of {OURS} and {name} differ")


def timed(made: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Return milliseconds per call, one value per round. A turn lasts 0.1 s or one call."""
    quick = {name: call for name, call in made.items() if name != FLAX}
    started = perf_counter()
    quick[OURS]()
    calls = max(1, int(0.1 / (perf_counter() - started)))
    times = time_in_turns(quick, rounds=rounds, calls=calls)
    if FLAX in made:
        times[FLAX] = time_in_turns({FLAX: made[FLAX]}, rounds=1, calls=FLAX_CALLS)[FLAX]
    return times


def peak_bytes(label: str, candidate: str) -> int:
    """Return the peak memory of a transposed convolution, measured in a process of its own."""
    command = [sys.executable, __file__, "--measure-peak", label, candidate]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_peak(label: str, candidate: str) -> None:
    """Print the peak memory of a candidate's first call, in bytes (Linux)."""
    (case,) = [case for case in cases() if case.label == label]
    torch.set_num_threads(processors())
    torch_candidate(dataclasses.replace(case, batch=1), "conv_transpose", *small_arrays(case))()
    made = candidates(case, "conv_transpose", [candidate])[candidate]
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # return freed memory to the system
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = memory("VmRSS")
    results = made()
    print(memory("VmHWM") - before)
    del results


def small_arrays(case: Case) -> list[np.ndarray]:
    """Return arrays of batch size one, to load PyTorch's libraries before the measurement."""
    arrays = dataclasses.replace(case, batch=1).arrays()
    return [arrays["small"], arrays["kernel"], arrays["large"]]


def memory(what: str) -> int:
    """Return a line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"no {what} in /proc/self/status: peak memory is measured on Linux alone")


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean of speed ratios, to four digits."""
    return float(f"{np.exp(np.mean(np.log(values))):.4g}")


def main() -> None:
    """Check, time and measure memory; write the record and its picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RECORD, metavar="FILE")
    parser.add_argument("--picture", type=Path, default=PICTURE, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with TEXT in their label")
    parser.add_argument("--draw", action="store_true", help="draw the record and measure nothing")
    parser.add_argument("--measure-peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_peak:
        measure_peak(*arguments.measure_peak)
        return
    if arguments.draw:
        draw(read_json(arguments.output), arguments.picture)
        return
    jax.config.update("jax_platforms", "cpu")
    torch.set_num_threads(processors())
    rows, times = [], {}
    for case in cases():
        if arguments.only not in case.label:
            continue
        for name in ("conv_transpose", "conv"):
            made = candidates(
                case, name, (OURS, PLAIN, TORCH, *([FLAX] if name == "conv_transpose" else []))
            )
            check(f"{name}, {case.label}", made)
            of_case = timed(made, arguments.rounds)
            times |= {f"{name}, {case.label}, {who}": ms for who, ms in of_case.items()}
            medians = {who: float(f"{np.median(ms):.4g}") for who, ms in of_case.items()}
            speed = {
                who: float(f"{ms / medians[OURS]:.4g}")
                for who, ms in medians.items()
                if who != OURS
            }
            rows.append(
                {"operator": name, "case": case.label, "median_ms": medians, "speed": speed}
            )
            print(json.dumps(rows[-1]), flush=True)
    memory_rows = []
    for case in cases():
        if case.name.startswith(MEMORY_CASES) and case.batch == 64 and arguments.only in case.label:
            peaks = {who: peak_bytes(case.label, who) for who in (OURS, TORCH)}
            memory_rows.append(
                {
                    "case": case.label,
                    "peak_mb": {who: round(b / 1e6, 1) for who, b in peaks.items()},
                }
            )
            print(json.dumps(memory_rows[-1]), flush=True)
    means = {
        f"{name} against {who}": geometric_mean(
            [row["speed"][who] for row in rows if row["operator"] == name and who in row["speed"]]
        )
        for name, who in (
            ("conv_transpose", PLAIN),
            ("conv_transpose", TORCH),
            ("conv_transpose", FLAX),
            ("conv", PLAIN),
            ("conv", TORCH),
        )
    }
    write_record(
        arguments.output,
        measured="output and both gradients of one operator, float32",
        protocol=(
            f"median over rounds of the mean time of calls in 0.1 s after a warm-up call; {OURS}, {PLAIN} and "
            f"{TORCH} interleaved in one process, then {FLAX_CALLS} calls of {FLAX}; results agree to "
            f"{TOLERANCE:g}; torch eager, channels_last"
        ),
        times=times,
        ratios={},
        versions={"torch": torch.__version__},
        cases=rows,
        geometric_mean_speed=means,
        peak_memory=memory_rows,
    )
    draw(read_json(arguments.output), arguments.picture)


def draw(record: dict, path: Path) -> None:
    """Draw the speed relative to PyTorch, one bar per case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 8), sharey=True, layout="constrained")
    for axis, name in zip(axes, ("conv_transpose", "conv"), strict=True):
        rows = [row for row in record["cases"] if row["operator"] == name][::-1]
        labels, speeds = [row["case"] for row in rows], [row["speed"][TORCH] for row in rows]
        colours = ["#2b6cb0" if speed >= 1 else "#b7791f" for speed in speeds]
        axis.barh(labels, speeds, color=colours)
        axis.axvline(1, color="black", linewidth=0.8)
        mean = record["geometric_mean_speed"][f"{name} against {TORCH}"]
        axis.axvline(mean, color="black", linestyle="--", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
        axis.set_xticks([], minor=True)
        axis.set_title(f"{name}, geometric mean {mean:.2f} (dashed)")
        axis.set_xlabel("times as fast as PyTorch, forward and both gradients")
        axis.tick_params(axis="y", labelsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
