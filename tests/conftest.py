"""Every test runs strictly: 8 host devices, no rank promotion, run-time shape checks."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

from jaxtyping import install_import_hook

SHAPED = ["deconv_jax.ops", "deconv_jax.models", "deconv_jax.metrics", "deconv_jax.data.augment"]
install_import_hook(SHAPED, "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
