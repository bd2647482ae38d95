"""Speed and memory of `deconv-jax restore` on a video, and a check of what has to be kept.

The clip is 854 x 480 at 25 frames per second: a pan over photographs of scikit-image with Gaussian noise, encoded
as H.264, and a tone, encoded as AAC. Each case runs in a process of its own. The number of frames, every timestamp
and every audio packet of the result are compared with those of the clip.

  python experiments/benchmarks/restore_video.py
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any

import av
import jax
import numpy as np
import skimage.data
from PIL import Image
from timing import ROOT, processors

from deconv_jax import cli
from deconv_jax.io import write_json
from deconv_jax.models import DnCNN
from deconv_jax.models.weight_import import save_torch_weights
from deconv_jax.workdir import provenance

RECORD = ROOT / "experiments" / "results" / "benchmarks" / "restore_video.json"
WIDTH, HEIGHT, RATE, SOUND_RATE = 854, 480, 25, 48_000
SIGMA = 10.0
TINY = "DnCNN of 2 layers"
CASES = (
    (TINY, (), 750),
    ("sr, x3", ("--model", "sr", "--scale", "3"), 20),
    ("sr, x3, resized to x2", ("--model", "sr", "--scale", "3", "--outscale", "2"), 20),
    ("denoise", ("--model", "denoise"), 20),
)
INTERVAL_S = 0.5


def main() -> None:
    """Measure all cases and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=RECORD, metavar="FILE", help="(default: %(default)s)"
    )
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for frames in sorted({frames for _, _, frames in CASES}):
            write_clip(folder / f"{frames}.mp4", frames)
        tiny = tiny_network(folder / "tiny.safetensors")
        for case, flags, frames in CASES:
            flags = flags or ("--weights", str(tiny))
            rows.append(run(case, flags, folder / f"{frames}.mp4", folder / "restored.mp4"))
            print(json.dumps(rows[-1]), flush=True)
    write_json(
        arguments.output,
        {
            "measured": f"deconv-jax restore on a video of {WIDTH} x {HEIGHT} pixels",
            "protocol": f"a pan over photographs with Gaussian noise of sigma {SIGMA:g} at {RATE} frames per "
            "second, in H.264 with AAC sound; one process per case; frames per second with decoding, encoding and "
            "sound, without the start and the compilation; resident memory sampled twice a second, and its "
            "high-water mark",
            "videos": rows,
            "threads": processors(),
            "load_average": [round(load, 2) for load in os.getloadavg()],
            **provenance(),
        },
    )
    print(f"written: {arguments.output}")


def tiny_network(path: Path) -> Path:
    """Write a DnCNN of random weights, which changes the image little, and return its path."""
    model = DnCNN(depth=2, features=8, norm="none", channels=3)
    image = np.zeros((1, 16, 16, 3), np.float32)
    variables = model.init(jax.random.key(0), image)["params"]
    save_torch_weights(path, model, variables)
    return path


def write_clip(path: Path, frames: int) -> None:
    """Write a pan over photographs with noise, and a tone."""
    random = np.random.default_rng(0)
    panorama = photographs()
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"crf": "16", "preset": "fast"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        container.start_encoding()
        tone = tone_packets(sound, frames / RATE)
        for index in range(frames):
            view = panorama[:, index : index + WIDTH].astype(np.float32)
            noisy = np.rint(np.clip(view + random.normal(0.0, SIGMA, view.shape), 0, 255))
            frame = av.VideoFrame.from_ndarray(noisy.astype(np.uint8), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(video.encode(frame))
            while (packet := next(tone, None)) is not None:
                container.mux(packet)
                if packet.pts * packet.time_base > index / RATE:
                    break
        container.mux(video.encode())
        container.mux(list(tone))


def photographs() -> np.ndarray:
    """Return photographs of the clip's height, side by side."""
    pictures = (skimage.data.rocket(), skimage.data.coffee(), skimage.data.astronaut())
    images = [Image.fromarray(picture) for picture in pictures]
    sizes = [(round(image.width * HEIGHT / image.height), HEIGHT) for image in images]
    return np.hstack(
        [np.asarray(image.resize(size)) for image, size in zip(images, sizes, strict=True)]
    )


def tone_packets(stream: Any, seconds: float) -> Iterator[Any]:
    """Yield the packets of a tone of 440 Hz."""
    length = stream.codec_context.frame_size
    for start in range(0, round(seconds * SOUND_RATE), length):
        times = np.arange(start, start + length) / SOUND_RATE
        wave = 0.3 * np.sin(2 * np.pi * 440 * times).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
        yield from stream.encode(frame)
    yield from stream.encode()


def run(case: str, flags: tuple[str, ...], clip: Path, output: Path) -> dict[str, Any]:
    """Restore a clip in a process of its own, and return the row of the record."""
    words = [*flags, str(clip), "--output", str(output), "--overwrite"]
    command = [sys.executable, __file__, "--measure", *words]
    settings = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(output.with_name("compiled"))}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    speed = re.search(r"([\d.]+) frames/s", done.stdout)
    if speed is None:
        raise SystemExit(f"no speed in the output:\n{done.stdout}")
    before, after = contents(clip), contents(output)
    return {
        "case": case,
        "frames": len(after["times"]),
        "frames_of_clip": len(before["times"]),
        "timestamps_equal": before["times"] == after["times"],
        "audio_packets": len(after["sound"]),
        "audio_equal": before["sound"] == after["sound"],
        "size": after["size"],
        "frames_per_second": float(speed[1]),
        **json.loads(done.stdout.splitlines()[-1]),
    }


def contents(path: Path) -> dict[str, Any]:
    """Return the times of the frames, the packets of the sound, and the size of a video."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        times = [frame.pts * video.time_base for frame in container.decode(video)]
        container.seek(0)
        packets = container.demux(container.streams.audio[0])
        sound = [(p.pts, p.duration, bytes(p)) for p in packets if p.size]
        return {"times": times, "sound": sound, "size": [video.width, video.height]}


def measure(words: list[str]) -> None:
    """Restore with the command, then print speed and memory of this process as JSON (Linux)."""
    samples: list[float] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(INTERVAL_S):
            samples.append(status_mb("VmRSS"))

    sampler = threading.Thread(target=sample)
    sampler.start()
    started = perf_counter()
    try:
        code = cli.main(["restore", *words])
    finally:
        stop.set()
        sampler.join()
    seconds = perf_counter() - started
    if code:
        raise SystemExit(f"restore ended with {code}")
    quarter = max(1, len(samples) // 4)
    print(
        json.dumps(
            {
                "seconds": round(seconds, 1),
                "peak_mb": round(status_mb("VmHWM"), 1),
                "peak_mb_by_quarter": [
                    round(max(samples[start : start + quarter]), 1)
                    for start in range(0, 4 * quarter, quarter)
                    if samples[start : start + quarter]
                ],
            }
        )
    )


def status_mb(name: str) -> float:
    """Return a memory figure of this process from /proc/self/status, in 10^6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) / 1e6 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
