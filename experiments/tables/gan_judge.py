"""Samples of a class-conditional MNIST generator, judged by an independent classifier.

  deconv-jax tables gan_judge

The judge has the same config as the feature extractor of the metrics, but another seed. It classifies 10,000
samples, 1,000 per class, and the 10,000 test images. The runs take about half an hour on 2 CPU cores.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _common import finished_run

from deconv_jax.data.sources import in_memory
from deconv_jax.inference.generation.load import load_generator
from deconv_jax.inference.generation.sampling import generate, latents_from_seed
from deconv_jax.metrics.sample_diversity import class_imbalance
from deconv_jax.tables import markdown
from deconv_jax.training.step import images_in_unit_range
from deconv_jax.workdir import load_state, open_workdir

VERSION = 1
JUDGE = "recognition/mnist_classifier.py:seed=1"
GENERATOR = "synthesis/mnist.py:loss=hinge,classes=10,width=48,steps=6000"
CLASSES, BATCH_SIZE = 10, 500


def _judge(data: Path) -> dict[str, Any]:
    workdir, judged_by, judge_training = finished_run(JUDGE, data / "tfds")
    judge: Any = open_workdir(workdir).task
    test = in_memory(open_workdir(workdir).data.open("test")).arrays
    example = {name: jnp.asarray(array[:1]) for name, array in test.items()}
    _, state = load_state(workdir, "last", lambda key: judge.init(key, example))

    @jax.jit
    def read(images: jax.Array) -> jax.Array:
        variables = state.inference_variables()
        return jax.nn.softmax(judge.model.apply(variables, images_in_unit_range(images)))

    def opinion(batches: Iterable[np.ndarray], labels: np.ndarray) -> dict[str, Any]:
        probabilities = np.concatenate([np.asarray(read(images)) for images in batches])
        read_as = probabilities.argmax(-1)
        return {
            "count": len(read_as),
            "read_as": np.bincount(read_as, minlength=CLASSES).tolist(),
            "imbalance": class_imbalance(read_as, CLASSES),
            "confidence": float(probabilities.max(-1).mean()),
            "accuracy": float(np.mean(read_as == labels)),
        }

    workdir, made_by, training = finished_run(GENERATOR, data / "tfds")
    task, variables = load_generator(workdir)
    count = len(test["label"])
    labels = (np.arange(count) % CLASSES).astype(np.int32)
    latents = latents_from_seed(count, task.latent_dim, seed=0)
    parts = np.split(test["image"], range(BATCH_SIZE, count, BATCH_SIZE))
    return {
        "real": opinion(parts, test["label"]),
        "samples": opinion(generate(task.sample, variables, latents, labels), labels),
        "metrics": made_by["metrics"]["test"],
        "baseline": made_by["baseline"]["test"],
        "judge_accuracy": judged_by["metrics"]["test"]["accuracy"],
        "protocol": "samples of seed 0, classes in turn, rounded to 8 bits, no truncation; accuracy of the "
        "judge on the intended class; confidence: mean of its largest probability; imbalance: most "
        "frequent predicted class / rarest",
        "training": training,
        "judge_training": judge_training,
    }


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {"mnist": _judge}


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return a row for the samples and one for real images."""
    if "mnist" not in records:
        return ""
    record = records["mnist"]
    rows = [
        [
            name,
            f"{record[key]['count']:,}",
            f"{100 * record[key]['accuracy']:.2f} %",
            f"{100 * record[key]['confidence']:.2f} %",
            f"{record[key]['imbalance']:.2f}",
            " ".join(map(str, record[key]["read_as"])),
        ]
        for name, key in (("samples", "samples"), ("test images", "real"))
    ]
    training, metrics = record["training"], record["metrics"]
    header = "images | count | accuracy | confidence | imbalance | predicted as 0 to 9"
    return "\n\n".join(
        [
            markdown(header, rows, record),
            f"Generator: {training['steps']:,} steps of {training['batch_size']}, "
            f"{training['wall_time_s'] / 60:.0f} min; Fréchet distance in the features of "
            f"`{training['config']['task']['extractor']}` "
            f"{metrics['frechet_distance']:.3f} (real images "
            f"{record['baseline']['real_frechet_distance']:.3f}), coverage {metrics['coverage']:.3f}. Protocol: "
            f"{record['protocol']}.",
        ]
    )
