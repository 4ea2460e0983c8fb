"""Lessons 4 and 5: the images as arrays: found, read, normalised, cut into batches."""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import urllib.request
from pathlib import Path

import numpy as np

from .machinery.cifar_archive import (
    CIFAR100_FILE,
    Archive,
    ArchiveError,
    Split,
    read_archive,
    superclasses,
    write_archive,
)
from .machinery.files import file_md5, named, new_file
from .machinery.language import words
from .machinery.shapes100 import load_shapes100

CIFAR100_URL = "https://dataset.bj.bcebos.com/cifar/cifar-100-python.tar.gz"
CIFAR100_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
__all__ = [
    "Archive",
    "ArchiveError",
    "Batches",
    "Split",
    "channel_statistics",
    "download_cifar100",
    "load_data",
    "locate_cifar100",
    "normalise",
    "read_archive",
    "superclasses",
    "write_archive",
]

# Mean and standard deviation of the pixels of CIFAR-100's 50,000 training images, per channel, of
# values scaled to 0-1 (`channel_statistics` of the training split).
CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)


# ------------------------------------------------------------------------------------- find


def known_places():
    """(what it is, path) of every place where CIFAR-100 is looked for, in order."""
    if os.environ.get("NAM_EDU_CIFAR100"):
        yield "NAM_EDU_CIFAR100", named(os.environ["NAM_EDU_CIFAR100"])
    mount = Path("data/data76994") / CIFAR100_FILE
    yield "AI Studio's mount", mount
    yield "AI Studio's mount", Path("/home/aistudio") / mount
    yield "Paddle's cache", named("~/.cache/paddle/dataset/cifar") / CIFAR100_FILE


def locate_cifar100(path=None):
    """The path of the CIFAR-100 archive, or None where there is none.

    Looks at the given path; then NAM_EDU_CIFAR100; AI Studio's mount; Paddle's cache. A path that
    was named by the user (the first two) and is not there raises ArchiveError, and so does a
    folder in NAM_EDU_CIFAR100.
    """
    if path is not None:
        if not named(path).exists():
            raise ArchiveError(
                words(
                    "there is no file {path}: check the path given with --data (data=)", path=path
                )
            )
        return named(path)
    for place, candidate in known_places():
        if place == "NAM_EDU_CIFAR100" and os.path.isdir(candidate):
            raise ArchiveError(
                words(
                    "NAM_EDU_CIFAR100 says {path}, which is a folder: let it say where the file "
                    "{name} itself is",
                    path=candidate,
                    name=CIFAR100_FILE,
                )
            )
        if os.path.exists(candidate):  # not Path.exists, which raises in a locked home folder
            return candidate
        if place == "NAM_EDU_CIFAR100":
            raise ArchiveError(
                words(
                    "NAM_EDU_CIFAR100 says {path}, but there is no such file: correct the "
                    "variable or unset it",
                    path=candidate,
                )
            )
    return None


def how_to_get():
    """What to do where CIFAR-100 is not found, as a sentence."""
    return words(
        "CIFAR-100 was not found; get it in one of these ways: 'python -m nam_edu data download' "
        "(169 MB); --data PATH or NAM_EDU_CIFAR100=PATH for a {name} that you have; on AI "
        "Studio add data set 76994 to the project; or use the generated stand-in: --data shapes100",
        name=CIFAR100_FILE,
    )


# --------------------------------------------------------------------------------- download


def download_cifar100(folder=None, *, url=CIFAR100_URL, md5=CIFAR100_MD5):
    """Download CIFAR-100 (169 MB) into Paddle's cache, or `folder`, and return the file's path.

    Shows a progress bar, verifies the md5 and only then moves the file into place. Does nothing
    when the verified file is already there. Raises ArchiveError when it cannot be fetched or is
    not the file that was asked for; nothing half-written stays behind.
    """
    from tqdm import tqdm

    folder = named(folder or "~/.cache/paddle/dataset/cifar")
    target = folder / CIFAR100_FILE
    if target.exists() and file_md5(target) == md5:
        return target
    digest = hashlib.md5()
    try:
        with new_file(target) as file, urllib.request.urlopen(url, timeout=30) as response:
            length = response.headers.get("Content-Length") or ""
            length = int(length) if length.isdecimal() else None
            with tqdm(total=length, unit="B", unit_scale=True, desc="CIFAR-100") as bar:
                while block := response.read(1 << 20):
                    file.write(block)
                    digest.update(block)
                    bar.update(len(block))
            if digest.hexdigest() != md5:
                raise ArchiveError(
                    words(
                        "what came from {url} is not CIFAR-100: its md5 is {found}, not {md5}; try "
                        "again later",
                        url=url,
                        found=digest.hexdigest(),
                        md5=md5,
                    )
                )
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise ArchiveError(
            words(
                "could not download {url} into {folder}: {error}; check the network and the "
                "folder, or fetch the file by other means and give its path with --data",
                url=url,
                folder=folder,
                error=error,
            )
        ) from error
    return target


