"""The command `deconv-jax predict`."""

import errno
import json
import os

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from deconv_jax.cli import main
from deconv_jax.data.images import SKIPPED_OTHER_FORMAT, read_pixels
from deconv_jax.inference.recognition import coco
from deconv_jax.inference.recognition.coco import PREDICTIONS_FILE
from deconv_jax.inference.recognition.load import load_predictor
from deconv_jax.tasks.detection import MIN_SCORE

CLASSIFIER = {
    "name": "classification",
    "model": {"name": "classifier", "features": [2], "embedding_dim": 4, "num_classes": 3},
    "preprocessing": {"resize": [8, 8]},
    "class_names": ["ant", "bee", "cat"],
}
DIGIT = {"image": ((32, 32, 3), "uint8"), "label": ((), "int32"), "index": ((), "int32")}
SEGMENTER = {
    "name": "segmentation",
    "model": {"name": "unet", "channels": 3, "features": [2, 3], "residual": False},
}
SEGMENTED = {
    "image": ((24, 24, 3), "uint8"),
    "segments": ((24, 24), "uint8"),
    "index": ((), "int32"),
}
DETECTOR = {
    "name": "detection",
    "model": {"name": "centernet", "num_classes": 2, "features": [2, 3], "head_features": 2},
}
DETECTED = {
    "image": ((24, 24, 3), "uint8"),
    "boxes": ((3, 4), "float32"),
    "box_class": ((3,), "int32"),
    "index": ((), "int32"),
}


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path, draw):
    """Two images, one gray and one in a subfolder, and a damaged one between them."""
    folder = tmp_path / "in"
    (folder / "z").mkdir(parents=True)
    pixels = (draw(20, 36, 3) * 255).astype(np.uint8)
    Image.fromarray(pixels[:, :, 0]).save(folder / "a.png")
    Image.fromarray(pixels).save(folder / "z" / "c.jpg")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
    return folder


@pytest.fixture
def classifier(saved_run):
    return saved_run(CLASSIFIER, DIGIT)[0]


def run(*arguments):
    return main(["predict", *map(str, arguments)])


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_damaged_file_is_reported_and_the_others_are_done(tmp_path, classifier, folder, capsys):
    out = tmp_path / "out"
    arguments = ["--workdir", classifier, folder, "--output", out]
    assert run(*arguments) == 1
    captured = capsys.readouterr()
    errors = captured.err.splitlines()
    assert f"error: cannot read image {folder / 'b.png'}" in errors[0]
    assert errors[1] == "deconv-jax: 1 of 3 files failed"
    assert files_of(out) == {"a.png", "z/c.png", PREDICTIONS_FILE}

    found = json.loads((out / PREDICTIONS_FILE).read_text())
    assert [image["file_name"] for image in found["images"]] == ["a.png", "z/c.jpg"]
    assert {(image["height"], image["width"]) for image in found["images"]} == {(20, 36)}
    assert [category["name"] for category in found["categories"]] == ["ant", "bee", "cat"]
    predictor = load_predictor(classifier)
    lines = captured.out.splitlines()
    for number, name in enumerate(("a.png", "z/c.jpg"), 1):
        expected = predictor(read_pixels(folder / name))
        annotations = [a for a in found["annotations"] if a["image_id"] == number]
        assert [(a["category_id"], a["score"]) for a in annotations] == [
            (a["category_id"], a["score"]) for a in expected.coco_annotations()
        ]
        assert sum(a["score"] for a in annotations) == pytest.approx(1, abs=1e-5)
        picture = np.asarray(Image.open(out / name.replace("jpg", "png")))
        drawing = expected.draw(read_pixels(folder / name), predictor.class_names)
        np.testing.assert_array_equal(picture, drawing)
        summary = expected.summary(("ant", "bee", "cat"))
        assert lines[number - 1] == (
            f"{folder / name} -> {out / name.replace('jpg', 'png')}: {summary}"
        )
    assert lines[2] == f"written: {out / PREDICTIONS_FILE}"


