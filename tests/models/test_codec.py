"""Codecs: GDN equals its formula, rates, rounding and noise, quality levels, receptive fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from deconv_jax.errors import InputError
from deconv_jax.models import FactorizedCodec, HyperpriorCodec
from deconv_jax.models.codec import (
    GDN,
    LATENT_STRIDE,
    decoder_receptive_field,
    encoder_receptive_field,
)
from deconv_jax.models.entropy_models import gaussian_bits


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_and_its_gradients_equal_pytorch(inverse):
    """With CompressAI's parametrization: beta = max(b, sqrt(1e-6 + p))^2 - p, p = 2^-36."""
    random = np.random.default_rng(0)
    x = random.normal(0, 2, (2, 5, 4, 6)).astype(np.float32)
    beta = random.uniform(0.5, 1.5, 6).astype(np.float32)
    gamma = random.uniform(0.05, 0.6, (6, 6)).astype(np.float32)
    variables = {"params": {"beta": beta, "gamma": gamma}}
    cotangent = random.normal(size=x.shape).astype(np.float32)

    @jax.jit
    def both(variables, x, cotangent):
        y, pull_back = jax.vjp(GDN(inverse).apply, variables, x)
        return y, *pull_back(cotangent)

    y, of_variables, of_x = both(variables, x, cotangent)

    pedestal = 2.0**-36
    b, g, t = (torch.tensor(a.astype(np.float64), requires_grad=True) for a in (beta, gamma, x))
    power = (b**2 - pedestal) + torch.einsum("nhwj,ij->nhwi", t**2, g**2 - pedestal)
    expected = t * torch.sqrt(power) if inverse else t / torch.sqrt(power)
    expected.backward(torch.tensor(cotangent.astype(np.float64)))
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_x, t.grad.numpy(), rtol=1e-3, atol=1e-4)
    for name, theirs in (("beta", b), ("gamma", g)):
        wanted = theirs.grad.numpy()
        np.testing.assert_allclose(
            of_variables["params"][name], wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max()
        )


def test_gdn_has_the_papers_initialization_and_stays_finite():
    x = jnp.ones((1, 2, 2, 3))
    variables, apply = jax.jit(GDN().init)(jax.random.key(0), x), jax.jit(GDN().apply)
    np.testing.assert_allclose(apply(variables, x), 1 / np.sqrt(1.1), rtol=1e-5)
    negative = jax.tree.map(lambda a: -np.ones_like(a), variables)
    assert np.all(np.isfinite(apply(negative, x)))


def initial(model, images):
    return jax.jit(model.init)(jax.random.key(0, impl="rbg"), images, jnp.zeros(1, int))


@pytest.fixture(scope="module", params=[FactorizedCodec, HyperpriorCodec])
def codec(request):
    """A codec with two quality levels, its variables and matching images."""
    model = request.param(channels=2, features=4, latent_features=6, initial_gains=(4.0, 40.0))
    variables = initial(model, jnp.zeros((1, 64, 64, 2)))
    images = np.random.default_rng(0).random((2, 64, 128, 2)).astype(np.float32)
    return model, variables, jnp.asarray(images)


def test_stage_and_hyper_features_set_the_widths():
    model = HyperpriorCodec(
        features=4, latent_features=6, stage_features=(2, 3, 5), hyper_features=7
    )
    params = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)), jnp.zeros(1, int)
    )
    widths = {
        name: layer["bias"].shape[0] for name, layer in params["params"].items() if "bias" in layer
    }
    assert [widths[f"down_{n}"] for n in range(4)] == [2, 3, 5, 6]
    assert [widths[f"up_{n}"] for n in range(4)] == [5, 3, 2, 3]
    assert [widths[f"hyper_down_{n}"] for n in range(3)] == [4, 4, 4]
    assert [widths[f"hyper_up_{n}"] for n in range(3)] == [7, 7, 12]


