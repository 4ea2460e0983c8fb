"""Tables, words and figures from the CSV files of results/: python -m experiments.attention report.

Tables go between `<!-- table: NAME -->` and `<!-- end -->`, numbers and verdicts in a sentence
between `<!-- =NAME -->` and `<!-- -->`, in results/attention.md and the READMEs; the text around
them is written by hand.
This file is about the pilot; the second round is in round2.py.
"""

from __future__ import annotations

import io
import math
import statistics
from pathlib import Path

import numpy as np

from experiments import protocol
from experiments.attention import GPU_TABLES, GROUPS, RESULTS, ROOT, Trial, read_rows
from experiments.markdown import insert, table
from nam_edu import plots

MARGIN = 1.0  # points of top-1; see results/attention.md for when and why it was named
TITLES = {
    "none": "none",
    "half": "constant ½",
    "se": "SE",
    "nam": "NAM",
    "cbam": "CBAM",
    "eca": "ECA",
    "nam-detached": "NAM, W detached",
    "nam-spatial": "NAM, channel + spatial",
}


# ----------------------------------------------------------------------------------- statistics


def difference(a, b):
    """Of two dictionaries {seed: value}, over the seeds of both: (pairs, mean of a - b, half of the
    90 % interval, half of the 95 % interval), the intervals from Student's t."""
    d = [a[seed] - b[seed] for seed in sorted(set(a) & set(b))]
    error = statistics.stdev(d) / math.sqrt(len(d))
    return len(d), statistics.mean(d), *(protocol.quantile(len(d), c) * error for c in (0.90, 0.95))


def verdict(pairs, mean, half_90, half_95):
    """What a difference says by the rule in results/attention.md; nothing of two pairs."""
    if pairs < 3:
        return "too few pairs"
    effect = abs(mean) > half_95
    small = abs(mean) + half_90 < MARGIN
    return {
        (True, True): f"an effect, smaller than {MARGIN:g} point",
        (True, False): "an effect",
        (False, True): f"equal to within {MARGIN:g} point",
        (False, False): "undecided",
    }[effect, small]


def holm_survivors(runs):
    """(titles of the differences in all tables of the pilot that Holm's correction leaves at 5 %,
    number of differences)."""
    titles, p_values = [], []
    for title, a, b in [*main_pairs(), *wider_pairs(), *main_pairs(64)]:
        a, b = by_seed(runs, **a), by_seed(runs, **b)
        titles.append(title)
        p_values.append(protocol.p_value([a[s] - b[s] for s in sorted(set(a) & set(b))]))
    kept = [t for t, p in zip(titles, protocol.holm(p_values)) if p < 0.05]
    return kept, len(titles)


def by_seed(runs, column="top1", **wanted):
    """{seed: value} of the runs whose columns have these values."""
    return {
        int(r["seed"]): float(r[column]) for r in runs if all(r[k] == v for k, v in wanted.items())
    }


def of_group(name, runs):
    """[(title, wanted columns)] of a group's kinds of run, in the group's order."""
    kinds = {}
    for trial in GROUPS[name]:
        title = TITLES[trial.attention] + (f", {trial.setting}" if trial.setting else "")
        kinds[title] = {
            "attention": trial.attention,
            "setting": trial.setting,
            "network": trial.network,
        }
    return [(title, wanted) for title, wanted in kinds.items() if by_seed(runs, **wanted)]


# --------------------------------------------------------------------------------------- tables


def accuracy_table(runs, groups):
    """One row per kind of run: its accuracies after the last epoch."""
    rows = []
    for group in groups:
        for title, wanted in of_group(group, runs):
            columns = [
                by_seed(runs, column, **wanted).values()
                for column in ("top1", "top5", "cross_entropy", "train_top1")
            ]
            top1 = list(columns[0])
            spread = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
            rows.append(
                [
                    title,
                    len(top1),
                    f"{statistics.mean(top1):.2f}{spread}",
                    f"{min(top1):.2f} to {max(top1):.2f}",
                    *(f"{statistics.mean(c):.{d}f}" for c, d in zip(columns[1:], (2, 3, 2))),
                ]
            )
    return table(
        [
            "attention",
            "runs",
            "top-1, mean ± spread",
            "lowest to highest",
            "top-5",
            "cross-entropy",
            "top-1 in training",
        ],
        rows,
    )


