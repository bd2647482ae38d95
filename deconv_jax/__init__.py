"""Convolution and transposed-convolution networks in JAX: models, training and restoration."""

__version__ = "0.1.0"
