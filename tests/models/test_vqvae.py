"""VQ-VAE: nearest vectors, straight-through gradients, EMA updates, restarts, and the network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.models import VQVAE
from deconv_jax.models.vqvae import Codebook, perplexity
from deconv_jax.ops.straight_through import straight_through

RNG = np.random.default_rng(0)
SIZE, DIM = 5, 3
NEVER = 1e-9
"""A restart threshold that no usage falls below."""


def variables(vectors, usage, sums=None, updates=0):
    values = {"vectors": vectors, "usage": usage}
    values["sums"] = np.asarray(vectors) * np.asarray(usage)[:, None] if sums is None else sums
    stats = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
    return {"batch_stats": stats | {"updates": jnp.asarray(updates, jnp.int32)}}


@functools.partial(jax.jit, static_argnums=0)
def updated(book, before, outputs):
    """Return the variables after an update with outputs, each assigned to its nearest code."""
    outputs = jnp.asarray(outputs, jnp.float32)
    indices = book.apply(before, outputs, method="nearest")
    return book.apply(before, outputs, indices, method="update", mutable="batch_stats")[1]


def small(**fields):
    fields = {"features": (4, 6), "latent_dim": DIM, "codebook_size": SIZE} | fields
    return VQVAE(image_shape=(8, 12, 2), **fields)


def encoded(model, given, x):
    """Return the encoder's outputs before quantization."""
    return jax.jit(lambda v, x: model.apply(v, x, False, method="_encoded"))(given, x)


@pytest.fixture
def initialized(random_variables):
    """Makes a model, its variables with codes near outputs of its encoder, and matching images."""

    def make(**fields):
        model = small(**fields)
        x = jnp.asarray(RNG.random((3, *model.image_shape)), jnp.float32)
        given = random_variables(model, x)
        outputs = encoded(model, given, x).reshape(-1, DIM)
        given["batch_stats"]["codebook"]["vectors"] = outputs[:SIZE] + 0.01
        return model, given, x

    return make


def test_nearest_equals_brute_force():
    vectors, outputs = RNG.normal(size=(SIZE, DIM)), RNG.normal(size=(7, 2, 4, DIM))
    found = Codebook(SIZE, DIM, 0.9, 0.1).apply(
        variables(vectors, np.ones(SIZE)), jnp.asarray(outputs, jnp.float32), method="nearest"
    )
    distances = np.sum((outputs[..., None, :] - vectors) ** 2, axis=-1)
    np.testing.assert_array_equal(found, distances.argmin(axis=-1))


def test_gradient_passes_straight_through_to_the_outputs():
    outputs, vectors, weights = (jnp.asarray(RNG.normal(size=(6, DIM))) for _ in range(3))

    def loss(quantized):
        return jnp.sum(weights * quantized**3)

    np.testing.assert_array_equal(straight_through(outputs, vectors), vectors)
    through = jax.grad(lambda z: loss(straight_through(z, vectors)))(outputs)
    np.testing.assert_allclose(through, jax.grad(loss)(vectors), rtol=1e-6)


def test_updates_equal_the_papers_appendix():
    """In counts of outputs as in the paper, with the smoothing of Sonnet."""
    decay, batches, positions = 0.8, 4, 40
    vectors = RNG.normal(size=(SIZE, DIM))
    state = variables(vectors, np.ones(SIZE))
    book = Codebook(SIZE, DIM, decay, NEVER)
    uniform = positions / SIZE
    counts, totals = np.full(SIZE, uniform), uniform * vectors
    for _ in range(batches):
        outputs = RNG.normal(size=(positions, DIM)) * [3, 1, 1]
        nearest = np.sum((outputs[:, None] - vectors) ** 2, axis=-1).argmin(axis=-1)
        for code in range(SIZE):
            own = outputs[nearest == code]
            counts[code] = decay * counts[code] + (1 - decay) * len(own)
            totals[code] = decay * totals[code] + (1 - decay) * own.sum(axis=0)
        epsilon = 1e-5 * uniform
        smoothed = (counts + epsilon) / (counts.sum() + SIZE * epsilon) * counts.sum()
        vectors = totals / smoothed[:, None]
        state = updated(book, state, outputs)
        stats = state["batch_stats"]
        np.testing.assert_allclose(stats["usage"], counts / uniform, rtol=1e-5)
        np.testing.assert_allclose(stats["vectors"], vectors, rtol=1e-4, atol=1e-6)
    assert stats["updates"] == batches


