"""`deconv-jax predict`: image files through a trained recognition network."""

import argparse
import sys
from pathlib import Path
from typing import Any

from deconv_jax.cli.arguments import (
    add_inputs,
    add_model,
    add_output,
    add_parser,
    open_model,
    report_skipped,
)
from deconv_jax.cli.exit_codes import EXIT_SOME_FAILED
from deconv_jax.cli.process import enable_compilation_cache
from deconv_jax.errors import InputError, escape_unprintable

_OUTPUT = "predicted"
_PREDICT = """\
classify, segment or detect objects in images

  deconv-jax predict --model digit-scenes scene.png
  deconv-jax predict --workdir runs/unet photos/ -o found/
  deconv-jax predict --workdir runs/detector street.jpg -o found/ --threshold 0.5

The named models recognize light digits or clothes on a dark background, as in MNIST.

Writes a picture NAME.png for each image: the five most likely classes, pixels tinted by class, or
boxes with scores. Writes predictions.json in COCO's format, in which a category's id is the number
of the class: class probabilities, masks or boxes. After an interruption it holds the images that
are done. Images smaller than 256 pixels are drawn enlarged. If a file cannot be read, or has
several pages or frames, it is reported and the others are processed; the exit code is then 1.
Folders may also hold files of other formats, hidden files and links to folders: these are skipped
and listed at the end.

The score of a classifier is the softmax probability over the classes it was trained on. The score
of a detector is the height of the heat map at the object's center. Both are between 0 and 1 and
rank the network's own answers. Neither tells whether an image resembles the training data: an
image that shows none of the classes may get a high score.

A classifier gets the largest central crop that has the aspect ratio of its training images. For a
network trained on gray images, inputs are converted to gray, and the pictures are gray, too.
Transparent pixels are blended with white.
"""


def add_commands(commands: Any) -> None:
    """Add the parser of `predict`."""
    predict = add_parser(commands, "predict", _PREDICT)
    add_model(predict, "classification, segmentation or detection")
    add_inputs(predict)
    add_output(
        predict,
        "DIR",
        f"write pictures and predictions.json to this folder (default: {_OUTPUT})",
        required=False,
    )
    predict.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="keep boxes of a detector with at least this score (default: 0.3)",
    )
    predict.set_defaults(run=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    enable_compilation_cache()
    from deconv_jax.inference.image_files import plan_jobs
    from deconv_jax.inference.progress import ProgressBar
    from deconv_jax.inference.recognition.coco import PREDICTIONS_FILE, coco_dict, predict_file
    from deconv_jax.inference.recognition.load import load_predictor
    from deconv_jax.io import check_output_path, write_json

    output = arguments.output or Path(_OUTPUT)
    plan = plan_jobs(arguments.inputs, output, suffix=".png")
    jobs = plan.jobs
    record = output / PREDICTIONS_FILE
    check_output_path(record, overwrite=arguments.overwrite)
    predictor = load_predictor(*open_model(arguments), arguments.threshold)
    predictions = []
    try:
        with ProgressBar("predict", len(jobs)) as bar:
            for done, job in enumerate(jobs, 1):
                try:
                    found = predict_file(predictor, job, output, overwrite=arguments.overwrite)
                except InputError as error:
                    bar.write(f"deconv-jax: error: {error}", file=sys.stderr)
                else:
                    predictions.append(found)
                    bar.write(f"{job.source} -> {job.output}: {found.summary}")
                bar.show(done)
    finally:
        if predictions:
            write_json(record, coco_dict(predictions, predictor.class_names))
            print(escape_unprintable(f"written: {record}"))
    failed = len(jobs) - len(predictions)
    if failed:
        print(f"deconv-jax: {failed} of {len(jobs)} files failed", file=sys.stderr)
    return report_skipped(plan) or (EXIT_SOME_FAILED if failed else 0)
