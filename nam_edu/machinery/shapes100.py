"""Holds Shapes-100: a data set drawn by code, for places where CIFAR-100 is not at hand.

Twenty shapes, each in five textures, make 20 coarse and 100 fine labels on 32 x 32 colour images.
Position, size, rotation, colours, background and noise are random in every image. No class is the
mirror image of another, and none turns into another when it is rotated by a few degrees, so images
may be flipped and rotated while training.

The same arguments give the same bytes everywhere: the drawing uses PCG64 and, in double precision,
only operations that IEEE 754 defines to the last bit (+, -, *, /, comparison, rounding to an
integer). There is no sine, no power and no sum whose order could matter; a rotation is written
with t = tan(angle / 2) as cos = (1 - t*t) / (1 + t*t), sin = 2*t / (1 + t*t). What could still
differ is a processor or compiler that departs from IEEE 754, such as the x87 unit of 32-bit PCs.
"""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from .cifar_archive import Archive, ArchiveError, Split, read_archive, write_archive
from .checks import whole_number
from .files import named

VERSION = 1  # raise it whenever the drawing changes: it is part of the name of the cached file
SIDE = 32  # pixels
FINE = 3  # samples per pixel and direction, so that edges are smooth
TABLE = 256  # side of the stored silhouettes
CHUNK = 16  # images drawn together; the pixels do not depend on it
SPLITS = ("train", "test")
TRAIN, TEST = 10_000, 2_000  # images of the default archive

TEXTURES = ("plain", "striped", "checked", "dotted", "shaded")
PERIOD = {"striped": 7.5, "checked": 6.5, "dotted": 9.0}  # pixels, times 0.9 to 1.15


# ---- silhouettes: (x, y) in [-1, 1], y upwards -> bool -------------------------------------------


