"""Generators and discriminators: shapes, ranges, initialization, classes, spectral norms."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import config as jaxtyping_config

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.models import (
    DCGANDiscriminator,
    DCGANGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
    SNGANDiscriminator,
)
from deconv_jax.models.gan import minibatch_deviation
from deconv_jax.models.layers import Conv, Dense, Upsample

KEY = jax.random.key(0)
FAST_KEY = jax.random.key(0, impl="rbg")
"""A key of the PRNG that compiles ten times faster than the default on a CPU."""
GENERATORS = (DCGANGenerator, ResNetGenerator)
DISCRIMINATORS = (DCGANDiscriminator, SNGANDiscriminator, ResNetDiscriminator)
UPSAMPLING = ("transposed", "subpixel", "resize")
LATENT = 5


def uniform(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).random(shape, np.float32))


def normal(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def variables_of(model, *inputs, scale=1.0):
    """Return random variables with the shapes of `model.init`."""
    random = np.random.default_rng(0)

    def fill(path, leaf):
        name = path[-1].key
        values = random.standard_normal(leaf.shape)
        if name == "var":
            values = random.uniform(0.5, 1.5, leaf.shape)
        if name == "kernel":
            values = scale * values / np.sqrt(np.prod(leaf.shape[:-1]))
        if name == "u":
            values = values / np.linalg.norm(values)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(model.init, KEY, *inputs))


def message_of(call):
    with pytest.raises(InputError) as raised:
        call()
    return str(raised.value)


# Shapes and ranges

SHAPES = [(28, 28, 1), (32, 32, 3), (64, 64, 3), (96, 80, 3), (96, 80, 1)]


def test_max_width_limits_the_channels_of_every_map():
    generator = DCGANGenerator((256, 256, 3), LATENT, width=2, max_width=8, final_conv=True)
    discriminator = DCGANDiscriminator(width=2, max_width=8, norm="none")
    images, variables = jax.eval_shape(generator.init_with_output, KEY, jnp.zeros((1, LATENT)))
    kernels = [leaf.shape for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 4]
    assert max(max(shape[2:]) for shape in kernels) == 8
    of_discriminator = jax.eval_shape(discriminator.init, KEY, images)["params"]
    widths = [of_discriminator[f"Conv_{i}"]["kernel"].shape[-1] for i in range(6)]
    assert widths == [2, 4, 8, 8, 8, 8]
    message = message_of(
        lambda: jax.eval_shape(DCGANDiscriminator(width=9, max_width=8).init, KEY, images)
    )
    assert "max_width must be at least 9; got 8" in message


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", GENERATORS)
def test_generator_output_has_image_shape(kind, shape):
    for upsampling in UPSAMPLING:
        model = kind(image_shape=shape, latent_dim=LATENT, width=2, upsampling=upsampling)
        images, _ = jax.eval_shape(model.init_with_output, KEY, jnp.zeros((3, LATENT)))
        assert (images.shape, images.dtype) == ((3, *shape), jnp.float32)


def test_generator_options_keep_the_shape():
    latents = jnp.zeros((3, LATENT))
    for fields in ({"final_conv": True}, {"kernel_size": 5}, {"norm": "none"}, {"norm": "group"}):
        model = DCGANGenerator(latent_dim=LATENT, width=2, **fields)
        images, variables = jax.eval_shape(model.init_with_output, KEY, latents)
        assert images.shape == (3, 28, 28, 1)
        assert ("batch_stats" in variables) == ("norm" not in fields)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_discriminator_returns_one_logit_per_image(kind, shape):
    model = kind(width=2)
    logits, _ = jax.eval_shape(model.init_with_output, KEY, jnp.zeros((3, *shape)))
    assert (logits.shape, logits.dtype) == ((3,), jnp.float32)


@pytest.mark.parametrize(
    "model",
    [
        DCGANGenerator(image_shape=(16, 24, 3), latent_dim=LATENT, width=2),
        ResNetGenerator(image_shape=(16, 12, 1), latent_dim=LATENT, width=3),
    ],
)
def test_images_are_in_the_unit_interval(model):
    """Also for weights that saturate the tanh."""
    latents = normal(6, LATENT)
    variables = variables_of(model, latents, scale=5.0)
    images = jax.jit(model.apply)(variables, latents)
    assert 0.0 <= jnp.min(images) < 0.02
    assert 0.98 < jnp.max(images) <= 1.0


def test_stages_double_the_sides_and_halve_the_channels():
    """From 7x7 to 28x28; the generator's kernels have shape (height, width, out, in)."""
    model = DCGANGenerator(latent_dim=LATENT, width=6)
    params = jax.eval_shape(model.init, KEY, jnp.zeros((1, LATENT)))["params"]
    assert params["Dense_0"]["kernel"].shape == (LATENT, 7 * 7 * 12)
    assert [params[f"Upsample_{i}"]["kernel"].shape for i in range(2)] == [
        (4, 4, 6, 12),
        (4, 4, 1, 6),
    ]
    discriminator = DCGANDiscriminator(width=6)
    params = jax.eval_shape(discriminator.init, KEY, jnp.zeros((1, 28, 28, 1)))["params"]
    assert [params[f"Conv_{i}"]["kernel"].shape for i in range(2)] == [(4, 4, 1, 6), (4, 4, 6, 12)]
    assert params["Dense_0"]["kernel"].shape == (7 * 7 * 12, 1)


