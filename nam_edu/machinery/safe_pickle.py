"""Read pickles that hold arrays, numbers, text and containers, and refuse all others.

A pickle is a small program, and Python's own reader runs whatever it names.  This reader never
calls anything from the file: it steps through the instructions itself, and the few names it knows
(`_KNOWN`, at the end) are handled by its own code.  It reads what ``paddle.save`` and NumPy write,
and the Python-2 pickles that older data sets such as CIFAR come in.

Limits: a million instructions; containers nested 100 deep; numbers of 255 bytes or 640 digits;
dictionary keys that are text, bytes, None or integers below 2**31; and an object at most 8 times as
large as its file, where a part that occurs twice counts twice.  Sets, other classes, bytes after
the end and files that are cut short are refused.
"""

from __future__ import annotations

import math
import os
import pickletools
import re
import struct
import sys
from collections import OrderedDict
from typing import Any, BinaryIO, NoReturn

import numpy as np

_MAX_STEPS = 1_000_000
_MAX_DEPTH = 100
_MAX_NUMBER_BYTES = 255
_MAX_NUMBER_DIGITS = 640
_MAX_GROWTH = 8
_MAX_EMPTY = 2**24  # a (2**40, 0) array needs no bytes, but ruins whoever walks its rows
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9][0-9]{0,5}")
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.?)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}


class PickleError(ValueError):
    """The file is not a readable pickle of plain data; the message is one sentence."""


class UnsafePickleError(PickleError):
    """The pickle asks for code, or for an object that is not plain data."""


def load(data: bytes | BinaryIO | str | os.PathLike, *, encoding: str = "latin-1") -> Any:
    """Return the object in a pickle of plain data, without running anything that the file names.

    `data` is the pickle itself (bytes-like), a file open for reading bytes, or a path.  `encoding`
    ("latin-1", "ascii" or "utf-8") turns Python-2 strings into text; Python-2 arrays need latin-1.
    Arrays have this machine's byte order and are read-only, so copy one to change it.  A tensor
    that ``paddle.save`` wrote comes back as its array, without its name.

    Raises PickleError for a pickle that is damaged, cut short or beyond the limits above, and its
    subclass UnsafePickleError for one that asks for anything but data; OSError if the path cannot
    be read, TypeError if `data` is none of these, and ValueError for another encoding.
    """
    if encoding not in ("latin-1", "ascii", "utf-8"):
        raise ValueError(f"encoding must be latin-1, ascii or utf-8, not {encoding!r}")
    if isinstance(data, (str, os.PathLike)):
        with open(data, "rb") as file:
            data = file.read()
    elif hasattr(data, "read"):
        data = data.read()
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"a pickle is bytes, a binary file or a path, not {type(data).__name__}")
    return _Reader(bytes(data), encoding).run()


class _Symbol:
    """What may lie on the stack without being data; it never reaches the caller.

    A "name" has a key of `_KNOWN` as its value, a "dtype" an np.dtype, an "array" nothing until
    BUILD brings its content, and "arguments" a tuple with a name or dtype in it.
    """

    __slots__ = ("kind", "value")

    def __init__(self, kind: str, value: Any = None) -> None:
        self.kind, self.value = kind, value


def _kind(item: Any) -> str:
    return item.kind if isinstance(item, _Symbol) else type(item).__name__


def _show(text: str) -> str:
    """Quote text from the file: on one line, and not too much of it."""
    shown = ascii(text[:100])  # quotes, and up to ten characters for each of these
    return shown if len(shown) <= 90 else shown[:86] + "..." + shown[-1]


def _unquote(body: bytes) -> bytes:
    """Undo the repr() of a Python-2 string."""
    if len(body) < 2 or body[:1] not in (b"'", b'"') or body[:1] != body[-1:]:
        raise ValueError("a string has no quotes")

    def plain(match: re.Match) -> bytes:
        escape = match[1]
        if len(escape) < 3 and escape not in _ESCAPED:
            raise ValueError("a string has an unknown escape")
        return bytes([int(escape[1:], 16)]) if len(escape) == 3 else _ESCAPED[escape]

    return _ESCAPE.sub(plain, body[1:-1])


