"""GAN task: sample quality, baseline, pictures, warnings, and the settings that it rejects."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.augment import center_resize, example_keys
from deconv_jax.data.random_keys import GAN_EVALUATION_SEED
from deconv_jax.data.sources import ArraySource
from deconv_jax.errors import InputError
from deconv_jax.metrics.sample_diversity import mean_pairwise_ms_ssim
from deconv_jax.models import Classifier, DCGANDiscriminator, DCGANGenerator
from deconv_jax.models.extractors import load_extractor
from deconv_jax.models.latent_sampling import draw_latents
from deconv_jax.tasks import GAN, gan_evaluation
from deconv_jax.training.optimizer import Optimizer

RNG = np.random.default_rng(0)
SHAPE, LATENT = (16, 16, 1), 4
CLASSES = {"num_classes": 3}


def task_of(generator=(), discriminator=(), **fields):
    """Return the task of a tiny DCGAN; the first two arguments are fields of its networks."""
    return GAN(
        DCGANGenerator(
            **{"image_shape": SHAPE, "latent_dim": LATENT, "width": 2} | dict(generator)
        ),
        DCGANDiscriminator(**{"width": 2, "norm": "none"} | dict(discriminator)),
        **{"optimizer": Optimizer(), "num_steps": 10} | fields,
    )


# Metrics


MEASURED = task_of({"image_shape": (28, 28, 1)}, optimizer=Optimizer(ema_decay=0.9))
COUNT = 30


@pytest.fixture(scope="module")
def measured_state(drawn_state):
    """Return a function that makes a state whose generator produces different images."""
    example = {"image": np.zeros((1, 28, 28, 1), np.uint8)}
    state = jax.jit(MEASURED.init)(jax.random.key(0, impl="rbg"), example)
    average = state.ema | {"params": jax.tree.map(lambda a: 2 * a, state.ema["params"])}

    @functools.cache
    def make(task=MEASURED):
        return dataclasses.replace(drawn_state(task, example), ema=average)

    return make


def split_into(images, size):
    """Return batches of `size`, the last one padded with rows of mask 0."""
    batches = []
    for start in range(0, len(images), size):
        index = np.arange(start, min(start + size, len(images)), dtype=np.int32)
        padding = size - len(index)
        batches.append(
            {
                "image": np.concatenate([images[index], np.full_like(images[:padding], 77)]),
                "index": np.pad(index, (0, padding)),
                "mask": jnp.asarray(np.pad(np.ones(len(index), np.float32), (0, padding))),
            }
        )
    return batches


@pytest.fixture(scope="module")
def own_samples(measured_state):
    """Return the samples of an evaluation, as uint8."""

    @jax.jit
    def sample(variables):
        keys = example_keys(jax.random.key(GAN_EVALUATION_SEED), jnp.arange(COUNT))
        images = MEASURED.sample(variables, draw_latents(keys, LATENT))
        return jnp.round(images * 255).astype(jnp.uint8)

    return np.asarray(sample(measured_state().inference_variables()))


REAL = RNG.integers(0, 256, (COUNT, 28, 28, 1)).astype(np.uint8)


FEATURE_METRICS = [
    "frechet_distance",
    "kernel_distance",
    "precision",
    "recall",
    "density",
    "coverage",
    "repetition",
]


@pytest.mark.slow
def test_evaluation_has_all_metrics_and_ignores_padding(measured_state):
    whole, padded = (
        MEASURED.evaluate(measured_state(), split_into(REAL, size)) for size in (15, 16)
    )
    assert set(whole) == {
        *FEATURE_METRICS,
        *(
            "pairwise_ms_ssim",
            "real_pairwise_ms_ssim",
            "checkerboard_energy",
            "real_checkerboard_energy",
        ),
        *("real_accuracy", "fake_accuracy"),
    }
    assert all(np.isfinite(value) for value in whole.values())
    assert padded == pytest.approx(whole, rel=1e-5, abs=1e-6)
    assert MEASURED.monitor.removeprefix("-") in whole


def test_samples_against_themselves_are_perfect(measured_state, own_samples):
    measured = MEASURED.evaluate(measured_state(), split_into(own_samples, 15))
    assert measured["frechet_distance"] == pytest.approx(0.0, abs=1e-6)
    perfect = ("precision", "recall", "coverage")
    assert [measured[name] for name in perfect] == [1.0, 1.0, 1.0]
    # The two sets are the same images in different orders, so diversity compares different pairs.
    diversity = mean_pairwise_ms_ssim(own_samples / np.float32(255), pairs=4000)
    for name in ("pairwise_ms_ssim", "real_pairwise_ms_ssim"):
        assert measured[name] == pytest.approx(diversity, abs=0.01)
    # Equal logits lie on one side of the boundary.
    assert measured["real_accuracy"] + measured["fake_accuracy"] == pytest.approx(1.0)


def test_baseline_compares_real_images_with_real_images():
    source = ArraySource({"image": REAL, "index": np.arange(COUNT)})
    measured = MEASURED.baseline(source, source)
    assert set(measured) == {f"real_{name}" for name in FEATURE_METRICS}
    assert measured["real_frechet_distance"] == pytest.approx(0.0, abs=1e-6)
    assert [measured[f"real_{name}"] for name in ("precision", "recall", "coverage")] == [1.0] * 3


def shades(counts):
    """Return a source with `counts[i]` images of class i, each class with its own gray level."""
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(len(labels)).integers(0, 30, (len(labels), *SHAPE))
    images = (noise + 100 * labels[:, None, None, None]).astype(np.uint8)
    return ArraySource(
        {"image": images, "label": labels.astype(np.int32), "index": np.arange(len(labels))}
    )


def test_conditional_baseline_has_the_class_counts_of_the_test_set():
    """The class counts of the training set do not matter."""
    train, test = shades((40, 60, 500)), shades((60, 36, 4))
    plain, conditional = task_of(), task_of(CLASSES, CLASSES)
    short = conditional.baseline(train, test)  # 40 images of the first class where 60 are needed.
    enough = conditional.baseline(shades((70, 60, 500)), test)
    assert enough["real_frechet_distance"] < 0.1 < short["real_frechet_distance"] < 1.0
    assert enough["real_coverage"] > 0.8
    assert plain.baseline(train, test)["real_frechet_distance"] > 5.0


def test_baseline_draws_from_all_training_images():
    """The first ones, as many as there are test images, all belong to one class."""
    task, test = task_of(), shades((33, 33, 34))
    measured = task.baseline(shades((200, 200, 200)), test)
    assert measured["real_frechet_distance"] < 0.5
    assert task.baseline(shades((200, 1, 1)), test)["real_frechet_distance"] > 5.0
    assert task.baseline(shades((200, 200, 200)), test) == measured


def test_labels_out_of_range_are_rejected(drawn_state):
    task = task_of(CLASSES | {"image_shape": (28, 28, 1)}, CLASSES)
    example = {"image": REAL[:1], "label": np.zeros(1, np.int32)}
    state = drawn_state(task, example)
    (batch,) = split_into(REAL, COUNT)
    for wrong in (3, -1):
        labels = np.zeros(COUNT, np.int32)
        labels[7] = wrong
        with pytest.raises(InputError, match=f"requires labels from 0 to 2; the data .* {wrong}"):
            task.evaluate(state, [batch | {"label": jnp.asarray(labels)}])


BATCH_DEPENDENT = {
    "minibatch_std": {"minibatch_std_group": 4},
    "batch norm": {"norm": "batch"},
}


@pytest.mark.slow
@pytest.mark.parametrize("discriminator", BATCH_DEPENDENT.values(), ids=BATCH_DEPENDENT)
def test_batch_dependent_discriminator_has_no_accuracies(measured_state, discriminator):
    """Padding, and batches that its groups do not divide, change no metric."""
    task = dataclasses.replace(
        MEASURED, discriminator=DCGANDiscriminator(**{"width": 2, "norm": "none"} | discriminator)
    )
    state = measured_state(task)
    whole, padded = (task.evaluate(state, split_into(REAL, size)) for size in (15, 16))
    assert "frechet_distance" in whole
    assert not {"real_accuracy", "fake_accuracy"} & set(whole)
    assert padded == pytest.approx(whole, rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_real_images_and_samples_are_rounded_to_8_bits(monkeypatch, measured_state):
    """Resized real images have values between the 8-bit levels."""
    seen = {}
    monkeypatch.setattr(
        gan_evaluation,
        "sample_quality",
        lambda real, fake, **_: seen.update(real=real, fake=fake) or {},
    )
    task = dataclasses.replace(MEASURED, resize=True)
    images = RNG.integers(0, 256, (16, 40, 40, 1)).astype(np.uint8)
    task.evaluate(measured_state(task), split_into(images, 8))
    small = jax.jit(lambda a: center_resize(a, (28, 28)))(images / np.float32(255))
    for name in ("real", "fake"):
        assert (seen[name].images.dtype, seen[name].images.shape) == (np.uint8, (16, 28, 28, 1))
        extractor = load_extractor("pixels")
        features, _ = jax.jit(extractor.apply)({}, seen[name].images / np.float32(255))
        np.testing.assert_allclose(seen[name].features, features, atol=1e-6)
    assert np.abs(seen["real"].images - 255.0 * np.asarray(small)).max() <= 0.5 + 1e-3
    evaluated = seen["real"].features
    task.baseline(*[ArraySource({"image": images, "index": np.arange(16)})] * 2)
    np.testing.assert_allclose(seen["real"].features, evaluated, atol=1e-6)


def test_pictures_show_data_and_samples(measured_state, own_samples):
    pictures = MEASURED.pictures(measured_state(), {"image": REAL[:12]})
    assert set(pictures) == {"samples"}
    # Twelve columns and five rows of 28 pixels at double size, and captions.
    width, height = pictures["samples"].size
    assert 2 * 12 * 28 <= width < 2 * 13 * 28
    assert 2 * 5 * 28 <= height < 2 * 7 * 28
    picture = np.asarray(pictures["samples"])[:, :, 0]
    first_sample = own_samples[0, :, :, 0]
    rows, columns = (n - 55 for n in picture.shape)
    assert any(
        np.array_equal(picture[top : top + 56 : 2, left : left + 56 : 2], first_sample)
        for top in range(rows)
        for left in range(min(columns, 8))
    )


METRICS = {"repetition": 0.0, "coverage": 0.6}
SCALARS = {"real_accuracy": 0.8, "fake_accuracy": 0.999}


@pytest.mark.parametrize(
    ("metrics", "scalars", "words"),
    [
        ({}, {}, []),
        ({}, {"real_accuracy": 1.0}, ["recognizes 100.0% of real and 99.9% of generated", "r1"]),
        # Accuracies on validation images do not count.
        ({"real_accuracy": 1.0, "fake_accuracy": 1.0}, {}, []),
        (
            {"real_accuracy": 0.1, "fake_accuracy": 0.1},
            {"real_accuracy": 0.992},
            ["recognizes 99.2% of real and 99.9% of generated"],
        ),
        (
            {"repetition": 0.4},
            {},
            ["40.0% of the samples repeat", "60.0% of the data", "collapse"],
        ),
        ({"coverage": 0.001}, {}, ["0.0% of the samples", "cover 0.1% of the data", "collapse"]),
    ],
)
def test_warnings(metrics, scalars, words):
    messages = MEASURED.warnings(METRICS | metrics, SCALARS | scalars)
    assert len(messages) == bool(words)
    assert [word for word in words if word not in "".join(messages)] == []


# Rejected settings and data


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: task_of(CLASSES),
            ["task.generator.num_classes", "must be equal; got 3 and 0"],
        ),
        (
            lambda: dataclasses.replace(MEASURED, generator=MEASURED.discriminator),
            ["task.generator must be a generator such as dcgan_generator; got DCGANDiscriminator"],
        ),
        (
            lambda: dataclasses.replace(MEASURED, discriminator=MEASURED.generator),
            ["task.discriminator must be a discriminator such as", "; got DCGANGenerator"],
        ),
        (
            lambda: dataclasses.replace(MEASURED, generator=nn.Dense(3)),
            ["task.generator must be a generator", "; got Dense"],
        ),
        (lambda: task_of(discriminator_steps=0), ["task.discriminator_steps", "at least 1", "0"]),
        (lambda: task_of(r1=-1.0), ["task.r1", "at least 0", "-1"]),
        (lambda: task_of(gradient_penalty=-1.0), ["task.gradient_penalty", "at least 0"]),
        (
            lambda: task_of((), {"norm": "batch"}, gradient_penalty=10.0),
            [
                "task.gradient_penalty requires task.discriminator.norm != 'batch'",
                "got norm='batch'",
            ],
        ),
        (
            lambda: task_of(loss="wasserstein"),
            [
                *("task.loss='wasserstein'", "task.gradient_penalty=10.0", "task.r1"),
                "task.discriminator.spectral_norm",
            ],
        ),
        (
            lambda: dataclasses.replace(MEASURED, discriminator=Classifier(num_classes=10)),
            ["task.discriminator must be a discriminator", "; got Classifier"],
        ),
        (
            lambda: task_of(optimizer=Optimizer(accumulate_steps=2)),
            ["optimizer.accumulate_steps must be 1 in adversarial training; got 2"],
        ),
        (
            lambda: task_of(discriminator_optimizer=Optimizer(accumulate_steps=3)),
            ["task.discriminator_optimizer.accumulate_steps must be 1", "; got 3"],
        ),
        (
            lambda: task_of(discriminator_optimizer=Optimizer(ema_decay=0.9)),
            [
                "task.discriminator_optimizer.ema_decay must be None",
                "only the generator",
                "got 0.9",
            ],
        ),
    ],
)
def test_invalid_settings_are_rejected(make, words):
    with pytest.raises(InputError) as raised:
        make()
    assert [word for word in words if word not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("discriminator", "fields"),
    [
        ({}, {"gradient_penalty": 10.0}),
        ({}, {"r1": 1.0}),
        ({"spectral_norm": True}, {}),
        ({"norm": "batch", "spectral_norm": True}, {}),
    ],
)
def test_wasserstein_accepts_any_constraint_on_the_discriminator(discriminator, fields):
    task = task_of((), discriminator, loss="wasserstein", **fields)
    assert task.loss == "wasserstein"


def initial_shapes(task, batch):
    return jax.eval_shape(task.init, jax.random.key(0), batch)


def test_batch_must_divide_into_discriminator_steps():
    task = task_of(discriminator_steps=3)
    batch = {"image": np.zeros((16, *SHAPE), np.uint8), "index": np.arange(16, dtype=np.int32)}
    state = initial_shapes(task, batch)
    with pytest.raises(
        InputError, match=r"divisible by task.discriminator_steps=3; got a batch of 16"
    ):
        jax.eval_shape(task.train_step, state, batch)


def test_images_of_another_size_are_rejected_or_resized():
    batch = {"image": np.zeros((2, 20, 24, 1), np.uint8)}
    with pytest.raises(
        InputError, match=r"is \(16, 16, 1\), but the data .* \(20, 24, 1\).*resize=True"
    ):
        initial_shapes(task_of(), batch)
    initial_shapes(task_of(resize=True), batch)
    with pytest.raises(InputError, match=r"images of shape \(16, 16, 3\); change") as raised:
        initial_shapes(task_of(resize=True), {"image": np.zeros((2, 20, 24, 3), np.uint8)})
    assert "resize" not in str(raised.value)


def test_conditional_gan_requires_labels():
    with pytest.raises(InputError, match=r"requires data with labels; the batch has \['image'\]"):
        initial_shapes(task_of(CLASSES, CLASSES), {"image": np.zeros((1, *SHAPE), np.uint8)})
