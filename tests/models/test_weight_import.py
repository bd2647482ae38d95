"""TorchModel weights: the same images as PyTorch makes with them, exact round trips, hostile files."""

import os
import pickle
import sys
import zipfile
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
from deconv_jax.models import ESPCN, FSRCNN, ConvDeconv, DnCNN, weight_import
from deconv_jax.models.weight_import import load_torch_weights, save_torch_weights

ZHANG_EPSILON = 1e-4


def dncnn(channels=1, features=6, depth=4, normalised=False, eps=ZHANG_EPSILON, biases=(True,) * 3):
    """`biases` are of the first, the middle and the last layers."""
    first, middle, last = biases
    layers = [nn.Conv2d(channels, features, 3, padding=1, bias=first), nn.ReLU()]
    for _ in range(depth - 2):
        layers.append(nn.Conv2d(features, features, 3, padding=1, bias=middle))
        layers += [nn.BatchNorm2d(features, eps=eps)] if normalised else []
        layers.append(nn.ReLU())
    last_layer = nn.Conv2d(features, channels, 3, padding=1, bias=last)
    return Residual(nn.Sequential(*layers, last_layer))


class Residual(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return x - self.model(x)


class Parts(nn.Module):
    """Named as in the published files."""

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


def randomised(network):
    """Every weight, slope and running statistic random, variances positive."""
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
    "dncnn-normalised": (dncnn(normalised=True), DnCNN(1, 4, 6, norm="none")),
    "fsrcnn-2": (fsrcnn(2, channels=3), FSRCNN(2, 3, 7, 3, 2)),
    "fsrcnn-3": (fsrcnn(3), FSRCNN(3, 1, 7, 3, 2)),
    "fsrcnn-4": (fsrcnn(4, m=0), FSRCNN(4, 1, 7, 3, 0)),
    "espcn-2": (espcn(2, channels=3), ESPCN(2, 3, (7, 5))),
    "espcn-3": (espcn(3), ESPCN(3, 1, (7, 5))),
}


@pytest.fixture
def saved(tmp_path):
    """Writes a state dict, or whatever else, as PyTorch does."""

    def save(values, name="weights.pth"):
        torch.save(values, tmp_path / name)
        return tmp_path / name

    return save


@pytest.mark.slow
@pytest.mark.parametrize(("theirs", "ours"), NETWORKS.values(), ids=NETWORKS)
def test_published_networks_make_the_images_that_pytorch_makes(theirs, ours, saved):
    randomised(theirs)
    scale = ours.scale if isinstance(ours, FSRCNN) else None
    module, variables = load_torch_weights(saved(theirs.state_dict()), scale)
    assert module == ours
    x = np.random.default_rng(0).random((2, 9, 7, ours.channels), np.float32)
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
def test_the_epsilon_of_a_batch_norm_is_that_of_the_code_with_these_names(
    prefix, biases, epsilon, saved
):
    def network(eps):
        theirs = randomised(dncnn(normalised=True, eps=eps, biases=biases))
        for name, value in theirs.state_dict().items():
            if name.endswith("running_var"):
                value.mul_(1e-4)  # So that the epsilon counts.
        return theirs

    state = {n.replace("model.", prefix): v for n, v in network(epsilon).state_dict().items()}
    images = torch.rand((1, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    ours = jnp.moveaxis(jnp.asarray(images), 1, -1)
    path = saved(state)
    said = []
    for chosen in (None, 3e-4):
        module, variables = load_torch_weights(path, batch_norm_epsilon=chosen, report=said.append)
        with torch.no_grad():
            theirs = network(chosen or epsilon)(images)
        scale = float(theirs.abs().max())
        np.testing.assert_allclose(
            module.apply(variables, ours)[..., 0], theirs[:, 0], atol=1e-5 * scale
        )
    assert len(said) == 1
    assert f"epsilon {epsilon:g}" in said[0]


def test_an_epsilon_of_weights_without_batch_norm_is_refused(saved):
    path = saved(dncnn().state_dict())
    with pytest.raises(InputError, match="no batch normalization; got batch_norm_epsilon"):
        load_torch_weights(path, batch_norm_epsilon=1e-5)


@pytest.mark.parametrize("name", ["dncnn", "fsrcnn-2", "fsrcnn-4", "espcn-3"])
def test_what_is_saved_is_what_was_published(name, saved, tmp_path, assert_trees_equal):
    theirs, ours = NETWORKS[name]
    state = randomised(theirs).state_dict()
    module, variables = load_torch_weights(saved(state), ours.scale)
    path = tmp_path / "again.safetensors"
    save_torch_weights(path, module, variables["params"])
    again = safetensors.numpy.load_file(path)
    assert set(again) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(again[key], value.numpy())
    # The scale, which FSRCNN's names and shapes do not say, is in this file.
    assert load_torch_weights(path)[0] == module
    assert_trees_equal(load_torch_weights(path)[1], variables)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"params": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{name}": v for name, v in state.items()}},
        lambda state: {name: nn.Parameter(v.double()) for name, v in state.items()},
        lambda state: {"params_ema": state, "best": torch.tensor(31.0), "params": {}},
        lambda state: {f"_orig_mod.module.{name}": v for name, v in state.items()},
        lambda state: {"state_dict": {f"model.net.{name}": v for name, v in state.items()}},
    ],
    ids=["checkpoint", "data-parallel", "parameters", "beside", "compiled", "framework"],
)
def test_weights_are_found_where_training_leaves_them(wrap, saved, assert_trees_equal):
    state = randomised(dncnn()).state_dict()
    module, variables = load_torch_weights(saved(wrap(state)))
    expected_module, expected = load_torch_weights(saved(state))
    assert module == expected_module
    assert_trees_equal(variables, expected)