def test_help_says_what_a_score_is(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Neither tells whether an image resembles the training data" in text
    assert (
        "score of a classifier is the softmax probability over the classes it was trained on"
        in text
    )


def test_existing_files_are_kept_without_overwrite(tmp_path, classifier, folder, capsys):
    out = tmp_path / "out"
    (folder / "b.png").unlink()
    arguments = ["--workdir", classifier, folder, "--output", out]
    assert run(*arguments) == 0
    before = {name: (out / name).stat().st_mtime_ns for name in files_of(out)}
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert f"{out / PREDICTIONS_FILE} exists; give --overwrite to replace it" in error
    (out / PREDICTIONS_FILE).unlink()
    assert run(*arguments) == 1
    assert capsys.readouterr().err.count("exists; give --overwrite to replace it") == 2
    assert {name: (out / name).stat().st_mtime_ns for name in files_of(out)} == {
        name: time for name, time in before.items() if name != PREDICTIONS_FILE
    }
    assert run(*arguments, "--overwrite") == 0
    assert all((out / name).stat().st_mtime_ns > time for name, time in before.items())


def test_skipped_files_are_named(tmp_path, classifier, folder, capsys):
    """Conversions are reported in the line of their file, and odd names are valid JSON."""
    out = tmp_path / "out"
    (folder / "b.png").unlink()
    (folder / "z" / "c.jpg").unlink()
    (folder / "d.svg").touch()
    os.mkfifo(folder / "e.png")
    name = os.fsdecode(b"f\n\xff.jpg")
    Image.new("CMYK", (8, 8)).save(folder / name)
    assert run("--workdir", classifier, folder, "--output", out) == 1
    captured = capsys.readouterr()
    assert r"/f\n\xff.jpg -> " in captured.out
    assert captured.out.count("(CMYK converted to RGB)") == 1
    assert captured.err.splitlines() == [
        f"deconv-jax: error: cannot read image {folder}/e.png: not a regular file",
        "deconv-jax: 1 of 3 files failed",
        f"deconv-jax: skipped 1 ({SKIPPED_OTHER_FORMAT}): {folder}/d.svg",
    ]
    found = json.loads((out / PREDICTIONS_FILE).read_text())
    assert [image["file_name"] for image in found["images"]] == ["a.png", name]


def test_only_damaged_files_write_nothing(tmp_path, classifier, folder, capsys):
    out = tmp_path / "out"
    assert run("--workdir", classifier, folder / "b.png", "--output", out) == 1
    assert "1 of 1 files failed" in capsys.readouterr().err
    assert not out.exists()


def test_an_interrupted_command_writes_its_predictions(tmp_path, classifier, folder, monkeypatch):
    out = tmp_path / "out"
    write = coco.write_png

    def interrupted(path, picture):
        if path.parent.name == "z":
            raise KeyboardInterrupt
        write(path, picture)

    monkeypatch.setattr(coco, "write_png", interrupted)
    assert run("--workdir", classifier, folder, "--output", out) == 130
    assert files_of(out) == {"a.png", PREDICTIONS_FILE}
    found = json.loads((out / PREDICTIONS_FILE).read_text())
    assert [image["file_name"] for image in found["images"]] == ["a.png"]
    assert len(found["annotations"]) == 3


def test_out_of_memory_fails_only_that_image(tmp_path, classifier, folder, monkeypatch, capsys):
    def full(_):
        raise MemoryError

    monkeypatch.setattr(
        "deconv_jax.inference.recognition.predictions.ClassProbabilities.coco_annotations", full
    )
    assert run("--workdir", classifier, folder / "a.png", "--output", tmp_path / "out") == 1
    assert "a.png: not enough memory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_predictions_are_written_completely_or_not_at_all(
    tmp_path, classifier, folder, monkeypatch, capsys
):
    """The disk fills up between the picture and the predictions."""
    out = tmp_path / "out"
    arguments = ["--workdir", classifier, folder / "a.png", "--output", out]
    assert run(*arguments) == 0
    (out / PREDICTIONS_FILE).write_text("those of before")
    synced, sync = [], os.fsync

    def full(number):
        synced.append(number)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(number)

    monkeypatch.setattr(os, "fsync", full)
    assert run(*arguments, "--overwrite") == 2
    assert f"cannot write {out / PREDICTIONS_FILE}: " in capsys.readouterr().err
    assert (out / PREDICTIONS_FILE).read_text() == "those of before"
    assert files_of(out) == {"a.png", PREDICTIONS_FILE}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--threshold", "0.5"], "threshold requires a detector; got Classification"),
        (["--checkpoint", "7"], "has no checkpoint of step 7"),
        (["--checkpoint", "first"], "--checkpoint must be last, best or a step; got 'first'"),
        (["--workdir", "nowhere"], "nowhere is not the workdir of a run"),
    ],
)
def test_invalid_flags_are_reported(tmp_path, classifier, folder, capsys, flags, message):
    out = tmp_path / "out"
    assert run("--workdir", classifier, folder, "--output", out, *flags) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_masks_cover_the_image(tmp_path, saved_run, folder):
    workdir, _ = saved_run(
        SEGMENTER, SEGMENTED, data={"source": {"name": "image_label", "path": "gone"}}
    )
    out = tmp_path / "out"
    assert run("--workdir", workdir, folder / "z", "--output", out) == 0
    pixels = read_pixels(folder / "z" / "c.jpg")
    expected = load_predictor(workdir)(pixels).classes
    found = COCO(out / PREDICTIONS_FILE)
    areas = {a["category_id"]: a["area"] for a in found.anns.values()}
    assert areas == {n: np.sum(expected == n) for n in np.unique(expected)}
    assert sum(areas.values()) == 20 * 36
    assert found.imgs[1]["file_name"] == "c.jpg"


@pytest.mark.slow
def test_boxes_have_the_minimum_score(tmp_path, saved_run, folder):
    workdir, _ = saved_run(
        DETECTOR, DETECTED, data={"source": {"name": "penn_fudan", "path": "gone", "canvas": 24}}
    )

    def found(*flags):
        arguments = ["--workdir", workdir, folder / "a.png", "--output", tmp_path / "out"]
        assert run(*arguments, "--overwrite", *flags) == 0
        return COCO(tmp_path / "out" / PREDICTIONS_FILE).dataset["annotations"]

    everything = found("--threshold", "0")
    scores = [annotation["score"] for annotation in everything]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    for annotation in everything:
        left, top, width, height = annotation["bbox"]
        assert min(annotation["bbox"]) >= 0
        assert left + width <= 36.001
        assert top + height <= 20.001
    middle = (scores[0] + scores[-1]) / 2
    assert found("--threshold", middle) == [a for a in everything if a["score"] >= middle]
    assert found() == [a for a in everything if a["score"] >= MIN_SCORE]
    assert found("--threshold", "1") == []


def test_help_says_the_least_score(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    assert f"(default: {MIN_SCORE})" in capsys.readouterr().out
