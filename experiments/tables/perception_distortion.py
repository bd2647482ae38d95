"""Perception and distortion of super-resolution x4 with an adversary: PSNR and SSIM beside NIQE, on CBSD68.

  deconv-jax tables perception_distortion
  python experiments/tables/perception_distortion.py   # draws the curve and the picture in docs/

Networks are those of experiments/restoration/sr_gan.py: one is trained for PSNR, and the others continue its training
with an adversary of different weights (about an hour each on one CPU core; a stopped run is resumed). Between the
first and one of the others lie networks with interpolated weights (arXiv:1809.00219, section 3.4). Outputs are
measured on 60 images; 8 more are the validation split of training. NIQE is that of `metrics.niqe`: of the gray image,
with parameters of this project, so it is not comparable with that of papers.
"""

import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from _common import Records, finished_run, images_in, protocol_line, training_summary

from deconv_jax import ops
from deconv_jax.data.degradations import Downsample
from deconv_jax.inference.restoration.evaluation import Evaluation, Restore, network_restorer
from deconv_jax.inference.restoration.load import LoadedNetwork, interpolate_networks, load_run
from deconv_jax.metrics.niqe import niqe
from deconv_jax.metrics.protocol import EvaluationProtocol
from deconv_jax.tables import linked, markdown
from deconv_jax.viz.grids import picture_grid
from deconv_jax.viz.plots import Plot, Series, draw

VERSION = 1
SCALE = 4
WEIGHTS = (0.003, 0.01, 0.03, 0.1)
"""Weights of the adversarial loss; the pixel loss has the weight 1."""
INTERPOLATED = 0.03
"""Weight of the network towards which weights are interpolated."""
ALPHAS = (0.2, 0.4, 0.6, 0.8)
VALIDATION = 8
"""Number of images of the folder that are the validation split of training."""
CURVE, PICTURE = Path("docs/perception_distortion.png"), Path("docs/sr_interpolation.png")
EXAMPLE, CROP = "119082.png", (slice(120, 216), slice(160, 288))
"""Image of the picture, and its part in pixels."""
NIQE = (
    "NIQE of the whole output, clipped, rounded and converted to gray, with parameters from 432 images of "
    "BSDS500, mean over images"
)

_EVALUATION = Evaluation(
    Downsample(SCALE), EvaluationProtocol(color="y", border=SCALE), multiple=SCALE
)


def _test_images(data: Path) -> list[tuple[str, np.ndarray]]:
    return images_in(data / "cbsd68", "rgb")[VALIDATION:]


def _measure(restore: Restore, data: Path) -> dict[str, Any]:
    values: list[float] = []

    def restore_and_keep(image: np.ndarray) -> np.ndarray:
        output = restore(image)
        values.append(niqe(output))
        return output

    measured = _EVALUATION.measure(restore_and_keep, _test_images(data))
    for row, value in zip(measured["images"], values, strict=True):
        row["niqe"] = value
    measured["mean"]["niqe"] = statistics.fmean(values)
    return measured | {"protocol": f"{measured['protocol']}; {NIQE}"}


def _clean(data: Path) -> dict[str, Any]:
    values = [niqe(_EVALUATION.crop(image)) for _, image in _test_images(data)]
    return {"mean": {"niqe": statistics.fmean(values)}, "protocol": f"no degradation; {NIQE}"}


def _bicubic(data: Path) -> dict[str, Any]:
    return _measure(lambda image: np.asarray(ops.imresize(jnp.asarray(image), SCALE)), data)


def _run(weight: float) -> tuple[Path, dict[str, Any]]:
    """Return the workdir and the training record of a run, after the one that it starts from."""
    config = "restoration/sr_gan.py:weight=0.0"
    workdir, _, record = finished_run(config)
    if weight:
        config = f"restoration/sr_gan.py:weight={weight},init={workdir}"
        workdir, _, record = finished_run(config)
    return workdir, record


def _restorer(network: LoadedNetwork, data: Path) -> Restore:
    sizes = [
        _EVALUATION.degrade(_EVALUATION.crop(image), 0).shape[:2] for _, image in _test_images(data)
    ]
    variables = {"params": network.variables["params"]}
    return network_restorer(
        lambda images: network.model.apply(variables, images),
        network.model.receptive_field(),
        sizes,
    )


