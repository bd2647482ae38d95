"""The linear baseline that an autoencoder is held against."""

import numpy as np
import pytest

from deconv_jax.data.sources import ArraySource
from deconv_jax.models import Autoencoder
from deconv_jax.tasks import Autoencoding
from deconv_jax.tasks.autoencoding import pca_reconstruction
from deconv_jax.training.optimizer import Optimizer

RNG = np.random.default_rng(0)


def test_pca_loses_exactly_the_variance_of_the_components_left_out():
    # Gray around 0.5 with small deviations, so that nothing is clipped.
    images = 0.5 + 0.01 * RNG.standard_normal((200, 4, 4, 1)) @ np.diag([3.0])
    rows = images.reshape(200, 16)
    eigenvalues = np.linalg.eigvalsh(np.cov(rows.T, bias=True))
    for components in (1, 5, 16):
        error = np.sum((pca_reconstruction(images, images, components) - images) ** 2) / 200
        assert error == pytest.approx(eigenvalues[: 16 - components].sum(), abs=1e-12)


def test_the_baseline_has_as_many_components_as_the_code_has_numbers():
    images = RNG.integers(0, 256, (50, 8, 8, 1)).astype(np.uint8)
    source = ArraySource({"image": images})
    for latent, numbers in (("vector", 3), ("map", 3 * 2 * 2)):
        model = Autoencoder(image_shape=(8, 8, 1), features=(4, 4), latent=latent, latent_dim=3)
        measured = Autoencoding(model, Optimizer()).baseline(source, source)
        expected = pca_reconstruction(images / 255, images / 255, numbers)
        assert measured["pca_mse"] == pytest.approx(np.mean((expected - images / 255) ** 2))
