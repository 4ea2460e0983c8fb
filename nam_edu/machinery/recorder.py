"""What watches a training: the recorder of log, gammas and states; signals; how far it is."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import math
import os
import signal
import sys
import threading
import time

import numpy as np
import paddle
from paddle.callbacks import Callback

from .. import checkpoint
from ..attention import nam_layers
from .errors import Stopped, TrainingError
from .files import new_file, write_text
from .language import words
from .progress import Line, curves, duration


class Recorder(Callback):
    """Keeps what a run leaves behind: log, gamma history, VisualDL's log, newest and best state.

    After each epoch, and where a run is stopped in the middle of one, the whole state is written to
    last.npz, the one before it kept as previous.npz; everything else can be made again from there.
    """

    def __init__(
        self, recipe, folder, network, optimizer, batches, evaluated_on, share=(0, 1), scaler=None
    ):
        super().__init__()
        self.recipe, self.folder, self.network = recipe, folder, network
        self.rank, self.ranks = share
        self.optimizer, self.batches, self.evaluated_on = optimizer, batches, evaluated_on
        self.scaler = scaler  # of the loss, in mixed precision
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
        """(our name of its velocity, Paddle's, the parameter) of every trainable parameter."""
        for name, parameter in self.network.named_parameters():
            if not parameter.stop_gradient:
                yield f"optimizer/{name}.velocity", f"{parameter.name}_velocity_0", parameter

    def save(self):
        arrays = {f"network/{n}": a for n, a in checkpoint.state_arrays(self.network).items()}
        state = self.optimizer.state_dict()
        for ours, theirs, parameter in self._velocities():
            # Paddle has none for a parameter that no gradient reached so far: it stands still.
            still = np.zeros(parameter.shape, np.float32)
            arrays[ours] = state[theirs].numpy() if theirs in state else still
        arrays.update({f"gamma/{n}": np.stack(rows) for n, rows in self.gamma.items()})
        meta = {
            "epoch": self.epoch,
            "step": self.step,
            "log": self.log,
            "best_top1": self.best_top1,
            "train": self.train.state() if self.step else None,
            "scaler": self._scaler_state(),
        }
        last = self.folder / "last.npz"
        new = self.folder / "new.npz"
        checkpoint.write_arrays(new, arrays, meta)
        if last.exists():
            os.replace(last, self.folder / "previous.npz")
        os.replace(new, last)

    def _scaler_state(self):
        """The state of the loss scaler as plain values, or None where there is none."""
        state = self.scaler.state_dict() if self.scaler is not None else {}
        return {**state, "scale": np.ravel(state["scale"]).tolist()} if state else None

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
                words(
                    "the state could not be written to {folder}: {why}; the last good state "
                    "is still there: make room, then go on with --resume (resume=True)",
                    folder=self.folder,
                    why=error.strerror or error,
                )
            ) from error

    def _stop_if_asked(self):
        if self.asked_to_stop is None:
            return
        if self.step:
            done = words(
                "step {step} of {steps} of epoch {epoch}",
                step=self.step,
                steps=len(self.batches),
                epoch=self.epoch + 1,
            )
        else:
            done = words("epoch {epoch} of {epochs}", epoch=self.epoch, epochs=self.recipe.epochs)
        raise Stopped(
            words(
                "stopped after {done}; its state is saved in {folder}: go on with --resume "
                "(resume=True)",
                done=done,
                folder=self.folder,
            ),
            self.asked_to_stop,
            done,
        )

    def restore(self, arrays, meta):
        checkpoint.assign_all(self.network, checkpoint.weights_of(arrays), self.folder)
        missing = [ours for ours, *_ in self._velocities() if ours not in arrays]
        missing += [f"gamma/{name}" for name in self.gamma if f"gamma/{name}" not in arrays]
        if missing:
            raise TrainingError(
                words(
                    "the state in {folder} lacks {missing}: it is damaged; start again with "
                    "--overwrite (overwrite=True)",
                    folder=self.folder,
                    missing=missing[0],
                )
            )
        schedule = self.optimizer._learning_rate
        self.optimizer.set_state_dict(
            {
                "LR_Scheduler": schedule.state_dict(),  # Paddle 2.6 asks for it
                **{
                    theirs: paddle.to_tensor(arrays[ours]) for ours, theirs, _ in self._velocities()
                },
            }
        )
        self.epoch, self.log, self.best_top1 = meta["epoch"], meta["log"], meta["best_top1"]
        self.step = meta.get("step", 0)
        self.train = Mean(meta["train"]) if self.step else None
        scaler = meta.get("scaler")  # lacking in a state of version 0.1.0
        if self.scaler is not None and scaler:
            self.scaler.load_state_dict({**scaler, "scale": np.array(scaler["scale"], np.float32)})
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
            print(
                words("VisualDL is not installed: no curves for it (pip install visualdl)"),
                file=sys.stderr,
            )
        else:
            # A fixed name: a resumed run goes on in the same file, and VisualDL need not say so.
            with contextlib.redirect_stdout(io.StringIO()):
                self.writer = LogWriter(
                    str(self.folder / "visualdl"), file_name="vdlrecords.nam_edu.log"
                )
        if self.epoch == self.step == 0:
            self._show_gamma()

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.epoch, self.batches.first = self.epoch, self.step
        self.started = time.perf_counter()
        self.train, self.evaluation = self.train if self.step else Mean(), Mean()

    def on_train_batch_begin(self, step, logs=None):
        # Random numbers that a layer draws, such as dropout's, depend on seed, epoch and step
        # alone, as those of the batches do: a resumed run draws what it would have drawn.
        stream = np.random.SeedSequence([self.recipe.seed, 200, self.epoch, self.step, self.rank])
        paddle.seed(int(stream.generate_state(1)[0]))

    def on_train_batch_end(self, step, logs=None):
        self.step += 1
        last = self.train.add(logs)
        self.rate = self.optimizer.get_lr()  # Paddle's own callback steps it after this one
        if not math.isfinite(sum(logs["loss"])):
            raise TrainingError(
                words(
                    "the loss became {loss} at step {step} of epoch {epoch}; the state after epoch "
                    "{last} is kept in {folder}; try a lower learning rate than "
                    "{rate:g}",
                    loss=sum(logs["loss"]),
                    step=self.step,
                    epoch=self.epoch + 1,
                    last=self.epoch,
                    folder=self.folder,
                    rate=self.recipe.learning_rate,
                )
            )
        self._scalars(
            "train",
            logs["loss"],
            *last,
            self.epoch * len(self.batches) + self.step - 1,
            learning_rate=self.rate,
        )
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
        self._refuse_spoiled_weights()
        self.row.update(
            evaluated_on=self.evaluated_on,
            **{f"eval_{k}": result[k] for k in ("cross_entropy", "top1", "top5")},
            seconds=round(time.perf_counter() - self.started, 2),
        )
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
        self._scalars(
            self.evaluated_on,
            [self.row["eval_cross_entropy"]],
            self.row["eval_top1"],
            self.row["eval_top5"],
            self.epoch * len(self.batches) - 1,
        )
        self._show_gamma()
        if self.epoch < self.recipe.epochs:
            self._stop_if_asked()

    def _refuse_spoiled_weights(self):
        """The last step of an epoch has no loss after it that would show a NaN; nor do accuracies,
        where a relu makes 0 of it."""
        for name, weight in self.network.named_parameters():
            if not np.isfinite(weight.numpy()).all():
                raise TrainingError(
                    words(
                        "{weight} holds NaN or infinity since the last step of epoch {epoch}; the "
                        "state after epoch {last} is kept in {folder}; try a lower learning rate "
                        "than {rate:g}",
                        weight=name,
                        epoch=self.epoch + 1,
                        last=self.epoch,
                        folder=self.folder,
                        rate=self.recipe.learning_rate,
                    )
                )

    def _agree(self):
        """Several processes: the means of all, and the same running statistics in each."""
        for parameter in self.network.parameters():
            if parameter.stop_gradient:  # a running mean or variance
                paddle.distributed.all_reduce(parameter)
                parameter.set_value(parameter / self.ranks)
        sums = paddle.to_tensor(
            np.array([self.train.images, *self.train.losses, *self.train.right], np.float64)
        )
        paddle.distributed.all_reduce(sums)
        images, *rest = sums.numpy().tolist()
        self.train = Mean(
            {"images": int(images), "losses": rest[:2], "right": [round(v) for v in rest[2:]]}
        )

    # -- VisualDL

    def _scalars(self, group, losses, top1, top5, step, **more):
        if self.writer is None:
            return
        values = {
            "loss": sum(losses),
            "cross_entropy": losses[0],
            "penalty": sum(losses[1:]),
            "top1": top1,
            "top5": top5,
            **more,
        }
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", float(value), step)

    def _show_gamma(self):
        if self.writer is not None:
            for name, rows in self.gamma.items():
                # As float64: values that hardly differ leave no room for 20 buckets in float32.
                self.writer.add_histogram(
                    f"gamma/{name}", rows[-1].astype(np.float64), self.epoch, buckets=20
                )


