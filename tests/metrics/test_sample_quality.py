"""All metrics of samples: concatenation of batches, the metrics reported, and those of real images."""

import numpy as np
import pytest

from deconv_jax.data.source_configs import Digits
from deconv_jax.errors import InputError
from deconv_jax.metrics.feature_distance import (
    FeatureStatistics,
    frechet_distance,
    kernel_distance,
)
from deconv_jax.metrics.sample_diversity import classifier_score, mean_pairwise_ms_ssim
from deconv_jax.metrics.sample_quality import (
    ImageSetFeatures,
    concatenate_batches,
    metric_names,
    predicted_class,
    sample_quality,
)

RNG = np.random.default_rng(0)
FEATURE_METRICS = {
    "frechet_distance",
    "kernel_distance",
    "precision",
    "recall",
    "density",
    "coverage",
    "repetition",
}


def batches_of(arrays, sizes, masks):
    """Split arrays into consecutive batches, each with its mask."""
    ends = np.cumsum(sizes)
    return [
        ({name: a[end - size : end] for name, a in arrays.items()}, np.asarray(mask, np.float32))
        for end, size, mask in zip(ends, sizes, masks, strict=True)
    ]


def test_rows_with_mask_zero_are_left_out():
    arrays = {
        "features": RNG.normal(size=(7, 4)),
        "probabilities": RNG.random((7, 1, 3)),
        "images": RNG.integers(0, 256, (7, 2, 2, 1)).astype(np.uint8),
        "checkerboard_energy": RNG.random(7),
    }
    masks = [[1, 0, 1], [1, 1, 0, 0]]
    kept = np.concatenate(masks) > 0
    data = concatenate_batches(batches_of(arrays, (3, 4), masks))
    for name, array in arrays.items():
        np.testing.assert_array_equal(getattr(data, name), array[kept])


def test_missing_arrays_are_none():
    data = concatenate_batches(
        batches_of({"features": RNG.normal(size=(4, 2))}, (4,), [[1, 1, 1, 0]])
    )
    assert data.features.shape == (3, 2)
    assert (data.probabilities, data.images, data.checkerboard_energy) == (None, None, None)


def test_all_images_are_kept_as_uint8():
    images = RNG.integers(0, 256, (2400, 1, 1, 1)).astype(np.uint8)
    arrays = {"features": np.zeros((2400, 1)), "images": images}
    data = concatenate_batches(batches_of(arrays, (600,) * 4, np.ones((4, 600))))
    assert len(data.features) == 2400
    assert data.images.dtype == np.uint8
    np.testing.assert_array_equal(data.images, images)


@pytest.mark.parametrize("batches", [[], [({"features": np.zeros((2, 1))}, np.zeros(2))]])
def test_no_examples_is_an_error(batches):
    with pytest.raises(InputError, match="no examples"):
        concatenate_batches(batches)


def one_hot(digits, classes=10):
    return np.eye(classes)[np.asarray(digits)]


def test_classes_of_planes_are_digits_of_the_combined_class():
    digits = np.array([[0, 0, 0], [0, 0, 7], [1, 2, 3], [9, 9, 9], [4, 0, 5]])
    blurred = 0.6 * one_hot(digits) + 0.04
    np.testing.assert_array_equal(predicted_class(blurred), [0, 7, 123, 999, 405])
    np.testing.assert_array_equal(predicted_class(blurred[:, 2:]), digits[:, 2])
    np.testing.assert_array_equal(predicted_class(one_hot([[2, 1], [0, 2]], 3)), [7, 2])
    blurred[1, 2, 3] = np.nan
    with pytest.raises(InputError, match="probabilities must be finite"):
        predicted_class(blurred)


