"""The commands `deconv-jax compress` and `deconv-jax decompress`."""

import numpy as np
import pytest
from PIL import Image

from deconv_jax.cli import EXIT_INPUT_ERROR, main
from deconv_jax.cli.exit_codes import EXIT_SOME_FAILED
from deconv_jax.data.images import SKIPPED_LINK, SKIPPED_OTHER_FORMAT
from deconv_jax.experiment import Experiment
from deconv_jax.inference.compression.load import TABLES_FOLDER, load_codec
from deconv_jax.train import train

pytestmark = pytest.mark.slow  # Every test needs the trained run.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a codec trained for two steps."""
    workdir, folder = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("images")
    for number in range(3):
        Image.fromarray(pixels(64, 64, seed=number)).save(folder / f"{number}.png")
    model = {"name": "hyperprior_codec", "channels": 3, "features": 4, "latent_features": 4}
    config = {
        "task": {
            "name": "compression",
            "model": model | {"initial_gains": [0.5, 1.0, 2.0]},
            "lambdas": [0.002, 0.01, 0.05],
            "crop": 64,
        },
        "data": {
            "source": {"name": "folder", "path": str(folder), "tile": 64},
            "train_split": "all[:1]",
            "validation_split": "all[1:2]",
            "test_split": "all[2:]",
        },
        "optimizer": {"learning_rate": 1e-3},
        "training": {"num_steps": 2, "batch_size": 8, "eval_batch_size": 1}
        | {"eval_every": 2, "save_every": 2, "log_every": 1},
    }
    train(Experiment.from_dict(config), workdir)
    return workdir


def pixels(height, width, seed=0):
    random = np.random.default_rng(seed)
    waves = np.add.outer(np.arange(height), np.arange(width))[..., None] * [1.0, 0.7, 1.3]
    noise = random.normal(0, 10, (height, width, 3))
    return np.clip(128 + 60 * np.sin(waves / 11 + seed) + noise, 0, 255).astype(np.uint8)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_photograph_round_trips(run, tmp_path, capsys):
    photo, file, back = (tmp_path / name for name in ("p.png", "out/p.djx", "out/b.png"))
    Image.fromarray(pixels(70, 90)).save(photo)
    assert main(["compress", "--workdir", str(run), str(photo), "-o", str(file)]) == 0
    output = capsys.readouterr().out
    assert f"{file.stat().st_size:,} bytes" in output
    assert main(["decompress", "--workdir", str(run), str(file), "-o", str(back)]) == 0
    codec = load_codec(run)[1]
    assert file.read_bytes() == codec.compress(pixels(70, 90), 1)
    np.testing.assert_array_equal(read(back), codec.decompress(file.read_bytes()))
    error = np.mean((pixels(70, 90) / 255 - read(back) / 255) ** 2)
    assert f" bits/pixel, PSNR {-10 * np.log10(error):.2f} dB\n" in output
    assert (run / TABLES_FOLDER / "0000002.safetensors").is_file()


