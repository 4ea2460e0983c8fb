"""Runs a network's layers channels last, and fast, on a CPU; changes nothing in any layer.

Maps whose channels lie last in memory, (N, H, W, C), are the rows of one matrix: convolutions,
batch norms and gates of a whole batch become few large operations. What is known here, it is known
by its exact type (`KNOWN`), and only as long as nobody has given it a `forward` or a hook of its
own. Layers that follow one another (batch norm and relu; the end of a block) are taken together
where oneDNN can do them in one pass. Every other layer, such as an attention that somebody wrote,
is called as it is, on (N, C, H, W). So a layer that does something else than its type says is
slower here, never wrong.

`NAM_EDU_CONVOLUTION=paddle` switches all of this off. Gradients are Paddle's own up to rounding;
for what they cannot do see `operation`.
"""

from __future__ import annotations

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from ..attention import NAM, ChannelNAM, FoldedBatchNorm, SpatialNAM
from ..baselines import ConstantGate
from . import onednn
from .convolution import LARGEST_MAP, conv2d, folded_conv2d, made_of, switched_off
from .errors import ArgumentError
from .language import words
from .operation import Operation

MANY = 1 << 18  # numbers of a map; for fewer, Paddle's own passes take less time than ours to start
FEWEST_IMAGES = 8  # for smaller batches the weights would take longer to prepare than the maps
FEW_CHANNELS = 4  # of images
LARGEST_IMAGE = 64 * 64  # pixels; of larger images the windows of the stem would fill the memory


def through(layers, x):
    """x through the layers, one after the other, as `nn.Sequential` does: (N, C, H, W) -> the same.

    Where it pays, the layers work channels last.
    """
    if not _possible(x):
        for layer in layers:
            x = layer(x)
        return x
    x, last = _in_turn(layers, x, False)
    return _turned(x, last, False)


def _possible(x):
    return (
        paddle.in_dynamic_mode()
        and not switched_off()
        and x.place.is_cpu_place()
        and x.dtype == paddle.float32
        and x.ndim == 4
        and x.shape[0] >= FEWEST_IMAGES
    )


def _pays_off(layer, x):
    """Whether from this layer on maps are to lie channels last: with oneDNN all of them, without it
    those that are small."""
    if onednn.available():
        return True
    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    if channels <= FEW_CHANNELS:  # a stem with a stride leaves small maps
        return (
            isinstance(layer, nn.Conv2D)
            and tuple(layer._stride) != (1, 1)
            and pixels <= LARGEST_IMAGE // 4
        )
    return pixels <= LARGEST_MAP


def _turned(x, last, wanted):
    """A map with its channels where they are wanted: last or second."""
    if x.ndim < 4:  # the result of some attention that is to be broadcast over (N, C, H, W)
        x = x.reshape([1] * (4 - x.ndim) + x.shape)
    if last == wanted:
        return x
    return x.transpose([0, 2, 3, 1] if wanted else [0, 3, 1, 2]).contiguous()


# ------------------------------------------------------------------------------- one layer

KNOWN = {}  # exact type -> (f(layer, x, last) -> x in the same layout, the type's own `forward`)


def knows(*types):
    """Decorates the function that computes a layer of exactly these types."""

    def register(function):
        KNOWN.update({kind: (function, kind.forward) for kind in types})
        return function

    return register


def is_plain(layer, kind=None):
    """Whether a layer is of a known type (of exactly this one), with nothing of somebody's own."""
    known = KNOWN.get(type(layer))
    return (
        known is not None
        and kind in (None, type(layer))
        and type(layer).forward is known[1]
        and "forward" not in layer.__dict__
        and not layer._forward_pre_hooks
        and not layer._forward_post_hooks
    )


def _in_turn(layers, x, last):
    """(x through the layers, whether its channels lie last); x has them last or second."""
    layers = list(layers)
    while layers:
        layer, *rest = layers
        if not last and _pays_off(layer, x):
            x, last = _turned(x, False, True), True
        if is_plain(layer, nn.Sequential):  # its parts may change the layout
            x, last = _in_turn(layer, x, last)
            layers = rest
        else:
            x, layers = _first(layers, x, last)
    return x, last


