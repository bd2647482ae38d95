"""Commands with named models, without a run and mostly without flags."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconv_jax import zoo
from deconv_jax.cli import EXIT_INPUT_ERROR, main

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(name, height, width, channels=3):
    rows, columns = np.mgrid[:height, :width]
    pixels = np.uint8(128 + 60 * np.sin(np.stack([rows, columns, rows + columns], -1) / 9))
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(name)


def error_of(words, capsys):
    assert main(words) == EXIT_INPUT_ERROR
    return capsys.readouterr().err


def test_list_names_every_model_in_100_columns(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    rows = {line.split()[0]: line for line in lines[1 : len(zoo.names()) + 1]}
    assert sorted(rows) == zoo.names()
    for name, row in rows.items():
        card = zoo.card(name)
        assert row.endswith(card["sha256"][:8])
        assert f"{card['bytes'] / 1e6:.2f} MB" in row


def test_list_as_json_has_all_cards(capsys):
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [zoo.card(name) for name in zoo.names()]


@pytest.mark.parametrize("name", [*zoo.names(), *zoo.FAMILIES])
def test_card_states_what_a_user_must_know(name, capsys):
    assert main(["models", name]) == 0
    text, card = capsys.readouterr().out, zoo.card(name)
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    for value in (card["sha256"], card["licence"], card["use"], card["limits"], card["protocol"]):
        assert value in words
    for data in card["training"]["data"]:
        assert data["licence"] in words


def test_card_of_an_unknown_model_is_an_error(capsys):
    assert "no model 'digit-gan'; did you mean" in error_of(["models", "digit-gan"], capsys)


def test_model_and_workdir_are_alternatives(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--model", "digits-gan", "--workdir", "runs/gan"])
    assert "--workdir: not allowed with argument --model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["generate"])
    assert "one of the arguments --model --workdir is required" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["generate", "--model", "codec"],
            "'codec' is a model of Compression; expected one of GAN",
        ),
        (["generate", "--model", "codec"], "digits-gan, mnist-gan, mnist-vae"),
        (["predict", "a.png", "--model", "sr"], "'sr-x2' is a model of Restoration; expected"),
        (["compress", "a.png", "--model", "photo"], "Compression: codec"),
        (["generate", "--model", "digits-gan", "--checkpoint", "best"], "requires --workdir"),
    ],
)
def test_models_that_do_not_fit_a_command_are_errors(words, message, capsys):
    picture("a.png", 16, 16)
    assert message in error_of(words, capsys)
    assert [path.name for path in Path().iterdir()] == ["a.png"]


@pytest.mark.slow
def test_generator_draws_the_same_samples_every_time(capsys):
    assert main(["generate", "--model", "digits-gan", "--num", "10"]) == 0
    assert "written: samples.png" in capsys.readouterr().out
    words = ["generate", "--model", "digits-gan", "--num", "10"]
    assert "samples.png exists; give --overwrite" in error_of(words, capsys)
    assert main([*words, "--output", "again.png"]) == 0
    assert Path("again.png").read_bytes() == Path("samples.png").read_bytes()


@pytest.mark.slow
def test_classifier_predicts_the_class_of_test_digits(digits_dir):
    from deconv_jax.data.source_configs import Digits

    source = Digits().open("test", digits_dir)
    batch = source.gather(np.arange(3))
    for number, image in enumerate(batch["image"]):
        Image.fromarray(image[..., 0]).save(f"{number}.png")
    assert main(["predict", "--model", "digits-classifier", "0.png", "1.png", "2.png"]) == 0
    found = json.loads(Path("predicted/predictions.json").read_text())["annotations"]
    for number, label in enumerate(batch["label"], 1):
        answers = [answer for answer in found if answer["image_id"] == number]
        assert max(answers, key=lambda answer: answer["score"])["category_id"] == label


@pytest.mark.slow
def test_compress_and_decompress_need_no_flags(capsys):
    picture("photo.png", 70, 90)
    original = Path("photo.png").read_bytes()
    assert main(["compress", "photo.png"]) == 0
    assert main(["decompress", "photo.djx"]) == 0
    with Image.open("photo.decompressed.png") as image:
        assert image.size == (90, 70)
    assert Path("photo.png").read_bytes() == original
    files = {path: path.read_bytes() for path in Path().iterdir()}
    assert "photo.djx exists; give --overwrite" in error_of(["compress", "photo.png"], capsys)
    assert "exists; give --overwrite" in error_of(["decompress", "photo.djx"], capsys)
    assert {path: path.read_bytes() for path in Path().iterdir()} == files

    data = bytearray(Path("photo.djx").read_bytes())
    data[4] ^= 1
    Path("other.djx").write_bytes(data)
    message = error_of(["decompress", "other.djx"], capsys)
    assert "other.djx: the file was written by another codec" in message
    assert not Path("other.decompressed.png").exists()


@pytest.mark.slow
def test_units_of_a_named_classifier_are_drawn():
    words = ["--model", "digits-classifier", "--layer", "dense1", "--maps", "1", "-o", "made.png"]
    assert main(["visualize", *words, "--method", "maximize"]) == 0
    assert Path("made.png").stat().st_size > 0


@pytest.mark.slow
def test_wheel_contains_all_weights_and_cards(folder):
    copy = folder / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "deconv_jax"):
        (copy / name).symlink_to(ROOT / name)
    build = "import setuptools.build_meta as build; print(build.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(copy / done.stdout.split()[-1]) as wheel:
        members = {name: wheel.getinfo(name).file_size for name in wheel.namelist()}
    for name in zoo.names():
        card = zoo.card(name)
        assert members[f"deconv_jax/{card['file']}"] == card["bytes"]
        assert f"deconv_jax/zoo/weights/{name}.json" in members
    assert not [name for name in members if re.search(r"\.pth$|\.pkl$", name)]
