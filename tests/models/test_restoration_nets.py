"""Restoration networks: sizes and wiring of the papers, residuals, folding of batch norm, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import config as jaxtyping_config

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.models import (
    ESPCN,
    FSRCNN,
    MODELS,
    SRCNN,
    Autoencoder,
    ConvDeconv,
    DnCNN,
    FFDNet,
    REDNet,
    RRDBNet,
    SRVGGNet,
    UNet,
    rrdb,
)
from deconv_jax.models.dncnn import IRCNN_DILATIONS, fold_batch_norm
from deconv_jax.models.layers import PReLU
from deconv_jax.models.receptive_field import ReceptiveField

KEY = jax.random.key(0)
RESTORERS = {name: model for name, model in MODELS.items() if hasattr(model, "scale")}
ENLARGING = ("srcnn", "fsrcnn", "espcn", "rrdbnet", "srvggnet")


def images(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).random(shape, np.float32))


def shapes(model, *shape):
    """Return the shapes of the variables and of the output."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(model.init, KEY, x)
    return variables, jax.eval_shape(model.apply, variables, x).shape


def weights(model):
    """Count the weights of the kernels; the papers do not count biases and slopes."""
    x = jax.ShapeDtypeStruct((1, 8, 8, model.channels), jnp.float32)
    leaves = jax.tree.leaves(jax.eval_shape(model.init, KEY, x)["params"])
    return sum(leaf.size for leaf in leaves if leaf.ndim == 4)


