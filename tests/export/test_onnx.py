"""ONNX graphs compute what the traced programs compute, for sizes that they were not traced with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.export.functions import ModelFunction, Port
from deconv_jax.export.onnx import run_onnx, to_onnx
from deconv_jax.models.layers import PReLU as PReLULayer

IMAGE = Port("image", ("batch", "2*height", "2*width", 3), "image", is_map=True)
ANY_SIZE = Port("image", ("batch", "height", "width", 3), "image", is_map=True)
VECTOR = Port("vector", ("batch", 6), "vector")
LABELS = Port("labels", ("batch",), "classes", "int32")

RNG = np.random.default_rng(0)
MATRIX = RNG.standard_normal((6, 4), np.float32)
TABLE = jnp.asarray(RNG.standard_normal((5, 6), np.float32))


def kernel(*shape):
    return jnp.asarray(np.random.default_rng(1).standard_normal(shape, np.float32))


PROGRAMS = {
    "shuffle CRD": lambda x: ops.depth_to_space(ops.conv(x, kernel(1, 1, 3, 8)), 2),
    "shuffle DCR": lambda x: ops.depth_to_space(
        ops.conv(x, kernel(1, 1, 3, 8)), 2, channel_order="DCR"
    ),
    "unshuffle CRD": lambda x: ops.space_to_depth(x, 2),
    "unshuffle DCR": lambda x: ops.space_to_depth(x, 2, channel_order="DCR"),
    "unshuffle one channel": lambda x: ops.space_to_depth(x[..., :1], 2),
    "conv": lambda x: ops.conv(x, kernel(3, 3, 3, 4)) + kernel(4).reshape(1, 1, 1, 4),
    "strided conv": lambda x: ops.conv(x, kernel(5, 5, 3, 4), stride=2),
    "dilated conv": lambda x: ops.conv(x, kernel(3, 3, 3, 4), dilation=2),
    "cropping conv": lambda x: ops.conv(x, kernel(2, 2, 3, 4), padding="VALID"),
    "grouped conv": lambda x: ops.conv(x, kernel(3, 3, 1, 6), groups=3),
    "transposed": lambda x: ops.conv_transpose(x, kernel(5, 5, 4, 3), stride=2),
    "transposed with output padding": lambda x: ops.conv_transpose(
        x, kernel(9, 9, 1, 3), stride=3, padding=4, output_padding=2
    ),
    "grouped transposed": lambda x: ops.conv_transpose(x, kernel(4, 4, 2, 3), stride=2, groups=3),
    "batch norm": lambda x: (
        (ops.conv(x, kernel(3, 3, 3, 2)) - 0.5) * kernel(2).reshape(1, 1, 1, 2) + 1.0
    ),
    "reversed difference": lambda x: 1.0 - ops.conv(x, kernel(1, 1, 3, 2)),
    "max pool": lambda x: ops.max_pool(x - 0.5, 2),
    "overlapping max pool": lambda x: ops.max_pool(x - 0.5, 3, stride=2, padding=1),
    "average pool": lambda x: ops.avg_pool(x, 2),
    "leaky ReLU": lambda x: jax.nn.leaky_relu(x - 0.5, 0.2),
    "PReLU": lambda x: PReLULayer().apply({"params": {"slope": kernel(3)}}, x - 0.5),
    "other selections": lambda x: jnp.where(x < 0.5, x, x * x) + jnp.where(x < 0, x, 2 * x),
    "activations": lambda x: jax.nn.elu(x) + jax.nn.gelu(x) + jax.nn.silu(x) - jnp.tanh(x),
    "channel product": lambda x: lax.rsqrt(1 + jnp.square(x) @ kernel(3, 3) ** 2),
    "pixel mean": lambda x: jnp.mean(x, axis=(1, 2)),
    "softmax": lambda x: jax.nn.softmax(x),
    "flat": lambda x: jnp.sum(x.reshape(x.shape[0], -1, 3), axis=1) / 100,
    "one channel": lambda x: x[..., 1],
    "crop": lambda x: x[:, 1:-1, 1:],
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0)), constant_values=2.0),
    "position": lambda x: x + jnp.arange(x.shape[1], dtype=jnp.float32).reshape(1, -1, 1, 1),
    "joined maps": lambda x: jnp.concatenate([x, jnp.ones((*x.shape[:3], 1)), 2 * x], axis=-1),
    "part of joined": lambda x: jnp.concatenate([x, 2 * x], axis=-1)[..., 3:],
    "transposition": lambda x: x.transpose(0, 2, 1, 3)[..., None].sum(axis=-1),
    "unchanged": lambda x: x,
}


def exported(apply, *ports, layout="nhwc"):
    function = ModelFunction(
        "test", "test", ports, lambda *x: {"output": apply(*x)}, {"output": ""}
    )
    return run_onnx(to_onnx(function, layout))


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_of_images(name):
    run = exported(PROGRAMS[name], IMAGE)
    x = jnp.asarray(RNG.random((2, 4, 10, 3), np.float32))
    assert_close(run(np.asarray(x))["output"], np.asarray(jax.jit(PROGRAMS[name])(x)))


def test_division_of_odd_sizes_rounds_down():
    def apply(x):
        return jnp.arange(-(-x.shape[1] // 2), dtype=jnp.float32) + 0 * jnp.sum(x)

    run = exported(apply, ANY_SIZE)
    for height in (7, 8, 9):
        x = RNG.random((1, height, 4, 3), np.float32)
        assert_close(run(x)["output"], np.asarray(apply(jnp.asarray(x))))


def test_constant_of_a_removed_node_can_be_used_again():
    def apply(x):
        ops.conv(x, 0.5 * kernel(3, 3, 3, 4))
        return 0.5 * ops.conv(x, kernel(3, 3, 3, 4))

    x = RNG.random((1, 4, 6, 3), np.float32)
    assert_close(exported(apply, IMAGE)(x)["output"], np.asarray(apply(jnp.asarray(x))))


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda x: lax.fori_loop(0, 3, lambda _, c: 2 * c, x), "the operation (scan|while)"),
        (lambda x: lax.round(x), "rounding of halves to even only"),
    ],
)
def test_unsupported_operations_are_named(apply, message):
    with pytest.raises(InputError, match=message):
        exported(apply, IMAGE)


def test_channels_first():
    run = exported(PROGRAMS["conv"], IMAGE, layout="nchw")
    x = RNG.random((1, 6, 4, 3), np.float32)
    output = run(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))["output"]
    assert_close(output.transpose(0, 2, 3, 1), np.asarray(PROGRAMS["conv"](jnp.asarray(x))))


def test_dense_layer_and_rows_of_a_table():
    def apply(vector, labels):
        return (vector + TABLE[labels]) @ MATRIX

    vector, labels = RNG.random((4, 6), np.float32), np.array([0, 4, 2, 4], np.int32)
    run = exported(apply, VECTOR, LABELS)
    assert_close(run(vector, labels)["output"], np.asarray(apply(vector, labels)))


def test_vector_to_map():
    def apply(vector):
        return ops.conv_transpose(vector.reshape(-1, 1, 2, 3), kernel(4, 4, 1, 3), stride=2)

    vector = RNG.random((3, 6), np.float32)
    assert_close(exported(apply, VECTOR)(vector)["output"], np.asarray(apply(jnp.asarray(vector))))


def test_resizing_to_a_fixed_size():
    fixed = Port("image", ("batch", 4, 6, 3), "image", is_map=True)

    def apply(x):
        return ops.resize(x, (8, 9), method="bilinear")

    x = RNG.random((2, 4, 6, 3), np.float32)
    assert_close(exported(apply, fixed)(x)["output"], np.asarray(apply(jnp.asarray(x))))


def test_layers_merge_into_one_node():
    import onnx

    def apply(x):
        y = ops.conv(x, kernel(3, 3, 3, 2))
        y = (y - 0.5) * kernel(2).reshape(1, 1, 1, 2) + 1.0
        return jax.nn.relu(y)

    function = ModelFunction("test", "test", (IMAGE,), lambda x: {"y": apply(x)}, {"y": ""})
    nodes = onnx.load_from_string(to_onnx(function, "nchw")).graph.node
    assert [node.op_type for node in nodes] == ["Conv", "Relu"]


def test_unknown_operation_is_named():
    with pytest.raises(InputError, match="does not support the operation cumsum"):
        exported(lambda x: jnp.cumsum(x, axis=1), IMAGE)