def load_data(name):
    """An `Archive` by name: "shapes100", "cifar100" (wherever it is found) or a path."""
    if isinstance(name, Archive):
        return name
    if name == "shapes100":
        return load_shapes100()
    if name == "given":
        raise ArchiveError(
            words(
                "the images of this run were handed over in Python: hand them over again (data=), "
                "or give the path of their archive with --data"
            )
        )
    if not isinstance(name, (str, os.PathLike)):
        raise ArchiveError(
            words(
                "data must be an Archive, a path, or the name of a data set, not {kind}",
                kind=type(name).__name__,
            )
        )
    if name == "cifar100":
        path = locate_cifar100()
        if path is None:
            raise ArchiveError(how_to_get())
        return read_archive(path)
    return read_archive(locate_cifar100(name))


# ------------------------------------------------------------------------------- statistics


def channel_statistics(images):
    """Mean and standard deviation of each colour of uint8 images (N, 3, H, W), of values scaled to
    0-1, as two tuples of 3 numbers. Exact: counted from the histogram of the 256 values."""
    values = np.arange(256) / 255.0
    mean, std = [], []
    for channel in range(images.shape[1]):
        share = np.bincount(images[:, channel].ravel(), minlength=256) / images[:, channel].size
        mean.append(float(share @ values))
        std.append(float(math.sqrt(share @ (values - mean[-1]) ** 2)))
    return tuple(mean), tuple(std)


def normalise(images, mean, std):
    """(pixel / 255 - mean) / std per channel: uint8 (N, C, H, W) -> float32 (N, C, H, W)."""
    shape = (1, -1, 1, 1)
    scale = (1 / (255.0 * np.asarray(std))).astype(np.float32).reshape(shape)
    shift = (-np.asarray(mean) / np.asarray(std)).astype(np.float32).reshape(shape)
    out = np.multiply(images, scale, dtype=np.float32)
    out += shift
    return out


# ---------------------------------------------------------------------------------- batches


class Batches:
    """Batches of a split for `paddle.Model.fit`: [images (N, 3, 32, 32) float32, labels (N, 1)].

    Order and augmentation depend on `seed`, `epoch` and the number of the batch alone, so a batch
    can be made again at any time; `epoch`, and `first`, the batch to begin with, are set from
    outside before each pass. All these streams of random numbers differ, also from the one that
    picks the training images (`training`). Without an augmentation the images come in their own
    order.

    share: (rank, ranks): of every batch only each ranks-th image, from the rank-th on; a few images
    at the end are left out where they do not go round.
    """

    def __init__(self, split, batch_size, normalization, augmentation=None, seed=0, share=(0, 1)):
        self.split, self.batch_size, self.normalization = split, batch_size, normalization
        self.augmentation, self.seed, self.share = augmentation, seed, share
        self.epoch = self.first = 0

    def __len__(self):
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + (rest >= self.share[1])

    def _rng(self, step, of):
        # NumPy ignores zeros at the end of a seed: [0, 3] and [0, 3, 0] are one stream. So the last
        # number is never zero: 1 for the order of the images, 2 for the augmentation of a batch.
        return np.random.default_rng([self.seed, self.epoch, step, of])

    def __iter__(self):
        order = np.arange(len(self.split))
        if self.augmentation is not None:
            order = self._rng(0, of=1).permutation(len(self.split))
        for step in range(self.first, len(self)):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            images = self.split.images[rows]
            if self.augmentation is not None:
                images = self.augmentation(images, self._rng(step, of=2))
            rank, ranks = self.share
            mine = slice(rank, len(rows) // ranks * ranks, ranks)
            yield [normalise(images[mine], *self.normalization), self.split.fine[rows[mine], None]]
