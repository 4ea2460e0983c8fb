"""Holds what Baidu AI Studio needs: the course as one zip, and what its first page installs."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from . import doctor
from .errors import NamEduError
from .files import named, new_file

LIMIT = 5 * 2**20  # bytes
FIRST_PAGE = "notebooks/aistudio/main.ipynb"
PATTERNS = (
    "nam_edu/*.py",
    "nam_edu/exercises/*.py",
    "nam_edu/locale/*/*/*.mo",
    "nam_edu/machinery/*.py",
    "nam_edu/weights/*/*",
    "notebooks/*.ipynb",
    "notebooks/solutions/*.ipynb",
    "notebooks/zh/*.ipynb",
    "notebooks/zh/solutions/*.ipynb",
    "notebooks/images/*",
    "tests/golden/*",
    "results/*",
    "README*.md",
    "QUESTIONS*.md",
    "LICENSE",
    "CITATION.cff",
)


class BundleError(NamEduError):
    """The bundle cannot be made; says why and what to do."""


def _git(root, *arguments):
    """The output of git in the clone `root`, as bytes; None where that fails or git is missing."""
    # Inside a git hook these variables name the repository of the hook.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], env=environment, check=True, capture_output=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _committed_files(root):
    """({path: bytes} of every file in HEAD, its short name), or None where root is no git clone."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(os.fsdecode(top).rstrip("\r\n")).resolve() != root.resolve():
        return None  # no clone, or only a folder somewhere in one
    head = _git(root, "rev-parse", "--short", "HEAD")
    # autocrlf: line endings as committed, on Windows too.
    packed = _git(root, "-c", "core.autocrlf=false", "archive", "--format=tar", "HEAD")
    if head is None or packed is None:
        return None
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}
    return (files, head.decode().strip()) if FIRST_PAGE in files else None


def _belongs(name, pattern):
    """Whether a path matches a pattern in which "*" stands for a part of one name."""
    return name.count("/") == pattern.count("/") and PurePosixPath(name).match(pattern)


def course_files(root):
    """({path in the zip: bytes}, where they come from in words) of the course in a clone, as it was
    committed: a learner's edits stay out. Where git cannot tell, the files as they are on disk."""
    committed = _committed_files(root)
    if committed is not None:
        files, head = committed
        origin = f"the files as committed ({head}); uncommitted changes are left out"
    else:
        origin = "the files as they are on disk, edits included (no git clone, or no git)"
        files = {
            path.relative_to(root).as_posix(): path.read_bytes()
            for pattern in (FIRST_PAGE, *PATTERNS)
            for path in root.glob(pattern)
            if path.is_file()
        }
    chosen = {"main.ipynb": files[FIRST_PAGE]}
    for pattern in PATTERNS:
        chosen.update({name: files[name] for name in sorted(files) if _belongs(name, pattern)})
    for name in chosen:
        if name.startswith("notebooks/zh/"):  # its pictures are those of the English notebook
            chosen[name] = without_pictures(chosen[name])
    return chosen, origin


def without_pictures(notebook):
    """The bytes of a notebook without the pictures among its outputs; a run brings them back."""
    content = json.loads(notebook)
    for cell in content["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [
                output
                for output in cell["outputs"]
                if "base64," not in "".join(output.get("data", {}).get("text/html", ""))
                and "image/png" not in output.get("data", {})
            ]
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def write_bundle(target="nam-edu-aistudio.zip", root=None):
    """Write the zip that AI Studio imports, say in one line which files it took, and return its
    path.

    Its contents are laid out as they will be in /home/aistudio: main.ipynb, the first page, which
    links to the lessons; notebooks/, nam_edu/, and what the lessons read. The same files give the
    same bytes. `root` is the repository; by default the one that contains this package. Raises
    BundleError.
    """
    root = Path(root or Path(__file__).resolve().parent.parent.parent)
    if not (root / FIRST_PAGE).is_file():
        raise BundleError(
            f"there is no {FIRST_PAGE} in {root}: the bundle is made from a clone of "
            "the repository, not from an installed package"
        )
    target = named(target)
    if target.is_dir():
        raise BundleError(f"{target} is a folder: give the name of a file with --out")
    members, origin = course_files(root)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            bundle.writestr(info, content)
    size = len(packed.getvalue())
    if size > LIMIT:
        raise BundleError(
            f"the bundle would have {size / 2**20:.1f} MB, more than "
            f"{LIMIT >> 20}: refresh the notebooks with smaller pictures"
        )
    try:
        with new_file(target) as file:
            file.write(packed.getvalue())
    except OSError as error:  # it names the temporary file
        raise BundleError(
            f"{target} cannot be written ({error.strerror or error}): name a file in "
            "a folder of your own with --out"
        ) from error
    print(f"In the zip: {origin}.")
    return target


# ------------------------------------------------------------------------------- its first page


def install_missing(names=doctor.FIRST_CELL, folder=None):
    """Install those of these packages that Python does not find; return what pip was asked for.

    On AI Studio they go into `folder` (by default /home/aistudio/external-libraries, which survives
    restarts), elsewhere among the packages of this Python. The NumPy that is there stays as it is
    and gets no copy: "pip install -t" alone would fetch all that a package needs once more, though
    it is installed already. Raises subprocess.CalledProcessError after pip has said why.
    """
    from ..backend import EXTERNAL_LIBRARIES, importable

    folder = Path(folder or EXTERNAL_LIBRARIES)
    on_aistudio = folder.parent.is_dir()
    if on_aistudio and str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()
    missing = [name for name in names if not importable(name)]
    if not missing:
        return []
    where = folder if on_aistudio else "the packages of this Python"
    print(f"Installing {', '.join(missing)} into {where}, once ...", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    numpy = doctor.installed("numpy")
    wanted = missing + ([f"numpy=={numpy}"] if numpy else [])
    if not on_aistudio:
        subprocess.run([*pip, *wanted], check=True)
    else:
        # First ask what this Python and the folder lack, then fetch just that.
        paths = [str(folder), os.environ.get("PYTHONPATH", "")]
        plan = subprocess.run(
            [*pip, "--dry-run", "--report", "-", *wanted],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        if plan.returncode == 0:
            parts = [item["metadata"] for item in json.loads(plan.stdout)["install"]]
            # No part: what pip takes for installed, though its module is gone.
            wanted = ["--no-deps", *([f"{p['name']}=={p['version']}" for p in parts] or missing)]
        # A pip older than 22.2 makes no plans: then all that the packages need comes along.
        subprocess.run([*pip, "--no-warn-conflicts", "-t", str(folder), *wanted], check=True)
    importlib.invalidate_caches()
    return [word for word in wanted if not word.startswith("--")]