def difference_table(runs, pairs):
    """pairs: [(title, wanted columns, wanted columns)]."""
    rows = []
    for title, a, b in pairs:
        a, b = by_seed(runs, **a), by_seed(runs, **b)
        if len(set(a) & set(b)) < 2:
            continue
        n, mean, half_90, half_95 = difference(a, b)
        rows.append(
            [
                title,
                n,
                f"{mean:+.2f}",
                f"{mean - half_95:+.2f} to {mean + half_95:+.2f}",
                f"{mean - half_90:+.2f} to {mean + half_90:+.2f}",
                verdict(n, mean, half_90, half_95),
            ]
        )
    return table(
        [
            "difference",
            "pairs",
            "mean, points",
            "95 % interval",
            "90 % interval",
            "what the rule says",
        ],
        rows,
    )


def kind(attention, setting="", width=32):
    return {"attention": attention, "setting": setting, "network": f"resnet18-width{width}"}


MAIN_PAIRS = ("nam", "half"), ("nam", "none"), ("half", "none"), ("se", "half"), ("nam", "se")


def main_pairs(width=32):
    return [
        (f"{TITLES[a]} - {TITLES[b]}", kind(a, width=width), kind(b, width=width))
        for a, b in MAIN_PAIRS
        if width == 32 or "se" not in (a, b)
    ]


def wider_pairs():
    kinds = [kind(a) for a in ("cbam", "eca", "nam-detached", "nam-spatial")]
    kinds += [kind("nam", setting) for setting in settings()]
    return [
        (
            f"{TITLES[k['attention']]}{', ' + k['setting'] if k['setting'] else ''} - "
            f"{TITLES[other]}",
            k,
            kind(other),
        )
        for k in kinds
        for other in ("half", "nam")
    ]


def settings():
    return list(dict.fromkeys(t.setting for g in ("penalty", "decay") for t in GROUPS[g]))


def at_the_end(rows, runs, wanted):
    """Rows of a CSV file with epochs: those of the last epoch of the runs of one kind."""
    names = {r["run"]: r["epochs"] for r in runs if all(r[k] == v for k, v in wanted.items())}
    return [row for row in rows if names.get(row["run"]) == row["epoch"]]


def nam_kinds(runs, table):
    """(title, rows of the last epoch) of every kind of run that this table has rows of."""
    for group in ("main", "wider", "penalty", "decay", "wide"):
        for title, wanted in of_group(group, runs):
            width = wanted["network"].removeprefix("resnet18-width")
            end = at_the_end(table, runs, wanted)
            if end:
                yield title + (f", width {width}" if width != "32" else ""), end


def gate_table(runs, gates):
    """One row per kind of NAM run: its layers at the end of training."""
    rows = []
    for title, end in nam_kinds(runs, gates):

        def span(column, digits, of=None, end=end):
            values = [float(r[column]) / (float(r[of]) or 1 if of else 1) for r in end]
            return f"{min(values):.{digits}f} to {max(values):.{digits}f}"

        rows.append(
            [
                title,
                len({r["run"] for r in end}),
                span("gamma_mean", 3),
                span("gamma_std", 3, "gamma_mean"),
                f"{min(float(r['weight_low']) for r in end):.2f} to "
                f"{max(float(r['weight_high']) for r in end):.2f}",
                f"{min(float(r['gate_low']) for r in end):.3f} to "
                f"{max(float(r['gate_high']) for r in end):.3f}",
                span("gate_std", 4),
                span("gate_profile_std", 4),
            ]
        )
    return table(
        [
            "kind of run",
            "runs",
            "mean γ of a layer",
            "spread of γ / mean",
            "W · C",
            "gate",
            "spread of the gate",
            "of its channel means",
        ],
        rows,
    )


