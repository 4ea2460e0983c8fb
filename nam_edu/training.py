"""Recipes, and `fit`: training a NAM ResNet with `paddle.Model`, recorded and resumable."""
from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import platform
import signal
import sys
import threading
import time
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
from paddle.callbacks import Callback

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None

from . import __version__, checkpoint
from .attention import nam_layers, sparsity_penalty
from .augmentation import Augmentation
from .baselines import ATTENTIONS
from .data import (CIFAR100_MEAN, CIFAR100_STD, HOW_TO_GET, Archive, ArchiveError,
                   channel_statistics, locate_cifar100, normalise, read_archive)
from .files import new_file, write_text
from .resnet import DEPTHS, STEMS, resnet
from .shapes100 import load_shapes100


class TrainingError(ValueError):
    """A recipe, run folder or run that cannot go on; says why and what to do."""


class Stopped(TrainingError):
    """A run that was asked to stop (Ctrl-C, SIGTERM) and saved its state; `signal`: its number."""

    def __init__(self, message, signal):
        super().__init__(message)
        self.signal = signal


# ----------------------------------------------------------------------------------- recipes

@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained. Frozen; saved beside the run.

    Rates and factors are plain numbers, `rotation` is in degrees, `crop_padding` in pixels,
    `warmup_steps` in batches, `milestones` and `epochs` in epochs. `mean` and `std` are per colour
    of pixels scaled to 0-1; None takes those of the training images.
    """

    name: str
    data: str                      # "cifar100", "shapes100" or the path of an archive
    depth: int = 18
    width: int = 64
    stem: str = "imagenet"
    attention: str = "nam"
    epochs: int = 1
    batch_size: int = 128
    learning_rate: float = 0.1
    schedule: str = "cosine"       # "constant", "cosine" or "multistep"; by epoch, after warm-up
    milestones: tuple = ()         # of "multistep": the rate is multiplied by `decay` at each
    decay: float = 0.2
    warmup_steps: int = 0          # the rate grows in a straight line from 0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    amp: bool = False              # mixed precision; on a GPU only
    decay_gamma: bool = True       # whether weight decay acts on NAM's own scale factors too
    penalty: float = 0.0           # p of equation (4)
    crop_padding: int = 4
    flip: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    rotation: float = 0.0
    mean: tuple | None = None
    std: tuple | None = None
    train_images: int = 0          # train on so many images only; 0 is all
    validation: int = 0            # images cut from the training set to choose the best epoch
    seed: int = 0

    def __post_init__(self):
        for name, choices in (("depth", DEPTHS), ("stem", STEMS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in choices:
                raise TrainingError(f"unknown {name} {getattr(self, name)!r}: choose one of "
                                    f"{', '.join(map(str, choices))}")
        if self.attention not in ATTENTIONS:
            raise TrainingError(f"unknown attention {self.attention!r}: choose one of "
                                f"{', '.join(ATTENTIONS)}")
        for name, low in (("epochs", 1), ("batch_size", 1), ("width", 1), ("warmup_steps", 0),
                          ("crop_padding", 0), ("train_images", 0), ("validation", 0),
                          ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise TrainingError(f"{name} must be a whole number of at least {low}, "
                                    f"not {value!r}")
        for name in ("learning_rate", "decay", "momentum", "weight_decay", "penalty", "brightness",
                     "contrast", "rotation"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise TrainingError(f"{name} must be a number of at least 0, not {value!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None and (len(value) != 3 or not all(map(math.isfinite, value))
                                      or (name == "std" and min(value) <= 0)):
                raise TrainingError(f"{name} must be three numbers, one per colour, not {value!r}")
        # JSON and the command line give lists.
        for name in ("mean", "std", "milestones"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def __str__(self):
        width = max(len(f.name) for f in dataclasses.fields(self))
        return "\n".join(f"{f.name:<{width}}  {getattr(self, f.name)}"
                         for f in dataclasses.fields(self))


SCHEDULES = ("constant", "cosine", "multistep")

RECIPES = {r.name: r for r in (
    # All settings of the original tutorial (AI Studio project 4204121), its std included.
    Recipe("tutorial", "cifar100", depth=50, epochs=300, learning_rate=0.001, warmup_steps=2000,
           brightness=0.1, contrast=0.1, rotation=15.0, mean=CIFAR100_MEAN,
           std=(0.1942, 0.1918, 0.1958)),
    # The authors' released script (Christian-lyc/NAM), its CIFAR-10 mean and std included. Its
    # penalty changes no gradient as released, so here it is 0.
    Recipe("official", "cifar100", depth=50, stem="cifar", attention="nam-detached", epochs=200,
           schedule="multistep", milestones=(60, 120, 160), mean=(0.4914, 0.4822, 0.4465),
           std=(0.2023, 0.1994, 0.2010)),
    # The networks of nam_edu/weights: this one, and its twin with attention="none".
    Recipe("shipped", "cifar100", width=12, stem="cifar", epochs=20, nesterov=True,
           mean=CIFAR100_MEAN, std=CIFAR100_STD),
    # Half a minute on two cores of a server with AVX-512 (29 s measured).
    Recipe("quick", "shapes100", width=16, epochs=12, nesterov=True, crop_padding=2,
           validation=1000),
    # Seconds: for tests and for notebooks in continuous integration.
    Recipe("ci", "shapes100", width=8, epochs=2, nesterov=True, crop_padding=2, train_images=1280,
           validation=256),
)}


def recipe(name, **changes):
    """The recipe of this name, with the given fields changed: recipe("quick", epochs=3).

    Raises TrainingError for an unknown recipe or field, or a value that cannot be.
    """
    if name not in RECIPES:
        raise TrainingError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return change(RECIPES[name], **changes)


def change(base, **changes):
    """A copy of a recipe with some fields changed."""
    fields = [f.name for f in dataclasses.fields(Recipe)]
    unknown = [name for name in changes if name not in fields]
    if unknown:
        raise TrainingError(f"a recipe has no field {unknown[0]!r}; its fields are "
                            f"{', '.join(fields)}")
    return dataclasses.replace(base, **changes)


def learning_rate(recipe, step, steps_per_epoch):
    """The learning rate of a step, counted from 0 over the whole run.

    Warm-up goes by step, in a straight line from 0; then the schedule goes by epoch, counted from
    the epoch in which the warm-up ended, as in the original tutorial. A run that is shorter than
    its warm-up stays on that line.
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * step / recipe.warmup_steps
    epoch = step // steps_per_epoch - max(recipe.warmup_steps - 1, 0) // steps_per_epoch
    if recipe.schedule == "cosine":
        return recipe.learning_rate * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
    if recipe.schedule == "multistep":
        passed = sum(epoch >= milestone for milestone in recipe.milestones)
        return recipe.learning_rate * recipe.decay**passed
    return recipe.learning_rate


