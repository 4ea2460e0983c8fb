"""Holds `python -m nam_edu doctor`: what is installed, what is wrong, and how to fix it.

Whatever is missing, this must still run: only the standard library is imported at the top, and
nothing here needs more than Python 3.8.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path

OLDEST_PADDLE = (2, 6)
OLDEST_PYTHON, NEWEST_PYTHON = (3, 9), (3, 13)
HOME = Path(__file__).resolve().parent.parent.parent  # a clone, or where packages are installed

# (who needs the packages, what is in HOME only if somebody there does, the packages); of names
# joined by "or", one is enough. The zip for AI Studio has tests/golden but no tests.
NEEDED = (
    ("the package", "nam_edu", ("numpy", "matplotlib", "tqdm", "visualdl")),
    ("the lessons", "notebooks", ("jupyterlab or notebook", "ipywidgets")),
    (
        "the tests",
        "tests/test_backend.py",
        ("pytest", "nbval", "hypothesis", "babel", "autocorrect-py", "markdown-it-py", "scipy"),
    ),
)

MODULES = {"autocorrect-py": "autocorrect_py", "markdown-it-py": "markdown_it"}  # other names

# What the first cell of AI Studio's main.ipynb installs where it is missing.
FIRST_CELL = ("matplotlib", "tqdm", "visualdl", "ipywidgets")


def installed(name):
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def has_nvidia_gpu():
    """Whether this machine shows an NVIDIA GPU, Paddle asked or not."""
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia/version").exists()


def cure(file, otherwise):
    """How to install what is missing: from a requirements file of the clone, or, where that file is
    not here, `otherwise`; beside the first page of AI Studio by its first cell, if that does it."""
    if otherwise in FIRST_CELL and (HOME / "main.ipynb").is_file():
        return "run the first cell of main.ipynb"
    return f"pip install -r {file}" if (HOME / file).is_file() else f"pip install {otherwise}"


def served():
    """Whether something else serves the notebooks here: AI Studio does, and the Jupyter that runs
    this command in a cell."""
    from ..backend import EXTERNAL_LIBRARIES

    return EXTERNAL_LIBRARIES.parent.is_dir() or "JPY_PARENT_PID" in os.environ


def packages():
    """(name, version or None, who needs it, whether it is needed here) of every package."""
    from ..backend import importable

    for who, sign, names in NEEDED:
        for name in names:
            found = [
                n for n in name.split(" or ") if installed(n) and importable(MODULES.get(n, n))
            ]
            title, version = (found[0], installed(found[0])) if found else (name, None)
            here = (HOME / sign).exists() and not (name == "jupyterlab or notebook" and served())
            yield title, version, who, here


def matrix_product_rate(paddle, size=1024, seconds=0.5):
    """The best rate seen of a float32 product of two square matrices, in GFLOP/s."""
    a, b = paddle.rand([size, size]), paddle.rand([size, size])
    best, stop = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < stop:
        started = time.perf_counter()
        paddle.matmul(a, b)[0, 0].item()  # a GPU works on its own until it is asked
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9


def convolution_times(paddle, repeats=5):
    """Milliseconds of a 3x3 convolution forward and backward, on 32 maps of 64 channels and 16x16
    pixels, best of the repeats: (by nam_edu, by Paddle's own kernel)."""
    from .convolution import conv2d

    x, weight = paddle.rand([32, 16, 16, 64]), paddle.rand([64, 64, 3, 3])
    x.stop_gradient = weight.stop_gradient = False
    swapped = x.detach().transpose([0, 3, 1, 2]).contiguous()
    swapped.stop_gradient = False

    def best(run):
        times = []
        for _ in range(repeats + 1):  # the first one makes ready
            started = time.perf_counter()
            run().sum().backward()
            times.append(1000 * (time.perf_counter() - started))
        return min(times)

    return (
        best(lambda: conv2d(x, weight, padding=(1, 1))),
        best(lambda: paddle.nn.functional.conv2d(swapped, weight, padding=1)),
    )


def convolution_path():
    """Which kernels the networks of this package use, in words."""
    from . import onednn
    from .convolution import switched_off

    if switched_off():
        return "Paddle's kernels (NAM_EDU_CONVOLUTION=paddle, or several processes)"
    if onednn.available():
        return "oneDNN of Paddle's wheel, and matrix products"
    return f"matrix products on small maps, else Paddle's kernels ({onednn.why_not()})"


def problems(cpu, gpu, version, nvidia, cuda_build):
    """What is wrong with the installed Paddle, in sentences that say how to fix it.

    cpu, gpu: versions of the distributions paddlepaddle and paddlepaddle-gpu, or None; version: of
    the paddle that was imported, or None; nvidia: whether there is a GPU; cuda_build: whether this
    Paddle can use one.
    """
    if cpu and gpu:
        yield (
            f"both paddlepaddle {cpu} and paddlepaddle-gpu {gpu} are installed and overwrite "
            "each other's files: pip uninstall -y paddlepaddle paddlepaddle-gpu, then install "
            "one of them"
        )
    if version is None:
        if not cpu and not gpu:
            yield (
                f"PaddlePaddle is not installed: {cure('requirements.txt', 'paddlepaddle')} "
                f"(without a GPU) or {cure('requirements-gpu.txt', 'paddlepaddle-gpu')}"
            )
        return
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers != (0, 0) and numbers < OLDEST_PADDLE:  # 0.0.0 is a development build
        yield (
            f"Paddle {version} is too old, 2.6 is the oldest that this course is tested with: "
            "pip install --upgrade paddlepaddle"
        )
    if nvidia and not cuda_build:
        yield (
            "there is an NVIDIA GPU, but this Paddle is the CPU build: pip uninstall -y "
            f"paddlepaddle, then {cure('requirements-gpu.txt', 'paddlepaddle-gpu')}"
        )


def examine():
    """Print the state of this installation; return 1 if something is wrong, else 0."""
    wrong = list(_examine())
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    print(f"{len(wrong)} problem{'s' * (len(wrong) != 1)} found." if wrong else "Nothing is wrong.")
    return 1 if wrong else 0


def _examine():
    """Print what is found, and give every problem as a sentence."""
    print(f"Python {platform.python_version()} on {platform.platform()}")
    version = tuple(sys.version_info[:2])
    if not OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        yield (
            f"Python {platform.python_version()} is outside 3.9 to 3.13, for which PaddlePaddle "
            "has packages: install one of those versions, and the packages there"
        )
        if version < OLDEST_PYTHON:
            return  # the rest of the package need not even load
    from ..backend import add_external_libraries

    add_external_libraries()  # before looking
    missing = []
    for name, version, who, here in packages():
        print(f"{name:<22} {version or f'missing (needed by {who})'}")
        if not version and here:
            missing.append(name)
            yield (
                f"{name} is missing, which {who} need{'s' * (who == 'the package')}: "
                + cure("requirements-base.txt", name.split(" or ")[0])
            )
    yield from _examine_paddle(missing)
    yield from _examine_settings()
    yield from _examine_folders(missing)


def _examine_paddle(missing):
    from ..backend import import_paddle, thread_count, tune_cpu, usable_cores

    version, cuda_build = None, False
    cpu, gpu = installed("paddlepaddle"), installed("paddlepaddle-gpu")
    try:
        tuned = tune_cpu()
        paddle = import_paddle()
        version, cuda_build = paddle.__version__, paddle.is_compiled_with_cuda()
        print(
            f"{'paddle':<22} {version}, {'GPU' if cuda_build else 'CPU'} build, device "
            f"{paddle.device.get_device()}"
        )
        print(f"{'threads':<22} {thread_count()}, of {usable_cores()} usable cores")
        print(
            f"{'set for the CPU':<22} "
            f"{', '.join(f'{n}={v}' for n, v in tuned.items()) or 'nothing'}"
        )
        print(f"{'matrix products':<22} {matrix_product_rate(paddle):.0f} GFLOP/s")
        if paddle.device.get_device() == "cpu":
            print(f"{'convolutions':<22} {convolution_path()}")
            ours, theirs = convolution_times(paddle)
            print(
                f"{'':<22} 3x3, 64 channels, 16x16, batch 32, with gradients: {ours:.1f} ms, "
                f"Paddle alone {theirs:.1f} ms"
            )
    except Exception as error:  # whatever a broken installation raises
        print(f"{'paddle':<22} does not work: {type(error).__name__}: {error}")
        if (cpu or gpu) and "numpy" not in missing:
            yield (
                f"Paddle {cpu or gpu} is installed but does not work ({error}): install what it "
                "asks for, or pip install --force-reinstall "
                f"{'paddlepaddle' if cpu else 'paddlepaddle-gpu'}"
            )
    yield from problems(cpu, gpu, version, has_nvidia_gpu(), cuda_build)


def _examine_settings():
    """What is wrong with the variables that name a language or a profile."""
    from ..backend import profile
    from .language import refuse_other_languages

    for name, refuse in (("NAM_EDU_LANG", refuse_other_languages), ("NAM_EDU_PROFILE", profile)):
        if os.environ.get(name):
            try:
                refuse()
            except ValueError as error:
                yield str(error)


def _examine_folders(missing):
    try:
        from ..backend import data_found
        from .shapes100 import cache_folder, writable

        print(f"{'data':<22} {data_found()}")
    except ImportError as error:
        print(f"{'data and folders':<22} cannot be examined: {error}")
        if "numpy" not in missing:
            yield f"this package does not load: {error}"
        return
    except ValueError as error:  # the package's own errors
        yield str(error)
    for what, folder, advice in (
        ("this folder", Path.cwd(), "change to a folder of your own before you train"),
        ("the cache", cache_folder(), "set NAM_EDU_CACHE to a folder of your own"),
    ):
        print(f"{what:<22} {folder}")
        if not writable(folder):
            yield f"{what}, {folder}, cannot be written to: {advice}"
