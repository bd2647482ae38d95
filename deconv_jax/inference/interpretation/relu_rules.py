"""Backward rules of ReLUs, and checks that a network has no other activations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend.core import Literal as JaxprLiteral
from jaxtyping import Array

from deconv_jax.errors import InputError

ReluRule = Literal["gradient", "guided", "deconvnet"]
"""Backward rule of a ReLU: where it passes the gradient with respect to its output.

"gradient": where its input is positive. "deconvnet": where that gradient is positive (Zeiler & Fergus,
arXiv:1311.2901, section 2.1). "guided": where both are (Springenberg et al., arXiv:1412.6806, figure 1).
"""

_FUNCTIONS = frozenset({"relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "selu"})
_PRIMITIVES = frozenset({"tanh", "logistic", "erf"})
_LOOPS = frozenset({"scan", "while"})


@jax.custom_vjp
def _deconvnet_relu(x: Array) -> Array:
    return jax.nn.relu(x)


_deconvnet_relu.defvjp(lambda x: (jax.nn.relu(x), None), lambda _, g: (jax.nn.relu(g),))


@jax.custom_vjp
def _guided_relu(x: Array) -> Array:
    return jax.nn.relu(x)


_guided_relu.defvjp(
    lambda x: (jax.nn.relu(x), x > 0), lambda on, g: (jnp.where(on, jax.nn.relu(g), 0),)
)

RELU_RULES: dict[str, Callable[[Array], Array]] = {
    "deconvnet": _deconvnet_relu,
    "guided": _guided_relu,
}
"""ReLU with each rule other than "gradient"."""


def check_only_relus(activations: Mapping[str, Sequence[str]], rule: ReluRule) -> None:
    """Raise InputError if an activation layer is not a ReLU.

    Args:
      activations: Kinds of activations that run up to each layer, by name of the layer.
      rule: Backward rule that requires ReLUs.
    """
    for name, kinds in activations.items():
        others = sorted(set(kinds) - {"relu"})
        if others:
            raise InputError(
                f'rule "{rule}" requires ReLUs, but this network has {others[0]!r} up to {name}; use '
                'rule "gradient" (--method gradient)'
            )


def check_no_activation_functions(
    run: Callable[[Array], Any], shape: Sequence[int], rule: ReluRule
) -> None:
    """Raise InputError if a computation calls an activation other than as an `Activation` layer.

    Args:
      run: Computation, in which ReLU layers have the rule.
      shape: Shape of the argument of `run`.
      rule: Backward rule of the ReLU layers.
    """
    jaxpr = jax.make_jaxpr(run)(jax.ShapeDtypeStruct(tuple(shape), jnp.float32)).jaxpr
    names = _activation_functions(jaxpr, [True] * len(jaxpr.outvars))
    if names:
        raise InputError(
            f'rule "{rule}" requires every activation to be an `Activation` layer, but this network '
            f'calls the function {names[0]}; use rule "gradient" (--method gradient)'
        )


def _activation_functions(jaxpr: Any, needed: Sequence[bool]) -> list[str]:
    """Return the activation functions on which the `needed` outputs of a jaxpr depend, in order."""
    outputs = zip(jaxpr.outvars, needed, strict=True)
    live = {v for v, is_needed in outputs if is_needed and not isinstance(v, JaxprLiteral)}
    found: list[str] = []
    for equation in reversed(jaxpr.eqns):
        needed = [v in live for v in equation.outvars]
        if not any(needed):
            continue
        live.update(v for v in equation.invars if not isinstance(v, JaxprLiteral))
        name = equation.primitive.name
        if name.startswith("custom_vjp"):
            continue  # A ReLU with the rule.
        names = [*({name} & _PRIMITIVES), *({equation.params.get("name")} & _FUNCTIONS)]
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                count = len(inner.outvars)
                one_to_one = count == len(needed) and name not in _LOOPS
                names += _activation_functions(inner, needed if one_to_one else [True] * count)
        found = names + found
    return found
