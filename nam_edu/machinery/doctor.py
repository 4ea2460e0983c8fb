"""`python -m nam_edu doctor`: what is installed, what is wrong, and how to mend it."""
from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from ..backend import data_found, import_paddle, tune_cpu, usable_cores
from .cifar_archive import ArchiveError
from .shapes100 import cache_folder

OLDEST_PADDLE = (2, 6)
NEEDED = ("numpy", "matplotlib", "jupyterlab", "nbval", "visualdl", "tqdm", "pytest")


def installed(name):
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def has_nvidia_gpu():
    """Whether this machine shows an NVIDIA GPU, Paddle asked or not."""
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia/version").exists()


def writable(folder):
    """Whether a file can be made in a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def matrix_product_rate(paddle, size=1024, seconds=0.5):
    """The best rate seen of a float32 product of two square matrices, in GFLOP/s."""
    a, b = paddle.rand([size, size]), paddle.rand([size, size])
    best, stop = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < stop:
        started = time.perf_counter()
        paddle.matmul(a, b)[0, 0].item()  # a GPU works on its own until it is asked
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9


def problems(cpu, gpu, version, nvidia, cuda_build):
    """What is wrong with the installed Paddle, in sentences that say how to mend it.

    cpu, gpu: versions of the distributions paddlepaddle and paddlepaddle-gpu, or None; version: of
    the paddle that was imported, or None; nvidia: whether there is a GPU; cuda_build: whether this
    Paddle can use one.
    """
    if cpu and gpu:
        yield (f"both paddlepaddle {cpu} and paddlepaddle-gpu {gpu} are installed and overwrite "
               "each other's files: pip uninstall -y paddlepaddle paddlepaddle-gpu, then install "
               "one of them")
    if version is None:
        yield ("PaddlePaddle is not installed: pip install -r requirements.txt (without a GPU) or "
               "pip install -r requirements-gpu.txt")
        return
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers != (0, 0) and numbers < OLDEST_PADDLE:  # 0.0.0 is a development build
        yield (f"Paddle {version} is too old, 2.6 is the oldest that this course is tested with: "
               "pip install --upgrade paddlepaddle")
    if nvidia and not cuda_build:
        yield ("there is an NVIDIA GPU, but this Paddle is the CPU build: pip uninstall -y "
               "paddlepaddle, then pip install -r requirements-gpu.txt")


def examine():
    """Print the state of this installation; return 1 if something is wrong, else 0."""
    wrong = []
    print(f"Python {platform.python_version()} on {platform.platform()}, "
          f"{usable_cores()} usable cores")
    if not (3, 9) <= sys.version_info[:2] <= (3, 13):
        wrong.append(f"Python {platform.python_version()} is outside 3.9 to 3.13, for which "
                     "PaddlePaddle has packages")
    for name in NEEDED:
        print(f"{name:<16} {installed(name) or 'missing'}")
        if not installed(name):
            wrong.append(f"{name} is missing: pip install -r requirements-base.txt")

    version, cuda_build = None, False
    try:
        tuned = tune_cpu()
        paddle = import_paddle()
        version, cuda_build = paddle.__version__, paddle.is_compiled_with_cuda()
        print(f"{'paddle':<16} {version}, {'GPU' if cuda_build else 'CPU'} build, device "
              f"{paddle.device.get_device()}, {os.environ.get('OMP_NUM_THREADS', '1')} threads")
        print(f"{'set for the CPU':<16} "
              f"{', '.join(f'{n}={v}' for n, v in tuned.items()) or 'nothing'}")
        print(f"{'matrix products':<16} {matrix_product_rate(paddle):.0f} GFLOP/s")
    except ImportError as error:
        print(f"{'paddle':<16} cannot be imported: {error}")
    wrong += problems(installed("paddlepaddle"), installed("paddlepaddle-gpu"), version,
                      has_nvidia_gpu(), cuda_build)
    try:
        print(f"{'data':<16} {data_found()}")
    except ArchiveError as error:
        wrong.append(str(error))
    for what, folder in (("this folder", Path.cwd()), ("the cache", cache_folder())):
        print(f"{what:<16} {folder}")
        if not writable(folder):
            wrong.append(f"{what}, {folder}, cannot be written to: work in a folder of your own, "
                         "or set NAM_EDU_CACHE to one")
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    print("Nothing is wrong." if not wrong else f"{len(wrong)} to mend.")
    return 1 if wrong else 0
