"""Lesson 3: what NAM is compared with (SE, CBAM, ECA, SimAM, constant gates, two variants of NAM),
and the registry of names.

Each module multiplies a map x of shape (N, C, H, W) by a gate between 0 and 1 and keeps its shape
(`ChannelNAMGateOnly` alone returns the gate).
Weights start as Paddle's own layers start. In `nam_edu.resnet` all of them stand where NAM stands,
after the last batch norm of the residual branch, wherever their authors put them.
"""

from __future__ import annotations

import math
from typing import Callable

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from .attention import NAM, ChannelNAM
from .machinery.checks import whole_number
from .machinery.errors import ArgumentError
from .machinery.language import words

# Maps are averaged and searched for their maximum by adaptive pooling, not by x.mean and x.max: the
# numbers are the same, the gradients are faster. Forward and backward of a (128, 256, 8, 8) map on
# 2 cores of an AMD EPYC with Paddle 3.3.1: mean over pixels 27 ms, pooling 4 ms; max over pixels
# 1650 ms, pooling 5 ms; max over channels 6200 ms, pooling 5 ms.


class SE(nn.Layer):
    """Squeeze-and-excitation: gate = sigmoid(W2 relu(W1 z)), z the mean of each channel.

    Shape: (N, C, H, W) -> (N, C, H, W); one gate per image and channel.
    Source: Hu et al., arXiv 1709.01507, equations (2) to (4).

    Args:
        channels: C.
        reduction: r; the hidden layer has C // r units.

    Raises:
        ArgumentError: channels or reduction is not a positive whole number.

    Deviations from the paper:
        - Both fully connected layers have biases, as in the authors' released Caffe models (where
          they are 1x1 convolutions). The equations print none, and the ablations leave them out.
        - The hidden layer keeps at least one unit when C < r.
    """

    def __init__(self, channels, *, reduction=16):
        super().__init__()
        channels = whole_number("channels", channels)
        hidden = max(1, channels // whole_number("reduction", reduction))
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x):
        z = F.adaptive_avg_pool2d(x, 1).flatten(1)  # (N, C, H, W) -> (N, C)
        gate = F.sigmoid(self.fc2(F.relu(self.fc1(z))))
        return x * gate.unsqueeze([2, 3])  # (N, C) -> (N, C, 1, 1)


class CBAMChannel(nn.Layer):
    """CBAM's channel attention: gate = sigmoid(MLP(mean of each channel) + MLP(its maximum)).

    Shape: (N, C, H, W) -> (N, C, H, W); one gate per image and channel.
    Source: Woo et al., arXiv 1807.06521, equation (2). Deviations: see `CBAM`.
    """

    def __init__(self, channels, *, reduction=16):
        super().__init__()
        channels = whole_number("channels", channels)
        hidden = max(1, channels // whole_number("reduction", reduction))
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )

    def forward(self, x):
        mean = F.adaptive_avg_pool2d(x, 1).flatten(1)  # (N, C, H, W) -> (N, C)
        maximum = F.adaptive_max_pool2d(x, 1).flatten(1)  # (N, C, H, W) -> (N, C)
        gate = F.sigmoid(self.mlp(mean) + self.mlp(maximum))
        return x * gate.unsqueeze([2, 3])  # (N, C) -> (N, C, 1, 1)


class CBAMSpatial(nn.Layer):
    """CBAM's spatial attention: gate = sigmoid(7x7 convolution of [mean; maximum] over channels).

    Shape: (N, C, H, W) -> (N, C, H, W); one gate per image and pixel.
    Source: Woo et al., arXiv 1807.06521, equation (3). Deviations: see `CBAM`.
    """

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(2, 1, 7, padding=3, bias_attr=False)

    def forward(self, x):
        _, c, h, w = x.shape
        # The channels of each pixel become one column of a map C high, pooled to a single row.
        columns = x.reshape([-1, 1, c, h * w])  # (N, C, H, W) -> (N, 1, C, H*W)
        mean = F.adaptive_avg_pool2d(columns, (1, h * w))  # (N, 1, C, H*W) -> (N, 1, 1, H*W)
        maximum = F.adaptive_max_pool2d(columns, (1, h * w))  # (N, 1, C, H*W) -> (N, 1, 1, H*W)
        both = paddle.concat([mean, maximum], axis=1).reshape([-1, 2, h, w])  # -> (N, 2, H, W)
        return x * F.sigmoid(self.conv(both))  # (N, 2, H, W) -> (N, 1, H, W)


