"""Restoration of periodic images: an image that tiles gives a result that tiles.

A result is periodic if rolling the input rolls the result: no pixel of the border is special then.
"""

import numpy as np
import pytest

from deconv_jax.cli import main
from deconv_jax.data.images import read_image, write_image
from deconv_jax.errors import InputError
from deconv_jax.inference.progress import SILENT
from deconv_jax.inference.restoration.classical_restorer import ClassicalRestorer
from deconv_jax.inference.restoration.learned_restorer import LearnedRestorer
from deconv_jax.inference.restoration.resizing import resize
from deconv_jax.inference.restoration.wrapping import crop, extend
from deconv_jax.models import MODELS

KERNEL = np.outer([1, 3, 1], [1, 2, 4, 2, 1]).astype(np.float32) / 50


def roll_error(restorer, image, shift):
    """Return the largest difference between the restored rolled image and the rolled restored one."""
    restored = restorer(image, SILENT)
    moved = restorer(np.roll(image, shift, (0, 1)), SILENT)
    scale = restorer.scale
    return np.abs(moved - np.roll(restored, [scale * n for n in shift], (0, 1))).max()


def test_extension_is_undone_by_the_crop_even_beyond_the_image(draw):
    image = draw(4, 6, 3)
    tiled = np.tile(image, (5, 5, 1))
    np.testing.assert_array_equal(extend(image, "xy", (8, 12)), tiled)
    np.testing.assert_array_equal(extend(image, "x", (8, 12)), tiled[:4])
    assert extend(image, "none", (8, 12)) is image
    for wrap in ("none", "x", "y", "xy"):
        enlarged = extend(image, wrap, (5, 2)).repeat(2, axis=0).repeat(2, axis=1)
        restored = crop(enlarged, wrap, (5, 2), 2)
        np.testing.assert_array_equal(restored, image.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields", "tile"),
    [
        ("dncnn", {"depth": 4, "features": 4}, None),
        ("ffdnet", {"depth": 3, "features": 4}, 24),
        ("espcn", {"scale": 2}, None),
    ],
)
def test_network_maps_periodic_images_to_periodic_ones(random_variables, draw, name, fields, tile):
    model = MODELS[name](channels=1, **fields)
    conditional = name == "ffdnet"
    variables = random_variables(model, 1 + conditional)
    image = draw(20, 28, 1)
    options = {"noise_conditional": conditional, "noise_sigma": 9.0 if conditional else None}
    wrapped = LearnedRestorer(model, variables, tile=tile, wrap="xy", **options)
    assert roll_error(wrapped, image, (4, 6)) < 1e-5
    plain = LearnedRestorer(model, variables, tile=tile, **options)
    assert roll_error(plain, image, (4, 6)) > 1e-3
    horizontal = LearnedRestorer(model, variables, tile=tile, wrap="x", **options)
    assert roll_error(horizontal, image, (0, 6)) < 1e-5
    # The other axis is treated as without wrapping.
    middle = slice(12 * model.scale, 16 * model.scale)
    np.testing.assert_allclose(
        horizontal(image, SILENT)[:, middle], plain(image, SILENT)[:, middle], atol=1e-5
    )


def test_blur_of_a_periodic_image_is_undone_periodically(draw):
    restorer = ClassicalRestorer("wiener", KERNEL, noise_sigma=4.0, wrap="xy")
    circular = ClassicalRestorer("wiener", KERNEL, noise_sigma=4.0, boundary="circular")
    image = draw(16, 24, 1)
    assert roll_error(restorer, image, (3, 5)) < 1e-5
    np.testing.assert_array_equal(restorer(image, SILENT), circular(image, SILENT))
    with pytest.raises(InputError, match=r"wrap='xy' requires the boundary 'circular'"):
        ClassicalRestorer("wiener", KERNEL, noise_sigma=4.0, wrap="xy", boundary="reflect")


@pytest.mark.slow
def test_denoising_and_one_periodic_axis(draw):
    image = draw(16, 24, 1)
    tv = ClassicalRestorer("tv", None, noise_sigma=25.0, wrap="xy", options={"iterations": 50})
    assert roll_error(tv, image, (3, 5)) < 2e-3
    plain = ClassicalRestorer("tv", None, noise_sigma=25.0, options={"iterations": 50})
    assert roll_error(plain, image, (3, 5)) > 2e-2
    wiener = ClassicalRestorer("wiener", KERNEL, noise_sigma=4.0, wrap="x")
    # The taper at the other axis and the estimates of the filter see the extension as a whole.
    assert roll_error(wiener, image, (0, 5)) < 1e-2


@pytest.mark.parametrize("size", [(30, 36), (8, 9), (11, 12)])
def test_resizing_keeps_the_period(draw, size):
    image = draw(16, 24, 3)
    resized = resize(image, size, "xy")
    assert resized.shape == (*size, 3)
    # Repeated copies of the image, resized as a whole, are copies of the resized image.
    whole = resize(np.tile(image, (3, 3, 1)), (3 * size[0], 3 * size[1]))
    middle = whole[size[0] : 2 * size[0], size[1] : 2 * size[1]]
    np.testing.assert_allclose(resized, middle, atol=1e-5)


def test_command_restores_a_panorama_without_a_seam(draw, tmp_path, capsys):
    path, output = tmp_path / "panorama.png", tmp_path / "restored.png"
    np.save(tmp_path / "kernel.npy", KERNEL)
    images = {}
    for shift in (0, 7):
        write_image(path, np.roll(draw(12, 24, 1), shift, 1))
        words = ["restore", str(path), "--output", str(output), "--method", "wiener", "--overwrite"]
        words += ["--kernel", str(tmp_path / "kernel.npy"), "--noise-sigma", "4", "--wrap", "xy"]
        assert main(words) == 0
        images[shift] = read_image(output).pixels
    np.testing.assert_allclose(images[7], np.roll(images[0], 7, 1), atol=1.5 / 255)
    assert main([*words, "--boundary", "zeros"]) == 2
    assert "wrap='xy' requires the boundary 'circular'" in capsys.readouterr().err
