"""The autoencoder: shapes, symmetry, output range, and that `remat` does not change results."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.models import Autoencoder

KEY = jax.random.key(0)


def images(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).random(shape, np.float32))


def small(**fields):
    return Autoencoder(
        **({"image_shape": (8, 12, 2), "features": (4, 6), "latent_dim": 5} | fields)
    )


@pytest.fixture
def initialized(random_variables):
    """Makes a model, its variables and matching images."""

    def make(**fields):
        model = small(**fields)
        x = images(3, *model.image_shape)
        return model, random_variables(model, x), x

    return make


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, (5,)),
        ({"latent": "map"}, (2, 3, 5)),
        ({"features": (4,), "latent": "map"}, (4, 6, 5)),
        ({"image_shape": (9, 18, 1), "stride": 3, "kernel_size": 3, "latent": "map"}, (1, 2, 5)),
        ({"image_shape": (16, 8, 3), "features": (4, 5, 6)}, (5,)),
        ({"norm": "none", "activation": "gelu", "kernel_size": 5}, (5,)),
        ({"norm": "group", "latent": "map"}, (2, 3, 5)),
    ],
)
def test_codes_and_reconstructions_have_the_expected_shapes(fields, code):
    model = small(**fields)
    x = jax.ShapeDtypeStruct((3, *model.image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, KEY, x)
    encode = functools.partial(model.apply, method=model.encode)
    codes = jax.eval_shape(encode, variables, x)
    reconstructions = jax.eval_shape(model.apply, variables, x)
    assert codes.shape == (3, *code)
    assert reconstructions.shape == x.shape


@pytest.mark.slow
@pytest.mark.parametrize("latent", ["vector", "map"])
def test_reconstruction_equals_decoded_code(initialized, apply, latent):
    model, variables, x = initialized(latent=latent)
    code = apply(model, variables, x, method=model.encode)
    decoded = apply(model, variables, code, method=model.decode)
    np.testing.assert_allclose(apply(model, variables, x), decoded, atol=1e-6)


@pytest.mark.parametrize("latent", ["vector", "map"])
def test_logits_and_code_match_reconstruction_and_encoding(initialized, apply, latent):
    model, variables, x = initialized(latent=latent)
    logits, code = apply(model, variables, x, method=model.logits_and_code)
    np.testing.assert_allclose(apply(model, variables, x), jax.nn.sigmoid(logits), atol=1e-6)
    np.testing.assert_allclose(apply(model, variables, x, method=model.encode), code, atol=1e-5)


def test_decoder_kernels_mirror_the_encoder_kernels(initialized):
    """A transposed convolution stores the kernel in the layout of the convolution it transposes."""
    _, variables, _ = initialized(image_shape=(8, 16, 3), features=(4, 5, 6))
    params = variables["params"]
    down = [params[f"down_{i}"]["Conv_0"]["kernel"].shape for i in range(3)]
    up = [params[f"up_{i}"]["ConvTranspose_0"]["kernel"].shape for i in range(2)]
    assert down == [(4, 4, 3, 4), (4, 4, 4, 5), (4, 4, 5, 6)]
    assert [*up, params["to_image"]["kernel"].shape] == down[::-1]


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_reconstructions_are_in_the_unit_interval(initialized, apply, scale):
    """Also for large weights, which saturate the sigmoid."""
    model, variables, x = initialized()
    params = jax.tree.map(lambda p: scale * p, variables["params"])
    y = apply(model, variables | {"params": params}, x)
    assert 0.0 <= jnp.min(y) < jnp.max(y) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("latent", ["vector", "map"])
def test_evaluation_is_independent_of_the_batch(initialized, apply, latent):
    model, variables, x = initialized(latent=latent)
    alone = jnp.concatenate([apply(model, variables, x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(apply(model, variables, x), alone, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_remat_keeps_gradients_and_statistics(initialized, assert_trees_equal, norm):
    _, variables, x = initialized(norm=norm)

    def loss(model, params):
        y, updated = model.apply(
            variables | {"params": params}, x, train=True, mutable=["batch_stats"]
        )
        return jnp.mean((x - y) ** 2), updated

    def step(remat):
        model = small(norm=norm, remat=remat)
        return jax.jit(jax.value_and_grad(lambda p: loss(model, p), has_aux=True))

    (plain_loss, plain_stats), plain = step(False)(variables["params"])
    (remat_loss, remat_stats), remat = step(True)(variables["params"])
    assert remat_loss == pytest.approx(float(plain_loss), rel=1e-6)
    # No layer before a batch norm has a bias, whose gradient of 0 would have no relative error.
    assert_trees_equal(remat, plain, relative=1e-4)
    assert_trees_equal(remat_stats, plain_stats, relative=1e-5)


def test_remat_recomputes_convolutions(initialized):

    def convolutions(remat):
        model, variables, x = initialized(norm="none", remat=remat)
        gradient = jax.grad(lambda v: jnp.sum(model.apply(v, x)))
        return str(jax.make_jaxpr(gradient)(variables)).count("convolution_d")

    assert convolutions(remat=True) > convolutions(remat=False)


def test_code_map_scales_with_the_image_size(initialized, apply):
    model, variables, _ = initialized(latent="map")
    x = images(2, 16, 20, 2)
    assert apply(model, variables, x, method=model.encode).shape == (2, 4, 5, 5)
    assert apply(model, variables, x).shape == x.shape


def message_of(call):
    with pytest.raises(InputError) as raised:
        call()
    return str(raised.value)


@pytest.mark.parametrize("size", [(9, 12), (8, 14)])
def test_indivisible_image_shapes_are_refused(size):
    model = small(image_shape=(*size, 2))
    message = message_of(lambda: model.init(KEY, images(1, *size, 2)))
    assert f"{size[0]}x{size[1]}" in message
    assert "total stride 4 (2^2)" in message


@pytest.mark.parametrize(
    ("latent", "shape", "also"),
    [
        ("vector", (16, 12, 2), ""),
        ("vector", (8, 12, 1), ""),
        ("map", (8, 10, 2), "other sizes that are multiples of 4"),
        ("map", (8, 12, 3), "other sizes that are multiples of 4"),
    ],
)
def test_images_of_another_shape_are_refused(initialized, latent, shape, also):
    model, variables, _ = initialized(latent=latent)
    message = message_of(lambda: model.apply(variables, images(1, *shape)))
    assert "(8, 12, 2)" in message
    assert f"got {shape}" in message
    assert also in message
