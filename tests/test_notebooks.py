"""Every notebook runs from top to bottom, draws what it says it draws, and warns of nothing.

A kernel is a process of its own: what the strict test run sets up for itself (8 devices, shape
checks) does not reach it, and the notebook sees the package as a reader does, but for less training
and a compiler that is told to hurry.
"""

import os
from pathlib import Path

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "colab"
NOTEBOOKS = sorted(FOLDER.rglob("*.ipynb"))
SECONDS_PER_CELL = 300
# What a notebook claims has to hold after as little training as this, too.
SMALL = {
    "autoencoders": {
        "FEATURES": (8, 16, 32),
        "BATCH_SIZE": 32,
        "AUTOENCODER_STEPS": 300,
        "VAE_STEPS": 80,
        "CODEC_STEPS": 220,
        "CODEC_FEATURES": 16,
    },
    "gan": {"WIDTH": 8, "BATCH_SIZE": 32, "STEPS": 150, "SHORT_STEPS": 80},
    "looking_inside": {
        "CLASSIFIER_STEPS": 120,
        "CLASSIFIER_BATCH": 32,
        "FOOLING_STEPS": 50,
        "SEGMENTER_STEPS": 20,
        "DETECTOR_STEPS": 50,
        "SCENES": 16,
    },
    "restoration": {"STEPS": 300, "BATCH_SIZE": 8, "CROP": 32},
    "transposed_convolution": {"REPEATS": 2, "DESCENT_STEPS": (10, 90, 200, 200)},
}


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


def with_parameters(notebook, values):
    """Replaces values of the cell that is tagged "parameters", as papermill does."""
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    lines = cell.source.splitlines()
    names = {line.split(" = ")[0] for line in lines if " = " in line}
    assert names >= values.keys(), f"no parameters {values.keys() - names}"
    cell.source = "\n".join([*lines, *(f"{name} = {value!r}" for name, value in values.items())])


def test_every_notebook_has_its_small_parameters():
    assert SMALL.keys() == {path.stem for path in NOTEBOOKS}
    for path in NOTEBOOKS:
        with_parameters(nbformat.read(path, as_version=nbformat.NO_CONVERT), SMALL[path.stem])


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path, monkeypatch):
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    monkeypatch.setenv("XLA_FLAGS", " ".join(flags))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    with_parameters(notebook, SMALL[path.stem])
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
