"""Long processes do not grow: NAM_EDU_MEMORY_STEPS sets how long (default: 400 steps)."""

import gc
import os
import sys

import paddle
import pytest
from helpers import random_split

from nam_edu.data import Archive
from nam_edu.evaluation import evaluate
from nam_edu.training import build_network, fit, recipe

STEPS = int(os.environ.get("NAM_EDU_MEMORY_STEPS", "400"))
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def resident():
    """Resident memory of this process in MiB."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_training_and_evaluation(tmp_path):
    train, test = random_split(640, 0), random_split(10_000 if STEPS >= 2000 else 1000, 1)
    archive = Archive(train, test, train.fine_names, train.coarse_names)
    seen = []

    class Watch(paddle.callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            seen.append(resident() if len(seen) % 50 == 49 else None)

    settings = recipe(
        "ci", width=8, batch_size=32, train_images=0, validation=0, epochs=STEPS // 20
    )
    evaluate(build_network(settings), archive.test, batch_size=100)  # its threads keep memory
    run = fit(settings, archive, tmp_path / "run", progress=False, callbacks=[Watch()])
    early = max(value for value in seen[:150] if value)
    evaluate(run.network, archive.test, batch_size=100)
    now = resident()
    print(f"{len(seen)} steps: {early:.0f} MiB after 150, {now:.0f} MiB at the end")
    assert now < 1.05 * early


def test_the_same_cell_twenty_times(tmp_path):
    """Build, train a little and evaluate, again and again in one process."""
    train, test = random_split(320, 0), random_split(200, 1)
    archive = Archive(train, test, train.fine_names, train.coarse_names)
    seen = []
    for _ in range(20):
        run = fit(
            recipe("ci", width=8, batch_size=32, train_images=256, validation=64, epochs=1),
            archive,
            tmp_path / "run",
            progress=False,
            overwrite=True,
        )
        for _ in range(3):  # enough batches for every thread to meet some
            evaluate(run.network, archive.test, batch_size=25)
        seen.append(resident())
    print(" ".join(f"{value:.0f}" for value in seen))
    assert seen[-1] < 1.05 * seen[4]
