"""PyTorch versions of networks of named models, beside those of the training-step benchmarks.

Images are (batch, channels, height, width) in channels-last memory. `layers_of` returns the part of the weights here
that belongs to each layer.
"""

import itertools
import math
from typing import Any

import numpy as np
import torch
from restoration_step import TorchGDN
from torch.nn import functional

from deconv_jax import models

Layers = dict[torch.nn.Module, Any]


class TorchFFDNet(torch.nn.Module):
    """PyTorch version of `FFDNet`, for images with even sides."""

    def __init__(self, model: models.FFDNet, inputs: int):
        """Make the layers for images with `inputs` channels, with or without a noise-level map."""
        super().__init__()
        self.channels, carried = model.channels, 4 * model.channels
        first = carried + inputs - model.channels
        widths = itertools.pairwise([first, *[model.features] * (model.depth - 1), carried])
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(a, b, 3, padding=1) for a, b in widths)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Denoise images, which are followed by the map."""
        blocks = functional.pixel_unshuffle(images[:, : self.channels], 2)
        x = torch.cat([blocks, images[:, self.channels :, ::2, ::2]], dim=1)
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.convs[:-1]:
            x = layer(x).relu_()
        return functional.pixel_shuffle(self.convs[-1](x), 2)

    def layers_of(self, params: Any) -> Layers:
        """Return the part of an `FFDNet`'s weights that belongs to each layer."""
        names = [*(f"layer_{i}" for i in range(len(self.convs) - 1)), "to_image"]
        return {layer: params[name] for layer, name in zip(self.convs, names, strict=True)}


class TorchTransforms(torch.nn.Module):
    """PyTorch version of the analysis and synthesis transforms of a codec at its first level."""

    PREFIXES = ("down", "up")
    """Prefixes of the names of the weights that it uses."""
    STEPS = 40.0

    def __init__(self, model: models.FactorizedCodec, params: Any):
        """Make the layers, and take the gains from the weights."""
        super().__init__()
        stages = model.stage_features or [model.features] * 3
        pairs = list(itertools.pairwise([model.channels, *stages, model.latent_features]))
        self.down = torch.nn.ModuleList(torch.nn.Conv2d(*pair, 5, stride=2) for pair in pairs)
        self.up = torch.nn.ModuleList(
            torch.nn.ConvTranspose2d(b, a, 5, stride=2, padding=1) for a, b in reversed(pairs)
        )
        self.down_norm = torch.nn.ModuleList(TorchGDN(n, inverse=False) for n in stages)
        self.up_norm = torch.nn.ModuleList(TorchGDN(n, inverse=True) for n in stages[::-1])
        gains = (np.exp(params[name][0]) for name in ("log_gain", "log_inverse_gain"))
        self.gain, self.inverse_gain = (torch.from_numpy(g).reshape(1, -1, 1, 1) for g in gains)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return decoded images."""
        x = 2.0 * images - 1.0
        for number, layer in enumerate(self.down):
            x = layer(functional.pad(x, (1, 2, 1, 2)))
            x = self.down_norm[number](x) if number < 3 else x
        x = (x * (self.STEPS * self.gain)).round() * (self.inverse_gain / self.STEPS)
        for number, layer in enumerate(self.up):
            x = layer(x)[:, :, :-1, :-1]
            x = self.up_norm[number](x) if number < 3 else x
        return 0.5 * (x + 1.0)

    def layers_of(self, params: Any) -> Layers:
        """Return the part of a codec's weights that belongs to each layer."""
        return {
            layer: params[f"{name}_{i}"]
            for name in ("down", "up", "down_norm", "up_norm")
            for i, layer in enumerate(getattr(self, name))
        }


class ConditionalNorm(torch.nn.Module):
    """PyTorch version of `ConditionalNorm` with batch normalization."""

    def __init__(self, classes: int, channels: int):
        """Make the parameters."""
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(channels, affine=False)
        self.scale = torch.nn.Parameter(torch.ones(classes, channels))
        self.bias = torch.nn.Parameter(torch.zeros(classes, channels))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Normalize x; each image has the scale and the offset of its class."""
        scale, bias = (p[labels][:, :, None, None] for p in (self.scale, self.bias))
        return self.norm(x) * scale + bias

    def weight_pairs(self, params: Any) -> list[tuple[torch.Tensor, np.ndarray]]:
        """Return each parameter with the array to copy into it."""
        return [(self.scale, params["scale"]), (self.bias, params["bias"])]


class TorchConditionalGenerator(torch.nn.Module):
    """PyTorch version of a conditional `DCGANGenerator` with transposed 4x4 convolutions."""

    def __init__(self, model: models.DCGANGenerator, params: Any):
        """Make the layers."""
        super().__init__()
        stages = sum(name.startswith("ConditionalNorm") for name in params)
        widths = [*(model.width * 2**i for i in reversed(range(stages))), model.image_shape[-1]]
        self.shape = [n >> stages for n in model.image_shape[:2]]
        outputs = math.prod(self.shape) * widths[0]
        self.to_map = torch.nn.Linear(model.latent_dim, outputs, bias=False)
        self.norms, self.rises = torch.nn.ModuleList(), torch.nn.ModuleList()
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            bias = "bias" in params[f"Upsample_{i}"]
            self.norms.append(ConditionalNorm(model.num_classes, a))
            self.rises.append(torch.nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=bias))

    def forward(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Map latents (batch, dims) and classes to images in [0, 1]."""
        x = self.to_map(latents).reshape(len(latents), *self.shape, -1).permute(0, 3, 1, 2)
        for norm, rise in zip(self.norms, self.rises, strict=True):
            x = rise(norm(x, labels).relu_())
        return 0.5 * (torch.tanh(x) + 1.0)

    def layers_of(self, params: Any) -> Layers:
        """Return the part of a `DCGANGenerator`'s weights that belongs to each layer."""
        layers: Layers = {self.to_map: params["Dense_0"]}
        layers |= {norm: params[f"ConditionalNorm_{i}"] for i, norm in enumerate(self.norms)}
        return layers | {rise: params[f"Upsample_{i}"] for i, rise in enumerate(self.rises)}


