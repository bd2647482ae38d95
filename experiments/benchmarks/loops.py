"""Several steps in one `lax.scan`, compared with unrolled steps and single dispatches.

A `lax.scan` over steps costs the least host time. On a CPU it can still be the slowest: XLA changes the layout of
a convolution to that of its fast kernels only outside of loops. Inside a loop, a convolution in another layout,
such as the kernel gradient of automatic differentiation, runs as a plain nest of loops on one thread. The script
times a training step of the MNIST autoencoder and each of its operators in the three ways, and the gradient of
`lax`'s own convolution beside that of `ops.conv`. Only some operators are slow in a loop.

  python experiments/benchmarks/loops.py
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import ROOT, parse_arguments, time_in_turns, time_ratios, write_record

from deconv_jax import ops
from deconv_jax.cli import load_config
from deconv_jax.experiment import Experiment
from deconv_jax.tasks.autoencoding import Autoencoding
from deconv_jax.training.optimizer import Optimizer

CONFIG = ROOT / "experiments" / "autoencoding" / "mnist.py"
STEPS = 4
BATCH_SIZE = 64
IMAGES, OUTPUTS, KERNEL, STRIDE = (14, 14, 32), (7, 7, 64), (4, 4, 32, 64), 2
"""Shapes of input, output and kernel of the autoencoder's middle layer."""

SCAN, UNROLLED, SINGLE = "scan", "unrolled", "single"


@dataclasses.dataclass(frozen=True)
class Loop:
    """Arguments of `lax.scan`. Each step depends on the previous one."""

    body: Callable[[Any, Any], tuple[Any, Any]]
    init: Any
    xs: Any


def main() -> None:
    """Time every loop in the three ways."""
    arguments = parse_arguments(__file__, __doc__, rounds=5)
    loops = {"training step": training_loop()} | operator_loops()
    candidates = {
        f"{name}, {way}": call
        for name, loop in loops.items()
        for way, call in in_three_ways(loop).items()
    }
    of_calls = time_in_turns(candidates, rounds=arguments.rounds, calls=1)
    times = {name: [ms / STEPS for ms in of_call] for name, of_call in of_calls.items()}
    pairs = [(f"{name}, {way}", f"{name}, {SINGLE}") for name in loops for way in (SCAN, UNROLLED)]
    write_record(
        arguments.output,
        measured=f"one of {STEPS} steps in a lax.scan, in an unrolled lax.scan, or dispatched one by one",
        protocol=f"median over rounds of the time of {STEPS} steps / {STEPS}, after {STEPS} warm-up steps; "
        "candidates interleaved in one process; each step depends on the previous one; float32",
        times=times,
        ratios=time_ratios(times, *pairs),
        shapes={
            "training step": list(loops["training step"].xs["image"].shape[1:]),
            "images": [BATCH_SIZE, *IMAGES],
            "outputs": [BATCH_SIZE, *OUTPUTS],
            "kernel": list(KERNEL),
            "stride": STRIDE,
        },
        steps=STEPS,
    )


def in_three_ways(loop: Loop) -> dict[str, Callable[[], Any]]:
    """Return functions that run all steps and wait for them, by SCAN, UNROLLED and SINGLE."""
    calls: dict[str, Callable[[], Any]] = {}
    for way, unroll in ((SCAN, False), (UNROLLED, True)):
        program = functools.partial(jax.lax.scan, loop.body, unroll=unroll)
        compiled = jax.jit(program).lower(loop.init, loop.xs).compile()
        calls[way] = functools.partial(_wait, compiled, loop.init, loop.xs)

    each = [jax.tree.map(lambda a, i=i: a[i], loop.xs) for i in range(STEPS)]
    step = jax.jit(loop.body).lower(loop.init, each[0]).compile()

    def single() -> list[Any]:
        carry, results = loop.init, []
        for x in each:
            carry, result = step(carry, x)
            results.append(result)
        return jax.block_until_ready(results)

    return calls | {SINGLE: single}


def _wait(function: Callable[..., Any], *arguments: Any) -> Any:
    return jax.block_until_ready(function(*arguments))


def training_loop() -> Loop:
    """Return training steps of the MNIST autoencoder."""
    model = Experiment.from_dict(load_config(str(CONFIG))).task.model
    task = Autoencoding(model, Optimizer())
    shape = (STEPS, BATCH_SIZE, *model.image_shape)
    batches = {
        "image": np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
        "index": np.zeros(shape[:2], np.int32),
    }
    first = {name: array[0] for name, array in batches.items()}
    state = jax.jit(task.init)(jax.random.key(0), first)
    return Loop(task.train_step, state, jax.tree.map(jnp.asarray, batches))


def operator_loops() -> dict[str, Loop]:
    """Return the three operators of a convolution, and the kernel gradient that JAX derives."""
    draw = np.random.default_rng(0).standard_normal
    images, outputs = (
        jnp.asarray(draw((STEPS, BATCH_SIZE, *shape)), jnp.float32) for shape in (IMAGES, OUTPUTS)
    )
    kernel = jnp.asarray(draw(KERNEL), jnp.float32)
    conv = functools.partial(ops.conv, stride=STRIDE)
    lax_conv = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(STRIDE, STRIDE),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    operators = {
        "conv": lambda x, _, kernel: conv(x, kernel),
        "conv_transpose": lambda _, y, kernel: ops.conv_transpose(y, kernel, stride=STRIDE),
        "kernel gradient": lambda x, y, _: _kernel_gradient(conv, x, y),
        "kernel gradient of lax": lambda x, y, _: _kernel_gradient(lax_conv, x, y),
    }

    def loop(operator: Callable[..., jax.Array]) -> Loop:
        def body(carry: jax.Array, xs: Any) -> tuple[jax.Array, jax.Array]:
            x, y = xs
            result = operator(x, y + carry, kernel + carry)
            return 1e-6 * result[0, 0, 0, 0], result

        return Loop(body, jnp.zeros(()), (images, outputs))

    return {name: loop(operator) for name, operator in operators.items()}


def _kernel_gradient(conv: Callable[..., jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the gradient of <conv(x, kernel), y> with respect to the kernel."""
    return jax.vjp(lambda kernel: conv(x, kernel), jnp.zeros(KERNEL))[1](y)[0]


if __name__ == "__main__":
    main()
