"""Tests of the Fourier-domain operators against SciPy, `conv` and dense matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from arrays import draw, draw_psf
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from deconv_jax.errors import InputError
from deconv_jax.ops import spectral
from deconv_jax.ops.conv import conv, conv_transpose

# Compile each function as a whole, as in use.
psf2otf = jax.jit(spectral.psf2otf, static_argnames="size")
fft_conv = jax.jit(spectral.fft_conv, static_argnames="boundary")
fft_conv_transpose = jax.jit(spectral.fft_conv_transpose, static_argnames="boundary")
inverse_filter = jax.jit(spectral.inverse_filter)
wiener_filter = jax.jit(spectral.wiener_filter)
constrained_least_squares_filter = jax.jit(spectral.constrained_least_squares_filter)
edge_taper = jax.jit(spectral.edge_taper)

BOUNDARIES = {"circular": "wrap", "linear": "constant"}
"""Names of the boundaries in SciPy."""

# Sizes of image and psf: rank 1 to 3, even and odd, up to a psf as large as the image.
SIZES = [
    ((9,), (4,)),
    ((7, 8), (3, 5)),
    ((8, 7), (4, 2)),
    ((5, 6), (5, 6)),
    ((4, 5, 6), (3, 2, 1)),
]
on_sizes = pytest.mark.parametrize(("size", "psf_size"), SIZES)
on_boundaries = pytest.mark.parametrize("boundary", BOUNDARIES)
on_dtypes = pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)], ids=["float32", "float64"]
)


pytestmark = pytest.mark.usefixtures("float64")


def assert_close(actual, expected, tolerance=1e-10):
    """Compare elementwise, relative to the larger of 1 and the largest element."""
    scale = max(1.0, float(np.max(np.abs(np.asarray(expected)))))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def circulant(psf, size):
    """Return the matrix of a circular convolution, as a sum of shifts of the image."""
    identity = np.eye(int(np.prod(size))).reshape(-1, *size)
    matrix = sum(
        weight
        * np.roll(identity, np.subtract(index, np.array(psf.shape) // 2), range(1, psf.ndim + 1))
        for index, weight in np.ndenumerate(psf)
    )
    return matrix.reshape(len(identity), -1).T


def laplacian(rank):
    """Return the stencil with 2 * rank at the center and -1 at each neighbor."""
    center = np.eye(3)[1]
    second_difference = np.array([-1.0, 2.0, -1.0])
    return sum(
        functools.reduce(
            np.multiply.outer, [second_difference if i == axis else center for i in range(rank)]
        )
        for axis in range(rank)
    )


def tikhonov(y, blur, penalty):
    """Minimize |blur x - y|^2 + |penalty x|^2 by the normal equations."""
    image = y.reshape(len(blur), -1)
    normal = blur.T @ blur + penalty.T @ penalty
    return np.linalg.solve(normal, blur.T @ image).reshape(y.shape)


@on_sizes
def test_psf2otf_equals_the_half_spectrum_of_the_centered_psf(size, psf_size):
    psf = draw(*psf_size)
    centered = np.zeros(size)
    for index, weight in np.ndenumerate(psf):
        centered[tuple(np.subtract(index, np.array(psf_size) // 2) % size)] = weight
    full = np.fft.fftn(centered)
    assert_close(psf2otf(psf, size), full[..., : size[-1] // 2 + 1])


@on_boundaries
@on_sizes
def test_fft_conv_equals_scipy(size, psf_size, boundary):
    x, psf = draw(*size, 2), draw(*psf_size)
    channels = [
        scipy.ndimage.convolve(channel, psf, mode=BOUNDARIES[boundary], cval=0.0)
        for channel in np.moveaxis(x, -1, 0)
    ]
    assert_close(fft_conv(x, psf, boundary=boundary), np.stack(channels, axis=-1))


@on_sizes
def test_linear_convolution_equals_the_full_one_cropped_at_the_center(size, psf_size):
    """SciPy's "same" mode crops there for odd sizes only."""
    x, psf = draw(*size, 2), draw(*psf_size)
    y = np.asarray(fft_conv(x, psf, boundary="linear"))[..., 0]
    full = scipy.signal.fftconvolve(x[..., 0], psf, mode="full")
    crop = tuple(slice(k // 2, k // 2 + n) for n, k in zip(size, psf_size, strict=True))
    assert_close(y, full[crop])
    if all(k % 2 for k in psf_size):
        assert_close(y, scipy.signal.fftconvolve(x[..., 0], psf, mode="same"))


@functools.partial(jax.jit, static_argnames="boundary")
def blur_and_adjoint(x, y, psf, boundary):
    return (
        spectral.fft_conv(x, psf, boundary=boundary),
        spectral.fft_conv_transpose(y, psf, boundary=boundary),
    )


@pytest.mark.slow
@on_dtypes
@on_boundaries
@pytest.mark.parametrize(
    ("size", "psf_size"), [((9,), (4,)), ((8, 9), (4, 3)), ((4, 5, 6), (3, 2, 1))]
)
def test_fft_conv_equals_conv_with_the_flipped_psf(size, psf_size, boundary, dtype, tolerance):
    """The adjoints are equal too."""
    channels = 2
    x, psf = draw(*size, channels).astype(dtype), draw(*psf_size).astype(dtype)
    kernel = np.stack(channels * [np.flip(psf)], axis=-1)[..., None, :]
    mode = {"circular": "circular", "linear": "zeros"}[boundary]
    options = {"padding": "SAME", "padding_mode": mode, "groups": channels}

    @jax.jit
    def in_space(x, kernel):
        return conv(x, kernel, **options), conv_transpose(x, kernel, **options)

    in_frequency = blur_and_adjoint(x, x, psf, boundary)
    for y, expected in zip(in_frequency, in_space(x, kernel), strict=True):
        assert y.dtype == dtype
        assert_close(y, expected, tolerance)


def test_same_padding_puts_the_center_of_the_psf_on_the_pixel():
    """ "SAME" pads (k - 1) // 2 pixels before the image and k // 2 after it."""
    x, psf = draw(1, 8, 9, 1), draw(4, 3)
    kernel = psf[::-1, ::-1, None, None]
    padding = ((1, 2), (1, 1))
    y = conv(jnp.asarray(x), jnp.asarray(kernel), padding=padding, padding_mode="circular")
    assert_close(y, fft_conv(x, psf))


@on_boundaries
def test_a_single_tap_shifts_the_image_by_its_distance_from_the_center(boundary):
    x = draw(7, 8, 2)
    center, below = np.zeros((2, 4, 5))
    center[2, 2] = below[3, 2] = 1.0
    assert_close(fft_conv(x, center, boundary=boundary), x)
    assert_close(np.asarray(fft_conv(x, below, boundary=boundary))[1:], x[:-1])


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    sizes=st.lists(
        st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
        min_size=1,
        max_size=3,
    ),
    boundary=st.sampled_from(list(BOUNDARIES)),
)
def test_fft_conv_transpose_is_the_adjoint_of_fft_conv(sizes, boundary):
    size, psf_size = zip(*sizes, strict=True)
    x, y, psf = draw(*size, 2, seed=1), draw(*size, 2, seed=2), draw(*psf_size, seed=3)
    blurred, back = blur_and_adjoint(x, y, psf, boundary)
    scale = np.linalg.norm(blurred) * np.linalg.norm(y)
    assert abs(np.vdot(blurred, y) - np.vdot(x, back)) <= 1e-10 * max(1.0, scale)


@on_boundaries
def test_linear_transpose_is_fft_conv_transpose(boundary):
    y, psf = draw(7, 8, 2), draw(4, 3)
    blur = functools.partial(fft_conv, psf=psf, boundary=boundary)
    (transposed,) = jax.linear_transpose(blur, y)(y)
    assert_close(transposed, fft_conv_transpose(y, psf, boundary=boundary))


@on_sizes
def test_fft_conv_equals_the_circulant_matrix(size, psf_size):

    x, psf = draw(*size, 2), draw(*psf_size)
    matrix = circulant(psf, size)
    image = x.reshape(len(matrix), -1)
    assert_close(fft_conv(x, psf), (matrix @ image).reshape(x.shape))
    assert_close(fft_conv_transpose(x, psf), (matrix.T @ image).reshape(x.shape))


@on_sizes
def test_wiener_filter_with_a_scalar_is_tikhonov_regularization(size, psf_size):
    y, psf = draw(*size, 2), draw_psf(*psf_size)
    blur = circulant(psf, size)
    expected = tikhonov(y, blur, np.sqrt(0.05) * np.eye(len(blur)))
    assert_close(wiener_filter(y, psf, noise_to_signal=0.05), expected)


@on_sizes
def test_wiener_filter_with_a_spectrum_is_tikhonov_regularization_with_a_matrix(size, psf_size):
    """The penalty |P x|^2 of a circular convolution P has the spectrum |P|^2."""
    y, psf = draw(*size, 2), draw_psf(*psf_size)
    penalty = draw(*psf_size, seed=7)
    spectrum = np.abs(psf2otf(penalty, size)) ** 2
    expected = tikhonov(y, circulant(psf, size), circulant(penalty, size))
    assert_close(wiener_filter(y, psf, noise_to_signal=spectrum), expected, 1e-9)


@on_sizes
def test_constrained_least_squares_penalizes_the_laplacian(size, psf_size):
    y, psf = draw(*size, 2), draw_psf(*psf_size)
    roughness = np.sqrt(0.05) * circulant(laplacian(len(size)), size)
    expected = tikhonov(y, circulant(psf, size), roughness)
    assert_close(constrained_least_squares_filter(y, psf, gamma=0.05), expected)


@on_sizes
@pytest.mark.parametrize("quantile", [0.0, 0.4, 0.8])
def test_inverse_filter_is_the_pseudo_inverse_without_small_singular_values(
    size, psf_size, quantile
):
    y, psf = draw(*size, 2), draw_psf(*psf_size)
    blur = circulant(psf, size)
    values = np.unique(np.linalg.svd(blur, compute_uv=False).round(9))
    place = int(quantile * (len(values) - 1))
    threshold = float(np.mean(values[place : place + 2]))
    inverse = np.linalg.pinv(blur, rcond=threshold / values[-1])
    expected = (inverse @ y.reshape(len(blur), -1)).reshape(y.shape)
    assert_close(inverse_filter(y, psf, threshold=threshold), expected, 1e-8)


def test_inverse_filter_loses_only_the_zeros_of_the_blur():
    """A box of 2 pixels has a zero at the highest frequency of an even axis."""
    x, box = draw(6, 8, 1), np.full((1, 2), 0.5)
    alternating = np.array([1.0, -1.0] * 4)[:, None]
    removed = np.mean(x * alternating, axis=1, keepdims=True) * alternating
    assert_close(inverse_filter(fft_conv(x, box), box, threshold=1e-9), x - removed)


@on_sizes
def test_every_filter_inverts_a_noise_free_invertible_blur(size, psf_size):
    """A psf that sums to 1 and has a tap above 1/2 keeps H away from zero."""
    x, psf = draw(*size, 2), 0.4 * draw_psf(*psf_size)
    psf[tuple(k // 2 for k in psf_size)] += 0.6
    y = fft_conv(x, psf)
    assert_close(inverse_filter(y, psf, threshold=0.1), x)
    assert_close(wiener_filter(y, psf, noise_to_signal=0.0), x)
    assert_close(constrained_least_squares_filter(y, psf, gamma=0.0), x)


def gaussian_psf(size, sigma):
    profile = np.exp(-0.5 * np.square((np.arange(size) - size // 2) / sigma))
    psf = np.outer(profile, profile)
    return psf / np.sum(psf)


@pytest.fixture(scope="module")
def stationary_fields():
    """Draw Gaussian fields, blur them circularly, and add white noise of power 0.05^2.

    Returns:
      (images, blurred and noisy images, psf, noise-to-signal ratio of each frequency).
    """
    n, count = 32, 64
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n))
    amplitude = 0.1 / (0.05 + frequency)
    spectrum = np.fft.rfftn(draw(count, n, n, 1, seed=1), axes=(1, 2)) * amplitude[..., None]
    x = np.fft.irfftn(spectrum, (n, n), axes=(1, 2))
    psf = gaussian_psf(9, 1.2)
    with jax.enable_x64(True):
        y = np.asarray(fft_conv(x, psf)) + 0.05 * draw(count, n, n, 1, seed=2)
    return x, y, psf, (0.05 / amplitude) ** 2


def mean_squared_error(a, b):
    return float(np.mean(np.square(np.asarray(a) - np.asarray(b))))


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 4.0])
def test_wiener_filter_with_the_true_spectra_has_the_least_error(stationary_fields, factor):
    x, y, psf, ratio = stationary_fields
    best = mean_squared_error(wiener_filter(y, psf, noise_to_signal=ratio), x)
    other = mean_squared_error(wiener_filter(y, psf, noise_to_signal=factor * ratio), x)
    assert best < other
    constant = float(np.median(ratio)) * factor
    assert best < mean_squared_error(wiener_filter(y, psf, noise_to_signal=constant), x)
    assert best < mean_squared_error(y, x)


def test_error_of_the_wiener_filter_equals_the_theoretical_one(stationary_fields):
    """It is the mean over frequencies of N / (|H|^2 + N / S), with the powers N and S."""
    x, y, psf, ratio = stationary_fields
    n = x.shape[1]
    expected = 0.05**2 / (np.abs(psf2otf(psf, (n, n))) ** 2 + ratio)
    # All but the first and last column of the half spectrum count twice.
    expected = (2 * np.sum(expected[:, 1:-1]) + np.sum(expected[:, [0, -1]])) / n**2
    error = mean_squared_error(wiener_filter(y, psf, noise_to_signal=ratio), x)
    # The mean square of 64 * 1024 pixels has a relative standard deviation of sqrt(2 / 65536).
    assert error == pytest.approx(expected, rel=0.03)


FUNCTIONS = {
    "fft_conv, linear": functools.partial(fft_conv, boundary="linear"),
    "fft_conv_transpose, linear": functools.partial(fft_conv_transpose, boundary="linear"),
    "inverse_filter": functools.partial(inverse_filter, threshold=0.2),
    "wiener_filter": functools.partial(wiener_filter, noise_to_signal=0.05),
    "constrained_least_squares_filter": functools.partial(
        constrained_least_squares_filter, gamma=0.05
    ),
    "edge_taper": edge_taper,
}
on_functions = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())


@pytest.mark.slow
@on_functions
def test_derivatives_by_images_and_psf_equal_central_differences(function):
    """First derivatives use reverse mode, second ones forward over reverse mode."""

    def loss(x, psf):
        return jnp.sum(jnp.sin(function(x, psf)))

    gradient = jax.grad(loss, argnums=(0, 1))
    value_and_gradient = jax.jit(lambda *at: (loss(*at), gradient(*at)))
    at, direction = (draw(8, 7, 1), draw_psf(3, 2)), (draw(8, 7, 1, seed=8), draw(3, 2, seed=8))
    step = 3e-6
    (more, gradient_more), (less, gradient_less) = (
        value_and_gradient(*(a + sign * step * d for a, d in zip(at, direction, strict=True)))
        for sign in (1, -1)
    )
    here, along = jax.jit(lambda at, direction: jax.jvp(gradient, at, direction))(at, direction)
    slope = sum(np.vdot(g, d) for g, d in zip(here, direction, strict=True))
    assert_close(slope, (float(more) - float(less)) / (2 * step), 1e-6)
    for second, a, b in zip(along, gradient_more, gradient_less, strict=True):
        assert_close(second, (np.asarray(a) - np.asarray(b)) / (2 * step), 1e-6)


@pytest.mark.slow
def test_filter_parameters_can_be_traced_differentiated_and_mapped():
    y, psf = draw(8, 7, 1), draw_psf(3, 2)

    def restored(ratio, gamma, threshold):
        return (
            wiener_filter(y, psf, noise_to_signal=ratio),
            constrained_least_squares_filter(y, psf, gamma=gamma),
            inverse_filter(y, psf, threshold=threshold),
        )

    spectrum = 0.1 + np.square(draw(8, 4))
    check_grads(jax.jit(restored), (spectrum, 0.1, 0.2), order=1, rtol=1e-5)
    strengths = np.array([0.05, 0.3])
    mapped = jax.jit(jax.vmap(restored))(strengths, strengths, strengths)
    for i, strength in enumerate(strengths):
        each = restored(strength, strength, strength)
        for many, one in zip(mapped, each, strict=True):
            assert_close(np.asarray(many)[i], one)


def test_inverse_filter_has_finite_gradients_at_zeros_of_the_blur():
    x, box = draw(2, 3), np.full(2, 0.5)
    np.testing.assert_array_equal(psf2otf(box, (2,)), [1.0, 0.0])
    gradient = jax.grad(lambda psf: jnp.sum(jnp.sin(inverse_filter(x, psf, threshold=0.1))))(box)
    assert np.all(np.isfinite(gradient))


@pytest.mark.slow
@on_functions
def test_batch_axes_are_independent(function):
    x, psf = draw(2, 3, 8, 7, 2), draw_psf(4, 2)
    many = np.asarray(function(x, psf))
    assert many.shape == x.shape
    for i in range(2):
        assert_close(function(x[i], psf), many[i])
        for j in range(3):
            assert_close(function(x[i, j], psf), many[i, j])


@on_functions
def test_vmap_applies_one_psf_per_image(function):
    x = draw(3, 8, 7, 2)
    psfs = np.stack([draw_psf(4, 2), draw_psf(2, 4).T, np.full((4, 2), 1 / 8)])
    mapped = np.asarray(jax.vmap(function)(x, psfs))
    for each, image, psf in zip(mapped, x, psfs, strict=True):
        assert_close(each, function(image, psf))


@on_functions
def test_float32_results_are_close_to_float64_results(function):
    x, psf = draw(8, 7, 2), draw_psf(4, 2)
    single = function(x.astype("float32"), psf.astype("float32"))
    assert single.dtype == jnp.float32
    assert_close(single, function(x, psf), 1e-4)


X, PSF = (2, 6, 7, 3), (3, 3)
ERRORS = [
    (fft_conv, X, (7, 3), {}, ["no larger than the images", "(6, 7)", "(7, 3)"]),
    (fft_conv, X, (3, 3, 1, 1), {}, ["psf must have 1, 2 or 3 spatial axes", "(3, 3, 1, 1)"]),
    (fft_conv, X, (), {}, ["psf must have 1, 2 or 3 spatial axes", "()"]),
    (fft_conv, (6, 7), PSF, {}, ["(3, 3)", "2 spatial axes", "channel", "(6,)"]),
    (fft_conv, X, PSF, {"boundary": "wrap"}, ["boundary", "'circular' or 'linear'", "'wrap'"]),
    (fft_conv_transpose, X, (3, 8), {"boundary": "linear"}, ["no larger", "(6, 7)", "(3, 8)"]),
    (inverse_filter, X, (7, 3), {"threshold": 0.1}, ["no larger", "(6, 7)", "(7, 3)"]),
    (
        wiener_filter,
        X,
        PSF,
        {"noise_to_signal": np.ones((6, 7))},
        ["noise_to_signal", "(6, 7) pixels", "(6, 4)", "got shape (6, 7)"],
    ),
    (constrained_least_squares_filter, X, (7, 3), {"gamma": 0.1}, ["no larger", "(7, 3)"]),
    (edge_taper, X, (4, 3), {}, ["edge_taper", "half as large", "(6, 7)", "(4, 3)"]),
]


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(("function", "images", "psf", "options", "words"), ERRORS)
def test_errors_name_the_argument_and_its_value(function, images, psf, options, words):
    with pytest.raises(InputError) as raised:
        function(np.ones(images), np.ones(psf), **options)
    message = str(raised.value)
    assert [word for word in words if word not in message] == []


def test_images_of_half_precision_are_errors():
    with pytest.raises(InputError, match="images must be float32 or float64; got bfloat16"):
        fft_conv(jnp.ones((1, 6, 7, 1), jnp.bfloat16), jnp.ones((3, 3), jnp.float32))


def test_psf2otf_requires_a_size_for_every_axis_of_the_psf():
    with pytest.raises(InputError, match=r"psf \(3, 3\) requires .* size \(6,\)"):
        psf2otf(np.ones((3, 3)), (6,))
