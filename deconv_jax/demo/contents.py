"""Everything that the page loads, by name."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deconv_jax.demo.models import OPERATIONS, SECTIONS, PageModel
from deconv_jax.demo.samples import SAMPLES

PAGE = Path(__file__).parent / "page"
"""Folder of the page."""
PACKAGES = ("package.json", "package-lock.json")
"""Files of the folder that only npm reads."""

Content = Path | Callable[[], bytes]
Contents = dict[str, Content]
"""A file, or a function that returns what would be in it, by the name that the page requests."""


def page_files() -> dict[str, Path]:
    """Return the files of the page itself."""
    names = sorted(path.name for path in PAGE.iterdir() if path.is_file())
    return {name: PAGE / name for name in names if name not in PACKAGES}


def page_contents(
    models: Sequence[PageModel],
    runtime: Mapping[str, Path],
    *,
    run: PageModel | None = None,
    run_name: str = "",
    export: Callable[[PageModel], Path] | None = None,
) -> Contents:
    """Return everything that the page loads.

    Args:
      models: Named models of the page.
      runtime: Files of ONNX Runtime, by name.
      run: Network of a run, which takes the place of the named model of its section, or becomes an operation.
      run_name: Name of the run for the visitor.
      export: Function that returns the ONNX file of a network. None exports each one at its first request, and
        leaves out the links to the documentation.
    """
    found: Contents = {**page_files()}
    found |= {f"runtime/{name}": path for name, path in runtime.items()}
    operations: dict[str, Mapping[str, str]] = dict(OPERATIONS)
    sections = dict(SECTIONS)
    if run is not None:
        models = [*models, run]
        if run.section == "restore":
            operations = {"run": {"color": run.name}, **operations}
        else:
            sections[run.section] = run.name
    entries = {}
    for model in models:
        file = f"models/{model.name}.onnx"
        entries[model.name] = model.entry | {"file": file}
        if export is None:
            found[file] = functools.partial(_onnx, model)
        else:
            found[file] = path = export(model)
            entries[model.name]["bytes"] = path.stat().st_size
    for sample in SAMPLES:
        found |= sample.contents()
    manifest: dict[str, Any] = {
        "models": entries,
        "operations": operations,
        "sections": sections,
        "samples": [sample.entry() for sample in SAMPLES],
        "run": None if run is None else {"name": run_name, "section": run.section},
        "documentation": export is not None,
    }
    found["manifest.json"] = json.dumps(manifest).encode
    return found


def _onnx(model: PageModel) -> bytes:
    return model.onnx