def message_of(call):
    with pytest.raises(InputError) as raised:
        call()
    return str(raised.value)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "pickle"])
def test_nothing_in_a_file_is_executed(legacy, tmp_path):
    made, path = tmp_path / "made", tmp_path / "weights.pth"
    values = {"model.0.weight": Hostile(made)}
    if legacy:
        path.write_bytes(pickle.dumps(values))
    else:
        torch.save(values, path)
    assert "tensors in a dict and nothing else" in message_of(lambda: load_torch_weights(path))
    assert not made.exists()


def test_an_archive_that_unpacks_to_more_than_itself_is_not_unpacked(tmp_path):
    stored, deflated = tmp_path / "stored.pth", tmp_path / "deflated.pth"
    torch.save({"w": torch.zeros(10**6)}, stored)
    with (
        zipfile.ZipFile(stored) as source,
        zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    assert deflated.stat().st_size < 10**5
    assert "PyTorch's weights are not compressed" in message_of(
        lambda: load_torch_weights(deflated)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.sparse_coo_tensor([[0], [0]], [1.0], (2**22, 2**22)), "torch.sparse_coo"),
        (lambda: torch.zeros(1).expand(2**40), f"stands for {2**42 + 4} bytes"),
        (lambda: torch.zeros(1, dtype=torch.int64).expand(2**40), f"stands for {2**42 + 4} bytes"),
        (
            lambda: torch._empty_affine_quantized([4], scale=1.0, zero_point=0, dtype=torch.qint8),
            "got w of qint8",
        ),
        (lambda: torch.zeros(4, dtype=torch.complex64), "got w of complex64"),
        (lambda: torch.zeros(4, dtype=torch.bfloat16), "got w of bfloat16"),
        (lambda: torch.zeros(4, device="meta"), "tensors in a dict and nothing else"),
    ],
    ids=["sparse", "expanded", "expanded-integers", "quantized", "complex", "bfloat16", "meta"],
)
@pytest.mark.filterwarnings(
    "ignore:Sparse invariant", "ignore:torch.quantize_per_tensor", "ignore:TypedStorage"
)
def test_tensors_are_plain_numbers_of_a_bounded_count(make, message, saved):
    """A few hundred bytes can stand for terabytes, and not every tensor is made of real numbers."""
    path = saved({"w": make(), "b": torch.zeros(1)})
    assert path.stat().st_size < 4096
    error = message_of(lambda: load_torch_weights(path))
    assert message in error
    assert error.count(str(path)) == 1


def test_weights_within_themselves_are_an_error(saved):
    values = {}
    values["model"] = values
    assert "no weights by name" in message_of(lambda: load_torch_weights(saved(values)))


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


def states():
    """What is wrong with a state dict, and what is said of it."""
    plain, normalised = dncnn().state_dict(), dncnn(normalised=True).state_dict()
    enlarging, shuffled = fsrcnn(3).state_dict(), espcn(3).state_dict()
    two, three = torch.zeros(2), torch.zeros(3, 6, 3, 3)
    conditioned = plain | {"model.0.weight": torch.zeros(6, 2, 3, 3)}
    return {
        "other": ({"conv1.weight": three, "fc.bias": two}, "it has conv1.weight, fc.bias; known"),
        "objects": ({"epoch": 3, "name": "net"}, "no tensors; it has epoch, name"),
        "list": ([two], "no weights by name but a list"),
        "missing": (without(plain, "model.2.bias"), "missing model.2.bias"),
        "more": (plain | {"model.9.bias": two}, "not wanted model.9.bias"),
        "shape": (plain | {"model.2.weight": three}, "model.2.weight has the shape (3, 6, 3, 3)"),
        "axes": (plain | {"model.0.weight": two}, "model.0.weight is a kernel of four axes"),
        "nan": (plain | {"model.2.bias": torch.full((6,), torch.nan)}, "not finite"),
        "conditioned": (conditioned, "FDnCNN"),
        "ircnn": (dncnn(depth=7).state_dict(), "IRCNN"),
        "statistics": (without(normalised, "model.3.running_var"), "missing model.3.running_var"),
        "normalised": (
            normalised | {"model.3.bias": two},
            "model.3 normalises the layer before it, of shape (6,)",
        ),
        "no-scale": (enlarging, "give scale"),
        "slope": (without(enlarging, "mid_part.1.weight"), "missing mid_part.1.weight"),
        "square": (shuffled | {"last_part.0.weight": torch.zeros(8, 5, 3, 3)}, "times a square"),
    }


