"""Non-blind deblurring of Set12: classical priors, and a learned denoiser as a prior.

  deconv-jax tables deblurring

Image i of Set12 is blurred (circularly) by kernel i of `kernels/kernels_12.mat`: four isotropic Gaussians,
four anisotropic ones, and four of camera shake. Noise of sigma 2.55 or 7.65 (in units of 1/255) is added.
Every method gets the kernel and the noise level, and has its default options. Plug-and-play has those of
`classical.any_level_options`; its denoisers are the published DnCNN networks for sigma 15, 25 and 50, and its weight
was chosen on images of `train400/`. No paper has this table. Table 3 of DPIR (arXiv:2008.13751) is closest.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy.io
from _common import images_in, protocol_line
from jax.tree_util import Partial

from deconv_jax import classical
from deconv_jax.data.degradations import Blur, Chain, GaussianNoise
from deconv_jax.inference.restoration.evaluation import Evaluation
from deconv_jax.metrics.protocol import EvaluationProtocol, mean_of_rows
from deconv_jax.models.weight_import import load_torch_weights
from deconv_jax.tables import markdown

VERSION = 1
SIGMAS = (2.55, 7.65)
LEVELS = (15, 25, 50)
"""Noise levels of the denoisers, in units of 1/255."""

METHODS = {
    "observed": "(blurred and noisy)",
    "inverse": "thresholded inverse filter",
    "wiener": "Wiener",
    "unsupervised_wiener": "Wiener, unsupervised",
    "tikhonov": "Tikhonov, Laplacian",
    "richardson_lucy": "Richardson-Lucy",
    "cgls": "CGLS, discrepancy principle",
    "tv": "total variation",
    "wavelet": "wavelet sparsity, FISTA",
    "plug_and_play": "plug and play, DnCNN",
}


def _measure(data: Path, *, method: str) -> dict[str, Any]:
    kernels = scipy.io.loadmat(data / "kernels" / "kernels_12.mat")["kernels"][0]
    options = _plugged(data) if method == "plug_and_play" else {}
    images = images_in(data / "set12", "gray")
    by_sigma = {}
    for sigma in SIGMAS:
        rows = []
        for (name, image), kernel in zip(images, kernels, strict=True):
            model = Chain((Blur(kernel.astype(np.float32)), GaussianNoise(sigma)))
            evaluation = Evaluation(model, EvaluationProtocol())
            restore = functools.partial(_restore, method, model, options)
            measured = evaluation.measure(restore, [(name, image)])
            rows += [row | {"protocol": measured["protocol"]} for row in measured["images"]]
        means = mean_of_rows({n: row[n] for n in ("psnr", "ssim")} for row in rows)
        by_sigma[str(sigma)] = {"images": rows, "mean": means, "count": len(rows)}
    stated = {name: value for name, value in options.items() if name != "denoiser"}
    return {"sigmas": by_sigma, "options": stated, "protocol": rows[0]["protocol"], "seed": 0}


def _restore(
    method: str, model: Chain, options: Mapping[str, Any], image: np.ndarray
) -> np.ndarray:
    if method == "observed":
        return image
    return np.asarray(classical.METHODS[method](image[None], model, **options)[0])


def _plugged(data: Path) -> dict[str, Any]:
    networks = [load_torch_weights(data / "weights" / f"dncnn_{level}.pth") for level in LEVELS]
    functions = [Partial(_apply, Partial(n.module.apply), n.variables) for n in networks]
    levels = [level / 255 for level in LEVELS]
    denoiser = classical.any_level_denoiser(functions, levels)
    return {"denoiser": denoiser} | classical.any_level_options(levels)


def _apply(apply: Any, variables: Any, images: jax.Array) -> jax.Array:
    return apply(variables, images)


PARTS = {method: functools.partial(_measure, method=method) for method in METHODS}


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return a block for each noise level: PSNR of every image and the mean."""
    blocks = []
    for sigma in SIGMAS:
        rows = []
        for method, title in METHODS.items():
            if method in records:
                measured = records[method]["sigmas"][str(sigma)]
                images = [f"{row['psnr']:.2f}" for row in measured["images"]]
                mean = measured["mean"]
                rows.append([title, *images, f"**{mean['psnr']:.2f}**", f"{mean['ssim']:.4f}"])
        header = "method | " + " | ".join(f"{i:02d}" for i in range(1, 13)) + " | mean | SSIM"
        blocks.append(f"#### sigma = {sigma}\n\n{markdown(header, rows)}")
    blocks += protocol_line(
        row["protocol"]
        for record in records.values()
        for measured in record["sigmas"].values()
        for row in measured["images"]
    )
    return "\n\n".join(blocks)
