"""The operations of a residual network by oneDNN, on maps channels last, (N, H, W, C) float32.

Paddle carries the library and does not use it in dynamic mode. Where it is missing or computes
something else than Paddle, `available()` is False, and `why_not()` says why.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from functools import cache, cached_property

import numpy as np
import paddle
import paddle.nn.functional as F

from . import dnnl
from .dnnl import Refused
from .operation import Operation

_first_try = threading.Lock()


def why_not():
    """Why oneDNN is not used, in a sentence, or None where it is."""
    if os.environ.get("NAM_EDU_CONVOLUTION") in ("paddle", "products"):
        return f"NAM_EDU_CONVOLUTION={os.environ['NAM_EDU_CONVOLUTION']}"
    with _first_try:
        library = dnnl.shared_library()
        return library if isinstance(library, str) else _unlike_paddle()


def available():
    return why_not() is None


def _wanted(*tensors):
    """Whether a gradient is wanted for each of them."""
    return [not tensor.stop_gradient for tensor in tensors if tensor is not None]


def _only(wanted, gradients):
    return tuple(gradient if want else None for want, gradient in zip(wanted, gradients))


# --------------------------------------------------------------------------------- convolution


class _Convolution:
    """The primitives of a shape: x (N, H, W, C), weight (C', C / groups, kh, kw). oneDNN chooses
    how the weights lie in memory; `pack` brings them there."""

    def __init__(self, x, weight, stride, padding, dilation, groups, bias, training, relu):
        (n, h, w, c), (c_out, _, kh, kw) = x, weight
        # What oneDNN 3 gets wrong: with single channels it may skip columns of the result, and
        # with fewer channels than AVX2 takes at a time, gradients of a strided 1x1 kernel.
        if c == groups or (kh == kw == 1 and stride != (1, 1) and c // groups < 8):
            raise Refused("few channels")
        top, bottom, left, right = padding
        out_h = (h + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
        out_w = (w + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
        self.shape = [n, out_h, out_w, c_out]
        shape = weight if groups == 1 else (groups, c_out // groups, c // groups, kh, kw)
        self.x, self.y, self.weight = (
            dnnl.map_layout(*x),
            dnnl.map_layout(*self.shape),
            dnnl.plain_layout(*shape),
        )
        self.any = dnnl.Handle(
            "memory_desc_create_with_tag", len(shape), dnnl.DIMS(*shape), dnnl.F32, dnnl.ANY_LAYOUT
        )
        self.bias = dnnl.plain_layout(c_out) if bias else None
        dilation = dnnl.DIMS(dilation[0] - 1, dilation[1] - 1)
        self.how = dnnl.DIMS(*stride), dilation, dnnl.DIMS(top, left), dnnl.DIMS(bottom, right)
        self.description = dnnl.Description(
            "convolution_forward",
            dnnl.engine(),
            dnnl.TRAINING if training else dnnl.INFERENCE,
            dnnl.DIRECT,
            self.x,
            self.any,
            self.bias,
            self.y,
            *self.how,
            after=[dnnl.RELU] if relu else [],
        )
        packed = self.description.layout(dnnl.ASK_WEIGHTS)
        self.packed_size, self.pack = dnnl.size_of(packed), _reorder(self.weight, packed)
        arguments = {dnnl.SRC: self.x, dnnl.WEIGHTS: packed, dnnl.DST: self.y}
        self.forward = dnnl.Primitive(
            self.description, {**arguments, dnnl.BIAS: self.bias} if bias else arguments
        )

    def __call__(self, x, packed, bias):
        y = dnnl.empty(self.shape)
        biases = [] if bias is None else [bias.data_ptr()]
        self.forward(x.data_ptr(), packed, y.data_ptr(), *biases)
        return y

    @cached_property
    def to_x(self):
        description = dnnl.Description(
            "convolution_backward_data",
            dnnl.engine(),
            dnnl.DIRECT,
            self.x,
            self.any,
            self.y,
            *self.how,
            self.description,
        )
        packed = description.layout(dnnl.ASK_WEIGHTS)
        arguments = {dnnl.DIFF_DST: self.y, dnnl.WEIGHTS: packed, dnnl.DIFF_SRC: self.x}
        return (
            _reorder(self.weight, packed),
            dnnl.size_of(packed),
            dnnl.Primitive(description, arguments),
        )

    def grad_x(self, x, weight, grad):
        pack, size, backward = self.to_x
        grad_x, packed = dnnl.empty(x.shape), dnnl.thread().buffer("weights", size)
        pack(weight.data_ptr(), packed)
        backward(grad.data_ptr(), packed, grad_x.data_ptr())
        return grad_x

    @cached_property
    def to_weight(self):
        description = dnnl.Description(
            "convolution_backward_weights",
            dnnl.engine(),
            dnnl.DIRECT,
            self.x,
            self.any,
            self.bias,
            self.y,
            *self.how,
            self.description,
        )
        packed = description.layout(dnnl.ASK_DIFF_WEIGHTS)
        arguments = {dnnl.SRC: self.x, dnnl.DIFF_DST: self.y, dnnl.DIFF_WEIGHTS: packed}
        if self.bias is not None:
            arguments[dnnl.DIFF_BIAS] = self.bias
        return (
            _reorder(packed, self.weight),
            dnnl.size_of(packed),
            dnnl.Primitive(description, arguments),
        )

    def grad_weight(self, x, weight, grad):
        """[the gradient of the weight, and of the bias if there is one]"""
        unpack, size, backward = self.to_weight
        grads, packed = [dnnl.empty(weight.shape)], dnnl.thread().buffer("weights", size)
        if self.bias is not None:
            grads.append(dnnl.empty([weight.shape[0]]))
        backward(x.data_ptr(), grad.data_ptr(), packed, *(g.data_ptr() for g in grads[1:]))
        unpack(packed, grads[0].data_ptr())
        return grads


def _reorder(source, target):
    engine = dnnl.engine()
    description = dnnl.Description("reorder", source, engine, target, engine)
    return dnnl.Primitive(description, {dnnl.SRC: source, dnnl.DST: target})


def conv2d(x, weight, bias, stride, padding, dilation=(1, 1), groups=1):
    """A convolution: (N, H, W, C) -> (N, H', W', C'); padding (top, bottom, left, right)."""
    how = tuple(stride), tuple(padding), tuple(dilation), groups
    return _Conv2D.apply(x, weight, bias, how)


class _Conv2D(Operation):
    @staticmethod
    def forward(ctx, x, weight, bias, how):
        x, weight = x.contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.wanted = _wanted(x, weight, bias)
        ctx.shape = tuple(x.shape), tuple(weight.shape), *how, bias is not None, True, False
        made = dnnl.kept(_Convolution, *ctx.shape)
        packed = dnnl.thread().buffer("weights", made.packed_size)
        made.pack(weight.data_ptr(), packed)
        return made(x, packed, bias)

    @staticmethod
    def backward(ctx, grad):
        (x, weight), grad = ctx.saved_tensor(), grad.contiguous()
        made, wanted = dnnl.kept(_Convolution, *ctx.shape), ctx.wanted
        grads = [made.grad_x(x, weight, grad) if wanted[0] else None]
        grads += made.grad_weight(x, weight, grad) if any(wanted[1:]) else [None] * len(wanted[1:])
        return _only(wanted, grads)


class Inference:
    """A convolution of one shape without gradients, and relu of it if wanted, in one pass."""

    def __init__(self, x, weight, stride, padding, dilation, groups, relu):
        how = tuple(stride), tuple(padding), tuple(dilation), groups
        self.made = dnnl.kept(_Convolution, x, weight, *how, True, False, relu)

    def packed(self, weight):
        """The weights as oneDNN wants them; whoever has them calls with them."""
        packed = np.empty(self.made.packed_size + 64, np.uint8)
        self.made.pack(weight.contiguous().data_ptr(), dnnl.aligned(packed))
        return packed

    def __call__(self, x, packed, bias):
        return self.made(x.contiguous(), dnnl.aligned(packed), bias)


# -------------------------------------------------------------------- one pass over whole maps

VECTOR, MAP, NUMBER = "vector", "map", "number"
CHUNK = 1 << 17  # numbers; so many of several maps stay in the cache while they are worked on
WIDE = 256  # columns; loops begin anew in every row


def _fold(x, columns=16):
    """(images, pixels, columns, how many pixels lie side by side in them) for a map (N, H, W, C).

    oneDNN's loops take 16 columns at a time. So several pixels are taken together for one of a
    multiple of 16, and at least `columns`, columns, where their number allows that.
    """
    n, h, w, c = x.shape
    fold = 16 // math.gcd(c, 16)
    while fold * c < columns:
        fold *= 2
    while n * h * w % fold:
        fold //= 2
    if fold * c % 16:
        fold = 1
    if h * w % fold:
        return n * h * w // fold, 1, c * fold, fold
    return n, h * w // fold, c * fold, fold


def _addresses(fold, *vectors):
    """Where vectors (C,) lie, each repeated for `fold` pixels side by side."""
    addresses = []
    for vector in vectors:
        array = np.tile(vector, fold) if fold > 1 else np.ascontiguousarray(vector, np.float32)
        addresses.append(_Held(dnnl.address(array)))
        addresses[-1].array = array
    return addresses


class _Held(int):
    """The address of an array, which is held as long as the address is."""


class _Chain:
    """Several operations on each number of a map (rows, columns), one after the other, in one pass.
    Each is a pair of ADD, MULTIPLY or GREATER and the kind of its other operand, or RELU, LOGISTIC
    or LINEAR (1 + x); the first is a pair."""

    def __init__(self, rows, columns, *steps):
        layouts = {
            MAP: dnnl.map_layout(1, rows, 1, columns),
            VECTOR: dnnl.plain_layout(1, columns, 1, 1),
            NUMBER: dnnl.plain_layout(1, 1, 1, 1),
        }
        steps = [(s[0], layouts[s[1]]) if isinstance(s, tuple) else s for s in steps]
        (first, operand), later, whole = steps[0], steps[1:], layouts[MAP]
        pairs = {
            dnnl.LATER * (i + 1) | dnnl.SRC_1: s[1]
            for i, s in enumerate(later)
            if isinstance(s, tuple)
        }
        self.run = dnnl.Primitive(
            dnnl.Description("binary", dnnl.engine(), first, whole, operand, whole, after=later),
            {dnnl.SRC: whole, dnnl.DST: whole, dnnl.SRC_1: operand, **pairs},
        )

    def __call__(self, x, y, *operands):
        """Addresses: of what is read and what is written, then of the other operands in order."""
        self.run(x, y, *operands)


ZERO, MINUS_ONE = np.zeros(1, np.float32), -np.ones(1, np.float32)


def add_relu(x, shortcut):
    """relu(x + shortcut) of two maps of one shape."""
    return _AddRelu.apply(x, shortcut)


class _AddRelu(Operation):
    @staticmethod
    def forward(ctx, x, shortcut):
        ctx.wanted = _wanted(x, shortcut)
        x, shortcut, y = x.contiguous(), shortcut.contiguous(), dnnl.empty(x.shape)
        chain = dnnl.kept(_Chain, 1, x.size, (dnnl.ADD, MAP), dnnl.RELU)
        chain(x.data_ptr(), y.data_ptr(), shortcut.data_ptr())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,), grad, grad_sum = ctx.saved_tensor(), grad.contiguous(), dnnl.empty(grad.shape)
        chain = dnnl.kept(_Chain, 1, y.size, (dnnl.GREATER, NUMBER), (dnnl.MULTIPLY, MAP))
        chain(y.data_ptr(), grad_sum.data_ptr(), dnnl.address(ZERO), grad.data_ptr())
        # Two tensors: Paddle may add to one of them in place.
        return _only(ctx.wanted, (grad_sum, grad_sum.clone() if all(ctx.wanted) else grad_sum))


# ---------------------------------------------------------------------------------- batch norm


class _BatchNorm:
    """The primitives of a map whose columns are a multiple of 16, else they would be slow."""

    def __init__(self, n, pixels, columns, epsilon, flags):
        self.x, self.column, self.flags = (
            dnnl.map_layout(n, pixels, 1, columns),
            dnnl.plain_layout(columns),
            flags,
        )
        self.epsilon = ctypes.c_float(epsilon)
        self.description = dnnl.Description(
            "batch_normalization_forward",
            dnnl.engine(),
            dnnl.TRAINING,
            self.x,
            self.x,
            self.epsilon,
            flags,
        )
        self.mask = self.description.layout(dnnl.ASK_WORKSPACE) if flags & dnnl.WITH_RELU else None
        scale = [dnnl.SCALE, dnnl.SHIFT] if flags & dnnl.SCALE_AND_SHIFT else []
        self.forward = dnnl.Primitive(
            self.description, self._arguments([dnnl.SRC, dnnl.DST], scale)
        )

    def _arguments(self, maps, columns):
        arguments = dict.fromkeys(maps, self.x)
        arguments.update(dict.fromkeys([dnnl.MEAN, dnnl.VARIANCE, *columns], self.column))
        return {**arguments, dnnl.WORKSPACE: self.mask} if self.mask is not None else arguments

    @cached_property
    def backward(self):
        description = dnnl.Description(
            "batch_normalization_backward",
            dnnl.engine(),
            dnnl.BACKWARD,
            self.x,
            self.x,
            self.x,
            self.epsilon,
            self.flags,
            self.description,
        )
        columns = [dnnl.SCALE, dnnl.DIFF_SCALE, dnnl.DIFF_SHIFT]
        return dnnl.Primitive(
            description, self._arguments([dnnl.SRC, dnnl.DIFF_DST, dnnl.DIFF_SRC], columns)
        )


def fast_channels(x):
    """Whether the batch norm of such a map is fast here."""
    return _fold(x)[2] % 16 == 0


def _moments(x):
    """(mean, biased variance) of each channel of a map."""
    n, pixels, columns, fold = _fold(x)
    means, variances = np.empty((2, fold, columns // fold), np.float32)
    spare = dnnl.empty(x.shape)
    dnnl.kept(_BatchNorm, n, pixels, columns, 0.0, 0).forward(
        x.data_ptr(), spare.data_ptr(), dnnl.address(means), dnnl.address(variances)
    )
    mean = means.mean(0)
    return mean, variances.mean(0) + np.square(means - mean).mean(0)


def _moved(bn, mean, variance):
    """Running statistics as Paddle moves them: momentum weighs the old value."""
    for running, batch in (bn._mean, mean), (bn._variance, variance):
        old = dnnl.vector(running)
        old *= np.float32(bn._momentum)
        old += np.float32(1 - bn._momentum) * batch


def _over_std(variance, epsilon):
    return 1 / np.sqrt(variance + np.float32(epsilon))


def batch_norm(bn, x, scale, shift, relu=False):
    """(batch norm in training mode with this scale and shift, and relu of it if wanted; mean and
    variance of each channel of it without relu): (N, H, W, C) -> the same.

    bn: the layer, whose running statistics move.
    """
    moments = {}
    y = _Normalised.apply(x, scale, shift, bn, relu, moments)
    over_std = _over_std(moments["variance"], bn._epsilon)
    variance = moments["variance"] * np.square(over_std * dnnl.vector(scale))
    return y, (dnnl.vector(shift).copy(), variance)


class _Normalised(Operation):
    @staticmethod
    def forward(ctx, x, scale, shift, bn, relu, moments):
        ctx.wanted, x = _wanted(x, scale, shift), x.contiguous()
        y, (n, pixels, columns, fold) = dnnl.empty(x.shape), _fold(x)
        flags = dnnl.SCALE_AND_SHIFT | (dnnl.WITH_RELU if relu else 0)
        if fold > 1:  # the columns of a channel have one mean and one variance
            flags |= dnnl.GLOBAL_STATISTICS
            mean, variance = _moments(x)
        else:
            mean, variance = np.empty((2, columns), np.float32)
        made = dnnl.kept(_BatchNorm, n, pixels, columns, bn._epsilon, flags)
        mask = [paddle.empty([dnnl.size_of(made.mask)], "uint8")] if relu else []
        vectors = _addresses(fold, mean, variance, dnnl.vector(scale), dnnl.vector(shift))
        made.forward(x.data_ptr(), y.data_ptr(), *vectors, *(m.data_ptr() for m in mask))
        _moved(bn, mean, variance)
        moments["variance"] = variance
        ctx.known = mean, variance, bn._epsilon, flags
        ctx.save_for_backward(x, scale, *mask)
        return y

    @staticmethod
    def backward(ctx, grad):
        (x, scale, *mask), grad = ctx.saved_tensor(), grad.contiguous()
        mean, variance, epsilon, flags = ctx.known
        n, pixels, columns, fold = _fold(x)
        made = dnnl.kept(_BatchNorm, n, pixels, columns, epsilon, flags)
        sums, grad_x = np.empty((2, columns), np.float32), dnnl.empty(x.shape)
        made.backward(
            x.data_ptr(),
            grad.data_ptr(),
            grad_x.data_ptr(),
            *_addresses(fold, mean, variance, dnnl.vector(scale)),
            dnnl.address(sums[0]),
            dnnl.address(sums[1]),
            *(m.data_ptr() for m in mask),
        )
        grad_scale, grad_shift = sums = sums.reshape(2, fold, -1).sum(1)
        if fold > 1 and ctx.wanted[0]:  # what is missing: mean and variance depend on x
            over_std = _over_std(variance, epsilon)
            mean_scale, mean_shift = sums * np.float32(len(mean) / x.size)
            slope = -over_std * over_std * dnnl.vector(scale) * mean_scale
            offset = -over_std * dnnl.vector(scale) * mean_shift - slope * mean
            n, pixels, columns, fold = _fold(x, WIDE)
            chain = dnnl.kept(
                _Chain,
                n * pixels,
                columns,
                (dnnl.MULTIPLY, VECTOR),
                (dnnl.ADD, VECTOR),
                (dnnl.ADD, MAP),
            )
            vectors = _addresses(fold, slope, offset)
            chain(x.data_ptr(), grad_x.data_ptr(), *vectors, grad_x.data_ptr())
        return _only(ctx.wanted, (grad_x, *map(paddle.to_tensor, (grad_scale, grad_shift))))


# ---------------------------------------------------------------------------------- NAM's gate

GATE = (dnnl.MULTIPLY, VECTOR), (dnnl.ADD, VECTOR), dnnl.LOGISTIC


def gate(bn, y, scale, shift, shortcut, moments=None):
    """relu(sigmoid(logits) * y + shortcut) of maps, logits = scale * (y - mean) / std + shift.

    bn: NAM's batch norm, for its running statistics; scale, shift (C,): W * gamma and W * beta.
    Gradients only in training, where mean and variance are those of y.
    moments: mean and variance of each channel of y where they are known, from `batch_norm`.
    """
    if bn.training:
        mean, variance = moments or _moments(y.contiguous())
        _moved(bn, mean, variance)
    else:
        mean, variance = dnnl.vector(bn._mean).copy(), dnnl.vector(bn._variance).copy()
    known = mean, variance, bn._epsilon
    return _Gate.apply(y, scale, shift, shortcut, known)


class _Gate(Operation):
    @staticmethod
    def forward(ctx, y, scale, shift, shortcut, known):
        ctx.wanted, ctx.known = _wanted(y, scale, shift, shortcut), known
        y, shortcut, out = y.contiguous(), shortcut.contiguous(), dnnl.empty(y.shape)
        mean, variance, epsilon = known
        slope = dnnl.vector(scale) * _over_std(variance, epsilon)
        n, pixels, columns, fold = _fold(y, WIDE)
        chain = dnnl.kept(
            _Chain, n * pixels, columns, *GATE, (dnnl.MULTIPLY, MAP), (dnnl.ADD, MAP), dnnl.RELU
        )
        vectors = _addresses(fold, slope, dnnl.vector(shift) - slope * mean)
        chain(y.data_ptr(), out.data_ptr(), *vectors, y.data_ptr(), shortcut.data_ptr())
        ctx.save_for_backward(y, scale, shift, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        """With s = sigmoid(logits) and g the gradient below relu: the logits get g * s * (1 - s) *
        y, from which batch norm's backward leads to y, and y gets g * s besides."""
        (y, scale, shift, out), grad = ctx.saved_tensor(), grad.contiguous()
        mean, variance, epsilon = ctx.known
        over_std = _over_std(variance, epsilon)
        slope = dnnl.vector(scale) * over_std
        n, pixels, columns, fold = _fold(y, WIDE)
        logits = _addresses(fold, slope, dnnl.vector(shift) - slope * mean)
        norm = _addresses(fold, mean, variance, slope)
        grad_y, below = dnnl.empty(y.shape), dnnl.empty(y.shape)
        sums, part = np.zeros((2, 2, columns), np.float32)
        flags = dnnl.SCALE_AND_SHIFT | dnnl.GLOBAL_STATISTICS
        # First the gradient of the logits, in the memory of grad_y, and its sums.
        for rows, at in _chunks(n * pixels, columns):
            s, spare = _spare(rows * columns)
            dnnl.kept(_Chain, rows, columns, (dnnl.GREATER, NUMBER), (dnnl.MULTIPLY, MAP))(
                at(out), at(below), dnnl.address(ZERO), at(grad)
            )
            dnnl.kept(_Chain, rows, columns, *GATE)(at(y), s, *logits)
            times = [(dnnl.MULTIPLY, MAP)] * 3
            dnnl.kept(_Chain, rows, columns, (dnnl.MULTIPLY, NUMBER), dnnl.LINEAR, *times)(
                s, at(grad_y), dnnl.address(MINUS_ONE), s, at(below), at(y)
            )
            dnnl.kept(_BatchNorm, 1, rows, columns, epsilon, flags).backward(
                at(y), at(grad_y), spare, *norm, dnnl.address(part[0]), dnnl.address(part[1])
            )
            sums += part
        grad_scale, grad_shift = sums = sums.reshape(2, fold, -1).sum(1)
        # Then what leads from the logits to y, and g * s.
        mean_scale, mean_shift = sums * np.float32(len(mean) / y.size)
        inner_slope = -over_std * mean_scale
        inner = _addresses(fold, inner_slope, -mean_shift - inner_slope * mean)
        for rows, at in _chunks(n * pixels, columns) if ctx.wanted[0] else ():
            s, _ = _spare(rows * columns)
            dnnl.kept(_Chain, rows, columns, *GATE, (dnnl.MULTIPLY, MAP))(
                at(y), s, *logits, at(below)
            )
            steps = (
                (dnnl.MULTIPLY, VECTOR),
                (dnnl.ADD, VECTOR),
                (dnnl.ADD, MAP),
                (dnnl.MULTIPLY, VECTOR),
                (dnnl.ADD, MAP),
            )
            dnnl.kept(_Chain, rows, columns, *steps)(
                at(y), at(grad_y), *inner, at(grad_y), norm[2], s
            )
        grads = grad_y, paddle.to_tensor(grad_scale), paddle.to_tensor(grad_shift), below
        return _only(ctx.wanted, grads)


def _chunks(rows, columns):
    """(how many rows, a function that takes a map to the address of the first of them)"""
    step = max(1, CHUNK // columns)
    for first in range(0, rows, step):
        yield min(step, rows - first), lambda x, at=4 * first * columns: x.data_ptr() + at


def _spare(numbers):
    """Two places for a chunk that is needed for a moment."""
    return dnnl.thread().buffer("chunk", 4 * numbers), dnnl.thread().buffer("spare", 4 * numbers)


# ------------------------------------------------------------------------------------- pooling


class _MaxPool:
    """The primitives of a max pooling; forward notes in a workspace where each maximum was."""

    def __init__(self, shape, kernel, stride, padding):
        n, h, w, c = shape
        out = [(a + 2 * p - k) // s + 1 for a, k, s, p in zip((h, w), kernel, stride, padding)]
        last = [
            (o - 1) * s + k - p - a for o, s, k, p, a in zip(out, stride, kernel, padding, (h, w))
        ]
        self.shape = [n, *out, c]
        self.maps = x, y = dnnl.map_layout(*shape), dnnl.map_layout(*self.shape)
        self.how = [dnnl.DIMS(*pair) for pair in (stride, kernel, (0, 0), padding, last)]
        self.description = dnnl.Description(
            "pooling_forward", dnnl.engine(), dnnl.TRAINING, dnnl.MAX, x, y, *self.how
        )
        self.noted = self.description.layout(dnnl.ASK_WORKSPACE)
        self.forward = dnnl.Primitive(
            self.description, {dnnl.SRC: x, dnnl.DST: y, dnnl.WORKSPACE: self.noted}
        )

    @cached_property
    def backward(self):
        x, y = self.maps
        description = dnnl.Description(
            "pooling_backward", dnnl.engine(), dnnl.MAX, x, y, *self.how, self.description
        )
        return dnnl.Primitive(
            description, {dnnl.DIFF_DST: y, dnnl.DIFF_SRC: x, dnnl.WORKSPACE: self.noted}
        )


def max_pool(x, kernel, stride, padding):
    """The largest number of each window of a map, (N, H, W, C) -> (N, H', W', C); all pairs."""
    return _MaxPooled.apply(x, (tuple(kernel), tuple(stride), tuple(padding)))


class _MaxPooled(Operation):
    @staticmethod
    def forward(ctx, x, how):
        x, ctx.shape = x.contiguous(), (tuple(x.shape), *how)
        made = dnnl.kept(_MaxPool, *ctx.shape)
        y, noted = dnnl.empty(made.shape), paddle.empty([dnnl.size_of(made.noted)], "uint8")
        made.forward(x.data_ptr(), y.data_ptr(), noted.data_ptr())
        ctx.save_for_backward(noted)
        return y

    @staticmethod
    def backward(ctx, grad):
        (noted,), grad, grad_x = ctx.saved_tensor(), grad.contiguous(), dnnl.empty(ctx.shape[0])
        made = dnnl.kept(_MaxPool, *ctx.shape)
        made.backward(grad.data_ptr(), grad_x.data_ptr(), noted.data_ptr())
        return grad_x


# ------------------------------------------------------------------------------- first of all


@cache
def _unlike_paddle():
    """Why this oneDNN is better left alone, or None: small cases of all that is used here, values
    and gradients, against Paddle's own operations. Draws no random numbers."""

    def tensor(*shape):
        values = np.sin(np.arange(math.prod(shape), dtype="float32") ** 1.5).reshape(shape)
        return paddle.to_tensor(values, place=paddle.CPUPlace())

    def both(function, *tensors):
        tensors = [t.detach() for t in tensors]
        for t in tensors:
            t.stop_gradient = False
        y = function(*tensors)
        (y * y).sum().backward()
        return [y, *(t.grad for t in tensors)]

    def norm(bn, x, scale, shift, shortcut):
        y, moments = batch_norm(bn, x, scale, shift)
        return gate(bn, y, scale, shift, shortcut, moments)

    def norm_by_paddle(bn, x, scale, shift, shortcut):
        def normalise(x):
            return F.batch_norm(x, bn._mean, bn._variance, scale, shift, True, 0.9, 1e-5, "NHWC")

        y = normalise(x)
        return F.relu(F.sigmoid(normalise(y)) * y + shortcut)

    def swapped(x):
        return x.transpose([0, 3, 1, 2])

    x, weight, bias = tensor(2, 6, 5, 16), tensor(16, 16, 3, 3), tensor(16)
    narrow = tensor(4, 4, 4, 12)
    bn, narrow_bn = paddle.nn.BatchNorm2D(16), paddle.nn.BatchNorm2D(12)
    cases = (
        (
            lambda x, w, b: conv2d(x, w, b, (2, 1), (1, 1, 0, 0)),
            lambda x, w, b: F.conv2d(swapped(x), w, b, (2, 1), (1, 0)).transpose([0, 2, 3, 1]),
            (x, weight, bias),
        ),
        (lambda *t: norm(bn, *t), lambda *t: norm_by_paddle(bn, *t), (x, bias + 1, bias, x + 0.1)),
        (
            lambda x, s, b: batch_norm(narrow_bn, x, s, b, True)[0],
            lambda x, s, b: F.relu(
                F.batch_norm(x, narrow_bn._mean, narrow_bn._variance, s, b, True, 0.9, 1e-5, "NHWC")
            ),
            (narrow, bias[:12] + 1, bias[:12]),
        ),
        (add_relu, lambda x, s: F.relu(x + s), (x, x.flip([0]))),
        (
            lambda x: max_pool(x, (3, 3), (2, 2), (1, 1)),
            lambda x: F.max_pool2d(swapped(x), 3, 2, 1).transpose([0, 2, 3, 1]),
            (x,),
        ),
    )
    try:
        with paddle.enable_grad():
            for ours, theirs, tensors in cases:
                for a, b in zip(both(ours, *tensors), both(theirs, *tensors)):
                    if not float((a - b).abs().max()) <= 1e-3 * float(b.abs().max()):
                        return "Paddle's oneDNN gives other numbers than Paddle itself"
    except Exception as error:  # whatever it is, Paddle's own kernels do the work
        return f"Paddle's oneDNN cannot be used here ({type(error).__name__}: {error})"
    return None
