"""Lesson 7: the checkers of its exercises."""

from __future__ import annotations

import math

import numpy as np
import paddle

from ..evaluation import mean_interval
from ..machinery.language import words
from .checking import Wrong, call, checker, finite, number, numbers, parts, refuse, right, same


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


@checker("7.1")
def exercise_7_1(answer):
    rng = np.random.default_rng(0)
    maps = {}
    for name, scale, shape in (
        ("layer1.0", 0.3, (4, 3, 5, 5)),
        ("layer1.1", 1.1, (4, 3, 5, 5)),
        ("layer2.0", 0.1, (4, 6, 2, 2)),
    ):
        x = rng.normal(size=shape)
        gate = _sigmoid(scale * rng.normal(size=shape) + np.arange(shape[1])[:, None, None] / 4)
        maps[name] = x, gate * x
    with_holes = {}
    for name, (x, y) in maps.items():
        holes = x * (rng.random(x.shape) < 0.8)
        shut = rng.random(x.shape) < 0.05  # a gate may be 0
        with_holes[name] = holes, np.where(shut, 0.0, holes * y / x)

    def of(what, over=max, given=maps):
        return float(over([what(x, y) for x, y in given.values()]))

    want = of(lambda x, y: (y / x).std())
    got = numbers(call(answer, maps), ())
    if np.isnan(got):
        raise Wrong("NaN came out: where does your code divide?")
    if not same(got, np.array(want), 1e-6):
        refuse(
            got,
            [
                (
                    of(lambda x, y: (y / x).std(), np.mean),
                    Wrong("that is the mean over the blocks; the liveliest of them counts"),
                ),
                (
                    of(lambda x, y: (y / x).std(), min),
                    Wrong("that is the block that varies least; the liveliest of them counts"),
                ),
                (
                    of(lambda x, y: (y / x).std(), lambda stds: stds[-1]),
                    Wrong("that is the last block; the liveliest of them counts"),
                ),
                (
                    of(lambda x, y: y.std()),
                    Wrong(
                        "that is how the output varies; the gate is what the input is multiplied by"
                    ),
                ),
                (of(lambda x, y: (x / y).std()), Wrong("the gate is output over input, not x / y")),
                (
                    of(lambda x, y: (y - x).std()),
                    Wrong("a gate multiplies: divide the output by the input, do not subtract"),
                ),
                (
                    of(lambda x, y: (y / x).var()),
                    Wrong("that is the variance; the standard deviation is its root"),
                ),
                (
                    of(lambda x, y: (y / x).mean((0, 2, 3)).std()),
                    Wrong("that is how the channels' means differ; all values of the gate count"),
                ),
                (
                    of(lambda x, y: (y / x).std((0, 2, 3)).mean()),
                    Wrong(
                        "the channels differ among themselves, too: one standard deviation over "
                        "images, channels and pixels"
                    ),
                ),
                (
                    of(lambda x, y: (y / x).std((0, 2, 3)).max()),
                    Wrong("one standard deviation over all channels, not the largest of them"),
                ),
                (
                    of(lambda x, y: (y / x).std((1, 2, 3)).max()),
                    Wrong("one standard deviation over all images, not the largest of them"),
                ),
                (
                    of(lambda x, y: (y / x).std(ddof=1)),
                    Wrong(
                        "that divides by n - 1, as for a sample of a few; here NumPy's std without "
                        "ddof is asked for"
                    ),
                ),
                (
                    np.concatenate([(y / x).ravel() for x, y in maps.values()]).std(),
                    Wrong("the blocks stand for themselves: the liveliest of them counts"),
                ),
            ],
            1e-6,
        )
        finite(got)
        raise Wrong("not {got:.4f}: the gate of each block, and how much it varies", got=got)
    got = numbers(call(answer, with_holes), ())
    want = of(lambda x, y: (y[x != 0] / x[x != 0]).std(), given=with_holes)
    if not np.isfinite(got):
        raise Wrong(
            "right, as long as no value of the input is 0; where it is, 0/0 says nothing about the "
            "gate: leave these values out"
        )
    if not same(got, np.array(want), 1e-6):
        raise Wrong(
            "right, as long as no value of the input is 0; where it is, the gate is not known: "
            "it is neither 0 nor any other number, so leave these values out, and no others"
        )
    return right("the judge looks at any gate in this way, and need not know its rule.")


