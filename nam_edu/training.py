"""Lesson 4: one step of training, the loss of equation (4), and `fit`, which trains a network,
records it and can resume."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
import zlib

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from .attention import nam_layers, sparsity_penalty
from .augmentation import Augmentation
from .baselines import ATTENTIONS
from .data import Archive, Batches, channel_statistics, load_data
from .machinery.errors import Stopped, TrainingError, shell_command
from .machinery.files import named, write_text
from .machinery.language import words
from .machinery.progress import stops_read_well
from .machinery.recorder import Progress, Recorder, signals_go_to
from .machinery.run_folder import locked, machine, newest_state, prepare_folder, versions
from .recipes import (
    RECIPES,
    Recipe,
    build_network,
    change,
    choose_attention,
    learning_rate,
    own_name,
    random_numbers_kept,
    recipe,
    refuse_no_recipe,
)
from .runs import Run, load_network, open_run, saved_recipe, shipped

__all__ = [
    "Batches",
    "CrossEntropyWithPenalty",
    "RECIPES",
    "Recipe",
    "Run",
    "Stopped",
    "TrainingError",
    "build_network",
    "build_optimizer",
    "change",
    "fit",
    "learning_rate",
    "load_data",
    "load_network",
    "open_run",
    "recipe",
    "saved_recipe",
    "shipped",
    "train_step",
]


def train_step(network, optimizer, images, labels, penalty=0.0):
    """One step of training: forward, loss, backward, update. Returns the loss of equation (4).

    images: (N, 3, H, W), normalised. labels: (N, 1), whole numbers. penalty: p. The network must be
    in training mode. `fit` does the same through `paddle.Model`.
    """
    logits = network(images)  # (N, 3, H, W) -> (N, classes)
    loss = F.cross_entropy(logits, labels)
    if penalty:
        loss = loss + penalty * sparsity_penalty(network)
    loss.backward()  # the gradient of every parameter
    optimizer.step()  # a step against it
    optimizer.clear_grad()
    return loss


def build_optimizer(recipe, network, steps_per_epoch):
    """Momentum with the learning rate and the weight decay of a recipe.

    `optimizer._learning_rate.step()` moves the rate on after each step; `paddle.Model` does that by
    itself. NAM's own scale factors decay by weight_decay * gamma_decay.
    """
    for _, layer in nam_layers(network):
        layer.bn.weight.regularizer = (  # None: that of all parameters
            None
            if recipe.gamma_decay == 1
            else paddle.regularizer.L2Decay(recipe.weight_decay * recipe.gamma_decay)
        )
    schedule = paddle.optimizer.lr.LambdaDecay(
        1.0, lambda step: learning_rate(recipe, step, steps_per_epoch)
    )
    return paddle.optimizer.Momentum(
        schedule,
        recipe.momentum,
        parameters=network.parameters(),
        use_nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay or None,
    )


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


def fit(
    recipe,
    data=None,
    out="runs/first",
    resume=False,
    overwrite=False,
    progress=True,
    callbacks=(),
    attention=None,
):
    """Train the network of a recipe, and return the `Run`.

    Args:
        recipe: a `Recipe`, from `recipe`.
        data: an `Archive` or what `recipe.data` may be; None takes recipe.data.
        out: folder for run.json (recipe, versions, machine), log.csv, gamma.npz, the newest and
            the best weights, and VisualDL's log in visualdl/.
        resume: continue the run in that folder, to the last bit as if it had never stopped; where
            there is none, start one; a finished one is opened.
        overwrite: replace the run in that folder.
        progress: show how far it is: in a notebook one line and a curve, else a line per epoch.
        callbacks: further `paddle.callbacks.Callback`s; `self.model.network` is the network.
        attention: an attention of your own, a callable f(channels, size) that returns a new
            `paddle.nn.Layer` for maps of `channels` channels and size = (H, W). It takes the place
            of recipe.attention, which becomes "own: " and the callable's qualified name. Nothing
            but that name is saved: hand the callable over again to resume, or to open the network
            (`open_run(folder, attention=f)`).

    Ctrl-C, a notebook's interrupt and SIGTERM end it after the step that it is in: its state is
    saved, and it goes on from there. A second Ctrl-C ends it at once.

    Raises TrainingError (see the message; `Stopped` after Ctrl-C or SIGTERM), ArchiveError for the
    data.
    """
    refuse_no_recipe(recipe)
    if not isinstance(data, (Archive, str, os.PathLike, type(None))):
        raise TrainingError(
            words(
                "data must be an Archive, a path, or the name of a data set, not {kind}",
                kind=type(data).__name__,
            )
        )
    callbacks = list(callbacks)
    if attention is not None:
        name = own_name(attention)
        if recipe.attention in ATTENTIONS:
            recipe = change(recipe, attention=name)
    choose_attention(recipe, attention)
    if isinstance(data, Archive):
        archive, recipe = data, change(recipe, data="given")
    else:
        recipe = recipe if data is None else change(recipe, data=str(data))
        archive = load_data(recipe.data)
    train, evaluated, evaluated_on = _cut(archive, recipe)
    if recipe.mean is None or recipe.std is None:
        mean, std = channel_statistics(train.images)
        if recipe.std is None and min(std) == 0:
            raise TrainingError(
                words(
                    "all training images have the same value in one colour, so its standard "
                    "deviation is 0: check the data, or give --std (std=)"
                )
            )
        recipe = change(recipe, mean=recipe.mean or mean, std=recipe.std or std)

    stops_read_well()
    rank, ranks = share = _share()
    if ranks > 1:
        paddle.distributed.init_parallel_env()
        progress = progress and rank == 0
    folder = named(out)
    if overwrite and (folder / "run.json").exists():
        with paddle.utils.unique_name.guard():
            build_network(recipe, attention)  # what fails here must not cost the run that is there
    fingerprint = zlib.crc32(train.fine.tobytes(), zlib.crc32(np.ascontiguousarray(train.images)))
    with locked(folder) if rank == 0 else contextlib.nullcontext():
        if rank == 0 and not prepare_folder(folder, recipe, fingerprint, resume, overwrite):
            about = {
                "recipe": dataclasses.asdict(recipe),
                "command": shell_command(*sys.argv),
                "data": {"crc32": fingerprint, "train": len(train), evaluated_on: len(evaluated)},
                "versions": versions(),
                "machine": machine(),
                "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            }
            write_text(folder / "run.json", json.dumps(about, indent=2))

        if ranks > 1:
            paddle.distributed.barrier()  # until the first has prepared the folder
        # Parameters and optimizer states are named by counters: restart the counters, so that a
        # saved state finds its place however many networks this process built before.
        try:
            with paddle.utils.unique_name.guard(), random_numbers_kept():
                _train(
                    recipe,
                    attention,
                    folder,
                    train,
                    evaluated,
                    evaluated_on,
                    progress,
                    callbacks,
                    share,
                )
        except Stopped as stopped:
            if not resume:
                stopped.go_on = words("run this cell again with resume=True")
            raise
        if ranks > 1:
            paddle.distributed.barrier()  # until the first has saved everything
    return open_run(folder, attention)


def _share():
    """(rank, ranks) of this process: (0, 1) unless `paddle.distributed.launch` started several."""
    return (
        int(os.environ.get("PADDLE_TRAINER_ID", 0)),
        int(os.environ.get("PADDLE_TRAINERS_NUM", 1)),
    )


def _cut(archive, recipe):
    """(training images, images to evaluate after each epoch, what these are)."""
    rows = np.arange(len(archive.train))
    if recipe.validation or recipe.train_images:
        # 100: the stream of random numbers; none that `Batches` or `Recorder` draws from.
        rows = np.random.default_rng([recipe.seed, 100]).permutation(rows)
    held_out, rows = rows[: recipe.validation], rows[recipe.validation :]
    if recipe.train_images:
        rows = rows[: recipe.train_images]
    if not len(rows):
        raise TrainingError(
            words(
                "{validation} of {count} images are held out, and none is left to train on: lower "
                "--validation (validation)",
                validation=recipe.validation,
                count=len(archive.train),
            )
        )
    if len(rows) < recipe.batch_size:
        raise TrainingError(
            words(
                "a batch of {batch_size} images is more than the {count} there are to train "
                "on: lower --batch-size (batch_size)",
                batch_size=recipe.batch_size,
                count=len(rows),
            )
        )
    train = archive.train.take(rows) if len(rows) < len(archive.train) else archive.train
    if recipe.validation:
        return train, archive.train.take(held_out), "validation"
    # Reported after each epoch as the original does; nothing is chosen by it.
    return train, archive.test, "test"


def _train(
    recipe, attention, folder, train, evaluated, evaluated_on, progress, more_callbacks, share
):
    network = build_network(recipe, attention)
    augmentation = Augmentation(
        recipe.crop_padding, recipe.brightness, recipe.contrast, recipe.flip, recipe.rotation
    )
    batches = Batches(
        train, recipe.batch_size, network.normalization, augmentation, recipe.seed, share
    )
    evaluation_batches = Batches(evaluated, max(recipe.batch_size, 256), network.normalization)
    optimizer = build_optimizer(recipe, network, len(batches))
    on_gpu = paddle.device.get_device().startswith("gpu")
    if recipe.amp and not on_gpu:
        print(
            words("mixed precision (amp) needs a GPU: this run computes in float32"),
            file=sys.stderr,
        )
    scaler = paddle.amp.GradScaler() if recipe.amp and on_gpu else None

    recorder = Recorder(recipe, folder, network, optimizer, batches, evaluated_on, share, scaler)
    state = newest_state(folder)
    if state is not None:
        recorder.restore(*state)
        if recorder.epoch >= recipe.epochs:
            print(
                words(
                    "the run in {folder} is finished: {epoch} of {epochs} epochs",
                    folder=folder,
                    epoch=recorder.epoch,
                    epochs=recipe.epochs,
                )
            )
            return
        where = {"epoch": recorder.epoch, "epochs": recipe.epochs}
        if recorder.step:
            where.update(step=recorder.step, steps=len(batches))
            text = words(
                "going on after epoch {epoch} of {epochs}, then step {step} of {steps}", **where
            )
            print(text)
        else:
            print(words("going on after epoch {epoch} of {epochs}", **where))

    model = paddle.Model(network)
    model.prepare(
        optimizer,
        CrossEntropyWithPenalty(network, recipe.penalty),
        paddle.metric.Accuracy(topk=(1, 5)),
        amp_configs="O1" if scaler is not None else None,
    )
    if scaler is not None:
        model._scaler = scaler  # or it would make its own, which a resumed run could not restore
    own = [recorder] + ([Progress(recorder)] if progress else [])
    # Paddle adds a callback that steps the learning rate after every batch.
    try:
        with signals_go_to(recorder):
            model.fit(
                batches,
                evaluation_batches,
                epochs=recipe.epochs - recorder.epoch,
                verbose=0,
                callbacks=[*own, *more_callbacks],
            )
    finally:
        for callback in own:
            callback.close()
