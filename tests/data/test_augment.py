"""Random image transforms: their effect, their distribution, and that they depend only on the key."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.augment import (
    center_resize,
    example_keys,
    random_crop,
    random_dihedral,
    random_rescale,
    random_translate,
)
from deconv_jax.errors import InputError
from deconv_jax.ops import imresize

KEY = jax.random.key(0)
resize = jax.jit(center_resize, static_argnums=1)
translate = jax.jit(random_translate, static_argnums=2)
crop = jax.jit(random_crop, static_argnums=2)
rescale = jax.jit(random_rescale, static_argnums=(2, 3))


def shifts(keys, most):
    """Return the shift that each key gives an image, from the position of a single bright pixel."""
    size = 2 * most + 1
    dot = np.zeros((len(keys), size, size, 1), np.float32)
    dot[:, most, most] = 1.0
    moved = np.asarray(translate(keys, jnp.asarray(dot), most))
    assert (moved.sum(axis=(1, 2, 3)) == 1.0).all()
    found, rows, columns, _ = np.nonzero(moved)
    np.testing.assert_array_equal(found, np.arange(len(keys)))
    return np.stack([rows, columns], axis=1) - most


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 3])
def test_translation_moves_the_image_and_fills_with_zeros(most):
    images = np.random.default_rng(0).random((40, 7, 9, 2), np.float32)
    keys = jax.random.split(KEY, len(images))
    moved = translate(keys, jnp.asarray(images), most)
    for image, result, (down, right) in zip(images, moved, shifts(keys, most), strict=True):
        padded = np.pad(image, ((most, most), (most, most), (0, 0)))
        expected = padded[most - down :][:7, most - right :][:, :9]
        np.testing.assert_array_equal(result, expected)


def test_all_shifts_are_equally_likely():
    """2500 samples of 25 shifts: 100 of each, with standard deviation sqrt(100 * 0.96) = 9.8."""
    drawn = shifts(jax.random.split(KEY, 2500), 2)
    places, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(places) == 25
    assert np.abs(counts - 100).max() < 5 * 9.8


def test_translation_by_0_is_the_identity():
    images = jnp.asarray(np.random.default_rng(0).random((4, 5, 6, 1), np.float32))
    np.testing.assert_array_equal(translate(jax.random.split(KEY, 4), images, 0), images)


def test_example_keys_depend_only_on_the_index():
    """Neither the position in the batch nor the other examples matter."""
    index = jnp.array([5, 0, 7, 5])
    keys = example_keys(KEY, index)
    for i, place in enumerate(index):
        assert keys[i] == jax.random.fold_in(KEY, place)
    assert keys[0] == keys[3]
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 3
    assert (example_keys(KEY, index[::-1]) == keys[::-1]).all()
    assert (example_keys(jax.random.key(1), index) != keys).all()


def ramp(count, height, width):
    """Return images with two channels, row / 64 and column / 64, so that a crop shows its position."""
    rows, columns = np.mgrid[:height, :width] / 64.0
    return jnp.asarray(np.tile(np.stack([rows, columns], -1), (count, 1, 1, 1)), jnp.float32)


def test_crop_positions_are_uniform():
    """3 x 5 positions of 4 x 4 crops in 6 x 8 pixels: 100 of each, standard deviation below 10."""
    crops = np.asarray(crop(jax.random.split(KEY, 1500), ramp(1500, 6, 8), 4)) * 64
    corners = crops[:, :1, :1]
    np.testing.assert_array_equal(
        crops - corners, np.tile(crops[:1] - corners[:1], (1500, 1, 1, 1))
    )
    np.testing.assert_array_equal(crops[0] - corners[0], ramp(1, 4, 4)[0] * 64)
    places, counts = np.unique(corners.reshape(-1, 2), axis=0, return_counts=True)
    np.testing.assert_array_equal(places, [(y, x) for y in range(3) for x in range(5)])
    assert np.abs(counts - 100).max() < 50


def test_dihedral_orientations_are_uniform():
    """2400 samples: 300 of each, standard deviation 16."""
    image = np.random.default_rng(0).random((5, 5, 2), np.float32)
    turned = np.asarray(
        jax.jit(random_dihedral)(jax.random.split(KEY, 2400), jnp.tile(image, (2400, 1, 1, 1)))
    )
    ways = [np.rot90(m, k) for m in (image, image[:, ::-1]) for k in range(4)]
    counts = [(turned == way).all(axis=(1, 2, 3)).sum() for way in ways]
    assert sum(counts) == 2400
    assert np.abs(np.array(counts) - 300).max() < 5 * 16


def cubic_matrix(size, length, corner, factor):
    """Rows that resample an axis: Keys' cubic with a = -0.5, widened by 1 / factor."""
    centers = corner + (np.arange(size)[:, None] + 0.5) / factor - 0.5
    x = np.abs(centers - np.arange(length)) * factor
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.slow
def test_rescaled_crops_equal_numpy_and_are_uniform():
    """Each of 600 results equals one computed with NumPy; with factor 1, bit for bit."""
    size, shape, factors = 8, (20, 22), (1.0, 0.75, 0.5)
    image = np.random.default_rng(0).random((*shape, 1), np.float32)
    images = jnp.tile(image, (600, 1, 1, 1))
    parts = np.asarray(rescale(jax.random.split(KEY, 600), images, size, factors))
    counts = []
    for factor in factors:
        places = [n - math.ceil(size / factor) + 1 for n in shape]
        down, across = (
            np.stack([cubic_matrix(size, n, corner, factor) for corner in range(count)])
            for n, count in zip(shape, places, strict=True)
        )
        whole = np.einsum("pih,hw,qjw->pqij", down, image[..., 0], across)
        expected = np.clip(whole, 0.0, 1.0).reshape(1, -1, size * size)
        found = np.abs(parts.reshape(600, 1, -1) - expected).max(-1) < 1e-5
        assert found.sum(1).max() == 1
        counts.append(found.sum(0))
        if factor == 1.0:
            exact = (parts.reshape(600, 1, -1) == expected.astype(np.float32)).all(-1)
            np.testing.assert_array_equal(exact, found)
    # 200 of each factor, with a standard deviation of 11.5; of the last each of 5 x 7 corners.
    assert sum(map(np.sum, counts)) == 600
    assert max(abs(np.sum(count) - 200) for count in counts) < 5 * 11.5
    assert len(counts[2]) == 35
    assert counts[2].min() > 0


