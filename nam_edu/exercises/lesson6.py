"""Lesson 6: the checkers of its exercises."""

from __future__ import annotations

import numpy as np
import paddle

from ..attention import ChannelNAM
from .checking import Wrong, call, checker, finite, number, numbers, right, same


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _share(gamma):
    return np.abs(gamma) / np.abs(gamma).sum()


@checker("6.1")
def exercise_6_1(answer):
    # None of these sums is 0.9 to rounding error: no answer turns on the last bit.
    gammas = [
        np.array([0.06, -0.5, 0.2, 0.01, 0.15, 0.04, -0.03, 0.01]),
        np.linspace(1, 2, 31) * np.tile([1, -1], 16)[:31],
        np.full(12, 0.3),
        np.array([0.0, 2.0, 0.0, 0.0]),
    ]

    def reach(w):
        return int(np.flatnonzero(np.cumsum(w) >= 0.9)[0]) + 1 if w.sum() > 0.9 else 0

    def largest_first(g):
        return reach(np.sort(_share(g))[::-1])

    got = [number(call(answer, gamma)) for gamma in gammas]
    if got == [largest_first(g) for g in gammas]:
        return right("where all are equal, it takes 90 % of the channels.")
    for wrong_way, wrong in (
        (
            lambda g: reach(_share(g)),
            Wrong("you take the channels as they come: which ones hold most?"),
        ),
        (
            lambda g: reach(np.sort(_share(g))),
            Wrong(
                "you start with the smallest weights: that takes the most channels, not the fewest"
            ),
        ),
        (
            lambda g: np.ceil(0.9 * len(g)),
            Wrong(
                "90 % of the channels is right where all gammas are equal; here they differ, so "
                "fewer channels can hold 90 % of the weight"
            ),
        ),
        (
            lambda g: largest_first(g) - 1,
            Wrong("one too few: they hold less than 90 % (an index counts from 0)"),
        ),
        (
            lambda g: largest_first(g) + 1,
            Wrong("one too many: without the last it is 90 % already"),
        ),
        (
            lambda g: largest_first(g) / len(g),
            Wrong("that is a share of the channels; their number is wanted"),
        ),
        (
            lambda g: largest_first(np.square(g)),
            Wrong("those are shares of the squares; W has magnitudes"),
        ),
        (
            lambda g: np.argmax(np.cumsum(np.sort(np.abs(g))[::-1]) >= 0.9) + 1,
            Wrong("you add up |gamma|, whose sum is not 1: W has shares"),
        ),
        (
            lambda g: largest_first(np.maximum(g, 0)),
            Wrong("negative gammas weigh as much as positive ones"),
        ),
        (lambda g: (_share(g) >= 0.1).sum(), Wrong("that counts the channels above a tenth each")),
    ):
        if np.allclose(got, [wrong_way(g) for g in gammas]):
            raise wrong
    if any(k != int(k) for k in got):
        raise Wrong(
            "a number of channels is wanted, not {got:.4g}", got=next(k for k in got if k % 1)
        )
    for gamma, k in zip(gammas, got):
        held = np.sort(_share(gamma))[::-1][: max(int(k), 0)].sum()
        if held < 0.9 or k > largest_first(gamma):
            raise Wrong(
                "{got:g} of {count} channels cannot be right where the largest of them hold "
                "{held:.1f} % of the weight: 90 % are to be reached, and not more than needed",
                got=k,
                count=len(gamma),
                held=100 * held,
            )
    raise Wrong("largest weight first, added up until 90 % are reached")


