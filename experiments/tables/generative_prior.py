"""MNIST from few random projections, and with holes: generators as priors against sparsity and total variation.

  deconv-jax tables generative_prior
  python experiments/tables/generative_prior.py   # draws docs/generative_prior.png

The claim of Bora et al. (arXiv:1703.03208, figure 1): with 25 measurements, a VAE has the error for which the Lasso needs
about ten times as many, and beyond some number of measurements its error no longer falls, while that of the Lasso does.
As in the paper, the noise has an expected norm of 0.1, and there are 10 random starts. Other networks: the named models
`mnist-vae` and `mnist-gan`. The weights of all methods are chosen for each number of measurements on training images.

Holes are squares of 14 x 14 pixels at random positions, without noise. The learned networks are
experiments/autoencoding/inpainting.py, which is deterministic, and conditional_vae.py, whose samples show the spread of
the posterior. A sample and the truth are exchangeable under the true posterior, so the mean of K samples then has
an error of (1 + 1/K) times the variance of the samples, and a sample has twice the error of the exact mean.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from _common import finished_run, named_record, training_summary

from deconv_jax import classical, zoo
from deconv_jax.data.augment import example_keys
from deconv_jax.data.degradations import (
    BoxMask,
    Chain,
    Degradation,
    GaussianNoise,
    RandomProjection,
)
from deconv_jax.inference.restoration.latent_generator import make_latent_generator
from deconv_jax.tables import linked, markdown
from deconv_jax.workdir import load_state, open_workdir

VERSION = 1
COUNTS = (10, 25, 50, 100, 200, 300, 400, 500, 750)
"""Numbers of measurements."""
CLAIMED_COUNT = 25
NOISE_NORM = 0.1
NUM_IMAGES = 100
"""Number of test images, the first ones."""
NUM_SELECTION_IMAGES = 20
"""Number of training images, the first ones, on which weights are chosen."""
HOLE = BoxMask(1, 14)
PICTURE = Path("docs/generative_prior.png")
PICTURE_COUNTS = (25, 100, 500)
NUM_PICTURES = 8

Solver = Callable[[Any, Degradation, float], Any]
"""(y, forward model, weight) -> images (batch, 28, 28, 1)."""


@functools.cache
def _generator(name: str) -> classical.LatentGenerator:
    model = zoo.load(name)
    return make_latent_generator(model.task, model.variables)


def _prior(y: Any, model: Degradation, weight: float, *, name: str, **options: Any) -> Any:
    return classical.generative_prior(
        y, model, generator=_generator(name), weight=weight, restarts=10, **options
    )


def _lasso(y: Any, model: Degradation, weight: float, *, basis: str) -> Any:
    return classical.wavelet(y, model, weight=weight, basis=basis, iterations=1000, size=(28, 28))


SPARSE_WEIGHTS = (1e-3, 1e-2, 0.1, 1.0)
LATENT_WEIGHTS = (1e-2, 0.1)
METHODS: dict[str, tuple[str, Solver, Sequence[float], str | None]] = {
    "vae": ("VAE", functools.partial(_prior, name="mnist-vae"), LATENT_WEIGHTS, "mnist-vae"),
    "gan": ("DCGAN", functools.partial(_prior, name="mnist-gan"), LATENT_WEIGHTS, "mnist-gan"),
    "lasso_pixel": (
        "Lasso, pixels",
        functools.partial(_lasso, basis="pixel"),
        SPARSE_WEIGHTS,
        None,
    ),
    "lasso_wavelet": (
        "Lasso, Haar wavelets",
        functools.partial(_lasso, basis="haar"),
        SPARSE_WEIGHTS,
        None,
    ),
}
"""Title, solver, weights to choose from and named model, by part."""

FILLERS: dict[str, tuple[str, Solver, Sequence[float], str | None]] = {
    "hole_tv": (
        "total variation",
        lambda y, model, weight: classical.tv(y, model, weight=weight, iterations=1000),
        (1e-3, 1e-2),
        None,
    ),
    "hole_vae": (
        "VAE, blended",
        functools.partial(_prior, name="mnist-vae", blend=True),
        LATENT_WEIGHTS,
        "mnist-vae",
    ),
    "hole_gan": (
        "DCGAN, blended",
        functools.partial(_prior, name="mnist-gan", blend=True),
        LATENT_WEIGHTS,
        "mnist-gan",
    ),
}
NETWORK, CONDITIONAL = "hole_network", "hole_conditional_vae"
CONFIGS = {
    NETWORK: "autoencoding/inpainting.py",
    CONDITIONAL: "autoencoding/conditional_vae.py",
}
NUM_SAMPLES = 64
"""Samples of the conditional VAE for each image."""


def _images(data: Path, split: Literal["train", "test"], count: int) -> jax.Array:
    """Return the first images of a split of MNIST in [0, 1]."""
    source = dataclasses.replace(zoo.load("mnist-vae").experiment.data, data_dir=str(data / "tfds"))
    return jnp.asarray(source.open(split).gather(np.arange(count))["image"], jnp.float32) / 255


def projections(count: int) -> Chain:
    """Return random projections with noise of the expected norm `NOISE_NORM`."""
    return Chain((RandomProjection(count), GaussianNoise(255 * NOISE_NORM / count**0.5)))


def observe(model: Degradation, images: jax.Array, first: int) -> tuple[jax.Array, Degradation]:
    """Return the observed images and the forward model with all parameters sampled.

    Args:
      model: Degradation.
      images: Clean images.
      first: Index of the first image, which determines the random numbers.
    """
    keys = example_keys(jax.random.key(0), first + jnp.arange(len(images)))
    drawn = model.draw(keys, images.shape)
    return drawn.apply(images, keys), drawn


def _errors(solve: Solver, weight: float, model: Degradation, images: jax.Array, first: int) -> Any:
    """Return the mean squared error per pixel of each image; restored images are clipped to [0, 1]."""
    y, drawn = observe(model, images, first)
    restored = jnp.clip(solve(y, drawn, weight), 0.0, 1.0)
    return np.asarray(jnp.mean(jnp.square(restored - images), (1, 2, 3)), np.float64)


def _summary(errors: np.ndarray) -> dict[str, float]:
    """Return the mean and its standard error."""
    return {"mean": float(errors.mean()), "error": float(errors.std(ddof=1) / len(errors) ** 0.5)}


def _chosen(
    solve: Solver, weights: Sequence[float], model: Degradation, data: Path
) -> dict[str, Any]:
    """Return the weight with the least error on training images, and the error on test images."""
    train, test = _images(data, "train", NUM_SELECTION_IMAGES), _images(data, "test", NUM_IMAGES)
    # Indices beyond the test set, so the noise differs from the test noise.
    means = [_errors(solve, weight, model, train, 10_000).mean() for weight in weights]
    weight = weights[int(np.argmin(means))]
    return _summary(_errors(solve, weight, model, test, 0)) | {"weight": weight}


def _measure(data: Path, *, part: str) -> dict[str, Any]:
    _, solve, weights, name = METHODS[part]
    points = [
        {"count": count} | _chosen(solve, weights, projections(count), data) for count in COUNTS
    ]
    record = {"points": points, "count": NUM_IMAGES, "protocol": PROTOCOL}
    return record | ({} if name is None else {"model": named_record(name)})


def _fill(data: Path, *, part: str) -> dict[str, Any]:
    _, solve, weights, name = FILLERS[part]
    record = _chosen(solve, weights, HOLE, data) | {"count": NUM_IMAGES, "protocol": HOLE_PROTOCOL}
    return record | ({} if name is None else {"model": named_record(name)})


def _trained(part: str, data: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Return the task, the variables and the training of a learned network."""
    workdir, _, training = finished_run(CONFIGS[part], data / "tfds")
    task: Any = open_workdir(workdir).task
    example = {"image": jnp.zeros((1, 28, 28, 1), jnp.uint8)}
    _, state = load_state(workdir, "last", lambda key: task.init(key, example))
    return task, state.inference_variables(), training


