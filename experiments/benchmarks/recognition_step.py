"""One training step of each recognition network, compared with plain `lax` and PyTorch.

The networks are the classifier of MNIST, with and without its decoder, and the U-Net and CenterNet of digit
scenes. A step converts uint8 images to floats, and runs forward, backward and Adam, in float32 on the CPU. All
candidates get the same scenes. Heat maps are part of the step here; PyTorch gets them ready-made. The step here
also returns the gradient norm and an accuracy or the parts of the loss.

  python experiments/benchmarks/recognition_step.py
"""

import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from peers import Case, measure_cases, torch_images
from timing import ROOT, parse_arguments
from torch.nn import functional

from deconv_jax.cli import load_config
from deconv_jax.data.batch import Batch
from deconv_jax.data.views import AnnotatedView, evaluation_view
from deconv_jax.experiment import Experiment
from deconv_jax.models.centernet import HEAT_BIAS
from deconv_jax.tasks.centernet_targets import ALPHA, BETA, center_targets
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import TrainState
from deconv_jax.training.step import apply_model, images_in_unit_range

CONFIGS = ROOT / "experiments" / "recognition"
CALLS = 3
FORWARD_TOLERANCE = 1e-3
"""Largest absolute difference of logits and maps."""
CHECKED_STEPS = 3

Outputs = Any
Net = torch.nn.Module
Loss = Callable[[Outputs], torch.Tensor]


def main() -> None:
    """Check that all candidates agree, then time them, one network after the other."""
    arguments = parse_arguments(__file__, __doc__, rounds=15)
    measure_cases(
        arguments,
        CASES,
        calls=CALLS,
        steps=CHECKED_STEPS,
        tolerance=FORWARD_TOLERANCE,
        measured="one training step of recognition networks: uint8 images to floats, forward, "
        "backward, Adam; float32, CPU",
        protocol="scenes drawn beforehand; heat maps are part of the step here and precomputed for PyTorch",
    )


def case_of(task: Any, state: TrainState, batch: Batch, net: Net, loss: Loss) -> Case:
    """Return the case of a task and its PyTorch network."""

    def outputs(state: TrainState, batch: Batch) -> Outputs:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        images = images_in_unit_range(batch["image"])
        return apply_model(task.model, variables, images, train=True, precision="f32")[0]

    pixels = torch.from_numpy(np.array(batch["image"]))
    return Case(
        step=task.train_step,
        outputs=outputs,
        state=state,
        batch=batch,
        optimizer=task.optimizer,
        net=net,
        layers=net.layers_of(state.params),  # type: ignore[operator]
        inputs=lambda: torch_images(pixels),
        loss=loss,
    )


def classifier(argument: str) -> Case:
    """Return the case of the MNIST classifier, on images of noise."""
    task = task_of(f"mnist_classifier.py:{argument}", translate=0)
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (128, 28, 28, 1), dtype=np.uint8)),
        "label": jnp.asarray(rng.integers(0, 10, 128), jnp.int32),
        "index": jnp.arange(128, dtype=jnp.int32),
    }
    state = jax.jit(task.init)(jax.random.key(0), batch)
    net = TorchClassifier(task.model, tuple(batch["image"].shape[1:]))
    labels = torch.from_numpy(np.array(batch["label"])).long()
    loss = functools.partial(functional.cross_entropy, target=labels)
    return case_of(task, state, batch, net, loss)


def unet() -> Case:
    """Return the case of the U-Net of digit scenes."""
    task = task_of("scenes_segmentation.py", view=AnnotatedView())
    batch = scenes("scenes_segmentation.py")
    state = jax.jit(task.init)(jax.random.key(0), batch)
    net = TorchUNet(task.model, batch["image"].shape[-1])
    segments = torch.from_numpy(np.array(batch["segments"])).long()
    loss = functools.partial(functional.cross_entropy, target=segments)
    return case_of(task, state, batch, net, loss)


