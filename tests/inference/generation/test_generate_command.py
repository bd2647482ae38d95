"""The command `deconv-jax generate`, and the samples, walks and traversals that it draws."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from deconv_jax.cli import main
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.inference.generation import sampling
from deconv_jax.inference.generation.load import load_generator
from deconv_jax.inference.generation.sampling import (
    generate,
    latent_traversal,
    latent_walk,
    latents_from_seed,
    rank_dimensions,
)
from deconv_jax.io import write_json
from deconv_jax.workdir import CONFIG

CLASSES = 10


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_run):
    """Function that returns the workdir of a random GAN (with or without classes) or VAE."""
    made = {}

    def task(kind):
        shape = {"image_shape": (32, 32, 1), "latent_dim": 5}
        if kind == "vae":
            model = {"name": "vae", "features": (2, 2), "norm": "none"} | shape
            return {"name": "variational", "model": model, "iwae_samples": 1}
        network = {"width": 2, "num_classes": kind}
        return {
            "name": "gan",
            "generator": {"name": "dcgan_generator"} | network | shape,
            "discriminator": {"name": "dcgan_discriminator", "norm": "none"} | network,
        }

    def make(kind):
        if kind not in made:
            made[kind] = write_run(
                tmp_path_factory.mktemp("run"),
                task(kind),
                {"source": {"name": "digits"}},
                optimizer={"learning_rate": 0.01, "ema_decay": 0.5},
            )
        return made[kind]

    return make


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, "vae"])
def test_samples_depend_on_averaged_weights_and_their_index_only(run, kind):
    task, variables = load_generator(run(kind))
    latents = latents_from_seed(40, task.latent_dim, seed=3)
    images = np.concatenate(list(generate(task.sample, variables, latents)))
    assert (images.shape, images.dtype) == ((40, 32, 32, 1), np.uint8)
    expected = jax.jit(task.sample)(variables, latents)
    assert np.abs(images / 255 - np.asarray(expected)).max() <= 0.5 / 255 + 1e-5
    fewer = latents_from_seed(7, task.latent_dim, seed=3)
    np.testing.assert_array_equal(fewer, latents[:7])
    first_images = np.concatenate(list(generate(task.sample, variables, fewer)))
    np.testing.assert_array_equal(first_images, images[:7])
    assert not np.array_equal(latents_from_seed(7, task.latent_dim, seed=4), fewer)


_SCRIPT = """
import json, sys
import jax
from deconv_jax.cli import main
jax.config.update("jax_numpy_rank_promotion", "raise")
for words in json.loads(sys.argv[1]):
    assert main(words) == 0
