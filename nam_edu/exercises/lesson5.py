"""Lesson 5: the checkers of its exercises."""

from __future__ import annotations

import math

import numpy as np

from ..evaluation import wilson_interval
from .checking import Wrong, call, checker, number, numbers, parts, refuse, right, same


@checker("5.1")
def exercise_5_1(answer):
    rng = np.random.default_rng(0)
    logits, fine = rng.normal(size=(50, 12)), rng.integers(0, 12, 50)
    coarse_of = np.array([0, 3, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3])
    best = logits.argmax(1)
    sums = np.stack([logits[:, coarse_of == c].sum(1) for c in range(4)], 1).argmax(1)
    want = 100 * (coarse_of[best] == coarse_of[fine]).mean()
    got = numbers(call(answer, logits, fine, coarse_of), ())
    if same(got, np.array(want), 1e-6):
        return right("a network that takes an oak for a maple is not altogether wrong.")
    refuse(
        got,
        [
            (want / 100, Wrong("that is a share; per cent are wanted")),
            (
                100 * (best == fine).mean(),
                Wrong("that is the usual top-1: a wrong class of the right superclass counts too"),
            ),
            (
                100 * (coarse_of[logits.argmin(1)] == coarse_of[fine]).mean(),
                Wrong("you look at the smallest logit; the network's answer is the largest"),
            ),
            (
                100 * (coarse_of[best] == fine).mean(),
                Wrong("you compare a superclass with a class: both sides need coarse_of"),
            ),
            (
                100 * (best == coarse_of[fine]).mean(),
                Wrong("you compare a class with a superclass: both sides need coarse_of"),
            ),
            (
                100 * (sums == coarse_of[fine]).mean(),
                Wrong("you add up the logits of each superclass; the most likely class decides"),
            ),
            (100 - want, Wrong("that is the error; what is asked for is how often it is right")),
            (want / 100 * 50, Wrong("that is a number of images; per cent are wanted")),
        ],
        1e-6,
    )
    raise Wrong("not {got:.2f}: of each image the most likely class, and its superclass", got=got)


@checker("5.2")
def exercise_5_2(answer):
    def first(above, n):
        return next(k for k in range(n + 1) if above(k, n))

    def plain(k, n, z=1.96):
        return k / n - z * np.sqrt(k / n * (1 - k / n) / n) > 0.5

    ns = (10, 20, 100, 500)
    got = [number(call(answer, n)) for n in ns]
    if got == [first(lambda k, n: wilson_interval(k, n)[0] > 50, n) for n in ns]:
        return right("with ten images it takes nine, with five hundred fewer than 55 per cent.")
    for above, wrong in (
        (
            lambda k, n: k / n > 0.5,
            Wrong("that is more than half of the images; the whole interval is to lie above 50 %"),
        ),
        (
            lambda k, n: wilson_interval(k, n)[1] > 50,
            Wrong("you look at the upper end of the interval; the whole of it is to lie above"),
        ),
        (
            plain,
            Wrong(
                "that is the plain interval p +- z sqrt(p (1 - p) / n), too narrow for few images; "
                "use Wilson's"
            ),
        ),
        (lambda k, n: k == n, Wrong("that is all of the images; look for the smallest number")),
    ):
        if got == [first(above, n) for n in ns]:
            raise wrong
    for n, k in zip(ns, got):
        if 0 < k < 1:
            raise Wrong("that is a share; the number of right images is wanted")
        if k != int(k):
            raise Wrong("there is no fraction of an image: {got:g}", got=k)
        if not 0 <= k <= n:
            raise Wrong("of {n} images {got:g} cannot be right", n=n, got=k)
        low = wilson_interval(int(k), n)[0]
        if low <= 50:
            raise Wrong(
                "{got:g} right of {n}: the interval begins at {low:.2f} %, not above 50",
                got=k,
                n=n,
                low=low,
            )
        below = wilson_interval(int(k) - 1, n)[0]
        if below > 50:
            raise Wrong("of {n}, one image fewer than {got:g} would be enough", got=k, n=n)
    raise Wrong("the interval is not Wilson's with z = 1.96")


@checker("5.3")
def exercise_5_3(answer):
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    want = np.zeros((4, 4))
    np.add.at(want, (true, predicted), 1)
    got = numbers(call(answer, true, predicted, 4), (4, 4))
    refuse(
        got,
        [
            (want.T, Wrong("rows and columns are swapped: the row is the true class")),
            (
                want > 0,
                Wrong(
                    "every pair is counted once at most: table[rows, columns] += 1 forgets pairs "
                    "that come twice"
                ),
            ),
            (
                want / want.sum(1, keepdims=True),
                Wrong("those are shares of each row; numbers of images are wanted"),
            ),
            (want / want.sum(), Wrong("those are shares; numbers of images are wanted")),
            (want - np.diag(np.diag(want)), Wrong("the diagonal is missing: what is right counts")),
        ],
    )
    if not same(got, want):
        raise Wrong("entry [i, j] should count the images of class i that were taken for class j")
    # A class that no image has, or that is never predicted, has its row and column all the same.
    few = np.zeros((5, 5))
    few[0, 1], few[2, 0], few[2, 2] = 1, 1, 2
    try:
        got = call(answer, np.array([0, 2, 2, 2]), np.array([1, 0, 2, 2]), 5)
    except (ValueError, IndexError):
        got = np.zeros(())
    if not same(np.asarray(got, np.float64), few):
        raise Wrong(
            "right where every class occurs; with 5 classes of which the last two do not occur it "
            "should still be a table of 5 x 5"
        )
    return right("the diagonal holds what is right.")


