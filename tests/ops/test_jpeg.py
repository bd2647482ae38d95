"""Tests of JPEG against Pillow, which uses libjpeg, and of its derivative."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from PIL import Image

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.ops.jpeg import quantization_tables

# Compile the function as a whole, as in use.
jpeg = jax.jit(ops.jpeg, static_argnames="subsampling")

QUALITIES = np.array([1, 10, 40, 50, 75, 95, 100])
PILLOW_SUBSAMPLING = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
# Whole and partial blocks, odd and even sizes, and a chroma plane of at most 2 columns.
SIZES = [(64, 48), (37, 51), (18, 34), (7, 4)]


def photograph(channels, height, width):
    """Return the levels of a part of a photograph with details and flat areas."""
    whole = skimage.data.astronaut() if channels == 3 else skimage.data.camera()[..., None]
    return whole[60 : 60 + height, 180 : 180 + width]


def noise(channels, height, width):
    """Return levels without redundancy, many of which decode to values beyond 0 and 255."""
    drawn = np.random.default_rng(0).choice([0, 17, 128, 240, 255], (height, width, channels))
    return drawn.astype(np.uint8)


def encoded_by_pillow(levels, quality, subsampling):
    file = io.BytesIO()
    image = Image.fromarray(levels.squeeze(-1) if levels.shape[-1] == 1 else levels)
    image.save(file, "JPEG", quality=int(quality), subsampling=PILLOW_SUBSAMPLING[subsampling])
    return Image.open(file)


def levels_of(images):
    """Return the 8-bit levels of images, which must be integers."""
    levels = np.asarray(images) * 255
    np.testing.assert_allclose(levels, np.round(levels), rtol=0, atol=1e-4)
    return np.round(levels).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("channels", "subsampling"), [(1, "4:4:4"), (3, "4:4:4"), (3, "4:2:2"), (3, "4:2:0")]
)
def test_levels_equal_those_of_pillow_at_every_quality(channels, subsampling, size):
    """The comparison is bit-exact, with one quality per image."""
    for levels in (photograph(channels, *size), noise(channels, *size)):
        images = np.tile(levels.astype(np.float32) / 255, (len(QUALITIES), 1, 1, 1))
        result = levels_of(jpeg(jnp.asarray(images), QUALITIES, subsampling=subsampling))
        for quality, decoded in zip(QUALITIES, result, strict=True):
            expected = np.asarray(encoded_by_pillow(levels, quality, subsampling))
            np.testing.assert_array_equal(decoded, expected.reshape(levels.shape), str(quality))


def test_quantization_tables_equal_those_in_a_file():
    luminance, chrominance = quantization_tables(jnp.asarray(QUALITIES))
    for i, quality in enumerate(QUALITIES):
        tables = encoded_by_pillow(photograph(3, 8, 8), quality, "4:4:4").quantization
        np.testing.assert_array_equal(luminance[i].ravel(), tables[0])
        np.testing.assert_array_equal(chrominance[i].ravel(), tables[1])


def test_inputs_are_clipped_and_rounded():
    levels = photograph(1, 16, 16)[None].astype(np.float32)
    expected = jpeg(jnp.asarray(levels / 255), 30)
    np.testing.assert_array_equal(jpeg(jnp.asarray((levels + 0.4) / 255), np.array([30])), expected)
    beyond = np.where(levels > 128, 2.0, -1.0).astype(np.float32)
    within = np.where(levels > 128, 1.0, 0.0).astype(np.float32)
    np.testing.assert_array_equal(jpeg(jnp.asarray(beyond), 30), jpeg(jnp.asarray(within), 30))


@pytest.mark.parametrize(("channels", "subsampling"), [(1, "4:2:0"), (3, "4:4:4")])
def test_derivative_without_subsampling_is_the_identity(channels, subsampling):
    """This holds even where values are clipped."""
    draw = np.random.default_rng(1).standard_normal
    x, tangent = (jnp.asarray(draw((2, 9, 10, channels)), jnp.float32) for _ in range(2))

    def compressed(x):
        return jpeg(x, 20, subsampling=subsampling)

    np.testing.assert_array_equal(jax.jvp(compressed, (x,), (tangent,))[1], tangent)
    np.testing.assert_array_equal(jax.vjp(compressed, x)[1](tangent)[0], tangent)


@pytest.mark.slow
@pytest.mark.parametrize("subsampling", ["4:2:2", "4:2:0"])
def test_derivative_is_the_subsampling_of_chroma(subsampling):
    """Applied to the image itself, it equals compression at the best quality up to rounding.

    The levels stay away from 0 and 255. Chroma is noise, most of which subsampling removes.
    """
    x = np.random.default_rng(2).uniform(0.35, 0.65, (1, 20, 23, 3)).astype(np.float32)

    def compressed(x):
        return jpeg(x, 100, subsampling=subsampling)

    value, through = jax.jvp(compressed, (jnp.asarray(x),), (jnp.asarray(x),))
    assert np.abs(np.asarray(value) - x).mean() > 10 / 255
    assert np.abs(value - through).max() < 4 / 255
    gray = np.repeat(x[..., :1], 3, axis=-1)
    through = jax.jvp(compressed, (jnp.asarray(x),), (jnp.asarray(gray),))[1]
    np.testing.assert_allclose(through, gray, atol=1e-5)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("channels", "quality", "subsampling", "message"),
    [
        (2, 50, "4:2:0", "1 or 3 channels; got shape (1, 8, 8, 2)"),
        (1, 0, "4:2:0", "quality must be an integer from 1 to 100; got 0"),
        (1, 101, "4:2:0", "got 101"),
        (1, np.int64(0), "4:2:0", "got 0"),
        (3, 50, "4:1:1", "got '4:1:1'"),
    ],
)
def test_errors_name_the_argument_and_its_value(channels, quality, subsampling, message):
    with pytest.raises(InputError) as error:
        ops.jpeg(jnp.zeros((1, 8, 8, channels)), quality, subsampling=subsampling)
    assert message in str(error.value)
