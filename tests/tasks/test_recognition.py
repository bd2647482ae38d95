"""The measures of a classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.sources import ArraySource
from deconv_jax.errors import InputError
from deconv_jax.models import Classifier
from deconv_jax.tasks import Recognition
from deconv_jax.training.optimizer import Optimizer

RNG = np.random.default_rng(0)
TASK = Recognition(Classifier(num_classes=3, features=(4,), embedding_dim=8), Optimizer())


def test_evaluation_ignores_fillings_and_equals_a_direct_count():
    images = RNG.integers(0, 256, (6, 4, 4, 1)).astype(np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2], np.int32)
    state = TASK.init(jax.random.key(0), {"image": jnp.asarray(images), "label": labels})
    logits = TASK.model.apply(state.inference_variables(), jnp.asarray(images / 255, jnp.float32))
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


def test_unlabelled_data_is_refused():
    with pytest.raises(InputError, match="needs labelled data"):
        TASK.init(jax.random.key(0), {"image": jnp.zeros((1, 8, 8, 1), jnp.uint8)})