@checker("7.2")
def exercise_7_2(answer):
    gated = np.array([71.5, 68.0, 74.25, 70.0])
    fixed = np.array([[70.0, 68.5, 60.0, 69.0], [66.0, 60.0, 73.0, 69.5], [71.0, 50.0, 73.5, 40.0]])
    got = finite(numbers(call(answer, gated, fixed), (4,)))
    if same(got, gated - fixed.max(0), 1e-6):
        return right("a gate must not be called used only because somebody chose a bad constant.")
    refuse(
        got,
        [
            (
                gated - fixed.min(0),
                Wrong(
                    "those are the constants that cost most; the gate is to beat the best of them"
                ),
            ),
            (
                gated - fixed.mean(0),
                Wrong("not the mean of the constants: the best of them counts"),
            ),
            (gated - fixed[0], Wrong("that is the first constant, whatever the others cost")),
            (
                gated - fixed[fixed.mean(1).argmax()],
                Wrong(
                    "that is one constant for all networks, the best on average; each network has "
                    "its own best"
                ),
            ),
            (
                gated - fixed.max(),
                Wrong("compare each network with itself, not with the best of all"),
            ),
            (
                fixed.max(0) - gated,
                Wrong(
                    "the sign is turned: a cost is what is lost, top-1 with the gate comes first"
                ),
            ),
            (
                np.maximum(gated - fixed.max(0), 0),
                Wrong("a cost may be negative: then the constant is better, and that counts, too"),
            ),
            (
                np.abs(gated - fixed).min(0),
                Wrong("a cost may be negative: then the constant is better, and that counts, too"),
            ),
            (fixed.max(0), Wrong("that is what is left; the cost is what is lost")),
        ],
        1e-6,
    )
    raise Wrong("the costs are what each network loses with its best constant, in points")


