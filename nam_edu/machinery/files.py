"""Files that appear whole or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from pathlib import Path

from .language import words


def named(path):
    """The `Path` that a person wrote: "~" is the home folder. Where there is none, it stays."""
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def new_file(target):
    """Open a new binary file that takes the place of `target` only once it was written whole.

    It is written under another name in the same folder, flushed to the disk, and renamed; whatever
    goes wrong before that leaves the old `target` as it was. Raises FileExistsError for a folder,
    or a device such as /dev/null, which a file must not take the place of.
    """
    target = named(target)
    if target.exists() and not target.is_file():
        text = words("it is no ordinary file, and is not replaced: give another name")
        raise FileExistsError(errno.EEXIST, text, str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def write_text(target, text):
    """Write a text file in UTF-8, whole or not at all."""
    with new_file(target) as file:
        file.write(text.encode("utf-8"))


def file_md5(path):
    """The md5 of a file as 32 hexadecimal digits."""
    digest = hashlib.md5()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
