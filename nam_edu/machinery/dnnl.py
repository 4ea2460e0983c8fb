"""The C interface of oneDNN, which Paddle's wheels for Linux and Windows carry, through ctypes.

A *primitive* is a compiled loop for one shape: dear to make, cheap to run. Each thread keeps those
that it used last. All of them work in a scratchpad of the thread's: in oneDNN's own one, which
counts its users per thread, a primitive that another thread destroys leaves the rest without. The
constants are those of oneDNN 3's dnnl_types.h, part of its stable interface.
"""

from __future__ import annotations

import collections
import ctypes
import math
import os
import threading
from functools import cache
from pathlib import Path

import numpy as np
import paddle

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
def shared_library():
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


def engine():
    """The one engine of all threads."""
    return shared_library().engine


@cache
def openmp():
    """The OpenMP that oneDNN computes with. Primitives hold for one number of threads."""
    folder = Path(paddle.__file__).parent / "libs"
    found = [path for name in ("libiomp5.so", "libiomp5md.dll") for path in folder.glob(name)]
    return ctypes.CDLL(str(found[0]))


# ------------------------------------------------------------------------ oneDNN's own objects


class Handle:
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
        self._as_parameter_ = POINTER()
        status = getattr(shared_library(), f"dnnl_{create}")(
            ctypes.byref(self._as_parameter_), *arguments
        )
        if status:
            raise Refused(f"{create}: status {status}")
        kind = next(kind for kind in self.KINDS if kind in create)
        self.destroy = getattr(shared_library(), f"dnnl_{kind}_destroy")

    def __del__(self):
        if hasattr(self, "destroy"):
            self.destroy(self._as_parameter_)


class Thread(threading.local):
    """What one thread works with. A forked process starts anew."""

    pid = None

    def start(self):
        self.pid, self.kept, self.buffers = os.getpid(), collections.OrderedDict(), {}
        self.stream = Handle("stream_create", engine(), IN_ORDER)
        return self

    def buffer(self, name, size):
        """Address of `size` bytes, good until the next call with this name."""
        array, first = self.buffers.get(name, (None, None))
        if array is None or array.nbytes < size + 64:
            array = np.empty(size + 64, np.uint8)
            self.buffers[name] = array, (first := aligned(array))
        return first


_of_thread = Thread()


def thread():
    return _of_thread if _of_thread.pid == os.getpid() else _of_thread.start()


def kept(make, *shape):
    """make(*shape), the same object as last time in this thread."""
    kept, key = thread().kept, (make, shape, openmp().omp_get_max_threads())
    if key in kept:
        kept.move_to_end(key)
    else:
        kept[key] = make(*shape)
        if len(kept) > MOST_KEPT:
            kept.popitem(last=False)
    return kept[key]


def plain_layout(*shape):
    """Layout of a contiguous array."""
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    return Handle("memory_desc_create_with_strides", len(shape), DIMS(*shape), F32, DIMS(*strides))


def map_layout(n, h, w, c):
    """Layout of a map (N, H, W, C); oneDNN names its axes in the order N, C, H, W."""
    strides = DIMS(h * w * c, 1, w * c, c)
    return Handle("memory_desc_create_with_strides", 4, DIMS(n, c, h, w), F32, strides)


def size_of(layout):
    return shared_library().dnnl_memory_desc_get_size(layout)


class Description:
    """What a primitive is to do: dnnl_<kind>_primitive_desc_create(*arguments)."""

    def __init__(self, kind, *arguments, after=()):
        """after: what follows in the same pass: RELU, LOGISTIC, LINEAR (1 + x), or a pair of ADD or
        MULTIPLY and the layout of the other operand."""
        dnnl, attributes = shared_library(), Handle("primitive_attr_create")
        dnnl.dnnl_primitive_attr_set_scratchpad_mode(attributes, OWN_SCRATCHPAD)
        if after:
            chain = Handle("post_ops_create")
            for step in after:
                if isinstance(step, tuple):
                    dnnl.dnnl_post_ops_append_binary(chain, *step)
                else:
                    one = ctypes.c_float(step == LINEAR)
                    dnnl.dnnl_post_ops_append_eltwise(chain, step, one, one)
            dnnl.dnnl_primitive_attr_set_post_ops(attributes, chain)
        self.handle = Handle(f"{kind}_primitive_desc_create", *arguments, attributes)
        self._as_parameter_ = self.handle._as_parameter_

    def layout(self, which):
        """A layout that oneDNN has chosen; lives as long as this description."""
        return POINTER(shared_library().dnnl_primitive_desc_query_md(self, which, 0))


class Primitive:
    """A compiled loop and its arguments {number: layout}: called with an address for each."""

    def __init__(self, description, arguments):
        dnnl, self.thread, self.description = shared_library(), thread(), description
        self.primitive = Handle("primitive_create", description)
        scratchpad = description.layout(ASK_SCRATCHPAD)
        self.scratchpad = size_of(scratchpad)
        if self.scratchpad:
            arguments = {**arguments, SCRATCHPAD: scratchpad}
        self.memories = [
            Handle("memory_create", layout, dnnl.engine, None) for layout in arguments.values()
        ]
        self.slots = [memory._as_parameter_ for memory in self.memories]
        self.arguments = (Argument * len(arguments))(*zip(arguments, self.slots))
        self.place, self.execute = (dnnl.dnnl_memory_set_data_handle, dnnl.dnnl_primitive_execute)

    def __call__(self, *addresses):
        if self.scratchpad:
            addresses += (self.thread.buffer("scratchpad", self.scratchpad),)
        for slot, address in zip(self.slots, addresses):
            self.place(slot, address)
        count, stream = len(self.arguments), self.thread.stream
        status = self.execute(self.primitive, stream, count, self.arguments)
        if status:
            raise RuntimeError(f"oneDNN could not compute: status {status}")


class Argument(ctypes.Structure):
    _fields_ = [("number", ctypes.c_int), ("memory", POINTER)]


def empty(shape):
    return paddle.empty(shape, "float32")


def address(array):
    return array.__array_interface__["data"][0]


def aligned(buffer):
    """The first address in a buffer at which a line of the cache begins."""
    first = address(buffer)
    return first + -first % 64


def vector(tensor):
    """The memory of a contiguous tensor (C,) as an array."""
    return np.ctypeslib.as_array((ctypes.c_float * tensor.shape[0]).from_address(tensor.data_ptr()))
