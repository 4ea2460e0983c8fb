"""The second round, by results/protocol.md: its tables, words and figure from runs2.csv,
curves2.csv, gates2.csv and fixed2.csv, or, for the round in PyTorch on a GPU, from runs-gpu.csv and
its siblings, however many of its runs are there.

A verdict is given once all runs of its part are finished, and not before.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from types import SimpleNamespace

from experiments import protocol
from experiments.attention import PILOT, ROUND_2, TABLES, Trial, read_rows
from experiments.markdown import table
from nam_edu import plots

TITLES = {
    "none": "none",
    "none-last-gamma-0.5": "none, last γ starts at ½",
    "half": "constant ½",
    "half-last-gamma-2": "constant ½, last γ starts at 2",
    "quarter": "constant ¼",
    "nam": "NAM",
    "nam-times-c": "NAM, W times C",
    f"nam-gamma-decay-{protocol.GAMMA_DECAY:g}": "NAM, D of `official`",
    "nam-gate-only": "NAM, gate only",
    **{
        f"{attention}-rate-{rate:g}": f"{title}, rate {rate:g}"
        for attention, title in (("none", "none"), ("half", "constant ½"))
        for rate in protocol.RATES
    },
}
PARTS = {"b": "B", "c": "C", "a": "A", "rates": "rates"}
GATED = {  # kinds of run with a gate, and what says whether it is useful
    "b-nam": "b-half",
    "c-nam": "c-half",
    "a-nam": "a-half",
    "a-nam-times-c": "a-half",
    f"a-nam-gamma-decay-{protocol.GAMMA_DECAY:g}": "a-half",
    "a-nam-gate-only": "a-half",
}


INSIDE = {  # what is told of a layer: columns of the gates, lowest and highest, digits
    "mean γ": ("gamma_mean", "gamma_mean", 4),
    "W · C": ("weight_low", "weight_high", 2),
    "gate": ("gate_low", "gate_high", 3),
    "spread of the gate": ("gate_std", "gate_std", 4),
    "of its channel means": ("gate_profile_std", "gate_profile_std", 4),
}


def read(results, tables=TABLES[2]):
    """The rows of the second round, or of other tables of its kind: .runs, .curves, .gates, .fixed,
    empty where there are none; and .cut, which parts were to end early."""
    names = ("runs", "curves", "gates", "fixed")
    rows = {n: read_rows(results / f"{t}.csv") for n, t in zip(names, tables)}
    return SimpleNamespace(**rows, cut=protocol.CUT.get(tables[0], {}))


def kind_of(run):
    """Part, attention and setting of a run's name: "a-nam-6" gives "a-nam"."""
    return run.rpartition("-")[0]


def title_of(kind):
    """How the tables name a kind of run: "b-half" gives "constant ½"."""
    return TITLES[kind.partition("-")[2]]


@dataclasses.dataclass(frozen=True)
class Part:
    """How far a part has come. seeds: those that count; planned: how many the protocol asks for;
    asked: how many runs the seeds have; runs: the rows of those that are finished."""

    name: str
    seeds: list
    planned: int
    asked: int
    runs: list

    @property
    def finished(self):
        """Whether verdicts may be given."""
        return len(self.runs) == self.asked and len(self.seeds) >= protocol.FIRST

    @property
    def cut(self):
        """Where the part was cut, in words, or ""."""
        if len(self.seeds) == self.planned:
            return ""
        return f"cut after {len(self.seeds)} of {self.planned} seeds"

    @property
    def progress(self):
        if not self.seeds:
            return "not made, for want of time."
        text = f"{self.cut}, for want of time; " if self.cut else ""
        if len(self.runs) < self.asked:
            text += f"{len(self.runs)} of {self.asked} runs finished so far"
            return f"{text}; no verdict before all of them are finished."
        if not self.finished:
            return f"{text}too few for a verdict, which needs at least {protocol.FIRST}."
        return f"{text}all {self.asked} runs finished."

    def differences(self, weights):
        return list(protocol.combination(self.runs, weights).values())


