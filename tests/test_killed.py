"""Training is killed again and again, at random moments and inside the writing of a state.

NAM_EDU_KILLS sets how many times (default: 4): NAM_EDU_KILLS=100 pytest tests/test_killed.py
"""

import os
import random
import subprocess
import sys
import time

import pytest
from helpers import random_split
from test_training import assert_same_run

from nam_edu.data import Archive, write_archive
from nam_edu.training import TrainingError, open_run

KILLS = int(os.environ.get("NAM_EDU_KILLS", "4"))
EPOCHS = 12


def kill(process, folder, rng):
    """SIGKILL after a random while, or as soon as a state is being written; False if it ended."""
    inside_writing = rng.random() < 0.5
    deadline = time.monotonic() + rng.uniform(0.5, 3.5)
    while process.poll() is None:
        writing = inside_writing and any(folder.glob(".new.npz.*"))
        if writing or time.monotonic() > deadline:
            if writing:
                time.sleep(rng.choice((0, 0, 0.001, 0.003)))
            process.kill()
            process.wait()
            return True
        time.sleep(0.0005)
    return False


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_killed_again_and_again(tmp_path, capsys):
    train, test = random_split(320, 0), random_split(200, 1)
    data = write_archive(
        tmp_path / "data.tar.gz", Archive(train, test, train.fine_names, train.coarse_names)
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NAM_EDU_CPU_TUNING": "0"}

    def command(out):
        return [
            sys.executable,
            "-m",
            "nam_edu",
            "train",
            "--recipe",
            "ci",
            "--width",
            "4",
            "--batch-size",
            "32",
            "--train-images",
            "256",
            "--validation",
            "64",
            "--epochs",
            str(EPOCHS),
            "--data",
            str(data),
            "--out",
            str(out),
            "--resume",
        ]

    subprocess.run(command(tmp_path / "whole"), env=environment, check=True, capture_output=True)
    whole = open_run(tmp_path / "whole")
    rng, kills, runs, written = random.Random(0), 0, 0, 0
    while kills < KILLS:
        folder = tmp_path / f"killed{runs}"
        epochs = 0
        while True:
            process = subprocess.Popen(
                command(folder),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            if kills < KILLS and kill(process, folder, rng):
                kills += 1
                written += any(folder.glob(".new.npz.*"))
                try:
                    reached = len(open_run(folder).log)
                except TrainingError as error:  # nothing was saved yet
                    assert epochs == 0 and ("no run" in str(error) or "not saved" in str(error))
                    reached = 0
                assert reached >= epochs, "a saved epoch was lost"
                epochs = reached
                continue
            _, errors = process.communicate()
            assert process.returncode == 0, errors
            break
        runs += 1
        assert_same_run(whole, open_run(folder))
    with capsys.disabled():
        print(f"\n{kills} kills in {runs} runs, {written} of them while a state was being written")