def layer_table(runs, gates):
    """One row per layer of NAM at the end, means over the runs."""
    end = at_the_end(gates, runs, kind("nam"))
    rows = []
    for layer in dict.fromkeys(r["layer"] for r in end):
        own = [r for r in end if r["layer"] == layer]

        def mean(column, own=own):
            return statistics.mean(float(r[column]) for r in own)

        rows.append(
            [
                layer.removesuffix(".attention.channel"),
                f"{mean('gamma_mean'):.3f}",
                f"{mean('gamma_std'):.4f}",
                f"{mean('weight_low'):.3f} to {mean('weight_high'):.3f}",
                f"{mean('gate_low'):.3f} to {mean('gate_high'):.3f}",
                f"{mean('gate_std'):.4f}",
                f"{mean('gate_profile_std'):.4f}",
            ]
        )
    return table(
        [
            "layer",
            "γ, mean",
            "γ, spread",
            "W · C",
            "gate",
            "spread of the gate",
            "of its channel means",
        ],
        rows,
    )


def fixed_table(runs, fixed):
    """One row per kind of NAM run: what fixed gates do to 10,000 test images."""
    fixed = [r for r in fixed if r["images"] == "10000" and r["layer"] == "all"]
    rows = []
    for title, end in nam_kinds(runs, fixed):

        def mean(column, end=end):
            return statistics.mean(float(r[column]) for r in end)

        rows.append(
            [
                title,
                len(end),
                *(f"{mean(c):.2f}" for c in ("top1", "top1_half", "top1_mean")),
                *(f"{mean(c):.0f}" for c in ("changed_half", "changed_mean")),
            ]
        )
    return table(
        [
            "kind of run",
            "runs",
            "learned gates",
            "all ½",
            "each channel's mean",
            "first choices changed by ½",
            "by the mean",
        ],
        rows,
    )


def removed_scores(runs, removed, wanted):
    """{(of, order, share): {run: top-1}}; random orders are averaged over their draws."""
    names = {r["run"] for r in runs if all(r[k] == v for k, v in wanted.items())}
    draws = {}
    for r in removed:
        if r["run"] in names and r["order"] != "none":
            draws.setdefault((r["of"], r["order"], r["share"]), {}).setdefault(r["run"], []).append(
                float(r["top1"])
            )
    return {
        key: {run: statistics.mean(v) for run, v in found.items()} for key, found in draws.items()
    }


def removed_table(runs, removed, wanted):
    """What is left of top-1 when a share of the channels of every block goes, by which order."""
    scores = removed_scores(runs, removed, wanted)
    shares = list(dict.fromkeys(share for _, _, share in scores))
    rows = []
    for of, order in dict.fromkeys((of, order) for of, order, _ in scores):
        size = {"lowest": "smallest", "highest": "largest", "random": ""}[order]
        title = {
            "nam": f"{size} γ of NAM first",
            "bn": f"{size} γ of the batch norm first",
            "": "at random",
        }[of]
        row = [title]
        for share in shares:
            own, chance = scores[of, order, share], scores["", "random", share]
            text = f"{statistics.mean(own.values()):.2f}"
            if of and len(own) > 1:
                _, mean, _, half_95 = difference(own, chance)
                text += f" ({mean - half_95:+.1f} to {mean + half_95:+.1f})"
            row.append(text)
        rows.append(row)
    return table(["channels removed", *(f"{100 * float(s):.0f} %" for s in shares)], rows)


# ---------------------------------------------------------------------------------------- words


