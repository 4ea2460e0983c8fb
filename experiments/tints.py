"""The positive control of lesson 7: which attention wins where a gate is needed.

    python -m experiments.tints --runs FOLDER     trains what is missing, and prints the tables

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

from experiments.markdown import table  # noqa: E402
from nam_edu.evaluation import mean_interval, predict  # noqa: E402
from nam_edu.judge import judge, train_arm  # noqa: E402
from nam_edu.recipes import change  # noqa: E402
from nam_edu.tints import tint_archive  # noqa: E402
from nam_edu.training import recipe  # noqa: E402

MODULES = ("se", "nam", "eca", "cbam")
RATES = (0.05, 0.1, 0.2)
TUNING, SEEDS = (100, 101), range(10, 16)
GATED = recipe("quick", width=8, epochs=8, batch_size=64, validation=0, crop_padding=0, flip=False)
WIDER = change(GATED, width=9)


def top1(network, split):
    return 100 * float((predict(network, split.images).argmax(1) == split.fine).mean())


def parameters(network):
    return sum(parameter.size for parameter in network.parameters())


def tuned(runs, data, validation):
    """{module: (recipe with its best rate, [top-1 of each rate], parameters)}."""
    found = {}
    for module in ("half", *MODULES):
        base = WIDER if module == "half" else GATED
        scores = []
        for rate in RATES:
            arm = module, change(base, learning_rate=rate), data, runs / f"rate-{rate:g}"
            networks = [train_arm(*arm, seed) for seed in TUNING]
            scores.append(sum(top1(network, validation) for network in networks) / len(TUNING))
        best = RATES[scores.index(max(scores))]
        found[module] = change(base, learning_rate=best), scores, parameters(networks[0])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="a folder for the runs")
    runs = parser.parse_args().runs
    data = tint_archive()
    found = tuned(runs, data, tint_archive(1, 2000, seed=1).test)
    head = ["module", "parameters", *(f"top-1 at a rate of {rate:g}" for rate in RATES)]
    rows = [[m, f"{n:,}", *(f"{s:.1f}" for s in scores)] for m, (_, scores, n) in found.items()]
    print(table(head, rows), flush=True)
    rows = []
    for module in MODULES:
        judged = judge(
            module,
            found[module][0],
            data,
            runs / "judged",
            seeds=SEEDS,
            constant_recipe=found["half"][0],
        )
        print(judged, flush=True)
        low, high = mean_interval(judged.gains, 0.95)
        low_cost, high_cost = mean_interval(judged.costs, 0.90)
        spreads = [pair.spread for pair in judged.pairs]
        rows.append(
            [
                module,
                f"{sum(pair.gated for pair in judged.pairs) / len(judged.pairs):.1f}",
                f"{sum(pair.constant for pair in judged.pairs) / len(judged.pairs):.1f}",
                f"{judged.gains.mean():+.1f}",
                f"{low:+.1f} to {high:+.1f}",
                f"{judged.costs.mean():.1f} ({low_cost:.1f} to {high_cost:.1f})",
                f"{min(spreads):.3f} to {max(spreads):.3f}",
                judged.alive,
                judged.used,
                judged.useful,
            ]
        )
    head = ["module", "top-1", "constant, wider", "gain", "95 % interval", "cost (90 % interval)"]
    print(table([*head, "spread", "alive?", "used?", "useful?"], rows))


if __name__ == "__main__":
    main()
