"""Receptive fields equal the measured dependencies of layers and networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import config as jaxtyping_config

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.models import (
    ESPCN,
    FSRCNN,
    SRCNN,
    ConvDeconv,
    DnCNN,
    FFDNet,
    REDNet,
    RRDBNet,
    SRVGGNet,
    UNet,
)
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker

BUMP = 1e6


def ones(*kernel_size):
    return jnp.ones((*kernel_size, 1, 1))


def conv(size, stride=1, dilation=1, padding=None):
    sides = "SAME" if padding is None else ((0, 0), (padding, padding))
    options = {"stride": (1, stride), "dilation": (1, dilation), "padding": sides}
    return (
        lambda tracker: tracker.conv(size, stride, dilation, padding),
        lambda x: ops.conv(x, ones(1, size), **options),
    )


def deconv(size, stride, padding=None):
    """Return a transposed convolution that multiplies the size by `stride` for any padding."""
    options = {"stride": (1, stride)}
    if padding is not None:
        options |= {"padding": ((0, 0), (padding, padding)), "output_padding": (0, stride - 1)}
    return (
        lambda tracker: tracker.conv_transpose(size, stride, padding),
        lambda x: ops.conv_transpose(x, ones(1, size), **options),
    )


def nearest(factor):
    return (
        lambda tracker: tracker.enlarge(factor),
        lambda x: ops.resize(x, (x.shape[1], factor * x.shape[2]), method="nearest"),
    )


def bicubic(factor):
    return (
        lambda tracker: tracker.bicubic(factor),
        lambda x: ops.imresize(x, (1, factor)),
    )


def intervals(images_to_outputs, width):
    """Measure the first and last input column that each output column depends on.

    Every column of an image of ones is increased in turn. The function must be monotonic, so that
    changes do not cancel.
    """
    raised = jnp.ones((width, 1, width, 1)) + BUMP * jnp.eye(width).reshape(width, 1, width, 1)
    images = jnp.concatenate([raised, jnp.ones((1, 1, width, 1))])
    outputs = np.asarray(images_to_outputs(images), np.float64)
    changed = np.any(np.abs(outputs[:-1] - outputs[-1:]) > 1e-6, axis=(1, 3))
    assert np.all(np.any(changed, axis=0))
    return np.argmax(changed, axis=0), width - 1 - np.argmax(changed[::-1], axis=0)


LAYERS = [
    [conv(5)],
    [conv(4), conv(1)],
    [conv(3, dilation=3)],
    [conv(4, stride=2), conv(3)],
    [conv(5, stride=3, padding=2), conv(2, stride=2)],
    [deconv(9, 2, 4)],
    [deconv(9, 3, 4)],
    [deconv(9, 4, 4), conv(3)],
    [deconv(5, 2), deconv(4, 3)],
    [conv(3, stride=2), conv(3), deconv(4, 2)],
    [conv(2, stride=2), deconv(3, 3), conv(3)],
    [nearest(3), conv(4)],
    [nearest(2), conv(3, stride=3), nearest(3)],
    [bicubic(2), conv(3)],
    [bicubic(3)],
    [bicubic(4), conv(2, stride=2)],
]


@pytest.mark.slow
@pytest.mark.parametrize("layers", LAYERS)
def test_layers_depend_on_exactly_the_tracked_pixels(layers):
    width = 48
    tracker = ReceptiveFieldTracker()
    for traced, _ in layers:
        tracker = traced(tracker)

    def outputs(x):
        for _, applied in layers:
            x = applied(x)
        return x

    first, last = intervals(outputs, width)
    period = len(tracker.first_input)
    assert len(first) == width * period // tracker.input_period
    inner = 0
    for pixel in range(len(first)):
        count, phase = divmod(pixel, period)
        expected = (
            tracker.first_input[phase] + count * tracker.input_period,
            tracker.last_input[phase] + count * tracker.input_period,
        )
        if expected[0] >= 0 and expected[1] < width:
            inner += 1
            assert (first[pixel], last[pixel]) == expected
    assert inner > len(first) // 2


def test_joined_paths_have_the_union_of_their_fields():
    narrow, wide = (
        ReceptiveFieldTracker().conv(1),
        ReceptiveFieldTracker().conv(2, stride=2).conv(3).conv_transpose(2, 2),
    )
    both = narrow.join(wide)
    assert both == wide.join(narrow)
    assert both.receptive_field() == ReceptiveField(before=3, after=3, multiple=2)
    assert ReceptiveFieldTracker().conv(5).join(wide).receptive_field() == ReceptiveField(3, 3, 2)
    assert ReceptiveFieldTracker().conv(9).join(wide).receptive_field() == ReceptiveField(4, 4, 2)


@pytest.fixture
def unchecked(monkeypatch):
    """Disables the runtime type checks, which only tests have."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ReceptiveFieldTracker().join(ReceptiveFieldTracker().conv(2, stride=2)),
            "1 pixels for 1 input pixels and 1 for 2",
        ),
        (lambda: ReceptiveFieldTracker().conv(2, stride=2).receptive_field(), "got 1 pixels for 2"),
        (lambda: ReceptiveFieldTracker().conv_transpose(2, 3), "kernel_size must be at least 3"),
        (lambda: ReceptiveFieldTracker().conv(0), "kernel_size"),
        (lambda: ReceptiveFieldTracker().conv(3, stride=0), "stride"),
        (lambda: ReceptiveFieldTracker().enlarge(0), "factor"),
        (lambda: ReceptiveFieldTracker().bicubic(0), "factor"),
        (lambda: ReceptiveFieldTracker().upsample(2, "pixel", 3), "no upsampling 'pixel'"),
    ],
)
def test_invalid_layers_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