def part_of(name, data):
    """The `Part` of this name, "a", "rates", "b" or "c", in what `read` gives."""
    seeds = protocol.seeds_of(name, data.runs, data.cut)
    asked = {trial.name for trial in ROUND_2[f"round2-{name}"] if trial.seed in seeds}
    runs = [row for row in data.runs if row["run"] in asked]
    return Part(name, seeds, len(protocol.seeds_of(name, data.runs)), len(asked), runs)


# --------------------------------------------------------------------------------------- tables


def accuracy_table(part):
    """A row per kind of run that has finished runs."""
    kinds = dict.fromkeys(kind_of(t.name) for t in ROUND_2[f"round2-{part.name}"])
    rows = []
    for kind in kinds:
        own = [row for row in part.runs if kind_of(row["run"]) == kind]
        if not own:
            continue
        top1 = [float(row["top1"]) for row in own]
        spread = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
        rows.append([title_of(kind), len(top1), f"{statistics.mean(top1):.2f}{spread}"])
        rows[-1].append(f"{min(top1):.2f} to {max(top1):.2f}")
        for column, digits in (("top5", 2), ("cross_entropy", 3), ("train_top1", 2)):
            rows[-1].append(f"{statistics.mean(float(row[column]) for row in own):.{digits}f}")
    head = ["kind of run", "runs", "top-1, mean ± spread", "lowest to highest", "top-5"]
    return table([*head, "cross-entropy", "top-1 in training"], rows) if rows else ""


def outcomes(part):
    """[(title, differences in pairs, word)] of what the protocol asks of a part; the word is None
    before the part is finished."""
    done = part.finished
    if part.name == "b":
        first = part.differences({"b-nam": 1, "b-half": -1})
        second = part.differences({"b-half": 1, "b-none": -1})
        return [
            (
                "NAM - constant ½",
                first,
                protocol.equality(first, protocol.MARGIN) if done else None,
            ),
            (
                "constant ½ - none",
                second,
                protocol.against(second, protocol.MARGIN) if done else None,
            ),
        ]
    if part.name == "c":
        found = part.differences({"c-nam": 1, "c-half": -1})
        word = protocol.equality(found, protocol.MARGIN_WIDE) if done else None
        return [("NAM - constant ½", found, word)]
    if part.name == "rates":
        best = best_rates(part)
        found = part.differences({best["half"]: 1, best["none"]: -1}) if done else []
        word = signs([found], [protocol.p_value(found)])[0] if done else None
        return [("constant ½ - none, each at its best rate", found, word)]
    found = [part.differences(weights) for weights in protocol.CONTRASTS.values()]
    words = [None] * len(found)
    if done:
        words = signs(found, protocol.holm([protocol.p_value(values) for values in found]))
    return list(zip(protocol.CONTRASTS, found, words))


def signs(found, p_values):
    """ "higher", "lower" or "undecided" at 5 %, for each list of differences."""
    return [
        "undecided" if p >= 0.05 else "higher" if statistics.mean(values) > 0 else "lower"
        for values, p in zip(found, p_values)
    ]


def best_rates(part):
    """{attention: the kind of run whose rate has the highest mean}."""
    means = {}
    for row in part.runs:
        means.setdefault(row["attention"], {}).setdefault(kind_of(row["run"]), []).append(
            float(row["top1"])
        )
    return {
        attention: max(kinds, key=lambda kind, kinds=kinds: statistics.mean(kinds[kind]))
        for attention, kinds in means.items()
    }


