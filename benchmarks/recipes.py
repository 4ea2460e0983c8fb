"""How long an epoch of the full recipes takes on this machine: python -m benchmarks.recipes.

Trains some steps of each recipe by `fit` on CIFAR-100, as a user would, and takes the median step
times the steps of an epoch, plus the time per image of an evaluation times 10,000. Prints a table.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path

import nam_edu

STEPS = {"official": 6, "tutorial": 40, "shipped": 40}
EVALUATED = 512  # images


def measure(name, archive):
    """(median seconds of a step, seconds of an evaluated image)."""
    import numpy as np
    from paddle.callbacks import Callback

    from nam_edu.training import fit, recipe

    class Clock(Callback):
        def __init__(self):
            super().__init__()
            self.steps, self.evaluation = [], 0.0

        def on_train_batch_end(self, step, logs=None):
            self.steps.append(time.perf_counter())

        def on_eval_begin(self, logs=None):
            self.evaluation = time.perf_counter()

        def on_eval_end(self, logs=None):
            self.evaluation = time.perf_counter() - self.evaluation

    clock, wanted = Clock(), recipe(name, epochs=1, warmup_steps=0)
    few = dataclasses.replace(
        archive,
        train=archive.train.take(np.arange(STEPS[name] * wanted.batch_size)),
        test=archive.test.take(np.arange(EVALUATED)),
    )
    with tempfile.TemporaryDirectory() as folder:
        fit(wanted, few, Path(folder) / name, progress=False, callbacks=[clock])
    # The time between the ends of two steps: augmentation included, the first step left out.
    return statistics.median(np.diff(clock.steps)), clock.evaluation / EVALUATED


def main():
    nam_edu.setup()
    from nam_edu.training import load_data, machine, recipe, versions

    archive = load_data("cifar100")
    print(
        f"{machine()}; {', '.join(f'{k} {v}' for k, v in versions().items())}; "
        f"{time.strftime('%Y-%m-%d')}\n"
    )
    print(
        "| recipe | step of 128 images | epoch of 50,000, evaluation of 10,000 included | "
        "the whole recipe |\n|---|---:|---:|---:|"
    )
    for name in sys.argv[1:] or STEPS:
        step, image = measure(name, archive)
        epochs = recipe(name).epochs
        epoch = step * -(-len(archive.train) // recipe(name).batch_size) + image * len(archive.test)
        print(
            f"| `{name}` | {step:.2f} s | {epoch / 60:.1f} min | {epochs} epochs: "
            f"{epoch * epochs / 3600:.1f} hours |",
            flush=True,
        )


if __name__ == "__main__":
    main()
