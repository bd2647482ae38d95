"""Figures of model cards, measured under the protocols of the tables.

Every function takes a model and the folder of the test sets, and returns the figures, the most important one
first, and their protocol. A figure has the keys "metric", "unit" (or ""), "data" (the test set), "count" (of its
images), "setting" (what the model was asked for, or ""), "value" and "compared" (other values of the same metric
by name).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deconv_jax.config_arguments import load_module
from deconv_jax.data.degradations import Chain, Downsample, GaussianNoise, Jpeg
from deconv_jax.data.images import Color, list_images, read_pixels
from deconv_jax.inference.compression.load import load_codec
from deconv_jax.inference.generation.sampling import latents_from_seed
from deconv_jax.inference.generation.texture import draw_textures, texture_task
from deconv_jax.inference.progress import SILENT
from deconv_jax.inference.restoration.evaluation import Evaluation, Restore
from deconv_jax.inference.restoration.learned_restorer import LearnedRestorer
from deconv_jax.inference.tiling import restore_tiled
from deconv_jax.metrics.protocol import EvaluationProtocol
from deconv_jax.metrics.seams import seam_energy
from deconv_jax.ops.jpeg import quantization_tables
from deconv_jax.tasks import GAN
from deconv_jax.training.loop_data import device_batches, first_example
from deconv_jax.training.parallel import Devices
from deconv_jax.zoo import ZooModel

TABLES = Path(__file__).parent.parent / "tables"
_COLOR_SETS = {"CBSD68": "cbsd68"}
_GRAY_SETS = {"Set12": "set12", "BSD68": "bsd68"}
_JPEG_SETS = {"Classic5": "classic5"}
_TEXTURES, _TEXTURE_SIDE = 1024, 256

Figure = dict[str, Any]
Measured = tuple[list[Figure], str]
Measure = Callable[[ZooModel, Path], Measured]


def figure(
    metric: str,
    value: float,
    data: str,
    count: int,
    setting: str = "",
    unit: str = "",
    **compared: float,
) -> Figure:
    """Return a figure of a card."""
    return {
        "metric": metric,
        "unit": unit,
        "data": data,
        "count": count,
        "setting": setting,
        "value": float(value),
        "compared": {name.replace("_", " "): float(v) for name, v in compared.items()},
    }


def denoising(model: ZooModel, data: Path) -> Measured:
    """Measure PSNR at noise levels 25, 15 and 50, which the network is told."""
    sets = _COLOR_SETS if model.card["channels"] == 3 else _GRAY_SETS
    cases = {
        f"sigma {sigma}": (Evaluation(GaussianNoise(float(sigma)), EvaluationProtocol()), sigma)
        for sigma in (25, 15, 50)
    }
    return _restoration(model, data, sets, cases)


def photographs(model: ZooModel, data: Path) -> Measured:
    """Measure PSNR of JPEG files with noise at the level that `restore` estimates; "true level" is that of the noise."""
    restorer = LearnedRestorer(model.task.model, model.variables, noise_conditional=True)
    images = _images(data / "cbsd68", "rgb")
    figures, protocol = [], ""
    for sigma, quality in ((15, 80), (0, 95), (5, 90), (10, 90), (25, 60)):
        chain = Chain((GaussianNoise(float(sigma)), Jpeg(quality)))
        evaluation = Evaluation(chain, EvaluationProtocol(), noise="jax")
        table = np.asarray(quantization_tables(jnp.asarray(quality))[0], np.float32)
        outputs: dict[str, Restore] = {
            "estimated": functools.partial(restorer, progress=SILENT, jpeg_table=table),
            "true_level": functools.partial(restorer.restore_at, sigma=sigma, progress=SILENT),
            "input": lambda image: image,
        }
        found = {
            name: evaluation.measure(restore, images)["mean"]["psnr"]
            for name, restore in outputs.items()
        }
        value, setting = found.pop("estimated"), f"sigma {sigma}, JPEG {quality}"
        figures.append(figure("PSNR", value, "CBSD68", len(images), setting, "dB", **found))
        protocol = "; ".join(evaluation.describe().split("; ")[1:])
    return figures, f"the noise level is estimated from each JPEG file, as by `restore`; {protocol}"


def jpeg(model: ZooModel, data: Path) -> Measured:
    """Measure PSNR at JPEG qualities 10 to 40."""
    sets = _COLOR_SETS if model.card["channels"] == 3 else _JPEG_SETS
    cases = {
        f"quality {quality}": (Evaluation(Jpeg(quality), EvaluationProtocol(), noise="jax"), None)
        for quality in (10, 20, 30, 40)
    }
    return _restoration(model, data, sets, cases)


def super_resolution(model: ZooModel, data: Path) -> Measured:
    """Measure PSNR of luma at the scale of the network."""
    scale = model.card["scale"]
    protocol = EvaluationProtocol(color="y", border=scale)
    cases = {"": (Evaluation(Downsample(scale), protocol, multiple=scale), None)}
    return _restoration(model, data, {"Set5": "set5", "Set14": "set14"}, cases, color="y")


def _restoration(
    model: ZooModel,
    data: Path,
    sets: Mapping[str, str],
    cases: Mapping[str, tuple[Evaluation, float | None]],
    color: Color | None = None,
) -> Measured:
    """Return the PSNR of test sets in several settings.

    Args:
      model: Restoration network.
      data: Folder of the test sets.
      sets: Folders by title.
      cases: Evaluation and noise level by setting; a network that takes no noise level does not get it.
      color: Color of the images; None for that of the network.
    """
    color = color or ("rgb" if model.card["channels"] == 3 else "gray")
    apply = jax.jit(lambda images: model.task.model.apply(model.variables, images))
    figures, protocols = [], []
    for setting, (evaluation, sigma) in cases.items():
        restore = _restorer(model, apply, sigma if model.task.noise_conditional else None)
        for title, folder in sets.items():
            images = _images(data / folder, color)
            mean = evaluation.measure(restore, images)["mean"]
            compared = {}
            if model.card["scale"] == 1:
                compared["input"] = evaluation.measure(lambda image: image, images)["mean"]["psnr"]
            figures.append(
                figure("PSNR", mean["psnr"], title, len(images), setting, "dB", **compared)
            )
        protocols.append(evaluation.describe().split("; "))
    # The first clause is the degradation, which the setting states.
    shared = "; ".join(protocols[0][0 if "" in cases else 1 :])
    return figures, shared


def _images(folder: Path, color: Color) -> list[tuple[str, np.ndarray]]:
    """Return the names and the pixels of images in [0, 1]."""
    return [
        (path.name, read_pixels(path, color).astype(np.float32) / 255)
        for path in list_images(folder)
    ]


def _restorer(model: ZooModel, apply: Callable[[Any], Any], sigma: float | None) -> Restore:
    field = model.task.model.receptive_field()

    def restore(image: np.ndarray) -> np.ndarray:
        if sigma is not None:
            level = np.full((*image.shape[:2], 1), sigma / 255, np.float32)
            image = np.concatenate([image, level], axis=-1)
        return restore_tiled(apply, image, field)

    return restore


def codec(model: ZooModel, data: Path) -> Measured:
    """Measure the rate of whole files and PSNR at every level, and compare with the standard codecs."""
    table = load_module(TABLES / "codec_rd.py")
    task, loaded = load_codec(model)
    figures = []
    for folder, title in table.SETS.items():
        points = table.learned_points(loaded, task.lambdas, data / folder)
        others = {
            name: table.standard_points(codec, data / folder)
            for name, codec in table.STANDARD.items()
        }
        for point in points:
            rate = point["mean"]["bpp"]
            reached = {
                table.TITLES[name]: table.value_at_rate(found, rate, "psnr")
                for name, found in others.items()
                if found
            }
            compared = {name: value for name, value in reached.items() if value is not None}
            setting = f"{rate:.2f} bpp"
            psnr, count = point["mean"]["psnr"], len(point["images"])
            figures.append(figure("PSNR", psnr, title, count, setting, "dB", **compared))
    # A middle level comes first.
    middle = len(task.lambdas) // 2
    return [figures[middle], *figures[:middle], *figures[middle + 1 :]], table.PROTOCOL


def seams(model: ZooModel, data: Path) -> Measured:
    """Measure how well opposite borders of tileable textures fit together. No test set is read."""
    del data
    task = texture_task(model.task, (_TEXTURE_SIDE, _TEXTURE_SIDE), tileable=True)
    latents = latents_from_seed(_TEXTURES, task.latent_dim, seed=0)
    textures = [texture[0] for texture in draw_textures(task, model.variables, latents)]
    # Side by side, the textures have one seam together, because the energy of a single one varies a lot.
    ratios = [seam_energy(np.concatenate(textures, 1 - axis), axis) for axis in (0, 1)]
    protocol = (
        f"mean squared difference of neighboring pixels across the borders of {_TEXTURES:,} tileable textures of "
        f"{_TEXTURE_SIDE} x {_TEXTURE_SIDE} pixels, seed 0, over that inside; mean of both axes"
    )
    value = float(np.mean(ratios))
    return [figure("seam energy ratio", value, "samples", _TEXTURES, no_seam=1.0)], protocol


def evaluated(names: Sequence[str], titles: Mapping[str, tuple[str, str, float]]) -> Measure:
    """Return a function that measures metrics of a task on its test split.

    Args:
      names: Metrics of the task's `evaluate`, the most important one first.
      titles: Title, unit and factor of metrics that are not shown under their own name.
    """

    def measure(model: ZooModel, data: Path) -> Measured:
        experiment = model.experiment
        where = dataclasses.replace(experiment.data, data_dir=_data_dir(experiment.data, data))
        train, test = where.open("train"), where.open("test")
        metrics = _evaluate(model, test)
        baseline = experiment.task.baseline(train, test)
        figures = []
        for name in names:
            title, unit, factor = titles.get(name, (name.replace("_", " "), "", 1.0))
            compared = {
                words: factor * baseline[key]
                for key, words in (
                    (f"real_{name}", "real images"),
                    (f"independent_{name}", "independent pixels"),
                    (f"nearest_mean_{name}", "nearest mean"),
                )
                if key in baseline
            }
            value = factor * metrics[name]
            figures.append(figure(title, value, "test", len(test), "", unit, **compared))
        return figures, experiment.task.protocol

    return measure


def _data_dir(settings: Any, data: Path) -> str | None:
    """Return the folder of a data set below the folder of all data sets."""
    name = settings.source.__class__.__name__
    return str(data / "tfds") if name == "Tfds" else settings.data_dir


def _evaluate(model: ZooModel, test: Any) -> dict[str, float]:
    """Return the metrics of a named model on its test split.

    The discriminator of a GAN is not part of the model, so metrics of it have no meaning.
    """
    experiment, devices = model.experiment, Devices.all()
    task = experiment.task
    state = task.init(jax.random.key(0), first_example(test))
    if isinstance(task, GAN):
        state = state.replace(ema=model.variables)
    else:
        variables = model.variables
        state = state.replace(
            params=variables["params"], batch_stats=variables["batch_stats"], ema={}
        )
    state = devices.replicate(state)
    return task.evaluate(state, device_batches(experiment.training, devices, test))
