import os

import pytest
from helpers import random_split

os.environ.setdefault("NAM_EDU_PROFILE", "ci")  # for the kernels of the notebooks as well

from nam_edu.backend import import_paddle, tune_cpu  # noqa: E402
from nam_edu.data import Archive, locate_cifar100  # noqa: E402

tune_cpu()
import_paddle()


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
