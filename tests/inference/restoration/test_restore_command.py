"""The command `deconv-jax restore`."""

import errno
import os
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from clips import damage, read_clip, write_clip
from PIL import Image

from deconv_jax.cli import main
from deconv_jax.data.degradations import Blur
from deconv_jax.data.images import SKIPPED_OTHER_FORMAT, read_image, write_image
from deconv_jax.experiment import Experiment
from deconv_jax.inference.progress import SILENT
from deconv_jax.inference.restoration.classical_restorer import ClassicalRestorer
from deconv_jax.inference.restoration.learned_restorer import LearnedRestorer
from deconv_jax.inference.restoration.load import (
    load_named,
    load_restoration,
    restoration_models,
    smallest_scale,
)
from deconv_jax.inference.restoration.noise_level import estimate_noise_sigma
from deconv_jax.inference.restoration.pnp_denoiser import TrainedDenoiser, make_pnp_denoiser
from deconv_jax.io import write_json
from deconv_jax.models import DnCNN
from deconv_jax.models.weight_import import load_torch_weights, save_torch_weights
from deconv_jax.train import train
from deconv_jax.workdir import CONFIG

PLUG_AND_PLAY = ["--method", "plug_and_play", "--kernel"]


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def weights(tmp_path, random_variables):
    """Weights of a small DnCNN in a file."""
    model = DnCNN(depth=2, features=2, norm="none")
    path = tmp_path / "dncnn.safetensors"
    save_torch_weights(path, model, random_variables(model, 1)["params"])
    return path


@pytest.fixture
def folder(tmp_path, draw):
    """Two images, one of them in a subfolder, and a damaged one between them."""
    folder = tmp_path / "in"
    write_image(folder / "a.png", draw(16, 20, 1))
    write_image(folder / "z" / "c.tif", draw(16, 20, 3))
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
    return folder


def run(*arguments):
    return main(["restore", *map(str, arguments)])


@pytest.mark.slow
def test_a_damaged_file_is_reported_and_the_others_are_restored(tmp_path, weights, folder, capsys):
    out = tmp_path / "out"
    arguments = ["--weights", weights, folder, "--output", out]
    assert run(*arguments) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith(f"{folder / 'a.png'} -> {out / 'a.png'}  20 x 16  ")
    assert lines[1].startswith(f"{folder / 'z' / 'c.tif'} -> {out / 'z' / 'c.tif'}  20 x 16  ")
    errors = captured.err.splitlines()
    assert f"error: cannot read image {folder / 'b.png'}" in errors[0]
    assert errors[1] == "deconv-jax: 1 of 3 files were not restored"
    assert {p.name for p in out.rglob("*")} == {"a.png", "z", "c.tif"}
    assert read_image(out / "z" / "c.tif").format == "TIFF"

    (folder / "b.png").unlink()
    before = (out / "a.png").stat().st_mtime_ns
    assert run(*arguments) == 1
    assert capsys.readouterr().err.count("exists; give --overwrite to replace it") == 2
    assert (out / "a.png").stat().st_mtime_ns == before
    assert run(*arguments, "--overwrite", "--tile", "8", "--self-ensemble") == 0
    assert (out / "a.png").stat().st_mtime_ns > before


