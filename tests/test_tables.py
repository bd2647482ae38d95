"""Tables in texts come from results, and a text that says otherwise is noticed."""

import copy
import json
import os
import random
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from deconv_jax import cli, zoo
from deconv_jax.cli import load_config
from deconv_jax.config_arguments import load_module
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.io import write_json
from deconv_jax.models import DnCNN, FFDNet
from deconv_jax.models.weight_import import save_torch_weights
from deconv_jax.notebook_cells import PYPROJECT, install_cell, repository_url
from deconv_jax.records import (
    REQUIRED_KEYS,
    RESULTS,
    TABLES,
    oldest_record,
    read_record,
    stale_records,
)
from deconv_jax.tables import NOTEBOOKS, markdown_files, render_text, render_texts, run_missing

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path):
    """Copy the texts, the notebooks, the records and the tables into a folder."""
    for folder in (NOTEBOOKS, RESULTS, TABLES):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / PYPROJECT, tmp_path / PYPROJECT)
    for path in markdown_files(ROOT):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    (tmp_path / "docs").mkdir(exist_ok=True)
    return tmp_path


def test_texts_show_the_records(project):
    assert render_texts(project, check=True) == []


def test_changed_record_is_noticed_and_rendered(project):
    text = project / "docs" / "page.md"
    text.write_text("<!-- table: runs -->\n<!-- end -->\n")
    render_texts(project)
    path = project / RESULTS / "runs" / "digits_autoencoder.json"
    record = json.loads(path.read_text())
    record["metrics"]["psnr"] = 12.345
    path.write_text(json.dumps(record))
    assert text in render_texts(project, check=True)
    assert "psnr 12.35 dB" not in text.read_text()
    assert text in render_texts(project)
    assert "psnr 12.35 dB" in text.read_text()
    assert render_texts(project, check=True) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "badge"),
    [
        ("https://github.com/someone/deconv-jax", "/github/someone/deconv-jax/)"),
        ("https://github.com/someone/deconv-jax.git", "/github/someone/deconv-jax/)"),
        ("https://example.org/deconv-jax", None),
    ],
)
def test_address_is_rendered_into_notebooks_and_badge(project, address, badge):
    text = project / "docs" / "page.md"
    text.write_text("<!-- table: badge -->\n<!-- end -->\n")
    render_texts(project)
    assert repository_url(project) == ""
    assert "colab-badge" not in text.read_text()
    with (project / PYPROJECT).open("a") as file:
        file.write(f'\n[project.urls]\nRepository = "{address}"\n')
    notebooks = sorted((project / NOTEBOOKS).glob("*.ipynb"))
    changed = set(render_texts(project, check=True))
    assert set(notebooks) <= changed
    assert (text in changed) == (badge is not None)
    assert set(render_texts(project)) == changed
    for path in notebooks:
        cells = json.loads(path.read_text())["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        assert sources[0] == install_cell(address)
        assert f'REPOSITORY = "{address}"' in sources[0]
    assert badge in text.read_text() if badge else "colab-badge" not in text.read_text()
    assert render_texts(project, check=True) == []


@pytest.mark.parametrize("text", ["[project", "[tool]"])
def test_a_project_file_that_cannot_be_read_is_named(project, text):
    (project / PYPROJECT).write_text(text)
    with pytest.raises(InputError, match=r"cannot read .*pyproject\.toml"):
        render_texts(project)


def test_a_mark_of_no_table_is_refused(project):
    (project / "README.md").write_text("<!-- table: rnus -->\n<!-- end -->\n")
    with pytest.raises(InputError, match="no table 'rnus'; did you mean 'runs'"):
        render_texts(project)


def test_rows_link_to_records_and_cards_where_an_address_is_given():
    """On the site; the files have the same tables without links."""
    found = set()

    def address(kind, name):
        found.add((kind, name))
        return "somewhere"

    for path in markdown_files(ROOT):
        if path.name != "README.md" or path.parent != ROOT:  # It has a badge, which is a link.
            text = path.read_text()
            linked = render_text(ROOT, text, address)
            assert re.sub(r"\[([^][]*)\]\(somewhere\)", r"\1", linked) == text
    records = {name for kind, name in found if kind == "record"}
    assert len(records) > 100
    assert [name for name in records if not (ROOT / RESULTS / f"{name}.json").exists()] == []
    assert {name for kind, name in found if kind == "card"} == set(zoo.names())


def test_unknown_view_is_refused(project):
    (project / "README.md").write_text("<!-- table: denoising/foo -->\n<!-- end -->\n")
    with pytest.raises(InputError, match="table 'denoising' has no view 'foo'"):
        render_texts(project)


TABLE = """
calls = []

def one(data):
    calls.append(data)
    return {"figure": 1.5, "read": str(data)}

def two(data):
    raise RuntimeError("is run only when it is asked for")

VERSION = 1
PARTS = {"one": one, "two": two}

def render(records):
    return ", ".join(f"{part}: {record['figure']}" for part, record in records.items())
"""


@pytest.fixture
def paper(project):
    """A project with a table of its own and a text that shows it."""
    (project / TABLES / "paper.py").write_text(TABLE)
    (project / "README.md").write_text("<!-- table: paper -->\n<!-- end -->\n")
    return project


def test_a_part_of_a_paper_is_run_once_and_rendered(paper):
    written = run_missing(paper, "paper/one", Path("data"))
    assert written == [paper / RESULTS / "paper" / "one.json"]
    record = json.loads(written[0].read_text())
    assert record["figure"] == 1.5
    assert record["read"] == "data"
    assert set(REQUIRED_KEYS) - {"protocol"} <= set(record)
    render_texts(paper)
    assert "one: 1.5\n" in (paper / "README.md").read_text()
    assert run_missing(paper, "paper/one", Path("elsewhere")) == []


def test_a_part_that_fails_leaves_no_record_and_keeps_the_others(paper):
    with pytest.raises(RuntimeError, match="only when it is asked for"):
        run_missing(paper, "paper", Path("data"))
    folder = paper / RESULTS / "paper"
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


@pytest.fixture
def again(paper, monkeypatch, capsys):
    """Return a function that measures paper/one again, by the command, after changes of its record."""
    run_missing(paper, "paper/one", Path("data"))
    path = paper / RESULTS / "paper" / "one.json"
    record = json.loads(path.read_text())
    monkeypatch.chdir(paper)
    monkeypatch.setenv("DECONV_JAX_DATA", "data")

    def measured(*flags, **changes):
        path.write_text(json.dumps(record | changes))
        before = path.read_text()
        capsys.readouterr()
        code = cli.main(["tables", "paper/one", "--again", *flags])
        assert path.read_text() == before
        output = capsys.readouterr()
        return code, output.out + output.err

    return measured


def test_record_that_is_measured_again_is_the_same(again):
    code, output = again(commit="0", wall_time_s=1e6, versions={}, started="2000", table_version=7)
    assert (code, "paper/one is the same" in output) == (0, True), output
    assert again(figure=1.5001)[0] == 0


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({"figure": 1.51}, (), "figure: 1.51, now 1.5, relative difference 6.6e-03"),
        ({"figure": 1.5001}, ("--tolerance", "1e-6"), "figure: 1.5001, now 1.5"),
        ({"figure": None}, (), "figure: None, now 1.5"),
        ({"read": "else"}, (), "read: 'else', now 'data'"),
        ({"figure": [1.5]}, (), "figure: [1.5], now 1.5"),
        ({"more": {"a": 1}}, (), "more: {'a': 1}, now missing"),
    ],
)
def test_figures_that_differ_when_measured_again_are_printed(again, changes, flags, message):
    code, output = again(*flags, **changes)
    assert code == 1
    assert f"differs: {message}" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--again",), "--again requires one record, TABLE/PART"),
        (("paper", "--again"), "--again requires one record, TABLE/PART; got 'paper'"),
        (("paper/tow", "--again"), "no part 'tow'; did you mean 'two'"),
        (("paper/two", "--again"), "paper/two has no record to compare with"),
        (("benchmarks/loops", "--again"), "times and memory, which cannot be compared"),
        (("paper/one", "--again", "--tolerance", "-1"), "--tolerance must be in [0, 1); got -1"),
        (("paper/one", "--tolerance", "0.1"), "--tolerance requires --again"),
        (("--check", "--again"), "--check cannot be combined with --again"),
    ],
)
def test_again_refuses_what_it_cannot_compare(paper, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(paper)
    monkeypatch.setenv("DECONV_JAX_DATA", "data")
    assert cli.main(["tables", *arguments]) == 2
    assert message in capsys.readouterr().err


CHEAP_SECONDS = 10
"""Records that took less are measured again by the test below."""


def cheap_records():
    """Return the names of the records that are not stale, need no training and took little time."""
    stale = {record.name for record in stale_records(ROOT, load_config)}
    found = []
    for path in sorted((ROOT / RESULTS).glob("*/*.json")):
        name, record = f"{path.parent.name}/{path.stem}", json.loads(path.read_text())
        table = load_module(ROOT / TABLES / f"{path.parent.name}.py")
        comparable = "training" not in record and not getattr(table, "TIMES", False)
        if comparable and name not in stale and record["wall_time_s"] < CHEAP_SECONDS:
            found.append(name)
    return found


@pytest.mark.slow
def test_records_chosen_at_random_are_made_again(command, ended):
    seed = random.SystemRandom().randrange(2**32)
    names = random.Random(seed).sample(cheap_records(), 3)
    print(f"seed {seed}: {', '.join(names)}")
    if not os.environ.get("DECONV_JAX_DATA"):
        pytest.skip(f"$DECONV_JAX_DATA is not set; not made again: {', '.join(names)}")
    for name in names:
        code, output, errors = ended(command("tables", name, "--again", optimized=True))
        assert code == 0, f"seed {seed}: {output}{errors}"


def test_number_and_origin_of_the_records_are_told(paper):
    shutil.rmtree(paper / RESULTS)
    assert oldest_record(paper) == (0, "", "", "")
    for part, day in (("a", "02"), ("b", "01"), ("c", None)):
        started = {} if day is None else {"started": f"2020-01-{day}", "commit": part * 7}
        write_json(paper / RESULTS / "t" / f"{part}.json", started)
    assert oldest_record(paper) == (3, "t/b", "bbbbbbb", "2020-01-01")


def test_the_paper_s_means_are_those_of_its_images():
    """Figures that were quoted one by one agree with the mean that was quoted beside them."""
    for by_sigma in load_module(ROOT / TABLES / "denoising.py").PAPER.values():
        for *images, mean, _ in by_sigma.values():
            assert len(images) == 12
            assert sum(images) / 12 == pytest.approx(mean, abs=1.5e-3)


def test_what_protocols_share_is_said_once():
    """The first clause of each is the degradation, of which the table itself speaks."""
    line = load_module(ROOT / TABLES / "_common.py").protocol_line
    assert line([]) == []
    assert line(["Blur; x; y", "Noise; x; y"]) == ["Protocol: x; y."]
    assert line(["Blur; x; y; u", "Blur; x; z"]) == ["Protocol: x. Per row: y, u; z."]
    assert line(["Blur; x; y", "Blur; x"]) == ["Protocol: x. Some rows: y."]


# Stale records


@pytest.fixture
def fresh(project, monkeypatch):
    """Return a function that writes the only record of a project, changed by hand, and checks it."""
    monkeypatch.setattr("deconv_jax.records._has_commit", lambda _, commit: commit == "abc1234")
    shutil.rmtree(project / RESULTS)
    shutil.copytree(ROOT / "experiments" / "autoencoding", project / "experiments" / "autoencoding")
    config = "autoencoding/digits.py"
    resolved = Experiment.from_dict(load_config(f"{ROOT / 'experiments' / config}")).to_dict()
    record = dict.fromkeys(REQUIRED_KEYS, "something") | {
        "commit": "abc1234",
        "uncommitted_changes": False,
        "table_version": 1,
        "wall_time_s": 30.0,
        "metrics": {"mse": 0.01, "psnr": 20.0},
        "training": {
            "config_file": config,
            "config": resolved,
            "task_version": 1,
            "commit": "abc1234",
            "uncommitted_changes": False,
            "wall_time_s": 90.0,
        },
    }

    def reasons(change=id, part="digits_autoencoder"):
        changed = copy.deepcopy(record)
        change(changed)
        write_json(project / RESULTS / "runs" / f"{part}.json", changed)
        return stale_records(project, load_config)

    return reasons


def test_record_of_what_the_code_measures_is_not_stale(fresh):
    assert fresh() == []
    for change in ({"data_dir": "elsewhere"}, {"workers": 3}):
        assert fresh(lambda r, c=change: r["training"]["config"]["data"].update(c)) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.pop("protocol"), "it lacks protocol"),
        (lambda r: r.update(commit=None), "its commit is unknown"),
        (lambda r: r.update(commit="def5678"), "commit def5678 is not in the history"),
        (lambda r: r.update(uncommitted_changes=True), "its code had uncommitted changes"),
        (lambda r: r.update(uncommitted_changes=None), "its code had uncommitted changes"),
        (lambda r: r.update(table_version=0), "table version 0 is now 1"),
        (lambda r: r["training"].pop("config_file"), "training lacks config_file"),
        (lambda r: r.pop("table_version"), "table version None is now 1"),
        (lambda r: r["training"].update(task_version=0), "task version 0 is now 1"),
        (
            lambda r: r["training"].update(uncommitted_changes=True),
            "training: its code had uncommitted changes",
        ),
        (
            lambda r: r["training"]["config"].update(seed=3),
            "its config has changed: config.seed: 3 -> 0",
        ),
        (lambda r: r["metrics"].update(ssim=0.5), "the task no longer emits ssim"),
        (
            lambda r: r["training"].update(config_file="autoencoding/digits.py:size=3"),
            "its config does not load: unknown config argument 'size'",
        ),
    ],
)
def test_stale_record_says_why(fresh, change, reason):
    (stale,) = fresh(change)
    assert stale.name == "runs/digits_autoencoder"
    assert stale.seconds == 90.0
    (said,) = stale.reasons
    assert said.startswith(reason)


