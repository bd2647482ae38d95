"""Means over an evaluation set are exact for any division into batches."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deconv_jax.errors import InputError
from deconv_jax.metrics.masked_mean import masked_sums, mean_over


def sums(batch):
    return masked_sums({"value": batch["value"], "square": batch["value"] ** 2}, batch["mask"])


def batches(values, size, padding):
    """Split `values` into batches of `size`, the last one padded."""
    for start in range(0, len(values), size):
        part = np.asarray(values[start : start + size], np.float32)
        missing = size - len(part)
        yield {
            "value": jnp.asarray(np.pad(part, (0, missing), constant_values=padding)),
            "mask": jnp.asarray(np.pad(np.ones_like(part), (0, missing))),
        }


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    values=st.lists(st.integers(-1000, 1000), min_size=1, max_size=25),
    size=st.integers(1, 8),
    padding=st.sampled_from([0.0, 7.0, np.inf, np.nan]),
)
def test_mean_is_exact_for_any_batch_size_and_padding(values, size, padding):
    """Sums of a few small integers are exact in float32."""
    assert mean_over(batches(values, size, padding), sums) == {
        "value": np.mean(values),
        "square": np.mean(np.square(values)),
    }


@pytest.mark.parametrize("padding", [np.inf, -np.inf, np.nan])
def test_padding_is_ignored(padding):
    result = masked_sums({"value": jnp.array([1.0, padding, 2.0])}, jnp.array([1.0, 0.0, 1.0]))
    assert {name: float(value) for name, value in result.items()} == {"value": 3.0, "count": 2.0}


def test_infinite_example_is_not_ignored():
    assert mean_over(batches([1.0, np.inf], 2, 0.0), sums)["value"] == np.inf


def test_batches_are_accumulated_in_double_precision():
    """In float32, 2**24 + 1 = 2**24, so the three ones would be lost."""
    assert mean_over(batches([2.0**24, 1.0, 1.0, 1.0], 1, 0.0), sums)["value"] == (2**24 + 3) / 4


def test_mean_of_no_examples_is_an_error():
    with pytest.raises(InputError, match="no examples"):
        mean_over([], sums)
