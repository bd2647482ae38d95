"""Where examples come from: TFDS by name, folders of images, embedded sets, arrays in memory.

A source is random access: `gather` takes example indices and returns a batch of numpy arrays, uint8
images (batch, height, width, channels) and, as the set has them, int32 labels, the int32 sizes of
images that were extended to one shape, classes of pixels and boxes of objects. TFDS data is read as
`array_record` through `as_data_source`, which keeps TensorFlow out of the training process; only
*preparing* a set with an Image feature needs it.
"""

import contextlib
import dataclasses
import importlib.util
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deconv_jax.data.annotated_folders import (
    ANNOTATED,
    AnnotatedSource,
    Example,
    images_folder,
    load_annotated,
    on_canvas,
    resized,
)
from deconv_jax.data.batch import HostBatch
from deconv_jax.data.embedded import photographs
from deconv_jax.data.folders import FOLDER, Files, FolderSource, find_files
from deconv_jax.data.images import Color
from deconv_jax.data.overlap import Part
from deconv_jax.errors import InputError, closest_match
from deconv_jax.io import is_folder

Fingerprint = Mapping[str, int | str]

EMBEDDED = ("digits", photographs.NAME)
STACKED = "stacked_"
"""Before the name of a set of gray images: three of them as the channels of one image."""
DATA, TFDS = "DECONV_JAX_DATA", "tfds"
"""The environment variable that names the folder of all data, and the folder of TFDS sets in it."""


class Source(Protocol):
    """A split of a data set."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Tells these examples from others, cheaply; JSON-able, and the same in every process."""
        ...

    @property
    def parts(self) -> tuple[Part, ...]:
        """The files and records that the examples are made of; none for arrays."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: np.ndarray) -> HostBatch:
        """The examples at `indices`, each feature stacked along a new first axis."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Examples held in memory: arrays with one row an example.

    Attributes:
      arrays: by feature.
      held: the fingerprint of the source that was read into memory, if one was.
      parts: see `Source.parts`; those of that source.
    """

    arrays: Mapping[str, np.ndarray]
    held: Fingerprint | None = None
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1:
            raise InputError(f"arrays of a source have one row an example; got lengths {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def fingerprint(self) -> Fingerprint:
        """See `Source.fingerprint`: that of what is held, or the number of examples."""
        return self.held or {"examples": len(self)}

    def gather(self, indices: np.ndarray) -> HostBatch:
        """See `Source.gather`."""
        return {name: array[indices] for name, array in self.arrays.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSource:
    """Examples decoded from TFDS records as they are asked for.

    Without a canvas images must share one shape, and annotations are left out. On one, records with
    a "segmentation_mask" (oxford_iiit_pet, which counts from 1) give "segments", classes from 0, and
    records with "objects" (voc, coco) give "boxes"; those of COCO that are about a crowd are left out,
    those that VOC calls difficult are not.

    Attributes:
      records: of TFDS.
      canvas: pixels a side of the square that images and annotations are resized to fit.
      most_boxes: rows for boxes of an example on a canvas; of more the largest are kept.
      parts: see `Source.parts`.
    """

    records: Any
    canvas: int | None = None
    most_boxes: int = 100
    parts: tuple[Part, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @property
    def fingerprint(self) -> Fingerprint:
        """See `Source.fingerprint`: the number of examples, for a TFDS version does not change."""
        return {"examples": len(self)}

    def gather(self, indices: np.ndarray) -> HostBatch:
        """See `Source.gather`; raises InputError if there is no canvas and the images differ in shape."""
        examples = self.records.__getitems__([int(i) for i in indices])
        if self.canvas is None:
            shapes = {np.shape(example["image"]) for example in examples}
            if len(shapes) > 1:
                raise InputError(
                    f"images of one batch must share one shape; got {sorted(shapes)}: set "
                    "data.canvas, pixels a side that they are resized to fit"
                )
            batch = {"image": np.stack([example["image"] for example in examples])}
        else:
            fitted = [resized(_annotated(example), self.canvas) for example in examples]
            batch = on_canvas(fitted, (self.canvas, self.canvas), self.most_boxes)
        if "label" in examples[0]:
            batch["label"] = np.array([example["label"] for example in examples], np.int32)
        return batch


def _annotated(record: Mapping[str, Any]) -> Example:
    """An image of a TFDS record with what the record knows of it."""
    example = Example(np.asarray(record["image"]))
    if "segmentation_mask" in record:
        # 1, 2, ... become 0, 1, ..., and 0, which is no class, becomes IGNORED.
        mask = np.asarray(record["segmentation_mask"], np.uint8)[..., 0]
        example = example._replace(segments=mask - np.uint8(1))
    if "objects" in record:
        objects = record["objects"]
        height, width = example.image.shape[:2]
        edges = np.asarray(objects["bbox"], np.float32).reshape(-1, 4)
        kept = ~np.asarray(objects.get("is_crowd", np.zeros(len(edges))), bool)
        example = example._replace(
            boxes=edges[kept] * np.array([height, width] * 2, np.float32),
            box_class=np.asarray(objects["label"], np.int32)[kept],
        )
    return example


@dataclasses.dataclass(frozen=True, eq=False)
class StackedSource:
    """Three random gray images of a set as the channels of one (Metz et al., arXiv:1611.02163, 3.3.1).

    Of ten classes it makes 1,000, which a collapsed generator does not reach. There are as many
    examples as in the set, and they are the same in every process and run.
    """

    base: ArraySource
    places: np.ndarray

    CHANNELS = 3

    @classmethod
    def of(cls, source: Source) -> "StackedSource":
        """Raises InputError unless the set is of gray images with labels below 10."""
        base = in_memory(source)
        image, label = base.arrays["image"], base.arrays.get("label")
        if image.shape[-1] != 1 or label is None or label.max() > 9:
            raise InputError(
                f"stacked sets are of gray images in ten classes; got images {image.shape[1:]} "
                + ("without labels" if label is None else f"and labels up to {label.max()}")
            )
        shape = (len(base), cls.CHANNELS)
        return cls(base, np.random.default_rng(0).integers(0, len(base), shape, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.places)

    @property
    def parts(self) -> tuple[Part, ...]:
        """See `Source.parts`: those of the gray images."""
        return self.base.parts

    @property
    def fingerprint(self) -> Fingerprint:
        """See `Source.fingerprint`: the number of examples."""
        return {"examples": len(self)}

    def gather(self, indices: np.ndarray) -> HostBatch:
        """See `Source.gather`; the label is the three-digit number that the channels' spell."""
        parts = [self.base.gather(places) for places in self.places[indices].T]
        label = np.zeros(len(indices), np.int32)
        for part in parts:
            label = 10 * label + part["label"].astype(np.int32)
        return {"image": np.concatenate([p["image"] for p in parts], axis=-1), "label": label}


