"""Networks to interpret: random variables, images, and the workdir of a classifier."""

import jax
import jax.numpy as jnp
import pytest

from deconv_jax.data.images import write_image


@pytest.fixture
def variables_of(random_variables):
    """Function that returns random variables of a network for some images."""

    def make(model, images):
        made = random_variables(model, images.shape[-1], size=images.shape[1:3])
        return jax.tree.map(jnp.asarray, made)

    return make


@pytest.fixture
def images_of(draw):
    """Function that returns random images of a shape."""

    def make(*shape, seed=0):
        return jnp.asarray(draw(*shape, seed=seed))

    return make


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, digits_dir, write_run):
    """The workdir of a classifier of resized and standardized digits, with random weights."""
    model = {"name": "classifier", "features": (3, 4), "convs_per_block": 1, "embedding_dim": 5}
    task = {
        "name": "classification",
        "model": model,
        "preprocessing": {"resize": (16, 20), "standardize": True},
        "class_names": tuple("abcdefghij"),
    }
    data = {"source": {"name": "digits"}, "data_dir": digits_dir, "cache": "memory"}
    return write_run(tmp_path_factory.mktemp("runs") / "classifier", task, data)


@pytest.fixture
def folder(tmp_path, draw):
    """A folder with a color and a gray image."""

    folder = tmp_path / "in"
    write_image(folder / "a.png", draw(18, 30, 3))
    write_image(folder / "b.png", draw(40, 20, 1))
    return folder
