"""Rate and distortion of a learned image codec, compared with JPEG, WebP and AVIF on Set14 and BSD68.

  deconv-jax tables codec_rd
  pip install -e '.[bench]' && python experiments/tables/codec_rd.py   # draws docs/codec_rd.png

The codec is the named model `codec`, trained by experiments/autoencoding/codec_small.py. Rates are those of whole files, headers and
checksums included. Files are decoded again, and PSNR and MS-SSIM compare the decoded image with the original.

Note:
  JPEG, WebP and AVIF store color at half the resolution. PSNR of RGB counts this against them although it is
  hard to see. Gray images (BSD68 and one of Set14) are not affected.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _common import Records, named_record, training_summary

from deconv_jax import zoo
from deconv_jax.data.images import list_images, read_8bit
from deconv_jax.inference.compression.codec import Codec
from deconv_jax.inference.compression.load import load_codec
from deconv_jax.metrics.image import ms_ssim, psnr_from_mse
from deconv_jax.metrics.standard_codecs import StandardCodec, encode_decode, is_available
from deconv_jax.tables import linked, markdown

VERSION = 1
NAMED = "codec"
SETS = {"set14": "Set14", "bsd68": "BSD68"}
STANDARD: dict[str, StandardCodec] = {"jpeg": "JPEG", "webp": "WEBP", "avif": "AVIF"}
QUALITIES = dict.fromkeys(STANDARD.values(), (5, 10, 20, 30, 40, 50, 60, 70, 80, 90))
QUALITIES["WEBP"] = (0, *QUALITIES["WEBP"])  # Its quality 5 is above 0.2 bits per pixel.
TITLES = {"learned": "learned", "jpeg": "JPEG", "webp": "WebP", "avif": "AVIF"}
RATES = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
"""Rates of the second table, in bits per pixel."""
PICTURE = Path("docs/codec_rd.png")
_ms_ssim = jax.jit(ms_ssim)
LARGE = 256
"""Least height and width, in pixels, of images in the comparison of file size and model rate."""


def _images(folder: Path) -> list[tuple[str, np.ndarray]]:
    """Return names and uint8 images of a folder. Gray images have one channel."""
    return [(path.name, read_8bit(path)[0]) for path in list_images(folder)]


def _measured(image: np.ndarray, decoded: np.ndarray, size: int) -> dict[str, float]:
    """Return rate and distortion of one image, given the size of its file in bytes."""
    pair = [jnp.asarray(a[None], jnp.float32) / 255 for a in (decoded, image)]
    error = np.mean(np.square(decoded.astype(np.float64) - image)) / 255**2
    return {
        "bpp": 8 * size / (image.shape[0] * image.shape[1]),
        "psnr": float(psnr_from_mse(error)),
        "ms_ssim": float(_ms_ssim(*pair)[0]),
    }


def _point(setting: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("bpp", "psnr", "ms_ssim")
    return {
        "setting": setting,
        "mean": {name: float(np.mean([row[name] for row in rows])) for name in names},
        "images": rows,
    }


def learned_points(codec: Codec, lambdas: Sequence[float], folder: Path) -> list[dict[str, Any]]:
    """Return rate and distortion of a learned codec on the images of a folder, a point for each level.

    Args:
      codec: The codec.
      lambdas: Weight of the distortion in training, for each level.
      folder: Folder of the images.
    """
    points = []
    for level, weight in enumerate(lambdas):
        rows = []
        for name, image in _images(folder):
            started = time.perf_counter()
            file = codec.compress(image, level)
            between = time.perf_counter()
            decoded = codec.decompress(file)
            ended = time.perf_counter()
            rows.append(
                {"name": name, "size": list(image.shape)}
                | _measured(image, decoded, len(file))
                | {"bits": 8 * len(file), "model_bits": codec.model_bits(image, level)}
                | {"encode_s": between - started, "decode_s": ended - between}
            )
        points.append(_point(weight, rows))
    return points


def standard_points(codec: StandardCodec, folder: Path) -> list[dict[str, Any]]:
    """Return the points of a standard codec at `QUALITIES`; none if Pillow does not support it."""
    points = []
    for quality in QUALITIES[codec] if is_available(codec) else ():
        rows = []
        for name, image in _images(folder):
            size, decoded = encode_decode(image, codec, quality)
            rows.append({"name": name} | _measured(image, decoded, size))
        points.append(_point(quality, rows))
    return points


def _learned(data: Path, *, folder: str) -> dict[str, Any]:
    task, codec = load_codec(zoo.load(NAMED))
    points = learned_points(codec, task.lambdas, data / folder)
    return {"points": points, "protocol": PROTOCOL, "model": named_record(NAMED)}


def _standard(data: Path, *, folder: str, codec: StandardCodec) -> dict[str, Any]:
    return {"points": standard_points(codec, data / folder), "protocol": PROTOCOL}


PROTOCOL = (
    "bits of whole files per pixel; PSNR in dB of 8-bit RGB or gray; five-scale MS-SSIM, mean over channels; "
    "means over images; Pillow's JPEG with optimized tables, WebP with method 6, AVIF with speed 4, "
    "default chroma subsampling"
)
PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    f"{folder}_{name}": functools.partial(_standard, folder=folder, codec=codec)
    for folder in SETS
    for name, codec in STANDARD.items()
} | {f"{folder}_learned": functools.partial(_learned, folder=folder) for folder in SETS}


def render(records: Records) -> str:
    """Return what the other codecs reach at each rate of the learned codec, and the PSNR of all at equal rates."""
    blocks = []
    for folder, title in SETS.items():
        learned = records.get(f"{folder}_learned")
        if learned is None:
            continue
        others = {
            name: records[f"{folder}_{name}"]
            for name in STANDARD
            if records.get(f"{folder}_{name}", {}).get("points")
        }
        rows = [_row(learned, point, list(others.values())) for point in learned["points"]]
        titles = [TITLES[name] for name in others]
        columns = ["lambda", "bits per pixel", "PSNR", *titles, "MS-SSIM", *titles]
        header = " | ".join([*columns, "file size / model rate"])
        blocks += [
            f"#### {title}",
            markdown(header, rows),
            _ahead(learned["points"], {n: r["points"] for n, r in others.items()}),
        ]
    if not blocks:  # The learned codec is not measured yet.
        return equal_rates(records)
    model = next(r["model"] for n, r in records.items() if n.endswith("learned"))
    excess = [
        row["bits"] / row["model_bits"] - 1
        for name, record in records.items()
        if name.endswith("learned")
        for point in record["points"]
        for row in point["images"]
        if min(row["size"][:2]) >= LARGE
    ]
    over = sum(e > 0.01 for e in excess)
    return "\n\n".join(
        [
            *blocks,
            f"#### PSNR at equal rates\n\n{equal_rates(records)}",
            f"Figures at a rate that a codec was not measured at are interpolated, linearly in the logarithm of the rate; "
            f"a cell is blank outside its range of rates. Learned codec: "
            f"`{model['name']}`, {model['parameters']:,} parameters, {training_summary(model['training'])}. For images of at least {LARGE} pixels "
            f"per side, file size differs from the model's rate by {100 * float(np.median(excess)):+.2f} % (median), "
            f"{100 * min(excess):+.2f} to {100 * max(excess):+.2f} %; {over} of {len(excess)} files exceed it by more "
            f"than 1 %. Protocol: {PROTOCOL}.",
        ]
    )


def equal_rates(records: Records) -> str:
    """Return a table of PSNR at `RATES`, one row per set and codec."""
    rows = []
    for folder, title in SETS.items():
        for name, codec in TITLES.items():
            record = records.get(f"{folder}_{name}", {})
            if record.get("points"):
                figures = [_interpolated(record["points"], rate, "psnr", 2) for rate in RATES]
                rows.append([linked(f"{title}, {codec}", record), *figures])
    return markdown("PSNR | " + " | ".join(f"{rate} bpp" for rate in RATES), rows)


def _row(
    learned: Mapping[str, Any], point: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> list[str]:
    mean = point["mean"]

    def of_others(measure: str, decimals: int) -> list[str]:
        return [
            linked(_interpolated(other["points"], mean["bpp"], measure, decimals), other)
            for other in others
        ]

    excess = np.mean([row["bits"] / row["model_bits"] - 1 for row in point["images"]])
    return [
        linked(f"{point['setting']:.4f}", learned),
        f"{mean['bpp']:.3f}",
        f"**{mean['psnr']:.2f}**",
        *of_others("psnr", 2),
        f"**{mean['ms_ssim']:.4f}**",
        *of_others("ms_ssim", 4),
        f"{100 * excess:+.2f} %",
    ]


def _ahead(learned: list[dict[str, Any]], others: Mapping[str, list[dict[str, Any]]]) -> str:
    """Return how often the learned codec is better than each other codec."""
    clauses = []
    for measure, word in (("psnr", "PSNR"), ("ms_ssim", "MS-SSIM")):
        counts = []
        for name, points in others.items():
            reached = [value_at_rate(points, point["mean"]["bpp"], measure) for point in learned]
            better = sum(
                point["mean"][measure] > other
                for point, other in zip(learned, reached, strict=True)
                if other is not None
            )
            compared = sum(other is not None for other in reached)
            counts.append(f"{TITLES[name]}'s at {better} of {compared}")
        clauses.append(f"its {word} is above {', '.join(counts)} rates")
    return f"The learned codec: {'; '.join(clauses)}."


def _interpolated(points: list[dict[str, Any]], rate: float, measure: str, decimals: int) -> str:
    value = value_at_rate(points, rate, measure)
    return "" if value is None else f"{value:.{decimals}f}"


def value_at_rate(points: list[dict[str, Any]], rate: float, measure: str) -> float | None:
    """Interpolate a codec's metric at a rate, linearly in the logarithm of the rate; None outside its range."""
    rates = [point["mean"]["bpp"] for point in points]
    if not min(rates) <= rate <= max(rates):
        return None
    values = [point["mean"][measure] for point in points]
    return float(np.interp(np.log(rate), np.log(rates), values))


