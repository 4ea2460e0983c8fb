"""Shapes-100: a data set drawn by code, for places where CIFAR-100 is not at hand.

Twenty shapes, each in five textures, make 20 coarse and 100 fine labels on 32 x 32 colour images.
Position, size, rotation, colours, background and noise are random in every image.

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

from .data import Archive, ArchiveError, Split, read_archive, write_archive

VERSION = 1  # raise it whenever the drawing changes: it is part of the name of the cached file
SIDE = 32  # pixels
FINE = 3  # samples per pixel and direction, so that edges are smooth
TABLE = 256  # side of the stored silhouettes
CHUNK = 32  # images drawn together; the pixels do not depend on it

TEXTURES = ("plain", "striped", "checked", "dotted", "shaded")


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
    "frame": lambda x, y: _box(x, y, -0.85, 0.85, -0.85, 0.85)
                          & ~_box(x, y, -0.37, 0.37, -0.37, 0.37),
    "triangle": _polygon((0.0, 0.95), (-1.0, -0.75), (1.0, -0.75)),
    "star": _star,
    "cross": lambda x, y: _box(x, y, -0.3, 0.3, -0.95, 0.95) | _box(x, y, -0.95, 0.95, -0.3, 0.3),
    "heart": _heart,
    "arrow": _polygon((0.0, 1.0), (-0.85, 0.1), (-0.3, 0.1), (-0.3, -1.0),
                      (0.3, -1.0), (0.3, 0.1), (0.85, 0.1)),
    "drop": lambda x, y: _disc(x, y, 0.0, -0.38, 0.62)
                         | _polygon((0.0, 1.0), (-0.565, -0.12), (0.565, -0.12))(x, y),
    "flower": _flower,
    "hourglass": _polygon((-0.8, 0.95), (-0.14, 0.0), (-0.8, -0.95),
                          (0.8, -0.95), (0.14, 0.0), (0.8, 0.95)),
    "bolt": _polygon((0.1, 1.0), (-0.7, -0.1), (-0.1, -0.1), (-0.45, -1.0),
                     (0.7, 0.2), (0.1, 0.2), (0.65, 1.0)),
    "corner": _polygon((-0.8, 0.95), (-0.8, -0.85), (0.85, -0.85), (0.85, -0.25),
                       (-0.2, -0.25), (-0.2, 0.95)),
    "arch": lambda x, y: (_disc(x, y, rx=0.9) & ~_disc(x, y, rx=0.35) & (y >= 0))
                         | _box(x, y, -0.9, -0.35, -0.9, 0.0) | _box(x, y, 0.35, 0.9, -0.9, 0.0),
    "tee": lambda x, y: _box(x, y, -0.92, 0.92, 0.35, 0.92) | _box(x, y, -0.3, 0.3, -0.95, 0.35),
    "fish": lambda x, y: _disc(x, y, -0.3, 0.0, 0.7, 0.52)
                         | _polygon((0.1, 0.0), (1.0, 0.65), (1.0, -0.65))(x, y),
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

def _turn(t):
    """Cosine and sine of the angle whose half has the tangent t."""
    return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)


def _colour(hue, vivid, luma):
    """Colours of a given brightness: three arrays (n,) in [0, 1] -> (n, 3) in [0, 1]."""
    h = 6 * hue
    pure = np.stack([np.abs(h - 3) - 1, 2 - np.abs(h - 2), 2 - np.abs(h - 4)], axis=1)
    pure = np.minimum(np.maximum(pure, 0.0), 1.0)
    pure = 0.5 + (pure - 0.5) * vivid[:, None]
    now = _luma(pure)[:, None]
    goal = luma[:, None]
    # darken towards black or lighten towards white: stays in [0, 1] and meets the brightness
    return np.where(now > goal, pure * (goal / now), pure + (1 - pure) * ((goal - now) / (1 - now)))


def _luma(rgb):
    """Brightness of colours, (n, 3, ...) -> (n, ...); the weights add up to one."""
    return 0.3125 * rgb[:, 0] + 0.5625 * rgb[:, 1] + 0.125 * rgb[:, 2]


def _pool(samples):
    """Share of the samples of each pixel that are true, (m, 96, 96) bool -> (m, 32, 32)."""
    m = len(samples)
    parts = samples.reshape(m, SIDE, FINE, SIDE, FINE)
    count = np.zeros((m, SIDE, SIDE), np.int64)
    for i in range(FINE):
        for j in range(FINE):
            count += parts[:, :, i, :, j]
    return count / (FINE * FINE)


def _second_colour(texture, p, q):
    """Where a texture shows the figure's second colour; p and q count its periods."""
    p, q = p - np.floor(p), q - np.floor(q)
    if texture == "striped":
        return np.broadcast_to(p < 0.5, np.broadcast(p, q).shape)
    if texture == "checked":
        return (p < 0.5) ^ (q < 0.5)
    p, q = p - 0.5, q - 0.5
    return p * p + q * q < 0.105


