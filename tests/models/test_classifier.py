"""The classifier: shapes, equality with PyTorch, and that `remat` does not change gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from deconv_jax.errors import InputError
from deconv_jax.models import Classifier
from deconv_jax.ops import layer_from_torch

KEY = jax.random.key(0)


def small(**fields):
    return Classifier(**({"features": (4, 6), "embedding_dim": 7, "num_classes": 3} | fields))


def images(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).random(shape, np.float32))


@pytest.mark.parametrize(("size", "convs"), [((4, 4), 1), ((9, 7), 2)])
def test_logits_are_a_dense_layer_of_the_embedding(random_variables, apply, size, convs):
    model, x = small(convs_per_block=convs), images(5, *size, 1)
    variables = random_variables(model, x)
    embedding = apply(model, variables, x, method=model.embed)
    dense = variables["params"]["to_logits"]
    logits = embedding @ dense["kernel"] + dense["bias"].reshape(1, -1)
    assert embedding.shape == (5, 7)
    np.testing.assert_allclose(apply(model, variables, x), logits, rtol=1e-5, atol=1e-6)


def test_blocks_halve_the_image_rounding_down():
    """13x9 -> 6x4 -> 3x2, so the dense layer has 3 * 2 * 6 inputs."""
    params = jax.eval_shape(small().init, KEY, images(1, 13, 9, 1))["params"]
    assert params["to_embedding"]["kernel"].shape == (3 * 2 * 6, 7)


def test_evaluation_is_independent_of_the_batch(random_variables, apply):
    model, x = small(), images(4, 8, 8, 2)
    variables = random_variables(model, x)
    alone = jnp.concatenate([apply(model, variables, x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(apply(model, variables, x), alone, atol=1e-5)


def test_up_blocks_double_the_feature_map():
    """13x9 -> 6x4 -> 3x2 by the blocks, -> 6x4 -> 12x8 by the up blocks with 5 and 3 channels."""
    model = small(up_features=(5, 3))
    params = jax.eval_shape(model.init, KEY, images(1, 13, 9, 1))["params"]
    assert params["rises_0"]["ConvTranspose_0"]["kernel"].shape == (4, 4, 5, 6)
    assert params["rises_1"]["ConvTranspose_0"]["kernel"].shape == (4, 4, 3, 5)
    assert params["to_embedding"]["kernel"].shape == (12 * 8 * 3, 7)
    plain = jax.eval_shape(small().init, KEY, images(1, 13, 9, 1))["params"]
    assert set(params) - set(plain) == {"rises_0", "rises_1"}


class TorchClassifier(torch.nn.Module):
    """Convolution, pooling, transposed convolution and two dense layers on channels-last features."""

    def __init__(self, norm):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 4, 3, padding=1, bias=not norm)
        self.conv_norm = torch.nn.BatchNorm2d(4) if norm else torch.nn.Identity()
        self.deconv = torch.nn.ConvTranspose2d(4, 5, 4, stride=2, padding=1, bias=not norm)
        self.deconv_norm = torch.nn.BatchNorm2d(5) if norm else torch.nn.Identity()
        self.embedding = torch.nn.Linear(6 * 8 * 5, 7)
        self.logits = torch.nn.Linear(7, 3)

    def forward(self, x):
        x = torch.relu(self.conv_norm(self.conv(x)))
        x = torch.nn.functional.max_pool2d(x, 2)
        x = torch.relu(self.deconv_norm(self.deconv(x)))
        x = x.permute(0, 2, 3, 1).flatten(1)
        return self.logits(torch.relu(self.embedding(x)))


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("train", [False, True])
def test_logits_equal_pytorch(norm, train):
    torch.manual_seed(0)
    peer = TorchClassifier(norm == "batch").train(train)
    params = {
        "blocks_0": {"Conv_0": layer_from_torch(peer.conv.state_dict())},
        "rises_0": {"ConvTranspose_0": layer_from_torch(peer.deconv.state_dict())},
    }
    stats = {}
    if norm == "batch":
        for name, layer in (("blocks_0", peer.conv_norm), ("rises_0", peer.deconv_norm)):
            for tensor, least in ((layer.weight, 0.5), (layer.bias, -1), (layer.running_mean, -1)):
                torch.nn.init.uniform_(tensor, least, 1.5)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
            affine = {"scale": layer.weight, "bias": layer.bias}
            affine = {key: tensor.detach().numpy().copy() for key, tensor in affine.items()}
            running = {"mean": layer.running_mean.numpy().copy()}
            running["var"] = layer.running_var.numpy().copy()
            params[name]["Norm_0"] = {"BatchNorm_0": affine}
            stats[name] = {"Norm_0": {"BatchNorm_0": running}}
    for name, layer in (("to_embedding", peer.embedding), ("to_logits", peer.logits)):
        state = {key: tensor.numpy() for key, tensor in layer.state_dict().items()}
        params[name] = {"kernel": state["weight"].T, "bias": state["bias"]}
    model = Classifier(3, (4,), 1, (5,), embedding_dim=7, norm=norm)
    x = images(5, 6, 8, 2)
    variables = {"params": params} | ({"batch_stats": stats} if stats else {})
    logits, _ = jax.jit(
        lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"]),
    )(variables, x)
    with torch.no_grad():
        expected = peer(torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.slow
def test_remat_keeps_gradients(random_variables, assert_trees_equal):
    x, labels = images(4, 8, 8, 1), jnp.arange(4) % 3
    variables = random_variables(small(up_features=(5,)), x)

    def gradient(remat):
        model = small(up_features=(5,), remat=remat)

        def loss(params):
            inputs = variables | {"params": params}
            logits, _ = model.apply(inputs, x, train=True, mutable=["batch_stats"])
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
            return -jnp.mean(chosen)

        return jax.jit(jax.grad(loss))(variables["params"])

    assert_trees_equal(gradient(remat=True), gradient(remat=False), relative=1e-4)


def test_images_too_small_for_the_blocks_are_refused():
    with pytest.raises(
        InputError, match=r"3x9 pixels .* 2 blocks require sides of at least 4 pixels"
    ):
        small().init(KEY, images(1, 3, 9, 1))
