"""Averages over the data-parallel axis for steps that are compiled once per device.

Under `jax.jit` a step sees the global batch and needs none of this; under `jax.pmap` it sees one
device's share. Asking whether the axis is bound lets one step be compiled both ways.
"""

from typing import Any

import jax

DATA_AXIS = "data"


def bound_data_axis() -> str | None:
    """`DATA_AXIS` while tracing under `pmap` over it, else None."""
    try:
        jax.lax.axis_size(DATA_AXIS)
    except NameError:
        return None
    return DATA_AXIS


def mean_over_devices(tree: Any) -> Any:
    """The mean of each leaf over the devices of `pmap`; the tree itself under `jit`."""
    axis = bound_data_axis()
    return tree if axis is None else jax.lax.pmean(tree, axis)


def gather_over_devices(array: jax.Array) -> jax.Array:
    """The parts of all devices of `pmap` one after the other; the array itself under `jit`."""
    axis = bound_data_axis()
    return array if axis is None else jax.lax.all_gather(array, axis, tiled=True)


def number_of_devices() -> int:
    """Of `pmap`; 1 under `jit`."""
    axis = bound_data_axis()
    return 1 if axis is None else jax.lax.axis_size(axis)
