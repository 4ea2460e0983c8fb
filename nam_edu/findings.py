"""Lessons 5 to 7: what this course measured, on CIFAR-100 and on tinted images, read from results/,
and the words that it earns.

The pilot is in runs.csv, gates.csv, fixed.csv and removed.csv; the second round, as far as its runs
are finished, in the same files with a 2 in their names, and, made once more in PyTorch, with -gpu.
What is in them, and the rules behind the words *alive*, *used* and *useful*, stand in
results/attention.md and results/protocol.md.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from .evaluation import mean_interval, verdict
from .lessons import results
from .recipes import recipe_of

MARGIN = 1.0  # points of top-1, named while the pilot was under way
MARGIN_2 = 0.5  # points of top-1, named before the second round
ALIVE = 0.05  # standard deviation of a gate
USED = 0.5  # points of top-1
# Where the second round is made: how the tables of results/attention.md that belong to it begin.
ROUNDS = {"in PyTorch, on a GPU": "gpu", "in Paddle, on two CPU cores": "round2"}
_FILES = {"gpu": "-gpu", "round2": "2"}  # how the names of its CSV files end
TITLES = {"none": "none", "half": "constant ½", "se": "SE", "nam": "NAM"}


def pilot(setting="", width=32):
    """Top-1 of the pilot's runs after the last epoch: {attention: {seed: per cent}}."""
    found = {}
    for row in results("runs"):
        if (row["setting"], row["network"]) == (setting, f"resnet18-width{width}"):
            found.setdefault(row["attention"], {})[int(row["seed"])] = float(row["top1"])
    return found


def minutes():
    """What the runs of the pilot's main comparison took: minutes, two runs at a time."""
    return [float(row["seconds"]) / 60 for row in results("runs") if row["group"] == "main"]


def second_round(which):
    """Top-1 of the finished runs of the second round, `which` of ROUNDS: {kind: {seed: per cent}},
    a kind being part, attention and setting, as in "b-nam"; empty before the first."""
    found = {}
    for row in results(f"runs{_FILES[which]}"):
        kind, _, seed = row["run"].rpartition("-")
        found.setdefault(kind, {})[int(seed)] = float(row["top1"])
    return found


def in_pairs(top1, a, b):
    """Differences a - b over the seeds that both have: (pairs,)."""
    seeds = sorted(set(top1.get(a, ())) & set(top1.get(b, ())))
    return np.array([top1[a][seed] - top1[b][seed] for seed in seeds])


def second_round_in_pairs(which):
    """{title: differences} of the questions of the second round, `which` of ROUNDS, where two pairs
    or more are there."""
    asked = {
        "60 epochs: NAM − constant ½": ("b-nam", "b-half"),
        "60 epochs: constant ½ − none": ("b-half", "b-none"),
        "full width: NAM − constant ½": ("c-nam", "c-half"),
    }
    top1 = second_round(which)
    found = {title: in_pairs(top1, *kinds) for title, kinds in asked.items()}
    return {title: values for title, values in found.items() if len(values) > 1}


def gates_in_pairs(which):
    """{title: differences} of part A of the second round, `which` of ROUNDS, as far as its pairs
    are there: gates and constants, each against the constant 1/2 of the same seeds."""
    asked = {
        "no gate": "none",
        "no gate, last γ starts at ½": "none-last-gamma-0.5",
        "constant ¼": "quarter",
        "NAM": "nam",
        "NAM with W times C": "nam-times-c",
    }
    top1 = second_round(which)
    found = {title: in_pairs(top1, f"a-{kind}", "a-half") for title, kind in asked.items()}
    return {title: values for title, values in found.items() if len(values)}


def gates_of_round_two(which, kind):
    """The rows of the gates of the finished runs of a kind, as in "a-nam-times-c", at their end; a
    row is a layer of a run of the second round, `which` of ROUNDS."""
    end = _FILES[which]
    rows = results(f"runs{end}")
    runs = {row["run"]: row for row in rows if row["run"].rpartition("-")[0] == kind}
    return last_epoch(f"gates{end}", runs)


def spreads_of_round_two(which, kind):
    """The spread of the gate in the liveliest layer of each finished run of a kind, at its end:
    (runs,)."""
    liveliest = {}
    for row in gates_of_round_two(which, kind):
        liveliest[row["run"]] = max(liveliest.get(row["run"], 0.0), float(row["gate_std"]))
    return np.array(list(liveliest.values()))