@pytest.mark.parametrize("case", states())
def test_what_a_file_lacks_is_named(case, saved):
    state, message = states()[case]
    scale = 3 if case == "slope" else None
    assert message in message_of(lambda: load_torch_weights(saved(state), scale))


def test_a_scale_that_is_not_the_files_is_named(saved):
    path = saved(espcn(3).state_dict())
    assert "of scale 3, not 2" in message_of(lambda: load_torch_weights(path, 2))
    assert load_torch_weights(path, 3)[0].scale == 3
    path = saved(dncnn().state_dict())
    assert "of scale 1, not 2" in message_of(lambda: load_torch_weights(path, 2))


def test_files_that_are_none_are_named(tmp_path, monkeypatch):
    header = b"\xff" * 8 + b"{}"
    contents = {
        "broken.safetensors": header,
        "text.pth": b"not weights",
        "empty.pt": b"",
        "weights.h5": b"",
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert str(path) in message_of(lambda path=path: load_torch_weights(path))
    assert "cannot read" in message_of(lambda: load_torch_weights(tmp_path / "none.safetensors"))
    half = tmp_path / "half.safetensors"
    safetensors.numpy.save_file({"model.0.weight": np.zeros((4, 1, 3, 3), np.float32)}, half)
    half.write_bytes(half.read_bytes()[:-4])
    assert "safetensors" in message_of(lambda: load_torch_weights(half))
    integers = tmp_path / "integers.safetensors"
    safetensors.numpy.save_file({"model.0.weight": np.zeros(4, np.uint8)}, integers)
    assert "got U8" in message_of(lambda: load_torch_weights(integers))
    scaled = tmp_path / "scaled.safetensors"
    tensors = {name: value.numpy() for name, value in fsrcnn(3).state_dict().items()}
    safetensors.numpy.save_file(tensors, scaled, {"scale": "three"})
    assert "'three'" in message_of(lambda: load_torch_weights(scaled))
    monkeypatch.setattr(weight_import, "MAX_FILE_BYTES", 8)
    assert "at most 8" in message_of(lambda: load_torch_weights(scaled))


def test_pytorch_is_needed_for_its_own_files_alone(saved, tmp_path, monkeypatch):
    path = saved(randomised(dncnn()).state_dict())
    module, variables = load_torch_weights(path)
    other = tmp_path / "weights.safetensors"
    save_torch_weights(other, module, variables["params"])
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install torch" in message_of(lambda: load_torch_weights(path))
    assert load_torch_weights(other)[0] == module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (DnCNN(depth=4), "fold_batch_norm"),
        (DnCNN(depth=7, norm="none"), "IRCNN"),
        (FSRCNN(upsampling="resize"), "'resize'"),
        (ESPCN(activation="relu"), "'relu'"),
        (ConvDeconv(), "ConvDeconv"),
        (DnCNN(depth=3, norm="none"), "layer_0/Conv_0"),
    ],
)
def test_what_has_no_published_form_is_named(module, message, tmp_path):
    path = tmp_path / "weights.safetensors"
    assert message in message_of(lambda: save_torch_weights(path, module, {}))
    assert not path.exists()


def test_parameters_of_another_network_are_not_saved(saved, tmp_path):
    module, variables = load_torch_weights(saved(dncnn().state_dict()))
    path = tmp_path / "weights.safetensors"
    other = DnCNN(1, 4, 5, norm="none")
    message = message_of(lambda: save_torch_weights(path, other, variables["params"]))
    assert "has the shape" in message
    assert ".safetensors; got" in message_of(
        lambda: save_torch_weights(tmp_path / "weights.pth", module, variables["params"])
    )
    assert not path.exists()


@pytest.mark.skipif("DECONV_JAX_DATA" not in os.environ, reason="$DECONV_JAX_DATA is not set")
def test_dncnn_denoises_as_published():
    """The figure was measured with PyTorch on the same noise."""
    data = Path(os.environ["DECONV_JAX_DATA"])
    module, variables = load_torch_weights(data / "weights" / "dncnn_25.pth")
    with Image.open(data / "set12" / "01.png") as file:
        clean = np.asarray(file) / 255
    noisy = clean + np.random.RandomState(0).normal(0, 25 / 255, clean.shape)
    x = jnp.asarray(noisy[None, :, :, None], jnp.float32)
    denoised = np.asarray(jax.jit(module.apply)(variables, x))[0, :, :, 0]
    denoised = np.round(255 * np.clip(denoised, 0, 1)) / 255
    psnr = -10 * np.log10(np.mean((denoised - clean) ** 2))
    assert psnr == pytest.approx(30.21, abs=0.006)
