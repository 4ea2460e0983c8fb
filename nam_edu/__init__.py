"""Holds normalization-based attention (NAM): built, trained and judged in PaddlePaddle.

`import nam_edu` alone is light: it needs only the standard library, and Paddle loads with the first
submodule that uses it.
"""

# Paddle 2.6 exports functions with the same names as zlib's. Where Python's zlib is loaded after
# Paddle, the first gzip file that is read crashes the process (inflateReset2, segmentation fault).
import zlib  # noqa: F401

__version__ = "0.2.0"


def setup(seed=0, data=None, language=None):
    """Prepare this process; see `nam_edu.backend.setup`. Call it before Paddle is imported."""
    from .backend import setup

    return setup(seed, data, language)