# ------------------------------------------------------------------------------ data and loss

def load_data(name):
    """An `Archive` by name: "shapes100", "cifar100" (wherever it is found) or a path."""
    if isinstance(name, Archive):
        return name
    if name == "shapes100":
        return load_shapes100()
    if name == "cifar100":
        path = locate_cifar100()
        if path is None:
            raise ArchiveError(HOW_TO_GET)
        return read_archive(path)
    return read_archive(locate_cifar100(name))


class Batches:
    """Batches of a split for `paddle.Model.fit`: [images (N, 3, 32, 32) float32, labels (N, 1)].

    Order and augmentation depend on `seed`, `epoch` and the number of the batch alone, so a batch
    can be made again at any time; `epoch`, and `first`, the batch to begin with, are set from
    outside before each pass. Without an augmentation the images come in their own order.

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

    def __iter__(self):
        order = np.arange(len(self.split))
        if self.augmentation is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.split))
        for step in range(self.first, len(self)):
            rows = order[step * self.batch_size:(step + 1) * self.batch_size]
            images = self.split.images[rows]
            if self.augmentation is not None:
                rng = np.random.default_rng([self.seed, self.epoch, step])
                images = self.augmentation(images, rng)
            rank, ranks = self.share
            mine = slice(rank, len(rows) // ranks * ranks, ranks)
            yield [normalise(images[mine], *self.normalization), self.split.fine[rows[mine], None]]


class CrossEntropyWithPenalty(nn.Layer):
    """Equation (4): cross-entropy, and p * (sum |gamma| + sum |lambda|) of a network's NAM layers.

    Returns the two terms; `paddle.Model` adds them up for the gradient.
    """

    def __init__(self, network, penalty):
        super().__init__()
        self._network = [network]  # in a list: the network is not a part of the loss
        self.penalty = penalty

    def forward(self, logits, labels):
        cross_entropy = F.cross_entropy(logits, labels)
        if not self.penalty:
            return [cross_entropy]
        return [cross_entropy, self.penalty * sparsity_penalty(self._network[0])]


# ------------------------------------------------------------------------------------- runs

@dataclass(frozen=True)
class Run:
    """A run folder, opened.

    folder: its path. recipe: the recipe as trained, mean and std filled in. log: one dictionary
    per epoch (columns of log.csv; accuracies in per cent). gamma_history: for every NAM layer an
    array (epochs + 1, C), the first row from before training. network: with the weights of the
    last epoch. best: with those of the best epoch on the validation split (of the last epoch in a
    run without one).
    """

    folder: Path
    recipe: Recipe
    log: list
    gamma_history: dict
    about: dict

    @cached_property
    def network(self):
        return self._load(*_newest_state(self.folder))

    @cached_property
    def best(self):
        path = self.folder / "best.npz"
        return self._load(*checkpoint.read_weights(path)) if path.exists() else self.network

    def _load(self, arrays, meta):
        network = build_network(self.recipe)
        checkpoint.assign_all(network, checkpoint.weights_of(arrays), self.folder)
        network.eval()
        return network


def build_network(recipe):
    """The network of a recipe, weights drawn with its seed."""
    paddle.seed(recipe.seed)
    network = resnet(recipe.depth, attention=recipe.attention, stem=recipe.stem,
                     width=recipe.width)
    if recipe.mean is not None and recipe.std is not None:
        network.normalization = (recipe.mean, recipe.std)
    return network


def _newest_state(folder):
    """(arrays, meta) of the newest training state in a run folder, or None; a damaged one is passed
    over in favour of the one before it."""
    for name in ("last.npz", "previous.npz"):
        path = folder / name
        if path.exists():
            try:
                arrays, meta = checkpoint.read_arrays(path)
                _check_meta(path, meta)
                return arrays, meta
            except checkpoint.CheckpointError as error:
                print(f"{error}; going back to the state before it", file=sys.stderr)
    return None


def _check_meta(path, meta):
    """Refuse a state whose plain values are not those that `Recorder.save` writes."""
    train = meta.get("train")
    right = (type(meta.get("epoch")) is int and type(meta.get("step", 0)) is int
             and type(meta.get("best_top1")) in (int, float)
             and isinstance(meta.get("log"), list) and len(meta["log"]) == meta["epoch"]
             and all(isinstance(row, dict) for row in meta["log"])
             and (not meta.get("step") or isinstance(train, dict)
                  and {"images", "losses", "right"} <= set(train)))
    if not right:
        raise checkpoint.CheckpointError(f"{path} is no state of a run: its 'meta' is damaged")


def open_run(folder):
    """Open the folder of a run, finished or not, and return a `Run`.

    Raises TrainingError where there is no run or nothing was saved yet.
    """
    folder = Path(folder)
    about = _read_about(folder)
    state = _newest_state(folder)
    if state is None:
        raise TrainingError(f"the run in {folder} has not saved an epoch yet: continue it with "
                            "--resume (resume=True)")
    arrays, meta = state
    history = {name[len("gamma/"):]: a for name, a in arrays.items() if name.startswith("gamma/")}
    return Run(folder, Recipe(**about["recipe"]), meta["log"], history, about)


def saved_recipe(folder):
    """The recipe of the run in a folder; raises TrainingError where there is none."""
    return Recipe(**_read_about(folder)["recipe"])


SHIPPED = Path(__file__).resolve().parent / "weights"  # of the runs that come with the package


def shipped(attention="nam"):
    """The `Run` that comes with the package: trained on CIFAR-100 by the recipe "shipped", with
    "nam" or "none". Its weights are rounded to float16; how it was made stands in its folder."""
    if not (SHIPPED / attention).is_dir():
        raise TrainingError(f"no run with attention {attention!r} comes with the package: there is "
                            f"{' and '.join(sorted(p.name for p in SHIPPED.glob('*')))}")
    return open_run(SHIPPED / attention)


def load_network(path):
    """The network of a weights file and its recipe: (network, Recipe).

    "shipped" and "shipped-none" are those that come with the package (see `shipped`). An .npz of
    this package carries its recipe; any other file is taken for the original tutorial's
    ResNet-50-NAM. Raises CheckpointError.
    """
    if path in ("shipped", "shipped-none"):
        run = shipped("none" if path == "shipped-none" else "nam")
        return run.network, run.recipe
    arrays, meta = checkpoint.read_weights(path)
    try:
        recipe = Recipe(**meta["recipe"]) if "recipe" in meta else RECIPES["tutorial"]
    except (TypeError, TrainingError) as error:
        raise checkpoint.CheckpointError(f"{path}: its recipe cannot be used: {error}") from None
    network = build_network(recipe)
    checkpoint.assign_all(network, arrays, path)
    network.eval()
    return network, recipe


def _read_about(folder):
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise TrainingError(f"there is no run in {folder}: train one with 'python -m nam_edu train "
                            f"--out {folder}'")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        Recipe(**about["recipe"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is damaged ({error}); start the run anew in another folder "
                            "or with --overwrite") from None
    return about


RUN_FILES = ("run.json", "last.npz", "previous.npz", "best.npz", "gamma.npz", "log.csv")


def _prepare_folder(folder, recipe, fingerprint, resume, overwrite):
    """Make a locked folder ready: True if there is a run in it to continue. Refuses what would
    destroy somebody's work."""
    has_run = (folder / "run.json").exists()
    if has_run and resume:
        about = _read_about(folder)
        saved = saved_recipe(folder)
        differ = [f"{f.name} ({getattr(saved, f.name)} there, {getattr(recipe, f.name)} asked for)"
                  for f in dataclasses.fields(Recipe)
                  if f.name != "data" and getattr(saved, f.name) != getattr(recipe, f.name)]
        if differ:
            raise TrainingError(f"the run in {folder} has another recipe: {', '.join(differ)}; "
                                "continue it with its own, or choose another folder")
        if about["data"]["crc32"] != fingerprint:
            raise TrainingError(f"the run in {folder} was trained on other images: continue it "
                                f"with its own data ({about['recipe']['data']})")
        return True
    if has_run and not overwrite:
        raise TrainingError(f"{folder} holds a run already: continue it with --resume "
                            "(resume=True), replace it with --overwrite (overwrite=True), or "
                            "choose another folder with --out (out=)")
    if has_run:
        for path in [folder / name for name in RUN_FILES] + list(folder.glob("visualdl/*")):
            path.unlink(missing_ok=True)
    return False