print(jax.device_count())
"""


@pytest.mark.slow
def test_files_do_not_depend_on_the_number_of_devices(run, tmp_path):
    def commands(count):
        """Yield the commands that draw samples of a GAN and a traversal of a VAE."""
        kinds = {"gan": (0, ["--num", "70"]), "vae": ("vae", ["--traverse", "3"])}
        for name, (kind, flags) in kinds.items():
            output = str(tmp_path / f"{name}-{count}.png")
            yield ["generate", "--workdir", str(run(kind)), "--output", output, *flags]

    for words in commands(8):
        assert main(words) == 0
    for count in (1, 3):
        # The other compiler flags are those of this process, which has 8 devices.
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
        script = [sys.executable, "-c", _SCRIPT, json.dumps(list(commands(count)))]
        environment = os.environ | {"XLA_FLAGS": flags}
        completed = subprocess.run(
            script, env=environment, check=True, capture_output=True, text=True
        )
        assert completed.stdout.splitlines()[-1] == str(count)
    for name in ("gan", "vae"):
        files = [(tmp_path / f"{name}-{count}.png").read_bytes() for count in (1, 3, 8)]
        assert files[0] == files[1] == files[2]


def test_walk_is_closed_and_passes_every_latent():
    latents = latents_from_seed(3, 6, seed=0)
    path = latent_walk(latents, 4)
    assert path.shape == (12, 6)
    np.testing.assert_allclose(path[::4], latents, atol=1e-5)
    steps = np.linalg.norm(path - np.roll(path, 1, axis=0), axis=1)
    assert steps.max() < 0.6 * np.linalg.norm(latents - np.roll(latents, 1, axis=0), axis=1).max()


def test_traversal_varies_one_dimension_at_a_time():
    latent = latents_from_seed(1, 6, seed=0)[0]
    moved = latent_traversal(latent, np.array([4, 1]), 5)
    assert (moved.shape, moved.dtype) == ((10, 6), np.float32)
    for row, dimension in zip(moved.reshape(2, 5, 6), (4, 1), strict=True):
        np.testing.assert_allclose(row[:, dimension], [-3, -1.5, 0, 1.5, 3])
        others = np.arange(6) != dimension
        np.testing.assert_array_equal(row[:, others], np.tile(latent[others], (5, 1)))


def test_dimensions_with_the_largest_effect_are_first():
    """The decoder is almost linear in each dimension, with known slopes, one of them 0."""
    slopes = jnp.array([0.02, -0.1, 0.0, 0.05])

    def decode(variables, latents, labels):
        slope = variables if labels is None else variables[::-1]
        return (0.5 + 0.5 * jnp.sin(latents * slope[None]))[:, :, None, None]

    np.testing.assert_array_equal(rank_dimensions(decode, slopes, 4), [1, 3, 0, 2])
    np.testing.assert_array_equal(rank_dimensions(decode, slopes, 4, label=0), [2, 0, 3, 1])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "flags"), [("vae", []), (CLASSES, ["--class", "3"])])
def test_traversal_picture_has_a_row_per_dimension(run, tmp_path, capsys, kind, flags):
    path = tmp_path / "traversal.png"
    words = ["--workdir", str(run(kind)), "--output", str(path), "--seed", "2", *flags]
    assert main(["generate", *words, "--traverse", "3", "--steps", "4"]) == 0
    task, variables = load_generator(run(kind))
    label = 3 if flags else None
    rows = rank_dimensions(task.sample, variables, task.latent_dim, label)[:3]
    assert f"rows: latents {rows[0]}, {rows[1]}, {rows[2]}\n" in capsys.readouterr().out
    latents = latent_traversal(latents_from_seed(1, task.latent_dim, seed=2)[0], rows, 4)
    labels = np.full(12, 3, np.int32) if flags else None
    images = next(generate(task.sample, variables, latents, labels))[..., 0]
    whole = pixels(path)
    assert whole.shape == (3 * 33 - 1, 4 * 33 - 1)
    tiles = [whole[33 * (i // 4) :, 33 * (i % 4) :][:32, :32] for i in range(12)]
    np.testing.assert_array_equal(tiles, images)


def test_default_traversal_passes_zero_in_the_middle(run, tmp_path):
    path = tmp_path / "traversal.png"
    words = ["--workdir", str(run("vae")), "--output", str(path), "--traverse", "1"]
    assert main(["generate", *words]) == 0
    task, variables = load_generator(run("vae"))
    latent = np.array(latents_from_seed(1, task.latent_dim, seed=0))
    latent[0, rank_dimensions(task.sample, variables, task.latent_dim)[0]] = 0
    assert pixels(path).shape == (32, 9 * 33 - 1)
    middle = next(generate(task.sample, variables, latent))[0, ..., 0]
    np.testing.assert_array_equal(pixels(path)[:, 4 * 33 : 4 * 33 + 32], middle)


def test_picture_and_single_files_show_the_same_samples(run, tmp_path):
    picture, folder = tmp_path / "all.png", tmp_path / "each"
    words = ["--workdir", str(run(CLASSES)), "--output", str(picture)]
    words += ["--output-dir", str(folder), "--num", "6", "--columns", "3", "--scale", "2"]
    assert main(["generate", *words]) == 0
    whole = pixels(picture)
    assert whole.shape == (2 * (2 * 33 - 1), 2 * (3 * 33 - 1))
    single = sorted(folder.iterdir())
    assert [path.name for path in single] == [f"{number:06d}.png" for number in range(6)]
    np.testing.assert_array_equal(pixels(single[4]), whole[66 : 66 + 64, 66 : 66 + 64])


@pytest.mark.slow
def test_picture_of_a_conditional_generator_has_a_column_per_class(run, tmp_path):
    path = tmp_path / "all.png"
    assert main(["generate", "--workdir", str(run(CLASSES)), "--output", str(path)]) == 0
    task, variables = load_generator(run(CLASSES))
    rows = 64 // CLASSES
    assert pixels(path).shape == (rows * 33 - 1, CLASSES * 33 - 1)
    latents = latents_from_seed(rows * CLASSES, task.latent_dim, seed=0)
    labels = np.tile(np.arange(CLASSES, dtype=np.int32), rows)
    images = np.concatenate(list(generate(task.sample, variables, latents, labels)))
    last = pixels(path)[33 * (rows - 1) :, 33 * 7 :][:32, :32]
    np.testing.assert_array_equal(last, images[(rows - 1) * CLASSES + 7][..., 0])


@pytest.mark.slow
def test_samples_have_the_given_class_or_all_classes_in_turn(run, tmp_path):
    task, variables = load_generator(run(CLASSES))
    latents = latents_from_seed(12, task.latent_dim, seed=0)
    for flags, labels in (
        ([], np.arange(12) % CLASSES),
        (["--class", "3"], np.full(12, 3)),
    ):
        folder = tmp_path / "-".join(["each", *flags])
        words = ["--workdir", str(run(CLASSES)), "--output-dir", str(folder), "--num", "12"]
        assert main(["generate", *words, *flags]) == 0
        expected = generate(task.sample, variables, latents, labels.astype(np.int32))
        files = np.stack([pixels(path) for path in sorted(folder.iterdir())])
        np.testing.assert_array_equal(files, np.concatenate(list(expected))[..., 0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["walk.gif", "walk.webp"])
def test_walk_as_an_animation(run, tmp_path, name):
    words = ["--workdir", str(run(0)), "--output", str(tmp_path / name)]
    assert main(["generate", *words, "--walk", "3", "--steps", "4"]) == 0
    with Image.open(tmp_path / name) as animation:
        assert (animation.n_frames, animation.size) == (12, (32, 32))
        assert animation.info["loop"] == 0


def test_walk_as_a_picture_has_a_row_per_latent(run, tmp_path):
    path = tmp_path / "walk.png"
    words = ["--workdir", str(run(0)), "--output", str(path), "--walk", "3"]
    assert main(["generate", *words, "--steps", "5", "--truncation", "1"]) == 0
    assert pixels(path).shape == (3 * 33 - 1, 5 * 33 - 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "a.png", "--steps", "3"], "--steps requires --walk or --traverse"),
        (["--output", "a.png", "--traverse", "0"], "--traverse must be from 1 to 5"),
        (["--output", "a.png", "--traverse", "6"], "--traverse must be from 1 to 5"),
        (["--output", "a.png", "--traverse", "2", "--steps", "1"], "steps must be at least 2"),
        (
            ["--output", "a.png", "--traverse", "2", "--num", "3"],
            "--num cannot be combined with --traverse",
        ),
        (
            ["--output", "a.png", "--traverse", "2", "--walk", "3"],
            "--walk cannot be combined with --traverse",
        ),
        (
            ["--output", "a.png", "--traverse", "2", "--truncation", "1"],
            "--truncation cannot be combined with --traverse: a traversal covers -3 to 3",
        ),
        (
            ["--output", "a.png", "--traverse", "2", "--columns", "3"],
            "--columns cannot be combined with --traverse",
        ),
        (["--output", "a.gif", "--traverse", "2"], "a.gif: an animation requires --walk"),
        (
            ["--output", "a.png", "--traverse", "2", "--scale", "99"],
            "at most 10000 pixels per side",
        ),
        (
            ["--output", "a.png", "--num", "3", "--walk", "3"],
            "--num cannot be combined with --walk",
        ),
        (["--output", "a.png", "--walk", "1"], "--walk must be at least 2; got 1"),
        (["--output", "a.png", "--num", "0"], "num must be at least 1; got 0"),
        (["--output", "a.png", "--seed", "-1"], "seed must be at least 0; got -1"),
        (["--output", "a.png", "--columns", "0"], "columns must be at least 1; got 0"),
        (["--output", "a.png", "--scale", "0"], "scale must be at least 1; got 0"),
        (["--output-dir", "each", "--scale", "0"], "scale must be at least 1; got 0"),
        (["--output", "a.png", "--truncation", "0"], "truncation must be positive; got 0"),
        (["--output", "a.mp4"], "a.mp4: an animation requires --walk"),
        (["--output", "a.gif"], "a.gif: an animation requires --walk"),
        (
            ["--output", "a.gif", "--walk", "2", "--columns", "3"],
            "--columns cannot be combined with an animation",
        ),
        (["--output", "a.gif", "--walk", "2", "--scale", "999"], "use a smaller --scale"),
        (["--output", "a"], "a must end in .png"),
        (["--output", "a.avi", "--walk", "2"], "a.avi must end in .png"),
        (["--output", "a.png", "--size", "8x"], "--size must be WxH, such as 2048x1024; got '8x'"),
        (
            ["--output", "a.png", "--size", "64x64"],
            "require a texture_generator; got DCGANGenerator",
        ),
        (["--output", "a.png", "--tileable"], "require a texture_generator; got DCGANGenerator"),
        (
            ["--output", "a.png", "--traverse", "2", "--blend", "1"],
            "--blend cannot be combined with --traverse",
        ),
        (["--output", "a.mp4", "--output-dir", "each"], "a.mp4: an animation requires --walk"),
        (["--output", "a.png", "--class", "3"], "--class requires a conditional generator"),
        (["--output", "a.png", "--num", "400", "--scale", "20"], "at most 10000 pixels per side"),
        (["--output", "a.png", "--checkpoint", "7"], "7"),
    ],
)
def test_invalid_flags_are_one_line_errors(run, tmp_path, monkeypatch, capsys, flags, message):
    workdir = run(0)
    capsys.readouterr()  # Discard the output of the fixture.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sampling, "generate", lambda *_: pytest.fail("samples were generated"))
    assert main(["generate", "--workdir", str(workdir), *flags]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_unknown_classes_are_refused(run, tmp_path, capsys):
    words = ["--workdir", str(run(CLASSES)), "--output", str(tmp_path / "a.png")]
    assert main(["generate", *words, "--class", "10"]) == 2
    assert "--class must be from 0 to 9; got 10" in capsys.readouterr().err


@pytest.mark.slow
def test_walk_of_a_conditional_generator_has_one_class(run, tmp_path, capsys):
    path = tmp_path / "walk.png"
    words = ["generate", "--workdir", str(run(CLASSES)), "--output", str(path)]
    words += ["--walk", "2", "--steps", "3"]
    assert main(words) == 2
    assert "require --class for a conditional generator" in capsys.readouterr().err
    assert main([*words[:5], "--traverse", "2"]) == 2
    assert "require --class for a conditional generator" in capsys.readouterr().err
    assert not path.exists()
    assert main([*words, "--class", "3"]) == 0
    task, variables = load_generator(run(CLASSES))
    latents = latent_walk(latents_from_seed(2, task.latent_dim, seed=0), 3)
    images = generate(task.sample, variables, latents, np.full(6, 3, np.int32))
    first = next(images)[0, ..., 0]
    np.testing.assert_array_equal(pixels(path)[:32, :32], first)


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_output_dir_must_be_a_folder(run, tmp_path, capsys, more):
    path = tmp_path / "each"
    path.write_bytes(b"mine")
    words = ["generate", "--workdir", str(run(0)), "--output-dir", str(path), *more]
    assert main(words) == 2
    assert f"{path} is not a folder" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"


def test_existing_files_are_kept_without_overwrite(run, tmp_path, capsys):
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    words = ["generate", "--workdir", str(run(0)), "--output", str(path), "--num", "2"]
    assert main(words) == 2
    assert "exists; give --overwrite" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"
    assert main([*words, "--overwrite"]) == 0
    assert pixels(path).shape == (32, 65)
    (tmp_path / "each").mkdir()
    (tmp_path / "each" / "note.txt").touch()
    words = ["generate", "--workdir", str(run(0)), "--output-dir", str(tmp_path / "each")]
    assert main(words) == 2
    assert "is not empty; give --overwrite" in capsys.readouterr().err


def test_a_run_of_another_task_is_refused(small_config, tmp_path):
    write_json(tmp_path / CONFIG, Experiment.from_dict(small_config()).to_dict())
    with pytest.raises(InputError, match="is a run of Autoencoding; expected a run of GAN or Var"):
        load_generator(tmp_path)
