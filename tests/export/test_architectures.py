"""Every architecture is exported and equals this package, or is refused."""

import dataclasses

import jax
import numpy as np
import pytest
from task_cases import ADAM, BOXES, CASES, LABELS, SHAPE

from deconv_jax import models
from deconv_jax.data.degradations import Downsample, GaussianNoise
from deconv_jax.errors import InputError
from deconv_jax.export.files import build
from deconv_jax.export.functions import model_functions, task_functions
from deconv_jax.tasks import Compression, Restoration


def restores(model, **options):
    degradation = Downsample(model.scale) if model.scale > 1 else GaussianNoise(25.0)
    return Restoration(model, degradation, ADAM, crop=12, **options)


def segments(model):
    return dataclasses.replace(CASES["segmentation"][0], model=model)


def generates(generator, discriminator=CASES["gan"][0].discriminator):
    return dataclasses.replace(
        CASES["gan"][0], generator=generator, discriminator=discriminator, gradient_penalty=0.0
    )


FCN = segments(
    models.FCN(3, features=(2, 2, 2, 2, 4), convs_per_block=1, top_features=4, norm="none")
)
DECONVNET = segments(models.DeconvNet(3, (4, 4), convs_per_block=1, bottleneck_features=4))
SRCNN = restores(models.SRCNN(features=(4, 3), kernel_sizes=(3, 1, 3)))
ONNX = {
    "autoencoder": CASES["autoencoding"][0],
    "centernet": CASES["detection"][0],
    "classifier": CASES["classification"][0],
    "conv_deconv": restores(models.ConvDeconv(features=(4, 3))),
    "dcgan_generator": CASES["gan"][0],
    "dncnn": restores(models.DnCNN(depth=4, features=4)),
    "espcn": restores(models.ESPCN(scale=3, features=(4, 3))),
    "factorized_codec": CASES["compression"][0],
    "ffdnet": restores(models.FFDNet(channels=3, depth=3, features=12), noise_conditional=True),
    "fsrcnn": restores(models.FSRCNN(scale=3, d=4, s=2, m=1)),
    "hyperprior_codec": Compression(
        models.HyperpriorCodec(1, features=4, latent_features=6), (0.01,), ADAM, crop=64
    ),
    "rednet": restores(models.REDNet(depth=4, features=4)),
    "resnet_generator": generates(models.ResNetGenerator(SHAPE, latent_dim=4, width=4)),
    "rrdbnet": restores(models.RRDBNet(scale=2, features=4, growth=2, blocks=1)),
    "srvggnet": restores(models.SRVGGNet(scale=2, depth=1, features=4)),
    "texture_generator": generates(
        models.TextureGenerator(SHAPE, 2, 2, local_dim=3, global_dim=2, periodic_dim=2),
        models.TextureDiscriminator(width=2),
    ),
    "unet": CASES["segmentation"][0],
    "vae": CASES["variational"][0],
}
STABLEHLO = {"deconvnet": DECONVNET, "fcn": FCN}
REFUSED = {"srcnn", "vqvae"}
JUDGES = {
    "dcgan_discriminator",
    "resnet_discriminator",
    "sngan_discriminator",
    "texture_discriminator",
}
"""Networks that only train others."""


def network(task):
    return getattr(task, "model", None) or task.generator


def functions(name, task):
    """Return the functions of a task with random weights; nothing is compiled."""
    channels = getattr(network(task), "channels", 1)
    shape = getattr(network(task), "image_shape", (32, 32, channels))
    arrays = {"image": (shape, "uint8"), "index": ((), "int32"), "segments": (shape[:2], "uint8")}
    arrays |= LABELS | BOXES
    batch = {name: jax.ShapeDtypeStruct((1, *s), dtype) for name, (s, dtype) in arrays.items()}
    state = jax.eval_shape(task.init, jax.random.key(0), batch)
    random = np.random.default_rng(0)

    def leaf(a):
        # Norms do something.
        spread = 0.1 if a.ndim == 1 else max(1, np.prod(a.shape[:-1])) ** -0.5
        return (float(a.ndim == 1) + random.normal(0.0, spread, a.shape)).astype(a.dtype)

    return task_functions(name, task, jax.tree.map(leaf, state.inference_variables()), batch)


def test_every_architecture_is_tested():
    assert ONNX.keys() | STABLEHLO.keys() | REFUSED | JUDGES == models.MODELS.keys()
    for name, task in (ONNX | STABLEHLO | {"srcnn": SRCNN}).items():
        assert type(network(task)) is models.MODELS[name]


@pytest.mark.usefixtures("one_shape")
@pytest.mark.slow
@pytest.mark.parametrize("name", ONNX)
def test_onnx(name):
    for function in functions(name, ONNX[name]):
        build(function, "onnx", "nchw")


@pytest.mark.usefixtures("one_shape")
@pytest.mark.slow
@pytest.mark.parametrize("name", STABLEHLO)
def test_stablehlo(name):
    for function in functions(name, STABLEHLO[name]):
        build(function, "stablehlo", "nhwc")


def test_srcnn_is_refused_because_its_interpolation_needs_the_size():
    (function,) = functions("srcnn", SRCNN)
    with pytest.raises(
        InputError, match=r"srcnn cannot be exported, .* know the size of the image"
    ):
        build(function, "stablehlo", "nhwc")


def test_onnx_of_deconvnet_is_refused_because_of_its_unpooling():
    (function,) = functions("deconvnet", DECONVNET)
    with pytest.raises(InputError, match="does not support the operation scatter-add"):
        build(function, "onnx", "nchw")


def test_vector_quantization_is_refused(saved_run):
    example = {"image": (SHAPE, "uint8"), "index": ((), "int32")}
    model = {"name": "vqvae", "image_shape": SHAPE, "features": (4, 4), "latent_dim": 3}
    workdir, _ = saved_run({"name": "vector_quantization", "model": model}, example)
    with pytest.raises(InputError, match="is a run of VectorQuantization; expected a run of Rest"):
        model_functions(workdir)