def random_data(count, *, planes=0, classes=10, checkerboard_energy=False, images=0, seed=0):
    """Return random data; `images` is the side of its images in pixels."""
    random = np.random.default_rng(seed)
    return ImageSetFeatures(
        random.normal(size=(count, 4)),
        one_hot(random.integers(0, classes, (count, planes)), classes) if planes else None,
        random.integers(0, 256, (count, images, images, 1)).astype(np.uint8) if images else None,
        random.random(count) if checkerboard_energy else None,
    )


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, set()),
        (
            {"planes": 1},
            {"modes", "reverse_kl", "classifier_score", "classifier_score_deviation"},
        ),
        ({"planes": 3}, {"modes", "reverse_kl"}),
        # There are too many classes to be modes of the data.
        ({"planes": 1, "classes": 1008}, {"classifier_score", "classifier_score_deviation"}),
        ({"planes": 3, "classes": 11}, set()),
        ({"checkerboard_energy": True}, {"checkerboard_energy", "real_checkerboard_energy"}),
        ({"images": 16}, {"pairwise_ms_ssim", "real_pairwise_ms_ssim"}),
        # The window of MS-SSIM has 11 pixels.
        ({"images": 11}, {"pairwise_ms_ssim", "real_pairwise_ms_ssim"}),
        ({"images": 10}, set()),
    ],
)
def test_metrics_are_those_that_the_data_permits(options, more):
    real, fake = random_data(60, **options), random_data(60, seed=1, **options)
    metrics = sample_quality(real, fake)
    assert set(metrics) == FEATURE_METRICS | more
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["frechet_distance"] == pytest.approx(
        frechet_distance(*(FeatureStatistics.of(s.features) for s in (real, fake)))
    )
    for prefix, data in (("real_", real), ("", fake)):
        if "checkerboard_energy" in more:
            assert metrics[f"{prefix}checkerboard_energy"] == np.median(data.checkerboard_energy)
        if "pairwise_ms_ssim" in more:
            every_pair = mean_pairwise_ms_ssim((data.images / 255).astype(np.float32), pairs=4000)
            assert metrics[f"{prefix}pairwise_ms_ssim"] == pytest.approx(every_pair, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"planes": 1, "images": 16, "checkerboard_energy": True}])
def test_inception_features_give_the_same_values_under_established_names(options):
    pair = random_data(2000, **options), random_data(2000, seed=1, **options)
    metrics, of_inception = (sample_quality(*pair, inception=flag) for flag in (False, True))
    assert list(metrics.values()) == list(of_inception.values())
    assert {"fid", "kid", "kid_standard_error"} <= set(of_inception)
    assert not {"frechet_distance", "kernel_distance", "classifier_score"} & set(of_inception)
    assert set(metrics) <= set(metric_names(inception=False))
    assert set(of_inception) <= set(metric_names(inception=True))


def test_classifier_score_requires_a_sample_per_split():
    for count, present in ((9, False), (10, True)):
        metrics = sample_quality(*(random_data(count, planes=1, seed=seed) for seed in range(2)))
        assert ("classifier_score" in metrics) == present
        assert "modes" in metrics


def sorted_classes(count):
    """Return all data of images of ten well separated classes, sorted by class."""
    random = np.random.default_rng(2)
    labels = np.arange(count) * 10 // count
    dark = (labels[:, None, None, None] * 20 + random.integers(0, 50, (count, 12, 12, 1))) % 256
    return ImageSetFeatures(
        one_hot(labels) * 3 + random.normal(size=(count, 10)),
        0.9 * one_hot(labels)[:, None] + 0.01,
        dark.astype(np.uint8),
        labels + random.random(count),
    )


def reordered(data, order):
    return ImageSetFeatures(
        *(
            array[order]
            for array in (data.features, data.probabilities, data.images, data.checkerboard_energy)
        )
    )


@pytest.mark.slow
def test_metrics_do_not_depend_on_the_order_of_the_data():
    """Data sets are often sorted by class; blocks and splits of sorted rows would not be representative."""
    count = 3000
    real = sorted_classes(count)
    fake = ImageSetFeatures(
        real.features + 0.1, real.probabilities, real.images, real.checkerboard_energy
    )
    rng = np.random.default_rng(3)
    mixed = [reordered(data, rng.permutation(count)) for data in (real, fake)]
    expected = sample_quality(*mixed)
    within = {
        "kernel_distance": 4 * expected["kernel_distance_standard_error"],
        "kernel_distance_standard_error": 2 * expected["kernel_distance_standard_error"],
        "classifier_score": 0.1,
        "classifier_score_deviation": 0.1,
        "pairwise_ms_ssim": 0.01,
        "real_pairwise_ms_ssim": 0.01,
    }
    for pair in ((real, mixed[1]), (mixed[0], fake)):
        metrics = sample_quality(*pair)
        assert set(metrics) == set(expected)
        for name, value in metrics.items():
            assert value == pytest.approx(expected[name], rel=1e-6, abs=within.get(name, 0)), name
    # Without shuffling, blocks and splits of sorted rows give other values.
    distance, _ = kernel_distance(real.features, mixed[1].features)
    assert abs(distance - expected["kernel_distance"]) > 10 * within["kernel_distance"]
    score, _ = classifier_score(fake.probabilities[:, 0])
    assert score < expected["classifier_score"] - 1


