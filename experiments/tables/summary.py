"""One row for each published figure that this project measures again, for the README.

The rows come from the records of other tables, which have the details. There is nothing to run here.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import denoising
import jpeg
import super_resolution
import vae_mnist
from _common import training_summary

from deconv_jax.io import read_json
from deconv_jax.records import record_path
from deconv_jax.tables import markdown

VERSION = 1
PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {}
ROOT = Path(__file__).parents[2]
PUBLISHED_WEIGHTS = "published weights"


def render(records: Mapping[str, Any]) -> str:
    """Return a row for each network: the paper's figure, the figure measured here, and their difference."""
    del records
    header = "task and test set | network | metric | paper | here | difference"
    return markdown(header, list(_rows()))


def _rows() -> Iterator[list[str]]:
    denoiser = denoising.PAPER["DnCNN-S"][25][-1]
    for part in ("dncnn_25", "dncnn_trained_25"):
        record = _record("denoising", part)
        here = record["sets"]["bsd68"]["mean"]["psnr"]
        yield _row("denoising, sigma 25, BSD68", "DnCNN-S", record, "PSNR, dB", denoiser, here)
    for part, (name, scale, _) in super_resolution.NETWORKS.items():
        record = _record("super_resolution", part)
        paper, here = super_resolution.PAPER[name, scale][0], record["sets"]["set5"]["mean"]["psnr"]
        yield _row(f"super-resolution x{scale}, Set5", name, record, "PSNR, dB", paper, here)
    record = _record("jpeg", "dncnn8_10")
    paper, here = jpeg.PAPER["DnCNN-3"][10][0], record["mean"]["psnr"]
    yield _row(
        "JPEG artifacts, quality 10, Classic5", "DnCNN of 8 layers", record, "PSNR, dB", paper, here
    )
    record = _record("vae_mnist", "vae")
    paper, here = min(vae_mnist.PUBLISHED.values()), -record["metrics"]["iwae"]
    yield _row("density of binarized MNIST", "VAE", record, "-log p(x), nats", paper, here)


def _record(table: str, part: str) -> dict[str, Any]:
    return read_json(record_path(ROOT, table, part))


def _row(
    task: str, name: str, record: Mapping[str, Any], metric: str, paper: float, here: float
) -> list[str]:
    training = training_summary(record["training"]) if "training" in record else PUBLISHED_WEIGHTS
    figures = [f"{paper:.2f}", f"{here:.2f}", f"{here - paper:+.2f}"]
    return [task, f"{name}, {training}", metric, *figures]
