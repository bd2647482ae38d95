"""Training of denoisers at small budgets: PSNR over training FLOPs, and ablations of DnCNN and RED-Net.

  deconv-jax tables denoiser_training
  python experiments/tables/denoiser_training.py   # draws docs/denoiser_training.png

All networks remove Gaussian noise of sigma 25 and are trained on `train400/` from scratch. The budgets of DnCNN-S
(arXiv:1608.03981) differ only in the number of steps and the decay of the learning rate that follows from it; the paper's
is 80,000 steps of 128. The ablations have one budget and three seeds. Those of DnCNN are of section III-C of its paper:
without batch normalization, and without the subtraction of the predicted noise. That of RED-Net (arXiv:1603.09056,
section 3) has no skips between layers, but still adds the image.
"""

import functools
import statistics
from pathlib import Path
from typing import Any

import denoising
import jax
import jax.numpy as jnp
import numpy as np
from _common import Part, Records, gap, protocol_line, tiled_restorer, trained

from deconv_jax.cost.report import cost_of
from deconv_jax.cost.text import short
from deconv_jax.experiment import Experiment
from deconv_jax.tables import linked, markdown
from deconv_jax.viz.plots import Plot, Series, draw
from deconv_jax.zoo.text import time_text

VERSION = 1
SIGMA, BATCH_SIZE, STEPS = 25, 16, 400
BUDGETS = (100, STEPS, 1600, 6400)
"""Numbers of steps."""
SEEDS = range(3)
VARIANTS = {
    "dncnn": ("DnCNN-S", "dncnn.py:"),
    "dncnn_without_norm": ("DnCNN-S without batch normalization", "dncnn.py:norm=none,"),
    "dncnn_direct": ("DnCNN-S that predicts the image", "dncnn.py:residual=False,"),
    "rednet": ("RED10", "rednet.py:depth=10,learning_rate=5e-4,"),
    "rednet_without_skips": (
        "RED10 without skips between layers",
        "rednet.py:depth=10,learning_rate=5e-4,skip_every=10,",
    ),
}
"""Title and start of the config by name."""
PAPER_EXAMPLES = 80_000 * 128
PAPER = dict(zip(denoising.SETS, denoising.PAPER["DnCNN-S"][SIGMA][-2:], strict=True))
CURVE = Path("docs/denoiser_training.png")


def _measure(data: Path, *, config: str, steps: int, seed: int) -> dict[str, Any]:
    run = trained(f"{config}sigma={SIGMA},steps={steps},batch={BATCH_SIZE},seed={seed}")
    measured = denoising.measure(data, SIGMA, tiled_restorer(run.module, run.variables))
    return measured | {"training": run.record, "training_flops": _training_flops(run.record)}


def _training_flops(record: dict[str, Any]) -> float:
    """Return the FLOPs of the convolutions in one training example."""
    experiment = Experiment.from_dict(record["config"])
    side = record["config"]["data"]["source"]["tile"]
    shapes = {
        "image": jax.ShapeDtypeStruct((1, side, side, 1), jnp.uint8),
        "index": jax.ShapeDtypeStruct((1,), jnp.int32),
    }
    (network,) = cost_of("", experiment, shapes).networks
    return network.total("training_flops")


PARTS: dict[str, Part] = {
    f"{name}_{seed}": functools.partial(_measure, config=config, steps=STEPS, seed=seed)
    for name, (_, config) in VARIANTS.items()
    for seed in SEEDS
} | {
    f"budget_{steps}": functools.partial(_measure, config="dncnn.py:", steps=steps, seed=0)
    for steps in BUDGETS
    if steps != STEPS
}


def render(records: Records) -> str:
    """Return a row for each budget, then a row for each variant; "" without records."""
    blocks, budgets = [], _by_budget(records)
    rows = [
        [
            linked(f"{steps:,} of {BATCH_SIZE}", record),
            f"{short(_total_flops(record))}FLOP",
            f"1/{PAPER_EXAMPLES / (steps * BATCH_SIZE):,.0f}",
            time_text(record["training"]),
            *(
                cell
                for name, paper in PAPER.items()
                for cell in (f"**{_psnr(record, name):.2f}**", gap(_psnr(record, name), paper))
            ),
        ]
        for steps, record in budgets.items()
    ]
    if rows:
        flops = PAPER_EXAMPLES * next(iter(budgets.values()))["training_flops"]
        papers = (cell for paper in PAPER.values() for cell in (f"{paper:.2f}", ""))
        rows.append(["80,000 of 128, the paper, quoted", f"{short(flops)}FLOP", "1", "", *papers])
        header = "DnCNN-S, steps | training | fraction of the paper's | time | Set12 | difference | BSD68 | difference"
        blocks += [markdown(header, rows), "Each budget has one seed."]
    rows = []
    for name, (title, _) in VARIANTS.items():
        found = {seed: records[part] for seed in SEEDS if (part := f"{name}_{seed}") in records}
        if len(found) == len(SEEDS):
            seeds = ", ".join(linked(str(seed), record) for seed, record in found.items())
            cells = (_spread([_psnr(r, s) for r in found.values()]) for s in denoising.SETS)
            rows.append([title, *cells, seeds])
    if rows:
        header = f"{STEPS} steps of {BATCH_SIZE} | Set12 | BSD68 | seeds"
        blocks += [markdown(header, rows), "Mean and standard deviation over the seeds."]
    return "\n\n".join([*blocks, *protocol_line(r["protocol"] for r in records.values())])


def _by_budget(records: Records) -> dict[int, dict[str, Any]]:
    parts = {steps: "dncnn_0" if steps == STEPS else f"budget_{steps}" for steps in BUDGETS}
    return {steps: records[part] for steps, part in parts.items() if part in records}


def _total_flops(record: dict[str, Any]) -> float:
    training = record["training"]
    return record["training_flops"] * training["steps"] * training["batch_size"]


def _psnr(record: dict[str, Any], name: str) -> float:
    return record["sets"][name]["mean"]["psnr"]


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def curve(records: Records) -> Plot:
    """Return the plot of PSNR on BSD68 over the logarithm of the training FLOPs, with the paper's point."""
    budgets = list(_by_budget(records).values())
    here = np.array([[_total_flops(record), _psnr(record, "bsd68")] for record in budgets])
    paper = np.array([[PAPER_EXAMPLES * budgets[0]["training_flops"], PAPER["bsd68"]]])
    series = [
        Series(np.log10(points[:, 0]), points[:, 1], name=name, joined=True)
        for name, points in (("trained here", here), ("the paper", paper))
    ]
    return Plot("DnCNN-S, sigma 25", "log10 of training FLOPs", "PSNR on BSD68 (dB)", series)


if __name__ == "__main__":
    from deconv_jax.io import read_json
    from deconv_jax.records import RESULTS

    folder = RESULTS / "denoiser_training"
    draw(curve({path.stem: read_json(path) for path in folder.glob("*.json")})).save(CURVE)
    print(f"written: {CURVE}")
