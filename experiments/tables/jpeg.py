"""Removal of JPEG artifacts on Classic5: AR-CNN (arXiv:1504.06993) and DnCNN (arXiv:1608.03981, Table IV).

  deconv-jax tables jpeg

Five gray images are compressed at qualities 10 to 40 by this package's JPEG, which equals Pillow's exactly. The
network trained here is a DnCNN of eight layers for quality 10, trained as long as its row says. The paper's
network has twenty layers and serves all qualities.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _common import images_in, protocol_line, tiled_restorer, trained, training_summary

from deconv_jax.data.degradations import Jpeg
from deconv_jax.inference.restoration.evaluation import Evaluation
from deconv_jax.metrics.protocol import EvaluationProtocol
from deconv_jax.tables import markdown

VERSION = 1
QUALITIES = (10, 20, 30, 40)
CONFIG = "jpeg.py:quality=10,depth=8,steps=1600,batch=16"

SOURCE = "The papers' figures are quoted from the repository of DnCNN's authors."
PAPER = {
    "AR-CNN": {10: (29.03, 0.7929), 20: (31.15, 0.8517), 30: (32.51, 0.8806), 40: (33.34, 0.8953)},
    "TNRD": {10: (29.28, 0.7992), 20: (31.47, 0.8576), 30: (32.78, 0.8837)},
    "DnCNN-3": {10: (29.40, 0.8026), 20: (31.63, 0.8610), 30: (32.91, 0.8861), 40: (33.77, 0.9003)},
}


def _measure(
    data: Path, *, quality: int, restore: Callable[[np.ndarray], np.ndarray] = lambda image: image
) -> dict[str, Any]:
    evaluation = Evaluation(Jpeg(quality), EvaluationProtocol(), noise="jax")
    return evaluation.measure(restore, images_in(data / "classic5", "gray"))


def _trained(data: Path) -> dict[str, Any]:
    run = trained(CONFIG)
    measured = _measure(data, quality=10, restore=tiled_restorer(run.module, run.variables))
    return measured | {"training": run.record}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    f"jpeg_{quality}": functools.partial(_measure, quality=quality) for quality in QUALITIES
} | {"dncnn8_10": _trained}


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return PSNR and SSIM, one row per method and one column per quality."""
    here = {q: records[f"jpeg_{q}"]["mean"] for q in QUALITIES if f"jpeg_{q}" in records}
    rows = [["JPEG", *(_figures(here.get(q)) for q in QUALITIES)]]
    if "dncnn8_10" in records:
        record = records["dncnn8_10"]
        title = f"DnCNN of 8 layers, trained here: {training_summary(record['training'])}"
        rows.append([title, _figures(record["mean"]), *[""] * (len(QUALITIES) - 1)])
    for method, paper in PAPER.items():
        quoted = [f"{paper[q][0]:.2f} / {paper[q][1]:.4f}" if q in paper else "" for q in QUALITIES]
        rows.append([f"{method}, paper", *quoted])
    header = "PSNR / SSIM | " + " | ".join(f"quality {quality}" for quality in QUALITIES)
    protocols = [record["protocol"] for record in records.values()]
    return "\n\n".join([markdown(header, rows), SOURCE, *protocol_line(protocols)])


def _figures(mean: Mapping[str, float] | None) -> str:
    return "" if mean is None else f"**{mean['psnr']:.2f}** / {mean['ssim']:.4f}"
