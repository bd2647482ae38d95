"""Code and commands in the texts work: Python runs, commands parse, configs load, links lead somewhere."""

import contextlib
import io
import posixpath
import re
import shlex
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from deconv_jax import cli
from deconv_jax.cli import load_config
from deconv_jax.experiment import Experiment

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README_BYTES = 6144
FEW_STEPS = [f"--config.training.{key}=20" for key in ("num_steps", "eval_every", "save_every")]

_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(deconv-jax [^`\n]*)`")
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


def blocks(path, language):
    return [m["code"] for m in _BLOCK.finditer(path.read_text()) if m["language"] == language]


def commands(path):
    """Return the arguments of each `deconv-jax` command in the bash blocks of a text."""
    lines = "\n".join(blocks(path, "bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[line.index("deconv-jax") + 1 :] for line in words if "deconv-jax" in line]


def inline_commands(path):
    """Return the arguments of each whole command in inline code, such as a cell of a table."""
    words = [shlex.split(code)[1:] for code in _INLINE.findall(path.read_text())]
    return [line for line in words if len(line) > 1 and not line[-1].isupper()]


def name(value):
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else None


EXPORT_GUIDE = (
    ROOT / "docs" / "guides" / "export.md"
)  # Its code reads the files that its commands write.
PYTHON = [
    (path, i) for path in TEXTS if path != EXPORT_GUIDE for i in range(len(blocks(path, "python")))
]
COMMANDS = [
    pytest.param(words, id=f"{path.relative_to(ROOT)}: {shlex.join(words)}")
    for path in TEXTS
    for words in [*commands(path), *inline_commands(path)]
]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "index"), PYTHON, ids=name)
def test_python_runs(path, index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = compile(blocks(path, "python")[index], f"{path.name}, block {index}", "exec")
    exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize("words", COMMANDS)
def test_command_parses_and_its_config_loads(words):
    arguments = cli._parse(words)
    if arguments.command in ("train", "launch"):
        Experiment.from_dict(load_config(str(ROOT / arguments.config), arguments.overrides))


@pytest.mark.slow
def test_getting_started_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("experiments").symlink_to(ROOT / "experiments")
    Image.fromarray(skimage.data.astronaut()[:96, :96]).save("photo.jpg")
    for words in commands(ROOT / "docs" / "getting_started.md"):
        if any(word.endswith(".py:latent=16") for word in words):
            continue  # Trained above with another argument.
        extra = FEW_STEPS if words[0] == "train" else []
        with contextlib.redirect_stdout(io.StringIO()):
            assert cli.main([*words, *extra]) == 0, shlex.join(words)
    assert Path("restored/photo.jpg").exists()


@pytest.mark.slow
def test_export_guide_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in commands(EXPORT_GUIDE):
        assert cli.main(words) == 0, capsys.readouterr().err
    for index, code in enumerate(blocks(EXPORT_GUIDE, "python")):
        exec(compile(code, f"export.md, block {index}", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_links_lead_to_files(path):
    folder = path.parent.relative_to(ROOT).as_posix()
    for link in _LINK.findall(path.read_text()):
        target = posixpath.normpath(posixpath.join(folder, link))
        generated = target.startswith(("docs/reference/", "docs/demo/"))
        assert generated or (ROOT / target).exists(), f"{path.name}: {link}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= README_BYTES


def test_readme_has_the_commands_that_ci_runs():
    text = (ROOT / "README.md").read_text()
    for mark in ("main-job", "tests"):
        assert f"<!-- command: {mark} -->\n```bash\n" in text
