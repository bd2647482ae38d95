"""Folders of images with files of annotations: instance masks and boxes, or the class of each pixel.

    penn_fudan:PATH    PNGImages/NAME.png, PedMasks/NAME_mask.png, Annotation/NAME.txt (Wang et al.,
                       "Object Detection Combining Recognition and Segmentation", ACCV 2007): pixels
                       of class 1 for pedestrians, 0 for the rest; boxes of class 0
    image_label:PATH   image/NAME.png, label/NAME.png: the class of each pixel, or 255 for `IGNORED`
    dark_lines:PATH    the same files, of black and white: 0 for class 1 and 255 for class 0, as the
                       membranes of ISBI 2012 are labelled

An example is a whole image on a canvas, at the top left; beside it the image is black, the class of
pixels is `IGNORED`, and "size" says what is true. What a reader would get wrong: label files of
black and white alone do not say which of them is the object, or whether white is `IGNORED`; as
"image_label" a folder of only such files is refused.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from deconv_jax.data.batch import IGNORED, HostBatch
from deconv_jax.data.folders import (
    CANVAS_MULTIPLE,
    FOLDER,
    Files,
    Seen,
    find_files,
    fingerprint_of,
)
from deconv_jax.data.images import Color, list_images, read_labels, read_pixels
from deconv_jax.data.overlap import parts_of_files
from deconv_jax.errors import InputError, at_least
from deconv_jax.io import open_regular

PENN_FUDAN, IMAGE_LABEL, DARK_LINES = "penn_fudan:", "image_label:", "dark_lines:"
_IMAGES = {PENN_FUDAN: "PNGImages", IMAGE_LABEL: "image", DARK_LINES: "image"}
ANNOTATED = tuple(_IMAGES)
"""How the name of a data set begins that is a folder of annotated images."""

_SIZE = re.compile(r"^Image size \(X x Y x C\) : (\d+) x (\d+) x \d+\s*$", re.MULTILINE)
_OBJECTS = re.compile(r"^Objects with ground truth : (\d+)\b", re.MULTILINE)
_BOX = re.compile(
    r"^Bounding box for object \d+ .*: \((\d+), (\d+)\) - \((\d+), (\d+)\)\s*$", re.MULTILINE
)


class Example(NamedTuple):
    """An image and what is known of it.

    Attributes:
      image: uint8 (height, width, channels).
      segments: uint8 (height, width), None where it is not known.
      boxes: float32 (count, 4): top, left, bottom and right edges, pixels; None where not known.
      box_class: int32 (count,).
    """

    image: np.ndarray
    segments: np.ndarray | None = None
    boxes: np.ndarray | None = None
    box_class: np.ndarray | None = None


class AnnotatedSource:
    """A split of annotated images; `gather` gives "image", "size" and what `Batch` says.

    Every file is read once at the start, and one that is damaged or missing ends that.

    Args:
      images: the image files, in the order of examples.
      read: gives an image and its annotations.
      beside: gives the files of an image's annotations.
      canvas: pixels a side that images are resized to fit; None to leave their size, on a canvas of
        the largest height and width among them, rounded up to a multiple of 16.
      color: channels, see `read_pixels`.

    Attributes:
      fingerprint: see `Source.fingerprint`; of names and sizes, as that of `FolderSource`.
      parts: see `Source.parts`; the files of the images.
      skipped: a line for each link to a folder that was left out.

    Raises:
      InputError: a file is missing, damaged, or does not fit the image that it is of.
    """

    def __init__(
        self,
        images: Files,
        read: Callable[[Path, Color], Example],
        beside: Callable[[Path], tuple[Path, ...]],
        *,
        canvas: int | None = None,
        color: Color = "rgb",
    ):
        self._paths, self._read, self._color, self._canvas = images.paths, read, color, canvas
        self.parts = parts_of_files(images.paths)
        self.skipped = images.left_out

        def look_at(path: Path) -> tuple[Seen, int]:
            example = read(path, color)
            height, width = example.image.shape[:2]
            size = sum(file.stat().st_size for file in (path, *beside(path)))
            boxes = 0 if example.boxes is None else len(example.boxes)
            return Seen(height, width, size), boxes

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            files, counts = zip(*threads.map(look_at, self._paths), strict=True)
        self._most_boxes = max(1, *counts)
        if canvas is None:
            largest = np.max([(file.height, file.width) for file in files], axis=0)
            self._shape = tuple(int(-(-n // CANVAS_MULTIPLE) * CANVAS_MULTIPLE) for n in largest)
        else:
            self._shape = (canvas, canvas)
        seen = dict(zip(map(images.name, self._paths), files, strict=True))
        self.fingerprint: Mapping[str, int | str] = fingerprint_of(
            len(self), seen, (canvas, color, sum(counts))
        )

    def __len__(self) -> int:
        return len(self._paths)

    def gather(self, indices: np.ndarray) -> HostBatch:
        """The examples at `indices`; raises InputError if a file has become unusable."""
        examples = [self._example(self._paths[index]) for index in indices]
        return on_canvas(examples, self._shape, self._most_boxes)

    def _example(self, path: Path) -> Example:
        example = self._read(path, self._color)
        return example if self._canvas is None else resized(example, self._canvas)


def load_annotated(
    name: str,
    split: str,
    data_dir: str | None = None,
    *,
    canvas: int | None = None,
    color: Color = "rgb",
) -> AnnotatedSource:
    """Opens a split of a folder of annotated images.

    Args:
      name: "penn_fudan:PATH", "image_label:PATH" or "dark_lines:PATH", PATH as in
        `folders.find_files`.
      split: "all", "all[:30]", a subfolder of the folder of images, or several joined by +; see
        `folders.find_files`.
      data_dir: where a folder is whose path is not absolute.
      canvas, color: see `AnnotatedSource`.

    Raises:
      InputError: no such folder or split, or files that do not fit together or are not of the kind.
    """
    kind = _kind(name)
    if FOLDER in split:
        raise InputError(f"data set {name!r}: split {split!r} is of another folder than the images")
    images = find_files(images_folder(name), split, data_dir)
    if kind == PENN_FUDAN:
        return AnnotatedSource(
            images, read_penn_fudan, _beside_pedestrians, canvas=canvas, color=color
        )
    labels = _Labels(
        images.root, _by_name(images.root.parent / "label"), dark_lines=kind == DARK_LINES
    )
    source = AnnotatedSource(images, labels.read, labels.beside, canvas=canvas, color=color)
    if kind == IMAGE_LABEL:
        labels.check_numbers()
    return source


def images_folder(name: str) -> str:
    """The folder with the images of an annotated set, as a data set "folder:PATH"."""
    kind = _kind(name)
    path = name.removeprefix(kind)
    if not path:
        raise InputError(f"{name!r} names no folder; wanted is {kind}PATH")
    return FOLDER + os.path.join(path, _IMAGES[kind])


def _kind(name: str) -> str:
    return next(kind for kind in ANNOTATED if name.startswith(kind))


def read_penn_fudan(path: Path, color: Color = "rgb") -> Example:
    """An image of pedestrians with mask and boxes.

    Boxes are those of the annotation file, whose corners are pixels counted from 1, both inside.

    Raises:
      InputError: a file is missing or damaged, or they do not fit together.
    """
    mask_file, text_file = _beside_pedestrians(path)
    image, mask = read_pixels(path, color), read_labels(mask_file)
    height, width = image.shape[:2]
    _check_same_size(path, image, mask_file, mask)
    try:
        with open_regular(text_file) as file:
            text = file.read().decode("latin-1")
    except OSError as error:
        raise InputError(f"cannot read annotation {text_file}: {error.strerror}") from error
    size, objects, corners = _SIZE.search(text), _OBJECTS.search(text), _BOX.findall(text)
    if size is None or objects is None or len(corners) != int(objects[1]):
        raise InputError(
            f'annotation {text_file} is ill-formed: wanted are the lines "Image size (X x Y x C) : '
            '... x ... x 3", "Objects with ground truth : COUNT" and, COUNT times, "Bounding box for '
            f'object ... (Xmin, Ymin) - (Xmax, Ymax) : (..., ...) - (..., ...)"; got {len(corners)} '
            "boxes"
        )
    if (int(size[1]), int(size[2])) != (width, height):
        raise InputError(
            f"annotation {text_file} is of {size[1]} x {size[2]} pixels; {path} has {width} x {height}"
        )
    pixels = np.array(corners, np.int64).reshape(-1, 4)
    boxes = np.stack([pixels[:, 1] - 1, pixels[:, 0] - 1, pixels[:, 3], pixels[:, 2]], axis=1)
    limits = np.array([height, width])
    wrong = (boxes[:, :2] < 0) | (boxes[:, :2] >= boxes[:, 2:]) | (boxes[:, 2:] > limits)
    if wrong.any():
        number = int(np.argmax(wrong.any(axis=1)))
        raise InputError(
            f"annotation {text_file}: box {number + 1} has corners {corners[number]}, not in the "
            f"image of {width} x {height} pixels"
        )
    return Example(
        image,
        (mask > 0).astype(np.uint8),
        boxes.astype(np.float32),
        np.zeros(len(boxes), np.int32),
    )


def _beside_pedestrians(path: Path) -> tuple[Path, ...]:
    root = path.parent.parent
    return root / "PedMasks" / f"{path.stem}_mask.png", root / "Annotation" / f"{path.stem}.txt"


class _Labels(NamedTuple):
    """The label files of a folder's images, by the images' names without ending."""

    root: Path
    paths: Mapping[str, Path]
    dark_lines: bool

    def beside(self, path: Path) -> tuple[Path, ...]:
        name = path.relative_to(self.root).with_suffix("").as_posix()
        if name not in self.paths:
            raise InputError(
                f"image {path} has no label file {self.root.parent / 'label' / name}.png"
            )
        return (self.paths[name],)

    def read(self, path: Path, color: Color) -> Example:
        (label,) = self.beside(path)
        image, segments = read_pixels(path, color), read_labels(label)
        _check_same_size(path, image, label, segments)
        if self.dark_lines:
            if not _is_black_and_white(segments):
                raise InputError(
                    f"label file {label} has other pixels than 0 and 255, black lines on white; of "
                    f"numbers of classes the data set is {IMAGE_LABEL}PATH"
                )
            segments = (segments == 0).astype(np.uint8)
        return Example(image, segments)

    def check_numbers(self) -> None:
        """Raises InputError if no file of the folder, of any split, has another number than 0 and 255."""
        if all(_is_black_and_white(read_labels(path)) for path in self.paths.values()):
            raise InputError(
                f"label files in {self.root.parent / 'label'} have no other pixels than 0 and 255, "
                f"which may mean either: black lines on white, class 1, are {DARK_LINES}PATH; else "
                "write them anew with 0 and 1"
            )


def _is_black_and_white(labels: np.ndarray) -> bool:
    return bool(np.all((labels == 0) | (labels == 255)))


def _by_name(folder: Path) -> dict[str, Path]:
    """The image files of a folder by their paths in it, without endings."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in list_images(folder)
    }