def difference_table(part):
    """A row per difference of which at least two pairs are there."""
    corrected = part.name == "a" and part.finished
    found = outcomes(part)
    adjusted = protocol.holm([protocol.p_value(d) for _, d, _ in found]) if corrected else []
    rows = []
    for i, (title, values, word) in enumerate(found):
        if len(values) < 2:
            continue
        ends = [protocol.interval(values, confidence) for confidence in (0.95, 0.90)]
        rows.append([title, len(values), f"{statistics.mean(values):+.2f}"])
        rows[-1] += [f"{low:+.2f} to {high:+.2f}" for low, high in ends]
        rows[-1] += [f"{adjusted[i]:.3f}".replace("0.000", "< 0.001")] if corrected else []
        rows[-1].append(word or "no verdict")
    head = ["difference", "pairs", "mean, points", "95 % interval", "90 % interval"]
    head += ["p after Holm"] if corrected else []
    return table([*head, "outcome"], rows) if rows else ""


def gate_words(data, kind):
    """(networks, range of the spread of their liveliest layer, [mean cost of ½, of each layer's
    mean, of each channel's mean if it was measured], alive, used, useful) of a kind of run with a
    gate, over the finished runs; the words are None before the part is finished. None where no run
    is there."""
    part = part_of(kind.partition("-")[0], data)
    own = {row["run"] for row in part.runs if kind_of(row["run"]) == kind}
    spreads = {}
    for row in at_the_end(data, kind):
        spreads.setdefault(row["run"], []).append(float(row["gate_std"]))
    fixed = [row for row in data.fixed if row["run"] in own and row["layer"] == "all"]
    if not own:
        return None
    costs = {
        column: [float(r["top1"]) - float(r[f"top1_{column}"]) for r in fixed]
        for column in ("half", "layer", "mean")
        if all(f"top1_{column}" in row for row in fixed)
    }
    words = [None] * 3
    if part.finished:
        least = [min(pair) for pair in zip(costs["half"], costs["layer"])]
        useful = part.differences({kind: 1, GATED[kind]: -1})
        words = [protocol.alive(spreads), protocol.used(least), protocol.useful(useful)]
    liveliest = [max(of_layers) for of_layers in spreads.values()]
    return (
        len(own),
        (min(liveliest), max(liveliest)),
        [statistics.mean(c) for c in costs.values()],
        *words,
    )


def word_table(data):
    """Alive, used, useful: a row per kind of run with a gate."""
    rows = []
    for kind in GATED:
        found = gate_words(data, kind)
        if found is None:
            continue
        networks, (low, high), costs, *words = found
        part = PARTS[kind.partition("-")[0]]
        rows.append([f"{part}: {title_of(kind)}", networks, f"{low:.4f} to {high:.4f}"])
        rows[-1] += [f"{cost:+.2f}".replace("-0.00", "+0.00") for cost in costs]
        rows[-1] += [""] * (3 - len(costs)) + [word or "no verdict" for word in words]
    head = [
        "kind of run",
        "networks",
        "spread of the liveliest layer's gate",
        "½ in its place costs",
    ]
    head += ["each layer's mean costs", "each channel's mean costs", "alive?", "used?", "useful?"]
    if rows and not any(row[5] for row in rows):
        rows, head = [row[:5] + row[6:] for row in rows], head[:5] + head[6:]
    return table(head, rows) if rows else ""


def inside_table(data, kind="b-nam"):
    """A row per layer of a kind of run with a gate, at its end, over all of its finished runs."""
    end = at_the_end(data, kind)
    rows = []
    for layer in dict.fromkeys(row["layer"] for row in end):
        own = [row for row in end if row["layer"] == layer]
        rows.append([layer.removesuffix(".attention.channel")])
        for low, high, digits in INSIDE.values():
            values = [float(row[low]) for row in own], [float(row[high]) for row in own]
            rows[-1].append(f"{min(values[0]):.{digits}f} to {max(values[1]):.{digits}f}")
    return table(["layer", *INSIDE], rows) if rows else ""


def at_the_end(data, kind):
    """The rows of the gates of a kind of run, after the last epoch."""
    part = part_of(kind.partition("-")[0], data)
    epochs = {r["run"]: r["epochs"] for r in part.runs if kind_of(r["run"]) == kind}
    return [row for row in data.gates if epochs.get(row["run"]) == row["epoch"]]