def _polygon(*points):
    """A test for the inside of a polygon: count the edges that a ray to the right crosses."""

    def inside(x, y):
        result = np.zeros(np.broadcast(x, y).shape, bool)
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1]):
            if y0 != y1:
                crosses = (y0 > y) != (y1 > y)
                result ^= crosses & (x < x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
        return result

    return inside


def _disc(x, y, cx=0.0, cy=0.0, rx=1.0, ry=None):
    u, v = (x - cx) / rx, (y - cy) / (rx if ry is None else ry)
    return u * u + v * v < 1


def _box(x, y, left, right, bottom, top):
    return (x > left) & (x < right) & (y > bottom) & (y < top)


def _heart(x, y):
    x, y = x * 1.2, y * 1.2 + 0.12
    a = x * x + y * y - 1
    return a * a * a < x * x * y * y * y


# Cosine and sine of 90, 162, 234, 306, 18 degrees: the corners of a regular pentagon.
_PENTAGON = ((0.0, 1.0), (-0.951, 0.309), (-0.588, -0.809), (0.588, -0.809), (0.951, 0.309))


def _star(x, y):
    points = []
    for k in range(5):
        points.append(_PENTAGON[k])
        a, b = _PENTAGON[k], _PENTAGON[(k + 1) % 5]
        points.append((0.31 * (a[0] + b[0]), 0.31 * (a[1] + b[1])))
    return _polygon(*points)(x, y - 0.05)


def _flower(x, y):
    petals = np.zeros(np.broadcast(x, y).shape, bool)
    for a, b in _PENTAGON:
        petals |= _disc(x, y, 0.6 * a, 0.6 * b, 0.38)
    return (petals | _disc(x, y, rx=0.4)) & ~_disc(x, y, rx=0.22)


_SILHOUETTES = {
    "circle": lambda x, y: _disc(x, y, rx=0.88),
    "ring": lambda x, y: _disc(x, y, rx=0.95) & ~_disc(x, y, rx=0.45),
    "ellipse": lambda x, y: _disc(x, y, rx=1.0, ry=0.5),
    "dome": lambda x, y: _disc(x, y, 0.0, -0.5, 1.0) & (y > -0.5),
    "crescent": lambda x, y: _disc(x, y, rx=0.95) & ~_disc(x, y, 0.5, 0.0, 0.72),
    "square": lambda x, y: _box(x, y, -0.78, 0.78, -0.78, 0.78),
    "frame": lambda x, y: (
        _box(x, y, -0.85, 0.85, -0.85, 0.85) & ~_box(x, y, -0.37, 0.37, -0.37, 0.37)
    ),
    "triangle": _polygon((0.0, 0.95), (-1.0, -0.75), (1.0, -0.75)),
    "star": _star,
    "cross": lambda x, y: _box(x, y, -0.3, 0.3, -0.95, 0.95) | _box(x, y, -0.95, 0.95, -0.3, 0.3),
    "heart": _heart,
    "arrow": _polygon(
        (0.0, 1.0), (-0.85, 0.1), (-0.3, 0.1), (-0.3, -1.0), (0.3, -1.0), (0.3, 0.1), (0.85, 0.1)
    ),
    "drop": lambda x, y: (
        _disc(x, y, 0.0, -0.38, 0.62) | _polygon((0.0, 1.0), (-0.565, -0.12), (0.565, -0.12))(x, y)
    ),
    "flower": _flower,
    "hourglass": _polygon(
        (-0.8, 0.95), (-0.14, 0.0), (-0.8, -0.95), (0.8, -0.95), (0.14, 0.0), (0.8, 0.95)
    ),
    "bolt": _polygon(
        (0.1, 1.0), (-0.7, -0.1), (-0.1, -0.1), (-0.45, -1.0), (0.7, 0.2), (0.1, 0.2), (0.65, 1.0)
    ),
    "corner": _polygon(
        (-0.8, 0.95), (-0.8, -0.85), (0.85, -0.85), (0.85, -0.25), (-0.2, -0.25), (-0.2, 0.95)
    ),
    "arch": lambda x, y: (
        (_disc(x, y, rx=0.9) & ~_disc(x, y, rx=0.35) & (y >= 0))
        | _box(x, y, -0.9, -0.35, -0.9, 0.0)
        | _box(x, y, 0.35, 0.9, -0.9, 0.0)
    ),
    "tee": lambda x, y: _box(x, y, -0.92, 0.92, 0.35, 0.92) | _box(x, y, -0.3, 0.3, -0.95, 0.35),
    "fish": lambda x, y: (
        _disc(x, y, -0.3, 0.0, 0.7, 0.52) | _polygon((0.1, 0.0), (1.0, 0.65), (1.0, -0.65))(x, y)
    ),
}
SHAPES = tuple(_SILHOUETTES)


@lru_cache(maxsize=1)
def _table():
    """All silhouettes, (20, TABLE, TABLE) bool; the outermost cells are empty."""
    at = (np.arange(TABLE) + 0.5) * (2.2 / TABLE) - 1.1
    return np.stack([inside(at[None, :], -at[:, None]) for inside in _SILHOUETTES.values()])


def fine_names() -> list[str]:
    """The 100 fine names, such as "striped star", in the order of the fine labels."""
    return [f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES]


def coarse_names() -> list[str]:
    """The 20 coarse names, the shapes, in the order of the coarse labels."""
    return list(SHAPES)


# ---- drawing -------------------------------------------------------------------------------------

PIXELS = np.arange(SIDE) - (SIDE - 1) / 2  # centres of the pixels, from the centre of the image
SAMPLES = (np.arange(SIDE * FINE) - (SIDE * FINE - 1) / 2) / FINE


def _clip(values, low, high):
    return np.minimum(np.maximum(values, low), high)


def _grid(at, t, x, y, width, height):
    """Coordinates of the points (at[j], at[i]), y downwards, for m figures: centred on (x, y),
    turned by the angle whose half has the tangent t, in units of width and height.

    `at` (k,), all others (m,) -> two arrays (m, k, k).
    """
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    right, down = at - x[:, None], at - y[:, None]  # (m, k)
    cos, sin, width, height = (v[:, None] for v in (cos, sin, width, height))
    return (
        (cos * right / width)[:, None, :] + (sin * down / width)[:, :, None],
        (cos * down / height)[:, :, None] - (sin * right / height)[:, None, :],
    )


def _pool(samples):
    """The share of each pixel's samples that are true, (m, 96, 96) bool -> (m, 32, 32)."""
    parts = samples.reshape(len(samples), SIDE, FINE, SIDE, FINE)
    count = np.zeros((len(samples), SIDE, SIDE), np.uint8)
    for i in range(FINE):
        for j in range(FINE):
            count += parts[:, :, i, :, j]
    return count / (FINE * FINE)


def _pattern(texture, p, q):
    """Where a texture has the figure's second colour; p and q count its periods."""
    p = p - np.floor(p)
    if texture == "striped":
        return p < 0.5
    q = q - np.floor(q)
    if texture == "checked":
        return (p < 0.5) ^ (q < 0.5)
    return _disc(p, q, 0.5, 0.5, 0.324)  # dotted


def _luma(rgb):
    """Brightness of colours, (m, 3, ...) -> (m, ...); the weights add up to one."""
    return 0.3125 * rgb[:, 0] + 0.5625 * rgb[:, 1] + 0.125 * rgb[:, 2]


def _colour(hue, vivid, luma):
    """Colours with a given brightness: three arrays (m,) in [0, 1] -> (m, 3) in [0, 1]."""
    h = 6 * hue
    rgb = np.stack([np.abs(h - 3) - 1, 2 - np.abs(h - 2), 2 - np.abs(h - 4)], axis=1)
    rgb = 0.5 + (_clip(rgb, 0.0, 1.0) - 0.5) * vivid[:, None]
    now, goal = _luma(rgb)[:, None], luma[:, None]
    # Darken towards black or lighten towards white: that meets the brightness and stays in [0, 1].
    return np.where(now > goal, rgb * (goal / now), rgb + (1 - rgb) * ((goal - now) / (1 - now)))


def _interpolate(values):
    """(m, 3, 4, 4) -> (m, 3, 32, 32), in straight lines between neighbours."""
    at = np.arange(SIDE) * (3 / SIDE)
    low = at.astype(np.int64)
    part = at - low
    rows = values[:, :, low] * (1 - part)[:, None] + values[:, :, low + 1] * part[:, None]
    return rows[:, :, :, low] * (1 - part) + rows[:, :, :, low + 1] * part


def _paint(fine, random):
    """Images (m, 3, 32, 32) uint8 of the given fine labels, and which share of each pixel belongs
    to the figure (m, 32, 32); `random` gives numbers in [0, 1) of a given shape."""
    m = len(fine)
    shape, texture = fine // len(TEXTURES), fine % len(TEXTURES)
    # One row of random numbers for each image.
    number, hue, vivid, luma, blotch, noise = np.split(
        random((m, 71 + 2 * 3 * SIDE * SIDE)), (14, 17, 20, 23, 71), axis=1
    )
    (
        size,
        x,
        y,
        stretch,
        turn,
        period,
        pattern_turn,
        pattern_x,
        pattern_y,
        dark,
        order,
        slope,
        slope_turn,
        strength,
    ) = number.T

    # The figure: radius 10 to 14 pixels, in the image but for a corner now and then, turned by up
    # to 20 degrees (0.176 = tan 10).
    radius = 10 + 4 * size
    x, y = ((2 * v - 1) * (15.5 - radius) for v in (x, y))
    stretch = 0.1 * (2 * stretch - 1)
    u, v = _grid(
        SAMPLES, 0.176 * (2 * turn - 1), x, y, radius * (1 + stretch), radius * (1 - stretch)
    )
    column, row = (_clip((w + 1.1) * (TABLE / 2.2), 0, TABLE - 1).astype(np.int64) for w in (u, v))
    inside = _table()[shape[:, None, None], row, column]
    figure = _pool(inside)

    # Colours: the background is dark or bright, the figure's two colours have the other two of
    # three bands of brightness, in either order.
    first = np.where(order < 0.5, 1, 2)
    bands = np.stack([np.zeros(m, np.int64), first, 3 - first])
    bands = np.where(dark < 0.5, bands, 2 - bands)
    ground, one, two = (
        _colour(hue[:, k], 0.4 + 0.6 * vivid[:, k], 0.1 + 0.37 * bands[k] + 0.1 * luma[:, k])[
            :, :, None, None
        ]
        for k in range(3)
    )

    # Which share of each pixel has the figure's second colour.
    second = np.zeros((m, SIDE, SIDE))
    pattern_turn = 0.2 * (2 * pattern_turn - 1)  # up to 23 degrees
    for k, name in enumerate(TEXTURES):
        i = np.flatnonzero(texture == k)
        if name == "shaded":  # lit from above
            _, p = _grid(PIXELS, pattern_turn[i], x[i], y[i], radius[i], radius[i])
            down = np.where(bands[1] > bands[2], 0.65, -0.65)[i]
            second[i] = figure[i] * _clip(0.5 + down[:, None, None] * p, 0.0, 1.0)
        elif name != "plain":
            length = PERIOD[name] * (0.9 + 0.25 * period[i])
            q, p = _grid(
                SAMPLES,
                pattern_turn[i],
                pattern_x[i] * length,
                pattern_y[i] * length,
                length,
                length,
            )
            second[i] = _pool(inside[i] & _pattern(name, p, q))

    # The background gets a slope and blotches, the whole image noise.
    zero, side = np.zeros(m), np.full(m, float(SIDE))
    steep, _ = _grid(PIXELS, 2 * slope_turn - 1, zero, zero, side, side)
    slope, strength = (2 * slope - 1)[:, None, None, None], strength[:, None, None, None]
    ground = (
        ground + 0.2 * slope * steep[:, None] + 0.2 * _interpolate(blotch.reshape(m, 3, 4, 4) - 0.5)
    )
    noise = noise.reshape(m, 2, 3, SIDE, SIDE)
    share, second = figure[:, None], second[:, None]
    image = ground * (1 - share) + one * (share - second) + two * second
    image = image + (0.03 + 0.05 * strength) * (noise[:, 0] + noise[:, 1] - 1)
    return np.floor(255 * _clip(image, 0.0, 1.0) + 0.5).astype(np.uint8), figure


def _labels(n, rng):
    """n fine labels in random order; each 20 in a row of the unshuffled ones have every shape once,
    each 100 every class once."""
    k = np.arange(n, dtype=np.int64)
    fine = k % len(SHAPES) * len(TEXTURES) + (k + k // len(SHAPES)) % len(TEXTURES)
    return fine[np.argsort(rng.random(n), kind="stable")]


def draw(n, seed=0, *, split="train"):
    """Draw n labelled images: images (n, 3, 32, 32) uint8, fine (n,) and coarse (n,) int64.

    The classes are as even as n allows, in random order; pixels are 0-255, colours red, green,
    blue. The same arguments give the same bytes; "train" and "test" use different streams of
    random numbers. Raises ValueError for an n below 1, a negative seed or another split.
    """
    n, seed = whole_number("n", n, 1), whole_number("seed", seed, 0)
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    rng = np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), VERSION]))
    fine = _labels(n, rng)
    images = np.empty((n, 3, SIDE, SIDE), np.uint8)
    for start in range(0, n, CHUNK):
        images[start : start + CHUNK], _ = _paint(fine[start : start + CHUNK], rng.random)
    return images, fine, fine // len(TEXTURES)


