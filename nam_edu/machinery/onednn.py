"""oneDNN, as Paddle's wheels for Linux and Windows carry it, called on the tensors' own memory.

Paddle itself does not use it in dynamic mode. Here are the operations of a residual network on maps
that lie channels last, contiguous (N, H, W, C) float32. Where the library is missing or computes
something else than Paddle, `available()` is False, and `why_not()` says why. The constants are
those of oneDNN 3's dnnl_types.h, part of its stable interface.

A *primitive* is a compiled loop for one shape: dear to make, cheap to run. Each thread keeps those
that it used last. All of them work in a scratchpad of the thread's: in oneDNN's own one, which
counts its users per thread, a primitive that another thread destroys leaves the rest without.
"""

from __future__ import annotations

import collections
import ctypes
import math
import os
import threading
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F

from .operation import Operation

MOST_KEPT = 512  # primitives and what belongs to them, of a thread

POINTER, DIMS = ctypes.c_void_p, ctypes.c_int64 * 12
CPU, IN_ORDER, F32, ANY_LAYOUT, OWN_SCRATCHPAD = 1, 1, 3, 1, 1
TRAINING, INFERENCE, BACKWARD, DIRECT = 64, 96, 128, 1
RELU, LOGISTIC, LINEAR, MAX, ADD, MULTIPLY, GREATER = 32, 41, 38, 511, 131056, 131057, 131063
GLOBAL_STATISTICS, SCALE_AND_SHIFT, WITH_RELU = 1, 2 | 4, 8
SRC, SRC_1, DST, WEIGHTS, BIAS, MEAN, VARIANCE, SCALE, SHIFT = 1, 2, 17, 33, 41, 49, 50, 51, 52
WORKSPACE, SCRATCHPAD, DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS = 64, 80, 129, 145, 161, 169
DIFF_SCALE, DIFF_SHIFT, LATER = 255, 256, 32768  # LATER * (i + 1) | SRC_1: of the i-th that follows
ASK_WEIGHTS, ASK_DIFF_WEIGHTS, ASK_WORKSPACE, ASK_SCRATCHPAD = 131, 132, 135, 136


class Refused(RuntimeError):
    """oneDNN has no such primitive."""


@cache
def _library():
    """The library, or a sentence that says why there is none."""
    folder = Path(paddle.__file__).parent / "libs"
    names = "libdnnl.so.3", "dnnl.dll", "mkldnn.dll"
    found = [path for name in names for path in folder.glob(name)]
    if not found:
        return "this Paddle carries no oneDNN"
    try:
        library = ctypes.CDLL(str(found[0]))
        library.dnnl_primitive_desc_query_md.restype = POINTER
        library.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        library.dnnl_memory_set_data_handle.argtypes = [POINTER, POINTER]
        engine = POINTER()
        if library.dnnl_engine_create(ctypes.byref(engine), CPU, ctypes.c_size_t(0)):
            return "Paddle's oneDNN refuses to work on this CPU"
        library.engine = engine  # one for all threads, for good
    except (OSError, AttributeError) as error:
        return f"Paddle's oneDNN is not the one that is known here ({error})"
    return library


@cache
def _openmp():
    """The OpenMP that oneDNN computes with. Primitives hold for one number of threads."""
    folder = Path(paddle.__file__).parent / "libs"
    found = [path for name in ("libiomp5.so", "libiomp5md.dll") for path in folder.glob(name)]
    return ctypes.CDLL(str(found[0]))


_first_try = threading.Lock()


def why_not():
    """Why oneDNN is not used, in a sentence, or None where it is."""
    if os.environ.get("NAM_EDU_CONVOLUTION") in ("paddle", "products"):
        return f"NAM_EDU_CONVOLUTION={os.environ['NAM_EDU_CONVOLUTION']}"
    with _first_try:
        library = _library()
        return library if isinstance(library, str) else _unlike_paddle()


def available():
    return why_not() is None


# ------------------------------------------------------------------------ oneDNN's own objects


