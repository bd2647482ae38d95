"""Folders of images with annotation files: masks and boxes, or the class of each pixel.

    penn_fudan     PNGImages/NAME.png, PedMasks/NAME_mask.png and Annotation/NAME.txt (Wang et al., "Object
                   Detection Combining Recognition and Segmentation", ACCV 2007). Pixels of pedestrians
                   have class 1, others 0. Boxes have class 0.
    image_label    image/NAME.png and label/NAME.png, with the class of each pixel, or 255 for `IGNORED`.
                   With `dark_foreground`, label files are black and white, and black (0) is class 1, as
                   the membranes of ISBI 2012 are labeled.

An example is a whole image at the top left of a canvas. "size" is the size of its valid region; pixels
outside have class `IGNORED` and are black.
"""

import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deconv_jax.data.annotations import Example, pad_to_batch, resize_example
from deconv_jax.data.batch import HostBatch
from deconv_jax.data.decoded_files import FileInfo
from deconv_jax.data.file_splits import FOLDER_PREFIX, Files, find_files
from deconv_jax.data.folders import common_shape, file_fingerprint
from deconv_jax.data.images import Color, list_images, read_labels, read_pixels
from deconv_jax.data.overlap import image_file_records
from deconv_jax.errors import InputError
from deconv_jax.io import open_regular

PENN_FUDAN_IMAGE_FOLDER, LABELED_IMAGE_FOLDER = "PNGImages", "image"
"""Subfolders of the images."""

_SIZE = re.compile(r"^Image size \(X x Y x C\) : (\d+) x (\d+) x \d+\s*$", re.MULTILINE)
_OBJECTS = re.compile(r"^Objects with ground truth : (\d+)\b", re.MULTILINE)
_BOX = re.compile(
    r"^Bounding box for object \d+ .*: \((\d+), (\d+)\) - \((\d+), (\d+)\)\s*$", re.MULTILINE
)


class AnnotatedSource:
    """A split of annotated images.

    The features are "image", "size", "segments" if `read` returns segments, and "boxes" and "box_class" if
    it returns boxes. Every file is read once at the start, so that a damaged or missing file is found
    before training.

    Args:
      images: The image files, at least one, in the order of examples.
      read: Function that reads an image file with its annotations.
      annotation_files: Function that returns the annotation files of an image file.
      canvas: Side in pixels of the square that images are resized to fit. None keeps their size on a
        canvas of the largest height and width among them, rounded up to a multiple of 16.
      color: Channels of the images: "rgb", "gray" or "y"; see `read_pixels`.

    Attributes:
      fingerprint: Identification by the names and sizes of the files and the options, not by the pixels.
      files: The image files; see `Source.files`.
      skipped: One line for each link to a folder, which is not followed.

    Raises:
      InputError: A file is missing or damaged, or an annotation does not match its image.
    """

    def __init__(
        self,
        images: Files,
        read: Callable[[Path, Color], Example],
        annotation_files: Callable[[Path], tuple[Path, ...]],
        *,
        canvas: int | None = None,
        color: Color = "rgb",
    ):
        self._paths, self._read, self._color, self._canvas = images.paths, read, color, canvas
        self.files = image_file_records(images.paths)
        self.skipped = images.left_out

        def inspect(path: Path) -> tuple[FileInfo, int]:
            example = read(path, color)
            height, width = example.image.shape[:2]
            size = sum(file.stat().st_size for file in (path, *annotation_files(path)))
            boxes = 0 if example.boxes is None else len(example.boxes)
            return FileInfo(height, width, size), boxes

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            infos, counts = zip(*threads.map(inspect, self._paths), strict=True)
        self._max_boxes = max(1, *counts)
        self._shape = common_shape(infos) if canvas is None else (canvas, canvas)
        by_name = dict(zip(map(images.name, self._paths), infos, strict=True))
        self.fingerprint: Mapping[str, int | str] = file_fingerprint(
            len(self), by_name, (canvas, color, sum(counts))
        )

    def __len__(self) -> int:
        return len(self._paths)

    def gather(self, indices: np.ndarray) -> HostBatch:
        """Read the examples at `indices`, and pad them with 0 and `IGNORED` to the canvas; see `pad_to_batch`.

        There are as many rows for boxes as the image with the most boxes needs.

        Raises:
          InputError: A file has become unusable, or the canvas is less than 1 pixel.
        """
        examples = [self._example(self._paths[index]) for index in indices]
        return pad_to_batch(examples, self._shape, self._max_boxes)

    def _example(self, path: Path) -> Example:
        example = self._read(path, self._color)
        return example if self._canvas is None else resize_example(example, self._canvas)


def find_annotated(folder: str, split: str, data_dir: str | None = None) -> Files:
    """Return the images of a split of a folder of annotated images.

    Arguments are those of `find_files`.

    Raises:
      InputError: The split names another folder ("folder:PATH"), or as in `find_files`.
    """
    if FOLDER_PREFIX in split:
        raise InputError(
            f"split {split!r} is in another folder; a split of annotated images must be in {folder}"
        )
    return find_files(folder, split, data_dir)


# Penn-Fudan


