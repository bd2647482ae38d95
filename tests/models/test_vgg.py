"""VGG-19 against PyTorch, and errors of its weights."""

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
from torch.nn import functional

from deconv_jax.errors import InputError
from deconv_jax.models.vgg import VGG_WEIGHTS_ENV, load_vgg, load_vgg_extractor
from deconv_jax.tasks.restoration_losses import FeatureLoss

BLOCKS = ((4, 2), (8, 2), (16, 4), (32, 4), (32, 4))


@pytest.fixture
def weights(tmp_path):
    """Random weights of a narrow VGG-19 under torchvision's names."""
    random, tensors, inputs, position = np.random.default_rng(0), {}, 3, 0
    for features, count in BLOCKS:
        for _ in range(count):
            kernel = random.normal(0, (2 / (9 * inputs)) ** 0.5, (features, inputs, 3, 3))
            tensors[f"features.{position}.weight"] = kernel.astype(np.float32)
            tensors[f"features.{position}.bias"] = random.normal(size=features).astype(np.float32)
            inputs, position = features, position + 2
        position += 1
    tensors["classifier.0.weight"] = np.zeros((2, 2), np.float32)
    path = tmp_path / "vgg.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors))
    return path, tensors


@pytest.mark.slow
def test_features_equal_pytorch(weights):
    path, tensors = weights
    images = np.random.default_rng(1).uniform(size=(2, 32, 36, 3)).astype(np.float32)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    mean, deviation = (
        torch.tensor(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    x, position = (x - mean) / deviation, 0
    for block, (_, count) in enumerate(BLOCKS):
        for i in range(count):
            name = f"features.{position}"
            kernel, bias = (torch.tensor(tensors[f"{name}.{k}"]) for k in ("weight", "bias"))
            x = functional.conv2d(x, kernel, bias, padding=1)
            x = x if (block, i) == (4, 3) else x.relu()
            position += 2
        x = x if block == 4 else functional.max_pool2d(x, 2)
        position += 1
    module, variables = load_vgg(path, width=4)
    mine = jax.jit(module.apply)(variables, images)
    np.testing.assert_allclose(np.moveaxis(mine, -1, 1), x.numpy(), rtol=1e-3, atol=1e-4)


def test_wrong_weights_are_refused(weights, monkeypatch):
    load_vgg_extractor.cache_clear()
    monkeypatch.delenv(VGG_WEIGHTS_ENV, raising=False)
    with pytest.raises(InputError, match=r"\$DECONV_JAX_VGG: no weights of VGG-19"):
        FeatureLoss().distance(np.zeros((1, 16, 16, 3)), np.zeros((1, 16, 16, 3)))
    monkeypatch.setenv(VGG_WEIGHTS_ENV, str(weights[0]))
    with pytest.raises(InputError, match="does not contain the convolutions of VGG-19"):
        load_vgg_extractor()
    module, variables = load_vgg(weights[0], width=4)
    with pytest.raises(InputError, match="of at least 16 x 16 pixels"):
        jax.eval_shape(module.apply, variables, np.zeros((1, 15, 16, 3), np.float32))