class TorchTexture(torch.nn.Module):
    """PyTorch version of the decoder of a `TextureGenerator` with resizing and batch normalization."""

    PREFIXES = ("decoder",)
    """Prefixes of the names of the weights that it uses."""

    def __init__(self, model: models.TextureGenerator, inputs: int):
        """Make the layers for a grid with `inputs` numbers in each cell."""
        super().__init__()
        hidden = [model.width * 2**i for i in reversed(range(model.stages))]
        self.first = torch.nn.Conv2d(inputs, hidden[0], 1, bias=False)
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(n) for n in hidden)
        self.convs = torch.nn.ModuleList(
            torch.nn.Conv2d(a, b, 3, bias=False) for a, b in itertools.pairwise(hidden)
        )
        self.convs.append(torch.nn.Conv2d(hidden[-1], model.image_shape[-1], 3))

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """Decode a grid with a margin of one cell to an image in [0, 1]."""
        x = self.first(grid)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = conv(functional.interpolate(norm(x).relu_(), scale_factor=2))
        return 0.5 * (torch.tanh(x[:, :, 1:-1, 1:-1]) + 1.0)

    def layers_of(self, params: Any) -> Layers:
        """Return the part of a `TextureGenerator`'s weights that belongs to each layer."""
        params = params["decoder"]
        layers: Layers = {self.first: params["Conv_0"]}
        layers |= {norm: params[f"Norm_{i}"]["BatchNorm_0"] for i, norm in enumerate(self.norms)}
        return layers | {conv: params[f"Upsample_{i}"] for i, conv in enumerate(self.convs)}


class TorchVAE(torch.nn.Module):
    """PyTorch version of the means of a `VAE` without normalization, with ELU and a kernel of 4."""

    def __init__(self, model: models.VAE):
        """Make the layers."""
        super().__init__()
        height, width, channels = model.image_shape
        features, stages, blocks = model.features, len(model.features), model.residual_blocks
        self.base = (features[-1], height >> stages, width >> stages)
        self.down = torch.nn.ModuleList(
            torch.nn.Conv2d(a, b, 4, stride=2, padding=1)
            for a, b in itertools.pairwise((channels, *features))
        )
        self.up = torch.nn.ModuleList(
            torch.nn.ConvTranspose2d(a, b, 4, stride=2, padding=1)
            for a, b in itertools.pairwise(features[::-1])
        )
        self.to_code = torch.nn.Linear(math.prod(self.base), 2 * model.latent_dim)
        self.from_code = torch.nn.Linear(model.latent_dim, math.prod(self.base))
        self.to_image = torch.nn.ConvTranspose2d(features[0], channels, 4, stride=2, padding=1)
        self.down_blocks, self.up_blocks = (
            torch.nn.ModuleList(
                torch.nn.ModuleList(torch.nn.Conv2d(n, n, 3, padding=1) for _ in range(2 * blocks))
                for n in of_stages
            )
            for of_stages in (features, features[-2::-1])
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images to the means of their latents, and decode these to means of pixels."""
        x = images
        for layer, blocks in zip(self.down, self.down_blocks, strict=True):
            x = self._residual(functional.elu(layer(x)), blocks)
        # Dense layers here read maps with the channels last.
        mean = self.to_code(x.permute(0, 2, 3, 1).flatten(1)).chunk(2, dim=1)[0]
        channels, height, width = self.base
        x = self.from_code(mean).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        x = functional.elu(x)
        for layer, blocks in zip(self.up, self.up_blocks, strict=True):
            x = self._residual(functional.elu(layer(x)), blocks)
        return torch.sigmoid(self.to_image(x))

    def _residual(self, x: torch.Tensor, convs: torch.nn.ModuleList) -> torch.Tensor:
        for first, second in zip(convs[::2], convs[1::2], strict=True):
            x = x + second(functional.elu(first(functional.elu(x))))
        return x

    def layers_of(self, params: Any) -> Layers:
        """Return the part of a `VAE`'s weights that belongs to each layer."""
        layers: Layers = {getattr(self, n): params[n] for n in ("to_code", "from_code", "to_image")}
        for way, strided in (("down", "Conv"), ("up", "ConvTranspose")):
            for i, layer in enumerate(getattr(self, way)):
                ours, others = params[f"{way}_{i}"], getattr(self, f"{way}_blocks")[i]
                layers[layer] = ours[f"{strided}_0"]
                first = 1 if strided == "Conv" else 0  # The strided layer is `Conv_0` itself.
                layers |= {conv: ours[f"Conv_{first + j}"] for j, conv in enumerate(others)}
        return layers
