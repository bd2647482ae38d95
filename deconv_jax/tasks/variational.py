"""Variational autoencoding: learn latents of images, and a distribution of images, by the evidence lower bound.

What is maximised is the ELBO, E log p(x|z) - KL(q(z|x) || p(z)) (Kingma & Welling, arXiv:1312.6114,
equation 3) with one sample of z an image; how good the model is says the tighter importance-weighted
bound of Burda et al. (arXiv:1509.00519, equation 8). What a reader would get wrong: figures on "binarised
MNIST" are of images that were *drawn*, each pixel 1 with its gray value as probability, anew at every
step of training and once for the test set; images cut at one half are other data with lower figures.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.augment import example_keys
from deconv_jax.data.batch import Batch
from deconv_jax.data.forward_model import fold_in
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.image import psnr
from deconv_jax.metrics.masked_mean import masked_sums, mean_over
from deconv_jax.models.latent_sampling import draw_latents
from deconv_jax.models.vae import gaussian_kl
from deconv_jax.ops.collectives import mean_over_devices
from deconv_jax.tasks.latent_plot import latent_scatter
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import (
    Precision,
    Scalars,
    TrainState,
    apply_model,
    gradient_step,
    images_in_unit_range,
    init_state,
)
from deconv_jax.training.task import Task
from deconv_jax.viz.grids import picture_grid
from deconv_jax.viz.plots import Plot

Images = Float[Array, "batch height width channels"]
Tree = Any

_EVALUATION_SEED = 30_000
_PURPOSE_BINARIZE, _PURPOSE_LATENTS = 0, 1
_LEVELS = 256


@dataclasses.dataclass(frozen=True)
class Variational(Task):
    """Variational autoencoder of images in [0, 1].

    Attributes:
      model: a `VAE`.
      optimizer, precision: see `Optimizer` and `apply_model`.
      beta: weight of the KL divergence (Higgins et al. 2017, equation 4); 1 is the ELBO.
      kl_warmup_steps: in so many first steps that weight rises from 0, in a straight line
        (Sonderby et al., arXiv:1602.02282).
      free_bits: nats of KL divergence of each latent, in the mean over a batch, below which it is
        not pressed (Kingma et al., arXiv:1606.04934, appendix C.8).
      binarize: "stochastic" draws every pixel as 0 or 1 with its value as probability, "threshold"
        cuts at one half.
      iwae_samples: of the latents of an image in the importance-weighted bound.
      seed: of noise and binarisation.
    """

    model: nn.Module
    optimizer: Optimizer
    precision: Precision = "f32"
    beta: float = 1.0
    kl_warmup_steps: int = 0
    free_bits: float = 0.0
    binarize: Literal["none", "stochastic", "threshold"] = "none"
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
        if not hasattr(self.model, "log_likelihood"):
            raise InputError(
                f"task.model {type(self.model).__name__} is no variational autoencoder; wanted is 'vae'"
            )
        at_least("task.iwae_samples", self.iwae_samples, 1)
        for field in ("beta", "kl_warmup_steps", "free_bits"):
            at_least(f"task.{field}", getattr(self, field), 0)
        if self.binarize != "none" and self.model.likelihood != "bernoulli":
            raise InputError(
                f"task.binarize={self.binarize!r} needs task.model.likelihood='bernoulli'; got "
                f"{self.model.likelihood!r}"
            )

    @property
    def protocol(self) -> str:
        """How the measures of `evaluate` are defined."""
        images = {
            "none": "images in [0, 1]",
            "stochastic": "images binarised once, each pixel 1 with its value as probability, by "
            f"jax.random, seed {_EVALUATION_SEED} folded with the image's place",
            "threshold": "images cut at one half",
        }[self.binarize]
        likelihood = self.model.likelihood  # type: ignore[attr-defined]
        bits = {
            "bernoulli": "bits_per_dim is -elbo / (pixels ln 2)",
            "gaussian": "densities of images in [0, 1]; bits_per_dim is -elbo / (pixels ln 2) + log2 255, "
            "of images in levels",
            "discretized_logistic": "probabilities of 8-bit levels; bits_per_dim is -elbo / (pixels ln 2)",
        }[likelihood]
        return (
            f"{images}; {likelihood} likelihood; elbo and iwae in nats an image, means over the split, "
            f"elbo of {self.iwae_samples} samples of the latents with the KL divergence in closed form, "
            f"iwae the importance-weighted bound of {self.iwae_samples} samples; {bits}; psnr in dB of the "
            "mean image of the mean latents against what is modelled; active_units: latents whose posterior "
            "mean has a variance above 0.01 over the split"
        )

    @property
    def latent_dim(self) -> int:
        """Numbers in a latent."""
        return self.model.latent_dim  # type: ignore[attr-defined]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of samples."""
        return self.model.image_shape  # type: ignore[attr-defined]

    @property
    def num_classes(self) -> int:
        """0: samples have no classes."""
        return 0

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """A state for images of the batch's shape."""
        noise = jnp.zeros((1, self.latent_dim))
        return init_state(self.model, self.optimizer, key, batch["image"], noise)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """One ascent of the batch's mean evidence lower bound, as `beta` and its company modify it.

        Scalars: "elbo", "kl" and "log_likelihood", nats an image, unmodified.
        """
        step_key = jax.random.fold_in(jax.random.key(self.seed), state.step)

        def loss(variables: Any, batch: Batch) -> Any:
            keys = example_keys(step_key, batch["index"])
            images = self._modelled(keys, batch)
            noise = draw_latents(fold_in(keys, _PURPOSE_LATENTS), self.latent_dim)
            (log_likelihood, mean, log_variance), stats = apply_model(
                self.model, variables, images, noise, train=True, precision=self.precision
            )
            # Of the whole batch: the greater of two numbers is not that of each device's.
            by_latent = mean_over_devices(jnp.mean(gaussian_kl(mean, log_variance), axis=0))
            fit, kl = jnp.mean(log_likelihood), jnp.sum(by_latent)
            pressed = jnp.sum(jnp.maximum(by_latent, self.free_bits)) if self.free_bits else kl
            scalars = {"elbo": fit - kl, "kl": kl, "log_likelihood": fit}
            return self._weight(state.step) * pressed - fit, (scalars, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def _weight(self, step: jax.Array) -> jax.Array | float:
        """Of the KL divergence."""
        if not self.kl_warmup_steps:
            return self.beta
        return self.beta * jnp.minimum(step / self.kl_warmup_steps, 1.0)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Gives the measures of `protocol`, means over images."""
        measures = mean_over(batches, functools.partial(self._sums, state))
        pixels = math.prod(self.image_shape)
        bits = -measures["elbo"] / (pixels * math.log(2))
        if self.model.likelihood == "gaussian":  # type: ignore[attr-defined]
            bits += math.log2(_LEVELS - 1)
        variance = measures.pop("latents_squared") - measures.pop("latents") ** 2
        return measures | {"bits_per_dim": bits, "active_units": float(np.sum(variance > 0.01))}

    @functools.partial(jit, static_argnums=0)
    def _sums(self, state: TrainState, batch: Batch) -> dict[str, Any]:
        keys = example_keys(jax.random.key(_EVALUATION_SEED), batch["index"])
        images = self._modelled(keys, batch)
        variables = state.inference_variables()
        call = functools.partial(
            apply_model, self.model, variables, train=False, precision=self.precision
        )
        mean, log_variance = self._encoded(state, images)
        reconstruction, _ = call(mean, method="decode")
        kl = jnp.sum(gaussian_kl(mean, log_variance), axis=-1)

        def add(carry: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
            """A sample more of the sum of log p(x|z) and of the log of the sum of weights."""
            fit, log_weights = carry
            own = fold_in(fold_in(keys, _PURPOSE_LATENTS), number)
            noise = draw_latents(own, self.latent_dim)
            z = mean + jnp.exp(0.5 * log_variance) * noise
            log_likelihood, _ = call(images, z, method="log_likelihood")
            # log p(z) - log q(z|x): the constants of the two normals cancel.
            ratio = 0.5 * jnp.sum(jnp.square(noise) + log_variance - jnp.square(z), axis=-1)
            return (fit + log_likelihood, jnp.logaddexp(log_weights, log_likelihood + ratio)), None

        start = (jnp.zeros(len(images)), jnp.full(len(images), -jnp.inf))
        (fit, log_weights), _ = jax.lax.scan(add, start, jnp.arange(self.iwae_samples))
        measures = {
            "elbo": fit / self.iwae_samples - kl,
            "iwae": log_weights - math.log(self.iwae_samples),
            "kl": kl,
            "psnr": psnr(reconstruction, images),
        }
        mask = batch["mask"][:, None]
        return masked_sums(measures, batch["mask"]) | {
            "latents": jnp.sum(mask * mean, axis=0),
            "latents_squared": jnp.sum(mask * jnp.square(mean), axis=0),
        }

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Under "reconstructions": what is modelled, its reconstructions, and samples of the prior."""
        rows = self._pictured(state, batch)
        return {
            "reconstructions": picture_grid({name: np.asarray(rows[name]) for name in sorted(rows)})
        }

    def plots(
        self, state: TrainState, batches: Iterable[Batch], metrics: Mapping[str, float]
    ) -> dict[str, Plot]:
        """Under "codes": means of the split's latents in a plane, see `latent_scatter`."""
        del metrics
        return latent_scatter(batches, functools.partial(self._means, state))

    @functools.partial(jit, static_argnums=0)
    def _means(self, state: TrainState, batch: Batch) -> Float[Array, "batch latent_dim"]:
        keys = example_keys(jax.random.key(_EVALUATION_SEED), batch["index"])
        return self._encoded(state, self._modelled(keys, batch))[0]

    def _encoded(
        self, state: TrainState, images: Images
    ) -> tuple[Float[Array, "batch latent_dim"], Float[Array, "batch latent_dim"]]:
        """Means and log variances of the latents."""
        return apply_model(
            self.model,
            state.inference_variables(),
            images,
            train=False,
            precision=self.precision,
            method="encode",
        )[0]

    @functools.partial(jit, static_argnums=0)
    def _pictured(self, state: TrainState, batch: Batch) -> dict[str, Images]:
        keys = example_keys(jax.random.key(_EVALUATION_SEED), batch["index"])
        images = self._modelled(keys, batch)
        variables = self.sampling_variables(state)
        mean, _ = self._encoded(state, images)
        latents = draw_latents(fold_in(keys, _PURPOSE_LATENTS), self.latent_dim)
        return {
            "original": images,
            "reconstruction": self.sample(variables, mean),
            "sample of the prior": self.sample(variables, latents),
        }

    def sample(
        self, variables: Mapping[str, Tree], latents: jax.Array, labels: jax.Array | None = None
    ) -> jax.Array:
        """Mean images in [0, 1] of latents (batch, latent_dim), by `sampling_variables`."""
        del labels  # There are no classes.
        return apply_model(
            self.model, variables, latents, train=False, precision=self.precision, method="decode"
        )[0]

    def sampling_variables(self, state: TrainState) -> dict[str, Tree]:
        """The variables to sample with: the average where one is kept."""
        return state.inference_variables()

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """What needs no latents: every pixel by itself, as it is distributed in the training set.

        Gives "independent_elbo", the exact log-likelihood in nats an image: of pixels that are 1 with
        the training mean as probability, that are normal, or whose levels are as frequent as there
        (each level counted once more than it is seen). {} for images that are not binarised under a
        Bernoulli likelihood.
        """
        fit, look = (source.gather(np.arange(len(source)))["image"] for source in (train, test))
        likelihood = self.model.likelihood  # type: ignore[attr-defined]
        if likelihood == "bernoulli":
            if self.binarize == "none":
                return {}
            keys = example_keys(jax.random.key(_EVALUATION_SEED), jnp.arange(len(look)))
            drawn = np.asarray(self._modelled(keys, {"image": jnp.asarray(look)}))
            ones = fit / 255.0 if self.binarize == "stochastic" else fit > 127.5
            mean = (ones.sum(axis=0) + 1.0) / (len(fit) + 2.0)
            values = drawn * np.log(mean) + (1 - drawn) * np.log1p(-mean)
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

    def _modelled(self, keys: Key[Array, " batch"], batch: Batch) -> Images:
        """The images whose distribution is learned."""
        images = images_in_unit_range(batch["image"])
        if self.binarize == "none":
            return images
        if self.binarize == "threshold":
            return (images > 0.5).astype(jnp.float32)

        def draw(key: Array, image: Array) -> Array:
            return jax.random.bernoulli(key, image).astype(jnp.float32)

        return jax.vmap(draw)(fold_in(keys, _PURPOSE_BINARIZE), images)