@pytest.mark.parametrize("size", [(7, 7), (30, 30), (28, 64), (31, 32)])
def test_unsupported_image_sizes_are_refused(size):
    expected = f"images of {size[0]}x{size[1]} pixels do not fit"
    for kind in GENERATORS:
        model = kind(image_shape=(*size, 1), latent_dim=LATENT)
        assert expected in message_of(lambda m=model: m.init(KEY, jnp.zeros((1, LATENT))))
    for kind in DISCRIMINATORS:
        assert expected in message_of(lambda k=kind: k().init(KEY, jnp.zeros((1, *size, 1))))


@pytest.mark.parametrize("kind", GENERATORS)
def test_latents_of_another_length_are_refused(kind):
    model = kind(latent_dim=LATENT)
    assert "latents must have length 5 for this generator; got shape (2, 6)" in message_of(
        lambda: model.init(KEY, jnp.zeros((2, 6)))
    )


# Statistics at initialization


def maps_at_init(model, x, kinds):
    """Return the outputs of all layers of the given types at initialization, in order of their calls."""
    maps = []

    def keep(layer, args, kwargs, context):
        y = layer(*args, **kwargs)
        if isinstance(context.module, kinds) and context.method_name == "__call__":
            maps.append(y)
        return y

    def run(x):
        maps.clear()
        with nn.intercept_methods(keep):
            model.init(FAST_KEY, x)
        return list(maps)

    return jax.jit(run)(x)


@pytest.mark.slow
@pytest.mark.parametrize("upsampling", UPSAMPLING)
def test_generator_maps_have_equal_variance_at_init(upsampling):
    """Without normalization the variance is 2, which a ReLU reduces to mean square 1, and 1 for the last map.

    The tolerance allows for the border, where fewer weights contribute, and for few weights. A
    wrong gain or fan-in would be a factor of 2 or 4 per layer.
    """
    model = DCGANGenerator((64, 64, 3), 64, width=16, norm="none", upsampling=upsampling)
    maps = maps_at_init(model, normal(16, 64), (Dense, Upsample))
    assert len(maps) == 5
    variances = [float(jnp.var(m)) for m in maps]
    np.testing.assert_allclose(variances[:-1], 2.0, rtol=0.6)
    assert variances[-1] == pytest.approx(1.0, rel=0.8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DCGANDiscriminator, SNGANDiscriminator])
def test_discriminator_maps_have_equal_variance_at_init(kind):
    """The variance is twice the mean square of the image in [-1, 1], which is 1 / 3 for uniform noise.

    Zero padding reduces it at each layer. A wrong gain would be a factor of 2 per layer.
    """
    model = kind(width=16, norm="none", spectral_norm=False)
    maps = maps_at_init(model, uniform(16, 64, 64, 3), (Conv,))
    assert len(maps) == (4 if kind is DCGANDiscriminator else 9)
    np.testing.assert_allclose([float(jnp.var(m)) for m in maps], 2 / 3, rtol=0.7)


# Classes