def test_an_output_without_a_suffix_is_a_folder(run, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(pixels(40, 40)).save(photo)
    folder = tmp_path / "new"
    assert main(["compress", "--workdir", str(run), str(photo), "-o", str(folder)]) == 0
    assert [path.name for path in folder.iterdir()] == ["photo.djx"]


def test_levels_gray_and_transparent_images(run, tmp_path):
    gray, alpha = tmp_path / "gray.png", tmp_path / "alpha.png"
    Image.fromarray(pixels(40, 40)[..., 0]).save(gray)
    clear = np.full((40, 40, 1), 0, np.uint8)
    Image.fromarray(np.concatenate([pixels(40, 40), clear], -1)).save(alpha)
    for level in (0, 2):
        words = ["compress", "--workdir", str(run), str(gray), str(alpha)]
        options = ["-o", str(tmp_path / "out"), "--level", str(level), "--overwrite"]
        assert main([*words, *options]) == 0
    codec = load_codec(run)[1]
    data = (tmp_path / "out" / "gray.djx").read_bytes()
    assert data == codec.compress(pixels(40, 40)[..., :1], 2)
    white = codec.compress(np.full((40, 40, 3), 255, np.uint8), 2)
    assert (tmp_path / "out" / "alpha.djx").read_bytes() == white
    files = [str(tmp_path / "out" / name) for name in ("gray.djx", "alpha.djx")]
    back = tmp_path / "back"
    assert main(["decompress", "--workdir", str(run), *files, "-o", str(back)]) == 0
    assert read(back / "gray.png").shape == (40, 40)
    assert read(back / "alpha.png").shape == (40, 40, 3)


def test_one_bad_file_does_not_stop_the_others(run, tmp_path, capsys):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(pixels(16, 16)).save(good)
    bad.write_bytes(b"no image")
    words = ["compress", "--workdir", str(run), str(bad), str(good), "-o", str(tmp_path / "o")]
    assert main(words) == EXIT_SOME_FAILED
    assert str(bad) in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["good.djx"]


def test_a_folder_round_trips(run, tmp_path, capsys):
    """Skipped files are named; an animation is one bad file among others."""
    folder, small, back = tmp_path / "in", tmp_path / "small", tmp_path / "back"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png"):
        Image.fromarray(pixels(16, 16)).save(folder / name)
    (folder / "c.svg").touch()
    (folder / "deep" / "link").symlink_to(folder)
    frames = [Image.fromarray(pixels(16, 16, seed=n)) for n in range(3)]
    frames[0].save(folder / "d.webp", save_all=True, append_images=frames[1:])
    start = ["--workdir", str(run)]
    assert main(["compress", *start, str(folder), "-o", str(small)]) == EXIT_SOME_FAILED
    files = sorted(path.relative_to(small).as_posix() for path in small.rglob("*.*"))
    assert files == ["a.djx", "deep/b.djx"]
    assert capsys.readouterr().err.splitlines() == [
        f"deconv-jax: error: cannot read image {folder}/d.webp: it has 3 frames; only files with one "
        "image are read",
        "deconv-jax: 1 of 3 files failed",
        f"deconv-jax: skipped 1 ({SKIPPED_OTHER_FORMAT}): {folder}/c.svg",
        f"deconv-jax: skipped 1 ({SKIPPED_LINK}): {folder}/deep/link",
    ]
    assert main(["decompress", *start, str(small), "-o", str(back)]) == 0
    np.testing.assert_array_equal(read(back / "a.png"), read(back / "deep" / "b.png"))


def test_errors_are_reported_and_write_nothing(run, tmp_path, capsys):
    photo, out = tmp_path / "p.png", tmp_path / "o.djx"
    Image.fromarray(pixels(16, 16)).save(photo)
    start = ["compress", "--workdir", str(run)]
    other = tmp_path / "sub" / "p.png"
    other.parent.mkdir()
    other.write_bytes(photo.read_bytes())
    for words, message in (
        ([*start, str(photo), "-o", str(out), "--level", "3"], "from 0 to 2"),
        ([*start, str(tmp_path / "none.png"), "-o", str(out)], "none.png does not exist"),
        ([*start, str(photo), str(other), "-o", str(tmp_path / "x")], "would both be written"),
        ([*start, str(photo), "-o", str(photo)], "is an input"),
        (["compress", "--workdir", str(tmp_path), str(photo), "-o", str(out)], "workdir"),
        (["decompress", "--workdir", str(run), str(photo), "-o", str(out)], "not a .djx"),
    ):
        assert main(words) == EXIT_INPUT_ERROR
        assert message in capsys.readouterr().err
        assert not out.exists()
    out.write_bytes(b"mine")
    assert main([*start, str(photo), "-o", str(out)]) == EXIT_INPUT_ERROR
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
