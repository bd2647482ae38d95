"""PyTorch weights: outputs equal those of PyTorch, round trips are exact, mismatches are named."""

import itertools
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from torch import nn

from deconv_jax.errors import InputError
from deconv_jax.models import ESPCN, FSRCNN, ConvDeconv, DnCNN, FFDNet
from deconv_jax.models.weight_import import load_torch_weights, save_torch_weights

ZHANG_EPSILON = 1e-4


def dncnn(channels=1, features=6, depth=4, normalized=False, eps=ZHANG_EPSILON, biases=(True,) * 3):
    """`biases` says whether the first, middle and last layers have biases."""
    first, middle, last = biases
    layers = [nn.Conv2d(channels, features, 3, padding=1, bias=first), nn.ReLU()]
    for _ in range(depth - 2):
        layers.append(nn.Conv2d(features, features, 3, padding=1, bias=middle))
        layers += [nn.BatchNorm2d(features, eps=eps)] if normalized else []
        layers.append(nn.ReLU())
    last_layer = nn.Conv2d(features, channels, 3, padding=1, bias=last)
    return Residual(nn.Sequential(*layers, last_layer))


class FFDNetTorch(nn.Module):
    """KAIR's FFDNet, applied to images followed by a constant noise-level map."""

    def __init__(self, channels, features, depth, noise_conditional=True):
        super().__init__()
        widths = [4 * channels + noise_conditional, *[features] * (depth - 1)]
        layers = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Conv2d(features, 4 * channels, 3, padding=1))
        self.channels = channels

    def forward(self, x):
        height, width = x.shape[2:]
        padding = nn.ReplicationPad2d((0, width % 2, 0, height % 2))
        image, noise_map = x[:, : self.channels], x[:, self.channels :, ::2, ::2]
        image = nn.functional.pixel_unshuffle(padding(image), 2)
        image = nn.functional.pixel_shuffle(self.model(torch.cat([image, noise_map], 1)), 2)
        return image[:, :, :height, :width]


class Residual(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return x - self.model(x)


class Parts(nn.Module):
    """A sequence of parts with the names of the published files."""

    def __init__(self, **parts):
        super().__init__()
        self.names = list(parts)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        for name in self.names:
            x = getattr(self, name)(x)
        return x


def fsrcnn(scale, channels=1, d=7, s=3, m=2):
    middle = [nn.Conv2d(d, s, 1), nn.PReLU(s)]
    for _ in range(m):
        middle += [nn.Conv2d(s, s, 3, padding=1), nn.PReLU(s)]
    middle += [nn.Conv2d(s, d, 1), nn.PReLU(d)]
    last = nn.ConvTranspose2d(d, channels, 9, stride=scale, padding=4, output_padding=scale - 1)
    first = nn.Sequential(nn.Conv2d(channels, d, 5, padding=2), nn.PReLU(d))
    return Parts(first_part=first, mid_part=nn.Sequential(*middle), last_part=last)


def espcn(scale, channels=1):
    first = [nn.Conv2d(channels, 7, 5, padding=2), nn.Tanh(), nn.Conv2d(7, 5, 3, padding=1)]
    last = [nn.Conv2d(5, channels * scale**2, 3, padding=1), nn.PixelShuffle(scale)]
    return Parts(first_part=nn.Sequential(*first, nn.Tanh()), last_part=nn.Sequential(*last))


def randomized(network):
    """Make every weight, slope and running statistic random, with positive variances."""
    random = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=random) - 0.5)
        if name.endswith("running_var"):
            value.abs_()
    return network.eval()


NETWORKS = {
    "dncnn": (dncnn(), DnCNN(1, 4, 6, norm="none")),
    "dncnn-rgb": (dncnn(3, 5, 2), DnCNN(3, 2, 5, norm="none")),
    "dncnn-normalized": (dncnn(normalized=True), DnCNN(1, 4, 6, norm="none")),
    "ffdnet": (FFDNetTorch(1, 6, 3), FFDNet(1, 3, 6)),
    "ffdnet-rgb": (FFDNetTorch(3, 12, 2), FFDNet(3, 2, 12)),
    "ffdnet-blind": (FFDNetTorch(1, 6, 3, False), FFDNet(1, 3, 6)),
    "fsrcnn-2": (fsrcnn(2, channels=3), FSRCNN(2, 3, 7, 3, 2)),
    "fsrcnn-3": (fsrcnn(3), FSRCNN(3, 1, 7, 3, 2)),
    "fsrcnn-4": (fsrcnn(4, m=0), FSRCNN(4, 1, 7, 3, 0)),
    "espcn-2": (espcn(2, channels=3), ESPCN(2, 3, (7, 5))),
    "espcn-3": (espcn(3), ESPCN(3, 1, (7, 5))),
}