def _keep_known(y: Any, model: Any, filled: Any) -> Any:
    """Return filled images with the known pixels of y."""
    return y + (1 - model.forward(jnp.ones_like(y))) * filled


def _fill_by_network(data: Path) -> dict[str, Any]:
    task, variables, training = _trained(NETWORK, data)

    def solve(y: Any, model: Any, weight: float) -> Any:
        del weight
        return _keep_known(y, model, task.model.apply(variables, y))

    errors = _errors(solve, 0.0, HOLE, _images(data, "test", NUM_IMAGES), 0)
    return _summary(errors) | _trained_record(training)


def _samples(task: Any, variables: Any, y: jax.Array, model: Any) -> jax.Array:
    """Return samples (samples, batch, height, width, channels) of the conditional VAE."""
    shape = (NUM_SAMPLES, len(y), task.latent_dim)
    latents = jax.random.normal(jax.random.key(0), shape)
    restored = task.restore(variables, y, latents)
    return jax.vmap(lambda sample: _keep_known(y, model, sample))(restored)


def _fill_by_samples(data: Path) -> dict[str, Any]:
    """Measure the mean of the samples, a sample, the best sample and the variance of the samples."""
    task, variables, training = _trained(CONDITIONAL, data)
    images = _images(data, "test", NUM_IMAGES)
    y, drawn = observe(HOLE, images, 0)
    samples = _samples(task, variables, y, drawn)

    def per_image(values: jax.Array) -> np.ndarray:
        return np.asarray(jnp.mean(values, (-3, -2, -1)), np.float64)

    squares = per_image(jnp.square(samples - images[None]))
    return (
        _summary(per_image(jnp.square(jnp.mean(samples, 0) - images)))
        | {
            "sample": _summary(squares[0]),
            "best": _summary(squares.min(axis=0)),
            "variance": _summary(per_image(jnp.var(samples, 0, ddof=1))),
        }
        | _trained_record(training)
    )


