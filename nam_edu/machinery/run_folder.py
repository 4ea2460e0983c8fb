"""The folder of a run: its files, its newest state, one process at a time, nothing destroyed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import re
import sys
from pathlib import Path

import numpy as np
import paddle

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None

from .. import __version__, checkpoint
from ..recipes import OWN, Recipe, recipe_of
from .errors import TrainingError, shell_command
from .language import words

# run.json last: while it is there, the folder is known to be a run's.
RUN_FILES = ("new.npz", "last.npz", "previous.npz", "best.npz", "gamma.npz", "log.csv", "run.json")
STATES = ("last.npz", "previous.npz")  # the newest first
# What `new_file` leaves of them where the process was killed while it was writing.
LEFTOVER = re.compile(rf"\.({'|'.join(map(re.escape, RUN_FILES))})\.[a-z0-9_]{{8}}")


def read_about(folder):
    """What run.json says, as a dictionary; raises TrainingError where there is no run."""
    path = Path(folder) / "run.json"
    if not path.is_file():
        train = shell_command("python", "-m", "nam_edu", "train", "--out", folder)
        raise TrainingError(
            words(
                "there is no run in {folder}: train one with: {train}", folder=folder, train=train
            )
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        recipe_of(about["recipe"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            words(
                "{path} is damaged ({error}); start again in another folder or with --overwrite",
                path=path,
                error=error,
            )
        ) from None
    return about


def newest_state(folder):
    """(arrays, meta) of the newest training state in a run folder, or None where none was saved
    yet; a damaged one is passed over in favour of the one before it.

    Raises TrainingError where all that were saved are damaged or gone.
    """
    there = [folder / name for name in STATES if (folder / name).exists()]
    for path in there:
        try:
            arrays, meta = checkpoint.read_arrays(path)
            _check_meta(path, meta)
            return arrays, meta
        except checkpoint.CheckpointError as error:
            if path != there[-1]:
                said = words("{error}; going back to the state before it", error=error)
                print(said, file=sys.stderr)
    if _has_saved(folder):
        raise TrainingError(
            words(
                "the states of the run in {folder}, {names}, are damaged or gone, so it cannot go "
                "on: put a copy of one back, start again with --overwrite (overwrite=True), or "
                "choose another folder with --out (out=)",
                folder=folder,
                names=", ".join(STATES),
            )
        )
    return None


def _has_saved(folder):
    """Whether a run has saved a state, though its states may be gone: log.csv comes after one."""
    return any((folder / name).exists() for name in (*STATES, "log.csv"))


def _check_meta(path, meta):
    """Refuse a state whose plain values are not those that `Recorder.save` writes."""
    train = meta.get("train")
    right = (
        type(meta.get("epoch")) is int
        and type(meta.get("step", 0)) is int
        and type(meta.get("best_top1")) in (int, float)
        and isinstance(meta.get("log"), list)
        and len(meta["log"]) == meta["epoch"]
        and all(isinstance(row, dict) for row in meta["log"])
        and isinstance(meta.get("scaler"), (dict, type(None)))
        and (
            not meta.get("step")
            or isinstance(train, dict)
            and {"images", "losses", "right"} <= set(train)
        )
    )
    if not right:
        raise checkpoint.CheckpointError(
            words("{path} is no state of a run: its 'meta' is damaged", path=path)
        )


def prepare_folder(folder, recipe, fingerprint, resume, overwrite):
    """Make a locked folder ready: True if there is a run in it to continue. Refuses what would
    destroy somebody's work; removes what a process that was killed left half-written."""
    for path in _leftovers(folder):
        path.unlink(missing_ok=True)
    has_run = (folder / "run.json").exists()
    if has_run and not _has_saved(folder):
        overwrite, resume = True, False  # it failed before it saved anything: nothing is lost
    if has_run and resume:
        about = read_about(folder)
        saved = recipe_of(about["recipe"])
        if saved.attention.startswith(OWN) and not recipe.attention.startswith(OWN):
            raise TrainingError(
                words(
                    "the run in {folder} has an attention that is not in the registry "
                    "({attention}): hand the same callable to fit again, attention=...",
                    folder=folder,
                    attention=saved.attention,
                )
            )
        differ = [
            words(
                "{name} ({saved} there, {wanted} asked for)",
                name=f.name,
                saved=getattr(saved, f.name),
                wanted=getattr(recipe, f.name),
            )
            for f in dataclasses.fields(Recipe)
            if f.name != "data" and getattr(saved, f.name) != getattr(recipe, f.name)
        ]
        if differ:
            raise TrainingError(
                words(
                    "the run in {folder} has another recipe: {differences}; continue it with its "
                    "own, or choose another folder",
                    folder=folder,
                    differences=", ".join(differ),
                )
            )
        if about["data"]["crc32"] != fingerprint:
            raise TrainingError(
                words(
                    "the run in {folder} was trained on other images: continue it with its own "
                    "data ({data})",
                    folder=folder,
                    data=about["recipe"]["data"],
                )
            )
        return True
    if has_run and not overwrite:
        raise TrainingError(
            words(
                "{folder} holds a run already: continue it with --resume (resume=True), "
                "replace it with --overwrite (overwrite=True), or choose another folder with "
                "--out (out=)",
                folder=folder,
            )
        )
    if has_run:
        curves = (path for path in folder.glob("visualdl/*") if not path.is_dir())
        for path in [*curves, *(folder / name for name in RUN_FILES)]:
            path.unlink(missing_ok=True)
    return False


def _is_leftover(path):
    return LEFTOVER.fullmatch(path.name) and path.is_file()


def _leftovers(folder):
    return [path for path in folder.iterdir() if _is_leftover(path)]


def _is_ours(path):
    """Whether a path in a folder without run.json is there because a process was killed before it
    could write run.json: the lock, a half-written file, the folder of a log that was removed."""
    return (
        path.name == "lock"
        or _is_leftover(path)
        or path.name == "visualdl"
        and path.is_dir()
        and not any(path.iterdir())
    )


@contextlib.contextmanager
def locked(folder):
    """Make a folder and hold it: one process at a time trains in it. The system takes the lock from
    a process that ends, however it ends."""
    if folder.exists() and not folder.is_dir():
        raise TrainingError(
            words("{folder} is a file: choose another folder with --out (out=)", folder=folder)
        )
    if (
        folder.exists()
        and not (folder / "run.json").exists()
        and not all(map(_is_ours, folder.iterdir()))
    ):
        raise TrainingError(
            words(
                "{folder} is not empty and holds no run: choose another folder with --out (out=)",
                folder=folder,
            )
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "a")  # noqa: SIM115
    except OSError as error:
        raise TrainingError(
            words(
                "cannot write to {folder}: {why}; choose another folder with --out (out=)",
                folder=folder,
                why=error.strerror or error,
            )
        ) from error
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            raise TrainingError(
                words(
                    "another process is training in {folder}: wait for it, or choose another "
                    "folder with --out (out=)",
                    folder=folder,
                )
            ) from None
        yield


def versions():
    """Versions of what the numbers depend on, as a dictionary of strings."""
    return {
        "nam_edu": __version__,
        "paddle": paddle.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def machine():
    """One line about the processor or GPU that trains."""
    if paddle.device.get_device().startswith("gpu"):
        return paddle.device.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {os.cpu_count()} cores"