def test_odd_names_and_bad_files_do_not_stop_the_others(tmp_path, weights, draw, capsys):
    """Named pipes, link loops, and names that are long, badly encoded or contain escape sequences."""
    folder, out = tmp_path / "in", tmp_path / "out"
    names = ["a\n\x1b[31m.png", os.fsdecode(b"b\xff.png"), "c" * 251 + ".png"]
    for name in names:
        write_image(folder / name, draw(8, 8, 1))
    os.mkfifo(folder / "d.png")
    (folder / "e.png").symlink_to("e.png")
    frames = [Image.new("L", (8, 8), value) for value in (0, 255)]
    frames[0].save(folder / "f.tif", save_all=True, append_images=frames[1:])
    (folder / "g.svg").touch()
    assert run("--weights", weights, folder, "--output", out) == 1
    assert {path.name for path in out.iterdir()} == set(names)
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out
    lines = captured.out.splitlines()
    assert [line.split(" -> ")[0].rsplit("/")[-1] for line in lines] == [
        r"a\n\x1b[31m.png",
        r"b\xff.png",
        "c" * 251 + ".png",
    ]
    errors = [line.removeprefix("deconv-jax: ") for line in captured.err.splitlines()]
    assert errors == [
        f"error: cannot read image {folder}/d.png: not a regular file",
        f"error: cannot read image {folder}/e.png: Too many levels of symbolic links",
        f"error: cannot read image {folder}/f.tif: it has 2 pages; only files with one page are read",
        "3 of 6 files were not restored",
        f"skipped 1 ({SKIPPED_OTHER_FORMAT}): {folder}/g.svg",
    ]


def test_libraries_print_nothing_about_damaged_tiff_files(tmp_path, weights, draw, capfd, caplog):
    """By default tifffile logs damage, Pillow warns about it, and libtiff writes to stderr."""
    Image.fromarray((draw(16, 16, 1)[..., 0] * 255).astype(np.uint8)).save(
        tmp_path / "lzw.tif", compression="tiff_lzw"
    )
    whole = (tmp_path / "lzw.tif").read_bytes()
    write_image(tmp_path / "plain.tif", draw(16, 16, 3))
    tags = bytearray((tmp_path / "plain.tif").read_bytes())
    tags[34:38] = b"\xff" * 4  # The value of a tag, or its offset.
    for name, content in (("a", whole[:200]), ("b", whole[:40] + b"\xff" * 60 + whole[100:])):
        (tmp_path / "in" / f"{name}.tif").parent.mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.tif").write_bytes(content)
    (tmp_path / "in" / "c.tif").write_bytes(tags)
    assert run("--weights", weights, tmp_path / "in", "--output", tmp_path / "out") == 1
    lines = capfd.readouterr().err.splitlines()
    assert [line.startswith("deconv-jax: ") for line in lines] == [True] * 4
    assert lines[-1] == "deconv-jax: 3 of 3 files were not restored"
    assert not caplog.records