def evaluated_on_in_words(name):
    """What a run was evaluated on, "validation" or "test" images, for a person."""
    return {"validation": words("validation"), "test": words("test")}.get(name, name)


class Mean:
    """Means over an epoch, weighted by the size of the batches: of the losses `paddle.Model` gives
    those of a batch, of the accuracies the means since it began to count."""

    def __init__(self, state=None):
        state = state or {"images": 0, "losses": [0.0, 0.0], "right": [0, 0]}
        self.images = state["images"]
        self.losses, self.right = np.array(state["losses"]), np.array(state["right"])
        self.seen, self.seen_right = 0, np.zeros(2, int)  # since `paddle.Model` began to count

    def state(self):
        """Plain values from which `Mean` goes on."""
        return {"images": self.images, "losses": self.losses.tolist(), "right": self.right.tolist()}

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
        return {
            "loss": cross_entropy + penalty,
            "cross_entropy": cross_entropy,
            "penalty": penalty,
            "top1": top1,
            "top5": top5,
        }


def log_as_csv(log):
    """The rows of a run's log as the text of a CSV file with a header."""
    text = io.StringIO()
    if log:
        writer = csv.DictWriter(text, list(log[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(log)
    return text.getvalue()


class Progress(Callback):
    """One line that says how far the run has come, with loss, top-1, rate and the time left. In a
    notebook the loss is drawn below it; elsewhere each epoch leaves a line of its own, and where
    the output is a file these are all."""

    def __init__(self, recorder):
        super().__init__()
        self.recorder, self.epochs = recorder, recorder.recipe.epochs
        self.line = None

    def on_train_begin(self, logs=None):
        recorder = self.recorder
        self.line, self.started = Line(), time.perf_counter()
        self.steps = len(recorder.batches)
        self.first = recorder.epoch * self.steps + recorder.step  # 0, or where a run goes on
        rows = recorder.log
        self.losses = [(row["epoch"] - 0.5, row["cross_entropy"]) for row in rows]  # (epoch, loss)
        self.some = []  # the losses of the newest steps, not yet drawn

    def on_train_batch_end(self, step, logs=None):
        recorder = self.recorder
        done, total = recorder.epoch * self.steps + recorder.step, self.epochs * self.steps
        self.some.append(float(np.ravel(logs["loss"][0])[0]))
        if len(self.some) >= total / 200:  # 200 points are a curve
            self.losses.append((done / self.steps, float(np.mean(self.some))))
            self.some = []
        if self.line.due():
            left = (time.perf_counter() - self.started) / (done - self.first) * (total - done)
            self.line.show(
                words(
                    "epoch {epoch} of {epochs}, step {step} of {steps}, {share} % of the run: loss "
                    "{loss:.3f}, top-1 {top1:.1f} %, rate {rate:.3g}; about {time} left",
                    epoch=recorder.epoch + 1,
                    epochs=self.epochs,
                    step=recorder.step,
                    steps=self.steps,
                    share=100 * done // total,
                    loss=sum(logs["loss"]),
                    top1=100 * logs["acc_top1"],
                    rate=recorder.rate,
                    time=duration(left),
                ),
                self._drawing(),
            )

    def on_eval_end(self, logs=None):
        row = self.recorder.log[-1]
        said = words(
            "loss {loss:.3f}, top-1 {top1:.1f} %, top-5 {top5:.1f} %; {evaluated_on} top-1 "
            "{eval_top1:.1f} %, top-5 {eval_top5:.1f} %",
            **{**row, "evaluated_on": evaluated_on_in_words(row["evaluated_on"])},
        )
        if self.line.notebook:
            seconds = sum(row["seconds"] for row in self.recorder.log)
            self.line.show(
                words(
                    "epoch {epoch} of {epochs}: {said}; {time}",
                    epoch=row["epoch"],
                    epochs=self.epochs,
                    said=said,
                    time=duration(seconds),
                ),
                self._drawing(),
            )
            return
        self.line.clear()
        print(
            words(
                "epoch {epoch}/{epochs}: {said}; rate {rate:.3g}; {seconds:.0f} s",
                epoch=row["epoch"],
                epochs=self.epochs,
                said=said,
                rate=row["learning_rate"],
                seconds=row["seconds"],
            ),
            flush=True,
        )

    def _drawing(self):
        """The cross-entropy so far, over the epochs, for a notebook."""
        log, held_out = self.recorder.log, self.recorder.evaluated_on
        evaluated = [(row["epoch"], row["eval_cross_entropy"]) for row in log]
        drawn = {"training": ("#0072B2", self.losses), held_out: ("#C06000", evaluated)}
        top = math.ceil(max((y for _, points in drawn.values() for _, y in points), default=5))
        return curves(drawn, self.epochs, min(top, 8), "epoch", "cross-entropy")

    def close(self):
        if self.line is not None:
            self.line.clear()


@contextlib.contextmanager
def signals_go_to(recorder):
    """Inside, Ctrl-C and SIGTERM ask the recorder to stop after the step. Python lets only its main
    thread handle signals."""
    if (
        threading.current_thread() is not threading.main_thread() or recorder.ranks > 1
    ):  # they would stop at different steps and wait for each other
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
