"""Add the model of a finished run to the package, with its model card.

  DECONV_JAX_DATA=/path/of/data python experiments/zoo/publish.py runs/ffdnet_color denoise-color

The script writes `deconv_jax/zoo/weights/NAME.safetensors`, the weights in float16 (averaged ones if the run has
them), and the model card `NAME.json` beside it. The figures of the card are measured with these weights.
$DECONV_JAX_DATA must name a folder with the test sets. A new model needs an entry in `MODELS`. Run `deconv-jax tables`
afterwards, which shows the card's figure in the table `zoo`.

A classifier that is also a feature extractor has its weights, in float32, in `deconv_jax/models/pretrained/`,
where the script writes them, too. New weights change all metrics that use the extractor.
"""

import argparse
import dataclasses
import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict
from measurements import (
    Measure,
    codec,
    denoising,
    evaluated,
    jpeg,
    photographs,
    super_resolution,
)

from deconv_jax.data.sources import in_memory
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.experiment import Experiment
from deconv_jax.inference.compression.coding_tables import CodingTables
from deconv_jax.io import parse_json_object, read_json, read_text, write_atomically, write_json
from deconv_jax.models.extractors import FEATURE_SCALE, PRETRAINED
from deconv_jax.tasks import Compression
from deconv_jax.training.run_log import METRICS
from deconv_jax.training.step import images_in_unit_range
from deconv_jax.workdir import (
    INPUTS,
    RESULT,
    load_state,
    open_workdir,
    provenance,
    read_input_shapes,
)
from deconv_jax.zoo import ZooModel
from deconv_jax.zoo.cards import CARDS, PACKAGE
from deconv_jax.zoo.model import inference_variables