def _check_same_size(path: Path, image: np.ndarray, other: Path, labels: np.ndarray) -> None:
    if image.shape[:2] != labels.shape:
        sizes = [f"{array.shape[1]} x {array.shape[0]}" for array in (image, labels)]
        raise InputError(f"{other} has {sizes[1]} pixels; its image {path} has {sizes[0]}")


def resized(example: Example, side: int) -> Example:
    """An example resized so that the longer of its sides is `side` pixels, the other in proportion.

    Pixels by antialiased bilinear, classes by the nearest pixel.
    """
    at_least("canvas", side, 1)
    height, width = example.image.shape[:2]
    factor = side / max(height, width)
    to = (max(1, round(height * factor)), max(1, round(width * factor)))
    image, segments, boxes = example.image, example.segments, example.boxes
    if to != (height, width):
        image = _resize(image, to, Image.Resampling.BILINEAR)
        if segments is not None:
            segments = _resize(segments[..., None], to, Image.Resampling.NEAREST)[..., 0]
        if boxes is not None:
            boxes = boxes * np.array([to[0] / height, to[1] / width] * 2, np.float32)
    return Example(image, segments, boxes, example.box_class)


def _resize(pixels: np.ndarray, to: tuple[int, int], method: Image.Resampling) -> np.ndarray:
    """uint8 (height, width, 1 or 3) at another height and width."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return np.asarray(image.resize(to[::-1], method)).reshape(*to, pixels.shape[-1])


def on_canvas(examples: Sequence[Example], shape: tuple[int, ...], most_boxes: int) -> HostBatch:
    """Examples as a batch, each at the top left of a canvas.

    Args:
      examples: of one kind: all or none have segments, and so with boxes.
      shape: height and width of the canvas, at least those of the images.
      most_boxes: rows for boxes; of more than that the largest are kept.
    """
    count, channels = len(examples), examples[0].image.shape[-1]
    batch = {
        "image": np.zeros((count, *shape, channels), np.uint8),
        "size": np.array([example.image.shape[:2] for example in examples], np.int32),
    }
    if examples[0].segments is not None:
        batch["segments"] = np.full((count, *shape), IGNORED, np.uint8)
    if examples[0].boxes is not None:
        batch["boxes"] = np.zeros((count, most_boxes, 4), np.float32)
        batch["box_class"] = np.full((count, most_boxes), -1, np.int32)
    for row, example in enumerate(examples):
        height, width = example.image.shape[:2]
        batch["image"][row, :height, :width] = example.image
        if example.segments is not None:
            batch["segments"][row, :height, :width] = example.segments
        if example.boxes is not None and example.box_class is not None:
            tops, lefts, bottoms, rights = example.boxes.T
            areas = (bottoms - tops) * (rights - lefts)
            kept = np.sort(np.argsort(-areas, kind="stable")[:most_boxes])
            batch["boxes"][row, : len(kept)] = example.boxes[kept]
            batch["box_class"][row, : len(kept)] = example.box_class[kept]
    return batch
