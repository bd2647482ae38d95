"""ONNX Runtime for browsers, which npm installs at the versions of the page's lock file."""

import json
import shutil
import subprocess
from pathlib import Path

from deconv_jax.demo.contents import PACKAGES, PAGE
from deconv_jax.errors import InputError
from deconv_jax.io import make_folder

FILES = (
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""Files of onnxruntime-web that the page loads: two for the CPU, two for the GPU."""


def runtime_files(folder: Path) -> dict[str, Path]:
    """Return the files of ONNX Runtime in a folder, by name.

    Args:
      folder: Folder `dist` of the npm package onnxruntime-web, or `demo/runtime` of a built documentation site.

    Raises:
      InputError: A file is missing.
    """
    files = {name: folder / name for name in FILES}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise InputError(
            f"{folder} does not have {missing[0]}; expected the folder dist of the npm package onnxruntime-web"
        )
    return files


def find_npm() -> str | None:
    """Return the path of npm; None if it is not installed."""
    return shutil.which("npm")


def install_packages(folder: Path, *, development: bool = False) -> Path:
    """Install the packages of the page's lock file, unless they are installed.

    Args:
      folder: Folder of the installation, created if missing.
      development: Whether to also install the packages that only the tests use.

    Returns:
      The folder of the packages, `node_modules`.

    Raises:
      InputError: npm is not installed, or cannot install the packages.
    """
    installed, lock = folder / "node_modules", PAGE / "package-lock.json"
    if _is_installed(folder, lock.read_bytes(), development=development):
        return installed
    npm = find_npm()
    if npm is None:
        raise InputError(
            "npm, which installs ONNX Runtime for browsers, is not installed; install Node.js, or give --runtime"
        )
    make_folder(folder)
    for name in PACKAGES:
        shutil.copy(PAGE / name, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    command += [] if development else ["--omit=dev"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"npm cannot install the packages of {lock}:\n{done.stderr.strip()}")
    return installed


def _is_installed(folder: Path, lock: bytes, *, development: bool) -> bool:
    """Return whether an installation of a lock file is complete."""
    if not (folder / "node_modules" / ".package-lock.json").exists():
        return False
    if (folder / "package-lock.json").read_bytes() != lock:
        return False
    packages = json.loads(lock)["packages"].items()
    wanted = [name for name, entry in packages if development or not entry.get("dev", False)]
    return all((folder / name).is_dir() for name in wanted)