def layers_of_round_two(which, kind):
    """{layer: {"gamma", "weight", "gate", "spread": (lowest, highest)}} over the finished runs of a
    kind, at their end: the layer's mean |gamma|, W times C, the gate, its standard deviation."""
    columns = {
        "gamma": ("gamma_mean", "gamma_mean"),
        "weight": ("weight_low", "weight_high"),
        "gate": ("gate_low", "gate_high"),
        "spread": ("gate_std", "gate_std"),
    }
    layers = {}
    for row in gates_of_round_two(which, kind):
        layers.setdefault(row["layer"].removesuffix(".attention.channel"), []).append(row)
    return {
        layer: {
            name: (min(float(r[low]) for r in rows), max(float(r[high]) for r in rows))
            for name, (low, high) in columns.items()
        }
        for layer, rows in layers.items()
    }


def tinted():
    """The pairs of the positive control on tinted images: {attempt: {module: [a `judge.Pair` as a
    dictionary]}}, attempts 1 and 2 as far as their runs are finished. results/tints.md says how
    they were made."""
    found = {}
    for row in results("tints"):
        pair = {name: float(row[name]) for name in ("gated", "constant", "spread", "cost")}
        modules = found.setdefault(int(row["attempt"]), {})
        modules.setdefault(row["module"], []).append({"seed": int(row["seed"]), **pair})
    return found


def said(table):
    """The lines between `<!-- table: NAME -->` and `<!-- end -->` of results/attention.md, which a
    program wrote from the CSV files, without marks of emphasis."""
    results("runs")  # says what is missing outside a clone
    page = Path(__file__).resolve().parent.parent / "results" / "attention.md"
    text = page.read_text(encoding="utf-8")
    found = re.search(f"<!-- table: {re.escape(table)} -->\n(.*?)<!-- end -->", text, re.S)
    return found.group(1).strip().replace("**", "") if found else ""


# ------------------------------------------------------------------------------------- the gates


def last_epoch(name, runs):
    """The rows of a table with epochs ("gates", "fixed") that belong to the end of these runs,
    {run: its row of "runs"}."""
    return [row for row in results(name) if runs.get(row["run"], {}).get("epochs") == row["epoch"]]


def gated():
    """[(kind of run, {run: its row}, rows of its gates, rows of its fixed gates, {seed: top-1},
    {seed: top-1 with the constant 1/2})] of the pilot's kinds of run that have a gate of NAM."""
    kinds = {}
    for row in results("runs"):
        if row["attention"].startswith("nam"):
            kinds.setdefault((row["network"], row["attention"], row["setting"]), []).append(row)
    found = []
    for (network, attention, setting), rows in kinds.items():
        width = int(network.rpartition("width")[2])
        name = ", ".join(filter(None, (attention, setting, f"width {width}" * (width != 32))))
        runs = {row["run"]: row for row in rows}
        fixed = [
            row
            for row in last_epoch("fixed", runs)
            if row["layer"] == "all" and row["images"] == "10000"
        ]
        own = {int(row["seed"]): float(row["top1"]) for row in rows}
        half = pilot("", width).get("half", {})
        found.append((name, runs, last_epoch("gates", runs), fixed, own, half))
    return found


def alive(gates):
    """ "alive" where in every network the gate of at least one layer varies (its standard deviation
    is `ALIVE` or more), "not alive" where in none, else the count."""
    liveliest = {}
    for row in gates:
        liveliest[row["run"]] = max(liveliest.get(row["run"], 0.0), float(row["gate_std"]))
    varies = sum(spread >= ALIVE for spread in liveliest.values())
    if varies in (0, len(liveliest)):
        return "alive" if varies else "not alive"
    return f"alive in {varies} of {len(liveliest)}"


def used(costs):
    """ "used" where the 90 % interval of the costs, in points of top-1, lies above `USED`, "not
    used" where it lies below, else "undecided"."""
    low, high = mean_interval(costs, 0.90)
    return "used" if low > USED else "not used" if high < USED else "undecided"


