"""Normalization: kernels have the promised spectra and statistics, activations mean 0 and variance 1."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import config as jaxtyping_config

from deconv_jax.errors import InputError
from deconv_jax.models.layers import RELU_GAIN, Conv, ConvTranspose
from deconv_jax.models.normalization import Norm
from deconv_jax.ops.collectives import DATA_AXIS

FAST_KEY = jax.random.key(0, impl="rbg")
"""A key of the PRNG that compiles ten times faster than the default on a CPU."""


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@functools.partial(jax.jit, static_argnums=(0, 2))
def weights_of_outputs(layer, variables, inputs):
    """Return the kernel that the layer uses, as a matrix (fan-in, outputs), from its impulse responses.

    Every channel of every pixel is an impulse, and the layer has no bias and no padding. Zero
    responses to channels of other groups are left out.
    """
    layer = layer.clone(padding="VALID", use_bias=False)
    transposed, groups = isinstance(layer, ConvTranspose), layer.groups
    size = (1, 1) if transposed else (layer.kernel_size,) * 2
    impulses = jnp.eye(size[0] * size[1] * inputs).reshape(-1, *size, inputs)
    responses = layer.apply(variables, impulses)
    responses = responses.reshape(
        size[0] * size[1], groups, inputs // groups, -1, groups, layer.features // groups
    )
    own = jnp.stack([responses[:, group, :, :, group] for group in range(groups)], -2)
    return own.reshape(-1, layer.features)


INPUTS, OUTPUTS = 4, 6
LAYERS = {
    "conv": Conv(OUTPUTS),
    "conv, 2 groups": Conv(OUTPUTS, stride=2, groups=2),
    "conv_transpose": ConvTranspose(OUTPUTS, stride=2),
    "conv_transpose, 2 groups": ConvTranspose(OUTPUTS, kernel_size=3, groups=2),
}
on_layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


def spectral(layer, random_variables, **options):
    """Return the layer with spectral normalization, and random variables whose u has unit length."""
    layer = layer.clone(kernel_norm="spectral", **options)
    params = random_variables(layer, normal(1, 5, 5, INPUTS))["params"]
    params["kernel"] *= 3.0  # Far from spectral norm 1.
    u = normal(OUTPUTS, seed=3)
    return layer, {"params": params, "batch_stats": {"u": u / jnp.linalg.norm(u)}}


def as_arrays(variables):
    return jax.tree.map(jnp.asarray, variables)


def stats_after_training_calls(layer, variables, x, steps):

    def step(_, stats):
        return layer.apply(
            {"params": variables["params"], "batch_stats": stats}, x, mutable=["batch_stats"]
        )[1]["batch_stats"]

    return jax.jit(lambda stats: jax.lax.fori_loop(0, steps, step, stats))(
        as_arrays(variables["batch_stats"])
    )


@pytest.mark.slow
@on_layers
def test_spectral_norm_converges_to_largest_singular_value_1(random_variables, layer):
    """Power iteration (arXiv:1802.05957, algorithm 1) agrees with numpy's SVD."""
    layer, variables = spectral(layer, random_variables, train=True)
    raw = weights_of_outputs(layer.clone(kernel_norm="none", train=False), variables, INPUTS)
    singular_values = np.linalg.svd(raw, compute_uv=False)
    assert singular_values[0] > 2.0
    stats = stats_after_training_calls(layer, variables, normal(1, 5, 5, INPUTS), 500)
    variables = variables | {"batch_stats": stats}
    used = weights_of_outputs(layer.clone(train=False), variables, INPUTS)
    np.testing.assert_allclose(
        np.linalg.svd(used, compute_uv=False), singular_values / singular_values[0], atol=1e-5
    )
    np.testing.assert_allclose(used, raw / singular_values[0], atol=1e-5)
    assert jnp.linalg.norm(stats["u"]) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.slow
@on_layers
def test_spectral_norm_updates_its_vector_only_in_training(random_variables, apply, layer):
    layer, variables = spectral(layer, random_variables)
    x, u = normal(1, 5, 5, INPUTS), variables["batch_stats"]["u"]

    def apply_and_update(layer):
        return jax.jit(functools.partial(layer.apply, mutable=["batch_stats"]))(variables, x)

    y, updated = apply_and_update(layer)
    np.testing.assert_array_equal(updated["batch_stats"]["u"], u)
    np.testing.assert_allclose(apply(layer, variables, x), y, rtol=1e-5, atol=1e-5)
    # A training call uses the same kernel as evaluation, then updates u.
    in_training, updated = apply_and_update(layer.clone(train=True))
    np.testing.assert_allclose(in_training, y, rtol=1e-5, atol=1e-5)
    moved = updated["batch_stats"]["u"]
    assert jnp.linalg.norm(moved - u) > 0.1
    assert jnp.linalg.norm(moved) == pytest.approx(1.0, rel=1e-6)


