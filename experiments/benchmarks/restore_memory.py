"""Peak memory of `deconv-jax restore` on one large gray PNG file, in a process of its own.

There are two cases. A photograph of 4 megapixels goes through the published DnCNN for sigma 25, in tiles as large
as the free memory allows. A scan of 100 megapixels goes through two layers of random weights; there the copies of
the image dominate.

The peak includes Python, JAX, and PyTorch for reading a .pth file. The peak for an image of 64 x 64 pixels is
recorded for comparison. A machine with more free memory uses larger tiles.

  DECONV_JAX_DATA=data python experiments/benchmarks/restore_memory.py
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from timing import ROOT, processors

from deconv_jax import cli
from deconv_jax.inference.memory import free_memory
from deconv_jax.io import write_json
from deconv_jax.models import DnCNN
from deconv_jax.models.weight_import import save_torch_weights
from deconv_jax.workdir import provenance

RECORD = ROOT / "experiments" / "results" / "benchmarks" / "restore_memory.json"
SMALL = 64
BAND = 256
SIGMA = 25.0
CASES = (("4 megapixels, DnCNN of 17 layers", 2048), ("100 megapixels, 2 layers", 10_000))


def main() -> None:
    """Measure both cases, each in a process of its own, and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=RECORD, metavar="FILE", help="(default: %(default)s)"
    )
    parser.add_argument("--measure-peak", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_peak:
        measure_peak(*arguments.measure_peak)
        return
    if "DECONV_JAX_DATA" not in os.environ:
        raise SystemExit("DECONV_JAX_DATA must name the folder with weights/dncnn_25.pth")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        networks = (
            Path(os.environ["DECONV_JAX_DATA"]) / "weights" / "dncnn_25.pth",
            tiny_network(folder / "tiny.safetensors"),
        )
        for (label, side), weights in zip(CASES, networks, strict=True):
            peaks = {}
            for pixels in (SMALL, side):
                image = folder / f"{pixels}.png"
                write_noisy(image, pixels)
                peaks[pixels] = peak(weights, image, folder / f"{label}, {pixels}")
            rows.append(
                {
                    "case": label,
                    "image_mb": round(4 * side**2 / 1e6, 1),
                    "peak_mb": peaks[side]["peak_mb"],
                    f"peak_mb_of_{SMALL}_pixels_a_side": peaks[SMALL]["peak_mb"],
                    "free_mb_before": peaks[side]["free_mb"],
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    write_json(
        arguments.output,
        {
            "measured": "peak resident memory of deconv-jax restore on one 8-bit gray PNG file",
            "protocol": "peak resident memory of the command's process, including compilation and files; "
            "image_mb is one copy of the image in float32; square images of waves with Gaussian noise of "
            f"sigma {SIGMA:g}; tile size chosen from the free memory",
            "peak_memory": rows,
            "threads": processors(),
            "load_average": [round(load, 2) for load in os.getloadavg()],
            **provenance(),
        },
    )
    print(f"written: {arguments.output}")


def tiny_network(path: Path) -> Path:
    """Write a DnCNN of two layers with random weights, and return its path."""
    model = DnCNN(depth=2, features=8, norm="none")
    image = np.zeros((1, SMALL, SMALL, 1), np.float32)
    save_torch_weights(path, model, model.init(jax.random.key(0), image)["params"])
    return path


def write_noisy(path: Path, side: int) -> None:
    """Write a square gray PNG file of smooth waves with noise, in bands of rows."""
    random = np.random.default_rng(0)
    samples = np.empty((side, side), np.uint8)
    columns = np.arange(side) / 97
    for start in range(0, side, BAND):
        rows = np.arange(start, min(start + BAND, side))[:, None] / 61
        waves = 127.5 + 90 * np.sin(rows) * np.cos(columns)
        noise = random.normal(0.0, SIGMA, waves.shape)
        samples[start : start + BAND] = np.rint(np.clip(waves + noise, 0, 255))
    Image.fromarray(samples).save(path, compress_level=1)


def peak(weights: Path, image: Path, output: Path) -> dict[str, Any]:
    """Run `measure_peak` in a process of its own, and return what it prints."""
    command = [sys.executable, __file__, "--measure-peak", str(weights), str(image), str(output)]
    settings = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{output}, compiled"}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_peak(weights: Path, image: Path, output: Path) -> None:
    """Restore an image with the command, then print the peak memory of this process as JSON (Linux)."""
    free = free_memory()
    words = ["restore", "--weights", str(weights), str(image), "--output", str(output)]
    if cli.main(words):
        raise SystemExit(f"{image} was not restored")
    # `getrusage` may report the peak of the parent process instead.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    if not peaks:
        raise SystemExit(f"no VmHWM in {status}: peak memory is measured on Linux alone")
    print(json.dumps({"peak_mb": round(1024 * peaks[0] / 1e6, 1), "free_mb": round(free / 1e6)}))


if __name__ == "__main__":
    main()
