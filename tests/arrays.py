"""Random arrays that several tests draw, and their conversion to PyTorch."""

import numpy as np
import torch


def draw(*shape, seed=0):
    """Draw standard normal float64 numbers, different for every shape and seed."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def draw_psf(*shape):
    """Draw positive numbers that sum to 1."""
    psf = np.exp(draw(*shape, seed=5))
    return psf / np.sum(psf)


def to_torch(images):
    """Convert images (batch, *size, channels) to a tensor (batch, channels, *size)."""
    return torch.from_numpy(np.moveaxis(np.asarray(images), -1, 1).copy())


def from_torch(images):
    """Convert a tensor (batch, channels, *size) to images (batch, *size, channels)."""
    return np.moveaxis(images.detach().numpy(), 1, -1)