def test_record_without_a_part_is_stale(fresh):
    (stale,) = fresh(part="removed")
    assert stale.reasons == ("no table has this part",)


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, ()),
        ({"sha256": "0"}, ("the weights of sr-x2 have changed",)),
        ({"name": "other"}, ("there is no model 'other'",)),
    ],
)
def test_record_of_a_named_model_depends_on_its_weights(fresh, change, reasons):
    model = {"name": "sr-x2", "sha256": zoo.card("sr-x2")["sha256"]} | change
    assert [stale.reasons for stale in fresh(lambda r: r.update(model=model))] == [
        reasons for reasons in [reasons] if reasons
    ]


# Rows of restoration tables


@pytest.mark.slow
def test_published_denoisers_are_told_the_noise_level(tmp_path):
    restorer = load_module(ROOT / TABLES / "_common.py").published_restorer
    image, weights = np.full((8, 6, 1), 0.5, np.float32), tmp_path / "weights.safetensors"
    outputs = {}
    for model, channels in ((FFDNet(1, 2, 8), 2), (DnCNN(1, 2, 4, norm="none"), 1)):
        params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 6, channels)))["params"]
        save_torch_weights(weights, model, params)
        outputs[type(model)] = [restorer(weights, sigma)(image) for sigma in (15, 50)]
    low, high = outputs[FFDNet]
    assert np.abs(high - low).max() > 1e-4
    np.testing.assert_array_equal(*outputs[DnCNN])


