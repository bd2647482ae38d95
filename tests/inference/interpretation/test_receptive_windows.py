"""Windows of units equal the pixels with a nonzero gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.inference.interpretation import activations
from deconv_jax.inference.interpretation.activations import feature_maps
from deconv_jax.inference.interpretation.receptive_windows import receptive_windows
from deconv_jax.models import MODELS, Classifier
from deconv_jax.models.layers import Activation, Conv, ConvTranspose, Pool, Upsample
from deconv_jax.models.normalization import Norm

SMALL = Classifier(features=(3, 4), convs_per_block=1, up_features=(5,), embedding_dim=6)


class Branches(nn.Module):
    """Two branches with different windows, a stride, a dilation, and a final layer without activation."""

    @nn.compact
    def __call__(self, x):
        near = Activation("relu")(Conv(2, 3, stride=2)(x))
        far = Activation("relu")(Conv(2, 3, dilation=2)(Pool(kind="average")(x)))
        return Upsample(3, 2, method="subpixel")(near + far)


class Grouped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Conv(4, 1)(Norm("group")(Conv(4, 1)(x)))


def gradient_windows(model, variables, shape, layer, axis, tries=24):
    """Return the first and last pixel with a nonzero gradient, in any of some random images."""
    random = np.random.default_rng(0)
    images = jnp.asarray(random.normal(size=(tries, *shape)), jnp.float32)
    units = jax.eval_shape(lambda x: feature_maps(model, variables, x, layer)[0], images).shape
    weights = jnp.asarray(random.normal(size=units), jnp.float32)

    @jax.jit
    def slopes(line):
        def total(images):
            (maps,) = feature_maps(model, variables, images, layer)
            on = (jnp.arange(units[1 + axis]) == line).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
            return jnp.sum(jnp.where(on[None], weights * maps, 0.0))

        return jax.grad(total)(images)

    windows = []
    for line in range(units[1 + axis]):
        size = np.abs(np.asarray(slopes(line))).max(axis=(0, 2 - axis, 3))
        pixels = np.flatnonzero(size > 1e-5 * size.max())
        windows.append((pixels[0], pixels[-1]))
    return np.array(windows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layer", "size"),
    [
        (SMALL, "conv2", (16, 20)),
        (SMALL, "conv3", (16, 20)),
        (Branches(), "conv2", (16, 18)),
        (Branches(), "logits", (16, 18)),
        (MODELS["unet"](channels=2, features=(3, 4, 5), norm="none", residual=False, activation="elu"), "conv9", (32, 32)),
        (
            MODELS["deconvnet"](num_classes=2, features=(3, 4), bottleneck_features=4, norm="none", activation="elu", convs_per_block=1),
            "logits",
            (16, 20),
        ),
        (MODELS["conv_deconv"](features=(2, 2), kernel_size=3, stride=2), "conv3", (11, 14)),
    ],
)  # fmt: skip
def test_windows_are_the_pixels_with_a_gradient(model, layer, size, images_of, variables_of):
    images = images_of(1, *size, 1)
    variables = variables_of(model, images)
    found = receptive_windows(model, variables, images, layer)
    for axis in (0, 1):
        expected = gradient_windows(model, variables, (*size, 1), layer, axis)
        np.testing.assert_array_equal(found[axis], expected)


def test_windows_of_a_worked_example(images_of, variables_of):
    images = images_of(1, 12, 12, 1)
    variables = variables_of(SMALL, images)
    rows, columns = receptive_windows(SMALL, variables, images, "conv2")
    # Unit i covers pixels 2 i and 2 i + 1; the layers add 1 pixel before and 2 * 1 after pooling.
    steps = 2 * np.arange(6)
    np.testing.assert_array_equal(rows[:, 0], np.maximum(steps - 3, 0))
    np.testing.assert_array_equal(rows[:, 1], np.minimum(steps + 4, 11))
    np.testing.assert_array_equal(columns, rows)
    for dense in receptive_windows(SMALL, variables, images, "dense1"):
        np.testing.assert_array_equal(dense, [[0, 11]])


@pytest.mark.parametrize("at_once", [1, 5])
def test_windows_do_not_depend_on_the_batch_size(at_once, images_of, variables_of, monkeypatch):
    images = images_of(1, 8, 12, 1)
    variables = variables_of(Branches(), images)
    whole = receptive_windows(Branches(), variables, images, "conv3")
    monkeypatch.setattr(activations, "_MAX_PIXELS", at_once * 8 * 12)
    for windows, expected in zip(
        receptive_windows(Branches(), variables, images, "conv3"), whole, strict=True
    ):
        np.testing.assert_array_equal(windows, expected)


def test_group_norm_has_the_whole_image_and_gaps_have_no_window(images_of, variables_of):
    images = images_of(1, 6, 9, 1)
    model = Grouped()
    rows, columns = receptive_windows(model, variables_of(model, images), images, "conv2")
    np.testing.assert_array_equal(rows, np.tile([[0, 5]], (6, 1)))
    np.testing.assert_array_equal(columns, np.tile([[0, 8]], (9, 1)))

    class Spread(nn.Module):
        @nn.compact
        def __call__(self, x):
            return ConvTranspose(1, 1, stride=2, padding=0)(x)

    model = Spread()
    rows, _ = receptive_windows(model, variables_of(model, images), images, "conv1")
    np.testing.assert_array_equal(rows[:4], [[0, 0], [0, -1], [1, 1], [0, -1]])
