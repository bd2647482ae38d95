"""`restore --weights`: networks of other codebases restore files, with the noise level if they take one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.cli import main
from deconv_jax.data.images.read import read_image
from deconv_jax.data.images.write import write_image
from deconv_jax.models import FFDNet, RRDBNet, SRVGGNet
from deconv_jax.models.weight_import import save_torch_weights


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "flags"),
    [
        (FFDNet(3, 2, 12), ["--noise-sigma", "25"]),
        (SRVGGNet(2, 3, 1, 4), []),
        (RRDBNet(2, 3, 1, 4, 2, unshuffle=2), []),
    ],
    ids=["ffdnet", "srvgg", "rrdb"],
)
def test_weights_restore_a_file(model, flags, tmp_path, random_variables, draw):
    conditional = jnp.full((1, 12, 16, 1 if flags else 0), 25 / 255)
    write_image(tmp_path / "a.png", draw(12, 16, 3))
    pixels = jnp.asarray(read_image(tmp_path / "a.png").pixels)
    images = jnp.concatenate([pixels[None], conditional], axis=-1)
    variables = random_variables(model, images.shape[-1])
    weights = tmp_path / "weights.safetensors"
    save_torch_weights(weights, model, variables["params"])
    arguments = ["--weights", weights, *flags, "--output", tmp_path / "out", tmp_path / "a.png"]
    assert main(["restore", *map(str, arguments)]) == 0
    written = read_image(tmp_path / "out" / "a.png").pixels
    expected = np.clip(jax.jit(model.apply)(variables, images)[0], 0, 1)
    np.testing.assert_allclose(written, expected, atol=0.51 / 255)
