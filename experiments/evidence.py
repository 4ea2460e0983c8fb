"""Tables and figures from the CSV files of results/: python -m experiments.attention report.

The tables go between markers, `<!-- table: NAME -->` and `<!-- end -->`, in results/attention.md
and in the READMEs; the text around them is written by hand.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np

from experiments import protocol
from experiments.attention import GROUPS, RESULTS, ROOT, Trial, read_rows
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


def verdict(mean, half_90, half_95):
    """What a difference says by the rule in results/attention.md."""
    effect = abs(mean) > half_95
    small = abs(mean) + half_90 < MARGIN
    return {
        (True, True): "an effect, smaller than the margin",
        (True, False): "an effect",
        (False, True): "no effect that matters",
        (False, False): "undecided",
    }[effect, small]


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
                verdict(mean, half_90, half_95),
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


def main_pairs(width=32):
    names = ("nam", "half"), ("nam", "none"), ("half", "none"), ("se", "half"), ("nam", "se")
    return [
        (f"{TITLES[a]} - {TITLES[b]}", kind(a, width=width), kind(b, width=width)) for a, b in names
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
    right.axvspan(
        -MARGIN,
        MARGIN,
        color=plots.YELLOW,
        alpha=0.25,
        linewidth=0,
        label="smallest effect that matters",
    )
    right.axvline(0, color="#666666", linewidth=1, linestyle="--")
    pairs = main_pairs()
    for i, (_, a, b) in enumerate(pairs):
        _, mean, half_90, half_95 = difference(by_seed(runs, **a), by_seed(runs, **b))
        right.plot(
            [mean - half_95, mean + half_95],
            [i, i],
            color=plots.BLUE,
            linewidth=1.4,
            label=None if i else "95 % interval",
        )
        right.plot(
            [mean - half_90, mean + half_90],
            [i, i],
            color=plots.BLUE,
            linewidth=4.5,
            solid_capstyle="butt",
            label=None if i else "90 % interval",
        )
        right.plot(mean, i, "o", color="white", markeredgecolor=plots.BLUE, markersize=6)
    right.set_yticks(range(len(pairs)), [title.replace(" - ", " − ") for title, _, _ in pairs])
    right.set(xlabel="points of top-1", title="Differences in pairs", ylim=(len(pairs) - 0.4, -0.6))
    right.grid(False, axis="y")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=3)
    return figure


@plots.styled
def gamma_figure(runs, gates):
    """Mean gamma over the epochs, measured and predicted from the weight decay; spread of gamma;
    the reach of the gate."""
    from nam_edu.recipes import learning_rate

    recipe = Trial("nam", 0).recipe()
    steps = -(-50_000 // recipe.batch_size)
    rates = [learning_rate(recipe, s, steps) for s in range(steps * recipe.epochs)]
    sums = np.cumsum(rates)[steps - 1 :: steps]
    predicted = np.exp(-recipe.weight_decay / (1 - recipe.momentum) * sums)
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


def report(results: Path = RESULTS, documents=None):
    """Refresh every table and figure."""
    runs, gates, fixed, removed = (
        read_rows(results / f"{name}.csv") for name in ("runs", "gates", "fixed", "removed")
    )
    tables = {
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
    for path in documents or [results / "attention.md", *ROOT.glob("README*.md")]:
        insert(path, tables)
    for name, figure in (
        ("attention", main_figure(runs)),
        ("attention-gamma", gamma_figure(runs, gates)),
        ("attention-removed", removed_figure(runs, removed)),
    ):
        figure.savefig(results / f"{name}.png", dpi=110)
    print(f"tables and figures of {len(runs)} runs")
