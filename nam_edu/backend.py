"""Holds `setup()`: CPU settings made before Paddle loads, seeds, and a line of provenance.

It serves every lesson's first cell, and the commands. Only the standard library is imported here at
the top, so that `doctor` can use this module where NumPy is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import os
import platform
import random
import sys
import warnings
from pathlib import Path

from . import __version__
from .machinery.language import choose_language, words

PROFILES = ("ci", "quick", "full")
# On AI Studio these two folders survive a restart.
EXTERNAL_LIBRARIES = Path("/home/aistudio/external-libraries")  # for packages
AISTUDIO_WORK = Path("/home/aistudio/work")  # for files
# What every lesson imports, beside NumPy and Paddle.
LESSON_PACKAGES = ("matplotlib", "tqdm", "visualdl")

# What tune_cpu() set in this process: {name: value}; None before it was called.
_tuned = None


def profile():
    """The scale of the lessons: NAM_EDU_PROFILE, or "full" with a GPU and "quick" without."""
    name = os.environ.get("NAM_EDU_PROFILE")
    if not name:
        import paddle

        return "full" if paddle.device.get_device().startswith("gpu") else "quick"
    if name not in PROFILES:
        raise ValueError(f"NAM_EDU_PROFILE is {name!r}: choose one of {', '.join(PROFILES)}")
    return name


# ------------------------------------------------------------------------------------ the CPU


def usable_cores():
    """How many processor cores this process may use, by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for quota_file, period_file in (
        ("/sys/fs/cgroup/cpu.max", None),  # version 2: "quota period" or "max period"
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            parts = Path(quota_file).read_text().split()
            quota = parts[0]
            period = Path(period_file).read_text() if period_file else parts[1]
            if quota not in ("max", "-1"):
                return max(1, min(cores, int(int(quota) / int(period))))
        except (OSError, ValueError):
            continue
    return cores or 1


def thread_count():
    """How many threads Paddle is told to use: OMP_NUM_THREADS, or 1 where that is no number.

    It may be a list, "2,1", with a number for each level of nesting: the first counts.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, int(first)) if first.isdecimal() else 1


def processor():
    """(vendor, instruction sets) of the processor: lower-case words, empty where unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {name.strip(): value.strip().lower() for name, value in fields.items()}
    if fields:
        return fields.get("vendor_id", ""), set(fields.get("flags", "").split())
    if sys.platform == "win32":
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        names = {40: "avx2", 41: "avx512f"}  # PF_AVX2_..., PF_AVX512F_INSTRUCTIONS_AVAILABLE
        return platform.processor().lower(), {n for code, n in names.items() if present(code)}
    return "", set()


def blas_dispatch(vendor, instructions):
    """The value of MKL_DEBUG_CPU_TYPE for a processor, or None where it should not be set.

    The MKL inside Paddle's packages uses its slowest code on AMD processors; this undocumented
    variable selects the code: 5 is AVX2, 7 is AVX-512.
    """
    if "amd" not in vendor or "avx2" not in instructions:
        return None
    skylake_x = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
    return "7" if skylake_x <= instructions else "5"


MALLOC_VARIABLES = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
)


def keep_freed_memory():
    """Let malloc reuse the memory of a freed feature map; return whether that was done.

    Otherwise the GNU C library returns it to the system and requests it again, page by page, for
    every map, and several threads wait for one another. Other systems have no such switch.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or any(name in os.environ for name in MALLOC_VARIABLES):
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # the numbers of malloc.h
    # Never trim; keep heaps of threads (64 MiB) that are empty; 32 MiB is the most that the last
    # may be: larger blocks always go back.
    return bool(
        mallopt(trim_threshold, 2**31 - 1)
        and mallopt(top_pad, 2**26)
        and mallopt(mmap_threshold, 2**25)
    )


def tune_cpu():
    """Set what makes Paddle fast on a CPU, before Paddle is imported; return {name: value}.

    That is as many threads as there are usable cores, MKL's code for AMD processors, and reuse of
    freed memory. What the user has set stays as it is, except that of a list of threads ("2,1")
    only the first is kept: of a list Paddle would make 1. NAM_EDU_CPU_TUNING=0 switches all of it
    off. Where Paddle was imported first it is too late for threads and MKL: that is said once.
    """
    global _tuned
    if _tuned is not None:
        return _tuned
    _tuned = {}
    if os.environ.get("NAM_EDU_CPU_TUNING") == "0":
        return _tuned
    kept = {"malloc": "keep"} if keep_freed_memory() else {}
    cores, dispatch = usable_cores(), blas_dispatch(*processor())
    wanted = {"OMP_NUM_THREADS": str(cores)}
    if dispatch:
        wanted["MKL_DEBUG_CPU_TYPE"] = dispatch
    if "paddle" not in sys.modules:
        for name, value in wanted.items():
            if name not in os.environ:
                os.environ[name] = _tuned[name] = value
        if "," in os.environ["OMP_NUM_THREADS"]:
            os.environ["OMP_NUM_THREADS"] = _tuned["OMP_NUM_THREADS"] = str(thread_count())
        _tuned.update(kept)
        return _tuned
    _tuned.update(kept)
    import paddle

    # Where it finds no OMP_NUM_THREADS, Paddle itself sets it to 1.
    lost = [
        f"{name}={value}"
        for name, value in wanted.items()
        if os.environ.get(name, "1") == "1" and value != "1"
    ]
    if lost and not paddle.device.get_device().startswith("gpu"):
        print(
            words(
                "Paddle was imported before nam_edu.setup(), too late for {settings}: it will be "
                "several times slower; restart Python (the kernel) and call nam_edu.setup() first",
                settings=" and ".join(lost),
            ),
            file=sys.stderr,
        )
    return _tuned


def import_paddle():
    """Import Paddle without the lines that it prints about threads and compilers."""
    for noise in (
        "No ccache found",
        "When training, we now always track global mean",
        "To copy construct from a tensor",  # Paddle's own data loader does that
        "You are using GPU version Paddle",
    ):  # `setup` says that in its own line
        warnings.filterwarnings("ignore", message=noise)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            import paddle
    finally:
        for line in printed.getvalue().splitlines():
            if "OMP_NUM_THREADS" not in line:
                print(line, file=sys.stderr)
    return paddle


# --------------------------------------------------------------------------------------- setup


def add_external_libraries():
    """Let Python find the packages that were installed into AI Studio's own folder for them."""
    if EXTERNAL_LIBRARIES.is_dir():
        if str(EXTERNAL_LIBRARIES) not in sys.path:
            sys.path.append(str(EXTERNAL_LIBRARIES))
        importlib.invalidate_caches()  # another process may have installed there meanwhile


