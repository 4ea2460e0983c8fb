"""What the lessons share: their scale, their data, and a trained network.

The scale comes from NAM_EDU_PROFILE (see `backend.profile`): "ci" takes seconds, "quick" suits two
CPU cores, "full" a GPU. The data are CIFAR-100 where it is found, else the stand-in Shapes-100.
"""
from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np

from .backend import profile
from .data import locate_cifar100
from .training import (Run, TrainingError, change, fit, load_data, open_run, recipe, saved_recipe,
                       shipped)

# Of lesson 4's network. "quick" on CIFAR-100 is meant for two minutes on two cores of a server.
MAIN = {
    "ci": dict(width=8, epochs=2, train_images=1280, validation=256),
    "quick": dict(width=32, epochs=8, validation=2000),
    "full": dict(width=64, stem="cifar", epochs=30, validation=2000),
}
# Of networks that a lesson trains by the way, several in a row, in seconds each.
SMALL = {
    "ci": dict(width=8, epochs=1, train_images=640, validation=128),
    "quick": dict(width=16, epochs=3, train_images=10_000, validation=500),
    "full": dict(width=32, epochs=10, validation=2000),
}


@cache
def lesson_data():
    """The `Archive` of the lessons, read once; a printed line says which it is."""
    if locate_cifar100() is not None:
        archive, name = load_data("cifar100"), "CIFAR-100"
    else:
        archive, name = load_data("shapes100"), "Shapes-100, a generated stand-in for CIFAR-100"
    print(f"data: {name}, {len(archive.train):,} images to train on, {len(archive.test):,} to test")
    return archive


def lesson_recipe(small=False, **changes):
    """The recipe of the lessons at this scale, with the given fields changed.

    small: that of networks trained by the way.
    """
    real = locate_cifar100() is not None
    scale = dict((SMALL if small else MAIN)[profile()])
    if not real and profile() == "quick":  # a fifth of the images, and simpler ones
        scale.update(dict(width=16, epochs=12, validation=1000) if not small else
                     dict(width=16, epochs=3, train_images=4000))
    base = recipe("quick", data="cifar100" if real else "shapes100",
                  crop_padding=4 if real else 2)
    return change(base, **{**scale, **changes})


def golden(name):
    """The float64 arrays of an independent oracle, by their names (see tests/golden): "square_..."
    of a map (4, 8, 5, 5), "oblong_..." of (2, 5, 3, 8), each "channel", "spatial" or
    "channel_spatial"."""
    folder = Path(__file__).resolve().parent.parent / "tests" / "golden"
    return dict(np.load(folder / f"{name}.npz"))


def lesson_folder(name):
    """Where a lesson keeps a run: runs/ beside the notebooks, on AI Studio in work/, which is kept
    over restarts; by scale and data."""
    data = "cifar100" if locate_cifar100() is not None else "shapes100"
    kept = Path("/home/aistudio/work")
    beside = kept if kept.is_dir() else Path("..") if Path.cwd().name == "solutions" else Path()
    return beside / "runs" / f"{name}-{profile()}-{data}"


def finished_run(name):
    """The finished `Run` that is kept under this name, or None."""
    try:
        run = open_run(lesson_folder(name))
    except TrainingError:
        return None
    return run if len(run.log) == run.recipe.epochs else None


def small_run(name, progress=False, **changes) -> Run:
    """A small network that is trained in seconds, or was before; changes are fields of its recipe.

    It is kept under its name; one of another recipe is replaced, a stopped one goes on.
    """
    wanted = lesson_recipe(small=True, **changes)
    kept = finished_run(name)
    if kept is not None and _is_of(kept.recipe, wanted):
        return kept
    try:
        stopped = _is_of(saved_recipe(lesson_folder(name)), wanted)
    except TrainingError:
        stopped = False
    return fit(wanted, out=lesson_folder(name), resume=stopped, overwrite=True, progress=progress)


def lesson_run() -> Run:
    """The run of lesson 4. Where that was not run here: the one that comes with the package, which
    knows the classes of CIFAR-100; on Shapes-100 a small one, trained in seconds."""
    kept = finished_run("lesson4")
    if kept is not None:
        return kept
    if locate_cifar100() is not None:
        print("Lesson 4 was not run here: the network that comes with the course takes its place.")
        return shipped()
    print("Lesson 4 was not run here: a small network is trained in its place.")
    return small_run("small")


def lesson_pair():
    """{"nam": Run, "none": Run} of networks that are alike in all but the attention: those that
    come with the package, or on Shapes-100 small ones, trained in seconds."""
    names = ("nam", "none")
    if locate_cifar100() is not None:
        return {name: shipped(name) for name in names}
    return {name: small_run(f"pair-{name}", attention=name, epochs=5) for name in names}


def results(name):
    """The rows, as dictionaries of strings, of a table of this course's own measurements: "runs",
    "curves", "gates", "fixed" or "removed" (results/attention.md tells what is in them)."""
    folder = Path(__file__).resolve().parent.parent / "results"
    with open(folder / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _is_of(found, wanted):
    """Whether a run's recipe is this one, apart from what `fit` fills in."""
    return change(found, mean=wanted.mean, std=wanted.std) == wanted
