"""What several test files share."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from nam_edu.data import Split

GOLDEN = Path(__file__).parent / "golden"


def random_split(n, seed):
    """Images of noise, labelled so that every fine class has one superclass."""
    rng = np.random.default_rng(seed)
    fine = np.arange(n) % 100
    return Split(
        rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8),
        fine,
        fine // 5,
        tuple(f"fine {i}" for i in range(100)),
        tuple(f"coarse {i}" for i in range(20)),
    )


class Images(HTMLParser):
    """The attributes of every <img> of a page, in `found`."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.found.append(dict(attributes))
