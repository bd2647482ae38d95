"""Autoencoders of one family on two data sets: what passes through their codes, and how large these are.

  deconv-jax tables autoencoders

Each beside what does the same without a network: principal components for a code of numbers, k-means of
patches for a code of whole numbers. About 40 minutes on 2 CPU cores.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from _common import budget, run_part

from deconv_jax.tables import markdown

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
    """A row a model and data set."""
    rows = []
    for part, record in records.items():
        kind, _, data = part.partition("_")
        title, code, floor, other = _ROWS[kind](record)
        metrics = record["metrics"]
        rows.append(
            [
                f"{title}, {DATA[data]}",
                code,
                f"{metrics['psnr']:.2f} dB",
                floor,
                other,
                budget(record["training"]),
            ]
        )
    if not rows:
        return ""
    header = "model, test set | code of an image | PSNR | without a network | besides | training"
    return "\n\n".join(
        [
            markdown(header, rows),
            "PSNR: images in [0, 1], not rounded, mean over images of each image's. Of the VAE it is of "
            "the mean latents' mean image; its bits are those of a bound on the probability of 8-bit "
            "images.",
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
        "VAE, discretised logistic",
        f"{model['latent_dim']} latents, {metrics['kl'] / math.log(2):.0f} bits of KL",
        f"every pixel by itself: {-record['baseline']['independent_elbo']:,.0f} nats",
        f"-ELBO {-metrics['elbo']:,.1f} nats, {metrics['bits_per_dim']:.3f} bits/dim; "
        f"{metrics['active_units']:.0f} active",
    )


_ROWS = {"ae": _autoencoder, "vq": _vector_quantized, "vae": _variational}
