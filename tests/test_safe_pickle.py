"""machinery.safe_pickle: plain data is read as Python would, and nothing is ever run."""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import re
import struct
import tarfile
import time
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nam_edu.machinery.safe_pickle import PickleError, UnsafePickleError, load

PROTOCOLS = range(6)
FUZZ_EXAMPLES = int(os.environ.get("NAM_EDU_FUZZ_EXAMPLES", "300"))


def same(a, b) -> bool:
    """Are two objects equal in type, structure and value, arrays by their values and shape?"""
    if isinstance(a, (np.ndarray, np.generic)):
        kinds = type(a) is type(b) and a.shape == b.shape and a.dtype.kind == b.dtype.kind
        nan = kinds and a.dtype.kind in "fc"
        return kinds and a.itemsize == b.itemsize and np.array_equal(a, b, equal_nan=nan)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)  # tells -0.0 from 0.0, True from 1, and finds nan equal to itself


class Tensor:
    """Pickles as a Paddle tensor does: tuple((name, array))."""

    def __init__(self, name, array):
        self.name, self.array = name, array

    def __reduce__(self):
        return tuple, ((self.name, self.array),)


# What is read

PLAIN = {
    "none": None,
    "true": True,
    "false": False,
    "int-0": 0,
    "int-small": -7,
    "int-2-bytes": 60000,
    "int-4-bytes": -(2**31),
    "int-long": 2**63 + 1,
    "int-long-negative": -(2**300),
    "float": 0.1,
    "float-negative-zero": -0.0,
    "float-inf": -math.inf,
    "float-nan": math.nan,
    "float-tiny": 5e-324,
    "complex": 1 - 2j,
    "str-empty": "",
    "str-quotes": 'it\'s "so" \\ \n \t \r \0',
    "str-unicode": "Größe 注意 🦉",
    "str-surrogate": "\udc80",
    "str-long": "xyz" * 30000,
    "bytes-empty": b"",
    "bytes": bytes(range(256)),
    "bytes-long": bytes(range(256)) * 300,
    "list-empty": [],
    "list": [1, [2.5, [None, "a"]], []],
    "list-long": list(range(3000)),
    "tuple-empty": (),
    "tuples": ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "dict-empty": {},
    "dict": {"a": {"b": {1: (2, [3])}}, 4: None, None: 5, True: 6, b"k": "v"},
    "dict-long": {f"key {i}": i for i in range(3000)},
    "ordered": OrderedDict([("z", 1), ("a", OrderedDict(b=[2]))]),
    "shared-text": ["label", "label"] * 50,
    "shared-list": (lambda part: {"a": part, "b": part, "c": [part]})([1, (2, 3)]),
}
DTYPES = "? b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16 S5 U3".split()
ARRAYS = {
    **{f"{code}-{order}": np.arange(6).astype(order + code) for code in DTYPES for order in "<>"},
    "matrix": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12, dtype="f4").reshape(3, 4)),
    "fortran-big": np.asfortranarray(np.arange(12, dtype=">i2").reshape(3, 4)),
    "permuted": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "strided": np.arange(20)[::3],
    "0-d": np.array(2.5),
    "empty": np.zeros(0, "f4"),
    "empty-2-d": np.zeros((0, 3)),
    "empty-text": np.zeros((2, 0), "U4"),
    "nan": np.array([np.nan, np.inf, -0.0]),
    "text": np.array(["a", "注意", ""]),
    "scalar-f4": np.float32(1.5),
    "scalar-i8": np.int64(-3),
    "scalar-bool": np.bool_(True),
    "scalar-c16": np.complex128(1 + 2j),
    "scalar-str": np.str_("ab"),
    "scalar-bytes": np.bytes_(b"ab"),
    "in-containers": {"w": [np.ones(2), (np.zeros((2, 2), "i4"), np.float64(3))], "n": 1},
    "twice": [np.arange(9)] * 2,
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [*PLAIN.values(), *ARRAYS.values()], ids=[*PLAIN, *ARRAYS])
def test_reads_what_python_reads(value, protocol):
    data = pickle.dumps(value, protocol)
    read = load(data)
    assert same(read, value)
    assert same(read, pickle.loads(data))
    assert same(load(pickletools.optimize(data)), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensor_becomes_its_array(protocol):
    weight, bias = np.ones((2, 3), "f4"), np.zeros(3, ">f4")
    value = {"model": OrderedDict(w=Tensor("linear_0.w", weight), b=Tensor("b", bias)), "epoch": 3}
    expected = {"model": OrderedDict(w=weight, b=bias), "epoch": 3}
    assert same(load(pickle.dumps(value, protocol)), expected)
    assert same(load(pickle.dumps(Tensor("t", weight), protocol)), weight)


@pytest.mark.parametrize("order", "<>")
def test_arrays_are_native_aligned_and_read_only(order):
    for protocol in PROTOCOLS:
        array = load(pickle.dumps(["odd", np.arange(5, dtype=order + "f8")], protocol))[1]
        assert array.dtype.isnative and array.flags.aligned and not array.flags.writeable


def test_accepts_bytes_files_and_paths(tmp_path):
    data = pickle.dumps([1, "a"])
    path = tmp_path / "some.pkl"
    path.write_bytes(data)
    assert load(bytearray(data)) == load(memoryview(data)) == load(io.BytesIO(data)) == [1, "a"]
    assert load(path) == load(str(path)) == [1, "a"]
    with open(path, "rb") as file:
        assert load(file) == [1, "a"]
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.pkl")
    with pytest.raises(TypeError, match="not int"):
        load(3)
    with pytest.raises(TypeError, match="not str"):
        load(io.StringIO("I1\n."))
    with pytest.raises(ValueError, match="encoding must be"):
        load(data, encoding="rot13")


def test_encoding_of_python_2_text():
    data = b"U\x02\xc3\xa9."
    assert load(data) == "\xc3\xa9"
    assert load(data, encoding="utf-8") == "é"
    with pytest.raises(PickleError, match="SHORT_BINSTRING does not fit"):
        load(data, encoding="ascii")


# Hand-made pickles


def atom(value) -> bytes:
    """The instructions that push one plain value, with nothing stored."""
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def stack_name(module: str, attribute: str) -> bytes:
    texts = (module.encode(), attribute.encode())
    return b"".join(b"\x8c" + bytes([len(text)]) + text for text in texts) + b"\x93"


def run(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


DTYPE_STATE = (3, "<", None, None, None, -1, -1, 0)
NDARRAY = name("numpy", "ndarray")


def dtype(code="u1", state=DTYPE_STATE) -> bytes:
    return run(name("numpy", "dtype"), atom(code), b"K\0K\1") + atom(state) + b"b"


def array(shape, kind=None, data=b"", core="numpy._core.multiarray", of=NDARRAY) -> bytes:
    """The instructions for an array; `data` is bytes, or instructions as a list of one item."""
    data = data[0] if isinstance(data, list) else b"B" + struct.pack("<I", len(data)) + data
    empty = run(name(core, "_reconstruct"), of, b"K\0\x85", b"U\x01b")
    return empty + b"(K\1" + atom(shape) + (kind or dtype()) + b"\x89" + data + b"tb"


def test_python_2_pickles():
    """What Python 2 and the NumPy of its day wrote, as in CIFAR's files."""
    state = b"(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    kind = run(name("numpy", "dtype"), b"U\2u1", b"K\0", b"K\1") + state
    text = b"T\x06\0\0\0\x00\x01\x02\x80\xfe\xff"
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        empty = run(name(core, "_reconstruct"), NDARRAY + b"q\1", b"K\0\x85", b"U\1b") + b"q\2"
        data = b"\x80\2}q\0(U\x04data" + empty + b"(K\1K\2K\3\x86" + kind + b"\x89" + text + b"tb"
        data += b"U\5names]q\3(U\3a\xe9bU\1ceU\5againh\2u."
        read = load(data)
        expected = np.array([[0, 1, 2], [128, 254, 255]], "u1")
        assert same(read, {"data": expected, "names": ["a\xe9b", "c"], "again": expected}), (
            "one array, stored once and used twice"
        )
        if core == "numpy.core.multiarray":  # the name that every NumPy knows
            assert same(read, pickle.loads(data, encoding="latin-1"))
        scalar = run(name(core, "scalar"), dtype("f8"), b"U\x08" + struct.pack("<d", 2.5)) + b"."
        assert same(load(scalar), np.float64(2.5))


def test_python_2_protocol_0():
    data = b"(dp0\nS'it\\'s \\\\ \\x00\\xff\\n'\np1\n(lp2\nL5L\naI01\naF0.5\naVgr\\u00fcn\nas."
    assert load(data) == {"it's \\ \0\xff\n": [5, True, 0.5, "grün"]}
    assert load(data) == pickle.loads(data, encoding="latin-1")


@pytest.mark.parametrize("module", ["numpy.core.numeric", "numpy._core.numeric"])
def test_frombuffer_of_both_numpys(module):
    data = run(
        stack_name(module, "_frombuffer"), b"C\4\1\2\3\4", dtype(), b"K\2K\2\x86", b"\x8c\1F"
    )
    assert same(load(b"\x80\x05" + data + b"."), np.array([[1, 3], [2, 4]], "u1"))


# Files that Paddle writes


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_files_of_paddle(tmp_path, protocol):
    paddle = pytest.importorskip("paddle")
    paddle.seed(0)
    net = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4))
    schedule = paddle.optimizer.lr.StepDecay(0.1, 3)
    optimizer = paddle.optimizer.Adam(schedule, parameters=net.parameters())
    net(paddle.ones([5, 3])).sum().backward()
    optimizer.step()
    schedule.step()
    values = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "nested": {"net": dict(net.state_dict()), "epoch": 3, "best": [0.5, ("a", None)]},
        "tensor": paddle.arange(5),
        "scalar": paddle.to_tensor(3.0),
        "mixed": {"bool": paddle.ones([2], "bool"), "list": [paddle.ones([1])], "np": np.ones(2)},
    }
    for title, value in values.items():
        path = tmp_path / title
        paddle.save(value, str(path), protocol=protocol)
        expected = paddle.load(str(path), return_numpy=True)
        read = load(path)
        if isinstance(value, dict):  # Paddle drops this table when it loads
            read.pop("StructuredToParameterName@@", None)
            expected.pop("StructuredToParameterName@@", None)
        assert same(read, expected), title


