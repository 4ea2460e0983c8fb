"""Holds what the lessons share: their scale, their data, their runs and this course's results.

It serves all lessons and their solutions: the golden arrays check the equations of lessons 1 and 2,
lesson 4 trains, lessons 5 and 6 examine trained networks, and lesson 7 judges gates. The scale
comes from NAM_EDU_PROFILE (see `backend.profile`): "ci" takes seconds, "quick" suits two CPU cores,
"full" a GPU. The data are CIFAR-100 where it is found, otherwise the generated Shapes-100.
"""

from __future__ import annotations

import csv
import re
import os
import time
from functools import cache
from pathlib import Path

import numpy as np
import paddle

from .attention import ChannelNAM, nam_layers
from .backend import profile, runs_elsewhere
from .data import locate_cifar100
from .machinery.errors import NamEduError, shell_command
from .machinery.language import words
from .machinery.progress import counted as counted  # for the cells that train or evaluate a lot
from .tints import tint_archive
from .training import Run, Stopped, TrainingError, change, fit, load_data, open_run, recipe, shipped


class LessonError(NamEduError):
    """Something that a lesson reads is not here; says what, and where to get it."""


# Changes to the recipe for lesson 4's network, by profile. "quick" on CIFAR-100 is meant to take
# two minutes on two cores of a server.
MAIN = {
    "ci": dict(width=8, epochs=2, train_images=1280, validation=256),
    "quick": dict(width=32, epochs=8, validation=2000),
    "full": dict(width=64, stem="cifar", epochs=30, validation=2000),
}
# The same for the small networks that a lesson trains along the way, each in seconds.
SMALL = {
    "ci": dict(width=8, epochs=1, train_images=640, validation=128),
    "quick": dict(width=16, epochs=3, train_images=10_000, validation=500),
    "full": dict(width=32, epochs=10, validation=2000),
}

# Lesson 7: tinted images to train on and to test on, and what the recipe changes. "quick" is meant
# to take a quarter of a minute a network on two cores of a server.
TINTS = {
    "ci": dict(train=640, test=300, width=4, epochs=1),
    "quick": dict(train=8000, test=1000, width=8, epochs=6),
    "full": dict(train=12_000, test=2000, width=8, epochs=8),
}


def lesson_data():
    """The `Archive` of the lessons, read once; a printed line says which it is."""
    return _data_at(locate_cifar100())  # CIFAR-100 may arrive while a notebook is open


@cache
def _data_at(path):
    if path is not None:
        archive, name = load_data("cifar100"), "CIFAR-100"
    else:
        archive = load_data("shapes100")
        name = words("Shapes-100, a generated stand-in for CIFAR-100")
    print(
        words(
            "data: {name}, {train:,} images to train on, {test:,} to test",
            name=name,
            train=len(archive.train),
            test=len(archive.test),
        )
    )
    return archive


def lesson_recipe(small=False, **changes):
    """The recipe of the lessons at this scale, with the given fields changed.

    small: the recipe of the small networks that are trained along the way.
    """
    real = locate_cifar100() is not None
    scale = dict((SMALL if small else MAIN)[profile()])
    if not real and profile() == "quick":  # a fifth of the images, and simpler ones
        scale.update(
            dict(width=16, epochs=12, validation=1000)
            if not small
            else dict(width=16, epochs=3, train_images=4000)
        )
    base = recipe("quick", data="cifar100" if real else "shapes100", crop_padding=4 if real else 2)
    return change(base, **{**scale, **changes})


def lesson_tints():
    """Lesson 7's tinted images and the recipe for them at this scale: (recipe, `Archive`, a `Split`
    of other images to choose on). The settings are those of experiments/tints.py, with fewer images
    and epochs except at "full"."""
    scale = TINTS[profile()]
    settings = dict(batch_size=64, validation=0, train_images=0, crop_padding=0, flip=False)
    wanted = recipe("quick", width=scale["width"], epochs=scale["epochs"], **settings)
    choose_on = tint_archive(1, scale["test"], seed=1).test
    return wanted, tint_archive(scale["train"], scale["test"]), choose_on


def _in_the_clone(*parts):
    """The path of a file that a clone of the repository has and an installed package has not."""
    path = Path(__file__).resolve().parent.parent.joinpath(*parts)
    if not path.is_file():
        raise LessonError(
            words(
                "there is no {path} beside the package nam_edu: that file comes with a clone of "
                "the repository, not with an installed package; run the lessons in a clone, or "
                "check the name",
                path="/".join(parts),
            )
        )
    return path


