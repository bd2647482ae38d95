"""Gaussian denoising of color images: CBSD68, with DnCNN-S (arXiv:1608.03981) and FFDNet (arXiv:1710.04026).

  deconv-jax tables color_denoising

The table has the means of 68 images at sigma 15, 25 and 50 (in units of 1/255). DnCNN-S, one network for each level, and
FFDNet, one for all, have the weights that their authors published; `denoise-color` is a named model, a FFDNet with a
small part of the paper's training. Every method gets the same noisy images.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from _common import (
    gap_reason,
    gap_table,
    images_in,
    named_record,
    named_restorer,
    named_title,
    protocol_line,
    published_restorer,
)

from deconv_jax.data.degradations import GaussianNoise
from deconv_jax.inference.restoration.evaluation import Evaluation, Restore
from deconv_jax.metrics.protocol import EvaluationProtocol
from deconv_jax.tables import linked, markdown

VERSION = 1
SIGMAS = (15, 25, 50)
NAMED = "denoise-color"

SOURCE = "The papers' rows are quoted from their authors' repositories."
PAPER = {
    "DnCNN-S": {15: 33.99, 25: 31.31, 50: 28.01},
    "FFDNet": {15: 33.87, 25: 31.21, 50: 27.96},
}


def _measure(data: Path, sigma: int, restore: Restore) -> dict[str, Any]:
    evaluation = Evaluation(GaussianNoise(float(sigma)), EvaluationProtocol())
    return evaluation.measure(restore, images_in(data / "cbsd68", "rgb")) | {"sigma": sigma}


def _noisy(data: Path, *, sigma: int) -> dict[str, Any]:
    return _measure(data, sigma, lambda image: image)


def _published(data: Path, *, weights: str, sigma: int) -> dict[str, Any]:
    return _measure(data, sigma, published_restorer(data / "weights" / weights, sigma))


def _named(data: Path, *, sigma: int) -> dict[str, Any]:
    return _measure(data, sigma, named_restorer(NAMED, sigma)) | {"model": named_record(NAMED)}


ROWS = {"noisy": "(noisy)", "dncnn": "DnCNN-S", "ffdnet": "FFDNet", "named": NAMED}
"""Methods by the first part of the names of their parts."""

PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {}
for _sigma in SIGMAS:
    PARTS |= {
        f"noisy_{_sigma}": functools.partial(_noisy, sigma=_sigma),
        f"dncnn_{_sigma}": functools.partial(
            _published, weights=f"dncnn_color_{_sigma}.pth", sigma=_sigma
        ),
        f"ffdnet_{_sigma}": functools.partial(_published, weights="ffdnet_color.pth", sigma=_sigma),
        f"named_{_sigma}": functools.partial(_named, sigma=_sigma),
    }


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return PSNR and SSIM, one row per method and one column per noise level."""
    rows = []
    for method, title in ROWS.items():
        found = {s: records[f"{method}_{s}"] for s in SIGMAS if f"{method}_{s}" in records}
        if found:
            first = next(iter(found.values()))
            figures = [_figures(found[s]) if s in found else "" for s in SIGMAS]
            rows.append([named_title(first) if "model" in first else title, *figures])
        if title in PAPER:
            rows.append([f"{title}, paper, quoted", *(f"{PAPER[title][s]:.2f}" for s in SIGMAS)])
    header = "PSNR / SSIM | " + " | ".join(f"sigma = {sigma}" for sigma in SIGMAS)
    gaps = []
    for part, title in (("dncnn", "DnCNN-S"), ("ffdnet", "FFDNet"), ("named", "FFDNet")):
        found = [records[f"{part}_{s}"] for s in SIGMAS if f"{part}_{s}" in records]
        if len(found) == len(SIGMAS):
            papers = [PAPER[title][record["sigma"]] for record in found]
            compared = [
                (r, r["mean"]["psnr"], paper) for r, paper in zip(found, papers, strict=True)
            ]
            reason = gap_reason(found[0], "noise by NumPy, not by MATLAB")
            gaps.append((f"{title}, `{NAMED}`" if part == "named" else title, compared, reason))
    table = gap_table((f"sigma {sigma}" for sigma in SIGMAS), gaps)
    protocols = [record["protocol"] for record in records.values()]
    return "\n\n".join(
        [markdown(header, rows), *filter(None, [table]), SOURCE, *protocol_line(protocols)]
    )


def _figures(record: Mapping[str, Any]) -> str:
    mean = record["mean"]
    return linked(f"**{mean['psnr']:.3f}** / {mean['ssim']:.4f}", record)
