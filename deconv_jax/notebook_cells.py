"""The cell of each notebook that installs the package, and the README's badge for Colab.

The address of the project is stated once, under `project.urls` in pyproject.toml; both are rendered from it.
"""

import json
import re
import tomllib
from pathlib import Path

from deconv_jax.errors import InputError

PYPROJECT = "pyproject.toml"
INSTALL_CELL_TAG = "install"
"""Tag of the cell that installs the package."""
_INSTALL = """\
# `deconv-jax tables` writes this cell, with the address that pyproject.toml has under project.urls.
import importlib.util
import shutil
from pathlib import Path

REPOSITORY = {repository}

if importlib.util.find_spec("deconv_jax") is None:
    endings = (".whl", ".tar.gz", ".zip")
    archives = [path for path in Path.cwd().glob("deconv[_-]jax*") if path.name.endswith(endings)]
    if REPOSITORY:
        source = f"git+{{REPOSITORY}}"
    elif archives:
        newest = max(archives, key=lambda path: path.stat().st_mtime)
        source = newest.as_uri()
        print(f"installing {{newest.name}}, found beside this notebook")
    else:
        raise RuntimeError(
            "deconv_jax is not installed, and its repository has no address yet: put a wheel, which "
            f"`pip wheel --no-deps .` makes in a clone, or a source archive into {{Path.cwd()}}"
        )
    jax_for_here = "jax"
    if shutil.which("nvidia-smi"):
        jax_for_here = "jax[cuda12]"
    elif any(Path("/dev").glob("accel[0-9]*")) or Path("/dev/vfio/0").exists():
        jax_for_here = "jax[tpu]"
    %pip install -q "deconv_jax @ {{source}}" "{{jax_for_here}}"
"""


def repository_url(root: Path) -> str:
    """Return the URL "Repository" of project.urls in pyproject.toml, or "" if it is not set.

    Raises:
      InputError: pyproject.toml cannot be read, or has no table "project".
    """
    try:
        project = tomllib.loads((root / PYPROJECT).read_text())["project"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot read {root / PYPROJECT}: {error}") from error
    return project.get("urls", {}).get("Repository", "")


def install_cell(address: str) -> str:
    """Return the source of the cell that installs the package.

    Args:
      address: URL of the repository. If it is empty, the cell installs an archive beside the notebook.
    """
    return _INSTALL.format(repository=json.dumps(address)).rstrip("\n")


def with_install_cell(text: str, address: str) -> str:
    """Return the JSON of a notebook with its cells tagged "install" rendered again by `install_cell`.

    Args:
      text: JSON of the notebook.
      address: URL of the repository, as for `install_cell`.
    """
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if INSTALL_CELL_TAG in cell["metadata"].get("tags", []):
            cell["source"] = install_cell(address).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def colab_badge(address: str) -> str:
    """Return a Markdown badge that opens the notebooks on Colab, or "" for an address that is not on GitHub."""
    found = re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(\.git)?/?", address)
    if not found:
        return ""
    colab = "https://colab.research.google.com"
    return f"[![Notebooks on Colab]({colab}/assets/colab-badge.svg)]({colab}/github/{found[1]}/)"