class CBAM(nn.Layer):
    """Convolutional block attention module: `.channel`, then `.spatial` on its output.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Source: Woo et al., arXiv 1807.06521, equations (1) to (3).

    Args:
        channels: C.
        reduction: r; the hidden layer of the shared MLP has C // r units.

    Raises:
        ArgumentError: channels or reduction is not a positive whole number.

    Deviations from the paper:
        - The MLP has biases, as in the authors' released code; equation (2) prints none.
        - The hidden layer keeps at least one unit when C < r.
    Deviation from the released code: it puts a batch norm between the 7x7 convolution and the
    sigmoid; the paper has none, nor has this module. The convolution has no bias in any of the
    three. (The released code also stacks the maximum before the mean, which only renames weights.)
    """

    def __init__(self, channels, *, reduction=16):
        super().__init__()
        self.channel = CBAMChannel(channels, reduction=reduction)
        self.spatial = CBAMSpatial()

    def forward(self, x):
        return self.spatial(self.channel(x))


def eca_kernel_size(channels):
    """ECA's kernel size: the odd number nearest to |log2(C) / 2 + 1 / 2|, of two the larger.

    3 for C = 64, 5 for 128 to 1024, 7 for 2048. Source: Wang et al., arXiv 1910.03151, the rule for
    an adaptive kernel size, computed as in the listing of figure 3.
    """
    t = int(abs((math.log2(channels) + 1) / 2))
    return t if t % 2 else t + 1


