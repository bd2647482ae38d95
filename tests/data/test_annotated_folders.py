"""Folders of annotated images: masks, boxes and pixel classes match their images; bad files are errors."""

import os
import pickle
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from deconv_jax.data.annotated_folders import read_penn_fudan
from deconv_jax.data.config import Data
from deconv_jax.data.images import read_labels
from deconv_jax.data.pipeline import evaluation_batches, training_iterator
from deconv_jax.data.source_configs import ImageLabel, PennFudan, parse_source
from deconv_jax.data.sources import in_memory
from deconv_jax.data.views import IGNORED, AnnotatedView, evaluation_view
from deconv_jax.errors import InputError

REAL = Path(os.environ.get("DECONV_JAX_DATA", "")) / "pennfudan_subset"
MEMBRANES = REAL.parent / "em_membrane"
TEXT = """# Compatible with PASCAL Annotation Version 1.00
Image filename : "PennFudanPed/PNGImages/{name}.png"
Image size (X x Y x C) : {width} x {height} x 3
Objects with ground truth : {count} {{ {quoted} }}
# Top left pixel co-ordinates : (1, 1)
{details}"""
BOX = """# Details for pedestrian {n} ("PASpersonWalking")
Bounding box for object {n} "PASpersonWalking" (Xmin, Ymin) - (Xmax, Ymax) : ({}, {}) - ({}, {})
"""
PEOPLE = {
    "a": ((20, 30), [(2, 3, 12, 9), (5, 15, 19, 28)]),
    "b": ((40, 24), [(0, 0, 40, 24)]),
    "c": ((16, 10), []),
}
"""By name: height and width of an image, and top, left, bottom, right of those in it."""


