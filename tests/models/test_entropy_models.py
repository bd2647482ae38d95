"""Entropy models: they are distributions, and values and gradients equal PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from deconv_jax.models.entropy_models import FactorizedPrior, gaussian_bits

CHANNELS = 3


@pytest.fixture(scope="module")
def prior():
    """A prior with random parameters, as spread as after training."""
    model = FactorizedPrior(CHANNELS)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, CHANNELS)))
    random = np.random.default_rng(1)
    return model, jax.tree.map(
        lambda a: a + random.normal(0, 0.3, a.shape).astype(np.float32), variables
    )


def torch_bits(parameters, x):
    """The rate by the formulas of arXiv:1802.01436, appendix 6.1, in float64.

    With matrices H = softplus(H^), factors a = tanh(a^) and g(x) = x + a tanh(x), the CDF is
    sigmoid(f_K(... f_1(x))) with f_k = g_k(H_k x + b_k), and f_K without g. CompressAI's
    EntropyBottleneck computes the same for each channel.
    """

    def cumulative(values):
        v = values.unsqueeze(-1)
        for k in range(5):
            v = torch.einsum(
                "ncj,cij->nci", v, torch.nn.functional.softplus(parameters[f"matrix{k}"])
            )
            v = v + parameters[f"bias{k}"]
            if k < 4:
                v = v + torch.tanh(parameters[f"factor{k}"]) * torch.tanh(v)
        return torch.sigmoid(v[..., 0])

    return -torch.log2(cumulative(x + 0.5) - cumulative(x - 0.5))


@pytest.mark.slow
def test_prior_and_its_gradients_equal_pytorch(prior):
    model, variables = prior
    x = np.random.default_rng(2).normal(0, 4, (40, CHANNELS)).astype(np.float32)

    def total(variables, x):
        bits = model.apply(variables, x)
        return jnp.sum(bits * jnp.cos(jnp.arange(bits.size).reshape(bits.shape))), bits

    differentiate = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (_, bits), gradients = differentiate(variables, x)
    parameters = {
        name: torch.tensor(np.asarray(a, np.float64), requires_grad=True)
        for name, a in variables["params"].items()
    }
    given = torch.tensor(x.astype(np.float64), requires_grad=True)
    expected = torch_bits(parameters, given)
    weights = torch.cos(torch.arange(x.size, dtype=torch.float64).reshape(x.shape))
    (expected * weights).sum().backward()
    np.testing.assert_allclose(bits, expected.detach().numpy(), rtol=2e-4)
    for name, parameter in parameters.items():
        scale = parameter.grad.abs().max().item()
        np.testing.assert_allclose(
            gradients[0]["params"][name], parameter.grad.numpy(), atol=2e-4 * scale, err_msg=name
        )
    np.testing.assert_allclose(gradients[1], given.grad.numpy(), atol=1e-3)


def test_prior_is_a_distribution(prior):
    model, variables = prior
    x = jnp.arange(-3000.0, 3001.0)[:, None] * jnp.ones((1, CHANNELS))
    apply = jax.jit(model.apply, static_argnames="method")
    mass = 2.0 ** -np.asarray(apply(variables, x), np.float64)
    # The likelihood has a lower bound of 1e-9, so the far tails add up to 1e-9 each.
    np.testing.assert_allclose(mass.sum(axis=0), 1.0, atol=1e-4)
    edges = apply(variables, x, method="logits")
    assert np.all(np.diff(np.asarray(edges), axis=0) >= 0)


def test_rate_is_continuous_at_the_median_of_a_symmetric_prior():
    """At the median the logits of the two edges sum to zero, where the sign to subtract by is undefined."""
    model = FactorizedPrior(1)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1)))
    symmetric = {
        name: jnp.zeros_like(a) if "bias" in name else a for name, a in variables["params"].items()
    }
    bits = jax.jit(model.apply)({"params": symmetric}, jnp.array([[0.0], [1e-3]]))
    np.testing.assert_allclose(bits[0], bits[1], rtol=1e-3)


def test_gaussian_equals_pytorch_and_sums_to_one():
    random = np.random.default_rng(3)
    x = random.normal(0, 3, 200).astype(np.float32)
    scale = random.uniform(0.2, 8, 200).astype(np.float32)

    @jax.jit
    def bits_and_gradients(x, scale):
        bits, pull_back = jax.vjp(gaussian_bits, x, scale)
        return bits, pull_back(jnp.ones(200))

    bits, gradients = bits_and_gradients(x, scale)
    inputs = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in (x, scale)]
    normal = torch.distributions.Normal(0.0, inputs[1])
    expected = -torch.log2(normal.cdf(inputs[0] + 0.5) - normal.cdf(inputs[0] - 0.5))
    likely = expected.detach().numpy() < 20
    assert likely.mean() > 0.8
    expected.sum().backward()
    np.testing.assert_allclose(bits[likely], expected.detach().numpy()[likely], rtol=1e-3)
    for ours, theirs in zip(gradients, inputs, strict=True):
        wanted = theirs.grad.numpy()[likely]
        np.testing.assert_allclose(ours[likely], wanted, rtol=5e-3, atol=1e-3)
    whole, compiled = jnp.arange(-100.0, 101.0), jax.jit(gaussian_bits)
    for value in (0.2, 1.0, 12.0):
        mass = 2.0 ** -np.asarray(compiled(whole, jnp.full(201, value)), np.float64)
        np.testing.assert_allclose(mass.sum(), 1.0, atol=1e-5)


def test_rate_is_zero_if_certain_and_bounded_if_impossible():
    bits = gaussian_bits(jnp.array([0.0, 1000.0]), jnp.array([1e-6, 1.0]))
    np.testing.assert_allclose(bits, [0.0, np.log2(1e9)], atol=2e-5, rtol=1e-6)
