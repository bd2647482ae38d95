"""The command `deconv-jax visualize`."""

from typing import get_args

import numpy as np
import pytest
from PIL import Image

from deconv_jax.cli import main, visualize
from deconv_jax.data.images import write_image
from deconv_jax.inference.interpretation import figures
from deconv_jax.inference.interpretation.figures import (
    DEFAULT_MAX_MAPS,
    Attribution,
)
from deconv_jax.inference.interpretation.relu_rules import ReluRule


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*arguments):
    return main(["visualize", *map(str, arguments)])


def pixels_of(path):
    return np.asarray(Image.open(path))


@pytest.mark.slow
def test_patches_of_the_test_split(classifier, tmp_path, capsys):
    output = tmp_path / "layers.png"
    arguments = ["--workdir", classifier, "--layer", "conv2", "--output", output]
    assert run(*arguments, "--layer", "logits", "--maps", 2) == 0
    assert capsys.readouterr().out == f"written: {output}\n"
    two = pixels_of(output)
    assert two.ndim == 3
    assert (two[0] == 255).all()
    assert (two < 128).any()

    assert run(*arguments) == 2
    assert "exists; give --overwrite to replace it" in capsys.readouterr().err
    np.testing.assert_array_equal(pixels_of(output), two)
    assert run(*arguments, "--overwrite", "--method", "guided") == 0
    assert pixels_of(output).shape[0] < two.shape[0]


@pytest.mark.slow
def test_patches_and_attributions_of_images(classifier, folder, tmp_path):
    arguments = ["--workdir", classifier, folder, "--output"]
    assert run(*arguments, tmp_path / "patches.png", "--layer", "conv1", "--layer", "dense1") == 0
    shapes = set()
    for method in ("gradient", "deconvnet", "integrated_gradients", "occlusion", "grad_cam"):
        output = tmp_path / f"{method}.png"
        assert run(*arguments, output, "--method", method) == 0
        shapes.add(pixels_of(output).shape)
    both = tmp_path / "two_layers.png"
    layers = ["--layer", "conv1", "--layer", "conv2"]
    assert run(*arguments, both, "--method", "grad_cam", "--class", 3, *layers) == 0
    assert pixels_of(both).shape[1] > pixels_of(tmp_path / "grad_cam.png").shape[1]


@pytest.mark.slow
def test_maximized_images_are_reproducible(classifier, tmp_path):
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    for output in (first, second):
        flags = ["--layer", "logits", "--maps", 2, "--method", "maximize", "--output", output]
        assert run("--workdir", classifier, *flags) == 0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_segmentation_and_restoration_networks_are_visualized(
    tmp_path, digits_dir, write_run, folder, draw, capsys
):
    data = {"data_dir": digits_dir, "cache": "memory"}
    segmentation = write_run(
        tmp_path / "segmentation",
        {
            "name": "segmentation",
            "model": {"name": "unet", "channels": 11, "features": (3, 4), "residual": False},
            "view": {"name": "digit_scenes", "size": 32, "min_height": 12, "max_height": 16},
        },
        {"source": {"name": "stacked", "base": {"name": "digits"}}} | data,
        (32, 32, 3),
    )
    output = tmp_path / "segmentation.png"
    arguments = ["--workdir", segmentation, "--output", output]
    assert run(*arguments, "--layer", "conv3", "--layer", "logits", "--maps", 2) == 0
    assert pixels_of(output).shape[0] > 500
    flags = ["--overwrite", "--method", "gradient", folder]
    assert run(*arguments, *flags) == 2
    assert "predicts a class per pixel; give the class" in capsys.readouterr().err
    assert run(*arguments, *flags, "--class", 4) == 0

    restoration = write_run(
        tmp_path / "restoration",
        {
            "name": "restoration",
            "model": {"name": "dncnn", "depth": 3, "features": 2},
            "degradation": {"name": "gaussian_noise", "sigma": 25.0},
        },
        {"source": {"name": "digits"}} | data,
    )
    arguments = ["--workdir", restoration, "--output", tmp_path / "restoration.png"]
    assert run(*arguments, "--layer", "conv2") == 0
    write_image(folder / "c.png", draw(100, 110, 1))
    assert run(*arguments, "--overwrite", "--layer", "conv2", folder / "c.png") == 0
    assert run(*arguments, "--overwrite", "--layer", "conv2", folder / "a.png") == 2
    assert (
        "a.png: images for a restoration network must have at least 96 pixels"
        in capsys.readouterr().err
    )
    assert run(*arguments, "--overwrite", folder / "c.png") == 2
    assert "DnCNN does not predict classes" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --layer to show its feature maps, or images"),
        (["--method", "grad_cam"], "give --layer to show its feature maps, or images"),
        (["--method", "maximize"], "--method maximize requires --layer"),
        (["--method", "maximize", "--layer", "conv1", "IN"], "generates its images"),
        (["--method", "occlusion", "--layer", "conv1", "IN"], "cannot be combined with --layer"),
        (["--layer", "conv1", "--class", "3"], "--class cannot be combined with --layer"),
        (["IN", "--maps", "3"], "--maps requires --layer"),
        (["IN", "--data-dir", "there"], "--data-dir requires --layer without inputs"),
        (["--layer", "conv1", "--maps", "0"], "maps"),
        (["--layer", "conv1", "--method", "maximize", "--maps", "0"], "maps"),
        (["--layer", "conv7"], "no layer 'conv7'"),
        (["IN", "--class", "10"], "class must be from 0 to 9; got 10"),
        (["--layer", "conv1", "--output", "layers.jpg"], "--output must be a PNG file"),
        (["--layer", "conv1", "missing.png"], "input missing.png does not exist"),
        (["--layer", "conv1", "IN", "--checkpoint", "77"], "77"),
    ],
)
def test_invalid_flags_are_one_line_errors(flags, message, classifier, folder, tmp_path, capsys):
    output = tmp_path / "layers.png"
    flags = [str(folder) if word == "IN" else word for word in flags]
    assert run("--workdir", classifier, "--output", output, *flags) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert message in errors[0]
    assert not output.exists()


def test_flags_offer_every_method(capsys):
    assert (*reversed(get_args(ReluRule)), "maximize") == visualize._LAYER_METHODS
    assert set(visualize._CLASS_METHODS) == set(get_args(Attribution))
    with pytest.raises(SystemExit):
        run("--help")
    assert f"(default: {DEFAULT_MAX_MAPS})" in capsys.readouterr().out


def test_too_little_memory_is_reported(classifier, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(figures, "draw_maximized_inputs", full)
    flags = ["--layer", "conv1", "--method", "maximize", "--output", tmp_path / "made.png"]
    assert run("--workdir", classifier, *flags) == 2
    assert f"error: not enough memory to visualize {classifier}" in capsys.readouterr().err
