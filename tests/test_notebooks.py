"""Every notebook runs from top to bottom, draws its figures and prints no warning.

A kernel is a separate process, which the settings of the test run (8 devices, shape checks) do not reach. It
differs from a user's by shorter training and by a compiler with less optimization.

If the environment variable DECONV_JAX_NOTEBOOKS names a folder, the executed notebooks are written there, for the
documentation site.
"""

import os
import types
from pathlib import Path

import nbclient
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from deconv_jax.notebook_cells import install_cell, repository_url

FOLDER = Path(__file__).parents[1] / "colab"
NOTEBOOKS = sorted(FOLDER.rglob("*.ipynb"))
SECONDS_PER_CELL = 300
EXECUTED = "DECONV_JAX_NOTEBOOKS"
# The assertions of the notebooks hold after this much training, too.
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
    "priors": {"RESTARTS": 10, "ITERATIONS": 150, "TILE": (128, 256)},
    "restoration": {"STEPS": 300, "BATCH_SIZE": 8, "CROP": 32},
    "transposed_convolution": {"REPEATS": 2, "DESCENT_STEPS": (10, 90, 200, 200)},
}


def draws(cell):
    """Return whether running the cell shows a figure; a call inside a function does not count."""
    return any(line.startswith("plt.show()") for line in cell.source.splitlines())


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_notebooks_exist():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_has_no_outputs(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5), "cells have no ids"
    for cell in code_cells(notebook):
        assert not cell.outputs, f"{path.name}, cell {cell.id}: strip the outputs"
        assert cell.execution_count is None, f"{path.name}, cell {cell.id}: strip the count"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Run the cell that installs the package, and return its calls of pip."""
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


def test_first_cell_installs_from_repository(installed, tmp_path):
    (tmp_path / "deconv_jax-0.1.0-py3-none-any.whl").touch()
    address = "https://example.org/deconv_jax"
    assert installed(address) == [
        ("pip", f'install -q "deconv_jax @ git+{address}" "jax"'),
    ]
    assert installed(address, missing=False) == []


@pytest.mark.parametrize(
    "name", ["deconv_jax-0.1.0-py3-none-any.whl", "deconv_jax-0.1.0.tar.gz", "deconv-jax-main.zip"]
)
def test_first_cell_installs_archive_without_repository(installed, tmp_path, capsys, name):
    (tmp_path / "deconv_jax_notes.txt").touch()
    (tmp_path / name).touch()
    (asked,) = installed(has=("nvidia-smi",))
    assert asked == (
        "pip",
        f'install -q "deconv_jax @ file://{tmp_path}/{name}" "jax[cuda12]"',
    )
    assert capsys.readouterr().out == f"installing {name}, found beside this notebook\n"


def test_first_cell_explains_missing_archive(installed, tmp_path):
    with pytest.raises(RuntimeError, match=f"wheel.* or a source archive into {tmp_path}"):
        installed()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_installs_first_and_leaves_device_to_jax(path):
    cells = code_cells(nbformat.read(path, as_version=nbformat.NO_CONVERT))
    assert cells[0].source == install_cell(repository_url(FOLDER.parent))
    assert not any("jax_platforms" in cell.source for cell in cells)


def with_parameters(notebook, values):
    """Replace values of the cell tagged "parameters", as papermill does."""
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    lines = cell.source.splitlines()
    names = {line.split(" = ")[0] for line in lines if " = " in line}
    assert names >= values.keys(), f"no parameters {values.keys() - names}"
    cell.source = "\n".join([*lines, *(f"{name} = {value!r}" for name, value in values.items())])


def test_every_notebook_has_small_parameters():
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
    if EXECUTED in os.environ:
        nbformat.write(notebook, Path(os.environ[EXECUTED], path.name))

    assert any(draws(cell) for cell in code_cells(notebook))
    for cell in code_cells(notebook):
        where = f"{path.name}, cell {cell.id}"
        warned = [output.text for output in cell.outputs if output.get("name") == "stderr"]
        assert not warned, f"{where}: {''.join(warned)}"
        images = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        assert bool(images) == draws(cell), f"{where}: {len(images)} pictures"
