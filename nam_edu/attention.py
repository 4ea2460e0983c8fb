"""Lessons 1 and 2: normalization-based attention, equations (2), (3) and (4) of Liu et al.,
arXiv 2111.12419.

    channel   Mc(F) = sigmoid(W_gamma  * BN(F))      W_i = |gamma_i|  / sum_j |gamma_j|
    spatial   Ms(F) = sigmoid(W_lambda * BN_s(F))    W_i = |lambda_i| / sum_j |lambda_j|
    loss      L = cross-entropy + p * (sum |gamma| + sum |lambda|)

The printed equations stop at the gate M; as in the authors' code, the layers return M(F) * F.
"""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from .machinery.checks import whole_number
from .machinery.language import words


def gamma_weights(gamma):
    """The share of each scale factor in the sum of their magnitudes: |gamma_i| / sum_j |gamma_j|.

    (C,) -> (C,), non-negative, sums to 1. Where every gamma is zero each weight is 1/C; where one
    is NaN, all weights are.
    Source: the W of equations (2) and (3).
    """
    magnitude = gamma.abs()
    # Where all are zero, ones take their place before the division: 0/0 would send NaN into the
    # gradient. The test is "<=", since Paddle's "==" takes 1e-9 for 0, and ">" NaN for 0.
    magnitude = paddle.where(magnitude.sum() <= 0, paddle.ones_like(magnitude), magnitude)
    return magnitude / magnitude.sum()


class FoldedBatchNorm(nn.BatchNorm2D):
    """A batch norm that returns W * BN(x), the logits of the NAM gate, in one call.

    W * (gamma * x_hat + beta) = (W * gamma) * x_hat + (W * beta), so W is multiplied into the scale
    and the shift. Parameters, running statistics and their names are those of `BatchNorm2D`.
    """

    def __init__(self, features, *, detach_weights=False, data_format="NCHW"):
        super().__init__(features, data_format=data_format)
        self.detach_weights = detach_weights

    def folded(self):
        """(W * gamma, W * beta), each (C,); W is a constant to autograd where it is detached."""
        gamma, beta = self.weight, self.bias
        w_gamma = gamma_weights(gamma)
        if self.detach_weights:
            w_gamma = w_gamma.detach()
        return w_gamma * gamma, w_gamma * beta

    def forward(self, x):
        self._check_input_dim(x)
        scale, shift = self.folded()
        if self.training and paddle.in_dynamic_mode() and x.size == shift.size:
            return shift.reshape(x.shape)  # one value per feature: Paddle would return x, not beta
        return F.batch_norm(
            x,
            self._mean,
            self._variance,
            weight=scale,
            bias=shift,
            training=self.training,
            momentum=self._momentum,
            epsilon=self._epsilon,
            data_format=self._data_format,
        )


def _refuse_replaced(bn, layer):
    # paddle.nn.SyncBatchNorm.convert_sync_batchnorm swaps every batch norm for a plain one, which
    # would silently drop W from the gate.
    if not isinstance(bn, FoldedBatchNorm):
        raise TypeError(
            words(
                "the batch norm of this {layer} was replaced by {kind}, which does not apply "
                "the weights W; keep NAM's own batch norms out of convert_sync_batchnorm",
                layer=layer,
                kind=type(bn).__name__,
            )
        )


class ChannelNAM(nn.Layer):
    """Channel attention from a batch norm's own scale factors, equation (2).

    Shape: (N, C, H, W) -> (N, C, H, W), for any H and W.

    Args:
        channels: C, at least 1.
        detach_weights: treat W as a constant in the backward pass, as the authors' released code
            does; by default the gradient flows through W.

    Raises:
        ArgumentError: channels is not a positive whole number.

    `.bn` is the BatchNorm2D that holds gamma (`.bn.weight`), beta (`.bn.bias`) and the running
    statistics; calling it gives the logits W * BN(x).
    """

    def __init__(self, channels, *, detach_weights=False):
        super().__init__()
        channels = whole_number("channels", channels)
        self.bn = FoldedBatchNorm(channels, detach_weights=detach_weights)

    def logits(self, x):
        """W * BN(x), (N, C, H, W) -> (N, C, H, W); the gate Mc(x) is their sigmoid."""
        _refuse_replaced(self.bn, "ChannelNAM")
        return self.bn(x)

    def forward(self, x):
        return F.sigmoid(self.logits(x)) * x


