"""Autoencoding: learn to pass images through a code, of clean images or of degraded ones.

The measure is PSNR beside that of principal component analysis with a code of the same size, which
is the best that any *linear* autoencoder can reach (Baldi & Hornik, 1989). A denoising autoencoder
(Vincent et al., ICML 2008 and JMLR 11, 2010) is shown degraded images and learns the clean ones; a
contractive one (Rifai et al., ICML 2011) learns codes that small changes of the image leave alone.
What a reader would get wrong: degraded images reach the network as they are, beyond [0, 1] too; only
what is measured of them beside it is clipped.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.augment import example_keys
from deconv_jax.data.batch import Batch
from deconv_jax.data.degradations import Degradation
from deconv_jax.data.forward_model import fold_in
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError, at_least, did_you_mean
from deconv_jax.metrics.image import (
    SSIM_MIN_SIZE,
    max_ms_ssim_scales,
    mean_squared_error,
    ms_ssim,
    psnr,
    psnr_from_mse,
)
from deconv_jax.metrics.masked_mean import masked_sums, mean_over
from deconv_jax.tasks.latent_plot import latent_scatter, principal_components
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
Codes = Float[Array, "batch *code"]
Loss = Literal["l2", "l1", "bce"]

_EVALUATION_SEED = 40_000
_PURPOSE_DEGRADE, _PURPOSE_PROBE = 0, 1


@dataclasses.dataclass(frozen=True)
class Autoencoding(Task):
    """Autoencoder of images in [0, 1].

    Attributes:
      model: maps images to images in [0, 1]; an `Autoencoder`.
      optimizer, precision: see `Optimizer` and `apply_model`.
      degradation: of the images that the model sees, which keeps their shape; the clean ones are
        learned. None shows it the clean ones.
      loss: mean over pixels, of the reconstruction x and the clean image t: "l2" is (x - t)^2, "l1"
        is |x - t|, "bce" is -t log x - (1 - t) log(1 - x) in nats, from logits.
      ms_ssim: share a of MS-SSIM in the loss a (1 - MS-SSIM) + (1 - a) `loss`, with as many scales
        as the images have room for. That is equation 14 of Zhao et al. (arXiv:1511.08861), with
        a = 0.84 and "l1", without their Gaussian weights of the second term.
      contractive: weight of ||d code / d image||_F^2 (Rifai et al. 2011), mean over
        images, at the images that the model sees; estimated, see `squared_jacobian_norms`.
      sparsity: weight of the mean magnitude of a code's numbers.
      seed: of degradations and of estimates.
    """

    model: nn.Module
    optimizer: Optimizer
    precision: Precision = "f32"
    degradation: Degradation | None = None
    loss: Loss = "l2"
    ms_ssim: float = 0.0
    contractive: float = 0.0
    sparsity: float = 0.0
    seed: int = 0

    monitor: ClassVar[str] = "psnr"
    metric_names: ClassVar[tuple[str, ...]] = ("mse", "psnr")

    def __post_init__(self) -> None:
        if not hasattr(self.model, "logits_and_code"):
            raise InputError(
                f"task.model {type(self.model).__name__} is no autoencoder; wanted is 'autoencoder'"
            )
        if self.loss not in get_args(Loss):
            raise InputError(
                f"no task.loss {self.loss!r}; {did_you_mean(self.loss, get_args(Loss))}"
            )
        for field in ("ms_ssim", "contractive", "sparsity", "seed"):
            at_least(f"task.{field}", getattr(self, field), 0)
        if self.ms_ssim > 1:
            raise InputError(f"task.ms_ssim is a share of the loss, at most 1; got {self.ms_ssim}")
        if self.contractive and self.model.norm == "batch":
            raise InputError(
                "task.contractive is of each image's own code, and task.model.norm is 'batch', which "
                "makes a code depend on all images of the batch; wanted is another"
            )

    @property
    def protocol(self) -> str:
        """How the measures of `evaluate` and `baseline` are defined."""
        measures = (
            "PSNR in dB of 8-bit images scaled to [0, 1], reconstruction not rounded, whole image, "
            "mean over images of each image's PSNR; mse is the mean over all pixels"
        )
        if self.degradation is None:
            return measures
        return (
            f"{self.degradation.describe()}; its random numbers from JAX, seed {_EVALUATION_SEED} folded "
            "with the image's place in the split; the model sees it as it is and is measured against the "
            f"clean image; {measures}; input_psnr and input_mse of it clipped to [0, 1]; pca_psnr and "
            "pca_mse of it projected on the principal components of clean training images"
        )

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """A state for images of the batch's shape."""
        return init_state(self.model, self.optimizer, key, batch["image"])

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """One descent of the batch's mean loss and penalties.

        Scalars: "contractive" and "sparsity", the penalties without their weights, where they have
        any.
        """
        step_key = jax.random.fold_in(jax.random.key(self.seed), state.step)

        def loss(variables: Any, batch: Batch) -> Any:
            seen, clean = self._pair(step_key, batch)

            def run(images: Images) -> tuple[Codes, tuple[Images, Any]]:
                (logits, code), stats = apply_model(
                    self.model,
                    variables,
                    images,
                    train=True,
                    precision=self.precision,
                    method="logits_and_code",
                )
                return code, (logits, stats)

            scalars = {}
            if self.contractive:
                code, pull_back, (logits, stats) = jax.vjp(run, seen, has_aux=True)
                keys = fold_in(example_keys(step_key, batch["index"]), _PURPOSE_PROBE)
                norms = squared_jacobian_norms(pull_back, code, keys)
                scalars["contractive"] = jnp.mean(norms)
            else:
                code, (logits, stats) = run(seen)
            if self.sparsity:
                scalars["sparsity"] = jnp.mean(jnp.abs(code))
            value = jnp.mean(self._distances(logits, clean))
            for name, penalty in scalars.items():
                value += getattr(self, name) * penalty
            return value, (scalars, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def _distances(self, logits: Images, clean: Images) -> Float[Array, " batch"]:
        """The loss of each image, without penalties."""
        output = jax.nn.sigmoid(logits)
        if self.loss == "l2":
            distances = mean_squared_error(output, clean)
        elif self.loss == "l1":
            distances = jnp.mean(jnp.abs(output - clean), axis=(1, 2, 3))
        else:
            # log x of an x that a sigmoid has rounded to 1 or 0 would be lost.
            entropies = optax.sigmoid_binary_cross_entropy(logits, clean)
            distances = jnp.mean(entropies, axis=(1, 2, 3))
        if not self.ms_ssim:
            return distances
        height, width = clean.shape[1:3]
        scales = max_ms_ssim_scales(height, width)
        if not scales:
            raise InputError(
                f"task.ms_ssim needs images of at least {SSIM_MIN_SIZE} x {SSIM_MIN_SIZE} "
                f"pixels; got {height} x {width}"
            )
        unlike = 1.0 - ms_ssim(output, clean, scales)
        return self.ms_ssim * unlike + (1.0 - self.ms_ssim) * distances

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Gives "psnr" (dB) and "mse", means over images."""
        return mean_over(batches, functools.partial(self._sums, state))

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Under "reconstructions": originals above their reconstructions.

        Of degraded images: these, their reconstructions, and the originals.
        """
        original = {"original": np.asarray(batch["image"])}
        reconstruction = {"reconstruction": np.asarray(self._reconstruct(state, batch))}
        if self.degradation is None:
            rows = original | reconstruction
        else:
            rows = {"degraded": np.asarray(self.model_input(batch))} | reconstruction | original
        return {"reconstructions": picture_grid(rows)}

    def plots(
        self, state: TrainState, batches: Iterable[Batch], metrics: Mapping[str, float]
    ) -> dict[str, Plot]:
        """Under "codes": those of the split in a plane, see `latent_scatter`."""
        del metrics
        return latent_scatter(batches, functools.partial(self._encode, state))

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """What needs no network, dB and squared error, means over images.

        Gives "pca_psnr" and "pca_mse" with as many components as the model's code has numbers of clean
        training images, unless an image has no more numbers than the code; of degraded images it is
        these that are projected. That is no longer the best linear map: it keeps the noise along every
        component that it keeps. Gives "input_psnr" and "input_mse" of degraded images, clipped.
        """
        images = train.gather(np.arange(len(train)))["image"]
        code = jax.eval_shape(
            lambda images: self.model.init_with_output(jax.random.key(0), images, method="encode")[
                0
            ],
            jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32),
        )
        places = np.arange(len(test))
        looked_at = test.gather(places)["image"]
        targets = looked_at / 255.0
        seen, measured = targets, {}
        if self.degradation is not None:
            seen = np.asarray(self.model_input({"image": looked_at, "index": places}), np.float64)
            measured = _measured("input", np.clip(seen, 0.0, 1.0), targets)
        length = math.prod(code.shape)
        if length >= math.prod(images.shape[1:]):
            return measured
        output = pca_reconstruction(images / 255.0, seen, length)
        return _measured("pca", output, targets) | measured

    @functools.partial(jit, static_argnums=0)
    def model_input(self, batch: Batch) -> Images:
        """What the model sees of a batch in evaluation; degraded images may leave [0, 1].

        Args:
          batch: "image" and "index"; what is random about example i depends on `index[i]` alone.

        Raises:
          InputError: the degradation gives images of another shape.
        """
        return self._pair(jax.random.key(_EVALUATION_SEED), batch)[0]

    def _pair(self, key: Key[Array, ""], batch: Batch) -> tuple[Images, Images]:
        """What the model sees and what it should make of that."""
        clean = images_in_unit_range(batch["image"])
        if self.degradation is None:
            return clean, clean
        keys = fold_in(example_keys(key, batch["index"]), _PURPOSE_DEGRADE)
        degraded = self.degradation(clean, keys)
        if degraded.shape != clean.shape:
            raise InputError(
                "task.degradation must keep the shape of images; got "
                f"{type(self.degradation).__name__}, which makes images of {degraded.shape[1:]} of "
                f"{clean.shape[1:]}"
            )
        return degraded, clean

    @functools.partial(jit, static_argnums=0)
    def _reconstruct(self, state: TrainState, batch: Batch) -> jax.Array:
        seen, variables = self.model_input(batch), state.inference_variables()
        return apply_model(self.model, variables, seen, train=False, precision=self.precision)[0]

    @functools.partial(jit, static_argnums=0)
    def _encode(self, state: TrainState, batch: Batch) -> Codes:
        return apply_model(
            self.model,
            state.inference_variables(),
            self.model_input(batch),
            train=False,
            precision=self.precision,
            method="encode",
        )[0]

    @functools.partial(jit, static_argnums=0)
    def _sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        images = images_in_unit_range(batch["image"])
        output = self._reconstruct(state, batch)
        measures = {"psnr": psnr(output, images), "mse": mean_squared_error(output, images)}
        return masked_sums(measures, batch["mask"])


