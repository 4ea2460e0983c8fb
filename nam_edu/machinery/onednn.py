"""oneDNN, as Paddle's wheels for Linux and Windows carry it, called on the tensors' own memory.

Paddle itself does not use it in dynamic mode. Here are the operations of a residual network on maps
that lie channels last, contiguous (N, H, W, C) float32: convolution, batch norm with relu, the gate
with what follows it in a block. A primitive is made once for a shape, in every thread, and kept.
Where the library is missing or refuses, `available()` is False. The constants are those of oneDNN
3's dnnl_types.h; they are part of its stable interface.
"""

from __future__ import annotations

import collections
import ctypes as C
import os
import threading
import weakref
from functools import cache
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F

from .first_order import Operation

KEPT = 256  # primitives of a thread

P, DIMS = C.c_void_p, C.c_int64 * 12
CPU, DEFAULT_STREAM, F32, ANY = 1, 1, 3, 1
TRAINING, INFERENCE, BACKWARD, BACKWARD_DATA = 64, 96, 128, 160
DIRECT, RELU, LOGISTIC, LINEAR = 0x1, 0x20, 0x29, 0x26
RELU_BY_RESULT, LOGISTIC_BY_RESULT, ADD, MULTIPLY = 0x100, 0x104, 0x1FFF0, 0x1FFF1
SCALE_AND_SHIFT, WITH_RELU = 2 | 4, 8
SRC, SRC_1, DST, WEIGHTS, BIAS, MEAN, VARIANCE, SCALE, SHIFT = 1, 2, 17, 33, 41, 49, 50, 51, 52
WORKSPACE, DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS = 64, 129, 145, 161, 169
DIFF_SCALE, DIFF_SHIFT = 255, 256
ASK_WEIGHTS, ASK_DIFF_WEIGHTS, ASK_WORKSPACE = 131, 132, 135


class Refused(RuntimeError):
    """oneDNN has no such primitive."""


class _Argument(C.Structure):
    _fields_ = [("arg", C.c_int), ("memory", P)]


@cache
def _library():
    """The library, or a sentence that says why there is none."""
    folder = Path(paddle.__file__).parent / "libs"
    found = [
        path for name in ("libdnnl.so.3", "dnnl.dll", "mkldnn.dll") for path in folder.glob(name)
    ]
    if not found:
        return "this Paddle carries no oneDNN"
    try:
        library = C.CDLL(str(found[0]))
        library.dnnl_primitive_desc_query_md.restype = P
        library.dnnl_memory_desc_get_size.restype = C.c_size_t
        engine = P()
        if library.dnnl_engine_create(C.byref(engine), CPU, C.c_size_t(0)):
            return "oneDNN refuses to work on this CPU"
        library.dnnl_engine_destroy(engine)
    except (OSError, AttributeError) as error:
        return f"Paddle's oneDNN is not the one that is known here ({error})"
    return library


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


# ------------------------------------------------------------------------- of every thread


class _Thread(threading.local):
    """Engine, stream and primitives of a thread: a primitive has memory to work in, which two
    threads must not share. A forked process starts anew."""

    pid = None

    def start(self):
        self.pid, self.kept = os.getpid(), collections.OrderedDict()
        self.engine = _create("engine_create", CPU, C.c_size_t(0))
        self.stream = _create("stream_create", self.engine, DEFAULT_STREAM)
        return self


_of_thread = _Thread()


def _thread():
    return _of_thread if _of_thread.pid == os.getpid() else _of_thread.start()


def _kept(make, *key):
    """make(*key), the same object as last time in this thread."""
    kept = _thread().kept
    name = make, key
    if name in kept:
        kept.move_to_end(name)
    else:
        kept[name] = make(*key)
        if len(kept) > KEPT:
            kept.popitem(last=False)
    return kept[name]


def _create(function, *arguments):
    made = P()
    status = getattr(_library(), f"dnnl_{function}")(C.byref(made), *arguments)
    if status:
        raise Refused(f"{function}: status {status}")
    return made


def _map(shape):
    """Description of a map (N, H, W, C)."""
    n, h, w, c = shape
    return _create(
        "memory_desc_create_with_strides", 4, DIMS(n, c, h, w), F32, DIMS(h * w * c, 1, w * c, c)
    )


def _flat(*shape):
    strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    return _create("memory_desc_create_with_strides", len(shape), DIMS(*shape), F32, DIMS(*strides))


