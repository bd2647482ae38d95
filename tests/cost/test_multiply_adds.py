"""Counts of multiply-adds: by hand, by the definition of a derivative, by PyTorch and by XLA."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torch_networks import dncnn

from deconv_jax import ops
from deconv_jax.cost.multiply_adds import count_multiply_adds, products
from deconv_jax.models import Classifier, DCGANGenerator, DnCNN, UNet


def zeros(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


# One line for each case: image, kernel, arguments of `conv`, and its multiply-adds by hand.
CASES = {
    "same": ((2, 7, 6, 3), (3, 3, 3, 4), {}, 2 * 7 * 6 * 9 * 3 * 4),
    "stride": ((2, 8, 8, 3), (4, 4, 3, 5), {"stride": 2}, 2 * 4 * 4 * 16 * 3 * 5),
    "dilation": ((1, 9, 9, 2), (3, 3, 2, 2), {"dilation": 2}, 81 * 9 * 4),
    "groups": ((1, 8, 8, 4), (3, 3, 2, 6), {"groups": 2}, 64 * 9 * 2 * 6),
    "one dimension": ((2, 10, 3), (5, 3, 4), {}, 2 * 10 * 5 * 12),
}


@pytest.mark.parametrize("case", CASES)
def test_convolution_and_all_its_derivatives_count_the_same(case):
    image, kernel, options, count = CASES[case]
    x, k = zeros(*image), zeros(*kernel)

    def conv(x, k):
        return ops.conv(x, k, **options)

    y = jax.eval_shape(conv, x, k)
    assert count_multiply_adds(conv, x, k) == count

    def gradients(x, k, y):
        return jax.vjp(conv, x, k)[1](y)

    assert count_multiply_adds(gradients, x, k, y) == 3 * count
    assert count_multiply_adds(lambda k, y: ops.conv_transpose(y, k, **options), k, y) == count

    def second(x, k, y):
        """Differentiate the squared gradients once more: two derivatives of each of both gradients."""

        def squared(x, k):
            gx, gk = jax.vjp(conv, x, k)[1](y)
            return jnp.sum(gx**2) + jnp.sum(gk**2)

        return jax.grad(squared, (0, 1))(x, k)

    assert count_multiply_adds(second, x, k, y) == 5 * count


@pytest.mark.parametrize("stride", [1, 2])
def test_lax_convolutions_count_like_our_primitives(stride):
    """JAX's own derivatives convolve images dilated with zeros, which do not count."""
    x, k = zeros(2, 8, 8, 3), zeros(4, 4, 3, 5)

    def convolve(x, k):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, k, (stride, stride), "SAME", dimension_numbers=layout
        )

    y = jax.eval_shape(convolve, x, k)
    count = 2 * (8 // stride) ** 2 * 16 * 15
    assert count_multiply_adds(lambda *a: jax.vjp(convolve, *a[:2])[1](a[2]), x, k, y) == 3 * count

    layer = nn.ConvTranspose(3, (4, 4), (stride, stride), use_bias=False)
    variables = jax.eval_shape(layer.init, jax.random.key(0), y)
    assert count_multiply_adds(layer.apply, variables, y) == count

    def gradients(variables, y):
        output, vjp = jax.vjp(layer.apply, variables, y)
        return vjp(output)

    assert count_multiply_adds(gradients, variables, y) == 3 * count


def test_matrix_products_count_every_multiply_add():
    a, b = zeros(5, 3, 4), zeros(5, 4, 7)
    assert count_multiply_adds(jnp.matmul, a, b) == 5 * 3 * 4 * 7
    assert count_multiply_adds(lambda a: jnp.einsum("bij,bij->", a, a), a) == 5 * 3 * 4
    assert count_multiply_adds(jax.vmap(lambda m, v: m @ v, (0, None)), a, zeros(4)) == 60
    assert count_multiply_adds(lambda a: jnp.sum(jnp.exp(a) * a), a) == 0


def test_control_flow_is_followed():
    m = zeros(4, 4)
    one = 4**3

    def repeated(m):
        return jax.lax.scan(lambda c, _: (jax.jit(jnp.matmul)(c, m), None), m, None, length=6)[0]

    def branches(m, flag):
        return jax.lax.cond(flag, lambda: m @ m @ m, lambda: m @ m)

    def unbounded(m):
        return jax.lax.while_loop(lambda c: jnp.sum(c) < 1, lambda c: c @ m, m)

    def cube(m):
        return jnp.sum(jnp.matmul(m @ m, m) ** 2)

    assert count_multiply_adds(repeated, m) == 6 * one
    assert count_multiply_adds(branches, m, jax.ShapeDtypeStruct((), bool)) == 2 * one
    assert count_multiply_adds(jax.grad(cube), m) == 6 * one
    recomputed = count_multiply_adds(jax.grad(jax.checkpoint(cube)), m)
    assert 6 * one < recomputed <= 8 * one
    with pytest.raises(ValueError, match="number of iterations is unknown"):
        count_multiply_adds(unbounded, m)
    assert count_multiply_adds(lambda m: jax.random.normal(jax.random.key(0), m.shape), m) == 0


def test_products_carry_the_scope_that_they_are_differentiated_in():
    def function(x):
        with jax.named_scope("outer"):
            return jnp.sum(jax.jit(jnp.matmul)(x, x))

    scopes = [scope for scope, _ in products(jax.make_jaxpr(jax.grad(function))(zeros(3, 3)))]
    assert len(scopes) == 3
    assert all("outer" in scope for scope in scopes)
    assert sum("transpose" in scope for scope in scopes) == 2


def torch_flops(network, *shape, backward=False):
    counter = FlopCounterMode(display=False)
    with counter:
        output = network(torch.zeros(*shape))
        if backward:
            output.square().mean().backward()
    return counter.get_total_flops()


def torch_generator(width):
    """A DCGAN generator of 16 x 16 gray pixels: latents of 8, then two transposed convolutions."""

    def rise(a, b, bias=False):
        return torch.nn.ConvTranspose2d(a, b, 4, 2, 1, bias=bias)

    return torch.nn.Sequential(
        torch.nn.Linear(8, 16 * 2 * width, bias=False),
        torch.nn.Unflatten(1, (2 * width, 4, 4)),
        torch.nn.BatchNorm2d(2 * width),
        torch.nn.ReLU(),
        rise(2 * width, width),
        torch.nn.BatchNorm2d(width),
        torch.nn.ReLU(),
        rise(width, 1, bias=True),
        torch.nn.Tanh(),
    )


class TorchUNet(torch.nn.Module):
    """A U-Net of two levels with transposed convolutions."""

    def __init__(self, a, b):
        super().__init__()

        def level(inputs, outputs):
            pairs = itertools.pairwise([inputs, outputs, outputs])
            return torch.nn.Sequential(*(torch.nn.Conv2d(*p, 3, padding=1) for p in pairs))

        self.upper, self.lower, self.last = level(1, a), level(a, b), level(2 * a, a)
        self.rise = torch.nn.ConvTranspose2d(b, a, 4, 2, 1)
        self.to_image = torch.nn.Conv2d(a, 1, 1)

    def forward(self, x):
        skip = self.upper(x)
        low = self.rise(self.lower(torch.nn.functional.max_pool2d(skip, 2)))
        return x + self.to_image(self.last(torch.cat([skip, low], 1)))


def torch_classifier(features, side):
    layers = []
    for inputs, outputs in itertools.pairwise([1, *features]):
        layers += [torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), torch.nn.ReLU()]
        layers += [torch.nn.MaxPool2d(2)]
    size = features[-1] * (side // 2 ** len(features)) ** 2
    dense = [torch.nn.Flatten(), torch.nn.Linear(size, 12), torch.nn.Linear(12, 10)]
    return torch.nn.Sequential(*layers, *dense)


NETWORKS = {
    "dncnn": (DnCNN(depth=4, features=6), (3, 12, 10, 1), lambda: dncnn(normalized=True)),
    "generator": (
        DCGANGenerator(image_shape=(16, 16, 1), latent_dim=8, width=5),
        (3, 8),
        lambda: torch_generator(5),
    ),
    "unet": (UNet(features=(4, 6)), (2, 8, 12, 1), lambda: TorchUNet(4, 6)),
    "classifier": (
        Classifier(features=(4, 6), convs_per_block=1, embedding_dim=12),
        (3, 12, 12, 1),
        lambda: torch_classifier((4, 6), 12),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_flops_equal_those_of_pytorch(name):
    """Forward, and with the gradients of all parameters."""
    model, shape, torch_network = NETWORKS[name]
    variables = jax.eval_shape(model.init, jax.random.key(0), zeros(*shape))
    order = (shape[0], *shape[3:], *shape[1:3]) if len(shape) == 4 else shape
    forward = 2 * count_multiply_adds(model.apply, variables, zeros(*shape))
    assert forward == torch_flops(torch_network(), *order)

    def loss(params, stats, x):
        output, _ = model.apply({**stats, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.mean(output**2)

    params, stats = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    training = 2 * count_multiply_adds(jax.grad(loss), params, stats, zeros(*shape))
    assert training == torch_flops(torch_network(), *order, backward=True)


def xla_flops(function, *arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_flops_without_padding_equal_those_of_xla():
    def valid(x, k, m):
        return jnp.matmul(ops.conv(x, k, padding="VALID").reshape(2, -1), m)

    x, k, m = zeros(2, 9, 9, 3), zeros(3, 3, 3, 4), zeros(7 * 7 * 4, 5)
    assert 2 * count_multiply_adds(valid, x, k, m) == xla_flops(valid, x, k, m)


def test_xla_does_not_count_padding():
    x, k = zeros(2, 9, 9, 3), zeros(3, 3, 3, 4)
    pairs = 3 * 9 - 2  # of taps and pixels along an axis, without the two on padding
    assert xla_flops(ops.conv, x, k) == 2 * 2 * pairs**2 * 3 * 4
    assert 2 * count_multiply_adds(ops.conv, x, k) == 2 * 2 * 27**2 * 3 * 4


@pytest.mark.slow
def test_flops_of_a_network_are_close_to_those_of_xla():
    model = DnCNN(depth=4, features=24, norm="none")
    variables = jax.eval_shape(model.init, jax.random.key(0), zeros(1, 48, 48, 1))
    ours = 2 * count_multiply_adds(model.apply, variables, zeros(1, 48, 48, 1))
    assert ours == pytest.approx(xla_flops(model.apply, variables, zeros(1, 48, 48, 1)), rel=0.05)
