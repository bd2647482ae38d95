"""Compilation of the functions of this package: `jax.jit` with the right XLA options.

XLA's CPU backend hands convolutions and matrix products to YNNPACK, which computes most of the
convolutions of a network more slowly than XLA's own kernels. `experiments/benchmarks/README.md` has
the figures. Functions that use the operators alone get the same speed by

    jax.jit(function, compiler_options=deconv_jax.compiler_options())
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state

_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}
_NOT_TRACING = get_opaque_trace_state()


@functools.cache
def compiler_options() -> dict[str, str]:
    """Return XLA options for fast convolutions on the default backend.

    Returns:
      Options for `compiler_options` of `jax.jit`. They are empty on GPU and TPU, and where the
      installed jaxlib does not know them.
    """
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return _CPU_OPTIONS


def jit(function: Callable, **options: Any) -> Any:
    """Compile `function` as `jax.jit` does, with `compiler_options`.

    A function that is called while another one is traced becomes part of that one, and is compiled
    with its options.

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
        compiled = outermost() if get_opaque_trace_state() == _NOT_TRACING else nested
        return compiled(*args, **kwargs)

    def lower(*args: Any, **kwargs: Any) -> Any:
        return outermost().lower(*args, **kwargs)

    call.lower = lower  # type: ignore[attr-defined]
    return call