def _decode(kind: str, body: Any, encoding: str) -> Any:
    """Return the argument of an instruction from its bytes; `kind` is what pickletools calls it."""
    if kind.startswith("uint"):
        return int.from_bytes(body, "little")
    if kind.startswith(("int", "long")):
        if len(body) > _MAX_NUMBER_BYTES:
            raise ValueError(f"a number of {len(body)} bytes is too long")
        return int.from_bytes(body, "little", signed=True)
    if kind in ("string1", "string4"):
        return str(body, encoding)
    if kind in ("unicodestring1", "unicodestring4", "unicodestring8"):
        return str(body, "utf-8", "surrogatepass")
    if kind in ("bytes1", "bytes4", "bytes8"):
        return bytes(body)
    if kind == "bytearray8":
        return bytearray(body)
    if kind == "float8":
        return struct.unpack(">d", body)[0]
    if kind == "stringnl":
        return str(_unquote(body), encoding)
    if kind == "unicodestringnl":
        return str(body, "raw-unicode-escape")
    if kind in ("floatnl", "decimalnl_short", "decimalnl_long"):
        if len(body) > _MAX_NUMBER_DIGITS:  # the time of int() grows with the square of the length
            raise ValueError(f"a number of {len(body)} digits is too long")
        if kind == "floatnl":
            return float(body)
        if body in (b"00", b"01"):  # how protocols 0 and 1 write False and True
            return body == b"01"
        return int(body[:-1] if body.endswith(b"L") else body)
    # What is left is the name of something, for a person to read or to be looked up in _KNOWN.
    lines = str(body, "utf-8", "replace").split("\n")
    return lines if kind == "stringnl_noescape_pair" else lines[0]