LICENCE = "Apache-2.0"
_DATA = "DECONV_JAX_DATA"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a run does not tell about a model.

    Attributes:
      summary: The model in one line.
      measure: Function that measures the figures of the card.
      use: Intended use.
      limits: Limits of the model.
      family: Name of its family in `zoo.FAMILIES`, or None.
      reference: Paper that the figures are compared with, or None.
      source: Place that the paper's figures are quoted from.
      paper: The paper's figures, by data set and setting.
      extractor: Name of the feature extractor that has the same weights, or None.
    """

    summary: str
    measure: Measure
    use: str
    limits: str
    family: str | None = None
    reference: str | None = None
    source: str = ""
    paper: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    extractor: str | None = None


_NO_LICENCE = "Published without a licence, so the data may not be redistributed; used for research"
DATA_SETS = {
    "bsd432": (
        "BSD432, the 432 images of BSDS500 that are not in BSD68",
        _NO_LICENCE,
        "Arbelaez et al., Contour detection and hierarchical image segmentation, TPAMI 2011",
    ),
    "t91": (
        "T91, 91 images",
        _NO_LICENCE,
        "Yang et al., Image super-resolution via sparse representation, TIP 2010",
    ),
    "train400": (
        "Train400, 400 gray images of BSDS500",
        _NO_LICENCE,
        "Zhang et al., arXiv:1608.03981",
    ),
    "digits": (
        "Optical recognition of handwritten digits, the images of scikit-learn",
        "CC BY 4.0",
        "Alpaydin and Kaynak, UCI, doi:10.24432/C50P49",
    ),
    "mnist": (
        "MNIST",
        "CC BY-SA 3.0",
        "LeCun, Cortes and Burges; derived from Special Databases 1 and 3 of NIST",
    ),
    "fashion_mnist": ("Fashion-MNIST", "MIT", "Xiao, Rasul and Vollgraf, arXiv:1708.07747"),
}
"""Name, licence and source of the training sets, by the name in a config."""

_FFDNET = dict(
    family="denoise",
    reference="Zhang, Zuo and Zhang, FFDNet, arXiv:1710.04026",
    source="the authors' repository, github.com/cszn/FFDNet",
)
_FFDNET_LIMITS = (
    "The noise level is an input: estimate it, or the result keeps noise or loses detail. Noise that is "
    "not white and Gaussian, such as that of a compressed photograph, is not removed reliably."
)
_FSRCNN = dict(
    measure=super_resolution,
    use="Enlarge photographs without noise or compression artifacts; color is enlarged bicubically.",
    limits="Trained for MATLAB's bicubic downsampling. Noise and artifacts are enlarged, too, and other "
    "blurs are not undone.",
    family="sr",
    reference="Dong, Loy and Tang, FSRCNN, arXiv:1608.00367",
    source="networks trained on T91, quoted from later comparisons",
)
_JPEG = dict(
    measure=jpeg,
    use="Remove blocks and ringing from JPEG images of unknown quality.",
    limits="Trained for one compression whose blocks start at the upper left corner, with chroma at half the "
    "resolution. An image that was resized or cropped after the compression is not restored reliably.",
    family="jpeg",
)
_GAN = dict(
    measure=evaluated(
        ("frechet_distance", "kernel_distance", "precision", "recall"),
        {"frechet_distance": ("Fréchet distance", "", 1.0)},
    ),
    limits="Some samples are not readable digits. The Fréchet distance uses a small classifier of this project "
    "and is not the FID of papers.",
)
_EXTRACTOR = dict(
    measure=evaluated(("accuracy",), {}),
    limits="An image that shows none of the classes may get a high score. Light strokes on a dark ground are "
    "expected.",
)
_SCENES = dict(
    family="digit-scenes",
    limits="Trained on synthetic scenes of 96 x 96 pixels. Other images, such as photographs of numbers, give "
    "meaningless results.",
)

MODELS = {
    "denoise-color": Entry(
        "removes Gaussian noise of a known level, sigma 0 to 75, from color images",
        denoising,
        "Remove noise from photographs, and plug-and-play restoration at any noise level.",
        _FFDNET_LIMITS,
        paper={("CBSD68", "sigma 15"): 33.87, ("CBSD68", "sigma 25"): 31.21}
        | {("CBSD68", "sigma 50"): 27.96},
        **_FFDNET,
    ),
    "denoise-gray": Entry(
        "removes Gaussian noise of a known level, sigma 0 to 75, from gray images",
        denoising,
        "Remove noise from gray images, and plug-and-play restoration at any noise level.",
        _FFDNET_LIMITS,
        paper={("Set12", "sigma 15"): 32.75, ("Set12", "sigma 25"): 30.43}
        | {("Set12", "sigma 50"): 27.32, ("BSD68", "sigma 15"): 31.63}
        | {("BSD68", "sigma 25"): 29.19, ("BSD68", "sigma 50"): 26.29},
        **_FFDNET,
    ),
    "photo": Entry(
        "removes noise and JPEG artifacts from color photographs",
        photographs,
        "Clean up photographs of phones and of the web.",
        "Trained for Gaussian noise that was compressed once, at quality 30 to 100. The level of the noise "
        "before the compression is an input and has to be estimated. Blur is not undone.",
    ),
    "jpeg-color": Entry("removes JPEG artifacts from color images, at any quality", **_JPEG),
    "jpeg-gray": Entry(
        "removes JPEG artifacts from gray images, at any quality",
        reference="Zhang et al., DnCNN-3, arXiv:1608.03981",
        source="the authors' repository, github.com/cszn/DnCNN",
        paper={("Classic5", "quality 10"): 29.40, ("Classic5", "quality 20"): 31.63}
        | {("Classic5", "quality 30"): 32.91, ("Classic5", "quality 40"): 33.77},
        **_JPEG,
    ),
    "sr-x2": Entry(
        "enlarges images to twice their size",
        paper={("Set5", ""): 36.94, ("Set14", ""): 32.54},
        **_FSRCNN,
    ),
    "sr-x3": Entry(
        "enlarges images to three times their size",
        paper={("Set5", ""): 33.06, ("Set14", ""): 29.37},
        **_FSRCNN,
    ),
    "sr-x4": Entry(
        "enlarges images to four times their size",
        paper={("Set5", ""): 30.55, ("Set14", ""): 27.50},
        **_FSRCNN,
    ),
    "codec": Entry(
        "compresses color images at several qualities",
        codec,
        "Compress photographs at low rates, and experiments with learned compression.",
        "Only this model reads its files. Coding takes seconds per megapixel on a CPU. Drawings and text are "
        "better served by PNG.",
    ),
    "digits-gan": Entry(
        "generates handwritten digits of a class, 32 x 32 pixels",
        use="Demonstrate a class-conditional GAN.",
        **_GAN,
    ),
    "mnist-gan": Entry(
        "generates MNIST digits of a class, 28 x 28 pixels",
        use="Demonstrate a class-conditional GAN.",
        **_GAN,
    ),
    "mnist-vae": Entry(
        "models binarized MNIST digits, 28 x 28 pixels",
        evaluated(
            ("iwae", "elbo"),
            {"iwae": ("-log p(x), bound", "nats", -1.0), "elbo": ("-ELBO", "nats", -1.0)},
        ),
        "Demonstrate a VAE: samples, walks and traversals of the latent space.",
        "Samples are less sharp than those of a GAN.",
    ),
    "digit-scenes-unet": Entry(
        "segments handwritten digits in synthetic scenes",
        evaluated(("miou", "pixel_accuracy", "boundary_f1"), {"miou": ("mIoU", "", 1.0)}),
        "Demonstrate segmentation.",
        **_SCENES,
    ),
    "digit-scenes-centernet": Entry(
        "detects handwritten digits in synthetic scenes",
        evaluated(("ap", "ap50", "ap75"), {"ap": ("AP", "", 1.0), "ap50": ("AP50", "", 1.0)}),
        "Demonstrate detection.",
        **_SCENES,
    ),
    "digits-classifier": Entry(
        "classifies handwritten digits, 32 x 32 pixels",
        use="Demonstrate classification and attribution; metrics of generated digits.",
        extractor="digits",
        **_EXTRACTOR,
    ),
    "mnist-classifier": Entry(
        "classifies MNIST digits",
        use="Demonstrate classification and attribution; metrics of generated MNIST images.",
        extractor="mnist",
        **_EXTRACTOR,
    ),
    "fashion-classifier": Entry(
        "classifies clothes of Fashion-MNIST",
        use="Demonstrate classification and attribution; metrics of generated Fashion-MNIST images.",
        extractor="fashion",
        **_EXTRACTOR,
    ),
}


def main() -> None:
    """Read the run, measure its model, and write the weights and the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path, help="workdir of a finished run")
    parser.add_argument("name", help=f"name of the model: {', '.join(MODELS)}")
    arguments = parser.parse_args()
    workdir, name = arguments.workdir, arguments.name
    if _DATA not in os.environ:
        raise InputError(f"${_DATA} must name the folder of the test sets")
    if name not in MODELS:
        raise InputError(f"no entry for model {name!r}; {did_you_mean(name, MODELS)}")
    experiment, result = open_workdir(workdir), read_json(workdir / RESULT)
    example = read_input_shapes(workdir)

    def init(key: jax.Array) -> Any:
        zeros = {name: jnp.zeros(like.shape, like.dtype) for name, like in example.items()}
        return experiment.task.init(key, zeros)

    _, state = load_state(workdir, "last", init)
    variables = jax.device_get(inference_variables(experiment.task, state))
    training = result | {"wall_time_s": training_time(workdir, result)}
    publish(name, experiment, variables, read_json(workdir / INPUTS), training)