RRDB_BLOCK = 3 * 9 * (32 * (64 + 96 + 128 + 160) + 64 * 192)
"""Number of weights of a block of RealESRGAN_x4plus, which has 23."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "count"),
    [
        (SRCNN(), 8_032),  # arXiv:1501.00092, section 4.3.1
        (SRCNN(kernel_sizes=(9, 5, 5)), 57_184),
        *((FSRCNN(scale=scale), 12_464) for scale in (2, 3, 4)),  # arXiv:1608.00367, table 1
        (FSRCNN(d=32, s=5, m=1), 3_937),
        (ESPCN(scale=3), 25 * 64 + 9 * 64 * 32 + 9 * 32 * 9),
        (DnCNN(), 9 * (64 + 15 * 64**2 + 64)),
        (DnCNN(channels=3, depth=20), 9 * (3 * 64 + 18 * 64**2 + 64 * 3)),
        (REDNet(), 9 * (64 + 28 * 64**2 + 64)),
        (REDNet(depth=10), 9 * (64 + 8 * 64**2 + 64)),
        (SRVGGNet(), 9 * (3 * 64 + 16 * 64**2 + 64 * 48)),
        # The parameters of RealESRGAN_x4plus without biases, and with one block.
        (RRDBNet(blocks=1), 16_697_987 - 13_571 - 22 * RRDB_BLOCK),
    ],
)
def test_weight_counts_equal_the_papers(model, count):
    assert weights(model) == count


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_upsampling_methods_have_comparable_weight_counts(scale):
    espcn = {weights(ESPCN(scale, upsampling=m)) for m in ("transposed", "subpixel", "resize")}
    assert len(espcn) == 1
    paper = weights(FSRCNN(scale))
    assert weights(FSRCNN(scale, upsampling="resize")) == paper
    taps = {2: 5, 3: 3, 4: 3}[scale]
    more = 56 * ((taps * scale) ** 2 - 81)
    assert weights(FSRCNN(scale, upsampling="subpixel")) == paper + more


@pytest.mark.slow
@pytest.mark.parametrize("size", [(9, 14), (12, 7)])
@pytest.mark.parametrize("name", RESTORERS)
def test_networks_accept_any_size_and_conditioning_maps(name, size):
    """Two conditioning maps follow the three image channels."""
    options = {"scale": 4} if name in ENLARGING else {}
    if name == "conv_deconv":
        options["stride"] = 2
    if name == "rrdbnet":
        options["blocks"] = 1
    model = RESTORERS[name](channels=3, **options)
    size = (
        tuple(n + -n % model.receptive_field().multiple for n in size) if name == "unet" else size
    )
    _, output = shapes(model, 2, *size, 5)
    assert output == (2, *(model.scale * n for n in size), 3)
    assert model.scale == options.get("scale", 1)
    assert model.receptive_field().scale == model.scale


@pytest.mark.parametrize("name", RESTORERS)
def test_too_few_channels_are_refused(name):
    with pytest.raises(InputError, match="images of 3 channels"):
        shapes(RESTORERS[name](channels=3), 1, 8, 8, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        ConvDeconv(features=(8, 8), kernel_size=3),
        DnCNN(depth=3, features=8),
        FFDNet(depth=3, features=8),
        REDNet(depth=2, features=8),
        UNet(features=(8,)),
    ],
    ids=["conv_deconv", "dncnn", "ffdnet", "rednet", "unet"],
)
def test_residual_networks_start_near_the_identity(model, apply):
    """But not at it: the last layer has nonzero weights, so that the others have a gradient."""
    x = images(2, 8, 8, 1)
    restored = apply(model, jax.jit(model.init)(KEY, x), x)
    assert 0 < jnp.sqrt(jnp.mean((restored - x) ** 2)) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kind", [ConvDeconv, UNet])
def test_residual_adds_the_image(kind, residual, random_variables, apply):
    x = images(1, 8, 8, 2)
    model = kind(features=(4, 4), residual=residual)
    variables = random_variables(model, x)
    nothing = jax.tree.map(jnp.zeros_like, variables)
    expected = x[..., :1] if residual else jnp.zeros_like(x[..., :1])
    np.testing.assert_array_equal(apply(model, nothing, x), expected)


def test_srcnn_convolves_the_bicubic_image(random_variables, apply):
    x = images(1, 5, 6, 1)
    variables = random_variables(SRCNN(scale=2), x)
    large = ops.imresize(x, 2)
    same = apply(SRCNN(scale=1), variables, large)
    np.testing.assert_allclose(apply(SRCNN(scale=2), variables, x), same, atol=1e-6)


@pytest.mark.parametrize("scale", [2, 3])
def test_subpixel_convolution_equals_a_transposed_convolution(scale, random_variables, apply):
    """Its kernel has size `3 * scale` and the same weights, permuted."""
    x = images(1, 6, 7, 2)
    model = ESPCN(scale, channels=2, features=(4, 3))
    params = random_variables(model, x)["params"]
    kernel = np.asarray(params["upsample"]["kernel"])
    blocks = np.zeros((3, scale, 3, scale, 2, 3), np.float32)
    for row, column in np.ndindex(3, 3):
        # The weight for the pixel above is that with which the pixel contributes to the block below
        # it.
        taps = kernel[row, column].reshape(3, 2, scale, scale)
        blocks[2 - row, :, 2 - column] = taps.transpose(2, 3, 1, 0)
    large = blocks.reshape(3 * scale, 3 * scale, 2, 3)
    bias = np.array([0.5, -1.0], np.float32)
    params["upsample"] = {"kernel": kernel, "bias": np.repeat(bias, scale**2)}
    others = params | {"upsample": {"kernel": large, "bias": bias}}
    transposed = ESPCN(scale, 2, (4, 3), upsampling="transposed")
    np.testing.assert_allclose(
        apply(transposed, {"params": others}, x), apply(model, {"params": params}, x), atol=1e-5
    )


def test_prelu_equals_pytorch():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    slope = np.linspace(-0.5, 1.5, 5, dtype=np.float32)
    expected = F.prelu(torch.tensor(x).movedim(-1, 1), torch.tensor(slope)).movedim(1, -1)
    actual = PReLU().apply({"params": {"slope": slope}}, jnp.asarray(x))
    np.testing.assert_array_equal(actual, expected.numpy())
    started = PReLU().init(KEY, jnp.asarray(x))["params"]["slope"]
    np.testing.assert_array_equal(started, torch.nn.PReLU(5).weight.detach().numpy())


@pytest.mark.parametrize(("depth", "skip_every"), [(6, 2), (8, 2), (10, 3)])
def test_rednet_has_the_skips_of_the_paper(depth, skip_every, random_variables, apply):
    """Every second convolution's output is added to that of the transposed convolution of its level."""
    x = images(1, 7, 9, 1)
    model = REDNet(depth=depth, features=5, skip_every=skip_every)
    params = random_variables(model, x)["params"]
    torch_params = {
        name: {key: torch.tensor(value) for key, value in ops.layer_to_torch(layer).items()}
        for name, layer in params.items()
    }
    half = depth // 2
    image = h = torch.tensor(np.asarray(x)).movedim(-1, 1)
    kept = {}
    for i in range(1, half + 1):
        h = F.relu(F.conv2d(h, **torch_params[f"conv_{i}"], padding=1))
        kept[i] = h
    for i in range(half, 0, -1):
        h = F.conv_transpose2d(h, **torch_params[f"deconv_{i}"], padding=1)
        if i > 1:
            # It mirrors convolution i, whose input is the output of convolution i - 1.
            h = F.relu(h + kept[i - 1] if (i - 1) % skip_every == 0 else h)
    expected = (image + h).movedim(1, -1).numpy()
    np.testing.assert_allclose(apply(model, {"params": params}, x), expected, atol=1e-5)