def _first(layers, x, last):
    """(x through the first of the layers, the others); where two or three of them make one
    operation, those are taken together."""
    layer, *rest = layers
    if is_plain(layer, nn.Conv2D) and rest and last and _folds(rest[0]):
        relu = len(rest) > 1 and is_plain(rest[1], nn.ReLU)
        y = _conv2d(layer, x, last, (rest[0], relu))
        if y is not None:
            return y, rest[2:] if relu else rest[1:]
    if is_plain(layer, nn.BatchNorm2D) and rest and is_plain(rest[0], nn.ReLU):
        return _batch_norm(layer, x, last, relu=True), rest[1:]
    return _computed(layer, x, last), rest


def _folds(layer):
    """Whether a layer is a batch norm that can be made a part of the convolution before it."""
    return (
        is_plain(layer, nn.BatchNorm2D)
        and not layer.training
        and not paddle.is_grad_enabled()
        and layer._data_format == "NCHW"
    )


def _computed(layer, x, last):
    """layer(x) in the layout of x."""
    if is_plain(layer):
        return KNOWN[type(layer)][0](layer, x, last)
    return _as_it_is(layer, x, last)


def _as_it_is(layer, x, last):
    return _turned(layer(_turned(x, last, False)), False, last)


def _format(last):
    return "NHWC" if last else "NCHW"


# -------------------------------------------------------------------------- the known layers


@knows(nn.Sequential)
def _sequential(layer, x, last):
    layers = list(layer)
    while layers:
        x, layers = _first(layers, x, last)
    return x


@knows(nn.Identity)
def _identity(layer, x, last):
    return x


@knows(nn.ReLU)
def _relu(layer, x, last):
    return F.relu(x)


@knows(nn.Sigmoid)
def _sigmoid(layer, x, last):
    return F.sigmoid(x)


@knows(ConstantGate)
def _constant_gate(layer, x, last):
    return layer.value * x


@knows(nn.Conv2D)
def _conv2d(layer, x, last, followed_by=None):
    """followed_by: (the batch norm after it, whether relu is to follow); None is the result where
    these cannot be taken together."""
    padding = layer._updated_padding
    padding = (padding, padding) if isinstance(padding, int) else padding
    if (
        not last
        or layer._padding_mode != "zeros"
        or layer._data_format != "NCHW"
        or layer._padding_algorithm != "EXPLICIT"
        or len(padding) != 2
    ):
        return _as_it_is(layer, x, last) if followed_by is None else None
    how = (tuple(layer._stride), tuple(padding), tuple(layer._dilation), layer._groups)
    if followed_by is not None:
        return folded_conv2d(x, *followed_by, layer.weight, layer.bias, *how)
    return conv2d(x, layer.weight, layer.bias, *how)


@knows(nn.BatchNorm2D)
def _batch_norm(layer, x, last, relu=False):
    if last and _in_few_passes(layer, x):
        return onednn.batch_norm(layer, x, layer.weight, layer.bias, relu)[0]
    if last and layer._data_format == "NCHW":
        y = F.batch_norm(
            x,
            layer._mean,
            layer._variance,
            layer.weight,
            layer.bias,
            layer.training,
            layer._momentum,
            layer._epsilon,
            "NHWC",
            layer._use_global_stats,
        )
    else:
        y = _as_it_is(layer, x, last)
    return F.relu(y) if relu else y


def _in_few_passes(bn, x):
    """Whether oneDNN is to do this batch norm, on maps channels last."""
    return (
        x.size >= MANY
        and bn.training
        and not bn._use_global_stats
        and bn._data_format == "NCHW"
        and bn.weight is not None
        and bn.bias is not None
        and bn.weight.shape[0] == x.shape[-1]
        and onednn.available()
        and onednn.fast_channels(x)
    )