@contextlib.contextmanager
def _locked(folder):
    """Make a folder and hold it: one process at a time trains in it. The system takes the lock from
    a process that ends, however it ends."""
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder} is a file: choose another folder with --out (out=)")
    if folder.exists() and not (folder / "run.json").exists() and any(
            path.name != "lock" for path in folder.iterdir()):
        raise TrainingError(f"{folder} is not empty and holds no run: choose another folder with "
                            "--out (out=)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "a")  # noqa: SIM115
    except OSError as error:
        raise TrainingError(f"cannot write to {folder}: {error.strerror or error}; choose another "
                            "folder with --out (out=)") from error
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            raise TrainingError(f"another process is training in {folder}: wait for it, or choose "
                                "another folder with --out (out=)") from None
        yield


def fit(recipe, data=None, out="runs/first", resume=False, overwrite=False, progress=True,
        callbacks=()):
    """Train the network of a recipe, and return the `Run`.

    Args:
        recipe: a `Recipe`, from `recipe`.
        data: an `Archive` or what `recipe.data` may be; None takes recipe.data.
        out: folder for run.json (recipe, versions, machine), log.csv, gamma.npz, the newest and
            the best weights, and VisualDL's log in visualdl/.
        resume: continue the run in that folder, to the last bit as if it had never stopped; where
            there is none, start one; a finished one is opened.
        overwrite: replace the run in that folder.
        progress: show a progress bar and a line per epoch.
        callbacks: further `paddle.callbacks.Callback`s; `self.model.network` is the network.

    Ctrl-C and SIGTERM end it after the step that it is in: its state is saved, and it goes on from
    there. A second Ctrl-C ends it at once.

    Raises TrainingError (see the message; `Stopped` after Ctrl-C or SIGTERM), ArchiveError for the
    data.
    """
    if isinstance(data, Archive):
        archive, recipe = data, change(recipe, data="given")
    else:
        recipe = recipe if data is None else change(recipe, data=str(data))
        archive = load_data(recipe.data)
    train, evaluated, evaluated_on = _cut(archive, recipe)
    if recipe.mean is None or recipe.std is None:
        mean, std = channel_statistics(train.images)
        if recipe.std is None and min(std) == 0:
            raise TrainingError("all training images have the same value in one colour, so its "
                                "standard deviation is 0: check the data, or give --std (std=)")
        recipe = change(recipe, mean=recipe.mean or mean, std=recipe.std or std)

    rank, ranks = share = _share()
    if ranks > 1:
        paddle.distributed.init_parallel_env()
        progress = progress and rank == 0
    folder = Path(out)
    fingerprint = zlib.crc32(train.fine.tobytes(), zlib.crc32(np.ascontiguousarray(train.images)))
    with _locked(folder) if rank == 0 else contextlib.nullcontext():
        if rank == 0 and not _prepare_folder(folder, recipe, fingerprint, resume, overwrite):
            about = {"recipe": dataclasses.asdict(recipe), "command": " ".join(sys.argv),
                     "data": {"crc32": fingerprint, "train": len(train),
                              evaluated_on: len(evaluated)},
                     "versions": versions(), "machine": machine(),
                     "started": time.strftime("%Y-%m-%d %H:%M:%S %z")}
            write_text(folder / "run.json", json.dumps(about, indent=2))

        if ranks > 1:
            paddle.distributed.barrier()  # until the first has prepared the folder
        # Parameters and optimizer states are named by counters: start them anew, so that a saved
        # state finds its place however many networks this process built before.
        with paddle.utils.unique_name.guard():
            _train(recipe, folder, train, evaluated, evaluated_on, progress, callbacks, share)
        if ranks > 1:
            paddle.distributed.barrier()  # until the first has saved everything
    return open_run(folder)


def _share():
    """(rank, ranks) of this process: (0, 1) unless `paddle.distributed.launch` started several."""
    return (int(os.environ.get("PADDLE_TRAINER_ID", 0)),
            int(os.environ.get("PADDLE_TRAINERS_NUM", 1)))


def versions():
    """Versions of what the numbers depend on, as a dictionary of strings."""
    return {"nam_edu": __version__, "paddle": paddle.__version__, "numpy": np.__version__,
            "python": platform.python_version()}


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


def _cut(archive, recipe):
    """(training images, images to evaluate after each epoch, what these are)."""
    rows = np.arange(len(archive.train))
    if recipe.validation or recipe.train_images:
        rows = np.random.default_rng([recipe.seed, 100]).permutation(rows)
    held_out, rows = rows[:recipe.validation], rows[recipe.validation:]
    if recipe.train_images:
        rows = rows[:recipe.train_images]
    if len(rows) < recipe.batch_size:
        raise TrainingError(f"a batch of {recipe.batch_size} images is more than the "
                            f"{len(rows)} there are to train on: lower --batch-size (batch_size)")
    train = archive.train.take(rows) if len(rows) < len(archive.train) else archive.train
    if recipe.validation:
        return train, archive.train.take(held_out), "validation"
    # Reported after each epoch as the original does; nothing is chosen by it.
    return train, archive.test, "test"


def _train(recipe, folder, train, evaluated, evaluated_on, progress, more_callbacks, share):
    network = build_network(recipe)
    if not recipe.decay_gamma:
        for _, layer in nam_layers(network):
            layer.bn.weight.regularizer = paddle.regularizer.L2Decay(0.0)
    augmentation = Augmentation(recipe.crop_padding, recipe.brightness, recipe.contrast,
                                recipe.flip, recipe.rotation)
    batches = Batches(train, recipe.batch_size, network.normalization, augmentation, recipe.seed,
                      share)
    evaluation_batches = Batches(evaluated, max(recipe.batch_size, 256), network.normalization)
    schedule = paddle.optimizer.lr.LambdaDecay(
        1.0, lambda step: learning_rate(recipe, step, len(batches)))
    optimizer = paddle.optimizer.Momentum(
        schedule, recipe.momentum, parameters=network.parameters(),
        use_nesterov=recipe.nesterov, weight_decay=recipe.weight_decay or None)

    recorder = Recorder(recipe, folder, network, optimizer, batches, evaluated_on, share)
    state = _newest_state(folder)
    if state is not None:
        recorder.restore(*state)
        if recorder.epoch >= recipe.epochs:
            print(f"the run in {folder} is finished: {recorder.epoch} of {recipe.epochs} epochs")
            return
        print(f"going on after epoch {recorder.epoch} of {recipe.epochs}"
              + (f", step {recorder.step} of {len(batches)}" if recorder.step else ""))

    on_gpu = paddle.device.get_device().startswith("gpu")
    if recipe.amp and not on_gpu:
        print("mixed precision (amp) needs a GPU: this run computes in float32", file=sys.stderr)
    model = paddle.Model(network)
    model.prepare(optimizer, CrossEntropyWithPenalty(network, recipe.penalty),
                  paddle.metric.Accuracy(topk=(1, 5)),
                  amp_configs="O1" if recipe.amp and on_gpu else None)
    own = [recorder] + ([Progress(recorder)] if progress else [])
    # Paddle adds a callback that steps the learning rate after every batch.
    try:
        with _signals_go_to(recorder):
            model.fit(batches, evaluation_batches, epochs=recipe.epochs - recorder.epoch, verbose=0,
                      callbacks=[*own, *more_callbacks])
    finally:
        for callback in own:
            callback.close()


@contextlib.contextmanager
def _signals_go_to(recorder):
    """Inside, Ctrl-C and SIGTERM ask the recorder to stop after the step. Python lets only its main
    thread handle signals."""
    if (threading.current_thread() is not threading.main_thread()
            or recorder.ranks > 1):  # they would stop at different steps and wait for each other
        yield
        return

    def ask(number, frame):
        if recorder.asked_to_stop is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        recorder.asked_to_stop = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Recorder(Callback):
    """Keeps what a run leaves behind: log, gamma history, VisualDL's log, newest and best state.

    After each epoch, and where a run is stopped in the middle of one, the whole state is written to
    last.npz, the one before it kept as previous.npz; everything else can be made again from there.
    """

    def __init__(self, recipe, folder, network, optimizer, batches, evaluated_on, share=(0, 1)):
        super().__init__()
        self.recipe, self.folder, self.network = recipe, folder, network
        self.rank, self.ranks = share
        self.optimizer, self.batches, self.evaluated_on = optimizer, batches, evaluated_on
        self.epoch = 0  # epochs finished
        self.step = 0  # steps done of the next one
        self.train = None  # its means so far
        self.asked_to_stop = None  # the number of a signal
        self.log = []
        self.gamma = {name: [layer.bn.weight.numpy().copy()] for name, layer in nam_layers(network)}
        self.best_top1 = -1.0
        self.writer = None

    # -- state

    def _velocities(self):
        """(our name, Paddle's name) of the optimizer's state of every trainable parameter."""
        for name, parameter in self.network.named_parameters():
            if not parameter.stop_gradient:
                yield f"optimizer/{name}.velocity", f"{parameter.name}_velocity_0"

    def save(self):
        arrays = {f"network/{n}": a for n, a in checkpoint.state_arrays(self.network).items()}
        state = self.optimizer.state_dict()
        arrays.update({ours: state[theirs].numpy() for ours, theirs in self._velocities()})
        arrays.update({f"gamma/{n}": np.stack(rows) for n, rows in self.gamma.items()})
        meta = {"epoch": self.epoch, "step": self.step, "log": self.log,
                "best_top1": self.best_top1, "train": self.train.state() if self.step else None}
        last = self.folder / "last.npz"
        new = self.folder / "new.npz"
        checkpoint.write_arrays(new, arrays, meta)
        if last.exists():
            os.replace(last, self.folder / "previous.npz")
        os.replace(new, last)

    def _save_or_explain(self):
        with self._explained():
            self.save()
            self._write_tables()

    @contextlib.contextmanager
    def _explained(self):
        """A disk that is full, a folder that was taken away: say what is safe."""
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"the state could not be written to {self.folder}: {error.strerror or error}; the "
                "last good state is still there: make room, then go on with --resume "
                "(resume=True)") from error

    def _stop_if_asked(self):
        if self.asked_to_stop is None:
            return
        done = (f"step {self.step} of {len(self.batches)} of epoch {self.epoch + 1}" if self.step
                else f"epoch {self.epoch} of {self.recipe.epochs}")
        raise Stopped(f"stopped after {done}; its state is saved in {self.folder}: go on with "
                      "--resume (resume=True)", self.asked_to_stop)

    def restore(self, arrays, meta):
        checkpoint.assign_all(self.network, checkpoint.weights_of(arrays), self.folder)
        missing = [ours for ours, _ in self._velocities() if ours not in arrays]
        missing += [f"gamma/{name}" for name in self.gamma if f"gamma/{name}" not in arrays]
        if missing:
            raise TrainingError(f"the state in {self.folder} lacks {missing[0]}: it is damaged; "
                                "start the run anew with --overwrite (overwrite=True)")
        schedule = self.optimizer._learning_rate
        self.optimizer.set_state_dict(
            {"LR_Scheduler": schedule.state_dict(),  # Paddle 2.6 asks for it
             **{theirs: paddle.to_tensor(arrays[ours]) for ours, theirs in self._velocities()}})
        self.epoch, self.log, self.best_top1 = meta["epoch"], meta["log"], meta["best_top1"]
        self.step = meta.get("step", 0)
        self.train = _Mean(meta["train"]) if self.step else None
        self.gamma = {name: list(arrays[f"gamma/{name}"]) for name in self.gamma}
        schedule.step(self.epoch * len(self.batches) + self.step)
        if self.rank == 0:
            self._write_tables()

    def _write_tables(self):
        write_text(self.folder / "log.csv", log_as_csv(self.log))
        with new_file(self.folder / "gamma.npz") as file:
            np.savez(file, **{name: np.stack(rows) for name, rows in self.gamma.items()})

    def close(self):
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    # -- what paddle.Model calls

    def on_train_begin(self, logs=None):
        if self.rank > 0:
            return
        try:
            from visualdl import LogWriter
        except ImportError:
            print("VisualDL is not installed: no curves for it (pip install visualdl)",
                  file=sys.stderr)
        else:
            # A fixed name: a resumed run goes on in the same file, and VisualDL need not say so.
            with contextlib.redirect_stdout(io.StringIO()):
                self.writer = LogWriter(str(self.folder / "visualdl"),
                                        file_name="vdlrecords.nam_edu.log")
        if self.epoch == self.step == 0:
            self._show_gamma()

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.epoch, self.batches.first = self.epoch, self.step
        self.started = time.perf_counter()
        self.train, self.evaluation = self.train if self.step else _Mean(), _Mean()

    def on_train_batch_end(self, step, logs=None):
        self.step += 1
        last = self.train.add(logs)
        self.rate = self.optimizer.get_lr()  # Paddle's own callback steps it after this one
        if not math.isfinite(sum(logs["loss"])):
            raise TrainingError(
                f"the loss became {sum(logs['loss'])} at step {self.step} of epoch "
                f"{self.epoch + 1}; the state after epoch {self.epoch} is kept in {self.folder}; "
                f"try a lower learning rate than {self.recipe.learning_rate:g}")
        self._scalars("train", logs["loss"], *last,
                      self.epoch * len(self.batches) + self.step - 1, learning_rate=self.rate)
        if self.asked_to_stop is not None and self.step < len(self.batches):
            self._save_or_explain()
            self._stop_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        if self.ranks > 1:
            self._agree()
        self.row = {"epoch": self.epoch + 1, **self.train.result(), "learning_rate": self.rate}

    def on_eval_batch_end(self, step, logs=None):
        self.evaluation.add(logs)

    def on_eval_end(self, logs=None):
        result = self.evaluation.result()
        self.row.update(evaluated_on=self.evaluated_on,
                        **{f"eval_{k}": result[k] for k in ("cross_entropy", "top1", "top5")},
                        seconds=round(time.perf_counter() - self.started, 2))
        self.epoch, self.step = self.epoch + 1, 0
        self.log.append(self.row)
        for name, layer in nam_layers(self.network):
            self.gamma[name].append(layer.bn.weight.numpy().copy())
        if self.rank > 0:
            return
        if self.evaluated_on == "validation" and self.row["eval_top1"] > self.best_top1:
            self.best_top1 = self.row["eval_top1"]
            meta = {"epoch": self.epoch, "recipe": dataclasses.asdict(self.recipe)}
            with self._explained():
                checkpoint.save_weights(self.network, self.folder / "best.npz", meta)
        self._save_or_explain()
        self._scalars(self.evaluated_on, [self.row["eval_cross_entropy"]], self.row["eval_top1"],
                      self.row["eval_top5"], self.epoch * len(self.batches) - 1)
        self._show_gamma()
        if self.epoch < self.recipe.epochs:
            self._stop_if_asked()

    def _agree(self):
        """Several processes: the means of all, and the same running statistics in each."""
        for parameter in self.network.parameters():
            if parameter.stop_gradient:  # a running mean or variance
                paddle.distributed.all_reduce(parameter)
                parameter.set_value(parameter / self.ranks)
        sums = paddle.to_tensor(np.array([self.train.images, *self.train.losses,
                                          *self.train.right], np.float64))
        paddle.distributed.all_reduce(sums)
        images, *rest = sums.numpy().tolist()
        self.train = _Mean({"images": int(images), "losses": rest[:2],
                            "right": [round(v) for v in rest[2:]]})

    # -- VisualDL

    def _scalars(self, group, losses, top1, top5, step, **more):
        if self.writer is None:
            return
        values = {"loss": sum(losses), "cross_entropy": losses[0],
                  "penalty": sum(losses[1:]), "top1": top1, "top5": top5, **more}
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", float(value), step)

    def _show_gamma(self):
        if self.writer is not None:
            for name, rows in self.gamma.items():
                # As float64: values that hardly differ leave no room for 20 buckets in float32.
                self.writer.add_histogram(f"gamma/{name}", rows[-1].astype(np.float64),
                                          self.epoch, buckets=20)