@pytest.mark.parametrize("kind", GENERATORS)
def test_conditional_generator_depends_on_the_class(kind):
    model = kind(image_shape=(8, 8, 1), latent_dim=LATENT, width=3, num_classes=3)
    latents = jnp.tile(normal(1, LATENT), (3, 1))
    labels = jnp.arange(3)
    variables = variables_of(model, latents, labels)
    images = np.asarray(jax.jit(model.apply)(variables, latents, labels))
    for a, b in itertools.combinations(range(3), 2):
        assert np.abs(images[a] - images[b]).max() > 1e-3
    needs = message_of(lambda: jax.eval_shape(model.apply, variables, latents))
    assert "num_classes=3 requires labels; got none" in needs
    plain = model.clone(num_classes=0)
    refused = message_of(lambda: jax.eval_shape(plain.init, KEY, latents, labels))
    assert "num_classes=0 takes no labels; got labels" in refused


@pytest.mark.slow
@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_conditional_discriminator_depends_on_the_class(kind):
    model = kind(width=2, num_classes=3)
    images, labels = jnp.tile(uniform(1, 16, 16, 1), (3, 1, 1, 1)), jnp.arange(3)
    variables = variables_of(model, images, labels)
    logits = np.asarray(jax.jit(model.apply)(variables, images, labels))
    assert np.abs(np.diff(np.sort(logits))).min() > 1e-3
    needs = message_of(lambda: jax.eval_shape(model.apply, variables, images))
    assert "num_classes=3 requires labels; got none" in needs
    plain = model.clone(num_classes=0)
    refused = message_of(lambda: jax.eval_shape(plain.init, KEY, images, labels))
    assert "num_classes=0 takes no labels; got labels" in refused


def test_logits_equal_the_projection_formula():
    """A dense layer of the features, plus their inner product with the class embedding."""
    model = DCGANDiscriminator(width=3, num_classes=4, norm="none", minibatch_std_group=2)
    images, labels = uniform(4, 8, 8, 1), jnp.array([2, 0, 3, 3])
    variables = variables_of(model, images, labels)
    params = jax.tree.map(np.asarray, variables["params"])
    x = ops.conv(2 * images - 1, variables["params"]["Conv_0"]["kernel"], stride=2)
    x = np.asarray(x) + params["Conv_0"]["bias"]
    x = np.where(x > 0, x, 0.2 * x)
    features = x.reshape(4, -1)
    deviation = np.repeat(np.std(x.reshape(2, 2, -1), axis=1).mean(-1), 2)
    inputs = np.concatenate([features, deviation[:, None]], axis=1)
    expected = (inputs @ params["Dense_0"]["kernel"])[:, 0] + params["Dense_0"]["bias"]
    vectors = params["Dense_1"]["kernel"]
    assert vectors.shape == (4, features.shape[1])
    expected = expected + np.sum(vectors[np.asarray(labels)] * features, axis=1)
    logits = jax.jit(model.apply)(variables, images, labels)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


# Spectra


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "kernels"),
    [(DCGANDiscriminator, 4), (SNGANDiscriminator, 7), (ResNetDiscriminator, 9)],
)
def test_spectral_norm_of_every_discriminator_kernel_converges_to_1(kind, kernels):
    """For convolutions, the logit layer and the class embedding, compared with numpy's SVD."""
    model = kind(width=3, num_classes=4, spectral_norm=True)
    images, labels = uniform(4, 16, 16, 1), jnp.arange(4)
    variables = variables_of(model, images, labels)

    def step(_, stats):
        given = {"params": variables["params"], "batch_stats": stats}
        _, updated = model.apply(given, images, labels, train=True, mutable=["batch_stats"])
        return updated["batch_stats"]

    stats = jax.jit(lambda stats: jax.lax.fori_loop(0, 300, step, stats))(variables["batch_stats"])
    layers = {name: layer for name, layer in variables["params"].items() if "kernel" in layer}
    assert len(layers) == kernels
    for name, layer in layers.items():
        matrix = np.asarray(layer["kernel"]).reshape(-1, layer["kernel"].shape[-1])
        v = matrix @ np.asarray(stats[name]["u"])
        # u is the right singular vector, so the layer divides by the norm of v.
        used = matrix / np.linalg.norm(v)
        assert np.linalg.svd(used, compute_uv=False)[0] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_spectral_norm_applies_to_all_kernels_or_none(kind):
    images, labels = jnp.zeros((2, 16, 16, 1)), jnp.zeros(2, jnp.int32)
    for enabled in (False, True):
        model = kind(width=2, num_classes=3, spectral_norm=enabled)
        variables = jax.eval_shape(model.init, KEY, images, labels)
        with_kernel = {k for k, layer in variables["params"].items() if "kernel" in layer}
        stats = variables.get("batch_stats", {})
        with_vector = {name for name, layer in stats.items() if "u" in layer}
        assert with_vector == (with_kernel if enabled else set())
        assert not any("u" in layer for layer in variables["params"].values())


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_spectral_norm_keeps_bfloat16(kind):
    plain = {} if kind is ResNetDiscriminator else {"norm": "none"}
    model = kind(width=2, spectral_norm=True, **plain)
    images = jnp.zeros((2, 16, 16, 1), jnp.bfloat16)
    variables = jax.eval_shape(model.init, KEY, images)
    half = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), variables["params"]
    )
    assert jax.eval_shape(model.apply, variables | {"params": half}, images).dtype == jnp.bfloat16


