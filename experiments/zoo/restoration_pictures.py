"""Draw photographs before and after restoration by named models.

  python experiments/zoo/restoration_pictures.py docs/restore_models.jpg

The rows are a photograph as of a phone in dim light (Gaussian noise of 15/255, then JPEG of quality 90), a JPEG of
quality 10, an image of a third of the size, and a photograph with motion blur and noise of 2.55/255. Each is
degraded, written to a file and restored by the command in the caption. The originals are crops of scikit-image's
photographs.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import skimage.data
from PIL import Image

from deconv_jax import ops
from deconv_jax.cli import main as run_command
from deconv_jax.data.degradations import MotionBlur
from deconv_jax.data.images import read_pixels, write_image
from deconv_jax.viz.grids import picture_grid

QUALITY = 82
"""Quality of the picture, a JPEG."""
NAMES = ("before", "after", "original")

Pixels = np.ndarray
"""Image (height, width, 3) in [0, 1]."""


def noisy(image: Pixels, sigma: float) -> Pixels:
    """Return an image with Gaussian noise, clipped."""
    noise = np.random.default_rng(0).normal(0.0, sigma / 255.0, image.shape)
    return np.clip(image + noise, 0.0, 1.0).astype(np.float32)


def write_phone(image: Pixels) -> list[str]:
    """Write a noisy JPEG, and return the flags and the file of the command."""
    _write_jpeg("photo.jpg", noisy(image, 15.0), 90)
    return ["photo.jpg"]


def write_jpeg(image: Pixels) -> list[str]:
    """Write a JPEG of quality 10, and return the flags and the file of the command."""
    _write_jpeg("scan.jpg", image, 10)
    return ["--model", "jpeg", "scan.jpg"]


def write_small(image: Pixels) -> list[str]:
    """Write an image of a third of the size, and return the flags and the file of the command."""
    write_image(Path("small.png"), np.asarray(ops.imresize(jnp.asarray(image), 1 / 3)))
    return ["--model", "sr", "--scale", "3", "small.png"]


def write_blurred(image: Pixels) -> list[str]:
    """Write a blurred image and its kernel, and return the flags and the file of the command."""
    blur = MotionBlur(11.0, 30.0, boundary="reflect")
    np.save("kernel.npy", np.asarray(blur.psf))
    write_image(Path("blurred.png"), noisy(np.asarray(blur(jnp.asarray(image)[None])[0]), 2.55))
    flags = ["--method", "plug_and_play", "--model", "denoise", "--kernel", "kernel.npy"]
    return [*flags, "--noise-sigma", "2.55", "blurred.png"]


def _write_jpeg(name: str, image: Pixels, quality: int) -> None:
    Image.fromarray(np.rint(255 * image).astype(np.uint8)).save(name, quality=quality)


CASES: tuple[tuple[Callable[[Pixels], list[str]], Pixels], ...] = (
    (write_phone, skimage.data.astronaut()[:240, 90:408]),
    (write_jpeg, skimage.data.chelsea()[30:270, 70:388]),
    (write_small, skimage.data.rocket()[100:340, 160:478]),
    (write_blurred, skimage.data.coffee()[60:300, 150:468]),
)
"""Functions that degrade an image, and the images, all of one size."""


def row(write: Callable[[Pixels], list[str]], original: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the caption and the pictures of a case, run in the current folder."""
    arguments = ["restore", *write(original.astype(np.float32) / 255.0)]
    if run_command(arguments):
        raise SystemExit(f"{' '.join(arguments)} failed")
    source = Path(arguments[-1])
    before = read_pixels(source)
    factor = len(original) // len(before)
    before = before.repeat(factor, axis=0).repeat(factor, axis=1)
    after = read_pixels(source.with_suffix(f".restored{source.suffix}"))
    return " ".join(["deconv-jax", *arguments]), np.stack([before, after, original])


def main() -> None:
    """Degrade, restore and draw the photographs."""
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {sys.argv[0]} PICTURE.jpg")
    output = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rows = dict(row(write, original) for write, original in CASES)
    picture_grid(rows, names=NAMES, scale=1).save(output, quality=QUALITY)


if __name__ == "__main__":
    main()
