"""The networks of the page."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax

from deconv_jax import zoo
from deconv_jax.demo.inside import inside_function, projected_layers
from deconv_jax.errors import InputError
from deconv_jax.export.files import build, cpu
from deconv_jax.export.functions import ModelFunction, model_functions
from deconv_jax.inference.interpretation.interpretable_model import InterpretableModel
from deconv_jax.inference.interpretation.load import load_interpretable_model
from deconv_jax.inference.trained_model import TrainedModel, open_task
from deconv_jax.models.interfaces import RestorationModel
from deconv_jax.models.receptive_field import ReceptiveFieldTracker
from deconv_jax.tasks import GAN, Classification, Restoration, Variational
from deconv_jax.workdir import Checkpoint

OPERATIONS: Mapping[str, Mapping[str, str]] = {
    "denoise": {"color": "denoise-color", "gray": "denoise-gray"},
    "jpeg": {"color": "jpeg-color", "gray": "jpeg-gray"},
    "sr-2": {"color": "sr-x2"},
    "sr-3": {"color": "sr-x3"},
    "sr-4": {"color": "sr-x4"},
}
"""Named models by operation and kind of image; without "gray", one model serves both."""
SECTIONS: Mapping[str, str] = {
    "draw": "mnist-gan",
    "texture": "brick",
    "inside": "mnist-classifier",
}
"""Named model of each other section of the page."""


@dataclasses.dataclass(frozen=True, eq=False)
class PageModel:
    """A network of the page.

    Attributes:
      name: Name of its file.
      section: Section of the page: "restore", "draw", "texture" or "inside".
      function: Function that is exported.
      entry: Description of the network for the scripts of the page.
    """

    name: str
    section: str
    function: ModelFunction
    entry: dict[str, Any]

    @functools.cached_property
    def onnx(self) -> bytes:
        """ONNX file of the function, exported at the first use.

        Raises:
          InputError: `onnx` or `onnxruntime` is not installed, the network cannot be exported, or the file differs
            from this package.
        """
        with jax.default_device(cpu()):
            return build(self.function, "onnx", "nchw")[0]


def named_models(*, without: str | None = None) -> list[PageModel]:
    """Return the named models of the page.

    Args:
      without: Section whose named model a run replaces.
    """
    names = [name for models in OPERATIONS.values() for name in models.values()]
    names += [name for section, name in SECTIONS.items() if section != without]
    return [_page_model(name, zoo.load(name), "last") for name in names]


def open_run(workdir: Path, checkpoint: Checkpoint = "last") -> PageModel:
    """Return the network of a run.

    Args:
      workdir: Workdir of a run of restoration, of a GAN, of a VAE or of classification of gray images.
      checkpoint: "last", "best" on the validation split, or a step.

    Raises:
      InputError: The run cannot be opened, or the page has no section for its task or its inputs.
    """
    return _page_model("run", workdir, checkpoint)


def _page_model(name: str, trained: TrainedModel, checkpoint: Checkpoint) -> PageModel:
    task = open_task(trained, Restoration, GAN, Variational, Classification)
    if isinstance(task, Classification):
        subject = load_interpretable_model(trained, checkpoint)
        return PageModel(name, "inside", inside_function(name, subject), _inside_entry(subject))
    (function,) = model_functions(trained, checkpoint)
    function = dataclasses.replace(function, name=name)
    if isinstance(task, Restoration):
        return PageModel(name, "restore", function, _restoration_entry(function))
    inputs = {port.name: port.shape for port in function.inputs}
    if "local" in inputs:
        counts = {word: inputs[word][-1] for word in ("local", "global", "phases")}
        return PageModel(name, "texture", function, {**counts, "cell": function.stride})
    if "degraded" in inputs:
        raise InputError(
            f"{trained} is a run of a conditional VAE; expected a VAE with model.conditional=False"
        )
    (output,) = function.outputs()
    shape = output.shape[1:]
    classes = getattr(task, "num_classes", 0) or 0
    entry = {"latents": inputs["latents"][-1], "classes": classes, "shape": shape}
    return PageModel(name, "draw", function, entry)


def _restoration_entry(function: ModelFunction) -> dict[str, Any]:
    model = cast(RestorationModel, cast(Any, function.network).model)
    field = model.receptive_field()
    before, after = field.before, field.after
    if field.scale > 1:  # The page enlarges the chroma bicubically, as `deconv-jax restore` does.
        chroma = ReceptiveFieldTracker().bicubic(field.scale).receptive_field()
        before, after = max(before, chroma.before), max(after, chroma.after)
    if model.channels not in (1, 3):
        raise InputError(
            f"the page restores images of 1 or 3 channels; the network expects {model.channels}"
        )
    return {
        "channels": model.channels,
        "noise": any(port.name == "noise_level" for port in function.inputs),
        "field": {
            "before": before,
            "after": after,
            "multiple": field.multiple,
            "scale": field.scale,
        },
    }


def _inside_entry(subject: InterpretableModel) -> dict[str, Any]:
    return {
        "shape": subject.image_shape,
        "classes": list(subject.class_names) or [str(n) for n in range(subject.num_classes)],
        "layers": projected_layers(subject),
    }
