"""Every notebook runs from top to bottom, draws what it says it draws, and warns of nothing.

A kernel is a process of its own: what the strict test run sets up for itself (8 devices, shape
checks) does not reach it, and the notebook sees the package as a reader does, but for less training
and a compiler that is told to hurry.
"""

import os
import types
from pathlib import Path

import nbclient
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from deconv_jax.tables import install_cell, repository

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


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Runs the cell that installs where the package is missing; gives what it asks pip for."""
    monkeypatch.chdir(tmp_path)

    def run(address="", *, missing=True, has=()):
        asked = []
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None if missing else object())
        monkeypatch.setattr("shutil.which", lambda name: name if name in has else None)
        source = TransformerManager().transform_cell(install_cell(address))
        names = {}

        def magic(name, line):
            asked.append((name, line.format_map(names)))

        names["get_ipython"] = lambda: types.SimpleNamespace(run_line_magic=magic)
        exec(compile(source, "cell", "exec"), names)
        return asked

    return run


def test_the_first_cell_installs_from_the_address(installed, tmp_path):
    (tmp_path / "deconv_jax-0.1.0-py3-none-any.whl").touch()
    address = "https://example.org/deconv_jax"
    assert installed(address) == [
        ("pip", f'install -q "deconv_jax @ git+{address}" "jax"'),
    ]
    assert installed(address, missing=False) == []


@pytest.mark.parametrize(
    "name", ["deconv_jax-0.1.0-py3-none-any.whl", "deconv_jax-0.1.0.tar.gz", "deconv-jax-main.zip"]
)
def test_without_an_address_an_archive_beside_the_notebook_is_installed(
    installed, tmp_path, capsys, name
):
    (tmp_path / "deconv_jax_notes.txt").touch()
    (tmp_path / name).touch()
    (asked,) = installed(has=("nvidia-smi",))
    assert asked == (
        "pip",
        f'install -q "deconv_jax @ file://{tmp_path}/{name}" "jax[cuda12]"',
    )
    assert capsys.readouterr().out == f"installing {name}, found beside this notebook\n"


def test_without_an_address_and_an_archive_it_says_what_to_do(installed, tmp_path):
    with pytest.raises(RuntimeError, match=f"wheel.* or a source archive into {tmp_path}"):
        installed()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_installs_first_and_leaves_the_device_to_jax(path):
    cells = code_cells(nbformat.read(path, as_version=nbformat.NO_CONVERT))
    assert cells[0].source == install_cell(repository(FOLDER.parent))
    assert not any("jax_platforms" in cell.source for cell in cells)


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
