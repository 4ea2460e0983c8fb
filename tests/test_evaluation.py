"""Accuracies counted by hand on a network whose answers are known."""

import contextlib
import json

import numpy as np
import paddle
import pytest
from helpers import random_split

from nam_edu.attention import ChannelNAM, SpatialNAM, gamma_weights, nam_layers
from nam_edu.data import CIFAR100_MEAN, CIFAR100_STD
from nam_edu.evaluation import (
    blocks,
    evaluate,
    fixed_gates,
    gamma_table,
    gate_maps,
    gates,
    importance,
    predict,
    weight_shares,
    wilson_interval,
    without_channels,
)
from nam_edu.resnet import resnet18


class Oracle(paddle.nn.Layer):
    """Reads its logits off a table, image after image."""

    def __init__(self, table):
        super().__init__()
        self.normalization = (CIFAR100_MEAN, CIFAR100_STD)
        self.table, self.position = table.astype("float32"), 0

    def forward(self, x):
        rows = self.table[self.position : self.position + x.shape[0]]
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
        100 * sum(f // 5 == t // 5 for f, t in zip(first, split.fine)) / 250
    )
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
    """Of a split made by hand, which cannot know the superclass of a class it has no image of."""
    split = random_split(50, 0)  # classes 0 to 49 only
    logits = np.eye(100)[np.where(np.arange(50) < 10, 99, split.fine)]  # ten say class 99
    result = evaluate(Oracle(logits), split)
    assert result.top1 == 80 and result.per_class["fine 99"] is None
    assert result.superclass_top1 == 80  # unknown counts as wrong
    assert result.per_superclass["coarse 19"] is None
    assert result.confusion.sum() == 40 and "coarse 19" not in str(result)
    assert (
        result.unknown_superclass
        == 10
        == json.loads(json.dumps(result.as_dict()))["unknown_superclass"]
    )
    assert "the superclass of 10 first choices is unknown" in str(result)


def test_superclasses_of_a_part_of_an_archive(archive):
    """Always right in the superclass, by classes of which the split has no image."""
    split = archive.test.take(np.flatnonzero(archive.test.fine % 5 < 2)[:50])
    logits = np.eye(100)[split.fine // 5 * 5 + (split.fine + 1) % 5]
    result = evaluate(Oracle(logits), split)
    assert not np.isin(result.predicted, split.fine).all()
    assert result.superclass_top1 == 100 and result.top1 == 0
    assert np.trace(result.confusion) == result.confusion.sum() == len(split)
    assert result.unknown_superclass == 0 and "unknown" not in str(result)


@pytest.mark.parametrize(
    "right, n, low, high",
    [(0, 10, 0.0, 27.75), (5, 10, 23.66, 76.34), (10, 10, 72.25, 100.0), (81, 263, 25.5, 36.6)],
)
def test_wilson_interval_against_published_values(right, n, low, high):
    """The last case is Newcombe's, Statistics in Medicine 17 (1998), table I."""
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=0.06)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8, np.float32])
def test_wilson_interval_of_numpy_numbers(kind):
    right, n = (40, 200) if kind is np.uint8 else (40_000, 100_000)
    assert wilson_interval(kind(right), kind(n)) == wilson_interval(right, n)


@pytest.mark.parametrize(
    "right, n, message",
    [
        (0, 0, "at least one image, not 0"),
        (1, -3, "at least one image, not -3"),
        (-1, 10, "between 0 and the 10 images, not -1"),
        (11, 10, "between 0 and the 10 images, not 11"),
        (float("nan"), 10, "not nan"),
        (1, float("nan"), "not nan"),
    ],
)
def test_wilson_interval_refuses(right, n, message):
    with pytest.raises(ValueError, match=message):
        wilson_interval(right, n)


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
    assert row == "layer1 4 1.000 +- 0.000 1.000 +- 0.791 0.000 - 2.000".split()


def test_gamma_table_fits_a_narrow_page():
    table = gamma_table({"layer4.10.attention.channel": np.full((2, 2048), 0.5)})
    assert max(map(len, table.splitlines())) <= 76


# ------------------------------------------------------------------- gates and channels removed


@pytest.fixture
def nam_network():
    """A small network whose NAM layers have gammas of both signs, betas and used statistics."""
    paddle.seed(0)
    network = resnet18(width=4, attention="nam-spatial")
    for _, layer in nam_layers(network):
        for parameter in (layer.bn.weight, layer.bn.bias):
            parameter.set_value(3 * paddle.randn(parameter.shape))
    network(paddle.randn([16, 3, 32, 32]))  # running statistics
    network.eval()
    return network


@contextlib.contextmanager
def watching(layers, see):
    """Inside, see(name, input, output) is called with what each of the (name, layer) does."""

    def hook(name):
        def call(layer, x, y):
            see(name, x[0].numpy(), y.numpy())  # a value that a hook returns would replace y

        return call

    hooks = [layer.register_forward_post_hook(hook(name)) for name, layer in layers]
    yield
    for each in hooks:
        each.remove()