def test_rescaling_is_antialiased():
    """Stripes of one pixel become their mean at half size; without antialiasing they would be black."""
    stripes = jnp.tile(jnp.arange(32) % 2, (2, 32, 1)).astype(jnp.float32)[..., None]
    small = rescale(jax.random.split(KEY, 2), stripes, 12, (0.5,))
    np.testing.assert_allclose(small[:, :, 3:-3], 0.5, atol=0.05)


def test_rescaling_equals_imresize():
    """Away from the border, where MATLAB pads by reflection and this function uses the rest of the image."""
    image = jnp.asarray(np.random.default_rng(0).random((1, 48, 48, 1), np.float32))
    expected = np.clip(jax.jit(lambda x: imresize(x, 0.5))(image), 0.0, 1.0)[0, 4:-4, 4:-4]
    part = rescale(jax.random.split(KEY, 1), image, 24, (0.5,))[0, 4:-4, 4:-4]
    np.testing.assert_allclose(part, expected, atol=1e-5)


AUGMENTATIONS = [
    lambda keys, images: random_crop(keys, images, 8),
    lambda keys, images: random_rescale(keys, images, 8, (1.0, 0.9, 0.7)),
    random_dihedral,
]


@pytest.mark.slow
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_result_depends_only_on_the_key(augment):
    """Neither the position in the batch nor the other images matter."""
    images = jnp.asarray(np.random.default_rng(0).random((16, 16, 16, 1), np.float32))
    keys = jax.random.split(KEY, 16)
    augment = jax.jit(augment)
    results = augment(keys, images)
    order = np.random.default_rng(1).permutation(16)
    np.testing.assert_array_equal(augment(keys[order], images[order]), results[order])
    other = augment(jax.random.split(jax.random.key(1), 16), images)
    assert (np.asarray(other) != np.asarray(results)).any()


def test_crops_that_do_not_fit_are_errors():
    keys, images = jax.random.split(KEY, 1), jnp.zeros((1, 16, 20, 1))
    with pytest.raises(
        InputError, match="crops of 17 x 17 pixels do not fit into images of 16 x 20"
    ):
        random_crop(keys, images, 17)
    with pytest.raises(
        InputError, match="crops of 20 x 20 pixels do not fit into images of 16 x 20"
    ):
        random_rescale(keys, images, 10, (1.0, 0.5))
    fits = jax.eval_shape(
        lambda k, x: random_rescale(k, x, 21, (0.7,)), keys, jnp.zeros((1, 30, 30, 1))
    )
    assert fits.shape == (1, 21, 21, 1)
    for factors in ((), (0.5, 1.5), (0.0,)):
        with pytest.raises(InputError, match=r"factors of random_rescale must be in \(0, 1\]"):
            random_rescale(keys, images, 4, factors)
    with pytest.raises(InputError, match=r"requires square images; got \(16, 20\)"):
        random_dihedral(keys, images)


