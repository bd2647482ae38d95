"""Adversarial training: equal to PyTorch's steps, independent of devices, deterministic, resumable."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from deconv_jax.data.augment import example_keys
from deconv_jax.models import DCGANDiscriminator, DCGANGenerator
from deconv_jax.models.latent_sampling import draw_latents
from deconv_jax.tasks import GAN
from deconv_jax.training.optimizer import Optimizer

RNG = np.random.default_rng(0)
SHAPE, LATENT, BATCH, STEPS = (16, 16, 1), 4, 16, 3
IMAGES = RNG.integers(0, 256, (40, *SHAPE)).astype(np.uint8)
LABELS = RNG.integers(0, 3, len(IMAGES)).astype(np.int32)
FAST_KEY = jax.random.key(0, impl="rbg")
"""A key of the generator that compiles ten times faster than the default one on a CPU."""


def task_of(generator=(), discriminator=(), **fields):
    """Return the task of a tiny DCGAN; the first two arguments are fields of its networks."""
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
    """Return the states before and after each step, every step's scalars, and the compiled step."""
    step = jax.jit(task.train_step)
    states, scalars = [state], []
    for batch in BATCHES[:steps]:
        state, step_scalars = step(state, batch)
        states.append(state)
        scalars.append(jax.device_get(step_scalars))
    return jax.device_get(states), scalars, step


# Equality with PyTorch


def nchw(images):
    return torch.from_numpy(np.moveaxis(np.array(images), -1, 1).copy())


class Reference:
    """A task's training step in PyTorch, starting from the weights of a state."""

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
        """Return images (batch, channels, height, width) in [0, 1]."""
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

    def kernel_of(self, name, update):
        """Return a kernel of the discriminator, spectrally normalized; `update` stores the new u."""
        kernel, stats = self.params["discriminator"][name]["kernel"], self.stats["discriminator"]
        if not self.task.discriminator.spectral_norm:
            return kernel
        matrix = kernel.reshape(-1, kernel.shape[-1])
        with torch.no_grad():
            v = functional.normalize(matrix @ stats[name]["u"], dim=0)
            u = functional.normalize(matrix.T @ v, dim=0)
            if update:
                stats[name]["u"] = u
        return kernel / torch.dot(v, matrix @ u)

    def discriminate(self, images, update=True):
        """Return logits (batch,)."""
        params, stats = self.params["discriminator"], self.stats["discriminator"]
        x = 2.0 * images - 1.0
        for i in range(2):
            name = f"Conv_{i}"
            kernel = self.kernel_of(name, update).permute(3, 2, 0, 1)
            x = functional.conv2d(x, kernel, params[name].get("bias"), stride=2, padding=1)
            if i and self.task.discriminator.norm == "batch":
                x = self.batch_norm(x, params[f"Norm_{i}"], stats[f"Norm_{i}"])
            x = functional.leaky_relu(x, 0.2)
        x = x.permute(0, 2, 3, 1).reshape(len(x), -1)
        return (x @ self.kernel_of("Dense_0", update) + params["Dense_0"]["bias"])[:, 0]

    def losses(self, real, fake):
        """Return the discriminator's loss."""
        if self.task.loss == "hinge":
            return (1 - real).relu().mean() + (1 + fake).relu().mean()
        if self.task.loss == "wasserstein":
            return fake.mean() - real.mean()
        cross_entropy = functional.binary_cross_entropy_with_logits
        return cross_entropy(real, torch.ones_like(real)) + cross_entropy(
            fake, torch.zeros_like(fake)
        )

    def squared_gradient_norms(self, images):
        """Return the squared norm of each logit's gradient by its image in [-1, 1]."""
        signed = (2.0 * images - 1.0).detach().requires_grad_()
        total = self.discriminate(0.5 * (signed + 1.0), update=False).sum()
        (gradients,) = torch.autograd.grad(total, signed, create_graph=True)
        return gradients.square().sum((1, 2, 3))

    def step(self, number, batch):
        """Return both losses of a step that draws random numbers from the task's keys."""
        task, parts = self.task, self.task.discriminator_steps
        step_key = jax.random.fold_in(jax.random.key(task.seed), number)
        for part in range(parts):
            key = jax.random.fold_in(step_key, part)
            index = jnp.asarray(batch["index"][part::parts])
            keys = [example_keys(jax.random.fold_in(key, purpose), index) for purpose in range(4)]
            real = nchw(batch["image"][part::parts] / np.float32(255))
            fake = self.generate(torch.tensor(np.array(draw_latents(keys[0], LATENT))))
            detached = fake.detach()
            loss = self.losses(self.discriminate(real), self.discriminate(detached))
            total = loss + 0.0
            if task.r1:
                total = total + task.r1 * 0.5 * self.squared_gradient_norms(real).mean()
            if task.gradient_penalty:
                position = np.array(jax.vmap(jax.random.uniform)(keys[3]))[:, None, None, None]
                position = torch.tensor(position)
                norms = self.squared_gradient_norms(
                    position * real + (1 - position) * detached
                ).sqrt()
                total = total + task.gradient_penalty * (norms - 1).square().mean()
            self.descend("discriminator", total)
        logits = self.discriminate(fake)
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