def compare(guess, found):
    """Print a guess beside what was found. "Predict, then run": a cell before asks for the guess.

    guess: a number, a word, or a list of them like `found`; the three dots `...` stand for no
    guess. Nothing depends on it, and no guess is an error.
    """
    if guess is ...:
        print(
            words(
                "You wrote no guess; the next time, put one in place of the dots and run both "
                "cells."
            )
        )
        return
    guesses, results = (list(v) if _is_list(v) else [v] for v in (guess, found))
    guessed, there = (", ".join(map(_short, values)) for values in (guesses, results))
    print(words("your guess: {guess}   found: {found}", guess=guessed, found=there))
    if len(guesses) != len(results):
        asked, given = len(results), len(guesses)
        print(
            words(
                "(the question asks for {asked}, your guess has {given})", asked=asked, given=given
            )
        )
        return
    print("          ", ", ".join(_verdict(g, r) for g, r in zip(guesses, results)))


def _is_list(value):
    return isinstance(value, (list, tuple)) or np.ndim(value) > 0


def _number(value):
    """A guess or a result as a number, or None: a word, or whatever else somebody wrote."""
    try:
        return None if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _short(value):
    number = _number(value)
    return str(value) if number is None else f"{number:.4g}"


def _verdict(guess, found):
    """How near a guess is, in words."""
    guessed, number = _number(guess), _number(found)
    if guessed is None or number is None:
        alike = str(guess).strip().lower() == str(found).lower()
        return words("right") if alike else words("not so")
    if guessed == number:
        return words("exactly")
    if guessed * number > 0 and not 0.5 < guessed / number < 2:
        times = max(guessed / number, number / guessed)
        if abs(guessed) > abs(number):
            return words("{times:.2g} times too large", times=times)
        return words("{times:.2g} times too small", times=times)
    return words("off by {difference:.2g}", difference=abs(guessed - number))


def gates_of_a_new_network(network, images, batch_size=128):
    """{name of a NAM layer: (channels, gate, largest |x_hat|)} of a network on the first images
    (N, 3, H, W) uint8, in training mode, as its first training step sees them; gate (N, C, h, w).

    The images are standardised by their own mean and standard deviation. Running statistics move.
    """
    seen = {}

    def watch(name):
        def hook(layer, inputs, output):
            gate = paddle.nn.functional.sigmoid(layer.logits(inputs[0])).numpy()
            x = inputs[0].numpy().astype(np.float64)
            x_hat = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(
                x.var((0, 2, 3), keepdims=True) + 1e-5
            )
            seen[name] = (x.shape[1], gate, float(np.abs(x_hat).max()))

        return hook

    layers = [(n, la) for n, la in nam_layers(network) if isinstance(la, ChannelNAM)]
    hooks = [layer.register_forward_post_hook(watch(name)) for name, layer in layers]
    x = images[:batch_size].astype("float32")
    x = (x - x.mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True)
    network.train()
    with paddle.no_grad():
        network(paddle.to_tensor(x))
    for hook in hooks:
        hook.remove()
    return seen


def golden(name):
    """The float64 arrays of an independent oracle, by their names (see tests/golden): "square_..."
    of a map (4, 8, 5, 5), "oblong_..." of (2, 5, 3, 8), each "channel", "spatial" or
    "channel_spatial". Raises LessonError outside a clone of the repository."""
    return dict(np.load(_in_the_clone("tests", "golden", f"{name}.npz")))


def _folder_of_runs():
    """NAM_EDU_RUNS; or AI Studio's work/runs, which survives restarts; or runs/ in the folder
    `notebooks`, also for the lessons in folders below it."""
    if os.environ.get("NAM_EDU_RUNS"):
        return runs_elsewhere()
    if runs_elsewhere():
        return runs_elsewhere() / "runs"
    here = Path.cwd()
    for levels, folder in enumerate([here, *here.parents][:3]):  # 2: notebooks/zh/solutions
        if folder.name == "notebooks":
            return Path(*[".."] * levels) / "runs"
    return Path("runs")


def lesson_folder(name):
    """Where a lesson keeps a run, by name, scale and data: in runs/ beside the notebooks, on AI
    Studio in work/runs, or in the folder that NAM_EDU_RUNS names."""
    data = "cifar100" if locate_cifar100() is not None else "shapes100"
    return _folder_of_runs() / f"{name}-{profile()}-{data}"


