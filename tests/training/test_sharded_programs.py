"""The compiled step on 1, 8 and 64 devices: collectives, arithmetic per device, and donated buffers.

Run as a script, this file prints the `structure` of the step on all devices.
"""

import dataclasses
import functools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh

from deconv_jax.models import Autoencoder, DCGANDiscriminator, DCGANGenerator
from deconv_jax.tasks import GAN, Autoencoding
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.parallel import Devices

pytestmark = pytest.mark.slow

SHAPE, FEATURES = (16, 16, 1), 4
PLAIN = Autoencoding(
    Autoencoder(SHAPE, features=(FEATURES, FEATURES), latent_dim=6, norm="none"),
    Optimizer(ema_decay=0.9),
)
NORMALIZED = dataclasses.replace(PLAIN, model=PLAIN.model.clone(norm="batch"))
WIDE = dataclasses.replace(PLAIN, model=PLAIN.model.clone(features=(8, 16), latent_dim=8))
ADVERSARIAL = GAN(
    DCGANGenerator(SHAPE, latent_dim=4, width=2, norm="none"),
    DCGANDiscriminator(width=2, norm="none"),
    Optimizer(),
    num_steps=10,
)
PER_DEVICE = 2
"""Number of examples per device."""


@functools.cache
def compiled(task, count, **options):
    """Return the program of a step on `count` devices, and the shapes of its state."""
    mesh = Mesh(jax.devices()[:count], ("data",), axis_types=(AxisType.Auto,))
    example = {
        "image": jax.ShapeDtypeStruct((1, *SHAPE), jnp.uint8),
        "index": jax.ShapeDtypeStruct((1,), jnp.int32),
    }
    state = jax.eval_shape(task.init, jax.random.key(0), example)
    devices = Devices(mesh, **options)
    lowered = devices.lower(task.train_step, state, example, (1, PER_DEVICE * count))
    return lowered.compile(), state


def all_reduces(program):
    """Return the number of elements that each all-reduce sums, in increasing order."""
    results = re.findall(r"= (.*) all-reduce(?:-start)?\(", program.as_text())
    shapes = [re.findall(r"\w\d+\[([\d,]*)\]", result) for result in results]
    counts = [[math.prod(map(int, filter(None, s.split(",")))) for s in of] for of in shapes]
    return sorted(map(sum, counts))


def other_collectives(program):
    names = "all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    return re.findall(rf" ({names})(?:-start)?\(", program.as_text())


def structure(count):
    """Return the collectives and the arithmetic per device of the plain step, JSON-serializable."""
    program, _ = compiled(PLAIN, count)
    return {
        "all_reduces": all_reduces(program),
        "others": other_collectives(program),
        "flops": program.cost_analysis()["flops"],
    }


def parameters(state):
    return sum(a.size for a in jax.tree.leaves(state.params))


def test_gradients_and_loss_are_summed_by_one_all_reduce():
    program, state = compiled(PLAIN, 8)
    assert all_reduces(program) == [parameters(state) + 1]
    assert other_collectives(program) == []


def test_batch_norm_adds_two_small_all_reduces_per_layer():
    """They sum the two moments and, in the backward pass, their two gradients."""
    program, state = compiled(NORMALIZED, 8)
    layers = len(jax.tree.leaves(state.batch_stats)) // 2
    *small, gradients = all_reduces(program)
    assert small == [2 * FEATURES] * (2 * layers)
    assert gradients <= parameters(state) + 1
    assert other_collectives(program) == []


def test_each_network_of_a_gan_has_one_all_reduce():
    """The discriminator's sums the gradients of real and of generated images, the generator's a few losses."""
    program, state = compiled(ADVERSARIAL, 8)
    discriminator, generator = (
        sum(a.size for a in jax.tree.leaves(state.params[name]))
        for name in ("discriminator", "generator")
    )
    first, second = all_reduces(program)
    assert first in (discriminator, 2 * discriminator)
    assert generator <= second < generator + 10
    assert other_collectives(program) == []


@pytest.mark.parametrize("task", [PLAIN, NORMALIZED, ADVERSARIAL], ids=["plain", "norm", "gan"])
def test_the_whole_state_is_donated(task):
    program, state = compiled(task, 8)
    size = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(state))
    assert program.memory_analysis().alias_size_in_bytes == size


def test_split_optimizer_state_takes_an_eighth_and_gathers_the_parameters():
    whole, state = compiled(WIDE, 8)
    split, _ = compiled(WIDE, 8, shard_optimizer=True)
    moments = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(state.opt_state))
    saved = whole.memory_analysis().argument_size_in_bytes
    saved -= split.memory_analysis().argument_size_in_bytes
    assert 0.85 * moments < saved <= 7 / 8 * moments
    assert set(other_collectives(split)) == {"all-gather"}
    assert max(all_reduces(split)) <= parameters(state) + 1


def test_arithmetic_per_device_does_not_depend_on_the_number_of_devices():
    """XLA counts an addition for each element of an all-reduce, on more than one device."""
    flags = "--xla_force_host_platform_device_count=64 --xla_backend_optimization_level=0"
    root = Path(__file__).parents[2]
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    one, eight, many = structure(1), structure(8), json.loads(done.stdout)
    assert (one["all_reduces"], one["others"]) == ([], [])
    assert many == eight
    assert eight["flops"] - one["flops"] == sum(eight["all_reduces"])


if __name__ == "__main__":
    print(json.dumps(structure(jax.device_count())))
