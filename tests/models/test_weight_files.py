"""Weight files: tensors are found wherever training stores them, and malicious files do nothing."""

import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch

from deconv_jax.errors import InputError
from deconv_jax.models import weight_files
from deconv_jax.models.weight_files import check_tensors, read_tensors


@pytest.fixture
def saved(tmp_path):
    """Saves an object by `torch.save`."""

    def save(values, name="weights.pth"):
        torch.save(values, tmp_path / name)
        return tmp_path / name

    return save


def state_dict():
    """Tensors under DnCNN's names, which start with "model."."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.0.weight": (6, 1, 3, 3), "model.0.bias": (6,), "model.2.weight": (1, 6, 3, 3)}
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def test_several_networks_in_a_file_are_named(saved):
    """As in KAIR's IRCNN files, which have a network for each noise level."""
    path = saved({"0": state_dict(), "1": state_dict(), "epoch": 3})
    with pytest.raises(InputError, match="contains several networks: 0, 1; save one of them"):
        read_tensors(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"params": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{name}": v for name, v in state.items()}},
        lambda state: {name: torch.nn.Parameter(v.double()) for name, v in state.items()},
        lambda state: {"params_ema": state, "best": torch.tensor(31.0), "params": {}},
        lambda state: {f"_orig_mod.module.{name}": v for name, v in state.items()},
        lambda state: {"state_dict": {f"model.net.{name}": v for name, v in state.items()}},
        lambda state: {"weights": state, "optimizer": {"state": {}}},
    ],
    ids=[
        "plain",
        "checkpoint",
        "data-parallel",
        "parameters",
        "other-tensors",
        "compiled",
        "framework",
        "other-key",
    ],
)
def test_weights_are_found_wherever_training_stores_them(wrap, saved):
    state = state_dict()
    tensors, metadata = read_tensors(saved(wrap(state)))
    assert metadata == {}
    assert set(tensors) == set(state)
    for name, value in state.items():
        assert tensors[name].dtype == np.float32
        np.testing.assert_array_equal(tensors[name], value.numpy())


def test_safetensors_are_read_with_their_metadata(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = {name: value.numpy() for name, value in state_dict().items()}
    safetensors.numpy.save_file(state, path, {"scale": "3"})
    tensors, metadata = read_tensors(path)
    assert metadata == {"scale": "3"}
    assert set(tensors) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(tensors[name], value)


def message_of(call):
    with pytest.raises(InputError) as raised:
        call()
    return str(raised.value)


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "pickle"])
def test_reading_a_file_executes_none_of_its_code(legacy, tmp_path):
    made, path = tmp_path / "made", tmp_path / "weights.pth"
    values = {"model.0.weight": Malicious(made)}
    if legacy:
        path.write_bytes(pickle.dumps(values))
    else:
        torch.save(values, path)
    assert "tensors in a dict and nothing else" in message_of(lambda: read_tensors(path))
    assert not made.exists()


def test_compressed_archives_are_refused(tmp_path):
    stored, deflated = tmp_path / "stored.pth", tmp_path / "deflated.pth"
    torch.save({"w": torch.zeros(10**6)}, stored)
    with (
        zipfile.ZipFile(stored) as source,
        zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    assert deflated.stat().st_size < 10**5
    assert "PyTorch's weights are not compressed" in message_of(lambda: read_tensors(deflated))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.sparse_coo_tensor([[0], [0]], [1.0], (2**22, 2**22)), "torch.sparse_coo"),
        (lambda: torch.zeros(1).expand(2**40), f"expands to {2**42 + 4} bytes"),
        (lambda: torch.zeros(1, dtype=torch.int64).expand(2**40), f"expands to {2**42 + 4} bytes"),
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
def test_tensors_must_be_dense_real_and_of_bounded_size(make, message, saved):
    """A tensor stored in a few hundred bytes can have terabytes of elements."""
    path = saved({"w": make(), "b": torch.zeros(1)})
    assert path.stat().st_size < 4096
    error = message_of(lambda: read_tensors(path))
    assert message in error
    assert error.count(str(path)) == 1


def test_recursive_dicts_are_refused(saved):
    values = {}
    values["model"] = values
    assert "must contain a dict of weights" in message_of(lambda: read_tensors(saved(values)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3, "name": "net"}, "no tensors: it has epoch, name"),
        ([torch.zeros(2)], "must contain a dict of weights; got a list"),
        ({"w": torch.tensor([1.0, torch.nan])}, "w contains numbers that are not finite"),
    ],
    ids=["objects", "list", "nan"],
)
def test_files_without_valid_tensors_are_refused(values, message, saved):
    assert message in message_of(lambda: read_tensors(saved(values)))


def test_unreadable_files_are_named(tmp_path, monkeypatch):
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
        assert str(path) in message_of(lambda path=path: read_tensors(path))
    assert "cannot read" in message_of(lambda: read_tensors(tmp_path / "none.safetensors"))
    half = tmp_path / "half.safetensors"
    safetensors.numpy.save_file({"model.0.weight": np.zeros((4, 1, 3, 3), np.float32)}, half)
    half.write_bytes(half.read_bytes()[:-4])
    assert "safetensors" in message_of(lambda: read_tensors(half))
    integers = tmp_path / "integers.safetensors"
    safetensors.numpy.save_file({"model.0.weight": np.zeros(4, np.uint8)}, integers)
    assert "got U8" in message_of(lambda: read_tensors(integers))
    monkeypatch.setattr(weight_files, "MAX_FILE_BYTES", 8)
    assert "at most 8" in message_of(lambda: read_tensors(integers))


def test_only_pytorch_files_require_pytorch(saved, tmp_path, monkeypatch):
    path, other = saved(state_dict()), tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({name: v.numpy() for name, v in state_dict().items()}, other)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install torch" in message_of(lambda: read_tensors(path))
    assert set(read_tensors(other)[0]) == set(state_dict())


def test_check_tensors_names_the_difference():
    tensors = {"a": np.zeros(2), "b": np.zeros((3, 1))}
    check_tensors(tensors, {"a": (2,), "b": (3, 1)})
    message = message_of(lambda: check_tensors(tensors, {"a": (2,), "c": (1,)}))
    assert "missing c; unexpected b" in message
    message = message_of(lambda: check_tensors(tensors, {"a": (2,), "b": (3,)}))
    assert "b has the wrong shape: expected (3,), got (3, 1)" in message