def decay_of(recipe):
    """D after each epoch, (epochs,): weight decay / (1 - momentum) * sum of the rates. Under the
    weight decay alone gamma would be exp(-D)."""
    from nam_edu.recipes import learning_rate

    steps = -(-50_000 // recipe.batch_size)
    rates = [learning_rate(recipe, s, steps) for s in range(steps * recipe.epochs)]
    sums = np.cumsum(rates)[steps - 1 :: steps]
    return recipe.weight_decay / (1 - recipe.momentum) * sums


def span(rows, low, high=None):
    """The smallest of one column and the largest of another, or of the same."""
    return min(float(r[low]) for r in rows), max(float(r[high or low]) for r in rows)


def pilot_values(runs, curves, gates, fixed, removed):
    """Every number and verdict in the text about the pilot, {name: text}, computed from the rows.
    They go between `<!-- =NAME -->` and `<!-- -->`."""
    from nam_edu.recipes import recipe
    from nam_edu.runs import shipped

    seeds = {name: by_seed(runs, **kind(name)) for name in ("none", "half", "se", "nam")}
    n, mean, half_90, half_95 = difference(seeds["nam"], seeds["half"])
    names = {r["run"] for r in runs if r["attention"] == "nam" and r["group"] == "main"}
    known = {(r["run"], int(r["epoch"])): r for r in curves}

    def by_epoch(attention, column, epoch):
        return {
            s: float(known[f"resnet18-width32-10-{attention}-{s}", epoch][column])
            for s in seeds["nam"]
        }

    def lead(epoch):  # in training loss
        a, b = (by_epoch(k, "loss", epoch).values() for k in ("none", "half"))
        return statistics.mean(a) - statistics.mean(b)

    late = {
        k: {s: statistics.mean(by_epoch(k, "eval_top1", e)[s] for e in range(6, 11)) for s in v}
        for k, v in seeds.items()
    }
    every, end = [r for r in gates if r["run"] in names], at_the_end(gates, runs, kind("nam"))
    whole = [r for r in fixed if r["images"] == "10000" and r["layer"] == "all"]
    of_nam = [r for r in whole if r["run"] in names]
    changes = [float(r["top1_half"]) - float(r["top1"]) for r in of_nam]
    spatial = at_the_end(whole, runs, kind("nam-spatial"))
    spatial_gates = at_the_end(gates, runs, kind("nam-spatial"))

    def cost(column):
        return statistics.mean(float(r["top1"]) - float(r[column]) for r in spatial)

    scores = removed_scores(runs, removed, kind("nam"))
    low, chance = scores["nam", "lowest", "0.1"], scores["", "random", "0.1"]
    weights = span(end, "weight_low", "weight_high")
    wide = {
        k: statistics.mean(by_seed(runs, **kind(k, width=64)).values())
        for k in ("none", "half", "nam")
    }
    logs = {k: shipped(k).log for k in ("nam", "none")}
    ahead = [a["loss"] < b["loss"] for a, b in zip(logs["none"], logs["nam"])]
    kept, contrasts = holm_survivors(runs)
    pairing = [
        f"{TITLES[a]} - {TITLES[b]} "
        f"{statistics.stdev([seeds[a][s] - seeds[b][s] for s in seeds[a]]):.2f} in place of "
        f"{math.sqrt(sum(statistics.variance(seeds[k].values()) for k in (a, b))):.2f}"
        for a, b in MAIN_PAIRS
    ]
    late_found = difference(late["nam"], late["half"])
    unknown = difference(*({s: seeds[k][s] for s in range(3, 6)} for k in ("nam", "half")))
    of_spatial = difference(by_seed(runs, **kind("nam-spatial")), seeds["nam"])
    of_cbam = difference(by_seed(runs, **kind("cbam")), seeds["half"])
    gains = [difference(seeds[k], seeds["none"]) for k in ("nam", "half")]
    decays = [Trial("nam", 0).recipe(), recipe("shipped"), recipe("official")]
    decays = [float(decay_of(r)[-1]) for r in decays]
    values = [seeds["nam"][s] - seeds["half"][s] for s in seeds["nam"]]
    at_half, word = protocol.equality(values, 0.5), verdict(n, mean, half_90, half_95)
    found = {
        "nam-none": signed(gains[0]).lstrip("+"),
        "half-none": signed(gains[1]).lstrip("+"),
        "nam-none short": f"{gains[0][1]:.1f}",
        "half-none short": f"{gains[1][1]:.1f}",
        "nam-half": f"{mean:+.2f}",
        "nam-half 90": ends(mean, half_90),
        "nam-half 95": ends(mean, half_95),
        "nam-half word": word,
        "nam-half word zh": CHINESE[word],
        "nam-half at half": at_half,
        "nam-half at half zh": CHINESE.get(at_half, at_half),
        "passes": f"{abs(mean) + half_90:.2f}",
        "positive": f"{sum(d > 0 for d in values)} of {n}",
        "positive zh": f"{n} 对中有 {sum(d > 0 for d in values)} 对",
        "unknown": f"{signed(unknown, 90)}: {verdict(*unknown)}",
        "late": signed(late_found),
        "lead first": f"{lead(1):.3f}",
        "lead last": f"{lead(10):.3f}",
        "overtakes": str(next((i + 1 for i in range(len(ahead)) if all(ahead[i:])), "no")),
        "wide nam": f"{wide['nam'] - wide['none']:+.1f}",
        "wide half": f"{wide['half'] - wide['none']:+.1f}",
        "gamma": between(span(end, "gamma_mean")),
        "gamma free": between(
            span(at_the_end(gates, runs, kind("nam", "no decay on gamma")), "gamma_mean")
        ),
        "predicted": f"{math.exp(-decays[0]):.3f}",
        "D": f"{decays[0]:.2f}",
        "D shipped": f"{decays[1]:.2f}",
        "D official": f"{decays[2]:.1f}",
        "gamma official": f"{math.exp(-decays[2]):.0e}".replace("e-0", "e-"),
        "gate": between(span(end, "gate_low", "gate_high")),
        "gate ever": between(span(every, "gate_low", "gate_high")),
        "weight": f"{100 * max(1 - weights[0], weights[1] - 1):.0f} %",
        "changed": f"{statistics.mean(float(r['changed_half']) for r in of_nam):.0f}",
        "change": f"{statistics.mean(changes):+.3f}",
        "change size": f"{statistics.mean(abs(c) for c in changes):.3f}",
        "change most": f"{max(abs(c) for c in changes):.2f}",
        "low hurts": f"{sum(low[run] < chance[run] for run in low)} of {len(low)}",
        "spatial gamma": between(span(spatial_gates, "gamma_mean"), 2),
        "spatial gate": between(span(spatial_gates, "gate_low", "gate_high"), 0),
        "spatial half": f"{cost('top1_half'):.1f}",
        "spatial recovered": f"{cost('top1_half') - cost('top1_mean'):.1f}",
        "spatial mean": f"{cost('top1_mean'):.1f}",
        "spatial-nam": f"{signed(of_spatial)}: {verdict(*of_spatial)}",
        "cbam-half": f"{signed(of_cbam)}: {verdict(*of_cbam)}",
        "pairing": "; ".join(pairing),
        "survivors": ", ".join(kept) or "none",
        "contrasts": str(contrasts),
    }
    for name in ("nam-half 90", "nam-half 95", "gate", "gamma"):
        found[f"{name} zh"] = found[name].replace(" to ", " 至 ")
    return found


CHINESE = {
    f"equal to within {MARGIN:g} point": "在 ±1 个百分点之内相等",
    f"an effect, smaller than {MARGIN:g} point": "有差别，但小于 1 个百分点",
    "an effect": "有差别",
    "undecided": "尚无定论",
    "equal": "相等",
    "equal, not zero": "有差别，但更小",
}


def ends(mean, half):
    return f"{mean - half:+.2f} to {mean + half:+.2f}"


def between(pair, digits=3):
    return f"{pair[0]:.{digits}f} to {pair[1]:.{digits}f}"


def signed(found, confidence=95):
    """ "+0.23 (95 %: -0.16 to +0.62)" of what `difference` gives."""
    _, mean, half_90, half_95 = found
    return f"{mean:+.2f} ({confidence} %: {ends(mean, {90: half_90, 95: half_95}[confidence])})"


# -------------------------------------------------------------------------------------- figures


@plots.styled
def main_figure(runs):
    """Left: the runs of the main comparison, joined by seed. Right: the differences in pairs."""
    values = {
        title.replace(" ", "\n"): by_seed(runs, **wanted)
        for title, wanted in of_group("main", runs)
    }
    figure, (left, right) = plots.panels(2, height=3.1)
    plots.seeds(values, "top-1, per cent", "Each line one seed; bars: means", ax=left)
    pairs = [(title, by_seed(runs, **a), by_seed(runs, **b)) for title, a, b in main_pairs()]
    intervals(right, [(title, difference(a, b)) for title, a, b in pairs], MARGIN)
    right.set(title="Differences in pairs")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=3)
    return figure