def squared_jacobian_norms(
    pull_back: Callable[[Codes], tuple[Images]], code: Codes, keys: Key[Array, " batch"]
) -> Float[Array, " batch"]:
    """Unbiased estimates of ||J||_F^2, J the derivative of each image's code by the image.

    One product with a random v of signs an image: E |J^T v|^2 = tr(J^T E[v v^T] J) = ||J||_F^2
    (Hutchinson 1989, whose signs have the least variance). A code of one number has no variance.

    Args:
      pull_back: the transpose of the derivative of all codes by all images, such as `jax.vjp` gives,
        where no code depends on another's image.
      code: of which only the shape matters.
      keys: one an image.
    """
    signs = jax.vmap(lambda key: jax.random.rademacher(key, code.shape[1:], code.dtype))(keys)
    (pulled,) = pull_back(signs)
    return jnp.sum(jnp.square(pulled), axis=(1, 2, 3))


def _measured(name: str, output: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    errors = np.mean(np.square(output - targets), axis=(1, 2, 3))
    return {
        f"{name}_psnr": float(np.mean(psnr_from_mse(errors))),
        f"{name}_mse": float(np.mean(errors)),
    }


def pca_reconstruction(train: np.ndarray, images: np.ndarray, components: int) -> np.ndarray:
    """Projects images on the first principal components of others, in double precision.

    Args:
      train: (count, height, width, channels), what the components are fitted to.
      images: (other count, height, width, channels).
      components: size of the code.

    Returns:
      The projections, of `images`' shape, clipped to [0, 1].
    """
    rows = train.reshape(len(train), -1).astype(np.float64)
    mean, basis = principal_components(rows, components)
    flat = images.reshape(len(images), -1) - mean
    return np.clip(flat @ basis @ basis.T + mean, 0.0, 1.0).reshape(images.shape)