def visualdl_command():
    """The line that shows the curves of all runs of the lessons in a browser, for a terminal that
    starts in the notebook's folder."""
    return shell_command("visualdl", "--host", "127.0.0.1", "--logdir", _folder_of_runs())


def finished_run(name):
    """The finished `Run` that is kept under this name, or None."""
    try:
        run = open_run(lesson_folder(name))
    except TrainingError:
        return None
    return run if len(run.log) == run.recipe.epochs else None


def small_run(name, progress=False, **changes) -> Run:
    """A small network, trained in seconds, or kept from before; changes are fields of its recipe.

    It is kept under its name; one with another recipe is replaced, an interrupted one is resumed.
    """
    wanted = lesson_recipe(small=True, **changes)
    kept = finished_run(name)
    if kept is not None and _is_of(kept.recipe, wanted):
        return kept
    try:
        stopped = _is_of(open_run(lesson_folder(name)).recipe, wanted)
    except TrainingError:  # also of one that has lost its states
        stopped = False
    try:
        return fit(
            wanted, out=lesson_folder(name), resume=stopped, overwrite=True, progress=progress
        )
    except Stopped as error:
        error.go_on = words("run this cell again")  # it finds its way here
        raise


def lesson_run() -> Run:
    """The run of lesson 4, if it was made here and has NAM layers. Else the run that comes with the
    package, which was trained on CIFAR-100; on Shapes-100 a small one, trained in seconds."""
    kept = finished_run("lesson4")
    if kept is not None and kept.gamma_history:
        return kept
    if kept is None:
        why = words("Lesson 4 was not run here")
    else:
        why = words("The network of lesson 4 has no NAM layer")
    if locate_cifar100() is not None:
        print(words("{why}: the network that comes with the course is used instead.", why=why))
        return shipped()
    print(words("{why}: a small network is trained instead.", why=why))
    return small_run("small")


def lesson_pair():
    """{"nam": Run, "none": Run} of networks that are alike in all but the attention: those that
    come with the package, or on Shapes-100 small ones, trained in seconds."""
    names = ("nam", "none")
    if locate_cifar100() is not None:
        return {name: shipped(name) for name in names}
    return {name: small_run(f"pair-{name}", attention=name, epochs=5) for name in names}


def results(name):
    """The rows, as dictionaries of strings, of a table of this course's own measurements: of the
    pilot "runs", "curves", "gates", "fixed" or "removed", of the second round "runs2", "curves2",
    "gates2" or "fixed2", and of the same in PyTorch "runs-gpu" and so on, which are empty before
    their first run (results/attention.md says what is in them); of the tinted images "tints" and
    "tints-rates" (results/tints.md). Raises LessonError outside a clone of the repository."""
    of_round_two = re.fullmatch("(runs|curves|gates|fixed)(2|-gpu)", name)
    page = _in_the_clone("results", "attention.md")
    if of_round_two and not page.with_name(f"{name}.csv").is_file():
        return []
    with open(_in_the_clone("results", f"{name}.csv"), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _is_of(found, wanted):
    """Whether a run's recipe is this one, apart from what `fit` fills in."""
    return change(found, mean=wanted.mean, std=wanted.std) == wanted


def block_steps(block, x):
    """What a map x (N, C, H, W) meets in a residual block of `resnet`, for `plots.block_diagram`:
    ([(what, shape (C, H, W) of what comes out), ...], what the shortcut is)."""
    start, steps = x, [("x", tuple(x.shape[1:]))]
    pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    if hasattr(block, "conv3"):
        pairs.append((block.conv3, block.bn3))
    for conv, bn in pairs:
        x = bn(conv(x))
        shape, side = tuple(x.shape[1:]), conv.weight.shape[2]
        steps += [(f"conv {side}×{side}", shape), ("batch norm", shape), ("relu", shape)]
    steps[-1] = ("attention", tuple(block.attention(x).shape[1:]))  # no relu before it
    steps += [("+", shape), ("relu", shape), ("y", tuple(block(start).shape[1:]))]
    if block.downsample is None:
        return steps, "x as it is"
    conv = block.downsample[0]
    side, stride = conv.weight.shape[2], conv._stride[0]
    return steps, f"a {side}×{side} convolution with stride {stride}, and a batch norm"


def take_turns(functions, rounds=12):
    """Milliseconds of calls that take turns, {name: f} -> {name: (rounds,)}: what slows down the
    machine for a while slows down all of them. A first round, which is slower, is left out."""
    times = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: np.array(t[1:]) for name, t in times.items()}