CONDITIONAL = {"ffdnet", "ffdnet-rgb"}
"""Networks with a noise-level map."""


@pytest.fixture
def saved(tmp_path):
    """Saves an object by `torch.save`."""

    def save(values, name="weights.pth"):
        torch.save(values, tmp_path / name)
        return tmp_path / name

    return save


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_equal_those_of_pytorch(name, saved):
    theirs, ours = NETWORKS[name]
    randomized(theirs)
    scale = ours.scale if isinstance(ours, FSRCNN) else None
    module, variables, noise_conditional = load_torch_weights(saved(theirs.state_dict()), scale)
    assert module == ours
    assert noise_conditional == (name in CONDITIONAL)
    x = np.random.default_rng(0).random((2, 9, 7, ours.channels), np.float32)
    if noise_conditional:
        x = np.concatenate([x, np.full((2, 9, 7, 1), 0.1, np.float32)], axis=-1)
    with torch.no_grad():
        expected = theirs(torch.tensor(x).movedim(-1, 1)).movedim(1, -1).numpy()
    actual = jax.jit(module.apply)(variables, x)
    size = np.max(np.abs(expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * max(size, 1.0))


@pytest.mark.parametrize(
    ("prefix", "biases", "epsilon"),
    [
        ("model.", (True, True, True), 1e-4),
        ("dncnn.", (True, False, True), 1e-4),
        ("dncnn.", (False, False, False), 1e-5),
    ],
    ids=["KAIR", "Zhang's training code", "SaoYan"],
)
def test_batch_norm_epsilon_is_inferred_from_the_names(prefix, biases, epsilon, saved):
    def network(eps):
        theirs = randomized(dncnn(normalized=True, eps=eps, biases=biases))
        for name, value in theirs.state_dict().items():
            if name.endswith("running_var"):
                value.mul_(1e-4)  # Makes the epsilon matter.
        return theirs

    state = {n.replace("model.", prefix): v for n, v in network(epsilon).state_dict().items()}
    images = torch.rand((1, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    ours = jnp.moveaxis(jnp.asarray(images), 1, -1)
    path = saved(state)
    reports = []
    for chosen in (None, 3e-4):
        module, variables, _ = load_torch_weights(
            path, batch_norm_epsilon=chosen, report=reports.append
        )
        with torch.no_grad():
            theirs = network(chosen or epsilon)(images)
        scale = float(theirs.abs().max())
        np.testing.assert_allclose(
            module.apply(variables, ours)[..., 0], theirs[:, 0], atol=1e-5 * scale
        )
    assert len(reports) == 1
    assert f"epsilon {epsilon:g}" in reports[0]


def test_batch_norm_epsilon_requires_batch_norm(saved):
    path = saved(dncnn().state_dict())
    with pytest.raises(InputError, match="no batch normalization; got batch_norm_epsilon=1e-05"):
        load_torch_weights(path, batch_norm_epsilon=1e-5)


@pytest.mark.parametrize(
    "name", ["dncnn", "ffdnet", "ffdnet-rgb", "ffdnet-blind", "fsrcnn-2", "fsrcnn-4", "espcn-3"]
)
def test_saved_weights_equal_the_loaded_ones(name, saved, tmp_path, assert_trees_equal):
    theirs, ours = NETWORKS[name]
    state = randomized(theirs).state_dict()
    module, variables, _ = load_torch_weights(saved(state), ours.scale)
    path = tmp_path / "again.safetensors"
    save_torch_weights(path, module, variables["params"])
    again = safetensors.numpy.load_file(path)
    assert set(again) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(again[key], value.numpy())
    # The saved file also stores the scale, which an FSRCNN's names and shapes do not determine.
    assert load_torch_weights(path)[0] == module
    assert_trees_equal(load_torch_weights(path).variables, variables)


def message_of(call):
    with pytest.raises(InputError) as raised:
        call()
    return str(raised.value)


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


def states():
    """Invalid state dicts, each with a part of its error message."""
    plain, normalized = dncnn().state_dict(), dncnn(normalized=True).state_dict()
    fsrcnn_state, espcn_state = fsrcnn(3).state_dict(), espcn(3).state_dict()
    two, three = torch.zeros(2), torch.zeros(3, 6, 3, 3)
    conditioned = plain | {"model.0.weight": torch.zeros(6, 2, 3, 3)}
    return {
        "other": (
            {"conv1.weight": three, "fc.bias": two},
            "it has conv1.weight, fc.bias; supported",
        ),
        "missing": (without(plain, "model.2.bias"), "missing model.2.bias"),
        "more": (plain | {"model.9.bias": two}, "unexpected model.9.bias"),
        "shape": (
            plain | {"model.2.weight": three},
            "model.2.weight has the wrong shape: expected (6, 6, 3, 3), got (3, 6, 3, 3)",
        ),
        "axes": (
            plain | {"model.0.weight": two},
            "model.0.weight must be a non-empty kernel with four axes",
        ),
        "nan": (plain | {"model.2.bias": torch.full((6,), torch.nan)}, "not finite"),
        "conditioned": (conditioned, "FDnCNN"),
        "ircnn": (dncnn(depth=7).state_dict(), "IRCNN"),
        "statistics": (without(normalized, "model.3.running_var"), "missing model.3.running_var"),
        "norm-shape": (
            normalized | {"model.3.bias": two},
            "model.3 must have arrays of shape (6,)",
        ),
        "no-scale": (fsrcnn_state, "give scale"),
        "slope": (without(fsrcnn_state, "mid_part.1.weight"), "missing mid_part.1.weight"),
        "square": (
            espcn_state | {"last_part.0.weight": torch.zeros(8, 5, 3, 3)},
            "channels * scale**2 outputs; got 8 outputs for 1",
        ),
    }


@pytest.mark.parametrize("case", states())
def test_mismatches_are_named(case, saved):
    state, message = states()[case]
    scale = 3 if case == "slope" else None
    assert message in message_of(lambda: load_torch_weights(saved(state), scale))


def test_a_contradicting_scale_is_refused(saved):
    path = saved(espcn(3).state_dict())
    assert "has scale 3; got scale=2" in message_of(lambda: load_torch_weights(path, 2))
    assert load_torch_weights(path, 3)[0].scale == 3
    path = saved(dncnn().state_dict())
    assert "has scale 1; got scale=2" in message_of(lambda: load_torch_weights(path, 2))


def test_a_malformed_scale_in_the_metadata_is_refused(tmp_path):
    path = tmp_path / "scaled.safetensors"
    tensors = {name: value.numpy() for name, value in fsrcnn(3).state_dict().items()}
    safetensors.numpy.save_file(tensors, path, {"scale": "three"})
    assert "'three'" in message_of(lambda: load_torch_weights(path))


def test_safetensors_are_loaded_without_pytorch(saved, tmp_path, monkeypatch):
    path = saved(randomized(dncnn()).state_dict())
    module, variables, _ = load_torch_weights(path)
    other = tmp_path / "weights.safetensors"
    save_torch_weights(other, module, variables["params"])
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install torch" in message_of(lambda: load_torch_weights(path))
    assert load_torch_weights(other)[0] == module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (DnCNN(depth=4), "fold_batch_norm"),
        (FSRCNN(upsampling="resize"), "'resize'"),
        (ESPCN(activation="relu"), "'relu'"),
        (ConvDeconv(), "ConvDeconv"),
        (DnCNN(depth=3, norm="none"), "layer_0/Conv_0"),
    ],
)
def test_unsupported_networks_are_not_saved(module, message, tmp_path):
    path = tmp_path / "weights.safetensors"
    assert message in message_of(lambda: save_torch_weights(path, module, {}))
    assert not path.exists()


def test_parameters_of_another_network_are_not_saved(saved, tmp_path):
    module, variables, _ = load_torch_weights(saved(dncnn().state_dict()))
    path = tmp_path / "weights.safetensors"
    other = DnCNN(1, 4, 5, norm="none")
    message = message_of(lambda: save_torch_weights(path, other, variables["params"]))
    assert "has the wrong shape" in message
    assert "a .safetensors file; got" in message_of(
        lambda: save_torch_weights(tmp_path / "weights.pth", module, variables["params"])
    )
    assert not path.exists()


@pytest.mark.skipif("DECONV_JAX_DATA" not in os.environ, reason="$DECONV_JAX_DATA is not set")
def test_dncnn_reaches_the_psnr_of_pytorch():
    """The expected PSNR was measured with PyTorch on the same noise."""
    data = Path(os.environ["DECONV_JAX_DATA"])
    module, variables, _ = load_torch_weights(data / "weights" / "dncnn_25.pth")
    with Image.open(data / "set12" / "01.png") as file:
        clean = np.asarray(file) / 255
    noisy = clean + np.random.RandomState(0).normal(0, 25 / 255, clean.shape)
    x = jnp.asarray(noisy[None, :, :, None], jnp.float32)
    denoised = np.asarray(jax.jit(module.apply)(variables, x))[0, :, :, 0]
    denoised = np.round(255 * np.clip(denoised, 0, 1)) / 255
    psnr = -10 * np.log10(np.mean((denoised - clean) ** 2))
    assert psnr == pytest.approx(30.21, abs=0.006)
