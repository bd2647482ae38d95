"""Textures by command: exact tiles, seams, blends and walks."""

import jax
import numpy as np
import pytest
from PIL import Image

from deconv_jax.cli import main
from deconv_jax.inference.generation import texture
from deconv_jax.inference.generation.load import load_generator
from deconv_jax.inference.generation.sampling import latents_from_seed


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_run):
    """Workdir of a random texture generator with a stride of 4 pixels."""
    generator = {
        "name": "texture_generator",
        "image_shape": (16, 16, 1),
        "width": 4,
        "stages": 2,
        "local_dim": 4,
    }
    task = {
        "name": "gan",
        "generator": generator,
        "discriminator": {"name": "texture_discriminator", "width": 2, "stages": 2},
    }
    source = {"name": "textures", "images": ("brick",), "side": 16, "count": 8, "color": "gray"}
    folder = tmp_path_factory.mktemp("run")
    return write_run(folder, task, {"source": source}, image_shape=(16, 16, 1))


def draw(run, size, *, tileable=False, tile=512, seed=0):
    task, variables = load_generator(run)
    task = texture.texture_task(task, size, tileable=tileable)
    latent = latents_from_seed(1, task.latent_dim, seed=seed)[0]
    grid = texture.latent_grid(task, variables, latent)
    return texture.draw_texture(task, variables, grid, tile=tile)


@pytest.mark.parametrize("tileable", [False, True])
def test_tiles_are_exact(run, tileable):
    whole = draw(run, (40, 64), tileable=tileable)
    tiled = draw(run, (40, 64), tileable=tileable, tile=12)
    assert whole.std() > 10
    # Both are rounded to 8 bits.
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    assert (whole != tiled).mean() < 1e-3


def test_tiles_are_those_of_the_task_itself(run):
    task, variables = load_generator(run)
    for size, tileable in (((23, 34), False), ((24, 36), True)):
        resized = texture.texture_task(task, size, tileable=tileable)
        latents = latents_from_seed(1, resized.latent_dim, seed=2)
        expected = np.asarray(jax.jit(resized.sample)(variables, latents))
        drawn = draw(run, size, tileable=tileable, tile=8, seed=2)
        assert drawn.shape == (*size, 1)
        assert np.abs(drawn / 255 - expected[0]).max() <= 0.5 / 255 + 1e-5


def test_tileable_texture_has_no_seam(run):
    """Moving the grid moves the texture, so its borders are like any other place."""
    task, variables = load_generator(run)
    task = texture.texture_task(task, (40, 64), tileable=True)
    grid = texture.latent_grid(task, variables, latents_from_seed(1, task.latent_dim, seed=0)[0])
    image = texture.draw_texture(task, variables, grid, tile=12).astype(int)
    moved = texture.draw_texture(task, variables, np.roll(grid, (3, 5), (0, 1)), tile=12)
    assert np.abs(np.roll(image, (12, 20), (0, 1)) - moved).max() <= 1
    energy = np.square(np.roll(image, -1, 1) - image).mean((0, 2))[3::4]
    assert 0.5 < energy[-1] / energy[:-1].mean() < 2


def test_blend_starts_with_one_texture_and_ends_with_the_other(run):
    task, variables = load_generator(run)
    task = texture.texture_task(task, (8, 40), tileable=False)
    first, second = (
        texture.latent_grid(task, variables, latent)
        for latent in latents_from_seed(2, task.latent_dim, seed=0)
    )
    blend, local = texture.blend_grids(task, first, second), task.generator.local_dim
    np.testing.assert_array_equal(blend[..., :local], first[..., :local])
    np.testing.assert_allclose(blend[:, 0], first[:, 0], atol=1e-6)
    np.testing.assert_allclose(blend[:, -1, local:], second[:, -1, local:], atol=1e-6)
    tileable = texture.texture_task(task, (8, 40), tileable=True)
    zeros = np.zeros((2, 10, 30), np.float32)
    cyclic = texture.blend_grids(tileable, zeros, zeros + 1)
    steps = np.abs(cyclic - np.roll(cyclic, 1, axis=1))[..., local:]
    assert steps.max() < 0.5


def test_command_writes_a_tileable_texture_and_its_seam_energy(run, tmp_path, capsys):
    path = tmp_path / "wall.png"
    words = ["generate", "--workdir", str(run), "--output", str(path), "--size", "48x24"]
    assert main([*words, "--tileable"]) == 0
    assert (
        "gradient energy at the seam over that inside (1: no visible seam): "
        in capsys.readouterr().out
    )
    with Image.open(path) as image:
        assert image.size == (48, 24)
        np.testing.assert_array_equal(image, draw(run, (24, 48), tileable=True)[..., 0])
    assert main([*words, "--blend", "4", "--overwrite"]) == 0
    with Image.open(path) as image:
        assert not np.array_equal(image, draw(run, (24, 48))[..., 0])


def test_texture_sides_that_do_not_fit_are_an_error(run, tmp_path, capsys):
    words = ["generate", "--workdir", str(run), "--output", str(tmp_path / "a.png")]
    assert main([*words, "--size", "50x24", "--tileable"]) == 2
    assert "multiples of 4 pixels; got 50x24 (width x height)" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_walk_is_written_as_a_video(run, tmp_path, capsys):
    av = pytest.importorskip("av")
    words = ["generate", "--workdir", str(run), "--tileable", "--walk", "2", "--steps", "3"]
    path = tmp_path / "walk.mp4"
    assert main([*words, "--size", "24x16", "--output", str(path)]) == 0
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="gray") for frame in video.decode(video=0)]
    assert len(frames) == 6
    assert np.abs(frames[0].astype(int) - draw(run, (16, 24), tileable=True)[..., 0]).mean() < 30
    assert (
        main([*words, "--size", "20x16", "--scale", "1", "--output", str(tmp_path / "b.mp4")]) == 0
    )
    capsys.readouterr()
    words = [word for word in words if word != "--tileable"]
    assert main([*words, "--size", "21x16", "--output", str(tmp_path / "c.mp4")]) == 2
    assert "the sides of a video must be even; got 21 x 16" in capsys.readouterr().err
