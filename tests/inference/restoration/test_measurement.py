"""Measurement in bands of rows equals measurement of the whole image."""

import numpy as np
import pytest

from deconv_jax.inference.restoration import measurement
from deconv_jax.inference.restoration.measurement import measure_in_bands
from deconv_jax.metrics.protocol import EvaluationProtocol


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "band_pixels", "protocol", "channels"),
    [
        ((47, 23), 23 * 7, EvaluationProtocol(), (3, 3)),  # Six bands, the last one shorter.
        (
            (45, 30),
            1,
            EvaluationProtocol(color="y", border=3),
            (1, 3),
        ),  # Bands in which one window starts.
        ((16, 40), 2**20, EvaluationProtocol(border=2), (1, 1)),  # One band.
    ],
)
def test_bands_equal_the_whole_image(monkeypatch, draw, size, band_pixels, protocol, channels):
    monkeypatch.setattr(measurement, "BAND_PIXELS", band_pixels)
    target = draw(*size, channels[1])
    # Error and structure vary over the image, so that a wrong weight of a band shows.
    fading = np.linspace(0, 0.5, size[0], dtype=np.float32).reshape(-1, 1, 1)
    output = target[..., : channels[0]] + fading * draw(*size, channels[0], seed=1)
    row = measure_in_bands(protocol, output, target)
    (whole,) = protocol.measure_all([("whole", output, target)])
    assert row["psnr"] == pytest.approx(whole["psnr"], abs=2e-5)
    assert row["ssim"] == pytest.approx(whole["ssim"], abs=2e-6)
    black = np.zeros_like(target)
    assert measure_in_bands(EvaluationProtocol(), black, black) == {"psnr": np.inf, "ssim": 1.0}


def test_band_shape_does_not_depend_on_the_height(monkeypatch, draw):
    monkeypatch.setattr(measurement, "BAND_PIXELS", 16 * 10)
    shapes = []
    monkeypatch.setattr(
        measurement,
        "_measure_band",
        lambda protocol, output, target, *_: shapes.append(output.shape) or (10.0, 1.0),  # noqa: ARG005
    )
    for height in (30, 110, 210):
        measure_in_bands(EvaluationProtocol(), draw(height, 16, 1), draw(height, 16, 1))
    assert set(shapes) == {(1, 20, 16, 1)}
    assert len(shapes) == 2 + 10 + 20
