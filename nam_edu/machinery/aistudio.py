"""The course as one zip for Baidu AI Studio: python -m nam_edu aistudio."""
from __future__ import annotations

import zipfile
from pathlib import Path

from .errors import NamEduError
from .files import new_file

LIMIT = 5 * 2**20  # bytes
DOOR = "notebooks/aistudio/main.ipynb"
PATTERNS = ("nam_edu/*.py", "nam_edu/machinery/*.py", "nam_edu/weights/*/*", "notebooks/*.ipynb",
            "notebooks/solutions/*.ipynb", "notebooks/images/*", "tests/golden/*", "results/*",
            "README*.md", "LICENSE", "CITATION.cff")


class BundleError(NamEduError):
    """The bundle cannot be made; says why and what to do."""


def write_bundle(target="nam-edu-aistudio.zip", root=None):
    """Write the zip that AI Studio imports, and return its path.

    In it lie, as they will in /home/aistudio: main.ipynb, the door to the lessons; notebooks/,
    nam_edu/, and what the lessons read. The same files give the same bytes. `root` is the
    repository; by default the one that this package lies in. Raises BundleError.
    """
    root = Path(root or Path(__file__).resolve().parent.parent.parent)
    door = root / DOOR
    if not door.is_file():
        raise BundleError(f"there is no {DOOR} in {root}: the bundle is made from a clone of the "
                          "repository, not from an installed package")
    members = {"main.ipynb": door}
    for pattern in PATTERNS:
        for path in sorted(root.glob(pattern)):
            if path.is_file():
                members[path.relative_to(root).as_posix()] = path
    target = Path(target)
    if target.is_dir():
        raise BundleError(f"{target} is a folder: give the name of a file with --out")
    with new_file(target) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, path in members.items():
                info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
                info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                bundle.writestr(info, path.read_bytes())
        size = file.tell()
        if size > LIMIT:
            raise BundleError(f"the bundle would have {size / 2**20:.1f} MB, more than "
                              f"{LIMIT >> 20}: refresh the notebooks with smaller pictures")
    return target
