"""Tests that kernels and layers convert to another library and back bit for bit."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax import ops

on_ranks = pytest.mark.parametrize("rank", [1, 2, 3], ids="{}d".format)


@dataclasses.dataclass(frozen=True)
class Library:
    """The conversions from and to one library, with the arguments of one kind of layer.

    Attributes:
      to_theirs: Arguments of the conversion to the library; None means those of `to_ours`.
    """

    name: str
    to_ours: dict[str, Any] = dataclasses.field(default_factory=dict)
    to_theirs: dict[str, Any] | None = None

    def _function(self, what, direction):
        functions = {
            "torch": (
                ops.kernel_from_torch,
                ops.kernel_to_torch,
                ops.layer_from_torch,
                ops.layer_to_torch,
            ),
            "keras": (
                ops.kernel_from_keras,
                ops.kernel_to_keras,
                ops.layer_from_keras,
                ops.layer_to_keras,
            ),
            "lax": (ops.kernel_from_lax, ops.kernel_to_lax, ops.layer_from_lax, ops.layer_to_lax),
        }
        index = 2 * ("kernel", "layer").index(what) + ("from", "to").index(direction)
        changed = direction == "to" and self.to_theirs is not None
        options = self.to_theirs if changed else self.to_ours
        return functools.partial(functions[self.name][index], **options)

    def both(self, what):
        """Return the conversions from and to the library, for "kernel" or "layer"."""
        return self._function(what, "from"), self._function(what, "to")

    def weights(self, kernel, bias):
        """Return the weights of a layer in the format of the library."""
        if self.name == "keras":
            return [kernel] if bias is None else [kernel, bias]
        name = {"torch": "weight", "lax": "kernel"}[self.name]
        return {name: kernel} | ({} if bias is None else {"bias": bias})


LIBRARIES = {
    "torch": Library("torch"),
    "keras": Library("keras"),
    "keras, depthwise": Library("keras", {"depthwise": True}, {"depthwise_inputs": 3}),
    "lax": Library("lax"),
    "lax, transposed": Library("lax", {"transposed": True}),
    "lax, transpose_kernel": Library("lax", {"transposed": True, "transpose_kernel": True}),
}
on_libraries = pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)


def random_bits(*shape, dtype="float32"):
    """Draw random bits as numbers, including infinities, NaNs and zeros of both signs."""
    dtype = jnp.dtype(dtype)
    raw = np.random.default_rng(shape).bytes(dtype.itemsize * int(np.prod(shape)))
    return np.frombuffer(raw, dtype).reshape(shape)


def assert_same_bits(a, b):
    """Compare every leaf of two trees."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


SPACE = (4, 2, 3)


def kernel_shape(library, rank):
    """Return the shape of a kernel in the layout of the library."""
    return (2, 3, *SPACE[:rank]) if library.name == "torch" else (*SPACE[:rank], 3, 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@on_ranks
@on_libraries
def test_kernel_round_trip_is_bit_exact(library, rank, dtype):
    to_ours, to_theirs = library.both("kernel")
    weight = random_bits(*kernel_shape(library, rank), dtype=dtype)
    assert_same_bits(to_theirs(to_ours(weight)), weight)
    channels = (1, 6) if library.to_theirs else (3, 2)
    kernel = jnp.asarray(random_bits(*SPACE[:rank], *channels, dtype=dtype))
    assert_same_bits(to_ours(to_theirs(kernel)), kernel)


@pytest.mark.parametrize("use_bias", [True, False], ids=["bias", "no bias"])
@on_libraries
def test_layer_round_trip_is_bit_exact(library, use_bias):
    to_ours, to_theirs = library.both("layer")
    bias = random_bits(5) if use_bias else None
    weights = library.weights(random_bits(*kernel_shape(library, 2)), bias)
    ported = to_ours(weights)
    assert set(ported) == ({"kernel", "bias"} if use_bias else {"kernel"})
    assert all(isinstance(leaf, jax.Array) for leaf in ported.values())
    assert_same_bits(to_theirs(ported), weights)
    assert_same_bits(to_ours(to_theirs(ported)), ported)


@on_libraries
def test_arrays_for_another_library_are_writable_copies(library):
    """Arrays of JAX are immutable, so their memory must not be shared."""
    to_ours, to_theirs = library.both("layer")
    weights = library.weights(random_bits(*kernel_shape(library, 1)), random_bits(2))
    ported = to_ours(weights)
    for leaf in jax.tree.leaves(to_theirs(ported)):
        assert leaf.flags.c_contiguous
        leaf[...] = 0.0
    assert_same_bits(to_theirs(ported), weights)