@checker("6.2")
def exercise_6_2(answer):
    constant = np.full(3000, 0.05)
    cosine = 0.05 * (1 + np.cos(np.linspace(0, np.pi, 4000)))
    for rates, momentum, end in ((constant, 0.9, 0.3), (cosine, 0.9, 0.5), (constant, 0.5, 0.1)):
        got = number(call(answer, rates, momentum, end))
        want = -np.log(end) * (1 - momentum) / rates.sum()

        def near(value, got=got):
            return abs(got - value) < 0.02 * abs(value)

        if near(want):
            continue
        if near(-want):
            raise Wrong("the sign is turned: a weight decay is positive, and log(end) is not")
        if near(want / (1 - momentum)):
            raise Wrong(
                "momentum is missing: each push goes on acting, so a smaller decay is enough"
            )
        if near((1 - end) * (1 - momentum) / rates.sum()) or near((1 - end) / rates.sum()):
            raise Wrong(
                "each step takes a share of what is left, not of the start: a product (an "
                "exponential), not a straight line"
            )
        if near(want * rates.sum()):
            raise Wrong("the rates are missing: a small rate needs a large decay")
        if near(want * rates.sum() / rates.mean()):
            raise Wrong("that is the decay of one single step: all rates add up")
        if near(want * rates.sum() / (rates[0] * len(rates))):
            raise Wrong("right for a constant rate, but the rate changes")
        if near(want / np.log(10)):
            raise Wrong("np.log10 is not the logarithm of exp; np.log is")
        if got <= 0:
            raise Wrong("a weight decay is positive, not {got:.3g}", got=got)
        raise Wrong(
            "with a weight decay of {got:.3g} gamma would end at {ends:.3f}, not at {end} "
            "({steps} steps, their rates add up to {total:.0f}, momentum {momentum})",
            got=got,
            ends=np.exp(-min(got, 1e6) / (1 - momentum) * rates.sum()),
            end=end,
            steps=len(rates),
            total=rates.sum(),
            momentum=momentum,
        )
    return right("no image was needed for that.")


@checker("6.3")
def exercise_6_3(answer):
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (4, 6, 5, 5)).astype("float32")
    gamma = np.array([0.5, -2.0, 0.1, -0.3, 1.0, 0.8], "float32")
    layer = ChannelNAM(6)
    layer.bn.weight.set_value(gamma)
    layer.eval()
    whole = layer(paddle.to_tensor(x)).numpy()
    given = paddle.to_tensor(x)
    got = finite(numbers(call(answer, layer, given, 2), x.shape))
    level = np.abs(got).max((0, 2, 3))
    gone = [c for c in range(6) if level[c] == 0]
    if not gone:
        raise Wrong(
            "no channel is gone: those that should be still give out values up to {most:.2f}. What "
            "is the gate of a gamma of 0? (lesson 1, section 1.6)",
            most=level[[2, 3]].max(),
        )
    if gone == [0, 2]:
        raise Wrong(
            "channels 2 and 0 are gone, but |gamma| of channel 3 is smaller than of channel 0"
        )
    if gone == [1, 3]:
        raise Wrong("channel 1 is gone, whose gamma is -2: is that the least important one?")
    if gone == [1, 4]:
        raise Wrong("those with the largest |gamma| are gone; the least important are to go")
    if len(gone) != 2:
        raise Wrong("two channels should be gone, not {count}", count=len(gone))
    if gone != [2, 3]:
        raise Wrong(
            "channels {a} and {b} are gone; which two have the smallest |gamma|?",
            a=gone[0],
            b=gone[1],
        )
    stay = [0, 1, 4, 5]
    if not same(got[:, stay], whole[:, stay].astype(np.float64), 1e-4):
        raise Wrong(
            "the right channels are gone, but the others changed too, by up to {most:.3f}. W is "
            "a share: what becomes of it when a single gamma changes?",
            most=np.abs(got - whole)[:, stay].max(),
        )
    if not np.array_equal(layer.bn.weight.numpy(), gamma):
        raise Wrong("the result is right, but the layer itself is changed after the call")
    if not np.array_equal(given.numpy(), x):
        raise Wrong("the result is right, but the map that was given is changed after the call")
    return right("what is removed gives out nothing, and the layer is as it was.")


