"""FCN: equality with PyTorch, initialization, and shift equivariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import config as jaxtyping_config

from deconv_jax.errors import InputError
from deconv_jax.models import FCN
from deconv_jax.ops.weight_layouts import kernel_to_torch

KEY = jax.random.key(0)
SMALL = {"num_classes": 2, "features": (2, 3, 4, 3, 4), "convs_per_block": 1, "top_features": 5}


def images(*shape):
    return jnp.asarray(np.random.default_rng(1).random(shape, np.float32))


def outputs_of(model, variables, x, name):
    """Return the logits and the output of the layer with the given name."""

    def apply(variables, x):
        return model.apply(
            variables, x, capture_intermediates=lambda module, _: module.name == name
        )

    logits, captured = jax.jit(apply)(variables, x)
    return logits, captured["intermediates"][name]["__call__"][0]


def torch_fcn(variables, x, stride):
    """Figure 3 of the paper with one convolution per block, in PyTorch."""
    params, stats = variables["params"], variables["batch_stats"]

    def convolve(name, x, **options):
        kernel = torch.tensor(kernel_to_torch(params[name]["kernel"]))
        bias = torch.tensor(np.array(params[name]["bias"])) if "bias" in params[name] else None
        return F.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2, **options)

    def layer(name, x):
        affine, running = (tree[f"norm_{name}"]["BatchNorm_0"] for tree in (params, stats))
        numbers = (running["mean"], running["var"], affine["scale"], affine["bias"])
        mean, var, scale, bias = (torch.tensor(np.array(a)) for a in numbers)
        return F.relu(F.batch_norm(convolve(name, x), mean, var, scale, bias))

    def enlarge(name, scores, factor):
        kernel = torch.tensor(kernel_to_torch(params[name]["kernel"]))
        return F.conv_transpose2d(scores, kernel, stride=factor, padding=factor // 2)

    x, pooled = torch.tensor(np.array(x)).movedim(-1, 1), {}
    for block in range(1, 6):
        x = pooled[2**block] = F.max_pool2d(layer(f"conv{block}_1", x), 2)
    scores = convolve("score_top", layer("conv7", layer("conv6", x)))
    if stride <= 16:
        skip = convolve("score_stride16", pooled[16])
        scores = enlarge("enlarge_stride32", scores, 2) + skip
    if stride == 8:
        skip = convolve("score_stride8", pooled[8])
        scores = enlarge("enlarge_stride16", scores, 2) + skip
    return enlarge(f"enlarge_stride{stride}", scores, stride).movedim(1, -1).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_logits_equal_pytorch(random_variables, apply, stride):
    model, x = FCN(**SMALL, stride=stride), images(1, 64, 64, 3)
    variables = random_variables(model, x)
    logits = apply(model, variables, x)
    assert logits.shape == (1, 64, 64, 2)
    np.testing.assert_allclose(logits, torch_fcn(variables, x, stride), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("stride", "factors"), [(32, (32,)), (16, (2, 16)), (8, (2, 2, 8))])
def test_initial_upsampling_is_bilinear_interpolation(stride, factors):
    """Compared away from the border, where zero padding attenuates the layers' output."""
    model, x = FCN(**SMALL, norm="none", stride=stride), images(1, 96, 96, 1)
    variables = jax.jit(model.init)(KEY, x)
    top = variables["params"]["score_top"]
    top["kernel"] = jax.random.normal(KEY, top["kernel"].shape)
    logits, scores = outputs_of(model, variables, x, "score_top")
    assert np.std(scores) > 0
    expected = torch.tensor(np.array(scores)).movedim(-1, 1)
    for factor in factors:
        expected = F.interpolate(expected, scale_factor=factor, mode="bilinear")
    inside = (slice(None), slice(32, -32), slice(32, -32))
    expected = expected.movedim(1, -1).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits[inside], expected[inside], rtol=0, atol=1e-5 * scale)


@pytest.mark.slow
def test_initial_logits_are_zero_and_all_scores_have_gradients():
    model, x = FCN(**SMALL, stride=16), images(2, 32, 32, 3)
    variables = jax.jit(model.init)(KEY, x)
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, x), 0)

    def loss(params):
        inputs = variables | {"params": params}
        logits, _ = model.apply(inputs, x, train=True, mutable=["batch_stats"])
        return -jnp.mean(jax.nn.log_softmax(logits)[..., 0])

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    for name in ("score_top", "score_stride16"):
        assert np.linalg.norm(gradients[name]["kernel"]) > 0


def test_logits_are_equivariant_to_shifts_by_the_top_stride(random_variables, apply):
    """Compared where the logits do not depend on the padding."""
    model, x = FCN(**SMALL, stride=16), images(1, 32, 384, 1)
    variables = random_variables(model, x)
    logits, moved = (apply(model, variables, each) for each in (x, jnp.roll(x, 32, axis=2)))
    np.testing.assert_allclose(moved[:, :, 192:-128], logits[:, :, 160:-160], atol=1e-5)
    assert np.ptp(logits[:, :, 160:-160], axis=2).max() > 0.01


@pytest.mark.parametrize(
    ("fields", "size", "words"),
    [
        ({"features": (4, 4)}, (32, 32), r"5 positive features, one per block.*features=\(4, 4\)"),
        ({"stride": 4}, (32, 32), "stride 32, 16 or 8, .*stride=4"),
        ({"features": (4, 4, 0, 4, 4)}, (32, 32), r"features=\(4, 4, 0, 4, 4\)"),
        ({"num_classes": 0}, (32, 32), "num_classes=0"),
        ({"convs_per_block": 0}, (32, 32), "convs_per_block=0"),
        ({"top_features": 0}, (32, 32), "top_features=0"),
        ({}, (32, 48), "32x48 pixels do not fit this FCN: both sides must be multiples of 32"),
    ],
)
def test_invalid_attributes_and_sizes_are_named(fields, size, words, monkeypatch):
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=words):
        jax.eval_shape(FCN(**fields).init, KEY, images(1, *size, 1))