def write_person(root, name, size, boxes):
    for folder in ("PNGImages", "PedMasks", "Annotation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    image, mask = np.full((*size, 3), 50, np.uint8), np.zeros(size, np.uint8)
    for number, (top, left, bottom, right) in enumerate(boxes, start=1):
        image[top:bottom, left:right] = 50 + 60 * number
        mask[top:bottom, left:right] = number
    Image.fromarray(image).save(root / "PNGImages" / f"{name}.png")
    Image.fromarray(mask).save(root / "PedMasks" / f"{name}_mask.png")
    details = "\n".join(
        BOX.format(left + 1, top + 1, right, bottom, n=n)
        for n, (top, left, bottom, right) in enumerate(boxes, start=1)
    )
    quoted = " ".join(['"PASpersonWalking"'] * len(boxes))
    text = TEXT.format(
        name=name,
        height=size[0],
        width=size[1],
        count=len(boxes),
        quoted=quoted,
        details=details,
    )
    (root / "Annotation" / f"{name}.txt").write_text(text)


@pytest.fixture
def people(tmp_path):
    for name, (size, boxes) in PEOPLE.items():
        write_person(tmp_path / "people", name, size, boxes)
    return tmp_path / "people"


def write_labels(root, labels, size=(12, 10), folder="label"):
    """Write images of one gray each, with label files of the given arrays or values."""
    for number, (name, label) in enumerate(labels.items()):
        for part, pixels in (("image", np.full(size, 10 * number, np.uint8)), (folder, label)):
            path = root / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            array = np.broadcast_to(np.asarray(pixels, np.uint8), size)
            Image.fromarray(array.copy()).save(path)
    return str(root)


def message_of(call, *arguments, **options):
    with pytest.raises(InputError) as raised:
        call(*arguments, **options)
    return str(raised.value)


# Penn-Fudan


def test_penn_fudan_has_masks_and_boxes(people):
    source = PennFudan(str(people)).open("all")
    batch = source.gather(np.arange(3))
    described = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
    assert described == {
        "image": ((3, 48, 32, 3), "uint8"),
        "size": ((3, 2), "int32"),
        "segments": ((3, 48, 32), "uint8"),
        "boxes": ((3, 2, 4), "float32"),
        "box_class": ((3, 2), "int32"),
    }
    for row, (size, boxes) in enumerate(PEOPLE.values()):
        height, width = size
        np.testing.assert_array_equal(batch["size"][row], size)
        np.testing.assert_array_equal(
            batch["boxes"][row, : len(boxes)].reshape(-1), np.ravel(boxes)
        )
        np.testing.assert_array_equal(
            batch["box_class"][row], [0] * len(boxes) + [-1] * (2 - len(boxes))
        )
        expected = np.full((48, 32), IGNORED)
        expected[:height, :width] = 0
        for top, left, bottom, right in boxes:
            expected[top:bottom, left:right] = 1
        np.testing.assert_array_equal(batch["segments"][row], expected)
        assert not batch["image"][row, height:].any()
        assert not batch["image"][row, :, width:].any()


def test_splits_are_slices_of_the_images(people):
    first, last = PennFudan(str(people)).open("all[:1]"), PennFudan(str(people)).open("all[1:]")
    both = PennFudan("people").open("all[2:]+all[:1]", str(people.parent))
    assert (len(first), len(last), len(both)) == (1, 2, 2)
    assert both.gather(np.arange(2))["size"].tolist() == [[16, 10], [20, 30]]
    assert len({str(source.fingerprint) for source in (first, last, both)}) == 3


def test_annotations_are_resized_with_their_images(people):
    """Nearly all pixels in a box are those of the object and of its mask."""
    source = PennFudan(str(people), canvas=80).open("all")
    batch = source.gather(np.arange(3))
    assert batch["image"].shape == (3, 80, 80, 3)
    np.testing.assert_array_equal(batch["size"], [[53, 80], [80, 48], [80, 50]])
    factors = np.array([53 / 20, 80 / 30] * 2)
    np.testing.assert_allclose(batch["boxes"][0], np.array(PEOPLE["a"][1]) * factors, rtol=1e-6)
    for row in range(2):
        for number, box in enumerate(batch["boxes"][row][batch["box_class"][row] >= 0]):
            inside = np.zeros((80, 80), bool)
            top, left, bottom, right = np.round(box).astype(int)
            inside[top:bottom, left:right] = True
            bright = np.abs(batch["image"][row, ..., 0] - (50.0 + 60 * (number + 1))) < 30
            assert np.mean(bright[inside]) > 0.9  # Edges are soft.
            assert np.mean(batch["segments"][row][inside] == 1) > 0.95
    for row in range(3):
        height, width = batch["size"][row]
        ignored = batch["segments"][row] == IGNORED
        assert not ignored[:height, :width].any()
        assert ignored[height:].all()
        assert ignored[:, width:].all()


@pytest.mark.skipif(not REAL.is_dir(), reason="DECONV_JAX_DATA has no pennfudan_subset")
def test_boxes_of_the_annotation_files_are_the_bounds_of_the_masks():
    """In the published data, five boxes extend up to 3 pixels further to the right."""
    apart = []
    for path in sorted((REAL / "PNGImages").glob("*.png")):
        example = read_penn_fudan(path)
        instances = read_labels(REAL / "PedMasks" / f"{path.stem}_mask.png")
        assert instances.max() == len(example.boxes)
        for number, box in enumerate(example.boxes, start=1):
            rows, columns = np.nonzero(instances == number)
            bounds = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
            apart.append(np.abs(box - bounds))
    assert np.max(apart) <= 3
    assert np.sum(np.any(apart, axis=1)) == 5
    assert len(apart) > 80


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "PedMasks/b_mask.png").unlink(), ["b_mask.png", "No such file"]),
        (
            lambda root: (root / "Annotation/b.txt").unlink(),
            ["annotation", "b.txt", "No such file"],
        ),
        (
            lambda root: (root / "Annotation/b.txt").write_text("nothing\n"),
            ["b.txt is ill-formed", "got 0 boxes"],
        ),
        (
            lambda root: shutil.copy(root / "Annotation/a.txt", root / "Annotation/b.txt"),
            ["b.txt is for 30 x 20 pixels", "b.png has 24 x 40"],
        ),
        (
            lambda root: shutil.copy(root / "PedMasks/a_mask.png", root / "PedMasks/b_mask.png"),
            ["b_mask.png has 30 x 20 pixels", "b.png has 24 x 40"],
        ),
        (
            lambda root: write_person(root, "b", (40, 24), [(0, 0, 41, 24)]),
            ["box 1 has corners ('1', '1', '24', '41')", "24 x 40 pixels"],
        ),
        (
            lambda root: (root / "PNGImages/b.png").write_bytes(b"no image"),
            ["cannot read image", "b.png"],
        ),
        (
            lambda root: shutil.copy(root / "PNGImages/b.png", root / "PedMasks/b_mask.png"),
            ["b_mask.png", "its pixels are RGB"],
        ),
    ],
)
def test_invalid_penn_fudan_files_are_named_with_the_reason(people, damage, words):
    damage(people)
    message = message_of(PennFudan(str(people)).open, "all")
    assert all(word in message for word in words), message
    PennFudan(str(people)).open("all[:1]")


