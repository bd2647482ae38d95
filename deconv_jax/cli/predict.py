"""`deconv-jax predict`: flags to a trained recognition network at work on a person's images."""

import argparse
import sys
from pathlib import Path
from typing import Any

from deconv_jax.cli.common import (
    EXIT_SOME_FAILED,
    checkpoint_step,
    keep_compiled,
    report_left_out,
)
from deconv_jax.errors import InputError, printable

_PREDICT = """\
say what is in images, by a trained classifier, segmentation or detector

  deconv-jax predict --checkpoint runs/unet photos/ --output found/
  deconv-jax predict --checkpoint runs/detector street.jpg --output found/ --threshold 0.5

Writes a picture of each image, NAME.png, with its most likely classes, its pixels tinted by their classes,
or boxes about objects with their scores; and predictions.json with what was found in COCO's format, where a
category's id is the number of the class: a classifier's five most likely classes with their probabilities,
masks, or boxes. An image that is smaller than 256 pixels is drawn larger. What cannot be read, or has several
pages or frames, is left out, and the exit code then is 1; files of other formats in a folder, hidden ones and
links to folders are counted and named at the end; after an interruption the JSON has the images that were done.

A score is a number from 0 to 1 by which the network ranks its own answers: of a classifier the softmax
probability of a class among those it was trained on, which sum to 1 whatever the image is; of a detector the
height of the heat map at an object's centre. No score measures whether an image resembles the training data:
one that shows none of the classes may get a high score.

A classifier sees the largest part in the middle of an image that has the shape of those it learnt from. A
network of gray images sees, and draws, the gray of coloured ones; what is transparent is laid on white.
"""


def add_commands(commands: Any) -> None:
    """Adds its parser to the subparsers of the command line."""
    predict = commands.add_parser(
        "predict",
        help="say what is in images, by a trained recognition network",
        description=_PREDICT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    predict.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="RUN",
        help="workdir of a run of recognition, segmentation or detection",
    )
    predict.add_argument(
        "--step", default="last", metavar="last|best|STEP", help="which of its checkpoints"
    )
    predict.add_argument(
        "inputs", nargs="+", metavar="IMAGE", help="files, folders and patterns such as '**/*.png'"
    )
    predict.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="the folder for the results"
    )
    predict.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="least score of a box, of a detector (default: 0.3)",
    )
    predict.add_argument("--overwrite", action="store_true", help="replace files that are there")
    predict.set_defaults(run=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    keep_compiled()
    from deconv_jax.inference.image_files import plan_jobs
    from deconv_jax.inference.progress import Progress
    from deconv_jax.inference.recognition.coco import PREDICTIONS_FILE, coco_dict, predict_file
    from deconv_jax.inference.recognition.load import load_predictor
    from deconv_jax.io import check_unused, write_json

    output = arguments.output
    plan = plan_jobs(arguments.inputs, output, suffix=".png")
    jobs = plan.jobs
    record = output / PREDICTIONS_FILE
    check_unused(record, overwrite=arguments.overwrite)
    predictor = load_predictor(
        arguments.checkpoint, checkpoint_step(arguments.step), arguments.threshold
    )
    found = []
    try:
        with Progress("predict", len(jobs)) as bar:
            for done, job in enumerate(jobs, 1):
                try:
                    described = predict_file(predictor, job, output, overwrite=arguments.overwrite)
                except InputError as error:
                    bar.write(f"deconv-jax: error: {error}", file=sys.stderr)
                else:
                    found.append(described)
                    bar.write(f"{job.source} -> {job.output}: {described.summary}")
                bar.show(done)
    finally:
        if found:
            write_json(record, coco_dict(found, predictor.class_names))
            print(printable(f"written: {record}"))
    failed = len(jobs) - len(found)
    if failed:
        print(f"deconv-jax: {failed} of {len(jobs)} files were left out", file=sys.stderr)
    return report_left_out(plan) or (EXIT_SOME_FAILED if failed else 0)
