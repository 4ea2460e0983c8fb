"""What results/protocol.md fixed before the second round, as numbers, rules and sentences.

Nothing here looks at a result except through a rule: which seeds are run, when a verdict may be
given, which word and which sentence the numbers earn.
"""

from __future__ import annotations

import math
import statistics

from scipy.special import stdtr, stdtrit

SEEDS = {  # new ones, and others in each part
    "a": range(6, 12),
    "rates": range(12, 16),
    "b": range(16, 30),
    "c": range(30, 39),
}
RATES = (0.05, 0.1, 0.2)
HELD_OUT = 5000  # training images that the rates are judged on
GAMMA_DECAY = 13.44  # with it 10 epochs shrink NAM's gamma as much as the 200 of `official`

MARGIN = 0.5  # points of top-1, part B
MARGIN_WIDE = 1.0  # part C
FIRST, FEW, MANY = 4, 10, 14  # seeds of part B: looked at, made, made where the spread is large
SPREAD = 0.4  # points: of NAM - 1/2 over the first seeds; above it MANY are made
ALIVE = 0.05  # standard deviation of a gate
USED = 0.5  # points of top-1

# Where time ran out before a part was finished: {tables: {part: seeds}}, the first so many of the
# part; fewer than `FIRST` give no verdict. The reason stands in results/protocol.md.
CUT: dict[str, dict[str, int]] = {
    "runs2": {"b": 0, "c": 0},
    "runs-gpu": {"b": 12, "a": 3, "c": 0, "rates": 0},
}

# Part A: what is compared, as weights of the runs of one seed.
CONTRASTS = {
    "constant ½ - none": {"a-half": 1, "a-none": -1},
    "initial scale ½ - 1 (2x2)": {
        "a-none-last-gamma-0.5": 0.5,
        "a-none": -0.5,
        "a-half": 0.5,
        "a-half-last-gamma-2": -0.5,
    },
    "gate ½ - 1 at the same initial scale (2x2)": {
        "a-half-last-gamma-2": 0.5,
        "a-none": -0.5,
        "a-half": 0.5,
        "a-none-last-gamma-0.5": -0.5,
    },
    "constant ¼ - constant ½": {"a-quarter": 1, "a-half": -1},
    "NAM - constant ½": {"a-nam": 1, "a-half": -1},
    "NAM, W times C - constant ½": {"a-nam-times-c": 1, "a-half": -1},
    "NAM, D of `official` - constant ½": {f"a-nam-gamma-decay-{GAMMA_DECAY:g}": 1, "a-half": -1},
    "NAM, gate only - NAM": {"a-nam-gate-only": 1, "a-nam": -1},
}

# ----------------------------------------------------------------------------------- statistics


def combination(rows, weights):
    """{seed: weighted sum of top-1} over the seeds of which all these runs are there, from rows of
    runs2.csv. weights: {kind of run: weight}, a kind being the run's name without its seed."""
    top1 = {kind: {} for kind in weights}
    for row in rows:
        kind, _, seed = row["run"].rpartition("-")
        if kind in top1:
            top1[kind][int(seed)] = float(row["top1"])
    seeds = sorted(set.intersection(*(set(found) for found in top1.values())))
    return {s: sum(w * top1[kind][s] for kind, w in weights.items()) for s in seeds}


def differences(rows, a, b):
    """{seed: top-1 of a - top-1 of b}, both kinds of run."""
    return combination(rows, {a: 1, b: -1})


def quantile(pairs, confidence):
    """Student's t, two-sided, of so many pairs: 6 pairs and 0.95 give 2.5706."""
    return float(stdtrit(pairs - 1, (1 + confidence) / 2))


def interval(values, confidence):
    """(low, high) of the mean of at least two values, by Student's t."""
    half = quantile(len(values), confidence) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - half, statistics.mean(values) + half


