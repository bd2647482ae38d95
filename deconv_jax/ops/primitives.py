"""What every JAX primitive of this package needs to be run outside of `jit`."""

from collections.abc import Callable

import jax
from jax.extend.core import Primitive
from jaxtyping import Array


def run_compiled(primitive: Primitive, static: tuple[str, ...]) -> Callable[..., Array]:
    """The primitive's implementation: its own lowering, compiled.

    Also where compilation is disabled, by the user or by JAX's search for NaNs: a primitive has no
    smaller steps to run one by one.

    Args:
      primitive: with its lowering.
      static: names of its parameters.
    """
    compiled = jax.jit(primitive.bind, static_argnames=static)

    def run(*operands: Array, **parameters) -> Array:
        with jax.disable_jit(False):
            return compiled(*operands, **parameters)

    return run
