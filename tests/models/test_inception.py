"""InceptionV3: equality with PyTorch, and resizers equal to a formula and to Pillow."""

import math
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from torch.nn import functional

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.models.inception import (
    WEIGHTS_FILENAME,
    InceptionV3,
    load_inception,
    resize_for_inception,
)

PARAMETERS = 27_161_264 - 3_326_696 + 8 * 2049
"""Parameters of torchvision's network without the auxiliary classifier and with 1008 classes."""


class Reference:
    """The network in PyTorch, with a state dict that `make` fills at the first use of each name."""

    def __init__(self, make):
        self.make, self.state = make, {}

    def tensor(self, name, *shape):
        if name not in self.state:
            self.state[name] = self.make(name, shape)
        return self.state[name]

    def conv(self, x, name, features, size, stride=1, padding=0):
        height, width = (size, size) if isinstance(size, int) else size
        weight = self.tensor(f"{name}.conv.weight", features, x.shape[1], height, width)
        kinds = ("running_mean", "running_var", "weight", "bias")
        norm = [self.tensor(f"{name}.bn.{kind}", features) for kind in kinds]
        self.tensor(f"{name}.bn.num_batches_tracked")
        x = functional.conv2d(x, weight, stride=stride, padding=padding)
        return functional.relu(functional.batch_norm(x, *norm, eps=1e-3))

    def branch_pool(self, x, name, features, kind="mean"):
        if kind == "mean":
            x = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        else:
            x = functional.max_pool2d(x, 3, stride=1, padding=1)
        return self.conv(x, f"{name}.branch_pool", features, 1)

    def block_a(self, x, name, pooled):
        one = self.conv(x, f"{name}.branch1x1", 64, 1)
        five = self.conv(x, f"{name}.branch5x5_1", 48, 1)
        five = self.conv(five, f"{name}.branch5x5_2", 64, 5, padding=2)
        double = self.conv(x, f"{name}.branch3x3dbl_1", 64, 1)
        double = self.conv(double, f"{name}.branch3x3dbl_2", 96, 3, padding=1)
        double = self.conv(double, f"{name}.branch3x3dbl_3", 96, 3, padding=1)
        return torch.cat([one, five, double, self.branch_pool(x, name, pooled)], 1)

    def block_b(self, x, name):
        three = self.conv(x, f"{name}.branch3x3", 384, 3, stride=2)
        double = self.conv(x, f"{name}.branch3x3dbl_1", 64, 1)
        double = self.conv(double, f"{name}.branch3x3dbl_2", 96, 3, padding=1)
        double = self.conv(double, f"{name}.branch3x3dbl_3", 96, 3, stride=2)
        return torch.cat([three, double, functional.max_pool2d(x, 3, stride=2)], 1)

    def across(self, x, name, features):
        return self.conv(x, name, features, (1, 7), padding=(0, 3))

    def down(self, x, name, features):
        return self.conv(x, name, features, (7, 1), padding=(3, 0))

    def block_c(self, x, name, inner):
        one = self.conv(x, f"{name}.branch1x1", 192, 1)
        seven = self.conv(x, f"{name}.branch7x7_1", inner, 1)
        seven = self.across(seven, f"{name}.branch7x7_2", inner)
        seven = self.down(seven, f"{name}.branch7x7_3", 192)
        double = self.conv(x, f"{name}.branch7x7dbl_1", inner, 1)
        double = self.down(double, f"{name}.branch7x7dbl_2", inner)
        double = self.across(double, f"{name}.branch7x7dbl_3", inner)
        double = self.down(double, f"{name}.branch7x7dbl_4", inner)
        double = self.across(double, f"{name}.branch7x7dbl_5", 192)
        return torch.cat([one, seven, double, self.branch_pool(x, name, 192)], 1)

    def block_d(self, x, name):
        three = self.conv(x, f"{name}.branch3x3_1", 192, 1)
        three = self.conv(three, f"{name}.branch3x3_2", 320, 3, stride=2)
        seven = self.conv(x, f"{name}.branch7x7x3_1", 192, 1)
        seven = self.across(seven, f"{name}.branch7x7x3_2", 192)
        seven = self.down(seven, f"{name}.branch7x7x3_3", 192)
        seven = self.conv(seven, f"{name}.branch7x7x3_4", 192, 3, stride=2)
        return torch.cat([three, seven, functional.max_pool2d(x, 3, stride=2)], 1)

    def fork(self, x, name):
        a = self.conv(x, f"{name}a", 384, (1, 3), padding=(0, 1))
        b = self.conv(x, f"{name}b", 384, (3, 1), padding=(1, 0))
        return torch.cat([a, b], 1)

    def block_e(self, x, name, pool):
        one = self.conv(x, f"{name}.branch1x1", 320, 1)
        three = self.conv(x, f"{name}.branch3x3_1", 384, 1)
        three = self.fork(three, f"{name}.branch3x3_2")
        double = self.conv(x, f"{name}.branch3x3dbl_1", 448, 1)
        double = self.conv(double, f"{name}.branch3x3dbl_2", 384, 3, padding=1)
        double = self.fork(double, f"{name}.branch3x3dbl_3")
        return torch.cat([one, three, double, self.branch_pool(x, name, 192, pool)], 1)

    def __call__(self, images):
        """Return the features and logits of images (batch, 3, 299, 299) in [0, 1]."""
        x = (images * 255 - 128) * 0.0078125
        x = self.conv(x, "Conv2d_1a_3x3", 32, 3, stride=2)
        x = self.conv(x, "Conv2d_2a_3x3", 32, 3)
        x = self.conv(x, "Conv2d_2b_3x3", 64, 3, padding=1)
        x = functional.max_pool2d(x, 3, stride=2)
        x = self.conv(x, "Conv2d_3b_1x1", 80, 1)
        x = self.conv(x, "Conv2d_4a_3x3", 192, 3)
        x = functional.max_pool2d(x, 3, stride=2)
        for name, pooled in [("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)]:
            x = self.block_a(x, name, pooled)
        x = self.block_b(x, "Mixed_6a")
        for letter, inner in zip("bcde", (128, 160, 160, 192), strict=True):
            x = self.block_c(x, f"Mixed_6{letter}", inner)
        x = self.block_d(x, "Mixed_7a")
        x = self.block_e(x, "Mixed_7b", "mean")
        x = self.block_e(x, "Mixed_7c", "max")
        features = x.mean((2, 3))
        weight = self.tensor("fc.weight", 1008, 2048)
        return features, functional.linear(features, weight, self.tensor("fc.bias", 1008))


def random_tensors(seed):
    """Return a `make` for `Reference` that keeps the variance of activations."""
    generator = torch.Generator().manual_seed(seed)

    def make(name, shape):
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        if name.endswith((".bn.weight", ".running_var")):
            return 0.5 + torch.rand(shape, generator=generator)
        normal = torch.randn(shape, generator=generator)
        return normal * (2 / math.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.2 * normal

    return make


@pytest.fixture(scope="module")
def small_state():
    """Expanded zeros with the names and shapes of the weights, which take a few kilobytes."""

    def make(name, shape):
        del name
        return torch.zeros(shape, device="meta")

    reference = Reference(make)
    reference(torch.zeros((1, 3, 299, 299), device="meta"))
    return {name: torch.zeros(()).expand(t.shape) for name, t in reference.state.items()}


def saved(state, folder, name=WEIGHTS_FILENAME):
    torch.save(state, folder / name)
    return folder / name


def message_of(call):
    with pytest.raises(InputError) as raised:
        call()
    return str(raised.value)


@pytest.mark.slow
def test_features_and_logits_equal_pytorch(tmp_path, assert_trees_equal):
    images = np.random.default_rng(0).random((2, 299, 299, 3), np.float32)
    images[1] **= 3
    reference = Reference(random_tensors(0))
    with torch.no_grad():
        expected = reference(torch.tensor(images).movedim(-1, 1))
    auxiliary = {"AuxLogits.fc.bias": torch.zeros(1000)}
    module, variables = load_inception(saved(reference.state | auxiliary, tmp_path))
    actual = jax.jit(module.apply)(variables, images)
    for ours, theirs in zip(actual, expected, strict=True):
        size = torch.std(theirs).item()
        assert size > 0.01
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * size)
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({k: v.numpy() for k, v in reference.state.items()}, path)
    assert_trees_equal(load_inception(path)[1], variables)


@pytest.mark.slow
def test_parameter_count_equals_torchvision(small_state):
    learned = [t.numel() for name, t in small_state.items() if name.endswith(("weight", "bias"))]
    assert sum(learned) == PARAMETERS
    image = jnp.zeros((1, 299, 299, 3))
    params = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)["params"]
    scales = [t.numel() for name, t in small_state.items() if name.endswith("bn.weight")]
    assert len(params) == len(scales) + 1 == 95
    # The scale of each normalization is folded into the kernel before it.
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS - sum(scales)


def test_images_of_another_size_are_refused():
    for shape in [(1, 298, 299, 3), (1, 299, 300, 3)]:
        images = jnp.zeros(shape)
        message = message_of(lambda x=images: jax.eval_shape(InceptionV3().apply, {}, x))
        assert f"got {shape}" in message


def test_mismatched_tensors_are_named(small_state, tmp_path):
    name = "Mixed_6b.branch7x7dbl_5.bn.running_var"
    wrong = {
        f"missing {name}; unexpected nothing": {k: v for k, v in small_state.items() if k != name},
        "unexpected Mixed_8a.conv.weight": small_state | {"Mixed_8a.conv.weight": torch.zeros(1)},
        "fc.weight has the wrong shape: expected (1008, 2048), got (1000, 2048)": small_state
        | {"fc.weight": torch.zeros(1).expand(1000, 2048)},
        "Mixed_7c.branch3x3_2a.conv.weight has the wrong shape: expected (384, 384, 1, 3)": small_state
        | {"Mixed_7c.branch3x3_2a.conv.weight": torch.zeros(1).expand(384, 384, 3, 1)},
    }
    for part, state in wrong.items():
        path = saved(state, tmp_path)
        message = message_of(lambda path=path: load_inception(path))
        assert part in message
        assert message.startswith(str(path))


def test_missing_weights_error_names_the_release(tmp_path):
    message = message_of(lambda: load_inception(tmp_path / "none.pth"))
    for part in ("none.pth", WEIGHTS_FILENAME, "mseitzer/pytorch-fid", "fid_weights"):
        assert part in message


def test_reading_a_file_executes_none_of_its_code(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "made"),))

    path = tmp_path / WEIGHTS_FILENAME
    path.write_bytes(pickle.dumps({"fc.bias": Malicious()}))
    assert "tensors in a dict" in message_of(lambda: load_inception(path))
    assert not (tmp_path / "made").exists()


