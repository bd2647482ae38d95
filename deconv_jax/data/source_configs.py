"""The data sets that a config can name, as values of `config.data.source`.

    dict(name="digits")                                   embedded handwritten digits, 32 x 32, gray
    dict(name="photographs", tile=96)                     twelve photographs of scikit-image
    dict(name="folder", path="images", tile=96)           a folder of image files
    dict(name="tfds", dataset="cifar10")                  a prepared TFDS data set
    dict(name="stacked", base=dict(name="digits"))        three gray images as channels of one
    dict(name="penn_fudan", path="people", canvas=256)    a folder of pedestrians with masks and boxes
    dict(name="image_label", path="cells")                a folder of images with label files
    dict(name="pairs", path="scans", tile=96)             a folder of inputs and targets of restoration
    dict(name="textures", images=("brick",), side=128)    random crops of one or a few photographs

A relative `path` is relative to `config.data.data_dir`. On the command line, `parse_source` accepts a
short form of these.
"""

import abc
import dataclasses
import os
from pathlib import Path

from deconv_jax import schema
from deconv_jax.data.annotated_folders import (
    LABELED_IMAGE_FOLDER,
    PENN_FUDAN_IMAGE_FOLDER,
    AnnotatedSource,
    LabelFiles,
    find_annotated,
    penn_fudan_files,
    read_penn_fudan,
)
from deconv_jax.data.embedded import photographs
from deconv_jax.data.file_splits import Files, expanded_path, find_files
from deconv_jax.data.folders import FolderSource
from deconv_jax.data.images import Color
from deconv_jax.data.paired_folders import TARGET_FOLDER, PairedSource
from deconv_jax.data.sources import Source, StackedSource
from deconv_jax.data.texture_crops import EMBEDDED, TextureCrops, embedded_texture
from deconv_jax.data.tfds_source import DIGITS, open_tfds, prepare_tfds
from deconv_jax.errors import InputError, at_least


class SourceConfig(abc.ABC):
    """A data set. The fields of a subclass are the settings of `config.data.source`."""

    @property
    def color(self) -> Color:
        """Channels that image files are converted to: "rgb" (the default), "gray" or "y"."""
        return "rgb"

    @property
    def canvas(self) -> int | None:
        """Side in pixels of the square that images are resized to fit, or None to keep their size."""
        return None

    def untiled(self) -> "SourceConfig":
        """Return the data set with whole images as examples, instead of tiles; `self` if it has no tiles."""
        return self

    @abc.abstractmethod
    def open(self, split: str, data_dir: str | None = None) -> Source:
        """Open a split.

        Args:
          split: TFDS split expression, such as "train[:90%]"; for folders of files one of `file_splits`, such
            as "all[:90%]".
          data_dir: Folder of TFDS data sets (see `open_tfds`), or the folder that a relative path
            is relative to.

        Raises:
          InputError: The data set or the split does not exist or cannot be read, or the data set is not
            prepared.
        """

    def find_files(self, split: str, data_dir: str | None = None) -> Files | None:
        """Return the image files of a split of a user's folder, or None for other data sets.

        Raises:
          InputError: The folder or the split does not exist, or the split has no files.
        """
        del split, data_dir
        return None

    def prepare(self, data_dir: str | None = None) -> Path:
        """Download and prepare a TFDS data set (or the embedded digits), and return its folder.

        Raises:
          InputError: The data set cannot be prepared, or needs no preparation, as folders and photographs.
        """
        del data_dir
        raise InputError(f"data set {str(self)!r} needs no preparation")


class LabeledSourceConfig(SourceConfig):
    """A data set with one label per image."""


@dataclasses.dataclass(frozen=True)
class Digits(LabeledSourceConfig):
    """The embedded UCI digits, prepared on first use."""

    def __str__(self) -> str:
        return DIGITS

    def open(self, split: str, data_dir: str | None = None) -> Source:
        """Open a TFDS split, such as "train", "validation" or "test"; prepare the digits if necessary."""
        return open_tfds(DIGITS, split, data_dir)

    def prepare(self, data_dir: str | None = None) -> Path:
        """Prepare the digits without a download, and return their folder; see `prepare_tfds`."""
        return prepare_tfds(DIGITS, data_dir)


