"""The functions of a trained model that are exported, with their inputs and outputs.

    task              functions                                     variable sizes
    restoration       the image, and a noise level if the network   batch, height, width
                      is noise-conditional, to the restored image
    compression       analysis and synthesis, and those of the      batch, height, width
                      hyperprior
    segmentation      image to class probabilities of each pixel    batch, height, width
    detection         image to the maps of CenterNet                batch, height, width
    classification    image to class probabilities                  batch
    gan               latents, and classes if any, to images        batch
                      a texture_generator: grid of local latents,   batch, rows, columns
                      global latents and phases to a tileable image
    variational       latents, and the degraded image if any, to    batch
                      images
    autoencoding      image to reconstruction and code              batch

All compute in float32, whatever the precision of the training. Images are in [0, 1].
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deconv_jax.data.views import evaluation_view
from deconv_jax.errors import InputError
from deconv_jax.inference.restoration.load import LoadedNetwork
from deconv_jax.inference.trained_model import (
    TrainedModel,
    open_task,
    read_input_shapes,
)
from deconv_jax.models.codec import HYPER_STRIDE, LATENT_STRIDE, HyperpriorCodec
from deconv_jax.models.interfaces import CodecModel, RestorationModel
from deconv_jax.models.texture import TextureGenerator
from deconv_jax.tasks import (
    GAN,
    TASKS,
    Autoencoding,
    Classification,
    Compression,
    Detection,
    Restoration,
    Segmentation,
    Variational,
)
from deconv_jax.tasks.task_model import run_model
from deconv_jax.training.state import Tree
from deconv_jax.training.step import apply_model
from deconv_jax.workdir import Checkpoint, load_state
from deconv_jax.zoo import ZooModel

Example = Mapping[str, jax.ShapeDtypeStruct]
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""Function of a generator and a shape that returns a typical input."""


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or an output of an exported function.

    Attributes:
      name: Name in the exported file.
      shape: Length of each axis: a number, or the product of a number and a variable, such as "2*height".
        Images have the axes (batch, height, width, channels).
      meaning: Content, range and unit.
      dtype: Type of the numbers, "float32" or "int32".
      is_map: Whether the array has a height, a width and channels, whose order is a choice of the exporter.
      draw: Function that returns a typical input; None for an output.
    """

    name: str
    shape: tuple[int | str, ...]
    meaning: str
    dtype: str = "float32"
    is_map: bool = False
    draw: Draw | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, eq=False)
class ModelFunction:
    """A function of a trained model.

    Attributes:
      name: Name of the file, without suffix.
      task: Name of the task of the model.
      inputs: Inputs, in order.
      apply: Pure function of the inputs, maps with channels last, that returns the outputs by name.
      meanings: Content, range and unit of each output.
      stride: Pixels of the image per element of the inputs' height and width.
      network: Restoration network that the function applies; None for another task.
    """

    name: str
    task: str
    inputs: tuple[Port, ...]
    apply: Callable[..., dict[str, jax.Array]]
    meanings: dict[str, str]
    stride: int = 1
    network: LoadedNetwork | None = None

    def specs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return the shapes and dtypes of the inputs, with symbolic dimensions of `jax.export`."""
        scope = jax.export.SymbolicScope()
        return tuple(
            jax.ShapeDtypeStruct(
                jax.export.symbolic_shape(", ".join(map(str, port.shape)), scope=scope),
                np.dtype(port.dtype),
            )
            for port in self.inputs
        )

    def outputs(self) -> tuple[Port, ...]:
        """Return the outputs, in the order of their names.

        Raises:
          InputError: The network requires fixed sizes.
        """
        try:
            shapes = jax.eval_shape(self.apply, *self.specs())
        except (TypeError, ValueError, jax.errors.InconclusiveDimensionOperation) as error:
            raise InputError(
                f"{self.name} cannot be exported, because its network needs to know the size of the image: "
                f"{str(error).splitlines()[0]}"
            ) from error
        return tuple(
            Port(
                name,
                tuple(n if isinstance(n, int) else str(n) for n in shapes[name].shape),
                self.meanings[name],
                str(shapes[name].dtype),
                is_map=len(shapes[name].shape) == 4,
            )
            for name in sorted(shapes)
        )


def model_functions(
    trained: TrainedModel, checkpoint: Checkpoint = "last"
) -> tuple[ModelFunction, ...]:
    """Return the functions of a trained model.

    Args:
      trained: Workdir of a run, or a named model.
      checkpoint: "last", "best" on the validation split, or a step, of a run.

    Raises:
      InputError: There is no such run or checkpoint, it is damaged, or models of its task cannot be exported.
    """
    task = open_task(trained, *_MAKERS)
    if isinstance(trained, ZooModel):
        name, variables = trained.name, trained.variables
    else:
        name = trained.resolve().name
        variables = load_state(trained, checkpoint)[1].inference_variables()
    return task_functions(name, task, variables, read_input_shapes(trained))