def p_value(values):
    """Of the two-sided t-test that the mean is 0."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    if error == 0:
        return float(statistics.mean(values) == 0)
    return 2 * float(stdtr(len(values) - 1, -abs(statistics.mean(values)) / error))


def holm(p_values):
    """Holm's adjusted p-values, in the order given."""
    adjusted, lowest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        lowest = max(lowest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = lowest
    return adjusted


def equality(values, margin):
    """The word that differences in pairs earn against a margin, at 5 %: "equal" (both one-sided
    tests against the margin reject: the 90 % interval lies within it), "equal, not zero" (and the
    95 % interval leaves out 0), "above" or "below" (the 90 % interval lies beyond the margin),
    "higher" or "lower" (the 95 % interval leaves out 0, and no more can be said), "undecided"."""
    (low, high), (low_95, high_95) = interval(values, 0.90), interval(values, 0.95)
    zero = low_95 <= 0 <= high_95
    if -margin < low and high < margin:
        return "equal" if zero else "equal, not zero"
    if low >= margin or high <= -margin:
        return "above" if low >= margin else "below"
    if zero:
        return "undecided"
    return "higher" if low_95 > 0 else "lower"


def against(values, threshold):
    """ "above", "below" or "undecided": where the 90 % interval lies beside a threshold, which is a
    one-sided test at 5 % each way."""
    low, high = interval(values, 0.90)
    return "above" if low > threshold else "below" if high < threshold else "undecided"


# ----------------------------------------------------------------------------------- the rules


def seeds_of_b(found):
    """The seeds of part B that are to be made. found: {seed: NAM - 1/2} of those that are there.
    Only the spread over the first four counts, not their mean."""
    seeds = list(SEEDS["b"])
    first = [found[seed] for seed in seeds[:FIRST] if seed in found]
    many = len(first) == FIRST and statistics.stdev(first) > SPREAD
    return seeds[: MANY if many else FEW]


def seeds_of(part, rows, cut=None):
    """The seeds on which the verdicts of a part rest, once all are there. cut: the entry of `CUT`
    for the tables that the rows are from."""
    seeds = seeds_of_b(differences(rows, "b-nam", "b-half")) if part == "b" else list(SEEDS[part])
    return seeds[: (cut or {}).get(part)]


def alive(spreads):
    """ "alive" where in every network the gate of at least one layer varies, "not alive" where in
    none, else the count. spreads: {run: [standard deviation of the gate of each layer]}."""
    varies = sum(max(of_layers) >= ALIVE for of_layers in spreads.values())
    if varies in (0, len(spreads)):
        return "alive" if varies else "not alive"
    return f"alive in {varies} of {len(spreads)}"


def used(costs):
    """ "used", "not used" or "undecided". costs: of each network, top-1 with its gates minus top-1
    with a constant in their place."""
    return {"above": "used", "below": "not used"}.get(against(costs, USED), "undecided")


def useful(values):
    """ "useful" where the network with the gate is better than that with the constant, "useful, by
    less than the margin", "not useful" or "undecided". values: differences in pairs."""
    (_, high), (low_95, high_95) = interval(values, 0.90), interval(values, 0.95)
    if low_95 > 0:
        small = equality(values, MARGIN) == "equal, not zero"
        return "useful, by less than the margin" if small else "useful"
    return "not useful" if high < MARGIN or high_95 < 0 else "undecided"


# ------------------------------------------------------------------------------- the sentences


def _of_equality(where, points):
    """The sentence for each word of `equality`, for NAM against the constant 1/2."""
    open_end = f"; whether by more than {points} is undecided"
    return {
        "equal": f"{where} NAM and the constant ½ are equally accurate to within {points}",
        "equal, not zero": f"{where} NAM and the constant ½ differ, by less than {points}",
        "above": f"{where} NAM is more accurate than the constant ½, by more than {points}",
        "below": f"{where} NAM is less accurate than the constant ½, by more than {points}",
        "higher": f"{where} NAM is more accurate than the constant ½{open_end}",
        "lower": f"{where} NAM is less accurate than the constant ½{open_end}",
        "undecided": f"{where} it is undecided whether NAM and the constant ½ are equally accurate "
        f"to within {points}",
    }


SENTENCES = {
    "B, first question: NAM - constant ½": _of_equality(
        "After 60 epochs", f"{MARGIN:g} points of top-1"
    ),
    "B, second question: constant ½ - none": {
        "above": f"After 60 epochs the constant ½ is better than no attention by more than "
        f"{MARGIN:g} points",
        "below": f"After 60 epochs the constant ½ is not better than no attention by {MARGIN:g} "
        "points",
        "undecided": "After 60 epochs it is undecided whether the constant ½ is better than no "
        f"attention by more than {MARGIN:g} points",
    },
    "C: NAM - constant ½": _of_equality("At full width", f"{MARGIN_WIDE:g} point of top-1"),
    "Rates: constant ½ - none, each at its best rate": {
        "higher": "With a rate of its own for each, the constant ½ is better than no attention",
        "lower": "With a rate of its own for each, no attention is better than the constant ½",
        "undecided": "With a rate of its own for each, it is undecided whether the constant ½ is "
        "better than no attention",
    },
    "A: each contrast": {"higher": "above zero", "lower": "below zero", "undecided": "undecided"},
}
QUESTION_B, SECOND_B, QUESTION_C, RATES_QUESTION, _ = SENTENCES
