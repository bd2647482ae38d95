"""A convolutional VAE of binarised MNIST beside the published bounds of plain VAEs.

  deconv-jax tables vae_mnist

The config of experiments/autoencoding/vae.py (40 minutes on two CPU cores), and its bounds once more
with a thousand samples. The bound rises with the number of samples, so a figure goes with its number; and
the test images are drawn once from gray ones by a seed, which is not the draw that others measured on.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from _common import budget, finished_run

from deconv_jax.data.pipeline import evaluation_batches
from deconv_jax.tables import markdown
from deconv_jax.workdir import load_state, open_workdir

VERSION = 1
CONFIG = "autoencoding/vae.py"
SAMPLES = 1_000
COUNTED = 2_000
"""Test images, the first, that the bound of so many samples is of."""
AT_A_TIME = 500

PUBLISHED = {
    "VAE, Pythae's own run": 89.78,
    "VAE, the reference it names": 89.9,
}
"""Negative log-likelihoods in nats as Pythae's table of reproductions has them, quoted from another text."""


def _vae(data: Path) -> dict[str, Any]:
    workdir, result, training = finished_run(CONFIG, data / "tfds")
    experiment = open_workdir(workdir)
    task: Any = dataclasses.replace(experiment.task, iwae_samples=SAMPLES)  # type: ignore[type-var]
    # Of a run that is only read the folder may be another one now.
    source = dataclasses.replace(experiment.data, data_dir=str(data / "tfds")).source("test")
    batches = (
        jax.tree.map(jax.numpy.asarray, batch)
        for batch in evaluation_batches(source, batch_size=AT_A_TIME)
    )
    first = [batch for batch, _ in zip(batches, range(COUNTED // AT_A_TIME), strict=False)]
    _, state = load_state(workdir, "last", lambda key: task.init(key, first[0]))
    return {
        "metrics": result["metrics"]["test"],
        "samples": experiment.task.iwae_samples,  # type: ignore[attr-defined]
        "metrics_of_more": task.evaluate(state, first),
        "samples_of_more": SAMPLES,
        "count_of_more": COUNTED,
        "baseline": result["baseline"]["test"],
        "protocol": result["protocol"],
        "count": result["counts"]["test"],
        "training": training,
    }


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {"vae": _vae}


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Bounds in nats, a row a model."""
    if "vae" not in records:
        return ""
    record = records["vae"]
    metrics, more = record["metrics"], record["metrics_of_more"]
    model = record["training"]["config"]["task"]["model"]
    few, many = record["samples"], record["samples_of_more"]
    rows = [
        [
            f"**VAE, {model['latent_dim']} latents**, {record['training']['parameters']:,} parameters",
            f"{-metrics['elbo']:.2f}",
            f"**{-metrics['iwae']:.2f}**",
            f"{-more['iwae']:.2f} ({record['count_of_more']:,} images)",
            f"{metrics['bits_per_dim']:.4f}",
            f"{metrics['active_units']:.0f}",
        ],
        ["every pixel by itself", f"{-record['baseline']['independent_elbo']:.2f}", "", "", "", ""],
        *(
            [f"{name} (quoted)", "", f"{value:.2f}", "", "", ""]
            for name, value in PUBLISHED.items()
        ),
    ]
    header = (
        f"-log p(x) at most, nats | -ELBO | {few} samples | {many:,} samples | bits/dim (ELBO) | "
        "active latents"
    )
    return "\n\n".join(
        [
            markdown(header, rows),
            f"{budget(record['training'])}; {record['count']:,} test images. The bound of {many:,} samples "
            f"is of the first {record['count_of_more']:,} alone, whose -ELBO is {-more['elbo']:.2f}. Quoted "
            "figures (of the Pythae library, arXiv:2206.08309) are of another draw of black and white. "
            f"Protocol: {record['protocol']}.",
        ]
    )
