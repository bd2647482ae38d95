"""U-Net for segmentation: equality with PyTorch, and shift equivariance."""

import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from deconv_jax.models import UNet
from deconv_jax.ops.weight_layouts import kernel_to_torch

SEGMENTER = UNet(channels=5, features=(4, 6, 8), residual=False, norm="batch")


def images(*shape):
    return jnp.asarray(np.random.default_rng(1).random(shape, np.float32))


def torch_unet(variables, x, levels):
    """Figure 1 of the paper with padding and 4x4 up-convolutions, in PyTorch."""
    params, stats = variables["params"], variables["batch_stats"]

    def tensors(*arrays):
        return [torch.tensor(np.array(a)) for a in arrays]

    def kernel(layer):
        return torch.tensor(kernel_to_torch(layer["kernel"]))

    def level(x, first):
        for number in (first, first + 1):
            layer = params[f"_ConvBlock_{number}"]
            affine = layer["Norm_0"]["BatchNorm_0"]
            running = stats[f"_ConvBlock_{number}"]["Norm_0"]["BatchNorm_0"]
            numbers = tensors(running["mean"], running["var"], affine["scale"], affine["bias"])
            x = F.relu(F.batch_norm(F.conv2d(x, kernel(layer["Conv_0"]), padding=1), *numbers))
        return x

    x, skips = torch.tensor(np.array(x)).movedim(-1, 1), []
    for i in range(levels - 1):
        x = level(x, 2 * i)
        skips.append(x)
        x = F.max_pool2d(x, 2)
    x = level(x, 2 * (levels - 1))
    for i in range(levels - 1):
        layer = params[f"Upsample_{i}"]
        x = F.conv_transpose2d(x, kernel(layer), *tensors(layer["bias"]), stride=2, padding=1)
        x = level(torch.cat([skips.pop(), x], dim=1), 2 * (levels + i))
    last = params["to_image"]
    return F.conv2d(x, kernel(last), *tensors(last["bias"])).movedim(1, -1).numpy()


def test_logits_equal_pytorch(random_variables, apply):
    """With more classes than image channels, which excludes a residual connection."""
    x = images(2, 8, 12, 3)
    variables = random_variables(SEGMENTER, x)
    logits = apply(SEGMENTER, variables, x)
    assert logits.shape == (2, 8, 12, 5)
    np.testing.assert_allclose(logits, torch_unet(variables, x, 3), rtol=1e-4, atol=1e-4)


def test_logits_are_equivariant_to_shifts_by_the_multiple(random_variables, apply):
    field, x = SEGMENTER.receptive_field(), images(1, 8, 96, 1)
    assert field.multiple == SEGMENTER.multiple == 4
    variables = random_variables(SEGMENTER, x)
    logits, moved = (apply(SEGMENTER, variables, each) for each in (x, jnp.roll(x, 4, axis=2)))
    inside = slice(field.before, 92 - field.after)
    assert inside.stop - inside.start > 8
    np.testing.assert_allclose(moved[:, :, 4:][:, :, inside], logits[:, :, inside], atol=1e-5)
