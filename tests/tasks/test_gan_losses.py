"""Adversarial losses and penalties, against PyTorch; derivatives of derivatives, against lax."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax
from torch.nn import functional

from deconv_jax import ops
from deconv_jax.ops.collectives import DATA_AXIS
from deconv_jax.tasks.gan_losses import LOSSES, gradient_penalty, r1_penalty

RNG = np.random.default_rng(0)
EXTREME = np.array([0.0, 0.5, 1.0, -1.0, 80.0, -80.0], np.float32)
REAL = np.concatenate([RNG.normal(0.0, 3.0, 60).astype(np.float32), EXTREME])
FAKE = np.concatenate([RNG.normal(0.0, 3.0, 50).astype(np.float32), EXTREME])


def cross_entropy(logits, target):
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def squared_error(logits, target):
    return functional.mse_loss(logits, torch.full_like(logits, target))


def both_cross_entropies(real, fake):
    return cross_entropy(real, 1.0) + cross_entropy(fake, 0.0)


IN_TORCH = {
    "minimax": (both_cross_entropies, lambda fake: -cross_entropy(fake, 0.0)),
    "non_saturating": (both_cross_entropies, lambda fake: cross_entropy(fake, 1.0)),
    "least_squares": (
        lambda real, fake: 0.5 * (squared_error(real, 1.0) + squared_error(fake, 0.0)),
        lambda fake: 0.5 * squared_error(fake, 1.0),
    ),
    "hinge": (
        lambda real, fake: functional.relu(1 - real).mean() + functional.relu(1 + fake).mean(),
        lambda fake: -fake.mean(),
    ),
    "wasserstein": (lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean()),
}


def value_and_slopes(function, *arrays):
    """Of a function of PyTorch."""
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    value = function(*tensors)
    return value.item(), [s.numpy() for s in torch.autograd.grad(value, tensors)]


def test_all_losses_are_compared():
    assert set(IN_TORCH) == set(LOSSES)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_slopes_are_those_of_pytorch(name):
    """Neither overflows at logits of +-80; the slopes of kinks are left out by the logits drawn."""
    loss, (discriminator, generator) = LOSSES[name], IN_TORCH[name]
    real, fake = REAL[np.abs(REAL) != 1.0], FAKE[np.abs(FAKE) != 1.0]
    value, slopes = jax.value_and_grad(loss.discriminator, (0, 1))(real, fake)
    expected, expected_slopes = value_and_slopes(discriminator, real, fake)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for mine, theirs in zip(slopes, expected_slopes, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-8)
    value, slope = jax.value_and_grad(lambda x: jnp.mean(loss.generator(x)))(fake)
    expected, (expected_slope,) = value_and_slopes(generator, fake)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-5, atol=1e-8)
    for logits in (EXTREME, np.float32([80.0]), np.float32([-80.0])):
        assert np.isfinite(loss.discriminator(logits, logits))
        assert np.isfinite(loss.generator(logits)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_an_example_are_elementwise(name):
    loss = LOSSES[name]
    for part in (loss.on_real, loss.on_fake, loss.generator):
        whole = part(jnp.asarray(REAL))
        assert whole.shape == REAL.shape
        np.testing.assert_allclose(whole[::-1], part(jnp.asarray(REAL[::-1])), rtol=1e-6)


@pytest.mark.parametrize(("name", "boundary"), [("hinge", 0.0), ("least_squares", 0.5)])
def test_accuracies_are_counts_on_either_side_of_the_boundary(name, boundary):
    real, fake = LOSSES[name].accuracies(jnp.asarray(REAL), jnp.asarray(FAKE))
    assert real == pytest.approx(np.mean(boundary < REAL))
    assert fake == pytest.approx(np.mean(boundary > FAKE))


def test_accuracies_without_a_boundary_do_not_change_with_an_offset():
    real, fake = jnp.array([3.0, 4.0, 5.0, 0.0]), jnp.array([-1.0, 0.0, 1.0, 1.0])
    middle = 0.5 * (3.0 + 0.25)
    expected = [np.mean(np.asarray(real) > middle), np.mean(np.asarray(fake) < middle)]
    for offset in (0.0, 100.0, -7.0):
        accuracies = LOSSES["wasserstein"].accuracies(real + offset, fake + offset)
        np.testing.assert_allclose(accuracies, expected)
    for name, loss in LOSSES.items():
        assert (loss.boundary is None) == (name == "wasserstein")


@pytest.mark.parametrize("name", LOSSES)
def test_accuracies_of_shares_are_those_of_the_whole(name):
    """As under `pmap`: each device holds a share, here the lowest logits to the highest."""
    real, fake = (jnp.sort(jnp.asarray(logits[:48])) for logits in (REAL, FAKE))
    accuracies = LOSSES[name].accuracies
    of_shares = jax.vmap(accuracies, axis_name=DATA_AXIS)(real.reshape(4, 12), fake.reshape(4, 12))
    np.testing.assert_allclose(np.mean(of_shares, axis=1), accuracies(real, fake), rtol=1e-6)


# Penalties


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


PARAMS = {
    "first": draw(4, 4, 2, 3) * 0.3,
    "second": draw(3, 3, 3, 4) * 0.3,
    "dense": draw(4 * 4 * 4) * 0.3,
    "bias": draw(3),
}
IMAGES, OTHERS = draw(5, 8, 8, 2), draw(5, 8, 8, 2)
POSITION = RNG.random(5).astype(np.float32)


def judge(params, images):
    """A strided convolution, another, and a dense layer, leaky ReLUs between them."""
    x = ops.conv(images, params["first"], stride=2) + params["bias"].reshape(1, 1, 1, -1)
    x = ops.conv(jax.nn.leaky_relu(x, 0.2), params["second"])
    return jax.nn.leaky_relu(x, 0.2).reshape(len(x), -1) @ params["dense"]


def judge_in_torch(params, images):
    """The same; images (batch, height, width, channels)."""
    kernels = [params[name].permute(3, 2, 0, 1) for name in ("first", "second")]
    x = images.permute(0, 3, 1, 2)
    x = functional.conv2d(x, kernels[0], params["bias"], stride=2, padding=1)
    x = functional.conv2d(functional.leaky_relu(x, 0.2), kernels[1], padding=1)
    x = functional.leaky_relu(x, 0.2).permute(0, 2, 3, 1)
    return x.reshape(len(x), -1) @ params["dense"]


def squared_norms_in_torch(params, images):
    """By images in [-1, 1], as the papers have them; those given are in [0, 1]."""
    signed = (2 * images - 1).detach().requires_grad_()
    logits = judge_in_torch(params, (signed + 1) / 2)
    (slopes,) = torch.autograd.grad(logits.sum(), signed, create_graph=True)
    return slopes.square().sum((1, 2, 3))


def r1_in_torch(params):
    return 0.5 * squared_norms_in_torch(params, torch.tensor(IMAGES)).mean()


def gradient_penalty_in_torch(params):
    position = torch.tensor(POSITION)[:, None, None, None]
    between = position * torch.tensor(IMAGES) + (1 - position) * torch.tensor(OTHERS)
    return (squared_norms_in_torch(params, between).sqrt() - 1).square().mean()


PENALTIES = {
    "r1": (lambda logits: r1_penalty(logits, IMAGES), r1_in_torch),
    "gradient": (
        lambda logits: gradient_penalty(logits, IMAGES, OTHERS, jnp.asarray(POSITION)),
        gradient_penalty_in_torch,
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), PENALTIES.values(), ids=PENALTIES)
def test_penalties_and_their_gradients_are_those_of_pytorch(assert_trees_equal, ours, theirs):
    """The gradients by the weights are second derivatives of the network."""

    def penalty(params):
        return ours(lambda images: judge(params, images))

    value, gradients = jax.jit(jax.value_and_grad(penalty))(PARAMS)
    params = {name: torch.tensor(a, requires_grad=True) for name, a in PARAMS.items()}
    expected = theirs(params)
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    # Of the bias the penalty knows only where it bends the leaky ReLU, which no gradient sees.
    assert params["bias"].grad is None or not params["bias"].grad.any()
    np.testing.assert_array_equal(gradients.pop("bias"), 0.0)
    assert_trees_equal(gradients, {k: params[k].grad.numpy() for k in gradients}, relative=1e-5)


def test_a_penalty_of_a_linear_judge_is_the_length_of_its_weights_over_images_in_minus_1_to_1():
    weights = jnp.asarray(draw(8, 8, 2))

    def linear(images):
        return jnp.sum(images * weights[None], axis=(1, 2, 3)) + 3.0

    # Of a step of 1 in [0, 1] that in [-1, 1] is half.
    length = 0.5 * float(jnp.linalg.norm(weights))
    assert r1_penalty(linear, IMAGES) == pytest.approx(0.5 * length**2, rel=1e-5)
    penalty = gradient_penalty(linear, IMAGES, OTHERS, jnp.asarray(POSITION))
    assert penalty == pytest.approx((length - 1) ** 2, rel=1e-5)


def test_the_gradient_penalty_is_finite_where_the_judge_is_flat():
    def penalty(scale):
        return gradient_penalty(
            lambda x: scale * jnp.sum(x, axis=(1, 2, 3)), IMAGES, OTHERS, jnp.asarray(POSITION)
        )

    value, slope = jax.value_and_grad(penalty)(0.0)
    assert value == pytest.approx(1.0, rel=1e-5)
    assert np.isfinite(slope)


@pytest.mark.parametrize(("position", "expected"), [(0.0, OTHERS), (1.0, IMAGES)])
def test_positions_lead_from_the_generated_image_to_the_real_one(position, expected):
    """The gradient of the square of an image in [-1, 1] over four, x = (1 + y) / 2, is the image."""
    penalty = gradient_penalty(
        lambda x: jnp.sum(jnp.square(x), axis=(1, 2, 3)),
        IMAGES,
        OTHERS,
        jnp.full(5, position),
    )
    lengths = np.sqrt(np.sum(expected**2, axis=(1, 2, 3)))
    assert penalty == pytest.approx(np.mean((lengths - 1) ** 2), rel=1e-5)


# Derivatives of derivatives


SIZE = (8, 9)


def plain(x, kernel, stride, padding, dilation):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


GRID = [
    (kernel_size, stride, ("SAME", "VALID")[i % 2], dilation)
    for i, (kernel_size, stride, dilation) in enumerate(
        itertools.product((3, 4), (1, 2, 3), (1, 2))
    )
    if stride == 1 or dilation == 1 or kernel_size == 3
]


@pytest.mark.slow
@pytest.mark.parametrize(("kernel_size", "stride", "padding", "dilation"), GRID)
def test_slopes_of_squared_slopes_are_those_of_lax(kernel_size, stride, padding, dilation):
    """As a penalty takes them, of `conv` and of `conv_transpose`, by images and kernel."""
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    generator = np.random.default_rng(1)
    x, kernel = (
        generator.normal(size=(2, *SIZE, 2)),
        generator.normal(size=(kernel_size,) * 2 + (2, 3)),
    )
    shape = jax.eval_shape(lambda x, k: plain(x, k, **options), x, kernel).shape
    y = generator.normal(size=shape)

    def plain_transposed(y, kernel):
        return jax.linear_transpose(
            lambda x: plain(x, kernel, **options), jax.ShapeDtypeStruct(x.shape, y.dtype)
        )(y)[0]

    def ours_transposed(y, kernel):
        return ops.conv_transpose(y, kernel, output_size=SIZE, **options)

    def squared_slopes(operator):
        def penalty(images, kernel):
            slopes = jax.grad(lambda a: jnp.sum(jnp.tanh(operator(a, kernel))))(images)
            return jnp.sum(slopes**2)

        return jax.grad(penalty, (0, 1))

    @jax.jit
    def all_slopes(x, y, kernel):
        return (
            squared_slopes(lambda x, k: ops.conv(x, k, **options))(x, kernel),
            squared_slopes(ours_transposed)(y, kernel),
            squared_slopes(lambda x, k: plain(x, k, **options))(x, kernel),
            squared_slopes(plain_transposed)(y, kernel),
        )

    with jax.enable_x64(True):
        slopes = jax.tree.leaves(all_slopes(*map(jnp.asarray, (x, y, kernel))))
    assert slopes[1].dtype == np.float64
    for mine, native in zip(slopes[:4], slopes[4:], strict=True):
        np.testing.assert_allclose(mine, native, rtol=0, atol=1e-10 * np.abs(native).max())