@pytest.mark.parametrize("part", ["meta", "test", "train"])
def test_cifar(part, cifar100):
    with tarfile.open(cifar100) as tar:
        data = tar.extractfile(f"cifar-100-python/{part}").read()
    assert same(load(data), pickle.loads(data, encoding="latin-1"))


# Attacks.  Each gives a pickle without its last byte, STOP, and what the message must name.  SHELL
# stands for a command, CODE for a Python expression, that leave a file behind when they run.

SHELL, CODE = b"X\x05\0\0\0SHELL", b"X\x04\0\0\0CODE"
FUNCTIONS = {  # what the file names, and the argument that it is to be called with
    "os.system": SHELL,
    "posix.system": SHELL,
    "nt.system": SHELL,
    "os.popen": SHELL,
    "subprocess.Popen": SHELL,
    "subprocess.getoutput": SHELL,
    "pty.spawn": SHELL,
    "builtins.eval": CODE,
    "builtins.exec": CODE,
    "__builtin__.eval": CODE,
    "__builtin__.execfile": SHELL,
    "builtins.__import__": atom("os"),
    "builtins.getattr": atom("os"),
    "builtins.open": SHELL,
    "builtins.bytearray": b"J\xff\xff\xff\x7f",
    "builtins.set": b"]",
    "builtins.type": atom("x"),
    "builtins.tuple.__new__": b"]",
    "importlib.import_module": atom("os"),
    "runpy.run_path": SHELL,
    "code.interact": CODE,
    "timeit.timeit": CODE,
    "pickle.loads": CODE,
    "_pickle.loads": CODE,
    "marshal.loads": CODE,
    "types.CodeType": atom(0),
    "types.FunctionType": atom(0),
    "functools.partial": atom("os"),
    "operator.attrgetter": atom("system"),
    "operator.methodcaller": atom("system"),
    "copy_reg._reconstructor": atom(0),
    "copyreg._reconstructor": atom(0),
    "copyreg.__newobj__": atom(0),
    "shutil.rmtree": atom("/no/such/folder"),
    "ctypes.CDLL": atom("libc.so.6"),
    "webbrowser.open": atom("http://localhost"),
    "numpy.load": SHELL,
    "numpy.fromfile": SHELL,
    "numpy.f2py.crackfortran.myeval": CODE,
    "numpy.testing._private.utils.runstring": CODE,
    "numpy.core.multiarray.fromfile": SHELL,
    "numpy._core.multiarray._reconstruct.__globals__": SHELL,
    "paddle.load": SHELL,
    "paddle.utils.cpp_extension.load": SHELL,
    "_codecs.decode": CODE,
    "_codecs.lookup": CODE,
    "collections.Counter": b"]",
    "collections.defaultdict": b"]",
}
CODECS_ENCODE = name("_codecs", "encode")
COMPLEX = name("builtins", "complex")
FROMBUFFER = name("numpy.core.numeric", "_frombuffer")
ORDERED = name("collections", "OrderedDict")
POPEN = name("subprocess", "Popen")
RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
SCALAR = name("numpy.core.multiarray", "scalar")
SYSTEM = name("posix", "system")
TUPLE = name("builtins", "tuple")
ONE = array((1,), data=b"a")
UNFILLED = run(RECONSTRUCT, NDARRAY, b"K\0\x85", b"U\1b")
FILLING = b"(K\1K\1\x85" + dtype() + b"\x89C\1atb"
LATIN = atom("latin1")
LONG = atom("a" * 10**5)
HUGE8 = struct.pack("<Q", 2**62)
PRIME = 2**61 - 1  # all multiples of it have the same hash
MANY = range(20000)


