"""How often each verdict of results/protocol.md would come out, were the true difference known:
python -m experiments.power writes its tables, and those of the sentences, into the protocol.

Simulated: normal differences in pairs, 20,000 experiments a cell, the seed rule of part B included.
"""

from __future__ import annotations

import numpy as np

from experiments import protocol
from experiments.attention import RESULTS
from experiments.markdown import insert, table

DRAWS = 20_000
TRUE = (0.0, 0.2, 0.3, 0.45, 0.5, 1.0)  # points
SPREADS = (0.37, 0.5, 0.7)  # of the differences in pairs; 0.37 is that of NAM - 1/2 in the pilot


def verdicts(true, spread, seeds, margin, rng, rule=False):
    """(shares of "equal" with or without "not zero", of "undecided", of a 95 % interval above 0, of
    a 90 % interval above the margin, mean number of seeds). rule: `protocol.seeds_of_b`."""
    counts = np.full(DRAWS, seeds)
    values = rng.normal(true, spread, (DRAWS, max(seeds, protocol.MANY)))
    if rule:
        first = values[:, : protocol.FIRST].std(1, ddof=1)
        counts = np.where(first > protocol.SPREAD, protocol.MANY, protocol.FEW)
    ends = np.empty((4, DRAWS))  # of the 90 % and the 95 % interval
    for n in np.unique(counts):
        chosen = values[counts == n, :n]
        mean, error = chosen.mean(1), chosen.std(1, ddof=1) / np.sqrt(n)
        half_90, half_95 = (protocol.quantile(n, c) * error for c in (0.90, 0.95))
        ends[:, counts == n] = mean - half_90, mean + half_90, mean - half_95, mean + half_95
    low, high, low_95, high_95 = ends
    equal = (-margin < low) & (high < margin)
    beyond = (low >= margin) | (high <= -margin)
    undecided = ~equal & ~beyond & (low_95 <= 0) & (high_95 >= 0)
    return equal.mean(), undecided.mean(), (low_95 > 0).mean(), (low > margin).mean(), counts.mean()


def power_table(seeds, margin, rng, rule=False):
    """A row per spread and true difference."""
    rows = []
    for spread in SPREADS:
        for true in TRUE:
            *shares, mean = verdicts(true, spread, seeds, margin, rng, rule)
            rows.append([f"{spread:g}", f"{true:g}", *(f"{100 * s:.0f} %" for s in shares)])
            rows[-1] += [f"{mean:.1f}"] if rule else []
    head = ["spread", "true difference", f"equal to within {margin:g}", "undecided"]
    head += ["95 % interval above 0", f"90 % interval above {margin:g}"]
    return table(head + (["mean number of seeds"] if rule else []), rows)


def mechanism_table(rng):
    """Part A: how often a contrast is found, tested alone, and as the last and as the first of
    Holm's."""
    seeds, rows = len(protocol.SEEDS["a"]), []
    for spread in (0.4, 0.8):
        for true in (0.5, 1.0, 1.5, 2.0):
            values = rng.normal(true, spread, (DRAWS, seeds))
            t = values.mean(1) / (values.std(1, ddof=1) / np.sqrt(seeds))
            levels = 0.05, 0.05 / len(protocol.CONTRASTS)
            found = [(t > protocol.quantile(seeds, 1 - level)).mean() for level in levels]
            rows.append([f"{spread:g}", f"{true:g}", *(f"{100 * f:.0f} %" for f in found)])
    return table(["spread", "true difference", "found at 5 %", "at 5 % / 8"], rows)


def sentence_list(question):
    """The words of the rule, and the sentence that each earns."""
    sentences = protocol.SENTENCES[question].items()
    return "\n".join(f"- *{word}*: {sentence}." for word, sentence in sentences)


def main():
    rng = np.random.default_rng(0)
    tables = {
        "power b": power_table(protocol.FEW, protocol.MARGIN, rng, rule=True),
        "power c": power_table(len(protocol.SEEDS["c"]), protocol.MARGIN_WIDE, rng),
        "power a": mechanism_table(rng),
    }
    tables.update({f"sentences {q}": sentence_list(q) for q in protocol.SENTENCES})
    insert(RESULTS / "protocol.md", tables)
    for name, text in tables.items():
        print(f"{name}\n{text}\n")


if __name__ == "__main__":
    main()