class _Handle:
    """An object of oneDNN, made by dnnl_<create>(..., *arguments) and destroyed with this one."""

    # The first one that is in the name of a function is what it makes.
    KINDS = (
        "primitive_desc",
        "primitive_attr",
        "memory_desc",
        "post_ops",
        "primitive",
        "memory",
        "stream",
    )

    def __init__(self, create, *arguments):
        library, self._as_parameter_ = _library(), POINTER()
        status = getattr(library, f"dnnl_{create}")(ctypes.byref(self._as_parameter_), *arguments)
        if status:
            raise Refused(f"{create}: status {status}")
        kind = next(kind for kind in self.KINDS if kind in create)
        self.destroy = getattr(library, f"dnnl_{kind}_destroy")

    def __del__(self):
        if hasattr(self, "destroy"):
            self.destroy(self._as_parameter_)


class _Thread(threading.local):
    """What one thread works with. A forked process starts anew."""

    pid = None

    def start(self):
        self.pid, self.kept, self.buffers = os.getpid(), collections.OrderedDict(), {}
        self.stream = _Handle("stream_create", _library().engine, IN_ORDER)
        return self

    def buffer(self, name, size):
        """Address of `size` bytes, good until the next call with this name."""
        if name not in self.buffers or self.buffers[name].nbytes < size + 64:
            self.buffers[name] = np.empty(size + 64, np.uint8)
        return _aligned(self.buffers[name])


_of_thread = _Thread()


def _thread():
    return _of_thread if _of_thread.pid == os.getpid() else _of_thread.start()


def _kept(make, *shape):
    """make(*shape), the same object as last time in this thread."""
    kept, key = _thread().kept, (make, shape, _openmp().omp_get_max_threads())
    if key in kept:
        kept.move_to_end(key)
    else:
        kept[key] = make(*shape)
        if len(kept) > MOST_KEPT:
            kept.popitem(last=False)
    return kept[key]


def _plain(*shape):
    """Layout of a contiguous array."""
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    return _Handle("memory_desc_create_with_strides", len(shape), DIMS(*shape), F32, DIMS(*strides))


def _map(n, h, w, c):
    """Layout of a map (N, H, W, C); oneDNN names its axes in the order N, C, H, W."""
    strides = DIMS(h * w * c, 1, w * c, c)
    return _Handle("memory_desc_create_with_strides", 4, DIMS(n, c, h, w), F32, strides)


def _size(layout):
    return _library().dnnl_memory_desc_get_size(layout)


class _Description:
    """What a primitive is to do: dnnl_<kind>_primitive_desc_create(*arguments)."""

    def __init__(self, kind, *arguments, after=()):
        """after: what follows in the same pass: RELU, LOGISTIC, LINEAR (1 + x), or a pair of ADD or
        MULTIPLY and the layout of the other operand."""
        library, attributes = _library(), _Handle("primitive_attr_create")
        library.dnnl_primitive_attr_set_scratchpad_mode(attributes, OWN_SCRATCHPAD)
        if after:
            chain = _Handle("post_ops_create")
            for step in after:
                if isinstance(step, tuple):
                    library.dnnl_post_ops_append_binary(chain, *step)
                else:
                    one = ctypes.c_float(step == LINEAR)
                    library.dnnl_post_ops_append_eltwise(chain, step, one, one)
            library.dnnl_primitive_attr_set_post_ops(attributes, chain)
        self.handle = _Handle(f"{kind}_primitive_desc_create", *arguments, attributes)
        self._as_parameter_ = self.handle._as_parameter_

    def layout(self, which):
        """A layout that oneDNN has chosen; lives as long as this description."""
        return POINTER(_library().dnnl_primitive_desc_query_md(self, which, 0))


class _Primitive:
    """A compiled loop and its arguments {number: layout}: called with an address for each."""

    def __init__(self, description, arguments):
        library, self.thread, self.description = _library(), _thread(), description
        self.primitive = _Handle("primitive_create", description)
        scratchpad = description.layout(ASK_SCRATCHPAD)
        self.scratchpad = _size(scratchpad)
        if self.scratchpad:
            arguments = {**arguments, SCRATCHPAD: scratchpad}
        self.memories = [
            _Handle("memory_create", layout, library.engine, None) for layout in arguments.values()
        ]
        self.slots = [memory._as_parameter_ for memory in self.memories]
        self.arguments = (_Argument * len(arguments))(*zip(arguments, self.slots))
        self.place, self.execute = (
            library.dnnl_memory_set_data_handle,
            library.dnnl_primitive_execute,
        )

    def __call__(self, *addresses):
        if self.scratchpad:
            addresses += (self.thread.buffer("scratchpad", self.scratchpad),)
        for slot, address in zip(self.slots, addresses):
            self.place(slot, address)
        count, stream = len(self.arguments), self.thread.stream
        status = self.execute(self.primitive, stream, count, self.arguments)
        if status:
            raise RuntimeError(f"oneDNN could not compute: status {status}")