@dataclasses.dataclass(frozen=True)
class Tfds(LabeledSourceConfig):
    """A TFDS data set.

    Attributes:
      dataset: Name in the TFDS catalog, such as "mnist" or "cifar10:3.0.2".
      canvas: Side in pixels of the square that images and annotations are resized to fit. None keeps their
        size, which must then be the same, and leaves out annotations.
    """

    dataset: str
    canvas: int | None = None

    def __post_init__(self) -> None:
        _check_side("canvas", self.canvas)

    def __str__(self) -> str:
        return self.dataset

    def open(self, split: str, data_dir: str | None = None) -> Source:
        """Open a TFDS split of the prepared data set; see `open_tfds`."""
        return open_tfds(self.dataset, split, data_dir, canvas=self.canvas)

    def prepare(self, data_dir: str | None = None) -> Path:
        """Download and prepare the data set, and return its folder; see `prepare_tfds`."""
        return prepare_tfds(self.dataset, data_dir)


@dataclasses.dataclass(frozen=True)
class Stacked(SourceConfig):
    """Three random gray images of a data set as the channels of one image; see `StackedSource`.

    Attributes:
      base: The data set of gray images with labels 0 to 9.
    """

    base: LabeledSourceConfig

    def __str__(self) -> str:
        return f"stacked_{self.base}"

    def open(self, split: str, data_dir: str | None = None) -> Source:
        """Open a split of the base and stack its images, which are read into memory.

        Raises:
          InputError: The base cannot be opened, or its images are not gray, labeled 0 to 9 and of one shape.
        """
        return StackedSource.of(self.base.open(split, data_dir))

    def prepare(self, data_dir: str | None = None) -> Path:
        """Prepare the base, and return its folder; see `SourceConfig.prepare`."""
        return self.base.prepare(data_dir)


@dataclasses.dataclass(frozen=True)
class Photographs(SourceConfig):
    """Twelve photographs that scikit-image includes.

    Attributes:
      tile: Side in pixels of the square tiles used as training examples; None for whole images.
      color: Channels of the images: "rgb", "gray" or "y"; see `read_pixels`.
    """

    tile: int | None = None
    color: Color = "rgb"

    def __post_init__(self) -> None:
        _check_side("tile", self.tile)

    def __str__(self) -> str:
        return photographs.NAME

    def untiled(self) -> SourceConfig:
        """Return the data set with whole images as examples, `tile=None`."""
        return dataclasses.replace(self, tile=None)

    def open(self, split: str, data_dir: str | None = None) -> Source:
        """Open "train", "validation", "test", "all" or a slice such as "train[:2]"; `data_dir` is not used.

        Raises:
          InputError: The split does not exist or is empty, or scikit-image lacks its photographs.
        """
        del data_dir
        files = photographs.find_files(split)
        return FolderSource(files, tile=self.tile, color=self.color)


@dataclasses.dataclass(frozen=True)
class Folder(SourceConfig):
    """A folder of image files.

    Attributes:
      path: Path of the folder, absolute or relative to `data_dir`. ~ and environment variables are expanded.
      tile: Side in pixels of the square tiles used as training examples; None for whole images.
      color: Channels of the images: "rgb", "gray" or "y"; see `read_pixels`.
    """

    path: str
    tile: int | None = None
    color: Color = "rgb"

    def __post_init__(self) -> None:
        _check_path(self.path)
        _check_side("tile", self.tile)

    def __str__(self) -> str:
        return f"folder:{self.path}"

    def untiled(self) -> SourceConfig:
        """Return the data set with whole images as examples, `tile=None`."""
        return dataclasses.replace(self, tile=None)

    def open(self, split: str, data_dir: str | None = None) -> Source:
        """Open a split of the folder, such as "all[:90%]"; files that cannot be read are left out.

        Raises:
          InputError: The folder or the split does not exist, or has no file that can be read.
        """
        files = self.find_files(split, data_dir)
        return FolderSource(files, tile=self.tile, color=self.color)

    def find_files(self, split: str, data_dir: str | None = None) -> Files:
        """Return the image files of a split of the folder, unopened; see `find_files` in `file_splits`."""
        return find_files(self.path, split, data_dir)