def task_functions(
    name: str, task: Any, variables: Tree, example: Example
) -> tuple[ModelFunction, ...]:
    """Return the functions of a task.

    Args:
      name: Name of the model.
      task: Task of one of the classes in the table above.
      variables: Variables from `TrainState.inference_variables`.
      example: Shapes of a batch of training data.
    """
    if hasattr(task, "precision"):
        task = dataclasses.replace(task, precision="f32")
    variables = jax.tree.map(jnp.asarray, jax.device_get({"batch_stats": {}} | dict(variables)))
    kind = next(kind for kind in _MAKERS if isinstance(task, kind))
    label = next(word for word, known in TASKS.items() if known is kind)
    return tuple(
        dataclasses.replace(function, name=f"{name}{function.name}", task=label)
        for function in _MAKERS[kind](task, variables, example)
    )


def _images(multiple: int, channels: int, meaning: str = "image in [0, 1]") -> Port:
    return Port("image", _map_shape(multiple, channels), meaning, is_map=True, draw=_uniform)


def _map_shape(multiple: int, channels: int) -> tuple[int | str, ...]:
    """Return the shape of images or feature maps whose sides are multiples of a number."""
    factor = "" if multiple == 1 else f"{multiple}*"
    return ("batch", f"{factor}height", f"{factor}width", channels)


def restoration_function(
    model: nn.Module, variables: Tree, noise_conditional: bool, name: str = ""
) -> ModelFunction:
    """Return the function of a restoration network.

    Args:
      model: Network with the attributes of `RestorationModel`.
      variables: Its "params" and "batch_stats".
      noise_conditional: Whether the network takes a noise-level map as an additional channel.
      name: Name of the function.
    """
    network = cast(RestorationModel, model)
    multiple = network.receptive_field().multiple
    inputs = [_images(multiple, network.channels, "degraded image in [0, 1]")]
    if noise_conditional:
        meaning = "standard deviation of the noise of each image, sigma / 255"
        inputs.append(Port("noise_level", ("batch",), meaning, draw=_noise_level))

    def restore(images: jax.Array, *levels: jax.Array) -> dict[str, jax.Array]:
        for level in levels:
            noise_map = jnp.broadcast_to(level[:, None, None, None], (*images.shape[:3], 1))
            images = jnp.concatenate([images, noise_map], axis=-1)
        output, _ = apply_model(model, variables, images, train=False, precision="f32")
        return {"restored": output}

    scale = f"{network.scale} times as large, " if network.scale > 1 else ""
    meanings = {"restored": f"restored image in [0, 1], {scale}not clipped"}
    loaded = LoadedNetwork(name, model, variables, noise_conditional)
    return ModelFunction(name, "restoration", tuple(inputs), restore, meanings, network=loaded)


def _restoration(task: Restoration, variables: Tree, _: Example) -> list[ModelFunction]:
    return [restoration_function(task.model, variables, task.noise_conditional)]


def _compression(task: Compression, variables: Tree, _: Example) -> list[ModelFunction]:
    model = cast(CodecModel, task.model)
    hyper = isinstance(task.model, HyperpriorCodec)
    unit = HYPER_STRIDE if hyper else 1
    features = cast(Any, task.model).latent_features
    level = _integers("level", model.levels, f"quality level, 0 to {model.levels - 1}")

    def latents(name: str, count: int, multiple: int, meaning: str) -> Port:
        return Port(name, _map_shape(multiple, count), meaning, is_map=True, draw=_rounded)

    def apply(method: str, names: Sequence[str], *inputs: jax.Array) -> dict[str, jax.Array]:
        output = run_model(task, variables, *inputs, method=method)
        return dict(zip(names, output if len(names) > 1 else [output], strict=True))

    def function(
        method: str, stride: int, inputs: Sequence[Port], **meanings: str
    ) -> ModelFunction:
        run = functools.partial(apply, method, tuple(meanings))
        return ModelFunction(f"-{method}", "", tuple(inputs), run, meanings, stride)

    image = _images(unit * LATENT_STRIDE, model.channels)
    y = latents("latents", features, unit, "latents, rounded")
    found = [
        function("analyze", 1, [image, level], latents="latents, before rounding"),
        function(
            "synthesize", LATENT_STRIDE, [y, level], image="decoded image in [0, 1], not clipped"
        ),
    ]
    if hyper:
        z = latents("hyper_latents", cast(Any, task.model).features, 1, "hyper-latents, rounded")
        found += [
            function(
                "hyper_analyze", LATENT_STRIDE, [y], hyper_latents="hyper-latents, before rounding"
            ),
            function(
                "hyper_synthesize",
                LATENT_STRIDE * HYPER_STRIDE,
                [z],
                mean="means of the latents",
                scale="their scales",
            ),
        ]
    return found


def _segmentation(task: Segmentation, variables: Tree, example: Example) -> list[ModelFunction]:
    image = _images(getattr(task.model, "multiple", 1), _view_shape(task, example)[-1])
    apply = functools.partial(task.predict, variables)
    meanings = {"probabilities": "probability of each class at each pixel"}
    return [ModelFunction("", "", (image,), apply, meanings)]


