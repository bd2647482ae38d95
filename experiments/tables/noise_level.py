"""Noise levels that `deconv-jax restore` estimates, and the PSNR that estimation costs.

  deconv-jax tables noise_level

FFDNet with its authors' weights removes Gaussian noise from Set12 and from every fourth image of CBSD68, the latter also
after JPEG compression. The network gets the true level (of the noise before JPEG), and then the level that is
estimated from the image. As in files, noisy images are clipped and rounded to 8 bits.
"""

import functools
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _common import images_in
from PIL import Image

from deconv_jax.inference.progress import SILENT
from deconv_jax.inference.restoration.learned_restorer import LearnedRestorer
from deconv_jax.inference.restoration.noise_level import estimate_noise_sigma
from deconv_jax.metrics.image import psnr_from_mse
from deconv_jax.models.weight_import import load_torch_weights
from deconv_jax.tables import linked, markdown

VERSION = 1
SIGMAS = (0, 5, 10, 15, 25, 50, 75)
JPEG_SIGMAS = (0, 5, 10, 15, 25)
QUALITIES = (95, 75, 50)
SETS = {"set12": ("gray", 1), "cbsd68": ("rgb", 4)}
"""Color of the images of a set, and the step between those that are used."""
PROTOCOL = (
    "Gaussian noise by numpy.random.RandomState(0), anew for each image, then clipped and rounded to 8 bits; "
    "outputs clipped and rounded to 8 bits; PSNR in dB over all channels, mean over images"
)


def _measure(
    data: Path, name: str, restorer: LearnedRestorer, sigmas: tuple[int, ...], quality: int | None
) -> dict[str, Any]:
    """Return a row for each noise level: mean and deviation of the estimates, and PSNR with both levels."""
    color, step = SETS[name]
    images = images_in(data / name, color)[::step]
    rows = []
    for sigma in sigmas:
        estimates, scores = [], []
        for _, clean in images:
            noisy, table = _noisy(clean, sigma, quality)
            estimates.append(estimate_noise_sigma(noisy, table))
            if sigma or quality:
                outputs = (restorer.restore_at(noisy, s, SILENT) for s in (sigma, estimates[-1]))
                scores.append([_psnr(output, clean) for output in outputs])
        row = {
            "sigma": sigma,
            "estimate": float(np.mean(estimates)),
            "deviation": float(np.std(estimates)),
        }
        if scores:
            true, estimated = np.mean(scores, axis=0)
            row |= {"psnr": float(true), "psnr_estimated": float(estimated)}
        rows.append(row)
    return {"rows": rows, "count": len(images), "quality": quality, "seed": 0, "protocol": PROTOCOL}


def _noisy(
    clean: np.ndarray, sigma: float, quality: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return an image with noise, as read from a file, and the quantization table of a JPEG file."""
    noise = np.random.RandomState(0).normal(0.0, sigma / 255, clean.shape)
    samples = np.rint(255 * np.clip(clean + noise, 0.0, 1.0)).astype(np.uint8)
    if quality is None:
        return samples.astype(np.float32) / 255, None
    file = io.BytesIO()
    Image.fromarray(samples).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        table = np.reshape(image.quantization[0], (8, 8)).astype(np.float32)
        return np.asarray(image).astype(np.float32) / 255, table


def _psnr(output: np.ndarray, clean: np.ndarray) -> float:
    rounded = np.rint(255 * np.clip(output, 0.0, 1.0)) / 255
    return float(psnr_from_mse(np.mean(np.square(rounded - clean, dtype=np.float64))))


def _published(
    data: Path,
    *,
    name: str,
    weights: str,
    sigmas: tuple[int, ...] = SIGMAS,
    quality: int | None = None,
) -> dict[str, Any]:
    network = load_torch_weights(data / "weights" / weights)
    restorer = LearnedRestorer(network.module, network.variables, noise_conditional=True)
    return _measure(data, name, restorer, sigmas, quality)


_color = functools.partial(_published, name="cbsd68", weights="ffdnet_color.pth")
PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "set12": functools.partial(_published, name="set12", weights="ffdnet_gray.pth"),
    "cbsd68": _color,
} | {
    f"jpeg_{quality}": functools.partial(_color, sigmas=JPEG_SIGMAS, quality=quality)
    for quality in QUALITIES
}

TITLES = {"set12": "Set12", "cbsd68": "CBSD68"} | {
    f"jpeg_{quality}": f"CBSD68, JPEG of quality {quality}" for quality in QUALITIES
}


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return the rows of all records: estimates, and PSNR with the true and the estimated level."""
    rows = []
    for part, record in records.items():
        for row in record["rows"]:
            figures = ["", "", ""]
            if "psnr" in row:
                true, estimated = row["psnr"], row["psnr_estimated"]
                figures = [f"{true:.2f}", f"{estimated:.2f}", f"**{true - estimated:.2f}**"]
            estimate = f"{row['estimate']:.1f} ± {row['deviation']:.1f}"
            rows.append([linked(TITLES[part], record), f"{row['sigma']}", estimate, *figures])
    header = "images | sigma | estimate | PSNR, true level | PSNR, estimate | lost"
    protocols = dict.fromkeys(record["protocol"] for record in records.values())
    return "\n\n".join([markdown(header, rows), *(f"Protocol: {p}." for p in protocols)])
