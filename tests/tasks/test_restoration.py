"""Restoration: training pairs, metrics, and learning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax import ops
from deconv_jax.data.degradations import Blur, Chain, Downsample, GaussianNoise, Jpeg, Mask
from deconv_jax.data.sources import ArraySource
from deconv_jax.errors import InputError
from deconv_jax.models import FSRCNN, Classifier, ConvDeconv, UNet
from deconv_jax.tasks import Restoration
from deconv_jax.training.optimizer import Optimizer

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 24, 24, 1)).astype(np.uint8)
SIZES = np.array([[24, 24], [20, 24], [17, 13], [24, 9]], np.int32)
NET = ConvDeconv(features=(4, 4), kernel_size=3)
DENOISE = Restoration(NET, GaussianNoise(25.0), Optimizer(), crop=16)
ENLARGE = Restoration(FSRCNN(scale=3, d=4, s=2, m=1), Downsample(3), Optimizer(), border=3)


def batch_of(rows=slice(None), **more):
    index = np.arange(4, dtype=np.int32)
    arrays = {"image": PIXELS, "index": index, "size": SIZES, "mask": np.ones(4, np.float32)}
    return {name: jnp.asarray(array[rows]) for name, array in (arrays | more).items()}


def decibels(output, clean):
    return -10 * np.log10(np.mean((np.clip(output, 0, 1) - clean) ** 2))


def test_training_pairs_are_crops_with_the_stated_noise():
    keys = jax.random.split(jax.random.key(0), 200)
    ramp = jnp.broadcast_to(jnp.arange(24.0).reshape(1, 24, 1, 1) / 48 + 0.25, (200, 24, 24, 1))
    task = dataclasses.replace(DENOISE, augment=False)
    clean = jax.jit(task._patches)(keys, ramp)
    assert clean.shape == (200, 16, 16, 1)
    assert set(np.round((np.asarray(clean[:, 0, 0, 0]) - 0.25) * 48).astype(int)) == set(range(9))
    noise = np.asarray(jax.jit(task._degrade)(keys, clean) - clean)
    assert noise.std() * 255 == pytest.approx(25, rel=0.02)
    assert noise.mean() * 255 == pytest.approx(0, abs=0.5)


@pytest.mark.slow
def test_step_does_not_depend_on_batch_order(drawn_state):
    state, step = drawn_state(DENOISE, batch_of()), jax.jit(DENOISE.train_step)
    order = np.array([2, 0, 3, 1])
    steps = [step(state, batch_of(rows))[0] for rows in (slice(None), order)]
    for a, b in zip(*(jax.tree.leaves(s.params) for s in steps), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "penalty"),
    [
        ("l1", np.abs),
        ("l2", np.square),
        ("charbonnier", lambda d: np.sqrt(d**2 + 1e-6)),
    ],
)
def test_losses_equal_their_formulas(drawn_state, loss, penalty):
    """With zero weights the residual network is the identity, so the loss is that of the noise."""
    task = dataclasses.replace(DENOISE, loss=loss, crop=None, augment=False)
    state = drawn_state(task, batch_of())
    state = state.replace(params=jax.tree.map(np.zeros_like, state.params))
    half = dataclasses.replace(task, reduction="half_sum")
    logarithm = dataclasses.replace(task, reduction="log")

    @jax.jit
    def losses_and_noise(batch):
        step_key = jax.random.fold_in(jax.random.key(0), 0)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, jnp.arange(4))
        clean = jnp.asarray(PIXELS, jnp.float32) / 255
        losses = [of.train_step(state, batch)[1]["loss"] for of in (task, half, logarithm)]
        return losses, task._degrade(keys, clean) - clean

    (mean, summed, logs), noise = jax.device_get(losses_and_noise(batch_of()))
    np.testing.assert_allclose(mean, penalty(noise).mean(), rtol=1e-5)
    np.testing.assert_allclose(summed, penalty(noise).sum() / 8, rtol=1e-5)
    expected = np.log(penalty(noise).mean(axis=(1, 2, 3)) + 1e-6).mean()
    np.testing.assert_allclose(logs, expected, rtol=1e-4)


@pytest.mark.slow
def test_evaluation_excludes_padding_and_repeats_the_noise(drawn_state):
    state = drawn_state(DENOISE, batch_of())
    mask = np.array([1, 1, 1, 0], np.float32)
    together = DENOISE.evaluate(state, [batch_of(mask=mask)])
    apart = DENOISE.evaluate(state, [batch_of([i], mask=mask) for i in (2, 0, 1)])
    assert together == pytest.approx(apart, rel=1e-5)
    degraded, output, clean = (np.asarray(a) for a in DENOISE._restore(state, batch_of()))
    expected = [decibels(output[i, :h, :w], clean[i, :h, :w]) for i, (h, w) in enumerate(SIZES[:3])]
    assert together["psnr"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert (degraded - clean).std() * 255 == pytest.approx(25, rel=0.1)


def test_baseline_is_the_input_under_the_same_protocol(drawn_state):
    source = ArraySource({"image": PIXELS, "size": SIZES})
    state = drawn_state(DENOISE, batch_of())
    degraded, _, clean = (np.asarray(a) for a in DENOISE._restore(state, batch_of()))
    expected = [decibels(degraded[i, :h, :w], clean[i, :h, :w]) for i, (h, w) in enumerate(SIZES)]
    measured = DENOISE.baseline(source, source)
    assert measured["input_psnr"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_super_resolution_baseline_is_bicubic_inside_the_border():
    pixels = PIXELS[:1, :23, :22]  # Neither is a multiple of 3.
    source = ArraySource({"image": pixels})
    clean = pixels[:, :21, :21] / np.float32(255)
    bicubic = np.asarray(ops.imresize(ops.imresize(jnp.asarray(clean), 1 / 3), 3))
    expected = decibels(bicubic[:, 3:-3, 3:-3], clean[:, 3:-3, 3:-3])
    assert ENLARGE.baseline(source, source)["input_psnr"] == pytest.approx(expected, rel=1e-5)


def test_cropping_degradation_has_no_baseline():
    task = dataclasses.replace(DENOISE, degradation=Blur(np.full((3, 3), 1 / 9), "valid"))
    source = ArraySource({"image": PIXELS})
    assert task.baseline(source, source) == {}


@pytest.mark.slow
def test_noise_conditional_input_has_the_noise_level(drawn_state):
    task = dataclasses.replace(DENOISE, degradation=GaussianNoise((0.0, 50.0)))
    task = dataclasses.replace(task, noise_conditional=True)
    keys = jax.random.split(jax.random.key(1), 64)
    clean = jnp.full((64, 16, 16, 1), 0.5)
    degraded = np.asarray(jax.jit(task._degrade)(keys, clean))
    assert degraded.shape == (64, 16, 16, 2)
    level, noise = degraded[..., 1], degraded[..., 0] - 0.5
    assert (level == level[:, :1, :1]).all()
    np.testing.assert_allclose(noise.std((1, 2)), level[:, 0, 0], rtol=0.2)
    assert level.max() * 255 > 45
    assert level.min() * 255 < 5
    state = drawn_state(task, batch_of())
    assert np.isfinite(jax.jit(task.train_step)(state, batch_of())[1]["loss"])
    with pytest.raises(InputError, match="requires Gaussian noise"):
        dataclasses.replace(task, degradation=Jpeg(10)).init(jax.random.key(0), batch_of())


@pytest.mark.slow
def test_state_is_initialized_for_patches(drawn_state):
    """The network and the mask fit the 16-pixel patches, but not the 24-pixel images."""
    mask = Mask(np.ones((16, 16), np.float32))
    task = dataclasses.replace(
        DENOISE, model=UNet(features=(2, 2, 2, 2, 2), norm="none"), degradation=mask, crop=16
    )
    state = drawn_state(task, batch_of())
    assert np.isfinite(jax.jit(task.train_step)(state, batch_of())[1]["loss"])


@pytest.mark.parametrize("task", [DENOISE, ENLARGE], ids=["denoise", "enlarge"])
def test_pictures_show_degraded_restored_and_clean_images(drawn_state, task):
    batch = batch_of()
    picture = task.pictures(drawn_state(task, batch), batch)["restorations"]
    assert picture.width >= 4 * 24
    assert picture.height >= 3 * 24


@pytest.mark.slow
def test_training_learns_to_denoise():
    smooth = np.kron(RNG.integers(0, 256, (8, 4, 4, 1)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    task = Restoration(NET, Chain((GaussianNoise(40.0),)), Optimizer(learning_rate=1e-2), crop=24)
    batch = {"image": jnp.asarray(smooth), "index": jnp.arange(8)}
    state = jax.jit(task.init)(jax.random.key(0, impl="rbg"), batch)
    step = jax.jit(task.train_step)
    for _ in range(60):
        state, _ = step(state, batch)
    masked = batch | {"mask": jnp.ones(8)}
    source = ArraySource({"image": smooth})
    gain = task.evaluate(state, [masked])["psnr"] - task.baseline(source, source)["input_psnr"]
    assert gain > 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": Classifier()}, "must be a restoration network such as 'dncnn'; got Classifier"),
        ({"model": FSRCNN(scale=3), "crop": 16}, "multiple of the model's scale 3"),
        ({"crop": None, "rescale": (0.5,)}, "requires task.crop"),
        ({"border": -1}, "task.border"),
    ],
)
def test_invalid_settings_are_rejected(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(DENOISE, **changes)


def test_scale_must_match_the_degradation():
    task = Restoration(NET, Downsample(2), Optimizer())
    state = jax.eval_shape(task.init, jax.random.key(0), batch_of())
    with pytest.raises(InputError, match=r"set task\.model\.scale"):
        jax.eval_shape(task.train_step, state, batch_of())


def given_pairs(scale):
    """Pairs whose target is a random input enlarged by repetition."""
    inputs = np.random.default_rng(1).integers(0, 256, (4, 24, 24, 1), np.uint8)
    targets = inputs.repeat(scale, axis=1).repeat(scale, axis=2)
    sizes = np.array([[24 * scale, 24 * scale], [9 * scale, 20 * scale]] * 2, np.int32)
    arrays = {"image": targets, "input": inputs, "size": sizes}
    more = {"index": np.arange(4, dtype=np.int32), "mask": np.ones(4, np.float32)}
    return ArraySource(arrays), {k: jnp.asarray(a) for k, a in (arrays | more).items()}


@pytest.mark.parametrize("scale", [1, 2])
def test_crop_flip_and_rotation_of_given_pairs_agree(scale):
    model = ConvDeconv() if scale == 1 else FSRCNN(scale=2)
    task = Restoration(model, None, Optimizer(), crop=8 * scale)
    keys = jax.random.split(jax.random.key(0), 4)
    given, clean = jax.jit(task._training_pair)(keys, given_pairs(scale)[1])
    assert given.shape == (4, 8, 8, 1)
    np.testing.assert_array_equal(given.repeat(scale, axis=1).repeat(scale, axis=2), clean)
    assert len(np.unique(np.asarray(given), axis=0)) == 4


def test_given_pairs_are_evaluated_as_they_are(drawn_state):
    source, batch = given_pairs(2)
    task = Restoration(FSRCNN(scale=2, d=4, s=2, m=1), None, Optimizer(), crop=16, border=2)
    state = drawn_state(task, batch)
    given, output, clean = (np.asarray(a) for a in task._restore(state, batch))
    np.testing.assert_allclose(given, source.arrays["input"] / np.float32(255), rtol=1e-6)
    np.testing.assert_allclose(clean, source.arrays["image"] / np.float32(255), rtol=1e-6)
    inner = [(slice(2, h - 2), slice(2, w - 2)) for h, w in source.arrays["size"]]
    expected = [decibels(output[i][part], clean[i][part]) for i, part in enumerate(inner)]
    measured = task.evaluate(state, [batch])
    assert measured["psnr"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert task.pictures(state, batch)["restorations"].height > 0
    bicubic = np.clip(np.asarray(ops.imresize(jnp.asarray(given), 2)), 0, 1)
    expected = [decibels(bicubic[i][part], clean[i][part]) for i, part in enumerate(inner)]
    assert task.baseline(source, source)["input_psnr"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_pairs_and_degradation_exclude_each_other():
    state_of = jax.eval_shape
    batch = given_pairs(1)[1]
    for task, given, said in (
        (DENOISE, batch, r"task\.degradation must be None for data of pairs"),
        (dataclasses.replace(DENOISE, degradation=None), batch_of(), "requires data of pairs"),
        (
            dataclasses.replace(ENLARGE, degradation=None),
            batch,
            "has scale 3, and the targets are 1 times",
        ),
    ):
        with pytest.raises(InputError, match=said):
            state_of(task.init, jax.random.key(0), given)
    for options, said in (({"rescale": (0.5,)}, "rescale"), ({"noise_conditional": True}, "noise")):
        with pytest.raises(InputError, match=rf"task\.{said}\w* requires task\.degradation"):
            dataclasses.replace(DENOISE, degradation=None, **options)
