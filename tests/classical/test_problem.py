"""Linear problems against their forward models and dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import draw

from deconv_jax import ops
from deconv_jax.classical import problem as problems
from deconv_jax.classical.problem import Problem
from deconv_jax.data.degradations import (
    Blur,
    Chain,
    Decimate,
    Downsample,
    GaussianNoise,
    Jpeg,
    Mask,
    RandomProjection,
)
from deconv_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("double_precision")

SIZE = (12, 10)


def psf(*size, seed=5):
    """Return positive numbers that sum to 1, in float32 like forward models."""
    weights = np.exp(draw(*size, seed=seed))
    return (weights / np.sum(weights)).astype("float32")


MASK = (draw(*SIZE) > 0).astype("float32")
MODELS = {
    "circular": Blur(psf(3, 4)),
    "two circular": Chain((Blur(psf(3, 4)), Blur(psf(4, 3)))),
    "zeros": Blur(psf(5, 5), "zeros"),
    "valid": Blur(psf(5, 4), "valid"),
    "mask": Mask(0.5 * MASK),
    "downsample": Downsample(2),
    "blur, decimate": Chain((Blur(psf(3, 3), "reflect"), Decimate(3), GaussianNoise(2.0))),
    "a psf each": Blur(np.stack([psf(3, 3), 2 * psf(3, 3, seed=6)])),
    "noise": GaussianNoise(2.0),
}
on_models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


@pytest.mark.slow
@on_models
def test_forward_and_adjoint_equal_the_model_and_the_norm_bounds_it(model):
    model = problems.linear_part(model)
    x = jnp.asarray(draw(2, *SIZE, 1))
    y = jnp.asarray(draw(2, *model.output_size(SIZE), 1))

    @jax.jit
    def both(x, y, model):
        problem = Problem.of(y, model, SIZE)
        basis = jnp.eye(SIZE[0] * SIZE[1]).reshape(-1, 1, *SIZE, 1)
        images = jax.vmap(lambda e: problem.forward(jnp.broadcast_to(e, x.shape)))(basis)
        return problem.forward(x), problem.adjoint(y), problem.norm_squared(), images

    ahead, back, bound, images = both(x, y, model)
    np.testing.assert_allclose(ahead, model.forward(x), atol=1e-12)
    np.testing.assert_allclose(back, model.adjoint(y, SIZE), atol=1e-12)
    # The images of single pixels are the rows of A transposed.
    matrices = np.asarray(images).swapaxes(0, 1).reshape(2, len(images), -1)
    norms = np.linalg.norm(matrices, 2, axis=(1, 2)) ** 2
    exact = problems.is_circular(model) or problems.is_diagonal(model)
    assert bound.shape == (2, 1, 1, 1)
    ratio = np.asarray(bound).ravel() / norms
    assert np.all(ratio >= 1 - 1e-9)
    assert np.all(ratio <= (1 + 1e-9 if exact else 1.06))


def test_chained_circular_blurs_have_one_psf_and_transfer_function():
    model = MODELS["two circular"]
    shape = (1, *SIZE, 1)
    x = jnp.asarray(draw(*shape))
    together = problems.circular_psf(model, shape, "float64")[0]
    np.testing.assert_allclose(ops.fft_conv(x, together), model.forward(x), atol=1e-12)
    response = problems.transfer_function(model, shape, "float64")
    spectrum = np.fft.rfft2(np.asarray(x), axes=(1, 2)) * np.asarray(response)
    blurred = np.fft.irfft2(spectrum, SIZE, axes=(1, 2))
    np.testing.assert_allclose(blurred, model.forward(x), atol=1e-12)


@pytest.mark.parametrize(
    ("model", "observed", "expected"),
    [
        (Downsample(3), (5, 7), (15, 21)),
        (Decimate(2), (5, 8), (10, 16)),
        (Blur(psf(5, 2), "valid"), (6, 9), (10, 10)),
        (Chain((Blur(psf(5, 3), "valid"), Decimate(2))), (3, 20), (10, 42)),
        (MODELS["zeros"], (5, 7), (5, 7)),
    ],
)
def test_default_size_is_the_largest_that_maps_to_the_observed_size(model, observed, expected):
    _, _, size = problems.prepare(jnp.zeros((1, *observed, 1)), model)
    assert size == expected
    assert model.output_size(size) == observed
    assert model.output_size((size[0] + 1, size[1] + 1)) != observed


def test_size_must_map_to_the_observed_size():
    y = jnp.zeros((1, 5, 7, 1))
    assert problems.prepare(y, Decimate(3), (14, 19))[2] == (14, 19)
    with pytest.raises(
        InputError, match=r"images of size \(16, 19\) to size \(6, 7\); got y of size \(5, 7\)"
    ):
        problems.prepare(y, Decimate(3), (16, 19))
    y = jnp.zeros((1, 7, 1, 1))
    assert problems.prepare(y, RandomProjection(7), (14, 19))[2] == (14, 19)
    with pytest.raises(InputError, match="size is required"):
        problems.prepare(y, Chain((RandomProjection(7), GaussianNoise(1.0))))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("y", "words"),
    [
        (
            np.zeros((4, 4, 1)),
            r"float images \(batch, height, width, channels\); got .* \(4, 4, 1\)",
        ),
        (np.zeros((1, 4, 4, 1), "uint8"), "got uint8"),
    ],
)
def test_observations_that_are_no_batches_of_float_images_are_errors(y, words):
    with pytest.raises(InputError, match=words):
        problems.prepare(y, MODELS["circular"])


@pytest.mark.usefixtures("without_type_checks")
def test_model_without_a_linear_part_is_an_error():
    with pytest.raises(InputError, match="Jpeg is not linear"):
        problems.prepare(np.zeros((1, 4, 4, 1)), Jpeg(50))


def test_gradient_adjoint_and_total_variation_equal_their_definitions():
    x, p, q = (jnp.asarray(draw(2, 5, 6, 2, seed=s)) for s in range(3))
    down, right = problems.gradient(x)
    np.testing.assert_allclose(down[:, :-1], np.diff(x, axis=1), atol=1e-14)
    np.testing.assert_allclose(right[:, :, :-1], np.diff(x, axis=2), atol=1e-14)
    assert not np.any(down[:, -1])
    assert not np.any(right[:, :, -1])
    inner = np.vdot(down, p) + np.vdot(right, q)
    assert np.vdot(x, problems.gradient_adjoint(p, q)) == pytest.approx(inner, abs=1e-12)
    expected = np.sum(np.hypot(down, right), axis=(1, 2, 3))
    np.testing.assert_allclose(problems.total_variation(x), expected, rtol=1e-12)


def test_laplacian_equals_that_of_the_mirrored_image():
    x = draw(1, 5, 6, 1)
    mirrored = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    center = mirrored[:, 1:-1, 1:-1]
    neighbors = mirrored[:, 2:, 1:-1] + mirrored[:, :-2, 1:-1]
    neighbors += mirrored[:, 1:-1, 2:] + mirrored[:, 1:-1, :-2]
    np.testing.assert_allclose(
        problems.laplacian(jnp.asarray(x)), 4 * center - neighbors, atol=1e-12
    )
