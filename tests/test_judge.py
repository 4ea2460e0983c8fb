"""A judge that is to be trusted: it says yes to a gate that works and no to a constant."""

import dataclasses
import json
import re

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest

from nam_edu import judge as module
from nam_edu.baselines import ATTENTIONS, SE, ConstantGate
from nam_edu.evaluation import blocks, constant_gates, predict, slot_gates
from nam_edu.judge import Judgement, Pair, fingerprint, judge, with_own_numbers
from nam_edu.machinery.errors import ArgumentError, TrainingError
from nam_edu.recipes import build_network, change, own_name
from nam_edu.resnet import resnet18
from nam_edu.tints import tint_archive
from nam_edu.training import open_run, recipe

TINY = recipe("ci", width=4, epochs=1, train_images=0, validation=0, crop_padding=0, flip=False)


@pytest.fixture(scope="module")
def data():
    return tint_archive(384, 200)


@pytest.fixture(scope="module")
def easy():
    """Tinted images whose class is painted all over them, so that a few steps are enough."""

    def painted(split):
        label = split.fine[:, None, None]
        images = split.images.copy()
        images[:, 0] //= 4
        images[:, 0, :, :16] += (60 * (label % 4)).astype(np.uint8)
        images[:, 2] = images[:, 2] // 4 + 120 * (label // 4).astype(np.uint8)
        return dataclasses.replace(split, images=images)

    archive = tint_archive(1024, 300)
    return dataclasses.replace(archive, train=painted(archive.train), test=painted(archive.test))


class Lively(nn.Layer):
    """Keeps what is above 0 and holds back the rest: a constant in its place is another network."""

    def __init__(self, slope=5.0):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return x * F.sigmoid(self.slope * x)


class Adds(nn.Layer):
    """Adds the mean of its map, at first times 0: a new one cannot be told from a gate of 1."""

    def __init__(self):
        super().__init__()
        self.scale = self.create_parameter([1], default_initializer=nn.initializer.Constant(0.0))

    def forward(self, x):
        return x + self.scale * x.mean([2, 3], keepdim=True)


def lively(channels, size):
    return Lively()


def half(channels, size):
    return ConstantGate(0.5)


def squeeze(channels, size):
    return SE(channels)


# ------------------------------------------------------------------------------------ the answers


def pairs(gated, constant, spread, cost):
    return tuple(Pair(*row) for row in zip(range(9), gated, constant, spread, cost))


def test_the_three_answers_follow_from_the_numbers():
    yes = Judgement("g", pairs([60, 61, 62], [50, 51, 52.5], [0.2] * 3, [20, 22, 24]))
    assert (yes.alive, yes.used, yes.useful) == ("alive", "used", "useful")
    assert list(yes.gains) == [10, 10, 9.5]
    no = Judgement("g", pairs([50, 51, 52.1], [50, 51, 52], [0.01] * 3, [0, 0.1, -0.1]))
    assert (no.alive, no.used, no.useful) == ("not alive", "not used", "not useful")
    open_ = Judgement("g", pairs([50, 54, 49], [50, 51, 52], [0.01, 0.05, 0.3], [-1, 3, 1]))
    assert (open_.alive, open_.used, open_.useful) == ("alive in 2 of 3", "undecided", "undecided")


def test_the_picture_says_what_is_seen():
    found = Judgement("mine", pairs([60, 61, 62], [50, 51, 52], [0.2] * 3, [20, 22, 24]))
    figure = found.picture()
    assert "cost (used): mean +22.00, 90 % interval +18.63 to +25.37" in figure.alt
    assert "gain (useful): mean +10.00, 90 % interval +10.00 to +10.00" in figure.alt
    assert "mine: alive" in [axis.get_title("left") for axis in figure.axes]
    assert "cost 22.00 points, 90 % interval 18.63 to 25.37" in str(found)  # 2.9200 * 2 / sqrt(3)


# -------------------------------------------------------------------------------------- the judge


def test_a_gate_at_work_is_alive_and_used(easy, tmp_path):
    data, learns = easy, change(TINY, epochs=3, batch_size=32)
    found = judge(lively, learns, data, tmp_path, seeds=range(3))
    assert found.alive == "alive" and found.used == "used"
    # one of its numbers by hand
    run = open_run(next(tmp_path.glob("lively-*-1")), named("lively"))
    own = slot_gates(run.network, data.test.images[:1000])
    assert found.pairs[1].spread == pytest.approx(max(std for _, std in own.values()))
    right = predict(run.network, data.test.images).argmax(1) == data.test.fine
    assert found.pairs[1].gated == pytest.approx(100 * right.mean())
    left = []
    for value in (0.5, {name: mean for name, (mean, _) in own.items()}):
        for name, block in blocks(run.network):
            block.attention = ConstantGate(value[name] if isinstance(value, dict) else value)
        left.append(
            100 * (predict(run.network, data.test.images).argmax(1) == data.test.fine).mean()
        )
    assert found.pairs[1].cost == pytest.approx(100 * right.mean() - max(left))


