"""Predictions in files: a picture an image, and one JSON file in the format of COCO's annotations.

https://cocodataset.org/#format-data; `pycocotools.coco.COCO` reads it. What a reader would get wrong: a
category's id is the number of the class in the run, from 0 on, and annotations are numbered from 1 on, as
0 would mean "none" to the evaluation there; those of a classifier have a score and no place.
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
from deconv_jax.io import check_unused, write_png

PREDICTIONS_FILE = "predictions.json"


@dataclasses.dataclass(frozen=True, eq=False)
class PredictedImage:
    """An image and what was found in it.

    Attributes:
      file_name: of the image, with the folders below the input that it was found in.
      size: height and width, pixels.
      annotations, summary: of what was found, see `Prediction`; without its arrays, for there may be many.
        The summary also has what reading the image left out or converted.
    """

    file_name: str
    size: tuple[int, int]
    annotations: list[dict[str, Any]]
    summary: str


def predict_file(
    predictor: Predictor, job: Job, output: Path, *, overwrite: bool = False
) -> PredictedImage:
    """Reads an image, looks at it and writes a picture of what was found; whole or not at all.

    Args:
      predictor: the network.
      job: what to read and write.
      output: the folder of all results.
      overwrite: whether a picture that is there already is replaced.

    Raises:
      InputError: whatever is wrong with this file, too little memory for it included.
    """
    check_unused(job.output, overwrite=overwrite)
    with catch_out_of_memory(f"{job.source}: not enough memory"):
        pixels, lost = read_8bit(job.source, predictor.color)
        try:
            prediction = predictor(pixels)
        except InputError as error:
            raise InputError(f"{job.source}: {error}") from error
        picture = prediction.picture(pixels, predictor.class_names)
        annotations = prediction.annotations()
        words = f" ({', '.join(lost)})" if lost else ""
        summary = prediction.summary(predictor.class_names) + words
        write_png(job.output, Image.fromarray(picture))
    place = job.output.relative_to(output).with_name(job.source.name)
    height, width = pixels.shape[:2]
    return PredictedImage(place.as_posix(), (height, width), annotations, summary)


def coco_dict(images: Sequence[PredictedImage], class_names: Sequence[str]) -> dict[str, Any]:
    """All that was found, in COCO's format."""
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