class _Argument(ctypes.Structure):
    _fields_ = [("number", ctypes.c_int), ("memory", POINTER)]


def _empty(shape):
    return paddle.empty(shape, "float32")


def _address(array):
    return array.__array_interface__["data"][0]


def _aligned(buffer):
    """The first address in a buffer at which a line of the cache begins."""
    return _address(buffer) + -_address(buffer) % 64


def _vector(tensor):
    """The memory of a contiguous tensor (C,) as an array."""
    return np.ctypeslib.as_array((ctypes.c_float * tensor.shape[0]).from_address(tensor.data_ptr()))


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
        top, bottom, left, right = padding
        out_h = (h + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
        out_w = (w + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
        self.shape = [n, out_h, out_w, c_out]
        shape = weight if groups == 1 else (groups, c_out // groups, c // groups, kh, kw)
        self.x, self.y, self.weight = _map(*x), _map(*self.shape), _plain(*shape)
        self.any = _Handle("memory_desc_create_with_tag", len(shape), DIMS(*shape), F32, ANY_LAYOUT)
        self.bias = _plain(c_out) if bias else None
        dilation = DIMS(dilation[0] - 1, dilation[1] - 1)
        self.how = DIMS(*stride), dilation, DIMS(top, left), DIMS(bottom, right)
        self.description = _Description(
            "convolution_forward",
            _library().engine,
            TRAINING if training else INFERENCE,
            DIRECT,
            self.x,
            self.any,
            self.bias,
            self.y,
            *self.how,
            after=[RELU] if relu else [],
        )
        packed = self.description.layout(ASK_WEIGHTS)
        self.packed_size, self.pack = _size(packed), _reorder(self.weight, packed)
        arguments = {SRC: self.x, WEIGHTS: packed, DST: self.y}
        self.forward = _Primitive(
            self.description, {**arguments, BIAS: self.bias} if bias else arguments
        )

    def __call__(self, x, packed, bias):
        y = _empty(self.shape)
        biases = [] if bias is None else [bias.data_ptr()]
        self.forward(x.data_ptr(), packed, y.data_ptr(), *biases)
        return y

    @cached_property
    def to_x(self):
        description = _Description(
            "convolution_backward_data",
            _library().engine,
            DIRECT,
            self.x,
            self.any,
            self.y,
            *self.how,
            self.description,
        )
        packed = description.layout(ASK_WEIGHTS)
        arguments = {DIFF_DST: self.y, WEIGHTS: packed, DIFF_SRC: self.x}
        return (_reorder(self.weight, packed), _size(packed), _Primitive(description, arguments))

    def grad_x(self, x, weight, grad):
        pack, size, backward = self.to_x
        grad_x, packed = _empty(x.shape), _thread().buffer("weights", size)
        pack(weight.data_ptr(), packed)
        backward(grad.data_ptr(), packed, grad_x.data_ptr())
        return grad_x

    @cached_property
    def to_weight(self):
        description = _Description(
            "convolution_backward_weights",
            _library().engine,
            DIRECT,
            self.x,
            self.any,
            self.bias,
            self.y,
            *self.how,
            self.description,
        )
        packed = description.layout(ASK_DIFF_WEIGHTS)
        arguments = {SRC: self.x, DIFF_DST: self.y, DIFF_WEIGHTS: packed}
        if self.bias is not None:
            arguments[DIFF_BIAS] = self.bias
        return (_reorder(packed, self.weight), _size(packed), _Primitive(description, arguments))

    def grad_weight(self, x, weight, grad):
        """[the gradient of the weight, and of the bias if there is one]"""
        unpack, size, backward = self.to_weight
        grads, packed = [_empty(weight.shape)], _thread().buffer("weights", size)
        if self.bias is not None:
            grads.append(_empty([weight.shape[0]]))
        backward(x.data_ptr(), grad.data_ptr(), packed, *(g.data_ptr() for g in grads[1:]))
        unpack(packed, grads[0].data_ptr())
        return grads


def _reorder(source, target):
    engine = _library().engine
    description = _Description("reorder", source, engine, target, engine)
    return _Primitive(description, {SRC: source, DST: target})


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
        made = _kept(_Convolution, *ctx.shape)
        packed = _thread().buffer("weights", made.packed_size)
        made.pack(weight.data_ptr(), packed)
        return made(x, packed, bias)

    @staticmethod
    def backward(ctx, grad):
        (x, weight), grad = ctx.saved_tensor(), grad.contiguous()
        made, wanted = _kept(_Convolution, *ctx.shape), ctx.wanted
        grads = [made.grad_x(x, weight, grad) if wanted[0] else None]
        grads += made.grad_weight(x, weight, grad) if any(wanted[1:]) else [None] * len(wanted[1:])
        return _only(wanted, grads)


class Inference:
    """A convolution of one shape without gradients, and relu of it if wanted, in one pass."""

    def __init__(self, x, weight, how, relu):
        shape = tuple(x.shape), tuple(weight.shape), *how, True, False, relu
        self.made = _kept(_Convolution, *shape)

    def packed(self, weight):
        """The weights as oneDNN wants them; whoever has them calls with them."""
        packed = np.empty(self.made.packed_size + 64, np.uint8)
        self.made.pack(weight.contiguous().data_ptr(), _aligned(packed))
        return packed

    def __call__(self, x, packed, bias):
        return self.made(x.contiguous(), _aligned(packed), bias)


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
        addresses.append(_Held(_address(array)))
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
            MAP: _map(1, rows, 1, columns),
            VECTOR: _plain(1, columns, 1, 1),
            NUMBER: _plain(1, 1, 1, 1),
        }
        steps = [(s[0], layouts[s[1]]) if isinstance(s, tuple) else s for s in steps]
        (first, operand), later, whole = steps[0], steps[1:], layouts[MAP]
        pairs = {LATER * (i + 1) | SRC_1: s[1] for i, s in enumerate(later) if isinstance(s, tuple)}
        self.run = _Primitive(
            _Description("binary", _library().engine, first, whole, operand, whole, after=later),
            {SRC: whole, DST: whole, SRC_1: operand, **pairs},
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
        x, shortcut, y = x.contiguous(), shortcut.contiguous(), _empty(x.shape)
        chain = _kept(_Chain, 1, x.size, (ADD, MAP), RELU)
        chain(x.data_ptr(), y.data_ptr(), shortcut.data_ptr())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,), grad, grad_sum = ctx.saved_tensor(), grad.contiguous(), _empty(grad.shape)
        chain = _kept(_Chain, 1, y.size, (GREATER, NUMBER), (MULTIPLY, MAP))
        chain(y.data_ptr(), grad_sum.data_ptr(), _address(ZERO), grad.data_ptr())
        # Two tensors: Paddle may add to one of them in place.
        return _only(ctx.wanted, (grad_sum, grad_sum.clone() if all(ctx.wanted) else grad_sum))


# ---------------------------------------------------------------------------------- batch norm


class _BatchNorm:
    """The primitives of a map whose columns are a multiple of 16, else they would be slow."""

    def __init__(self, n, pixels, columns, epsilon, flags):
        self.x, self.column, self.flags = _map(n, pixels, 1, columns), _plain(columns), flags
        self.epsilon = ctypes.c_float(epsilon)
        self.description = _Description(
            "batch_normalization_forward",
            _library().engine,
            TRAINING,
            self.x,
            self.x,
            self.epsilon,
            flags,
        )
        self.mask = self.description.layout(ASK_WORKSPACE) if flags & WITH_RELU else None
        scale = [SCALE, SHIFT] if flags & SCALE_AND_SHIFT else []
        self.forward = _Primitive(self.description, self._arguments([SRC, DST], scale))

    def _arguments(self, maps, columns):
        arguments = dict.fromkeys(maps, self.x)
        arguments.update(dict.fromkeys([MEAN, VARIANCE, *columns], self.column))
        return {**arguments, WORKSPACE: self.mask} if self.mask is not None else arguments

    @cached_property
    def backward(self):
        description = _Description(
            "batch_normalization_backward",
            _library().engine,
            BACKWARD,
            self.x,
            self.x,
            self.x,
            self.epsilon,
            self.flags,
            self.description,
        )
        columns = [SCALE, DIFF_SCALE, DIFF_SHIFT]
        return _Primitive(description, self._arguments([SRC, DIFF_DST, DIFF_SRC], columns))


def fast_channels(x):
    """Whether the batch norm of such a map is fast here."""
    return _fold(x)[2] % 16 == 0


def _moments(x):
    """(mean, biased variance) of each channel of a map."""
    n, pixels, columns, fold = _fold(x)
    means, variances = np.empty((2, fold, columns // fold), np.float32)
    spare = _empty(x.shape)
    _kept(_BatchNorm, n, pixels, columns, 0.0, 0).forward(
        x.data_ptr(), spare.data_ptr(), _address(means), _address(variances)
    )
    mean = means.mean(0)
    return mean, variances.mean(0) + np.square(means - mean).mean(0)


def _moved(bn, mean, variance):
    """Running statistics as Paddle moves them: momentum weighs the old value."""
    for running, batch in (bn._mean, mean), (bn._variance, variance):
        old = _vector(running)
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
    variance = moments["variance"] * np.square(over_std * _vector(scale))
    return y, (_vector(shift).copy(), variance)


class _Normalised(Operation):
    @staticmethod
    def forward(ctx, x, scale, shift, bn, relu, moments):
        ctx.wanted, x = _wanted(x, scale, shift), x.contiguous()
        y, (n, pixels, columns, fold) = _empty(x.shape), _fold(x)
        flags = SCALE_AND_SHIFT | (WITH_RELU if relu else 0)
        if fold > 1:  # the columns of a channel have one mean and one variance
            flags |= GLOBAL_STATISTICS
            mean, variance = _moments(x)
        else:
            mean, variance = np.empty((2, columns), np.float32)
        made = _kept(_BatchNorm, n, pixels, columns, bn._epsilon, flags)
        mask = [paddle.empty([_size(made.mask)], "uint8")] if relu else []
        vectors = _addresses(fold, mean, variance, _vector(scale), _vector(shift))
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
        made = _kept(_BatchNorm, n, pixels, columns, epsilon, flags)
        sums, grad_x = np.empty((2, columns), np.float32), _empty(x.shape)
        made.backward(
            x.data_ptr(),
            grad.data_ptr(),
            grad_x.data_ptr(),
            *_addresses(fold, mean, variance, _vector(scale)),
            _address(sums[0]),
            _address(sums[1]),
            *(m.data_ptr() for m in mask),
        )
        grad_scale, grad_shift = sums = sums.reshape(2, fold, -1).sum(1)
        if fold > 1 and ctx.wanted[0]:  # what is missing: mean and variance depend on x
            over_std = _over_std(variance, epsilon)
            mean_scale, mean_shift = sums * np.float32(len(mean) / x.size)
            slope = -over_std * over_std * _vector(scale) * mean_scale
            offset = -over_std * _vector(scale) * mean_shift - slope * mean
            n, pixels, columns, fold = _fold(x, WIDE)
            chain = _kept(
                _Chain, n * pixels, columns, (MULTIPLY, VECTOR), (ADD, VECTOR), (ADD, MAP)
            )
            vectors = _addresses(fold, slope, offset)
            chain(x.data_ptr(), grad_x.data_ptr(), *vectors, grad_x.data_ptr())
        return _only(ctx.wanted, (grad_x, *map(paddle.to_tensor, (grad_scale, grad_shift))))


# ---------------------------------------------------------------------------------- NAM's gate

GATE = (MULTIPLY, VECTOR), (ADD, VECTOR), LOGISTIC


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
        mean, variance = _vector(bn._mean).copy(), _vector(bn._variance).copy()
    known = mean, variance, bn._epsilon
    return _Gate.apply(y, scale, shift, shortcut, known)


class _Gate(Operation):
    @staticmethod
    def forward(ctx, y, scale, shift, shortcut, known):
        ctx.wanted, ctx.known = _wanted(y, scale, shift, shortcut), known
        y, shortcut, out = y.contiguous(), shortcut.contiguous(), _empty(y.shape)
        mean, variance, epsilon = known
        slope = _vector(scale) * _over_std(variance, epsilon)
        n, pixels, columns, fold = _fold(y, WIDE)
        chain = _kept(_Chain, n * pixels, columns, *GATE, (MULTIPLY, MAP), (ADD, MAP), RELU)
        vectors = _addresses(fold, slope, _vector(shift) - slope * mean)
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
        slope = _vector(scale) * over_std
        n, pixels, columns, fold = _fold(y, WIDE)
        logits = _addresses(fold, slope, _vector(shift) - slope * mean)
        norm = _addresses(fold, mean, variance, slope)
        grad_y, below = _empty(y.shape), _empty(y.shape)
        sums, part = np.zeros((2, 2, columns), np.float32)
        flags = SCALE_AND_SHIFT | GLOBAL_STATISTICS
        # First the gradient of the logits, in the memory of grad_y, and its sums.
        for rows, at in _chunks(n * pixels, columns):
            s, spare = _spare(rows * columns)
            _kept(_Chain, rows, columns, (GREATER, NUMBER), (MULTIPLY, MAP))(
                at(out), at(below), _address(ZERO), at(grad)
            )
            _kept(_Chain, rows, columns, *GATE)(at(y), s, *logits)
            times = [(MULTIPLY, MAP)] * 3
            _kept(_Chain, rows, columns, (MULTIPLY, NUMBER), LINEAR, *times)(
                s, at(grad_y), _address(MINUS_ONE), s, at(below), at(y)
            )
            _kept(_BatchNorm, 1, rows, columns, epsilon, flags).backward(
                at(y), at(grad_y), spare, *norm, _address(part[0]), _address(part[1])
            )
            sums += part
        grad_scale, grad_shift = sums = sums.reshape(2, fold, -1).sum(1)
        # Then what leads from the logits to y, and g * s.
        mean_scale, mean_shift = sums * np.float32(len(mean) / y.size)
        inner_slope = -over_std * mean_scale
        inner = _addresses(fold, inner_slope, -mean_shift - inner_slope * mean)
        for rows, at in _chunks(n * pixels, columns) if ctx.wanted[0] else ():
            s, _ = _spare(rows * columns)
            _kept(_Chain, rows, columns, *GATE, (MULTIPLY, MAP))(at(y), s, *logits, at(below))
            steps = (MULTIPLY, VECTOR), (ADD, VECTOR), (ADD, MAP), (MULTIPLY, VECTOR), (ADD, MAP)
            _kept(_Chain, rows, columns, *steps)(at(y), at(grad_y), *inner, at(grad_y), norm[2], s)
        grads = grad_y, paddle.to_tensor(grad_scale), paddle.to_tensor(grad_shift), below
        return _only(ctx.wanted, grads)


def _chunks(rows, columns):
    """(how many rows, a function that takes a map to the address of the first of them)"""
    step = max(1, CHUNK // columns)
    for first in range(0, rows, step):
        yield min(step, rows - first), lambda x, at=4 * first * columns: x.data_ptr() + at


def _spare(numbers):
    """Two places for a chunk that is needed for a moment."""
    return _thread().buffer("chunk", 4 * numbers), _thread().buffer("spare", 4 * numbers)


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
        self.maps = x, y = _map(*shape), _map(*self.shape)
        self.how = [DIMS(*pair) for pair in (stride, kernel, (0, 0), padding, last)]
        self.description = _Description(
            "pooling_forward", _library().engine, TRAINING, MAX, x, y, *self.how
        )
        self.noted = self.description.layout(ASK_WORKSPACE)
        self.forward = _Primitive(self.description, {SRC: x, DST: y, WORKSPACE: self.noted})

    @cached_property
    def backward(self):
        x, y = self.maps
        description = _Description(
            "pooling_backward", _library().engine, MAX, x, y, *self.how, self.description
        )
        return _Primitive(description, {DIFF_DST: y, DIFF_SRC: x, WORKSPACE: self.noted})


def max_pool(x, kernel, stride, padding):
    """The largest number of each window of a map, (N, H, W, C) -> (N, H', W', C); all pairs."""
    return _MaxPooled.apply(x, (tuple(kernel), tuple(stride), tuple(padding)))


class _MaxPooled(Operation):
    @staticmethod
    def forward(ctx, x, how):
        x, ctx.shape = x.contiguous(), (tuple(x.shape), *how)
        made = _kept(_MaxPool, *ctx.shape)
        y, noted = _empty(made.shape), paddle.empty([_size(made.noted)], "uint8")
        made.forward(x.data_ptr(), y.data_ptr(), noted.data_ptr())
        ctx.save_for_backward(noted)
        return y

    @staticmethod
    def backward(ctx, grad):
        (noted,), grad, grad_x = ctx.saved_tensor(), grad.contiguous(), _empty(ctx.shape[0])
        made = _kept(_MaxPool, *ctx.shape)
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