class _Mean:
    """Means over an epoch, weighted by the size of the batches: of the losses `paddle.Model` gives
    those of a batch, of the accuracies the means since it began to count."""

    def __init__(self, state=None):
        state = state or {"images": 0, "losses": [0.0, 0.0], "right": [0, 0]}
        self.images = state["images"]
        self.losses, self.right = np.array(state["losses"]), np.array(state["right"])
        self.seen, self.seen_right = 0, np.zeros(2, int)  # since `paddle.Model` began to count

    def state(self):
        """Plain values from which `_Mean` goes on."""
        return {"images": self.images, "losses": self.losses.tolist(),
                "right": self.right.tolist()}

    def add(self, logs):
        """Take a batch in; return its top-1 and top-5 in per cent."""
        size = logs["batch_size"]
        losses = (list(logs["loss"]) + [0.0])[:2]  # cross-entropy, penalty
        self.losses = self.losses + size * np.array(losses, np.float64)
        self.images += size
        self.seen += size
        right = np.rint(self.seen * np.array([logs["acc_top1"], logs["acc_top5"]])).astype(int)
        of_batch, self.seen_right = right - self.seen_right, right
        self.right = self.right + of_batch
        return 100 * of_batch / size

    def result(self):
        cross_entropy, penalty = (float(v) for v in self.losses / self.images)
        top1, top5 = (100 * float(v) for v in self.right / self.images)
        return {"loss": cross_entropy + penalty, "cross_entropy": cross_entropy,
                "penalty": penalty, "top1": top1, "top5": top5}