@pytest.mark.slow
def test_tiles_of_an_rrdbnet_approximate_the_whole_output(apply, monkeypatch):
    """The receptive field is larger than the overlap, but distant pixels have little effect."""
    monkeypatch.setattr(rrdb, "TILE_OVERLAP", 5)
    model = RRDBNet(scale=1, channels=1, blocks=1, features=4, growth=2)
    assert model.receptive_field().before == 5
    x = images(1, 4, 24, 1)
    variables = jax.jit(model.init)(KEY, x)
    whole = apply(model, variables, x)[:, :, 9:]
    tile = apply(model, variables, x[:, :, 4:])[:, :, 5:]
    assert 0 < jnp.max(jnp.abs(tile - whole)) < 1e-3 * jnp.max(jnp.abs(whole))


def test_the_overlap_of_a_deep_rrdbnet_is_limited():
    assert RRDBNet(scale=2, unshuffle=2).receptive_field().before == 2 * rrdb.TILE_OVERLAP


def test_rrdbnet_scales_are_powers_of_two():
    with pytest.raises(InputError, match="a power of two; got scale=3 and unshuffle=1"):
        RRDBNet(scale=3).receptive_field()


def test_dncnn_takes_a_dilation_for_each_layer():
    field = DnCNN(depth=7, dilations=IRCNN_DILATIONS).receptive_field()
    assert field.before == field.after == sum(IRCNN_DILATIONS)
    with pytest.raises(InputError, match="one number for each of 3 layers"):
        DnCNN(depth=3, dilations=(1, 2)).receptive_field()


def test_rednet_has_stride_one_or_two():
    with pytest.raises(InputError, match="stride must be 1 or 2; got 3"):
        REDNet(stride=3).receptive_field()


def test_espcn_has_hidden_layers():
    with pytest.raises(InputError, match="features must have at least one number"):
        ESPCN(features=()).receptive_field()


@pytest.mark.parametrize("size", [(8, 10), (6, 8)])
def test_unet_refuses_indivisible_sizes(size):
    with pytest.raises(InputError, match=f"{size[0]}x{size[1]} pixels .* multiples of 4"):
        shapes(UNet(), 1, *size, 1)


