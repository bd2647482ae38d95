"""Every config in experiments/ builds, and what it would train fits its data's shape."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.cli import load_config
from deconv_jax.config_arguments import load_module
from deconv_jax.data.source_configs import Pairs, Stacked
from deconv_jax.experiment import Experiment

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(
    path
    for path in (ROOT / "experiments").glob("*/*.py")
    if path.parent.name not in ("accelerator", "benchmarks", "tables", "zoo")
    and path.name[0] != "_"
)
ARGUMENTS = {
    "autoencoding/dae": ["data=digits,sigma=25,steps=1000", "data=fashion_mnist,width=16"],
    "autoencoding/codec": ["model=factorized,levels=1", "distortion=ms_ssim"],
    "autoencoding/codec_photos": ["model=hyperprior"],
    "autoencoding/vae": ["data=digits,beta=4.0", "data=fashion_mnist"],
    "autoencoding/vqvae": ["data=digits,codes=256", "data=mnist,dim=16,width=16"],
    "recognition/mnist_classifier": ["decoder=True"],
    "recognition/scenes_detection": ["output_stride=2"],
    "recognition/scenes_segmentation": [
        "model=fcn8s",
        "model=fcn16s",
        "model=fcn32s",
        "model=deconvnet",
        "upsampling=subpixel",
        "upsampling=resize",
    ],
    "restoration/ffdnet": ["color=rgb"],
    "restoration/jpeg_blind": ["color=rgb"],
    "restoration/pairs": ["color=gray", "scale=2,color=y"],
    "restoration/sr_gan": ["weight=0.03", "weight=0.03,relativistic=False,features=pixels"],
    "restoration/super_resolution": [
        "model=espcn,scale=2",
        "model=fsrcnn_s,scale=4",
        "model=srcnn",
        "upsampling=subpixel",
        "upsampling=resize",
    ],
    "restoration/rednet": ["depth=10,skip_every=10", "depth=20"],
    "synthesis/cifar10": ["networks=conv"],
    "synthesis/faces": ["height=96"],
    "synthesis/high_resolution": ["size=256"],
    "synthesis/texture": ["images=brick+grass,side=64"],
    "synthesis/mnist": ["loss=wasserstein", "upsampling=resize", "upsampling=subpixel", "kernel=5"],
    "synthesis/stacked_mnist": ["remedy=none", "remedy=minibatch_std", "remedy=gradient_penalty"],
}
CASES = [(path, "") for path in CONFIGS] + [
    (path, argument)
    for path in CONFIGS
    for argument in ARGUMENTS.get(f"{path.parent.name}/{path.stem}", [])
]


def example_batch(experiment, size):
    """A batch of the shapes that a config's data set gives."""
    data = experiment.data
    model = getattr(experiment.task, "model", None) or experiment.task.generator
    height, width, channels = getattr(model, "image_shape", (28, 28, 1))
    tile = getattr(data.source, "tile", None)
    if tile is not None:
        height, width, channels = tile, tile, model.channels
    batch = {"label": jnp.zeros(size, jnp.int32), "index": jnp.arange(size, dtype=jnp.int32)}
    if isinstance(data.source, Pairs):
        sides = height // model.scale, width // model.scale
        batch["input"] = jnp.zeros((size, *sides, channels), jnp.uint8)
    if isinstance(data.source, Stacked) and hasattr(experiment.task, "view"):
        height, width, channels = 32, 32, 3
        batch["digits"] = jnp.zeros((size, 3), jnp.int32)
    elif hasattr(experiment.task, "view"):
        height = width = data.source.canvas or 512
        channels = 1 if data.source.color == "gray" else 3
        batch |= {
            "segments": jnp.zeros((size, height, width), jnp.uint8),
            "boxes": jnp.zeros((size, 5, 4), jnp.float32),
            "box_class": jnp.full((size, 5), -1, jnp.int32),
            "size": jnp.full((size, 2), height, jnp.int32),
        }
    return batch | {"image": jnp.zeros((size, height, width, channels), jnp.uint8)}


@pytest.mark.slow
@pytest.mark.parametrize(("path", "argument"), CASES, ids=lambda value: str(value).split("/")[-1])
def test_builds_and_takes_a_step(path, argument):
    """Shapes alone: nothing is computed, and no data is read."""
    experiment = Experiment.from_dict(load_config(f"{path}:{argument}"))
    text = json.dumps(experiment.to_dict())
    assert Experiment.from_dict(json.loads(text)) == experiment
    assert experiment.task.optimizer.decay_steps == experiment.training.num_steps
    assert experiment.training.compiler == "jit"
    task = experiment.task
    steps = getattr(task, "discriminator_steps", 1)
    if steps > 2:  # They are traced one after the other, and are alike.
        task, steps = dataclasses.replace(task, discriminator_steps=2), 2
    # Divides into parts of a group each, where a step or a network asks for that.
    batch = example_batch(experiment, 4 * steps)
    state = jax.eval_shape(lambda key: task.init(key, batch), jax.random.key(0))
    after, scalars = jax.eval_shape(task.train_step, state, batch)
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, state)
    assert {"loss", "grad_norm"} <= set(scalars)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_says_how_to_run_it(path):
    command = f"--config experiments/{path.parent.name}/{path.name}"
    doc = load_module(path).__doc__
    assert command in doc
    assert "FIGURES" not in doc


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("steps", [1, 20])
def test_every_config_can_be_shortened(path, steps):
    Experiment.from_dict(load_config(str(path), [f"--config.training.num_steps={steps}"]))


@pytest.mark.parametrize(
    "name",
    [
        "recognition/coco_detection",
        "recognition/pets_segmentation",
        "recognition/voc_detection",
        "restoration/super_resolution",
    ],
)
def test_the_argument_steps_may_be_small(name):
    Experiment.from_dict(load_config(f"{ROOT / 'experiments' / name}.py:steps=500"))
