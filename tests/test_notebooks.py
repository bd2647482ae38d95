"""Every notebook runs from top to bottom, draws what it says it draws, and warns of nothing.

A kernel is a process of its own: what the strict test run sets up for itself (8 devices, shape
checks) does not reach it, and the notebook sees the package as a reader does.
"""

from pathlib import Path

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "colab"
NOTEBOOKS = sorted(FOLDER.rglob("*.ipynb"))
SECONDS_PER_CELL = 300


def draws(cell):
    """Whether running the cell, not just calling what it defines, shows a figure."""
    return any(line.startswith("plt.show()") for line in cell.source.splitlines())


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5), "cells have no ids"
    for cell in code_cells(notebook):
        assert not cell.outputs, f"{path.name}, cell {cell.id}: strip the outputs"
        assert cell.execution_count is None, f"{path.name}, cell {cell.id}: strip the count"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbclient.NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()

    assert any(draws(cell) for cell in code_cells(notebook))
    for cell in code_cells(notebook):
        where = f"{path.name}, cell {cell.id}"
        warned = [output.text for output in cell.outputs if output.get("name") == "stderr"]
        assert not warned, f"{where}: {''.join(warned)}"
        images = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        assert bool(images) == draws(cell), f"{where}: {len(images)} pictures"
