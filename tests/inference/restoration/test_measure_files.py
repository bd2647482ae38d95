"""The command `deconv-jax measure`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from deconv_jax.cli import main


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*arguments):
    return main(["measure", *map(str, arguments)])


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pair(tmp_path):
    """An image of 190 x 180 pixels and a noisy copy."""
    random = np.random.default_rng(0)
    clean = np.kron(random.integers(0, 256, (19, 18, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    noisy = np.clip(clean + random.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    save(tmp_path / "a" / "x.png", noisy)
    save(tmp_path / "b" / "x.bmp", clean)
    return noisy, clean


def ms_ssim_torch(a, b):
    """MS-SSIM of two images in [0, 255], from its formula with PyTorch's operators."""
    a, b = (torch.tensor(v / 255, dtype=torch.float64).permute(2, 0, 1)[:, None] for v in (a, b))
    taps = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    product = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            a, b = (torch.nn.functional.avg_pool2d(_even(v), 2) for v in (a, b))
        means = [torch.nn.functional.conv2d(v, window) for v in (a, b, a * a, b * b, a * b)]
        variances = [means[2] - means[0] ** 2, means[3] - means[1] ** 2]
        covariance = means[4] - means[0] * means[1]
        factor = (2 * covariance + 0.03**2) / (sum(variances) + 0.03**2)
        if scale == 4:
            squares = means[0] ** 2 + means[1] ** 2
            factor = factor * (2 * means[0] * means[1] + 0.01**2) / (squares + 0.01**2)
        product = product * factor.mean(dim=(1, 2, 3)) ** weight
    return float(product.mean())


def _even(v):
    return torch.nn.functional.pad(v, (0, v.shape[3] % 2, 0, v.shape[2] % 2), mode="replicate")


def test_figures_equal_those_of_scikit_image_and_pytorch(tmp_path, pair, capsys):
    assert run(tmp_path / "a" / "x.png", tmp_path / "b" / "x.bmp", "--json", "-") == 0
    (row,) = json.loads(capsys.readouterr().out)["images"]
    assert row["name"] == "x.png"
    noisy, clean = pair
    assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(clean, noisy), abs=1e-4)
    options = {"gaussian_weights": True, "use_sample_covariance": False, "channel_axis": -1}
    _, windows = structural_similarity(*map(np.float64, pair), data_range=255, full=True, **options)
    assert row["ssim"] == pytest.approx(windows[5:-5, 5:-5].mean(), abs=1e-5)
    assert row["ms_ssim"] == pytest.approx(ms_ssim_torch(noisy, clean), abs=1e-5)


@pytest.mark.usefixtures("pair")
def test_folders_are_matched_and_all_that_is_left_out_is_named(tmp_path, capsys):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, name, size in (
        (a, "sub/same.png", 20),
        (b, "sub/same.png", 20),
        (a, "large.png", 30),
        (b, "large.png", 20),
        (a, "alone.png", 20),
        (b, "twice.png", 20),
        (b, "twice.bmp", 20),
    ):
        save(folder / name, np.zeros((size, 25), np.uint8))
    (b / "notes.txt").touch()
    assert run(a, b, "--json", tmp_path / "scores.json") == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "sub/same  PSNR inf dB  SSIM 1.0000  MS-SSIM -"
    assert lines[1].startswith("x  PSNR 2")
    assert lines[2].startswith("mean of 2  PSNR inf dB  SSIM 0.")
    assert lines[3].startswith("PSNR and SSIM (Gaussian window")
    errors = captured.err
    assert f"{a / 'large.png'} has 25 x 30 pixels, but its reference" in errors
    assert f"2 files not matched:\n  {a / 'alone.png'} has no reference\n" in errors
    assert f"{b / 'twice.bmp'} and {b / 'twice.png'} have the same name" in errors
    assert "1 of 3 pairs were not measured" in errors
    assert "notes.txt" in errors
    figures = json.loads((tmp_path / "scores.json").read_text())
    assert [row["name"] for row in figures["images"]] == ["sub/same", "x"]
    assert figures["images"][0]["psnr"] is None
    assert figures["mean"]["ms_ssim"] == figures["images"][1]["ms_ssim"]
    assert (len(figures["unmatched"]), len(figures["errors"])) == (2, 1)


@pytest.mark.usefixtures("pair")
def test_invalid_calls_are_errors(tmp_path, capsys):
    a, b = tmp_path / "a", tmp_path / "b"
    (tmp_path / "scores.json").touch()
    for arguments, said in (
        ((a, b / "x.bmp"), "two files or two folders"),
        ((a, tmp_path / "c"), "does not exist"),
        ((a, b, "--json", tmp_path / "scores.json"), "give --overwrite"),
        ((a, b, "--extractor", "digits", "--border", "2"), "--border cannot be combined"),
        ((a / "x.png", b / "x.bmp", "--extractor", "digits"), "compares two folders"),
        ((a, b, "--extractor", "digit"), "did you mean 'digits'"),
        ((a, b, "--border", "-1"), "border must be at least 0"),
    ):
        assert run(*arguments) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_sets_of_any_sizes_are_compared_by_features(tmp_path, capsys):
    random = np.random.default_rng(0)
    for name, count in (("a", 8), ("b", 70)):
        for i in range(count):
            save(tmp_path / name / f"{i}.png", random.integers(0, 256, (20, 20 + i % 2), np.uint8))
    (tmp_path / "a" / "broken.png").write_bytes(b"")
    words = (tmp_path / "a", tmp_path / "b", "--extractor", "pixels")
    assert run(*words) == 1
    captured = capsys.readouterr()
    assert "broken.png" in captured.err
    assert f"8 images in {tmp_path / 'a'}\n70 images in {tmp_path / 'b'}\n" in captured.out
    assert "features of pixels at 8 x 8" in captured.out
    assert run(*words, "--json", "-") == 1
    figures = json.loads(capsys.readouterr().out)
    assert figures["counts"] == [8, 70]
    assert {"frechet_distance", "kernel_distance", "precision", "recall"} <= set(figures["metrics"])
    assert run(tmp_path / "b", tmp_path / "b", "--extractor", "pixels", "--json", "-") == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["frechet_distance"] == pytest.approx(0, abs=1e-4)
    assert metrics["precision"] == metrics["recall"] == 1