def useful(differences):
    """ "useful" where networks with the gate are better than networks with the constant 1/2 (95 %
    interval above 0), "not useful" where they are worse, or better by less than `MARGIN_2` (90 %
    interval), "undecided" otherwise, and "too few pairs" of two."""
    if len(differences) < 3:
        return "too few pairs"
    word = verdict(differences, MARGIN_2)
    low_95 = mean_interval(differences, 0.95)[0]
    if low_95 > 0:
        return "useful, by less than the margin" if word == "equal, not zero" else "useful"
    not_useful = mean_interval(differences, 0.90)[1] < MARGIN_2 or word in ("below", "lower")
    return "not useful" if not_useful else "undecided"


def words():
    """A text table of the pilot's kinds of run with a gate: the spread of the liveliest layer's
    gate, what the constant 1/2 in place of all gates costs (points of top-1, 10,000 test images),
    how many first choices it changes; and whether the gate is alive, used and useful."""
    lines = [
        f"{'kind of run':22}{'runs':>5}{'spread':>8}{'½ costs':>9}{'changed':>9}   "
        f"{'alive?':11}{'used?':11}useful?"
    ]
    for name, runs, gates, fixed, own, half in gated():
        spread = max(float(row["gate_std"]) for row in gates)
        costs = [float(row["top1"]) - float(row["top1_half"]) for row in fixed]
        changed = np.mean([float(row["changed_half"]) for row in fixed])
        better = in_pairs({"own": own, "half": half}, "own", "half")
        lines.append(
            f"{name:22}{len(runs):>5}{spread:>8.4f}{np.mean(costs):>+9.2f}{changed:>9.0f}   "
            f"{alive(gates):11}{used(costs):11}{useful(better)}"
        )
    return "\n".join(lines)


def pixel_gates(run="resnet18-width32-10-nam-spatial-0"):
    """[(layer, number of pixels n, smallest gate, largest gate)] of the pixel attention of one run
    of "nam-spatial" at its end."""
    sides = {"layer1": 8, "layer2": 4, "layer3": 2, "layer4": 1}  # after the 7x7 stem
    rows = {row["run"]: row for row in results("runs") if row["run"] == run}
    return [
        (
            row["layer"].removesuffix(".attention.spatial"),
            sides[row["layer"].partition(".")[0]] ** 2,
            float(row["gate_low"]),
            float(row["gate_high"]),
        )
        for row in last_epoch("gates", rows)
        if row["layer"].endswith("spatial")
    ]


def settings():
    """{setting: (recipe, smallest and largest mean |gamma| of a layer, top-1 minus plain NAM's of
    the same seed)} of the pilot's NAM runs of width 32, the plain ones first, whose setting is
    ""."""
    plain, found = pilot()["nam"], {}
    for setting in dict.fromkeys(row["setting"] for row in results("runs")):
        runs = {
            row["run"]: row
            for row in results("runs")
            if (row["attention"], row["network"], row["setting"])
            == ("nam", "resnet18-width32", setting)
        }
        means = [float(row["gamma_mean"]) for row in last_epoch("gates", runs)]
        recipe = recipe_of(json.loads(next(iter(runs.values()))["recipe"]))
        top1 = {"own": {int(row["seed"]): float(row["top1"]) for row in runs.values()}}
        pairs = in_pairs({**top1, "plain": plain}, "own", "plain")
        found[setting] = recipe, min(means), max(means), pairs
    return found


def channels_removed():
    """Top-1 of the six NAM networks of the pilot's main comparison with channels removed, minus
    that with as many removed at random, in points: {(of, order): {share: (6,)}}."""
    runs = {row["run"]: row for row in results("runs") if row["group"] == "main"}
    top1 = {}
    for row in results("removed"):
        if runs.get(row["run"], {}).get("attention") == "nam" and row["order"] != "none":
            key = row["of"], row["order"], float(row["share"])
            top1.setdefault(key, {}).setdefault(row["run"], []).append(float(row["top1"]))
    means = {key: np.array([np.mean(v) for v in draws.values()]) for key, draws in top1.items()}
    found = {}
    for (of, order, share), values in means.items():
        if order != "random":
            found.setdefault((of, order), {})[share] = values - means["", "random", share]
    return found


def weight_range():
    """The smallest and the largest weight W times C of a channel in those six networks, at their
    end."""
    runs = {
        row["run"]: row
        for row in results("runs")
        if (row["group"], row["attention"]) == ("main", "nam")
    }
    rows = last_epoch("gates", runs)
    low, high = ([float(row[f"weight_{end}"]) for row in rows] for end in ("low", "high"))
    return min(low), max(high)
