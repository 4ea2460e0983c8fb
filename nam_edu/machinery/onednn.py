"""Convolutions, batch norms and NAM's gate by oneDNN, the library that lies in Paddle's wheel.

Paddle uses oneDNN in inference programs only. Here its C interface is called directly, through
ctypes, forward and backward, on maps that lie channels last: (N, H, W, C), float32, on a CPU. Where
the library is missing (macOS), too old or switched off, `why_not` says so and nothing here works.

A *primitive* of oneDNN is a compiled loop for one shape. It is dear to make and cheap to run, so
each thread keeps those that it has used last. The numbers in capitals are those of oneDNN's
dnnl_types.h, version 3.
"""
from __future__ import annotations

import collections
import ctypes
import functools
import glob
import math
import os
import threading

import numpy as np
import paddle
from paddle.autograd import PyLayer

from .first_order import first_order

CPU, IN_ORDER, F32, ANY_LAYOUT, OWN_SCRATCHPAD = 1, 1, 3, 1, 1
TRAINING, INFERENCE, BACKWARD = 64, 96, 128
DIRECT = 1  # algorithm of a convolution
RELU, LOGISTIC, LINEAR, MAX = 32, 41, 38, 511
ADD, MUL, GREATER = 131056, 131057, 131063
GLOBAL_STATISTICS, SCALE_FLAG, SHIFT_FLAG, RELU_FLAG = 1, 2, 4, 8
SRC, SRC_1, DST, WEIGHTS, BIAS = 1, 2, 17, 33, 41
MEAN, VARIANCE, SCALE, SHIFT, WORKSPACE, SCRATCHPAD = 49, 50, 51, 52, 64, 80
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS, DIFF_SCALE, DIFF_SHIFT = 129, 145, 161, 169, 255, 256
POST_OP = 32768  # times (number of the post-op + 1), plus SRC_1
IMPLEMENTATION, WEIGHTS_LAYOUT, DIFF_WEIGHTS_LAYOUT, WORKSPACE_LAYOUT, SCRATCHPAD_LAYOUT = (
    8, 131, 132, 135, 136)
MOST_KEPT = 512  # primitives, per thread

_Dims, _Pointer = ctypes.c_int64 * 12, ctypes.c_void_p


class _Argument(ctypes.Structure):
    _fields_ = [("argument", ctypes.c_int), ("memory", _Pointer)]


# --------------------------------------------------------------------------------- the library

class _Version(ctypes.Structure):
    _fields_ = [("major", ctypes.c_int), ("minor", ctypes.c_int)]


@functools.cache
def _loaded():
    """(the library, None) or (None, why not)"""
    folder = os.path.join(os.path.dirname(paddle.__file__), "libs")
    found = [path for pattern in ("libdnnl.so*", "*dnnl*.dll")
             for path in sorted(glob.glob(os.path.join(folder, pattern)))]
    if not found:
        return None, "this build of Paddle brings no oneDNN"
    try:
        library = ctypes.CDLL(found[0])
        library.dnnl_version.restype = ctypes.POINTER(_Version)
        version = library.dnnl_version().contents
        if version.major != 3:
            return None, f"Paddle's oneDNN is of version {version.major}, not 3"
        library.dnnl_primitive_desc_query_md.restype = _Pointer
        library.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        library.dnnl_memory_set_data_handle.argtypes = [_Pointer, _Pointer]
        library.dnnl_primitive_execute.argtypes = [_Pointer, _Pointer, ctypes.c_int, _Pointer]
        engine = _Pointer()
        if library.dnnl_engine_create(ctypes.byref(engine), CPU, ctypes.c_size_t(0)):
            return None, "Paddle's oneDNN finds no CPU that it knows"
    except (OSError, AttributeError) as error:
        return None, f"Paddle's oneDNN cannot be loaded: {error}"
    return library, None


def why_not():
    """Why oneDNN is not used, in one sentence, or None where it is."""
    choice = os.environ.get("NAM_EDU_CONVOLUTION")
    if choice in ("paddle", "products"):
        return f"NAM_EDU_CONVOLUTION={choice} switches it off"
    return _loaded()[1]


def available():
    return why_not() is None


class _Handle:
    """An object of oneDNN's, made by `create` and destroyed with this one."""

    def __init__(self, create, *arguments):
        library = _loaded()[0]
        self.value = made = _Pointer()
        self._as_parameter_ = made
        status = getattr(library, f"dnnl_{create}")(ctypes.byref(made), *arguments)
        if status:
            raise RuntimeError(f"oneDNN refuses {create}: status {status}")
        kind = next(kind for kind in ("primitive_desc", "primitive_attr", "memory_desc", "post_ops",
                                      "primitive", "memory", "engine", "stream") if kind in create)
        self.destroy = getattr(library, f"dnnl_{kind}_destroy")

    def __del__(self):
        if hasattr(self, "destroy"):
            self.destroy(self.value)


