"""Variational autoencoding: learn a latent-variable model of images by the evidence lower bound (ELBO).

Training maximizes the ELBO, E log p(x|z) - KL(q(z|x) || p(z)) (Kingma & Welling, arXiv:1312.6114,
equation 3), with one latent sample per image. Evaluation also reports the tighter importance-weighted
bound (Burda et al., arXiv:1509.00519, equation 8).

With a degradation, a conditional VAE models the clean images x that belong to a degraded one y, and both bounds
are of log p(x|y) (Sohn et al., NeurIPS 2015, equation 4). Its samples show what the degradation leaves open.

Note: Published results on "binarized MNIST" sample every pixel as 1 with its gray value as probability,
anew at every training step and once for the test set. Images thresholded at one half are a different
data set, on which -log p(x) is lower.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.batch import Batch
from deconv_jax.data.degradations import Degradation
from deconv_jax.data.forward_model import fold_in
from deconv_jax.data.random_keys import (
    VARIATIONAL_EVALUATION_SEED,
    evaluation_keys,
    training_keys,
)
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.image import psnr
from deconv_jax.metrics.masked_mean import masked_sums, mean_over
from deconv_jax.models.latent_sampling import draw_latents
from deconv_jax.models.vae import VAE, gaussian_kl
from deconv_jax.ops.collectives import mean_over_devices
from deconv_jax.tasks.latent_plot import latent_scatter
from deconv_jax.tasks.task_model import check_model, degrade_same_shape, run_model
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Precision, Scalars, TrainState, Tree
from deconv_jax.training.step import apply_model, gradient_step, images_in_unit_range, init_state
from deconv_jax.training.task import Task
from deconv_jax.viz.grids import picture_grid
from deconv_jax.viz.plots import Plot

Images = Float[Array, "batch height width channels"]
Latents = Float[Array, "batch latent_dim"]

_PURPOSE_BINARIZE, _PURPOSE_LATENTS, _PURPOSE_DEGRADE = 0, 1, 2
_LEVELS = 256
_ACTIVE_VARIANCE = 0.01
"""Variance of the posterior mean above which a latent unit is active (arXiv:1509.00519, section 5.2)."""


@dataclasses.dataclass(frozen=True)
class Variational(Task):
    """A variational autoencoder of images in [0, 1].

    Attributes:
      model: `VAE`; a conditional one if there is a degradation.
      optimizer: Optimizer of the model.
      precision: "f32", or "bf16" for bfloat16 weights and activations.
      beta: Weight of the KL divergence (Higgins et al. 2017, equation 4); 1 for the ELBO.
      kl_warmup_steps: Number of steps in which that weight rises linearly from 0 (Sonderby et al.,
        arXiv:1602.02282); 0 for no warm-up.
      free_bits: KL divergence of a latent, batch mean in nats, below which it is not penalized
        (Kingma et al., arXiv:1606.04934, appendix C.8); 0 for none.
      binarize: Binarization of images, which requires the Bernoulli likelihood: "stochastic" samples
        every pixel as 1 with its value as probability, "threshold" cuts at one half.
      degradation: Shape-preserving degradation whose result, of the modeled image, is the model's condition;
        None for none.
      iwae_samples: Number of latent samples per image in evaluation, for both bounds.
      seed: Seed of latent samples, binarization and degradations.
    """

    model: nn.Module
    optimizer: Optimizer
    precision: Precision = "f32"
    beta: float = 1.0
    kl_warmup_steps: int = 0
    free_bits: float = 0.0
    binarize: Literal["none", "stochastic", "threshold"] = "none"
    degradation: Degradation | None = None
    iwae_samples: int = 50
    seed: int = 0

    monitor: ClassVar[str] = "elbo"
    metric_names: ClassVar[tuple[str, ...]] = (
        "elbo",
        "iwae",
        "kl",
        "psnr",
        "bits_per_dim",
        "active_units",
    )

    def __post_init__(self) -> None:
        check_model(self.model, "log_likelihood", "a variational autoencoder", "vae")
        at_least("task.iwae_samples", self.iwae_samples, 1)
        for field in ("beta", "kl_warmup_steps", "free_bits"):
            at_least(f"task.{field}", getattr(self, field), 0)
        if self.binarize != "none" and self._vae.likelihood != "bernoulli":
            raise InputError(
                f"task.binarize={self.binarize!r} requires task.model.likelihood='bernoulli'; got "
                f"{self._vae.likelihood!r}"
            )
        conditional = getattr(self.model, "conditional", False)
        if conditional != (self.degradation is not None):
            raise InputError(
                "task.degradation and task.model.conditional=True require each other; got "
                f"degradation={self.degradation} and conditional={conditional}"
            )

    @property
    def protocol(self) -> str:
        """Definition of the metrics of `evaluate`, a sentence that is stored with results."""
        images = {
            "none": "images in [0, 1]",
            "stochastic": "images binarized once, each pixel 1 with its value as probability, by "
            f"jax.random, seed {VARIATIONAL_EVALUATION_SEED} folded with the image's index",
            "threshold": "images thresholded at one half",
        }[self.binarize]
        likelihood = self._vae.likelihood
        bits = {
            "bernoulli": "bits_per_dim: -elbo / (pixels ln 2)",
            "gaussian": "densities of images in [0, 1]; bits_per_dim: -elbo / (pixels ln 2) + log2 255, "
            "for densities of 8-bit levels",
            "discretized_logistic": "probabilities of 8-bit levels; bits_per_dim: -elbo / (pixels ln 2)",
        }[likelihood]
        if self.degradation is not None:
            images += f"; bounds of log p(x|y) for y by {self.degradation.describe()}"
        return (
            f"{images}; {likelihood} likelihood; elbo and iwae in nats per image, means over the split; "
            f"elbo: {self.iwae_samples} latent samples, KL divergence in closed form; iwae: "
            f"importance-weighted bound with {self.iwae_samples} samples; {bits}; psnr in dB of the "
            "decoded posterior mean against the modeled image; active_units: latents whose posterior "
            f"mean has a variance above {_ACTIVE_VARIANCE} over the split"
        )

    @property
    def latent_dim(self) -> int:
        """Length of a latent vector."""
        return self._vae.latent_dim

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of samples."""
        return self._vae.image_shape

    @property
    def num_classes(self) -> int:
        """Number of classes of samples: 0, sampling is unconditional."""
        return 0

    @property
    def _vae(self) -> VAE:
        return cast(VAE, self.model)

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """Return the initial state for images of the batch's shape.

        Raises:
          InputError: The images do not fit the model.
        """
        noise = jnp.zeros((1, self.latent_dim))
        first = images_in_unit_range(batch["image"][:1])
        condition = () if self.degradation is None else (first,)
        return init_state(self.model, self.optimizer, key, batch["image"], noise, *condition)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """Take a gradient step on the negative ELBO with `beta`, warm-up and free bits.

        Scalars: the unmodified "elbo", "kl" and "log_likelihood", in nats per image; and
        "loss", "grad_norm" (before clipping) and "learning_rate".
        """

        def loss(variables: Tree, batch: Batch) -> tuple[jax.Array, tuple[Scalars, Tree]]:
            keys = training_keys(self.seed, state.step, batch["index"])
            images = self._modeled_images(keys, batch)
            noise = draw_latents(fold_in(keys, _PURPOSE_LATENTS), self.latent_dim)
            (log_likelihood, mean, log_variance), stats = apply_model(
                self.model,
                variables,
                images,
                noise,
                self.degrade(keys, images),
                train=True,
                precision=self.precision,
            )
            # Free bits apply to the mean over the whole batch, not over a device's part of it.
            latent_kl = mean_over_devices(jnp.mean(gaussian_kl(mean, log_variance), axis=0))
            fit, kl = jnp.mean(log_likelihood), jnp.sum(latent_kl)
            penalty = jnp.sum(jnp.maximum(latent_kl, self.free_bits)) if self.free_bits else kl
            scalars = {"elbo": fit - kl, "kl": kl, "log_likelihood": fit}
            return self._kl_weight(state.step) * penalty - fit, (scalars, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def _kl_weight(self, step: jax.Array) -> jax.Array | float:
        if not self.kl_warmup_steps:
            return self.beta
        return self.beta * jnp.minimum(step / self.kl_warmup_steps, 1.0)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Compute both bounds and the quality of reconstructions over a split.

        Returns:
          Means over images of "elbo", "iwae" and "kl", in nats, and of "psnr" (dB) of the decoded
          posterior mean; "bits_per_dim", computed from "elbo"; and "active_units", the number of
          latents whose posterior mean varies over the split.

        Raises:
          InputError: There are no examples.
        """
        means = mean_over(batches, functools.partial(self._metric_sums, state))
        pixels = math.prod(self.image_shape)
        bits = -means["elbo"] / (pixels * math.log(2))
        if self._vae.likelihood == "gaussian":
            bits += math.log2(_LEVELS - 1)
        variance = means.pop("latents_squared") - means.pop("latents") ** 2
        active = float(np.sum(variance > _ACTIVE_VARIANCE))
        return means | {"bits_per_dim": bits, "active_units": active}

    @functools.partial(jit, static_argnums=0)
    def _metric_sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        keys, images = self._evaluation_images(batch)
        call = functools.partial(run_model, self, state.inference_variables())
        condition = self.degrade(keys, images)
        mean, log_variance = call(images, condition, method="encode")
        reconstruction = call(mean, condition, method="decode")
        kl = jnp.sum(gaussian_kl(mean, log_variance), axis=-1)

        def add_sample(
            carry: tuple[Array, Array], number: Array
        ) -> tuple[tuple[Array, Array], None]:
            """Add a latent sample to the sum of log p(x|z) and to the log of the sum of weights."""
            fit, log_weights = carry
            noise = draw_latents(fold_in(fold_in(keys, _PURPOSE_LATENTS), number), self.latent_dim)
            z = mean + jnp.exp(0.5 * log_variance) * noise
            log_likelihood = call(images, z, condition, method="log_likelihood")
            # log p(z) - log q(z|x); the constants of both normal densities cancel.
            ratio = 0.5 * jnp.sum(jnp.square(noise) + log_variance - jnp.square(z), axis=-1)
            return (fit + log_likelihood, jnp.logaddexp(log_weights, log_likelihood + ratio)), None

        start = (jnp.zeros(len(images)), jnp.full(len(images), -jnp.inf))
        (fit, log_weights), _ = jax.lax.scan(add_sample, start, jnp.arange(self.iwae_samples))
        metrics = {
            "elbo": fit / self.iwae_samples - kl,
            "iwae": log_weights - math.log(self.iwae_samples),
            "kl": kl,
            "psnr": psnr(reconstruction, images),
        }
        mask = batch["mask"][:, None]
        return masked_sums(metrics, batch["mask"]) | {
            "latents": jnp.sum(mask * mean, axis=0),
            "latents_squared": jnp.sum(mask * jnp.square(mean), axis=0),
        }

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Return "reconstructions": rows of (binarized) images, reconstructions, and samples without the image.

        With a degradation, the samples belong to degraded images, which are a row, too.
        """
        rows = self._picture_rows(state, batch)
        return {
            "reconstructions": picture_grid(
                {name: np.clip(rows[name], 0.0, 1.0) for name in sorted(rows)}
            )
        }

    def plots(
        self, state: TrainState, batches: Iterable[Batch], metrics: Mapping[str, float]
    ) -> dict[str, Plot]:
        """Return "codes", a scatter plot of posterior means, one point per image; {} for one latent.

        Latents with more than two entries are projected on their first two principal components.
        """
        del metrics
        return latent_scatter(batches, functools.partial(self._posterior_means, state))

    @functools.partial(jit, static_argnums=0)
    def _posterior_means(self, state: TrainState, batch: Batch) -> Latents:
        keys, images = self._evaluation_images(batch)
        return self._encode(state.inference_variables(), images, self.degrade(keys, images))

    @functools.partial(jit, static_argnums=0)
    def _picture_rows(self, state: TrainState, batch: Batch) -> dict[str, Images]:
        keys, images = self._evaluation_images(batch)
        variables = state.inference_variables()
        condition = self.degrade(keys, images)
        mean = self._encode(variables, images, condition)
        latents = draw_latents(fold_in(keys, _PURPOSE_LATENTS), self.latent_dim)
        rows = {
            "original": images,
            "reconstruction": self._decode(variables, mean, condition),
            "sample of the prior": self._decode(variables, latents, condition),
        }
        return rows if condition is None else rows | {"degraded": condition}

    def _encode(self, variables: Tree, images: Images, condition: Images | None) -> Latents:
        """Return the means of the posterior."""
        return run_model(self, variables, images, condition, method="encode")[0]

    def sample(
        self, variables: Mapping[str, Tree], latents: jax.Array, labels: jax.Array | None = None
    ) -> Images:
        """Return the mean images in [0, 1] of latents.

        Args:
          variables: Variables from `TrainState.inference_variables`.
          latents: Latent vectors (batch, latent_dim).
          labels: Ignored, since there are no classes.

        Raises:
          InputError: There is a degradation; `restore` has the samples for a degraded image.
        """
        del labels
        if self.degradation is not None:
            raise InputError(
                "a conditional VAE draws samples of a degraded image only, in Python by Variational.restore"
            )
        return self._decode(variables, latents, None)

    def restore(
        self,
        variables: Mapping[str, Tree],
        degraded: Images,
        latents: Float[Array, "samples batch d"],
    ) -> Float[Array, "samples batch height width channels"]:
        """Return mean images in [0, 1] of p(x|z, y), for latents z of the prior and degraded images y.

        Args:
          variables: Variables from `TrainState.inference_variables`.
          degraded: Degraded images y (batch, height, width, channels).
          latents: Latents (samples, batch, latent_dim), `samples` for each image.
        """
        return jax.lax.map(lambda z: self._decode(variables, z, degraded), latents)

    def _decode(
        self, variables: Mapping[str, Tree], latents: Latents, condition: Images | None
    ) -> Images:
        """Return the mean images of latents."""
        return run_model(self, variables, latents, condition, method="decode")

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Return "independent_elbo", the log-likelihood of a model of independent pixels.

        Every pixel has its own distribution, fitted to the training set and matching the model's
        likelihood: Bernoulli or categorical over 8-bit levels, both with add-one smoothing, or normal
        with a standard deviation of at least 0.01. The unit is nats per image. Returns {} for a Bernoulli likelihood of images that are not binarized.
        """
        fit, look = (source.gather(np.arange(len(source)))["image"] for source in (train, test))
        likelihood = self._vae.likelihood
        if likelihood == "bernoulli":
            if self.binarize == "none":
                return {}
            keys = evaluation_keys(VARIATIONAL_EVALUATION_SEED, jnp.arange(len(look)))
            binary = np.asarray(self._modeled_images(keys, {"image": jnp.asarray(look)}))
            ones = fit / 255.0 if self.binarize == "stochastic" else fit > 127.5
            mean = (ones.sum(axis=0) + 1.0) / (len(fit) + 2.0)
            values = binary * np.log(mean) + (1 - binary) * np.log1p(-mean)
        elif likelihood == "gaussian":
            mean, deviation = fit.mean(axis=0) / 255.0, np.maximum(fit.std(axis=0) / 255.0, 1e-2)
            values = -0.5 * np.square((look / 255.0 - mean) / deviation) - np.log(
                deviation * math.sqrt(2 * math.pi)
            )
        else:
            counts = np.stack([np.sum(fit == level, axis=0) for level in range(_LEVELS)]) + 1.0
            table = np.log(counts / (len(fit) + _LEVELS))
            values = np.take_along_axis(table, look.astype(np.int64), axis=0)
        return {"independent_elbo": float(values.sum(axis=(1, 2, 3)).mean())}

    def _evaluation_images(self, batch: Batch) -> tuple[Key[Array, " batch"], Images]:
        """Return the evaluation keys and the modeled images of a batch."""
        keys = evaluation_keys(VARIATIONAL_EVALUATION_SEED, batch["index"])
        return keys, self._modeled_images(keys, batch)

    def degrade(self, keys: Key[Array, " batch"], images: Images) -> Images | None:
        """Return the degraded images, which may have values outside [0, 1]; None without a degradation.

        Args:
          keys: Key of each image.
          images: Modeled images.

        Raises:
          InputError: The degradation changes the shape of the images.
        """
        if self.degradation is None:
            return None
        return degrade_same_shape(self.degradation, images, fold_in(keys, _PURPOSE_DEGRADE))

    def _modeled_images(self, keys: Key[Array, " batch"], batch: Batch) -> Images:
        """Return the images whose distribution is learned, binarized if `binarize` says so."""
        images = images_in_unit_range(batch["image"])
        if self.binarize == "none":
            return images
        if self.binarize == "threshold":
            return (images > 0.5).astype(jnp.float32)

        def draw(key: Array, image: Array) -> Array:
            return jax.random.bernoulli(key, image).astype(jnp.float32)

        return jax.vmap(draw)(fold_in(keys, _PURPOSE_BINARIZE), images)