def doubling(level: bytes, first: bytes) -> bytes:
    """A tuple of 60 levels, each of which holds the level before it twice: 2**60 leaves."""
    return b"(" + first + b"".join(level % (i, i, i + 1) for i in range(60)) + b"t"


# Other ways to make, change or call an object.
OBJECTS = {
    "inst": (b"(" + SHELL + b"iposix\nsystem\n", "posix.system"),
    "inst-known-name": (b"(icollections\nOrderedDict\n", "collections.OrderedDict"),
    "obj": (b"(" + SYSTEM + SHELL + b"o", "posix.system"),
    "obj-known-name": (b"(" + ORDERED + b"o", "OBJ 'collections.OrderedDict'"),
    "newobj": (POPEN + SHELL + b"\x85\x81", "subprocess.Popen"),
    "newobj-known-name": (NDARRAY + b"K\1\x85\x85\x81", "NEWOBJ 'numpy.ndarray'"),
    "newobj-ex": (stack_name("subprocess", "Popen") + SHELL + b"\x85}\x92", "subprocess.Popen"),
    "newobj-ex-known-name": (NDARRAY + b"K\1\x85\x85}\x92", "NEWOBJ_EX 'numpy.ndarray'"),
    "ext1": (b"\x82\x07)R", "EXT1 '7'"),
    "ext2": (b"\x83\x07\0)R", "EXT2 '7'"),
    "ext4": (b"\x84\x07\0\0\0)R", "EXT4 '7'"),
    "persid": (b"Pmy secret object\n", "PERSID 'my secret object'"),
    "binpersid": (atom("my secret object") + b"Q", "BINPERSID 'my secret object'"),
    "binpersid-of-a-name": (NDARRAY + b"Q", "BINPERSID 'numpy.ndarray'"),
    "binpersid-on-empty-stack": (b"Q", "empty stack"),
    "next-buffer": (b"\x97", "NEXT_BUFFER"),
    "readonly-buffer": (b"C\1a\x98", "READONLY_BUFFER"),
    "empty-set": (b"\x8f(K\1\x90", "EMPTY_SET"),
    "frozenset": (b"(K\1\x91", "FROZENSET"),
    "dup": (b"]2a", "DUP"),
    "pop": (b"K\1K\0000", "POP"),
    "pop-mark": (b"K\1(1", "POP_MARK"),
    "reduce-text": (run(atom("posix.system"), SHELL), "a value of kind str"),
    "reduce-array": (run(ONE, SHELL), "a value of kind ndarray"),
    "reduce-through-memo": (SYSTEM + b"q\0" + SHELL + b"\x85q\1h\0h\1R", "posix.system"),
    "name-from-memo": (
        atom("posix") + b"q\0" + atom("system") + b"q\1h\0h\1\x93" + SHELL + b"\x85R",
        "posix.system",
    ),
    "reduce-as-argument": (run(ORDERED, run(SYSTEM, SHELL)), "posix.system"),
    "callable-as-argument": (run(ORDERED, SYSTEM), "posix.system"),
    "name-not-text": (b"K\1K\2\x93", "a name is not text"),
    "name-with-newline": (stack_name("os\nfine", "x\x1b[0m"), r"os\nfine.x\x1b[0m"),
    "name-very-long": (b"cos\n" + b"A" * 10**6 + b"\n", "os.AAAA"),
    "name-that-grows-when-quoted": (stack_name("os", "🦉" * 60), r"os.\U0001f989"),
    "name-not-utf-8": (b"c\xff\xfe\nsystem\n", r"\ufffd\ufffd.system"),
    "name-only": (SYSTEM, "posix.system"),
    "known-name-only": (NDARRAY, "a bare name"),
    "known-name-in-list": (b"(" + NDARRAY + b"l", "a bare name"),
    "known-name-in-dict": (b"}K\1" + NDARRAY + b"s", "a bare name"),
    "known-name-as-key": (b"}" + NDARRAY + b"K\1s", "a bare name"),
    "dtype-only": (dtype(), "a bare dtype"),
    "arguments-only": (NDARRAY + b"\x85", "a bare arguments"),
    "arguments-in-tuple": (NDARRAY + b"\x85\x85", "is due (byte 16)"),
    "array-unfilled": (UNFILLED, "a bare array"),
    "array-unfilled-in-list": (b"]" + UNFILLED + b"a", "a bare array"),
    "build-setstate": (UNFILLED + b"}" + atom("__setstate__") + SYSTEM + b"sb", "posix.system"),
    "build-dict-update": (UNFILLED + b"}" + atom("__class__") + SHELL + b"sb", "'array'"),
    "build-array-twice": (UNFILLED + FILLING + FILLING, "'ndarray'"),
    "build-array-twice-by-memo": (
        b"(" + UNFILLED + b"q\0" + FILLING + b"h\0" + FILLING + b"t",
        "'ndarray'",
    ),
    "build-array-in-its-own-state": (
        UNFILLED + b"q\0(h\0" + FILLING + b"K\1\x85" + dtype() + b"\x89C\1atb",
        "'array'",
    ),
    "build-array": (ONE + b"}b", "'ndarray'"),
    "build-ordered-dict": (run(ORDERED) + b"}b", "'OrderedDict'"),
    "build-list": (b"]}b", "'list'"),
    "build-text": (SHELL + b"}b", "'str'"),
    "build-name": (name("numpy", "dtype") + b"}b", "'numpy.dtype'"),
}
# Known names with arguments that are not NumPy's or Paddle's.
NUMPY_DTYPE = name("numpy", "dtype")
ARGUMENTS = {
    "reconstruct-code": (array((1,), data=b"a", of=POPEN), "subprocess.Popen"),
    "reconstruct-matrix": (array((1,), data=b"a", of=name("numpy", "matrix")), "numpy.matrix"),
    "reconstruct-dtype": (array((1,), data=b"a", of=NUMPY_DTYPE), "._reconstruct'"),
    "reconstruct-text": (array((1,), data=b"a", of=SHELL), "._reconstruct'"),
    "dtype-object-8": (array((1,), dtype("O8"), [b"(" + SYSTEM + b"l"]), "dtype 'O8'"),
    "dtype-object": (array((1,), dtype("O"), b"\1" * 8), "dtype 'O'"),
    "dtype-void": (array((1,), dtype("V8"), b"\1" * 8), "dtype 'V8'"),
    "dtype-with-commas": (array((1,), dtype("i4,O"), b"\1" * 12), "dtype 'i4,O'"),
    "dtype-with-shape": (array((1,), dtype("(2,)u1"), b"\1" * 2), "dtype '(2,)u1'"),
    "dtype-of-time": (array((1,), dtype("M8[ns]"), b"\1" * 8), "dtype 'M8[ns]'"),
    "dtype-not-text": (run(NUMPY_DTYPE, b"]", b"K\0K\1"), "'numpy.dtype'"),
    "dtype-of-dtype": (run(NUMPY_DTYPE, dtype(), b"K\0K\1"), "'numpy.dtype'"),
    "dtype-of-nothing": (run(NUMPY_DTYPE), "'numpy.dtype'"),
    "dtype-zero-wide": (array((2**40,), dtype("S0")), "dtype 'S0'"),
    "dtype-very-wide": (array((1,), dtype("S99999999999"), b"a"), "dtype 'S99999999999'"),
    "dtype-other-digits": (dtype("u١"), r"dtype 'u\u0661'"),
    "dtype-fields-of-objects": (
        dtype(state=(3, "<", None, ("a",), {"a": ("O", 0)}, 8, 8, 63)),
        "set the state of 'dtype'",
    ),
    "dtype-subarray": (dtype(state=(3, "<", ("O", (2,)), None, None, 8, 8, 0)), "of 'dtype'"),
    "dtype-metadata": (dtype(state=(4, "<", None, None, None, -1, -1, 0, {"m": 1})), "of 'dtype'"),
    "dtype-byte-order": (dtype(state=(3, "x", None, None, None, -1, -1, 0)), "BUILD does not fit"),
    "dtype-state-of-arrays": (
        run(NUMPY_DTYPE, atom("u1"), b"K\0K\1") + b"(" + ONE * 8 + b"tb",
        "of 'dtype'",
    ),
    "shape-oversized": (array((2**40,), data=b"a"), "(1099511627776,)"),
    "shape-overflows": (array((2**62, 4), dtype("f8"), b"a" * 8), "(4611686018427387904, 4)"),
    "shape-overflows-to-0": (array((2**62, 4)), "(4611686018427387904, 4)"),
    "shape-too-small": (array((1,), data=b"abc"), "3 bytes are no uint8 array of shape (1,)"),
    "shape-negative": (array((-1,), data=b"a"), "(-1,)"),
    "shape-negative-twice": (array((-2, -2), data=b"abcd"), "(-2, -2)"),
    "shape-empty-but-endless": (array((2**61, 0)), "is too long"),
    "shape-of-huge-integers": (array((2**2000,) * 32, data=b"a"), "of shape (1148"),
    "shape-of-floats": (array((1.0,), data=b"a"), "32 integers"),
    "shape-of-arrays": (UNFILLED + b"(K\1" + ONE + b"\x85" + dtype() + b"\x89C\1atb", "integers"),
    "shape-no-tuple": (array(1, data=b"a"), "32 integers"),
    "shape-of-100-dimensions": (array((1,) * 100, data=b"a"), "32 integers"),
    "too-few-bytes": (array((1000,), dtype("f8"), b"a" * 999), "999 bytes are no float64 array"),
    "array-of-a-list": (array((1,), data=[b"]K\1a"]), "no dtype or no bytes"),
    "array-without-dtype": (array((1,), b"N", b"a"), "no dtype or no bytes"),
    "array-state-of-7": (UNFILLED + b"(K\1K\1\x85" + dtype() + b"NNNNtb", "of 'array'"),
    "array-beyond-latin-1": (array((1,), data=[atom("注")]), "BUILD does not fit"),
    "array-order-an-array": (
        UNFILLED + b"(K\1K\1\x85" + dtype() + array((2,), data=b"ab") + b"C\1atb",
        "BUILD does not fit",
    ),
    "bool-out-of-range": (array((2,), dtype("b1"), b"\1\7"), "bool data is out of range"),
    "text-beyond-unicode": (array((1,), dtype("U1"), b"\xff" * 4), "<U1 data is out of range"),
    "scalar-object": (run(SCALAR, dtype("O8"), SHELL), "dtype 'O8'"),
    "scalar-too-short": (run(SCALAR, dtype("f8"), b"U\1a"), "1 bytes are no float64"),
    "scalar-one-argument": (run(SCALAR, dtype("f8")), ".scalar'"),
    "frombuffer-order": (run(FROMBUFFER, b"C\1a", dtype(), b"K\1\x85", SHELL), "._frombuffer'"),
    "frombuffer-axes": (
        run(FROMBUFFER, b"C\1a", dtype(), b"K\1\x85", atom("K"), atom((5, 5))),
        "REDUCE does not fit",
    ),
    "ndarray-called": (run(NDARRAY, atom((2**40,))), "'numpy.ndarray'"),
    "arguments-a-list": (ORDERED + b"]R", "'collections.OrderedDict'"),
    "encode-zip": (run(CODECS_ENCODE, SHELL, atom("zip")), "'_codecs.encode' with 'zip'"),
    "encode-bz2": (run(CODECS_ENCODE, SHELL, atom("bz2")), "'_codecs.encode' with 'bz2'"),
    "encode-rot13": (run(CODECS_ENCODE, SHELL, atom("rot13")), "'_codecs.encode' with 'rot13'"),
    "encode-unknown": (run(CODECS_ENCODE, SHELL, atom("a\nb")), r"with 'a\nb'"),
    "encode-with-array": (run(CODECS_ENCODE, SHELL, ONE), "'_codecs.encode' with other arguments"),
    "encode-bytes": (run(CODECS_ENCODE, b"C\1a", LATIN), "'_codecs.encode'"),
    "encode-beyond-latin-1": (run(CODECS_ENCODE, atom("注"), LATIN), "REDUCE does not fit"),
    "encode-surrogate": (run(CODECS_ENCODE, atom("\udc80"), LATIN), "REDUCE does not fit"),
    "tuple-of-list": (run(TUPLE, b"]"), "'builtins.tuple'"),
    "tuple-of-text": (run(TUPLE, SHELL), "'builtins.tuple'"),
    "tuple-of-three": (run(TUPLE, atom("a") + ONE + b"N\x87"), "'builtins.tuple'"),
    "tuple-of-callable": (run(TUPLE, atom("a") + SYSTEM + b"\x86"), "posix.system"),
    "ordered-dict-callable": (run(ORDERED, b"]" + atom("a") + SYSTEM + b"\x86a"), "posix.system"),
    "ordered-dict-pairs": (run(ORDERED, b"](K\1K\2la"), "'collections.OrderedDict'"),
    "complex-of-text": (run(COMPLEX, atom("1"), atom("j")), "'builtins.complex'"),
    "bytes-of-a-number": (run(name("builtins", "bytes"), b"J\xff\xff\xff\x7f"), "builtins.bytes"),
}
# Sizes that lie, and what grows, nests or takes its time without end.
BOMBS = {
    "binbytes8-of-2**62": (b"\x8e" + HUGE8 + b"a", "4611686018427387904 more bytes are due"),
    "binunicode8-of-2**62": (b"\x8d" + HUGE8 + b"a", "4611686018427387904"),
    "bytearray8-of-2**62": (b"\x96" + HUGE8 + b"a", "4611686018427387904"),
    "bytearray8-of-2**64-1": (b"\x96" + b"\xff" * 8 + b"a", "18446744073709551615"),
    "binbytes-of-4-gib": (b"B\xff\xff\xff\xffa", "4294967295"),
    "binunicode-of-4-gib": (b"X\xff\xff\xff\xffa", "4294967295"),
    "binstring-negative": (b"T\xff\xff\xff\xffa", "cut short"),
    "binstring-of-2-gib": (b"T\xff\xff\xff\x7fa", "2147483647"),
    "frame-of-2**62": (b"\x95" + HUGE8 + b"N", "a frame of 4611686018427387904"),
    "long4-of-2-gib": (b"\x8b\xff\xff\xff\x7fa", "2147483647"),
    "long4-negative": (b"\x8b\xff\xff\xff\xffa", "cut short"),
    "long4-too-long": (b"\x8b\x40\x42\x0f\0" + b"a" * 10**6, "a number of 1000000 bytes"),
    "long-of-10**6-digits": (b"L" + b"9" * 10**6 + b"L\n", "a number of 1000001 digits"),
    "int-of-10**6-digits": (b"I" + b"9" * 10**6 + b"\n", "a number of 1000000 digits"),
    "float-of-10**6-digits": (b"F" + b"9" * 10**6 + b"\n", "a number of 1000000 digits"),
    "get-of-10**6-digits": (b"g" + b"9" * 10**6 + b"\n", "a number of 1000000 digits"),
    "put-colliding-numbers": (b"N" + b"".join(b"p%d\n" % (i * PRIME) for i in MANY), str(PRIME)),
    "put-huge-number": (b"Nr\xff\xff\xff\xff", "number 4294967295"),
    "put-negative-number": (b"Np-1\n", "number -1"),
    "keys-colliding": (
        b"}(" + b"".join(atom(i * PRIME) + b"N" for i in MANY) + b"u",
        "a dictionary key is of kind int, or too large",
    ),
    "keys-floats": (b"}G" + struct.pack(">d", 0.5) + b"Ns", "a dictionary key is of kind float"),
    "nested-lists": (b"]" * 10**5 + b"a" * (10**5 - 1), "nested more than 100 deep"),
    "nested-lists-of-marks": (b"(" * 10**5 + b"l" * 10**5, "nested more than 100 deep"),
    "nested-tuples": (b")" + b"\x85" * 10**5, "nested more than 100 deep"),
    "nested-dicts": (b"}K\0" * 10**5 + b"}" + b"s" * 10**5, "nested more than 100 deep"),
    "nested-101-deep": (b"]" * 101 + b"a" * 100, "nested more than 100 deep"),
    "nested-but-met-from-below": (
        b"(]q\0" + b"".join(b"]h%caq%c" % (i, i + 1) for i in range(200)) + b"t",
        "nested more than 100 deep",
    ),
    "marks-only": (b"(" * 10**5, "before its object is complete"),
    "laughs-lists": (doubling(b"](h%ch%ceq%c", b"]q\0"), "8 times its own size"),
    "laughs-tuples": (doubling(b"h%ch%c\x86q%c", b")q\0"), "8 times its own size"),
    "laughs-dicts": (doubling(b"}(K\0h%cK\1h%cuq%c", b"}q\0"), "8 times its own size"),
    "laughs-as-key": (b"}" + doubling(b"h%ch%c\x86q%c", b")q\0") + b"Ns", "is of kind tuple"),
    "laughs-arrays": (
        b"](" + array((10**4,), data=b"a" * 10**4) + b"q\0" + b"h\0" * 10**4 + b"e",
        "8 times its own size",
    ),
    "encoded-often": (
        b"](" + CODECS_ENCODE + b"q\0" + LONG + LATIN + b"\x86q\1" + b"Rh\0h\1" * 10**4 + b"Re",
        "8 times its own size",
    ),
    "scalar-often": (
        b"](" + SCALAR + b"q\0" + dtype("S100000") + LONG + b"\x86q\1" + b"Rh\0h\1" * 10**4 + b"Re",
        "8 times its own size",
    ),
    "list-in-itself": (b"]q\0h\0a", "nested more than 100 deep"),
    "list-in-its-tuple": (b"]q\0h\0\x85a", "nested more than 100 deep"),
    "list-often-in-itself": (b"]q\0(h\0h\0h\0h\0e", "nested more than 100 deep"),
    "dict-in-itself": (b"}q\0K\1h\0s", "nested more than 100 deep"),
}
MALFORMED = {
    "stop-only": (b"", "before its object is complete"),
    "two-objects": (b"NN", "before its object is complete"),
    "more-after-the-end": (b"N." + run(SYSTEM, SHELL), "bytes follow its end"),
    "unknown-protocol": (b"\x80\6N", "protocol 6"),
    "unknown-instruction": (b"\xff", "0xff"),
    "web-page": (b"<!DOCTYPE html><html></html>", "0x3c"),
    "gzip": (b"\x1f\x8b\x08\0\0", "0x1f"),
    "get-without-put": (b"h\0", "value 0, which it never stored"),
    "get-text-without-put": (b"g12\n", "value 12, which"),
    "long-get-without-put": (b"j\xff\xff\xff\xff", "value 4294967295, which"),
    "put-on-empty-stack": (b"q\0", "empty stack"),
    "memoize-on-empty-stack": (b"\x94", "empty stack"),
    "tuple-underflow": (b"K\1\x87", "empty stack"),
    "tuple-without-mark": (b"K\1t", "a mark that it never set"),
    "tuple-across-mark": (b"K\1(K\2\x86", "empty stack"),
    "append-on-empty-stack": (b"a", "empty stack"),
    "append-to-nothing": (b"K\1a", "empty stack"),
    "append-to-tuple": (b")K\1a", "kind tuple"),
    "append-to-name": (NDARRAY + b"K\1a", "kind name"),
    "append-to-array": (ONE + b"K\1a", "kind ndarray"),
    "setitems-on-list": (b"](K\1K\2u", "kind list"),
    "setitems-odd": (b"}(K\1K\2K\3u", "a dictionary key has no value"),
    "reduce-underflow": (b")R", "empty stack"),
    "build-underflow": (b"}b", "empty stack"),
    "key-list": (b"}]K\1s", "a dictionary key is of kind list"),
    "key-dict": (b"}}K\1s", "a dictionary key is of kind dict"),
    "key-array": (b"}" + ONE + b"K\1s", "a dictionary key is of kind ndarray"),
    "int-not-a-number": (b"Ixyz\n", "INT does not fit"),
    "int-without-newline": (b"I12", "inside a line"),
    "long-not-a-number": (b"LL\n", "LONG does not fit"),
    "float-not-a-number": (b"Fabc\n", "FLOAT does not fit"),
    "float-cut-short": (b"G\0\0\0", "8 more bytes are due"),
    "string-without-quotes": (b"Sabc\n", "STRING does not fit"),
    "string-one-quote": (b"S'\n", "STRING does not fit"),
    "string-unknown-escape": (b"S'\\q'\n", "STRING does not fit"),
    "string-half-escape": (b"S'\\'\n", "STRING does not fit"),
    "unicode-bad-escape": (b"V\\uzzzz\n", "UNICODE does not fit"),
    "unicode-beyond-unicode": (b"V\\U00110000\n", "UNICODE does not fit"),
    "utf-8-broken": (b"X\1\0\0\0\xff", "BINUNICODE does not fit"),
    "global-cut-short": (b"cposix", "inside a line"),
    "global-one-line": (b"cposix\nsystem", "inside a line"),
}
ATTACKS = {
    **{f"global {f}": (run(name(*f.rsplit(".", 1)), a), f) for f, a in FUNCTIONS.items()},
    **{f"stack {f}": (run(stack_name(*f.rsplit(".", 1)), a), f) for f, a in FUNCTIONS.items()},
    **OBJECTS,
    **ARGUMENTS,
    **BOMBS,
    **MALFORMED,
}
ATTACKS = {attack: (data + b".", named) for attack, (data, named) in ATTACKS.items()}
ATTACKS["empty-file"] = (b"", "has no STOP")
ATTACKS["protocol-only"] = (b"\x80", "cut short")
ATTACKS["no-stop"] = (b"]", "has no STOP")
ATTACKS["no-stop-after-mark"] = (b"\x80\2(]K\1", "has no STOP")


