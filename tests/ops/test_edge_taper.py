"""Tests of `edge_taper`."""

import jax
import numpy as np
import pytest
import scipy.ndimage
from arrays import draw, draw_psf

from deconv_jax.ops import spectral

fft_conv = jax.jit(spectral.fft_conv)
wiener_filter = jax.jit(spectral.wiener_filter)
edge_taper = jax.jit(spectral.edge_taper)


pytestmark = pytest.mark.usefixtures("float64")


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)


def gaussian_psf(size, sigma):
    profile = np.exp(-0.5 * np.square((np.arange(size) - size // 2) / sigma))
    psf = np.outer(profile, profile)
    return psf / np.sum(psf)


def mean_squared_error(a, b):
    return float(np.mean(np.square(np.asarray(a) - np.asarray(b))))


def test_interior_is_kept_and_border_is_blurred():
    """The weights reach 1 at a distance of the size of the psf from the border."""
    x, psf = draw(2, 16, 21, 1), draw_psf(4, 5)
    tapered, blurred = np.asarray(edge_taper(x, psf)), np.asarray(fft_conv(x, psf))
    changed = np.any(tapered != x, axis=(0, 3))
    interior = np.zeros_like(changed)
    interior[4:-4, 5:-5] = True
    np.testing.assert_array_equal(changed, ~interior)
    for border in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        assert_close(tapered[border], blurred[border])


def test_weights_are_the_autocorrelation_of_the_psf():
    """The circular autocorrelation of length n - 1 is 1 at both ends of the axis."""
    n, psf = 12, draw_psf(5)
    spectrum = np.fft.fft(psf, n - 1)
    fall = np.fft.ifft(np.abs(spectrum) ** 2).real
    fall = np.append(fall, fall[0]) / fall[0]
    x = draw(n, 2)
    expected = (1 - fall)[:, None] * x + fall[:, None] * np.asarray(fft_conv(x, psf))
    assert_close(edge_taper(x, psf), expected)


def test_constant_images_and_axes_without_blur_are_kept():
    psf = 3.0 * draw_psf(1, 4)
    constant = np.full((8, 9, 1), 0.7)
    assert_close(edge_taper(constant, psf), constant)
    x = draw(8, 9, 1)
    np.testing.assert_array_equal(np.asarray(edge_taper(x, psf))[:, 4:-4], x[:, 4:-4])


@pytest.fixture(scope="module")
def photograph():
    """Return (scene, its blurred photograph, psf); the blur reaches beyond the borders."""
    n, margin = 64, 8
    ramp = np.linspace(0.0, 1.0, n + 2 * margin)
    texture = scipy.ndimage.gaussian_filter(draw(len(ramp), len(ramp)), 1.0, mode="wrap")
    scene = (0.6 * ramp[:, None] + 0.4 * ramp + 0.2 * texture)[..., None]
    psf = gaussian_psf(9, 1.5)
    inside = np.s_[margin:-margin, margin:-margin]
    with jax.enable_x64(True):
        return scene[inside], np.asarray(fft_conv(scene, psf))[inside], psf


def test_tapering_reduces_the_jump_between_opposite_borders(photograph):
    _, y, psf = photograph

    tapered = np.asarray(edge_taper(y, psf))
    assert mean_squared_error(tapered[0], tapered[-1]) < 0.2 * mean_squared_error(y[0], y[-1])
    left_and_right = (mean_squared_error(image[:, 0], image[:, -1]) for image in (tapered, y))
    assert next(left_and_right) < 0.2 * next(left_and_right)


def test_tapering_reduces_the_ringing_of_a_restored_photograph(photograph):
    scene, y, psf = photograph
    interior = np.s_[9:-9, 9:-9]

    def error(image):
        restored = np.asarray(wiener_filter(image, psf, noise_to_signal=1e-4))
        return mean_squared_error(restored[interior], scene[interior])

    assert error(edge_taper(y, psf)) < 0.2 * error(y)
