"""The generated images: the same bytes everywhere, fair labels, and no task for a ruler."""
import hashlib

import numpy as np
import pytest

from nam_edu import shapes100
from nam_edu.data import read_archive
from nam_edu.shapes100 import (SHAPES, TEXTURES, coarse_names, draw, fine_names, load_shapes100,
                               make_shapes100)

DIGEST = "715c252efeb1a888e4a6f31dc22d9d307ea3603fbebab8c3ab0cc803208e8cef"


def test_the_same_arguments_give_the_same_bytes():
    images, fine, coarse = draw(200, seed=0)
    assert hashlib.sha256(images.tobytes() + fine.tobytes()).hexdigest() == DIGEST
    assert images.dtype == np.uint8 and images.shape == (200, 3, 32, 32)
    assert fine.dtype == coarse.dtype == np.int64


def test_seeds_and_splits_differ():
    first = draw(100, seed=0)[0]
    for other in (draw(100, seed=1)[0], draw(100, seed=0, split="test")[0]):
        same = [any((image == x).all() for x in first) for image in other]
        assert not any(same)


def test_labels():
    _, fine, coarse = draw(1000, seed=5)
    assert (np.bincount(fine, minlength=100) == 10).all()
    np.testing.assert_array_equal(coarse, fine // 5)
    assert len(set(fine_names())) == 100 and coarse_names() == list(SHAPES)
    assert fine_names()[5 * SHAPES.index("star") + TEXTURES.index("striped")] == "striped star"


def test_figure_and_ground_differ_in_brightness():
    """In every plain image the middle of the figure stands out from the border of the image."""
    rng = np.random.Generator(np.random.PCG64(0))
    fine = np.repeat(np.arange(0, 100, 5), 10)  # texture "plain" of every shape
    images, figure = shapes100._paint(fine, rng.random)
    grey = images.mean(1)
    for image, share in zip(grey, figure):
        inside, outside = image[share == 1], image[share == 0]
        assert abs(inside.mean() - outside.mean()) > 20
        assert 0.05 < share.mean() < 0.6


def test_a_linear_classifier_stays_low():
    """Softmax regression on pixels, by gradient descent in NumPy: 100 classes are not for it."""
    x, y, _ = draw(3000, seed=2)
    xt, yt, _ = draw(1000, seed=2, split="test")
    mean, std = x.mean(), x.std()
    flat, flat_t = (((v - mean) / std).reshape(len(v), -1).astype(np.float32) for v in (x, xt))
    w, target = np.zeros((3072, 100), np.float32), np.eye(100, dtype=np.float32)[y]
    for _ in range(60):
        logits = flat @ w
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        w -= 0.02 * (flat.T @ (p - target) / len(flat) + 1e-3 * w)
    assert ((flat_t @ w).argmax(1) == yt).mean() < 0.15


def test_the_archive_round_trip_and_the_cache(tmp_path, monkeypatch):
    path = make_shapes100(tmp_path / "s.tar.gz", train=200, test=100, seed=3)
    archive = read_archive(path)
    np.testing.assert_array_equal(archive.train.images, draw(200, 3)[0])
    np.testing.assert_array_equal(archive.test.images, draw(100, 3, split="test")[0])
    assert archive.fine_names == tuple(fine_names())

    small = make_shapes100
    monkeypatch.setattr(shapes100, "make_shapes100", lambda p: small(p, train=200, test=100))
    monkeypatch.setenv("NAM_EDU_CACHE", str(tmp_path / "cache"))
    load_shapes100()
    (kept,) = (tmp_path / "cache").iterdir()
    stamp = kept.stat().st_mtime_ns
    load_shapes100()
    assert kept.stat().st_mtime_ns == stamp
    kept.write_bytes(kept.read_bytes()[:1000])  # damaged: drawn anew
    assert len(load_shapes100().train) == 200


def test_a_cache_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NAM_EDU_CACHE", str(tmp_path / "file" / "cache"))
    assert str(shapes100.cache_folder()) != str(tmp_path / "file" / "cache")


@pytest.mark.parametrize("arguments, message", [
    ({"n": 0}, "n must be a whole number of at least 1, not 0"),
    ({"n": 2.5}, "n must be"),
    ({"n": 5, "seed": -1}, "seed must be a whole number of at least 0"),
    ({"n": 5, "split": "val"}, "unknown split 'val': choose one of train, test"),
])
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(**arguments)