def test_spectral_norm_is_the_same_without_jit(random_variables, apply):
    layer, variables = spectral(LAYERS["conv"], random_variables)
    x = normal(1, 5, 5, INPUTS)
    expected = apply(layer, variables, x)
    np.testing.assert_allclose(layer.apply(as_arrays(variables), x), expected, rtol=1e-5, atol=1e-5)


def test_spectral_norm_starts_with_a_random_unit_vector():
    x = normal(1, 5, 5, INPUTS)
    starts = []
    for train in (False, True):
        layer = Conv(OUTPUTS, kernel_norm="spectral", train=train)
        starts.append(jax.jit(layer.init)(FAST_KEY, x)["batch_stats"]["u"])
    np.testing.assert_array_equal(*starts)
    assert jnp.linalg.norm(starts[0]) == pytest.approx(1.0, rel=1e-6)
    assert jnp.min(jnp.abs(starts[0])) > 0


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "train"),
    [("conv", False), ("conv", True), ("conv, 2 groups", True), ("conv_transpose", True)],
)
def test_spectral_norm_gradient_treats_singular_vectors_as_constants(random_variables, name, train):
    """arXiv:1802.05957, equation 12: (G - <G, W / sigma> v u^T) / sigma, G the gradient by W / sigma.

    Tested far from convergence, where a gradient through u and v would differ.
    """
    layer, variables = spectral(LAYERS[name], random_variables, train=train)
    plain = layer.clone(kernel_norm="none", train=False)
    x, kernel = normal(2, 5, 5, INPUTS), jnp.asarray(variables["params"]["kernel"])

    def gradient(layer, kernel):
        def loss(kernel):
            params = variables["params"] | {"kernel": kernel}
            y, _ = layer.apply(variables | {"params": params}, x, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(y))

        return np.asarray(jax.jit(jax.grad(loss))(kernel))

    def matrix(kernel):
        return weights_of_outputs(plain, {"params": {"kernel": kernel}}, INPUTS)

    weights = np.asarray(matrix(kernel), np.float64)
    v = unit(weights @ variables["batch_stats"]["u"])
    u = unit(weights.T @ v)
    sigma = v @ weights @ u
    assert sigma < 0.99 * np.linalg.svd(weights, compute_uv=False)[0]
    # `matrix` permutes the weights, so its transpose is its inverse.
    _, back = jax.vjp(matrix, kernel)
    (outer,) = back(jnp.asarray(np.outer(v, u), jnp.float32))
    by_normalized = gradient(plain, kernel / sigma)
    expected = (by_normalized - np.vdot(by_normalized, kernel / sigma) * np.asarray(outer)) / sigma
    actual = gradient(layer, kernel)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@on_layers
def test_spectral_norm_gradient_is_orthogonal_to_the_kernel(random_variables, layer):
    """Because scaling the kernel does not change the output."""
    layer, variables = spectral(layer, random_variables)
    x = normal(2, 5, 5, INPUTS)

    @jax.jit
    def gradient(params):
        def loss(params):
            return jnp.sum(jnp.sin(layer.apply(variables | {"params": params}, x)))

        return jax.grad(loss)(params)["kernel"]

    kernel, slope = variables["params"]["kernel"], gradient(variables["params"])
    assert np.linalg.norm(slope) > 0.1
    assert abs(np.vdot(slope, kernel)) < 1e-5 * np.linalg.norm(slope) * np.linalg.norm(kernel)


@on_layers
def test_standardized_weights_have_mean_zero_and_variance_gain_over_fan_in(random_variables, layer):
    """arXiv:2101.08692, equation 1, with statistics of the whole kernel for strided transposes too."""
    layer = layer.clone(kernel_norm="standardized", gain=RELU_GAIN)
    x = normal(1, 5, 5, INPUTS)
    weights = weights_of_outputs(layer, random_variables(layer, x), INPUTS)
    fan_in = len(weights) / (layer.stride**2 if isinstance(layer, ConvTranspose) else 1)
    np.testing.assert_allclose(jnp.mean(weights, 0), 0.0, atol=1e-6)
    np.testing.assert_allclose(jnp.var(weights, 0), RELU_GAIN / fan_in, rtol=1e-5)