def _trained_record(training: dict[str, Any]) -> dict[str, Any]:
    return {
        "count": NUM_IMAGES,
        "protocol": HOLE_PROTOCOL,
        "training": training,
        "seed": training["seed"],
    }


PROTOCOL = (
    f"mean squared error per pixel of images in [0, 1], clipped; the same Gaussian matrix for all images, entries of "
    f"variance 1 / measurements; noise with an expected norm of {NOISE_NORM}; weights chosen on "
    f"{NUM_SELECTION_IMAGES} training images; 10 random starts"
)
HOLE_PROTOCOL = (
    f"mean squared error over all pixels of images in [0, 1], clipped; holes of 14 x 14 pixels; weights chosen on "
    f"{NUM_SELECTION_IMAGES} training images; 10 random starts"
)
PARTS: dict[str, Callable[[Path], dict[str, Any]]] = (
    {part: functools.partial(_measure, part=part) for part in METHODS}
    | {part: functools.partial(_fill, part=part) for part in FILLERS}
    | {NETWORK: _fill_by_network, CONDITIONAL: _fill_by_samples}
)


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return the errors by number of measurements, the paper's claim, and the errors of filled holes."""
    measured = {part: records[part] for part in METHODS if part in records}
    blocks = []
    if measured:
        rows = [
            [linked(METHODS[part][0], record), *(_cell(point) for point in record["points"])]
            for part, record in measured.items()
        ]
        header = "error per pixel | " + " | ".join(f"{count} measurements" for count in COUNTS)
        blocks.append(markdown(header, rows))
        blocks += [_claim(part, measured) for part in ("vae", "gan") if part in measured]
        number = next(iter(measured.values()))["count"]
        blocks.append(
            f"Means over {number} test images +- one standard error. Protocol: {PROTOCOL}."
        )
    titles = {part: title for part, (title, *_) in FILLERS.items()} | {
        NETWORK: "context encoder",
        CONDITIONAL: f"conditional VAE, mean of {NUM_SAMPLES} samples",
    }
    rows = []
    for part, title in titles.items():
        if part in records:
            record = records[part]
            training = training_summary(record.get("training"))
            rows.append([linked(f"{title}{training and f', {training}'}", record), _cell(record)])
    if rows:
        blocks += [markdown("holes | error per pixel", rows), f"Protocol: {HOLE_PROTOCOL}."]
    if CONDITIONAL in records:
        blocks.append(_spread(records[CONDITIONAL]))
    return "\n\n".join(blocks)


def _cell(point: Mapping[str, Any]) -> str:
    return f"{point['mean']:.4f} +- {point['error']:.4f}"