def named(name):
    """A callable of this name that builds what `lively` builds."""
    attention = lambda channels, size: Lively()  # noqa: E731
    attention.__qualname__ = name
    return attention


def test_two_equal_arms_differ_by_exactly_nothing(data, tmp_path):
    found = judge(half, TINY, data, tmp_path, seeds=(3, 5))
    assert list(found.gains) == [0, 0] and list(found.costs) == [0, 0]
    assert [pair.seed for pair in found.pairs] == [3, 5]
    assert found.pairs[0].gated != found.pairs[1].gated  # the seeds are two experiments
    assert max(pair.spread for pair in found.pairs) < 1e-6
    assert (found.alive, found.used) == ("not alive", "not used")


def test_runs_are_kept_and_others_gates_share_the_constants(data, tmp_path, monkeypatch):
    first = judge("half", TINY, data, tmp_path, seeds=(0, 1))
    written = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/run.json")}
    assert len(written) == 4
    assert judge("half", TINY, data, tmp_path, seeds=(0, 1)) == first
    judge(lively, TINY, data, tmp_path, seeds=(0, 1))
    assert len(list(tmp_path.glob("*/log.csv"))) == 6  # the two with a constant were there
    assert {p: p.stat().st_mtime_ns for p in written} == written


def test_a_judgement_that_was_stopped_goes_on_to_the_same_numbers(data, tmp_path, monkeypatch):
    whole = judge(squeeze, TINY, data, tmp_path / "whole", seeds=(0, 1))
    fits = []

    def fit(*args, **kwargs):
        fits.append(args)
        if len(fits) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    real = module.fit
    monkeypatch.setattr(module, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        judge(squeeze, TINY, data, tmp_path / "parts", seeds=(0, 1))
    assert len(list((tmp_path / "parts").glob("*/log.csv"))) == 2
    monkeypatch.setattr(module, "fit", real)
    assert judge(squeeze, TINY, data, tmp_path / "parts", seeds=(0, 1)) == whole


def test_the_constant_may_have_the_scale_of_the_gate_or_a_recipe_of_its_own(data, tmp_path):
    def low(channels, size):
        return ConstantGate(0.2)

    found = judge(low, TINY, data, tmp_path, seeds=(0, 1), constant="own")
    assert list(found.gains) == [0, 0]
    assert max(found.costs) <= 0  # 0 with its own mean; less where 1/2 happens to be better
    found = judge(
        low, TINY, data, tmp_path / "wide", seeds=(0, 1), constant_recipe=change(TINY, width=5)
    )
    kept = [json.loads(p.read_text())["recipe"] for p in (tmp_path / "wide").glob("*/run.json")]
    assert sorted((r["width"], r["seed"]) for r in kept) == [(4, 0), (4, 1), (5, 0), (5, 1)]


# ------------------------------------------------------------------------------ what makes it fair


def test_the_rest_of_the_network_starts_alike():
    """The parameters of SE are drawn from numbers of their own, other ones in every block."""
    built = {}
    for kind, f in (("se", squeeze), ("half", half)):
        f = with_own_numbers(f, 7)
        built[kind] = build_network(change(TINY, attention=own_name(f), seed=7), f).state_dict()
    assert set(built["half"]) < set(built["se"])
    for name, value in built["half"].items():
        assert (value.numpy() == built["se"][name].numpy()).all(), name
    first, second = (built["se"][f"layer1.{i}.attention.fc1.weight"].numpy() for i in (0, 1))
    assert first.shape == second.shape and (first != second).all()


def test_a_gate_that_was_changed_is_another_gate():
    def scaled(times):
        class Scaled(nn.Layer):
            def __init__(self, channels):
                super().__init__()
                self.scale = self.create_parameter(
                    [channels, 1, 1], default_initializer=nn.initializer.Constant(0.0)
                )

            def forward(self, x):  # at the start 1/2, whatever `times` is
                return x * F.sigmoid(times * self.scale * x)

        return lambda channels, size: Scaled(channels)

    marks = [fingerprint(f) for f in (scaled(1), scaled(2), lively, squeeze, half)]
    assert len(set(marks)) == 5 and all(re.fullmatch("[0-9a-f]{8}", mark) for mark in marks)
    assert fingerprint(scaled(1)) == marks[0]
    paddle.seed(1)
    expected = paddle.rand([3]).numpy()
    paddle.seed(1)
    fingerprint(squeeze)
    assert (paddle.rand([3]).numpy() == expected).all()


def test_a_gate_that_was_changed_where_a_network_is_wide():
    """And nowhere else; and a gate with random numbers of its own is still the same gate."""

    class Mine(nn.Layer):
        def __init__(self, channels, times):
            super().__init__()
            self.mix = nn.Linear(channels, channels)
            self.times = times if channels > 8 else 1.0
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            z = self.drop(self.mix(x.mean((2, 3))))
            return x * F.sigmoid(self.times * z).reshape([*z.shape, 1, 1])

    def mine(times):
        return lambda channels, size: Mine(channels, times)

    slots = module.slots_of(change(TINY, width=8))
    assert [channels for channels, _ in slots] == [8, 16, 32, 64]
    assert fingerprint(mine(1.0)) == fingerprint(mine(3.0))
    marks = [fingerprint(mine(times), slots) for times in (1.0, 3.0, 1.0)]
    assert marks[0] == marks[2] != marks[1]
    assert len(module.slots_of(change(TINY, depth=50, stem="cifar"))) == 4
    adds = "where the map is 0"
    for width in range(1, 9):  # batch norms of every small width: no running variance below 0
        with pytest.raises(ArgumentError, match=adds):
            fingerprint(module.named("nam-gate-only"), [(width, (4, 4))])


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(seeds=[1]), "two seeds or more"),
        (dict(seeds=[1, 1]), "each of them once"),
        (dict(seeds=[1, "2"]), "each of seeds must be a whole number"),
        (dict(constant="mean"), 'a number above 0 or "own"'),
        (dict(constant=-1), 'a number above 0 or "own"'),
        (dict(attention="same"), "unknown attention 'same'"),
        (dict(attention=lambda channels, size: nn.AvgPool2D(2)), "keeps the shape of its map"),
        (dict(attention=lambda channels, size: 3), "must return a paddle.nn.Layer"),
        (dict(attention="nam-gate-only"), "where the map is 0, what it gives out is not"),
        (dict(attention=lambda channels, size: Adds()), "let forward return gate \\* x"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_trained(wrong, said, data, tmp_path):
    out = tmp_path / "runs"
    with pytest.raises((ArgumentError, TypeError), match=said):
        judge(**{"attention": half, "seeds": (0, 1), **wrong}, recipe=TINY, data=data, out=out)
    assert not out.exists()


@pytest.mark.parametrize("name", sorted(set(ATTENTIONS) - {"nam-gate-only"}))
def test_gates_of_the_registry_are_not_refused(name):
    fingerprint(module.named(name))


def test_a_layer_instead_of_a_callable_is_refused(data, tmp_path):
    with pytest.raises(TrainingError, match="is built already"):
        judge(SE(4), TINY, data, tmp_path)


# ------------------------------------------------------------- the gates of whatever is in the slot


def network_with(f):
    network = resnet18(attention=f, width=4)
    network.eval()
    return network


def test_gates_of_any_layer_against_a_count_by_hand(data):
    seen = {}

    class Watched(nn.Layer):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            gate = F.sigmoid(3 * x - 1)
            counted = gate.numpy()[x.numpy() != 0]
            seen.setdefault(self.name, []).append(counted.astype(np.float64))
            return x * gate

    names = iter(f"layer{1 + i // 2}.{i % 2}" for i in range(8))
    network = network_with(lambda channels, size: Watched(next(names)))
    found = slot_gates(network, data.test.images[:60], batch_size=25)
    assert list(found) == list(seen)
    for name, (mean, std) in found.items():
        gate = np.concatenate(seen[name])
        assert mean == pytest.approx(gate.mean(), abs=1e-6)
        assert std == pytest.approx(gate.std(), abs=1e-6)
    assert not any(block.attention._forward_post_hooks for _, block in blocks(network))


@pytest.mark.parametrize("name", ["se", "nam", "half", "none"])
def test_gates_of_the_courses_own_layers(name, data):
    """Known layers take a faster way, channels last: what is measured is the same."""
    network = network_with(name)
    found = slot_gates(network, data.test.images[:40])
    inputs = {}
    hooks = [
        block.bn2.register_forward_post_hook(
            lambda layer, x, y, key=key: inputs.__setitem__(key, y.numpy())
        )
        for key, block in blocks(network)
    ]
    predict(network, data.test.images[:40])
    for hook in hooks:
        hook.remove()
    for key, block in blocks(network):
        x = inputs[key]
        gate = block.attention(paddle.to_tensor(x)).numpy() / np.where(x == 0, np.nan, x)
        mean, std = found[key]
        assert mean == pytest.approx(np.nanmean(gate.astype(np.float64)), abs=1e-5)
        assert std == pytest.approx(np.nanstd(gate.astype(np.float64)), abs=1e-5)


def test_what_is_not_a_gate_is_refused(data):
    class Shift(nn.Layer):
        def forward(self, x):
            return x + 1

    with pytest.raises(ValueError, match="the attention of layer1.0 is not a gate"):
        slot_gates(network_with(lambda channels, size: Shift()), data.test.images[:40])


def test_constants_take_the_place_of_any_attention(data):
    network = network_with("se")
    before = predict(network, data.test.images[:40])
    with constant_gates(network, 0.5):
        inside = predict(network, data.test.images[:40])
        assert {type(block.attention) for _, block in blocks(network)} == {ConstantGate}
    assert (predict(network, data.test.images[:40]) == before).all()
    expected = network_with("half")
    expected.set_state_dict(
        {k: v for k, v in network.state_dict().items() if ".attention." not in k}
    )
    np.testing.assert_allclose(
        inside, predict(expected, data.test.images[:40]), rtol=1e-5, atol=1e-5
    )
