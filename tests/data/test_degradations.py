"""Degradations: adjoints, parity with SciPy, random keys, comparison by value and error messages."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

from deconv_jax import ops, schema
from deconv_jax.data.degradations import (
    DEGRADATIONS,
    Blur,
    BoxMask,
    Chain,
    Decimate,
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    Jpeg,
    Mask,
    MotionBlur,
    PoissonNoise,
    RandomPixelMask,
    SaltAndPepperNoise,
    SpeckleNoise,
    StrokeMask,
    TextMask,
    linear_part,
    noise_sigma,
)
from deconv_jax.errors import InputError

CHOICES: schema.Choices = {Degradation: DEGRADATIONS}
KEY = jax.random.key(0)

# Compiled whole, with the degradation as an argument, as a step of training or a solver would.
degrade = jax.jit(lambda degradation, x, keys=None: degradation(x, keys))
settle = jax.jit(lambda degradation, keys, shape: degradation.draw(keys, shape), static_argnums=2)
forward = jax.jit(lambda model, x: model.forward(x))
adjoint = jax.jit(lambda model, y, size: model.adjoint(y, size), static_argnums=2)


def draw(*shape):
    """Standard normal numbers, float64, different for every shape."""
    return np.random.default_rng(shape).standard_normal(shape)


def images(*shape):
    """Numbers from 0 to 1, float32."""
    return jnp.asarray(np.random.default_rng(shape).random(shape), jnp.float32)


def keys(count):
    return jax.random.split(KEY, count)


def psf(*shape):
    """Positive numbers that sum to 1, without any symmetry."""
    weights = np.exp(draw(*shape))
    return weights / weights.sum()


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
    """The pixel `value`, degraded under many keys."""
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


def test_values_are_compared_and_hashed_by_content():
    kernel = psf(3, 3)
    one, same = (Chain((Blur(kernel), GaussianNoise(25))) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    others = [
        Chain((Blur(kernel.T), GaussianNoise(25))),
        Chain((Blur(kernel, "zeros"), GaussianNoise(25))),
        Chain((Blur(kernel), GaussianNoise(26))),
        Chain((Blur(kernel), SpeckleNoise(25))),
        Chain((Blur(kernel),)),
    ]
    assert len({one, same, *others}) == 1 + len(others)
    with pytest.raises(ValueError, match="read-only"):
        one.steps[0].psf[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.steps = ()  # type: ignore[misc]
    assert dataclasses.replace(GaussianBlur(1.0), sigma=2.0) == GaussianBlur(2.0)


def test_descriptions_are_equal_only_for_equal_values():
    kernel, x = psf(25, 25), images(2, 4, 4, 1)
    model = Chain((Blur(kernel), GaussianNoise((0, 2.5))))
    assert re.fullmatch(
        r"Chain\(steps=\(Blur\(psf=25x25 #[0-9a-f]{8}, boundary='circular', method='fft'\), "
        r"GaussianNoise\(sigma=\(0, 2\.5\)\)\)\)",
        model.describe(),
    )
    assert GaussianBlur(1.5).describe() == (
        "GaussianBlur(sigma=1.5, size=None, boundary='circular', method='fft')"
    )
    equal = [
        (GaussianNoise(25), GaussianNoise(25.0)),
        (GaussianNoise(0.1), GaussianNoise(np.float64(0.1))),
        (GaussianNoise((0, 2)), GaussianNoise((np.float32(0), 2.0))),
        (Blur(kernel), Blur(jnp.asarray(kernel, jnp.float32))),
        (model.draw(keys(2), x.shape), model.draw(keys(2), x.shape)),
    ]
    for one, same in equal:
        assert one == same
        assert hash(one) == hash(same)
        assert one.describe() == same.describe()
    changed = kernel.astype(np.float32)
    changed[3, 4] = np.nextafter(changed[3, 4], 1)
    others = [
        model,
        Chain((model,)),
        model.draw(keys(2), x.shape),
        *(Blur(k) for k in (kernel, kernel.T, changed, kernel[None])),
        *(Mask(np.zeros(shape)) for shape in ((4, 6), (6, 4))),
        GaussianNoise(np.float32(0.1)),
        GaussianNoise(0.1),
    ]
    assert len({other.describe() for other in others}) == len(set(others)) == len(others)


@dataclasses.dataclass(frozen=True)
class Holder:
    """What a task with a degradation is to `schema`."""

    degradation: Degradation


CONFIGS = [
    {"name": "blur", "psf": [[0, 0.25], [0.5, 0.1]], "boundary": "valid"},
    {"name": "gaussian_blur", "sigma": [0.2, 3], "size": 21},
    {"name": "motion_blur", "length": 7},
    {"name": "downsample", "scale": 4},
    {"name": "decimate", "scale": 2},
    {"name": "mask", "mask": [[1, 0], [0, 1]]},
    {"name": "random_pixel_mask", "keep": 0.5},
    {"name": "box_mask", "count": 2, "size": [3, 9]},
    {"name": "stroke_mask", "count": 2, "length": 3, "width": [1, 2]},
    {"name": "text_mask", "text": "words"},
    {"name": "gaussian_noise", "sigma": 25},
    {"name": "poisson_noise", "peak": [1, 30]},
    {"name": "speckle_noise", "sigma": 0.1},
    {"name": "salt_and_pepper_noise", "fraction": 0.1},
    {"name": "jpeg", "quality": [10, 95], "subsampling": "4:4:4"},
]


def test_configs_round_trip():
    assert {c["name"] for c in CONFIGS} | {"chain"} == set(DEGRADATIONS)
    config = {"degradation": {"name": "chain", "steps": CONFIGS}}
    holder = schema.build(Holder, config, CHOICES)
    assert holder.degradation.steps[1] == GaussianBlur((0.2, 3.0), 21)
    written = schema.to_dict(holder, CHOICES)
    assert written["degradation"]["steps"][0]["psf"] == np.float32([[0, 0.25], [0.5, 0.1]]).tolist()
    assert schema.build(Holder, written, CHOICES) == holder
    assert schema.to_dict(schema.build(Holder, written, CHOICES), CHOICES) == written
    for psf_values in ("words", [[1, 2], [3]]):
        broken = {"degradation": {"name": "blur", "psf": psf_values}}
        with pytest.raises(InputError, match=r"config\.degradation\.psf must be"):
            schema.build(Holder, broken, CHOICES)


X = jnp.zeros((2, 8, 8, 1))
ERRORS = {
    "psf has axes": (
        lambda: Blur(np.ones(3)),
        "psf must be (height, width) or (batch, height, width) and not empty; got shape (3,)",
    ),
    "psf is numbers": (lambda: Blur([["a"]]), "psf must be an array of numbers; got [['a']]"),
    "psf is finite": (lambda: Blur([[np.nan]]), "psf must be finite"),
    "psf fits": (
        lambda: Blur(np.ones((9, 3))).forward(X),
        "not be larger than the images, (8, 8) pixels",
    ),
    "psf count": (
        lambda: Blur(np.ones((3, 2, 2))).forward(X),
        "psf must be one, or one for each of 2 images; got (3, 2, 2)",
    ),
    "boundary": (
        lambda: Blur(np.ones((3, 3)), "wrap"),
        "boundary must be one of circular, reflect, zeros, valid; got 'wrap'",
    ),
    "method": (
        lambda: GaussianBlur(1.0, method="slow"),
        "method must be one of fft, spatial; got 'slow'",
    ),
    "sigma > 0": (lambda: GaussianBlur(0.0), "sigma must be greater than 0; got 0.0"),
    "sigmas": (lambda: GaussianBlur(jnp.ones(2)), "an array of sigmas requires size"),
    "odd size": (lambda: GaussianBlur(1.0, 4), "size must be odd"),
    "range": (
        lambda: GaussianNoise((5, 3)),
        "sigma must be a number, a range (low, high) or an array; got (5, 3)",
    ),
    "no list": (lambda: GaussianNoise([0, 55]), "or an array; got [0, 55]"),
    "no text": (lambda: PoissonNoise("30"), "or an array; got '30'"),
    "no truth value": (lambda: SpeckleNoise(True), "or an array; got True"),
    "no array of them": (lambda: RandomPixelMask(np.eye(2) > 0), "got an array of bool"),
    "range of numbers": (lambda: MotionBlur((1, "5")), "or an array; got (1, '5')"),
    "range has ends": (lambda: StrokeMask(1, (1, 2, 3), 1), "or an array; got (1, 2, 3)"),
    "finite": (lambda: GaussianBlur(np.inf), "sigma must be a number, a range (low, high)"),
    "whole range": (
        lambda: BoxMask(1, (2.5, 3.5)),
        "size must be an integer, a range (low, high) or an array; got (2.5, 3.5)",
    ),
    "whole": (lambda: Jpeg(50.5), "quality must be an integer, a range (low, high) or"),
    "whole array": (lambda: Jpeg(np.ones(2)), "or an array; got an array of float64"),
    "whole count": (lambda: BoxMask((1, 2), 3), "count must be an integer; got (1, 2)"),
    "whole scale": (lambda: Downsample(2.5), "scale must be an integer; got 2.5"),
    "sigma >= 0": (lambda: GaussianNoise(-1), "sigma must be at least 0; got -1"),
    "fraction": (lambda: RandomPixelMask(1.5), "keep must be at least 0 and at most 1; got 1.5"),
    "scale": (lambda: Decimate(0), "scale must be at least 1; got 0"),
    "subsampling": (
        lambda: Jpeg(50, "4:1:1"),
        "subsampling must be one of 4:4:4, 4:2:2, 4:2:0; got '4:1:1'",
    ),
    "mask axes": (lambda: Mask(np.ones(3)), "got shape (3,)"),
    "mask fits": (
        lambda: Mask(np.ones((8, 7))).forward(X),
        "a mask of shape (8, 7) does not broadcast to images (2, 8, 8, 1)",
    ),
    "text": (lambda: TextMask(" "), "text must be a single line with at least one letter; got ' '"),
    "steps": (lambda: Chain([Decimate(2)]), "steps must be a tuple of degradations; got [Decimate"),
    "one image": (lambda: GaussianBlur(1.0)(X[0]), "(batch, height, width, channels); got float32"),
    "stored levels": (
        lambda: GaussianBlur(1.0)((255 * X).astype("uint8")),
        "images must be floats in [0, 1]",
    ),
    "one key": (
        lambda: GaussianNoise(5.0)(X, jax.random.key(0)),
        "one key per example, shape (2,); got shape ()",
    ),
    "no keys for ranges": (
        lambda: Jpeg((5, 95))(X),
        "Jpeg is random and requires one key per example",
    ),
    "no keys for masks": (
        lambda: BoxMask(1, 2)(X),
        "BoxMask is random and requires one key per example",
    ),
    "no keys": (
        lambda: GaussianNoise(3.0).apply(X),
        "requires one key per example, shape (2,); got none",
    ),
    "key count": (lambda: GaussianNoise(3.0).apply(X, keys(3)), "got shape (3,)"),
    "not drawn": (
        lambda: GaussianBlur((1.0, 2.0)).forward(X),
        "sigma is the range (1.0, 2.0); sample it with draw(keys, shape)",
    ),
    "sigma not drawn": (lambda: noise_sigma(GaussianNoise((1, 2))), "sigma is the range (1, 2)"),
    "mask not drawn": (lambda: BoxMask(1, 2).apply(X), "BoxMask was not sampled"),
    "not linear": (lambda: Chain((Jpeg(50),)).forward(X), "Jpeg is not linear"),
    "adjoint size": (
        lambda: Decimate(2).adjoint(X, (8, 8)),
        "forward maps images of (8, 8) pixels to (4, 4), but y has (8, 8)",
    ),
    "two noises": (
        lambda: noise_sigma(Chain((GaussianNoise(1), GaussianNoise(2)))),
        "at most one Gaussian noise",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_argument_and_its_value(name):
    call, message = ERRORS[name]
    with pytest.raises(InputError) as raised:
        call()
    assert message in str(raised.value)
