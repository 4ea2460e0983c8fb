"""CIFAR-100 archives, and any archive in their format, read, checked and written as
arrays."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zlib
from dataclasses import dataclass, replace

import numpy as np

from . import safe_pickle
from .errors import NamEduError
from .files import named, new_file
from .language import words

CIFAR100_FILE = "cifar-100-python.tar.gz"
SIZE = 32  # side of an image in pixels
MAX_UNPACKED = 2**30  # bytes: five times CIFAR-100; a larger archive is taken for a gzip bomb


class ArchiveError(NamEduError):
    """A data archive that is missing, damaged or not what it should be; says what to do."""


@dataclass(frozen=True)
class Split:
    """Images with their labels: images (N, 3, 32, 32) uint8, fine (N,) int64 in 0-99, coarse (N,)
    int64 in 0-19, and the names that the labels stand for (100 and 20 strings).

    superclass_of: the coarse label of each fine class, (100,) int64, -1 where it is unknown. It
    belongs to the archive: its splits, and what `take` cuts from them, know the superclass of
    classes of which they hold no image. What it leaves unknown, all of it where none is given, a
    split reads off its own labels. Raises ArchiveError where the two disagree.
    """

    images: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray
    fine_names: tuple
    coarse_names: tuple
    superclass_of: np.ndarray | None = None

    def __post_init__(self):
        _refuse_what_is_no_split(self)
        for name in ("fine", "coarse"):  # the class is frozen
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.int64))
        table = (
            np.full(100, -1, np.int64)
            if self.superclass_of is None
            else np.array(self.superclass_of, np.int64)
        )
        unknown = table[self.fine] < 0
        table[self.fine[unknown]] = self.coarse[unknown]
        _refuse_two_superclasses(table[self.fine] != self.coarse, self.fine, self.fine_names)
        object.__setattr__(self, "superclass_of", table)

    def __len__(self):
        return len(self.images)

    def take(self, rows):
        """The split that holds only these rows (an index array or a slice)."""
        return replace(
            self, images=self.images[rows], fine=self.fine[rows], coarse=self.coarse[rows]
        )


def _refuse_what_is_no_split(split):
    images, labels = split.images, (split.fine, split.coarse)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ArchiveError(
            f"images must be uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}"
        )
    if any(np.shape(values) != (len(images),) for values in labels):
        raise ArchiveError(
            f"there are {len(images)} images, but {len(split.fine)} fine and {len(split.coarse)} "
            "coarse labels: each image needs one of both"
        )
    for values, count, kind in zip(labels, (100, 20), ("fine", "coarse")):
        if np.asarray(values).dtype.kind not in "iu":
            raise ArchiveError(
                f"{kind} labels must be whole numbers, not {np.asarray(values).dtype}"
            )
        if len(values) and not 0 <= np.min(values) <= np.max(values) < count:
            raise ArchiveError(
                f"{kind} labels lie between 0 and {count - 1}, but there is one of "
                f"{np.min(values) if np.min(values) < 0 else np.max(values)}"
            )


@dataclass(frozen=True)
class Archive:
    """A training and a test `Split`, and the names of the 100 fine and 20 coarse classes.

    Both splits get the superclasses that either of them knows.
    """

    train: Split
    test: Split
    fine_names: tuple
    coarse_names: tuple

    def __post_init__(self):
        table = superclasses(self.train, self.test)
        for name in ("train", "test"):
            object.__setattr__(self, name, replace(getattr(self, name), superclass_of=table))


def superclasses(*splits):
    """The coarse label of each fine class, (100,) int64; -1 for a class that no split knows.

    Raises ArchiveError when one fine class belongs to two superclasses.
    """
    table = np.full(100, -1, np.int64)
    for split in splits:
        own, known = split.superclass_of, split.superclass_of >= 0
        _refuse_two_superclasses(
            known & (table >= 0) & (table != own), np.arange(100), split.fine_names
        )
        table[known] = own[known]
    return table


def _refuse_two_superclasses(wrong, fine, names):
    if wrong.any():
        raise ArchiveError(
            f"the class {names[fine[wrong.argmax()]]!r} belongs to two different "
            "superclasses: each class must have one"
        )


# ------------------------------------------------------------------------------------- read


class _Bounded(io.RawIOBase):
    """A stream that refuses to give more than `limit` bytes: a gzip bomb must not fill the disk
    or the memory, or run for hours."""

    def __init__(self, stream, limit):
        self.stream, self.left = stream, limit

    def readable(self):
        return True

    def readinto(self, buffer):
        data = self.stream.read(len(buffer))
        self.left -= len(data)
        if self.left < 0:
            raise ArchiveError(f"it unpacks to more than {MAX_UNPACKED >> 20} MiB")
        buffer[: len(data)] = data
        return len(data)


def read_archive(path):
    """Read and check a CIFAR-100 archive, or any archive in its format, and return an `Archive`.

    Any number of images is accepted. Nothing in the file is executed (see `safe_pickle`).
    Raises ArchiveError, in one sentence, for whatever is wrong with the file.
    """
    path = named(path)
    if not path.exists():
        raise ArchiveError(words("there is no file {path}", path=path))
    if path.is_dir():
        raise ArchiveError(
            words(
                "{path} is a folder: give the path of {name} itself", path=path, name=CIFAR100_FILE
            )
        )
    try:
        members = _read_members(path)
        return _build_archive(members)
    except ArchiveError as error:
        raise ArchiveError(f"{path}: {error}") from None
    except OSError as error:
        raise ArchiveError(
            words("{path}: cannot be read: {error}", path=path, error=error)
        ) from error


def _read_members(path):
    """The bytes of the files train, test and meta of a gzip tar, read in one pass."""
    members = {}
    seen = []
    try:
        with gzip.open(path) as unpacked:
            stream = io.BufferedReader(_Bounded(unpacked, MAX_UNPACKED), 1 << 16)
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    name = member.name.rsplit("/", 1)[-1]
                    seen.append(name)
                    if name not in ("train", "test", "meta"):
                        continue
                    if not member.isfile():
                        raise ArchiveError(f"its member {member.name!r} is not a plain file")
                    if name in members:
                        raise ArchiveError(f"it holds {name!r} twice")
                    members[name] = tar.extractfile(member).read()
    except (
        gzip.BadGzipFile,  # also for a wrong checksum, behind the members
        EOFError,
        zlib.error,
        tarfile.TarError,
        ValueError,
        OverflowError,
    ) as error:
        if isinstance(error, ArchiveError):
            raise
        if isinstance(error, gzip.BadGzipFile) and not seen:
            raise ArchiveError(
                words("it is not a gzip file: a CIFAR-100 archive is a .tar.gz")
            ) from None
        raise ArchiveError(
            words("it is truncated or damaged ({error}): fetch it again", error=error)
        ) from None
    missing = [name for name in ("train", "test", "meta") if name not in members]
    if missing:
        if any(name.startswith("data_batch") for name in seen):
            raise ArchiveError(words("it is CIFAR-10; this course needs CIFAR-100"))
        raise ArchiveError(
            words("it is not CIFAR-100: it has no {names}", names=", ".join(missing))
        )
    return members


def _unpickle(name, data):
    try:
        content = safe_pickle.load(data)
    except safe_pickle.PickleError as error:
        raise ArchiveError(f"its member {name!r} is no plain data: {error}") from None
    if not isinstance(content, dict):
        raise ArchiveError(f"its member {name!r} holds no dictionary")
    # Python 2 wrote str keys, Python 3 writes bytes.
    return {k.decode("latin-1") if isinstance(k, bytes) else k: v for k, v in content.items()}


def _labels(content, name, key, classes):
    values = content[key]
    if not isinstance(values, (list, tuple)) or not all(type(v) is int for v in values):
        raise ArchiveError(f"{name!r}: {key!r} is not a list of whole numbers")
    for row, value in enumerate(values):
        if not 0 <= value < classes:
            raise ArchiveError(
                f"{name!r}: {key!r} holds {value} at image {row}; labels run from 0 "
                f"to {classes - 1}"
            )
    return np.array(values, np.int64)


def _names(meta, key, count):
    names = meta.get(key)
    if not isinstance(names, (list, tuple)) or len(names) != count:
        raise ArchiveError(f"'meta' has no list of {count} names under {key!r}")
    names = tuple(n.decode("latin-1") if isinstance(n, bytes) else n for n in names)
    if not all(isinstance(n, str) for n in names) or len(set(names)) != count:
        raise ArchiveError(f"'meta': the names under {key!r} are not {count} different strings")
    return names


def _superclass_table(meta):
    """The superclasses that `write_archive` adds where the labels do not show them all, or None."""
    if "superclass_of" not in meta:
        return None
    table = meta["superclass_of"]
    if (
        not isinstance(table, (list, tuple))
        or len(table) != 100
        or not all(type(v) is int and -1 <= v < 20 for v in table)
    ):
        raise ArchiveError(
            "'meta': 'superclass_of' is not a list of 100 whole numbers from -1 to 19"
        )
    return np.array(table, np.int64)


def _build_archive(members):
    meta = _unpickle("meta", members.pop("meta"))
    fine_names = _names(meta, "fine_label_names", 100)
    coarse_names = _names(meta, "coarse_label_names", 20)
    table = _superclass_table(meta)
    splits = {}
    for name in ("train", "test"):
        content = _unpickle(name, members.pop(name))
        missing = [key for key in ("data", "fine_labels", "coarse_labels") if key not in content]
        if missing:
            raise ArchiveError(f"{name!r} has no {', '.join(missing)}")
        data = content["data"]
        if (
            not isinstance(data, np.ndarray)
            or data.dtype != np.uint8
            or data.ndim != 2
            or data.shape[1] != 3 * SIZE * SIZE
        ):
            found = (
                f"{data.dtype} {data.shape}"
                if isinstance(data, np.ndarray)
                else type(data).__name__
            )
            raise ArchiveError(f"{name!r}: 'data' should be uint8 of shape (N, 3072), not {found}")
        fine = _labels(content, name, "fine_labels", 100)
        coarse = _labels(content, name, "coarse_labels", 20)
        if not len(data) == len(fine) == len(coarse):
            raise ArchiveError(
                f"{name!r}: {len(data)} images but {len(fine)} fine and {len(coarse)} coarse labels"
            )
        if not len(data):
            raise ArchiveError(f"{name!r} holds no image")
        images = data.reshape(-1, 3, SIZE, SIZE)  # (N, 3072) -> (N, 3, 32, 32)
        splits[name] = Split(images, fine, coarse, fine_names, coarse_names, table)
    return Archive(splits["train"], splits["test"], fine_names, coarse_names)


# ------------------------------------------------------------------------------------ write


def write_archive(path, archive):
    """Write an `Archive` in CIFAR-100's own format (a gzip tar of pickles), and return the path.

    The file appears whole or not at all, and the same archive gives the same bytes. It can be read
    by `read_archive` and by `paddle.vision.datasets.Cifar100`. Superclasses that no label of the
    archive shows are written into `meta`, which CIFAR-100 itself does not need.
    """

    path = named(path)
    for name, split in (("train", archive.train), ("test", archive.test)):
        shape = split.images.shape
        if not shape[0] or shape[2:] != (SIZE, SIZE):
            raise ArchiveError(
                f"the images of {name!r} have the shape {shape}: the format needs one image or "
                f"more of (3, {SIZE}, {SIZE})"
            )

    def split_content(split):
        return {
            b"data": np.ascontiguousarray(split.images.reshape(len(split), -1)),
            b"fine_labels": [int(v) for v in split.fine],
            b"coarse_labels": [int(v) for v in split.coarse],
        }

    def in_bytes(name):
        try:
            return str(name).encode("latin-1")
        except UnicodeEncodeError:
            raise ArchiveError(
                f"the class {name!r} cannot be written: the format takes Latin letters only"
            ) from None

    for names, count in ((archive.fine_names, 100), (archive.coarse_names, 20)):
        if len(names) != count:
            raise ArchiveError(f"there are {len(names)} names of classes, the format has {count}")
    contents = {
        "meta": {
            b"fine_label_names": [in_bytes(n) for n in archive.fine_names],
            b"coarse_label_names": [in_bytes(n) for n in archive.coarse_names],
        },
        "test": split_content(archive.test),
        "train": split_content(archive.train),
    }
    table = archive.train.superclass_of
    shown = np.concatenate([archive.train.fine, archive.test.fine])
    if (np.delete(table, shown) >= 0).any():
        contents["meta"][b"superclass_of"] = table.tolist()
    with (
        new_file(path) as file,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, content in contents.items():
            # NumPy 2 renamed a module: write the old name, as CIFAR-100 has it, for equal bytes.
            data = pickle.dumps(content, protocol=3).replace(
                b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1
            )
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
