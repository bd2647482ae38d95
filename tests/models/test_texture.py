"""The texture generator: equivariance, circular padding, whole periods, crops without borders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.models import TextureDiscriminator, TextureGenerator

FIELDS = {"width": 3, "stages": 2, "local_dim": 2, "global_dim": 2, "periodic_dim": 2}


def generator(size=(24, 16), **fields):
    return TextureGenerator((*size, 1), **FIELDS | fields)


def latents(model, count=2, seed=3):
    return np.random.default_rng(seed).standard_normal((count, model.latent_dim), np.float32)


def wrap(grid, margin):
    widths = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    return np.pad(grid, widths, mode="wrap")


@pytest.mark.parametrize(
    "upsampling",
    [
        "transposed",
        pytest.param("resize", marks=pytest.mark.slow),
        pytest.param("subpixel", marks=pytest.mark.slow),
    ],
)
def test_rolling_the_grid_by_a_cell_rolls_the_output_by_the_stride(
    upsampling, random_variables, apply
):
    model = generator(tileable=True, upsampling=upsampling)
    variables = random_variables(model, latents(model))
    image = apply(model, variables, latents(model))
    assert image.shape == (2, 24, 16, 1)
    assert float(jnp.std(image)) > 0.05
    grid = apply(model, variables, latents(model), method="grid")
    for shift in ((1, 0), (2, 3)):
        rolled = wrap(np.roll(grid, shift, (1, 2)), model.margin)
        moved = apply(model, variables, rolled, method="decode")
        expected = np.roll(image, [model.stride * n for n in shift], (1, 2))
        np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_tileable_generator_pads_every_layer_circularly(random_variables, apply):
    model = generator(tileable=True)
    variables = random_variables(model, latents(model))
    x = apply(model, variables, latents(model), method="grid")
    params, stats = (
        jax.tree.map(jnp.asarray, variables[name]["decoder"]) for name in ("params", "batch_stats")
    )
    x = ops.conv(x, params["Conv_0"]["kernel"])
    for layer in range(2):
        norm, moments = (tree[f"Norm_{layer}"]["BatchNorm_0"] for tree in (params, stats))
        scale, bias, mean, var = (
            jnp.asarray(a).reshape(1, 1, 1, -1)
            for a in (norm["scale"], norm["bias"], moments["mean"], moments["var"])
        )
        x = jax.nn.relu((x - mean) / jnp.sqrt(var + 1e-5) * scale + bias)
        kernel = params[f"Upsample_{layer}"]["kernel"]
        x = ops.conv_transpose(x, kernel, stride=2, padding_mode="circular")
    x = x + params["Upsample_1"]["bias"].reshape(1, 1, 1, 1)
    expected = 0.5 * (jnp.tanh(x) + 1)
    np.testing.assert_allclose(apply(model, variables, latents(model)), expected, atol=1e-5)


def test_parameters_do_not_depend_on_the_size():
    def shapes(model):
        variables = jax.eval_shape(model.init, jax.random.key(0), latents(model))
        return jax.tree.map(lambda leaf: leaf.shape, variables)

    small = shapes(generator((9, 13)))
    assert small == shapes(generator((40, 31)))
    assert small == shapes(generator((40, 32), tileable=True))


def test_parts_of_a_grid_give_parts_of_the_image(random_variables, apply):
    model = generator((24, 24))
    variables = random_variables(model, latents(model))
    grid = np.asarray(apply(model, variables, latents(model), method="grid"))
    whole = apply(model, variables, grid, method="decode")
    part = apply(model, variables, grid[:, 2:7, 1:6], method="decode")
    np.testing.assert_allclose(part, whole[:, 8:20, 4:16], atol=1e-6)


def test_periodic_latents_are_waves_with_whole_periods_if_tileable(random_variables, apply):
    model = generator((40, 24), tileable=True)
    variables = random_variables(model, latents(model))
    waves = np.asarray(apply(model, variables, latents(model), method="grid"))[..., -2:]
    rows, columns = model.cells
    spectrum = np.abs(np.fft.fft2(waves, axes=(1, 2))) / (rows * columns)
    # A sine has energy at one frequency and its negative, and nowhere else.
    power = np.sort(np.square(spectrum).reshape(2, -1, 2), axis=1)
    np.testing.assert_allclose(power[:, :-2].sum(axis=1), 0, atol=1e-8)
    assert (power[:, -1] > 1e-3).all()


def test_global_latents_are_the_same_in_all_cells_and_local_ones_are_not(random_variables, apply):
    model = generator()
    variables = random_variables(model, latents(model))
    grid = np.asarray(apply(model, variables, latents(model), method="grid"))
    rows, columns = model.grid_size
    assert np.ptp(grid[..., 2:4], axis=(1, 2)).max() == 0
    assert len(np.unique(grid[0, ..., :2])) == rows * columns * 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "group"}, "must be 'batch' or 'none'"),
        ({"size": (24, 18), "tileable": True}, "multiples of 4 pixels; got 18x24 (width x height)"),
        ({"local_dim": 0}, "generator.local_dim must be at least 1; got 0"),
    ],
)
def test_invalid_attributes_are_errors(fields, message):
    model = generator(**fields)
    with pytest.raises(InputError) as raised:
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 70)))
    assert message in str(raised.value)


def test_latents_of_another_length_and_labels_are_errors():
    model = generator()
    with pytest.raises(InputError, match="latents must have length"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 3)))
    with pytest.raises(InputError, match="has no classes"):
        jax.eval_shape(
            model.init,
            jax.random.key(0),
            jnp.zeros((1, model.latent_dim)),
            jnp.zeros(1, jnp.int32),
        )


def test_discriminator_takes_images_of_any_size_and_averages_logits(random_variables, apply):
    model = TextureDiscriminator(width=2, stages=2)
    small = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    variables = random_variables(model, small)
    assert apply(model, variables, small).shape == (2,)
    assert apply(model, variables, np.tile(small, (1, 2, 3, 1))).shape == (2,)
