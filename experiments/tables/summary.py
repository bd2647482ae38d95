"""One row for each published figure that this project measures again, for the README.

The rows come from the records of other tables, which have the details. There is nothing to run here.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import color_denoising
import denoiser_training
import denoising
import jpeg
import super_resolution
import vae_mnist
from _common import gap, training_of, training_summary

from deconv_jax.io import kind_of
from deconv_jax.records import read_record, record_path
from deconv_jax.tables import linked, markdown

VERSION = 1
PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {}
ROOT = Path(__file__).parents[2]
PUBLISHED_WEIGHTS = "published weights"
_SUPER_RESOLUTION = {
    "dncnn3_x3": "DnCNN-3",
    "named_x3": "FSRCNN",
    "espcn_x3": "ESPCN",
    "srcnn_x3": "SRCNN",
}
"""Names of the networks of the x3 rows, by part."""
REASONS = (
    "Published weights differ by noise and resizing, which were MATLAB's; networks trained here by the length of their "
    "training, and the VAE by its binarization."
)


def render(records: Mapping[str, Any]) -> str:
    """Return a row for each network: the paper's figure, the figure measured here, and their difference."""
    del records
    header = "task and test set | network | metric | paper, quoted | here | difference"
    return f"{markdown(header, list(_rows()))}\n\n{REASONS}"


def _rows() -> Iterator[list[str]]:
    paper = denoising.PAPER["DnCNN-S"][25][-1]
    budget = f"budget_{max(denoiser_training.BUDGETS)}"
    for table, part in (("denoising", "dncnn_25"), ("denoiser_training", budget)):
        for record in _records(table, part):
            here = record["sets"]["bsd68"]["mean"]["psnr"]
            yield _row("denoising, sigma 25, BSD68", "DnCNN-S", record, "PSNR, dB", paper, here)
    paper = denoising.PAPER_MEANS["FFDNet"][25][-1]
    for record in _records("denoising", "ffdnet_25"):
        here = record["sets"]["bsd68"]["mean"]["psnr"]
        yield _row("denoising, sigma 25, BSD68", "FFDNet", record, "PSNR, dB", paper, here)
    for part, name in (("dncnn_25", "DnCNN-S"), ("ffdnet_25", "FFDNet")):
        paper = color_denoising.PAPER[name][25]
        for record in _records("color_denoising", part):
            here = record["mean"]["psnr"]
            yield _row("color denoising, sigma 25, CBSD68", name, record, "PSNR, dB", paper, here)
    for part, name in _SUPER_RESOLUTION.items():
        paper = super_resolution.PAPER[name, 3][0]
        for record in _records("super_resolution", part):
            here = record["sets"]["set5"]["mean"]["psnr"]
            yield _row("super-resolution x3, Set5", name, record, "PSNR, dB", paper, here)
    paper = jpeg.PAPER["DnCNN-3"][10][0]
    for record in _records("jpeg", "dncnn3_10"):
        task, here = "JPEG artifacts, quality 10, Classic5", record["mean"]["psnr"]
        yield _row(task, "DnCNN-3", record, "PSNR, dB", paper, here)
    paper = min(vae_mnist.PUBLISHED.values())
    for record in _records("vae_mnist", "vae"):
        here = -record["metrics"]["iwae"]
        yield _row("density of binarized MNIST", "VAE", record, "-log p(x), nats", paper, here)


def _records(table: str, part: str) -> list[dict[str, Any]]:
    """Return the record of a part, or [] if it was not measured."""
    path = record_path(ROOT, table, part)
    return [read_record(path)] if kind_of(path) == "file" else []


def _row(
    task: str, name: str, record: Mapping[str, Any], metric: str, paper: float, here: float
) -> list[str]:
    training = training_summary(training_of(record)) or PUBLISHED_WEIGHTS
    figures = [f"{paper:.2f}", linked(f"{here:.2f}", record), gap(here, paper)]
    return [task, f"{name}, {training}", metric, *figures]