@pytest.mark.parametrize("upsampling", ["transposed", "subpixel", "resize"])
def test_unet_levels_have_the_expected_kernels(upsampling):
    model = UNet(features=(4, 8, 16), upsampling=upsampling)
    variables, output = shapes(model, 1, 8, 12, 2)
    kernel = variables["params"]["Upsample_0"]["kernel"]
    assert output == (1, 8, 12, 1)
    assert kernel.shape == ops.upsample_kernel_shape(
        upsampling, 4 if upsampling == "transposed" else 3, 16, 8, 2
    )
    # The upsampled map is concatenated with a skip of equally many channels.
    assert variables["params"]["_ConvBlock_6"]["Conv_0"]["kernel"].shape == (3, 3, 16, 8)
    assert model.receptive_field().multiple == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("normalized", "plain", "shape"),
    [
        (DnCNN(depth=4, features=6), DnCNN(depth=4, features=6, norm="none"), (2, 7, 9, 1)),
        (
            UNet(features=(4, 6), norm="batch"),
            UNet(features=(4, 6), norm="none"),
            (1, 6, 8, 1),
        ),
        (
            Autoencoder((8, 8, 1), features=(4, 6), latent="map"),
            Autoencoder((8, 8, 1), features=(4, 6), latent="map", norm="none"),
            (1, 8, 8, 1),
        ),
    ],
    ids=["dncnn", "unet", "transposed"],
)
def test_folding_batch_norm_keeps_the_output(
    normalized, plain, shape, random_variables, apply, assert_trees_equal
):
    x = images(*shape)
    variables = random_variables(normalized, x)
    before = jax.tree.map(np.array, variables)
    folded = fold_batch_norm(variables["params"], variables["batch_stats"])
    assert_trees_equal(variables, before)
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(
        jnp.shape, jax.eval_shape(plain.init, KEY, x)["params"]
    )
    expected = apply(normalized, variables, x)
    np.testing.assert_allclose(apply(plain, {"params": folded}, x), expected, atol=2e-5)


def test_unfoldable_normalizations_are_named(random_variables):
    x = images(1, 8, 8, 1)
    batch = random_variables(DnCNN(depth=3, features=4), x)
    group = random_variables(UNet(features=(4,), norm="group"), x)
    with pytest.raises(InputError, match="Norm_0"):
        fold_batch_norm(batch["params"], {})
    with pytest.raises(InputError, match="Norm_0"):
        fold_batch_norm(group["params"], {})
    four = np.ones(4, np.float32)
    grouped = {"kernel": np.ones((3, 3, 2, 4), np.float32)}
    params = {"ConvTranspose_0": grouped, "Norm_0": {"BatchNorm_0": {"scale": four, "bias": four}}}
    with pytest.raises(InputError, match="without groups"):
        fold_batch_norm(params, {"Norm_0": {"BatchNorm_0": {"mean": four, "var": four}}})


def test_fsrcnn_has_the_published_alignment():
    """The deconvolution's kernel is centered at the first pixel of a block, so the field is asymmetric."""
    assert FSRCNN(scale=3).receptive_field() == ReceptiveField(7, 8, multiple=1, scale=3)
    assert FSRCNN(scale=3, m=0).receptive_field() == ReceptiveField(3, 4, multiple=1, scale=3)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (ConvDeconv, {"kernel_size": 4}, "kernel_size must be odd; got 4"),
        (ConvDeconv, {"stride": 3}, "stride must be 1 or 2; got 3"),
        (REDNet, {"depth": 7}, "depth must be even"),
        (REDNet, {"skip_every": 0}, "skip_every"),
        (DnCNN, {"depth": 1}, "depth"),
        (FSRCNN, {"scale": 0}, "scale"),
        (FSRCNN, {"upsampling": "pixel"}, "pixel"),
        (ESPCN, {"scale": 0}, "scale"),
        (ESPCN, {"upsampling": "pixel"}, "pixel"),
        (SRCNN, {"scale": 0}, "scale|factor"),
        (UNet, {"features": ()}, "features"),
        (UNet, {"upsampling": "pixel"}, "pixel"),
    ],
)
def test_attributes_out_of_range_are_named(kind, fields, message, monkeypatch):
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    model = kind(**fields)
    with pytest.raises(InputError, match=message):
        shapes(model, 1, 8, 8, 1)
    if kind is not DnCNN:
        with pytest.raises(InputError, match=message):
            model.receptive_field()
