import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("NAM_EDU_PROFILE", "ci")  # for the kernels of the notebooks as well

from nam_edu.backend import import_paddle, tune_cpu  # noqa: E402
from nam_edu.data import Archive, Split, locate_cifar100  # noqa: E402

tune_cpu()
import_paddle()

GOLDEN = Path(__file__).parent / "golden"


def random_split(n, seed):
    """Images of noise, labelled so that every fine class has one superclass."""
    rng = np.random.default_rng(seed)
    fine = np.arange(n) % 100
    return Split(rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), fine, fine // 5,
                 tuple(f"fine {i}" for i in range(100)), tuple(f"coarse {i}" for i in range(20)))


@pytest.fixture
def archive():
    """A small archive of noise: 320 images to train on, 200 to test on."""
    train, test = random_split(320, 0), random_split(200, 1)
    return Archive(train, test, train.fine_names, train.coarse_names)


@pytest.fixture
def cifar100():
    """The path of the real CIFAR-100; the test is skipped where there is none."""
    path = locate_cifar100()
    if path is None:
        pytest.skip("CIFAR-100 is not here (set NAM_EDU_CIFAR100 to its archive)")
    return path


@pytest.fixture
def double():
    """Paddle's default type is float64 during the test."""
    import paddle

    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")