# Resizing of the middle


def triangle_matrix(size, true, scale, count):
    """Return the weights (size, count) of a triangle filter as Pillow's, about the middle of the first `true` pixels."""
    places = (np.arange(size) + 0.5 - (size - scale * true) / 2) / scale - 0.5
    reach = max(1.0, 1.0 / scale)
    weights = np.maximum(1 - np.abs(places[:, None] - np.arange(count)) / reach, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def test_center_resize_to_the_same_size_is_the_identity():
    images = np.random.default_rng(0).random((2, 6, 9, 3), np.float32)
    np.testing.assert_array_equal(resize(jnp.asarray(images), (6, 9)), images)


@pytest.mark.parametrize(("height", "width"), [(8, 14), (14, 8), (9, 9)])
def test_center_resize_takes_the_center_crop(height, width):
    """Where nothing is resized, the result is the crop."""
    images = np.random.default_rng(0).random((2, height, width, 2), np.float32)
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    expected = images[:, top : top + size, left : left + size]
    resized = resize(jnp.asarray(images), (size, size))
    np.testing.assert_allclose(resized, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "to"), [((24, 31), (7, 9)), ((7, 9), (28, 28)), ((5, 8), (9, 4)), ((9, 14), (9, 9))]
)
def test_center_resize_is_antialiased_bilinear(size, to):
    images = np.random.default_rng(0).random((2, *size, 2), np.float32)
    scale = max(m / n for n, m in zip(size, to, strict=True))
    down, across = (triangle_matrix(m, n, scale, n) for n, m in zip(size, to, strict=True))
    expected = np.einsum("ih,bhwc,jw->bijc", down, images, across)
    resized = resize(jnp.asarray(images), to)
    np.testing.assert_allclose(resized, expected, atol=1e-5)
    assert 0.0 <= jnp.min(resized) < jnp.max(resized) <= 1.0


def test_center_resize_of_padded_images_uses_their_valid_size():
    """Padding affects only pixels within the reach of the filter."""
    canvas, to = (20, 24), (6, 6)
    true = np.array([[20, 24], [12, 18], [9, 7], [6, 6]], np.int32)
    images = np.random.default_rng(0).random((4, *canvas, 1), np.float32)
    resized = resize(jnp.asarray(images), to, jnp.asarray(true))
    assert resized.shape == (4, *to, 1)
    for image, own, result in zip(images, true, resized, strict=True):
        scale = max(m / n for n, m in zip(own, to, strict=True))
        down, across = (
            triangle_matrix(m, n, scale, count) for m, n, count in zip(to, own, canvas, strict=True)
        )
        expected = np.einsum("ih,hwc,jw->ijc", down, image, across)
        np.testing.assert_allclose(result, expected, atol=1e-5)
    np.testing.assert_allclose(resized[3], images[3, :6, :6], atol=1e-6)


@pytest.mark.slow
def test_center_resize_needs_no_size_without_padding():
    images = jnp.asarray(np.random.default_rng(0).random((2, 10, 14, 1), np.float32))
    whole = jnp.tile(jnp.array([[10, 14]]), (2, 1))
    resized = center_resize(images, (6, 6), whole)
    np.testing.assert_array_equal(resized, center_resize(images, (6, 6)))


def test_center_resize_ignores_what_it_cuts_off():
    """An image at the top left, wider than the aspect ratio: neither its sides nor the padding are used."""
    images = np.random.default_rng(0).random((1, 8, 20, 1), np.float32)
    others = images.copy()
    others[:, :, [0, 1, 10, 11, 15, 19]] = 0.5
    resized = [resize(jnp.asarray(i), (8, 8), jnp.array([[8, 12]])) for i in (images, others)]
    np.testing.assert_allclose(resized[0], images[:, :, 2:10], atol=1e-6)
    np.testing.assert_allclose(resized[1], images[:, :, 2:10], atol=1e-6)


def test_center_resize_keeps_constant_images():
    resized = resize(jnp.full((1, 218, 178, 3), 0.3), (64, 64))
    assert resized.shape == (1, 64, 64, 3)
    np.testing.assert_allclose(resized, 0.3, atol=1e-6)