# Images and labels


def test_dark_foreground_makes_black_class_1(tmp_path):
    """As the ISBI membranes. A file may have only one of the two values."""
    lines = np.full((12, 10), 255, np.uint8)
    lines[4] = 0
    labels = {"0.png": lines, "1.png": 255, "2.png": 0}
    source = ImageLabel(write_labels(tmp_path, labels), color="gray", dark_foreground=True)
    batch = source.open("all").gather(np.arange(3))
    assert batch["image"].shape == (3, 16, 16, 1)
    np.testing.assert_array_equal(batch["segments"][0, :12, :10], lines == 0)
    assert not batch["segments"][1, :12, :10].any()
    assert (batch["segments"][2, :12, :10] == 1).all()
    assert (batch["segments"][:, 12:] == IGNORED).all()
    for place in range(3):
        alone = source.open(f"all[{place}:{place + 1}]").gather(np.arange(1))
        np.testing.assert_array_equal(alone["segments"][0], batch["segments"][place])


def test_black_and_white_labels_require_dark_foreground(tmp_path):
    lines = np.full((12, 10), 255, np.uint8)
    lines[4] = 0
    name = write_labels(tmp_path, {"0.png": lines, "1.png": 255})
    assert "dark_foreground=True if black is class 1" in message_of(ImageLabel(name).open, "all")
    # Numbers of classes in another split: this one has class 0 and pixels that are IGNORED.
    write_labels(tmp_path, {"1.png": 2})
    batch = ImageLabel(name).open("all[:1]").gather(np.arange(1))
    np.testing.assert_array_equal(batch["segments"][0, :12, :10], lines)
    message = message_of(ImageLabel(name, dark_foreground=True).open, "all")
    assert "requires label files with only 0 and 255" in message
    assert "1.png has other values" in message


def test_labels_are_classes_and_255_is_ignored(tmp_path):
    label = np.arange(120).reshape(12, 10) % 4
    label[0] = 255
    name = write_labels(tmp_path, {"0.png": label, "more/1.png": 255})
    batch = ImageLabel(name).open("all").gather(np.arange(2))
    np.testing.assert_array_equal(batch["segments"][0, :12, :10], label)
    assert (batch["segments"][1] == IGNORED).all()
    assert set(batch) == {"image", "size", "segments"}
    assert len(ImageLabel(name).open("more")) == 1


def test_labels_with_a_palette_are_its_indices(tmp_path):
    label = np.arange(120).reshape(12, 10) % 3
    name = write_labels(tmp_path, {"0.png": label})
    painted = Image.fromarray(label.astype(np.uint8), "L").convert("P")
    painted.putdata(label.ravel())
    painted.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    painted.save(tmp_path / "label" / "0.png")
    batch = ImageLabel(name).open("all").gather(np.arange(1))
    np.testing.assert_array_equal(batch["segments"][0, :12, :10], label)
    bits = Image.fromarray(255 * (label > 0).astype(np.uint8)).convert("1")
    bits.save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "bits.png"), 255 * (label > 0))


