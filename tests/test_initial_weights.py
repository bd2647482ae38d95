"""`config.init_from`: what is copied from a run or a weights file, what is not, and what is recorded."""

import dataclasses
import hashlib
import json
import shutil

import jax
import numpy as np
import pytest

from deconv_jax import zoo
from deconv_jax.cli import load_config
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.initial_weights import (
    InitialWeights,
    copy_weights,
    describe_copy,
    read_initial_weights,
)
from deconv_jax.models.fsrcnn import FSRCNN
from deconv_jax.models.weight_import import save_torch_weights
from deconv_jax.train import train
from deconv_jax.training.parallel import Devices
from deconv_jax.training.state import TrainState
from deconv_jax.workdir import INITIAL_WEIGHTS, RESULT

ORIGIN = {"source": "runs/other", "kind": "run", "step": 5, "sha256": "0"}
DIGITS = {"image": ((32, 32, 1), "uint8"), "index": ((), "int32"), "label": ((), "int32")}
GAN = {
    "name": "gan",
    "generator": {
        "name": "dcgan_generator",
        "image_shape": (32, 32, 1),
        "width": 2,
        "latent_dim": 3,
    },
    "discriminator": {"name": "dcgan_discriminator", "width": 2},
}


def super_resolution(scale):
    values = {"name": "restoration", "degradation": {"name": "downsample", "scale": scale}}
    config = {
        "task": values | {"model": {"name": "fsrcnn", "scale": scale}, "crop": 12},
        "data": {"source": {"name": "photographs"}},
        "training": {"num_steps": 1, "batch_size": 8},
    }
    return Experiment.from_dict(config).task


def state(*, ema, **params):
    params = {name: {"kernel": np.full(shape, 1.0)} for name, shape in params.items()}
    stats = {"norm": {"mean": np.zeros(2)}}
    average = jax.tree.map(np.copy, params) if ema else {}
    return Devices.all().replicate(TrainState(np.int32(0), params, stats, {}, average))


def weights(**params):
    params = {name: {"kernel": np.full(shape, 7.0)} for name, shape in params.items()}
    return InitialWeights({"params": params, "batch_stats": {"norm": {"mean": np.ones(2)}}}, ORIGIN)


def test_same_paths_and_shapes_are_copied_and_the_others_are_named():
    start = state(ema=True, first=(2, 3), middle=(4,), last=(5,), upsample=(6,))
    given = weights(first=(2, 4), last=(5,), upsample=(6,), other=(1,))
    after, report = copy_weights(start, given, Devices.all(), ("upsample",))
    assert {k: float(v["kernel"].max()) for k, v in after.params.items()} == {
        "first": 1.0,
        "middle": 1.0,
        "last": 7.0,
        "upsample": 1.0,
    }
    np.testing.assert_array_equal(after.batch_stats["norm"]["mean"], np.ones(2))
    jax.tree.map(np.testing.assert_array_equal, after.ema, after.params)
    assert after.ema["last"]["kernel"] is not after.params["last"]["kernel"]
    assert report == ORIGIN | {
        "copied": 2,
        "excluded": ["upsample/kernel"],
        "missing": ["middle/kernel"],
        "other_shape": {"first/kernel": [[2, 3], [2, 4]]},
        "unused": ["other/kernel"],
    }
    assert list(describe_copy(report)) == [
        "initial weights from the run runs/other, step 5: 2 of 5 arrays copied",
        "not copied, first/kernel has shape (2, 3) here and (2, 4) there",
        "not copied, excluded by init_exclude (1): upsample/kernel",
        "not copied, missing in the source (1): middle/kernel",
        "unused arrays of the source (1): other/kernel",
    ]


def test_nothing_in_common_is_an_error():
    start = dataclasses.replace(state(ema=False, first=(2, 3)), batch_stats={})
    with pytest.raises(
        InputError, match=r"'runs/other' has no weights .*it has first/kernel, norm"
    ):
        copy_weights(start, weights(first=(3, 2)), Devices.all())


def test_unknown_exclusion_is_an_error():
    start = state(ema=False, first=(2, 3))
    with pytest.raises(InputError, match=r"init_exclude: no parameter 'fir'; the model has first/"):
        copy_weights(start, weights(first=(2, 3)), Devices.all(), ("fir",))