def test_dncnn_3_restores_the_enlarged_image(tmp_path, monkeypatch):
    """A network without weights returns its input, so its figures are those of bicubic enlargement."""
    table = load_module(ROOT / TABLES / "super_resolution.py")
    rng = np.random.default_rng(0)
    for name in table.SETS:
        (tmp_path / name).mkdir()
        Image.fromarray(rng.integers(0, 255, (32, 34), np.uint8)).save(tmp_path / name / "a.png")
    monkeypatch.setattr(table, "published_restorer", lambda _: lambda image: image)
    records = {part: table.PARTS[part](tmp_path) for part in ("bicubic_x2", "dncnn3_x2")}
    assert records["bicubic_x2"]["sets"] == records["dncnn3_x2"]["sets"]
    assert records["dncnn3_x2"][
        "psnr_from_unrounded_luma"
    ] == {  # A gray file has nothing to round.
        name: found["mean"]["psnr"] for name, found in records["bicubic_x2"]["sets"].items()
    }
    rendered = table.render(records)
    figure = f"{records['dncnn3_x2']['sets']['set5']['mean']['psnr']:.2f}"
    assert f"| DnCNN-3 x2 | **{figure}** |" in rendered
    assert "37.58 | 33.03" in rendered


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "part", "sets", "mode", "title"),
    [
        ("denoising", "named_25", {"set12": 12, "bsd68": 1}, "L", "`denoise-gray`, trained here"),
        ("color_denoising", "named_25", {"cbsd68": 1}, "RGB", "`denoise-color`, trained here"),
        ("jpeg", "named_10", {"classic5": 1}, "L", "`jpeg-gray`, trained here"),
        ("super_resolution", "named_x2", {"set5": 1, "set14": 1}, "L", "FSRCNN x2, `sr-x2`"),
    ],
)
def test_named_models_are_measured_in_the_tables(tmp_path, table, part, sets, mode, title):
    rng = np.random.default_rng(0)
    for folder, count in sets.items():
        (tmp_path / folder).mkdir()
        for i in range(count):
            pixels = Image.fromarray(rng.integers(0, 255, (24, 24), np.uint8)).convert(mode)
            pixels.save(tmp_path / folder / f"{i:02d}.png")
    module = load_module(ROOT / TABLES / f"{table}.py")
    record = module.PARTS[part](tmp_path)
    card = zoo.card(record["model"]["name"])
    assert record["model"]["sha256"] == card["sha256"]
    assert f"| {title}" in module.render({part: record})


