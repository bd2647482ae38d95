"""The comparison of an exported function with this package."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from deconv_jax.errors import InputError
from deconv_jax.export.dimensions import evaluate_dimension
from deconv_jax.export.functions import ModelFunction

TOLERANCE = 1e-5
"""Largest difference, relative to the largest absolute value of an output if that is above 1."""

_PIXELS = ((1, 32, 32), (2, 44, 24), (3, 16, 64))
"""Batch size and approximate height and width of the inputs of each comparison."""
_SEED = 0

Run = Callable[..., Mapping[str, np.ndarray]]
"""An exported function of arrays, which returns its outputs by name."""


def check_parity(function: ModelFunction, run: Run) -> dict[str, Any]:
    """Compare an exported function with the package on three shapes, and return a report.

    Raises:
      InputError: They differ by more than `TOLERANCE`.
    """
    rng = np.random.default_rng(_SEED)
    reference = jax.jit(function.apply)
    cases = []
    for sizes in _variables(function):
        inputs = []
        for port in function.inputs:
            assert port.draw is not None
            inputs.append(port.draw(rng, tuple(evaluate_dimension(n, sizes) for n in port.shape)))
        expected = jax.device_get(reference(*inputs))
        actual = run(*inputs)
        differences = {}
        for name, array in expected.items():
            if actual[name].shape != array.shape:
                raise InputError(
                    f"the exported file of {function.name} returns {name} of shape "
                    f"{actual[name].shape}; expected {array.shape}"
                )
            unit = max(1.0, float(np.max(np.abs(array))))
            differences[name] = float(np.max(np.abs(actual[name] - array))) / unit
        shapes = {p.name: list(x.shape) for p, x in zip(function.inputs, inputs, strict=True)}
        if not all(difference <= TOLERANCE for difference in differences.values()):
            worst = float(np.max(list(differences.values())))  # NaN if one is
            raise InputError(
                f"the exported file of {function.name} differs from this package by {worst:.2g} for "
                f"inputs of shape {shapes}; the limit is {TOLERANCE:g}"
            )
        cases.append({"inputs": shapes, "max_difference": differences})
    return {"tolerance": TOLERANCE, "platform": "cpu", "cases": cases}


def _variables(function: ModelFunction) -> list[dict[str, int]]:
    """Return three assignments of the variables of the inputs' shapes."""
    unit = {
        axis: math.gcd(*(evaluate_dimension(n, {axis: 1}) for n in lengths))
        for axis, lengths in _lengths(function).items()
    }
    found = []
    for number, (batch, height, width) in enumerate(_PIXELS):
        pixels = {"height": height, "width": width}
        sizes = {
            axis: -(-pixels[axis] // (n * function.stride))
            for axis, n in unit.items()
            if axis in pixels
        }
        # Large units round all sizes up to 1.
        if sizes:
            longer = ("height", "width")[number % 2]
            sizes[longer] += number
        found.append({"batch": batch} | sizes)
    return found


def _lengths(function: ModelFunction) -> dict[str, list[Any]]:
    lengths: dict[str, list[Any]] = {}
    for port in function.inputs:
        for length in port.shape:
            if isinstance(length, str) and length != "batch":
                lengths.setdefault(length.rpartition("*")[2], []).append(length)
    return lengths
