"""The files of the demo page that are made when the site is built: models, samples, runtime, manifest.

The page itself is docs/demo/. The models are exported by `deconv_jax.export`, and onnxruntime-web is installed by npm
from the lock file. Both are kept in build/demo/ for the next build. Without npm, the site has the page without them.
"""

import functools
import io
import json
import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import skimage.data
from PIL import Image

from deconv_jax import ops, zoo
from deconv_jax.errors import InputError
from deconv_jax.export import export
from deconv_jax.models.receptive_field import ReceptiveFieldTracker

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "demo"
BUILD = ROOT / "build" / "demo"
RUNTIME = (
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""Files of onnxruntime-web: of the CPU, and of the GPU."""
OPERATIONS = {
    "denoise": {"color": "denoise-color", "gray": "denoise-gray"},
    "jpeg": {"color": "jpeg-color", "gray": "jpeg-gray"},
    "sr-2": {"color": "sr-x2"},
    "sr-3": {"color": "sr-x3"},
    "sr-4": {"color": "sr-x4"},
}
"""Models by operation of the page and kind of image."""
GENERATORS = ("mnist-gan", "brick")

_log = logging.getLogger("mkdocs.hooks.demo")


def on_files(files: Any, config: Any) -> Any:
    """Add the files to the site."""
    from mkdocs.structure.files import File  # The tests use the rest of this module without mkdocs.

    npm = shutil.which("npm")
    if npm is None:
        _log.info("npm is not installed: the demo page has no models")
        return files
    for name, content in [*page_data(), *runtime(npm)]:
        kind = {"abs_src_path": str(content)} if isinstance(content, Path) else {"content": content}
        files.append(File.generated(config, f"demo/{name}", **kind))
    return files


def page_data(*, untrained: bool = False) -> Iterator[tuple[str, bytes | Path]]:
    """Yield the names and contents of models, samples and manifest.

    Args:
      untrained: Whether operations are offered whose models are not trained yet.
    """
    operations = {
        operation: models
        for operation, models in OPERATIONS.items()
        if untrained or all(_trained(name) for name in models.values())
    }
    names = [name for models in operations.values() for name in models.values()]
    entries = {}
    for name in (*names, *GENERATORS):
        path = exported(name)
        yield f"models/{name}.onnx", path
        entries[name] = _entry(name, path)
    shown = []
    for entry, pictures in samples():
        if entry["operation"] in operations:
            shown.append(entry)
            yield from pictures.items()
    manifest = {"models": entries, "operations": operations, "samples": shown}
    yield "manifest.json", json.dumps(manifest).encode()


def exported(name: str) -> Path:
    """Return the ONNX file of a named model, which is exported if the one of an earlier build is not of its weights."""
    folder = BUILD / "models" / zoo.card(name)["sha256"][:16]
    path = folder / f"{name}.onnx"
    if not path.exists():
        _log.info(f"exporting {name}")
        export(zoo.load(name), folder, "onnx")
    return path


def runtime(npm: str) -> Iterator[tuple[str, Path]]:
    """Yield the names and paths of the files of onnxruntime-web."""
    folder = packages(npm) / "onnxruntime-web"
    for name in RUNTIME:
        yield f"runtime/{name}", folder / "dist" / name


def packages(npm: str) -> Path:
    """Install the packages of the lock file, unless they are installed, and return their folder.

    Raises:
      InputError: npm cannot install them.
    """
    folder = BUILD / "npm"
    installed = folder / "node_modules" / ".package-lock.json"
    lock = PAGE / "package-lock.json"
    copied = folder / lock.name
    if not (installed.exists() and copied.read_bytes() == lock.read_bytes()):
        folder.mkdir(parents=True, exist_ok=True)
        for path in (lock, PAGE / "package.json"):
            shutil.copy(path, folder)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"npm cannot install the packages of {lock}:\n{done.stderr.strip()}")
    return folder / "node_modules"


def samples() -> Iterator[tuple[dict[str, str], dict[str, bytes]]]:
    """Yield the entry of each sample in the manifest, and its files by their names."""
    cat, coffee = skimage.data.chelsea(), skimage.data.coffee()
    camera, astronaut = skimage.data.camera(), skimage.data.astronaut()
    yield _sample("noisy-cat", "denoise", "Cat with noise", _png(_noisy(cat, 25)), _png(cat))
    yield _sample(
        "noisy-camera", "denoise", "Gray, with noise", _png(_noisy(camera, 15)), _png(camera)
    )
    small = np.asarray(ops.imresize(jnp.float32(coffee[None]) / 255, 0.5))[0]
    small = np.uint8(np.clip(np.floor(255 * small + 0.5), 0, 255))
    yield _sample("small-coffee", "sr-2", "Small photo", _png(small), _png(coffee))
    jpeg = io.BytesIO()
    Image.fromarray(astronaut).save(jpeg, "JPEG", quality=15)
    yield _sample("blocky-astronaut", "jpeg", "JPEG artifacts", jpeg.getvalue(), _png(astronaut))


def _sample(
    name: str, operation: str, title: str, image: bytes, truth: bytes
) -> tuple[dict[str, str], dict[str, bytes]]:
    suffix = "png" if image.startswith(b"\x89PNG") else "jpg"
    file, truth_file = f"samples/{name}.{suffix}", f"samples/{name}.truth.png"
    thumbnail_file = f"samples/{name}.thumbnail.jpg"
    thumbnail = Image.open(io.BytesIO(image))
    thumbnail.thumbnail((288, 288))
    small = io.BytesIO()
    thumbnail.save(small, "JPEG", quality=80)
    entry = {
        "operation": operation,
        "title": title,
        "file": file,
        "truth": truth_file,
        "thumbnail": thumbnail_file,
    }
    return entry, {file: image, truth_file: truth, thumbnail_file: small.getvalue()}


def _noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0.0, sigma, image.shape)
    return np.uint8(np.clip(np.round(image + noise), 0, 255))


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


@functools.cache
def _trained(name: str) -> bool:
    return zoo.card(name)["training"]["steps"] > 0


def _entry(name: str, path: Path) -> dict[str, Any]:
    """Return what the page has to know about a model."""
    entry: dict[str, Any] = {"file": f"models/{name}.onnx", "bytes": path.stat().st_size}
    if name in GENERATORS:
        return entry
    model: Any = zoo.load(name).task.model
    field = model.receptive_field()
    before, after = field.before, field.after
    if field.scale > 1:  # The page enlarges the chroma bicubically, as `deconv-jax restore` does.
        chroma = ReceptiveFieldTracker().bicubic(field.scale).receptive_field()
        before, after = max(before, chroma.before), max(after, chroma.after)
    description = json.loads(path.with_name(f"{path.name}.json").read_text())
    return entry | {
        "channels": model.channels,
        "noise": any(port["name"] == "noise_level" for port in description["inputs"]),
        "field": {
            "before": before,
            "after": after,
            "multiple": field.multiple,
            "scale": field.scale,
        },
    }
