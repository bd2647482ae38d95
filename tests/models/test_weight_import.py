"""PyTorch weights: outputs equal those of PyTorch, round trips are exact, mismatches are named."""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import torch_networks
from PIL import Image
from torch import nn
from torch_networks import dncnn, espcn, fsrcnn, randomized

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.models import (
    ESPCN,
    FSRCNN,
    SRCNN,
    ConvDeconv,
    DnCNN,
    FFDNet,
    REDNet,
    RRDBNet,
    SRVGGNet,
)
from deconv_jax.models.dncnn import IRCNN_DILATIONS
from deconv_jax.models.weight_import import load_torch_weights, save_torch_weights

NETWORKS = {
    "dncnn": (torch_networks.dncnn(), DnCNN(1, 4, 6, norm="none")),
    "dncnn-rgb": (torch_networks.dncnn(3, 5, 2), DnCNN(3, 2, 5, norm="none")),
    "dncnn-normalized": (
        torch_networks.dncnn(normalized=True),
        DnCNN(1, 4, 6, norm="none"),
    ),
    "ircnn": (torch_networks.ircnn(), DnCNN(1, 7, 4, 3, "none", dilations=IRCNN_DILATIONS)),
    "fdncnn": (torch_networks.fdncnn(), DnCNN(1, 3, 5, 3, "none", residual=False)),
    "ffdnet": (torch_networks.FFDNet(1, 6, 3), FFDNet(1, 3, 6)),
    "ffdnet-rgb": (torch_networks.FFDNet(3, 12, 2), FFDNet(3, 2, 12)),
    "ffdnet-blind": (torch_networks.FFDNet(1, 6, 3, False), FFDNet(1, 3, 6)),
    "srcnn": (
        torch_networks.Numbered(
            nn.Conv2d(1, 6, 9, padding=4), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 1, 5, padding=2)
        ),
        SRCNN(2, 1, (6, 5), (9, 1, 5)),
    ),
    "srcnn-lornatang": (torch_networks.srcnn(), SRCNN(2, 1, (6, 5), (9, 5, 5))),
    "fsrcnn-2": (torch_networks.fsrcnn(2, channels=3), FSRCNN(2, 3, 7, 3, 2)),
    "fsrcnn-3": (torch_networks.fsrcnn(3, slopes=False), FSRCNN(3, 1, 7, 3, 2)),
    "fsrcnn-4": (torch_networks.fsrcnn(4, m=0), FSRCNN(4, 1, 7, 3, 0)),
    "fsrcnn-lornatang": (torch_networks.fsrcnn_lornatang(2), FSRCNN(2, 1, 7, 3, 2)),
    "fsrcnn-other": (
        torch_networks.fsrcnn_lornatang(
            2, names=("shrinking", "mapping", "expanding", "deconvolution"), slopes=False
        ),
        FSRCNN(2, 1, 7, 3, 2),
    ),
    "espcn-2": (torch_networks.espcn(2, channels=3), ESPCN(2, 3, (7, 5))),
    "espcn-3": (torch_networks.espcn(3), ESPCN(3, 1, (7, 5))),
    "espcn-lornatang": (
        torch_networks.espcn(2, names=("feature_maps", "sub_pixel")),
        ESPCN(2, 1, (7, 5)),
    ),
    "espcn-numbered": (
        torch_networks.Numbered(
            nn.Conv2d(1, 6, 5, padding=2),
            *(nn.Conv2d(n, n - 1, 3, padding=1) for n in (6, 5)),
            nn.Conv2d(4, 9, 3, padding=1),
            scale=3,
        ),
        ESPCN(3, 1, (6, 5, 4), "relu"),
    ),
    "rednet-10": (torch_networks.REDNet(10), REDNet(1, 10, 4, 10, 2, True)),
    "rednet-20": (torch_networks.REDNet(20), REDNet(1, 20, 4, 2, 2, True)),
    "rednet-30": (torch_networks.REDNet(30), REDNet(1, 30, 4, 2, 2, True)),
    "srvgg": (torch_networks.SRVGGNet(4, 3, 2, 5), SRVGGNet(4, 3, 2, 5)),
    "srvgg-1": (torch_networks.SRVGGNet(1, 1, 1, 4), SRVGGNet(1, 1, 1, 4)),
    "rrdb": (torch_networks.RRDBNet(), RRDBNet(4, 3, 2, 5, 3)),
    "rrdb-2": (torch_networks.RRDBNet(blocks=1, unshuffle=2), RRDBNet(2, 3, 1, 5, 3, 2)),
    "rrdb-1": (torch_networks.RRDBNet(blocks=1, unshuffle=4), RRDBNet(1, 3, 1, 5, 3, 4)),
    "rrdb-middle": (
        torch_networks.RRDBNet(blocks=1, doublings=1, names=torch_networks.MIDDLE_NAMES),
        RRDBNet(2, 3, 1, 5, 3),
    ),
    "rrdb-old": (torch_networks.old_rrdbnet(), RRDBNet(4, 3, 2, 5, 3)),
    "rrdb-old-2": (torch_networks.old_rrdbnet(blocks=1, doublings=1), RRDBNet(2, 3, 1, 5, 3)),
}
CONDITIONAL = {"ffdnet", "ffdnet-rgb", "fdncnn"}
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
    scale = ours.scale if isinstance(ours, FSRCNN | SRCNN) else None
    module, variables, noise_conditional = load_torch_weights(saved(theirs.state_dict()), scale)
    assert module == ours
    assert noise_conditional == (name in CONDITIONAL)
    height, width = (8, 12) if module.receptive_field().multiple > 1 else (9, 7)
    x = jnp.asarray(np.random.default_rng(0).random((2, height, width, ours.channels), np.float32))
    if noise_conditional:
        x = jnp.concatenate([x, jnp.full((2, height, width, 1), 0.1)], axis=-1)
    given = ops.imresize(x, scale) if isinstance(ours, SRCNN) else x
    with torch.no_grad():
        expected = theirs(torch.tensor(np.array(given)).movedim(-1, 1)).movedim(1, -1).numpy()
    actual = jax.jit(module.apply)(variables, x)
    if isinstance(ours, REDNet):
        actual = np.maximum(actual, 0)  # Their last ReLU is contained in the clipping of results.
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
            jax.jit(module.apply)(variables, ours)[..., 0], theirs[:, 0], atol=1e-5 * scale
        )
    assert len(reports) == 1
    assert f"epsilon {epsilon:g}" in reports[0]