def _claim(part: str, records: Mapping[str, dict[str, Any]]) -> str:
    """Return how many measurements the other methods need for the error of a generator, and where it saturates."""
    points = {point["count"]: point["mean"] for point in records[part]["points"]}
    error, clauses = points[CLAIMED_COUNT], []
    for other in ("lasso_pixel", "lasso_wavelet"):
        if other in records:
            needed = count_for_error(records[other]["points"], error)
            times = (
                f"not with {COUNTS[-1]}"
                if needed is None
                else f"with {needed:.0f}, {needed / CLAIMED_COUNT:.1f} times as many"
            )
            pairs = zip(records[part]["points"], records[other]["points"], strict=True)
            better = [
                point["count"]
                for own, point in pairs
                if own["mean"] - point["mean"] > 2 * math.hypot(own["error"], point["error"])
            ]
            wins = f"better from {better[0]} measurements on" if better else "nowhere better"
            clauses.append(f"{METHODS[other][0]} reaches it {times}, and is {wins}")
    half = COUNTS[len(COUNTS) // 2]
    fall = 100 * (1 - points[COUNTS[-1]] / points[half])
    return (
        f"{METHODS[part][0]}: error {error:.4f} with {CLAIMED_COUNT} measurements. {'; '.join(clauses)} (better: by more "
        f"than two standard errors). The paper's abstract states 5 to 10 times, for other networks. From {half} to "
        f"{COUNTS[-1]} measurements its own error falls by {fall:.0f} %."
    )


def _spread(record: Mapping[str, Any]) -> str:
    """Return the errors of single samples, and whether the samples spread as much as the truth does."""
    ratio = record["mean"] / ((1 + 1 / NUM_SAMPLES) * record["variance"]["mean"])
    return (
        f"Conditional VAE: one sample has the error {_cell(record['sample'])}, the best of {NUM_SAMPLES} "
        f"{_cell(record['best'])}. The variance of the samples is {_cell(record['variance'])}; the error of their mean "
        f"is {ratio:.2f} times what samples of the true posterior would have with it."
    )


def count_for_error(points: Sequence[Mapping[str, float]], error: float) -> float | None:
    """Return the number of measurements at which the error falls to `error`; None if it never does.

    It is interpolated linearly between the logarithms of counts and errors.
    """
    for before, after in itertools.pairwise(points):
        if before["mean"] > error >= after["mean"]:
            ends = np.log([before["mean"], after["mean"]])
            part = (np.log(error) - ends[0]) / (ends[1] - ends[0])
            return float(np.exp(np.interp(part, (0, 1), np.log([before["count"], after["count"]]))))
    return float(points[0]["count"]) if points[0]["mean"] <= error else None


def draw(records: Mapping[str, dict[str, Any]], data: Path, path: Path) -> None:
    """Draw the error over the number of measurements, restored digits, and filled holes."""
    import matplotlib.pyplot as plt

    from deconv_jax.viz.grids import mosaic

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(18, 6))
    for part, (title, *_) in METHODS.items():
        if part in records:
            points = records[part]["points"]
            columns = ([p[key] for p in points] for key in ("count", "mean", "error"))
            counts, means, errors = columns
            left.errorbar(counts, means, np.multiply(1.96, errors), marker="o", ms=3, label=title)
    left.set(xscale="log", yscale="log", xlabel="measurements", ylabel="error per pixel")
    left.grid(alpha=0.3)
    left.legend()
    images = _images(data, "test", NUM_PICTURES)
    rows = {"original": images}
    for count in PICTURE_COUNTS:
        y, drawn = observe(projections(count), images, 0)
        for part, (title, solve, *_) in METHODS.items():
            chosen = {point["count"]: point["weight"] for point in records[part]["points"]}
            rows[f"{title}, {count}"] = solve(y, drawn, chosen[count])
    y, drawn = observe(HOLE, images, 0)
    filled = {"original": images, "hole": y}
    for part, (title, solve, *_) in FILLERS.items():
        filled[title] = solve(y, drawn, records[part]["weight"])
    task, variables, _ = _trained(NETWORK, data)
    filled["context encoder"] = _keep_known(y, drawn, task.model.apply(variables, y))
    task, variables, _ = _trained(CONDITIONAL, data)
    samples = _samples(task, variables, y, drawn)
    filled["conditional VAE, mean"] = jnp.mean(samples, 0)
    filled |= {f"conditional VAE, sample {i}": samples[i - 1] for i in (1, 2, 3)}
    for axis, stack in ((middle, rows), (right, filled)):
        grid = mosaic(
            np.clip(np.concatenate([np.asarray(r) for r in stack.values()]), 0, 1), NUM_PICTURES
        )
        axis.imshow(grid[..., 0] if grid.shape[-1] == 1 else grid, cmap="gray", aspect="auto")
        axis.set_xticks([])
        axis.set_yticks((np.arange(len(stack)) + 0.5) * grid.shape[0] / len(stack), list(stack))
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    import os

    from deconv_jax.io import read_json
    from deconv_jax.records import RESULTS

    folder = RESULTS / "generative_prior"
    found = {path.stem: read_json(path) for path in folder.glob("*.json")}
    draw(found, Path(os.environ["DECONV_JAX_DATA"]), PICTURE)
    print(f"written: {PICTURE}")
