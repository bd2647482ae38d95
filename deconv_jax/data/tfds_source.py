"""TFDS data sets, and the embedded digits, which are prepared as one.

Records are read as `array_record` through `as_data_source`, which keeps TensorFlow out of the training
process. TensorFlow is needed only to prepare a data set with an Image feature.
"""

import contextlib
import dataclasses
import importlib.util
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deconv_jax.data.annotations import Example, pad_to_batch, resize_example
from deconv_jax.data.batch import HostBatch
from deconv_jax.data.embedded import photographs
from deconv_jax.data.overlap import FileRecords
from deconv_jax.data.sources import Fingerprint
from deconv_jax.errors import InputError, closest_match
from deconv_jax.io import check_local, is_folder

DIGITS = "digits"
DATA_DIR_ENV, TFDS_SUBFOLDER = "DECONV_JAX_DATA", "tfds"
"""Environment variable of the folder with all data, and the folder of TFDS data sets in it."""


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSource:
    """Examples of TFDS records, decoded on demand.

    Without a canvas all images must have the same shape, and annotations are left out. With a canvas,
    records with a "segmentation_mask" (oxford_iiit_pet, which counts classes from 1) give "segments" with
    classes from 0, and records with "objects" (voc, coco) give "boxes". Crowd annotations of COCO are left
    out; objects that VOC marks as difficult are kept.

    Attributes:
      records: TFDS data source.
      canvas: Side in pixels of the square that images and annotations are resized to fit.
      max_boxes: Maximum number of boxes per example, with a canvas; the largest ones are kept.
      files: Record files, and the positions of the split's records in them; see `Source.files`.
    """

    records: Any
    canvas: int | None = None
    max_boxes: int = 100
    files: tuple[FileRecords, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @property
    def fingerprint(self) -> Fingerprint:
        """Number of examples, {"examples": number}. It suffices, because a TFDS version never changes."""
        return {"examples": len(self)}

    def gather(self, indices: np.ndarray) -> HostBatch:
        """Decode the records at `indices`, at least one.

        The batch has "image", "label" if the records have it, and on a canvas also "size" and the annotations
        that the records have.

        Raises:
          InputError: The images have different shapes and there is no canvas, or the canvas is less than 1.
        """
        examples = self.records.__getitems__([int(i) for i in indices])
        if self.canvas is None:
            shapes = {np.shape(example["image"]) for example in examples}
            if len(shapes) > 1:
                raise InputError(
                    f"images of a batch must have the same shape; got {sorted(shapes)}; set "
                    "config.data.source.canvas, the side in pixels that they are resized to fit"
                )
            batch = {"image": np.stack([example["image"] for example in examples])}
        else:
            resized = [resize_example(_annotated(example), self.canvas) for example in examples]
            batch = pad_to_batch(resized, (self.canvas, self.canvas), self.max_boxes)
        if "label" in examples[0]:
            batch["label"] = np.array([example["label"] for example in examples], np.int32)
        return batch


def _annotated(record: Mapping[str, Any]) -> Example:
    """Return the image of a TFDS record with its annotations."""
    example = Example(np.asarray(record["image"]))
    if "segmentation_mask" in record:
        # 1, 2, ... become 0, 1, ..., and 0, which is no class, becomes IGNORED by wrapping around.
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


def open_tfds(
    dataset: str, split: str, data_dir: str | None = None, *, canvas: int | None = None
) -> RecordSource:
    """Open a split of a prepared TFDS data set. The embedded digits are prepared on first use.

    Args:
      dataset: Name in the TFDS catalog, such as "mnist" or "cifar10:3.0.2", or "digits".
      split: TFDS split expression, such as "test" or "train[:55000]".
      data_dir: Folder of the TFDS data sets, or the folder above tfds/ with them. Without it, the first of
        $TFDS_DATA_DIR, $DECONV_JAX_DATA/tfds and ~/tensorflow_datasets that has the data set.
      canvas: Side in pixels of the square that images and annotations are resized to fit. None requires images
        of one shape, and leaves out annotations.

    Raises:
      InputError: The data set or split is unknown, the split is empty, or the data set is not prepared as
        `array_record`; the message says which command prepares it.
    """
    if dataset == DIGITS:
        prepare_tfds(dataset, data_dir)
    builder = _builder(dataset, data_dir)
    if not _is_prepared(builder):
        option = f" --data-dir {data_dir}" if data_dir else ""
        raise InputError(
            f"data set {dataset!r} is not prepared in {builder.data_dir}; run: "
            f"deconv-jax prepare {dataset}{option}"
        )
    _check_format(dataset, builder)
    try:
        records = builder.as_data_source(split)
        files = tuple(
            (str(piece.filename), range(piece.skip, piece.skip + piece.take))
            for piece in builder.info.splits[split].file_instructions
        )
        return RecordSource(records, canvas, files=files)
    except (ValueError, KeyError) as error:
        raise InputError(
            f"data set {dataset!r} has no split {split!r}, or it is empty; it has "
            f"{', '.join(builder.info.splits)}"
        ) from error


def prepare_tfds(dataset: str, data_dir: str | None = None) -> Path:
    """Download a TFDS data set and prepare it as `array_record`, unless it is already prepared.

    Args:
      dataset: Name in the TFDS catalog, or "digits", which needs no download.
      data_dir: As in `open_tfds`. If none of the folders has the data set, it is prepared in the first; digits
        without `data_dir` and $TFDS_DATA_DIR are prepared in ~/tensorflow_datasets.

    Returns:
      The folder of the data set.

    Raises:
      InputError: The data set is unknown, it is already prepared in another format, TensorFlow is not
        installed (digits do not need it), or the download or the writing fails.
    """
    builder = _builder(dataset, data_dir)
    if not _is_prepared(builder):
        builder = _builder(dataset, data_dir, file_format="array_record")
        if dataset != DIGITS and importlib.util.find_spec("tensorflow") is None:
            raise InputError(
                f"preparing {dataset!r} requires TensorFlow; install the extra with: "
                "pip install 'deconv_jax[prepare]'"
            )
        try:
            with _silenced() if dataset == DIGITS else contextlib.nullcontext():
                builder.download_and_prepare()
        except OSError as error:  # No network, or the folder cannot be written.
            raise InputError(
                f"cannot prepare {dataset!r} in {builder.data_dir}: {error}"
            ) from error
    _check_format(dataset, builder)
    return Path(builder.data_dir)


def _is_prepared(builder: Any) -> bool:
    """Return whether the data set is prepared. TFDS itself would warn about the empty folder it makes."""
    return (Path(builder.data_dir) / "dataset_info.json").is_file()


def _check_format(dataset: str, builder: Any) -> None:
    stored = builder.info.file_format.value
    if stored != "array_record":
        raise InputError(
            f"data set {dataset!r} in {builder.data_dir} is stored as {stored}, which only "
            f"TensorFlow reads; prepare it again elsewhere with: deconv-jax prepare {dataset} "
            "--data-dir DIR"
        )


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silence TFDS, which would announce a download and draw progress bars."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


def _builder(dataset: str, data_dir: str | None, **options: Any) -> Any:
    import tensorflow_datasets as tfds

    options["data_dir"] = str(_tfds_folder(dataset, data_dir))
    if dataset == DIGITS:
        from deconv_jax.data.embedded.digits import Digits

        return Digits(**options)
    try:
        return tfds.builder(dataset, **options)
    except tfds.core.DatasetNotFoundError as error:
        known = [DIGITS, photographs.NAME, *tfds.list_builders(with_community_datasets=False)]
        raise InputError(f"no data set {dataset!r}; {_suggestion(dataset, known)}") from error
    except ImportError as error:
        module = str(error).rpartition(": ")[-1]
        raise InputError(
            f"data set {dataset!r} is not prepared in {options['data_dir']}, and preparing it requires more "
            f"packages ({module}); install the extra with: pip install 'deconv_jax[prepare]'"
        ) from error
    # Raised for an unknown version or configuration, or a name that is not a valid path.
    except (AssertionError, ValueError, OSError, RuntimeError) as error:
        if is_folder(Path(os.path.expanduser(dataset))):
            raise InputError(f"no data set {dataset!r}; {_suggestion(dataset, ())}") from error
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"no data set {dataset!r}: {reason}") from error


