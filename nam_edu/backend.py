"""What has to happen before Paddle loads, seeds, and one line that says where we are."""
from __future__ import annotations

import os
import platform
import random
import sys
import warnings
from pathlib import Path

import numpy as np

from . import __version__
from .data import known_places, locate_cifar100

PROFILES = ("ci", "quick", "full")


def profile():
    """The scale of the lessons: NAM_EDU_PROFILE, or "full" with a GPU and "quick" without."""
    name = os.environ.get("NAM_EDU_PROFILE")
    if not name:
        import paddle

        return "full" if paddle.device.get_device().startswith("gpu") else "quick"
    if name not in PROFILES:
        raise ValueError(f"NAM_EDU_PROFILE is {name!r}: choose one of {', '.join(PROFILES)}")
    return name


def usable_cores():
    """How many processor cores this process may use: affinity and a container's quota counted."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for quota_file, period_file in (
            ("/sys/fs/cgroup/cpu.max", None),  # version 2: "quota period" or "max period"
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us")):
        try:
            words = Path(quota_file).read_text().split()
            quota = words[0]
            period = Path(period_file).read_text() if period_file else words[1]
            if quota not in ("max", "-1"):
                return max(1, min(cores, int(int(quota) / int(period))))
        except (OSError, ValueError):
            continue
    return cores or 1


def data_found():
    """In words: where CIFAR-100 was found, or that the generated stand-in is used."""
    path = locate_cifar100()
    for place, candidate in known_places():
        if candidate == path:
            return f"CIFAR-100 ({place})"
    return "Shapes-100 (generated; no CIFAR-100 found)"


def setup(seed=0):
    """Prepare this process, seed Python, NumPy and Paddle, and print one line: versions, device,
    threads, data, profile. Call it before Paddle is imported."""
    for noise in ("No ccache found", "When training, we now always track global mean"):
        warnings.filterwarnings("ignore", message=noise)
    import paddle

    random.seed(seed)
    np.random.seed(seed)
    paddle.seed(seed)
    print(" | ".join((
        f"nam_edu {__version__}", f"Paddle {paddle.__version__}",
        f"Python {platform.python_version()}", f"NumPy {np.__version__}",
        f"{paddle.device.get_device()}, {os.environ.get('OMP_NUM_THREADS', '1')} threads",
        f"data: {data_found()}", f"profile: {profile()}", f"seed {seed}")))
    sys.stdout.flush()
