"""Preprocessing of a classifier: the formula of standardization, its inverse, and the region that is resized."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from deconv_jax.data.preprocessing import Preprocessing, unstandardize
from deconv_jax.errors import InputError

STANDARD = Preprocessing(standardize=True)


@functools.partial(jax.jit, static_argnums=0)
def resized(size, images, valid_size=None):
    return Preprocessing(resize=size).resized(images, valid_size)


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).random(shape, np.float32)


def test_standardization_equals_the_formula_of_tensorflow():
    """(x - mean) / max(deviation, 1 / sqrt(n)) per image, as `tf.image.per_image_standardization`."""
    images = draw(5, 6, 7, 3) * np.array([1, 0.5, 0.2, 1e-3, 0]).reshape(-1, 1, 1, 1) + 0.1
    seen, statistics = STANDARD.standardized(jnp.asarray(images, jnp.float32))
    flat = torch.tensor(images.reshape(5, -1), dtype=torch.float64)
    deviation, mean = torch.std_mean(flat, dim=1, correction=0, keepdim=True)
    floor = torch.tensor((6 * 7 * 3) ** -0.5, dtype=torch.float64)
    assert (deviation < floor).sum() == 3
    expected = (flat - mean) / torch.maximum(deviation, floor)
    np.testing.assert_allclose(seen.reshape(5, -1), expected.numpy(), atol=1e-5)
    assert statistics.mean.shape == statistics.deviation.shape == (5, 1, 1, 1)


def test_mean_is_0_and_deviation_1_for_any_brightness_and_contrast():
    images = jnp.asarray(draw(4, 8, 8, 2))
    seen, _ = STANDARD(images)
    np.testing.assert_allclose(jnp.mean(seen, (1, 2, 3)), np.zeros(4), atol=1e-6)
    np.testing.assert_allclose(jnp.std(seen, (1, 2, 3)), np.ones(4), atol=1e-6)
    dimmed, _ = STANDARD(0.6 * images + 0.3)
    np.testing.assert_allclose(dimmed, seen, atol=1e-5)
    backwards, _ = STANDARD(images[::-1])
    np.testing.assert_allclose(backwards[::-1], seen, atol=1e-6)


@pytest.mark.slow
def test_flat_image_becomes_0_and_deviation_has_a_minimum():
    """With 4 values the minimum deviation is 1/2, so +-0.1 about the mean becomes +-0.2."""
    images = jnp.array([[0.3, 0.3, 0.3, 0.3], [0.4, 0.2, 0.4, 0.2]]).reshape(2, 2, 2, 1)
    seen, statistics = STANDARD(images)
    expected = [[0, 0, 0, 0], [0.2, -0.2, 0.2, -0.2]]
    np.testing.assert_allclose(seen.reshape(2, 4), expected, atol=1e-6)
    np.testing.assert_allclose(statistics.deviation.reshape(2), [0.5, 0.5])
    gradient = jax.grad(lambda x: jnp.sum(STANDARD(x)[0] ** 2))(images)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("preprocessing", [Preprocessing(), STANDARD], ids=["none", "standard"])
def test_restoring_undoes_standardizing(preprocessing):
    images = jnp.asarray(draw(3, 5, 4, 3)).at[1].set(0.25)
    np.testing.assert_allclose(unstandardize(*preprocessing(images)), images, atol=1e-6)


def test_default_is_the_identity():
    images = jnp.asarray(draw(2, 5, 4, 1))
    for preprocessing in (Preprocessing(), Preprocessing(resize=(5, 4))):
        seen, _ = preprocessing(images)
        np.testing.assert_array_equal(seen, images)


def test_resizing_takes_the_center_crop():
    """The center 4 x 4 of 4 x 8 pixels, with 2 x 2 blocks of equal value, is kept exactly."""
    values = draw(1, 2, 2, 1)
    middle = values.repeat(2, axis=1).repeat(2, axis=2)
    for beside in (0.0, 1.0):
        wide = np.pad(middle, ((0, 0), (0, 0), (2, 2), (0, 0)), constant_values=beside)
        enlarged = resized((4, 4), jnp.asarray(wide))
        np.testing.assert_allclose(enlarged, middle, atol=1e-6)
        tall = resized((4, 4), jnp.asarray(wide.swapaxes(1, 2)))
        np.testing.assert_allclose(tall, middle.swapaxes(1, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "size"), [((8, 12), (4, 6)), ((7, 7), (3, 3)), ((5, 3), (10, 6))]
)
def test_resizing_equals_antialiased_bilinear_of_pytorch(shape, size):
    images = draw(2, *shape, 3)
    seen = resized(size, jnp.asarray(images))
    expected = torch.nn.functional.interpolate(
        torch.tensor(images).permute(0, 3, 1, 2),
        size,
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    np.testing.assert_allclose(seen, expected.permute(0, 2, 3, 1).numpy(), atol=1e-5)


def test_resizing_commutes_with_flips_and_keeps_flat_images():
    images = jnp.asarray(draw(2, 9, 13, 1))
    seen = resized((5, 5), images)
    for axis in (1, 2):
        mirrored = resized((5, 5), jnp.flip(images, axis))
        np.testing.assert_allclose(mirrored, jnp.flip(seen, axis), atol=1e-5)
    flat = resized((5, 5), jnp.full((2, 9, 13, 1), 0.4))
    np.testing.assert_allclose(flat, np.full((2, 5, 5, 1), 0.4), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_padded_image_is_resized_like_the_unpadded_one(size):
    """Independent of the padding, except at the border, where the filter reaches beyond the image."""
    for true in ((12, 16), (16, 10), (8, 8)):
        image = draw(1, *true, 2)
        canvas = draw(1, 20, 20, 2)
        canvas[:, : true[0], : true[1]] = image
        seen = resized(size, jnp.asarray(canvas), jnp.array([true]))
        alone = resized(size, jnp.asarray(image))
        inner = (slice(None), slice(1, -1), slice(1, -1))
        np.testing.assert_allclose(seen[inner], alone[inner], atol=1e-5)


@pytest.mark.slow
def test_steps_are_resizing_then_standardization():
    images = jnp.asarray(draw(2, 9, 6, 3))
    both = Preprocessing(resize=(4, 4), standardize=True)
    seen, statistics = both(images)
    resized = both.resized(images)
    np.testing.assert_array_equal(seen, STANDARD.standardized(resized)[0])
    np.testing.assert_allclose(unstandardize(seen, statistics), resized, atol=1e-6)


def test_size_below_1_is_an_error():
    with pytest.raises(InputError, match=r"preprocessing.resize must be at least 1; got 0"):
        Preprocessing(resize=(8, 0))
