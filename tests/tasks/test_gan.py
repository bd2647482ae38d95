"""Adversarial training: the steps of PyTorch, on any devices, and what a run is told."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from deconv_jax.data.augment import center_resize, example_keys
from deconv_jax.data.sources import ArraySource
from deconv_jax.errors import InputError
from deconv_jax.metrics import generative
from deconv_jax.models import Classifier, DCGANDiscriminator, DCGANGenerator
from deconv_jax.models.extractors import load_extractor
from deconv_jax.models.latent_sampling import draw_latents
from deconv_jax.tasks import GAN
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.parallel import Devices

RNG = np.random.default_rng(0)
SHAPE, LATENT, BATCH, STEPS = (16, 16, 1), 4, 16, 3
IMAGES = RNG.integers(0, 256, (40, *SHAPE)).astype(np.uint8)
LABELS = RNG.integers(0, 3, len(IMAGES)).astype(np.int32)
FAST_KEY = jax.random.key(0, impl="rbg")
"""Of the generator that compiles ten times faster than the default one on a CPU."""


def task_of(generator=(), discriminator=(), **fields):
    """A tiny DCGAN's task; the first two are fields of its networks."""
    given = {"optimizer": Optimizer(learning_rate=0.002, momentum=0.5), "num_steps": 10}
    return GAN(
        DCGANGenerator(
            **{"image_shape": SHAPE, "latent_dim": LATENT, "width": 2} | {**dict(generator)}
        ),
        DCGANDiscriminator(**{"width": 2, "norm": "none"} | dict(discriminator)),
        **given | fields,
    )


def batch_of(index, images=IMAGES, labels=LABELS):
    index = np.asarray(index, np.int32)
    return {"image": images[index], "label": labels[index], "index": index}


BATCHES = [batch_of(RNG.permutation(len(IMAGES))[:BATCH]) for _ in range(10)]


def trained(task, state, steps):
    """The states before and after each of so many steps, every step's scalars, and the step."""
    step = jax.jit(task.train_step)
    states, scalars = [state], []
    for batch in BATCHES[:steps]:
        state, of_step = step(state, batch)
        states.append(state)
        scalars.append(jax.device_get(of_step))
    return jax.device_get(states), scalars, step


# The steps of PyTorch


def nchw(images):
    return torch.from_numpy(np.moveaxis(np.array(images), -1, 1).copy())