SIZES = [(32, 32), (28, 45), (299, 299), (400, 301), (613, 256)]


def photographs(size, channels=3):
    """Return noise over a gradient, with all frequencies and values at both ends of the range."""
    height, width = size
    noise = np.random.default_rng(0).random((2, height, width, channels))
    ramp = np.linspace(-0.5, 0.5, width).reshape(1, 1, width, 1)
    return np.clip(noise + ramp, 0, 1).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_legacy_equals_bilinear_interpolation_without_half_pixel_centers(size):
    images = photographs(size)
    rows, columns = (np.arange(299) * n / 299 for n in size)
    top, left = rows.astype(int), columns.astype(int)
    bottom, right = np.minimum(top + 1, size[0] - 1), np.minimum(left + 1, size[1] - 1)
    down, across = (rows - top).reshape(-1, 1, 1), (columns - left).reshape(1, -1, 1)
    corners = {
        (r, c): images[:, y[:, None], x[None, :]]
        for r, y in enumerate((top, bottom))
        for c, x in enumerate((left, right))
    }
    expected = (1 - down) * ((1 - across) * corners[0, 0] + across * corners[0, 1])
    expected += down * ((1 - across) * corners[1, 0] + across * corners[1, 1])
    actual = resize_for_inception(jnp.asarray(images), "legacy")
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def by_pillow(images, clip):
    """Resize every channel as a float image in [0, 255] by Pillow's bicubic interpolation."""

    def resized(channel):
        image = Image.fromarray(255 * channel).resize((299, 299), Image.Resampling.BICUBIC)
        return np.asarray(image).clip(0, 255) if clip else np.asarray(image)

    channels = [[resized(image[..., c]) for c in range(image.shape[-1])] for image in images]
    return np.moveaxis(np.array(channels), 1, -1) / 255


