"""Tables in texts come from results, and a text that says otherwise is noticed."""

import json
import shutil
from pathlib import Path

import pytest

from deconv_jax.config_arguments import load_module
from deconv_jax.errors import InputError
from deconv_jax.tables import PAPER_TABLES, RESULTS, TEXTS, render_texts, run_missing

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path):
    """A copy of the texts and the results."""
    shutil.copytree(ROOT / RESULTS, tmp_path / RESULTS)
    shutil.copytree(ROOT / PAPER_TABLES, tmp_path / PAPER_TABLES)
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


TABLE = """
calls = []

def one(data):
    calls.append(data)
    return {"figure": 1.5, "read": str(data)}

def two(data):
    raise RuntimeError("is run only when it is asked for")

PARTS = {"one": one, "two": two}

def render(records):
    return ", ".join(f"{part}: {record['figure']}" for part, record in records.items())
"""


@pytest.fixture
def paper(project):
    """A project with a table of its own and a text that shows it."""
    (project / PAPER_TABLES / "paper.py").write_text(TABLE)
    (project / "README.md").write_text("<!-- table: paper -->\n<!-- end -->\n")
    return project


def test_a_part_of_a_paper_is_run_once_and_rendered(paper):
    written = run_missing(paper, "paper/one", Path("data"))
    assert written == [paper / RESULTS / "tables" / "paper" / "one.json"]
    record = json.loads(written[0].read_text())
    assert record["figure"] == 1.5
    assert record["read"] == "data"
    assert {"commit", "device", "versions", "wall_time_s", "started"} <= set(record)
    render_texts(paper)
    assert "one: 1.5\n" in (paper / "README.md").read_text()
    assert run_missing(paper, "paper/one", Path("elsewhere")) == []


def test_a_part_that_fails_leaves_no_record_and_keeps_the_others(paper):
    with pytest.raises(RuntimeError, match="only when it is asked for"):
        run_missing(paper, "paper", Path("data"))
    folder = paper / RESULTS / "tables" / "paper"
    assert [path.name for path in folder.iterdir()] == ["one.json"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("papre", "no table 'papre'; did you mean 'paper'"),
        ("paper/tow", "table 'paper' has no part 'tow'; did you mean 'two'"),
    ],
)
def test_what_there_is_not_cannot_be_run(paper, name, message):
    with pytest.raises(InputError, match=message):
        run_missing(paper, name, Path("data"))


def test_the_paper_s_means_are_those_of_its_images():
    """Figures that were quoted one by one agree with the mean that was quoted beside them."""
    for by_sigma in load_module(ROOT / PAPER_TABLES / "denoising.py").PAPER.values():
        for *images, mean, _ in by_sigma.values():
            assert len(images) == 12
            assert sum(images) / 12 == pytest.approx(mean, abs=1.5e-3)


def test_what_protocols_share_is_said_once():
    """The first clause of each is the degradation, of which the table itself speaks."""
    line = load_module(ROOT / PAPER_TABLES / "_common.py").protocol_line
    assert line([]) == []
    assert line(["Blur; x; y", "Noise; x; y"]) == ["Protocol: x; y."]
    assert line(["Blur; x; y; u", "Blur; x; z"]) == ["Protocol: x. With: y, u; z."]
    assert line(["Blur; x; y", "Blur; x"]) == ["Protocol: x. Some with: y."]