class _Thread(threading.local):
    """What one thread works with."""

    def __init__(self):
        self.engine = _Handle("engine_create", CPU, ctypes.c_size_t(0))
        self.stream = _Handle("stream_create", self.engine, IN_ORDER)
        self.kept = collections.OrderedDict()  # primitives by their shapes
        self.buffers = {}

    def buffer(self, name, size):
        """Address of `size` bytes that hold until the next call with this name."""
        if name not in self.buffers or self.buffers[name].nbytes < size + 64:
            self.buffers[name] = np.empty(size + 64, np.uint8)
        return _aligned(self.buffers[name])


_thread = None


def _forget():
    """In a new process, too: the threads of oneDNN's engine stay behind in the old one."""
    global _thread
    _thread = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _mine():
    global _thread
    if _thread is None:
        _thread = _Thread()
    return _thread


def _kept(make, *shape):
    """make(*shape), or the same as the last time that this thread asked."""
    kept, key = _mine().kept, (make, shape)
    if key in kept:
        kept.move_to_end(key)
    else:
        kept[key] = make(*shape)
        if len(kept) > MOST_KEPT:
            kept.popitem(last=False)
    return kept[key]


def _plain(*shape):
    """Layout of a contiguous array."""
    strides = [int(np.prod(shape[i + 1:])) for i in range(len(shape))]
    return _Handle("memory_desc_create_with_strides", len(shape), _Dims(*shape), F32,
                   _Dims(*strides))


def _map(n, h, w, c):
    """Layout of a map; oneDNN counts its axes as N, C, H, W wherever they lie."""
    return _Handle("memory_desc_create_with_strides", 4, _Dims(n, c, h, w), F32,
                   _Dims(h * w * c, 1, w * c, c))


def _size(layout):
    return _loaded()[0].dnnl_memory_desc_get_size(layout)


class _Description:
    """What a primitive is to do: dnnl_<kind>_primitive_desc_create(engine, *arguments)."""

    def __init__(self, kind, *arguments, after=()):
        """after: (operation, layout) or (operation, alpha, beta), applied to each result."""
        self.attributes = _Handle("primitive_attr_create")
        library = self.library = _loaded()[0]
        library.dnnl_primitive_attr_set_scratchpad_mode(self.attributes, OWN_SCRATCHPAD)
        if after:
            self.after = _Handle("post_ops_create")
            for operation, *rest in after:
                if len(rest) == 1:
                    status = library.dnnl_post_ops_append_binary(self.after, operation, rest[0])
                else:
                    status = library.dnnl_post_ops_append_eltwise(
                        self.after, operation, *map(ctypes.c_float, rest))
                if status:
                    raise RuntimeError(f"oneDNN refuses a post-op: status {status}")
            library.dnnl_primitive_attr_set_post_ops(self.attributes, self.after)
        self.handle = _Handle(f"{kind}_primitive_desc_create", *arguments, self.attributes)
        self._as_parameter_ = self.handle.value
        self.kept = arguments

    def layout(self, which):
        """A layout that oneDNN has chosen."""
        return _Pointer(self.library.dnnl_primitive_desc_query_md(self.handle, which, 0))

    def implementation(self):
        name = ctypes.c_char_p()
        self.library.dnnl_primitive_desc_query(self.handle, IMPLEMENTATION, 0, ctypes.byref(name))
        return name.value.decode()


class _Primitive:
    """A compiled loop: called with an address for each of its `arguments` {number: layout}."""

    def __init__(self, description, arguments):
        thread, library = _mine(), _loaded()[0]
        self.description, self.layouts = description, arguments
        self.primitive = _Handle("primitive_create", description)
        scratchpad = description.layout(SCRATCHPAD_LAYOUT)
        self.scratchpad = _size(scratchpad)
        arguments = {**arguments, SCRATCHPAD: scratchpad} if self.scratchpad else arguments
        self.memories = [_Handle("memory_create", layout, thread.engine, None)
                         for layout in arguments.values()]
        self.arguments = (_Argument * len(arguments))(
            *((number, memory.value) for number, memory in zip(arguments, self.memories)))
        self.set = library.dnnl_memory_set_data_handle
        self.slots = [memory.value.value for memory in self.memories]
        self.run = functools.partial(
            library.dnnl_primitive_execute, self.primitive.value, thread.stream.value,
            len(arguments), ctypes.addressof(self.arguments))
        self.thread = thread

    def __call__(self, *addresses):
        if self.scratchpad:
            addresses += (self.thread.buffer("scratchpad", self.scratchpad),)
        for slot, address in zip(self.slots, addresses):
            self.set(slot, address)
        if self.run():
            raise RuntimeError("oneDNN could not run a primitive")


