"""Parsing of the command line: help, version, mistakes."""

import importlib.metadata
import re
import subprocess
import sys

import pytest

from deconv_jax.cli import main


def test_unknown_arguments_are_rejected(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--workdir", "x", "--config.seed=1"])
    assert stop.value.code == 2
    assert "unknown arguments: --config.seed=1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["xyz"], "no command 'xyz'; known are: compress, cost, decompress, "),
        (
            ["evaluate", "--workdir", "x", "--chekpoint", "3"],
            "--chekpoint 3; did you mean '--checkpoint'?",
        ),
        (
            ["train", "--workdir", "x", "--config", "y", "--confg.seed=1"],
            "did you mean '--config'? (write an override as one word: --config.KEY=VALUE)",
        ),
    ],
)
def test_misspelled_command_or_flag_suggests_the_nearest(capsys, words, said):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    version = importlib.metadata.version("deconv_jax")
    assert capsys.readouterr().out == f"deconv-jax {version}\n"


@pytest.mark.parametrize(
    ("words", "closed", "code"),
    [
        ("models", "stdout", 141),
        ("restore missing.png", "stderr", 141),
        ("models >&-", "stderr", 0),  # It has no standard output, and writes no error.
    ],
)
def test_closed_output_ends_the_command_quietly(words, closed, code):
    command = f"exec {sys.executable} -m deconv_jax.cli {words}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, shell=True, **pipes) as process:
        getattr(process, closed).close()
        for stream in (process.stdout, process.stderr):
            assert stream.closed or stream.read() == b""
    assert process.returncode == code


COMMANDS = (
    "train",
    "launch",
    "evaluate",
    "predict",
    "visualize",
    "restore",
    "generate",
    "compress",
    "decompress",
    "prepare",
    "cost",
    "doctor",
    "tables",
)
WITHOUT_RUN = ("train", "launch", "prepare", "cost", "doctor", "tables")
RUN_COMMANDS = tuple(name for name in COMMANDS if name not in WITHOUT_RUN)


def help_of(capsys, *command):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_lists_all_commands(capsys):
    text = help_of(capsys)
    assert len(text.splitlines()) < 36
    assert all(f"\n    {name}" in text for name in COMMANDS)


@pytest.mark.parametrize("command", ["train", "evaluate", "prepare", "cost", "doctor", "tables"])
def test_help_is_short(capsys, command):
    assert len(help_of(capsys, command).splitlines()) < 30


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_the_terminal(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "100")
    assert max(map(len, help_of(capsys, command).splitlines())) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_are_hyphenated(capsys, command):
    flags = re.findall(r"--[\w.-]+", help_of(capsys, command))
    # Overrides of a config have the names of its keys.
    assert [flag for flag in flags if "_" in flag and not flag.startswith("--config.")] == []


@pytest.mark.parametrize("command", RUN_COMMANDS)
def test_a_run_and_its_checkpoint_have_the_same_flags_in_every_command(capsys, command):
    text = help_of(capsys, command)
    assert "--workdir DIR" in text
    assert "--checkpoint last|best|STEP" in text
    assert "use this checkpoint of the run (default: last)" in text
    assert not re.search(r"--(step|data_dir)\b", text)