TORCH_TASKS = {
    "non_saturating, batch norm": task_of((), {"norm": "batch"}),
    "hinge, spectral norm, r1": task_of((), {"spectral_norm": True}, loss="hinge", r1=2.0),
    "wasserstein, gradient penalty, 2 steps": task_of(
        loss="wasserstein", gradient_penalty=10.0, discriminator_steps=2
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TORCH_TASKS.values(), ids=TORCH_TASKS)
def test_steps_equal_pytorch(assert_trees_equal, drawn_state, task):
    states, scalars, _ = trained(task, drawn_state(task, BATCHES[0]), STEPS)
    reference = Reference(task, states[0])
    for number, (step_scalars, batch) in enumerate(zip(scalars, BATCHES, strict=False)):
        losses = step_scalars["discriminator_loss"], step_scalars["generator_loss"]
        np.testing.assert_allclose(losses, reference.step(number, batch), rtol=1e-4, atol=1e-5)
    expected = jax.tree.map(lambda a: a.detach().numpy(), reference.params)
    # Compare the changes of the weights, which are small after three steps of Adam.
    changes = [
        jax.tree.map(np.subtract, params, states[0].params)
        for params in (states[-1].params, expected)
    ]
    assert_trees_equal(*changes, relative=1e-3)
    if task.discriminator.spectral_norm:
        vectors = [
            {name: layer["u"] for name, layer in stats["discriminator"].items()}
            for stats in (states[-1].batch_stats, reference.stats)
        ]
        assert len(vectors[0]) == 3
        assert_trees_equal(*vectors, relative=1e-3)


# Devices


PLAIN_SGD = Optimizer(name="sgd", learning_rate=0.01, momentum=0.0)
# Plain SGD, because Adam's first steps divide by the gradient's magnitude and so turn the rounding error
# of a nearly zero gradient into an error as large as the step.
ON_DEVICES = task_of(
    {"width": 4},
    {"norm": "batch", "spectral_norm": True, "minibatch_std_group": 2},
    optimizer=PLAIN_SGD,
    r1=0.1,
    augment=("translation",),
)


@pytest.fixture(scope="module")
def on_one_device(drawn_state, run_steps):
    """Return a state, and the state and scalars after ten steps on one device."""
    state = drawn_state(ON_DEVICES, BATCHES[0])
    return state, *run_steps(ON_DEVICES, state, BATCHES, count=1)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["jit", "pmap"])
def test_eight_devices_equal_one(assert_trees_equal, run_steps, on_one_device, compiler):
    state, one, one_scalars = on_one_device
    eight, eight_scalars = run_steps(ON_DEVICES, state, BATCHES, compiler=compiler)
    losses = [name for name in one_scalars if name.endswith(("loss", "penalty"))]
    assert len(losses) == 4
    for name in losses:
        np.testing.assert_allclose(eight_scalars[name], one_scalars[name], rtol=1e-5, atol=1e-6)
    names = {str(path[-1].key) for path, _ in jax.tree_util.tree_leaves_with_path(one.batch_stats)}
    assert names == {"mean", "var", "u"}
    parts = [(state.params, state.batch_stats) for state in (eight, one)]
    assert_trees_equal(*parts, relative=2e-5)


# A whole run


RUN = task_of(
    {"num_classes": 3},
    {"num_classes": 3, "norm": "batch", "spectral_norm": True},
    optimizer=Optimizer(learning_rate=0.002, momentum=0.5, ema_decay=0.75),
    num_steps=5,
    freeze_discriminator_steps=2,
    r1=1.0,
    augment=("color", "translation"),
)


@pytest.fixture(scope="module")
def run():
    """Return the states of a whole run, every step's scalars, and the compiled step."""
    return trained(RUN, jax.jit(RUN.init)(FAST_KEY, BATCHES[0]), 5)


def parts_of(state, network):
    fields = ("params", "batch_stats", "opt_state")
    return {field: getattr(state, field)[network] for field in fields}


