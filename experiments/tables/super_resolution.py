"""Super-resolution of luma on Set5 and Set14: FSRCNN, ESPCN and SRCNN (arXiv:1608.00367, 1609.05158, 1501.00092).

  deconv-jax tables super_resolution

ESPCN and SRCNN 9-1-5 are trained from scratch on T91 and compared with bicubic interpolation. The named models `sr-x2`,
`sr-x3` and `sr-x4` are FSRCNNs with weights rounded to 16 bits. DnCNN-3 (arXiv:1608.03981) has the weights that its
authors published and restores the image that bicubic interpolation enlarged. The protocol is that of the papers' MATLAB
code: outputs are rounded to 8 bits, images are cropped to multiples of the scale and downsampled by `imresize` without
rounding, and a border of `scale` pixels is ignored. The ablation changes the upsampling layer at a smaller, equal number
of steps.
"""

import functools
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _common import (
    gap,
    gap_reason,
    images_in,
    named_record,
    named_restorer,
    protocol_line,
    published_restorer,
    trained,
    training_of,
    training_summary,
)

from deconv_jax import ops
from deconv_jax.data.degradations import Downsample
from deconv_jax.data.images import list_images, read_8bit, read_pixels
from deconv_jax.inference.restoration.evaluation import Evaluation, network_restorer
from deconv_jax.metrics.checkerboard import checkerboard_energy
from deconv_jax.metrics.protocol import EvaluationProtocol, mean_of_rows
from deconv_jax.ops.color import rgb_to_y
from deconv_jax.tables import linked, markdown

VERSION = 1
SETS = ("set5", "set14")
SCALES = (2, 3, 4)
ABLATION = {"transposed": "transposed 9x9", "subpixel": "sub-pixel 3x3", "resize": "resize 9x9"}
ABLATION_STEPS = 10_000
RESIZE = "imresize here, not MATLAB's"

SOURCE = (
    "The papers' figures of FSRCNN, ESPCN and SRCNN are those of networks trained on T91, quoted from later comparisons; "
    "those of DnCNN-3 are quoted from its authors' repository."
)
PAPER = {
    # (Set5, Set14)
    ("Bicubic", 2): (33.66, 30.24),
    ("Bicubic", 3): (30.39, 27.54),
    ("Bicubic", 4): (28.42, 26.00),
    ("FSRCNN", 2): (36.94, 32.54),
    ("FSRCNN", 3): (33.06, 29.37),
    ("FSRCNN", 4): (30.55, 27.50),
    ("ESPCN", 3): (32.55, 29.08),
    ("SRCNN", 3): (32.39, 29.00),
    ("DnCNN-3", 2): (37.58, 33.03),
    ("DnCNN-3", 3): (33.75, 29.81),
    ("DnCNN-3", 4): (31.40, 28.04),
}


def _measure(restore: Callable[[np.ndarray], np.ndarray], data: Path, scale: int) -> dict[str, Any]:
    evaluation = _evaluation(scale)
    sets = {name: evaluation.measure(restore, images_in(data / name, "y")) for name in SETS}
    return {"scale": scale, "sets": sets, "protocol": evaluation.describe()}


def _evaluation(scale: int) -> Evaluation:
    return Evaluation(
        Downsample(scale), EvaluationProtocol(color="y", border=scale), multiple=scale
    )


def _bicubic(data: Path, *, scale: int) -> dict[str, Any]:
    return _measure(functools.partial(_enlarged, scale=scale), data, scale)


def _enlarged(image: np.ndarray, scale: int) -> np.ndarray:
    return np.asarray(ops.imresize(jnp.asarray(image), scale))


def _named(data: Path, *, scale: int) -> dict[str, Any]:
    name = f"sr-x{scale}"
    return _measure(named_restorer(name), data, scale) | {"model": named_record(name)}


def _dncnn3(data: Path, *, scale: int) -> dict[str, Any]:
    network = published_restorer(data / "weights" / "dncnn3.pth")

    def restore(image: np.ndarray) -> np.ndarray:
        return network(_enlarged(image, scale))

    measured = _measure(restore, data, scale)
    return measured | {"psnr_from_unrounded_luma": _from_unrounded_luma(restore, data, scale)}


def _from_unrounded_luma(
    restore: Callable[[np.ndarray], np.ndarray], data: Path, scale: int
) -> dict[str, float]:
    """Return the PSNR of each set if luma is rounded after the downsampling instead of before."""
    evaluation, found = _evaluation(scale), {}
    for name in SETS:
        pairs = []
        for path in list_images(data / name):
            pixels = jnp.asarray(read_8bit(path)[0], jnp.float32) / 255
            luma = np.asarray(rgb_to_y(pixels) if pixels.shape[-1] == 3 else pixels)
            clean = read_pixels(path, "y").astype(np.float32) / 255
            output = restore(evaluation.degrade(evaluation.crop(luma), 0))
            pairs.append((path.name, output, evaluation.crop(clean)))
        found[name] = mean_of_rows(evaluation.protocol.measure_all(pairs))["psnr"]
    return found