@pytest.mark.parametrize("size", SIZES)
def test_clean_equals_clipped_pillow_bicubic(size):
    images = photographs(size)
    actual = resize_for_inception(jnp.asarray(images), "clean")
    np.testing.assert_allclose(actual, by_pillow(images, clip=True), atol=1e-5)
    plain = ops.resize(jnp.asarray(images), (299, 299), method="bicubic", antialias=True)
    np.testing.assert_allclose(plain, by_pillow(images, clip=False), atol=1e-5)
    assert size == (299, 299) or jnp.max(plain) > 1


@pytest.mark.parametrize("how", ["legacy", "clean"])
def test_gray_is_repeated_and_299x299_is_unchanged(how):
    gray = jnp.asarray(photographs((40, 37), channels=1))
    actual = resize_for_inception(gray, how)
    assert actual.shape == (2, 299, 299, 3)
    np.testing.assert_array_equal(actual, resize_for_inception(jnp.repeat(gray, 3, -1), how))
    images = jnp.asarray(photographs((299, 299)))
    np.testing.assert_array_equal(resize_for_inception(images, how), images)
    half = resize_for_inception(gray.astype(jnp.bfloat16), how)
    assert half.dtype == jnp.float32


def test_invalid_arguments_of_the_resizer_are_named():
    with pytest.raises(InputError, match=r"1 or 3 channels; got shape \(2, 9, 8, 4\)"):
        resize_for_inception(jnp.zeros((2, 9, 8, 4)), "clean")
    # Bypasses the runtime type check, which only tests have.
    unchecked = resize_for_inception.__wrapped__
    with pytest.raises(InputError, match="'claen'; did you mean 'clean'"):
        unchecked(jnp.zeros((2, 9, 8, 3)), "claen")