# ---- archives ------------------------------------------------------------------------------------


def make_shapes100(path, *, train=TRAIN, test=TEST, seed=0):
    """Draw the data set, write it as an archive in CIFAR-100's format, and return its path.

    train, test: numbers of images. Raises ValueError for a number below 1 or a negative seed,
    ArchiveError where the file cannot be written.
    """
    train, test = whole_number("train", train, 1), whole_number("test", test, 1)
    seed = whole_number("seed", seed, 0)
    path = named(path)
    advice = "give the path of a file in a folder of your own (--out)"
    if path.is_dir():
        raise ArchiveError(f"{path} is a folder: {advice}")
    if not writable(path.parent):  # said before the seconds that drawing takes
        raise ArchiveError(f"{path} cannot be written, because its folder cannot: {advice}")
    names = tuple(fine_names()), tuple(coarse_names())
    table = np.arange(len(names[0])) // len(TEXTURES)  # however few images there are
    splits = [
        Split(*draw(n, seed, split=split), *names, table)
        for split, n in (("train", train), ("test", test))
    ]
    try:
        return write_archive(path, Archive(*splits, *names))
    except OSError as error:
        raise ArchiveError(
            f"{path} cannot be written ({error.strerror or error}): {advice}"
        ) from error


def writable(folder):
    """Whether a file can be made in a folder, which is made where it is missing."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def cache_folder():
    """Where the drawn archive is kept: NAM_EDU_CACHE, or ~/.cache/nam_edu, or, where that cannot
    be written to, the system's temporary folder."""
    folder = named(os.environ.get("NAM_EDU_CACHE") or "~/.cache/nam_edu")
    at_home = folder.parts[:1] == ("~",)  # of somebody who has no home folder
    return folder if not at_home and writable(folder) else Path(tempfile.gettempdir())


def load_shapes100(cache=None):
    """The data set as an `Archive`: 10,000 images to train on and 2,000 to test on.

    It is drawn once and kept in the folder `cache` (default: `cache_folder()`); a kept file that
    is damaged, or is not what was drawn, is drawn anew. Raises ArchiveError for a `cache` that
    cannot be written to.
    """
    folder = cache_folder() if cache is None else named(cache)
    path = folder / f"shapes100-v{VERSION}-{TRAIN}-{TEST}-seed0.tar.gz"
    if path.exists():
        try:
            archive = read_archive(path)
            if (len(archive.train), len(archive.test)) == (TRAIN, TEST) and list(
                archive.fine_names
            ) == fine_names():
                return archive
        except ArchiveError:
            pass
    if not writable(folder):
        raise ArchiveError(
            f"the folder {folder} cannot be written to: give another one with cache="
        )
    return read_archive(make_shapes100(path, train=TRAIN, test=TEST))
