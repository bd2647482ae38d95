"""Removal of JPEG artifacts on Classic5: AR-CNN (arXiv:1504.06993) and DnCNN (arXiv:1608.03981, Table IV).

  deconv-jax tables jpeg

Five gray images are compressed at qualities 10 to 40 by this package's JPEG, which equals Pillow's exactly. DnCNN-3
has the weights that its authors published, one network of twenty layers for all qualities, for noise and for
super-resolution. `jpeg-gray` is a named model for all qualities, trained as long as its row says.
"""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from _common import (
    gap_reason,
    gap_table,
    images_in,
    named_record,
    named_restorer,
    named_title,
    protocol_line,
    published_restorer,
)

from deconv_jax.data.degradations import Jpeg
from deconv_jax.inference.restoration.evaluation import Evaluation, Restore
from deconv_jax.metrics.protocol import EvaluationProtocol
from deconv_jax.tables import linked, markdown

VERSION = 1
QUALITIES = (10, 20, 30, 40)
NAMED = "jpeg-gray"

SOURCE = "The papers' figures are quoted from the repository of DnCNN's authors."
PAPER = {
    "AR-CNN": {10: (29.03, 0.7929), 20: (31.15, 0.8517), 30: (32.51, 0.8806), 40: (33.34, 0.8953)},
    "TNRD": {10: (29.28, 0.7992), 20: (31.47, 0.8576), 30: (32.78, 0.8837)},
    "DnCNN-3": {10: (29.40, 0.8026), 20: (31.63, 0.8610), 30: (32.91, 0.8861), 40: (33.77, 0.9003)},
}


def _measure(data: Path, *, quality: int, restore: Restore = lambda image: image) -> dict[str, Any]:
    evaluation = Evaluation(Jpeg(quality), EvaluationProtocol(), noise="jax")
    return evaluation.measure(restore, images_in(data / "classic5", "gray"))


def _published(data: Path, *, quality: int) -> dict[str, Any]:
    restore = published_restorer(data / "weights" / "dncnn3.pth")
    return _measure(data, quality=quality, restore=restore)


def _named(data: Path, *, quality: int) -> dict[str, Any]:
    measured = _measure(data, quality=quality, restore=named_restorer(NAMED))
    return measured | {"model": named_record(NAMED)}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    f"{part}_{quality}": functools.partial(measure, quality=quality)
    for part, measure in (("jpeg", _measure), ("dncnn3", _published), ("named", _named))
    for quality in QUALITIES
}


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return PSNR and SSIM, one row per method and one column per quality."""
    rows = [["JPEG", *_figures(records, "jpeg")], ["DnCNN-3", *_figures(records, "dncnn3")]]
    named = next((r for part, r in records.items() if part.startswith("named_")), None)
    if named is not None:
        rows.append([named_title(named), *_figures(records, "named")])
    for method, paper in PAPER.items():
        quoted = [f"{paper[q][0]:.2f} / {paper[q][1]:.4f}" if q in paper else "" for q in QUALITIES]
        rows.append([f"{method}, paper, quoted", *quoted])
    header = "PSNR / SSIM | " + " | ".join(f"quality {quality}" for quality in QUALITIES)
    # The evaluation names the generator of random numbers, which the compression does not use.
    random = re.compile("random numbers by [^;]*; ")
    protocols = [random.sub("", record["protocol"]) for record in records.values()]
    compared = {
        "dncnn3": ("DnCNN-3", "Pillow's JPEG, not MATLAB's"),
        "named": (f"`{NAMED}`", "an FFDNet beside DnCNN-3"),
    }
    gaps = [
        (
            f"{title}, quality {quality}",
            [(record, record["mean"]["psnr"], PAPER["DnCNN-3"][quality][0])],
            gap_reason(record, other),
        )
        for part, (title, other) in compared.items()
        for quality in QUALITIES
        if (record := records.get(f"{part}_{quality}"))
    ]
    table = gap_table(["Classic5"], gaps)
    return "\n\n".join(
        [markdown(header, rows), *filter(None, [table]), SOURCE, *protocol_line(protocols)]
    )


def _figures(records: Mapping[str, dict[str, Any]], method: str) -> list[str]:
    """Return PSNR and SSIM of a method at each quality, or "" where there is no record."""
    found = [records.get(f"{method}_{quality}") for quality in QUALITIES]
    return ["" if record is None else _figure(record) for record in found]


def _figure(record: Mapping[str, Any]) -> str:
    mean = record["mean"]
    return linked(f"**{mean['psnr']:.2f}** / {mean['ssim']:.4f}", record)