def _contiguous(x):
    return x if x.is_contiguous() else x.contiguous()


def _wanted(*tensors):
    """Whether a gradient is wanted for each of them."""
    return tuple(x is not None and not x.stop_gradient for x in tensors)


# ------------------------------------------------------------------------------- convolutions

class _Convolution:
    """The primitives of one shape: forward, and for both gradients when they are first asked for.

    oneDNN chooses how the weights lie in memory; they are brought there in each call.
    """

    def __init__(self, x_shape, weight_shape, stride, padding, dilation, groups, biased, relu,
                 inference):
        n, h, w, c = x_shape
        c_out, c_in, kh, kw = weight_shape
        top, bottom, left, right = padding
        self.y_shape = [n, (h + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1,
                        (w + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1, c_out]
        shape = (c_out, c_in, kh, kw)
        if groups > 1:
            shape = (groups, c_out // groups, c_in, kh, kw)
        self.x, self.y, self.weight = _map(*x_shape), _map(*self.y_shape), _plain(*shape)
        self.bias = _plain(c_out) if biased else None
        self.chosen = _Handle("memory_desc_create_with_tag", len(shape), _Dims(*shape), F32,
                              ANY_LAYOUT)
        self.how = (_Dims(*stride), _Dims(dilation[0] - 1, dilation[1] - 1), _Dims(top, left),
                    _Dims(bottom, right))
        self.description = _Description(
            "convolution_forward", _mine().engine, INFERENCE if inference else TRAINING, DIRECT,
            self.x, self.chosen, self.bias, self.y, *self.how,
            after=[(RELU, 0, 0)] if relu else ())
        self.packed = self.description.layout(WEIGHTS_LAYOUT)
        self.pack = self._reorder(self.weight, self.packed)
        arguments = {SRC: self.x, WEIGHTS: self.packed, DST: self.y}
        self.forward = _Primitive(
            self.description, {**arguments, BIAS: self.bias} if biased else arguments)

    @staticmethod
    def _reorder(source, target):
        engine = _mine().engine
        return _Primitive(_Description("reorder", source, engine, target, engine),
                          {SRC: source, DST: target})

    def run(self, x, weight, bias):
        y = paddle.empty(self.y_shape)
        packed = _mine().buffer("weights", _size(self.packed))
        self.pack(weight.data_ptr(), packed)
        biases = () if bias is None else (bias.data_ptr(),)
        self.forward(x.data_ptr(), packed, y.data_ptr(), *biases)
        return y

    @functools.cached_property
    def _to_x(self):
        description = _Description("convolution_backward_data", _mine().engine, DIRECT, self.x,
                                   self.chosen, self.y, *self.how, self.description)
        packed = description.layout(WEIGHTS_LAYOUT)
        return (self._reorder(self.weight, packed), _size(packed), _Primitive(
            description, {DIFF_DST: self.y, WEIGHTS: packed, DIFF_SRC: self.x}))

    def grad_x(self, x_shape, weight, grad):
        pack, size, primitive = self._to_x
        grad_x, packed = paddle.empty(x_shape), _mine().buffer("weights", size)
        pack(weight.data_ptr(), packed)
        primitive(grad.data_ptr(), packed, grad_x.data_ptr())
        return grad_x

    @functools.cached_property
    def _to_weight(self):
        description = _Description(
            "convolution_backward_weights", _mine().engine, DIRECT, self.x, self.chosen, self.bias,
            self.y, *self.how, self.description)
        packed = description.layout(DIFF_WEIGHTS_LAYOUT)
        arguments = {SRC: self.x, DIFF_DST: self.y, DIFF_WEIGHTS: packed}
        if self.bias is not None:
            arguments[DIFF_BIAS] = self.bias
        return (self._reorder(packed, self.weight), _size(packed),
                _Primitive(description, arguments))

    def grad_weight(self, x, weight, grad):
        """[the gradient of the weight, and of the bias if there is one]"""
        unpack, size, primitive = self._to_weight
        packed = _mine().buffer("weights", size)
        grads = [paddle.empty(weight.shape)]
        if self.bias is not None:
            grads.append(paddle.empty([weight.shape[0]]))
        primitive(x.data_ptr(), grad.data_ptr(), packed, *(g.data_ptr() for g in grads[1:]))
        unpack(packed, grads[0].data_ptr())
        return grads


def conv2d(x, weight, bias, stride, padding, dilation=(1, 1), groups=1):
    """The convolution of maps, (N, H, W, C) -> (N, H', W', C').

    weight (C', C / groups, kh, kw); bias (C',) or None; stride and dilation are pairs, padding is
    (top, bottom, left, right).
    """
    how = tuple(stride), tuple(padding), tuple(dilation), groups
    if paddle.is_grad_enabled() and any(_wanted(x, weight, bias)):
        return _Conv2D.apply(x, weight, bias, how)
    x, weight = _contiguous(x), _contiguous(weight)
    return _kept(_Convolution, tuple(x.shape), tuple(weight.shape), *how, bias is not None, False,
                 True).run(x, weight, bias)


def conv2d_folded(x, weight, bias, norm, stride, padding, dilation=(1, 1), groups=1, relu=False,
                  kept=None):
    """The same followed by a batch norm with running statistics, and relu if wanted, in one pass;
    without gradients.

    norm: (running_mean, running_var, scale, shift, epsilon). kept: a dictionary, for this layer
    alone, in which what was made of the weights stays for the next call; the caller promises that
    nothing of the layer changes meanwhile.
    """
    x, weight = _contiguous(x), _contiguous(weight)
    shape = (tuple(x.shape), tuple(weight.shape), tuple(stride), tuple(padding), tuple(dilation),
             groups, True, relu, True)
    convolution = _kept(_Convolution, *shape)
    made = (kept or {}).get(shape) or _folded(convolution, weight, bias, *norm)
    if kept is not None:
        kept[shape] = made
    packed, shift = made
    y = paddle.empty(convolution.y_shape)
    convolution.forward(x.data_ptr(), _aligned(packed), y.data_ptr(), _address(shift))
    return y


def _folded(convolution, weight, bias, running_mean, running_var, scale, shift, epsilon):
    """(weights with the scale of the batch norm in oneDNN's layout, its shift)"""
    factor = _vector(scale) / np.sqrt(_vector(running_var) + np.float32(epsilon))
    shift = _vector(shift) + factor * ((0 if bias is None else _vector(bias))
                                       - _vector(running_mean))
    scaled = _array(weight) * factor[:, None, None, None]
    packed = np.empty(_size(convolution.packed) + 64, np.uint8)
    convolution.pack(_address(scaled), _aligned(packed))
    return packed, shift


class _Conv2D(PyLayer):
    @staticmethod
    def forward(ctx, x, weight, bias, how):
        x, weight = _contiguous(x), _contiguous(weight)
        ctx.shape = (tuple(x.shape), tuple(weight.shape), *how, bias is not None, False, False)
        ctx.wanted = _wanted(x, weight, bias)[:2 if bias is None else 3]
        ctx.save_for_backward(x, weight)
        return _kept(_Convolution, *ctx.shape).run(x, weight, bias)

    @staticmethod
    @first_order
    def backward(ctx, grad):
        (x, weight), grad = ctx.saved_tensor(), _contiguous(grad)
        convolution, wanted = _kept(_Convolution, *ctx.shape), ctx.wanted
        grads = [None] * len(wanted)
        if wanted[0]:
            grads[0] = convolution.grad_x(x.shape, weight, grad)
        if any(wanted[1:]):
            grads[1:] = convolution.grad_weight(x, weight, grad)
        return tuple(g if w else None for g, w in zip(grads, wanted))


# -------------------------------------------------------------------- one number per channel

def _array(tensor):
    """The memory of a contiguous tensor as an array."""
    numbers = (ctypes.c_float * tensor.size).from_address(tensor.data_ptr())
    return np.frombuffer(numbers, np.float32).reshape(tensor.shape)


def _vector(tensor):
    """The same for one number per channel."""
    return np.frombuffer((ctypes.c_float * tensor.shape[0]).from_address(tensor.data_ptr()),
                         np.float32)


def _address(array):
    return array.__array_interface__["data"][0]


def _aligned(buffer):
    """The first address in a buffer at which a line of the cache begins."""
    address = _address(buffer)
    return address + -address % 64


class _Held(int):
    """The address of an array that is held as long as the address is."""


def _addresses(fold, *vectors):
    """Where vectors lie, each repeated for `fold` pixels side by side."""
    addresses = []
    for vector in vectors:
        array = np.tile(vector, fold) if fold > 1 else np.ascontiguousarray(vector, np.float32)
        addresses.append(_Held(_address(array)))
        addresses[-1].array = array
    return addresses


def _fold(x, columns=16):
    """(N, pixels, columns, how many pixels lie side by side in the columns) for a map (N, H, W, C).

    oneDNN's loops take 16 columns at a time, and those of `_Chain` begin anew in each row. So
    several pixels are taken together for one of a multiple of 16, and at least `columns`, columns.
    """
    n, h, w, c = x.shape
    fold = 16 // math.gcd(c, 16)
    while fold * c < columns:
        fold *= 2
    while n * h * w % fold:
        fold //= 2  # a power of two from the start
    if fold * c % 16:
        fold = 1
    if h * w % fold:
        return n * h * w // fold, 1, c * fold, fold
    return n, h * w // fold, c * fold, fold


def _over_std(variance, how):
    return 1 / np.sqrt(variance + np.float32(how.epsilon))


# ---------------------------------------------------------------------------------- batch norm

class _BatchNorm:
    """The primitives of a batch norm over (N, pixels, columns); `flags` are oneDNN's."""

    def __init__(self, n, pixels, columns, epsilon, flags):
        self.map, self.vector = _map(n, pixels, 1, columns), _plain(columns)
        self.epsilon, self.flags = ctypes.c_float(epsilon), flags
        self.description = _Description(
            "batch_normalization_forward", _mine().engine, TRAINING, self.map, self.map,
            self.epsilon, flags)
        self.mask = self.description.layout(WORKSPACE_LAYOUT)  # where relu lets something through
        self.forward = _Primitive(self.description, self._arguments(SRC, DST))

    def _arguments(self, *maps):
        arguments = dict.fromkeys(maps, self.map)
        arguments.update(dict.fromkeys((MEAN, VARIANCE), self.vector))
        if self.flags & SCALE_FLAG:
            arguments.update(dict.fromkeys((SCALE, SHIFT) if maps[-1] == DST else (
                SCALE, DIFF_SCALE, DIFF_SHIFT), self.vector))
        if self.flags & RELU_FLAG:
            arguments[WORKSPACE] = self.mask
        return arguments

    def new_mask(self):
        return [paddle.empty([_size(self.mask)], "uint8")] if self.flags & RELU_FLAG else []

    @functools.cached_property
    def backward(self):
        description = _Description(
            "batch_normalization_backward", _mine().engine, BACKWARD, self.map, self.map, self.map,
            self.epsilon, self.flags, self.description)
        return _Primitive(description, self._arguments(SRC, DIFF_DST, DIFF_SRC))


class _How:
    """The arguments of a batch norm that have no gradient."""

    def __init__(self, running_mean, running_var, training, momentum, epsilon, relu, moments=None):
        self.moments = moments
        self.running_mean, self.running_var = running_mean, running_var
        self.training, self.momentum, self.epsilon, self.relu = training, momentum, epsilon, relu

    def flags(self, fold):
        """oneDNN's: it computes the statistics itself where a column is a channel."""
        return (SCALE_FLAG | SHIFT_FLAG | (RELU_FLAG if self.relu else 0)
                | (0 if self.training and fold == 1 else GLOBAL_STATISTICS))

    def statistics(self, x, spare):
        """Mean and variance of each channel; `spare` is a map that may be overwritten."""
        if not self.training:
            return _vector(self.running_mean).copy(), _vector(self.running_var).copy()
        if self.moments is not None:
            self.update(*self.moments)
            return self.moments
        n, pixels, columns, fold = _fold(x)
        means, variances = np.empty((2, fold, columns // fold), np.float32)
        _kept(_BatchNorm, n, pixels, columns, 0.0, 0).forward(
            x.data_ptr(), spare.data_ptr(), _address(means), _address(variances))
        mean = means.mean(0)
        variance = variances.mean(0) + np.square(means - mean).mean(0)
        self.update(mean, variance)
        return mean, variance

    def update(self, mean, variance):
        """The running statistics, as Paddle does it: the momentum is the weight of the old ones."""
        for running, batch in (self.running_mean, mean), (self.running_var, variance):
            old = _vector(running)
            old *= np.float32(self.momentum)
            old += np.float32(1 - self.momentum) * batch


def batch_norm(x, running_mean, running_var, scale, shift, training, momentum, epsilon, relu=False,
               moments=False):
    """`paddle.nn.functional.batch_norm` of a map (N, H, W, C), and relu if wanted.

    In training the running statistics are updated in place. moments: return (y, mean and variance
    of each channel of y, which follow from scale and shift; None outside training), for `nam_gate`.
    """
    how = _How(running_mean, running_var, training, momentum, epsilon, relu)
    x = _contiguous(x)
    if paddle.is_grad_enabled() and any(_wanted(x, scale, shift)):
        y, variance = _Normalised.apply(x, scale, shift, how), how.variance
    else:
        y, _, variance, _ = _normalised(x, scale, shift, how)
    if not moments:
        return y
    if not training or relu:
        return y, None
    return y, (_vector(shift).copy(), np.square(_vector(scale)) * variance
               * np.square(_over_std(variance, how)))


def _normalised(x, scale, shift, how):
    """(y, mean, variance, [where relu lets something through])"""
    n, pixels, columns, fold = _fold(x)
    y = paddle.empty(x.shape)
    flags = how.flags(fold)
    if flags & GLOBAL_STATISTICS:
        mean, variance = how.statistics(x, y)
    else:
        mean, variance = np.empty((2, columns), np.float32)
    norm = _kept(_BatchNorm, n, pixels, columns, how.epsilon, flags)
    mask = norm.new_mask()
    norm.forward(x.data_ptr(), y.data_ptr(),
                 *_addresses(fold, mean, variance, _vector(scale), _vector(shift)),
                 *(m.data_ptr() for m in mask))
    if not flags & GLOBAL_STATISTICS:
        how.update(mean, variance)
    return y, mean, variance, mask


class _Normalised(PyLayer):
    @staticmethod
    def forward(ctx, x, scale, shift, how):
        y, mean, variance, mask = _normalised(x, scale, shift, how)
        ctx.wanted = _wanted(x, scale, shift)
        ctx.known, how.variance = (mean, variance, how), variance
        ctx.save_for_backward(x, scale, *mask)
        return y

    @staticmethod
    @first_order
    def backward(ctx, grad):
        (x, scale, *mask), grad = ctx.saved_tensor(), _contiguous(grad)
        mean, variance, how = ctx.known
        n, pixels, columns, fold = _fold(x)
        norm = _kept(_BatchNorm, n, pixels, columns, how.epsilon, how.flags(fold))
        grads = np.empty((2, columns), np.float32)
        grad_x = paddle.empty(x.shape)
        norm.backward(x.data_ptr(), grad.data_ptr(), grad_x.data_ptr(),
                      *_addresses(fold, mean, variance, _vector(scale)),
                      _address(grads[0]), _address(grads[1]), *(m.data_ptr() for m in mask))
        grad_scale, grad_shift = grads = grads.reshape(2, fold, -1).sum(1)
        if how.training and fold > 1 and ctx.wanted[0]:
            # What is missing so far: that mean and variance depend on x.
            over_std = _over_std(variance, how)
            mean_scale, mean_shift = grads * (len(mean) / x.size)
            slope = -over_std * over_std * _vector(scale) * mean_scale
            offset = -over_std * _vector(scale) * mean_shift - slope * mean
            _kept(_Chain, n, pixels, columns, (MUL, VECTOR), (ADD, VECTOR), (ADD, MAP))(
                x.data_ptr(), grad_x.data_ptr(), *_addresses(fold, slope, offset),
                grad_x.data_ptr())
        grads = grad_x, paddle.to_tensor(grad_scale), paddle.to_tensor(grad_shift)
        return tuple(g if w else None for g, w in zip(grads, ctx.wanted))


# ---------------------------------------------------------------------- one pass over the maps

VECTOR, MAP, NUMBER = "vector", "map", "number"
_ZERO, _MINUS_ONE = np.zeros(1, np.float32), -np.ones(1, np.float32)


class _Chain:
    """Several operations on each number of a map in one pass: the first is a binary one, on the map
    and a vector (one number per column), another map or a single number; the others follow, each
    a binary one again or one of a single number: (RELU, alpha, beta)."""

    def __init__(self, n, pixels, columns, *steps):
        layouts = {MAP: _map(1, n * pixels, 1, columns), VECTOR: _plain(1, columns, 1, 1),
                   NUMBER: _plain(1, 1, 1, 1)}
        steps = [(step[0], layouts[step[1]]) if step[1] in layouts else step for step in steps]
        (first, second), rest, whole = steps[0], steps[1:], layouts[MAP]
        arguments = {SRC: whole, DST: whole, SRC_1: second}
        arguments.update({POST_OP * (i + 1) + SRC_1: step[1]
                          for i, step in enumerate(rest) if len(step) == 2})
        self.run = _Primitive(
            _Description("binary", _mine().engine, first, whole, second, whole, after=rest),
            arguments)

    def __call__(self, x, y, *others):
        """Addresses of what is read and written first, then of the other operands in order."""
        self.run(x, y, *others)


def add_relu(x, shortcut):
    """relu(x + shortcut) of two maps of one shape."""
    if paddle.is_grad_enabled() and any(_wanted(x, shortcut)):
        return _AddRelu.apply(x, shortcut)
    return _add_relu(_contiguous(x), _contiguous(shortcut))


def _add_relu(x, shortcut):
    y = paddle.empty(x.shape)
    _kept(_Chain, 1, 1, x.size, (ADD, MAP), (RELU, 0.0, 0.0))(
        x.data_ptr(), y.data_ptr(), shortcut.data_ptr())
    return y


def _relu_grad(y, grad):
    """The gradient of relu where its result is y: grad where y > 0, else 0."""
    result = paddle.empty(grad.shape)
    _kept(_Chain, 1, 1, y.size, (GREATER, NUMBER), (MUL, MAP))(
        y.data_ptr(), result.data_ptr(), _address(_ZERO), grad.data_ptr())
    return result


class _AddRelu(PyLayer):
    @staticmethod
    def forward(ctx, x, shortcut):
        y = _add_relu(_contiguous(x), _contiguous(shortcut))
        ctx.wanted = _wanted(x, shortcut)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @first_order
    def backward(ctx, grad):
        grad = _relu_grad(*ctx.saved_tensor(), _contiguous(grad))
        return tuple(grad if w else None for w in ctx.wanted)


# ------------------------------------------------------------------------------------ NAM's gate

CHUNK = 1 << 17  # numbers; so many of each map stay in the cache while a chunk is worked on
WIDE = 256  # columns
GATE = (MUL, VECTOR), (ADD, VECTOR), (LOGISTIC, 0.0, 0.0)


def nam_gate(y, running_mean, running_var, scale, shift, training, momentum, epsilon,
             shortcut=None, relu=False, moments=None):
    """sigmoid(logits) * y (+ shortcut) (and relu), logits = scale * normalised y + shift, for maps
    (N, H, W, C); scale = W * gamma and shift = W * beta, (C,), come with their own gradients.

    In training the running statistics are updated in place. moments: mean and variance of each
    channel where they are known, from `batch_norm`.
    """
    how = _How(running_mean, running_var, training, momentum, epsilon, relu, moments)
    if paddle.is_grad_enabled() and any(_wanted(y, scale, shift, shortcut)):
        return _Gate.apply(y, scale, shift, shortcut, how)
    shortcut = None if shortcut is None else _contiguous(shortcut)
    return _gate(_contiguous(y), scale, shift, shortcut, how)[0]


def _gate(y, scale, shift, shortcut, how):
    """(out, mean, variance)"""
    out = paddle.empty(y.shape)
    mean, variance = how.statistics(y, out)
    slope = _vector(scale) * _over_std(variance, how)
    n, pixels, columns, fold = _fold(y, WIDE)
    steps, maps = [*GATE, (MUL, MAP)], [y.data_ptr()]
    if shortcut is not None:
        steps.append((ADD, MAP))
        maps.append(shortcut.data_ptr())
    if how.relu:
        steps.append((RELU, 0.0, 0.0))
    _kept(_Chain, n, pixels, columns, *steps)(
        y.data_ptr(), out.data_ptr(), *_addresses(fold, slope, _vector(shift) - slope * mean),
        *maps)
    return out, mean, variance


class _Gate(PyLayer):
    @staticmethod
    def forward(ctx, y, scale, shift, shortcut, how):
        y, shortcut = _contiguous(y), None if shortcut is None else _contiguous(shortcut)
        out, mean, variance = _gate(y, scale, shift, shortcut, how)
        ctx.wanted = _wanted(y, scale, shift, shortcut)[:3 if shortcut is None else 4]
        ctx.known = mean, variance, how
        ctx.save_for_backward(y, scale, shift, *([out] if how.relu else []))
        return out

    @staticmethod
    @first_order
    def backward(ctx, grad):
        """With s = sigmoid(logits) and g the gradient behind relu: the logits get g * s * (1 - s) *
        y, from which batch norm's backward leads to y, and y gets g * s besides."""
        (y, scale, shift, *out), grad = ctx.saved_tensor(), _contiguous(grad)
        mean, variance, how = ctx.known
        over_std = _over_std(variance, how)
        slope = _vector(scale) * over_std
        n, pixels, columns, fold = _fold(y, WIDE)
        logits = _addresses(fold, slope, _vector(shift) - slope * mean)
        norm = _addresses(fold, mean, variance, slope)
        grad_y, behind = paddle.empty(y.shape), paddle.empty(y.shape) if out else grad
        sums, part = np.zeros((2, 2, columns), np.float32)
        flags = SCALE_FLAG | SHIFT_FLAG | GLOBAL_STATISTICS
        # First the gradient of the logits, and its sums.
        for rows, at in _chunks(n * pixels, columns):
            s, spare = _spare(rows * columns)
            if out:
                _kept(_Chain, 1, rows, columns, (GREATER, NUMBER), (MUL, MAP))(
                    at(out[0]), at(behind), _address(_ZERO), at(grad))
            _kept(_Chain, 1, rows, columns, *GATE)(at(y), s, *logits)
            _kept(_Chain, 1, rows, columns, (MUL, NUMBER), (LINEAR, 1.0, 1.0), (MUL, MAP),
                  (MUL, MAP), (MUL, MAP))(
                s, at(grad_y), _address(_MINUS_ONE), s, at(behind), at(y))
            _kept(_BatchNorm, 1, rows, columns, how.epsilon, flags).backward(
                at(y), at(grad_y), spare, *norm, _address(part[0]), _address(part[1]))
            sums += part
        grad_scale, grad_shift = sums = sums.reshape(2, fold, -1).sum(1)
        # Then what leads from the logits to y, and g * s.
        mean_scale, mean_shift = sums * (len(mean) / y.size if how.training else 0)
        inner_slope = -over_std * mean_scale
        inner = _addresses(fold, inner_slope, -mean_shift - inner_slope * mean)
        for rows, at in _chunks(n * pixels, columns) if ctx.wanted[0] else ():
            s, _ = _spare(rows * columns)
            _kept(_Chain, 1, rows, columns, *GATE, (MUL, MAP))(at(y), s, *logits, at(behind))
            _kept(_Chain, 1, rows, columns, (MUL, VECTOR), (ADD, VECTOR), (ADD, MAP), (MUL, VECTOR),
                  (ADD, MAP))(at(y), at(grad_y), *inner, at(grad_y), norm[2], s)
        grads = grad_y, paddle.to_tensor(grad_scale), paddle.to_tensor(grad_shift), behind
        return tuple(g if w else None for g, w in zip(grads, ctx.wanted))


def _chunks(rows, columns):
    """(how many rows, a function that takes a map to the address of the first of them)"""
    step = max(1, CHUNK // columns)
    for first in range(0, rows, step):
        yield min(step, rows - first), lambda x, at=4 * first * columns: x.data_ptr() + at


def _spare(numbers):
    """Two places for a chunk that is needed for a moment."""
    return _mine().buffer("chunk", 4 * numbers), _mine().buffer("spare", 4 * numbers)


# ------------------------------------------------------------------------------------- pooling

class _MaxPool:
    """The primitives of a max pooling; forward notes in a workspace where each maximum was."""

    def __init__(self, shape, kernel, stride, padding, training):
        n, h, w, c = shape
        self.y_shape = [n, (h + 2 * padding[0] - kernel[0]) // stride[0] + 1,
                        (w + 2 * padding[1] - kernel[1]) // stride[1] + 1, c]
        # oneDNN wants the padding that is used, on each side.
        last = [(out - 1) * s + k - p - size for out, s, k, p, size in zip(
            self.y_shape[1:3], stride, kernel, padding, (h, w))]
        self.maps = x, y = _map(*shape), _map(*self.y_shape)
        self.how = [_Dims(*pair) for pair in (stride, kernel, (0, 0), padding, last)]
        self.description = _Description("pooling_forward", _mine().engine,
                                        TRAINING if training else INFERENCE, MAX, x, y, *self.how)
        self.noted = self.description.layout(WORKSPACE_LAYOUT)
        self.forward = _Primitive(
            self.description, {SRC: x, DST: y, **({WORKSPACE: self.noted} if training else {})})

    @functools.cached_property
    def backward(self):
        x, y = self.maps
        description = _Description("pooling_backward", _mine().engine, MAX, x, y, *self.how,
                                   self.description)
        return _Primitive(description, {DIFF_DST: y, DIFF_SRC: x, WORKSPACE: self.noted})


def max_pool(x, kernel, stride, padding):
    """The largest number of each window of a map, (N, H, W, C) -> (N, H', W', C); all pairs."""
    how = tuple(kernel), tuple(stride), tuple(padding)
    if paddle.is_grad_enabled() and not x.stop_gradient:
        return _MaxPooled.apply(x, how)
    x = _contiguous(x)
    pool = _kept(_MaxPool, tuple(x.shape), *how, False)
    y = paddle.empty(pool.y_shape)
    pool.forward(x.data_ptr(), y.data_ptr())
    return y


class _MaxPooled(PyLayer):
    @staticmethod
    def forward(ctx, x, how):
        x = _contiguous(x)
        ctx.shape = tuple(x.shape), *how, True
        pool = _kept(_MaxPool, *ctx.shape)
        y, noted = paddle.empty(pool.y_shape), paddle.empty([_size(pool.noted)], "uint8")
        pool.forward(x.data_ptr(), y.data_ptr(), noted.data_ptr())
        ctx.save_for_backward(noted)
        return y

    @staticmethod
    @first_order
    def backward(ctx, grad):
        noted, = ctx.saved_tensor()
        grad, grad_x = _contiguous(grad), paddle.empty(ctx.shape[0])
        _kept(_MaxPool, *ctx.shape).backward(grad.data_ptr(), grad_x.data_ptr(), noted.data_ptr())
        return grad_x


def global_average(x):
    """The mean of each channel of each image, (N, H, W, C) -> (N, 1, 1, C): a matrix product, which
    Paddle computes faster than a mean over axes in the middle."""
    n, h, w, c = x.shape
    share = paddle.full([n, 1, h * w], 1 / (h * w))
    return paddle.bmm(share, x.reshape([n, h * w, c])).reshape([n, 1, 1, c])