@dataclasses.dataclass(frozen=True)
class Pairs(Folder):
    """A folder of image pairs for restoration: input/NAME.png and target/NAME.png; see `paired_folders`.

    Attributes:
      path: Path of the folder, absolute or relative to `data_dir`. ~ and environment variables are expanded.
      tile: Side in pixels of the square tiles of targets used as training examples, a multiple of the
        ratio of the sizes of targets and inputs; None for whole images.
      color: Channels of the images: "rgb", "gray" or "y"; see `read_pixels`.
    """

    def __str__(self) -> str:
        return f"pairs:{self.path}"

    def open(self, split: str, data_dir: str | None = None) -> Source:
        """Open a split of the pairs, such as "all[:90%]"; pairs with a damaged file are left out.

        Raises:
          InputError: The folder or the split does not exist, files have no partner, sizes do not match, or no
            pair can be read.
        """
        return PairedSource(self.find_files(split, data_dir), tile=self.tile, color=self.color)

    def find_files(self, split: str, data_dir: str | None = None) -> Files:
        """Return the target files of a split, unopened; see `find_files` in `file_splits`.

        A subfolder of the folder, such as "train", has its own folders input and target.
        """
        return find_files(self.path, split, data_dir, inside=TARGET_FOLDER)


@dataclasses.dataclass(frozen=True)
class PennFudan(SourceConfig):
    """A folder of pedestrians with masks and boxes, in the layout of Penn-Fudan.

    Images are PNGImages/NAME.png, with PedMasks/NAME_mask.png and Annotation/NAME.txt.

    Attributes:
      path: Path of the folder, absolute or relative to `data_dir`. ~ and environment variables are expanded.
      canvas: Side in pixels of the square that images are resized to fit; None keeps their size.
      color: Channels of the images: "rgb", "gray" or "y"; see `read_pixels`.
    """

    path: str
    canvas: int | None = None
    color: Color = "rgb"

    def __post_init__(self) -> None:
        _check_path(self.path)
        _check_side("canvas", self.canvas)

    def __str__(self) -> str:
        return f"penn_fudan:{self.path}"

    def open(self, split: str, data_dir: str | None = None) -> Source:
        """Open a split of the subfolder PNGImages, and read all files once.

        Raises:
          InputError: The folder or the split does not exist, or an image or annotation is missing or damaged.
        """
        return AnnotatedSource(
            self.find_files(split, data_dir),
            read_penn_fudan,
            penn_fudan_files,
            canvas=self.canvas,
            color=self.color,
        )

    def find_files(self, split: str, data_dir: str | None = None) -> Files:
        """Return the files of a split of the subfolder PNGImages; see `find_annotated`."""
        return find_annotated(os.path.join(self.path, PENN_FUDAN_IMAGE_FOLDER), split, data_dir)


@dataclasses.dataclass(frozen=True)
class ImageLabel(SourceConfig):
    """A folder of images image/NAME.png, with the class of each pixel in label/NAME.png, or 255 to ignore it.

    Attributes:
      path: Path of the folder, absolute or relative to `data_dir`. ~ and environment variables are expanded.
      canvas: Side in pixels of the square that images are resized to fit; None keeps their size.
      color: Channels of the images: "rgb", "gray" or "y"; see `read_pixels`.
      dark_foreground: Whether the label files are black and white, with class 1 black.
    """

    path: str
    canvas: int | None = None
    color: Color = "rgb"
    dark_foreground: bool = False

    def __post_init__(self) -> None:
        _check_path(self.path)
        _check_side("canvas", self.canvas)

    def __str__(self) -> str:
        return f"image_label:{self.path}"

    def open(self, split: str, data_dir: str | None = None) -> Source:
        """Open a split of the subfolder image, and read all files once.

        Raises:
          InputError: The folder or the split does not exist, a file is missing or damaged, or the label files
            contradict `dark_foreground`.
        """
        images = self.find_files(split, data_dir)
        labels = LabelFiles.find(images.root, dark_foreground=self.dark_foreground)
        source = AnnotatedSource(
            images, labels.read, labels.of_image, canvas=self.canvas, color=self.color
        )
        labels.require_class_numbers()
        return source

    def find_files(self, split: str, data_dir: str | None = None) -> Files:
        """Return the files of a split of the subfolder image; see `find_annotated`."""
        return find_annotated(os.path.join(self.path, LABELED_IMAGE_FOLDER), split, data_dir)


