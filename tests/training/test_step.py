"""The shared gradient-descent update, against direct computation on a linear model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deconv_jax.errors import InputError
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import TrainState
from deconv_jax.training.step import apply_model, gradient_step, images_in_unit_range, init_state

RATE = 0.1
PLAIN = {"name": "sgd", "learning_rate": RATE, "momentum": 0.0}


class Linear(nn.Module):
    """A dense layer, optionally after batch normalization."""

    normalized: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        if self.normalized:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.Dense(2)(x)


def batch_of(size):
    random = np.random.default_rng(size)
    return {
        "image": jnp.asarray(random.integers(0, 256, (size, 3)), jnp.uint8),
        "target": jnp.asarray(random.normal(size=(size, 2)), jnp.float32),
        "index": jnp.arange(size),
    }


def loss_of(model, precision="f32"):
    def loss_function(variables, batch):
        images = images_in_unit_range(batch["image"])
        y, stats = apply_model(model, variables, images, train=True, precision=precision)
        errors = jnp.mean((y - batch["target"]) ** 2, axis=1)
        return jnp.mean(errors), ({"half": jnp.mean(errors) / 2}, stats)

    return loss_function


def initial(model, optimizer):
    return init_state(model, optimizer, jax.random.key(0), batch_of(2)["image"])


def step(state, batch, optimizer, model=None, precision="f32"):
    loss_function = loss_of(model or Linear(), precision)
    return jax.jit(lambda s, b: gradient_step(s, b, loss_function, optimizer))(state, batch)


def gradient(state, batch, model=None):
    """Return the loss and the gradient of the whole batch."""
    loss_function = loss_of(model or Linear())

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        return loss_function(variables, batch)[0]

    return jax.jit(jax.value_and_grad(loss))(state.params)


@pytest.mark.slow
def test_step_descends_along_the_gradient_and_reports_scalars(assert_trees_equal):
    optimizer = Optimizer(**PLAIN, warmup_steps=4)
    state, batch = initial(Linear(), optimizer), batch_of(6)
    state = state.replace(step=jnp.int32(2), opt_state=opt_state_at(state, 2))
    loss, slope = gradient(state, batch)
    new, scalars = step(state, batch, optimizer)
    expected = jax.tree.map(lambda p, g: p - RATE / 2 * g, state.params, slope)
    assert_trees_equal(new.params, expected, relative=1e-6)
    assert (int(new.step), new.step.dtype) == (3, jnp.int32)
    assert {name: float(value) for name, value in scalars.items()} == pytest.approx(
        {
            "loss": float(loss),
            "half": float(loss) / 2,
            "grad_norm": float(optax.tree.norm(slope)),
            "learning_rate": RATE / 2,  # Halfway through the warm-up of 4 steps.
        },
        rel=1e-5,
    )


def opt_state_at(state, count):
    """Return the optimizer state with its step counters advanced, as in a checkpoint."""
    counters = jax.tree.map(lambda a: a.dtype == jnp.int32, state.opt_state)
    return jax.tree.map(lambda a, c: a + count if c else a, state.opt_state, counters)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_accumulated_gradients_equal_those_of_the_whole_batch(parts, assert_trees_equal):
    """The loss is a mean over examples, so the gradients of equal parts average to its gradient."""
    optimizer = Optimizer(**PLAIN, accumulate_steps=parts)
    state, batch = initial(Linear(), optimizer), batch_of(6)
    loss, slope = gradient(state, batch)
    new, scalars = step(state, batch, optimizer)
    expected = jax.tree.map(lambda p, g: p - RATE * g, state.params, slope)
    assert_trees_equal(new.params, expected, relative=1e-6)
    assert scalars["loss"] == pytest.approx(float(loss), rel=1e-6)
    assert scalars["half"] == pytest.approx(float(loss) / 2, rel=1e-6)
    assert scalars["grad_norm"] == pytest.approx(float(optax.tree.norm(slope)), rel=1e-5)


def test_parts_update_the_running_statistics_sequentially():
    """Part i holds rows i, i + parts, ...; a running mean m becomes 0.9 m + 0.1 (the part's mean)."""
    model, optimizer = Linear(normalized=True), Optimizer(**PLAIN, accumulate_steps=2)
    state, batch = initial(model, optimizer), batch_of(6)
    new, _ = step(state, batch, optimizer, model)
    images = np.asarray(batch["image"], np.float64) / 255.0
    expected = np.zeros(3)
    for part in (images[0::2], images[1::2]):
        expected = 0.9 * expected + 0.1 * part.mean(axis=0)
    np.testing.assert_allclose(new.batch_stats["BatchNorm_0"]["mean"], expected, rtol=1e-5)


def test_batch_size_must_be_divisible_by_the_parts():
    optimizer = Optimizer(**PLAIN, accumulate_steps=4)
    with pytest.raises(
        InputError, match=r"divisible by optimizer.accumulate_steps=4; got a batch of 6"
    ):
        step(initial(Linear(), optimizer), batch_of(6), optimizer)


def test_averaged_weights_follow_their_recursion_and_are_evaluated(assert_trees_equal):
    """ema' = d * ema + (1 - d) * params', from ema = the initial parameters, d rising to ema_decay."""
    optimizer = Optimizer(**PLAIN, ema_decay=0.25)
    state, batch = initial(Linear(), optimizer), batch_of(6)
    expected = state.params
    for decay in (1 / 10, 2 / 11, 0.25, 0.25):
        state, _ = step(state, batch, optimizer)
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, expected, state.params)
    assert_trees_equal(state.ema, expected, relative=1e-6)
    assert state.inference_variables()["params"] is state.ema


