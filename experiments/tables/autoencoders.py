"""Autoencoders of MNIST and Fashion-MNIST: reconstruction quality and size of the code.

  deconv-jax tables autoencoders

Each network is compared with a method without a network: principal components for continuous codes, k-means
of patches for discrete codes. The runs take about 40 minutes on 2 CPU cores.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from _common import run_part, training_summary

from deconv_jax.tables import linked, markdown

VERSION = 1
DATA = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
CONFIGS = {
    "ae_mnist": "autoencoding/mnist.py",
    "ae_fashion_mnist": "autoencoding/fashion_mnist.py",
    "vq_mnist": "autoencoding/vqvae.py:data=mnist",
    "vq_fashion_mnist": "autoencoding/vqvae.py",
    "vae_fashion_mnist": "autoencoding/vae.py:data=fashion_mnist,iwae=50,steps=3000",
}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    part: run_part(config) for part, config in CONFIGS.items()
}


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return a row for each model and data set."""
    rows = []
    for part, record in records.items():
        kind, _, data = part.partition("_")
        title, code, floor, other = _ROWS[kind](record)
        metrics = record["metrics"]
        rows.append(
            [
                linked(f"{title}, {DATA[data]}", record),
                code,
                f"{metrics['psnr']:.2f} dB",
                floor,
                other,
                training_summary(record["training"]),
            ]
        )
    if not rows:
        return ""
    header = "model, test set | code | PSNR | without a network | more metrics | training"
    return "\n\n".join(
        [
            markdown(header, rows),
            "PSNR is the mean over images in [0, 1]; outputs are not rounded. The VAE decodes the posterior "
            "mean. Its bits per dimension follow from the ELBO of 8-bit images.",
        ]
    )


def _autoencoder(record: Mapping[str, Any]) -> tuple[str, str, str, str]:
    size = record["training"]["config"]["task"]["model"]["latent_dim"]
    return (
        "autoencoder",
        f"{size} numbers",
        f"PCA: {record['baseline']['pca_psnr']:.2f} dB",
        "",
    )


def _vector_quantized(record: Mapping[str, Any]) -> tuple[str, str, str, str]:
    model, metrics = record["training"]["config"]["task"]["model"], record["metrics"]
    pixels = model["image_shape"][0] * model["image_shape"][1]
    return (
        "VQ-VAE",
        f"{metrics['bits_per_dim'] * pixels:.0f} bits, {model['codebook_size']} codes",
        f"k-means of patches: {record['baseline']['patch_vq_psnr']:.2f} dB",
        f"perplexity {metrics['perplexity']:.0f}, {metrics['codes_used']:.0%} of codes used",
    )


def _variational(record: Mapping[str, Any]) -> tuple[str, str, str, str]:
    model, metrics = record["training"]["config"]["task"]["model"], record["metrics"]
    return (
        "VAE, discretized logistic",
        f"{model['latent_dim']} latents, {metrics['kl'] / math.log(2):.0f} bits of KL",
        f"independent pixels: {-record['baseline']['independent_elbo']:,.0f} nats",
        f"-ELBO {-metrics['elbo']:,.1f} nats, {metrics['bits_per_dim']:.3f} bits/dim; "
        f"{metrics['active_units']:.0f} active",
    )


_ROWS = {"ae": _autoencoder, "vq": _vector_quantized, "vae": _variational}