@pytest.mark.parametrize("ema", [None, 0.9])
def test_gan_starts_from_the_averaged_generator_and_the_discriminator(saved_run, ema):
    workdir, saved = saved_run(GAN, DIGITS)
    task = Experiment.from_dict(
        {
            "task": GAN,
            "data": {"source": {"name": "digits"}},
            "optimizer": {"ema_decay": ema},
            "training": {"num_steps": 1, "batch_size": 8},
        }
    ).task
    example = {k: np.zeros((1, *shape), dtype) for k, (shape, dtype) in DIGITS.items()}
    like = jax.eval_shape(lambda key: task.init(key, example), jax.random.key(1))
    start = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like)
    given = read_initial_weights(str(workdir), task)
    after, report = copy_weights(start, given, Devices.all())
    jax.tree.map(np.testing.assert_array_equal, after.params, saved.params)
    if ema:
        average = {k: getattr(saved, k)["generator"] for k in ("params", "batch_stats")}
        jax.tree.map(np.testing.assert_array_equal, after.ema, average)
    assert report["missing"] == report["unused"] == []


def test_weights_file_without_a_scale_is_read_with_that_of_the_model(tmp_path):
    model = FSRCNN(scale=2, d=4, s=2, m=1)
    image = jax.ShapeDtypeStruct((1, 8, 8, 1), "float32")
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    params = jax.tree.map(lambda a: np.random.default_rng(0).random(a.shape, "float32"), shapes)
    path = tmp_path / "weights.safetensors"
    save_torch_weights(path, model, params)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"scale":"2"', b'"other":"2"'))
    read = read_initial_weights(str(path), super_resolution(3))
    jax.tree.map(np.testing.assert_array_equal, read.variables["params"], dict(params))
    assert read.origin["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("family", "name"), [("sr", "sr-x2"), ("sr-x3", "sr-x3")])
def test_network_selects_the_model_of_a_family(family, name):
    read = read_initial_weights(family, super_resolution(2))
    model = zoo.load(name)
    assert read.origin == {"source": name, "kind": "model", "sha256": model.card["sha256"]}
    jax.tree.map(np.testing.assert_array_equal, read.variables, model.variables)


@pytest.mark.parametrize(
    ("config", "name"),
    [("detection", "digit-scenes-centernet"), ("segmentation", "digit-scenes-unet")],
)
def test_task_selects_the_model_of_a_family(config, name):
    values = load_config(f"experiments/recognition/scenes_{config}.py")
    read = read_initial_weights("digit-scenes", Experiment.from_dict(values).task)
    assert read.origin["source"] == name


@pytest.mark.parametrize("source", ["denoize", "weights.ckpt"])
def test_unknown_source_is_an_error(source):
    with pytest.raises(InputError, match=r"init_from must be .*; got .*; (did you mean|known are)"):
        read_initial_weights(source, super_resolution(2))


def test_exclusions_require_a_source(small_config):
    with pytest.raises(InputError, match=r"init_exclude requires config\.init_from"):
        Experiment.from_dict(small_config(init_exclude=["Conv_0"]))


@pytest.mark.slow
def test_run_that_starts_from_another_resumes_bit_exactly(
    tmp_path, finished, small_config, last_state, assert_trees_equal, capsys
):
    """Initial weights are read at the start only: a resumed run does not need them."""
    source = shutil.copytree(finished[0], tmp_path / "source")
    config = small_config(init_from=str(source))
    result = train(Experiment.from_dict(config), tmp_path / "run")
    assert "note: initial weights from the run" in capsys.readouterr().err
    copied = result["initial_weights"]
    assert copied == json.loads((tmp_path / "run" / INITIAL_WEIGHTS).read_text())
    assert (copied["source"], copied["step"], copied["missing"]) == (str(source), 8, [])

    shutil.rmtree(source)
    run = tmp_path / "run"
    (_, whole), _ = last_state(run), (run / RESULT).unlink()
    shutil.rmtree(run / "checkpoints" / "8")
    again = train(Experiment.from_dict(config), run)
    assert again["resumed_at_step"] == 4
    assert_trees_equal(last_state(run)[1], whole)
    assert (again["initial_weights"], again["metrics"]) == (copied, result["metrics"])

    other = Experiment.from_dict(small_config(init_from="denoise"))
    with pytest.raises(InputError, match=r"belongs to a run with another config.*\n.*init_from"):
        train(other, run)
