"""`deconv-jax visualize` as a person uses it, and the sheets that it draws."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from deconv_jax.cli import main, visualize
from deconv_jax.data.images import read_pixels, write_image
from deconv_jax.data.pipeline import evaluation_batches
from deconv_jax.data.sources import ArraySource
from deconv_jax.errors import InputError
from deconv_jax.inference.interpretation import activations, figures
from deconv_jax.inference.interpretation.figures import (
    MAPS,
    Attribution,
    draw_attributions,
    draw_maximised_inputs,
    draw_top_patches,
)
from deconv_jax.inference.interpretation.load import load_interpretable_model
from deconv_jax.inference.recognition.predictor import center_resize_pixels
from deconv_jax.workdir import open_test_split, open_workdir


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, digits_dir, write_run):
    """The workdir of a classifier of digits that are resized and standardised first."""
    model = {"name": "classifier", "features": (3, 4), "convs_per_block": 1, "embedding_dim": 5}
    task = {
        "name": "classification",
        "model": model,
        "preprocessing": {"resize": (16, 20), "standardize": True},
        "class_names": tuple("abcdefghij"),
    }
    data = {"source": {"name": "digits"}, "data_dir": digits_dir, "cache": "memory"}
    return write_run(tmp_path_factory.mktemp("runs") / "classifier", task, data)


@pytest.fixture
def folder(tmp_path, draw):
    folder = tmp_path / "in"
    write_image(folder / "a.png", draw(18, 30, 3))
    write_image(folder / "b.png", draw(40, 20, 1))
    return folder


def run(*arguments):
    return main(["visualize", *map(str, arguments)])


def pixels_of(path):
    return np.asarray(Image.open(path))


@pytest.mark.slow
def test_patches_of_the_test_split_beside_their_projections(classifier, tmp_path, capsys):
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
def test_patches_of_images_and_what_speaks_for_their_classes(classifier, folder, tmp_path):
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
def test_images_that_excite_maps_are_the_same_each_time(classifier, tmp_path):
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    for output in (first, second):
        words = ["--layer", "logits", "--maps", 2, "--method", "maximize", "--output", output]
        assert run("--workdir", classifier, *words) == 0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_a_network_is_shown_what_it_was_trained_on(classifier, folder, monkeypatch):
    subject = load_interpretable_model(classifier)
    assert subject.image_shape == (16, 20, 1)
    task = open_workdir(classifier).task
    source = open_test_split(classifier)
    images = np.concatenate(list(subject.iterate_images(source)))
    assert images.shape == (len(source), 16, 20, 1)
    batch = jax.tree.map(jnp.asarray, next(evaluation_batches(source, batch_size=5)))
    prepared, _ = jax.jit(task.preprocessing)(batch["image"] / 255.0)
    prepare = jax.jit(subject.prepare)
    np.testing.assert_allclose(prepare(images[:5]), prepared, atol=1e-5)

    files = sorted(folder.iterdir())
    read = subject.read_images(files)
    np.testing.assert_array_equal(
        read[1], center_resize_pixels(read_pixels(files[1], "gray"), (16, 20))
    )
    monkeypatch.setattr(activations, "BATCH", 1)
    np.testing.assert_array_equal(np.concatenate(list(subject.iterate_images(files))), read)
    # What the network says of it is what the task predicts.
    logits = jax.jit(subject.model.apply)(subject.variables, prepare(read))
    wanted = task.predict(subject.variables, jnp.asarray(read))["probabilities"]
    np.testing.assert_allclose(jax.nn.softmax(logits), wanted, atol=1e-6)


@pytest.mark.slow
def test_a_segmentation_and_a_restoration_are_looked_into(
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
    words = ["--overwrite", "--method", "gradient", folder]
    assert run(*arguments, *words) == 2
    assert "says the class of each pixel; give the class" in capsys.readouterr().err
    assert run(*arguments, *words, "--class", 4) == 0

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
    assert "a.png: a restoration network is shown 96 pixels a side" in capsys.readouterr().err
    assert run(*arguments, "--overwrite", folder / "c.png") == 2
    assert "DnCNN does not say the class of an image" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --layer to show its feature maps, or images"),
        (["--method", "grad_cam"], "give --layer to show its feature maps, or images"),
        (["--method", "maximize"], "--method maximize requires --layer"),
        (["--method", "maximize", "--layer", "conv1", "IN"], "generates its images"),
        (["--method", "occlusion", "--layer", "conv1", "IN"], "cannot be combined with --layer"),
        (["--layer", "conv1", "--class", "3"], "--class cannot be combined with --layer"),
        (["IN", "--maps", "3"], "--maps requires --layer"),
        (["IN", "--data-dir", "there"], "--data-dir requires patches"),
        (["--layer", "conv1", "--maps", "0"], "maps"),
        (["--layer", "conv1", "--method", "maximize", "--maps", "0"], "maps"),
        (["--layer", "conv7"], "no layer 'conv7'"),
        (["IN", "--class", "10"], "a class is from 0 to 9; got 10"),
        (["--layer", "conv1", "--output", "layers.jpg"], "--output must be a PNG file"),
        (["--layer", "conv1", "missing.png"], "input missing.png does not exist"),
        (["--layer", "conv1", "IN", "--checkpoint", "77"], "77"),
    ],
)
def test_flags_that_do_not_go_together(words, said, classifier, folder, tmp_path, capsys):
    output = tmp_path / "layers.png"
    words = [str(folder) if word == "IN" else word for word in words]
    assert run("--workdir", classifier, "--output", output, *words) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert said in errors[0]
    assert not output.exists()


def test_flags_know_every_method_of_the_library(capsys):
    assert (*reversed(get_args(activations.Rule)), "maximize") == visualize._LAYER_METHODS
    assert set(visualize._CLASS_METHODS) == set(get_args(Attribution))
    with pytest.raises(SystemExit):
        run("--help")
    assert f"(default: {MAPS})" in capsys.readouterr().out


def test_too_little_memory_is_said(classifier, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(figures, "draw_maximised_inputs", full)
    words = ["--layer", "conv1", "--method", "maximize", "--output", tmp_path / "made.png"]
    assert run("--workdir", classifier, *words) == 2
    assert f"error: not enough memory to visualize {classifier}" in capsys.readouterr().err


def test_no_more_pixels_at_once_than_there_is_room_for(classifier, monkeypatch):
    subject = load_interpretable_model(classifier)
    monkeypatch.setattr(activations, "_PIXELS", 2 * 32 * 40)
    seen = []

    def shown(batch):
        seen.append(batch["image"].shape)
        return np.zeros((len(batch["image"]), *subject.image_shape), np.float32)

    large = ArraySource({"image": np.zeros((3, 32, 40, 1), np.uint8)})
    assert sum(map(len, dataclasses.replace(subject, seen=shown).iterate_images(large))) == 3
    assert seen == [(2, 32, 40, 1)] * 2

    made = []

    def climbed(_, __, target, image_shape, **___):
        made.extend(target.feature.tolist())
        assert len(target.feature) * np.prod(image_shape) <= 2 * 16 * 20
        return np.zeros((len(target.feature), *image_shape), np.float32)

    monkeypatch.setattr(figures, "maximise_activation", climbed)
    monkeypatch.setattr(activations, "_PIXELS", 2 * 16 * 20)
    draw_maximised_inputs(subject, ["conv1"])
    assert made == [0, 1, 2]


def test_units_and_classes_that_there_is_nothing_to_show_of(classifier, draw):
    subject = load_interpretable_model(classifier)
    images = draw(2, 16, 20, 1)
    with pytest.raises(InputError, match="a class is from 0 to 9; got -1"):
        draw_attributions(subject, images, ["a", "b"], "gradient", class_number=-1)
    nothing = jax.tree.map(jnp.zeros_like, subject.variables)
    with pytest.raises(InputError, match="no image excites a feature map of conv2"):
        draw_top_patches(dataclasses.replace(subject, variables=nothing), images, ["conv2"])
