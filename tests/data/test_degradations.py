"""Degradations: adjoints, parity with SciPy, random keys, comparison by value and error messages."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from degradation_inputs import draw, images, keys, psf

from deconv_jax import ops
from deconv_jax.data.degradations import (
    Blur,
    BoxMask,
    Chain,
    Decimate,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    Jpeg,
    Mask,
    MotionBlur,
    PoissonNoise,
    RandomPixelMask,
    RandomProjection,
    SaltAndPepperNoise,
    SpeckleNoise,
    StrokeMask,
    TextMask,
    linear_part,
    noise_sigma,
)

# Compiled whole, with the degradation as an argument, as a step of training or a solver would.
degrade = jax.jit(lambda degradation, x, keys=None: degradation(x, keys))
settle = jax.jit(lambda degradation, keys, shape: degradation.draw(keys, shape), static_argnums=2)
forward = jax.jit(lambda model, x: model.forward(x))
adjoint = jax.jit(lambda model, y, size: model.adjoint(y, size), static_argnums=2)


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


LINEAR = {
    **{
        f"blur-{boundary}-{method}": Blur(psf(4, 3), boundary, method)
        for boundary in ("circular", "reflect", "zeros", "valid")
        for method in ("fft", "spatial")
    },
    "blur of each": Blur(np.stack([psf(3, 3), psf(3, 3).T])),
    "blur of all": Blur(psf(1, 3, 2), "reflect"),
    "gaussian": GaussianBlur(0.7, boundary="reflect"),
    "motion": MotionBlur(4.5, 30.0, boundary="valid"),
    "downsample": Downsample(3),
    "decimate": Decimate(2),
    "mask": Mask(np.arange(11 * 8 * 3).reshape(11, 8, 3) % 5 > 1),
    "strokes": StrokeMask(2, (2, 8), 2).draw(keys(2), (2, 11, 8, 3)),
    "text": TextMask("ab", 6).draw(None, (2, 11, 8, 3)),
    "random projection": RandomProjection(7),
    "identity": Chain(),
    "chain": Chain(
        (
            GaussianNoise(25.0),
            Chain((Blur(psf(3, 2), "valid"), PoissonNoise(30.0))),
            Decimate(2),
            Mask(np.eye(5, 4)),
        )
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", LINEAR)
def test_adjoint(name):
    """<A x, y> = <x, A^T y> in double precision, and `output_size` is the size of A x."""
    model, x = LINEAR[name], draw(2, 11, 8, 3)
    y = forward(model, x)
    assert y.dtype == np.float64
    assert y.shape == (2, *model.output_size((11, 8)), 3)
    probe = draw(*y.shape)
    back = adjoint(model, probe, (11, 8))
    assert back.shape == x.shape
    np.testing.assert_allclose(np.vdot(y, probe), np.vdot(x, back), rtol=1e-12)


def test_random_projection_keeps_norms_on_average_and_nests():
    """The squared norm of m measurements has the mean |x|^2 and the relative deviation sqrt(2 / m)."""
    x = images(3, 9, 8, 2)
    y = forward(RandomProjection(800, seed=3), x)
    norms = [np.sum(np.square(a), (1, 2)) for a in (y, x)]
    np.testing.assert_allclose(*norms, rtol=4 * (2 / 800) ** 0.5)
    few = forward(RandomProjection(8, seed=3), x)
    np.testing.assert_allclose(few, y[:, :8] * 10, rtol=2e-5, atol=1e-5)
    assert not np.allclose(few, forward(RandomProjection(8, seed=4), x), atol=0.1)


SCIPY_MODE = {"circular": "wrap", "reflect": "mirror", "zeros": "constant"}


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("method", ["fft", "spatial"])
@pytest.mark.parametrize("boundary", [*SCIPY_MODE, "valid"])
def test_blur_equals_scipy_convolution(boundary, method):
    """For even and odd sizes; "valid" is compared with `scipy.signal.convolve2d`."""
    x, kernel = draw(1, 40, 31, 2), np.float32(psf(9, 6))
    result = forward(Blur(kernel, boundary, method), x)
    for c in range(2):
        if boundary == "valid":
            expected = scipy.signal.convolve2d(x[0, ..., c], kernel, mode="valid")
        else:
            expected = scipy.ndimage.convolve(x[0, ..., c], kernel, mode=SCIPY_MODE[boundary])
        np.testing.assert_allclose(result[0, ..., c], expected, rtol=0, atol=1e-12)


def test_both_methods_agree_on_large_images_in_single_precision():
    x, kernel = images(1, 301, 256, 3), psf(15, 18)
    fft, spatial = (forward(Blur(kernel, "reflect", m), x) for m in ("fft", "spatial"))
    np.testing.assert_allclose(fft, spatial, rtol=0, atol=2e-6)


def test_psf_of_batch_1_is_broadcast():
    x, kernel = images(2, 9, 8, 1), psf(3, 2)
    expected = forward(Blur(kernel), x)
    np.testing.assert_array_equal(forward(Blur(kernel[None]), x), expected)
    np.testing.assert_allclose(forward(Blur(np.stack([kernel] * 2)), x), expected, atol=1e-6)


@pytest.mark.slow
def test_gaussian_blur_equals_scipy_with_one_sigma_per_example():
    x, sigma = images(2, 30, 25, 1), (0.8, 2.3)
    together = settle(GaussianBlur(sigma, boundary="reflect"), keys(2), x.shape)
    assert together.psf.shape == (2, 19, 19)
    np.testing.assert_allclose(together.psf.sum(axis=(1, 2)), 1, rtol=1e-6)
    blurred = forward(together, x)
    for i, one in enumerate(np.asarray(together.sigma)):
        assert sigma[0] <= one <= sigma[1]
        expected = scipy.ndimage.gaussian_filter(x[i, ..., 0], one, mode="mirror", radius=9)
        np.testing.assert_allclose(blurred[i, ..., 0], expected, atol=1e-6)
    assert GaussianBlur(1.6).psf.shape == (13, 13)
    assert GaussianBlur(1.6, size=25).psf.shape == (25, 25)


def test_motion_blur_smears_a_point_along_a_line():
    """An odd horizontal length is a mean; other angles use the distance to sampled points of the line."""
    straight = np.asarray(MotionBlur(5.0).psf)
    np.testing.assert_allclose(straight, np.eye(5)[2][:, None] * np.full(5, 0.2), atol=1e-6)
    np.testing.assert_allclose(MotionBlur(5.0, 90.0).psf, straight.T, atol=1e-6)
    along = np.linspace(-2.75, 2.75, 2001)
    up, right = along * np.sin(np.pi / 6), along * np.cos(np.pi / 6)
    rows, columns = (places[..., None] - 3 for places in np.indices((7, 7)))
    distance = np.hypot(rows + up, columns - right).min(axis=-1)
    expected = np.maximum(1 - distance, 0)
    np.testing.assert_allclose(MotionBlur(6.5, 30.0).psf, expected / expected.sum(), atol=1e-5)


def test_downsample_is_imresize_and_decimate_keeps_every_pixel_of_a_grid():
    x = images(1, 13, 12, 3)
    np.testing.assert_array_equal(
        degrade(Downsample(3), x), jax.jit(functools.partial(ops.imresize, scale=1 / 3))(x)
    )
    blur = GaussianBlur(1.2)
    chained = degrade(Chain((blur, Decimate(3))), x)
    np.testing.assert_allclose(chained, forward(blur, x)[:, ::3, ::3], rtol=1e-6)


@pytest.mark.slow
def test_result_of_an_example_depends_only_on_its_key():
    """Not on its position in the batch or on the other examples."""
    model = Chain(
        (GaussianNoise((0.0, 55.0)), PoissonNoise(30.0), RandomPixelMask((0.2, 0.8)), Jpeg((5, 95)))
    )
    x, order = jnp.tile(images(1, 16, 12, 3), (4, 1, 1, 1)), jnp.array([2, 0, 3, 1])
    result = degrade(model, x, keys(4))
    np.testing.assert_array_equal(degrade(model, x, keys(4)[order]), result[order])
    assert len(np.unique(np.asarray(result).reshape(4, -1), axis=0)) == 4


@pytest.mark.slow
def test_call_uses_separate_keys_for_draw_and_apply():
    model, x = Chain((MotionBlur((1.0, 5.0), 45.0), SpeckleNoise(0.1))), images(4, 16, 12, 3)
    of_draw, of_noise = (jax.vmap(jax.random.fold_in, (0, None))(keys(4), i) for i in range(2))
    settled = settle(model, of_draw, x.shape)
    assert settled.draw(None, x.shape) == settled
    again = jax.jit(lambda model, x, keys: model.apply(x, keys))(settled, x, of_noise)
    np.testing.assert_allclose(again, degrade(model, x, keys(4)), atol=1e-6)


def test_equal_steps_of_a_chain_have_independent_noise():
    twice, x = Chain((GaussianNoise(10.0), GaussianNoise(10.0))), images(4, 16, 12, 3)
    deviation = 255 * np.std(degrade(twice, x, keys(4)) - x)
    assert deviation == pytest.approx(10 * np.sqrt(2), rel=0.1)


COUNT = 4000


@jax.jit
def repeated(degradation, value):
    """Return a pixel of this value, degraded with many keys."""
    return degradation(jnp.broadcast_to(value, (COUNT, 1, 1, 1)), keys(COUNT)).ravel()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("degradation", "mean", "deviation"),
    [
        (GaussianNoise(25.0), 0.4, 25 / 255),
        (PoissonNoise(30.0), 0.4, np.sqrt(0.4 / 30)),
        (SpeckleNoise(0.2), 0.4, 0.08),
        (SaltAndPepperNoise(0.3), 0.7 * 0.4 + 0.15, np.sqrt(0.7 * 0.16 + 0.15 - 0.43**2)),
        (RandomPixelMask(0.3), 0.12, 0.4 * np.sqrt(0.21)),
    ],
    ids=repr,
)
def test_moments_of_noise(degradation, mean, deviation):
    """Mean and standard deviation over keys, within 5 standard errors."""
    drawn = np.asarray(repeated(degradation, 0.4), np.float64)
    error = deviation / np.sqrt(COUNT)
    assert abs(drawn.mean() - mean) < 5 * error
    spread = np.std((drawn - mean) ** 2) / (2 * deviation * np.sqrt(COUNT))
    assert abs(drawn.std() - deviation) < 5 * spread


def test_poisson_noise_counts_photons():
    counts = 30 * np.asarray(repeated(PoissonNoise(30.0), 0.4))
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
    assert (np.asarray(repeated(PoissonNoise(30.0), -0.1)) == 0).all()


def test_ranges_are_sampled_uniformly_and_independently():
    """Mean 1/2, variance 1/12 and no correlation of the position in the range; qualities are integers."""
    shape = (COUNT, 8, 8, 1)
    drawn = settle(MotionBlur((1.0, 5.0), (-90.0, 90.0)), keys(COUNT), shape)
    length, angle = (np.asarray(drawn.length) - 1) / 4, (np.asarray(drawn.angle) + 90) / 180
    for place in (length, angle):
        assert 0 <= place.min() <= place.max() <= 1
        assert abs(place.mean() - 0.5) < 5 * np.sqrt(1 / 12 / COUNT)
        assert abs(place.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / COUNT)
    assert abs(np.corrcoef(length, angle)[0, 1]) < 5 / np.sqrt(COUNT)
    qualities = np.asarray(settle(Jpeg((3, 6)), keys(COUNT), shape).quality)
    values, counts = np.unique(qualities, return_counts=True)
    assert values.tolist() == [3, 4, 5, 6]
    assert np.abs(counts - COUNT / 4).max() < 5 * np.sqrt(COUNT * 3 / 16)


def lost(degradation, height=40, width=50, count=3):
    """Which pixels are lost, (count, height, width)."""
    mask = np.asarray(settle(degradation, keys(count), (count, height, width, 3)).mask)
    assert mask.shape == (count, height, width, 1)
    assert set(np.unique(mask)) <= {0.0, 1.0}
    return mask[..., 0] == 0


def test_box_mask_covers_every_position_inside_the_image():
    masks = lost(BoxMask(1, (3, 5)), 12, 9, count=400)
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert 3 <= len(rows) <= 5
        assert 3 <= len(columns) <= 5
        assert mask[np.ix_(rows, columns)].all()
        assert mask.sum() == len(rows) * len(columns)
    assert masks.any(axis=0).all()
    assert lost(BoxMask(1, 99), 12, 9).all()


def test_stroke_has_the_area_of_a_line_with_round_ends():
    """Length times width plus a disc, for strokes inside the image."""
    area = np.median(lost(StrokeMask(1, 30.0, 5.0), 200, 200, count=25).sum(axis=(1, 2)))
    assert area == pytest.approx(30 * 5 + np.pi * 2.5**2, rel=0.04)


def test_text_mask_covers_the_image_and_is_deterministic():
    mask = TextMask("a few words", font_size=12).draw(None, (3, 60, 80, 1)).mask
    assert mask.shape == (1, 60, 80, 1)
    assert set(np.unique(mask)) == {0.0, 1.0}
    page = mask[0, ..., 0] == 0
    for part in np.split(page, 3, axis=0):
        for corner in np.split(part, 4, axis=1):
            assert 0.05 < corner.mean() < 0.6
    x = np.ones((3, 60, 80, 1), np.float32)
    for image in degrade(TextMask("a few words", 12), x):
        np.testing.assert_array_equal(image[..., 0] == 0, page)


@pytest.mark.slow
def test_linear_part_and_noise_of_a_chain():
    x = images(2, 12, 12, 1)
    model = Chain((Blur(psf(3, 3)), GaussianNoise((5.0, 25.0)), Downsample(2), BoxMask(1, 3)))
    settled = settle(model, keys(2), x.shape)
    assert settled.steps[3].mask.shape == (2, 6, 6, 1)
    np.testing.assert_allclose(noise_sigma(settled), settled.steps[1].sigma / 255)
    part = linear_part(settled)
    assert noise_sigma(part) is None
    np.testing.assert_allclose(degrade(part, x), forward(settled, x), rtol=1e-6)
    nothing = dataclasses.replace(settled, steps=(settled.steps[0], GaussianNoise(0.0)))
    np.testing.assert_allclose(degrade(nothing, x, keys(2)), forward(nothing, x), rtol=1e-6)
    assert linear_part(GaussianNoise(3.0)) == Chain()
    assert noise_sigma(GaussianNoise(51.0)) == 0.2
    assert noise_sigma(PoissonNoise(5.0)) is None
    assert noise_sigma(Chain((Chain((GaussianNoise(51.0),)), Downsample(2)))) == 0.2


def test_solver_is_compiled_once_for_all_kernels():
    """As a traced argument (pytree) and as a static argument (value), the result is the same."""
    traces = []

    def counted(model, x):
        traces.append(model)
        return model.forward(x)

    x, models = images(1, 9, 9, 1), [Blur(psf(3, 3)), Blur(psf(3, 3).T)]
    by_tree, by_value = jax.jit(counted), jax.jit(counted, static_argnums=0)
    results = [by_tree(model, x) for model in models]
    assert len(traces) == 1
    for model, result in zip(models, results, strict=True):
        np.testing.assert_allclose(by_value(model, x), result, atol=1e-6)
        by_value(Blur(model.psf.copy()), x)
    assert len(traces) == 3
    leaves, structure = jax.tree.flatten(models[0])
    assert len(leaves) == 1
    assert jax.tree.unflatten(structure, leaves) == models[0]
    assert jax.tree.unflatten(structure, [object()]).boundary == "circular"