NETWORKS = {
    "conv_deconv": ConvDeconv(features=(2, 3)),
    "conv_deconv-2": ConvDeconv(features=(2, 3), stride=2, kernel_size=3),
    "srcnn-2": SRCNN(scale=2, features=(2, 2), kernel_sizes=(5, 3, 3)),
    "srcnn-3": SRCNN(scale=3, features=(2, 2)),
    "fsrcnn-2": FSRCNN(scale=2, d=3, s=2, m=1),
    "fsrcnn-3": FSRCNN(scale=3, d=3, s=2, m=2),
    "fsrcnn-4-subpixel": FSRCNN(scale=4, d=3, s=2, m=1, upsampling="subpixel"),
    "fsrcnn-3-resize": FSRCNN(scale=3, d=3, s=2, m=1, upsampling="resize"),
    "espcn-3": ESPCN(scale=3, features=(3, 2)),
    "espcn-2-transposed": ESPCN(scale=2, features=(3, 2), upsampling="transposed"),
    "espcn-2-resize": ESPCN(scale=2, features=(3, 2), upsampling="resize"),
    "dncnn": DnCNN(depth=4, features=3),
    "ffdnet": FFDNet(depth=3, features=5),
    "rednet": REDNet(depth=6, features=3),
    "dncnn-dilated": DnCNN(depth=3, features=3, norm="none", dilations=(1, 3, 2)),
    "rednet-2": REDNet(depth=4, features=3, stride=2, add_after_relu=True),
    "espcn-2-deep": ESPCN(scale=2, features=(3, 2, 2)),
    "srvgg-3": SRVGGNet(scale=3, channels=1, depth=1, features=3),
    "unet": UNet(features=(4, 6, 8)),
    "unet-subpixel": UNet(features=(2, 3), upsampling="subpixel", norm="batch"),
}
on_networks = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


@pytest.mark.slow
@on_networks
def test_network_depends_on_exactly_its_receptive_field(network, random_variables, apply):
    """With positive weights a network is monotonic, so that the effects of a pixel do not cancel."""
    field = network.receptive_field()
    multiple, width = field.multiple, field.before + field.after + 4
    width += -width % multiple
    variables = random_variables(network, jnp.ones((1, multiple, width, 1)))

    def mean_weight(leaf):
        return jnp.full_like(leaf, 1.0 / np.prod(leaf.shape[:-1]) if leaf.ndim == 4 else 1.0)

    params = jax.tree.map(mean_weight, variables["params"])
    statistics = jax.tree.map(jnp.ones_like, variables.get("batch_stats", {}))

    def outputs(columns):
        images = jnp.broadcast_to(columns, (len(columns), multiple, width, 1))
        return apply(network, {"params": params, "batch_stats": statistics}, images)

    first, last = intervals(outputs, width)
    assert len(first) == width * network.scale == width * field.scale
    position = np.arange(len(first)) // field.scale
    # The border only shortens intervals, so the maximum to each side is reached inside the image.
    assert np.max(position - first) == field.before
    assert np.max(last - position) == field.after


def overlapping_outputs(network, start, random_variables, apply):
    """Return the same part of the outputs of two crops of an image, the second `start` columns later.

    The part is what does not depend on the left border of the second crop or the right one of the first.
    """
    field = network.receptive_field()
    size = start + field.before + field.after + 6
    size += -size % field.multiple
    rows = 6 + -6 % field.multiple
    image = np.random.default_rng(0).random((rows, size + start, 1), np.float32)
    crops = jnp.asarray(np.stack([image[:, :size], image[:, start:]]))
    first, second = apply(network, random_variables(network, crops), crops)
    before, after = field.scale * field.before, field.scale * (size - field.after)
    shift = field.scale * start
    return first[:, before + shift : after], second[:, before : after - shift]


# Its scaled residuals hide the effect of the most distant pixels.
RRDB = {"rrdb": RRDBNet(2, channels=1, blocks=1, features=3, growth=2, unshuffle=2)}


@pytest.mark.slow
@pytest.mark.parametrize("network", (NETWORKS | RRDB).values(), ids=NETWORKS | RRDB)
def test_aligned_crops_agree_where_their_borders_have_no_effect(network, random_variables, apply):
    field = network.receptive_field()
    start = 3 + -3 % field.multiple
    first, second = overlapping_outputs(network, start, random_variables, apply)
    np.testing.assert_allclose(first, second, atol=2e-6 * float(jnp.max(jnp.abs(first))))


def test_unaligned_crops_differ(random_variables, apply):
    network = NETWORKS["unet"]
    first, second = overlapping_outputs(network, 2, random_variables, apply)
    assert jnp.max(jnp.abs(first - second)) > 1e-3


def test_group_norm_has_no_receptive_field():
    with pytest.raises(InputError, match="group"):
        UNet(norm="group").receptive_field()
