"""Exported models equal this package, and the files describe themselves."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from task_cases import CASES, abstract

from deconv_jax import models, zoo
from deconv_jax.cli import EXIT_INPUT_ERROR, main
from deconv_jax.data.degradations import BoxMask
from deconv_jax.errors import InputError
from deconv_jax.export import export
from deconv_jax.export.functions import restoration_function, task_functions
from deconv_jax.export.layout import with_layout
from deconv_jax.export.onnx import run_onnx, to_onnx
from deconv_jax.export.parity import TOLERANCE, check_parity
from deconv_jax.export.stablehlo import run_stablehlo, to_stablehlo
from deconv_jax.export.torch_weights import run_torch_weights, to_torch_weights

NETWORKS = {
    "dncnn": models.DnCNN(depth=4, features=4),
    "ffdnet": models.FFDNet(depth=3, features=6),
    "fsrcnn": models.FSRCNN(scale=3, d=4, s=2, m=1),
}


def network(name):
    """Return the function of a restoration network with random weights."""
    module = NETWORKS[name]
    conditional = name == "ffdnet"
    images = jnp.zeros((1, 8, 8, module.channels + conditional))
    variables = module.init(jax.random.key(0), images)
    leaves, tree = jax.tree.flatten(variables)
    # Norms at initialization do nothing.
    leaves = [leaf + 0.1 * (leaf.ndim == 1) for leaf in leaves]
    variables = {"batch_stats": {}} | jax.tree.unflatten(tree, leaves)
    return restoration_function(module, variables, conditional, name)


def task(name):
    """Return the functions of a small task with random weights."""
    state, batch = abstract(name, 1)
    state = jax.jit(CASES[name][0].init)(
        jax.random.key(0), {k: jnp.zeros(s.shape, s.dtype) for k, s in batch.items()}
    )
    return task_functions(name, CASES[name][0], state.inference_variables(), batch)


def assert_onnx_agrees(function):
    check_parity(with_layout(function, "nchw"), run_onnx(to_onnx(function, "nchw")))


@pytest.mark.usefixtures("one_shape")
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"restoration", "vector_quantization"}))
def test_task(name):
    for function in task(name):
        check_parity(function, run_stablehlo(to_stablehlo(function, "nhwc")))


@pytest.mark.usefixtures("one_shape")
@pytest.mark.slow
def test_conditional_vae():
    plain = CASES["variational"][0]
    model = plain.model.clone(conditional=True)
    conditional = dataclasses.replace(plain, model=model, degradation=BoxMask(1, 4))
    images = jnp.zeros((1, *model.image_shape))
    variables = model.init(jax.random.key(0), images, jnp.zeros((1, 6)), images)
    (function,) = task_functions("vae", conditional, variables, {})
    assert [port.name for port in function.inputs] == ["latents", "degraded"]
    assert_onnx_agrees(function)


@pytest.mark.usefixtures("one_shape")
@pytest.mark.slow
@pytest.mark.parametrize("upsampling", ["transposed", "subpixel", "resize"])
def test_texture_of_any_size(upsampling):
    generator = models.TextureGenerator(
        (16, 16, 1), 2, 2, local_dim=3, global_dim=2, periodic_dim=2, upsampling=upsampling
    )
    gan = dataclasses.replace(CASES["gan"][0], generator=generator)
    variables = generator.init(jax.random.key(0), jnp.zeros((1, generator.latent_dim)))
    (function,) = task_functions("texture", gan, variables, {})
    if upsampling != "transposed":
        assert_onnx_agrees(function)
    run = run_stablehlo(to_stablehlo(function, "nhwc"))
    local, fixed, phases = (
        port.draw(np.random.default_rng(0), (1, *size))
        for port, size in zip(function.inputs, [(3, 5, 3), (2,), (2,)], strict=True)
    )
    large = generator.clone(image_shape=(12, 20, 1), tileable=True)
    latents = np.concatenate([local.reshape(1, -1), fixed, phases], axis=1)
    expected = large.apply(variables, jnp.asarray(latents))
    np.testing.assert_allclose(run(local, fixed, phases)["image"], expected, atol=TOLERANCE)


@pytest.mark.usefixtures("one_shape")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["dncnn", "fsrcnn"])
def test_torch_weights(name):
    function = network(name)
    check_parity(function, run_torch_weights(to_torch_weights(function)))


@pytest.mark.slow
def test_command_writes_file_and_description(tmp_path, capsys):
    words = ["export", "--model", "sr-x2", "-o", str(tmp_path), "--format", "onnx"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(
        f"written: {tmp_path}/sr-x2.onnx, 0.05 MB, differs by"
    )
    found = json.loads((tmp_path / "sr-x2.onnx.json").read_text())
    assert found["inputs"][0]["shape"] == ["batch", 1, "height", "width"]
    assert found["outputs"][0]["shape"] == ["batch", 1, "2*height", "2*width"]
    assert found["bytes"] == (tmp_path / "sr-x2.onnx").stat().st_size
    shapes = [case["inputs"]["image"] for case in found["parity"]["cases"]]
    assert len({tuple(shape) for shape in shapes}) == 3
    assert max(case["max_difference"]["restored"] for case in found["parity"]["cases"]) < TOLERANCE
    assert main(words) == EXIT_INPUT_ERROR
    assert "exists; give --overwrite" in capsys.readouterr().err


@pytest.mark.usefixtures("one_shape")
def test_conditional_generator_has_variable_batch_and_labels(tmp_path):
    (file,) = export(zoo.load("digits-gan"), tmp_path, "stablehlo")
    inputs = {port["name"]: port for port in file.description["inputs"]}
    assert inputs["labels"] | {"meaning": ""} == {
        "name": "labels",
        "shape": ["batch"],
        "dtype": "int32",
        "meaning": "",
    }
    exported = jax.export.deserialize(bytearray(file.path.read_bytes()))
    latents = np.zeros((7, inputs["latents"]["shape"][1]), np.float32)
    images = exported.call(latents, np.arange(7, dtype=np.int32))["image"]
    assert images.shape[0] == 7
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


@pytest.mark.usefixtures("one_shape")
def test_stablehlo_runs_without_this_package(tmp_path):
    function = network("ffdnet")
    path = tmp_path / "network.stablehlo"
    path.write_bytes(to_stablehlo(function, "nhwc"))
    image, level = np.full((1, 26, 34, 1), 0.5, np.float32), np.full(1, 0.1, np.float32)
    np.savez(tmp_path / "inputs.npz", image=image, level=level)
    code = f"""