def changed_fraction(before, after):
    """Return the fraction of leaves that changed."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return np.mean([not np.array_equal(a, b) for a, b in pairs])


@pytest.mark.slow
def test_last_steps_train_the_generator_alone(assert_trees_equal, run):
    states, _, _ = run
    for before, after in itertools.pairwise(states[:4]):
        # All leaves but one: u of the logit's kernel has a single entry, which is 1 or -1.
        assert (
            changed_fraction(parts_of(before, "discriminator"), parts_of(after, "discriminator"))
            > 0.95
        )
    for later in states[4:]:
        assert_trees_equal(parts_of(later, "discriminator"), parts_of(states[3], "discriminator"))
    for before, after in itertools.pairwise(states):
        assert changed_fraction(parts_of(before, "generator"), parts_of(after, "generator")) == 1.0


PLAIN = {"name": "sgd", "learning_rate": 0.01, "momentum": 0.0}
DECAYING = Optimizer(**PLAIN, schedule="linear", decay_steps=2)
SCHEDULES = {
    "one optimizer": (DECAYING, None),
    "one each": (DECAYING, Optimizer(**PLAIN, schedule="linear")),
}


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "other"), SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_of_both_networks_end_with_the_run(drawn_state, optimizer, other):
    """The learning rates reach zero after two steps, for any number of updates per step."""
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
    for network in ("generator", "discriminator"):
        params = [state.params[network] for state in states]
        assert [changed_fraction(*pair) for pair in itertools.pairwise(params)] == [1.0, 1.0, 0.0]


def test_ema_averages_weights_and_statistics(assert_trees_equal, run):
    states, _, _ = run
    generators = [
        {"params": s.params["generator"], "batch_stats": s.batch_stats["generator"]} for s in states
    ]
    average = generators[0]
    assert_trees_equal(states[0].ema, average)
    for number, (state, generator) in enumerate(zip(states[1:4], generators[1:4], strict=True)):
        decay = (1 + number) / (10 + number)
        average = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * b, average, generator)
        assert_trees_equal(state.ema, average, relative=1e-6)
        assert state.inference_variables() is state.ema


def test_step_can_be_replayed_alone(assert_trees_equal, run):
    states, scalars, step = run
    state, step_scalars = step(states[2], BATCHES[2])
    assert_trees_equal(jax.device_get(state), states[3])
    assert_trees_equal(jax.device_get(step_scalars), scalars[2])


def test_random_numbers_depend_on_step_and_index(run):
    """The same images with other indices, or at another step, are paired with other latents."""
    states, scalars, step = run
    others = [
        step(states[2], BATCHES[2] | {"index": BATCHES[2]["index"] + 100})[1],
        step(dataclasses.replace(states[2], step=np.int32(1)), BATCHES[2])[1],
    ]
    for other in others:
        assert abs(other["discriminator_loss"] - scalars[2]["discriminator_loss"]) > 1e-4


def test_batch_order_does_not_matter(assert_trees_equal, run):
    states, _, step = run
    order = np.random.default_rng(1).permutation(BATCH)
    state, _ = step(states[2], {name: array[order] for name, array in BATCHES[2].items()})
    generators = [s.batch_stats["generator"] for s in (jax.device_get(state), states[3])]
    assert_trees_equal(*generators, relative=1e-5)


def test_both_networks_depend_on_labels(run):
    states, scalars, step = run
    other = step(states[3], BATCHES[3] | {"label": (BATCHES[3]["label"] + 1) % 3})[1]
    for name in ("discriminator_loss", "generator_loss"):
        assert abs(other[name] - scalars[3][name]) > 1e-5
    # These images differ in their labels only.
    latents = jnp.tile(draw_latents(jax.random.split(FAST_KEY, 1), LATENT), (3, 1))
    variables = states[3].inference_variables()
    variables = jax.tree.map(jnp.asarray, variables)
    spread = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)
    variables["params"]["ConditionalNorm_0"]["bias"] += spread
    images = np.asarray(jax.jit(RUN.sample)(variables, latents, jnp.arange(3)))
    for a, b in ((0, 1), (1, 2), (2, 0)):
        assert np.abs(images[a] - images[b]).max() > 1e-3


@pytest.mark.slow
def test_samples_are_independent(run):
    states, _, _ = run
    sample = jax.jit(RUN.sample)
    latents = draw_latents(jax.random.split(FAST_KEY, 6), LATENT)
    labels = jnp.arange(6) % 3
    variables = states[5].inference_variables()
    together = sample(variables, latents, labels)
    assert together.shape == (6, *SHAPE)
    order = np.array([4, 0, 3, 5, 1, 2])
    others = sample(variables, latents[order], labels[order])
    np.testing.assert_allclose(others, together[order], atol=1e-6)
    alone = sample(variables, latents[2:3], labels[2:3])
    np.testing.assert_allclose(alone, together[2:3], atol=1e-6)


# Precision


@pytest.mark.slow
def test_bf16_step_is_finite_with_float32_parameters(run):
    (before, *_), exact, _ = run
    task = dataclasses.replace(RUN, precision="bf16")
    states, scalars, _ = trained(task, before, 2)
    assert {np.asarray(leaf).dtype for leaf in jax.tree.leaves(states[-1].params)} == {
        np.dtype("float32")
    }
    for first, last in zip(jax.tree.leaves(states[0]), jax.tree.leaves(states[-1]), strict=True):
        assert first.dtype == last.dtype
        assert np.isfinite(last).all()
    assert changed_fraction(states[0].params, states[-1].params) == 1.0
    assert all(np.isfinite(value) for step_scalars in scalars for value in step_scalars.values())
    # Close to float32, but not equal to it.
    for name in ("discriminator_loss", "generator_loss", "r1_penalty"):
        assert scalars[0][name] != exact[0][name]
        assert scalars[0][name] == pytest.approx(exact[0][name], rel=0.05, abs=0.02)
