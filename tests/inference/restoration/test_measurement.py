"""Measurement in tiles equals measurement of the whole image."""

import jax
import numpy as np
import pytest

from deconv_jax.inference.restoration import measurement
from deconv_jax.inference.restoration.measurement import measure_in_tiles
from deconv_jax.metrics.image import ms_ssim
from deconv_jax.metrics.protocol import EvaluationProtocol


def pair(draw, size, channels):
    """Error and structure vary over the image, so that a wrong weight of a tile shows."""
    target = draw(*size, channels[1])
    fading = np.linspace(0, 0.5, size[0], dtype=np.float32).reshape(-1, 1, 1)
    fading = fading * np.linspace(0.2, 1, size[1], dtype=np.float32).reshape(1, -1, 1)
    return target[..., : channels[0]] + fading * draw(*size, channels[0], seed=1), target


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "side", "protocol", "channels"),
    [
        ((47, 23), 8, EvaluationProtocol(), (3, 3)),
        ((45, 30), 8, EvaluationProtocol(color="y", border=3), (1, 3)),
        ((16, 40), 64, EvaluationProtocol(border=2), (1, 1)),
    ],
)
def test_tiles_equal_the_whole_image(monkeypatch, draw, size, side, protocol, channels):
    monkeypatch.setattr(measurement, "TILE_SIDE", side)
    output, target = pair(draw, size, channels)
    row = measure_in_tiles(protocol, output, target)
    (whole,) = protocol.measure_all([("whole", output, target)])
    assert row["psnr"] == pytest.approx(whole["psnr"], abs=2e-5)
    assert row["ssim"] == pytest.approx(whole["ssim"], abs=2e-6)
    black = np.zeros_like(target)
    assert measure_in_tiles(EvaluationProtocol(), black, black) == {"psnr": np.inf, "ssim": 1.0}


@pytest.mark.slow
def test_ms_ssim_in_tiles_equals_that_of_the_whole_image(monkeypatch, draw):
    monkeypatch.setattr(measurement, "TILE_SIDE", 64)
    output, target = pair(draw, (179, 185), (3, 3))
    protocol = EvaluationProtocol(border=1)
    inner = (slice(1, -1), slice(1, -1))
    rounded = np.floor(np.clip(output, 0, 1) * 255 + 0.5) / np.float32(255)
    expected = float(jax.jit(ms_ssim)(rounded[inner][None], target[inner][None])[0])
    measured = measure_in_tiles(protocol, output, target, ms_ssim=True)
    assert measured["ms_ssim"] == pytest.approx(expected, abs=2e-6)
    small = measure_in_tiles(protocol, output[:177], target[:177], ms_ssim=True)
    assert small["ms_ssim"] is None


def test_one_program_measures_images_of_all_sizes(monkeypatch, draw):
    shapes = []
    monkeypatch.setattr(measurement, "TILE_SIDE", 16)

    def record(output, *_):
        shapes.append(output.shape)
        return np.zeros((2, 1))

    monkeypatch.setattr(measurement, "_sum_tile", record)
    for height in (12, 30, 110):
        measure_in_tiles(EvaluationProtocol(), draw(height, 16, 1), draw(height, 16, 1))
    assert set(shapes) == {(26, 26, 1)}
    assert len(shapes) == 1 + 2 + 7
