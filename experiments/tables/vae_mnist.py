"""Convolutional VAE of binarized MNIST, compared with published bounds of plain VAEs.

  deconv-jax tables vae_mnist

The config is experiments/autoencoding/vae.py (40 minutes on two CPU cores). Its bound is measured again with
1,000 samples. The importance-weighted bound rises with the number of samples, so compare figures only at the
same number. The binarization of the test images depends on a seed and differs from that of other publications.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from _common import finished_run, gap, training_summary

from deconv_jax.data.pipeline import evaluation_batches
from deconv_jax.tables import linked, markdown
from deconv_jax.workdir import load_state, open_workdir

VERSION = 1
CONFIG = "autoencoding/vae.py"
SAMPLES = 1_000
NUM_IMAGES = 2_000
"""Number of test images, the first ones, for the bound with `SAMPLES` samples."""
BATCH_SIZE = 500

PUBLISHED = {
    "VAE, Pythae's own run": 89.78,
    "VAE, reference value cited by Pythae": 89.9,
}
"""Negative log-likelihoods in nats in Pythae's table of reproduced results, from secondary sources."""


def _vae(data: Path) -> dict[str, Any]:
    workdir, result, training = finished_run(CONFIG, data / "tfds")
    experiment = open_workdir(workdir)
    task: Any = dataclasses.replace(experiment.task, iwae_samples=SAMPLES)  # type: ignore[type-var]
    # The data may have moved since the run.
    source = dataclasses.replace(experiment.data, data_dir=str(data / "tfds")).open("test")
    batches = (
        jax.tree.map(jax.numpy.asarray, batch)
        for batch in evaluation_batches(source, batch_size=BATCH_SIZE)
    )
    first = [batch for batch, _ in zip(batches, range(NUM_IMAGES // BATCH_SIZE), strict=False)]
    _, state = load_state(workdir, "last", lambda key: task.init(key, first[0]))
    return {
        "metrics": result["metrics"]["test"],
        "samples": experiment.task.iwae_samples,  # type: ignore[attr-defined]
        "metrics_of_more": task.evaluate(state, first),
        "samples_of_more": SAMPLES,
        "count_of_more": NUM_IMAGES,
        "baseline": result["baseline"]["test"],
        "protocol": result["protocol"],
        "count": result["counts"]["test"],
        "training": training,
    }


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {"vae": _vae}


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return bounds in nats, one row per model."""
    if "vae" not in records:
        return ""
    record = records["vae"]
    metrics, more = record["metrics"], record["metrics_of_more"]
    model = record["training"]["config"]["task"]["model"]
    few, many = record["samples"], record["samples_of_more"]
    rows = [
        [
            linked(
                f"**VAE, {model['latent_dim']} latents**, {record['training']['parameters']:,} parameters",
                record,
            ),
            f"{-metrics['elbo']:.2f}",
            f"**{-metrics['iwae']:.2f}**",
            "",
            f"{-more['iwae']:.2f} ({record['count_of_more']:,} images)",
            f"{metrics['bits_per_dim']:.4f}",
            f"{metrics['active_units']:.0f}",
        ],
        [
            linked("independent pixels", record),
            f"{-record['baseline']['independent_elbo']:.2f}",
            "",
            "",
            "",
            "",
            "",
        ],
        *(
            [f"{name} (quoted)", "", f"{value:.2f}", gap(-metrics["iwae"], value), "", "", ""]
            for name, value in PUBLISHED.items()
        ),
    ]
    header = (
        f"upper bound of -log p(x), nats | -ELBO | {few} samples | difference of ours | {many:,} samples | bits/dim (ELBO) | "
        "active latents"
    )
    return "\n\n".join(
        [
            markdown(header, rows),
            f"{training_summary(record['training'])}; {record['count']:,} test images. The bound with {many:,} samples "
            f"uses the first {record['count_of_more']:,} images, whose -ELBO is {-more['elbo']:.2f}. Quoted "
            "figures (Pythae library, arXiv:2206.08309) have another binarization, network and training, which are not known "
            "here in detail. "
            f"Protocol: {record['protocol']}.",
        ]
    )