@pytest.fixture
def arm(tmp_path, monkeypatch):
    """Return a function that makes the payloads of a pickle leave a file in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def arm(data: bytes) -> bytes:
        code = "__import__('os').system('touch ran')"
        return data.replace(SHELL, atom("touch ran")).replace(CODE, atom(code))

    return arm


@pytest.mark.skipif(os.name != "posix", reason="the payload is a command of a POSIX shell")
@pytest.mark.parametrize("function", ["posix.system", "builtins.eval", "subprocess.getoutput"])
def test_attack_works_on_python_itself(arm, tmp_path, function):
    """Without this, the attacks below might be harmless for a reason of their own."""
    pickle.loads(arm(ATTACKS[f"global {function}"][0]))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_refused(arm, tmp_path, attack):
    data, named = ATTACKS[attack]
    data = arm(data)
    start = time.perf_counter()
    with pytest.raises(PickleError) as caught:
        load(data)
    assert time.perf_counter() - start < 2
    assert not list(tmp_path.iterdir())
    message = str(caught.value)
    assert named in message and re.search(r" \(byte \d+\)$", message)
    assert message.isprintable() and message.isascii() and len(message) < 300
    unsafe = message.startswith("refused: the file asks ")
    assert type(caught.value) is (UnsafePickleError if unsafe else PickleError)
    assert unsafe or not attack.startswith(("global ", "stack ", "inst", "obj", "newobj", "ext"))


@pytest.mark.parametrize("attack", [a for a in BOMBS if not a.startswith(("nested", "marks"))])
def test_bomb_takes_little_memory(attack):
    data = ATTACKS[attack][0]
    tracemalloc.start()
    try:
        with pytest.raises(PickleError):
            load(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20 + 20 * len(data)


def test_number_of_instructions_is_limited(monkeypatch):
    monkeypatch.setattr("nam_edu.machinery.safe_pickle._MAX_STEPS", 100)
    assert load(b"](" + b"N" * 96 + b"e.") == [None] * 96
    with pytest.raises(PickleError, match="more than 100 instructions"):
        load(b"](" + b"N" * 97 + b"e.")


def test_module_does_not_know_pythons_own_reader():
    import nam_edu.machinery.safe_pickle as module

    assert not {"pickle", "_pickle", "marshal", "importlib", "Unpickler"} & set(vars(module))


# Damage

SMALL = {title: value for title, value in PLAIN.items() if not title.endswith("-long")}
SEEDS = [
    *(pickle.dumps(value, protocol) for protocol in (0, 2, 5) for value in (SMALL, ARRAYS)),
    pickle.dumps({"w": Tensor("w", np.ones((2, 2), "f4")), "lr": 0.1, "names": {"w": "w_0"}}, 2),
    pickle.dumps(OrderedDict(w=Tensor("w", np.ones(3, ">f8")), step=np.int64(3)), 4),
    pickle.dumps([np.float32(1), 2**70, "é", b"\xff", (1, (2, [3])), None, True], 4),
    b"\x80\2}(U\4data" + array((2, 3), data=[b"T\6\0\0\0\0\1\2\x80\xfe\xff"]) + b"U\1nU\1au.",
    *(ATTACKS[attack][0] for attack in (*ARGUMENTS, "binpersid", "ext4", "laughs-lists")),
]
CODES = [ord(op.code) for op in pickletools.opcodes]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "copy"]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.sampled_from(CODES), st.integers(0, 255)),
    ),
    min_size=1,
    max_size=8,
)


def edit(data: bytes, edits) -> bytes:
    for action, where, whence, byte in edits:
        at, source = int(where * len(data)), int(whence * len(data))
        if action == "set":
            data = data[:at] + bytes([byte]) + data[at + 1 :]
        elif action == "insert":
            data = data[:at] + bytes([byte]) + data[at:]
        elif action == "delete":
            data = data[:at] + data[at + byte % 9 :]
        else:
            data = data[:at] + data[source : source + byte] + data[at:]
    return data


@settings(max_examples=FUZZ_EXAMPLES, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(SEEDS), EDITS)
def test_damage_ends_in_pickle_error(seed, edits):
    try:
        walk(load(edit(seed, edits)))
    except PickleError as error:
        assert str(error).isprintable() and len(str(error)) < 300


def walk(value) -> None:
    """Look at everything in an object, as its user would."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for part in value:
            walk(part)
    elif isinstance(value, np.ndarray):
        assert value.dtype.kind in "biufcSU" and not value.flags.writeable
        repr(value.tolist())
    else:
        assert isinstance(
            value, (type(None), bool, int, float, complex, str, bytes, bytearray, np.generic)
        )
        repr(value)
