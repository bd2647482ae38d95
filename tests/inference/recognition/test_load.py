"""Recognition networks load from their workdir alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.source_configs import Digits
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.inference.recognition.load import load_predictor, load_recognition
from deconv_jax.io import read_json, write_json
from deconv_jax.tasks.detection import MIN_SCORE
from deconv_jax.train import train
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.workdir import CHECKPOINTS, CONFIG, INPUTS, read_input_shapes

CLASSIFIER = {
    "name": "classification",
    "model": {"name": "classifier", "features": [2, 3], "embedding_dim": 4, "num_classes": 10},
    "preprocessing": {"resize": [9, 8], "standardize": True},
}
DIGIT = {"image": ((32, 32, 1), "uint8"), "label": ((), "int32"), "index": ((), "int32")}
SEGMENTER = {
    "name": "segmentation",
    "model": {"name": "unet", "channels": 4, "features": [2, 3], "residual": False},
    "class_names": ["sky", "sea", "land", "ship"],
}
SEGMENTED = {
    "image": ((48, 48, 3), "uint8"),
    "segments": ((48, 48), "uint8"),
    "size": ((2,), "int32"),
    "index": ((), "int32"),
}
DETECTOR = {
    "name": "detection",
    "model": {"name": "centernet", "num_classes": 2, "features": [2, 3], "head_features": 2},
}
DETECTED = {
    "image": ((48, 48, 3), "uint8"),
    "boxes": ((3, 4), "float32"),
    "box_class": ((3,), "int32"),
    "size": ((2,), "int32"),
    "index": ((), "int32"),
}
CANVAS = {"source": {"name": "penn_fudan", "path": "somewhere", "canvas": 48}}


@pytest.fixture
def classifier_config(small_config):
    return small_config(task=CLASSIFIER)


@pytest.mark.slow
def test_a_classifier_predicts_the_same_without_its_data(
    tmp_path, classifier_config, digits_dir, last_state, assert_trees_equal
):
    train(Experiment.from_dict(classifier_config), tmp_path / "run")
    source = Digits().open("train", digits_dir)
    first = source.gather(np.arange(1)) | {"index": np.arange(1, dtype=np.int32)}
    example = read_input_shapes(tmp_path / "run")
    assert set(example) == set(first)
    for name, array in first.items():
        assert (example[name].shape, example[name].dtype) == (array.shape, array.dtype)

    config = read_json(tmp_path / "run" / CONFIG)
    config["data"]["data_dir"] = str(tmp_path / "gone")
    write_json(tmp_path / "run" / CONFIG, config)
    task, variables = load_recognition(tmp_path / "run")
    step, state = last_state(tmp_path / "run")
    assert step == 8
    assert_trees_equal(variables, state.inference_variables())
    images = jnp.asarray(source.gather(np.arange(5))["image"] / np.float32(255))
    loaded, trained = (
        task.predict(v, images)["probabilities"] for v in (variables, state.inference_variables())
    )
    np.testing.assert_array_equal(loaded, trained)
    predictor = load_predictor(tmp_path / "run")
    assert predictor.size == (9, 8)


def test_variables_are_those_of_the_checkpoint(saved_run, assert_trees_equal):
    workdir, state = saved_run(CLASSIFIER, DIGIT)
    task, variables = load_recognition(workdir, 0)
    assert_trees_equal(variables, jax.device_get(state.inference_variables()))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables))
    assert task.preprocessing.resize == (9, 8)
    with pytest.raises(InputError, match="none is best"):
        load_recognition(workdir, "best")
    measured, _ = saved_run(CLASSIFIER, DIGIT, name="measured", metrics={"accuracy": 0.5})
    assert_trees_equal(load_recognition(measured, "best")[1], variables)


@pytest.mark.slow
def test_the_checkpoint_before_a_damaged_one_is_used_with_a_warning(
    saved_run, assert_trees_equal, capfd
):
    """By `workdir.load_state`, through which every command reads a run."""
    workdir, state = saved_run(CLASSIFIER, DIGIT)
    with Checkpoints(workdir / CHECKPOINTS, monitor="accuracy") as checkpoints:
        later = jax.tree.map(lambda a: a + 1, state).replace(step=jnp.asarray(5, jnp.int32))
        checkpoints.save(later, {}, None)
    (workdir / CHECKPOINTS / "5" / "_CHECKPOINT_METADATA").write_text("{")
    _, variables = load_recognition(workdir)
    assert_trees_equal(variables, jax.device_get(state.inference_variables()))
    errors = capfd.readouterr().err
    assert errors.startswith("warning: checkpoint of step 5 is damaged, passed over: ")
    assert len(errors.splitlines()) == 1
    with pytest.raises(InputError, match=r"checkpoint of step 5 .* is damaged"):
        load_recognition(workdir, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "example", "data", "expected"),
    [
        (CLASSIFIER, DIGIT, {}, {"size": (9, 8), "canvas": None, "color": "gray"}),
        (
            CLASSIFIER | {"preprocessing": {}},
            DIGIT | {"image": ((32, 24, 3), "uint8")},
            {},
            {"size": (32, 24), "canvas": None, "color": "rgb"},
        ),
        (
            CLASSIFIER | {"preprocessing": {}},
            DIGIT | {"image": ((40, 40, 3), "uint8"), "size": ((2,), "int32")},
            {"source": {"name": "tfds", "dataset": "mnist", "canvas": 40}},
            {"size": None, "canvas": 40, "color": "rgb"},
        ),
        (SEGMENTER, SEGMENTED, CANVAS, {"size": None, "canvas": 48, "multiple": 2}),
        (
            SEGMENTER,
            SEGMENTED | {"image": ((48, 48, 1), "uint8")},
            {"source": {"name": "image_label", "path": "somewhere", "color": "y"}},
            {"canvas": None, "color": "y", "class_names": ("sky", "sea", "land", "ship")},
        ),
        (
            DETECTOR,
            DETECTED,
            CANVAS,
            {"canvas": 48, "multiple": 4, "threshold": MIN_SCORE, "class_names": ("0", "1")},
        ),
    ],
    ids=["resized", "whole", "on a canvas", "segmenter", "gray segmenter", "detector"],
)
def test_predictor_matches_the_training_data(saved_run, task, example, data, expected):
    workdir, _ = saved_run(task, example, data=data)
    predictor = load_predictor(workdir)
    assert {name: getattr(predictor, name) for name in expected} == expected


@pytest.mark.slow
def test_threshold_must_be_in_the_unit_interval(saved_run):
    workdir, _ = saved_run(DETECTOR, DETECTED, data=CANVAS)
    for threshold in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=r"threshold must be in \[0, 1\]; got"):
            load_predictor(workdir, threshold=threshold)
    assert load_predictor(workdir, threshold=0.75).threshold == 0.75


def test_threshold_requires_a_detector(saved_run):
    workdir, _ = saved_run(CLASSIFIER, DIGIT)
    with pytest.raises(InputError, match="threshold requires a detector; got Classification"):
        load_predictor(workdir, threshold=0.5)


def test_other_than_one_or_three_channels_are_refused(saved_run):
    workdir, _ = saved_run(CLASSIFIER, DIGIT | {"image": ((32, 32, 2), "uint8")})
    with pytest.raises(InputError, match="1 or 3 channels; the network expects 2"):
        load_predictor(workdir)


def test_missing_or_damaged_input_shapes_are_refused(saved_run, tmp_path):
    workdir, _ = saved_run(CLASSIFIER, DIGIT)
    described = read_json(workdir / INPUTS)
    image = described["image"]
    for damaged in (
        {"image": [32, 32, 1]},
        {"label": described["label"]},
        {"image": image},
        described | {"image": image | {"shape": [32, 32]}},
        described | {"image": image | {"shape": "abc"}},
        described | {"image": image | {"shape": [2**31, 32, 1]}},
        described | {"image": image | {"shape": [32.5, 32, 1]}},
        described | {"image": image | {"dtype": "int7"}},
        described | {"image": image | {"dtype": "O"}},
    ):
        write_json(workdir / INPUTS, damaged)
        with pytest.raises(InputError, match=f"{INPUTS} is damaged: expected .*; got "):
            load_recognition(workdir)
    (workdir / INPUTS).write_text("[]")
    with pytest.raises(InputError, match=f"{INPUTS}: it holds an array"):
        load_recognition(workdir)
    (workdir / INPUTS).unlink()
    with pytest.raises(InputError, match=f"has no {INPUTS}.*run its training command again"):
        load_recognition(workdir)
    with pytest.raises(InputError, match="is not the workdir of a run"):
        read_input_shapes(tmp_path / "nothing")


def test_input_shapes_allocate_nothing(saved_run):
    """An image of ten million pixels per side would not fit the memory."""
    workdir, _ = saved_run(CLASSIFIER, DIGIT)
    described = read_json(workdir / INPUTS)
    described["image"]["shape"] = [10**7, 10**7, 1]
    write_json(workdir / INPUTS, described)
    assert read_input_shapes(workdir)["image"].shape == (1, 10**7, 10**7, 1)
    assert load_predictor(workdir).size == (9, 8)


def test_a_run_of_another_task_is_refused(tmp_path, small_config):
    write_json(tmp_path / CONFIG, Experiment.from_dict(small_config()).to_dict())
    wanted = "Classification or Segmentation or Detection"
    with pytest.raises(InputError, match=f"is a run of Autoencoding; expected a run of {wanted}"):
        load_predictor(tmp_path)
