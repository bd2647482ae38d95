"""Samples of a trained generator: the same everywhere, in files, and what is refused."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from deconv_jax.cli import main
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment, train
from deconv_jax.inference import generate as work
from deconv_jax.inference.generate import generate, numbered_latents, walk
from deconv_jax.trained import load_generative

CLASSES = 10


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits_dir):
    """Makes the workdir of a run of a few steps, with classes or without, once each."""
    made = {}

    def make(classes):
        if classes not in made:
            network = {"width": 2, "num_classes": classes}
            shape = {"image_shape": (32, 32, 1), "latent_dim": 5}
            config = {
                "task": {
                    "name": "synthesis",
                    "generator": {"name": "dcgan_generator"} | network | shape,
                    "discriminator": {"name": "dcgan_discriminator", "norm": "none"} | network,
                },
                "data": {"name": "digits", "data_dir": digits_dir, "cache": "memory"},
                "optimizer": {"learning_rate": 0.01, "ema_decay": 0.5},
                "training": {"num_steps": 2, "batch_size": 8, "eval_every": 2, "save_every": 2}
                | {"log_every": 1, "eval_batch_size": 96},
            }
            made[classes] = tmp_path_factory.mktemp("run")
            train(Experiment.from_dict(config), made[classes])
        return made[classes]

    return make


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_samples_are_those_of_the_averaged_generator_and_of_their_number_alone(run):
    task, variables = load_generative(run(0))
    latents = numbered_latents(40, task.latent_dim, seed=3)
    images = np.concatenate(list(generate(task.sample, variables, latents)))
    assert (images.shape, images.dtype) == ((40, 32, 32, 1), np.uint8)
    direct = jax.jit(task.sample)(variables, latents)
    assert np.abs(images / 255 - np.asarray(direct)).max() <= 0.5 / 255 + 1e-5
    fewer = numbered_latents(7, task.latent_dim, seed=3)
    np.testing.assert_array_equal(fewer, latents[:7])
    of_fewer = np.concatenate(list(generate(task.sample, variables, fewer)))
    np.testing.assert_array_equal(of_fewer, images[:7])
    assert not np.array_equal(numbered_latents(7, task.latent_dim, seed=4), fewer)


@pytest.mark.slow
def test_any_number_of_devices_makes_the_same_file(run, tmp_path):
    for count in (1, 3, 8):
        environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
        words = ["generate", "--checkpoint", run(0), "--output", tmp_path / f"{count}.png"]
        command = [sys.executable, "-m", "deconv_jax.cli", *map(str, words), "--num", "70"]
        subprocess.run(command, env=environment, check=True, capture_output=True)
    files = [(tmp_path / f"{count}.png").read_bytes() for count in (1, 3, 8)]
    assert files[0] == files[1] == files[2]


def test_a_walk_is_closed_and_passes_every_latent():
    latents = numbered_latents(3, 6, seed=0)
    path = walk(latents, 4)
    assert path.shape == (12, 6)
    np.testing.assert_allclose(path[::4], latents, atol=1e-5)
    steps = np.linalg.norm(path - np.roll(path, 1, axis=0), axis=1)
    assert steps.max() < 0.6 * np.linalg.norm(latents - np.roll(latents, 1, axis=0), axis=1).max()


def test_a_picture_and_single_files_show_the_same_samples(run, tmp_path):
    picture, folder = tmp_path / "all.png", tmp_path / "each"
    words = ["--checkpoint", str(run(CLASSES)), "--output", str(picture)]
    words += ["--individual", str(folder), "--num", "6", "--columns", "3", "--scale", "2"]
    assert main(["generate", *words]) == 0
    whole = pixels(picture)
    assert whole.shape == (2 * (2 * 33 - 1), 2 * (3 * 33 - 1))
    single = sorted(folder.iterdir())
    assert [path.name for path in single] == [f"{number:06d}.png" for number in range(6)]
    np.testing.assert_array_equal(pixels(single[4]), whole[66 : 66 + 64, 66 : 66 + 64])


def test_a_class_is_what_all_samples_are_of_and_else_they_take_turns(run, tmp_path):
    task, variables = load_generative(run(CLASSES))
    latents = numbered_latents(12, task.latent_dim, seed=0)
    for flags, labels in (
        ([], np.arange(12) % CLASSES),
        (["--class", "3"], np.full(12, 3)),
    ):
        folder = tmp_path / "-".join(["each", *flags])
        words = ["--checkpoint", str(run(CLASSES)), "--individual", str(folder), "--num", "12"]
        assert main(["generate", *words, *flags]) == 0
        wanted = generate(task.sample, variables, latents, labels.astype(np.int32))
        files = np.stack([pixels(path) for path in sorted(folder.iterdir())])
        np.testing.assert_array_equal(files, np.concatenate(list(wanted))[..., 0])


@pytest.mark.parametrize("name", ["walk.gif", "walk.webp"])
def test_a_walk_as_an_animation(run, tmp_path, name):
    words = ["--checkpoint", str(run(0)), "--output", str(tmp_path / name)]
    assert main(["generate", *words, "--interpolate", "3", "--steps", "4"]) == 0
    with Image.open(tmp_path / name) as animation:
        assert (animation.n_frames, animation.size) == (12, (32, 32))
        assert animation.info["loop"] == 0


def test_a_walk_as_a_strip_has_a_row_a_latent(run, tmp_path):
    path = tmp_path / "walk.png"
    words = ["--checkpoint", str(run(0)), "--output", str(path), "--interpolate", "3"]
    assert main(["generate", *words, "--steps", "5", "--truncation", "1"]) == 0
    assert pixels(path).shape == (3 * 33 - 1, 5 * 33 - 1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "needs --output FILE or --individual DIR"),
        (["--output", "a.png", "--steps", "3"], "give --interpolate"),
        (["--output", "a.png", "--num", "3", "--interpolate", "3"], "do not go together"),
        (["--output", "a.png", "--interpolate", "1"], "interpolate must be at least 2; got 1"),
        (["--output", "a.png", "--num", "0"], "num must be at least 1; got 0"),
        (["--output", "a.png", "--seed", "-1"], "seed must be at least 0; got -1"),
        (["--output", "a.png", "--columns", "0"], "columns must be at least 1; got 0"),
        (["--output", "a.png", "--scale", "0"], "scale must be at least 1; got 0"),
        (["--individual", "each", "--scale", "0"], "scale must be at least 1; got 0"),
        (["--output", "a.png", "--truncation", "0"], "truncation must be positive; got 0"),
        (["--output", "a.mp4"], "a.mp4 must end in .png"),
        (["--output", "a.gif"], "a.gif: an animation is of a walk: give --interpolate"),
        (
            ["--output", "a.gif", "--interpolate", "2", "--columns", "3"],
            "--columns is of a picture",
        ),
        (["--output", "a.gif", "--interpolate", "2", "--scale", "999"], "give a smaller --scale"),
        (["--output", "a"], "a must end in .png"),
        (["--output", "a.mp4", "--interpolate", "2"], "a.mp4 must end in .png"),
        (["--output", "a.mp4", "--individual", "each"], "a.mp4 must end in .png"),
        (["--output", "a.png", "--class", "3"], "trained without classes"),
        (["--output", "a.png", "--num", "400", "--scale", "20"], "wanted are at most 10000"),
        (["--output", "a.png", "--step", "7"], "7"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    run, tmp_path, monkeypatch, capsys, flags, words
):
    workdir = run(0)
    capsys.readouterr()  # What the training said.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(work, "generate", lambda *_: pytest.fail("samples were made"))
    assert main(["generate", "--checkpoint", str(workdir), *flags]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_class_that_there_is_not_is_refused(run, tmp_path, capsys):
    words = ["--checkpoint", str(run(CLASSES)), "--output", str(tmp_path / "a.png")]
    assert main(["generate", *words, "--class", "10"]) == 2
    assert "--class must be from 0 to 9; got 10" in capsys.readouterr().err


def test_a_walk_of_a_conditional_generator_is_of_one_class(run, tmp_path, capsys):
    path = tmp_path / "walk.png"
    words = ["generate", "--checkpoint", str(run(CLASSES)), "--output", str(path)]
    words += ["--interpolate", "2", "--steps", "3"]
    assert main(words) == 2
    assert "of one class: give --class" in capsys.readouterr().err
    assert not path.exists()
    assert main([*words, "--class", "3"]) == 0
    task, variables = load_generative(run(CLASSES))
    latents = walk(numbered_latents(2, task.latent_dim, seed=0), 3)
    images = generate(task.sample, variables, latents, np.full(6, 3, np.int32))
    first = next(images)[0, ..., 0]
    np.testing.assert_array_equal(pixels(path)[:32, :32], first)


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_folder_that_is_a_file_is_refused(run, tmp_path, capsys, more):
    path = tmp_path / "each"
    path.write_bytes(b"mine")
    words = ["generate", "--checkpoint", str(run(0)), "--individual", str(path), *more]
    assert main(words) == 2
    assert f"{path} is not a folder" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"


def test_what_is_there_is_replaced_only_if_asked(run, tmp_path, capsys):
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    words = ["generate", "--checkpoint", str(run(0)), "--output", str(path), "--num", "2"]
    assert main(words) == 2
    assert "is there already; give --overwrite" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"
    assert main([*words, "--overwrite"]) == 0
    assert pixels(path).shape == (32, 65)
    (tmp_path / "each").mkdir()
    (tmp_path / "each" / "note.txt").touch()
    words = ["generate", "--checkpoint", str(run(0)), "--individual", str(tmp_path / "each")]
    assert main(words) == 2
    assert "is not empty; give --overwrite" in capsys.readouterr().err


def test_a_run_of_another_task_is_refused(small_config, tmp_path):
    train(Experiment.from_dict(small_config(training__num_steps=4)), tmp_path)
    with pytest.raises(InputError, match="is a run of Autoencoding; wanted is one of Synthesis"):
        load_generative(tmp_path)
