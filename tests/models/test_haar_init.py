"""Haar initialization: orthonormal kernels whose adjoint reconstructs the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from deconv_jax import ops
from deconv_jax.models import FactorizedCodec
from deconv_jax.models.haar_init import haar_kernels


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_wide_layers_reconstruct_perfectly(channels):
    widths = [4 * channels, 16 * channels, 64 * channels]
    x = jnp.asarray(np.random.default_rng(0).random((2, 16, 24, channels), np.float32))
    kernels = [jnp.asarray(k, jnp.float32) for k in haar_kernels(channels, widths)]
    y = x
    for kernel in kernels:
        y = ops.conv(y, kernel, stride=2)
    np.testing.assert_allclose(jnp.sum(y**2), jnp.sum(x**2), rtol=1e-5)
    for kernel in reversed(kernels):
        y = ops.conv_transpose(y, kernel, stride=2)
    np.testing.assert_allclose(y, x, atol=1e-5)


def test_narrow_layers_keep_the_lowest_frequencies():
    first, second = haar_kernels(1, [2, 3])
    np.testing.assert_allclose(first[:, :, 0, 0], 0.5 * np.ones((2, 2)))
    # All three are subbands of the low-pass channel; the detail channel is unused.
    np.testing.assert_allclose(second[:, :, 0, 0], 0.5 * np.ones((2, 2)))
    np.testing.assert_array_equal(second[:, :, 1], 0.0)
    kernel = haar_kernels(3, [3])[0]
    luma = kernel.sum((0, 1))[:, 0]
    np.testing.assert_allclose(luma, luma[0])
    unused = haar_kernels(1, [6])[0]
    np.testing.assert_array_equal(unused[..., 4:], 0.0)


@pytest.mark.slow
def test_untrained_codec_is_as_good_as_block_means():
    """The means of 4 x 4 blocks are as many numbers as the latents."""
    image = jnp.asarray(skimage.data.astronaut()[None, :256, :256] / np.float32(255))
    model = FactorizedCodec(3, 48, 48)
    variables = jax.jit(model.init)(jax.random.key(0), image[:, :64, :64], jnp.zeros(1, int))
    coded = jax.jit(model.apply)(variables, image, jnp.zeros(1, int))
    blocks = image.reshape(1, 64, 4, 64, 4, 3)
    error = jnp.mean(jnp.square(blocks - blocks.mean((2, 4), keepdims=True)))
    assert jnp.mean(jnp.square(coded.images - image)) < 1.1 * error
