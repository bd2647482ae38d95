"""Tests of wavelet and block DCT transforms against their definitions and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from arrays import draw

from deconv_jax.errors import InputError
from deconv_jax.ops import wavelets

NAMES = ["haar", *(f"db{n}" for n in range(1, 11)), *(f"sym{n}" for n in range(2, 10))]

transform = jax.jit(wavelets.wavelet_transform, static_argnames=("wavelet", "levels"))
block_dct = jax.jit(wavelets.block_dct, static_argnames="block")
inverse_block_dct = jax.jit(wavelets.inverse_block_dct, static_argnames="block")
inverse = jax.jit(wavelets.inverse_wavelet_transform, static_argnames=("wavelet", "levels"))

# On 4 and 8 pixels, the basis functions of db4 wrap around onto themselves.
BASES = [("haar", 3), ("db2", 1), ("db4", 3), ("sym5", 2)]
on_bases = pytest.mark.parametrize(("wavelet", "levels"), BASES)


pytestmark = pytest.mark.usefixtures("float64")


def moments_of(wavelet):
    return 1 if wavelet == "haar" else int(wavelet.strip("dbsym"))


@pytest.mark.parametrize("wavelet", NAMES)
def test_scaling_filter_is_orthogonal_to_its_shifts_and_has_vanishing_moments(wavelet):
    h = wavelets.scaling_filter(wavelet)
    count = moments_of(wavelet)
    assert len(h) == 2 * count
    shifted = [h[2 * s :] @ h[: len(h) - 2 * s] for s in range(count)]
    np.testing.assert_allclose(shifted, np.eye(count)[0], atol=1e-12)
    assert np.sum(h) == pytest.approx(np.sqrt(2))
    mirror = h[::-1] * (-1.0) ** np.arange(len(h))
    # Moments about the middle of the filter, where powers stay small.
    places = np.linspace(-1, 1, len(h))
    powers = [mirror @ places**p for p in range(count)]
    np.testing.assert_allclose(powers, np.zeros(count), atol=1e-9)


def test_known_scaling_filters():
    root = np.sqrt(3)
    expected = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * np.sqrt(2))
    np.testing.assert_allclose(wavelets.scaling_filter("db2"), expected, atol=1e-14)
    np.testing.assert_allclose(wavelets.scaling_filter("haar"), 2 * [np.sqrt(0.5)], atol=1e-15)
    # Published by Daubechies for N = 4: extremal phase, then least asymmetric.
    db4 = [0.23037781, 0.71484657, 0.63088077, -0.02798377]
    np.testing.assert_allclose(wavelets.scaling_filter("db4")[:4], db4, atol=1e-8)
    sym4 = sorted([0.03222310, -0.01260397, -0.09921954, 0.29785780])
    h = wavelets.scaling_filter("sym4")
    ends = min((h, h[::-1]), key=lambda taps: abs(taps[0] - 0.03222310))
    np.testing.assert_allclose(sorted(ends[:4]), sym4, atol=1e-8)


def test_sym_filters_have_the_spectrum_of_db_filters_and_a_flatter_group_delay():
    def asymmetry(h):
        """Return the standard deviation of the group delay, in pixels."""
        frequencies = np.linspace(0, np.pi / 2, 200)
        response = np.exp(-1j * np.outer(frequencies, np.arange(len(h)))) @ h
        return np.std(np.diff(np.unwrap(np.angle(response))) / np.diff(frequencies))

    for n in range(4, 10):
        db, sym = wavelets.scaling_filter(f"db{n}"), wavelets.scaling_filter(f"sym{n}")
        np.testing.assert_allclose(
            np.abs(np.fft.fft(db, 64)), np.abs(np.fft.fft(sym, 64)), atol=1e-9
        )
        assert asymmetry(sym) < asymmetry(db)


def by_the_definition(x, wavelet, axis):
    """Transform one level along an axis: coarse coefficients, then details."""
    h = wavelets.scaling_filter(wavelet)
    g = h[::-1] * (-1.0) ** np.arange(len(h))
    n, offset = x.shape[axis], len(h) // 2 - 1
    coefficients = [
        sum(
            filter_[k] * np.take(x, (2 * i + k - offset) % n, axis=axis)
            for k in range(len(filter_))
        )
        for filter_ in (h, g)
        for i in range(n // 2)
    ]
    return np.stack(coefficients, axis=axis)


@on_bases
def test_coefficients_equal_the_definition(wavelet, levels):
    x = draw(2, 16, 24, 3)
    expected = x.copy()
    for level in range(levels):
        coarse = np.s_[:, : 16 >> level, : 24 >> level]
        expected[coarse] = by_the_definition(
            by_the_definition(expected[coarse], wavelet, 1), wavelet, 2
        )
    np.testing.assert_allclose(transform(x, wavelet, levels=levels), expected, atol=1e-12)


@pytest.mark.slow
@on_bases
def test_inverse_wavelet_transform_is_the_inverse_and_the_adjoint(wavelet, levels):
    x, c = draw(2, 16, 24, 1), draw(2, 16, 24, 1, seed=1)
    forward = np.asarray(transform(x, wavelet, levels=levels))
    np.testing.assert_allclose(inverse(forward, wavelet, levels=levels), x, atol=1e-11)
    back = np.asarray(inverse(c, wavelet, levels=levels))
    assert np.vdot(forward, c) == pytest.approx(np.vdot(x, back), abs=1e-10)
    np.testing.assert_allclose(transform(back, wavelet, levels=levels), c, atol=1e-11)


def test_details_of_a_linear_ramp_vanish_away_from_the_border():
    ramp = np.broadcast_to(np.arange(32.0)[:, None], (32, 32))[None, ..., None]
    c = np.asarray(transform(ramp, "db2", levels=1))[0, ..., 0]
    np.testing.assert_allclose(c[:16, 16:], 0, atol=1e-12)
    np.testing.assert_allclose(c[16:, 16:], 0, atol=1e-12)
    np.testing.assert_allclose(c[17:31, :16], 0, atol=1e-12)
    constant = np.asarray(transform(np.ones((32, 32, 1)), "db2", levels=3))[..., 0]
    coarse = wavelets.coarse_mask((32, 32), 3)
    np.testing.assert_allclose(constant, np.where(coarse, 8.0, 0.0), atol=1e-12)
    assert np.sum(coarse) == 16


def test_zero_levels_return_the_image_and_float32_is_kept():
    x = draw(8, 8, 1).astype("float32")
    np.testing.assert_array_equal(transform(x, levels=0), x)
    assert transform(x, levels=2).dtype == inverse(x, levels=2).dtype == np.float32


@pytest.mark.parametrize("block", [2, 8])
def test_block_dct_equals_scipy_on_each_block(block):
    x = draw(2, 16, 24, 3)
    c = np.asarray(block_dct(x, block))
    for rows in range(0, 16, block):
        for columns in range(0, 24, block):
            part = np.s_[:, rows : rows + block, columns : columns + block]
            expected = scipy.fft.dctn(x[part], axes=(1, 2), norm="ortho")
            np.testing.assert_allclose(c[part], expected, atol=1e-12)
    np.testing.assert_allclose(inverse_block_dct(c, block), x, atol=1e-12)


@pytest.mark.parametrize("name", ["db0", "db11", "sym1", "sym10", "bior2.2", "db", "db02"])
def test_unknown_wavelets_are_refused(name):
    with pytest.raises(InputError, match=f"no wavelet '{name}'; known are haar, db1 to db10"):
        wavelets.scaling_filter(name)


def test_indivisible_sizes_are_refused():
    x = jnp.asarray(draw(12, 8, 1))
    for function in (wavelets.wavelet_transform, wavelets.inverse_wavelet_transform):
        with pytest.raises(InputError, match=r"levels=3 and 12 x 8 pixels"):
            function(x, levels=3)
        with pytest.raises(InputError, match="levels must be at least 0; got -1"):
            function(x, levels=-1)
    with pytest.raises(InputError, match=r"block=8 and 12 x 8 pixels"):
        wavelets.block_dct(x)