def test_averaged_weights_start_as_a_copy_so_both_can_be_donated():
    state = initial(Linear(), Optimizer(ema_decay=0.9))
    for averaged, own in zip(
        jax.tree.leaves(state.ema), jax.tree.leaves(state.params), strict=True
    ):
        np.testing.assert_array_equal(averaged, own)
        assert averaged.unsafe_buffer_pointer() != own.unsafe_buffer_pointer()


def test_parameters_are_evaluated_without_averaging():
    state = initial(Linear(), Optimizer())
    assert state.ema == {}
    assert state.inference_variables()["params"] is state.params


def test_clipping_limits_the_update_but_not_the_reported_norm():
    """Plain gradient descent moves by the learning rate times the clipped norm."""
    limit = 1e-3
    optimizer = Optimizer(**PLAIN, clip_norm=limit)
    state, batch = initial(Linear(), optimizer), batch_of(6)
    new, scalars = step(state, batch, optimizer)
    norm = optax.tree.norm(gradient(state, batch)[1])
    assert norm > limit
    assert scalars["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, new.params, state.params))
    assert moved == pytest.approx(RATE * limit, rel=1e-2)


@pytest.mark.slow
def test_bfloat16_keeps_parameters_gradients_and_output_in_float32():
    model = Linear(normalized=True)
    state = initial(model, Optimizer())
    images = images_in_unit_range(batch_of(6)["image"])
    variables = state.inference_variables()

    def run(params, precision):
        inputs = variables | {"params": params}
        return apply_model(model, inputs, images, train=True, precision=precision)

    low, stats = run(variables["params"], "bf16")
    high, _ = run(variables["params"], "f32")
    slope = jax.grad(lambda p: jnp.sum(run(p, "bf16")[0]))(variables["params"])
    assert {leaf.dtype for leaf in jax.tree.leaves((low, stats, slope))} == {jnp.dtype("float32")}
    # The last layer's output was bfloat16, and differs from float32's by its rounding errors.
    np.testing.assert_array_equal(low, low.astype(jnp.bfloat16).astype(jnp.float32))
    assert 0.0 < jnp.max(jnp.abs(low - high)) < 0.05


def test_bfloat16_step_changes_parameters_below_bfloat16_resolution():
    """bfloat16 cannot represent 1 + 2**-12, so rounding the parameters would lose small steps."""
    optimizer = Optimizer(name="sgd", learning_rate=2.0**-12, momentum=0.0)
    state, batch = initial(Linear(), optimizer), batch_of(6)
    state = state.replace(params=jax.tree.map(jnp.ones_like, state.params))
    new, _ = step(state, batch, optimizer, precision="bf16")
    moved = jax.tree.map(jnp.subtract, new.params, state.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(new.params)} == {jnp.dtype("float32")}
    assert all(0 < jnp.max(jnp.abs(leaf)) < 2.0**-8 for leaf in jax.tree.leaves(moved))


def test_evaluation_does_not_change_the_running_statistics():
    model = Linear(normalized=True)
    state = initial(model, Optimizer())
    images = images_in_unit_range(batch_of(4)["image"])
    inputs = state.inference_variables()
    assert apply_model(model, inputs, images, train=False, precision="f32")[1] == state.batch_stats


def test_images_are_divided_by_255():
    scaled = images_in_unit_range(jnp.array([0, 51, 128, 255], jnp.uint8))
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(scaled, [0.0, 0.2, 128 / 255, 1.0], rtol=1e-7)


def test_initial_state_is_at_step_zero_with_float32_parameters():
    state = initial(Linear(), Optimizer())
    assert isinstance(state, TrainState)
    assert (int(state.step), state.step.dtype, state.batch_stats) == (0, jnp.int32, {})
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
