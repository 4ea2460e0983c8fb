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
        address = self.buffers[name].ctypes.data
        return address + -address % 64


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