def training_time(workdir: Path, result: Mapping[str, Any]) -> float:
    """Return the time of a run in seconds; without evaluations if it was resumed.

    The result of a resumed run has only the time since then.
    """
    if not result["resumed_at_step"]:
        return result["wall_time_s"]
    batch_size = result["config"]["training"]["batch_size"]
    seconds, last = 0.0, 0
    for line in read_text(workdir / METRICS).splitlines():
        row = parse_json_object(line)
        if row["split"] == "train":
            examples = (row["step"] - last) * batch_size
            seconds += row.get("first_call_seconds") or examples / row["images_per_second"]
            last = row["step"]
    return round(seconds, 2)


def publish(
    name: str,
    experiment: Experiment,
    variables: Mapping[str, Any],
    inputs: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    """Measure a model, and write its weights and its card.

    Args:
      name: Name of the model, a key of `MODELS`.
      experiment: Experiment that trained it.
      variables: Its `inference_variables`.
      inputs: Content of inputs.json of the run.
      training: Content of result.json of the run.
    """
    entry, measured = MODELS[name], provenance(ignored=("deconv_jax/zoo/weights",))
    dtype = np.float32 if entry.extractor else np.float16
    flat = flatten_dict(dict(variables), sep="/")
    tensors = {key: np.asarray(value, dtype) for key, value in flat.items()}
    rounded = jax.tree.map(lambda v: np.asarray(v, dtype).astype(np.float32), dict(variables))
    extras = _extras(entry, experiment, rounded)
    data = safetensors.numpy.save(tensors | extras)
    file = CARDS / f"{name}.safetensors"
    if entry.extractor:
        file = (PRETRAINED / f"{entry.extractor}.safetensors").relative_to(PACKAGE)
    card = _card(entry, name, experiment, inputs, training) | {
        "parameters": sum(v.size for key, v in tensors.items() if key.startswith("params/")),
        "file": file.as_posix(),
        "bytes": len(data),
        "dtype": np.dtype(dtype).name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "licence": LICENCE,
    }
    model = ZooModel(card, experiment, rounded, extras)
    figures, protocol = entry.measure(model, Path(os.environ[_DATA]))
    for found in figures:
        paper = entry.paper.get((found["data"], found["setting"]))
        found["compared"] |= {} if paper is None else {"paper": paper}
    card |= {"figures": figures, "protocol": protocol, "measured": measured}
    if entry.extractor:
        write_json(PRETRAINED / f"{entry.extractor}.json", dict(training))
    write_atomically(PACKAGE / file, lambda target: target.write(data))
    write_json(PACKAGE / CARDS / f"{name}.json", card)
    print(f"written: {file} ({len(data):,} bytes) and its card")


def _card(
    entry: Entry,
    name: str,
    experiment: Experiment,
    inputs: Mapping[str, Any],
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the properties of a card that do not depend on the weights."""
    config = experiment.to_dict()
    if not str(config["data"]["data_dir"]).startswith("$"):
        config["data"]["data_dir"] = None  # A path of this machine.
    model = getattr(experiment.task, "model", None)
    same = ("wall_time_s", "commit", "uncommitted_changes", "versions", "device", "started")
    return {
        "name": name,
        "family": entry.family,
        "task": config["task"]["name"],
        "summary": entry.summary,
        "architecture": _architecture(config["task"]),
        "config": config,
        "inputs": dict(inputs),
        "channels": getattr(model, "channels", None),
        "scale": getattr(model, "scale", None),
        "paper": entry.reference and {"reference": entry.reference, "source": entry.source},
        "use": entry.use,
        "limits": entry.limits,
        "training": {
            "data": [
                dict(zip(("name", "licence", "source"), d, strict=True)) for d in _data(config)
            ],
            "counts": training["counts"],
            "steps": training["step"],
            "batch_size": experiment.training.batch_size,
        }
        | {key: training[key] for key in same},
    }


def _architecture(task: Mapping[str, Any]) -> str:
    """Return the network of a task and its settings in words."""
    model = dict(task.get("model") or task["generator"])
    name = model.pop("name")
    return f"{name} ({', '.join(f'{key} {_words(value)}' for key, value in model.items())})"


def _words(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_words, value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower()


def _data(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the entries of `DATA_SETS` that a config trains on."""
    source = config["data"]["source"]
    source = source.get("base") or source
    names = source.get("dataset") or source.get("path") or source["name"]
    if names == ".":
        names = config["data"]["train_split"]
    return [DATA_SETS[name] for name in names.split("+")]


def _extras(
    entry: Entry, experiment: Experiment, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return the arrays that the file has beside the variables."""
    task: Any = experiment.task
    if isinstance(task, Compression):
        return CodingTables.from_model(task.model, variables).to_stored()
    if not entry.extractor:
        return {}

    @jax.jit
    def mean_square(images: jax.Array) -> jax.Array:
        features = task.model.apply(variables, images_in_unit_range(images), method="embed")
        return jnp.mean(jnp.square(features))

    images = in_memory(experiment.data.open("train")).arrays["image"]
    count = len(images) // _BATCH_SIZE
    parts = np.split(images[: count * _BATCH_SIZE], count)
    scale = np.sqrt(np.mean([mean_square(part) for part in parts]))
    return {FEATURE_SCALE: np.asarray(scale, np.float32)}


_BATCH_SIZE = 250
"""Number of images per call."""


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
