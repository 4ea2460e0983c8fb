"""The same network in PyTorch, for comparison; needs torch, which this course does not install."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F


class ChannelAttention(nn.Module):
    """The authors' channel module in its own words: W multiplied in after two permutes, detached as
    theirs is."""

    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = self.bn(x)
        weights = (self.bn.weight.abs() / self.bn.weight.abs().sum()).detach()
        y = (y.permute(0, 2, 3, 1) * weights).permute(0, 3, 1, 2)
        return torch.sigmoid(y) * x


class Block(nn.Module):
    """A basic (two 3x3) or bottleneck (1x1, 3x3, 1x1) residual block."""

    def __init__(self, in_channels, width, stride, bottleneck, attention):
        super().__init__()
        out_channels = 4 * width if bottleneck else width
        kernels = (
            [(in_channels, width, 1, 1), (width, width, 3, stride), (width, out_channels, 1, 1)]
            if bottleneck
            else [(in_channels, width, 3, stride), (width, width, 3, 1)]
        )
        layers = []
        for i, (a, b, kernel, step) in enumerate(kernels):
            layers += [nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False), nn.BatchNorm2d(b)]
            if i + 1 < len(kernels):
                layers.append(nn.ReLU(inplace=True))
        self.branch = nn.Sequential(*layers)
        self.attention = attention(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.attention(self.branch(x)) + shortcut)


def torch_resnet(depth, num_classes=100, stem="imagenet", width=64, attention=ChannelAttention):
    """ResNet-18/34 or 50/101/152; `stem` as in nam_edu.resnet; attention: f(channels) -> Module."""
    counts = {
        18: (2, 2, 2, 2),
        34: (3, 4, 6, 3),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
    }[depth]
    bottleneck = depth >= 50
    if stem == "imagenet":
        layers = [
            nn.Conv2d(3, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        ]
    else:
        layers = [
            nn.Conv2d(3, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
    channels = width
    for stage, count in enumerate(counts):
        for i in range(count):
            stride = 2 if stage and not i else 1
            layers.append(Block(channels, width * 2**stage, stride, bottleneck, attention))
            channels = width * 2**stage * (4 if bottleneck else 1)
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )
