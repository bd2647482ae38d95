"""`jit` with XLA options for fast convolutions, with which this package compiles its functions.

XLA's CPU backend delegates convolutions to YNNPACK. On some processors that is slower than XLA's
own kernels, and on others equally fast (`experiments/benchmarks/compiler_options.py`). To compile
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
    """Return the XLA options for fast convolutions on the default backend.

    Returns:
      Value for the argument `compiler_options` of `jax.jit`. It is an empty dict on GPU and TPU,
      and if jaxlib does not support the options.
    """
    return dict(_CPU_OPTIONS) if _backend_knows_options() else {}


def jit(function: Callable, **options: Any) -> "Jitted":
    """Compile a function like `jax.jit`, with `compiler_options()`.

    Inside another compiled function, the options of the outer function apply. Under `jax.grad` or
    `jax.vmap` outside of `jit`, JAX's default options apply.

    Args:
      function: Function or method to compile.
      **options: Other arguments of `jax.jit`, except `compiler_options`.

    Returns:
      Compiled function, with a method `lower` like that of `jax.jit`. In a class body it is a method.
    """
    return Jitted(function, options)


class Jitted:
    """A compiled function or method, as `jit` returns."""

    def __init__(self, function: Callable, options: Mapping[str, Any]):
        """Compile `function` with arguments of `jax.jit`."""
        # `updated=()` keeps attributes of the function, such as a `lower`, off this object.
        functools.update_wrapper(self, function, updated=())
        self._nested = jax.jit(function, **options)
        self._arguments = function, options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the compiled function."""
        return (self._nested if _is_tracing() else self._outermost)(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind the method to an instance."""
        return self if instance is None else MethodType(self, instance)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Lower the function for these arguments, like `jax.jit(function).lower`."""
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
    """Return whether JAX is tracing a function in this thread."""
    return get_opaque_trace_state() != _untraced_state()


@functools.cache
def _untraced_state() -> Any:
    """Return the trace state outside of any transformation."""
    with ThreadPoolExecutor(1) as new_thread:  # nothing is being traced in a new thread
        return new_thread.submit(get_opaque_trace_state).result()