def test_codes_converge_to_cluster_means():
    centers = 10 * np.eye(SIZE, DIM) - 10 * np.eye(SIZE, DIM, k=-DIM)
    outputs = np.repeat(centers, 20, axis=0) + RNG.normal(size=(20 * SIZE, DIM))
    state = variables(centers + 1.0, np.ones(SIZE))
    for _ in range(100):
        state = updated(Codebook(SIZE, DIM, 0.8, NEVER), state, outputs)
    means = outputs.reshape(SIZE, 20, DIM).mean(axis=1)
    np.testing.assert_allclose(state["batch_stats"]["vectors"], means, atol=1e-3)


def test_only_dead_codes_restart_at_outputs():
    vectors = np.full((SIZE, DIM), 100.0) * np.arange(SIZE)[:, None]
    usage = np.array([1.0, 1.0, 0.11, 0.1, 0.0])
    outputs = RNG.normal(size=(50, DIM)).astype(np.float32)  # Nearest to code 0.
    before = variables(vectors, usage)
    with_restarts = updated(Codebook(SIZE, DIM, 0.95, 0.1), before, outputs)["batch_stats"]
    without = updated(Codebook(SIZE, DIM, 0.95, NEVER), before, outputs)["batch_stats"]
    for name in ("vectors", "usage", "sums"):
        np.testing.assert_array_equal(with_restarts[name][:3], without[name][:3])
    for code in (3, 4):
        new = np.asarray(with_restarts["vectors"][code])
        assert (outputs == new).all(axis=1).any()
        np.testing.assert_allclose(with_restarts["sums"][code], 0.1 * new, rtol=1e-6)
    np.testing.assert_allclose(with_restarts["usage"][3:], 0.1)


def test_first_update_initializes_the_codebook_and_restarts_vary():
    book = Codebook(SIZE, DIM, 0.99, 0.1)
    outputs = RNG.normal(size=(200, DIM)).astype(np.float32)
    zeros = variables(np.zeros((SIZE, DIM)), np.zeros(SIZE))
    first = updated(book, zeros, outputs)["batch_stats"]["vectors"]
    assert all((outputs == vector).all(axis=1).any() for vector in np.asarray(first))
    later = variables(np.zeros((SIZE, DIM)), np.zeros(SIZE), updates=1)
    second = updated(book, later, outputs)["batch_stats"]["vectors"]
    assert not np.isin(np.asarray(second), np.asarray(first)).all()


@pytest.mark.parametrize(
    ("counts", "expected"), [([3, 3, 3, 3], 4.0), ([0, 7, 0, 0], 1.0), ([2, 1, 1, 0], 2**1.5)]
)
def test_perplexity_of_known_counts(counts, expected):
    assert float(perplexity(jnp.asarray(counts, jnp.float32))) == pytest.approx(expected)


def test_reconstruction_equals_decoded_indices(initialized, apply):
    model, given, x = initialized()
    output, distance, indices = apply(model, given, x)
    codes = apply(model, given, x, method="encode")
    assert indices.shape == (3, 2, 3)
    assert len(np.unique(indices)) > 1
    np.testing.assert_array_equal(codes, indices)
    np.testing.assert_allclose(apply(model, given, codes, method="decode"), output, atol=1e-6)
    outputs = encoded(model, given, x)
    vectors = np.asarray(given["batch_stats"]["codebook"]["vectors"])[np.asarray(indices)]
    expected = np.mean((np.asarray(outputs) - vectors) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(distance, expected, rtol=1e-4)


def test_encoder_has_a_gradient_and_codebook_only_ema_updates(initialized):
    model, given, x = initialized(norm="none")

    def loss(params, stats):
        (output, _, _), mutated = model.apply(
            {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
        )
        return jnp.mean((output - x) ** 2), mutated["batch_stats"]

    gradients, stats = jax.jit(jax.grad(loss, has_aux=True))(given["params"], given["batch_stats"])
    assert "codebook" not in given["params"]
    assert np.abs(gradients["to_code"]["kernel"]).max() > 0
    assert stats["codebook"]["updates"] == given["batch_stats"]["codebook"]["updates"] + 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent": "vector"}, "requires latent='map'; got 'vector'"),
        ({"codebook_size": 1}, "codebook_size must be at least 2; got 1"),
        ({"codebook_decay": 1.0}, r"codebook_decay must be in \[0, 1\); got 1.0"),
        ({"restart_below": 0.0}, r"in \(0, 1\); got 0.0"),
    ],
)
def test_attributes_out_of_range_are_refused(fields, message):
    model = small(**fields)
    with pytest.raises(InputError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 12, 2)))