def repeat_table(data, pilot_curves):
    """Top-1 after each epoch of the run that was made twice."""
    again = ROUND_2["round2-repeat"][0]
    before = Trial(again.attention, again.seed, again.width, again.epochs)
    assert before in PILOT["main"]
    curves = [
        [(r["eval_top1"], r["loss"]) for r in rows if r["run"] == trial.name]
        for rows, trial in ((pilot_curves, before), (data.curves, again))
    ]
    if not curves[1]:
        return ""
    rows = [
        [
            epoch + 1,
            *(f"{float(v):.2f}" for v in (old[0], new[0])),
            *(f"{float(v):.3f}" for v in (old[1], new[1])),
        ]
        for epoch, (old, new) in enumerate(zip(*curves))
    ]
    return table(["epoch", "top-1, pilot", "again", "training loss, pilot", "again"], rows)


# ---------------------------------------------------------------------------------------- words


def sentence(question, values, word, *marks):
    """The protocol's sentence for an outcome, with its marks, less the empty ones, and numbers."""
    marked = f" ({'; '.join(mark for mark in marks if mark)})" if any(marks) else ""
    text = protocol.SENTENCES[question][word]
    (low, high), (low_90, high_90) = (protocol.interval(values, c) for c in (0.95, 0.90))
    return (
        f"- **{text}**{marked}: {statistics.mean(values):+.2f} (95 %: {low:+.2f} to {high:+.2f}; "
        f"90 %: {low_90:+.2f} to {high_90:+.2f}; {len(values)} pairs)."
    )


def in_short(data):
    """The sentences that the protocol has for what came out, or how far the runs have come."""
    lines, not_made = [], []
    parts = {name: part_of(name, data) for name in PARTS}
    for name, part in parts.items():
        label = f"part {PARTS[name]}" if len(PARTS[name]) == 1 else "the rates"
        if not part.seeds:
            not_made.append(label)
            continue
        if not part.finished:
            lines.append(f"- {label[0].upper()}{label[1:]}: {part.progress}")
            continue
        found = outcomes(part)
        if name == "b":
            confirmed = found[0][2].startswith("equal")
            mark = "" if confirmed else "exploratory, since the first did not come out as equal"
            lines.append(sentence(protocol.QUESTION_B, *found[0][1:], part.cut))
            lines.append(sentence(protocol.SECOND_B, *found[1][1:], part.cut, mark))
        elif name == "c":
            lines.append(sentence(protocol.QUESTION_C, *found[0][1:], part.cut))
        elif name == "rates":
            lines.append(sentence(protocol.RATES_QUESTION, *found[0][1:], part.cut, "exploratory"))
        else:
            by_word = {}
            for title, values, word in found:
                text = f"{title} ({statistics.mean(values):+.2f})"
                by_word.setdefault(protocol.SENTENCES["A: each contrast"][word], []).append(text)
            said = "; ".join(f"{word}: {', '.join(titles)}" for word, titles in by_word.items())
            cut = f" ({part.cut})" if part.cut else ""
            lines.append(f"- Part A{cut}, after Holm's correction: {said}.")
    if not_made:
        lines.append(f"- Not made, for want of time: {', '.join(not_made)}.")
    return "\n".join(lines)


def values(data, on_gpu):
    """Every number in the text about the second round, {name: text}; names that begin with "gpu"
    are of the round in PyTorch, and so are those of part B."""
    in_pytorch = contrast_values(part_of("a", on_gpu))
    return {
        **contrast_values(part_of("a", data)),
        **rate_values(part_of("rates", data)),
        **{f"gpu {name}": text for name, text in in_pytorch.items()},
        **long_values(on_gpu),
        **gate_only_values(data, on_gpu),
    }


