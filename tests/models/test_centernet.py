"""CenterNet: equality with PyTorch, shapes, initialization and shift equivariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from deconv_jax.errors import InputError
from deconv_jax.models import CenterNet

SMALL = CenterNet(num_classes=3, features=(4, 8), output_stride=2, head_features=5)


def images(*shape):
    return jnp.asarray(np.random.default_rng(1).random(shape, np.float32))


def in_torch(variables, x, *, levels=2, skips=True):
    """The network with one block per level and output stride 2, in PyTorch's functions."""
    as_tensor = lambda leaf: torch.tensor(np.asarray(leaf))  # noqa: E731
    params, stats = (jax.tree.map(as_tensor, variables[n]) for n in ("params", "batch_stats"))
    convs, norms = iter(range(100)), iter(range(100))

    def conv(x, name=None, stride=1):
        layer = params[name or f"Conv_{next(convs)}"]
        kernel = layer["kernel"].permute(3, 2, 0, 1)
        # For even sizes and stride 2, "SAME" pads only after the image.
        edges = (0, 1, 0, 1) if stride == 2 else (kernel.shape[-1] // 2,) * 4
        return F.conv2d(F.pad(x, edges), kernel, layer.get("bias"), stride)

    def norm(x):
        name = f"Norm_{next(norms)}"
        here, running = params[name]["BatchNorm_0"], stats[name]["BatchNorm_0"]
        return F.batch_norm(x, running["mean"], running["var"], here["scale"], here["bias"])

    x = torch.tensor(np.asarray(x)).movedim(-1, 1)
    found = []
    for _ in range(levels):
        x = norm(conv(x, stride=2)).relu()
        x = (x + norm(conv(norm(conv(x)).relu()))).relu()
        found.append(x)
    for number, level in enumerate(reversed(found[:-1])):
        kernel = params[f"ConvTranspose_{number}"]["kernel"].permute(3, 2, 0, 1)
        x = norm(F.conv_transpose2d(x, kernel, stride=2, padding=1)).relu()
        x = x + level if skips else x
    heads = conv(x, "heads").relu().chunk(3, dim=1)
    maps = [
        conv(head, name) for head, name in zip(heads, ("heat", "log_size", "offset"), strict=True)
    ]
    maps[0] = maps[0] - 2.19
    return [each.movedim(1, -1).numpy() for each in maps]


@pytest.mark.slow
@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("features", [(4, 8), (3, 4, 6)])
def test_maps_equal_pytorch(random_variables, apply, features, skips):
    model = SMALL.clone(features=features, skips=skips)
    x = images(2, 24, 16, 3)
    variables = random_variables(model, x)
    maps = apply(model, variables, x)
    expected = in_torch(variables, x, levels=len(features), skips=skips)
    for ours, theirs in zip(maps, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("blocks", [0, 2])
def test_output_stride_sets_the_grid_and_the_decoder_depth(stride, blocks):
    model = CenterNet(7, features=(4, 8, 8), blocks=blocks, output_stride=stride, head_features=4)
    x = jax.ShapeDtypeStruct((2, 48, 32, 1), jnp.float32)
    maps, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), x)
    grid = (2, 48 // stride, 32 // stride)
    assert [m.shape for m in maps] == [(*grid, 7), (*grid, 2), (*grid, 2)]
    convs = [name for name in variables["params"] if name.startswith("Conv_")]
    assert len(convs) == 3 * (1 + 2 * blocks)
    ups = [name for name in variables["params"] if name.startswith("ConvTranspose_")]
    assert 2 ** (3 - len(ups)) == stride


@pytest.mark.slow
def test_initial_heat_is_the_prior_and_sizes_are_near_one_cell():
    x = images(2, 32, 32, 3)
    model = SMALL.clone(num_classes=10)
    maps, _ = jax.jit(model.init_with_output)(jax.random.key(0), x)
    assert np.asarray(jax.nn.sigmoid(maps.heat)).mean() == pytest.approx(0.1, abs=0.02)
    for each in (maps.log_size, maps.offset):
        assert np.abs(each).max() < 0.5


def test_maps_are_equivariant_to_shifts_by_the_coarsest_stride(random_variables, apply):
    whole = images(1, 100, 100, 1)
    seen, moved = whole[:, :96, :96], whole[:, 4:, 4:]
    variables = random_variables(SMALL, seen)
    for here, there in zip(
        apply(SMALL, variables, seen), apply(SMALL, variables, moved), strict=True
    ):
        inner = slice(16, -16)  # Cells that depend on no border.
        np.testing.assert_allclose(
            here[:, 2:, 2:][:, inner, inner], there[:, :-2, :-2][:, inner, inner], atol=1e-4
        )


@pytest.mark.slow
def test_training_uses_and_updates_batch_statistics():
    x = images(4, 16, 16, 3)
    variables = jax.jit(SMALL.init)(jax.random.key(0), x)
    train = jax.jit(lambda v, x: SMALL.apply(v, x, train=True, mutable=["batch_stats"]))
    maps, changed = train(variables, x)
    scaled, _ = train(variables, 3 * x)  # Batch norm cancels the scale.
    np.testing.assert_allclose(scaled.heat, maps.heat, rtol=1e-3, atol=1e-3)
    before, after = (jax.tree.leaves(v["batch_stats"]) for v in (variables, changed))
    assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"output_stride": 8}, "output_stride for 2 levels must be one of 2, 4; got 8"),
        ({"output_stride": 1}, "must be one of 2, 4; got 1"),
        ({"features": ()}, "features must be one or more positive numbers"),
        ({"features": (4, 0)}, "features must be one or more positive numbers"),
        ({"num_classes": 0}, "num_classes"),
        ({"blocks": -1}, "blocks"),
        ({"head_features": 0}, "head_features"),
        ({"activation": "rellu"}, "did you mean 'relu'"),
    ],
)
def test_attributes_out_of_range_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(SMALL.clone(**fields).init, jax.random.key(0), images(1, 16, 16, 3))


def test_indivisible_sides_are_refused():
    with pytest.raises(InputError, match="4") as error:
        jax.eval_shape(SMALL.init, jax.random.key(0), images(1, 16, 18, 3))
    assert "18" in str(error.value)
