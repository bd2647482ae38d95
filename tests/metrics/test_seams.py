"""Seam energy of images with and without a seam."""

import math

import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.metrics.seams import seam_energy


def test_white_noise_has_no_seam():
    noise = np.random.default_rng(0).standard_normal((256, 300, 3))
    for axis in (0, 1):
        assert seam_energy(noise, axis) == pytest.approx(1, abs=0.15)


def test_whole_periods_tile_and_parts_of_periods_do_not():
    x = np.sin(np.arange(64) / 64 * 2 * np.pi * 3 + 0.3)
    image = np.broadcast_to(x[None, :, None], (8, 64, 1))
    assert seam_energy(image, 1) < 2.0
    assert seam_energy(image[:, :56], 1) > 10


def test_constant_images():
    assert seam_energy(np.ones((4, 4, 1)), 0) == 1.0
    halves = np.repeat([0.0, 1.0], 1)[:, None, None] * np.ones((2, 4, 1))
    assert seam_energy(halves, 0) == 1.0
    assert seam_energy(np.array([0.0, 0.0, 0.0])[:, None, None], 0) == 1.0
    assert math.isfinite(seam_energy(halves, 1))
    with pytest.raises(InputError, match="two pixels along axis 0"):
        seam_energy(np.ones((1, 4, 1)), 0)