def _network(data: Path, *, weight: float) -> dict[str, Any]:
    workdir, record = _run(weight)
    return _measure(_restorer(load_run(workdir), data), data) | {"training": record}


def _between(weight: float, alpha: float) -> tuple[LoadedNetwork, dict[str, Any]]:
    (first, _), (second, record) = _run(0.0), _run(weight)
    return interpolate_networks(load_run(first), load_run(second), alpha), record


def _interpolated(data: Path, *, alpha: float) -> dict[str, Any]:
    network, record = _between(INTERPOLATED, alpha)
    return _measure(_restorer(network, data), data) | {"training": record, "alpha": alpha}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = (
    {"clean": _clean, "bicubic": _bicubic}
    | {f"weight_{w}": functools.partial(_network, weight=w) for w in (0.0, *WEIGHTS)}
    | {f"interpolated_{a}": functools.partial(_interpolated, alpha=a) for a in ALPHAS}
)
TITLES = (
    {"clean": "original images", "bicubic": "bicubic", "weight_0.0": "trained for PSNR"}
    | {f"weight_{w}": f"adversary, weight {w}" for w in WEIGHTS}
    | {f"interpolated_{a}": f"{a:.1f} of the way to weight {INTERPOLATED}" for a in ALPHAS}
)


def render(records: Records) -> str:
    """Return PSNR, SSIM and NIQE, a row for each network; "" without records."""
    rows = []
    for part, title in TITLES.items():
        if part in records:
            record = records[part]
            mean = record["mean"]
            trained_here = part.startswith("weight")
            rows.append(
                [
                    linked(title, record),
                    f"**{mean['psnr']:.2f}**" if "psnr" in mean else "",
                    f"{mean['ssim']:.4f}" if "ssim" in mean else "",
                    f"**{mean['niqe']:.2f}**",
                    training_summary(record["training"]) if trained_here else "",
                ]
            )
    if not rows:
        return ""
    header = "x4, CBSD68 | PSNR | SSIM | NIQE (lower is better) | training"
    protocols = [r["protocol"] for part, r in records.items() if part != "clean"]
    return "\n\n".join([markdown(header, rows), *protocol_line(protocols)])


def curve(records: Records) -> Plot:
    """Return the plot of NIQE over PSNR: a line through all weights, and one through the interpolations."""
    ends = ("weight_0.0", f"weight_{INTERPOLATED}")
    lines = {
        "weights of the adversary": [f"weight_{w}" for w in (0.0, *WEIGHTS)],
        "interpolated networks": [ends[0], *(f"interpolated_{a}" for a in ALPHAS), ends[1]],
        "bicubic": ["bicubic"],
    }
    series = []
    for name, parts in lines.items():
        means = [records[part]["mean"] for part in parts if part in records]
        points = (np.array([mean[axis] for mean in means]) for axis in ("psnr", "niqe"))
        series.append(Series(*points, name=name, joined=True))
    return Plot("Super-resolution x4, CBSD68", "PSNR (dB)", "NIQE (lower is better)", series)


def main(data: Path) -> None:
    """Draw the curve from the records, and the picture from the runs."""
    from deconv_jax.io import read_json
    from deconv_jax.records import RESULTS

    folder = RESULTS / "perception_distortion"
    draw(curve({path.stem: read_json(path) for path in folder.glob("*.json")})).save(CURVE)
    clean = _EVALUATION.crop(dict(_test_images(data))[EXAMPLE])
    degraded = _EVALUATION.degrade(clean, 0)
    names, crops = [], []
    for alpha in (0.0, *ALPHAS, 1.0):
        network, _ = _between(INTERPOLATED, alpha)
        names.append(f"{alpha:.1f}")
        crops.append(np.clip(_restorer(network, data)(degraded)[CROP], 0, 1))
    rows = {
        f"weights from PSNR (0) to adversary (1): {', '.join(names)}": np.stack(crops),
        "original": clean[CROP][None],
    }
    picture_grid(rows).save(PICTURE)
    print(f"written: {CURVE}, {PICTURE}")


if __name__ == "__main__":
    import os

    main(Path(os.environ["DECONV_JAX_DATA"]))
