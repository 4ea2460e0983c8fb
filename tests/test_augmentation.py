"""Whole batches against paddle.vision's transforms of one PIL image at a time."""

import numpy as np
import pytest
from paddle.vision.transforms import functional as T
from PIL import Image

from nam_edu import augmentation as A
from nam_edu.data import CIFAR100_MEAN, CIFAR100_STD, normalise


@pytest.fixture
def images():
    rng = np.random.default_rng(3)
    smooth = rng.integers(0, 256, (60, 3, 4, 4)).repeat(8, 2).repeat(8, 3)
    return np.clip(smooth + rng.integers(-40, 40, smooth.shape), 0, 255).astype(np.uint8)


def to_pil(image):
    return Image.fromarray(image.transpose(1, 2, 0))  # (3, H, W) -> (H, W, 3)


def from_pil(image):
    return np.asarray(image).transpose(2, 0, 1)


def each(images, transform, *numbers):
    return np.stack(
        [
            from_pil(transform(to_pil(image), *(n[i] for n in numbers)))
            for i, image in enumerate(images)
        ]
    )


def test_crop(images):
    top, left = np.random.default_rng(0).integers(0, 9, (2, len(images)))
    expected = each(images, lambda im, i, j: T.crop(T.pad(im, 4), i, j, 32, 32), top, left)
    np.testing.assert_array_equal(A.crop(images, 4, top, left), expected)


def test_flip(images):
    mask = np.arange(len(images)) % 3 == 0
    expected = each(images, lambda im, m: T.hflip(im) if m else im, mask)
    np.testing.assert_array_equal(A.flip(images, mask), expected)


@pytest.mark.parametrize(
    "ours, theirs",
    [(A.adjust_brightness, T.adjust_brightness), (A.adjust_contrast, T.adjust_contrast)],
)
def test_brightness_and_contrast(images, ours, theirs):
    factor = np.random.default_rng(1).uniform(0.2, 1.9, len(images))
    factor[:3] = 0, 1, 2
    np.testing.assert_array_equal(ours(images, factor), each(images, theirs, factor))


def test_rotation(images):
    angle = np.random.default_rng(2).uniform(-15, 15, len(images))
    angle[:3] = 0, 15, -15
    np.testing.assert_array_equal(A.rotate(images, angle), each(images, T.rotate, angle))


def test_rotation_of_an_oblong_image(images):
    images = images[:, :, :20]
    angle = np.linspace(-15, 15, len(images))
    np.testing.assert_array_equal(A.rotate(images, angle), each(images, T.rotate, angle))


def test_rotation_of_a_mirrored_image(images):
    images = images[:, :, :20]
    angle = np.random.default_rng(2).uniform(-90, 90, len(images))
    mask = np.arange(len(images)) % 3 == 0
    expected = A.rotate(A.flip(images, mask), angle)
    np.testing.assert_array_equal(A.rotate(images, angle, mask), expected)


def test_crop_of_an_oblong_image_with_a_border_wider_than_itself(images):
    images = images[:, :, :20, :7]
    top, left = np.random.default_rng(0).integers(0, 19, (2, len(images)))
    expected = each(images, lambda im, i, j: T.crop(T.pad(im, 9), i, j, 20, 7), top, left)
    np.testing.assert_array_equal(A.crop(images, 9, top, left), expected)


def test_normalisation(images):
    expected = np.stack(
        [T.normalize(im.astype("float32") / 255, CIFAR100_MEAN, CIFAR100_STD) for im in images]
    )
    actual = normalise(images, CIFAR100_MEAN, CIFAR100_STD)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=1e-5)


ALL = A.Augmentation(crop_padding=4, brightness=0.1, contrast=0.1, flip=True, rotation=15)


def test_the_same_generator_gives_the_same_images(images):
    first = ALL(images, np.random.default_rng(7))
    np.testing.assert_array_equal(first, ALL(images, np.random.default_rng(7)))
    assert (first != ALL(images, np.random.default_rng(8))).any()
    assert first.dtype == np.uint8 and first.shape == images.shape


def test_the_input_is_left_alone(images):
    before = images.copy()
    ALL(images, np.random.default_rng(0))
    np.testing.assert_array_equal(images, before)


def test_numpy_keeps_its_settings(images):
    before = np.getbufsize()
    ALL(images, np.random.default_rng(0))
    with pytest.raises(ValueError):
        ALL(images[0], np.random.default_rng(0))
    assert np.getbufsize() == before


def test_the_defaults_do_nothing(images):
    np.testing.assert_array_equal(A.Augmentation()(images, np.random.default_rng(0)), images)


def test_how_often_and_how_far():
    """Brightness and contrast every other time by at most b; each corner of the crop as often."""
    n = 20_000
    grey = np.full((n, 3, 1, 1), 100, np.uint8)
    values = A.Augmentation(brightness=0.1)(grey, np.random.default_rng(0))[:, 0, 0, 0]
    assert values.min() == 90 and values.max() in (109, 110)
    assert abs((values == 100).mean() - 0.5) < 0.06  # factors that round to 100 count as well

    ramp = np.zeros((n, 3, 3, 3), np.uint8)
    ramp[:, :, 1, 1] = 9
    moved = A.Augmentation(crop_padding=1)(ramp, np.random.default_rng(0))[:, 0]
    share = (moved == 9).mean(0)  # where the one bright pixel went: nine places alike
    np.testing.assert_allclose(share, 1 / 9, atol=0.01)


@pytest.mark.parametrize("step", ["brightness", "contrast"])
def test_a_factor_is_never_negative(step, monkeypatch):
    """As in paddle.vision, whose factors lie between max(0, 1 - b) and 1 + b."""
    factors = []
    monkeypatch.setattr(A, f"adjust_{step}", lambda images, f: factors.append(f) or images)
    A.Augmentation(**{step: 1.5})(np.zeros((20_000, 3, 1, 1), np.uint8), np.random.default_rng(0))
    changed = factors[0][factors[0] != 1]
    assert 0 <= changed.min() < 0.01 and 2.49 < changed.max() <= 2.5
    assert abs(changed.mean() - 1.25) < 0.02
