"""Non-blind deblurring of Set12: classical priors, and a learned denoiser as a prior.

  deconv-jax tables deblurring

Image i of Set12 is blurred (circularly) by kernel i of `kernels/kernels_12.mat`: four isotropic Gaussians,
four anisotropic ones, and four of camera shake. Noise of sigma 2.55 or 7.65 (in units of 1/255) is added.
Every method gets the kernel and the noise level, and has its default options. The denoisers of plug-and-play are the
published DnCNN networks for sigma 15, 25 and 50, with the options of `classical.any_level_options`, whose weight was
chosen on images of `train400/`; or one FFDNet, published or the named model `denoise-gray`, which is told each level.
No paper has this table. Table 3 of DPIR (arXiv:2008.13751) is closest.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from _common import images_in, named_record, named_title, protocol_line

from deconv_jax import classical, zoo
from deconv_jax.data.degradations import Blur, Chain, GaussianNoise
from deconv_jax.inference.restoration.evaluation import Evaluation
from deconv_jax.inference.restoration.pnp_denoiser import (
    PnpDenoiser,
    TrainedDenoiser,
    make_pnp_denoiser,
)
from deconv_jax.metrics.protocol import EvaluationProtocol, mean_of_rows
from deconv_jax.models.weight_import import load_torch_weights
from deconv_jax.tables import linked, markdown

VERSION = 1
SIGMAS = (2.55, 7.65)
LEVELS = (15, 25, 50)
"""Noise levels of the DnCNN networks, in units of 1/255."""
NAMED = "denoise-gray"

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
}


def _dncnn(data: Path) -> PnpDenoiser:
    networks = [load_torch_weights(data / "weights" / f"dncnn_{level}.pth") for level in LEVELS]
    return make_pnp_denoiser([TrainedDenoiser("DnCNN", *n) for n in networks], LEVELS)


def _ffdnet(data: Path) -> PnpDenoiser:
    network = load_torch_weights(data / "weights" / "ffdnet_gray.pth")
    return make_pnp_denoiser([TrainedDenoiser("FFDNet", *network)])


def _named(data: Path) -> PnpDenoiser:
    del data
    model = zoo.load(NAMED)
    return make_pnp_denoiser([TrainedDenoiser(NAMED, model.task.model, model.variables, True)])


PLUGGED = {
    "plug_and_play": ("plug and play, DnCNN of three levels", _dncnn),
    "plug_and_play_ffdnet": ("plug and play, FFDNet", _ffdnet),
    "plug_and_play_named": (f"plug and play, {NAMED}", _named),
}
"""Title and denoiser of each part that plugs a network in."""


def _measure(
    data: Path, *, method: str, plugged: Callable[[Path], PnpDenoiser] | None = None
) -> dict[str, Any]:
    denoiser = plugged(data) if plugged else None
    stated = dict(denoiser.options) if denoiser else {}
    options = stated | ({"denoiser": denoiser.denoiser} if denoiser else {})
    kernels = scipy.io.loadmat(data / "kernels" / "kernels_12.mat")["kernels"][0]
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
    record = {"sigmas": by_sigma, "options": stated, "protocol": rows[0]["protocol"], "seed": 0}
    return record | ({"model": named_record(NAMED)} if plugged is _named else {})


def _restore(
    method: str, model: Chain, options: Mapping[str, Any], image: np.ndarray
) -> np.ndarray:
    if method == "observed":
        return image
    return np.asarray(classical.METHODS[method](image[None], model, **options)[0])


PARTS = {method: functools.partial(_measure, method=method) for method in METHODS} | {
    part: functools.partial(_measure, method="plug_and_play", plugged=plugged)
    for part, (_, plugged) in PLUGGED.items()
}


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return a block for each noise level: PSNR of every image and the mean."""
    titles = METHODS | {part: title for part, (title, _) in PLUGGED.items()}
    blocks = []
    for sigma in SIGMAS:
        rows = []
        for method, title in titles.items():
            if method in records:
                record = records[method]
                if "model" in record:
                    title = f"plug and play, {named_title(record)}"
                measured = record["sigmas"][str(sigma)]
                images = [f"{row['psnr']:.2f}" for row in measured["images"]]
                mean = measured["mean"]
                rows.append(
                    [
                        linked(title, record),
                        *images,
                        f"**{mean['psnr']:.2f}**",
                        f"{mean['ssim']:.4f}",
                    ]
                )
        header = "method | " + " | ".join(f"{i:02d}" for i in range(1, 13)) + " | mean | SSIM"
        blocks.append(f"#### sigma = {sigma}\n\n{markdown(header, rows)}")
    blocks += protocol_line(
        row["protocol"]
        for record in records.values()
        for measured in record["sigmas"].values()
        for row in measured["images"]
    )
    return "\n\n".join(blocks)