# Biases


def layers_with_bias(model, x):
    """Return the names of the convolutions and dense layers that have a bias."""
    params = jax.eval_shape(model.init, KEY, x)["params"]
    return {name for name, layer in params.items() if {"kernel", "bias"} <= set(layer)}


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_discriminator_layers_before_a_norm_have_no_bias(norm):
    """A norm removes the mean of a channel and has its own offset."""
    images = jnp.zeros((2, 28, 28, 1))
    convolutions = {f"Conv_{i}" for i in range(5)}
    assert layers_with_bias(DCGANDiscriminator(2, norm=norm), images) == {"Conv_0", "Dense_0"}
    assert layers_with_bias(DCGANDiscriminator(2, norm="none"), images) == {
        *("Conv_0", "Conv_1", "Dense_0")
    }
    assert layers_with_bias(SNGANDiscriminator(2, norm=norm), images) == {"Dense_0"}
    assert layers_with_bias(SNGANDiscriminator(2), images) == convolutions | {"Dense_0"}


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_generator_layers_before_a_norm_have_no_bias(norm):
    latents = jnp.zeros((2, LATENT))
    model = DCGANGenerator(latent_dim=LATENT, width=2, norm=norm)
    assert layers_with_bias(model, latents) == {"Upsample_1"}
    assert layers_with_bias(model.clone(final_conv=True), latents) == {"Conv_0"}
    assert layers_with_bias(model.clone(norm="none"), latents) == {
        *("Dense_0", "Upsample_0", "Upsample_1")
    }


# Minibatch standard deviation


@pytest.mark.parametrize("group", [2, 3, 6])
def test_minibatch_deviation_equals_numpy(group):
    x = normal(6, 3, 4, 2)
    groups = np.asarray(x, np.float64).reshape(-1, group, 3 * 4 * 2)
    expected = np.repeat(groups.std(axis=1).mean(axis=1), group)
    np.testing.assert_allclose(minibatch_deviation(x, group), expected, rtol=1e-5)


def test_minibatch_deviation_groups_consecutive_images_and_is_differentiable_at_zero():
    x = jnp.concatenate([normal(2, 3, 3, 1), jnp.ones((2, 3, 3, 1))])
    deviation = jax.jit(minibatch_deviation, static_argnums=1)(x, 2)
    assert deviation[0] > 0.1
    assert deviation[2] < 1e-3
    assert np.isfinite(jax.jit(jax.grad(lambda x: jnp.sum(minibatch_deviation(x, 2))))(x)).all()


def test_minibatch_std_group_must_divide_the_batch(monkeypatch):
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    x = jnp.zeros((6, 2, 2, 1))
    refused = message_of(lambda: minibatch_deviation(x, 4))
    assert "minibatch_std_group=4 for a batch of 6 images" in refused
    assert "minibatch_std_group must be at least 2; got 1" in message_of(
        lambda: minibatch_deviation(x, 1)
    )
    model = DCGANDiscriminator(width=2, minibatch_std_group=4)
    images = jnp.zeros((6, 16, 16, 1))
    assert "batch of 6" in message_of(lambda: jax.eval_shape(model.init, KEY, images))