def gate_only_values(data, on_gpu):
    """What the pages say of the printed equation, NAM's gate without the product, beside NAM: from
    the round in PyTorch where part A is finished there, else in Paddle."""
    part = part_of("a", on_gpu)
    where, where_zh = "in PyTorch", "用 PyTorch"
    if not part.finished:
        part, where, where_zh = part_of("a", data), "in Paddle", "用 Paddle"
    found = part.differences({"a-nam-gate-only": 1, "a-nam": -1})
    if not part.finished:
        return {
            "gate only": f"{len(found)} of {len(part.seeds)} pairs are finished so far {where}, "
            "and there is no verdict before all of them are",
            "gate only zh": f"到目前为止，{where_zh} 的 {len(part.seeds)} 对中完成了 "
            f"{len(found)} 对，全部完成之前不下结论",
        }
    mean, (low, high) = statistics.mean(found), protocol.interval(found, 0.95)
    return {
        "gate only": f"{where} the gate alone differs from NAM by {mean:+.2f} points of top-1 over "
        f"{len(found)} seeds (95 % interval {low:+.2f} to {high:+.2f})",
        "gate only zh": f"{where_zh} 训练 {len(found)} 个种子，只返回门控的网络与 NAM 平均相差 "
        f"{mean:+.2f} 个百分点（95 % 置信区间 {low:+.2f} 至 {high:+.2f}）",
    }


SHORT = {  # contrasts of part A: what the pages call their values
    "constant ½ - none": "a constant",
    "initial scale ½ - 1 (2x2)": "a scale",
    "gate ½ - 1 at the same initial scale (2x2)": "a gate",
    "NAM, W times C - constant ½": "a moving",
}


def contrast_values(part):
    """{name: "+2.0 (95 %: +1.0 to +3.0)"} of some contrasts of part A, and in Chinese."""
    said = {}
    for title, name in SHORT.items():
        said |= said_of(name, part.differences(protocol.CONTRASTS[title]))
    return said


def said_of(name, differences, confidence=0.95):
    """{name: "+2.0 (95 %: +1.0 to +3.0)"} of differences in pairs, and in Chinese."""
    if len(differences) < 2:
        return {name: "?", f"{name} zh": "?"}
    mean, (low, high) = statistics.mean(differences), protocol.interval(differences, confidence)
    return {
        name: f"{mean:+.2f} ({100 * confidence:.0f} %: {low:+.2f} to {high:+.2f})",
        f"{name} zh": f"{mean:+.2f}（{100 * confidence:.0f} %：{low:+.2f} 至 {high:+.2f}）",
    }


def rate_values(part):
    """The best rate of each network and the difference between the two, once all runs are there."""
    if not part.finished:
        return dict.fromkeys(("rate none", "rate half", "rates", "rates zh"), "?")
    best = {k: kind.rpartition("-")[2] for k, kind in best_rates(part).items()}
    return {
        "rate none": best["none"],
        "rate half": best["half"],
        **said_of("rates", outcomes(part)[0][1]),
    }


def long_values(data):
    """What part B found, and what is inside its networks of NAM after their last epoch."""
    from experiments.evidence import between, decay_of, span

    part, end = part_of("b", data), at_the_end(data, "b-nam")
    found = part.differences({"b-nam": 1, "b-half": -1})
    said = said_of("b pair", found, 0.90)
    said |= said_of("b half", part.differences({"b-half": 1, "b-none": -1}))
    longest = ROUND_2["round2-b"][0].recipe()
    numbers = {"b D": f"{(d := decay_of(longest)[-1]):.2f}", "b decay": f"{math.exp(-d):.4f}"}
    if end and len(found) > 1:
        numbers |= {
            "b apart": f"{statistics.stdev(found):.2f}",
            "b gamma": between(span(end, "gamma_mean"), 4),
            "b weights": between(span(end, "weight_low", "weight_high"), 0),
            "b gates": between(span(end, "gate_low", "gate_high"), 2),
            "b spread": f"{span(end, 'gate_std')[1]:.4f}",
            "b cost": f"{gate_words(data, 'b-nam')[2][0]:+.2f}",
        }
    for name in ("b D", "b decay", "b apart", "b gamma", "b weights", "b gates", "b spread"):
        said[name] = numbers.get(name, "?")
        said[f"{name} zh"] = said[name].replace(" to ", " 至 ")
    return {**said, "b cost": numbers.get("b cost", "?")}


