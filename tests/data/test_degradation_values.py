"""Degradations as values: equality, hashes, descriptions, configs and error messages."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from degradation_inputs import images, keys, psf

from deconv_jax import schema
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
    SpeckleNoise,
    StrokeMask,
    TextMask,
    noise_sigma,
)
from deconv_jax.errors import InputError


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
    """A dataclass with a degradation, as `schema` sees a task."""

    degradation: Degradation


CHOICES: schema.Choices = {Degradation: DEGRADATIONS}
CONFIGS = [
    {"name": "blur", "psf": [[0, 0.25], [0.5, 0.1]], "boundary": "valid"},
    {"name": "gaussian_blur", "sigma": [0.2, 3], "size": 21},
    {"name": "motion_blur", "length": 7},
    {"name": "downsample", "scale": 4},
    {"name": "decimate", "scale": 2},
    {"name": "random_projection", "count": 10, "seed": 1},
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