@checker("7.3")
def exercise_7_3(answer):
    tables = [  # gated, constant, spread, cost
        ([60, 61, 62, 60.5], [58, 58.5, 60, 58], [0.2, 0.1, 0.3, 0.05], [4, 6, 5, 4.5]),
        ([60, 63, 58, 61], [59, 59, 59, 59], [0.2, 0.04, 0.2, 0.2], [0.1, 2.5, 0.2, 1.6]),
        ([60.9, 60.8, 60.7, 60], [60, 60, 60, 60.05], [0.01] * 4, [1.2, 0.6, 1.4, 0.8]),
        ([58, 57, 59.5, 58], [59, 59, 59, 60], [0.01, 0.02, 0.1, 0.01], [0.2, 0.3, 0.25, 0.2]),
        ([60.1, 63, 60.2, 60.1], [60] * 4, [0.3] * 4, [0.6, 0.6, 4, 0.6]),
        ([57, 57.5, 56.8, 57.2], [60] * 4, [0.01] * 4, [0.1, 0.2, 1.0, 0.3]),
        ([60.3, 63.4, 58.2, 61.35], [60, 63, 58, 61], [0.01] * 4, [0.1, 0.2, 0.1, 0.15]),
        ([62.0, 65.1, 60.2, 63.05], [60, 63, 58, 61], [0.2] * 4, [2, 3, 2.5, 2.2]),
        ([62.1, 65.2, 60.1, 63.05], [60, 63, 58, 61], [0.2] * 4, [0.1, 0.2, 0.1, 0.15]),
        ([61, 62, 60.5, 61.5], [60] * 4, [0.2] * 4, [0.6, 0.9, 0.5, 0.8]),
        ([61, 62, 60.2, 61.5], [60] * 4, [0.2] * 4, [0.1, 0.2, 0.1, 0.15]),
    ]
    tables = [tuple(np.array(column, float) for column in table) for table in tables]

    def low(values, confidence):
        return mean_interval(values, confidence)[0]

    def alive(spread, how=np.all):
        return bool(how(spread >= 0.05))

    def used(cost, confidence=0.90, above=0.5):
        return low(cost, confidence) > above

    def useful(gain, confidence=0.95, above=0.0):
        return low(gain, confidence) > above

    wanted = np.array([[alive(s), used(c), useful(g - k)] for g, k, s, c in tables], float)
    got = np.array([parts(call(answer, *table), 3, ()) for table in tables])
    if not np.isin(got, (0, 1)).all():
        raise Wrong("three answers are wanted, each of them True or False")
    if (got == wanted).all():
        return right("the rule was there before the numbers, and so it can say no.")
    wrong_ways = {
        0: [
            (
                [alive(s, np.any) for _, _, s, _ in tables],
                Wrong("alive: in every network the gate is to vary, not in one of them"),
            ),
            (
                [s.mean() >= 0.05 for _, _, s, _ in tables],
                Wrong("alive: in every network the gate is to vary, not on average"),
            ),
            ([(s > 0.05).all() for _, _, s, _ in tables], Wrong("alive: 0.05 itself is enough")),
        ],
        1: [
            (
                [c.mean() > 0.5 for *_, c in tables],
                Wrong("used: the mean cost alone does not say how sure it is; take its interval"),
            ),
            (
                [used(c, 0.95) for *_, c in tables],
                Wrong("used: the 90 % interval is asked for, not the 95 % one"),
            ),
            (
                [used(c, above=0) for *_, c in tables],
                Wrong("used: the interval is to lie above half a point, not above 0"),
            ),
            (
                [mean_interval(c, 0.90)[1] > 0.5 for *_, c in tables],
                Wrong("used: the whole interval is to lie above, so look at its lower end"),
            ),
            ([(c > 0.5).all() for *_, c in tables], Wrong("used: the interval of the mean counts")),
        ],
        2: [
            (
                [useful(g - k, above=0.5) for g, k, _, _ in tables],
                Wrong("useful: the interval is to lie above 0, not above half a point"),
            ),
            (
                [useful(g - k) and used(c) for g, k, _, c in tables],
                Wrong("useful: that is a question of its own, whatever the gate costs"),
            ),
            (
                [low(g, 0.95) > k.mean() for g, k, _, _ in tables],
                Wrong("useful: compare in pairs, each network with the other of its seed"),
            ),
            (
                [(g - k).mean() > 0 for g, k, _, _ in tables],
                Wrong("useful: the mean gain alone does not say how sure it is; take its interval"),
            ),
            (
                [useful(g - k, 0.90) for g, k, _, _ in tables],
                Wrong("useful: the 95 % interval is asked for, not the 90 % one"),
            ),
            (
                [useful(k - g) for g, k, _, _ in tables],
                Wrong("useful: the gain is the gate's accuracy minus the constant's"),
            ),
            (
                [useful(g) for g, _, _, _ in tables],
                Wrong("useful: better than the constant; without the other network nobody can say"),
            ),
            (
                [mean_interval(g - k, 0.95)[1] > 0 for g, k, _, _ in tables],
                Wrong("useful: the whole interval is to lie above 0, so look at its lower end"),
            ),
            (
                [(g > k).all() for g, k, _, _ in tables],
                Wrong("useful: the interval of the mean gain counts, not the single pairs"),
            ),
        ],
    }
    for word, ways in wrong_ways.items():
        if (got[:, word] == wanted[:, word]).all():
            continue
        for given, wrong in ways:
            if (got[:, word] == np.array(given, float)).all():
                raise wrong
    row, word = np.argwhere(got != wanted)[0]
    asked = words("alive"), words("used"), words("useful")
    raise Wrong(
        "{word}: not {got} where spreads are {spread}, costs {cost}, and gains {gain}",
        word=asked[word],
        got=bool(got[row, word]),
        spread=list(map(float, tables[row][2])),
        cost=list(map(float, tables[row][3])),
        gain=[round(float(v), 2) for v in tables[row][0] - tables[row][1]],
    )


