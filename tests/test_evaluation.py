"""Accuracies counted by hand on a network whose answers are known."""
import json

import numpy as np
import paddle
import pytest
from conftest import random_split

from nam_edu.data import CIFAR100_MEAN, CIFAR100_STD
from nam_edu.evaluation import evaluate, gamma_table, predict, wilson_interval


class Oracle(paddle.nn.Layer):
    """Reads its logits off a table, image after image."""

    def __init__(self, table):
        super().__init__()
        self.normalization = (CIFAR100_MEAN, CIFAR100_STD)
        self.table, self.position = table.astype("float32"), 0

    def forward(self, x):
        rows = self.table[self.position:self.position + x.shape[0]]
        self.position += x.shape[0]
        return paddle.to_tensor(rows)


def test_every_number_against_a_count_by_hand():
    split = random_split(250, 0)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(250, 100))
    logits[np.arange(250), split.fine] += rng.uniform(0, 5, 250)
    result = evaluate(Oracle(logits), split, batch_size=64)

    first = logits.argmax(1)
    rank = [sorted(-row).index(-row[label]) for row, label in zip(logits, split.fine)]
    right = sum(f == t for f, t in zip(first, split.fine))
    assert result.images == 250 and len(result.predicted) == 250
    assert result.top1 == pytest.approx(100 * right / 250)
    assert result.top5 == pytest.approx(100 * sum(r < 5 for r in rank) / 250)
    assert result.superclass_top1 == pytest.approx(
        100 * sum(f // 5 == t // 5 for f, t in zip(first, split.fine)) / 250)
    for i, name in ((0, "fine 0"), (63, "fine 63")):
        of_class = [f == i for f, t in zip(first, split.fine) if t == i]
        assert result.per_class[name] == pytest.approx(100 * np.mean(of_class))
    for i, name in ((2, "coarse 2"), (19, "coarse 19")):
        of_class = [f == t for f, t in zip(first, split.fine) if t // 5 == i]
        assert result.per_superclass[name] == pytest.approx(100 * np.mean(of_class))
    counts = np.zeros((20, 20), int)
    for f, t in zip(first, split.fine):
        counts[t // 5, f // 5] += 1
    np.testing.assert_array_equal(result.confusion, counts)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(result.confidence, softmax.max(1), rtol=1e-5)


def test_a_class_without_an_image():
    split = random_split(50, 0)  # classes 0 to 49 only
    logits = np.eye(100)[np.where(np.arange(50) < 10, 99, split.fine)]  # ten say class 99
    result = evaluate(Oracle(logits), split)
    assert result.top1 == 80 and result.per_class["fine 99"] is None
    assert result.per_superclass["coarse 19"] is None
    assert result.confusion.sum() == 40 and "coarse 19" not in str(result)
    json.dumps(result.as_dict())


@pytest.mark.parametrize("right, n, low, high", [
    (0, 10, 0.0, 27.75), (5, 10, 23.66, 76.34), (10, 10, 72.25, 100.0), (81, 263, 25.5, 36.6)])
def test_wilson_interval_against_published_values(right, n, low, high):
    """The last case is Newcombe's, Statistics in Medicine 17 (1998), table I."""
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=0.06)


def test_nan_and_a_wrong_number_of_classes():
    split = random_split(20, 0)
    table = np.zeros((20, 100))
    table[7, 3] = np.nan
    with pytest.raises(ValueError, match="NaN for image 7"):
        evaluate(Oracle(table), split)
    with pytest.raises(ValueError, match="10 logits but the data has 100 classes"):
        evaluate(Oracle(np.zeros((20, 10))), split)


def test_batches_do_not_matter_and_the_mode_is_given_back():
    from nam_edu.resnet import resnet18

    split = random_split(30, 0)
    network = resnet18(width=4)
    network.train()
    one, many = predict(network, split.images, 30), predict(network, split.images, 7)
    np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-5)
    assert network.training


def test_gamma_table():
    table = gamma_table({"layer1.attention": np.array([[1, 1, 1, 1], [0.5, -1.5, 0, 2]])})
    row = table.splitlines()[1].split()
    assert row == "layer1.attention 4 1.0000 +- 0.000 1.0000 +- 0.791 0.000 - 2.000".split()
