"""Networks whose weights are interpolated."""

import dataclasses

import jax
import numpy as np
import pytest

from deconv_jax.cli import main
from deconv_jax.data.images import read_image, write_image
from deconv_jax.errors import InputError
from deconv_jax.inference.restoration.load import (
    LoadedNetwork,
    interpolate_networks,
    load_run,
    load_weights,
)
from deconv_jax.models import DnCNN
from deconv_jax.models.weight_import import save_torch_weights

NET = DnCNN(depth=2, features=2, norm="none")


@pytest.fixture
def networks(random_variables):
    return [LoadedNetwork(f"n{i}", NET, random_variables(NET, 1, seed=i)) for i in range(2)]


def test_weights_are_the_weighted_mean(networks):
    mixed = interpolate_networks(*networks, 0.25)
    assert mixed.name == "n0 and n1"
    expected = jax.tree.map(
        lambda a, b: 0.75 * a + 0.25 * b, *(network.variables for network in networks)
    )
    jax.tree.map(np.testing.assert_allclose, mixed.variables, expected)
    for alpha, network in enumerate(networks):
        ends = interpolate_networks(*networks, float(alpha))
        jax.tree.map(np.testing.assert_array_equal, ends.variables, network.variables)


def test_other_networks_are_refused(networks, random_variables):
    deeper = DnCNN(depth=3, features=2, norm="none")
    other = LoadedNetwork("deeper", deeper, random_variables(deeper, 1))
    with pytest.raises(InputError, match=r"same architecture .*n0 with .*deeper with DnCNN"):
        interpolate_networks(networks[0], other, 0.5)
    conditional = dataclasses.replace(networks[1], noise_conditional=True)
    with pytest.raises(InputError, match="same architecture"):
        interpolate_networks(networks[0], conditional, 0.5)


@pytest.mark.slow
def test_restore_interpolates_two_files(tmp_path, networks, draw, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path, network in zip(paths, networks, strict=False):
        save_torch_weights(path, NET, network.variables["params"])
    mixed = interpolate_networks(*map(load_weights, paths[:2]), 0.25)
    save_torch_weights(paths[2], NET, mixed.variables["params"])
    write_image(tmp_path / "a.png", draw(24, 24, 1))
    both = [word for path in paths[:2] for word in ("--weights", str(path))]
    run = ["restore", str(tmp_path / "a.png"), "-o"]
    assert main([*run, str(tmp_path / "x.png"), *both, "--interpolate", "0.25"]) == 0
    assert main([*run, str(tmp_path / "y.png"), "--weights", str(paths[2])]) == 0
    x, y = (read_image(tmp_path / f"{name}.png").pixels for name in "xy")
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights", "w.pth", "--interpolate", "0.5"], "requires two networks"),
        (
            ["--workdir", "a", "--workdir", "b", "--interpolate", "2"],
            "--interpolate must be in [0, 1]; got 2",
        ),
        (
            ["--method", "tv", "--noise-sigma", "5", "--interpolate", "0.5"],
            "--interpolate requires two networks",
        ),
    ],
)
def test_wrong_flags_are_refused(tmp_path, flags, message, capsys):
    assert main(["restore", str(tmp_path / "a.png"), *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_run_with_an_adversary_gives_the_restoration_network(tmp_path, write_run):
    task = {
        "name": "restoration",
        "model": {"name": "srvggnet", "scale": 2, "channels": 1, "depth": 0, "features": 2},
        "degradation": {"name": "downsample", "scale": 2},
        "crop": 16,
    }
    discriminator = {"name": "dcgan_discriminator", "width": 2, "norm": "none"}
    adversary = {"adversary": {"discriminator": discriminator}}
    data = {"source": {"name": "digits"}}
    networks = []
    for name, more in (("plain", {}), ("adversarial", adversary)):
        workdir = write_run(tmp_path / name, task | more, data)
        networks.append(load_run(workdir))
    assert set(networks[1].variables) == {"params", "batch_stats"}
    shapes = [jax.tree.map(np.shape, network.variables["params"]) for network in networks]
    assert shapes[0] == shapes[1]
    interpolate_networks(*networks, 0.5)
