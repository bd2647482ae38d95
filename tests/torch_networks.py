"""Restoration networks in PyTorch with the names of published files, to compare with."""

import itertools

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Parts(nn.Module):
    """A sequence of named parts."""

    def __init__(self, **parts):
        super().__init__()
        self.names = list(parts)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        for name in self.names:
            x = getattr(self, name)(x)
        return x


class Residual(Parts):
    """The input minus the output of the parts."""

    def forward(self, x):
        return x - super().forward(x)


def conv(inputs, outputs, size=3, dilation=1, bias=True):
    padding = dilation * (size // 2)
    return nn.Conv2d(inputs, outputs, size, padding=padding, dilation=dilation, bias=bias)


def conv_relus(*channels, dilations=None):
    """Convolutions with a ReLU after all but the last."""
    layers = []
    dilations = dilations or [1] * (len(channels) - 1)
    for (inputs, outputs), dilation in zip(itertools.pairwise(channels), dilations, strict=True):
        layers += [conv(inputs, outputs, dilation=dilation), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def dncnn(channels=1, features=6, depth=4, normalized=False, eps=1e-4, biases=(True,) * 3):
    """`biases` says whether the first, middle and last layers have biases."""
    first, middle, last = biases
    layers = [conv(channels, features, bias=first), nn.ReLU()]
    for _ in range(depth - 2):
        layers.append(conv(features, features, bias=middle))
        layers += [nn.BatchNorm2d(features, eps=eps)] if normalized else []
        layers.append(nn.ReLU())
    return Residual(model=nn.Sequential(*layers, conv(features, channels, bias=last)))


def ircnn(channels=1, features=4):
    hidden = [features] * 6
    return Residual(model=conv_relus(channels, *hidden, channels, dilations=[1, 2, 3, 4, 3, 2, 1]))


def fdncnn(channels=1, features=5, depth=3):
    return Parts(model=conv_relus(channels + 1, *[features] * (depth - 1), channels))


class FFDNet(nn.Module):
    """FFDNet, applied to images followed by a constant noise-level map."""

    def __init__(self, channels, features, depth, noise_conditional=True):
        super().__init__()
        hidden = [features] * (depth - 1)
        self.model = conv_relus(4 * channels + noise_conditional, *hidden, 4 * channels)
        self.channels = channels

    def forward(self, x):
        height, width = x.shape[2:]
        padding = nn.ReplicationPad2d((0, width % 2, 0, height % 2))
        image, noise_map = x[:, : self.channels], x[:, self.channels :, ::2, ::2]
        x = torch.cat([F.pixel_unshuffle(padding(image), 2), noise_map], 1)
        return F.pixel_shuffle(self.model(x), 2)[:, :, :height, :width]


def srcnn(channels=1, sizes=(9, 5, 5)):
    """SRCNN of the enlarged image."""
    first, second, third = sizes
    return Parts(
        features=nn.Sequential(conv(channels, 6, first), nn.ReLU()),
        map=nn.Sequential(conv(6, 5, second), nn.ReLU()),
        reconstruction=conv(5, channels, third),
    )


def fsrcnn_parts(scale, channels=1, d=7, s=3, m=2, slopes=True):
    """`slopes` says whether a PReLU has a slope for each channel or one for all."""

    def conv_prelu(inputs, outputs, size):
        return [conv(inputs, outputs, size), nn.PReLU(outputs if slopes else 1)]

    last = nn.ConvTranspose2d(d, channels, 9, stride=scale, padding=4, output_padding=scale - 1)
    maps = [layer for _ in range(m) for layer in conv_prelu(s, s, 3)]
    return conv_prelu(channels, d, 5), conv_prelu(d, s, 1), maps, conv_prelu(s, d, 1), last


def fsrcnn(*args, **options):
    first, shrink, maps, expand, last = fsrcnn_parts(*args, **options)
    middle = nn.Sequential(*shrink, *maps, *expand)
    return Parts(first_part=nn.Sequential(*first), mid_part=middle, last_part=last)


def fsrcnn_lornatang(*args, names=("shrink", "map", "expand", "deconv"), **options):
    first, *middle, last = fsrcnn_parts(*args, **options)
    *middle_names, last_name = names
    parts = {n: nn.Sequential(*part) for n, part in zip(middle_names, middle, strict=True)}
    return Parts(feature_extraction=nn.Sequential(*first), **parts, **{last_name: last})


def espcn(scale, channels=1, names=("first_part", "last_part")):
    first = [conv(channels, 7, 5), nn.Tanh(), conv(7, 5), nn.Tanh()]
    last = [conv(5, channels * scale**2), nn.PixelShuffle(scale)]
    return Parts(**dict(zip(names, (nn.Sequential(*first), nn.Sequential(*last)), strict=True)))


class Numbered(nn.Module):
    """Layers conv1, conv2, ... with a ReLU after all but the last."""

    def __init__(self, *layers, scale=1):
        super().__init__()
        self.count, self.scale = len(layers), scale
        for i, layer in enumerate(layers):
            setattr(self, f"conv{i + 1}", layer)

    def forward(self, x):
        for i in range(1, self.count):
            x = F.relu(getattr(self, f"conv{i}")(x))
        return F.pixel_shuffle(getattr(self, f"conv{self.count}")(x), self.scale)


class REDNet(nn.Module):
    """RED-Net with stride 2 and a ReLU at the end."""

    def __init__(self, depth, features=4, channels=1):
        super().__init__()
        self.half = depth // 2
        convs = [nn.Conv2d(channels, features, 3, stride=2, padding=1)]
        convs += [conv(features, features) for _ in range(self.half - 1)]
        deconvs = [
            nn.Sequential(nn.ConvTranspose2d(features, features, 3, padding=1), nn.ReLU())
            for _ in range(self.half - 1)
        ]
        last = nn.ConvTranspose2d(features, channels, 3, stride=2, padding=1, output_padding=1)
        self.conv_layers = nn.Sequential(*(nn.Sequential(c, nn.ReLU()) for c in convs))
        self.deconv_layers = nn.Sequential(*deconvs, last)

    def forward(self, x):
        image, skips = x, {}
        for i, layer in enumerate(self.conv_layers, 1):
            x = layer(x)
            skips[i] = x
        for i, layer in enumerate(self.deconv_layers, 1):
            x = layer(x)
            level = self.half - i
            if self.half > 5 and level and level % 2 == 0:
                x = F.relu(x + skips[level])
        return F.relu(x + image)


class SRVGGNet(nn.Module):
    def __init__(self, scale, channels, depth, features):
        super().__init__()
        widths = [channels, *[features] * (depth + 1)]
        layers = [
            layer
            for inputs, outputs in itertools.pairwise(widths)
            for layer in (conv(inputs, outputs), nn.PReLU(outputs))
        ]
        self.body = nn.ModuleList([*layers, conv(features, channels * scale**2)])
        self.scale = scale

    def forward(self, x):
        y = x
        for layer in self.body:
            y = layer(y)
        return F.pixel_shuffle(y, self.scale) + F.interpolate(x, scale_factor=self.scale)


class DenseBlock(nn.Module):
    """`nested` puts each convolution into a sequence, as the first ESRGAN does."""

    def __init__(self, features, growth, nested=False):
        super().__init__()
        for i in range(1, 6):
            layer = conv(features + (i - 1) * growth, features if i == 5 else growth)
            setattr(self, f"conv{i}", nn.Sequential(layer) if nested else layer)

    def forward(self, x):
        maps = x
        for i in range(1, 5):
            y = F.leaky_relu(getattr(self, f"conv{i}")(maps), 0.2)
            maps = torch.cat([maps, y], 1)
        return x + 0.2 * self.conv5(maps)


class RRDB(nn.Module):
    def __init__(self, features, growth, name="rdb", nested=False):
        super().__init__()
        self.names = [f"{name}{i}" for i in (1, 2, 3)]
        for each in self.names:
            setattr(self, each, DenseBlock(features, growth, nested))

    def forward(self, x):
        y = x
        for name in self.names:
            y = getattr(self, name)(y)
        return x + 0.2 * y


NEW_NAMES = ("body", "conv_body", "conv_up", "conv_hr", "rdb")
MIDDLE_NAMES = ("RRDB_trunk", "trunk_conv", "upconv", "HRconv", "RDB")


class RRDBNet(nn.Module):
    def __init__(
        self,
        channels=3,
        blocks=2,
        features=5,
        growth=3,
        doublings=2,
        unshuffle=1,
        names=NEW_NAMES,
    ):
        super().__init__()
        self.names = names
        self.doublings, self.unshuffle = doublings, unshuffle
        self.conv_first = conv(channels * unshuffle**2, features)
        trunk = nn.Sequential(*(RRDB(features, growth, names[4]) for _ in range(blocks)))
        self.add_module(names[0], trunk)
        self.add_module(names[1], conv(features, features))
        for i in range(doublings):
            self.add_module(f"{names[2]}{i + 1}", conv(features, features))
        self.add_module(names[3], conv(features, features))
        self.conv_last = conv(features, channels)

    def forward(self, x):
        modules = dict(self.named_children())
        x = self.conv_first(F.pixel_unshuffle(x, self.unshuffle))
        x = x + modules[self.names[1]](modules[self.names[0]](x))
        for i in range(self.doublings):
            x = F.interpolate(x, scale_factor=2)
            x = F.leaky_relu(modules[f"{self.names[2]}{i + 1}"](x), 0.2)
        return self.conv_last(F.leaky_relu(modules[self.names[3]](x), 0.2))


class Shortcut(nn.Module):
    def __init__(self, sub):
        super().__init__()
        self.sub = sub

    def forward(self, x):
        return x + self.sub(x)


def old_rrdbnet(channels=3, blocks=2, features=5, growth=3, doublings=2):
    """RRDBNet as in the first ESRGAN."""
    trunk = [RRDB(features, growth, "RDB", nested=True) for _ in range(blocks)]
    layers = [conv(channels, features), Shortcut(nn.Sequential(*trunk, conv(features, features)))]
    for _ in range(doublings):
        layers += [nn.Upsample(scale_factor=2), conv(features, features), nn.LeakyReLU(0.2)]
    layers += [conv(features, features), nn.LeakyReLU(0.2), conv(features, channels)]
    return Parts(model=nn.Sequential(*layers))


def randomized(network):
    """Make every weight, slope and running statistic random, with positive variances."""
    random = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=random) - 0.5)
        if name.endswith("running_var"):
            value.abs_()
    return network.eval()
