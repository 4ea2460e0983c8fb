"""nam_edu: normalization-based attention (NAM), built, trained and judged in PaddlePaddle.

`import nam_edu` alone is light: Paddle loads with the first submodule that needs it.
"""
# Paddle 2.6 brings functions of the same names as zlib's. Where Python's zlib loads after it, the
# first gzip file that is read ends the process (inflateReset2, segmentation fault).
import zlib  # noqa: F401

__version__ = "0.2.0.dev0"


def setup(seed=0):
    """Prepare this process; see `nam_edu.backend.setup`. Call it before Paddle is imported."""
    from .backend import setup

    return setup(seed)