class SpatialNAM(nn.Layer):
    """Pixel normalization: NAM with one scale factor lambda per pixel, equation (3).

    Shape: (N, C, H, W) -> (N, C, H, W), with H and W as given when the layer is built; the
    statistics of a pixel run over the batch and the channels.

    Args:
        size: (H, W) of the map, or one number for a square map.
        detach_weights: as in `ChannelNAM`.

    Raises:
        ArgumentError: size is not made of positive whole numbers.
        ValueError: a map of another size (there is one lambda per pixel, so the size is fixed).
    """

    def __init__(self, size, *, detach_weights=False):
        super().__init__()
        height, width = (size, size) if isinstance(size, Integral) else size
        self.size = whole_number("height", height), whole_number("width", width)
        # Pixels take the place of channels: they are the last axis of (N, C, 1, H*W).
        self.bn = FoldedBatchNorm(
            self.size[0] * self.size[1], detach_weights=detach_weights, data_format="NHWC"
        )

    def logits(self, x):
        """W * BN_s(x), (N, C, H, W) -> (N, C, H, W); the gate Ms(x) is their sigmoid."""
        _refuse_replaced(self.bn, "SpatialNAM")
        if x.ndim != 4:
            raise ValueError(
                words("SpatialNAM takes maps (N, C, H, W), not {shape}", shape=tuple(x.shape))
            )
        _, channels, *seen = x.shape
        height, width = self.size
        if tuple(seen) != self.size:
            raise ValueError(
                words(
                    "SpatialNAM was built for maps of {height}x{width} pixels but got "
                    "{h}x{w}: it has one lambda per pixel; build the layer (or the "
                    "network: image_size=...) for the size that it will see",
                    height=height,
                    width=width,
                    h=seen[0],
                    w=seen[1],
                )
            )
        pixels = x.reshape([0, channels, 1, height * width])  # (N, C, H, W) -> (N, C, 1, H*W)
        return self.bn(pixels).reshape([0, channels, height, width])

    def forward(self, x):
        return F.sigmoid(self.logits(x)) * x


class NAM(nn.Layer):
    """Channel attention, then spatial attention on its output when a map size is given.

    Shape: (N, C, H, W) -> (N, C, H, W).

    Args:
        channels: C.
        size: (H, W) of the map to add spatial attention; None for channel attention alone, as in
            the authors' released code and the AI Studio port.
        detach_weights: as in `ChannelNAM`.
    """

    def __init__(self, channels, size=None, *, detach_weights=False):
        super().__init__()
        self.channel = ChannelNAM(channels, detach_weights=detach_weights)
        self.spatial = None if size is None else SpatialNAM(size, detach_weights=detach_weights)

    def forward(self, x):
        x = self.channel(x)
        return x if self.spatial is None else self.spatial(x)


def nam_layers(network) -> Iterator[tuple[str, nn.Layer]]:
    """Every ChannelNAM and SpatialNAM of a network with its name, in the order of the network.

    Looks through wrappers such as `paddle.DataParallel`, whose `_layers.` is left out of the name.
    """
    for name, layer in network.named_sublayers(include_self=True):
        if isinstance(layer, (ChannelNAM, SpatialNAM)):
            yield name[len("_layers.") :] if name.startswith("_layers.") else name, layer


def sparsity_penalty(network):
    """sum |gamma| + sum |lambda| over the NAM layers of a network: equation (4) without its p.

    Only NAM's own batch norms count, not those of the backbone. Returns a scalar tensor through
    which the gradient flows; zero for a network without NAM.
    """
    factors = [layer.bn.weight for _, layer in nam_layers(network)]
    if not factors:
        return paddle.zeros([])
    return paddle.concat(factors).abs().sum()