def test_rows_of_named_models_compare_with_paper_and_pytorch():
    table = load_module(ROOT / TABLES / "zoo.py")

    def figure(value, **compared):
        where = {"metric": "PSNR", "unit": "dB", "data": "Set5", "count": 5, "setting": "sigma 25"}
        return where | {"value": value, "compared": compared}

    training = {"steps": 1000, "batch_size": 16, "wall_time_s": 600.0}
    training["data"] = [{"name": "T91, 91 images"}]
    card = {"name": "a", "parameters": 1234, "training": training, "dtype": "float16"}
    cards = [
        card | {"figures": [figure(20.0), figure(30.25, paper=30.5)]},
        card | {"name": "b", "figures": [figure(20.0, input=10.0)]},
    ]
    times = {"a: deconv_jax": 50.0, "a: torch": 100.0}
    speed = {"megapixels": {"a": 0.25}, "median_ms": times}
    training = "1,000 steps of 16, 10 min, one seed"
    reason = "1,000 steps of 16; trained on T91; weights rounded to 16 bits"
    where = "Set5, sigma 25, 5 images: PSNR"
    assert table.rows(cards, speed) == [
        [
            "[`a`](card:a)",
            where,
            "**30.25 dB**",
            "30.50",
            "-0.25",
            reason,
            "1,234",
            training,
            "200",
            "400",
            "0.50",
        ],
        ["[`b`](card:b)", where, "**20.00 dB**", "", "", "", "1,234", training, "", "", ""],
    ]