def _paint(fine, random):
    """Images (m, 3, 32, 32) uint8 of the given labels, and the figure's share of each pixel."""
    m = len(fine)
    shape, texture = fine // len(TEXTURES), fine % len(TEXTURES)
    r = random((m, 24 + 48 + 2 * 3 * SIDE * SIDE))  # one row of random numbers per image
    r, blotch, noise = r[:, :24].T, r[:, 24:72], r[:, 72:]

    # Radius 9.5 to 13.5 pixels, inside the image; turned by up to 20 degrees (tan 10 = 0.176).
    radius = 9.5 + 4 * r[0]
    free = 15.5 - radius
    cx, cy = (2 * r[1] - 1) * free, (2 * r[2] - 1) * free
    stretch = 0.1 * (2 * r[3] - 1)
    cos, sin = _turn(0.176 * (2 * r[4] - 1))

    def local(grid, cos, sin, x0, y0, xs, ys):
        """Pixel positions in turned, shifted and scaled coordinates: twice (m, grid, grid)."""
        x, y = grid[None, :] - x0[:, None], grid[None, :] - y0[:, None]
        cos, sin, xs, ys = cos[:, None], sin[:, None], xs[:, None], ys[:, None]
        return ((cos * x / xs)[:, None, :] + (sin * y / xs)[:, :, None],
                (cos * y / ys)[:, :, None] - (sin * x / ys)[:, None, :])

    pixels = np.arange(SIDE) - (SIDE - 1) / 2
    samples = (np.arange(SIDE * FINE) - (SIDE * FINE - 1) / 2) / FINE
    u, v = local(samples, cos, sin, cx, cy, radius * (1 + stretch), radius * (1 - stretch))
    table = _table()
    column, row = (np.minimum(np.maximum((a + 1.1) * (TABLE / 2.2), 0), TABLE - 1).astype(np.int64)
                   for a in (u, v))
    inside = table[shape[:, None, None], row, column]
    figure = _pool(inside)

    # Which part of the figure has the second colour. The texture has its own direction and period.
    second = np.zeros((m, SIDE, SIDE))
    tcos, tsin = _turn(2 * r[5] - 1)  # anywhere within a half turn
    for k, name in enumerate(TEXTURES):
        i = np.flatnonzero(texture == k)
        if name == "plain" or not len(i):
            continue
        if name == "shaded":
            p, _ = local(pixels, tcos[i], tsin[i], cx[i], cy[i], radius[i], radius[i])
            sign = np.where(r[6][i] < 0.5, -1.0, 1.0)[:, None, None]
            second[i] = figure[i] * np.minimum(np.maximum(0.5 + sign * p * 0.65, 0.0), 1.0)
        else:
            period = {"striped": 5.5, "checked": 7.5, "dotted": 6.0}[name] * (0.9 + 0.25 * r[8][i])
            p, q = local(samples, tcos[i], tsin[i], r[6][i] * period, r[7][i] * period, period,
                         period)
            second[i] = _pool(inside[i] & _second_colour(name, p, q))

    # Colours: background and the figure's two colours take one band of brightness each.
    bands = np.argsort(r[9:12], axis=0, kind="stable")  # (3, m), a permutation per image
    ground, first, other = (
        _colour(r[12 + 3 * k], 0.4 + 0.6 * r[13 + 3 * k],
                0.14 + 0.35 * bands[k] + 0.12 * r[14 + 3 * k])
        for k in range(3))

    # Background: a slope, and blotches: 4 x 4 random values, interpolated.
    gcos, gsin = _turn(2 * r[21] - 1)
    size = np.full(m, 32.0)
    slope, _ = local(pixels, gcos, gsin, 0 * size, 0 * size, size, size)
    at = np.arange(SIDE) * (3 / SIDE)
    low = np.minimum(at.astype(np.int64), 2)
    part = at - low
    b = blotch.reshape(m, 3, 4, 4) - 0.5
    b = b[:, :, low] * (1 - part)[:, None] + b[:, :, low + 1] * part[:, None]
    b = b[:, :, :, low] * (1 - part) + b[:, :, :, low + 1] * part
    amount = (2 * r[22] - 1)[:, None, None, None]
    back = ground[:, :, None, None] + 0.2 * amount * slope[:, None] + 0.2 * b

    f, s = figure[:, None], second[:, None]
    image = back * (1 - f) + first[:, :, None, None] * (f - s) + other[:, :, None, None] * s
    noise = noise.reshape(m, 2, 3, SIDE, SIDE)
    strength = (0.03 + 0.07 * r[23])[:, None, None, None]
    image = image + strength * (noise[:, 0] + noise[:, 1] - 1)
    image = np.floor(np.minimum(np.maximum(image, 0.0), 1.0) * 255 + 0.5).astype(np.uint8)
    return image, figure