def intervals(axis, differences, margin):
    """Draw differences, [(title, what `difference` gives)]: means, 90 % and 95 % intervals."""
    axis.axvspan(
        -margin,
        margin,
        color=plots.YELLOW,
        alpha=0.25,
        linewidth=0,
        label=f"less than {margin:g} point{'s' if margin < 1 else ''}",
    )
    axis.axvline(0, color="#666666", linewidth=1, linestyle="--")
    for i, (_, (_, mean, half_90, half_95)) in enumerate(differences):
        for half, width in ((half_95, 1.4), (half_90, 4.5)):
            axis.plot(
                [mean - half, mean + half],
                [i, i],
                color=plots.BLUE,
                linewidth=width,
                solid_capstyle="butt",
                label=None if i else f"{95 if half == half_95 else 90} % interval",
            )
        axis.plot(mean, i, "o", color="white", markeredgecolor=plots.BLUE, markersize=6)
    axis.set_yticks(range(len(differences)), [t.replace(" - ", " − ") for t, _ in differences])
    axis.set(xlabel="points of top-1", ylim=(len(differences) - 0.4, -0.6))
    axis.grid(False, axis="y")


@plots.styled
def gamma_figure(runs, gates):
    """Mean gamma over the epochs, measured and predicted from the weight decay; spread of gamma;
    the reach of the gate."""
    recipe = Trial("nam", 0).recipe()
    predicted = np.exp(-decay_of(recipe))
    epochs = list(range(1, recipe.epochs + 1))

    def course(wanted, value):
        """(mean, lowest, highest) over layers and runs, by epoch."""
        names = {r["run"] for r in runs if all(r[k] == v for k, v in wanted.items())}
        found = [
            [value(r) for r in gates if r["run"] in names and int(r["epoch"]) == e] for e in epochs
        ]
        return [np.array([f(v) for v in found]) for f in (np.mean, np.min, np.max)]

    kinds = {"NAM": kind("nam"), "NAM, no decay on γ": kind("nam", "no decay on gamma")}
    figure, axes = plots.panels(3, height=2.8)
    values = (
        (lambda r: float(r["gamma_mean"]), "mean γ of a layer"),
        (lambda r: float(r["gamma_std"]) / float(r["gamma_mean"]), "spread of γ / mean"),
        (lambda r: float(r["gate_std"]), "spread of the gate"),
    )
    for axis, (value, label) in zip(axes, values):
        courses = {
            k: course(wanted, value) for k, wanted in kinds.items() if by_seed(runs, **wanted)
        }
        curves = {k: c[0] for k, c in courses.items()}
        if axis is axes[0]:
            axis.plot(
                epochs,
                predicted,
                color="black",
                linestyle=":",
                linewidth=2,
                zorder=4,
                label="weight decay alone",
            )
        plots.lines(
            epochs,
            curves,
            "epoch",
            label,
            ax=axis,
            markers=False,
            bands={k: c[1:] for k, c in courses.items()},
        )
        axis.set_ylim(bottom=0)
        axis.get_legend().remove()
    axes[0].legend(fontsize=7)
    return figure