def test_gaps_have_the_reasons_that_the_record_states():
    common = load_module(ROOT / TABLES / "_common.py")
    assert [common.gap(here, 1.0) for here in (1.004, 0.996, 0.99, 2.0)] == [
        *("+0.00", "+0.00", "-0.01", "+1.00")
    ]
    run = {"training": {"steps": 1600, "batch_size": 16}, "record": "table/part"}
    reason = common.gap_reason(run, "other noise")
    assert reason == "1,600 steps of 16; other noise"
    assert common.gap_reason({}, "other noise") == "the authors' weights; other noise"
    assert common.gap_reason({}, untrained="other code") == "other code"
    assert common.gap_table(["Set5"], []) == ""
    table = common.gap_table(["Set5"], [("DnCNN", [(run, 30.0, 30.5)], reason)])
    assert table.splitlines()[0] == "| PSNR, dB | Set5 | Set5, quoted | difference | reason |"
    assert f"| DnCNN | [30.00](record:table/part) | 30.50 | -0.50 | {reason} |" in table


def test_budgets_of_a_denoiser_are_rows_beside_the_papers():
    table = load_module(ROOT / TABLES / "denoiser_training.py")

    def record(seed, steps, bsd68):
        training = {"steps": steps, "batch_size": 16, "wall_time_s": 60.0, "seed": seed}
        sets = {"set12": {"mean": {"psnr": 29.0}}, "bsd68": {"mean": {"psnr": bsd68}}}
        return {"training": training, "sets": sets, "training_flops": 1e9, "protocol": "noise; p"}

    records = {f"dncnn_{seed}": record(seed, 400, 28.0 + seed) for seed in range(3)}
    records["budget_1600"] = record(0, 1600, 28.5)
    lines = table.render(records).splitlines()
    assert [line.split(" | ")[1:3] for line in lines[2:5]] == [
        ["6.4 TFLOP", "1/1,600"],
        ["25.6 TFLOP", "1/400"],
        ["10.24 PFLOP", "1"],
    ]
    assert "| DnCNN-S | 29.00 ± 0.00 | 29.00 ± 1.00 | 0, 1, 2 |" in lines
    here, paper = table.curve(records).series
    np.testing.assert_allclose(here.x, np.log10([6.4e12, 25.6e12]))
    np.testing.assert_allclose([paper.x[0], paper.y[0]], [np.log10(1.024e16), 29.23])