def read_penn_fudan(path: Path, color: Color = "rgb") -> Example:
    """Read an image of pedestrians with its mask and boxes.

    The corners in an annotation file are pixels counted from 1, and both belong to the box.

    Args:
      path: ROOT/PNGImages/NAME.png; `penn_fudan_files` names the other two files.
      color: Channels of the image; see `read_pixels`.

    Returns:
      The image; `segments`, 1 for pedestrians and 0 for other pixels; and `boxes` as top, left, bottom and right
      edges counted from 0, all with `box_class` 0.

    Raises:
      InputError: A file is missing or damaged, or an annotation does not match its image.
    """
    mask_file, text_file = penn_fudan_files(path)
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
            f'annotation {text_file} is ill-formed: it must have the lines "Image size (X x Y x C) : '
            '... x ... x 3", "Objects with ground truth : COUNT" and COUNT times "Bounding box for '
            f'object ... (Xmin, Ymin) - (Xmax, Ymax) : (..., ...) - (..., ...)"; got {len(corners)} '
            "boxes"
        )
    if (int(size[1]), int(size[2])) != (width, height):
        raise InputError(
            f"annotation {text_file} is for {size[1]} x {size[2]} pixels; {path} has {width} x {height}"
        )
    pixels = np.array(corners, np.int64).reshape(-1, 4)
    boxes = np.stack([pixels[:, 1] - 1, pixels[:, 0] - 1, pixels[:, 3], pixels[:, 2]], axis=1)
    limits = np.array([height, width])
    wrong = (boxes[:, :2] < 0) | (boxes[:, :2] >= boxes[:, 2:]) | (boxes[:, 2:] > limits)
    if wrong.any():
        number = int(np.argmax(wrong.any(axis=1)))
        raise InputError(
            f"annotation {text_file}: box {number + 1} has corners {corners[number]}, outside the "
            f"image of {width} x {height} pixels"
        )
    return Example(
        image,
        (mask > 0).astype(np.uint8),
        boxes.astype(np.float32),
        np.zeros(len(boxes), np.int32),
    )


def penn_fudan_files(path: Path) -> tuple[Path, ...]:
    """Return the paths of the mask and the annotation of an image, which need not exist.

    For ROOT/PNGImages/NAME.png, they are ROOT/PedMasks/NAME_mask.png and ROOT/Annotation/NAME.txt.
    """
    root = path.parent.parent
    return root / "PedMasks" / f"{path.stem}_mask.png", root / "Annotation" / f"{path.stem}.txt"


# Images with label files


class LabelFiles(NamedTuple):
    """The label files of a folder of images.

    Attributes:
      root: Folder of the images.
      paths: Label files by the path of the image relative to `root`, without suffix.
      dark_foreground: Whether black is class 1 and white class 0.
    """

    root: Path
    paths: Mapping[str, Path]
    dark_foreground: bool

    @classmethod
    def find(cls, root: Path, *, dark_foreground: bool) -> "LabelFiles":
        """Find the label files of a folder of images, in the folder label/ beside it and its subfolders.

        Raises:
          InputError: There is no folder label/, or it cannot be read.
        """
        folder = root.parent / "label"
        paths = {
            path.relative_to(folder).with_suffix("").as_posix(): path
            for path in list_images(folder)
        }
        return cls(root, paths, dark_foreground)

    def of_image(self, path: Path) -> tuple[Path, ...]:
        """Return the label file of an image, as a tuple of one; raises InputError if there is none."""
        name = path.relative_to(self.root).with_suffix("").as_posix()
        if name not in self.paths:
            raise InputError(
                f"image {path} has no label file {self.root.parent / 'label' / name}.png"
            )
        return (self.paths[name],)

    def read(self, path: Path, color: Color) -> Example:
        """Read an image with the class of each pixel, which is the pixel of the label file.

        With `dark_foreground`, the class is 1 for black and 0 for white.

        Raises:
          InputError: A file is missing or damaged, the label file has another size than the image, or
            with `dark_foreground` it has other pixels than 0 and 255.
        """
        (label,) = self.of_image(path)
        image, segments = read_pixels(path, color), read_labels(label)
        _check_same_size(path, image, label, segments)
        if self.dark_foreground:
            if not _is_black_and_white(segments):
                raise InputError(
                    f"dark_foreground=True requires label files with only 0 and 255; {label} has other "
                    "values; set it to False for label files with class numbers"
                )
            segments = (segments == 0).astype(np.uint8)
        return Example(image, segments)

    def require_class_numbers(self) -> None:
        """Read all label files, and raise InputError if they have no other pixels than 0 and 255.

        These may be classes or black and white. With `dark_foreground` there is nothing to check.
        """
        if not self.dark_foreground and all(
            _is_black_and_white(read_labels(path)) for path in self.paths.values()
        ):
            raise InputError(
                f"the label files in {self.root.parent / 'label'} have only 0 and 255; set "
                "dark_foreground=True if black is class 1 and white class 0, or else write the files "
                "again with 0 and 1"
            )


def _is_black_and_white(labels: np.ndarray) -> bool:
    return bool(np.all((labels == 0) | (labels == 255)))


def _check_same_size(path: Path, image: np.ndarray, other: Path, labels: np.ndarray) -> None:
    if image.shape[:2] != labels.shape:
        sizes = [f"{array.shape[1]} x {array.shape[0]}" for array in (image, labels)]
        raise InputError(f"{other} has {sizes[1]} pixels; its image {path} has {sizes[0]}")