@checker("7.4")
def exercise_7_4(answer):
    layer = call(answer, 6)
    if not isinstance(layer, paddle.nn.Layer):
        raise Wrong("a layer is wanted: MyPixelGate(6) gave {kind}", kind=type(layer).__name__)
    norms = [part for part in layer.sublayers() if hasattr(part, "_variance")]
    if len(norms) != 1 or tuple(norms[0].weight.shape) != (1,):
        raise Wrong("the layer should have one batch norm, of one single feature")
    gamma, beta = 1.6, -0.3
    norms[0].weight.set_value(np.full(1, gamma, "float32"))
    norms[0].bias.set_value(np.full(1, beta, "float32"))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 6, 4, 4)) + rng.normal(size=(5, 1, 4, 4))
    given = paddle.to_tensor(x.astype("float32"))
    layer.train()

    def gate(z):  # (N, ?, ?, ?) -> the same
        return _sigmoid(gamma * (z - z.mean()) / np.sqrt(z.var() + 1e-5) + beta)

    z = x.mean(1, keepdims=True)  # (N, C, H, W) -> (N, 1, H, W)
    alike, whole = gate(z).mean(0, keepdims=True), np.zeros_like(x)
    output = layer(given)
    if not isinstance(output, paddle.Tensor):
        raise Wrong("forward should give back a map, not {kind}", kind=type(output).__name__)
    got = finite(numbers(output, x.shape))
    if not same(got, gate(z) * x, 1e-4):
        refuse(
            got,
            [
                (
                    alike + x,
                    Wrong(
                        "two things are wrong: compare the gates of two images, and give the layer "
                        "a map of zeros"
                    ),
                ),
                (
                    alike * x,
                    Wrong(
                        "all images get the same gate: the mean over the batch takes away what "
                        "tells one image from the next"
                    ),
                ),
                (
                    gate(z) + x,
                    Wrong(
                        "you add the gate to the map: where the map is 0, a gate lets nothing out"
                    ),
                ),
                (
                    gate(z) + whole,
                    Wrong("that is the gate alone; the layer gives out the gate times its map"),
                ),
                (
                    gate(x.mean((1, 2, 3), keepdims=True)) * x,
                    Wrong("that is one gate for each image; each of its pixels has one of its own"),
                ),
                (
                    gate(x.mean((2, 3), keepdims=True)) * x,
                    Wrong(
                        "that is one gate for each channel: the mean over the channels is wanted, "
                        "not over the pixels"
                    ),
                ),
                (
                    (gamma * (z - z.mean()) / np.sqrt(z.var() + 1e-5) + beta) * x,
                    Wrong("the sigmoid is missing: a gate lies between 0 and 1"),
                ),
                (
                    (1 - gate(z)) * x,
                    Wrong("the gate is turned round: what should be let through is held back"),
                ),
            ],
            1e-4,
        )
        ratio = got / x
        if np.abs(ratio - ratio[:1]).max() < 1e-4:
            raise Wrong("all images get the same gate: it should look at each image by itself")
        raise Wrong(
            "the gate of the first image's first pixel is {got:.3f}, it should be {want:.3f}",
            got=ratio[0, :, 0, 0].mean(),
            want=gate(z)[0, 0, 0, 0],
        )
    if not np.allclose(given.numpy(), x, atol=1e-5):
        raise Wrong("the result is right, but the map that was given is changed after the call")
    layer.eval()
    if not same(numbers(layer(given))[:1], numbers(layer(given[:1])), 1e-4):
        raise Wrong(
            "right in training; but in inference, after layer.eval(), the result still depends on "
            "the other images of the batch"
        )
    return right("one number for each image and pixel, and 0 stays 0.")


@checker("7.5")
def exercise_7_5(answer):
    z = np.linspace(-8, 8, 4001)
    weight = np.exp(-z * z / 2)
    weight /= weight.sum()

    def spread(s):  # of sigmoid(s * x_hat), x_hat normal, whose mean is 1/2
        return math.sqrt(float((weight * (_sigmoid(s * z) - 0.5) ** 2).sum()))

    def widest(times, at_least=0.05):
        return max(c for c in range(1, 400) if spread(times / c) >= at_least)

    cases = (1.0, 2.5, 3.5)
    got = [number(call(answer, times)) for times in cases]
    wanted = [widest(times) for times in cases]
    if got == wanted:
        return right("with times = 1 that is NAM: a wider layer that is new is not alive.")
    for values, wrong, off in (  # off: by how much a simulation may miss what the mistake gives
        ([c + 1 for c in wanted], Wrong("one too many: with these it is below 0.05"), 0),
        ([c - 1 for c in wanted], Wrong("one too few: with one more it is still alive"), 0),
        ([wanted[0]] * 3, Wrong("right for times = 1; `times` multiplies the logit"), 0),
        (
            [math.floor(times / 4 / 0.05) for times in cases],
            Wrong(
                "that is the straight line, times / (4 C), or a simulation with few numbers; the "
                "sigmoid is a little flatter: simulate it with 100,000"
            ),
            0,
        ),
        (
            [times / 0.05 for times in cases],
            Wrong("that is the spread of the logit; the gate is its sigmoid, whose slope is 1/4"),
            1,
        ),
        (
            [spread(times) / 0.05 for times in cases],
            Wrong("the number of channels divides the logit, not the gate"),
            1,
        ),
    ):
        if np.allclose(got, values, rtol=0, atol=off):
            raise wrong
    for times, channels in zip(cases, got):
        if channels != int(channels) or channels < 1:
            raise Wrong("a number of channels is wanted, not {got:g}", got=channels)
        if channels != widest(times):
            raise Wrong(
                "times = {times:g}: with {got:g} channels the spread is {there:.4f}, with one more "
                "{beyond:.4f}; the last number of channels with 0.05 or more is wanted",
                times=times,
                got=channels,
                there=spread(times / channels),
                beyond=spread(times / (channels + 1)),
            )
    raise Wrong("the largest number of channels with a spread of 0.05 or more is wanted")
