"""Random keys of examples, in training and in evaluation, and the seeds of all evaluations.

A key depends on a seed, on the training step and on the example's index in its data set, not on the
position in the batch. Random numbers are therefore independent of batch composition and devices.

Evaluations use the fixed seeds below instead of the experiment's seed, and no step: every model, step
and run is measured on the same degraded images, views and latents.

Note: Published results state these values. A different value gives different numbers.
"""

import jax
from jaxtyping import Array, Int, Key

from deconv_jax.data.augment import example_keys

VIEW_EVALUATION_SEED = 0
"""Seed of views (segmentation and detection)."""
RESTORATION_EVALUATION_SEED = 0
"""Seed of the degradations of a restoration task."""
GAN_EVALUATION_SEED = 20_000
"""Seed of the latents of a GAN's samples, and of the choice of training images for its baseline."""
VARIATIONAL_EVALUATION_SEED = 30_000
"""Seed of binarization and latents of a variational autoencoder."""
AUTOENCODING_EVALUATION_SEED = 40_000
"""Seed of the degradations of a denoising autoencoder."""


def step_key(seed: int, step: int | Array) -> Key[Array, ""]:
    """Return the key of a training step, folded from the seed."""
    return jax.random.fold_in(jax.random.key(seed), step)


def training_keys(
    seed: int, step: int | Array, index: Int[Array, " batch"]
) -> Key[Array, " batch"]:
    """Return one key per example for a training step.

    Args:
      seed: Seed of the experiment.
      step: Training step.
      index: Positions of the examples in their split.
    """
    return example_keys(step_key(seed, step), index)


def evaluation_keys(evaluation_seed: int, index: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """Return one key per example for an evaluation, the same in every step and run.

    Args:
      evaluation_seed: One of the fixed seeds of this module, not the experiment's seed.
      index: Positions of the examples in their split.
    """
    return example_keys(jax.random.key(evaluation_seed), index)
