"""The cost of an experiment: sums over layers, sizes of images, checkpoints and bounds."""

import jax
import pytest

from deconv_jax.cost.accelerators import ACCELERATORS
from deconv_jax.cost.multiply_adds import count_multiply_adds
from deconv_jax.cost.report import cost_of, training_batch
from deconv_jax.cost.text import duration, short
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.workdir import CHECKPOINTS, CONFIG, open_workdir, read_input_shapes

DATA = {"source": {"name": "digits"}}
TRAINING = {"num_steps": 4, "batch_size": 6, "eval_every": 4, "save_every": 4}
SHAPES = {
    "image": jax.ShapeDtypeStruct((1, 16, 16, 1), "uint8"),
    "label": jax.ShapeDtypeStruct((1,), "int32"),
    "index": jax.ShapeDtypeStruct((1,), "int32"),
}


def experiment_of(task, **settings):
    config = {"task": task, "data": DATA, "training": TRAINING} | settings
    return Experiment.from_dict(config)


def denoising(**model):
    degradation = {"name": "gaussian_noise", "sigma": 25.0}
    return {"name": "restoration", "model": model, "degradation": degradation, "crop": 8}


def denoiser(**settings):
    return experiment_of(denoising(name="dncnn", depth=3, features=4), **settings)


def step_multiply_adds(experiment):
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(experiment.task.init, key, SHAPES)
    batch = training_batch(SHAPES, experiment.training.batch_size)
    return count_multiply_adds(experiment.task.train_step, state, batch)


@pytest.mark.slow
def test_layers_of_both_networks_of_a_gan_sum_to_the_step():
    generator = {"name": "dcgan_generator", "image_shape": (16, 16, 1), "latent_dim": 3, "width": 2}
    discriminator = {"name": "dcgan_discriminator", "width": 2, "norm": "none"}
    discriminator["minibatch_std_group"] = 3
    task = {"name": "gan", "generator": generator, "discriminator": discriminator}
    experiment = experiment_of(task | {"r1": 1.0})
    cost = cost_of("gan", experiment, SHAPES)
    assert [network.name for network in cost.networks] == ["DCGANGenerator", "DCGANDiscriminator"]
    assert cost.step_flops == 2 * step_multiply_adds(experiment)
    assert cost.other_flops == 0
    fake, real = cost.networks
    # One forward pass, and the gradient of the weights and of all inputs but the latents.
    assert fake.total("training_flops") < 3 * fake.total("forward_flops")
    # Real, fake, penalty and generator: twice with both gradients, once with those of second order.
    assert real.total("training_flops") > 9 * real.total("forward_flops")
    state = jax.eval_shape(experiment.task.init, jax.random.key(0), SHAPES)
    assert cost.parameters == sum(a.size for a in jax.tree.leaves(state.params))


@pytest.mark.slow
def test_size_changes_only_the_forward_pass():
    experiment = denoiser()
    small, large = (cost_of("dncnn", experiment, SHAPES, size) for size in (None, (16, 24)))
    assert large.forward_flops == 6 * small.forward_flops
    assert large.activation_bytes == 6 * small.activation_bytes
    assert large.networks[0].input_shapes == ((16, 24, 1),)
    assert large.step_flops == small.step_flops
    assert large.step_activation_bytes == small.step_activation_bytes
    assert large.step_bounds() == small.step_bounds()
    (network,) = small.networks
    assert network.receptive_field.before == network.receptive_field.after == 3
    assert [layer.name for layer in network.layers if layer.forward_flops] == [
        "layer_0/Conv_0",
        "layer_1/Conv_0",
        "to_noise",
    ]


@pytest.mark.slow
def test_accumulation_and_recomputation_count():
    plain, parts = denoiser(), denoiser(optimizer={"accumulate_steps": 3})
    flops = [cost_of("dncnn", experiment, SHAPES).step_flops for experiment in (plain, parts)]
    assert flops[0] == flops[1]

    def classifier(remat):
        model = {"name": "classifier", "features": (4, 6), "remat": remat}
        return cost_of("c", experiment_of({"name": "classification", "model": model}), SHAPES)

    stored, recomputed = classifier(False), classifier(True)
    assert stored.forward_flops == recomputed.forward_flops
    assert stored.step_flops < recomputed.step_flops
    names = [[layer.name for layer in cost.networks[0].layers] for cost in (stored, recomputed)]
    assert [len(n) for n in names] == [len(names[0])] * 2


@pytest.mark.parametrize(
    ("task", "size", "said"),
    [
        (
            {"name": "classification", "model": {"name": "classifier", "features": (4,)}},
            (8, 8),
            "Classifier does not accept images of 8x8 pixels",
        ),
        (
            denoising(name="unet", features=(4, 4)),
            (9, 8),
            "UNet does not accept images of 9x8 .* multiples of 2",
        ),
    ],
)
def test_unsuitable_sizes_are_errors(task, size, said):
    with pytest.raises(InputError, match=said):
        cost_of("network", experiment_of(task), SHAPES, size)


def test_bounds_are_the_slower_of_arithmetic_and_memory():
    cost = cost_of("dncnn", denoiser(), SHAPES)
    chip = ACCELERATORS[0]
    bound = cost.step_bounds()[chip.name]
    assert bound.compute_s == pytest.approx(cost.step_flops / chip.f32_flops)
    assert bound.seconds == max(bound.compute_s, bound.memory_s)
    # Three layers of 8 x 8 pixels with 4, 4 and 1 channels, five times; the state twice; the batch once.
    moved = 5 * 6 * 64 * 9 * 4 + 2 * sum(cost.state_bytes.values()) + cost.batch_bytes
    assert bound.memory_s == pytest.approx(moved / chip.bandwidth)
    half = chip.bound(cost.step_flops, moved, "bf16")
    assert half.compute_s < bound.compute_s


def test_numbers_have_few_digits_and_a_unit():
    values = {0: "0 ", 999: "999 ", 1843200: "1.843 M", 2.5e12: "2.5 T"}
    assert {value: short(value) for value in values} == values
    times = {
        4e-7: "0.4 us",
        0.0123456: "12.3 ms",
        0.9999: "1 s",
        59.96: "60 s",
        12345.6: "12,346 s",
    }
    assert {seconds: duration(seconds) for seconds in times} == times


@pytest.mark.slow
def test_checkpoint_has_the_size_of_the_state(saved_run):
    task = denoising(name="dncnn", depth=4, features=32)
    example = {"image": ((16, 16, 1), "uint8"), "index": ((), "int32")}
    workdir, _ = saved_run(task, example)
    cost = cost_of("run", open_workdir(workdir), read_input_shapes(workdir))
    files = [path for path in (workdir / CHECKPOINTS).rglob("*") if path.is_file()]
    saved, total = sum(p.stat().st_size for p in files), sum(cost.state_bytes.values())
    assert (workdir / CONFIG).exists()
    # Stored losslessly: about the size of the state, a little less for its arrays of random numbers.
    assert 0.8 * total < saved < total + 60_000
