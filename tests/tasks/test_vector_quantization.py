"""Vector quantization: independence of devices, exact metrics, and the k-means baseline."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.cluster.vq import kmeans2

from deconv_jax.data.sources import ArraySource
from deconv_jax.errors import InputError
from deconv_jax.models import VQVAE, Autoencoder
from deconv_jax.tasks import VectorQuantization
from deconv_jax.tasks.vector_quantization import kmeans_patches
from deconv_jax.training.optimizer import Optimizer

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (64, 8, 8, 1)).astype(np.uint8)
CODES = 8

# Plain SGD; tests/training/test_parallel.py explains why.
TASK = VectorQuantization(
    VQVAE((8, 8, 1), features=(4, 4), latent_dim=3, codebook_size=CODES, restart_below=0.3),
    Optimizer(name="sgd", learning_rate=0.1),
    image_variance=0.1,
)


@functools.cache
def initial():
    key = jax.random.key(0, impl="rbg")
    return jax.device_get(jax.jit(TASK.init)(key, {"image": IMAGES[:1]}))


@pytest.fixture(scope="module")
def trained(run_steps):
    """Return a function that returns state and scalars after three steps, computed once."""
    rows = np.random.default_rng(1).integers(0, len(IMAGES), (3, 16)).astype(np.int32)
    batches = [{"index": i, "image": IMAGES[i]} for i in rows]

    @functools.cache
    def train(task=TASK, count=8, compiler="jit"):
        return run_steps(task, initial(), batches, count=count, compiler=compiler)

    return train


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["jit", "pmap"])
def test_steps_do_not_depend_on_devices_or_compiler(assert_trees_equal, trained, compiler):
    one, one_scalars = trained(count=1)
    other, other_scalars = trained(compiler=compiler)
    assert len(np.unique(one.batch_stats["codebook"]["vectors"], axis=0)) > CODES // 2
    assert_trees_equal(other, one, relative=1e-4)
    assert_trees_equal(other_scalars, one_scalars, relative=1e-4)


def test_loss_is_scaled_error_plus_weighted_commitment(trained):
    _, scalars = trained()
    expected = scalars["mse"] / TASK.image_variance + TASK.commitment * scalars["commitment"]
    np.testing.assert_allclose(scalars["loss"], expected, rtol=1e-5)
    # All codebook vectors are zero before the first update.
    assert scalars["perplexity"][0] == pytest.approx(1)


@pytest.mark.slow
def test_bfloat16_leaves_the_codebook_in_float32(trained):
    state, scalars = trained(task=dataclasses.replace(TASK, precision="bf16"))
    dtypes = {a.dtype.name for a in jax.tree.leaves(state.batch_stats)}
    assert dtypes == {"float32", "int32"}
    np.testing.assert_allclose(scalars["loss"][0], trained()[1]["loss"][0], rtol=2e-2)


def batches(size, count=10):
    """Yield the first images in batches; the last batch is padded with the next image."""
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count)
        yield {"image": jnp.asarray(IMAGES[rows]), "mask": jnp.asarray(rows < count, jnp.float32)}


@pytest.mark.slow
def test_evaluation_does_not_depend_on_batching(trained):
    state = trained()[0]
    measured = TASK.evaluate(state, batches(10))
    for size in (3, 4, 16):
        assert TASK.evaluate(state, batches(size)) == pytest.approx(measured, rel=1e-5)
    images = jnp.asarray(IMAGES[:10] / 255, jnp.float32)
    output, _, indices = jax.jit(TASK.model.apply)(state.inference_variables(), images)
    counts = np.bincount(np.ravel(indices), minlength=CODES)
    share = counts[counts > 0] / counts.sum()
    assert measured["mse"] == pytest.approx(float(np.mean((output - images) ** 2)), rel=1e-5)
    assert measured["perplexity"] == pytest.approx(np.exp(-np.sum(share * np.log(share))), rel=1e-5)
    assert measured["codes_used"] == np.mean(counts > 0)
    assert measured["bits_per_dim"] == math.log2(CODES) * 4 / 64


def test_pictures_show_reconstructions(trained):
    batch = {"image": jnp.asarray(IMAGES[:4])}
    assert set(TASK.pictures(trained()[0], batch)) == {"reconstructions"}


def test_baseline_is_exact_with_as_many_distinct_patches_as_centroids():
    kinds = RNG.integers(0, 256, (CODES, 4, 4)).astype(np.uint8)
    chosen = RNG.integers(0, CODES, (60, 2, 2))
    images = kinds[chosen].transpose(0, 1, 3, 2, 4).reshape(60, 8, 8, 1)
    train, test = ArraySource({"image": images}), ArraySource({"image": images[:5]})
    measured = TASK.baseline(train, test)
    assert measured["patch_vq_mse"] == 0
    assert measured["patch_vq_psnr"] == math.inf
    assert measured["patch_vq_codes_used"] == len(np.unique(chosen[:5])) / CODES


def test_baseline_uses_the_nearest_centroid():
    source = ArraySource({"image": IMAGES})
    measured = TASK.baseline(source, source)
    # Centroids of noise explain some of its variance, but less than half.
    assert 0.5 < measured["patch_vq_mse"] / np.var(IMAGES / 255) < 1
    assert 0 < measured["patch_vq_codes_used"] <= 1
    assert TASK.baseline(source, source) == measured


def test_kmeans_centroids_are_means_of_their_patches():
    patches = np.concatenate([RNG.normal(place, 0.1, (50, 2)) for place in (-5, 0, 5)])
    centroids = kmeans_patches(patches, 3, np.random.default_rng(0))
    nearest = np.sum((patches[:, None] - centroids) ** 2, axis=-1).argmin(axis=1)
    for code, centroid in enumerate(centroids):
        np.testing.assert_allclose(centroid, patches[nearest == code].mean(axis=0))


def test_kmeans_keeps_centroids_without_patches():
    patches = np.random.default_rng(310).integers(0, 12, (12, 2)) ** 2.0
    distinct = np.unique(patches, axis=0)
    start = distinct[np.random.default_rng(0).choice(len(distinct), 7, replace=False)]
    with pytest.warns(UserWarning, match="One of the clusters is empty"):
        expected, nearest = kmeans2(patches, start, iter=30, minit="matrix")
    assert len(np.unique(nearest)) < 7
    centroids = kmeans_patches(patches, 7, np.random.default_rng(0))
    np.testing.assert_array_equal(centroids, expected)


@pytest.mark.parametrize(("used", "warnings"), [(0.29, 1), (0.3, 0)])
def test_mostly_unused_codebook_gives_a_warning(used, warnings):
    assert len(TASK.warnings({"codes_used": used}, {})) == warnings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model": Autoencoder()},
            "must be a model with a codebook such as 'vqvae'; got Autoencoder",
        ),
        ({"commitment": -1.0}, "task.commitment must be at least 0; got -1.0"),
        ({"image_variance": 0.0}, "task.image_variance must be positive; got 0.0"),
    ],
)
def test_invalid_settings_are_rejected(fields, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(TASK, **fields)