def _tfds_folder(dataset: str, data_dir: str | None) -> Path:
    """Return the folder in which a TFDS data set is, or should be prepared; see `open_tfds`.

    Raises:
      InputError: One of the folders to look in is a URL.
    """

    def expanded(folder: str) -> Path:
        folder = os.path.expandvars(folder)
        check_local(folder)
        return Path(os.path.expanduser(folder))

    if data_dir:
        places = [expanded(data_dir), expanded(data_dir) / TFDS_SUBFOLDER]
    else:
        own, everything = os.environ.get("TFDS_DATA_DIR"), os.environ.get(DATA_DIR_ENV)
        places = [expanded(own)] if own else []
        if everything:
            places.append(expanded(everything) / TFDS_SUBFOLDER)
        places.append(expanded("~/tensorflow_datasets"))
        if (
            dataset == DIGITS and not own
        ):  # Prepared on first use: the shared folder may be read-only.
            places.reverse()
    base = re.split("[:/]", dataset)[0]
    return next((place for place in places if is_folder(place / base)), places[0])


def _suggestion(dataset: str, known: Sequence[str]) -> str:
    """Return the end of an error message about an unknown data set."""
    if is_folder(Path(os.path.expanduser(dataset))):
        return f"for a folder of images write {'folder:' + dataset!r}"
    match = closest_match(dataset.split(":")[0].split("/")[0], known)
    if match:
        return f"did you mean {match!r}?"
    return (
        f"valid are {DIGITS}, {photographs.NAME}, folder:PATH, pairs:PATH, penn_fudan:PATH, image_label:PATH, or a "
        "name in the TFDS catalog, https://www.tensorflow.org/datasets/catalog/overview"
    )