@knows(nn.MaxPool2D)
def _max_pool(layer, x, last):
    """The same numbers, but the gradient does not search for the maximum again: Paddle's
    three-dimensional pooling notes where it was, and windows of depth 1 along the channels make it
    two-dimensional."""
    if (
        not last
        or layer.data_format != "NCHW"
        or layer.ceil_mode
        or layer.return_mask
        or not isinstance(layer.padding, int)
    ):
        return _as_it_is(layer, x, last)
    kernel, stride = (
        (v, v) if isinstance(v, int) else tuple(v)
        for v in (layer.ksize, layer.stride or layer.ksize)
    )
    if onednn.available():
        return onednn.max_pool(x, kernel, stride, (layer.padding, layer.padding))
    if x.stop_gradient or not paddle.is_grad_enabled():
        return F.max_pool2d(x, kernel, stride, layer.padding, data_format="NHWC")
    y, _ = F.max_pool3d(
        x.unsqueeze(1),
        (*kernel, 1),
        (*stride, 1),
        (layer.padding, layer.padding, 0),
        return_mask=True,
    )
    return y.squeeze(1)


@knows(nn.AdaptiveAvgPool2D)
def _average_pool(layer, x, last):
    if layer._data_format != "NCHW":
        return _as_it_is(layer, x, last)
    return F.adaptive_avg_pool2d(x, layer._output_size, _format(last))


# ------------------------------------------------------------------------------ NAM's gates


@knows(FoldedBatchNorm)
def _folded_batch_norm(bn, x, last):
    return _logits(bn, x, last) if bn._data_format == "NCHW" else _as_it_is(bn, x, last)


def _folded(bn):
    """(W * gamma, W * beta), once for all batches where the weights stay."""
    return made_of(_fold, bn.weight, bn)


def _fold(gamma, bn):
    return bn.folded()


def _logits(bn, x, last):
    """W * BN(x), where x has its features in the last axis or in the second."""
    scale, shift = _folded(bn)
    if last and _in_few_passes(bn, x):
        return onednn.batch_norm(bn, x, scale, shift)[0]
    return F.batch_norm(
        x,
        bn._mean,
        bn._variance,
        scale,
        shift,
        bn.training,
        bn._momentum,
        bn._epsilon,
        _format(last),
    )


@knows(ChannelNAM)
def _channel_nam(layer, x, last):
    if not is_plain(layer.bn, FoldedBatchNorm):
        return _as_it_is(layer, x, last)
    return gated(x, _logits(layer.bn, x, last))


@knows(SpatialNAM)
def _spatial_nam(layer, x, last):
    height, width = x.shape[1:3] if last else x.shape[2:]
    if not is_plain(layer.bn, FoldedBatchNorm) or (height, width) != layer.size:
        return _as_it_is(layer, x, last)
    # The pixels take the place of the channels: the second axis of (N, H*W, C, 1), or the last of
    # (N, C, 1, H*W).
    pixels = [x.shape[0], height * width, -1, 1] if last else [*x.shape[:2], 1, -1]
    return gated(x, _logits(layer.bn, x.reshape(pixels), not last).reshape(x.shape))


@knows(NAM)
def _nam(layer, x, last):
    x = _computed(layer.channel, x, last)
    return x if layer.spatial is None else _computed(layer.spatial, x, last)


def gated(x, logits):
    """sigmoid(logits) * x of two maps of one shape; `logits` is nobody else's.

    The sigmoid is (1 + tanh(logits / 2)) / 2, the same number: Paddle computes tanh for many values
    at a time, the exponential for one. Its gradient of a product is many times slower than the
    product, so this has one of its own. Without gradients the result takes the memory of `logits`.
    """
    if paddle.is_grad_enabled() and not (x.stop_gradient and logits.stop_gradient):
        return _Gated.apply(x, logits)
    return logits.scale_(0.5).tanh_().scale_(0.5, 0.5).multiply_(x)


