"""Denoising autoencoders of MNIST, compared with filters, at three levels of Gaussian noise.

  deconv-jax tables denoising_autoencoder

There is one network per noise level (Vincent et al., ICML 2008). Three filters get exactly the same noisy
images: a median filter, Lee's local Wiener filter (`scipy.signal.wiener`, with the true noise variance), and the
Wiener filter, which is the linear shift-invariant filter of least expected squared error for periodic images
with the mean and power spectrum of the training images. The size of a window, 3, 5 or 7 pixels, is chosen on
training images. All outputs, and the noisy images, are clipped to [0, 1], which raises PSNR because most pixels
are 0 or 1.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import scipy.signal
from _common import finished_run, protocol_line, training_summary

from deconv_jax import ops
from deconv_jax.data.degradations import noise_sigma
from deconv_jax.metrics.image import psnr_from_mse
from deconv_jax.tables import linked, markdown
from deconv_jax.workdir import open_workdir

VERSION = 1
SIGMAS = (25, 50, 100)
WINDOWS = (3, 5, 7)
NUM_SELECTION_IMAGES = 2_000
"""Number of training images that windows are chosen on."""

METHODS = {
    "input": "noisy image",
    "median": "median filter",
    "local_wiener": "local Wiener filter",
    "wiener": "Wiener filter",
    "dae": "**denoising autoencoder**",
}


def median(noisy: np.ndarray, window: int) -> np.ndarray:
    """Return the median in a square window around each pixel of images (count, height, width, 1), mirrored."""
    return scipy.ndimage.median_filter(noisy, size=(1, window, window, 1))


def local_wiener(noisy: np.ndarray, window: int, sigma: float) -> np.ndarray:
    """Shrink each pixel towards the mean of its window (Lee, 1980).

    Args:
      noisy: Images (count, height, width, 1). They are padded with zeros.
      window: Height and width of the window, in pixels.
      sigma: Standard deviation of the noise, in the images' units.
    """
    return scipy.signal.wiener(noisy, (1, window, window, 1), sigma**2)


def wiener(noisy: np.ndarray, train: np.ndarray, sigma: float) -> np.ndarray:
    """Apply the Wiener filter to images minus the mean of the clean images.

    Args:
      noisy: Images (count, height, width, 1).
      train: Clean images (train_count, height, width, 1), which give the mean and the power spectrum.
      sigma: Standard deviation of the noise, in the images' units.
    """
    mean = np.mean(train, axis=0)
    spectra = np.fft.rfftn(train - mean, axes=(1, 2))
    power = np.mean(np.square(np.abs(spectra)), axis=(0, 3))
    ratio = sigma**2 * mean.size / power
    psf = jnp.ones((1, 1))
    change = ops.wiener_filter(
        jnp.asarray(noisy - mean, jnp.float32),
        psf,
        noise_to_signal=jnp.asarray(ratio, jnp.float32),
    )
    return mean + np.asarray(change)


def mean_psnr(output: np.ndarray, clean: np.ndarray) -> float:
    """Return the mean PSNR in dB of images clipped to [0, 1]."""
    errors = np.mean(np.square(np.clip(output, 0.0, 1.0) - clean), axis=(1, 2, 3))
    return float(np.mean(psnr_from_mse(errors)))


def measure(data: Path, config: str) -> dict[str, Any]:
    """Train a config of Gaussian noise, "FAMILY/FILE.py:ARGUMENTS", and measure it and the filters.

    Returns:
      The record: "psnr" in dB by method, "windows" by filter, and the settings.
    """
    workdir, result, training = finished_run(config, data / "tfds")
    experiment = open_workdir(workdir)
    task: Any = experiment.task
    sigma = float(noise_sigma(task.degradation))
    train, test = (
        source.gather(np.arange(len(source)))["image"]
        for source in map(experiment.data.open, ("train", "test"))
    )

    def pair(images: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Return noisy and clean images. Image i gets the noise of example index first + i."""
        index = first + np.arange(len(images))
        return np.asarray(task.model_input({"image": images, "index": index})), images / 255.0

    noisy, clean = pair(test, 0)
    # Indices beyond the test set, so the noise differs from the test noise.
    chosen_noisy, chosen_clean = pair(train[:NUM_SELECTION_IMAGES], len(test))
    filters: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "median": median,
        "local_wiener": functools.partial(local_wiener, sigma=sigma),
    }
    windows, outputs = {}, {}
    for name, of_window in filters.items():
        by_window = {w: mean_psnr(of_window(chosen_noisy, w), chosen_clean) for w in WINDOWS}
        windows[name] = max(by_window, key=lambda w: by_window[w])
        outputs[name] = of_window(noisy, windows[name])
    outputs["wiener"] = wiener(noisy, train / 255.0, sigma)
    return {
        "psnr": {"input": result["baseline"]["test"]["input_psnr"]}
        | {name: mean_psnr(output, clean) for name, output in outputs.items()}
        | {"dae": result["metrics"]["test"]["psnr"]},
        "windows": windows,
        "sigma": 255 * sigma,
        "protocol": result["protocol"],
        "count": len(test),
        "training": training,
    }


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    f"mnist_{sigma}": functools.partial(measure, config=f"autoencoding/dae.py:sigma={sigma}")
    for sigma in SIGMAS
}


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return PSNR, one row per method and one column per noise level."""
    here = {sigma: records.get(f"mnist_{sigma}") for sigma in SIGMAS}
    found = [record for record in here.values() if record is not None]
    if not found:
        return ""
    rows = [
        [title, *(_cell(record, method) for record in here.values())]
        for method, title in METHODS.items()
    ]
    summaries = ["" if r is None else training_summary(r["training"]) for r in here.values()]
    rows.append(["training", *summaries])
    header = "PSNR, dB | " + " | ".join(f"sigma = {sigma}" for sigma in SIGMAS)
    chosen = f"Means over {found[0]['count']:,} images. Outputs are clipped. The window is in parentheses."
    protocol = protocol_line(record["protocol"] for record in found)
    return "\n\n".join([markdown(header, rows), chosen, *protocol])


def _cell(record: Mapping[str, Any] | None, method: str) -> str:
    if record is None:
        return ""
    window = record["windows"].get(method)
    size = "" if window is None else f" ({window} x {window})"
    return linked(f"{record['psnr'][method]:.2f}{size}", record)