def numpy_gate(layer, x):
    """The gate of a NAM layer by the equations, in float64."""
    gamma, beta, mean, var = (
        p.numpy().astype(np.float64)
        for p in (layer.bn.weight, layer.bn.bias, layer.bn._mean, layer.bn._variance)
    )
    x = x.astype(np.float64)
    n, c, h, w = x.shape
    if isinstance(layer, SpatialNAM):
        x = x.reshape(n, c, h * w).transpose(0, 2, 1)[..., None]
    shape = (1, -1, 1, 1)
    logits = (np.abs(gamma) / np.abs(gamma).sum()).reshape(shape) * (
        gamma.reshape(shape) * (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + 1e-5)
        + beta.reshape(shape)
    )
    if isinstance(layer, SpatialNAM):
        logits = logits[..., 0].transpose(0, 2, 1).reshape(n, c, h, w)
    return 1 / (1 + np.exp(-logits))


def test_gates(nam_network, archive):
    images, inputs = archive.test.images[:40], {}
    with watching(
        nam_layers(nam_network), lambda name, x, y: inputs.setdefault(name, []).append(x)
    ):
        found = gates(nam_network, images, batch_size=16)
    assert list(found) == [name for name, _ in nam_layers(nam_network)]
    for name, layer in nam_layers(nam_network):
        gate = numpy_gate(layer, np.concatenate(inputs[name]))
        kind = isinstance(layer, SpatialNAM)
        profile = gate.mean((0, 1)).ravel() if kind else gate.mean((0, 2, 3))
        for got, right in (
            (found[name].low, gate.min()),
            (found[name].high, gate.max()),
            (found[name].mean, gate.mean()),
            (found[name].std, gate.std()),
            (found[name].profile, profile),
            (found[name].profile_std, profile.std()),
        ):
            np.testing.assert_allclose(got, right, atol=1e-4)
        maps = gate_maps(nam_network, images, name, batch_size=16)
        np.testing.assert_allclose(maps, gate, atol=1e-4)
        gamma = np.abs(layer.bn.weight.numpy())
        np.testing.assert_allclose(
            found[name].weights_high, len(gamma) * gamma.max() / gamma.sum(), rtol=1e-5
        )


def test_gate_maps_of_a_layer_that_is_not_there(nam_network, archive):
    with pytest.raises(ValueError, match="no NAM layer is called 'layer9': choose one of layer1.0"):
        gate_maps(nam_network, archive.test.images[:4], "layer9")


def test_fixed_gates_of_one_half_are_what_zero_gammas_give(nam_network, archive):
    images = archive.test.images[:20]
    learned = predict(nam_network, images)
    with fixed_gates(nam_network, 0.5):
        half = predict(nam_network, images)
    np.testing.assert_array_equal(predict(nam_network, images), learned)  # all is as it was
    for _, layer in nam_layers(nam_network):
        layer.bn.weight.set_value(paddle.zeros_like(layer.bn.weight))
        layer.bn.bias.set_value(paddle.zeros_like(layer.bn.bias))
    np.testing.assert_allclose(half, predict(nam_network, images), rtol=1e-4, atol=1e-5)
    assert np.abs(half - learned).max() > 1e-2


@pytest.mark.parametrize("attention", ["nam-times-c", "nam-gate-only"])
def test_fixed_gates_of_the_variants_of_nam(attention, archive):
    """The gate alone, without the product, is fixed as such: zero gammas give 1/2, not x / 2."""
    network = resnet18(attention=attention, width=8)
    images = archive.test.images[:20]
    learned = predict(network, images)
    with fixed_gates(network, 0.5):
        half = predict(network, images)
    for _, layer in nam_layers(network):
        layer.bn.weight.set_value(paddle.zeros_like(layer.bn.weight))
        layer.bn.bias.set_value(paddle.zeros_like(layer.bn.bias))
    np.testing.assert_allclose(half, predict(network, images), rtol=1e-4, atol=1e-5)
    assert np.abs(half - learned).max() > 1e-3
    with fixed_gates(network, gates(network, images)):  # each channel's mean, which is 1/2 by now
        mean = predict(network, images)
    np.testing.assert_allclose(half, mean, rtol=1e-4, atol=1e-5)


def test_one_fixed_gate_of_one_half_is_what_its_zero_gammas_give(nam_network, archive):
    images = archive.test.images[:20]
    layers = dict(nam_layers(nam_network))
    name = list(layers)[1]
    with fixed_gates(nam_network, 0.5, only=name):
        half = predict(nam_network, images)
    with fixed_gates(nam_network, 0.5):
        all_half = predict(nam_network, images)
    layers[name].bn.weight.set_value(paddle.zeros_like(layers[name].bn.weight))
    layers[name].bn.bias.set_value(paddle.zeros_like(layers[name].bn.bias))
    np.testing.assert_allclose(half, predict(nam_network, images), rtol=1e-4, atol=1e-5)
    assert np.abs(half - all_half).max() > 1e-3
    with pytest.raises(ValueError, match="no NAM layer is called 'attention'"):
        with fixed_gates(nam_network, 0.5, only="attention"):
            pass