SPLITS = ("train", "test")


def draw(n, seed=0, *, split="train"):
    """Draw n labelled images: images (n, 3, 32, 32) uint8, fine (n,) and coarse (n,) int64.

    The classes are as even as n allows, in random order. The same arguments give the same bytes;
    "train" and "test" draw from different streams of random numbers. Raises ValueError.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    for name, value, low in (("n", n, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
            raise ValueError(f"{name} must be a whole number of at least {low}, not {value!r}")
    rng = np.random.Generator(np.random.PCG64([int(seed), SPLITS.index(split), VERSION]))
    classes = len(SHAPES) * len(TEXTURES)
    fine = np.arange(n, dtype=np.int64) % classes
    fine = fine[np.argsort(rng.random(n), kind="stable")]
    images = np.concatenate([_paint(fine[start:start + CHUNK], rng.random)[0]
                             for start in range(0, n, CHUNK)])
    return images, fine, fine // len(TEXTURES)


def make_shapes100(path, *, train=10_000, test=2_000, seed=0):
    """Draw the data set, write it as an archive in CIFAR-100's format, and return its path.

    train, test: numbers of images. Raises ValueError.
    """
    names = tuple(fine_names()), tuple(coarse_names())
    splits = [Split(*draw(n, seed, split=split), *names)
              for split, n in (("train", train), ("test", test))]
    return write_archive(path, Archive(*splits, *names))


def cache_folder():
    """Where the drawn archive is kept: NAM_EDU_CACHE, or ~/.cache/nam_edu, or, where that cannot
    be written to, the system's temporary folder."""
    folder = Path(os.environ.get("NAM_EDU_CACHE") or "~/.cache/nam_edu").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.gettempdir())


def load_shapes100(cache=None):
    """The data set as an `Archive`: 10,000 images to train on and 2,000 to test on.

    It is drawn once and kept in `cache` (default: `cache_folder()`); a kept file that is damaged is
    drawn anew.
    """
    path = Path(cache or cache_folder()) / f"shapes100-v{VERSION}-10000-2000-seed0.tar.gz"
    if path.exists():
        try:
            return read_archive(path)
        except ArchiveError:
            pass
    return read_archive(make_shapes100(path))