@plots.styled
def removed_figure(runs, removed):
    """Top-1 over the share of channels removed, by the gamma of NAM and of the batch norm."""
    panels = [
        ("NAM: by the γ of NAM", kind("nam"), "nam"),
        ("NAM: by the γ of the batch norm", kind("nam"), "bn"),
        ("none: by the γ of the batch norm", kind("none"), "bn"),
    ]
    figure, axes = plots.panels(3, height=2.8, share_y=True)
    for axis, (title, wanted, of) in zip(axes, panels):
        scores = removed_scores(runs, removed, wanted)
        whole = statistics.mean(by_seed(runs, **wanted).values())
        shares = sorted({float(share) for _, _, share in scores})
        curves, bands = {}, {}
        for label, key in (
            ("smallest first", (of, "lowest")),
            ("largest first", (of, "highest")),
            ("at random", ("", "random")),
        ):
            columns = [scores[(*key, f"{s:g}")] for s in shares]
            curves[label] = [whole] + [statistics.mean(c.values()) for c in columns]
            bands[label] = (
                [whole] + [min(c.values()) for c in columns],
                [whole] + [max(c.values()) for c in columns],
            )
        plots.lines(
            [0] + [100 * s for s in shares],
            curves,
            "channels removed, per cent",
            "top-1, per cent" if axis is axes[0] else "",
            title,
            ax=axis,
            bands=bands,
        )
        axis.set_title(title, fontsize=8.5)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7)
    return figure