def _detection(task: Detection, variables: Tree, example: Example) -> list[ModelFunction]:
    image = _images(cast(Any, task.model).multiple, _view_shape(task, example)[-1])

    def maps(images: jax.Array) -> dict[str, jax.Array]:
        return run_model(task, variables, images)._asdict()

    stride = f"in units of {task.output_stride} pixels"
    meanings = {
        "heat": "logit of an object center in each cell, for each class",
        "log_size": f"logarithms of height and width, {stride}",
        "offset": f"offset (down, right) of the center in the cell, {stride}",
    }
    return [ModelFunction("", "", (image,), maps, meanings)]


def _classification(task: Classification, variables: Tree, example: Example) -> list[ModelFunction]:
    height, width, channels = example["image"].shape[1:]
    height, width = task.preprocessing.resize or (height, width)
    shape = ("batch", height, width, channels)
    image = Port("image", shape, "image in [0, 1]", is_map=True, draw=_uniform)
    meanings = {"probabilities": "probability of each class"}
    return [ModelFunction("", "", (image,), functools.partial(task.predict, variables), meanings)]


def _generation(task: GAN | Variational, variables: Tree, _: Example) -> list[ModelFunction]:
    if isinstance(task, GAN) and isinstance(task.generator, TextureGenerator):
        return [_texture(task.generator, variables)]
    latents = Port("latents", ("batch", task.latent_dim), "standard normal numbers", draw=_normal)
    inputs, classes = [latents], task.num_classes
    if classes:
        inputs.append(_integers("labels", classes, f"class of each image, 0 to {classes - 1}"))
    apply: Callable[..., jax.Array] = functools.partial(task.sample, variables)
    if isinstance(task, Variational) and task.degradation is not None:
        shape = ("batch", *task.image_shape)
        inputs.append(Port("degraded", shape, "degraded image", is_map=True, draw=_uniform))
        apply = functools.partial(run_model, task, variables, method="decode")
    meanings = {"image": "image in [0, 1]"}
    return [ModelFunction("", "", tuple(inputs), lambda *given: {"image": apply(*given)}, meanings)]


def _texture(generator: TextureGenerator, variables: Tree) -> ModelFunction:
    stride = generator.stride
    one_cell = (stride, stride, generator.image_shape[-1])
    tileable = generator.clone(image_shape=one_cell, tileable=True)
    shape = _map_shape(1, generator.local_dim)
    meaning = f"standard normal numbers, for each cell of {stride} pixels"
    inputs = [Port("local", shape, meaning, is_map=True, draw=_normal)]
    for name, count in (("global", generator.global_dim), ("phases", generator.periodic_dim)):
        inputs.append(Port(name, ("batch", count), "standard normal numbers", draw=_normal))

    def draw(module: TextureGenerator, *latents: jax.Array) -> jax.Array:
        return module.decode(module.wrap(module.compose(*latents)))

    def apply(*latents: jax.Array) -> dict[str, jax.Array]:
        return {"image": cast(jax.Array, tileable.apply(variables, *latents, method=draw))}

    meanings = {"image": "tileable image in [0, 1]"}
    return ModelFunction("", "", tuple(inputs), apply, meanings, stride)


def _autoencoding(task: Autoencoding, variables: Tree, _: Example) -> list[ModelFunction]:
    shape = ("batch", *cast(Any, task.model).image_shape)
    image = Port("image", shape, "image in [0, 1]", is_map=True, draw=_uniform)

    def reconstruct(images: jax.Array) -> dict[str, jax.Array]:
        output, code = run_model(task, variables, images, method="reconstruct_with_code")
        return {"reconstruction": output, "code": code}

    meanings = {"reconstruction": "reconstruction in [0, 1]", "code": "latents"}
    return [ModelFunction("", "", (image,), reconstruct, meanings)]


_MAKERS: dict[type, Callable[..., list[ModelFunction]]] = {
    Restoration: _restoration,
    Compression: _compression,
    Segmentation: _segmentation,
    Detection: _detection,
    Classification: _classification,
    GAN: _generation,
    Variational: _generation,
    Autoencoding: _autoencoding,
}
"""Function that describes the exported functions of each task."""


def _view_shape(task: Segmentation | Detection, example: Example) -> tuple[int, ...]:
    """Return the shape of the images that a network is evaluated on."""
    return jax.eval_shape(lambda batch: evaluation_view(task.view, batch), example)["image"].shape


def _uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.random(shape, np.float32)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def _rounded(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.round(4 * rng.standard_normal(shape, np.float32))


def _noise_level(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(0, 50 / 255, shape).astype(np.float32)


def _integers(name: str, count: int, meaning: str) -> Port:
    """Return an int32 input with one number below `count` for each image."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.integers(0, count, shape, np.int32)

    return Port(name, ("batch",), meaning, "int32", draw=draw)