import sys, jax, numpy as np
given = np.load({str(tmp_path / "inputs.npz")!r})
exported = jax.export.deserialize(bytearray(open({str(path)!r}, "rb").read()))
np.save({str(tmp_path / "output.npy")!r}, exported.call(given["image"], given["level"])["restored"])
assert not any(name.startswith("deconv_jax") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    expected = function.apply(jnp.asarray(image), jnp.asarray(level))["restored"]
    np.testing.assert_allclose(np.load(tmp_path / "output.npy"), expected, atol=TOLERANCE)


def test_size_that_the_network_cannot_take_is_refused():
    run = run_stablehlo(to_stablehlo(network("ffdnet"), "nhwc"))
    with pytest.raises(ValueError, match="height"):
        run(np.zeros((1, 7, 8, 1), np.float32), np.zeros(1, np.float32))


def test_network_of_fixed_size_is_refused():
    module = models.FSRCNN(d=4, s=2, m=1)
    function = restoration_function(module, {"params": {}, "batch_stats": {}}, False, "name")
    fixed = dataclasses.replace(
        function, apply=lambda x: {"restored": jnp.zeros(max(x.shape[1:3]))}
    )
    with pytest.raises(InputError, match="name cannot be exported, because its network needs"):
        fixed.outputs()


@pytest.mark.usefixtures("one_shape")
@pytest.mark.parametrize("error", [1.0, np.nan])
def test_difference_is_an_error(error):
    function = network("ffdnet")
    function = dataclasses.replace(
        function, apply=lambda *x: {"first": jnp.zeros(()), **network("ffdnet").apply(*x)}
    )

    def run(*inputs):
        outputs = jax.device_get(function.apply(*inputs))
        return outputs | {"restored": outputs["restored"] + error}

    with pytest.raises(InputError, match="ffdnet differs from this package by"):
        check_parity(function, run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "unknown"], "no model 'unknown'"),
        (["--model", "sr-x2", "--format", "safetensors", "--layout", "nchw"], "--layout requires"),
        (["--model", "digits-gan", "--format", "safetensors"], "requires a restoration network"),
        (["--model", "sr-x2", "--checkpoint", "3"], "--checkpoint requires --workdir"),
    ],
)
def test_unusable_flags(words, message, tmp_path, capsys):
    assert main(["export", *words, "-o", str(tmp_path / "exported")]) == EXIT_INPUT_ERROR
    assert message in capsys.readouterr().err
    assert not (tmp_path / "exported").exists()


def test_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"requires onnxruntime; .*deconv_jax\[export\]"):
        export(zoo.load("sr-x2"), tmp_path, "onnx")