def _network(data: Path, *, config_argument: str, scale: int) -> dict[str, Any]:
    run = trained(f"super_resolution.py:{config_argument}")
    evaluation = _evaluation(scale)
    sizes = [
        evaluation.degrade(evaluation.crop(image), 0).shape[:2]
        for name in SETS
        for _, image in images_in(data / name, "y")
    ]
    restore = network_restorer(run.apply, run.module.receptive_field(), sizes)
    outputs: list[np.ndarray] = []

    def keep(image: np.ndarray) -> np.ndarray:
        outputs.append(restore(image))
        return outputs[-1]

    measured = _measure(keep, data, scale)
    energies = [float(checkerboard_energy(jnp.asarray(x)[None], scale)[0]) for x in outputs]
    truths = [evaluation.crop(image) for name in SETS for _, image in images_in(data / name, "y")]
    true_energies = [float(checkerboard_energy(jnp.asarray(x)[None], scale)[0]) for x in truths]
    return measured | {
        "training": run.record,
        "checkerboard_energy": statistics.geometric_mean(energies),
        "checkerboard_energy_of_truth": statistics.geometric_mean(true_energies),
        "ms_per_output_megapixel": _speed(run.apply, scale),
        "load_average": os.getloadavg()[0],
    }


def _speed(apply: Callable[[jax.Array], jax.Array], scale: int) -> float:
    """Return the median time for an image of 180 x 180 pixels, in ms per megapixel of output."""
    image = jnp.full((1, 180, 180, 1), 0.5)
    compiled = jax.jit(apply)
    compiled(image).block_until_ready()
    times = []
    for _ in range(15):
        started = time.perf_counter()
        compiled(image).block_until_ready()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times) / (image[0].size * scale**2 / 1e6)


NETWORKS = {
    **{f"espcn_x{s}": ("ESPCN", s, f"model=espcn,scale={s},steps=50000") for s in SCALES},
    "srcnn_x3": ("SRCNN", 3, "model=srcnn,scale=3,steps=50000"),
}

PARTS: dict[str, Callable[[Path], dict[str, Any]]] = (
    {
        f"{part}_x{scale}": functools.partial(measure, scale=scale)
        for part, measure in (("bicubic", _bicubic), ("named", _named), ("dncnn3", _dncnn3))
        for scale in SCALES
    }
    | {
        part: functools.partial(_network, config_argument=argument, scale=scale)
        for part, (_, scale, argument) in NETWORKS.items()
    }
    | {
        f"upsampling_{kind}": functools.partial(
            _network,
            config_argument=f"model=fsrcnn,scale=3,upsampling={kind},steps={ABLATION_STEPS}",
            scale=3,
        )
        for kind in ABLATION
    }
)


def render(records: Mapping[str, dict[str, Any]]) -> str:
    """Return PSNR and SSIM with the papers' PSNR, then the ablation."""
    methods = {
        f"{part}_x{scale}": (name, scale)
        for part, name in (("bicubic", "Bicubic"), ("named", "FSRCNN"), ("dncnn3", "DnCNN-3"))
        for scale in SCALES
    } | {part: (name, scale) for part, (name, scale, _) in NETWORKS.items()}
    rows = []
    for part, (name, scale) in sorted(methods.items(), key=lambda item: item[1][1]):
        if part in records:
            record = records[part]
            model, sets = record.get("model"), record["sets"]
            paper = PAPER.get((name, scale))
            means = [sets[s]["mean"]["psnr"] for s in SETS]
            quoted = [*(f"{p:.2f}" for p in paper), *map(gap, means, paper)] if paper else [""] * 4
            reason = RESIZE if name == "Bicubic" else gap_reason(record, RESIZE)
            rows.append(
                [
                    linked(f"{name} x{scale}" + (f", `{model['name']}`" if model else ""), record),
                    *(f"**{mean:.2f}**" for mean in means),
                    *quoted,
                    *(f"{sets[s]['mean']['ssim']:.4f}" for s in SETS),
                    training_summary(training_of(record)),
                    reason if paper else "",
                ]
            )
    header = (
        "method | Set5 | Set14 | Set5, quoted | Set14, quoted | difference, Set5 | difference, Set14 | SSIM Set5 | "
        "SSIM Set14 | training | reason for the difference"
    )
    blocks = [markdown(header, rows)]
    unrounded = [
        f"x{scale} " + " / ".join(f"{found[name]:.3f}" for name in SETS)
        for scale in SCALES
        if (found := records.get(f"dncnn3_x{scale}", {}).get("psnr_from_unrounded_luma"))
    ]
    if unrounded:
        blocks.append(
            "Luma is rounded to 8 bits before the downsampling, as by MATLAB. If only the ground truth is rounded, "
            f"DnCNN-3 has {', '.join(unrounded)} dB (Set5 / Set14)."
        )
    ablation = {kind: records.get(f"upsampling_{kind}") for kind in ABLATION}
    rows = [
        [
            linked(ABLATION[kind], record),
            f"{record['training']['parameters']:,}",
            *(f"{record['sets'][s]['mean']['psnr']:.2f}" for s in SETS),
            f"{record['ms_per_output_megapixel']:.0f} ms",
            f"{record['checkerboard_energy']:.2f}",
            training_summary(record["training"]),
        ]
        for kind, record in ablation.items()
        if record is not None
    ]
    if rows:
        truth = next(r["checkerboard_energy_of_truth"] for r in ablation.values() if r)
        header = "FSRCNN x3 with | parameters | Set5 | Set14 | ms per output megapixel | checkerboard energy | training"
        blocks.append(markdown(header, rows))
        blocks.append(
            f"Checkerboard energy of the ground truth: {truth:.2f} (geometric mean over both sets; 1 means "
            "no pattern)."
        )
    blocks.append(SOURCE)
    # Old records name the generator of a noise that is not used here.
    noise = re.compile("Gaussian noise by [^;]*; ")
    blocks += protocol_line(noise.sub("", record["protocol"]) for record in records.values())
    return "\n\n".join(blocks)
