"""Gaussian denoising of gray images: Tables II and III of DnCNN, arXiv:1608.03981.

  deconv-jax tables denoising

The table has the twelve images of Set12 and the mean of BSD68 (68 images) at sigma 15, 25 and 50 (in units of
1/255). DnCNN-S and FFDNet (arXiv:1710.04026) have the weights that their authors published; FFDNet and
`denoise-gray`, a named model, are one network for all levels, which is told the level. Every method gets the same
noisy images. The papers' noise comes from MATLAB, so their figures differ in the second decimal.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    Compared,
    gap_reason,
    gap_table,
    images_in,
    named_record,
    named_restorer,
    named_title,
    protocol_line,
    published_restorer,
)

from deconv_jax import classical
from deconv_jax.data.degradations import GaussianNoise
from deconv_jax.errors import InputError
from deconv_jax.inference.restoration.evaluation import Evaluation, Restore
from deconv_jax.metrics.protocol import EvaluationProtocol
from deconv_jax.tables import linked, markdown

VERSION = 1
SIGMAS = (15, 25, 50)
SETS = ("set12", "bsd68")

NAMED = "denoise-gray"
NOISE = "noise by NumPy, not by MATLAB"

SOURCE = (
    "The paper's rows of DnCNN-S and BM3D are quoted from the repository of DnCNN's authors (BSD68) and from later "
    "papers (Set12), those of FFDNet from its authors' repository."
)
PAPER = {
    # Set12 in file order (Table III), then its mean, then the mean of BSD68 (Table II).
    "DnCNN-S": {
        15: [32.61, 34.97, 33.30, 32.20, 33.09, 31.70, 31.83, 34.62, 32.64, 32.42, 32.46, 32.47,
             32.859, 31.73],
        25: [30.18, 33.06, 30.87, 29.41, 30.28, 29.13, 29.43, 32.44, 30.00, 30.21, 30.10, 30.12,
             30.436, 29.23],
        50: [27.03, 30.00, 27.32, 25.70, 26.78, 25.87, 26.48, 29.39, 26.22, 27.20, 27.24, 26.90,
             27.178, 26.23],
    },
    "BM3D": {
        15: [31.91, 34.93, 32.69, 31.14, 31.85, 31.07, 31.37, 34.26, 33.10, 32.13, 31.92, 32.10,
             32.372, 31.07],
        25: [29.45, 32.85, 30.16, 28.56, 29.25, 28.42, 28.93, 32.07, 30.71, 29.90, 29.61, 29.71,
             29.969, 28.57],
        50: [26.13, 29.69, 26.68, 25.04, 25.82, 25.10, 25.90, 29.05, 27.22, 26.78, 26.81, 26.46,
             26.722, 25.62],
    },
}  # fmt: skip
PAPER_MEANS = {"FFDNet": {15: (32.75, 31.63), 25: (30.43, 29.19), 50: (27.32, 26.29)}}
"""Means of Set12 and BSD68, where the figures of the images are not quoted."""


def measure(data: Path, sigma: int, restore: Restore) -> dict[str, Any]:
    """Return PSNR and SSIM of Set12 and BSD68 with noise of a level, restored by a method."""
    evaluation = Evaluation(GaussianNoise(float(sigma)), EvaluationProtocol())
    sets = {name: evaluation.measure(restore, images_in(data / name, "gray")) for name in SETS}
    return {"sets": sets, "sigma": sigma, "protocol": evaluation.describe(), "seed": 0}


def _method(data: Path, *, sigma: int, restorer: Callable[[Path, int], Restore]) -> dict[str, Any]:
    return measure(data, sigma, restorer(data, sigma))


def _dncnn(data: Path, sigma: int) -> Restore:
    return published_restorer(data / "weights" / f"dncnn_{sigma}.pth")


def _ffdnet(data: Path, sigma: int) -> Restore:
    return published_restorer(data / "weights" / "ffdnet_gray.pth", sigma)


def _bm3d(data: Path, sigma: int) -> Restore:
    del data
    try:
        import bm3d
    except ImportError as error:
        raise InputError("this row needs BM3D: pip install 'deconv_jax[bench]'") from error
    return lambda noisy: bm3d.bm3d(noisy, sigma / 255).reshape(noisy.shape).astype(np.float32)


def _classical(name: str) -> Callable[[Path, int], Restore]:
    def restorer(data: Path, sigma: int) -> Restore:
        del data
        model = GaussianNoise(float(sigma))
        return lambda noisy: np.asarray(classical.METHODS[name](noisy[None], model)[0])

    return restorer


METHODS = {
    "DnCNN-S": ("dncnn", _dncnn),
    "FFDNet": ("ffdnet", _ffdnet),
    "BM3D": ("bm3d", _bm3d),
    "TV": ("tv", _classical("tv")),
    "Wavelet": ("wavelet", _classical("wavelet")),
    "Wiener": ("wiener", _classical("wiener")),
}


def _named(data: Path, *, sigma: int) -> dict[str, Any]:
    measured = measure(data, sigma, named_restorer(NAMED, sigma))
    return measured | {"model": named_record(NAMED)}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    f"{part}_{sigma}": functools.partial(_method, sigma=sigma, restorer=restorer)
    for part, restorer in METHODS.values()
    for sigma in SIGMAS
} | {f"named_{sigma}": functools.partial(_named, sigma=sigma) for sigma in SIGMAS}


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return a block for each noise level: PSNR of every image and both means."""
    blocks = []
    for sigma in SIGMAS:
        rows = []
        for method, (part, _) in METHODS.items():
            record = records.get(f"{part}_{sigma}")
            if record is not None:
                rows.append(_row(method, record))
            if method in PAPER:
                *paper, set12, bsd68 = PAPER[method][sigma]
                figures = [*(f"{v:.2f}" for v in paper), f"{set12:.3f}", f"{bsd68:.2f}", "", ""]
                rows.append([f"{method}, paper, quoted", *figures])
            elif method in PAPER_MEANS:
                set12, bsd68 = PAPER_MEANS[method][sigma]
                figures = [*[""] * 12, f"{set12:.2f}", f"{bsd68:.2f}", "", ""]
                rows.append([f"{method}, paper, quoted", *figures])
        if f"named_{sigma}" in records:
            record = records[f"named_{sigma}"]
            rows.append(_row(named_title(record), record))
        header = "method | " + " | ".join(f"{i:02d}" for i in range(1, 13))
        header += " | Set12 | BSD68 | SSIM Set12 | SSIM BSD68"
        blocks.append(f"#### sigma = {sigma}\n\n{markdown(header, rows)}")
    gaps = gap_table(["Set12", "BSD68"], _gaps(records))
    blocks += [f"#### Beside the papers\n\n{gaps}"] if gaps else []
    blocks.append(SOURCE)
    blocks += protocol_line(record["protocol"] for record in records.values())
    return "\n\n".join(blocks)