def test_codecs_are_compared_at_equal_rates():
    """PSNR is linear in the logarithm of the rate, and not extrapolated."""
    table = load_module(ROOT / TABLES / "codec_rd.py")
    points = [{"mean": {"bpp": rate, "psnr": psnr}} for rate, psnr in ((0.4, 30.0), (0.9, 33.0))]
    header, _, row = table.equal_rates({"set14_jpeg": {"points": points}}).splitlines()
    assert header.startswith("| PSNR | 0.2 bpp | 0.4 bpp | 0.6 bpp |")
    assert row.startswith("| Set14, JPEG |  | 30.00 | 31.50 | ")
    assert row.endswith("|  |  |")


# Rows of GAN tables


def synthesis_record(
    distance, seconds=90.0, resumed=0, steps=3000, protocol="features of x", **more
):
    return {
        "metrics": {"frechet_distance": distance, **more},
        "baseline": {"real_frechet_distance": 0.25},
        "protocol": protocol,
        "counts": {"test": 10_000},
        "training": {
            "wall_time_s": seconds,
            "resumed_at_step": resumed,
            "steps": steps,
            "batch_size": 64,
        },
    }


@pytest.fixture(scope="module")
def synthesis():
    return load_module(ROOT / TABLES / "_gan.py")


NAMES = {"hinge": "Hinge", "hinge_sn": "Hinge, spectral norm", "r1": "R1"}


def test_rows_are_means_and_deviations_over_seeds(synthesis):
    records = {
        "hinge_0": synthesis_record(1.0, seconds=60, modes=998),
        "hinge_1": synthesis_record(2.0, seconds=90, modes=1000),
        "hinge_2": synthesis_record(3.0, seconds=600, modes=999),
        "hinge_sn_0": synthesis_record(1234.567, seconds=30, modes=1000),
        "other_0": synthesis_record(5.0, steps=1),
    }
    titles, lines, record = synthesis.rows(records, NAMES, {"frechet_distance": 2, "modes": 0})
    assert titles == ["Fréchet distance", "modes", "time per run", "seeds"]
    assert lines == [
        ["Hinge", "2.00 ± 1.00", "999 ± 1", "1.5 min", "0, 1, 2"],
        ["Hinge, spectral norm", "1,234.57", "1,000", "0.5 min", "0: no ranking"],
    ]
    assert record == records["hinge_0"]
    said = synthesis.training_and_protocol(record)
    assert "3,000 steps of 64 images, 10,000 samples" in said
    assert "Protocol: features of x." in said


