"""Adversarial losses and penalties against PyTorch; second derivatives against lax."""

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


TORCH_LOSSES = {
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


def torch_value_and_gradients(function, *arrays):
    """Return the value and the gradients of a PyTorch function."""
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    value = function(*tensors)
    return value.item(), [s.numpy() for s in torch.autograd.grad(value, tensors)]


def test_all_losses_have_a_reference():
    assert set(TORCH_LOSSES) == set(LOSSES)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_equal_pytorch(name):
    """Logits of +-80 do not overflow. Logits at the kinks of the hinge loss are excluded."""
    loss, (discriminator, generator) = LOSSES[name], TORCH_LOSSES[name]
    real, fake = REAL[np.abs(REAL) != 1.0], FAKE[np.abs(FAKE) != 1.0]
    value, gradients = jax.value_and_grad(loss.discriminator, (0, 1))(real, fake)
    expected, expected_gradients = torch_value_and_gradients(discriminator, real, fake)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-8)
    value, gradient = jax.value_and_grad(lambda x: jnp.mean(loss.generator(x)))(fake)
    expected, (expected_gradient,) = torch_value_and_gradients(generator, fake)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-8)
    for logits in (EXTREME, np.float32([80.0]), np.float32([-80.0])):
        assert np.isfinite(loss.discriminator(logits, logits))
        assert np.isfinite(loss.generator(logits)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_per_example_losses_are_elementwise(name):
    loss = LOSSES[name]
    for part in (loss.on_real, loss.on_fake, loss.generator):
        whole = part(jnp.asarray(REAL))
        assert whole.shape == REAL.shape
        np.testing.assert_allclose(whole[::-1], part(jnp.asarray(REAL[::-1])), rtol=1e-6)


@pytest.mark.parametrize(("name", "boundary"), [("hinge", 0.0), ("least_squares", 0.5)])
def test_accuracies_count_logits_on_each_side_of_the_boundary(name, boundary):
    real, fake = LOSSES[name].accuracies(jnp.asarray(REAL), jnp.asarray(FAKE))
    assert real == pytest.approx(np.mean(boundary < REAL))
    assert fake == pytest.approx(np.mean(boundary > FAKE))


def test_accuracies_without_boundary_are_invariant_to_offsets():
    real, fake = jnp.array([3.0, 4.0, 5.0, 0.0]), jnp.array([-1.0, 0.0, 1.0, 1.0])
    middle = 0.5 * (3.0 + 0.25)
    expected = [np.mean(np.asarray(real) > middle), np.mean(np.asarray(fake) < middle)]
    for offset in (0.0, 100.0, -7.0):
        accuracies = LOSSES["wasserstein"].accuracies(real + offset, fake + offset)
        np.testing.assert_allclose(accuracies, expected)
    for name, loss in LOSSES.items():
        assert (loss.boundary is None) == (name == "wasserstein")


@pytest.mark.parametrize("name", LOSSES)
def test_accuracies_on_several_devices_equal_one(name):
    """As under `pmap`; the logits are sorted, so each device has a different range."""
    real, fake = (jnp.sort(jnp.asarray(logits[:48])) for logits in (REAL, FAKE))
    accuracies = LOSSES[name].accuracies
    on_devices = jax.vmap(accuracies, axis_name=DATA_AXIS)(real.reshape(4, 12), fake.reshape(4, 12))
    np.testing.assert_allclose(np.mean(on_devices, axis=1), accuracies(real, fake), rtol=1e-6)


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


def discriminate(params, images):
    """Apply two convolutions and a dense layer with leaky ReLUs in between."""
    x = ops.conv(images, params["first"], stride=2) + params["bias"].reshape(1, 1, 1, -1)
    x = ops.conv(jax.nn.leaky_relu(x, 0.2), params["second"])
    return jax.nn.leaky_relu(x, 0.2).reshape(len(x), -1) @ params["dense"]


def discriminate_in_torch(params, images):
    """Apply the same network in PyTorch to images (batch, height, width, channels)."""
    kernels = [params[name].permute(3, 2, 0, 1) for name in ("first", "second")]
    x = images.permute(0, 3, 1, 2)
    x = functional.conv2d(x, kernels[0], params["bias"], stride=2, padding=1)
    x = functional.conv2d(functional.leaky_relu(x, 0.2), kernels[1], padding=1)
    x = functional.leaky_relu(x, 0.2).permute(0, 2, 3, 1)
    return x.reshape(len(x), -1) @ params["dense"]


def squared_norms_in_torch(params, images):
    """Compute norms with respect to images in [-1, 1], given images in [0, 1]."""
    signed = (2 * images - 1).detach().requires_grad_()
    logits = discriminate_in_torch(params, (signed + 1) / 2)
    (gradients,) = torch.autograd.grad(logits.sum(), signed, create_graph=True)
    return gradients.square().sum((1, 2, 3))


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
def test_penalties_and_gradients_equal_pytorch(assert_trees_equal, ours, theirs):
    """The gradients with respect to the weights are second derivatives of the network."""

    def penalty(params):
        return ours(lambda images: discriminate(params, images))

    value, gradients = jax.jit(jax.value_and_grad(penalty))(PARAMS)
    params = {name: torch.tensor(a, requires_grad=True) for name, a in PARAMS.items()}
    expected = theirs(params)
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    # The bias affects the penalty only through the kinks of the leaky ReLU, which have no gradient.
    assert params["bias"].grad is None or not params["bias"].grad.any()
    np.testing.assert_array_equal(gradients.pop("bias"), 0.0)
    assert_trees_equal(gradients, {k: params[k].grad.numpy() for k in gradients}, relative=1e-5)


def test_penalty_of_a_linear_discriminator_is_the_norm_of_its_weights():
    weights = jnp.asarray(draw(8, 8, 2))

    def linear(images):
        return jnp.sum(images * weights[None], axis=(1, 2, 3)) + 3.0

    # The gradient with respect to images in [-1, 1] is half of that for [0, 1].
    length = 0.5 * float(jnp.linalg.norm(weights))
    assert r1_penalty(linear, IMAGES) == pytest.approx(0.5 * length**2, rel=1e-5)
    penalty = gradient_penalty(linear, IMAGES, OTHERS, jnp.asarray(POSITION))
    assert penalty == pytest.approx((length - 1) ** 2, rel=1e-5)


def test_gradient_penalty_is_differentiable_at_zero_gradient():
    def penalty(scale):
        return gradient_penalty(
            lambda x: scale * jnp.sum(x, axis=(1, 2, 3)), IMAGES, OTHERS, jnp.asarray(POSITION)
        )

    value, gradient = jax.value_and_grad(penalty)(0.0)
    assert value == pytest.approx(1.0, rel=1e-5)
    assert np.isfinite(gradient)


@pytest.mark.parametrize(("position", "expected"), [(0.0, OTHERS), (1.0, IMAGES)])
def test_position_interpolates_from_generated_to_real(position, expected):
    """The gradient of |x|^2 with respect to y, where x = (1 + y) / 2, is x."""
    penalty = gradient_penalty(
        lambda x: jnp.sum(jnp.square(x), axis=(1, 2, 3)),
        IMAGES,
        OTHERS,
        jnp.full(5, position),
    )
    lengths = np.sqrt(np.sum(expected**2, axis=(1, 2, 3)))
    assert penalty == pytest.approx(np.mean((lengths - 1) ** 2), rel=1e-5)


# Second derivatives


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
def test_gradients_of_squared_gradients_equal_lax(kernel_size, stride, padding, dilation):
    """The derivatives that penalties need, of `conv` and `conv_transpose`, by images and kernel."""
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

    def squared_gradients(operator):
        def penalty(images, kernel):
            gradients = jax.grad(lambda a: jnp.sum(jnp.tanh(operator(a, kernel))))(images)
            return jnp.sum(gradients**2)

        return jax.grad(penalty, (0, 1))

    @jax.jit
    def all_gradients(x, y, kernel):
        return (
            squared_gradients(lambda x, k: ops.conv(x, k, **options))(x, kernel),
            squared_gradients(ours_transposed)(y, kernel),
            squared_gradients(lambda x, k: plain(x, k, **options))(x, kernel),
            squared_gradients(plain_transposed)(y, kernel),
        )

    with jax.enable_x64(True):
        gradients = jax.tree.leaves(all_gradients(*map(jnp.asarray, (x, y, kernel))))
    assert gradients[1].dtype == np.float64
    for mine, native in zip(gradients[:4], gradients[4:], strict=True):
        np.testing.assert_allclose(mine, native, rtol=0, atol=1e-10 * np.abs(native).max())
