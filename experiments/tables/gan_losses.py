"""Five adversarial losses, each with its usual regularizer, for the same number of steps, beside a VAE.

  deconv-jax tables gan_losses

There are three seeds for each loss on MNIST and Fashion-MNIST (about two hours on 2 CPU cores). The metrics use
the features of this project's small classifiers. Compare rows with each other and with the row of real images,
not with FID in papers. All networks are the same, except for spectral normalization where a row names it. The VAE is
that of experiments/autoencoding/vae.py; its samples are the means of the pixels, given latents of the prior.
"""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _common import finished_run
from _gan import Records, parts, real_row, rows, training_and_protocol

from deconv_jax.data.sources import in_memory
from deconv_jax.inference.generation.load import load_generator
from deconv_jax.inference.generation.sampling import generate, latents_from_seed
from deconv_jax.metrics.sample_quality import (
    ImageSetFeatures,
    concatenate_batches,
    sample_quality,
)
from deconv_jax.models.extractors import Extractor, load_extractor
from deconv_jax.tables import markdown
from deconv_jax.tasks.gan_evaluation import feature_rows
from deconv_jax.training.step import images_in_unit_range
from deconv_jax.workdir import open_workdir

VERSION = 1
LOSSES = {
    "minimax": "minimax (saturating)",
    "non_saturating": "non-saturating",
    "least_squares": "least squares",
    "hinge": "hinge, spectral normalization",
    "wasserstein": "Wasserstein, gradient penalty",
}
DATA = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
METRIC_DECIMALS = {
    "frechet_distance": 3,
    "kernel_distance": 4,
    "precision": 3,
    "recall": 3,
    "density": 3,
    "coverage": 3,
}

EXTRACTORS = {"mnist": "mnist", "fashion_mnist": "fashion"}
SEEDS = range(3)
_BATCH = 500


def _vae(data: Path, *, dataset: str, seed: int) -> dict[str, Any]:
    config = f"autoencoding/vae.py:data={dataset},iwae=50,steps=3000,seed={seed}"
    workdir, _, training = finished_run(config, data / "tfds")
    task, variables = load_generator(workdir)
    extractor = load_extractor(EXTRACTORS[dataset])
    test = in_memory(open_workdir(workdir).data.open("test")).arrays["image"]
    latents = latents_from_seed(len(test), task.latent_dim, seed=0)
    parts_of_test = np.split(test, range(_BATCH, len(test), _BATCH))
    sets = (parts_of_test, generate(task.sample, variables, latents))
    return {
        "metrics": sample_quality(*(_features(extractor, images) for images in sets)),
        "counts": {"test": len(test)},
        "protocol": f"features of {extractor.description}; samples of seed 0, rounded to 8 bits",
        "seed": seed,
        "training": training,
    }


def _features(extractor: Extractor, batches: Iterable[np.ndarray]) -> ImageSetFeatures:
    @jax.jit
    def describe(images: jax.Array) -> dict[str, jax.Array]:
        return feature_rows(extractor.apply, extractor.variables, images_in_unit_range(images))

    rows_of_batches = [jax.device_get(describe(images)) for images in batches]
    return concatenate_batches((row, np.ones(len(row["features"]))) for row in rows_of_batches)


PARTS = parts(
    {f"{data}_{loss}": f"{data}.py:loss={loss}" for data in DATA for loss in LOSSES}, seeds=SEEDS
) | {
    f"{data}_vae_{seed}": functools.partial(_vae, dataset=data, seed=seed)
    for data in DATA
    for seed in SEEDS
}


def render(records: Records) -> str:
    """Return, for each data set, a row for each loss and one for real images."""
    blocks = []
    for data, title in DATA.items():
        names = {f"{data}_{loss}": name for loss, name in LOSSES.items()}
        titles, lines, record = rows(records, names, METRIC_DECIMALS)
        if record is None:
            continue
        vae = {f"{data}_vae": "VAE"}
        lines += rows(records, vae, METRIC_DECIMALS)[1]
        lines.append(real_row(record, METRIC_DECIMALS))
        blocks += [
            f"#### {title}",
            markdown(" | ".join(["loss", *titles]), lines),
            training_and_protocol(record),
        ]
        if of_vae := records.get(f"{data}_vae_0"):
            blocks.append(f"VAE: {training_and_protocol(of_vae)}")
    return "\n\n".join(blocks)
