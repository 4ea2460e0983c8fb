"""Lesson 7: images that need a gate, drawn by code.

Each image holds three shapes, one over the other: a red one, a green one, a blue one. One of the
three colours is a little brighter than it would be, everywhere, by 10 of 255: that colour counts,
and its shape is the class. In a pixel the tint is lost in noise, whose standard deviation is 40;
the mean of all 1024 pixels shows it. Whoever does not see it names one of the three, and is right
for 42 of 100 images (1/3 + 2/3 * 1/8), or for 45 (29/64) by naming the shape that two colours have,
where they do. A gate with a view of the whole map can let the colour through that counts and hold
back the other two.

The drawing uses whole numbers only, so the same arguments give the same bytes everywhere.
"""

from __future__ import annotations

import numpy as np

from .machinery.checks import whole_number
from .machinery.cifar_archive import Archive, Split

SIDE = 32  # pixels of an image
FIGURE = 20  # pixels of a shape
SHAPES = ("disc", "ring", "square", "frame", "diamond", "cross", "saltire", "bars")
GROUND, NOISE, LIGHT, TINT = 80, 70, 15_000, 10  # of pixels, 0 to 255; LIGHT: of a whole shape
# A split has 100 fine and 20 coarse names, and a network of the course as many logits; the rest of
# them stand for no image.
FINE = SHAPES + tuple(f"unused {i}" for i in range(len(SHAPES), 100))
COARSE = FINE[:20]


def shape_masks():
    """Which pixels each of the shapes covers: (8, 20, 20), 0 or 1, in the order of `SHAPES`."""
    at = 2 * np.arange(FIGURE) - (FIGURE - 1)  # -19, -17, ..., 19
    x, y = np.abs(at)[None, :], np.abs(at)[:, None]  # every shape is its own mirror image
    far, squared = np.maximum(x, y), x * x + y * y
    masks = (
        squared < 18 * 18,
        (squared < 19 * 19) & (squared > 9 * 9),
        far < 16,
        (far < 18) & (far > 9),
        x + y < 20,
        np.minimum(x, y) < 6,
        np.abs(x - y) < 6,
        (x > 7) & (far < 18),
    )
    return np.stack([mask.astype(np.int64) for mask in masks])


def draw(n, seed=0):
    """Draw n tinted images.

    Returns images (n, 3, 32, 32) uint8; shapes (n, 3), whole numbers, the shape of each colour; and
    counts (n,), the colour with the tint: the class of image i is shapes[i, counts[i]]. Colours are
    0 red, 1 green, 2 blue. Shapes, places, tint and noise are random, each independent of the
    others. Every shape brings the same light, so that a large one cannot be taken for a tint.
    Raises ArgumentError for an n below 1 or a negative seed.
    """
    n, seed = whole_number("n", n, 1), whole_number("seed", seed, 0)
    rng, masks = np.random.Generator(np.random.PCG64([seed, 7])), shape_masks()
    lit = (masks * (LIGHT // masks.sum((1, 2)))[:, None, None]).astype(np.int16)  # (8, 20, 20)
    shapes = rng.integers(0, len(SHAPES), (n, 3))
    counts = rng.integers(0, 3, n)
    places = rng.integers(2, SIDE - FIGURE - 1, (n, 3, 2))  # 2 to 10: 2 pixels from the border
    images = rng.integers(-NOISE, NOISE + 1, (n, 3, SIDE, SIDE), dtype=np.int16)
    images += GROUND
    for i in range(n):
        for colour in range(3):
            top, left = places[i, colour]
            figure = images[i, colour, top : top + FIGURE, left : left + FIGURE]
            figure += lit[shapes[i, colour]]
        images[i, counts[i]] += TINT
    return np.clip(images, 0, 255).astype(np.uint8), shapes, counts


def tint_archive(train=12_000, test=2000, seed=0):
    """An `Archive` of tinted images, so many to train on and so many to test on, for `fit`.

    The class is the shape that counts; fine and coarse labels are the same. Raises ArgumentError
    for a number below 1 or a negative seed.
    """
    train, test = whole_number("train", train, 1), whole_number("test", test, 1)
    seed = whole_number("seed", seed, 0)
    table = np.full(100, -1)
    table[: len(SHAPES)] = np.arange(len(SHAPES))
    splits = []
    for n, stream in ((train, 2 * seed), (test, 2 * seed + 1)):
        images, shapes, counts = draw(n, stream)
        label = shapes[np.arange(n), counts]
        splits.append(Split(images, label, label, FINE, COARSE, table))
    return Archive(*splits, FINE, COARSE)
