"""Lessons 4 to 6: weights and training states on disk. Files are written whole or not at all,
checked when they are read, and read without running any code that they might bring along."""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from .machinery import safe_pickle
from .machinery.errors import NamEduError
from .machinery.files import named, new_file
from .machinery.language import words

MAX_UNPACKED = 2**31  # bytes of arrays in one file; ResNet-152 with its optimizer takes 0.5 GB

# Names of the original tutorial's modules (AI Studio project 4204121) and of ours.
TUTORIAL_NAMES = {".nam.Channel_Att.bn2.": ".attention.channel.bn."}


class CheckpointError(NamEduError):
    """A checkpoint that is missing, damaged or of another network; says what to do."""


# ------------------------------------------------------------------------------- array files


def write_arrays(path, arrays, meta):
    """Write named arrays and a dictionary of plain values to an .npz file, whole or not at all."""
    text = json.dumps(meta, allow_nan=True).encode("utf-8")
    with new_file(path) as file:
        np.savez(file, **arrays, **{"meta": np.frombuffer(text, np.uint8)})


def read_arrays(path):
    """Read a file of `write_arrays`: (dictionary of arrays, dictionary of plain values).

    Every array is checked against the checksum in the file; arrays of Python objects (pickles) are
    refused. An .npz without our "meta" gives an empty dictionary. Raises CheckpointError.
    """
    path = Path(path)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(m.file_size for m in members) > MAX_UNPACKED:
                raise CheckpointError(f"{path} unpacks to more than {MAX_UNPACKED >> 20} MiB")
            for member in members:
                if not member.filename.endswith(".npy"):
                    raise CheckpointError(f"{path} holds {member.filename!r}, which is no array")
                arrays[member.filename[: -len(".npy")]] = _parse_npy(archive.read(member))
        meta = arrays.pop("meta", None)
        meta = {} if meta is None else json.loads(meta.tobytes().decode("utf-8"))
    except CheckpointError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
        RuntimeError,  # an encrypted member, a compression that zipfile lacks, too deep a nesting
        OverflowError,
        MemoryError,
    ) as error:
        raise CheckpointError(
            words(
                "{path} is damaged or no .npz file ({error}): use another copy of it",
                path=path,
                error=error,
            )
        ) from None
    except OSError as error:
        raise CheckpointError(
            words("{path} cannot be read: {error}", path=path, error=error)
        ) from error
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path}: its 'meta' is not a dictionary")
    return arrays, meta


def _parse_npy(data):
    """The array of an .npy file's bytes. NumPy reads it, once its size is known to be that of the
    bytes: NumPy would set aside whatever memory the header claims."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"unknown .npy version {version}")
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    try:
        shape, _, dtype = read_header(stream)
    except Exception as error:  # of many kinds: NumPy hands the header to Python's own parser
        raise ValueError(f"the header of an array cannot be parsed: {error}") from None
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which could run code, is refused")
    left = len(data) - stream.tell()
    if math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"an array of shape {shape} does not fit its {left} bytes")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


# ----------------------------------------------------------------------------------- weights


def state_arrays(network):
    """The parameters and running statistics of a network as NumPy arrays by structured name."""
    return {name: np.asarray(value.numpy()) for name, value in network.state_dict().items()}


def save_weights(network, path, meta=None):
    """Save a network's parameters and running statistics, whole or not at all.

    path: *.npz (no pickles; `meta`, plain values, goes along) or *.pdparams (Paddle's own format).
    """
    path = Path(path)
    if path.suffix == ".npz":
        write_arrays(path, state_arrays(network), meta or {})
    elif path.suffix == ".pdparams":
        if meta:
            raise CheckpointError(words("{path}: only an .npz can carry meta", path=path))
        import paddle

        buffer = io.BytesIO()
        paddle.save(network.state_dict(), buffer)
        with new_file(path) as file:
            file.write(buffer.getvalue())
    else:
        raise CheckpointError(words("{path}: weights are saved as *.npz or *.pdparams", path=path))


def weights_of(arrays):
    """The weights among the arrays of a file: those of a training state stand under "network/"."""
    inside = {
        name[len("network/") :]: array
        for name, array in arrays.items()
        if name.startswith("network/")
    }
    return inside or arrays


def read_weights(path):
    """Read a weights file: (arrays by structured name, meta), names of the tutorial translated.

    Takes *.npz and *.pdparams (of this package, of the original tutorial, of paddle.vision).
    Raises CheckpointError.
    """
    path = named(path)
    if not path.is_file():
        raise CheckpointError(words("there is no weights file {path}", path=path))
    if path.suffix == ".npz":
        arrays, meta = read_arrays(path)
        return weights_of(arrays), meta
    try:
        content = safe_pickle.load(path)
    except safe_pickle.PickleError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(
            words("{path} cannot be read: {error}", path=path, error=error)
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no dictionary of weights")
    arrays = {}
    for name, value in content.items():
        if name == "StructuredToParameterName@@":  # Paddle's own bookkeeping
            continue
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise CheckpointError(f"{path}: {name!r} is not a named array")
        for theirs, ours in TUTORIAL_NAMES.items():
            name = name.replace(theirs, ours)
        arrays[name] = value
    return arrays, {}


def _first(names, limit=3):
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def differences(network, arrays):
    """How the arrays differ from what the network needs: (missing, left over, of another shape),
    each a list of names; the last with both shapes."""
    state = network.state_dict()
    missing = [name for name in state if name not in arrays]
    extra = [name for name in arrays if name not in state]
    shapes = [
        f"{name} {list(arrays[name].shape)} for {list(value.shape)}"
        for name, value in state.items()
        if name in arrays and list(arrays[name].shape) != list(value.shape)
    ]
    return missing, extra, shapes


def assign(network, arrays):
    """Put arrays into the parameters and running statistics of the same names."""
    for name, value in network.state_dict().items():
        if name in arrays:
            array = arrays[name]
            if array.dtype.kind not in "fiu":
                raise CheckpointError(f"{name} holds {array.dtype}, not numbers")
            value.set_value(array.astype(value.numpy().dtype))


def load_weights(network, path):
    """Load weights into a network, all of them or none, and return the file's meta. Where the file
    says how its images were normalised, the network's `normalization` becomes that.

    path: a *.pdparams of this package or of the original tutorial, or an *.npz.
    Raises CheckpointError when the file is missing, damaged, would run code, or belongs to another
    network; the message names the first tensors that differ.
    """
    arrays, meta = read_weights(path)
    assign_all(network, arrays, path)
    recipe = meta.get("recipe")
    if isinstance(recipe, dict) and recipe.get("mean") and recipe.get("std"):
        network.normalization = tuple(recipe["mean"]), tuple(recipe["std"])
    return meta


def assign_all(network, arrays, source):
    """`assign`, once the arrays are known to be those of this very network; `source` is named in
    the CheckpointError."""
    missing, extra, shapes = differences(network, arrays)
    problems = []
    if shapes:
        problems.append(f"other shapes (file for network): {_first(shapes)}")
    if missing:
        problems.append(f"not in the file: {_first(missing)}")
    if extra:
        problems.append(f"not in the network: {_first(extra)}")
    if problems:
        raise CheckpointError(
            words(
                "{source} belongs to another network; {problems}",
                source=source,
                problems="; ".join(problems),
            )
        )
    assign(network, arrays)