def test_fixed_gates_of_the_mean(nam_network, archive):
    """Each channel (pixel) is multiplied by its own mean gate."""
    images, seen = archive.test.images[:20], {}
    found = gates(nam_network, images)
    with fixed_gates(nam_network, found):
        watched = [
            (name, layer)
            for name, layer in nam_network.named_sublayers()
            if type(layer).__name__ == "FixedGate"
        ]
        with watching(watched, lambda name, x, y: seen.update({name: (x, y)})):
            predict(nam_network, images)
    assert list(seen) == list(found)
    for name, (x, y) in seen.items():
        if name.endswith("channel"):
            profile = found[name].profile.reshape(1, -1, 1, 1)
        else:
            profile = found[name].profile.reshape(1, 1, *x.shape[2:])
        np.testing.assert_allclose(y, x * profile, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("of", ["nam", "bn"])
@pytest.mark.parametrize("order", ["lowest", "highest", "random"])
def test_without_channels(nam_network, archive, order, of):
    images, zero = archive.test.images[:10], {}
    for _, block in blocks(nam_network):
        block.bn2.weight.set_value(paddle.randn(block.bn2.weight.shape))
    before = predict(nam_network, images)
    with without_channels(nam_network, 0.5, order, of):
        watched = [(name, block.attention) for name, block in blocks(nam_network)]
        with watching(
            watched, lambda name, x, y: zero.update({name: np.flatnonzero(~y.any((0, 2, 3)))})
        ):
            predict(nam_network, images)
    for name, block in blocks(nam_network):
        bn = block.attention.channel.bn if of == "nam" else block.bn2
        gamma = np.abs(bn.weight.numpy())
        assert len(zero[name]) == len(gamma) // 2
        if order != "random":
            kept = np.setdiff1d(np.arange(len(gamma)), zero[name])
            low, high = (zero[name], kept) if order == "lowest" else (kept, zero[name])
            assert gamma[low].max() <= gamma[high].min()
    np.testing.assert_array_equal(predict(nam_network, images), before)


def test_the_network_is_whole_again_after_an_error(nam_network):
    names = list(nam_network.state_dict())
    with pytest.raises(KeyboardInterrupt), without_channels(nam_network, 0.3):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), fixed_gates(nam_network):
        raise KeyboardInterrupt
    assert list(nam_network.state_dict()) == names
    with pytest.raises(ValueError, match="choose lowest, highest or random"):
        with without_channels(nam_network, 0.3, "first"):
            pass


@pytest.mark.parametrize("attention", ["none", "se", "cbam"])
def test_a_network_without_nam(archive, attention):
    network = resnet18(width=4, attention=attention)
    assert gates(network, archive.test.images[:4]) == {}
    with pytest.raises(ValueError, match="no NAM layer, so it has no gate"):
        fixed_gates(network)
    _, block = next(blocks(network))
    with pytest.raises(ValueError, match='no NAM over its channels.*choose of="bn"'):
        importance(block)
    with pytest.raises(ValueError, match='choose of="bn"'), without_channels(network, 0.5):
        pass
    for order, of in (("lowest", "bn"), ("random", "nam")):
        with without_channels(network, 0.5, order, of):
            predict(network, archive.test.images[:4])


def test_a_channel_nam_alone_in_the_slot():
    network = resnet18(width=4, attention=lambda channels, size: ChannelNAM(channels))
    with without_channels(network, 0.5, of="nam"):
        pass


def test_what_cannot_be_fixed_or_removed(nam_network, archive):
    other = gates(resnet18(width=4, attention="nam"), archive.test.images[:4])
    with pytest.raises(ValueError, match="no gate for the layer .*spatial"):
        fixed_gates(nam_network, other)
    with pytest.raises(ValueError, match="unknown importance of='gamma'"):
        with without_channels(nam_network, 0.5, of="gamma"):
            pass
    with pytest.raises(ValueError, match="between 0 and 1, not 30"):
        with without_channels(nam_network, 30):
            pass
    with pytest.raises(ValueError, match="no residual block"):
        with without_channels(paddle.nn.Linear(3, 4), 0.5):
            pass


def test_weight_shares():
    for gamma in ([2.0, -1.0, 1.0, 0.0], [0.0, 0.0], [1e-30, 3e-30]):
        shares = weight_shares(np.array(gamma, "float32"))
        np.testing.assert_allclose(
            shares, gamma_weights(paddle.to_tensor(gamma)).numpy(), rtol=1e-6
        )
        assert shares.sum() == pytest.approx(1)
    assert weight_shares([0, 0, 0, 0]).tolist() == [0.25] * 4
