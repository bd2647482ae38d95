"""Tables in texts come from results, and a text that says otherwise is noticed."""

import json
import shutil
from pathlib import Path

import pytest

from deconv_jax.errors import InputError
from deconv_jax.tables import RESULTS, TEXTS, render_texts

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path):
    """A copy of the texts and the results."""
    shutil.copytree(ROOT / RESULTS, tmp_path / RESULTS)
    for name in TEXTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_texts_are_as_the_results_say(project):
    assert render_texts(project, check=True) == []


def test_a_changed_result_is_noticed_and_rendered(project):
    path = project / RESULTS / "autoencoding" / "digits.json"
    result = json.loads(path.read_text())
    result["metrics"]["test"]["psnr"] = 12.345
    path.write_text(json.dumps(result))
    assert render_texts(project, check=True) == [project / "README.md"]
    assert "psnr 12.35 dB" not in (project / "README.md").read_text()
    assert render_texts(project) == [project / "README.md"]
    assert "psnr 12.35 dB" in (project / "README.md").read_text()
    assert render_texts(project, check=True) == []


def test_a_mark_of_no_table_is_refused(project):
    (project / "README.md").write_text("<!-- table: rnus -->\n<!-- end -->\n")
    with pytest.raises(InputError, match="no table 'rnus'; did you mean 'runs'"):
        render_texts(project)
