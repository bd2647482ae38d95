"""`deconv-jax cost`: the same figures in every format, and one line for every mistake."""

import csv
import io
import json

import pytest

from deconv_jax import zoo
from deconv_jax.cli import main
from deconv_jax.cost import measure


def output_of(capsys, *arguments):
    assert main(["cost", *map(str, arguments)]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_formats_have_the_same_figures(capsys):
    model = ["--model", "sr", "--size", "30x20"]
    text, table, values = (
        output_of(capsys, *model, "--format", name) for name in ("text", "csv", "json")
    )
    found = json.loads(values)
    *layers, total = csv.DictReader(io.StringIO(table))
    assert total["layer"] == "total"
    assert int(total["forward_flops"]) == found["forward"]["flops"]
    assert sum(int(row["parameters"]) for row in layers) == found["parameters"]
    assert found["parameters"] == zoo.card("sr")["parameters"]
    assert [row["layer"] for row in layers] == [
        layer["name"] for layer in found["networks"][0]["layers"]
    ]
    assert all(row["layer"] in text for row in layers)
    assert "receptive field: " in text
    assert "input 30x20x1" in text
    for device, bound in found["training_step"]["bounds"].items():
        assert f"\n  {device} " in text
        assert bound["at_least_s"] == max(bound["compute_s"], bound["memory_s"])
    # One multiply-add is two FLOPs: the first convolution of FSRCNN has 5 x 5 x 56 weights.
    assert int(layers[0]["forward_flops"]) == 2 * 600 * 25 * 56


@pytest.mark.slow
def test_config_and_its_overrides(capsys, config_file, small_config):
    config = config_file(small_config())
    plain, wide = (
        json.loads(output_of(capsys, "--config", config, "--format", "json", *overrides))
        for overrides in ([], ["--config.training.batch_size=32", "--config.precision=bf16"])
    )
    assert wide["training_step"]["flops"] == 2 * plain["training_step"]["flops"]
    assert wide["forward"]["activation_bytes"] == plain["forward"]["activation_bytes"] / 2
    assert plain["name"] == str(config)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "sr", "--size", "30"], "--size must be HxW, such as 512x512; got '30'"),
        (["--model", "sr", "--size", "0x8"], "--size must be HxW"),
        (["--model", "nothing"], "no model 'nothing'"),
        (["--model", "sr", "--config.seed=1"], "--config.seed=1 requires --config; got --model"),
        (["--model", "sr", "--measure", "--format", "csv"], "--measure requires --format text"),
        (
            ["--model", "mnist-classifier", "--size", "99x99"],
            "Classifier does not accept images of 99x99",
        ),
        (["--config", "none.py"], "no config file 'none.py'"),
    ],
)
def test_mistakes_are_one_line(error_of, arguments, said):
    assert said in error_of("cost", *arguments)


@pytest.mark.slow
def test_measured_times_are_longer_than_the_bounds(capsys, monkeypatch, config_file, small_config):
    config = config_file(small_config())
    monkeypatch.setattr(measure, "ROUNDS", 1)
    found = json.loads(output_of(capsys, "--config", config, "--measure", "--format", "json"))
    measured, fastest = found["measured"], found["training_step"]["bounds"]["H200"]
    assert measured["device"] == "8 cpu"
    assert measured["step_s"] > fastest["at_least_s"]
    assert measured["forward_s"] > found["forward"]["bounds"]["H200"]["at_least_s"]
    assert measured["step_memory_bytes"] > found["checkpoint_bytes"]["total"]

    times = measure.Measured("1 chip", forward_s=0.5, step_s=4.0, step_memory_bytes=2_000_000)
    monkeypatch.setattr(measure, "measure", lambda *_: times)
    text = output_of(capsys, "--config", config, "--measure")
    assert "measured on 1 chip\n  forward of one example: 500 ms, 2.0 images/s" in text
    assert "training step: 4 s, 4.0 images/s" in text
    assert "memory of a training step: 2 MB" in text