@checker("6.4")
def exercise_6_4(answer):
    cases = ((np.full(4, 0.4), 5.0), (np.array([1.0, -3.0, 0.5]), 2.0))
    got = [finite(numbers(call(answer, gamma, reach), gamma.shape)) for gamma, reach in cases]

    def says(gate):
        return all(same(g, gate(gamma, reach), 1e-6) for g, (gamma, reach) in zip(got, cases))

    if says(lambda g, r: _sigmoid(_share(g) * np.abs(g) * r)):
        return right("with C channels a trained gate reaches little more than a new one.")
    for gate, wrong in (
        (
            lambda g, r: _sigmoid(np.abs(g) * r),
            Wrong("W is missing in the logit: W * gamma * x_hat"),
        ),
        (lambda g, r: _sigmoid(g * r), Wrong("W is missing in the logit: W * gamma * x_hat")),
        (
            lambda g, r: _sigmoid(_share(g) * r),
            Wrong("gamma itself is missing in the logit: W * gamma * x_hat"),
        ),
        (
            lambda g, r: _sigmoid(np.abs(g) * r / len(g)),
            Wrong("W is 1/C only where all gammas are equal; here each has a share of its own"),
        ),
        (
            lambda g, r: _sigmoid(g * r / len(g)),
            Wrong("W is 1/C only where all gammas are equal; here each has a share of its own"),
        ),
        (lambda g, r: _sigmoid(r / len(g) + 0 * g), Wrong("that is the gate of a new network")),
        (
            lambda g, r: _sigmoid(_share(g) * g * r),
            Wrong(
                "right where gamma is positive; a negative gamma reaches as far up, for a negative "
                "x_hat"
            ),
        ),
        (
            lambda g, r: _sigmoid(-_share(g) * np.abs(g) * r),
            Wrong("that is how low the gate can get"),
        ),
        (
            lambda g, r: 0.5 + _share(g) * np.abs(g) * r / 4,
            Wrong("that is the straight line; take the sigmoid itself"),
        ),
        (
            lambda g, r: _share(g) * np.abs(g) * r,
            Wrong("that is the logit; the gate is its sigmoid"),
        ),
    ):
        if says(gate):
            raise wrong
    raise Wrong(
        "four gammas of 0.4 and |x_hat| up to 5 do not reach a gate of {got:.4f}", got=got[0][0]
    )


@checker("6.5")
def exercise_6_5(answer):
    for channels, x_hat, gate in ((64, 4.0, 0.9), (12, 4.0, 0.9), (256, 3.0, 0.6)):
        logit = np.log(gate / (1 - gate))
        want = (logit + np.sqrt(logit**2 + 4 * x_hat * logit * (channels - 1))) / (2 * x_hat)
        got = number(call(answer, channels, x_hat, gate))

        def near(value, got=got):
            return abs(got - value) < 0.01 * value

        if near(want):
            continue
        if near(np.sqrt(logit * channels / x_hat)):
            raise Wrong(
                "the sum of |gamma| grows too: it is not C any longer when one gamma is large"
            )
        if near(logit * channels / x_hat):
            raise Wrong("W does not stay 1/C: the share of the channel grows with its gamma")
        if logit < x_hat and near(logit * (channels - 1) / (x_hat - logit)):
            raise Wrong("gamma stands twice in the logit: in W, and once more beside it")
        if got <= 0:
            raise Wrong("a gamma above 0 is wanted, not {got:.3g}", got=got)
        reached = _sigmoid(got * got / (got + channels - 1) * x_hat)
        raise Wrong(
            "C = {channels}, x_hat = {x_hat:g}: with a gamma of {got:.3f} the gate is "
            "{reached:.3f}, not {gate}",
            channels=channels,
            x_hat=x_hat,
            got=got,
            reached=reached,
            gate=gate,
        )
    return right("a gamma of 6 among 63 ones: that is how a wide layer gets a gate that moves.")
