"""DeconvNet: equality with PyTorch, unpooling to the positions of the maxima, symmetry."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from deconv_jax.errors import InputError
from deconv_jax.models import DeconvNet
from deconv_jax.ops.weight_layouts import layer_to_torch

KEY = jax.random.key(0)
SMALL = {"num_classes": 3, "features": (4, 5, 6), "bottleneck_features": 7}


def images(*shape):
    return jnp.asarray(np.random.default_rng(1).random(shape, np.float32))


def torch_deconvnet(variables, x, blocks, convs, kernel_size):
    """Figure 2 of the paper in PyTorch, at a smaller size."""
    params, stats = variables["params"], variables["batch_stats"]

    def layer(name, x):
        state = {key: torch.tensor(a) for key, a in layer_to_torch(params[name]).items()}
        first, second, size, _ = state["weight"].shape
        if name.startswith("deconv"):
            convolve = nn.ConvTranspose2d(first, second, size, padding=size // 2, bias=False)
        else:
            bias = name == "to_logits"
            convolve = nn.Conv2d(second, first, size, padding=size // 2, bias=bias)
        convolve.load_state_dict(state)
        x = convolve(x)
        if name == "to_logits":
            return x
        affine, running = (tree[f"norm_{name}"]["BatchNorm_0"] for tree in (params, stats))
        numbers = (running["mean"], running["var"], affine["scale"], affine["bias"])
        mean, var, scale, bias = (torch.tensor(np.array(a)) for a in numbers)
        return torch.relu(nn.functional.batch_norm(x, mean, var, scale, bias))

    pool, unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
    x, kept = torch.tensor(np.array(x)).movedim(-1, 1), []
    for block, conv in itertools.product(range(1, blocks + 1), range(1, convs + 1)):
        x = layer(f"conv{block}_{conv}", x)
        if conv == convs:
            x, indices = pool(x)
            kept.append(indices)
    for name in ("conv_bottleneck", "conv_middle", "deconv_bottleneck"):
        x = layer(name, x)
    assert params["conv_bottleneck"]["kernel"].shape[0] == kernel_size
    for block, conv in itertools.product(range(blocks, 0, -1), range(convs, 0, -1)):
        if conv == convs:
            x = unpool(x, kept.pop())
        x = layer(f"deconv{block}_{conv}", x)
    return layer("to_logits", x).movedim(1, -1).detach().numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("convs", "kernel_size"), [(1, 5), (2, 3)])
def test_logits_equal_pytorch(random_variables, apply, convs, kernel_size):
    model = DeconvNet(**SMALL, convs_per_block=convs, bottleneck_kernel_size=kernel_size)
    x = images(2, 16, 24, 3)
    variables = random_variables(model, x)
    logits = apply(model, variables, x)
    assert logits.shape == (2, 16, 24, 3)
    expected = torch_deconvnet(variables, x, 3, convs, kernel_size)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_decoder_kernels_mirror_the_encoder_kernels():
    """A transposed convolution stores the kernel in the layout of the convolution it transposes."""
    model = DeconvNet(**SMALL, convs_per_block=3)
    params = jax.eval_shape(model.init, KEY, images(1, 8, 8, 1))["params"]
    shapes = {name: tree["kernel"].shape for name, tree in params.items() if "kernel" in tree}
    mirrored = {name: shape for name, shape in shapes.items() if name.startswith("conv")}
    del mirrored["conv_middle"]
    # The last decoder layer leads to the features for the logits, not to the image.
    assert shapes["deconv1_1"] == (3, 3, 4, 4)
    assert mirrored.pop("conv1_1") == (3, 3, 1, 4)
    assert len(mirrored) == 3 * 3 - 1 + 1
    assert {name: shapes[f"de{name}"] for name in mirrored} == mirrored


@pytest.mark.slow
def test_unpooling_places_values_at_the_maxima(random_variables):
    model, x = DeconvNet(**SMALL), images(2, 16, 16, 1)
    variables = random_variables(model, x)
    captured_names = {"relu_conv1_2", "relu_deconv2_1", "unpool1"}

    def apply(variables, x):
        return model.apply(
            variables, x, capture_intermediates=lambda module, _: module.name in captured_names
        )

    _, captured = jax.jit(apply)(variables, x)
    pooled, before, sparse = (
        np.asarray(captured["intermediates"][name]["__call__"][0])
        for name in ("relu_conv1_2", "relu_deconv2_1", "unpool1")
    )

    def windows(a):
        return a.reshape(2, 8, 2, 8, 2, 4).transpose(0, 1, 3, 5, 2, 4).reshape(2, 8, 8, 4, 4)

    assert (np.count_nonzero(windows(sparse), axis=-1) <= 1).all()
    np.testing.assert_array_equal(windows(sparse).sum(-1), before)
    landed = windows(sparse) != 0
    assert landed.any()
    largest = np.broadcast_to(windows(pooled).max(-1, keepdims=True), landed.shape)
    np.testing.assert_array_equal(windows(pooled)[landed], largest[landed])


@pytest.mark.parametrize(
    ("fields", "size", "words"),
    [
        (
            {"features": ()},
            (16, 16),
            r"features must be one or more positive numbers, .*features=\(\)",
        ),
        ({"features": (4, 0)}, (16, 16), r"features=\(4, 0\)"),
        ({"convs_per_block": 0}, (16, 16), "convs_per_block=0"),
        ({"num_classes": 0}, (16, 16), "num_classes=0"),
        ({"bottleneck_features": 0}, (16, 16), "bottleneck_features=0"),
        ({"bottleneck_kernel_size": 0}, (16, 16), "bottleneck_kernel_size=0"),
        ({"features": (4, 4)}, (6, 8), "6x8 pixels do not fit this DeconvNet: .* multiples of 4"),
    ],
)
def test_invalid_attributes_and_sizes_are_named(fields, size, words):
    with pytest.raises(InputError, match=words):
        jax.eval_shape(DeconvNet(**fields).init, KEY, images(1, *size, 1))
