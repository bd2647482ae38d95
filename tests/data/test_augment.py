"""Random image transforms: what they do, how it is distributed, and what it depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.augment import example_keys, random_translate

KEY = jax.random.key(0)


def shifts(keys, most):
    """By how many pixels each key moves an image: where it takes a single bright pixel."""
    size = 2 * most + 1
    dot = np.zeros((len(keys), size, size, 1), np.float32)
    dot[:, most, most] = 1.0
    moved = np.asarray(random_translate(keys, jnp.asarray(dot), most))
    assert (moved.sum(axis=(1, 2, 3)) == 1.0).all()
    found, rows, columns, _ = np.nonzero(moved)
    np.testing.assert_array_equal(found, np.arange(len(keys)))
    return np.stack([rows, columns], axis=1) - most


@pytest.mark.parametrize("most", [1, 3])
def test_an_image_is_moved_as_a_whole_and_zeros_come_in(most):
    images = np.random.default_rng(0).random((40, 7, 9, 2), np.float32)
    keys = jax.random.split(KEY, len(images))
    moved = random_translate(keys, jnp.asarray(images), most)
    for image, result, (down, right) in zip(images, moved, shifts(keys, most), strict=True):
        padded = np.pad(image, ((most, most), (most, most), (0, 0)))
        expected = padded[most - down :][:7, most - right :][:, :9]
        np.testing.assert_array_equal(result, expected)


def test_all_shifts_are_equally_likely():
    """2500 draws of 25 shifts: 100 of each, with a standard deviation of sqrt(100 * 0.96) = 9.8."""
    drawn = shifts(jax.random.split(KEY, 2500), 2)
    places, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(places) == 25
    assert np.abs(counts - 100).max() < 5 * 9.8


def test_moving_by_nothing_changes_nothing():
    images = jnp.asarray(np.random.default_rng(0).random((4, 5, 6, 1), np.float32))
    np.testing.assert_array_equal(random_translate(jax.random.split(KEY, 4), images, 0), images)


def test_an_examples_key_is_that_of_its_place_in_the_data_set():
    """Neither its place in the batch nor the examples beside it matter."""
    index = jnp.array([5, 0, 7, 5])
    keys = example_keys(KEY, index)
    for i, place in enumerate(index):
        assert keys[i] == jax.random.fold_in(KEY, place)
    assert keys[0] == keys[3]
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 3
    assert (example_keys(KEY, index[::-1]) == keys[::-1]).all()
    assert (example_keys(jax.random.key(1), index) != keys).all()
