"""The self-ensemble averages over the symmetry group and leaves equivariant networks unchanged."""

import functools

import jax
import numpy as np
import pytest

from deconv_jax.inference.self_ensemble import SYMMETRIES, ensemble_field, self_ensemble
from deconv_jax.inference.tiling import min_tile, restore_tiled
from deconv_jax.models import MODELS
from deconv_jax.models.receptive_field import ReceptiveField


def transform(images, turns, flip):
    """Apply a symmetry to images (batch, height, width, channels), in NumPy."""
    turned = np.rot90(images, turns, axes=(1, 2))
    return np.flip(turned, axis=2) if flip else turned


@pytest.fixture(scope="module")
def enlarger(random_variables):
    """A network of scale 2, and its compiled application."""
    model = MODELS["espcn"](scale=2, features=(4, 4))
    return model, functools.partial(jax.jit(model.apply), random_variables(model, 1))


def test_ensemble_is_the_mean_over_the_symmetries(enlarger, draw):
    _, apply = enlarger
    image = draw(1, 9, 12, 1)
    parts = []
    for turns, flip in SYMMETRIES:
        restored = np.asarray(apply(transform(image, turns, flip)))
        # A rotation is inverted by the opposite one; a rotation with a flip is its own inverse.
        parts.append(transform(restored, turns if flip else -turns, flip))
    assert len({part.tobytes() for part in parts}) == 8
    expected = np.mean(parts, axis=0)
    np.testing.assert_allclose(self_ensemble(apply)(image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("turns", "flip"), SYMMETRIES)
def test_ensemble_is_equivariant(enlarger, draw, turns, flip):
    ensemble = self_ensemble(enlarger[1])
    image = draw(1, 9, 12, 1)
    restored = np.asarray(ensemble(transform(image, turns, flip)))
    expected = transform(np.asarray(ensemble(image)), turns, flip)
    np.testing.assert_allclose(restored, expected, rtol=0, atol=1e-6)


def test_ensemble_of_an_equivariant_function_is_the_function(draw):
    def apply(images):
        return (images**2).repeat(3, axis=1).repeat(3, axis=2)

    image = draw(1, 5, 4, 3)
    np.testing.assert_allclose(self_ensemble(apply)(image), apply(image), rtol=0, atol=1e-6)


def test_an_image_needs_at_most_two_programs(random_variables, draw):
    model = MODELS["dncnn"](depth=2, features=2, norm="none")
    apply = jax.jit(model.apply)
    ensemble = self_ensemble(functools.partial(apply, random_variables(model, 1)))
    for size, programs in (((6, 6), 1), ((6, 8), 3)):
        ensemble(draw(1, *size, 1))
        assert apply._cache_size() == programs


@pytest.mark.slow
def test_tiles_of_an_ensemble_overlap_by_its_receptive_field(random_variables, draw):
    assert ensemble_field(ReceptiveField(3, 5, 4, 2)) == ReceptiveField(5, 5, 4, 2)
    # A network with an asymmetric receptive field.
    model = MODELS["fsrcnn"](scale=3, d=4, s=2, m=1)
    field = model.receptive_field()
    assert field.before < field.after
    apply = self_ensemble(functools.partial(jax.jit(model.apply), random_variables(model, 1)))
    image, tile = draw(29, 34, 1), min_tile(ensemble_field(field)) + 4
    whole = restore_tiled(apply, image, ensemble_field(field))
    tiled = restore_tiled(apply, image, ensemble_field(field), tile)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5)
    assert np.abs(restore_tiled(apply, image, field, tile) - whole).max() > 1e-4
