"""Compilation of the functions of this package: `jax.jit` with XLA options for fast convolutions.

XLA's CPU backend hands convolutions to YNNPACK, which is slower than XLA's own kernels on most
networks and processors that were measured: `experiments/benchmarks/compiler_options.py`. To compile
your own functions in the same way, pass the options to the outermost `jax.jit`:

    jax.jit(jax.grad(function), compiler_options=deconv_jax.compiler_options())
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state

_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def compiler_options() -> dict[str, str]:
    """Return XLA options for fast convolutions on the default backend.

    Returns:
      Options for `compiler_options` of `jax.jit`. Empty on GPU and TPU, and where jaxlib does not
      know them.
    """
    return dict(_CPU_OPTIONS) if _backend_knows_options() else {}


def jit(function: Callable, **options: Any) -> Any:
    """Compile `function` as `jax.jit` does, with `compiler_options`.

    A function that is called while another one is traced becomes part of that one, and is compiled
    with its options. Under `jax.grad` or `jax.vmap` outside of `jit` it gets JAX's default options.

    Args:
      function: a function or a method.
      **options: other arguments of `jax.jit`.

    Returns:
      The compiled function; its `lower` is that of `jax.jit`.
    """
    nested = jax.jit(function, **options)

    @functools.cache
    def outermost() -> Any:
        return jax.jit(function, compiler_options=compiler_options(), **options)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        compiled = nested if _is_tracing() else outermost()
        return compiled(*args, **kwargs)

    def lower(*args: Any, **kwargs: Any) -> Any:
        return outermost().lower(*args, **kwargs)

    call.lower = lower  # type: ignore[attr-defined]
    return call


@functools.cache
def _backend_knows_options() -> bool:
    if jax.default_backend() != "cpu":
        return False
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise
        return False
    return True


def _is_tracing() -> bool:
    """Whether this is called while JAX traces a function."""
    return get_opaque_trace_state() != _state_outside()


@functools.cache
def _state_outside() -> Any:
    with ThreadPoolExecutor(1) as new_thread:  # where nothing is being traced
        return new_thread.submit(get_opaque_trace_state).result()