# --------------------------------------------------------------------------------------- report


def _pages(results):
    return [results / "attention.md", *ROOT.glob("README*.md"), *ROOT.glob("QUESTIONS*.md")]


def save_picture(figure, path):
    """A figure as a PNG of 128 colours, a third of the size: the zip for AI Studio carries it."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    colours = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    colours.save(path, optimize=True)


def report(results: Path = RESULTS, documents=None):
    """Refresh every table, every computed paragraph and every figure."""
    from experiments import round2

    runs, curves, gates, fixed, removed = (
        read_rows(results / f"{name}.csv")
        for name in ("runs", "curves", "gates", "fixed", "removed")
    )
    values = pilot_values(runs, curves, gates, fixed, removed)
    second, on_gpu = round2.read(results), round2.read(results, GPU_TABLES)
    values |= round2.values(second, on_gpu)
    tables = {
        **round2.tables(second, curves),
        **round2.gpu_tables(on_gpu),
        "main": accuracy_table(runs, ["main"]),
        "main differences": difference_table(runs, main_pairs()),
        "wider": accuracy_table(runs, ["wider", "penalty", "decay"]),
        "wider differences": difference_table(runs, wider_pairs()),
        "wide": accuracy_table(runs, ["wide"]),
        "wide differences": difference_table(runs, main_pairs(64)),
        "gates": gate_table(runs, gates),
        "layers": layer_table(runs, gates),
        "fixed": fixed_table(runs, fixed),
        "removed": removed_table(runs, removed, kind("nam")),
        "removed none": removed_table(runs, removed, kind("none")),
    }
    for path in documents or _pages(results):
        insert(path, tables, values)
    for name, figure in (
        ("attention", main_figure(runs)),
        ("attention-gamma", gamma_figure(runs, gates)),
        ("attention-removed", removed_figure(runs, removed)),
        ("attention-round2", round2.figure(second)),
        ("attention-gpu", round2.figure(on_gpu, "Round two in PyTorch: differences in pairs")),
    ):
        if figure is not None:
            save_picture(figure, results / f"{name}.png")
    print(
        f"tables and figures of {len(runs)} runs of the pilot, {len(second.runs)} of round two and "
        f"{len(on_gpu.runs)} of it on a GPU"
    )