def centernet() -> Case:
    """Return the case of the CenterNet of digit scenes."""
    task = task_of("scenes_detection.py", view=AnnotatedView())
    batch = scenes("scenes_detection.py")
    state = jax.jit(task.init)(jax.random.key(0), batch)
    net = TorchCenterNet(task.model, batch["image"].shape[-1])
    side = batch["image"].shape[1] // task.output_stride
    targets = center_targets(
        batch["boxes"],
        batch["box_class"],
        shape=(side, side, task.num_classes),
        stride=task.output_stride,
        gaussian_iou=task.gaussian_iou,
    )
    heat, places, log_size, offset, present = (torch.from_numpy(np.array(t)) for t in targets)
    heat, places, count = heat.permute(0, 3, 1, 2), places.long(), present.sum()

    def loss(maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        of_heat, *of_boxes = maps
        here, not_here = functional.logsigmoid(of_heat), functional.logsigmoid(-of_heat)
        at_centers = torch.exp(ALPHA * not_here) * here
        elsewhere = (1 - heat) ** BETA * torch.exp(ALPHA * here) * not_here
        total = -torch.where(heat == 1, at_centers, elsewhere).sum()
        weights = (task.size_weight, task.offset_weight)
        for found, wanted, weight in zip(of_boxes, (log_size, offset), weights, strict=True):
            flat = found.permute(0, 2, 3, 1).flatten(1, 2)
            there = flat.gather(1, places[..., None].expand(-1, -1, 2))
            total = total + weight * ((there - wanted).abs() * present[..., None]).sum()
        return total / count

    return case_of(task, state, batch, net, loss)


CASES: dict[str, Callable[[], Case]] = {
    "classifier": functools.partial(classifier, ""),
    "classifier with a decoder": functools.partial(classifier, "decoder=True"),
    "U-Net": unet,
    "CenterNet": centernet,
}


def task_of(config: str, **changes: Any) -> Any:
    """Return the task of a config, with plain Adam."""
    task = Experiment.from_dict(load_config(str(CONFIGS / config))).task
    return dataclasses.replace(
        task, optimizer=Optimizer(name="adam", learning_rate=1e-3), **changes
    )


def scenes(config: str) -> Batch:
    """Return a batch drawn by a config's view, as 8-bit images with annotations."""
    experiment = Experiment.from_dict(load_config(str(CONFIGS / config)))
    with tempfile.TemporaryDirectory() as folder:
        digits = experiment.data.source.open("train", folder)
        drawn_of = digits.gather(np.arange(experiment.training.batch_size))
    indexed = jax.tree.map(jnp.asarray, dict(drawn_of))
    indexed["index"] = jnp.arange(experiment.training.batch_size, dtype=jnp.int32)
    drawn = evaluation_view(experiment.task.view, indexed)  # type: ignore[attr-defined]
    pixels = jnp.round(255 * drawn["image"]).astype(jnp.uint8)
    return dict(drawn) | {"image": pixels, "index": indexed["index"]}


def conv(inputs: int, outputs: int, size: int = 3, **settings: Any) -> Net:
    """Return a convolution that keeps the size."""
    return torch.nn.Conv2d(inputs, outputs, size, padding=size // 2, **settings)


class Down(torch.nn.Conv2d):
    """A 3x3 convolution of stride 2 with padding "SAME", which pads even sides only at the end."""

    def __init__(self, inputs: int, outputs: int):
        """Make the layer."""
        super().__init__(inputs, outputs, 3, stride=2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x at half its size."""
        return super().forward(functional.pad(x, (0, 1, 0, 1)))


def up(inputs: int, outputs: int, *, bias: bool) -> Net:
    """Return a 4x4 transposed convolution that doubles the size."""
    return torch.nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)


class TorchClassifier(torch.nn.Module):
    """The `Classifier` with these settings in PyTorch."""

    def __init__(self, model: Any, shape: tuple[int, int, int]):
        """Make the layers for images (height, width, channels)."""
        super().__init__()
        height, width, channels = shape
        self.blocks, self.rises = torch.nn.ModuleList(), torch.nn.ModuleList()
        for features in model.features:
            block = torch.nn.Sequential()
            for _ in range(model.convs_per_block):
                block.append(conv(channels, features, bias=False))
                block.append(torch.nn.BatchNorm2d(features))
                block.append(torch.nn.ReLU(inplace=True))
                channels = features
            self.blocks.append(block)
            height, width = height // 2, width // 2
        for features in model.up_features:
            norm = torch.nn.BatchNorm2d(features)
            rise = up(channels, features, bias=False)
            self.rises.append(torch.nn.Sequential(rise, norm, torch.nn.ReLU(inplace=True)))
            channels, height, width = features, 2 * height, 2 * width
        self.to_embedding = torch.nn.Linear(height * width * channels, model.embedding_dim)
        self.to_logits = torch.nn.Linear(model.embedding_dim, model.num_classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1] to logits."""
        for block in self.blocks:
            x = functional.max_pool2d(block(x), 2)
        for rise in self.rises:
            x = rise(x)
        flat = x.permute(0, 2, 3, 1).flatten(1)
        return self.to_logits(functional.relu(self.to_embedding(flat)))

    def layers_of(self, params: Any) -> dict[Net, Any]:
        """Return the layer of each part of a `Classifier`'s weights."""
        layers: dict[Net, Any] = {}
        for i, block in enumerate(self.blocks):
            for j, (convolve, norm) in enumerate(zip(block[::3], block[1::3], strict=True)):
                ours = params[f"blocks_{i}"]
                layers[convolve] = ours[f"Conv_{j}"]
                layers[norm] = ours[f"Norm_{j}"]["BatchNorm_0"]
        for i, (rise, norm, _) in enumerate(self.rises):
            layers[rise] = params[f"rises_{i}"]["ConvTranspose_0"]
            layers[norm] = params[f"rises_{i}"]["Norm_0"]["BatchNorm_0"]
        return layers | {getattr(self, n): params[n] for n in ("to_embedding", "to_logits")}


class TorchUNet(torch.nn.Module):
    """The `UNet` with these settings in PyTorch, for segmentation."""

    def __init__(self, model: Any, channels: int):
        """Make the layers for images with `channels` channels."""
        super().__init__()
        features = model.features
        self.down, self.level, self.rise = (torch.nn.ModuleList() for _ in range(3))
        for inputs, outputs in itertools.pairwise((channels, *features)):
            self.down.append(self._level(inputs, outputs))
        for inputs, outputs in itertools.pairwise(features[::-1]):
            self.rise.append(up(inputs, outputs, bias=True))
            self.level.append(self._level(2 * outputs, outputs))
        self.to_image = torch.nn.Conv2d(features[0], model.channels, 1)
        self.to(memory_format=torch.channels_last)

    def _level(self, inputs: int, outputs: int) -> Net:
        level = torch.nn.Sequential()
        for channels in (inputs, outputs):
            level.append(conv(channels, outputs, bias=False))
            level.append(torch.nn.BatchNorm2d(outputs))
            level.append(torch.nn.ReLU(inplace=True))
        return level

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1] to logits of each pixel."""
        skipped: list[torch.Tensor] = []
        for level in self.down:
            x = functional.max_pool2d(skipped[-1], 2) if skipped else x
            skipped.append(level(x))
        x = skipped.pop()
        for rise, level in zip(self.rise, self.level, strict=True):
            x = level(torch.cat([skipped.pop(), rise(x)], dim=1))
        return self.to_image(x)

    def layers_of(self, params: Any) -> dict[Net, Any]:
        """Return the layer of each part of a `UNet`'s weights."""
        layers = {self.to_image: params["to_image"]}
        layers |= {rise: params[f"Upsample_{i}"] for i, rise in enumerate(self.rise)}
        blocks = [level[i : i + 2] for level in (*self.down, *self.level) for i in (0, 3)]
        for i, (convolve, norm) in enumerate(blocks):
            ours = params[f"_ConvBlock_{i}"]
            layers |= {convolve: ours["Conv_0"], norm: ours["Norm_0"]["BatchNorm_0"]}
        return layers


class TorchCenterNet(torch.nn.Module):
    """The `CenterNet` with these settings in PyTorch, with skip connections."""

    def __init__(self, model: Any, channels: int):
        """Make the layers for images with `channels` channels."""
        super().__init__()
        self.convs, self.norms, self.rises = (torch.nn.ModuleList() for _ in range(3))
        self.blocks = model.blocks
        for inputs, outputs in itertools.pairwise((channels, *model.features)):
            self.convs.append(Down(inputs, outputs))
            self.convs.extend(conv(outputs, outputs, bias=False) for _ in range(2 * model.blocks))
            self.norms.extend(torch.nn.BatchNorm2d(outputs) for _ in range(1 + 2 * model.blocks))
        stride, width = 2 ** len(model.features), model.features[-1]
        for outputs in model.features[-2::-1]:
            if stride > model.output_stride:
                self.rises.append(up(width, outputs, bias=False))
                self.norms.append(torch.nn.BatchNorm2d(outputs))
                stride, width = stride // 2, outputs
        self.heads = conv(width, 3 * model.head_features)
        counts = {"heat": model.num_classes, "log_size": 2, "offset": 2}
        self.last = torch.nn.ModuleDict(
            {name: torch.nn.Conv2d(model.head_features, n, 1) for name, n in counts.items()}
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images in [0, 1] to heat, log sizes and offsets."""
        convs, norms = iter(self.convs), iter(self.norms)
        levels = []
        for _ in range(len(self.convs) // (1 + 2 * self.blocks)):
            x = functional.relu(next(norms)(next(convs)(x)))
            for _ in range(self.blocks):
                y = functional.relu(next(norms)(next(convs)(x)))
                x = functional.relu(x + next(norms)(next(convs)(y)))
            levels.append(x)
        levels.pop()
        for rise in self.rises:
            x = functional.relu(next(norms)(rise(x))) + levels.pop()
        parts = functional.relu(self.heads(x)).chunk(3, dim=1)
        heat, *others = (last(part) for last, part in zip(self.last.values(), parts, strict=True))
        return heat + HEAT_BIAS, *others

    def layers_of(self, params: Any) -> dict[Net, Any]:
        """Return the layer of each part of a `CenterNet`'s weights."""
        layers = {self.heads: params["heads"]} | {
            last: params[name] for name, last in self.last.items()
        }
        layers |= {layer: params[f"Conv_{i}"] for i, layer in enumerate(self.convs)}
        layers |= {layer: params[f"ConvTranspose_{i}"] for i, layer in enumerate(self.rises)}
        return layers | {
            layer: params[f"Norm_{i}"]["BatchNorm_0"] for i, layer in enumerate(self.norms)
        }


if __name__ == "__main__":
    main()