def draw(records: Records, path: Path) -> None:
    """Draw PSNR and MS-SSIM in dB over the rate for all codecs, one row per set."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(SETS), 2, figsize=(10, 4 * len(SETS)), squeeze=False)
    for row, (folder, title) in zip(axes, SETS.items(), strict=True):
        for axis, measure in zip(row, ("psnr", "ms_ssim"), strict=True):
            for name, label in TITLES.items():
                points = records.get(f"{folder}_{name}", {}).get("points", [])
                if not points:
                    continue
                values = np.array([point["mean"][measure] for point in points])
                if measure == "ms_ssim":
                    values = -10 * np.log10(1 - values)
                rates = [point["mean"]["bpp"] for point in points]
                heavy = name == "learned"
                axis.plot(
                    rates,
                    values,
                    marker="o",
                    ms=5 if heavy else 3,
                    lw=2.2 if heavy else 1.2,
                    label=label,
                )
            axis.set_xlim(0, 2)
            axis.set_title(f"{title} ({'PSNR' if measure == 'psnr' else 'MS-SSIM'})")
            axis.set_xlabel("bits per pixel (file size)")
            axis.set_ylabel("dB" if measure == "psnr" else "-10 log10(1 - MS-SSIM), dB")
            axis.grid(alpha=0.3)
            axis.legend()
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    from deconv_jax.io import read_json
    from deconv_jax.records import RESULTS

    folder = RESULTS / "codec_rd"
    draw({path.stem: read_json(path) for path in folder.glob("*.json")}, PICTURE)
    print(f"written: {PICTURE}")