def in_memory(source: Source) -> ArraySource:
    """All of `source` decoded once; the same examples in the same order."""
    if isinstance(source, ArraySource):
        return source
    return ArraySource(source.gather(np.arange(len(source))), source.fingerprint, source.parts)


def load(
    name: str,
    split: str,
    data_dir: str | None = None,
    *,
    tile: int | None = None,
    color: Color = "rgb",
    canvas: int | None = None,
) -> RecordSource | FolderSource | StackedSource | AnnotatedSource:
    """Opens one split of a data set: a folder of images, an embedded set, or a prepared TFDS set.

    Args:
      name: "folder:PATH", a folder of annotated images ("penn_fudan:PATH", "image_label:PATH" or
        "dark_lines:PATH", see `annotated`), an embedded set ("digits", which is prepared on first use, or "photographs"), or
        the name of a TFDS data set ("mnist", "cifar10:3.0.2"). After "stacked_" ("stacked_mnist")
        examples are triples of that set's, see `StackedSource`.
      split: e.g. "test" or "train[:55000]"; of a folder see `folders.find_files`.
      data_dir: where TFDS sets are, or the folder above tfds/ with them; None for what is first of
        $TFDS_DATA_DIR, $DECONV_JAX_DATA/tfds and ~/tensorflow_datasets and has the set. Or where a
        folder is whose path is not absolute.
      tile: of image files without annotations alone, see `FolderSource`.
      color: of image files alone, see `read_pixels`.
      canvas: of annotated images and TFDS alone: pixels a side that images and annotations are
        resized to fit, see `AnnotatedSource` and `RecordSource`.

    Raises:
      InputError: no such data set or split, or it is not prepared; says what to run.
    """
    if name.startswith(ANNOTATED):
        if tile is not None:
            raise InputError(
                f"tile is for image files without annotations; got tile={tile} for data set {name!r}"
            )
        return load_annotated(name, split, data_dir, canvas=canvas, color=color)
    files = name == photographs.NAME or name.startswith(FOLDER)
    if canvas is not None and (files or name.startswith(STACKED)):
        raise InputError(
            f"canvas is for annotated images ({', '.join(f'{kind}PATH' for kind in ANNOTATED)}) and "
            f"TFDS data sets; got canvas={canvas} for data set {name!r}"
        )
    if name.startswith(STACKED):
        base = load(name.removeprefix(STACKED), split, data_dir, tile=tile, color=color)
        return StackedSource.of(base)
    if name == photographs.NAME:
        return FolderSource(photographs.find_files(split), tile=tile, color=color)
    if name.startswith(FOLDER):
        return FolderSource(find_files(name, split, data_dir), tile=tile, color=color)
    if tile is not None or color != "rgb":
        raise InputError(
            f"tile and color are for image files ({FOLDER}PATH or {photographs.NAME!r}); "
            f"got tile={tile} and color={color!r} for data set {name!r}"
        )
    if name in EMBEDDED:
        prepare(name, data_dir)
    builder = _builder(name, data_dir)
    where = f" --data-dir {data_dir}" if data_dir else ""
    if not _is_prepared(builder):
        raise InputError(
            f"data set {name!r} is not prepared in {builder.data_dir}; run: "
            f"deconv-jax prepare {name}{where}"
        )
    _check_format(name, builder)
    try:
        records = builder.as_data_source(split)
        parts = tuple(
            (str(piece.filename), range(piece.skip, piece.skip + piece.take))
            for piece in builder.info.splits[split].file_instructions
        )
        return RecordSource(records, canvas, parts=parts)
    except (ValueError, KeyError) as error:
        raise InputError(
            f"data set {name!r} has no split {split!r}, or it is empty; it has "
            f"{', '.join(builder.info.splits)}"
        ) from error