@checker("5.4")
def exercise_5_4(answer):
    z = np.linspace(-9, 9, 20001)
    below = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z])

    def best(runs):  # mean of the largest of `runs` standard normal values
        chance = np.diff(below**runs)
        return float((chance * (z[1:] + z[:-1]) / 2).sum())

    for runs, spread in ((2, 1.0), (5, 0.6), (10, 0.6), (1, 0.5)):
        got, want = number(call(answer, runs, spread)), spread * best(runs)
        if abs(got - want) < 0.05 * spread:
            continue
        values = {"runs": runs, "spread": spread, "got": got}
        if abs(got - number(call(answer, runs, spread))) > 0.05 * spread:
            raise Wrong(
                "two calls give two answers that differ: repeat it often, then take the mean"
            )
        if spread != 1 and abs(got - best(runs)) < 0.05:
            raise Wrong("right for a spread of 1; this one was {spread}", **values)
        if runs != 2 and abs(got - spread * best(2)) < 0.05 * spread:
            raise Wrong("right for the better of two; these were {runs} runs", **values)
        if abs(got) < 0.05 * spread:
            raise Wrong(
                "about 0 is what one run, or the mean of {runs}, is too high; the best of them is "
                "reported",
                **values,
            )
        if got < 0:
            raise Wrong("less than 0: the best of several is too high, not too low")
        if got > 10 * spread:
            raise Wrong("that is not how much too high: take off the true accuracy")
        if got > want:
            raise Wrong(
                "{got:.2f} points for the best of {runs} with a spread of {spread} are too many: "
                "take the best of each group, then the mean over the groups",
                **values,
            )
        raise Wrong(
            "{got:.2f} points for the best of {runs} with a spread of {spread} are too few: the "
            "largest of each group, and its mean over many groups",
            **values,
        )
    return right("the best of ten runs of one and the same recipe looks like a better recipe.")


@checker("5.5")
def exercise_5_5(answer):
    table = {3: 4.30, 6: 2.57}
    first = {0: 47.2, 1: 46.1, 2: 48.0, 3: 46.9, 4: 47.7, 5: 47.5}
    second = {5: 47.4, 4: 47.1, 3: 46.8, 2: 47.3, 1: 46.2, 0: 46.6}
    few, other = {0: 51.0, 1: 52.5, 2: 50.2}, {1: 51.9, 2: 50.3, 0: 50.1}

    def interval(a, b, by_seed=True, ddof=1, t=None, root=True, sign=1):
        d = np.array(
            [a[s] - b[s] for s in a] if by_seed else np.subtract([*a.values()], [*b.values()])
        )
        d, n = sign * d, len(d)
        half = (t or table[n]) * d.std(ddof=ddof) / (np.sqrt(n) if root else 1)
        return np.array([d.mean(), d.mean() - half, d.mean() + half])

    for a, b in ((first, second), (few, other)):
        got, want = parts(call(answer, a, b), 3, ()), interval(a, b)
        if same(got, want, 5e-3):
            continue
        position = Wrong(
            "the mean is right, the interval is not: the runs of one seed belong together, and a "
            "dictionary need not list its seeds in order"
        )
        refuse(
            got,
            [
                (interval(a, b, by_seed=False), position),
                (interval(a, b, by_seed=False, ddof=0), position),
                (
                    interval(a, b, ddof=0),
                    Wrong(
                        "the pairs are right, the spread is not: it is estimated from {n} pairs, "
                        "around their own mean, and so comes out too small",
                        n=len(a),
                    ),
                ),
                (
                    interval(a, b, t=1.96),
                    Wrong(
                        "1.96 is for a spread that is known; take Student's t for {n} pairs",
                        n=len(a),
                    ),
                ),
                (
                    interval(a, b, root=False),
                    Wrong(
                        "that is the range of single differences; their mean is surer, by sqrt(n)"
                    ),
                ),
                (interval(a, b, sign=-1), Wrong("the sign is turned: a - b is wanted")),
                (want[[0, 2, 1]], Wrong("low and high are swapped")),
                (want[[1, 0, 2]], Wrong("the mean comes first, then low and high")),
                (want[[1, 2, 0]], Wrong("the mean comes first, then low and high")),
            ],
            1e-3,
        )
        if same(got[0], want[0], 1e-6):
            raise Wrong("the mean is right, the interval is not: which pairs, which spread?")
        raise Wrong("the mean of the differences a - b should be {want:+.3f}", want=want[0])
    return right("each seed with its partner, and a spread that knows how few they are.")