@pytest.mark.slow
def test_without_keys_output_and_rate_are_those_of_rounded_latents(codec):
    model, variables, images = codec

    @jax.jit
    def full_and_in_parts(variables, images, level):
        coded = model.apply(variables, images, level)
        y = model.apply(variables, images, level, method="analyze")
        assert y.shape == (2, 4, 8, 6)
        if isinstance(model, HyperpriorCodec):
            z = jnp.round(model.apply(variables, y, method="hyper_analyze"))
            assert z.shape == (2, 1, 2, 4)
            mean, scale = model.apply(variables, z, method="hyper_synthesize")
            rounded = jnp.round(y - mean)
            bits, latents = gaussian_bits(rounded, scale), rounded + mean
            side = model.apply(variables, z, method=lambda m, x: m.prior(x))
        else:
            latents = jnp.round(y)
            bits = model.apply(variables, latents, method=lambda m, x: m.prior(x))
            side = jnp.zeros((2, 1, 1, 1))
        decoded = model.apply(variables, latents, level, method="synthesize")
        return coded, bits, side, decoded

    parts = full_and_in_parts(variables, images, jnp.array([0, 1]))
    coded, bits, side, decoded = jax.device_get(parts)
    np.testing.assert_allclose(coded.bits, bits.sum((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(coded.side_bits, side.sum((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(coded.images, decoded, atol=1e-5)


@pytest.mark.slow
def test_noise_depends_only_on_the_images_own_key(codec):
    model, variables, images = codec
    keys = jax.random.split(jax.random.key(1), 2)
    level = jnp.zeros(2, int)
    apply = jax.jit(model.apply)
    both = apply(variables, images, level, keys)
    swapped = apply(variables, images[::-1], level, keys[::-1])
    np.testing.assert_allclose(both.bits, swapped.bits[::-1], rtol=1e-4)
    rounded = apply(variables, images, level)
    assert np.all(np.asarray(both.bits) != np.asarray(rounded.bits))
    np.testing.assert_allclose(both.images, rounded.images, atol=1e-5)


@pytest.mark.slow
def test_rounding_has_a_straight_through_gradient(codec):
    model, variables, images = codec
    keys = jax.random.split(jax.random.key(1), 2)

    def loss(variables):
        coded = model.apply(variables, images, jnp.zeros(2, int), keys)
        return jnp.mean(jnp.square(coded.images - images))

    gradients = jax.jit(jax.grad(loss))(variables)["params"]
    assert np.abs(gradients["down_0"]["kernel"]).max() > 0


@pytest.mark.slow
def test_levels_scale_the_latents_and_undo_it():
    model = FactorizedCodec(1, 4, 5, initial_gains=(1.0, 10.0))
    variables = initial(model, jnp.zeros((1, 16, 16, 1)))
    images = jnp.asarray(np.random.default_rng(0).random((1, 32, 32, 1), np.float32))
    apply = jax.jit(model.apply, static_argnames="method")
    low, high = (apply(variables, images, jnp.array([n]), method="analyze") for n in (0, 1))
    np.testing.assert_allclose(high, 10.0 * low, rtol=1e-5)
    back = [
        apply(variables, y, jnp.array([n]), method="synthesize") for n, y in ((0, low), (1, high))
    ]
    np.testing.assert_allclose(*back, atol=1e-5)
    one = FactorizedCodec(1, 4, 5)
    shapes = jax.eval_shape(one.init, jax.random.key(0), images, jnp.zeros(1, int))
    assert not [name for name in shapes["params"] if "gain" in name]


@pytest.mark.slow
def test_receptive_fields_contain_all_dependencies(codec):
    model, variables, _ = codec
    field = encoder_receptive_field()
    level = jnp.zeros(1, int)
    image = jnp.asarray(np.random.default_rng(2).random((1, 16, 256, 2), np.float32))

    @jax.jit
    @jax.grad
    def of_latent(image):
        return jnp.sum(model.apply(variables, image, level, method="analyze")[0, 0, 8])

    columns = np.flatnonzero(np.abs(of_latent(image)).sum((0, 1, 3)))
    blocks = columns // LATENT_STRIDE
    assert (8 - blocks[0], blocks[-1] - 8) == (field.before, field.after)
    field = decoder_receptive_field()
    assert field.scale == LATENT_STRIDE
    y = jnp.asarray(np.random.default_rng(3).normal(size=(1, 1, 16, 6)).astype(np.float32))
    reach = []

    @jax.jit
    @jax.grad
    def of_pixel(y, column):
        return jnp.sum(model.apply(variables, y, level, method="synthesize")[0, 0, column])

    for column in range(8 * 16, 9 * 16):
        found = np.flatnonzero(np.abs(of_pixel(y, column)).sum((0, 1, 3)))
        reach += [8 - found[0], found[-1] - 8]
    assert max(reach) <= max(field.before, field.after)
    assert max(reach) == max(field.before, field.after)


def test_attributes_out_of_range_are_refused():
    image = jnp.zeros((1, 64, 64, 3))
    for fields in ({"features": 0}, {"initial_gains": ()}, {"initial_gains": (1.0, 0.0)}):
        model = FactorizedCodec(**fields)
        with pytest.raises(InputError, match=next(iter(fields))):
            model.init(jax.random.key(0), image, jnp.zeros(1, int))
