"""Restoration by the images of a trained GAN or VAE, and masks of missing pixels."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from deconv_jax import zoo
from deconv_jax.classical import LatentGenerator, generative_prior, tv
from deconv_jax.cli import main
from deconv_jax.data.degradations import Blur, Chain, GaussianNoise, Mask
from deconv_jax.data.images import read_image, write_image
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.inference.generation.load import load_discriminator, load_generator
from deconv_jax.inference.progress import SILENT
from deconv_jax.inference.restoration.classical_restorer import ClassicalRestorer
from deconv_jax.inference.restoration.latent_generator import make_latent_generator
from deconv_jax.inference.restoration.mask_file import read_mask

SIZE = (8, 6)
KERNEL = np.float32([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 8
GAN = {
    "name": "gan",
    "generator": {
        "name": "dcgan_generator",
        "image_shape": (8, 8, 1),
        "latent_dim": 3,
        "width": 2,
        "norm": "none",
    },
    "discriminator": {"name": "dcgan_discriminator", "width": 2, "norm": "none"},
}
DATA = {"source": {"name": "digits"}}


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def mask():
    mask = np.ones(SIZE, np.float32)
    mask[2:5, 1:4] = 0
    return mask


def stripes(latents, labels):
    """Return images with one gray value per row; a class adds nothing."""
    del labels
    return jnp.broadcast_to(latents[:, :, None, None], (*latents.shape, SIZE[1], 1))


GENERATOR = LatentGenerator(stripes, SIZE[0])


def run(*arguments):
    return main(["restore", *map(str, arguments)])


@pytest.mark.slow
def test_restorer_fills_the_hole_from_the_forward_model(draw, mask):
    image, options = draw(*SIZE, 1), {"weight": 0.0, "iterations": 20, "restarts": 2}
    restorer = ClassicalRestorer(
        "generative_prior",
        KERNEL,
        boundary="circular",
        options=options,
        generator=GENERATOR,
        mask=mask,
    )
    model = Chain((Blur(KERNEL), Mask(mask)))
    y = image[None] * mask[..., None]
    expected = generative_prior(y, model, generator=GENERATOR, **options)[0]
    np.testing.assert_allclose(restorer(image, SILENT), expected, atol=1e-5)
    for other, message in (
        (draw(*SIZE, 3), "generator makes images"),
        (draw(6, 8, 1), "mask must"),
    ):
        with pytest.raises(InputError, match=message):
            restorer(other, SILENT)


@pytest.mark.slow
def test_total_variation_fills_the_hole_whatever_its_content(draw, mask):
    image = draw(*SIZE, 3)
    restorer = ClassicalRestorer("tv", None, noise_sigma=5.0, options={"iterations": 9}, mask=mask)
    expected = tv(
        image[None] * mask[..., None], Chain((Mask(mask), GaussianNoise(5.0))), iterations=9
    )[0]
    white = np.where(mask[..., None] == 0, np.float32(1), image)
    np.testing.assert_allclose(restorer(white, SILENT), expected, atol=1e-5)
    assert restorer.needed_memory((4096, 4096, 3)) > 4096**2 * 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "wiener", "mask": np.eye(3)}, "wiener does not fill missing pixels; .* are tv"),
        ({}, "generative_prior requires a generator"),
        ({"generator": GENERATOR, "method": "tv"}, "tv takes no generator"),
        ({"generator": GENERATOR, "kernel": KERNEL}, "requires a boundary other than unknown"),
        (
            {
                "generator": GENERATOR,
                "kernel": KERNEL,
                "boundary": "zeros",
                "options": {"blend": True},
            },
            "blend requires a mask",
        ),
        ({"generator": GENERATOR, "options": {"critic_weight": 1.0}}, "requires a critic"),
    ],
)
def test_invalid_settings_are_refused_before_any_image(fields, message):
    with pytest.raises(InputError, match=message):
        ClassicalRestorer(**({"method": "generative_prior", "kernel": None} | fields))


def test_white_pixels_of_a_mask_file_are_missing(tmp_path, mask):
    levels = np.uint8(np.where(mask == 0, 200, 40))
    Image.fromarray(levels).save(tmp_path / "gray.png")
    Image.fromarray(np.stack([levels] * 3, -1)).save(tmp_path / "rgb.png")
    for name in ("gray.png", "rgb.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), mask)
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "black.png")
    with pytest.raises(InputError, match="must have black and white pixels; none are white"):
        read_mask(tmp_path / "black.png")


@pytest.mark.slow
def test_command_fills_a_digit_by_a_named_model(tmp_path, capsys):
    missing = np.zeros((32, 32), np.float32)
    missing[10:20, 12:22] = 1
    write_image(tmp_path / "mask.png", missing[..., None])
    write_image(tmp_path / "digit.png", np.full((32, 32, 1), 0.5, np.float32))
    flags = [
        "--method",
        "generative_prior",
        "--model",
        "digits-gan",
        "--mask",
        tmp_path / "mask.png",
    ]
    flags += ["--option", "iterations=2", "--option", "blend=True"]
    assert run(*flags, tmp_path / "digit.png", "-o", tmp_path / "out.png") == 0
    restored = read_image(tmp_path / "out.png").pixels
    np.testing.assert_allclose(restored[missing == 0], 128 / 255, atol=1e-6)
    assert np.ptp(restored[missing == 1]) > 0.05
    assert run(*flags, "--option", "critic_weight=0.1", tmp_path / "digit.png") == 2
    assert "critic_weight requires a critic" in capsys.readouterr().err


@pytest.mark.slow
def test_command_uses_the_discriminator_of_a_run(tmp_path, write_run, draw, capsys):
    workdir = write_run(tmp_path / "gan", GAN, DATA, image_shape=(8, 8, 1))
    write_image(tmp_path / "a.png", draw(8, 8, 1))
    flags = ["--method", "generative_prior", "--workdir", workdir, "--option", "iterations=3"]
    flags += ["--option", "critic_weight=2.0"]
    assert run(*flags, tmp_path / "a.png", "-o", tmp_path / "out.png") == 0
    generator = make_latent_generator(*load_generator(workdir), load_discriminator(workdir))
    y = read_image(tmp_path / "a.png").pixels[None]
    expected = generative_prior(y, Chain(), generator=generator, iterations=3, critic_weight=2.0)[0]
    written = read_image(tmp_path / "out.png").pixels
    np.testing.assert_allclose(written, expected, atol=0.51 / 255)
    assert run("--method", "generative_prior", tmp_path / "a.png") == 2
    assert "requires --model or --workdir, a GAN or VAE" in capsys.readouterr().err


def test_discriminator_whose_logits_depend_on_the_batch_is_no_critic():
    discriminator = GAN["discriminator"] | {"norm": "batch"}
    training = {"num_steps": 1, "batch_size": 2}
    values = {"task": GAN | {"discriminator": discriminator}, "data": DATA, "training": training}
    with pytest.raises(InputError, match="critic requires a discriminator without batch norm"):
        make_latent_generator(Experiment.from_dict(values).task, {}, {})
    assert load_discriminator(zoo.load("digits-gan")) is None
