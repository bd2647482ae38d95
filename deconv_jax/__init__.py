"""Convolution and transposed-convolution networks in JAX: models, training and restoration."""

from deconv_jax.compilation import compiler_options

__all__ = ["compiler_options"]
__version__ = "0.1.0"