@dataclasses.dataclass(frozen=True)
class Textures(SourceConfig):
    """Random crops of one or a few photographs of textures; see `TextureCrops`.

    Attributes:
      images: Photographs: "brick", "grass" or "gravel" of scikit-image, or paths of image files, absolute or
        relative to `data_dir`. ~ and environment variables are expanded.
      side: Side of the square crops, in pixels.
      count: Number of crops of a split.
      color: Channels of the images: "rgb", "gray" or "y"; see `read_pixels`.
    """

    images: tuple[str, ...]
    side: int = 128
    count: int = 1024
    color: Color = "rgb"

    def __post_init__(self) -> None:
        at_least("number of data.source.images", len(self.images), 1)
        _check_side("side", self.side)
        at_least("data.source.count", self.count, 1)

    def __str__(self) -> str:
        return f"textures:{','.join(self.images)}"

    def open(self, split: str, data_dir: str | None = None) -> Source:
        """Open "train", "validation" or "test", which differ in the positions of the crops only.

        Raises:
          InputError: The split is unknown, or a photograph cannot be read or is smaller than a crop.
        """
        paths = [
            embedded_texture(image) if image in EMBEDDED else expanded_path(image, data_dir)
            for image in self.images
        ]
        return TextureCrops(paths, split, side=self.side, count=self.count, color=self.color)


LABELED_SOURCES: dict[str, type] = {"digits": Digits, "tfds": Tfds}
SOURCES: dict[str, type] = LABELED_SOURCES | {
    "photographs": Photographs,
    "folder": Folder,
    "stacked": Stacked,
    "penn_fudan": PennFudan,
    "image_label": ImageLabel,
    "pairs": Pairs,
    "textures": Textures,
}
SOURCE_CHOICES: schema.Choices = {
    SourceConfig: SOURCES,
    LabeledSourceConfig: LABELED_SOURCES,
}


def parse_source(text: str) -> SourceConfig:
    """Return the data set that a short form stands for. Only the command line accepts short forms.

    The short form of a source is also its `str`:

        digits, photographs
        folder:PATH, pairs:PATH, penn_fudan:PATH, image_label:PATH
        textures:IMAGE[,IMAGE,...]
        stacked_NAME    three images of digits or of a TFDS data set, such as stacked_mnist
        NAME            a TFDS data set, such as mnist

    Other settings have their defaults. Whether a path or a name exists is checked by `open`.

    Raises:
      InputError: PATH is empty.
    """
    kind, _, path = text.partition(":")
    if kind in ("folder", "pairs", "penn_fudan", "image_label"):
        return SOURCES[kind](path)
    if kind == "textures":
        return Textures(tuple(filter(None, path.split(","))))
    if text == photographs.NAME:
        return Photographs()
    if text.startswith("stacked_"):
        return Stacked(_parse_labeled(text.removeprefix("stacked_")))
    return _parse_labeled(text)


def _parse_labeled(text: str) -> LabeledSourceConfig:
    return Digits() if text == DIGITS else Tfds(text)


def _check_path(path: str) -> None:
    if not path:
        raise InputError("data.source.path must not be empty")


def _check_side(name: str, side: int | None) -> None:
    if side is not None:
        at_least(f"data.source.{name}", side, 1)