def log_as_csv(log):
    """The rows of a run's log as the text of a CSV file with a header."""
    text = io.StringIO()
    if log:
        writer = csv.DictWriter(text, list(log[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(log)
    return text.getvalue()


class Progress(Callback):
    """A progress bar with loss, top-1, top-5, rate and the time left for the run, and a line for
    each epoch; where the output is a file, the lines alone."""

    def __init__(self, recorder):
        super().__init__()
        self.recorder = recorder
        self.bar = None

    def on_train_begin(self, logs=None):
        from tqdm import tqdm

        recorder = self.recorder
        steps = len(recorder.batches)
        live = sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")
        self.bar = tqdm(total=recorder.recipe.epochs * steps,
                        initial=recorder.epoch * steps + recorder.step, unit="step",
                        disable=not live, leave=False, dynamic_ncols=True)

    def on_epoch_begin(self, epoch, logs=None):
        self.bar.set_description(f"epoch {self.recorder.epoch + 1}/{self.recorder.recipe.epochs}")

    def on_train_batch_end(self, step, logs=None):
        self.bar.set_postfix_str(
            f"loss {sum(logs['loss']):.3f}, top-1 {100 * logs['acc_top1']:.1f} %, "
            f"top-5 {100 * logs['acc_top5']:.1f} %, rate {self.recorder.optimizer.get_lr():.3g}",
            refresh=False)
        self.bar.update()

    def on_eval_end(self, logs=None):
        row = self.recorder.log[-1]
        self.bar.clear()
        print(f"epoch {row['epoch']}/{self.recorder.recipe.epochs}: loss {row['loss']:.3f}, "
              f"top-1 {row['top1']:.1f} %, top-5 {row['top5']:.1f} %; {row['evaluated_on']} top-1 "
              f"{row['eval_top1']:.1f} %, top-5 {row['eval_top5']:.1f} %; rate "
              f"{row['learning_rate']:.3g}; {row['seconds']:.0f} s", flush=True)

    def close(self):
        if self.bar is not None:
            self.bar.close()
