"""The classifier: its two outputs, the sizes it takes, and that remat changes no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.models import Classifier

KEY = jax.random.key(0)


def small(**fields):
    return Classifier(**({"features": (4, 6), "embedding_dim": 7, "num_classes": 3} | fields))


def images(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).random(shape, np.float32))


@pytest.mark.parametrize(("size", "convs"), [((4, 4), 1), ((9, 7), 2)])
def test_logits_are_an_affine_map_of_the_embedding(random_variables, apply, size, convs):
    model, x = small(convs_per_block=convs), images(5, *size, 1)
    variables = random_variables(model, x)
    embedding = apply(model, variables, x, method=model.embed)
    dense = variables["params"]["to_logits"]
    logits = embedding @ dense["kernel"] + dense["bias"].reshape(1, -1)
    assert embedding.shape == (5, 7)
    np.testing.assert_allclose(apply(model, variables, x), logits, rtol=1e-5, atol=1e-6)


def test_a_block_halves_the_image_and_rounds_down():
    """13x9 -> 6x4 -> 3x2, so the dense layer sees 3 * 2 * 6 numbers."""
    params = jax.eval_shape(small().init, KEY, images(1, 13, 9, 1))["params"]
    assert params["to_embedding"]["kernel"].shape == (3 * 2 * 6, 7)


def test_an_image_is_evaluated_alike_in_any_batch(random_variables, apply):
    model, x = small(), images(4, 8, 8, 2)
    variables = random_variables(model, x)
    alone = jnp.concatenate([apply(model, variables, x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(apply(model, variables, x), alone, atol=1e-5)


def test_remat_changes_no_gradient(random_variables, assert_trees_equal):
    x, labels = images(4, 8, 8, 1), jnp.arange(4) % 3
    variables = random_variables(small(), x)

    def gradient(remat):
        def loss(params):
            inputs = variables | {"params": params}
            logits, _ = small(remat=remat).apply(inputs, x, train=True, mutable=["batch_stats"])
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
            return -jnp.mean(chosen)

        return jax.jit(jax.grad(loss))(variables["params"])

    assert_trees_equal(gradient(remat=True), gradient(remat=False), relative=1e-4)


def test_images_smaller_than_the_blocks_need_are_named():
    with pytest.raises(InputError, match=r"3x9 pixels .* 2 blocks need at least 4 pixels"):
        small().init(KEY, images(1, 3, 9, 1))
