"""Classification: metrics, plots and preprocessing, against NumPy and the bare network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from deconv_jax.data.augment import example_keys, random_translate
from deconv_jax.data.preprocessing import Preprocessing
from deconv_jax.data.sources import ArraySource
from deconv_jax.errors import InputError
from deconv_jax.metrics.classification import CALIBRATION_BINS
from deconv_jax.models import Classifier
from deconv_jax.tasks import Classification
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.parallel import Devices
from deconv_jax.viz.plots import CountMatrix

RNG = np.random.default_rng(0)
TASK = Classification(Classifier(num_classes=3, features=(4,), embedding_dim=8), Optimizer())
COUNT = 21
PIXELS = RNG.integers(0, 256, (COUNT, 12, 10, 1)).astype(np.uint8)
LABELS = RNG.integers(0, 5, COUNT).astype(np.int32)
PREPARED = Preprocessing(resize=(6, 6), standardize=True)
FIVE = Classification(
    Classifier(num_classes=5, features=(4,), up_features=(3,), embedding_dim=8, norm="none"),
    Optimizer(),
    PREPARED,
    top_k=2,
    class_names=("ant", "bee", "cat", "dog", "elk"),
)


@jax.jit
def logits_of(variables, images):
    return FIVE.model.apply(variables, PREPARED(images)[0])


@pytest.fixture(scope="module")
def state():
    """Return a state of FIVE with enough spread in confidence to fill several bins."""
    like = jax.eval_shape(
        lambda key: FIVE.init(key, {"image": PIXELS[:1], "label": LABELS[:1]}), jax.random.key(0)
    )
    random = np.random.default_rng(1)

    def parameter(leaf):
        deviation = 2 * np.prod(leaf.shape[:-1]) ** -0.5 if len(leaf.shape) > 1 else 0.1
        return random.normal(0, deviation, leaf.shape)

    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    params = jax.tree.map(lambda leaf: jnp.asarray(parameter(leaf), jnp.float32), like.params)
    return state.replace(params=params)


@pytest.fixture(scope="module")
def expected(state):
    """Return the logits of all images from the network and its preprocessing."""
    images = jnp.asarray(PIXELS / np.float32(255))
    return np.asarray(logits_of(state.inference_variables(), images))


def batches(size=16):
    """Yield all images in batches on all devices; the last batch is padded."""
    devices = Devices.all()
    for start in range(0, COUNT, size):
        rows = np.arange(start, start + size, dtype=np.int32)
        true = rows < COUNT
        image = np.where(true[:, None, None, None], PIXELS[rows % COUNT], 200).astype(np.uint8)
        batch = {"image": image, "label": LABELS[rows % COUNT], "index": rows}
        yield devices.put_batch(batch | {"mask": true.astype(np.float32)})


def first_batch():
    """Return the first 16 images, on one device."""
    return {"image": PIXELS[:16], "label": LABELS[:16], "index": np.arange(16, dtype=np.int32)}


def nats(logits, labels):
    return -scipy.special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels]


def gaps(logits, labels):
    """Yield count, mean confidence and accuracy of each filled bin of confidence."""
    confidence = np.exp(logits).max(axis=1) / np.exp(logits).sum(axis=1)
    right = logits.argmax(axis=1) == labels
    for number in range(CALIBRATION_BINS):
        within = (confidence > number / CALIBRATION_BINS) & (
            confidence <= (number + 1) / CALIBRATION_BINS
        )
        if within.any():
            yield within.sum(), confidence[within].mean(), right[within].mean()


def test_evaluation_ignores_padding_and_equals_a_direct_count():
    images = RNG.integers(0, 256, (6, 4, 4, 1)).astype(np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2], np.int32)
    state = jax.jit(TASK.init)(jax.random.key(0), {"image": images, "label": labels})
    logits = jax.jit(TASK.model.apply)(
        state.inference_variables(), jnp.asarray(images / 255, jnp.float32)
    )
    mask = np.array([1, 1, 1, 1, 0, 0], np.float32)
    batches = [
        {
            k: jnp.asarray(v[rows])
            for k, v in {"image": images, "label": labels, "mask": mask}.items()
        }
        for rows in (slice(0, 3), slice(3, 6))
    ]
    measured = TASK.evaluate(state, batches)
    right = np.asarray(logits).argmax(-1)[:4] == labels[:4]
    nats = -np.asarray(jax.nn.log_softmax(logits))[np.arange(4), labels[:4]]
    assert measured["accuracy"] == pytest.approx(right.mean())
    assert measured["cross_entropy"] == pytest.approx(nats.mean(), rel=1e-5)


def test_nearest_mean_is_exact_on_separated_classes():
    values = np.array([0, 100, 250], np.uint8)
    labels = RNG.integers(0, 3, 40).astype(np.int32)
    images = np.broadcast_to(values[labels][:, None, None, None], (40, 2, 2, 1))
    source = ArraySource({"image": images, "label": labels})
    assert TASK.baseline(source, source) == {"nearest_mean_accuracy": 1.0}


def test_unlabeled_data_is_rejected():
    with pytest.raises(InputError, match="requires data with labels"):
        TASK.init(jax.random.key(0), {"image": jnp.zeros((1, 8, 8, 1), jnp.uint8)})


@pytest.mark.slow
def test_metrics_equal_numpy_for_any_batch_size(state, expected):
    logits = expected.astype(np.float64)
    order = np.argsort(-logits, axis=1, kind="stable")
    place = (order == LABELS[:, None]).argmax(axis=1)
    bins = np.array(list(gaps(logits, LABELS)))
    wanted = {
        "accuracy": np.mean(place < 1),
        "top2_accuracy": np.mean(place < 2),
        "cross_entropy": nats(expected, LABELS).mean(),
        "calibration_error": np.sum(bins[:, 0] * np.abs(bins[:, 2] - bins[:, 1])) / COUNT,
    }
    assert 0 < wanted["accuracy"] < wanted["top2_accuracy"] < 1
    assert len(bins) > 3
    for size in (8, 16):
        assert FIVE.evaluate(state, batches(size)) == pytest.approx(wanted, rel=1e-5)
    assert "top2_accuracy: fraction with the label among the 2 largest" in FIVE.protocol


def test_plots_show_confusion_and_calibration(state, expected):
    guesses = expected.argmax(axis=1)
    plots = FIVE.plots(state, batches(), FIVE.evaluate(state, batches()))
    confusion = plots["confusion"]
    assert isinstance(confusion, CountMatrix)
    counts = np.zeros((5, 5), int)
    np.add.at(counts, (LABELS, guesses), 1)
    np.testing.assert_array_equal(confusion.counts, counts)
    assert list(confusion.row_names) == list(confusion.column_names) == list(FIVE.class_names)
    assert (confusion.row_name, confusion.column_name) == ("label", "prediction")
    assert confusion.title.startswith(f"{np.sum(guesses == LABELS)} of {COUNT} images correct")
    diagonal, bins = plots["reliability"].series
    np.testing.assert_array_equal(diagonal.x, diagonal.y)
    wanted = np.array(list(gaps(expected.astype(np.float64), LABELS)))
    np.testing.assert_allclose(np.stack([bins.x, bins.y], 1), wanted[:, 1:], atol=1e-6)


@pytest.mark.slow
def test_training_evaluation_and_prediction_see_the_same_images(state, expected):
    """Without norms and translations the training loss equals the evaluated cross-entropy."""
    _, scalars = jax.jit(FIVE.train_step)(state, first_batch())
    rows = slice(0, 16)
    assert scalars["loss"] == pytest.approx(nats(expected[rows], LABELS[rows]).mean(), rel=1e-5)
    images = jnp.asarray(PIXELS / np.float32(255))
    found = FIVE.predict(state.inference_variables(), images)["probabilities"]
    np.testing.assert_allclose(found, scipy.special.softmax(expected, axis=1), atol=1e-6)


@pytest.mark.slow
def test_translation_follows_resizing_and_precedes_standardization(state):
    task = dataclasses.replace(FIVE, translate=2, seed=7)
    batch = first_batch()
    _, scalars = jax.jit(task.train_step)(state, batch)

    @jax.jit
    def moved(batch):
        keys = example_keys(jax.random.fold_in(jax.random.key(7), state.step), batch["index"])
        return random_translate(keys, PREPARED.resized(batch["image"] / jnp.float32(255)), 2)

    images = moved(batch)
    logits = logits_of(state.inference_variables(), images)
    assert scalars["loss"] == pytest.approx(nats(logits, LABELS[:16]).mean(), rel=1e-5)
    assert np.mean(np.all(np.asarray(images)[:, 0] == 0, axis=(1, 2))) > 0.2


def test_padding_of_an_image_is_not_seen(state):
    """Images at the network's size are not resampled, so no filter reaches the padding."""
    image = PIXELS[:8, :6, :6]
    batch = {"image": image, "label": LABELS[:8], "mask": np.ones(8, np.float32)}
    alone = FIVE.evaluate(state, [jax.tree.map(jnp.asarray, batch)])
    canvas = np.full((8, 9, 11, 1), 255, np.uint8)
    canvas[:, :6, :6] = image
    batch |= {"image": canvas, "size": np.full((8, 2), 6, np.int32)}
    assert FIVE.evaluate(state, [jax.tree.map(jnp.asarray, batch)]) == pytest.approx(
        alone, rel=1e-5
    )


