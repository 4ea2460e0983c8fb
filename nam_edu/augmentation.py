"""Lesson 4: random crop, flip, brightness, contrast and rotation of whole batches of images, in
NumPy.

Each step gives, pixel for pixel, what the transform of the same name in `paddle.vision.transforms`
gives for one PIL image; doing a batch at once makes it fast without worker processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .machinery.checks import number, whole_number
from .machinery.errors import ArgumentError
from .machinery.language import words


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image, in this order; the defaults do nothing.

    crop_padding: pixels of black border from which a window of the old size is cut at random.
    brightness, contrast: b changes the image, every other time, by a factor from 1-b, but at least
    0, to 1+b.
    flip: mirror left to right every other time.
    rotation: turn by up to so many degrees either way, nearest neighbour, black corners.
    """

    crop_padding: int = 0
    brightness: float = 0.0
    contrast: float = 0.0
    flip: bool = False
    rotation: float = 0.0

    def __post_init__(self):
        whole_number("crop_padding", self.crop_padding, 0)
        for name in ("brightness", "contrast", "rotation"):
            number(name, getattr(self, name))

    def __call__(self, images, rng):
        """Augment uint8 images (N, 3, H, W) -> uint8 (N, 3, H, W) with a numpy Generator.

        The same generator state gives the same images. Raises ArgumentError for other images.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ArgumentError(
                words(
                    "images of kind uint8 and shape (N, 3, H, W) are wanted, not {kind} {shape}: "
                    "augment first, then normalise",
                    kind=images.dtype,
                    shape=images.shape,
                )
            )
        n = len(images)
        # All numbers are drawn whether used or not: a switch changes its own step only.
        top, left = rng.integers(0, 2 * self.crop_padding + 1, (2, n))
        brightness, contrast = (
            max(0, 1 - b) + (min(1, b) + b) * rng.random(n)
            for b in (self.brightness, self.contrast)
        )
        use_brightness, use_contrast, use_flip = rng.random((3, n)) < 0.5
        angle = rng.uniform(-1, 1, n) * self.rotation

        # "Each image times its own number" is slow in NumPy where an image is smaller than its
        # buffer of 8192 numbers: the number is copied over and over to fill it. So a small buffer.
        buffer_size = np.setbufsize(1024)
        try:
            if self.crop_padding:
                images = crop(images, self.crop_padding, top, left)
            if self.brightness:
                images = adjust_brightness(images, np.where(use_brightness, brightness, 1))
            if self.contrast:
                images = adjust_contrast(images, np.where(use_contrast, contrast, 1))
            if self.rotation:
                images = rotate(images, angle, mirror=use_flip & self.flip)
            elif self.flip:
                images = flip(images, use_flip)
        finally:
            np.setbufsize(buffer_size)
        return images


def crop(images, padding, top, left):
    """Put a black border of `padding` pixels around each image, then cut a window of the old size
    whose upper left corner is at (top[i], left[i]): uint8 (N, C, H, W) -> (N, C, H, W)."""
    n, c, h, w = images.shape
    # The rows of a channel lie in memory end to end; one long piece is copied faster than its rows.
    margin = padding * w + padding
    padded = np.zeros((n, c, margin + h * w + margin), np.uint8)
    padded[..., margin : margin + h * w] = images.reshape(n, c, h * w)
    windows = np.lib.stride_tricks.sliding_window_view(padded, h * w, axis=2)
    out = windows[np.arange(n), :, top * w + left]  # (N, C, H * W)
    # What went over the end of a row is now in the row next to it, and is made black.
    x = np.arange(w) + (left - padding)[:, None]  # where each column comes from, (N, W)
    inside = (x >= 0) & (x < w)
    out *= np.tile(inside.view(np.uint8), h)[:, None]
    return out.reshape(images.shape)


def flip(images, mask):
    """Mirror left to right the images whose mask is true."""
    out = images.copy()
    out[mask] = images[mask][..., ::-1]
    return out


def adjust_brightness(images, factor):
    """Multiply each image by its factor: uint8 (N, 3, H, W), (N,) -> uint8 (N, 3, H, W)."""
    rows = np.flatnonzero(factor != 1)
    change = images[rows].astype(np.float32)
    change *= _per_image(factor[rows])
    return _replace(images, rows, change)


def adjust_contrast(images, factor):
    """Scale each image's distance from its mean grey value by its factor."""
    rows = np.flatnonzero(factor != 1)
    change = images[rows].astype(np.float32)
    mean = _per_image(_mean_grey(change))
    change -= mean
    change *= _per_image(factor[rows])
    change += mean
    return _replace(images, rows, change)