def importable(name):
    """Whether Python finds a module of this name; what pip left of a package may have none."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def what_lessons_miss():
    """A sentence about packages of the lessons that Python does not find; "" if it finds all."""
    missing = [name for name in LESSON_PACKAGES if not importable(name)]
    if not missing:
        return ""
    if EXTERNAL_LIBRARIES.parent.is_dir():
        return words(
            "the lessons need {names}, which Python does not find: run the first cell of "
            "main.ipynb, then this cell again",
            names=", ".join(missing),
        )
    return words(
        "the lessons need {names}, which Python does not find: pip install {packages}; python -m "
        "nam_edu doctor says what else is missing",
        names=", ".join(missing),
        packages=" ".join(missing),
    )


def runs_elsewhere():
    """The folder that keeps the lessons' runs when it is not the one beside the notebooks, or None.

    NAM_EDU_RUNS names it; without it, AI Studio's /home/aistudio/work is taken where that exists
    and can be written to.
    """
    named = os.environ.get("NAM_EDU_RUNS")
    if named:
        return Path(os.path.expanduser(named))
    if AISTUDIO_WORK.is_dir() and os.access(AISTUDIO_WORK, os.W_OK):
        return AISTUDIO_WORK
    return None


def data_found():
    """The data of the lessons, in words: where CIFAR-100 was found, or that Shapes-100 is used."""
    from .data import known_places, locate_cifar100

    path = locate_cifar100()
    for place, candidate in known_places():
        if candidate == path:
            return f"CIFAR-100 ({place})"
    return words("Shapes-100 (generated; no CIFAR-100 found)")


def data_named(name):
    """The data of a command, in words: `name` is "shapes100", "cifar100", "given" or a path."""
    if name == "shapes100":
        return words("Shapes-100 (generated)")
    if name == "given":
        return words("images given in Python")
    if name == "cifar100":
        found = data_found()
        return found if found.startswith("CIFAR-100") else words("CIFAR-100 (not found)")
    return str(name)


def setup(seed=0, data=None, language=None):
    """Prepare this process and print one line about it. Call it before Paddle is imported.

    Tunes the CPU (see `tune_cpu`), seeds Python, NumPy and Paddle, and prints versions, device,
    threads, what was set for the CPU, data and seed.

    data: None in a lesson: the line names the data that the lessons use, their profile, and the
    folder of their runs where that is not the one beside the notebooks; packages of the lessons
    that are not installed are named on standard error. A command passes the data
    that it will use ("shapes100", "cifar100" or a path); the line then names that and no profile.

    language: in which the course speaks from now on, "en" or "zh"; None stands for NAM_EDU_LANG, or
    English. Raises ArgumentError for another.
    """
    choose_language(language)
    tuned = tune_cpu()
    add_external_libraries()
    paddle = import_paddle()
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    paddle.seed(seed)
    threads = thread_count()
    device = paddle.device.get_device()
    if device == "cpu" and paddle.is_compiled_with_cuda():
        device = words("cpu (Paddle's GPU build, but no GPU that it can use)")
    if data is None:
        elsewhere = runs_elsewhere()
        about = [
            words("data: {name}", name=data_found()),
            words("profile: {name}", name=profile()),
            *([words("runs: {folder}", folder=elsewhere)] if elsewhere else []),
        ]
    else:
        about = [words("data: {name}", name=data_named(data))]
    if threads == 1:
        cpu = words("{device}, 1 thread", device=device)
    else:
        cpu = words("{device}, {count} threads", device=device, count=threads)
    settings = ", ".join(f"{n}={v}" for n, v in tuned.items()) or words("nothing")
    print(
        " | ".join(
            (
                f"nam_edu {__version__}",
                f"Paddle {paddle.__version__}",
                f"Python {platform.python_version()}",
                f"NumPy {np.__version__}",
                cpu,
                words("set: {settings}", settings=settings),
                *about,
                words("seed {seed}", seed=seed),
            )
        ),
        flush=True,
    )
    missing = what_lessons_miss() if data is None else ""
    if missing:
        print(missing, file=sys.stderr)
