"""The tables of the evidence against numbers computed another way."""
import csv
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import evidence
from experiments.attention import GROUPS, RESULTS, read_rows

ROOT = Path(__file__).resolve().parent.parent


def t_density(x, degrees):
    from math import gamma, pi, sqrt

    return (gamma((degrees + 1) / 2) / (sqrt(degrees * pi) * gamma(degrees / 2))
            * (1 + x * x / degrees) ** (-(degrees + 1) / 2))


@pytest.mark.parametrize("pairs", evidence.T)
def test_students_t(pairs):
    for value, share in zip(evidence.T[pairs], (0.90, 0.95)):
        x = np.linspace(-value, value, 200_001)
        y = t_density(x, pairs - 1)
        inside = float(np.sum((y[1:] + y[:-1]) / 2) * (x[1] - x[0]))
        assert inside == pytest.approx(share, abs=2e-4)


def test_a_difference_in_pairs_by_hand():
    # Differences 1, 2, 3: mean 2, standard deviation 1, standard error 1 / sqrt(3).
    pairs, mean, half_90, half_95 = evidence.difference(
        {0: 11.0, 1: 22.0, 2: 33.0, 7: 0.0}, {2: 30.0, 0: 10.0, 1: 20.0})
    assert (pairs, mean) == (3, 2)
    assert half_90 == pytest.approx(2.920 / 3**0.5)
    assert half_95 == pytest.approx(4.303 / 3**0.5)


@pytest.mark.parametrize("mean, half_90, half_95, says", [
    (2.0, 0.5, 0.7, "an effect"), (-2.0, 0.5, 0.7, "an effect"),
    (0.5, 0.3, 0.4, "an effect, smaller than the margin"),
    (0.1, 0.5, 0.7, "no effect that matters"), (-0.6, 0.5, 0.7, "undecided"),
    (0.0, 1.1, 1.4, "undecided")])
def test_the_rule(mean, half_90, half_95, says):
    assert evidence.verdict(mean, half_90, half_95) == says


def test_a_table_is_put_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: a b -->\nold\n<!-- end -->\nbetween\n"
                    "<!-- table: c -->\nkept\n<!-- end -->\n")
    evidence.insert(page, {"a b": r"| \1 |", "not there": "x"})
    assert page.read_text() == ("before\n<!-- table: a b -->\n| \\1 |\n<!-- end -->\nbetween\n"
                                "<!-- table: c -->\nkept\n<!-- end -->\n")


def test_the_figures_of_the_pages_are_those_of_the_runs():
    """Top-1 in results/attention.md and README.md, computed again from runs.csv."""
    with open(RESULTS / "runs.csv", newline="", encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    top1 = {}
    for row in runs:
        if row["group"] == "main":
            top1.setdefault(row["attention"], []).append(float(row["top1"]))
    for page in (RESULTS / "attention.md", ROOT / "README.md", ROOT / "README.zh-CN.md"):
        text = page.read_text(encoding="utf-8")
        found = re.search(r"<!-- table: main -->\n(.*?)<!-- end -->", text, re.S)
        assert found, f"{page.name} has no main table"
        for name, title in (("none", "none"), ("half", "constant ½"), ("se", "SE"), ("nam", "NAM")):
            row = next(line for line in found[1].splitlines() if line.startswith(f"| {title} |"))
            cells = [cell.strip() for cell in row.split("|")[1:-1]]
            assert int(cells[1]) == len(top1[name])
            assert cells[2] == f"{np.mean(top1[name]):.2f} ± {np.std(top1[name], ddof=1):.2f}"


def test_every_run_of_the_tables_is_complete():
    rows = read_rows(RESULTS / "runs.csv")
    planned = {trial.name: trial for trials in GROUPS.values() for trial in trials}
    assert len({row["run"] for row in rows}) == len(rows)
    epochs = {}
    for row in read_rows(RESULTS / "curves.csv"):
        epochs.setdefault(row["run"], []).append(row)
    for row in rows:
        trial = planned[row["run"]]
        assert (row["attention"], int(row["seed"])) == (trial.attention, trial.seed)
        curve = epochs[row["run"]]
        assert [int(e["epoch"]) for e in curve] == list(range(1, trial.epochs + 1))
        assert float(curve[-1]["eval_top1"]) == pytest.approx(float(row["top1"]), abs=0.01)
        assert row["machine"] and row["date"] and row["data_md5"] and row["command"]
