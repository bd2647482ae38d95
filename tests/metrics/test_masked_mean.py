"""Means over an evaluation set are those of all its examples, however it is cut into batches."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deconv_jax.errors import InputError
from deconv_jax.metrics.masked_mean import masked_sums, mean_over


def sums(batch):
    return masked_sums({"value": batch["value"], "square": batch["value"] ** 2}, batch["mask"])


def batches(values, size, filling):
    """`values` in batches of `size`, the last one filled up."""
    for start in range(0, len(values), size):
        part = np.asarray(values[start : start + size], np.float32)
        missing = size - len(part)
        yield {
            "value": jnp.asarray(np.pad(part, (0, missing), constant_values=filling)),
            "mask": jnp.asarray(np.pad(np.ones_like(part), (0, missing))),
        }


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    values=st.lists(st.integers(-1000, 1000), min_size=1, max_size=25),
    size=st.integers(1, 8),
    filling=st.sampled_from([0.0, 7.0, np.inf, np.nan]),
)
def test_the_mean_is_exact_for_any_batches_and_fillings(values, size, filling):
    """Sums of so few small integers are exact in float32."""
    assert mean_over(batches(values, size, filling), sums) == {
        "value": np.mean(values),
        "square": np.mean(np.square(values)),
    }


@pytest.mark.parametrize("filling", [np.inf, -np.inf, np.nan])
def test_fillings_count_for_nothing(filling):
    result = masked_sums({"value": jnp.array([1.0, filling, 2.0])}, jnp.array([1.0, 0.0, 1.0]))
    assert {name: float(value) for name, value in result.items()} == {"value": 3.0, "count": 2.0}


def test_an_examples_infinity_does_count():
    assert mean_over(batches([1.0, np.inf], 2, 0.0), sums)["value"] == np.inf


def test_batches_are_added_up_in_double_precision():
    """In float32, 2**24 + 1 = 2**24, and the three ones would be lost."""
    assert mean_over(batches([2.0**24, 1.0, 1.0, 1.0], 1, 0.0), sums)["value"] == (2**24 + 3) / 4


def test_no_batches_have_no_mean():
    with pytest.raises(InputError, match="no examples"):
        mean_over([], sums)