class Reference:
    """A task's step written in PyTorch, from the weights of a state."""

    def __init__(self, task, state):
        self.task = task
        self.params = jax.tree.map(lambda a: torch.tensor(np.array(a)), dict(state.params))
        self.stats = jax.tree.map(lambda a: torch.tensor(np.array(a)), dict(state.batch_stats))
        settings = task.optimizer
        self.optimizers = {}
        for name, tree in self.params.items():
            leaves = [leaf.requires_grad_() for leaf in jax.tree.leaves(tree)]
            betas = (settings.momentum, settings.beta2)
            self.optimizers[name] = torch.optim.Adam(leaves, settings.learning_rate, betas)

    def batch_norm(self, x, params, stats):
        params, stats = (tree["BatchNorm_0"] for tree in (params, stats))
        return functional.batch_norm(
            x,
            stats["mean"],
            stats["var"],
            params["scale"],
            params["bias"],
            training=True,
            momentum=0.1,
        )

    def generate(self, latents):
        """Images (batch, channels, height, width) in [0, 1]."""
        params, stats = self.params["generator"], self.stats["generator"]
        dense = params["Dense_0"]
        x = functional.linear(latents, dense["kernel"].T, dense.get("bias"))
        x = x.reshape(len(latents), 4, 4, -1).permute(0, 3, 1, 2)
        for i in range(2):
            name = f"ConditionalNorm_{i}"
            x = self.batch_norm(x, params[name]["Norm_0"], stats[name]["Norm_0"]).relu()
            up = params[f"Upsample_{i}"]
            x = functional.conv_transpose2d(
                x, up["kernel"].permute(3, 2, 0, 1), up.get("bias"), stride=2, padding=1
            )
        return 0.5 * (x.tanh() + 1.0)

    def kernel_of(self, name, keep):
        """A kernel of the discriminator; spectrally normalised, u moves on if it is to be kept."""
        kernel, stats = self.params["discriminator"][name]["kernel"], self.stats["discriminator"]
        if not self.task.discriminator.spectral_norm:
            return kernel
        matrix = kernel.reshape(-1, kernel.shape[-1])
        with torch.no_grad():
            v = functional.normalize(matrix @ stats[name]["u"], dim=0)
            u = functional.normalize(matrix.T @ v, dim=0)
            if keep:
                stats[name]["u"] = u
        return kernel / torch.dot(v, matrix @ u)

    def judge(self, images, keep=True):
        """Logits (batch,)."""
        params, stats = self.params["discriminator"], self.stats["discriminator"]
        x = 2.0 * images - 1.0
        for i in range(2):
            name = f"Conv_{i}"
            kernel = self.kernel_of(name, keep).permute(3, 2, 0, 1)
            x = functional.conv2d(x, kernel, params[name].get("bias"), stride=2, padding=1)
            if i and self.task.discriminator.norm == "batch":
                x = self.batch_norm(x, params[f"Norm_{i}"], stats[f"Norm_{i}"])
            x = functional.leaky_relu(x, 0.2)
        x = x.permute(0, 2, 3, 1).reshape(len(x), -1)
        return (x @ self.kernel_of("Dense_0", keep) + params["Dense_0"]["bias"])[:, 0]

    def losses(self, real, fake):
        """The discriminator's loss."""
        if self.task.loss == "hinge":
            return (1 - real).relu().mean() + (1 + fake).relu().mean()
        if self.task.loss == "wasserstein":
            return fake.mean() - real.mean()
        cross_entropy = functional.binary_cross_entropy_with_logits
        return cross_entropy(real, torch.ones_like(real)) + cross_entropy(
            fake, torch.zeros_like(fake)
        )

    def squared_slopes(self, images):
        """By images in [-1, 1]."""
        signed = (2.0 * images - 1.0).detach().requires_grad_()
        total = self.judge(0.5 * (signed + 1.0), keep=False).sum()
        (slopes,) = torch.autograd.grad(total, signed, create_graph=True)
        return slopes.square().sum((1, 2, 3))

    def step(self, number, batch):
        """Both losses of a step; random numbers are drawn by the task's keys."""
        task, parts = self.task, self.task.discriminator_steps
        step_key = jax.random.fold_in(jax.random.key(task.seed), number)
        for part in range(parts):
            key = jax.random.fold_in(step_key, part)
            index = jnp.asarray(batch["index"][part::parts])
            keys = [example_keys(jax.random.fold_in(key, role), index) for role in range(4)]
            real = nchw(batch["image"][part::parts] / np.float32(255))
            fake = self.generate(torch.tensor(np.array(draw_latents(keys[0], LATENT))))
            shown = fake.detach()
            loss = self.losses(self.judge(real), self.judge(shown))
            total = loss + 0.0
            if task.r1:
                total = total + task.r1 * 0.5 * self.squared_slopes(real).mean()
            if task.gradient_penalty:
                position = np.array(jax.vmap(jax.random.uniform)(keys[3]))[:, None, None, None]
                position = torch.tensor(position)
                norms = self.squared_slopes(position * real + (1 - position) * shown).sqrt()
                total = total + task.gradient_penalty * (norms - 1).square().mean()
            self.descend("discriminator", total)
        logits = self.judge(fake)
        generator_loss = -logits.mean()
        if task.loss == "non_saturating":
            generator_loss = functional.binary_cross_entropy_with_logits(
                logits, torch.ones_like(logits)
            )
        self.descend("generator", generator_loss)
        return loss.item(), generator_loss.item()

    def descend(self, name, loss):
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()