def _asked(description, what):
    return P(_library().dnnl_primitive_desc_query_md(description, what, 0))


def _empty(shape):
    return paddle.empty(shape, "float32")


def _buffer(description):
    """Memory for what oneDNN lays out its own way."""
    size = _library().dnnl_memory_desc_get_size(description)
    return paddle.empty([size // 4 + 16], "float32")


class _Primitive:
    """A primitive and the memory objects of its arguments: called with their addresses."""

    def __init__(self, description, arguments):
        thread = _thread()
        self.stream, self.description = thread.stream, description
        self.primitive = _create("primitive_create", description)
        self.memories = [
            _create("memory_create", d, thread.engine, P(0)) for d in arguments.values()
        ]
        self.arguments = (_Argument * len(arguments))(
            *(_Argument(arg, memory) for arg, memory in zip(arguments, self.memories))
        )
        weakref.finalize(self, _destroy, _library(), self.primitive, self.memories).atexit = False
        self.place, self.execute = (
            _library().dnnl_memory_set_data_handle,
            _library().dnnl_primitive_execute,
        )

    def __call__(self, *tensors):
        for memory, tensor in zip(self.memories, tensors):
            self.place(memory, P(tensor.data_ptr()))
        status = self.execute(self.primitive, self.stream, len(self.arguments), self.arguments)
        if status:
            raise Refused(f"execute: status {status}")


def _destroy(library, primitive, memories):
    library.dnnl_primitive_destroy(primitive)
    for memory in memories:
        library.dnnl_memory_destroy(memory)


def _reorder(source, target):
    engine = _thread().engine
    description = _create("reorder_primitive_desc_create", source, engine, target, engine, None)
    return _Primitive(description, {SRC: source, DST: target})


def _attributes(*steps):
    """What follows an operation in the same pass: RELU, LOGISTIC, or a pair of ADD or MULTIPLY and
    the description of the other map."""
    chain = _create("post_ops_create")
    for step in steps:
        if step in (RELU, LOGISTIC):
            _library().dnnl_post_ops_append_eltwise(chain, step, C.c_float(0), C.c_float(0))
        else:
            _library().dnnl_post_ops_append_binary(chain, step[0], step[1])
    attributes = _create("primitive_attr_create")
    _library().dnnl_primitive_attr_set_post_ops(attributes, chain)
    return attributes


def _later(step):
    """The number of the argument of the step-th operation that follows."""
    return 32768 * (step + 1) | SRC_1


# ------------------------------------------------------------------------------ convolution


class _Convolution:
    """x (N, H, W, C), weight (C', C / groups, kh, kw) -> (N, H', W', C')."""

    def __init__(self, x, weight, stride, padding, dilation, groups, bias, training, relu):
        (n, h, w, c), (c_out, _, kh, kw) = x, weight
        top, bottom, left, right = padding
        out_h = (h + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
        out_w = (w + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
        self.shape = [n, out_h, out_w, c_out]
        shape = weight if groups == 1 else (groups, c_out // groups, c // groups, kh, kw)
        self.x, self.y, self.weight = _map(x), _map(self.shape), _flat(*shape)
        self.any = _create("memory_desc_create_with_tag", len(shape), DIMS(*shape), F32, ANY)
        self.bias = _flat(c_out) if bias else None
        self.how = (
            DIMS(*stride),
            DIMS(dilation[0] - 1, dilation[1] - 1),
            DIMS(top, left),
            DIMS(bottom, right),
        )
        self.description = _create(
            "convolution_forward_primitive_desc_create",
            _thread().engine,
            TRAINING if training else INFERENCE,
            DIRECT,
            self.x,
            self.any,
            self.bias,
            self.y,
            *self.how,
            _attributes(RELU) if relu else None,
        )
        packed = _asked(self.description, ASK_WEIGHTS)
        self.packed, self.pack = _buffer(packed), _reorder(self.weight, packed)
        self.forward = _Primitive(
            self.description,
            {SRC: self.x, WEIGHTS: packed, DST: self.y, **({BIAS: self.bias} if bias else {})},
        )
        self.backward_made = {}

    def backward(self, part):
        """("data" or "weights"): the primitive, its buffer and the reorder of the weights."""
        if part not in self.backward_made:
            bias = [self.bias] if part == "weights" else []
            description = _create(
                f"convolution_backward_{part}_primitive_desc_create",
                _thread().engine,
                DIRECT,
                self.x,
                self.any,
                *bias,
                self.y,
                *self.how,
                self.description,
                None,
            )
            packed = _asked(description, ASK_DIFF_WEIGHTS if bias else ASK_WEIGHTS)
            if part == "data":
                arguments = {DIFF_DST: self.y, WEIGHTS: packed, DIFF_SRC: self.x}
                reorder = _reorder(self.weight, packed)
            else:
                arguments = {SRC: self.x, DIFF_DST: self.y, DIFF_WEIGHTS: packed}
                if self.bias:
                    arguments[DIFF_BIAS] = self.bias
                reorder = _reorder(packed, self.weight)
            self.backward_made[part] = _Primitive(description, arguments), _buffer(packed), reorder
        return self.backward_made[part]


def _convolve(x, weight, bias, how, relu=False, training=True):
    made = _kept(
        _Convolution, tuple(x.shape), tuple(weight.shape), *how, bias is not None, training, relu
    )
    y = _empty(made.shape)
    made.pack(weight, made.packed)
    made.forward(x, made.packed, y, *([] if bias is None else [bias]))
    return y


def conv2d(
    x, weight, bias=None, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1, relu=False
):
    """A convolution: (N, H, W, C) -> (N, H', W', C'); padding (top, bottom, left, right).

    relu: take relu of it in the same pass; only without gradients.
    """
    how = tuple(stride), tuple(padding), tuple(dilation), groups
    if not paddle.is_grad_enabled():
        bias = None if bias is None else bias.contiguous()
        return _convolve(x.contiguous(), weight.contiguous(), bias, how, relu, training=False)
    return _Conv2D.apply(x, weight, bias, how)


class _Conv2D(Operation):
    @staticmethod
    def forward(ctx, x, weight, bias, how):
        x, weight = x.contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.how, ctx.bias = how, bias is not None
        ctx.wanted = [t is not None and not t.stop_gradient for t in (x, weight, bias)]
        return _convolve(x, weight, bias, how)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensor()
        grad = grad.contiguous()
        made = _kept(
            _Convolution, tuple(x.shape), tuple(weight.shape), *ctx.how, ctx.bias, True, False
        )
        grad_x = grad_weight = grad_bias = None
        if ctx.wanted[0]:
            backward, packed, pack = made.backward("data")
            grad_x = _empty(x.shape)
            pack(weight, packed)
            backward(grad, packed, grad_x)
        if ctx.wanted[1] or ctx.wanted[2]:
            backward, packed, unpack = made.backward("weights")
            grad_weight = _empty(weight.shape)
            grad_bias = [_empty([weight.shape[0]])] if ctx.bias else []
            backward(x, grad, packed, *grad_bias)
            unpack(packed, grad_weight)
            grad_weight = grad_weight if ctx.wanted[1] else None
        if not ctx.bias:
            return grad_x, grad_weight
        return grad_x, grad_weight, grad_bias[0] if ctx.wanted[2] else None


# -------------------------------------------------------------------------------- batch norm


class _BatchNorm:
    def __init__(self, shape, epsilon, relu):
        x, c = _map(shape), _flat(shape[3])
        flags = SCALE_AND_SHIFT | (WITH_RELU if relu else 0)
        engine = _thread().engine
        forward = _create(
            "batch_normalization_forward_primitive_desc_create",
            engine,
            TRAINING,
            x,
            x,
            C.c_float(epsilon),
            flags,
            None,
        )
        backward = _create(
            "batch_normalization_backward_primitive_desc_create",
            engine,
            BACKWARD,
            x,
            x,
            x,
            C.c_float(epsilon),
            flags,
            forward,
            None,
        )
        mask = {WORKSPACE: _asked(forward, ASK_WORKSPACE)} if relu else {}
        self.mask_size = _library().dnnl_memory_desc_get_size(mask[WORKSPACE]) + 64 if relu else 0
        self.forward = _Primitive(
            forward, {SRC: x, SCALE: c, SHIFT: c, DST: x, MEAN: c, VARIANCE: c, **mask}
        )
        self.backward = _Primitive(
            backward,
            {
                SRC: x,
                DIFF_DST: x,
                MEAN: c,
                VARIANCE: c,
                SCALE: c,
                DIFF_SRC: x,
                DIFF_SCALE: c,
                DIFF_SHIFT: c,
                **mask,
            },
        )


def fast_channels(channels):
    """Whether oneDNN's batch norm has a fast path for so many channels."""
    return channels % 16 == 0


def batch_norm(x, running_mean, running_variance, scale, shift, momentum, epsilon, relu=False):
    """Batch norm in training mode, and relu of it if wanted: (N, H, W, C) -> the same.

    Running statistics move as those of `paddle.nn.BatchNorm2D`: momentum weighs the old value, and
    the variance is the biased one.
    """
    return _BatchNormRelu.apply(
        x, scale, shift, running_mean, running_variance, momentum, epsilon, relu
    )


def _moved(running, batch, momentum):
    running, batch = (
        np.ctypeslib.as_array((C.c_float * t.shape[0]).from_address(t.data_ptr()))
        for t in (running, batch)
    )
    running *= momentum
    running += (1 - momentum) * batch


class _BatchNormRelu(Operation):
    @staticmethod
    def forward(ctx, x, scale, shift, running_mean, running_variance, momentum, epsilon, relu):
        x = x.contiguous()
        made = _kept(_BatchNorm, tuple(x.shape), epsilon, relu)
        y, mean, variance = (_empty(s) for s in (x.shape, scale.shape, scale.shape))
        mask = [paddle.empty([made.mask_size], "uint8")] if relu else []
        made.forward(x, scale, shift, y, mean, variance, *mask)
        _moved(running_mean, mean, momentum)
        _moved(running_variance, variance, momentum)
        ctx.save_for_backward(x, scale, mean, variance, *mask)
        ctx.how = epsilon, relu
        ctx.wanted = [not t.stop_gradient for t in (x, scale, shift)]
        return y

    @staticmethod
    def backward(ctx, grad):
        x, scale, mean, variance, *mask = ctx.saved_tensor()
        made = _kept(_BatchNorm, tuple(x.shape), *ctx.how)
        grads = [_empty(t.shape) for t in (x, scale, scale)]
        made.backward(x, grad.contiguous(), mean, variance, scale, *grads, *mask)
        grads = [g if wanted else None for g, wanted in zip(grads, ctx.wanted)]
        return (*grads, None, None)


# --------------------------------------------------------------- the gate, and what follows


class _Elementwise:
    """Operations on maps of one shape, each in one pass by all threads."""

    def __init__(self, shape):
        x = self.x = _map(shape)
        self.one = paddle.ones([1], "float32")
        one = _flat(1, 1, 1, 1)
        self.sigmoid = self._binary(MULTIPLY, one, LOGISTIC)
        self.gated_added = self._binary(MULTIPLY, one, LOGISTIC, (MULTIPLY, x), (ADD, x), RELU)
        self.added = self._binary(ADD, x, RELU)
        self.product = self._binary(MULTIPLY, x)
        self.relu_backward = self._backward(RELU_BY_RESULT)
        self.sigmoid_backward = self._backward(LOGISTIC_BY_RESULT)

    def _binary(self, kind, other, *more):
        description = _create(
            "binary_primitive_desc_create",
            _thread().engine,
            kind,
            self.x,
            other,
            self.x,
            _attributes(*more),
        )
        later = {_later(i): step[1] for i, step in enumerate(more) if isinstance(step, tuple)}
        return _Primitive(description, {SRC: self.x, SRC_1: other, DST: self.x, **later})

    def _backward(self, kind):
        forward = _create(
            "eltwise_forward_primitive_desc_create",
            _thread().engine,
            TRAINING,
            kind,
            self.x,
            self.x,
            C.c_float(0),
            C.c_float(0),
            None,
        )
        description = _create(
            "eltwise_backward_primitive_desc_create",
            _thread().engine,
            kind,
            self.x,
            self.x,
            self.x,
            C.c_float(0),
            C.c_float(0),
            forward,
            None,
        )
        return _Primitive(description, {DST: self.x, DIFF_DST: self.x, DIFF_SRC: self.x})


def add_relu(x, shortcut):
    """relu(x + shortcut) of two maps of one shape."""
    if paddle.is_grad_enabled():
        return _AddRelu.apply(x, shortcut)
    return _add_relu(x.contiguous(), shortcut.contiguous())


def _add_relu(x, shortcut):
    y = _empty(x.shape)
    _kept(_Elementwise, tuple(x.shape)).added(x, shortcut, y)
    return y


class _AddRelu(Operation):
    @staticmethod
    def forward(ctx, x, shortcut):
        y = _add_relu(x.contiguous(), shortcut.contiguous())
        ctx.save_for_backward(y)
        ctx.wanted = not x.stop_gradient, not shortcut.stop_gradient
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensor()
        grad_sum = _empty(y.shape)
        _kept(_Elementwise, tuple(y.shape)).relu_backward(y, grad.contiguous(), grad_sum)
        return tuple(grad_sum if wanted else None for wanted in ctx.wanted)


def gate_add_relu(x, logits, shortcut):
    """relu(sigmoid(logits) * x + shortcut) of three maps of one shape."""
    if paddle.is_grad_enabled():
        return _GateAddRelu.apply(x, logits, shortcut)
    x, logits, shortcut = (t.contiguous() for t in (x, logits, shortcut))
    y = _empty(x.shape)
    made = _kept(_Elementwise, tuple(x.shape))
    made.gated_added(logits, made.one, y, x, shortcut)
    return y


class _GateAddRelu(Operation):
    @staticmethod
    def forward(ctx, x, logits, shortcut):
        ctx.wanted = [not t.stop_gradient for t in (x, logits, shortcut)]
        x, logits, shortcut = (t.contiguous() for t in (x, logits, shortcut))
        y = _empty(x.shape)
        made = _kept(_Elementwise, tuple(x.shape))
        made.gated_added(logits, made.one, y, x, shortcut)
        ctx.save_for_backward(x, logits, y)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, logits, y = ctx.saved_tensor()
        made = _kept(_Elementwise, tuple(x.shape))
        grad_sum, gate, grad_logits, grad_x = (_empty(x.shape) for _ in range(4))
        made.relu_backward(y, grad.contiguous(), grad_sum)
        made.sigmoid(logits, made.one, gate)
        if ctx.wanted[1]:
            made.product(grad_sum, x, grad_x)
            made.sigmoid_backward(gate, grad_x, grad_logits)
        made.product(grad_sum, gate, grad_x)
        return tuple(
            g if wanted else None for g, wanted in zip((grad_x, grad_logits, grad_sum), ctx.wanted)
        )


# ------------------------------------------------------------------------------- first of all


@cache
def _unlike_paddle():
    """Why this oneDNN is better left alone, or None: small cases of all that is used here, values
    and gradients, against Paddle's own operations. Draws no random numbers."""

    def tensor(*shape):
        values = np.sin(np.arange(np.prod(shape), dtype="float32") ** 1.5).reshape(shape)
        return paddle.to_tensor(values, place=paddle.CPUPlace())

    def both(function, *tensors):
        tensors = [t.detach() for t in tensors]
        for t in tensors:
            t.stop_gradient = False
        y = function(*tensors)
        (y * y).sum().backward()
        return [y, *(t.grad for t in tensors)]

    x, shortcut, logits = tensor(2, 6, 5, 16), tensor(2, 6, 5, 16) + 0.1, tensor(2, 6, 5, 16) * 2
    weight, bias = tensor(16, 16, 3, 3), tensor(16)
    ours, theirs = ([tensor(16).detach(), tensor(16).detach() + 1.5] for _ in range(2))
    cases = (
        (
            lambda x, w, b: conv2d(x, w, b, (2, 1), (1, 1, 0, 0)),
            lambda x, w, b: F.conv2d(x.transpose([0, 3, 1, 2]), w, b, (2, 1), (1, 0)).transpose(
                [0, 2, 3, 1]
            ),
            (x, weight, bias),
        ),
        (
            lambda x, s, b: batch_norm(x, *ours, s, b, 0.9, 1e-5, True),
            lambda x, s, b: F.relu(F.batch_norm(x, *theirs, s, b, True, 0.9, 1e-5, "NHWC")),
            (x, bias + 1, bias),
        ),
        (add_relu, lambda x, s: F.relu(x + s), (x, shortcut)),
        (gate_add_relu, lambda x, z, s: F.relu(F.sigmoid(z) * x + s), (x, logits, shortcut)),
    )
    try:
        with paddle.enable_grad():
            for mine, its, tensors in cases:
                for a, b in zip([*both(mine, *tensors), *ours], [*both(its, *tensors), *theirs]):
                    if float((a - b).abs().max()) > 1e-3 * float(b.abs().max()):
                        return "Paddle's oneDNN gives other numbers than Paddle itself"
    except Exception as error:  # whatever it is, Paddle's own kernels do the work
        return f"Paddle's oneDNN cannot be used here ({type(error).__name__}: {error})"
    return None
