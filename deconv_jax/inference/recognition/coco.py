"""Predictions written to files: a picture per image, and one JSON file in COCO's annotation format.

See https://cocodataset.org/#format-data; `pycocotools.coco.COCO` reads the file. A category id is the
number of the class in the run, from 0. Image and annotation ids start at 1, because COCO's evaluation
reads 0 as "no match". Annotations of a classifier have a score but no box or mask.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from deconv_jax.data.images import read_8bit
from deconv_jax.errors import InputError
from deconv_jax.inference.image_files import Job
from deconv_jax.inference.memory import catch_out_of_memory
from deconv_jax.inference.recognition.predictor import Predictor
from deconv_jax.io import check_output_path, write_png

PREDICTIONS_FILE = "predictions.json"


@dataclasses.dataclass(frozen=True, eq=False)
class PredictedImage:
    """The predictions of an image, without their arrays, which would fill the memory for many images.

    Attributes:
      file_name: Path of the image relative to the input that it was found in.
      size: Height and width, in pixels.
      annotations: Annotations in COCO's format, without "id" and "image_id".
      summary: Short description of the predictions, and of conversions when the file was read.
    """

    file_name: str
    size: tuple[int, int]
    annotations: list[dict[str, Any]]
    summary: str


def predict_file(
    predictor: Predictor, job: Job, output: Path, *, overwrite: bool = False
) -> PredictedImage:
    """Predict for one image and write a picture as PNG, completely or not at all.

    Args:
      predictor: Network to apply.
      job: File to read and picture to write.
      output: Folder of all results, which contains `job.output`.
      overwrite: Whether to replace an existing picture.

    Raises:
      InputError: The file cannot be processed, the picture exists and `overwrite` is False, or there is
        too little memory.
    """
    check_output_path(job.output, overwrite=overwrite)
    with catch_out_of_memory(f"{job.source}: not enough memory"):
        pixels, notes = read_8bit(job.source, predictor.color)
        try:
            prediction = predictor(pixels)
        except InputError as error:
            raise InputError(f"{job.source}: {error}") from error
        picture = prediction.draw(pixels, predictor.class_names)
        annotations = prediction.coco_annotations()
        conversions = f" ({', '.join(notes)})" if notes else ""
        summary = prediction.summary(predictor.class_names) + conversions
        write_png(job.output, Image.fromarray(picture))
    relative = job.output.relative_to(output).with_name(job.source.name)
    height, width = pixels.shape[:2]
    return PredictedImage(relative.as_posix(), (height, width), annotations, summary)


def coco_dict(images: Sequence[PredictedImage], class_names: Sequence[str]) -> dict[str, Any]:
    """Return the predictions of all images in COCO's format, JSON-serializable.

    Returns:
      "info", "images" (ids from 1, in the given order), "categories" (ids from 0) and "annotations" (ids
      from 1).
    """
    annotations = [
        annotation | {"image_id": number}
        for number, image in enumerate(images, 1)
        for annotation in image.annotations
    ]
    return {
        "info": {"description": "predictions of deconv_jax"},
        "images": [
            {"id": number, "file_name": image.file_name, "height": image.size[0]}
            | {"width": image.size[1]}
            for number, image in enumerate(images, 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(class_names)],
        "annotations": [
            {"id": number} | annotation for number, annotation in enumerate(annotations, 1)
        ],
    }
