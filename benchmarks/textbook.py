"""The textbook ResNet-NAM in Paddle, as the original tutorial describes it: what we are measured
against. paddle.vision's own ResNet, with the channel formula written out in every block."""

from __future__ import annotations

import paddle
import paddle.nn as nn
import paddle.nn.functional as F
from paddle.vision.models import resnet


class ChannelAttention(nn.Layer):
    """sigmoid(W * BN(x)) * x, the weights multiplied in by two transposes, as in the tutorial."""

    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2D(channels)

    def forward(self, x):
        y = self.bn(x)
        weights = self.bn.weight.abs() / paddle.sum(self.bn.weight.abs())
        y = paddle.multiply(weights, y.transpose([0, 2, 3, 1]))  # (N, C, H, W) -> (N, H, W, C)
        return F.sigmoid(y.transpose([0, 3, 1, 2])) * x


class BasicBlock(resnet.BasicBlock):
    def __init__(self, inplanes, planes, *args, **kwargs):
        super().__init__(inplanes, planes, *args, **kwargs)
        self.nam = ChannelAttention(planes)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.nam(self.bn2(self.conv2(out)))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class BottleneckBlock(resnet.BottleneckBlock):
    def __init__(self, inplanes, planes, *args, **kwargs):
        super().__init__(inplanes, planes, *args, **kwargs)
        self.nam = ChannelAttention(planes * self.expansion)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.nam(self.bn3(self.conv3(out)))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def textbook_resnet(depth, num_classes=100):
    """ResNet-18/34 or 50/101/152 with NAM, 7x7 stem."""
    block = BasicBlock if depth < 50 else BottleneckBlock
    return resnet.ResNet(block, depth, num_classes=num_classes)