def test_metrics_are_deterministic():
    real, fake = sorted_classes(300), reordered(sorted_classes(300), slice(None, None, -1))
    assert sample_quality(real, fake) == sample_quality(real, fake)


@pytest.mark.slow
def test_pairwise_ms_ssim_samples_the_whole_set():
    """The first 1,000 images are equal, the other 3,000 are noise."""
    images = np.random.default_rng(4).integers(0, 256, (4000, 12, 12, 1)).astype(np.uint8)
    images[:1000] = images[0]
    data = ImageSetFeatures(np.random.default_rng(5).normal(size=(4000, 3)), images=images)
    metrics = sample_quality(data, data)
    # A sixteenth of the pairs are of equal images.
    for name in ("pairwise_ms_ssim", "real_pairwise_ms_ssim"):
        assert metrics[name] < 0.15


def test_kernel_distance_of_several_blocks_has_a_standard_error():
    assert "kernel_distance_standard_error" not in sample_quality(
        random_data(60), random_data(60, seed=1)
    )
    metrics = sample_quality(random_data(2000), random_data(2000, seed=1))
    assert 0 < metrics["kernel_distance_standard_error"] < 0.1


def test_modes_are_counted_among_the_samples_only():
    """Three planes have a thousand modes, of which the samples have two."""
    real, fake = random_data(60, planes=3), random_data(60)
    few = one_hot(np.tile([[1, 2, 3], [4, 5, 6]], (30, 1)))
    reference = np.concatenate([few[:2], real.probabilities[2:]])
    metrics = sample_quality(
        ImageSetFeatures(real.features, reference),
        ImageSetFeatures(fake.features, few.astype(np.float64)),
    )
    assert metrics["modes"] == 2
    # Two of the 60 real images and all samples have these modes; 1,000 counts are increased by one.
    assert metrics["reverse_kl"] == pytest.approx(np.log(0.5 / (2 / 1060)), rel=1e-6)


def test_nan_energies_are_ignored():
    energy = np.array([1.0, np.nan, 3.0, 2.0, np.nan, 2.0])
    data = ImageSetFeatures(RNG.normal(size=(6, 2)), checkerboard_energy=energy)
    assert sample_quality(data, data)["checkerboard_energy"] == 2.0


def test_energy_is_left_out_if_all_are_nan():
    features = RNG.normal(size=(20, 3))
    real, fake = (
        ImageSetFeatures(features, checkerboard_energy=np.full(20, energy))
        for energy in (1.0, np.nan)
    )
    metrics = sample_quality(real, fake)
    assert metrics["real_checkerboard_energy"] == 1.0
    assert "checkerboard_energy" not in metrics


def test_real_images_score_well_and_noise_does_not(digits_dir):
    """The features are the 8 x 8 pixels that the embedded digits were upscaled from."""
    train = Digits().open("train", digits_dir)
    images = train.gather(np.arange(1200))["image"] / 255.0
    features = images.reshape(1200, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(1200, -1)
    halves = [ImageSetFeatures(half) for half in np.split(features, 2)]
    real = sample_quality(*halves)
    noise = ImageSetFeatures(
        np.clip(RNG.normal(features.mean(0), features.std(0), (600, 64)), 0, 1)
    )
    worse = sample_quality(halves[0], noise)
    assert real["frechet_distance"] < 0.1 * worse["frechet_distance"]
    assert abs(real["kernel_distance"]) < 0.3 * worse["kernel_distance"]
    assert min(real["coverage"], real["precision"], real["recall"]) > 0.85
    assert real["density"] == pytest.approx(1.0, abs=0.1)
    assert real["repetition"] == 0.0
    assert worse["coverage"] < 0.5
