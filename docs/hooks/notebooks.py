"""Pages for the notebooks of colab/, with their outputs where an executed copy exists.

The tests write executed copies to the folder $DECONV_JAX_NOTEBOOKS; outputs are taken from there, by the ids of
the cells, and sources from the notebook itself. Without the folder the pages show no outputs.
"""

import os
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

COLAB = Path(__file__).parents[2] / "colab"
EXECUTED = "DECONV_JAX_NOTEBOOKS"

_INTRODUCTION = """
!!! note
    Run it yourself: `colab/{name}` in the repository. {outputs}
"""
_WITH_OUTPUTS = "The outputs below are those of the test suite, which trains for fewer steps."
_WITHOUT_OUTPUTS = "This build of the site has no outputs."


def on_files(files: Any, config: Any) -> Any:
    """Add a page, and the figures on it, for each notebook."""
    for path in sorted(COLAB.glob("*.ipynb")):
        text, figures = page(path, os.environ.get(EXECUTED))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, content in figures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def page(path: Path, executed: str | None) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its figures by their names.

    Args:
      path: The notebook.
      executed: Folder that may have an executed copy.
    """
    notebook = nbformat.read(path, as_version=4)
    copy = Path(executed, path.name) if executed else None
    has_outputs = copy is not None and copy.exists()
    if has_outputs:
        outputs = {cell.id: cell.get("outputs", []) for cell in nbformat.read(copy, 4).cells}
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = outputs[cell.id]
    notebook.cells = [cell for cell in notebook.cells if not _installs(cell)]
    body, resources = MarkdownExporter(
        preprocessors=[CoalesceStreamsPreprocessor]
    ).from_notebook_node(
        notebook, resources={"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    )
    title, _, rest = body.lstrip().partition("\n")
    introduction = _INTRODUCTION.format(
        name=path.name, outputs=_WITH_OUTPUTS if has_outputs else _WITHOUT_OUTPUTS
    )
    rest = rest.replace("![png](", "![Figure drawn by the cell above](")
    return f"{title}\n{introduction}\n{rest}", resources["outputs"]


def _installs(cell: Any) -> bool:
    """Return whether a cell is about the installation, which a page has no use for."""
    return "install" in cell.metadata.get("tags", []) or cell.source.startswith(
        "## 0. Installation"
    )
