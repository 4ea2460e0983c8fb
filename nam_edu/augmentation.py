"""Random crop, flip, brightness, contrast and rotation of whole batches of images in NumPy.

Each step gives, pixel for pixel, what the transform of the same name in `paddle.vision.transforms`
gives for one PIL image; doing a batch at once makes it fast without worker processes.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image, in this order; the defaults do nothing.

    crop_padding: pixels of black border from which a window of the old size is cut at random.
    brightness, contrast: b changes the image, every other time, by a factor from 1-b to 1+b.
    flip: mirror left to right every other time.
    rotation: turn by up to so many degrees either way, nearest neighbour, black corners.
    """

    crop_padding: int = 0
    brightness: float = 0.0
    contrast: float = 0.0
    flip: bool = False
    rotation: float = 0.0

    def __call__(self, images, rng):
        """Augment uint8 images (N, 3, H, W) -> uint8 (N, 3, H, W) with a numpy Generator.

        The same generator state gives the same images.
        """
        n = len(images)
        # All numbers are drawn whether used or not: a switch changes its own step only.
        top, left = rng.integers(0, 2 * self.crop_padding + 1, (2, n))
        brightness, contrast = 1 + rng.uniform(-1, 1, (2, n)) * [[self.brightness], [self.contrast]]
        use_brightness, use_contrast, use_flip = rng.random((3, n)) < 0.5
        angle = rng.uniform(-1, 1, n) * self.rotation

        if self.crop_padding:
            images = crop(images, self.crop_padding, top, left)
        if self.brightness:
            images = adjust_brightness(images, np.where(use_brightness, brightness, 1))
        if self.contrast:
            images = adjust_contrast(images, np.where(use_contrast, contrast, 1))
        if self.flip:
            images = flip(images, use_flip)
        if self.rotation:
            images = rotate(images, angle)
        return images


def crop(images, padding, top, left):
    """Put a black border of `padding` pixels around each image, then cut a window of the old size
    whose upper left corner is at (top[i], left[i]): uint8 (N, C, H, W) -> (N, C, H, W)."""
    n, c, h, w = images.shape
    border = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(images, border), (h, w), axis=(2, 3))
    return windows[np.arange(n), :, top, left]


def flip(images, mask):
    """Mirror left to right the images whose mask is true."""
    return np.where(mask[:, None, None, None], images[..., ::-1], images)


def adjust_brightness(images, factor):
    """Multiply each image by its factor: uint8 (N, 3, H, W), (N,) -> uint8 (N, 3, H, W)."""
    return _blend(np.zeros(len(images)), images, factor)


def adjust_contrast(images, factor):
    """Scale each image's distance from its mean grey value by its factor."""
    # The weights of red, green and blue of ITU-R 601-2, in PIL's fixed-point arithmetic.
    weights = np.array([19595, 38470, 7471], np.int32).reshape(1, 3, 1, 1)
    grey = ((images * weights).sum(1) + 0x8000) >> 16  # (N, 3, H, W) -> (N, H, W)
    mean = np.floor(grey.mean((1, 2)) + 0.5)
    return _blend(mean, images, factor)


def _blend(base, images, factor):
    # Only the images that change; rounded towards zero and clipped as PIL does.
    rows = np.flatnonzero(factor != 1)
    shape = (-1, 1, 1, 1)
    base = base[rows].astype(np.float32).reshape(shape)
    change = images[rows] - base
    change *= factor[rows].astype(np.float32).reshape(shape)
    change += base
    np.clip(change, 0, 255, out=change)
    out = images.copy()
    out[rows] = change  # the cast to uint8 cuts the fraction off
    return out


def rotate(images, angle):
    """Turn each image about its centre by angle[i] degrees anticlockwise, nearest neighbour, black
    where nothing was: uint8 (N, C, H, W), (N,) -> uint8 (N, C, H, W)."""
    n, c, h, w = images.shape
    radians = -np.radians(angle)
    cos, sin = np.round(np.cos(radians), 15), np.round(np.sin(radians), 15)
    # Source of output pixel (x, y): (cos x + sin y + dx, -sin x + cos y + dy), measured from pixel
    # centres. PIL computes this in 16.16 fixed point; so do we, to pick the same neighbour.
    dx = w / 2 - cos * (w / 2) - sin * (h / 2) + (cos + sin) / 2
    dy = h / 2 + sin * (w / 2) - cos * (h / 2) + (cos - sin) / 2
    cos, sin, dx, dy = (np.floor(v * 65536 + 0.5).astype(np.int32)[:, None, None]
                        for v in (cos, sin, dx, dy))
    x, y = np.arange(w, dtype=np.int32), np.arange(h, dtype=np.int32)[:, None]
    source_x = (cos * x + (sin * y + dx)) >> 16  # (N, H, W)
    source_y = (cos * y + dy - sin * x) >> 16
    outside = (source_x < 0) | (source_x >= w) | (source_y < 0) | (source_y >= h)
    source = source_y * np.int32(w) + source_x
    # One black pixel is added to each image; pixels from outside are taken from there.
    source[outside] = h * w
    flat = np.zeros((n, c, h * w + 1), np.uint8)
    flat[..., :-1] = images.reshape(n, c, h * w)
    source = source.reshape(n, 1, h * w) + (np.arange(n * c) * (h * w + 1)).reshape(n, c, 1)
    return flat.reshape(-1).take(source).reshape(images.shape)