def test_images_and_labels_may_have_different_suffixes(tmp_path):
    name = write_labels(tmp_path, {"0.png": 1})
    Image.open(tmp_path / "image/0.png").save(tmp_path / "image/0.bmp")
    (tmp_path / "image/0.png").unlink()
    assert len(ImageLabel(name).open("all")) == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "label/1.png").unlink(), ["1.png has no label file", "label/1.png"]),
        (lambda root: shutil.rmtree(root / "label"), ["no folder", "label"]),
        (lambda root: shutil.rmtree(root / "image"), ["no folder", "image"]),
        (
            lambda root: Image.new("L", (3, 4)).save(root / "label/1.png"),
            ["label/1.png has 3 x 4 pixels", "image/1.png has 10 x 12"],
        ),
        (
            lambda root: Image.new("I;16", (10, 12)).save(root / "label/1.png"),
            ["label/1.png", "its pixels are I;16; labels must be 8-bit gray"],
        ),
    ],
)
def test_invalid_label_files_are_named_with_the_reason(tmp_path, damage, words):
    name = write_labels(tmp_path, {"0.png": 1, "1.png": 2})
    damage(tmp_path)
    message = message_of(ImageLabel(name).open, "all")
    assert all(word in message for word in words), message


@pytest.mark.skipif(not MEMBRANES.is_dir(), reason="DECONV_JAX_DATA has no em_membrane")
def test_membranes_are_the_dark_pixels_of_the_published_labels():
    data = Data(
        ImageLabel(str(MEMBRANES), color="gray", dark_foreground=True), test_split="all[24:]"
    )
    batch = data.open("test").gather(np.arange(6))
    assert batch["image"].shape == (6, 512, 512, 1)
    segments = batch["segments"]
    assert set(np.unique(segments)) == {0, 1}
    assert 0.15 < segments.mean() < 0.3
    assert batch["image"][..., 0][segments == 1].mean() + 20 < batch["image"].mean()


# In the pipeline


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
def test_cached_annotations_are_unchanged(people, cache):
    data = Data(
        source=PennFudan(str(people), canvas=32),
        train_split="all[:2]",
        validation_split="all[2:]",
        cache=cache,
    )
    source = data.open("train")
    expected = data.source.open("all[:2]").gather(np.arange(2))
    held = in_memory(source)
    assert held.fingerprint == source.fingerprint
    batch = next(training_iterator(held, batch_size=2, batches=1, seed=0))
    for name, array in expected.items():
        np.testing.assert_array_equal(batch[name], array[batch["index"]])
    (last,) = evaluation_batches(data.open("validation"), batch_size=2)
    assert last["mask"].tolist() == [1, 0]
    seen = evaluation_view(AnnotatedView(), jax.tree.map(jax.numpy.asarray, last))
    assert (np.asarray(seen["segments"])[:, :, 20:] == IGNORED).all()


@pytest.mark.parametrize("kind", ["penn_fudan", "image_label"])
def test_sources_can_be_pickled(people, tmp_path, kind):
    labels = write_labels(tmp_path / "labels", {"0.png": 1})
    source = (PennFudan(str(people)) if kind == "penn_fudan" else ImageLabel(labels)).open("all")
    sent = pickle.loads(pickle.dumps(source))
    indices = np.arange(len(source))
    jax.tree.map(np.testing.assert_array_equal, sent.gather(indices), source.gather(indices))


def test_fingerprints_depend_on_annotations_canvas_and_color(people):
    def fingerprint(**options):
        return str(PennFudan(str(people), **options).open("all").fingerprint)

    found = [
        fingerprint(),
        fingerprint(canvas=32),
        fingerprint(canvas=64),
        fingerprint(color="gray"),
    ]
    write_person(people, "c", (16, 10), [(1, 1, 9, 9)])
    found.append(fingerprint())
    assert len(set(found)) == 5
    assert found[-1] == fingerprint()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("image_label:nowhere", "no folder nowhere/image"),
        ("image_label:$NO_SUCH_SET/x", "NO_SUCH_SET is not set"),
        ("penn_fudan:nowhere", "no folder nowhere/PNGImages"),
    ],
)
def test_missing_folder_is_named(name, words):
    assert words in message_of(parse_source(name).open, "all")


def test_split_of_another_folder_is_an_error(people):
    assert "another folder" in message_of(PennFudan(str(people)).open, "folder:elsewhere")


def test_annotated_folders_need_no_preparation(people):
    assert "needs no preparation" in message_of(PennFudan(str(people)).prepare)
