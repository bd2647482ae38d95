"""Reductions over the data-parallel axis; no-ops in a step compiled without that axis.

Under `jax.jit` a step sees the global batch and needs no reduction. Under `jax.pmap` it sees the
batch of one device. These functions do nothing in the first case, so the same step compiles both
ways.
"""

from typing import Any

import jax

DATA_AXIS = "data"


def bound_data_axis() -> str | None:
    """Return "data" while tracing under a `pmap` whose axis has this name, else None."""
    try:
        jax.lax.axis_size(DATA_AXIS)
    except NameError:
        return None
    return DATA_AXIS


def mean_over_devices(tree: Any) -> Any:
    """Average each leaf over the devices of `pmap`; return the tree itself without `pmap`."""
    axis = bound_data_axis()
    return tree if axis is None else jax.lax.pmean(tree, axis)


def gather_over_devices(array: jax.Array) -> jax.Array:
    """Concatenate the arrays of all devices of `pmap` along axis 0.

    Without `pmap`, return the array itself.
    """
    axis = bound_data_axis()
    return array if axis is None else jax.lax.all_gather(array, axis, tiled=True)


def number_of_devices() -> int:
    """Return the number of devices of `pmap`; 1 without `pmap`, even if a `jit` uses more."""
    axis = bound_data_axis()
    return 1 if axis is None else jax.lax.axis_size(axis)
