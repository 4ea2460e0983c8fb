"""The positive control of lesson 7: which attention wins where a gate is needed.

    python -m experiments.tints --runs FOLDER     trains what is missing, prints the tables, and
                                                  writes them and results/tints*.csv

The images are those of `nam_edu.tints`. Every module has the best of three learning rates, chosen
with two seeds on images that are used for nothing else; then it is judged with six new seeds
against a constant gate 1/2 in a network that is wider by one channel in eight, and so has more
parameters than any of them, at the best rate of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nam_edu

nam_edu.setup(seed=0)

from experiments.attention import read_rows  # noqa: E402
from experiments.markdown import insert, table  # noqa: E402
from nam_edu.evaluation import mean_interval, predict  # noqa: E402
from nam_edu.judge import Judgement, Pair, judge, train_arm  # noqa: E402
from nam_edu.machinery.files import write_text  # noqa: E402
from nam_edu.recipes import change  # noqa: E402
from nam_edu.tints import tint_archive  # noqa: E402
from nam_edu.training import recipe  # noqa: E402

MODULES = ("se", "nam", "eca", "cbam")
RATES = (0.05, 0.1, 0.2)
TUNING, SEEDS = (100, 101), range(10, 16)
GATED = recipe("quick", width=8, epochs=8, batch_size=64, validation=0, crop_padding=0, flip=False)
WIDER = change(GATED, width=9)
RESULTS = Path(__file__).resolve().parent.parent / "results"
RATE_COLUMNS = ("module", "parameters", "rate", "seed", "top1")
PAIR_COLUMNS = ("attempt", "module", "seed", "gated", "constant", "spread", "cost")
ATTEMPT = "2"  # the first had fewer images: results/tints.md


def top1(network, split):
    return 100 * float((predict(network, split.images).argmax(1) == split.fine).mean())


def parameters(network):
    return sum(parameter.size for parameter in network.parameters())


def rates_tried(runs, data, validation):
    """A row, as `RATE_COLUMNS` says, for every module, rate and seed of the tuning."""
    rows = []
    for module in ("half", *MODULES):
        base = WIDER if module == "half" else GATED
        for rate in RATES:
            arm = module, change(base, learning_rate=rate), data, runs / f"rate-{rate:g}"
            for seed in TUNING:
                network = train_arm(*arm, seed)
                found = module, parameters(network), rate, seed, top1(network, validation)
                rows.append(dict(zip(RATE_COLUMNS, found)))
    return rows


def mean_top1(rows):
    """{module: {rate: mean top-1 over the seeds}} of the rows of `rates_tried`."""
    found = {}
    for row in rows:
        found.setdefault(row["module"], {}).setdefault(float(row["rate"]), []).append(
            float(row["top1"])
        )
    return {
        module: {rate: sum(scores) / len(scores) for rate, scores in by_rate.items()}
        for module, by_rate in found.items()
    }


def best_rates(rows):
    """{module: the rate with the highest mean}, the lower one where two are equal."""
    return {m: max(by_rate, key=by_rate.get) for m, by_rate in mean_top1(rows).items()}


def judged(runs, data, best):
    """The `Judgement` of each module, in order."""
    for module in MODULES:
        yield judge(
            module,
            change(GATED, learning_rate=best[module]),
            data,
            runs / "judged",
            seeds=SEEDS,
            constant_recipe=change(WIDER, learning_rate=best["half"]),
        )


def rates_table(rows):
    """How each rate did, and which was taken, from the rows of tints-rates.csv."""
    sizes = {row["module"]: int(row["parameters"]) for row in rows}
    best = best_rates(rows)
    head = ["module", "parameters", *(f"top-1 at a rate of {rate:g}" for rate in RATES), "taken"]
    return table(
        head,
        [
            [m, f"{sizes[m]:,}", *(f"{s:.1f}" for s in by_rate.values()), f"{best[m]:g}"]
            for m, by_rate in mean_top1(rows).items()
        ],
    )


def judgements(rows):
    """{module: its `Judgement`} from the rows of tints.csv."""
    return {
        module: Judgement(
            module,
            tuple(
                Pair(int(row["seed"]), *(float(row[name]) for name in PAIR_COLUMNS[3:]))
                for row in rows
                if row["module"] == module
            ),
        )
        for module in dict.fromkeys(row["module"] for row in rows)
    }


def answers_table(rows):
    """A line per module: accuracies, gain, cost, spread and the three words."""
    lines = []
    for module, found in judgements(rows).items():
        low, high = mean_interval(found.gains, 0.95)
        low_cost, high_cost = mean_interval(found.costs, 0.90)
        spreads = [pair.spread for pair in found.pairs]
        lines.append(
            [
                module,
                f"{sum(pair.gated for pair in found.pairs) / len(found.pairs):.1f}",
                f"{sum(pair.constant for pair in found.pairs) / len(found.pairs):.1f}",
                f"{found.gains.mean():+.1f}",
                f"{low:+.1f} to {high:+.1f}",
                f"{found.costs.mean():.1f} ({low_cost:.1f} to {high_cost:.1f})",
                f"{min(spreads):.3f} to {max(spreads):.3f}",
                found.alive,
                found.used,
                found.useful,
            ]
        )
    head = ["module", "top-1", "constant, wider", "gain", "95 % interval", "cost (90 % interval)"]
    return table([*head, "spread", "alive?", "used?", "useful?"], lines)


def pairs_table(rows):
    """Every pair."""
    head = ["module", "seed", "gate", "constant, wider", "gain", "cost", "spread"]
    lines = [
        [
            row["module"],
            row["seed"],
            f"{float(row['gated']):.2f}",
            f"{float(row['constant']):.2f}",
            f"{float(row['gated']) - float(row['constant']):+.2f}",
            f"{float(row['cost']):+.2f}",
            f"{float(row['spread']):.4f}",
        ]
        for row in rows
    ]
    return table(head, lines)


def as_csv(columns, rows):
    lines = [columns, *([row[name] for name in columns] for row in rows)]
    return "".join(",".join(map(str, line)) + "\n" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="a folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the tables go")
    arguments = parser.parse_args()
    runs, results = arguments.runs, arguments.results
    data = tint_archive()
    rates = rates_tried(runs, data, tint_archive(1, 2000, seed=1).test)
    print(rates_table(rates), flush=True)
    rows = []
    for found in judged(runs, data, best_rates(rates)):
        print(found, flush=True)
        rows += [{"attempt": ATTEMPT, "module": found.name, **vars(p)} for p in found.pairs]
    write_text(results / "tints-rates.csv", as_csv(RATE_COLUMNS, rates))
    kept = [row for row in pairs_of(results) if row["attempt"] != ATTEMPT]
    write_text(results / "tints.csv", as_csv(PAIR_COLUMNS, [*kept, *rows]))
    print(answers_table(rows))
    report(results)


def pairs_of(results):
    """The rows of tints.csv; none where there is no such file."""
    return read_rows(results / "tints.csv")


def report(results):
    """Write the tables of tints.md anew from the CSV files beside it."""
    rows, rates = pairs_of(results), read_rows(results / "tints-rates.csv")
    tables = {"tints rates": rates_table(rates) if rates else "The runs are not finished."}
    for attempt in ("1", ATTEMPT):
        own = [row for row in rows if row["attempt"] == attempt]
        tables[f"tints answers {attempt}"] = (
            answers_table(own) if own else "The runs are not finished."
        )
        tables[f"tints pairs {attempt}"] = pairs_table(own) if own else ""
    if (results / "tints.md").is_file():
        insert(results / "tints.md", tables)


if __name__ == "__main__":
    main()