@pytest.mark.slow
def test_pictures_show_resized_images_before_standardization(state):
    few = {"image": jnp.asarray(PIXELS[:3]), "label": jnp.asarray(LABELS[:3])}
    picture = np.asarray(FIVE.pictures(state, few)["predictions"])
    seen = np.asarray(PREPARED.resized(jnp.asarray(PIXELS[:3] / np.float32(255))))
    drawn = (seen * 255).round().repeat(2, axis=1).repeat(2, axis=2)[..., 0]
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0].astype(int), (12, 12))
    places = [np.argwhere(np.abs(windows - image).max(axis=(2, 3)) <= 1) for image in drawn]
    assert [len(found) for found in places] == [1, 1, 1]
    rows, columns = np.concatenate(places).T
    assert len(set(rows)) == 1
    assert np.all(np.diff(columns) > 12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"class_names": ("a", "b")}, r"must name all 3 classes, or none; got 2"),
        ({"top_k": 3}, r"top_k must be 1, or less than the 3 classes; got 3"),
    ],
)
def test_settings_that_do_not_fit_the_classes_are_rejected(fields, said):
    task = dataclasses.replace(TASK, **fields)
    with pytest.raises(InputError, match=said):
        task.init(jax.random.key(0), {"image": PIXELS[:1], "label": LABELS[:1]})


@pytest.mark.parametrize(("field", "value", "least"), [("top_k", 0, 1), ("translate", -1, 0)])
def test_numbers_out_of_range_are_rejected(field, value, least):
    with pytest.raises(InputError, match=f"{field} must be at least {least}; got {value}"):
        dataclasses.replace(TASK, **{field: value})