@on_layers
def test_standardized_weights_are_invariant_to_scale_and_mean_of_the_kernel(
    random_variables, apply, layer
):
    layer = layer.clone(kernel_norm="standardized")
    x = normal(1, 5, 5, INPUTS)
    variables = random_variables(layer, x)
    changed = variables["params"] | {"kernel": 3.0 * variables["params"]["kernel"] - 0.7}
    expected = apply(layer, variables, x)
    actual = apply(layer, {"params": changed}, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_standardized_constant_weights_are_zero(apply):
    layer = Conv(OUTPUTS, kernel_norm="standardized", use_bias=False)
    y = apply(layer, {"params": {"kernel": jnp.ones((3, 3, 4, 6))}}, normal(1, 5, 5, 4))
    np.testing.assert_array_equal(y, jnp.zeros((1, 5, 5, 6)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [Conv(32), Conv(32, groups=2), ConvTranspose(32, stride=2), ConvTranspose(32, groups=2)],
    ids=LAYERS,
)
def test_standardized_layers_have_the_variance_of_their_gain_at_init(layer):
    layer = layer.clone(kernel_norm="standardized", gain=RELU_GAIN)
    y = jax.jit(layer.init_with_output)(FAST_KEY, normal(8, 12, 12, 16, seed=1))[0]
    # Three standard errors of the variance, away from the border.
    assert jnp.var(y[:, 4:-4, 4:-4]) == pytest.approx(RELU_GAIN, rel=0.1)


def test_unknown_kernel_norm_suggests_the_closest_name(monkeypatch):
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match="'standardize'; did you mean 'standardized'"):
        jax.eval_shape(
            Conv(6, kernel_norm="standardize").init, jax.random.key(0), normal(1, 4, 4, 4)
        )


@functools.partial(jax.jit, static_argnums=0)
def normalize(norm, x):
    """Return the output and the updated variables of an initialized layer."""
    variables = norm.init(jax.random.key(0), x)
    y, updated = norm.apply(variables, x, mutable=["batch_stats"])
    return y, variables | updated


def assert_standard(x, axes):
    """Check mean 0 and variance 1 over `axes`, up to the epsilon in the denominator."""
    np.testing.assert_allclose(jnp.mean(x, axes), 0.0, atol=1e-5)
    np.testing.assert_allclose(jnp.var(x, axes), 1.0, rtol=1e-3)


def test_batch_norm_standardizes_channels_over_the_batch_in_training():
    x = 5.0 + 3.0 * normal(8, 6, 6, 4)
    y, variables = normalize(Norm("batch", train=True), x)
    assert_standard(y, (0, 1, 2))
    assert jnp.std(jnp.mean(y, (1, 2))) > 0.01  # Not over each image.
    # One update of the running statistics with momentum 0.9, from mean 0 and variance 1.
    stats = variables["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], 0.1 * jnp.mean(x, (0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * jnp.var(x, (0, 1, 2)), rtol=1e-4)


def test_batch_norm_uses_running_statistics_in_evaluation():
    x = normal(2, 4, 4, 3)
    _, variables = normalize(Norm("batch"), x)
    mean, variance = jnp.array([1.0, 2.0, 3.0]), jnp.array([4.0, 9.0, 16.0])
    stats = {"batch_stats": {"BatchNorm_0": {"mean": mean, "var": variance}}}
    y = Norm("batch").apply(variables | stats, x)
    expected = (x - mean.reshape(1, 1, 1, 3)) / jnp.sqrt(variance).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_batch_norm_of_a_sharded_batch_uses_global_statistics():
    """As under `pmap`, where each device holds a shard."""
    x = normal(8, 4, 4, 3)
    norm = Norm("batch", train=True)
    expected, variables = normalize(norm, x)

    def apply(shard):
        return norm.apply(variables, shard, mutable=["batch_stats"])[0]

    shards = jax.vmap(apply, axis_name=DATA_AXIS)(x.reshape(4, 2, 4, 4, 3))
    np.testing.assert_allclose(shards.reshape(x.shape), expected, rtol=1e-5, atol=1e-5)


def test_group_norm_standardizes_groups_of_each_image():
    x = 5.0 + 3.0 * normal(2, 16, 16, 32)
    y, _ = normalize(Norm("group"), x)
    assert_standard(y.reshape(2, 16, 16, 8, 4), (1, 2, 4))


@pytest.mark.parametrize(("channels", "groups"), [(4, 4), (12, 4), (7, 1)])
def test_group_norm_uses_gcd_of_groups_and_channels(channels, groups):
    x = 5.0 + 3.0 * normal(2, 16, 16, channels)
    y, _ = normalize(Norm("group"), x)
    assert_standard(y.reshape(2, 16, 16, groups, channels // groups), (1, 2, 4))


def test_layer_norm_standardizes_channels_of_each_pixel():
    y, _ = normalize(Norm("layer"), 5.0 + 3.0 * normal(2, 4, 4, 64))
    assert_standard(y, -1)


def test_norm_none_is_the_identity_without_parameters():
    x = normal(2, 4, 4, 3)
    y, variables = normalize(Norm("none"), x)
    np.testing.assert_array_equal(y, x)
    assert not variables


def test_unknown_norm_suggests_the_closest_name(monkeypatch):
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match="'bacth'; did you mean 'batch'"):
        normalize(Norm("bacth"), normal(1, 2, 2, 1))