class _Gated(Operation):
    @staticmethod
    def forward(ctx, x, logits):
        gate = logits.scale(0.5).tanh_().scale_(0.5, 0.5)
        y = gate * x
        ctx.save_for_backward(x, gate, y)
        ctx.wanted = not x.stop_gradient, not logits.stop_gradient
        return y

    @staticmethod
    def backward(ctx, grad):
        x, gate, y = ctx.saved_tensor()
        grad_x = grad * gate
        # sigmoid' = gate * (1 - gate)
        grad_logits = (x - y).multiply_(grad_x) if ctx.wanted[1] else None
        return grad_x if ctx.wanted[0] else None, grad_logits


# -------------------------------------------------------------------------- residual blocks


def residual_block(*branch):
    """Decorates a class of blocks: relu(attention(branch(x)) + shortcut(x)).

    branch: names of the attributes that hold its layers, in order, and "relu" for the function.
    The attributes `attention` and `downsample` hold the rest; None as `downsample` stands for x
    itself. The class keeps the `forward` that it has.
    """

    def compute(block, x, last):
        out = shortcut = x
        layers = [RELU if name == "relu" else getattr(block, name) for name in branch]
        while len(layers) > 1:
            out, layers = _first(layers, out, last)
        if block.downsample is not None:
            shortcut = _computed(block.downsample, x, last)
        return _end_of_block(layers, block.attention, out, shortcut, last)

    def decorate(kind):
        return knows(kind)(compute) and kind

    return decorate


RELU = nn.ReLU()


def _end_of_block(layers, attention, x, shortcut, last):
    """relu(attention(x through the layers) + shortcut); layers: the last one of a branch, a batch
    norm in most. Where attention is NAM's gate of the channels, it is taken together with both."""
    few_passes = (
        last
        and x.size >= MANY
        and onednn.available()
        and (attention.training or not paddle.is_grad_enabled())
        and x.shape == shortcut.shape
    )
    if not (few_passes and _is_fast_gate(attention, shortcut.shape[-1])):
        for layer in layers:
            x = _computed(layer, x, last)
        x = _attended(attention, x, last)
        if few_passes and x.shape == shortcut.shape:
            return onednn.add_relu(x, shortcut)
        return F.relu(x + shortcut)
    moments = None
    for layer in layers:
        if is_plain(layer, nn.BatchNorm2D) and _in_few_passes(layer, x):
            x, moments = onednn.batch_norm(layer, x, layer.weight, layer.bias)
        else:
            x = _computed(layer, x, last)
    bn = attention.channel.bn
    return onednn.gate(bn, x, *_folded(bn), shortcut, moments)


def check_shape_kept(x, y):
    """Raises ArgumentError where y, what an attention made of the map x, is no map of its shape."""
    if not isinstance(y, paddle.Tensor) or y.shape != x.shape:
        raise ArgumentError(
            words(
                "the layer makes {after} of a map of shape {before}: an attention keeps the "
                "shape of its map",
                after=tuple(y.shape) if isinstance(y, paddle.Tensor) else type(y).__name__,
                before=tuple(x.shape),
            )
        )


def _attended(attention, x, last):
    """attention(x) in the layout of x. Raises ArgumentError where it is a layer of somebody's own
    that does not keep the shape of its map."""
    if is_plain(attention):
        return _computed(attention, x, last)
    given = _turned(x, last, False)
    y = attention(given)
    if paddle.in_dynamic_mode():
        check_shape_kept(given, y)
    return _turned(y, False, last)


def _is_fast_gate(attention, channels):
    """Whether this is NAM's gate of so many channels, and nothing else, as oneDNN can do it."""
    return (
        is_plain(attention, NAM)
        and attention.spatial is None
        and is_plain(attention.channel, ChannelNAM)
        and is_plain(attention.channel.bn, FoldedBatchNorm)
        and attention.channel.bn._data_format == "NCHW"
        and attention.channel.bn.weight.shape[0] == channels
        and (attention.channel.bn.training or not paddle.is_grad_enabled())
    )
