"""Compilation of the functions of this package: `jax.jit` with XLA options for fast convolutions.

XLA's CPU backend hands convolutions to YNNPACK. On some processors that is slower than XLA's own
kernels; on others both take the same time: `experiments/benchmarks/compiler_options.py`. To compile
your own functions in the same way, pass the options to the outermost `jax.jit`:

    jax.jit(jax.grad(function), compiler_options=deconv_jax.compiler_options())
"""

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MethodType
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


def jit(function: Callable, **options: Any) -> "Jitted":
    """Compile `function` as `jax.jit` does, with `compiler_options`.

    A function that is called while another one is traced becomes part of that one, and is compiled
    with its options. Under `jax.grad` or `jax.vmap` outside of `jit` it gets JAX's default options.

    Args:
      function: a function or a method.
      **options: other arguments of `jax.jit`.
    """
    return Jitted(function, options)


class Jitted:
    """A compiled function or method; see `jit`."""

    def __init__(self, function: Callable, options: Mapping[str, Any]):
        """See `jit`."""
        # JAX copies the attributes of a function onto what it compiles. So there is none named `lower`.
        functools.update_wrapper(self, function, updated=())
        self._nested = jax.jit(function, **options)
        self._arguments = function, options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the compiled function."""
        return (self._nested if _is_tracing() else self._outermost)(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind a method."""
        return self if instance is None else MethodType(self, instance)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Lower the function for the given arguments, as `jax.jit` does."""
        return self._outermost.lower(*args, **kwargs)

    @functools.cached_property
    def _outermost(self) -> Any:
        function, options = self._arguments
        return jax.jit(function, compiler_options=compiler_options(), **options)


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
