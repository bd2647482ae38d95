"""Restoration with an adversary and a feature loss: its step, its state, and its use."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deconv_jax.data.degradations import Downsample
from deconv_jax.data.sources import ArraySource
from deconv_jax.errors import InputError
from deconv_jax.initial_weights import InitialWeights, _like_networks, copy_weights
from deconv_jax.models import FSRCNN, Classifier, DCGANDiscriminator
from deconv_jax.models.extractors import load_extractor
from deconv_jax.tasks import Restoration
from deconv_jax.tasks.adversarial_step import Purpose, UpdateBatch
from deconv_jax.tasks.restoration_losses import Adversary, FeatureLoss
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.parallel import Devices

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 24, 24, 1)).astype(np.uint8)
SGD = Optimizer("sgd", learning_rate=0.01, momentum=0.0)
NET = FSRCNN(scale=2, d=4, s=2, m=1)
ADVERSARY = Adversary(DCGANDiscriminator(width=2, norm="none"), weight=0.3)
TASK = Restoration(NET, Downsample(2), SGD, crop=16, loss="l1", adversary=ADVERSARY)
PLAIN = dataclasses.replace(TASK, adversary=None)
BATCH = {"image": jnp.asarray(PIXELS), "index": jnp.arange(4), "mask": jnp.ones(4)}


def log_loss(logits, real):
    """Binary cross-entropy with logits."""
    return -jnp.mean(jax.nn.log_sigmoid(logits if real else -logits))


def descend(params, gradient):
    """A step of `SGD`."""
    return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)


@pytest.mark.slow
@pytest.mark.parametrize("relativistic", [False, True], ids=["standard", "relativistic"])
def test_step_equals_gradient_descent_on_the_written_loss(drawn_state, relativistic):
    adversary = dataclasses.replace(ADVERSARY, relativistic=relativistic)
    task = dataclasses.replace(
        TASK, adversary=adversary, feature_loss=FeatureLoss("pixels", weight=2.0)
    )
    state = drawn_state(task, BATCH)
    extract = load_extractor("pixels").apply

    def reference(state):
        part = UpdateBatch(jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0), BATCH)
        degraded, clean = task._training_pair(part.keys(Purpose.INPUT), BATCH)
        judge = adversary.discriminator

        def logits_of(params):
            """Return both logits, as functions of the parameters of both networks."""
            generated = NET.apply({"params": params["generator"]}, degraded)
            real = judge.apply({"params": params["discriminator"]}, clean)
            fake = judge.apply({"params": params["discriminator"]}, generated)
            if relativistic:
                real, fake = real - jnp.mean(fake), fake - jnp.mean(real)
            return real, fake, generated

        def judge_loss(discriminator):
            real, fake, _ = logits_of(state.params | {"discriminator": discriminator})
            return log_loss(real, True) + log_loss(fake, False)

        first, gradient = jax.value_and_grad(judge_loss)(state.params["discriminator"])
        discriminator = descend(state.params["discriminator"], gradient)

        def loss(generator):
            params = {"generator": generator, "discriminator": discriminator}
            real, fake, output = logits_of(params)
            adversarial = log_loss(fake, True) + (log_loss(real, False) if relativistic else 0.0)
            features = jnp.mean((extract({}, output)[0] - extract({}, clean)[0]) ** 2)
            return jnp.mean(jnp.abs(output - clean)) + 0.3 * adversarial + 2.0 * features

        second, gradient = jax.value_and_grad(loss)(state.params["generator"])
        generator = descend(state.params["generator"], gradient)
        norm = optax.tree.norm(gradient)
        return {"generator": generator, "discriminator": discriminator}, first, second, norm

    both = jax.jit(lambda state: (task.train_step(state, BATCH), reference(state)))
    (after, scalars), (params, first, second, norm) = jax.device_get(both(state))
    assert scalars["discriminator_loss"] == pytest.approx(first, rel=1e-5)
    assert scalars["generator_loss"] == pytest.approx(second, rel=1e-5)
    assert scalars["generator_grad_norm"] == pytest.approx(norm, rel=1e-4)
    terms = [float(scalars[f"{name}_loss"]) for name in ("pixel", "adversarial", "feature")]
    assert np.dot([1, 0.3, 2.0], terms) == pytest.approx(second, rel=1e-5)
    for mine, theirs in zip(*map(jax.tree.leaves, (after.params, params)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_without_an_adversary_the_state_is_that_of_the_network():
    plain, both = (jax.eval_shape(t.init, jax.random.key(0), BATCH) for t in (PLAIN, TASK))
    assert jax.tree.structure(plain.params) == jax.tree.structure(both.params["generator"])
    assert not plain.is_adversarial
    assert set(both.params) == set(both.opt_state) == {"generator", "discriminator"}
    assert both.is_adversarial
    assert both.inference_variables()["params"] == both.params["generator"]


@pytest.mark.slow
def test_run_continues_a_run_without_an_adversary_and_back(drawn_state):
    averaged = dataclasses.replace(SGD, ema_decay=0.9)
    plain, both = (dataclasses.replace(t, optimizer=averaged) for t in (PLAIN, TASK))
    weights, other = drawn_state(plain, BATCH, seed=1), drawn_state(both, BATCH, seed=2)
    devices, origin = Devices.all(), {"source": "run", "kind": "run"}
    given = InitialWeights(_like_networks(weights.inference_variables(), both), origin)
    state, report = copy_weights(other, given, devices)
    restored = [t._restore(s, BATCH)[1] for t, s in ((both, state), (plain, weights))]
    np.testing.assert_allclose(*restored, rtol=1e-6)
    assert {path.split("/")[0] for path in report["missing"]} == {"discriminator"}
    both_networks = {k: getattr(other, k) for k in ("params", "batch_stats")}
    given = InitialWeights(_like_networks(both_networks, plain), origin)
    state, report = copy_weights(weights, given, devices)
    assert {path.split("/")[0] for path in report["unused"]} == {"discriminator"}
    for mine, theirs in zip(
        *map(jax.tree.leaves, (state.params, other.params["generator"])), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_adversary_of_several_steps_resumes_bit_for_bit(run_steps, drawn_state):
    """The state holds all that a step depends on: it may be saved and read between any two."""
    adversary = dataclasses.replace(
        ADVERSARY, relativistic=True, discriminator_steps=2, r1=0.5, augment=("translation",)
    )
    task = dataclasses.replace(TASK, adversary=adversary, optimizer=Optimizer(ema_decay=0.9))
    source = ArraySource({"image": np.concatenate([PIXELS] * 4)})
    batches = [source.gather(np.roll(np.arange(16, dtype=np.int32), i)) for i in range(2)]
    batches = [b | {"index": np.arange(16, dtype=np.int32) + i} for i, b in enumerate(batches)]
    state = drawn_state(task, BATCH)
    whole, scalars = run_steps(task, state, batches)
    first, _ = run_steps(task, state, batches[:1])
    second, _ = run_steps(task, first, batches[1:])
    for a, b in zip(*map(jax.tree.leaves, (whole, second)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(whole.step) == 2
    assert all(np.isfinite(value).all() for value in jax.tree.leaves(scalars))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discriminator": Classifier()}, r"adversary\.discriminator must be a discriminator"),
        ({"discriminator": DCGANDiscriminator(num_classes=3)}, "num_classes must be 0"),
        ({"weight": -1.0}, r"task\.adversary\.weight"),
        ({"discriminator_steps": 0}, r"task\.adversary\.discriminator_steps"),
        ({"loss": "wasserstein"}, r"task\.adversary\.gradient_penalty=10\.0"),
        ({"loss": "least_squares", "relativistic": True}, r"adversary\.relativistic: .*'hinge'"),
    ],
)
def test_invalid_adversaries_are_rejected(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(ADVERSARY, **changes)


def test_invalid_combinations_are_rejected():
    with pytest.raises(InputError, match=r"task\.adversary requires task\.crop"):
        dataclasses.replace(TASK, crop=None)
    with pytest.raises(InputError, match=r"accumulate_steps must be 1"):
        dataclasses.replace(TASK, optimizer=dataclasses.replace(SGD, accumulate_steps=2))
    with pytest.raises(InputError, match=r"task\.feature_loss\.weight"):
        FeatureLoss(weight=-1.0)
    wrong = dataclasses.replace(TASK, degradation=Downsample(4))
    state = jax.eval_shape(wrong.init, jax.random.key(0), BATCH)
    with pytest.raises(InputError, match=r"set task\.model\.scale"):
        jax.eval_shape(wrong.train_step, state, BATCH)