def _mean_grey(images):
    # PIL's fixed-point arithmetic, with the weights of red, green and blue of ITU-R 601-2. All sums
    # are whole numbers below 2**24, which are exact in float32.
    n, c, h, w = images.shape
    grey = np.array([19595, 38470, 7471], np.float32) @ images.reshape(n, c, h * w)  # (N, H * W)
    grey = grey.astype(np.int32)
    grey += 0x8000
    grey >>= 16
    return np.floor(grey.mean(1) + 0.5)


def _per_image(numbers):
    return numbers.astype(np.float32).reshape(-1, 1, 1, 1)


def _replace(images, rows, change):
    # Only the images that change; rounded towards zero and clipped as PIL does.
    out = images.copy()
    out[rows] = np.clip(change, 0, 255, out=change)  # the cast to uint8 cuts the fraction off
    return out


def rotate(images, angle, mirror=False):
    """Turn each image about its centre by angle[i] degrees anticlockwise, nearest neighbour, black
    where nothing was: uint8 (N, C, H, W), (N,) -> uint8 (N, C, H, W).

    mirror: flip these images left to right before, a mask (N,); costs no extra time.
    """
    n, c, h, w = images.shape
    radians = -np.radians(angle)
    cos, sin = np.round(np.cos(radians), 15), np.round(np.sin(radians), 15)
    # Source of output pixel (x, y): (cos x + sin y + dx, -sin x + cos y + dy), measured from pixel
    # centres. PIL computes this in 16.16 fixed point; so do we, to pick the same neighbour.
    dx = w / 2 - cos * (w / 2) - sin * (h / 2) + (cos + sin) / 2
    dy = h / 2 + sin * (w / 2) - cos * (h / 2) + (cos - sin) / 2
    cos, sin, dx, dy = (
        np.floor(v * 65536 + 0.5).astype(np.int32)[:, None, None] for v in (cos, sin, dx, dy)
    )
    x, y = np.arange(w, dtype=np.int32), np.arange(h, dtype=np.int32)[:, None]
    row = (cos * y + dy) - sin * x  # (N, H, W)
    # In a mirrored image column v stands at w - 1 - v; with 16 bits after the point, that is
    # w * 2**16 - 1 - v before they are cut off.
    mirror = np.reshape(mirror, (-1, 1, 1))
    cos, sin, dx = np.where(mirror, (-cos, -sin, (w << 16) - 1 - dx), (cos, sin, dx))
    column = cos * x + (sin * y + dx)
    row >>= 16
    column >>= 16
    # Read as unsigned, negative numbers are huge: one comparison finds both kinds of outside.
    inside = (row.view(np.uint32) < h) & (column.view(np.uint32) < w)
    # Pixels from outside are taken from anywhere in the image, then made black.
    row *= w
    row += column
    source = np.clip(row, 0, h * w - 1, out=row).astype(np.intp)
    source += np.arange(n)[:, None, None] * (c * h * w)
    pixels, inside = images.reshape(-1), inside.view(np.uint8)
    out = np.empty_like(images)
    for channel in range(c):
        out[:, channel] = pixels[channel * h * w :].take(source) * inside
    return out