def test_conversions_are_reported_in_the_line_of_the_file(tmp_path, weights, capsys):
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (8, 8)).save(path, dpi=(300, 300))
    assert run("--weights", weights, path, "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out.count("(CMYK converted to RGB)") == 1
    assert read_image(tmp_path / "out" / "a.jpg").dpi == (300, 300)


@pytest.mark.parametrize("place", ["input", "--output", "--reference", "--weights", "--kernel"])
def test_inaccessible_paths_are_one_line_errors(
    tmp_path, monkeypatch, weights, folder, capsys, place
):
    np.save(tmp_path / "k.npy", np.ones((3, 3)))
    paths = {"input": folder, "--output": tmp_path / "out", "--reference": folder}
    if place == "--kernel":
        paths |= {"--method": "wiener", "--kernel": tmp_path / "k.npy"}
    else:
        paths |= {"--weights": weights}
    closed, stat = str(paths[place]), Path.stat

    def denied(path, **options):
        if str(path).startswith(closed):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", denied)
    source = paths.pop("input")
    assert run(source, *(word for pair in paths.items() for word in pair)) == 2
    error = capsys.readouterr().err
    assert "Permission denied" in error
    assert closed in error
    assert len(error.splitlines()) == 1


def test_weights_and_outputs_must_be_regular_files(tmp_path, weights, folder, capsys):
    pipe = tmp_path / "pipe.pth"
    os.mkfifo(pipe)
    out = tmp_path / "out"
    assert run("--weights", pipe, folder, "--output", out) == 2
    assert f"cannot read {pipe}: not a regular file" in capsys.readouterr().err
    out.mkdir()
    os.mkfifo(out / "a.png")
    inputs = ["--weights", weights, folder / "a.png", "--output", out, "--overwrite"]
    assert run(*inputs) == 1
    assert "a.png: it exists and is not a regular file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_restores_with_its_weights(tmp_path, folder, digits_dir, draw, capsys):
    config = {
        "task": {
            "name": "restoration",
            "model": {"name": "dncnn", "depth": 2, "features": 2},
            "degradation": {"name": "gaussian_noise", "sigma": 25.0},
            "crop": 16,
        },
        "data": {"source": {"name": "digits"}, "data_dir": digits_dir, "cache": "memory"},
        "optimizer": {"learning_rate": 1e-3},
        "training": {"num_steps": 2, "batch_size": 8, "eval_every": 2, "save_every": 2},
    }
    train(Experiment.from_dict(config), tmp_path / "run")
    task, variables = load_restoration(tmp_path / "run", "best")
    capsys.readouterr()
    inputs = [folder / "a.png", "--output", tmp_path / "out"]
    assert run("--workdir", tmp_path / "run", *inputs) == 0
    image = read_image(folder / "a.png").pixels
    expected = LearnedRestorer(task.model, variables)(image, SILENT)
    written = read_image(tmp_path / "out" / "a.png").pixels
    np.testing.assert_allclose(written, np.clip(expected, 0, 1), atol=0.51 / 255)
    assert np.abs(written - draw(16, 20, 1)).max() > 0.01

    # The noise level of the network is known from its run.
    np.save(tmp_path / "k.npy", np.ones((3, 3)))
    method = ["--method", "plug_and_play", "--kernel", tmp_path / "k.npy", "--noise-sigma", "5"]
    method += ["--option", "iterations=1", "--workdir", tmp_path / "run"]
    assert (
        run(*method, folder / "a.png", "--output", tmp_path / "plugged", "--checkpoint", "best")
        == 0
    )
    assert run(*method, *inputs, "--denoiser-sigma", "15") == 2
    assert "must be in [25, 25]; got 15" in capsys.readouterr().err

    for flags, message in (
        (["--checkpoint", "7"], "has no checkpoint of step 7"),
        (["--checkpoint", "first"], "--checkpoint must be last, best or a step; got 'first'"),
        (["--scale", "2"], "--scale requires --model or --weights"),
        (["--noise-sigma", "5"], "requires a noise-conditional network"),
    ):
        assert run("--workdir", tmp_path / "run", *inputs, *flags) == 2
        assert message in capsys.readouterr().err


def test_a_run_of_another_task_is_refused(tmp_path, small_config, folder, capsys):
    config = Experiment.from_dict(small_config()).to_dict()
    write_json(tmp_path / "run" / CONFIG, config)
    assert run("--workdir", tmp_path / "run", folder, "--output", tmp_path / "out") == 2
    assert "is a run of Autoencoding; expected a run of Restoration" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_a_method_inverts_a_known_blur_and_its_file_is_measured(tmp_path, capsys, suffix):
    columns, rows = np.meshgrid(np.linspace(0, 6, 40), np.linspace(0, 5, 32))
    truth = (0.5 + 0.4 * np.sign(np.sin(columns) * np.cos(rows))).astype(np.float32)[..., None]
    kernel = np.ones((3, 5), np.float32) / 15
    blurred = np.asarray(Blur(kernel)(jnp.asarray(truth)[None])[0])
    write_image(tmp_path / "truth" / "a.png", truth)
    write_image(tmp_path / "blurred" / "a.png", blurred)
    write_image(tmp_path / "kernel.png", np.ones((3, 5, 1), np.float32))
    assert (
        run(
            *("--method", "richardson_lucy", "--kernel", tmp_path / "kernel.png"),
            *("--option", "iterations=20", "--boundary", "circular", tmp_path / "blurred"),
            *("--output", tmp_path / "out", "--reference", tmp_path / "truth", "--compare"),
            *("--format", suffix.upper(), "--border", "2"),
        )
        == 0
    )
    line, mean, protocol = capsys.readouterr().out.splitlines()
    assert (tmp_path / "out" / f"a.{suffix}.compare.png").exists()
    files = tmp_path / "truth" / "a.png", tmp_path / "out" / f"a.{suffix}"
    inner = [read_image(path).pixels[2:-2, 2:-2].astype(np.float64) for path in files]
    measured = -10 * np.log10(np.mean(np.square(inner[0] - inner[1])))
    words = line.split()
    after, before = (float(words[i + 1]) for i, word in enumerate(words) if word == "PSNR")
    assert after == pytest.approx(measured, abs=0.006)
    assert after > before + 3
    assert mean.split("  ")[1:] == line.split("  ")[3:]
    assert mean.startswith("mean of 1  PSNR")
    assert "a border of 2 pixels cropped" in protocol


def test_a_method_without_a_kernel_removes_noise(tmp_path, draw, capsys):
    rows = np.linspace(0.1, 0.9, 24)
    truth = np.float32(rows[:, None, None] > rows[None, :, None]) * 0.6 + 0.2
    noisy = truth + 25 / 255 * (draw(24, 24, 1) - 0.5) * 12**0.5
    write_image(tmp_path / "truth" / "a.png", truth)
    write_image(tmp_path / "noisy" / "a.png", noisy.astype(np.float32))
    flags = ["--method", "tv", "--noise-sigma", "25", tmp_path / "noisy"]
    flags += ["--output", tmp_path / "out", "--reference", tmp_path / "truth"]
    assert run(*flags) == 0
    words = capsys.readouterr().out.splitlines()[0].split()
    after, before = (float(words[i + 1]) for i, word in enumerate(words) if word == "PSNR")
    assert after > before + 5


def test_images_without_a_reference_are_restored_and_reported(tmp_path, weights, folder, capsys):
    (folder / "b.png").unlink()
    truth = tmp_path / "truth"
    write_image(truth / "a.png", read_image(folder / "a.png").pixels)
    out = tmp_path / "out"
    inputs = ["--weights", weights, folder, "--reference", truth, "--output", out]
    assert run(*inputs) == 1
    captured = capsys.readouterr()
    measured, unmeasured, mean, _ = captured.out.splitlines()
    assert "  PSNR " in measured
    reason = f"not measured: reference {truth / 'z' / 'c.tif'} does not exist in any image format"
    assert reason in unmeasured
    assert mean.startswith("mean of 1  PSNR")
    assert captured.err == "deconv-jax: 1 of 2 files were not measured\n"
    assert (out / "z" / "c.tif").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--weights", "w.pth", "--method", "wiener"],
            "--weights cannot be combined with --method wiener; only plug_and_play and gen",
        ),
        (["--kernel", "k.npy"], "--kernel cannot be combined with --model photo"),
        (["--model", "denoize"], "no model 'denoize'; did you mean 'denoise'?"),
        (["--model", "denoise", "--scale", "4"], "model 'denoise' is not available with scale=4"),
        (["--model", "jpeg", "--noise-sigma", "5"], "requires a noise-conditional network"),
        (["--model", "sr", "--strength", "0.5"], "strength requires a network that keeps the size"),
        (["--model", "sr", "--outscale", "0"], "--outscale must be a positive number; got 0"),
        (["--method", "tv", "--alpha", "network"], "--alpha cannot be combined with --method tv"),
        (["--model", "photo", "--checkpoint", "2"], "--checkpoint requires --workdir"),
        (["--crf", "20"], "--crf requires a video among the inputs"),
        (
            ["--method", "wiener"],
            "--method wiener requires --kernel, the blur to undo; methods without a kernel are tv, wave",
        ),
        (["--method", "tv"], "tv requires a weight, or noise-sigma"),
        (["--method", "tvv"], "no method 'tvv'; did you mean 'tv'?"),
        (["--method", "tv", "--boundary", "zeros"], "--boundary requires --kernel"),
        (
            ["--method", "wiener", "--kernel", "k.npy", "--tile", "64"],
            "--tile cannot be combined with",
        ),
        (["--weights", "w.pth", "--option", "a=1"], "--option cannot be combined with --weights"),
        (
            ["--weights", "w.pth", "--weights", "v.pth"],
            "only --method plug_and_play and --interpolate take several networks; got 2",
        ),
        (
            ["--weights", "w.pth", "--denoiser-sigma", "5"],
            "--denoiser-sigma cannot be combined with",
        ),
        (
            [*PLUG_AND_PLAY, "k.npy"],
            "plug_and_play requires --model, --workdir or --weights, a denoising network",
        ),
        ([*PLUG_AND_PLAY[:2], "--weights", "w.pth"], "plug_and_play requires --kernel"),
        (
            [*PLUG_AND_PLAY, "k.npy", "--tile", "64"],
            "--tile cannot be combined with --method plug_and",
        ),
        (["--weights", "w.pth", "--border", "2"], "--border and --y-channel require --reference"),
        (["--weights", "w.pth", "--checkpoint", "2"], "--checkpoint requires --workdir"),
        (["--weights", "none"], "error: --weights: no such file none"),
        (["--weights", "w.pth", "--kernel", "k.npy"], "--kernel cannot be combined with --weights"),
        (
            ["--method", "wiener", "--kernel", "k.npy", "--tile", "0"],
            "--tile cannot be combined with",
        ),
        (
            [*PLUG_AND_PLAY, "k.npy", "--scale", "0"],
            "--scale cannot be combined with --method plug_and",
        ),
        (["--method", "wiener", "--self-ensemble"], "--self-ensemble cannot be combined with"),
        (["--weights", "w.txt"], "weights must be a .safetensors, .pth or .pt file; got w.txt"),
        (["--weights", "w.pth", "--format", "gif"], "no image format '.gif'"),
        (["--method", "wiener", "--kernel", "none.npy"], "cannot read kernel none.npy"),
    ],
)
def test_wrong_flags_are_one_line_errors(tmp_path, monkeypatch, folder, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    for name in ("w.pth", "w.txt"):
        (tmp_path / name).touch()
    assert run(*flags, folder, "--output", "out") == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_unknown_format_of_a_video_is_an_error_before_the_network_is_loaded(tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    clip.touch()
    assert run("--model", "photo", clip, "--output", tmp_path / "new.avi") == 2
    assert "no video format for" in capsys.readouterr().err


def test_options_must_be_pairs(tmp_path, folder, capsys):
    np.save(tmp_path / "k.npy", np.ones((3, 3)))
    flags = ["--method", "tv", "--kernel", tmp_path / "k.npy", "--output", tmp_path / "out"]
    assert run(*flags, folder, "--option", "iterations") == 2
    assert "--option must be KEY=VALUE; got 'iterations'" in capsys.readouterr().err


@pytest.mark.slow
def test_plug_and_play_takes_weights_with_given_levels(
    tmp_path, weights, folder, random_variables, draw
):
    model = DnCNN(depth=2, features=2, norm="none")
    other = tmp_path / "other.safetensors"
    save_torch_weights(other, model, random_variables(model, 1, seed=1)["params"])
    kernel = draw(3, 3)
    np.save(tmp_path / "k.npy", kernel)
    networks = [TrainedDenoiser(p.name, *load_torch_weights(p)) for p in (weights, other)]
    expected = ClassicalRestorer(
        "plug_and_play",
        kernel / kernel.sum(),
        noise_sigma=2.55,
        options={"iterations": 2},
        denoiser=make_pnp_denoiser(networks, [15, 50]),
    )(read_image(folder / "z" / "c.tif").pixels, SILENT)
    flags = ["--method", "plug_and_play", "--kernel", tmp_path / "k.npy", "--noise-sigma", "2.55"]
    flags += ["--weights", weights, "--denoiser-sigma", "15", "--option", "iterations=2"]
    flags += ["--weights", other, "--denoiser-sigma", "50"]
    assert run(*flags, folder / "z" / "c.tif", "--output", tmp_path / "out") == 0
    written = read_image(tmp_path / "out" / "c.tif").pixels
    np.testing.assert_allclose(written, np.clip(expected, 0, 1), atol=0.51 / 255)


@pytest.mark.slow
def test_a_photograph_is_restored_without_flags(tmp_path, monkeypatch, draw, capsys):
    monkeypatch.chdir(tmp_path)
    image = 0.4 + 0.1 * draw(16, 20, 3)
    write_image(Path("a.png"), image)
    sigma = estimate_noise_sigma(read_image(Path("a.png")).pixels)
    assert run("a.png") == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith("a.png -> a.restored.png  20 x 16  ")
    assert line.endswith(f"(photo; sigma {sigma:.1f} estimated)")
    network = load_named("photo", channels=3)
    restorer = LearnedRestorer(network.model, network.variables, noise_conditional=True)
    expected = restorer(read_image(Path("a.png")).pixels, SILENT)
    written = read_image(Path("a.restored.png")).pixels
    np.testing.assert_allclose(written, np.clip(expected, 0, 1), atol=0.51 / 255)

    write_image(Path("b.png"), image[:8, :8, :1])
    assert run(".", "--overwrite", "--outscale", "1.5", "--strength", "0.5") == 0
    captured = capsys.readouterr()
    assert captured.err == "deconv-jax: skipped 1 (output of an earlier run): a.restored.png\n"
    assert "b.png -> b.restored.png  12 x 12  " in captured.out

    # A kernel of one pixel and little noise leave hardly anything to undo.
    np.save("k.npy", np.ones((1, 1)))
    method = ["--method", "plug_and_play", "--kernel", "k.npy", "--noise-sigma", "0.1"]
    assert (
        run(*method, "--model", "denoise", "--option", "iterations=1", "b.png", "-o", "c.png") == 0
    )
    assert Path("c.png").exists()
    assert run(*method, "--model", "photo", "b.png") == 2
    assert "photo is not a denoiser of Gaussian noise" in capsys.readouterr().err


def test_named_networks_fit_channels_and_scale():
    assert load_named("denoise", channels=1).name == "denoise-gray"
    assert load_named("jpeg", channels=3).name == "jpeg-color"
    found = load_named("sr", channels=3, scale=4)
    assert (found.name, found.model.scale) == ("sr-x4", 4)
    scales = [smallest_scale("sr", outscale) for outscale in (0.5, 2.0, 2.1, 9.0)]
    assert scales == [2, 2, 3, 4]
    assert smallest_scale("denoise", 1.5) is None
    assert smallest_scale("sr-x2", 3.0) is None
    assert {"denoise", "jpeg", "photo", "sr", "sr-x2"} <= set(restoration_models())


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        run("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.count("\n  deconv-jax restore ") == 10
    assert all(len(line) <= 100 for line in text.splitlines())


def test_images_and_videos_are_restored_in_one_call(tmp_path, weights, draw, capsys):
    write_clip(tmp_path / "clip.mp4")
    write_clip(tmp_path / "damaged.mov")
    lost = damage(tmp_path / "damaged.mov", -1)
    write_image(tmp_path / "a.png", draw(16, 16, 3))
    names = ("clip.mp4", "a.png", "damaged.mov")
    inputs = [tmp_path / name for name in names]
    assert run("--weights", weights, *inputs, "--crf", 10) == 1
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split(" -> ")[0] for line in lines] == [str(path) for path in inputs]
    assert re.search(
        r"clip.restored.mp4  16 x 16  [\d.]+ s  \(8 frames; [\d.]+ frames/s\)", lines[0]
    )
    assert (
        f"damaged.mov: 1 frame could not be decoded, and the one before is shown longer (at {float(lost):.3f} s)"
        in printed.err
    )
    assert "1 of 3 files were not read completely" in printed.err
    assert read_clip(tmp_path / "clip.restored.mp4").times == read_clip(inputs[0]).times
    assert run("--weights", weights, inputs[0], "--crf", 99) == 2
    assert "--crf must be in [0, 51]; got 99" in capsys.readouterr().err