def image_files(name: str, split: str, data_dir: str | None = None) -> Files | None:
    """The image files of a split, see `load`; None for data sets that are no folders of a person's."""
    if name.startswith(ANNOTATED):
        return find_files(images_folder(name), split, data_dir)
    return find_files(name, split, data_dir) if name.startswith(FOLDER) else None


def prepare(name: str, data_dir: str | None = None) -> Path:
    """Downloads (unless embedded) and prepares a TFDS data set as `array_record`.

    Returns:
      The folder it is in. A set that is already there is left as it is.

    Raises:
      InputError: no such data set, or it is there in another format, or TensorFlow, which the
        preparation needs, is missing; or it is of image files, which are used as they are.
    """
    name = name.removeprefix(STACKED)
    if name == photographs.NAME or name.startswith((FOLDER, *ANNOTATED)):
        raise InputError(f"data set {name!r} needs no preparation")
    builder = _builder(name, data_dir)
    if not _is_prepared(builder):
        builder = _builder(name, data_dir, file_format="array_record")
        if name not in EMBEDDED and importlib.util.find_spec("tensorflow") is None:
            raise InputError(
                f"preparing {name!r} needs TensorFlow; install the extra with: "
                "pip install 'deconv_jax[prepare]'"
            )
        try:
            with _silence() if name in EMBEDDED else contextlib.nullcontext():
                builder.download_and_prepare()
        except OSError as error:  # No network, or nowhere to write.
            raise InputError(f"cannot prepare {name!r} in {builder.data_dir}: {error}") from error
    _check_format(name, builder)
    return Path(builder.data_dir)


def _is_prepared(builder: Any) -> bool:
    """Whether the set is described where it is to be; TFDS warns of the empty folder it makes."""
    return (Path(builder.data_dir) / "dataset_info.json").is_file()


def _check_format(name: str, builder: Any) -> None:
    stored = builder.info.file_format.value
    if stored != "array_record":
        raise InputError(
            f"data set {name!r} in {builder.data_dir} is stored as {stored}, which only "
            f"TensorFlow reads; prepare it anew elsewhere, with: deconv-jax prepare {name} "
            "--data-dir DIR"
        )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps TFDS from announcing a download and drawing bars for a second's work without one."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


def _builder(name: str, data_dir: str | None, **options: Any) -> Any:
    import tensorflow_datasets as tfds

    options["data_dir"] = str(_tfds_folder(name, data_dir))
    if name == "digits":
        from deconv_jax.data.embedded.digits import Digits

        return Digits(**options)
    try:
        return tfds.builder(name, **options)
    except tfds.core.DatasetNotFoundError as error:
        known = [*EMBEDDED, *tfds.list_builders(with_community_datasets=False)]
        raise InputError(f"no data set {name!r}; {_meant(name, known)}") from error
    # An unknown version or configuration, or a name that no file or user can have.
    except (AssertionError, ValueError, OSError, RuntimeError) as error:
        if is_folder(Path(os.path.expanduser(name))):
            raise InputError(f"no data set {name!r}; {_meant(name, ())}") from error
        raise InputError(f"no data set {name!r}: {str(error).strip().splitlines()[0]}") from error


def _tfds_folder(name: str, data_dir: str | None) -> Path:
    """Where a TFDS set is, or is to be; see `load`."""

    def expanded(folder: str) -> Path:
        return Path(os.path.expanduser(os.path.expandvars(folder)))

    if data_dir:
        places = [expanded(data_dir), expanded(data_dir) / TFDS]
    else:
        own, everything = os.environ.get("TFDS_DATA_DIR"), os.environ.get(DATA)
        places = [expanded(own)] if own else []
        if everything:
            places.append(expanded(everything) / TFDS)
        places.append(expanded("~/tensorflow_datasets"))
        if name in EMBEDDED and not own:  # Made on first use: that folder may not be written to.
            places.reverse()
    base = re.split("[:/]", name)[0]
    return next((place for place in places if is_folder(place / base)), places[0])


def _meant(name: str, known: Sequence[str]) -> str:
    """Return suggestions for an unknown data set name, as the end of an error message."""
    if is_folder(Path(os.path.expanduser(name))):
        return f"a folder of images is written {FOLDER + name!r}"
    match = closest_match(name.split(":")[0].split("/")[0], known)
    if match:
        return f"did you mean {match!r}?"
    folders = ", ".join(f"{kind}PATH" for kind in (FOLDER, *ANNOTATED))
    return (
        f"wanted is {', '.join(EMBEDDED)}, {folders}, or a name of the TFDS catalogue, "
        "https://www.tensorflow.org/datasets/catalog/overview"
    )