_OPCODES = {ord(op.code): op for op in pickletools.opcodes}
_VALUES = set(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 "
    "BYTEARRAY8".split()
)
_WALKED = (list, tuple, dict, np.ndarray)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# What makes or fills a container, and how many values it takes; None is all down to the last MARK.
_GATHERERS: dict[str, int | None] = {
    **{"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None},
    **{"EMPTY_LIST": 0, "LIST": None, "APPEND": 1, "APPENDS": None},
    **{"EMPTY_DICT": 0, "DICT": None, "SETITEM": 2, "SETITEMS": None},
}


class _Reader:
    """The stack machine: `stack` is what lies above the last MARK, `marks` the stacks below it."""

    def __init__(self, raw: bytes, encoding: str) -> None:
        self.raw, self.view, self.encoding = raw, memoryview(raw), encoding
        self.at = self.next = 0  # byte offsets: of this instruction, and of what is unread
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.steps = 0
        self.allowance = self.largest = _MAX_GROWTH * len(raw) + 1000

    def fail(self, why: str) -> NoReturn:
        raise PickleError(f"this is no readable pickle of plain data: {why} (byte {self.at})")

    def refuse(self, what: str) -> NoReturn:
        at = f"(byte {self.at})"
        raise UnsafePickleError(f"refused: the file asks {what}, which is not data {at}")

    def run(self) -> Any:
        name = ""
        while name != "STOP":
            self.at = self.next
            name, kind, body = self.instruction()
            try:
                self.step(name, _decode(kind, body, self.encoding) if kind else None)
            except PickleError:
                raise
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                # What no check below foresaw is still no more than a malformed file.
                self.fail(f"{name} does not fit: {_show(str(error))}")
        if self.next != len(self.raw):
            self.fail(f"{len(self.raw) - self.next} bytes follow its end")
        if self.marks or len(self.stack) != 1:
            self.fail("it ends before its object is complete")
        result = self.plain(self.stack)[0]
        self.measure(result, 1, {})
        return result

    def take(self, size: int) -> memoryview:
        left = len(self.raw) - self.next
        if size > left:
            self.fail(f"it is cut short, as {size} more bytes are due and {left} remain")
        self.next += size
        return self.view[self.next - size : self.next]

    def instruction(self) -> tuple[str, str, Any]:
        """Return the next instruction: name, kind of argument ("" if none), bytes of it."""
        self.steps += 1
        if self.steps > _MAX_STEPS:
            self.fail(f"it has more than {_MAX_STEPS} instructions")
        if self.next == len(self.raw):
            self.fail("it is cut short, as it has no STOP at its end")
        code = self.take(1)[0]
        if code not in _OPCODES:
            self.fail(f"no instruction has the code {code:#04x}")
        name, argument = _OPCODES[code].name, _OPCODES[code].arg
        if argument is None:
            return name, "", b""
        if argument.n >= 0:
            return name, argument.name, self.take(argument.n)
        if argument.n != pickletools.UP_TO_NEWLINE:
            # The last digit of "string4" is the size of its length.  A negative length, where the
            # format has a sign, reads as one that is far too large.
            size = int.from_bytes(self.take(int(argument.name[-1])), "little")
            return name, argument.name, self.take(size)
        end = self.raw.find(b"\n", self.next)
        if end >= 0 and argument.name == "stringnl_noescape_pair":  # two lines
            end = self.raw.find(b"\n", end + 1)
        if end < 0:
            self.fail("it is cut short inside a line")
        body = bytes(self.take(end - self.next))
        self.next = end + 1
        return name, argument.name, body

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            index = len(self.memo) if name == "MEMOIZE" else argument
            if not 0 <= index < _MAX_STEPS:  # and so too small for their hashes to collide
                self.fail(f"it stores a value as number {_show(str(index))[1:-1]}")
            self.memo[index] = self.top()
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            if argument not in self.memo:
                self.fail(f"it asks for value {_show(str(argument))[1:-1]}, which it never stored")
            item = self.memo[argument]
            filled = _kind(item) == "array" and item.value is not None
            stack.append(item.value if filled else item)
        elif name == "MARK":
            self.marks.append(stack)
            self.stack = []
        elif name in _GATHERERS:
            items = self.pop(_GATHERERS[name])
            if "TUPLE" in name:
                self.stack.append(self.make_tuple(items))
            elif name in ("EMPTY_LIST", "LIST"):
                self.stack.append(self.plain(items))
            elif name in ("EMPTY_DICT", "DICT"):
                self.stack.append(self.set_items({}, items))
            elif name in ("APPEND", "APPENDS"):
                self.top(list).extend(self.plain(items))
            else:
                self.set_items(self.top(dict, OrderedDict), items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(self.known_name(*(argument or self.pop(2))))
        elif name == "REDUCE":
            stack.append(self.call(*self.pop(2)))
        elif name == "BUILD":
            stack.append(self.build(*self.pop(2)))
        elif name == "PROTO":
            if argument > 5:
                self.fail(f"pickle protocol {argument} is not known")
        elif name == "FRAME":
            if argument > len(self.raw) - self.next:
                self.fail(f"it is cut short, as a frame of {argument} bytes is due")
        elif name == "INST":
            self.refuse(f"to run {_show('.'.join(argument))}")
        elif name != "STOP":
            if name == "BINPERSID" and type(self.top()) is str:
                argument = self.top()
            names = [".".join(item.value) for item in stack if _kind(item) == "name"]
            shown = [_show(str(x)) for x in [argument, *names[-1:]] if x is not None]
            self.refuse(" ".join([f"for the instruction {name}", *shown]))

    def top(self, *types: type) -> Any:
        if not self.stack:
            self.fail("it takes a value from an empty stack")
        if types and type(self.stack[-1]) not in types:
            self.fail(f"it adds elements to a value of kind {_kind(self.stack[-1])}")
        return self.stack[-1]

    def pop(self, count: int | None) -> list[Any]:
        if count is None:
            if not self.marks:
                self.fail("it looks for a mark that it never set")
            items, self.stack = self.stack, self.marks.pop()
            return items
        if len(self.stack) < count:
            self.fail("it takes a value from an empty stack")
        start = len(self.stack) - count
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def spend(self, size: int) -> None:
        """Count bytes made, for the same few stored bytes could be converted without end."""
        self.allowance -= size
        if self.allowance < 0:
            self.fail(f"it unfolds to more than {_MAX_GROWTH} times its own size")

    def measure(self, item: Any, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
        """Return the size of an object as if nothing in it were shared, and its height."""
        if id(item) in known:
            return known[id(item)]
        size, height = 1, 1
        if isinstance(item, np.ndarray):
            size += item.nbytes
        elif isinstance(item, _WALKED) and depth <= _MAX_DEPTH:  # so a cycle ends here as well
            for child in item.values() if isinstance(item, dict) else item:
                if isinstance(child, _WALKED):
                    inner, below = self.measure(child, depth + 1, known)
                    size, height = size + inner, max(height, below + 1)
                else:
                    size += 1
        if max(depth, height) > _MAX_DEPTH:
            self.fail(f"its containers are nested more than {_MAX_DEPTH} deep")
        if size > self.largest:
            self.fail(f"it unfolds to more than {_MAX_GROWTH} times its own size")
        known[id(item)] = size, height
        return size, height

    def plain(self, items: list[Any]) -> list[Any]:
        for item in items:
            if isinstance(item, _Symbol):
                self.fail(f"a bare {item.kind} stands where data is due")
        return items

    def make_tuple(self, items: list[Any]) -> Any:
        self.plain([item for item in items if _kind(item) not in ("name", "dtype")])
        is_data = not any(isinstance(item, _Symbol) for item in items)
        return tuple(items) if is_data else _Symbol("arguments", tuple(items))

    def set_items(self, target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
        if len(items) % 2:
            self.fail("a dictionary key has no value")
        for key, value in zip(items[::2], self.plain(items)[1::2]):
            # Large numbers can be chosen so that all their hashes collide: the dict then crawls.
            small = type(key) in (bool, int) and abs(key) < 2**31
            if not (small or key is None or type(key) in (str, bytes)):
                self.fail(f"a dictionary key is of kind {_kind(key)}, or too large a number")
            target[key] = value
        return target

    def known_name(self, module: Any, name: Any) -> _Symbol:
        if type(module) is not str or type(name) is not str:
            self.fail("a name is not text")
        known = (_ALIASES.get(module, module), name)
        if known not in _KNOWN:
            self.refuse(f"to run {_show(f'{module}.{name}')}")
        return _Symbol("name", known)

    def call(self, function: Any, arguments: Any) -> Any:
        if _kind(function) != "name":
            self.refuse(f"to run a value of kind {_kind(function)}")
        arguments = arguments.value if _kind(arguments) == "arguments" else arguments
        counts, handler = _KNOWN[function.value]
        result = None
        if type(arguments) is tuple and len(arguments) in counts:
            result = handler(self, *arguments)
        if result is None:
            self.refuse(f"to run {_show('.'.join(function.value))} with other arguments")
        return result

    def build(self, target: Any, state: Any) -> Any:
        state = state.value if _kind(state) == "arguments" else state
        size = len(state) if type(state) is tuple else 0
        if _kind(target) == "array" and target.value is None and size == 5:
            _version, shape, dtype, fortran, data = state
            target.value = self.array(data, dtype, shape, "F" if fortran else "C")
            return target.value
        if _kind(target) == "dtype" and size == 8:
            if type(state[1]) is str and all(part is None for part in state[2:5]):  # no fields
                target.value = target.value.newbyteorder(state[1])
                return target
        what = ".".join(target.value) if _kind(target) == "name" else _kind(target)
        self.refuse(f"to set the state of {_show(what)}")

    def array(self, data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
        """Return a read-only array over `data`, which must be as long as dtype and shape say."""
        if type(data) is str:  # a Python-2 string
            data = data.encode("latin-1")
        if _kind(dtype) != "dtype" or type(data) not in (bytes, bytearray):
            self.fail("an array has no dtype or no bytes")
        if type(shape) is not tuple or len(shape) > 32 or any(type(n) is not int for n in shape):
            self.fail("the shape of an array is not a tuple of at most 32 integers")
        self.spend(len(data))
        count, dtype = math.prod(shape), dtype.value
        if any(n < 0 for n in shape) or count * dtype.itemsize != len(data):
            self.fail(f"{len(data)} bytes are no {dtype} array of shape {_show(str(shape))[1:-1]}")
        if count == 0 and math.prod(n or 1 for n in shape) > _MAX_EMPTY:
            self.fail(f"an empty array of shape {_show(str(shape))[1:-1]} is too long")
        code, most = {"b": ("u1", 1), "U": ("u4", sys.maxunicode)}.get(dtype.kind, ("", 0))
        if count and code:  # compiled code takes it on trust that these values are in range
            if np.frombuffer(data, np.dtype(code).newbyteorder(dtype.byteorder)).max() > most:
                self.fail(f"{dtype} data is out of range")
        array: np.ndarray = np.ndarray(shape, dtype, data, order=order)
        if not dtype.isnative:
            array = array.astype(dtype.newbyteorder("="))
        array.flags.writeable = False
        return array

    def reconstruct(self, kind: Any, shape: Any, code: Any) -> Any:
        return _Symbol("array") if _kind(kind) == "name" and kind.value == _NDARRAY else None

    def from_buffer(self, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
        if type(order) is not str or order not in ("C", "F", "K"):
            return None
        array = self.array(data, dtype, shape, "F" if order == "F" else "C")
        return array.transpose(axes) if order == "K" and type(axes) is tuple else array

    def scalar(self, dtype: Any, data: Any) -> Any:
        return self.array(data, dtype, (), "C")[()]

    def dtype(self, code: Any, align: Any, copy: Any) -> Any:
        if type(code) is not str:
            return None
        if not _DTYPE.fullmatch(code):
            self.refuse(f"for an array of dtype {_show(code)}")
        return _Symbol("dtype", np.dtype(code))

    def encode(self, text: Any, codec: Any) -> Any:
        if type(text) is not str or type(codec) is not str:
            return None
        if codec != "latin1":
            self.refuse(f"to run '_codecs.encode' with {_show(codec)}")
        self.spend(len(text))
        return text.encode("latin-1")

    def tensor(self, pair: Any) -> Any:
        """Undo Paddle's way to store a tensor: tuple((name, array))."""
        fits = type(pair) is tuple and len(pair) == 2 and type(pair[0]) is str
        return pair[1] if fits and isinstance(pair[1], np.ndarray) else None

    def complex(self, real: Any, imag: Any) -> Any:
        return complex(real, imag) if type(real) is type(imag) is float else None


_NDARRAY = ("numpy", "ndarray")
_ALIASES = {  # as older NumPy and Python 2 call the same modules
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
    "__builtin__": "builtins",
}
# Name: how many arguments it may have, and what stands in for it here.
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy._core.multiarray", "_reconstruct"): ((3,), _Reader.reconstruct),
    ("numpy._core.multiarray", "scalar"): ((2,), _Reader.scalar),
    ("numpy._core.numeric", "_frombuffer"): ((4, 5), _Reader.from_buffer),
    ("numpy", "dtype"): ((3,), _Reader.dtype),
    _NDARRAY: ((), None),  # only ever an argument of _reconstruct
    ("_codecs", "encode"): ((2,), _Reader.encode),
    ("collections", "OrderedDict"): ((0,), lambda reader: OrderedDict()),
    ("builtins", "tuple"): ((1,), _Reader.tensor),
    ("builtins", "complex"): ((2,), _Reader.complex),
    ("builtins", "bytes"): ((0,), lambda reader: b""),
}