def gates_in_short(data):
    """A line per kind of run with a gate whose part is finished: is it alive, used, useful?"""
    lines = []
    for kind in GATED:
        found = gate_words(data, kind)
        if found is None or found[-1] is None:
            continue
        words = [
            f"whether it is {question} is undecided" if word == "undecided" else word
            for question, word in zip(("alive", "used", "useful"), found[-3:])
        ]
        part = PARTS[kind.partition("-")[0]]
        lines.append(f"- The gate of {title_of(kind)} (part {part}): {'; '.join(words)}.")
    return "\n".join(lines)


def origins(data, page="runs2"):
    """Which commits, archives, versions and machines the rows of this table come from."""
    if not data.runs:
        return "No run is finished yet."
    columns = (
        ("commit", "commit"),
        ("data_md5", "archive"),
        ("machine", "machine"),
        ("versions", "versions"),
    )
    said = []
    for column, name in columns:
        values = dict.fromkeys(row[column] for row in data.runs)
        said.append(f"{name} {' and '.join(f'`{value}`' for value in values)}")
    days = sorted(row["started"] for row in data.runs)
    return (
        f"{len(data.runs)} runs; {'; '.join(said)}; the first started {days[0]}, the last "
        f"{days[-1]}. A row each in [{page}.csv]({page}.csv)."
    )


def tables(data, pilot_curves):
    """{name: text} of everything about the second round."""
    return {
        **_tables(data, "round2", "runs2", "attention-round2", "in Paddle"),
        "round2 repeat": repeat_table(data, pilot_curves) or "Not finished.",
    }


def gpu_tables(data):
    """{name: text} of everything about the second round in PyTorch."""
    return _tables(data, "gpu", "runs-gpu", "attention-gpu", "in PyTorch")


def _tables(data, prefix, page, picture, where):
    found = {
        "answers": in_short(data),
        "gates": gates_in_short(data),
        "origins": origins(data, page),
        "words": word_table(data),
        "inside": inside_table(data) or "Not made.",
        "figure": (
            f"![Differences in pairs of the second round, {where}]({picture}.png)"
            if figure_rows(data)
            else ""
        ),
    }
    for name in PARTS:
        part = part_of(name, data)
        progress = part.progress[0].upper() + part.progress[1:]
        pieces = [progress, accuracy_table(part), difference_table(part)]
        found[name] = "\n\n".join(piece for piece in pieces if piece)
    return {f"{prefix} {name}": text for name, text in found.items()}


# --------------------------------------------------------------------------------------- figure


def figure_rows(data):
    """[(title, differences)] of parts B, C and A, where at least two pairs are there; without the
    gate alone, whose difference would need another scale."""
    rows = []
    for name in ("b", "c", "a"):
        for title, values, _ in outcomes(part_of(name, data)):
            if len(values) > 1 and "gate only" not in title:
                rows.append((f"{PARTS[name]}: {title.replace('`', '')}", values))
    return rows


def figure(data, title="Round two in Paddle: differences in pairs"):
    """The differences in pairs with their intervals; None where there are none."""
    from experiments.evidence import difference, intervals

    rows = figure_rows(data)
    return _figure(rows, title, difference, intervals) if rows else None


@plots.styled
def _figure(rows, title, difference, intervals):
    figure, (axis,) = plots.panels(1, height=1.0 + 0.32 * len(rows))
    found = [(t, difference(dict(enumerate(d)), dict.fromkeys(range(len(d)), 0))) for t, d in rows]
    intervals(axis, found, protocol.MARGIN)
    axis.set(title=title)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower right", ncols=3)
    return figure