AS_IN_TORCH = {
    "non_saturating, batch norm": task_of((), {"norm": "batch"}),
    "hinge, spectral norm, r1": task_of((), {"spectral_norm": True}, loss="hinge", r1=2.0),
    "wasserstein, gradient penalty, 2 steps": task_of(
        loss="wasserstein", gradient_penalty=10.0, discriminator_steps=2
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", AS_IN_TORCH.values(), ids=AS_IN_TORCH)
def test_whole_steps_are_those_of_pytorch(assert_trees_equal, drawn_state, task):
    states, scalars, _ = trained(task, drawn_state(task, BATCHES[0]), STEPS)
    reference = Reference(task, states[0])
    for number, (of_step, batch) in enumerate(zip(scalars, BATCHES, strict=False)):
        losses = of_step["discriminator_loss"], of_step["generator_loss"]
        np.testing.assert_allclose(losses, reference.step(number, batch), rtol=1e-4, atol=1e-5)
    expected = jax.tree.map(lambda a: a.detach().numpy(), reference.params)
    # Of the way that they went, for three steps of Adam are short.
    ways = [
        jax.tree.map(np.subtract, params, states[0].params)
        for params in (states[-1].params, expected)
    ]
    assert_trees_equal(*ways, relative=1e-3)
    if task.discriminator.spectral_norm:
        vectors = [
            {name: layer["u"] for name, layer in stats["discriminator"].items()}
            for stats in (states[-1].batch_stats, reference.stats)
        ]
        assert len(vectors[0]) == 3
        assert_trees_equal(*vectors, relative=1e-3)


# Devices


PLAIN_DESCENT = Optimizer(name="sgd", learning_rate=0.01, momentum=0.0)
# Plain SGD: Adam's first steps divide by the gradient's size, which turns the rounding of a gradient
# that is nearly zero into an error as large as the step.
ON_DEVICES = task_of(
    {"width": 4},
    {"norm": "batch", "spectral_norm": True, "minibatch_std_group": 2},
    optimizer=PLAIN_DESCENT,
    r1=0.1,
    augment=("translation",),
)


def run_on(count, compiler, state):
    """The state after ten steps from a given one, and every step's scalars."""
    mesh = jax.sharding.Mesh(
        jax.devices()[:count], ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    placed = Devices(mesh, compiler)
    step = placed.compile(ON_DEVICES.train_step)
    state, scalars = step(placed.replicate(state), placed.put_batches(BATCHES), {})
    return jax.device_get((state, scalars))


@pytest.fixture(scope="module")
def on_one_device(drawn_state):
    """A state, and what ten steps on one device make of it."""
    state = drawn_state(ON_DEVICES, BATCHES[0])
    return state, *run_on(1, "jit", state)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["jit", "pmap"])
def test_ten_steps_on_eight_devices_are_those_on_one(assert_trees_equal, on_one_device, compiler):
    state, one, one_scalars = on_one_device
    eight, eight_scalars = run_on(8, compiler, state)
    losses = [name for name in one_scalars if name.endswith(("loss", "penalty"))]
    assert len(losses) == 4
    for name in losses:
        np.testing.assert_allclose(eight_scalars[name], one_scalars[name], rtol=1e-5, atol=1e-6)
    names = {str(path[-1].key) for path, _ in jax.tree_util.tree_leaves_with_path(one.batch_stats)}
    assert names == {"mean", "var", "u"}
    parts = [(state.params, state.batch_stats) for state in (eight, one)]
    assert_trees_equal(*parts, relative=2e-5)


# The course of a run


COURSE = task_of(
    {"num_classes": 3},
    {"num_classes": 3, "norm": "batch", "spectral_norm": True},
    optimizer=Optimizer(learning_rate=0.002, momentum=0.5, ema_decay=0.75),
    num_steps=5,
    generator_only_steps=2,
    r1=1.0,
    augment=("color", "translation"),
)


@pytest.fixture(scope="module")
def course():
    """The states of a whole run, every step's scalars, and the compiled step."""
    return trained(COURSE, jax.jit(COURSE.init)(FAST_KEY, BATCHES[0]), 5)


def parts_of(state, side):
    fields = ("params", "batch_stats", "opt_state")
    return {field: getattr(state, field)[side] for field in fields}


def moved(before, after):
    """The share of leaves that are not what they were."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return np.mean([not np.array_equal(a, b) for a, b in pairs])


@pytest.mark.slow
def test_in_the_last_steps_the_generator_learns_alone(assert_trees_equal, course):
    states, _, _ = course
    for before, after in itertools.pairwise(states[:4]):
        # All but one: the vector of the logit's kernel has a single number, which is 1 or -1.
        assert moved(parts_of(before, "discriminator"), parts_of(after, "discriminator")) > 0.95
    for later in states[4:]:
        assert_trees_equal(parts_of(later, "discriminator"), parts_of(states[3], "discriminator"))
    for before, after in itertools.pairwise(states):
        assert moved(parts_of(before, "generator"), parts_of(after, "generator")) == 1.0


PLAIN = {"name": "sgd", "learning_rate": 0.01, "momentum": 0.0}
DECAYING = Optimizer(**PLAIN, schedule="linear", decay_steps=2)
SCHEDULES = {
    "one optimizer": (DECAYING, None),
    "one each": (DECAYING, Optimizer(**PLAIN, schedule="linear")),
}


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "other"), SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_of_both_networks_end_with_the_run(drawn_state, optimizer, other):
    """After two steps the rates are zero, whatever the updates of a step; not one update before."""
    task = task_of(
        {"image_shape": (8, 8, 1)},
        optimizer=optimizer,
        discriminator_optimizer=other,
        discriminator_steps=2,
        num_steps=2,
    )
    batches = [batch | {"image": batch["image"][:, ::2, ::2]} for batch in BATCHES[:3]]
    states = [drawn_state(task, batches[0])]
    step = jax.jit(task.train_step)
    for batch in batches:
        states.append(step(states[-1], batch)[0])
    for side in ("generator", "discriminator"):
        params = [state.params[side] for state in states]
        assert [moved(*pair) for pair in itertools.pairwise(params)] == [1.0, 1.0, 0.0]


def test_the_averaged_generator_is_the_average_of_its_weights_and_statistics(
    assert_trees_equal, course
):
    states, _, _ = course
    generators = [
        {"params": s.params["generator"], "batch_stats": s.batch_stats["generator"]} for s in states
    ]
    average = generators[0]
    assert_trees_equal(states[0].ema, average)
    for number, (state, generator) in enumerate(zip(states[1:4], generators[1:4], strict=True)):
        decay = (1 + number) / (10 + number)
        average = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * b, average, generator)
        assert_trees_equal(state.ema, average, relative=1e-6)
        assert COURSE.sampling_variables(state) is state.ema


def test_a_step_can_be_replayed_alone(assert_trees_equal, course):
    states, scalars, step = course
    state, of_step = step(states[2], BATCHES[2])
    assert_trees_equal(jax.device_get(state), states[3])
    assert_trees_equal(jax.device_get(of_step), scalars[2])


def test_random_numbers_are_of_the_step_and_of_the_examples_places(course):
    """The very images under other numbers, or at another step, meet other latents."""
    states, scalars, step = course
    others = [
        step(states[2], BATCHES[2] | {"index": BATCHES[2]["index"] + 100})[1],
        step(dataclasses.replace(states[2], step=np.int32(1)), BATCHES[2])[1],
    ]
    for other in others:
        assert abs(other["discriminator_loss"] - scalars[2]["discriminator_loss"]) > 1e-4


def test_the_order_of_a_batch_does_not_matter(assert_trees_equal, course):
    states, _, step = course
    order = np.random.default_rng(1).permutation(BATCH)
    state, _ = step(states[2], {name: array[order] for name, array in BATCHES[2].items()})
    generators = [s.batch_stats["generator"] for s in (jax.device_get(state), states[3])]
    assert_trees_equal(*generators, relative=1e-5)


def test_labels_steer_both_networks(course):
    states, scalars, step = course
    other = step(states[3], BATCHES[3] | {"label": (BATCHES[3]["label"] + 1) % 3})[1]
    for name in ("discriminator_loss", "generator_loss"):
        assert abs(other[name] - scalars[3][name]) > 1e-5
    # Nothing but the labels tells these images apart.
    latents = jnp.tile(draw_latents(jax.random.split(FAST_KEY, 1), LATENT), (3, 1))
    variables = COURSE.sampling_variables(states[3])
    variables = jax.tree.map(jnp.asarray, variables)
    spread = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)
    variables["params"]["ConditionalNorm_0"]["bias"] += spread
    images = np.asarray(jax.jit(COURSE.sample)(variables, latents, jnp.arange(3)))
    for a, b in ((0, 1), (1, 2), (2, 0)):
        assert np.abs(images[a] - images[b]).max() > 1e-3


def test_a_sample_does_not_depend_on_the_others(course):
    states, _, _ = course
    sample = jax.jit(COURSE.sample)
    latents = draw_latents(jax.random.split(FAST_KEY, 6), LATENT)
    labels = jnp.arange(6) % 3
    variables = COURSE.sampling_variables(states[5])
    together = sample(variables, latents, labels)
    assert together.shape == (6, *SHAPE)
    order = np.array([4, 0, 3, 5, 1, 2])
    others = sample(variables, latents[order], labels[order])
    np.testing.assert_allclose(others, together[order], atol=1e-6)
    alone = sample(variables, latents[2:3], labels[2:3])
    np.testing.assert_allclose(alone, together[2:3], atol=1e-6)


# Precision


@pytest.mark.slow
def test_in_bf16_a_step_stays_finite_and_its_parameters_in_float32(course):
    (before, *_), exact, _ = course
    task = dataclasses.replace(COURSE, precision="bf16")
    states, scalars, _ = trained(task, before, 2)
    assert {np.asarray(leaf).dtype for leaf in jax.tree.leaves(states[-1].params)} == {
        np.dtype("float32")
    }
    for first, last in zip(jax.tree.leaves(states[0]), jax.tree.leaves(states[-1]), strict=True):
        assert first.dtype == last.dtype
        assert np.isfinite(last).all()
    assert moved(states[0].params, states[-1].params) == 1.0
    assert all(np.isfinite(value) for of_step in scalars for value in of_step.values())
    # It is not float32 under another name, nor far from it.
    for name in ("discriminator_loss", "generator_loss", "r1_penalty"):
        assert scalars[0][name] != exact[0][name]
        assert scalars[0][name] == pytest.approx(exact[0][name], rel=0.05, abs=0.02)


# Measures


MEASURED = task_of({"image_shape": (28, 28, 1)}, optimizer=Optimizer(ema_decay=0.9))
MANY = 30


@pytest.fixture(scope="module")
def measured_state(drawn_state):
    """Makes a state whose generator makes images that differ."""
    example = {"image": np.zeros((1, 28, 28, 1), np.uint8)}
    state = jax.jit(MEASURED.init)(FAST_KEY, example)
    average = state.ema | {"params": jax.tree.map(lambda a: 2 * a, state.ema["params"])}

    @functools.cache
    def make(task=MEASURED):
        return dataclasses.replace(drawn_state(task, example), ema=average)

    return make


def split_into(images, size):
    """Batches of `size`, the last one filled with rows of mask 0."""
    batches = []
    for start in range(0, len(images), size):
        index = np.arange(start, min(start + size, len(images)), dtype=np.int32)
        fillings = size - len(index)
        batches.append(
            {
                "image": np.concatenate([images[index], np.full_like(images[:fillings], 77)]),
                "index": np.pad(index, (0, fillings)),
                "mask": jnp.asarray(np.pad(np.ones(len(index), np.float32), (0, fillings))),
            }
        )
    return batches


@pytest.fixture(scope="module")
def own_samples(measured_state):
    """What an evaluation samples, as uint8."""

    @jax.jit
    def sample(variables):
        keys = example_keys(jax.random.key(20_000), jnp.arange(MANY))
        images = MEASURED.sample(variables, draw_latents(keys, LATENT))
        return jnp.round(images * 255).astype(jnp.uint8)

    return np.asarray(sample(MEASURED.sampling_variables(measured_state())))


REAL = RNG.integers(0, 256, (MANY, 28, 28, 1)).astype(np.uint8)


@pytest.mark.slow
def test_fillings_count_for_nothing_and_all_measures_are_there(measured_state):
    whole, filled = (
        MEASURED.evaluate(measured_state(), split_into(REAL, size)) for size in (15, 16)
    )
    assert set(whole) == {
        *("fid", "kid", "precision", "recall", "density", "coverage", "repetition"),
        *("diversity", "real_diversity", "checkerboard_energy", "real_checkerboard_energy"),
        *("real_accuracy", "fake_accuracy"),
    }
    assert all(np.isfinite(value) for value in whole.values())
    assert filled == pytest.approx(whole, rel=1e-5, abs=1e-6)
    assert MEASURED.monitor.removeprefix("-") in whole


def test_against_its_own_samples_a_generator_is_perfect(measured_state, own_samples):
    measured = MEASURED.evaluate(measured_state(), split_into(own_samples, 15))
    assert measured["fid"] == pytest.approx(0.0, abs=1e-6)
    perfect = ("precision", "recall", "coverage")
    assert [measured[name] for name in perfect] == [1.0, 1.0, 1.0]
    # The same images in two orders, so that other pairs of them are compared.
    diversity = generative.diversity(own_samples / np.float32(255), pairs=4000)
    for name in ("diversity", "real_diversity"):
        assert measured[name] == pytest.approx(diversity, abs=0.01)
    # The same logits cannot be on both sides of the boundary.
    assert measured["real_accuracy"] + measured["fake_accuracy"] == pytest.approx(1.0)


def test_the_baseline_is_other_real_images():
    source = ArraySource({"image": REAL, "index": np.arange(MANY)})
    measured = MEASURED.baseline(source, source)
    names = ("fid", "kid", "precision", "recall", "density", "coverage", "repetition")
    assert set(measured) == {f"real_{name}" for name in names}
    assert measured["real_fid"] == pytest.approx(0.0, abs=1e-6)
    assert [measured[f"real_{name}"] for name in ("precision", "recall", "coverage")] == [1.0] * 3


def shades(counts):
    """A source of so many images of each class in turn, each class a gray of its own."""
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(len(labels)).integers(0, 30, (len(labels), *SHAPE))
    images = (noise + 100 * labels[:, None, None, None]).astype(np.uint8)
    return ArraySource(
        {"image": images, "label": labels.astype(np.int32), "index": np.arange(len(labels))}
    )


def test_the_baseline_is_of_the_same_classes_if_there_are_classes():
    """As many of each as in the test set, whatever the training set has."""
    train, test = shades((40, 60, 500)), shades((60, 36, 4))
    plain, conditional = task_of(), task_of({"num_classes": 3}, {"num_classes": 3})
    of_classes = conditional.baseline(train, test)
    # Of the first class there are 40 for 60, which is a little.
    enough = conditional.baseline(shades((70, 60, 500)), test)
    assert enough["real_fid"] < 0.1 < of_classes["real_fid"] < 1.0
    assert enough["real_coverage"] > 0.8
    assert plain.baseline(train, test)["real_fid"] > 5.0


def test_the_baseline_is_drawn_from_all_the_training_images():
    """The first of which, as many as there are test images, are all of one class."""
    task, test = task_of(), shades((33, 33, 34))
    measured = task.baseline(shades((200, 200, 200)), test)
    assert measured["real_fid"] < 0.5
    assert task.baseline(shades((200, 1, 1)), test)["real_fid"] > 5.0
    assert task.baseline(shades((200, 200, 200)), test) == measured


def test_labels_that_there_is_no_class_for_are_refused_where_they_are_first_seen(drawn_state):
    sides = {"image_shape": (28, 28, 1), "num_classes": 3}, {"num_classes": 3}
    task = task_of(*sides)
    example = {"image": REAL[:1], "label": np.zeros(1, np.int32)}
    state = drawn_state(task, example)
    (batch,) = split_into(REAL, MANY)
    for wrong in (3, -1):
        labels = np.zeros(MANY, np.int32)
        labels[7] = wrong
        with pytest.raises(InputError, match=f"takes labels from 0 to 2; the data .* {wrong}"):
            task.evaluate(state, [batch | {"label": jnp.asarray(labels)}])


LOOKS_AT_MORE = {
    "minibatch_std": {"minibatch_std_group": 4},
    "batch norm": {"norm": "batch"},
}


@pytest.mark.slow
@pytest.mark.parametrize("discriminator", LOOKS_AT_MORE.values(), ids=LOOKS_AT_MORE)
def test_a_discriminator_that_sees_whole_batches_has_no_part_in_measures(
    measured_state, discriminator
):
    """Batches that its groups do not divide and fillings among the images change nothing."""
    task = dataclasses.replace(
        MEASURED, discriminator=DCGANDiscriminator(**{"width": 2, "norm": "none"} | discriminator)
    )
    state = measured_state(task)
    whole, filled = (task.evaluate(state, split_into(REAL, size)) for size in (15, 16))
    assert "fid" in whole
    assert not {"real_accuracy", "fake_accuracy"} & set(whole)
    assert filled == pytest.approx(whole, rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_real_images_are_rounded_to_8_bits_as_samples_are(monkeypatch, measured_state):
    """Those that were resized are between the levels."""
    seen = {}
    monkeypatch.setattr(
        synthesis, "sample_quality", lambda real, fake: seen.update(real=real, fake=fake) or {}
    )
    task = dataclasses.replace(MEASURED, resize=True)
    images = RNG.integers(0, 256, (16, 40, 40, 1)).astype(np.uint8)
    task.evaluate(measured_state(task), split_into(images, 8))
    small = jax.jit(lambda a: center_resize(a, (28, 28)))(images / np.float32(255))
    for name in ("real", "fake"):
        assert (seen[name].images.dtype, seen[name].images.shape) == (np.uint8, (16, 28, 28, 1))
        extractor = load_extractor("pixels")
        features, _ = jax.jit(extractor.apply)({}, seen[name].images / np.float32(255))
        np.testing.assert_allclose(seen[name].features, features, atol=1e-6)
    assert np.abs(seen["real"].images - 255.0 * np.asarray(small)).max() <= 0.5 + 1e-3
    of_evaluation = seen["real"].features
    task.baseline(*[ArraySource({"image": images, "index": np.arange(16)})] * 2)
    np.testing.assert_allclose(seen["real"].features, of_evaluation, atol=1e-6)


def test_pictures_are_of_data_and_of_samples(measured_state, own_samples):
    pictures = MEASURED.pictures(measured_state(), {"image": REAL[:12]})
    assert set(pictures) == {"samples"}
    # Twelve columns of 28 pixels at twice their size, five rows of them, and captions.
    width, height = pictures["samples"].size
    assert 2 * 12 * 28 <= width < 2 * 13 * 28
    assert 2 * 5 * 28 <= height < 2 * 7 * 28
    shown = np.asarray(pictures["samples"])[:, :, 0]
    first_sample = own_samples[0, :, :, 0]
    rows, columns = (n - 55 for n in shown.shape)
    assert any(
        np.array_equal(shown[top : top + 56 : 2, left : left + 56 : 2], first_sample)
        for top in range(rows)
        for left in range(min(columns, 8))
    )


MEASURES = {"repetition": 0.0, "coverage": 0.6}
SCALARS = {"real_accuracy": 0.8, "fake_accuracy": 0.999}


@pytest.mark.parametrize(
    ("metrics", "scalars", "words"),
    [
        ({}, {}, []),
        ({}, {"real_accuracy": 1.0}, ["tells 100.0% of real and 99.9% of generated", "r1"]),
        # Accuracies on images that the discriminator does not learn from are no matter.
        ({"real_accuracy": 1.0, "fake_accuracy": 1.0}, {}, []),
        (
            {"real_accuracy": 0.1, "fake_accuracy": 0.1},
            {"real_accuracy": 0.992},
            ["tells 99.2% of real and 99.9% of generated"],
        ),
        (
            {"repetition": 0.4},
            {},
            ["40.0% of the samples repeat", "60.0% of the data", "collapsed"],
        ),
        ({"coverage": 0.001}, {}, ["0.0% of the samples", "cover 0.1% of the data", "collapsed"]),
    ],
)
def test_warnings(metrics, scalars, words):
    told = MEASURED.warnings(MEASURES | metrics, SCALARS | scalars)
    assert len(told) == bool(words)
    assert [word for word in words if word not in "".join(told)] == []


# Configs that do not fit


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: task_of({"num_classes": 3}),
            ["task.generator.num_classes", "the same", "3 and 0"],
        ),
        (
            lambda: dataclasses.replace(MEASURED, generator=MEASURED.discriminator),
            ["task.generator DCGANDiscriminator is no generator"],
        ),
        (
            lambda: dataclasses.replace(MEASURED, discriminator=MEASURED.generator),
            ["task.discriminator DCGANGenerator is no discriminator"],
        ),
        (
            lambda: dataclasses.replace(MEASURED, generator=nn.Dense(3)),
            ["task.generator Dense is no generator"],
        ),
        (lambda: task_of(discriminator_steps=0), ["task.discriminator_steps", "at least 1", "0"]),
        (lambda: task_of(r1=-1.0), ["task.r1", "at least 0", "-1"]),
        (lambda: task_of(gradient_penalty=-1.0), ["task.gradient_penalty", "at least 0"]),
        (
            lambda: task_of((), {"norm": "batch"}, gradient_penalty=10.0),
            ["task.gradient_penalty", "task.discriminator.norm is 'batch'"],
        ),
        (
            lambda: task_of(loss="wasserstein"),
            [
                *("task.loss='wasserstein'", "task.gradient_penalty=10.0", "task.r1"),
                "task.discriminator.spectral_norm",
            ],
        ),
        (
            lambda: dataclasses.replace(MEASURED, discriminator=Classifier(num_classes=10)),
            ["task.discriminator Classifier is no discriminator"],
        ),
        (
            lambda: task_of(optimizer=Optimizer(accumulate_steps=2)),
            [" optimizer.accumulate_steps must be 1; got 2"],
        ),
        (
            lambda: task_of(discriminator_optimizer=Optimizer(accumulate_steps=3)),
            ["task.discriminator_optimizer.accumulate_steps must be 1; got 3"],
        ),
        (
            lambda: task_of(discriminator_optimizer=Optimizer(ema_decay=0.9)),
            ["only the generator", "task.discriminator_optimizer.ema_decay must be None; got 0.9"],
        ),
    ],
)
def test_a_task_names_what_it_cannot_use(make, words):
    with pytest.raises(InputError) as raised:
        make()
    assert [word for word in words if word not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("discriminator", "fields"),
    [
        ({}, {"gradient_penalty": 10.0}),
        ({}, {"r1": 1.0}),
        ({"spectral_norm": True}, {}),
        ({"norm": "batch", "spectral_norm": True}, {}),
    ],
)
def test_a_wasserstein_loss_has_any_bound_on_its_discriminator(discriminator, fields):
    task = task_of((), discriminator, loss="wasserstein", **fields)
    assert task.loss == "wasserstein"


def initialised(task, batch):
    return jax.eval_shape(task.init, jax.random.key(0), batch)


def test_a_batch_that_does_not_divide_into_the_discriminators_steps_is_refused():
    task = task_of(discriminator_steps=3)
    state = initialised(task, BATCHES[0])
    with pytest.raises(InputError, match=r"16 examples .* task.discriminator_steps=3"):
        jax.eval_shape(task.train_step, state, BATCHES[0])


def test_images_of_another_size_are_refused_or_resized():
    batch = {"image": np.zeros((2, 20, 24, 1), np.uint8)}
    with pytest.raises(InputError, match=r"\(16, 16, 1\), the data has \(20, 24, 1\).*resize=True"):
        initialised(task_of(), batch)
    initialised(task_of(resize=True), batch)
    with pytest.raises(InputError, match=r"the data has \(16, 16, 3\); set") as raised:
        initialised(task_of(resize=True), {"image": np.zeros((2, 20, 24, 3), np.uint8)})
    assert "resize" not in str(raised.value)


def test_classes_need_labels():
    with pytest.raises(InputError, match=r"needs labelled data.*; the batch has \['image'\]"):
        initialised(COURSE, {"image": IMAGES[:1]})