class ECA(nn.Layer):
    """Efficient channel attention: gate = sigmoid(1-D convolution of the channel means).

    Shape: (N, C, H, W) -> (N, C, H, W); one gate per image and channel. The convolution runs along
    the channels, has no bias and one kernel for all of them, of `eca_kernel_size(channels)`.
    Source: Wang et al., arXiv 1910.03151, figure 3, with gamma = 2 and b = 1.

    Args:
        channels: C; sets the size of the kernel and nothing else.

    Raises:
        ArgumentError: channels is not a positive whole number.

    Deviations: none from figure 3. The authors' released networks do not compute the size: it is
    set by hand.
    """

    def __init__(self, channels):
        super().__init__()
        channels = whole_number("channels", channels)
        k = eca_kernel_size(channels)
        self.conv = nn.Conv1D(1, 1, k, padding=k // 2, bias_attr=False)

    def forward(self, x):
        z = F.adaptive_avg_pool2d(x, 1).flatten(2)  # (N, C, H, W) -> (N, C, 1)
        z = z.reshape([-1, 1, x.shape[1]])  # (N, C, 1) -> (N, 1, C)
        gate = F.sigmoid(self.conv(z))
        return x * gate.reshape([-1, x.shape[1], 1, 1])  # (N, 1, C) -> (N, C, 1, 1)


class SimAM(nn.Layer):
    """SimAM: gate = sigmoid((x - mu)^2 / (4 (sigma^2 + lambda)) + 1/2), without parameters.

    Shape: (N, C, H, W) -> (N, C, H, W); one gate per value. mu and sigma^2 are the mean and the
    variance of each channel of each image, so that values far from the mean get a larger gate; no
    gate is smaller than sigmoid(1/2) = 0.62.
    Source: Yang et al., "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural
    Networks", ICML 2021, equation (5), whose energy e is inverted: the gate is sigmoid(1 / e).

    Args:
        lambda_: the paper's lambda; 1e-4 is the authors' value on CIFAR (0.1 on ImageNet).

    Deviations from the paper:
        - sigma^2 divides by n = H*W - 1, as the authors' code does; the equation divides by H*W.
        - On a map of one pixel n would be 0; max(n, 1) makes the gate sigmoid(1/2) there, where the
          authors' code gives NaN.
        - The authors' networks put it after the second convolution of a block, before the batch
          norm.
    """

    def __init__(self, lambda_=1e-4):
        super().__init__()
        self.lambda_ = lambda_

    def forward(self, x):
        pixels = x.shape[2] * x.shape[3]
        n = max(pixels - 1, 1)
        mu = F.adaptive_avg_pool2d(x, 1)  # (N, C, H, W) -> (N, C, 1, 1)
        squares = (x - mu).square()
        variance = F.adaptive_avg_pool2d(squares, 1) * (pixels / n)  # -> (N, C, 1, 1)
        return x * F.sigmoid(squares / (4 * (variance + self.lambda_)) + 0.5)


class ConstantGate(nn.Layer):
    """A control: value * x, the same number for every image, channel and pixel.

    Shape: (N, C, H, W) -> (N, C, H, W). NAM's gate starts at 1/2 and stays near it, so what NAM
    gains over this layer is what its attention is worth.
    """

    def __init__(self, value=0.5):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value * x


class ChannelNAMTimesC(ChannelNAM):
    """Channel attention with weights of mean 1: gate = sigmoid(C * W_gamma * BN(x)).

    Shape: (N, C, H, W) -> (N, C, H, W). NAM's weights W sum to 1, so its logits are about 1/C and
    its gate stays near 1/2; multiplied by C they are as large as a batch norm's output. Parameters
    and arguments are those of `ChannelNAM`. Not in the paper.
    """

    def logits(self, x):
        """C * W * BN(x), (N, C, H, W) -> (N, C, H, W)."""
        return super().logits(x) * self.bn.weight.shape[0]


class ChannelNAMGateOnly(ChannelNAM):
    """Equation (2) as it is printed: the output is the gate, sigmoid(W_gamma * BN(x)), itself.

    Shape: (N, C, H, W) -> (N, C, H, W), every value near 1/2. Parameters and arguments are those of
    `ChannelNAM`, which multiplies the gate by x as the authors' code does.
    """

    def forward(self, x):
        return F.sigmoid(self.logits(x))


# name -> f(channels, size), size = (H, W) of the map; "none", "half" and "quarter" are controls.
ATTENTIONS: dict[str, Callable[[int, tuple[int, int]], nn.Layer]] = {
    "none": lambda channels, size: nn.Identity(),
    "half": lambda channels, size: ConstantGate(0.5),
    "quarter": lambda channels, size: ConstantGate(0.25),
    "nam": lambda channels, size: NAM(channels),
    "nam-detached": lambda channels, size: NAM(channels, detach_weights=True),
    "nam-spatial": lambda channels, size: NAM(channels, size),
    # Named `channel`, so that their parameters have the names of NAM's.
    "nam-times-c": lambda channels, size: nn.Sequential(("channel", ChannelNAMTimesC(channels))),
    "nam-gate-only": lambda channels, size: nn.Sequential(
        ("channel", ChannelNAMGateOnly(channels))
    ),
    "se": lambda channels, size: SE(channels),
    "cbam": lambda channels, size: CBAM(channels),
    "eca": lambda channels, size: ECA(channels),
    "simam": lambda channels, size: SimAM(),
}


def build_attention(attention, channels, size) -> nn.Layer:
    """A new attention module for maps of `channels` channels and `size` = (H, W) pixels.

    Args:
        attention: a name of `ATTENTIONS`, or a callable f(channels, size) -> paddle.nn.Layer.

    Raises:
        ArgumentError: an unknown name.
        TypeError: the callable returns something other than a paddle.nn.Layer, or `attention` is a
            layer already (each block needs one of its own).
    """
    if isinstance(attention, nn.Layer):
        raise TypeError(
            words(
                "attention is a {kind} that is built already, but every block needs one of its "
                "own: give a name or a callable f(channels, size)",
                kind=type(attention).__name__,
            )
        )
    if callable(attention):
        layer = attention(channels, size)
        if not isinstance(layer, nn.Layer):
            raise TypeError(
                words(
                    "the attention callable f(channels, size) must return a paddle.nn.Layer, not "
                    "{kind}",
                    kind=type(layer).__name__,
                )
            )
        return layer
    if attention not in list(ATTENTIONS):
        raise ArgumentError(
            words(
                "unknown attention {attention!r}: choose one of {names}, or give a callable "
                "f(channels, size) -> paddle.nn.Layer",
                attention=attention,
                names=", ".join(ATTENTIONS),
            )
        )
    return ATTENTIONS[attention](channels, size)
