"""Learning rates and updates against values computed by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deconv_jax.errors import InputError
from deconv_jax.training.optimizer import Optimizer

PEAK = 2.0
DECAY = {"warmup_steps": 10, "decay_steps": 110, "end_factor": 0.1}


@pytest.mark.parametrize(
    ("settings", "points"),
    [
        ({}, {0: 1.0, 1000: 1.0}),
        ({"warmup_steps": 10}, {0: 0.0, 1: 0.1, 5: 0.5, 10: 1.0, 1000: 1.0}),
        # Half a cosine from 1 to 0.1: 0.1 + 0.9 * (1 + cos(pi * (step - 10) / 100)) / 2.
        (
            {"schedule": "cosine"} | DECAY,
            {5: 0.5, 10: 1.0, 35: 0.1 + 0.45 * (1 + math.sqrt(0.5)), 60: 0.55, 110: 0.1, 999: 0.1},
        ),
        (
            {"schedule": "linear"} | DECAY,
            {5: 0.5, 10: 1.0, 35: 0.775, 60: 0.55, 110: 0.1, 999: 0.1},
        ),
        # Without warm-up, down to zero.
        ({"schedule": "linear", "decay_steps": 4}, {0: 1.0, 1: 0.75, 3: 0.25, 4: 0.0}),
        # Boundaries count from the start of the run. The step of a boundary has the new rate.
        (
            {"schedule": "step", "step_boundaries": (20, 40), "warmup_steps": 10},
            {5: 0.5, 10: 1.0, 19: 1.0, 20: 0.1, 39: 0.1, 40: 0.01},
        ),
        ({"schedule": "step", "step_boundaries": (2,), "step_factor": 0.5}, {1: 1.0, 2: 0.5}),
    ],
)
def test_learning_rate_relative_to_its_peak(settings, points):
    rate = Optimizer(learning_rate=PEAK, **settings).rate()
    found = {step: float(rate(jnp.asarray(step))) / PEAK for step in points}
    assert found == pytest.approx(points, abs=1e-6)


def after(optimizer, gradients, params):
    """Return the parameters after one update per gradient."""
    transform = optimizer.transform()
    state = transform.init(params)
    for gradient in gradients:
        updates, state = transform.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_sgd_momentum_accumulates_discounted_gradients():
    """v1 = g1, v2 = g2 + 0.5 g1; p - 0.1 (v1 + v2) = p - 0.1 (1.5 g1 + g2)."""
    optimizer = Optimizer(name="sgd", learning_rate=0.1, momentum=0.5)
    p, g1, g2 = (jnp.array(v) for v in ([1.0, 2.0], [3.0, -1.0], [0.5, 4.0]))
    np.testing.assert_allclose(after(optimizer, [g1, g2], p), p - 0.1 * (1.5 * g1 + g2), rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_first_step_of_adam_is_the_learning_rate_times_the_sign(name):
    """m / (1 - b1) = g and v / (1 - b2) = g**2, so the step is g / |g|."""
    gradient = jnp.array([[3.0, -1e-3]])
    moved = after(Optimizer(name=name, learning_rate=0.1), [gradient], jnp.zeros((1, 2)))
    np.testing.assert_allclose(moved, [[-0.1, 0.1]], rtol=1e-4)


def test_momentum_and_beta2_are_the_betas_of_adam():
    """Two steps of Algorithm 1 of arXiv:1412.6980."""
    rate, b1, b2 = 0.1, 0.8, 0.9
    p, m, v = 1.0, 0.0, 0.0
    gradients = [0.5, -2.0]
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        p -= rate * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t)) + 1e-8)
    optimizer = Optimizer(learning_rate=rate, momentum=b1, beta2=b2)
    assert after(optimizer, map(jnp.array, gradients), jnp.array(1.0)) == pytest.approx(p, rel=1e-5)


def test_weight_decay_scales_only_kernels_by_the_learning_rate():
    params = {"kernel": jnp.full((2, 2), 4.0), "bias": jnp.full(2, 4.0), "scale": jnp.array(4.0)}
    still = jax.tree.map(jnp.zeros_like, params)
    optimizer = Optimizer(name="adamw", learning_rate=0.1, weight_decay=0.5)
    moved = after(optimizer, [still], params)
    np.testing.assert_allclose(moved["kernel"], 4.0 * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(moved["bias"], params["bias"])
    np.testing.assert_array_equal(moved["scale"], params["scale"])


def test_muon_orthogonalizes_kernels_and_moves_biases_by_adam():
    """The polar factor of (12, 5) has a mean square of 1 / 12; optax reaches its singular values to 35 %.

    Nesterov momentum makes the first step of Adam 1 + b1 (1 - b1) / (1 - b1^2) = 1 + b1 / (1 + b1) times as large.
    """
    gradient = np.random.default_rng(0).standard_normal((2, 2, 3, 5)).astype(np.float32)
    params = {"kernel": jnp.zeros(gradient.shape), "bias": jnp.zeros((1, 2))}
    gradients = {"kernel": jnp.asarray(gradient), "bias": jnp.array([[3.0, -1e-3]])}
    moved = after(Optimizer(name="muon", learning_rate=0.1), [gradients], params)
    u, _, vt = np.linalg.svd(gradient.reshape(12, 5), full_matrices=False)
    left, stretched, right = np.linalg.svd(
        np.reshape(moved["kernel"], (12, 5)), full_matrices=False
    )
    np.testing.assert_allclose(stretched, 0.1 * 0.2 * math.sqrt(12), rtol=0.35)
    np.testing.assert_allclose(left @ right, -u @ vt, atol=1e-4)
    step = 0.1 * (1 + 0.9 / 1.9)
    np.testing.assert_allclose(moved["bias"], [[-step, step]], rtol=1e-4)


@pytest.mark.parametrize(
    ("clip_norm", "factor"), [(None, 1.0), (10.0, 1.0), (5.0, 1.0), (1.0, 0.2)]
)
def test_clipping_scales_gradients_down_only(clip_norm, factor):
    """The global norm is sqrt(3**2 + 4**2) = 5."""
    gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    optimizer = Optimizer(name="sgd", learning_rate=1.0, momentum=0.0, clip_norm=clip_norm)
    moved = after(optimizer, [gradient], jax.tree.map(jnp.zeros_like, gradient))
    for name, g in gradient.items():
        np.testing.assert_allclose(moved[name], -factor * g, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weight_decay": 0.1}, ["weight_decay=0.1", "'adamw'", "'adam'"]),
        ({"name": "sgd", "weight_decay": 0.1}, ["weight_decay=0.1", "'adamw'", "'sgd'"]),
        ({"accumulate_steps": 0}, ["accumulate_steps", "at least 1", "0"]),
        (
            {"schedule": "cosine", "decay_steps": 10, "warmup_steps": 10},
            ["decay_steps (10", "larger than", "warmup_steps (10)"],
        ),
        ({"schedule": "linear", "decay_steps": 0}, ["decay_steps (0", "warmup_steps (0)"]),
    ],
)
def test_inconsistent_settings_are_named(settings, words):
    with pytest.raises(InputError) as raised:
        Optimizer(**settings)
    assert [word for word in words if word not in str(raised.value)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"warmup_steps": 4},
        {"schedule": "cosine"} | DECAY,
        {"schedule": "linear"} | DECAY,
        {"schedule": "step", "step_boundaries": (20, 40), "warmup_steps": 10},
    ],
)
def test_scaled_schedule_has_the_rates_of_the_original_steps(settings):
    """With three updates per step, the first has the step's rate; the others lie between two steps."""
    optimizer = Optimizer(learning_rate=PEAK, **settings)
    steps = jnp.arange(120)
    expected = jax.vmap(optimizer.rate())(steps)
    rates = jax.vmap(optimizer.scale_schedule(3).rate())(jnp.arange(3 * 120)).reshape(-1, 3)
    np.testing.assert_allclose(rates[:, 0], expected, rtol=1e-5, atol=1e-6)
    least, most = (np.sort([expected[:-1], expected[1:]], axis=0)[i][:, None] for i in (0, 1))
    assert (rates[:-1] >= least - 1e-6).all()
    assert (rates[:-1] <= most + 1e-6).all()


def test_scaling_changes_only_the_schedule():
    optimizer = Optimizer(name="sgd", schedule="cosine", momentum=0.7, clip_norm=2.0)
    assert optimizer.scale_schedule(5) == optimizer
    long = Optimizer(name="sgd", schedule="cosine", momentum=0.7, clip_norm=2.0, decay_steps=9)
    assert long.scale_schedule(1) == long
    assert long.scale_schedule(5) == dataclasses.replace(long, decay_steps=45)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_decay_requires_decay_steps(schedule):
    with pytest.raises(InputError, match=f"'{schedule}' requires optimizer.decay_steps"):
        Optimizer(schedule=schedule).rate()
