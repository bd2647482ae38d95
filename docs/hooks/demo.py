"""The demo page of the site: its files, the exported models and onnxruntime-web.

Models and packages are kept in build/demo/ for the next build. Without npm, the site has the page without its models.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

import deconv_jax
from deconv_jax.demo import (
    Contents,
    PageModel,
    install_packages,
    named_models,
    page_contents,
    runtime_files,
)
from deconv_jax.demo.contents import page_files
from deconv_jax.demo.runtime import find_npm
from deconv_jax.io import make_folder
from deconv_jax.zoo import card

BUILD = Path(__file__).parents[2] / "build" / "demo"
_CODE = ("demo", "export", "models", "ops", "inference/interpretation")
"""Folders of the package whose change exports the models again."""

_log = logging.getLogger("mkdocs.hooks.demo")


def on_files(files: Any, config: Any) -> Any:
    """Add the files to the site."""
    from mkdocs.structure.files import File  # The tests use the rest of this module without mkdocs.

    found: Contents = {**page_files()}
    if find_npm() is None:
        _log.info("npm is not installed: the demo page has no models")
    else:
        found = contents()
    for name, content in found.items():
        if isinstance(content, Path):
            file = File.generated(config, f"demo/{name}", abs_src_path=str(content))
        else:
            file = File.generated(config, f"demo/{name}", content=content())
        files.append(file)
    return files


def contents() -> Contents:
    """Return everything that the page loads.

    Raises:
      InputError: npm is not installed, or cannot install the packages.
    """
    folder = install_packages(BUILD / "npm") / "onnxruntime-web" / "dist"
    return page_contents(named_models(), runtime_files(folder), export=exported)


def exported(model: PageModel) -> Path:
    """Return the ONNX file of a named model, from an earlier build if its weights and the code are the same."""
    key = hashlib.sha256(card(model.name)["sha256"].encode())
    for folder in _CODE:
        for path in sorted((Path(deconv_jax.__file__).parent / folder).rglob("*.py")):
            key.update(path.read_bytes())
    path = BUILD / "models" / f"{model.name}-{key.hexdigest()[:16]}.onnx"
    if not path.exists():
        _log.info(f"exporting {model.name}")
        data = model.onnx
        make_folder(path.parent)
        path.write_bytes(data)
    return path
