"""Plots of tasks: codes in two dimensions, code frequencies, and rate-distortion curves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.degradations import GaussianNoise
from deconv_jax.data.sources import ArraySource
from deconv_jax.models import VAE, VQVAE, Autoencoder, DnCNN, FactorizedCodec
from deconv_jax.tasks import (
    Autoencoding,
    Compression,
    Restoration,
    Variational,
    VectorQuantization,
)
from deconv_jax.tasks.latent_plot import principal_components
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.parallel import Devices

RNG = np.random.default_rng(0)
COUNT = 13
PIXELS = RNG.integers(0, 256, (COUNT, 8, 8, 1)).astype(np.uint8)
LABELS = np.arange(COUNT, dtype=np.int32) % 3
STAGES = {"image_shape": (8, 8, 1), "features": (3, 4)}


def batches(*, labels=True):
    """Yield all images in two batches of 8 on all devices; the last batch is padded."""
    devices = Devices.all()
    for start in (0, 8):
        rows = np.arange(start, start + 8, dtype=np.int32)
        true = rows < COUNT
        image = np.where(true[:, None, None, None], PIXELS[rows % COUNT], 255).astype(np.uint8)
        batch = {"image": image, "index": rows, "mask": true.astype(np.float32)}
        yield devices.put_batch(batch | ({"label": LABELS[rows % COUNT]} if labels else {}))


def state_of(task):
    example = {"image": PIXELS[:1], "label": LABELS[:1]}
    return Devices.all().init(lambda key: task.init(key, example), jax.random.key(0, impl="rbg"))


def on_one_device(tree):
    return jax.device_put(jax.device_get(tree), jax.devices()[0])


def points_of(plot):
    return np.concatenate([np.stack([s.x, s.y], axis=1) for s in plot.series])


def projected(codes):
    """Project on the first two principal components by a singular value decomposition."""
    centered = codes - codes.mean(axis=0)
    return centered @ np.linalg.svd(centered, full_matrices=False)[2][:2].T


def assert_equal_up_to_signs(points, expected):
    for found, wanted in zip(points.T, expected.T, strict=True):
        sign = np.sign(found @ wanted)
        np.testing.assert_allclose(sign * found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize("latent", [{"latent_dim": 5}, {"latent": "map", "latent_dim": 6}])
@pytest.mark.parametrize("degradation", [None, GaussianNoise(50.0)])
def test_codes_are_projected_on_principal_components_without_padding(latent, degradation):
    model = Autoencoder(**STAGES, **latent)
    task = Autoencoding(model, Optimizer(), degradation=degradation)
    state = state_of(task)
    plot = task.plots(state, batches(), {})["codes"]
    batch = {"image": jnp.asarray(PIXELS), "index": jnp.arange(COUNT)}
    variables = on_one_device(state.inference_variables())
    codes = jax.jit(lambda x: model.apply(variables, x, method="encode"))(task.model_input(batch))
    codes = np.asarray(codes, np.float64).reshape(COUNT, -1)
    by_label = np.argsort(LABELS, kind="stable")
    assert [s.name for s in plot.series] == ["0", "1", "2"]
    assert_equal_up_to_signs(points_of(plot), projected(codes)[by_label])
    share = projected(codes)[:, 0].var() / codes.var(axis=0).sum()
    assert plot.x_name == f"component 1, {share:.0%} of the variance"


@pytest.mark.slow
def test_two_dimensional_codes_are_drawn_unchanged():
    task = Variational(VAE(**STAGES, latent_dim=2), Optimizer(), binarize="stochastic")
    state = state_of(task)
    (series,) = task.plots(state, batches(labels=False), {})["codes"].series
    variables = on_one_device(state.inference_variables())
    batch = {"image": jnp.asarray(PIXELS), "index": jnp.arange(COUNT)}
    drawn = jax.jit(task._picture_rows)(state, jax.device_put(batch, Devices.all().replicated))
    means = task.model.apply(variables, on_one_device(drawn["original"]), method="encode")[0]
    np.testing.assert_allclose(np.stack([series.x, series.y], axis=1), means, atol=1e-5)
    assert series.name == ""


def test_one_dimensional_codes_have_no_plot():
    task = Autoencoding(Autoencoder(**STAGES, latent_dim=1), Optimizer())
    assert task.plots(state_of(task), batches(), {}) == {}


@pytest.mark.slow
def test_more_labels_than_colors_share_one_series():
    task = Autoencoding(Autoencoder(**STAGES, latent_dim=2), Optimizer())
    many = ({**batch, "label": batch["index"]} for batch in batches())
    (series,) = task.plots(state_of(task), many, {})["codes"].series
    assert len(series.x) == COUNT


@pytest.mark.parametrize("shape", [(30, 4), (4, 30)])
def test_principal_components_are_orthonormal_directions_of_largest_variance(shape):
    rows = RNG.normal(size=shape) * np.arange(1, shape[1] + 1)
    mean, basis = principal_components(rows, 3)
    np.testing.assert_allclose(mean, rows.mean(axis=0))
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-9)
    values = np.linalg.svd(rows - mean, compute_uv=False)[:3]
    np.testing.assert_allclose(np.linalg.norm((rows - mean) @ basis, axis=0), values)


@pytest.mark.slow
def test_code_frequencies_are_in_descending_order():
    model = VQVAE(**STAGES, latent_dim=3, codebook_size=8)
    task = VectorQuantization(model, Optimizer())
    state = state_of(task)
    vectors = RNG.normal(0, 0.1, (8, 3)).astype(np.float32)
    codebook = {**state.batch_stats["codebook"], "vectors": jnp.asarray(vectors)}
    stats = {**state.batch_stats, "codebook": codebook}
    state = state.replace(batch_stats=jax.device_put(stats, Devices.all().replicated))
    plot = task.plots(state, batches(), {})["codes"]
    variables = on_one_device(state.inference_variables())
    _, _, indices = jax.jit(model.apply)(variables, jnp.asarray(PIXELS, jnp.float32) / 255)
    counts = np.bincount(np.ravel(indices), minlength=8)
    assert np.sum(counts > 0) > 1
    np.testing.assert_allclose(plot.series[0].y, np.sort(counts)[::-1] / counts.sum())
    np.testing.assert_array_equal(plot.series[1].y, 1 / 8)
    assert plot.title == f"{np.sum(counts > 0)} of 8 codes occur"


def test_codec_is_compared_with_jpeg_of_unpadded_images():
    model = FactorizedCodec(channels=1, features=4, latent_features=4, initial_gains=(0.5, 2.0))
    task = Compression(model, (0.01, 0.1), Optimizer())
    smooth = np.linspace(0, 200, 16 * 32).reshape(1, 16, 32, 1) + RNG.integers(
        0, 50, (3, 16, 32, 1)
    )
    images, sizes = smooth.astype(np.uint8), np.array([[16, 32], [12, 20], [16, 30]], np.int32)
    batch = {"image": images, "size": sizes, "mask": np.array([1, 1, 0], np.float32)}
    metrics = {"bpp_0": 0.1, "bpp_1": 0.2, "psnr_0": 20.0, "psnr_1": 25.0}
    codec, jpeg = task.plots(None, [batch], metrics)["rate_distortion"].series
    np.testing.assert_array_equal(codec.x, [0.1, 0.2])
    np.testing.assert_array_equal(codec.y, [20.0, 25.0])
    true = ArraySource({"image": images[:2], "size": sizes[:2]})
    baseline = task.baseline(true, true)
    np.testing.assert_array_equal(jpeg.x, [v for k, v in baseline.items() if k.endswith("bpp")])
    np.testing.assert_array_equal(jpeg.y, [v for k, v in baseline.items() if k.endswith("psnr")])


def test_restoration_has_no_plots():
    task = Restoration(DnCNN(depth=2, features=2), GaussianNoise(25.0), Optimizer())
    assert task.plots(None, batches(), {}) == {}
