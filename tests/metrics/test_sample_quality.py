"""All measures of samples at once: what is gathered, what is reported, and what real images score."""

import numpy as np
import pytest

from deconv_jax.data.sources import load
from deconv_jax.errors import InputError
from deconv_jax.metrics import generative
from deconv_jax.metrics.sample_quality import Seen, classified_as, gathered, sample_quality

RNG = np.random.default_rng(0)
OF_FEATURES = {"fid", "kid", "precision", "recall", "density", "coverage", "repetition"}


def batches_of(arrays, sizes, masks):
    """(arrays, mask) of consecutive batches."""
    ends = np.cumsum(sizes)
    return [
        ({name: a[end - size : end] for name, a in arrays.items()}, np.asarray(mask, np.float32))
        for end, size, mask in zip(ends, sizes, masks, strict=True)
    ]


def test_rows_of_mask_zero_are_left_out():
    arrays = {
        "features": RNG.normal(size=(7, 4)),
        "probabilities": RNG.random((7, 1, 3)),
        "images": RNG.random((7, 2, 2, 1)),
        "energy": RNG.random(7),
    }
    masks = [[1, 0, 1], [1, 1, 0, 0]]
    kept = np.concatenate(masks) > 0
    seen = gathered(batches_of(arrays, (3, 4), masks))
    for name, array in arrays.items():
        np.testing.assert_array_equal(getattr(seen, name), array[kept])


def test_what_was_not_seen_is_none():
    seen = gathered(batches_of({"features": RNG.normal(size=(4, 2))}, (4,), [[1, 1, 1, 0]]))
    assert seen.features.shape == (3, 2)
    assert (seen.probabilities, seen.images, seen.energy) == (None, None, None)


def test_images_are_kept_of_the_first_thousand_alone():
    arrays = {"features": np.zeros((2400, 1)), "images": np.zeros((2400, 1, 1, 1), np.float32)}
    seen = gathered(batches_of(arrays, (600,) * 4, np.ones((4, 600))))
    assert len(seen.features) == 2400
    assert len(seen.images) == 1200


@pytest.mark.parametrize("batches", [[], [({"features": np.zeros((2, 1))}, np.zeros(2))]])
def test_a_split_without_examples_is_refused(batches):
    with pytest.raises(InputError, match="no examples"):
        gathered(batches)


def one_hot(digits, classes=10):
    return np.eye(classes)[np.asarray(digits)]


def test_the_class_of_several_planes_is_the_number_that_they_spell():
    digits = np.array([[0, 0, 0], [0, 0, 7], [1, 2, 3], [9, 9, 9], [4, 0, 5]])
    blurred = 0.6 * one_hot(digits) + 0.04
    np.testing.assert_array_equal(classified_as(blurred), [0, 7, 123, 999, 405])
    np.testing.assert_array_equal(classified_as(blurred[:, 2:]), digits[:, 2])
    np.testing.assert_array_equal(classified_as(one_hot([[2, 1], [0, 2]], 3)), [7, 2])


def seen_of(count, *, planes=0, energy=False, images=False, seed=0):
    random = np.random.default_rng(seed)
    return Seen(
        random.normal(size=(count, 4)),
        one_hot(random.integers(0, 10, (count, planes))) if planes else None,
        random.random((count, 16, 16, 1)).astype(np.float32) if images else None,
        random.random(count) if energy else None,
    )


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, set()),
        (
            {"planes": 1},
            {"modes", "reverse_kl", "inception_score", "inception_score_deviation"},
        ),
        ({"planes": 3}, {"modes", "reverse_kl"}),
        ({"energy": True}, {"checkerboard_energy", "real_checkerboard_energy"}),
        ({"images": True}, {"diversity", "real_diversity"}),
    ],
)
def test_measures_are_those_that_what_was_seen_permits(options, more):
    real = seen_of(60, **options)
    # Of the same classes: a mode without a real sample is infinitely far.
    fake = Seen(seen_of(60, seed=1).features, real.probabilities, real.images, real.energy)
    measures = sample_quality(real, fake)
    assert set(measures) == OF_FEATURES | more
    assert all(np.isfinite(value) for value in measures.values())
    assert measures["fid"] == pytest.approx(
        generative.frechet_distance(
            *(generative.FeatureStatistics.of(s.features) for s in (real, fake))
        )
    )
    for name in more & {"checkerboard_energy", "diversity"}:
        assert measures[name] == pytest.approx(measures[f"real_{name}"])


def test_a_kid_of_several_blocks_has_a_standard_error():
    assert "kid_standard_error" not in sample_quality(seen_of(60), seen_of(60, seed=1))
    measures = sample_quality(seen_of(2000), seen_of(2000, seed=1))
    assert 0 < measures["kid_standard_error"] < 0.1


def test_one_measure_sees_what_another_set_would_not():
    """Modes: of three planes out of a thousand, in the samples alone."""
    real, fake = seen_of(60, planes=3), seen_of(60)
    few = one_hot(np.tile([[1, 2, 3], [4, 5, 6]], (30, 1)))
    reference = np.concatenate([few[:2], real.probabilities[2:]])
    measures = sample_quality(
        Seen(real.features, reference), Seen(fake.features, few.astype(np.float64))
    )
    assert measures["modes"] == 2
    # Two of the 60 real images are of these modes, and all samples.
    assert measures["reverse_kl"] == pytest.approx(np.log(30), rel=1e-6)


def test_an_energy_that_is_not_known_counts_for_nothing():
    energy = np.array([1.0, np.nan, 3.0, 2.0, np.nan, 2.0])
    seen = Seen(RNG.normal(size=(6, 2)), energy=energy)
    assert sample_quality(seen, seen)["checkerboard_energy"] == 2.0


def test_samples_of_one_colour_each_have_no_energy_to_report():
    features = RNG.normal(size=(20, 3))
    real, fake = (Seen(features, energy=np.full(20, energy)) for energy in (1.0, np.nan))
    measures = sample_quality(real, fake)
    assert measures["real_checkerboard_energy"] == 1.0
    assert "checkerboard_energy" not in measures


def test_other_real_images_score_well_and_noise_does_not(digits_dir):
    """Halves of the embedded digits, as pixels at 8 x 8: what they were before they were enlarged."""
    train = load("digits", "train", digits_dir)
    images = train.gather(np.arange(1200))["image"] / 255.0
    features = images.reshape(1200, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(1200, -1)
    halves = [Seen(half) for half in np.split(features, 2)]
    real = sample_quality(*halves)
    noise = Seen(np.clip(RNG.normal(features.mean(0), features.std(0), (600, 64)), 0, 1))
    worse = sample_quality(halves[0], noise)
    assert real["fid"] < 0.1 * worse["fid"]
    assert abs(real["kid"]) < 0.3 * worse["kid"]
    assert min(real["coverage"], real["precision"], real["recall"]) > 0.85
    assert real["density"] == pytest.approx(1.0, abs=0.1)
    assert real["repetition"] == 0.0
    assert worse["coverage"] < 0.5
