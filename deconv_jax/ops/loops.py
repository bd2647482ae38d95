"""Loops over arrays, with the exception to `lax.scan` that convolutions need."""

from collections.abc import Callable
from typing import Any

import jax


def scan(body: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any) -> tuple[Any, Any]:
    """`lax.scan`, unrolled on a CPU.

    Inside a loop, XLA's CPU backend falls back to a single-threaded convolution more than ten times
    slower than the one it uses outside (`experiments/benchmarks/loops.py` measures it).
    """
    return jax.lax.scan(body, init, xs, unroll=jax.default_backend() == "cpu")