def test_rows_are_blank_where_a_run_has_no_such_measure(synthesis):
    records = {
        "hinge_0": synthesis_record(1.0, coverage=0.5),
        "hinge_1": synthesis_record(2.0),
        "r1_0": synthesis_record(None, coverage=0.5),
    }
    _, lines, _ = synthesis.rows(records, NAMES, {"frechet_distance": 1, "coverage": 2})
    assert [line[:3] for line in lines] == [["Hinge", "1.5 ± 0.7", ""], ["R1", "", "0.50"]]


def test_the_time_of_a_continued_run_is_not_told(synthesis):
    records = {
        "hinge_0": synthesis_record(1.0, seconds=6, resumed=2000),
        "hinge_1": synthesis_record(1.0, seconds=120),
        "r1_0": synthesis_record(1.0, seconds=6, resumed=10),
    }
    _, lines, _ = synthesis.rows(records, NAMES, {"frechet_distance": 1})
    assert [line[-2:] for line in lines] == [["2.0 min", "0, 1: no ranking"], ["", "0: no ranking"]]


@pytest.mark.parametrize("other", [{"steps": 2000}, {"protocol": "features of y"}])
def test_rows_of_unlike_runs_are_refused(synthesis, other):
    records = {"hinge_0": synthesis_record(1.0), "r1_0": synthesis_record(1.0, **other)}
    with pytest.raises(InputError, match="must share training length and protocol"):
        synthesis.rows(records, NAMES, {"frechet_distance": 1})


@pytest.mark.parametrize(
    ("protocol", "names"),
    [
        ("features of mnist", ["frechet_distance", "kernel_distance_standard_error", "coverage"]),
        ("features of InceptionV3", ["fid", "kid_standard_error", "coverage"]),
    ],
)
def test_old_names_of_metrics_are_read_as_the_new_ones(tmp_path, protocol, names):
    metrics = {"fid": 1.0, "kid_standard_error": 2.0, "coverage": 3.0}
    baseline = {f"real_{name}": value for name, value in metrics.items()}
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"protocol": protocol, "metrics": metrics, "baseline": baseline}))
    record = read_record(path)
    assert record["metrics"] == dict(zip(names, metrics.values(), strict=True))
    assert list(record["baseline"]) == [f"real_{name}" for name in names]


def test_there_are_no_rows_without_records(synthesis):
    assert synthesis.rows({}, NAMES, {"frechet_distance": 1})[1:] == ([], None)


def test_the_row_of_real_images_has_what_is_known_of_them(synthesis):
    row = synthesis.real_row(
        synthesis_record(1.0), {"frechet_distance": 2, "checkerboard_energy": 3}
    )
    assert row == ["*real images*", "0.25", "", "", ""]


# Filters beside denoising autoencoders


def test_the_wiener_filter_is_the_best_circular_convolution():
    """No other response, and no response to the mean, would have a smaller expected error."""
    table = load_module(ROOT / TABLES / "denoising_autoencoder.py")
    rng = np.random.default_rng(0)
    train = rng.random((50, 6, 8, 1)) * rng.random((1, 6, 8, 1))
    sigma = 0.2
    mean = train.mean(axis=0)
    # The expected error of a response R is sum |1 - R|^2 S + |R|^2 N: least at R = S / (S + N).
    signal = np.mean(np.abs(np.fft.fft2(train - mean, axes=(1, 2))) ** 2, axis=0)
    response = signal / (signal + sigma**2 * mean.size)
    noisy = train[:3] + sigma * rng.standard_normal((3, 6, 8, 1))
    spectrum = response * np.fft.fft2(noisy - mean, axes=(1, 2))
    expected = mean + np.fft.ifft2(spectrum, axes=(1, 2)).real
    np.testing.assert_allclose(table.wiener(noisy, train, sigma), expected, atol=1e-5)


def test_windows_do_not_reach_over_to_other_images():
    table = load_module(ROOT / TABLES / "denoising_autoencoder.py")
    noisy = np.random.default_rng(0).random((3, 8, 8, 1))
    for restored, alone in [
        (table.median(noisy, 3), table.median(noisy[1:2], 3)),
        (table.local_wiener(noisy, 3, 0.1), table.local_wiener(noisy[1:2], 3, 0.1)),
    ]:
        np.testing.assert_allclose(restored[1:2], alone)