def test_batch_norm_epsilon_requires_batch_norm(saved):
    path = saved(dncnn().state_dict())
    with pytest.raises(InputError, match="no batch normalization; got batch_norm_epsilon=1e-05"):
        load_torch_weights(path, batch_norm_epsilon=1e-5)


FIRST_NAMINGS = (
    *("dncnn", "ircnn", "fdncnn", "ffdnet", "ffdnet-rgb", "ffdnet-blind", "srcnn", "fsrcnn-2"),
    *("fsrcnn-4", "espcn-3", "espcn-numbered", "rednet-10", "rednet-20", "srvgg", "rrdb-2"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST_NAMINGS)
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
    maps = plain | {"model.0.weight": torch.zeros(6, 3, 3, 3)}
    return {
        "other": (
            {"conv1.weight": three, "fc.bias": two},
            "it has conv1.weight, fc.bias; nearest is SRCNN (conv1.weight, conv2.weight, conv3.weight); "
            "supported",
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
        "channels": (maps, "that of an FDnCNN one more for the noise-level map; got 3 and 1"),
        "unknown": ({"encoder": two}, "it has encoder; supported are RRDBNet, FFDNet, DnCNN"),
        "swinir": (
            {"conv_first.weight": three, "layers.0.weight": three, "conv_last.weight": three},
            "nearest is RRDBNet (conv_first.weight, body.0.rdb1.conv1.weight",
        ),
        "enlargements": (
            torch_networks.RRDBNet(blocks=1, unshuffle=4, doublings=1).state_dict(),
            "got 48 inputs, 3 outputs and 1 enlargements",
        ),
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


def test_assumptions_are_reported(saved):
    reports = []
    load_torch_weights(saved(NETWORKS["ircnn"][0].state_dict()), report=reports.append)
    load_torch_weights(saved(NETWORKS["espcn-numbered"][0].state_dict()), report=reports.append)
    assert "assuming the dilations of IRCNN, 1, 2, 3, 4, 3, 2, 1, which" in reports[0]
    assert "assuming ReLU" in reports[1]


@pytest.mark.slow
def test_networks_that_a_file_does_not_determine_are_not_saved(random_variables, tmp_path):
    """A DnCNN of depth 7 would be read as IRCNN."""
    module = DnCNN(1, 7, 2, norm="none")
    params = random_variables(module, jnp.ones((1, 4, 4, 1)))["params"]
    path = tmp_path / "weights.safetensors"
    message = message_of(lambda: save_torch_weights(path, module, params))
    assert "cannot distinguish this network" in message
    assert not path.exists()


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
        (ESPCN(upsampling="resize"), "'resize'"),
        (REDNet(), "requires stride=2"),
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


@pytest.mark.slow
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