def _gaps(records: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, list[Compared], str]]:
    """Yield the rows of figures beside the papers'."""
    networks = {part: (method, "") for method, (part, _) in METHODS.items()}
    networks["named"] = ("FFDNet", f", `{NAMED}`")
    for sigma in SIGMAS:
        for part, (method, suffix) in networks.items():
            record = records.get(f"{part}_{sigma}")
            papers = (
                PAPER[method][sigma][-2:]
                if method in PAPER
                else PAPER_MEANS.get(method, {}).get(sigma)
            )
            if record is not None and papers:
                heres = [record["sets"][name]["mean"]["psnr"] for name in SETS]
                compared = [(record, *figures) for figures in zip(heres, papers, strict=True)]
                reason = gap_reason(
                    record,
                    NOISE,
                    untrained="package bm3d, not the authors' code" if part == "bm3d" else "",
                )
                yield f"{method}{suffix}, sigma {sigma}", compared, reason


def _row(title: str, record: Mapping[str, Any]) -> list[str]:
    sets = record["sets"]
    images = [f"{row['psnr']:.2f}" for row in sets["set12"]["images"]]
    means = [f"**{sets[name]['mean']['psnr']:.3f}**" for name in SETS]
    return [
        linked(title, record),
        *images,
        *means,
        *(f"{sets[name]['mean']['ssim']:.4f}" for name in SETS),
    ]
