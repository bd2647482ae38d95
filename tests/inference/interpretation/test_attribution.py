"""Attribution methods equal Captum, a deconvnet in NumPy, and brute force."""

import functools

import captum.attr
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import torch

from deconv_jax.errors import InputError
from deconv_jax.inference.interpretation.attribution import (
    Target,
    backprojection,
    deconvnet,
    grad_cam,
    gradient,
    guided_backpropagation,
    integrated_gradients,
    occlusion,
    resize_to_images,
)
from deconv_jax.models import Classifier
from deconv_jax.models.layers import Activation, Conv
from deconv_jax.ops.weight_layouts import layer_to_torch

SIDES = (12, 16)
CLASSES = np.array([2, 0, 1])
NORMS = ["none", "batch"]


class Flatten(torch.nn.Module):
    """Flattens in the order of this library, with channels last."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


def build_torch(variables, norm):
    """Return the classifier in PyTorch, with the same weights."""
    params, layers = variables["params"], []
    for block in ("blocks_0", "blocks_1"):
        inputs, outputs = np.shape(params[block]["Conv_0"]["kernel"])[-2:]
        conv = torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm == "none")
        weights = layer_to_torch(params[block]["Conv_0"])
        conv.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
        layers.append(conv)
        if norm == "batch":
            layer = torch.nn.BatchNorm2d(outputs)
            learned = params[block]["Norm_0"]["BatchNorm_0"]
            counted = variables["batch_stats"][block]["Norm_0"]["BatchNorm_0"]
            values = {
                "weight": learned["scale"],
                "bias": learned["bias"],
                "running_mean": counted["mean"],
                "running_var": counted["var"],
            }
            values = {name: torch.tensor(np.asarray(value)) for name, value in values.items()}
            layer.load_state_dict(values, strict=False)
            layers.append(layer)
        layers += [torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    layers.append(Flatten())
    for name in ("to_embedding", "to_logits"):
        kernel, bias = (np.asarray(params[name][key]) for key in ("kernel", "bias"))
        dense = torch.nn.Linear(*kernel.shape)
        dense.load_state_dict({"weight": torch.tensor(kernel.T), "bias": torch.tensor(bias)})
        layers += [dense, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).eval()


def to_torch(images):
    return torch.tensor(np.moveaxis(np.asarray(images), -1, 1))


def from_torch(images):
    return np.moveaxis(images.detach().numpy(), 1, -1)


def assert_close(found, expected, relative=1e-5):
    size = np.abs(expected).max()
    assert size > 0
    assert np.abs(np.asarray(found) - expected).max() <= relative * size


def compiled(method, **options):
    return jax.jit(functools.partial(method, **options), static_argnums=0)


@pytest.fixture(scope="module", params=NORMS)
def both(request, random_variables, draw):
    """A classifier, its variables, images, and the same network in PyTorch."""
    model = Classifier(
        num_classes=3, features=(4, 5), convs_per_block=1, embedding_dim=7, norm=request.param
    )
    variables = random_variables(model, 2, size=SIDES)
    network = build_torch(variables, request.param)
    images = jnp.asarray(draw(3, *SIDES, 2) - 0.5)
    variables = jax.tree.map(jnp.asarray, variables)
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, network(to_torch(images)).detach(), atol=1e-5)
    return model, variables, images, network


def relus(network):
    return [layer for layer in network if isinstance(layer, torch.nn.ReLU)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "captum_method"),
    [
        (gradient, lambda net: captum.attr.Saliency(net)),
        (guided_backpropagation, captum.attr.GuidedBackprop),
        (deconvnet, captum.attr.Deconvolution),
        (integrated_gradients, captum.attr.IntegratedGradients),
    ],
)
# Captum warns that it sets hooks on the network's ReLUs.
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU:UserWarning")
def test_class_attributions_equal_captum(both, method, captum_method):
    model, variables, images, network = both
    options, relative = {"abs": False} if method is gradient else {}, 1e-5
    if method is integrated_gradients:
        options = {"method": "gausslegendre", "n_steps": 50}
        # On the path a ReLU's input may be zero up to rounding, which switches its gradient.
        relative = 1e-4
    inputs = to_torch(images).requires_grad_()
    expected = captum_method(network).attribute(inputs, target=torch.tensor(CLASSES), **options)
    found = compiled(method)(model, variables, images, Target(CLASSES))
    assert_close(found, from_torch(expected), relative)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "captum_method"),
    [
        (gradient, captum.attr.NeuronGradient),
        (guided_backpropagation, captum.attr.NeuronGuidedBackprop),
        (deconvnet, captum.attr.NeuronDeconvolution),
    ],
)
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU:UserWarning")
def test_unit_attributions_equal_captum(both, method, captum_method):
    model, variables, images, network = both
    row, column, feature = 2, 5, 3
    target = Target(feature, np.array([row, column]), layer="conv2")
    expected = captum_method(network, relus(network)[1]).attribute(
        to_torch(images).requires_grad_(), neuron_selector=(feature, row, column)
    )
    assert_close(compiled(method)(model, variables, images, target), from_torch(expected))


@pytest.mark.slow
@pytest.mark.parametrize(("window", "stride"), [((3, 4), (2, 3)), (5, 5)])
def test_occlusion_equals_captum(both, window, stride):
    model, variables, images, network = both
    sides, steps = (n if isinstance(n, tuple) else (n, n) for n in (window, stride))
    expected = captum.attr.Occlusion(network).attribute(
        to_torch(images),
        target=torch.tensor(CLASSES),
        sliding_window_shapes=(2, *sides),
        strides=(2, *steps),
        baselines=0.5,
    )
    occlude = compiled(occlusion, window=window, stride=stride)
    found = occlude(model, variables, images, Target(CLASSES))
    assert_close(found, from_torch(expected)[..., 0])


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1])
def test_grad_cam_equals_captum(both, place):
    model, variables, images, network = both
    layer = f"conv{place + 1}"
    found = compiled(grad_cam, layer=layer)(model, variables, images, Target(CLASSES))
    captum_method = captum.attr.LayerGradCam(network, relus(network)[place])
    expected = captum_method.attribute(
        to_torch(images), target=torch.tensor(CLASSES), relu_attributions=True
    )
    assert_close(found, from_torch(expected)[..., 0])
    enlarged = resize_to_images(images, found)
    assert enlarged.shape == (3, *SIDES)
    assert enlarged.max() <= found.max() * (1 + 1e-6)


def convolve(image, kernel):
    """Convolve (height, width, in) with (taps, taps, in, out), with padding "SAME"."""
    maps = [
        sum(scipy.signal.correlate2d(image[..., i], kernel[..., i, o], "same") for i in range(image.shape[-1]))
        for o in range(kernel.shape[-1])
    ]  # fmt: skip
    return np.stack(maps, axis=-1)


def convolve_transposed(maps, kernel):
    """Compute the transpose of `convolve`."""
    images = [
        sum(scipy.signal.convolve2d(maps[..., o], kernel[..., i, o], "same") for o in range(maps.shape[-1]))
        for i in range(kernel.shape[-2])
    ]  # fmt: skip
    return np.stack(images, axis=-1)


def max_pool(maps):
    """Return the maxima of 2x2 windows, and the switches: the index of each maximum in its window."""
    height, width, channels = maps.shape
    windows = maps.reshape(height // 2, 2, width // 2, 2, channels).swapaxes(1, 2)
    windows = windows.reshape(height // 2, width // 2, 4, channels)
    return windows.max(axis=2), windows.argmax(axis=2)


def unpool(maps, switches):
    height, width, channels = maps.shape
    whole = np.zeros((2 * height, 2 * width, channels))
    for row, column, channel in np.ndindex(maps.shape):
        down, across = divmod(switches[row, column, channel], 2)
        whole[2 * row + down, 2 * column + across, channel] = maps[row, column, channel]
    return whole


@pytest.mark.slow
@pytest.mark.parametrize("scaled", [False, True])
def test_deconvnet_rectifies_transposes_and_unpools(scaled, random_variables, draw):
    model = Classifier(features=(4, 5, 6), convs_per_block=1, embedding_dim=3, norm="none")
    variables = random_variables(model, 2, size=(16, 24))
    image = draw(16, 24, 2).astype(np.float64) - 0.5
    layers = [variables["params"][f"blocks_{n}"]["Conv_0"] for n in range(3)]
    kernels, biases = ([layer[name] for layer in layers] for name in ("kernel", "bias"))

    # Forward: convolve, rectify and pool, and keep the switches.
    maps, all_switches = image, []
    for place, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        maps = np.maximum(convolve(maps, kernel) + bias, 0)
        if place < 2:
            maps, switches = max_pool(maps)
            all_switches.append(switches)
    feature = int(maps.max(axis=(0, 1)).argmax())
    row, column = np.unravel_index(maps[..., feature].argmax(), maps.shape[:2])

    # Backward (arXiv:1311.2901, section 2.1): rectify, filter with the transposed kernel, unpool.
    signal = np.zeros(maps.shape)
    signal[row, column, feature] = maps[row, column, feature] if scaled else 1.0
    for place in (2, 1, 0):
        signal = convolve_transposed(np.maximum(signal, 0), kernels[place])
        if place:
            signal = unpool(signal, all_switches[place - 1])

    target = Target(feature, np.array([row, column]), layer="conv3")
    images = jnp.asarray(image[None], jnp.float32)
    weights = jax.tree.map(jnp.asarray, variables)
    project = compiled(backprojection, rule="deconvnet", start_from_activations=scaled)
    assert_close(project(model, weights, images, target)[0], signal)
    # It differs from the gradient.
    plain = compiled(backprojection, start_from_activations=scaled)(model, weights, images, target)[
        0
    ]
    assert np.abs(plain - signal).max() > 0.05 * np.abs(signal).max()


class Smooth(nn.Module):
    """A network with a smooth gradient."""

    @nn.compact
    def __call__(self, x):
        x = Activation("tanh")(Conv(4)(x))
        return jnp.mean(Activation("tanh")(Conv(3)(x)), (1, 2))


@pytest.mark.slow
def test_integrated_gradients_sum_to_the_difference_from_the_baseline(random_variables, draw):
    model = Smooth()
    variables = jax.tree.map(jnp.asarray, random_variables(model, 1))
    images, baseline = jnp.asarray(3 * draw(3, 8, 9, 1)), jnp.asarray(draw(8, 9, 1, seed=1))
    found = compiled(integrated_gradients, baseline=baseline)(
        model, variables, images, Target(CLASSES)
    )
    logits = jax.jit(model.apply)(variables, jnp.concatenate([images, baseline[None]]))
    differences = np.asarray([logits[i, c] - logits[3, c] for i, c in enumerate(CLASSES)])
    np.testing.assert_allclose(jnp.sum(found, (1, 2, 3)), differences, rtol=1e-4)
    # Pixels equal to the baseline have no attribution.
    same = compiled(integrated_gradients, baseline=baseline)(
        model, variables, baseline[None], Target(1)
    )
    np.testing.assert_array_equal(same, 0)
    # One step is the gradient halfway, times the difference.
    one = compiled(integrated_gradients, steps=1)(model, variables, images, Target(1))
    halfway = compiled(gradient)(model, variables, images / 2, Target(1))
    np.testing.assert_allclose(one, images * halfway, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("window", "stride"), [(2, 1), ((3, 2), (3, 1))])
def test_occlusion_is_the_mean_drop_over_the_windows_that_cover_a_pixel(
    window, stride, random_variables, draw
):
    model = Smooth()
    variables = jax.tree.map(jnp.asarray, random_variables(model, 1))
    images = jnp.asarray(draw(2, 7, 6, 1))
    fill = jnp.asarray(draw(7, 6, 1, seed=1))
    occlude = compiled(occlusion, window=window, stride=stride, fill=fill)
    found = occlude(model, variables, images, Target(2))
    (tall, wide), (down, across) = ((n, n) if isinstance(n, int) else n for n in (window, stride))
    total, count = np.zeros((2, 7, 6)), np.zeros((7, 6))
    apply = jax.jit(lambda images: model.apply(variables, images)[:, 2])
    for top in range(0, 7 - tall + down, down):
        for left in range(0, 6 - wide + across, across):
            where = np.s_[top : top + tall, left : left + wide]
            covered = np.array(images)
            covered[:, *where] = fill[where]
            total[:, *where] += np.asarray(apply(images) - apply(covered))[:, None, None]
            count[where] += 1
    np.testing.assert_allclose(found, total / count, atol=1e-6)


@pytest.mark.slow
def test_gradient_of_a_map_is_the_sum_over_its_units(both):
    model, variables, images, _ = both
    units = np.stack(np.mgrid[:6, :8], axis=-1).reshape(-1, 2)
    copies = jnp.repeat(images[:1], len(units), axis=0)
    each = compiled(gradient)(model, variables, copies, Target(1, units, layer="conv2"))
    whole = compiled(gradient)(model, variables, images[:1], Target(1, layer="conv2"))
    assert_close(each.sum(axis=0), np.asarray(whole[0]))


def test_each_image_has_its_own_target(both):
    model, variables, images, _ = both
    features, places = np.array([1, 4, 0]), np.array([[0, 1], [5, 7], [3, 0]])
    project = compiled(deconvnet)
    together = project(model, variables, images, Target(features, places, layer="conv2"))
    for i in range(3):
        target = Target(np.full(3, features[i]), np.tile(places[i], (3, 1)), layer="conv2")
        copies = jnp.repeat(images[i : i + 1], 3, axis=0)
        assert_close(together[i], np.asarray(project(model, variables, copies, target)[2]))


@pytest.mark.slow
def test_invalid_targets_and_arguments_are_refused(both):
    model, variables, images, _ = both

    def trace(method, *arguments, **options):
        """Trace the method, which checks everything except values."""
        jax.eval_shape(
            lambda *given: method(model, *given, *arguments, **options), variables, images
        )

    with pytest.raises(InputError, match="feature must be from 0 to 2; got 3"):
        gradient(model, variables, images, Target(3))
    with pytest.raises(InputError, match="position must be from 0 to 7; got 8"):
        gradient(model, variables, images, Target(0, np.array([0, 8]), layer="conv2"))
    with pytest.raises(InputError, match=r"a position in layer dense1 must be 0 indices"):
        trace(gradient, Target(0, np.array([0, 0]), layer="dense1"))
    with pytest.raises(InputError, match="Grad-CAM requires a layer with height and width"):
        trace(grad_cam, Target(0), layer="dense1")
    with pytest.raises(InputError, match="no rule 'deconv'; did you mean 'deconvnet'"):
        trace(backprojection, Target(0), "deconv")
    for window, stride in [(13, 1), (4, 5)]:
        with pytest.raises(InputError, match="window must be at most the image's"):
            trace(occlusion, Target(0), window=window, stride=stride)
    with pytest.raises(InputError, match="steps"):
        trace(integrated_gradients, Target(0), steps=0)
