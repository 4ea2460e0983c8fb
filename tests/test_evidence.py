"""The tables of the evidence against numbers computed another way."""

import csv
import dataclasses
import datetime
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from experiments import attention, evidence
from experiments.attention import GROUPS, RESULTS, read_rows

ROOT = Path(__file__).resolve().parent.parent


def t_density(x, degrees):
    from math import gamma, pi, sqrt

    return (
        gamma((degrees + 1) / 2)
        / (sqrt(degrees * pi) * gamma(degrees / 2))
        * (1 + x * x / degrees) ** (-(degrees + 1) / 2)
    )


@pytest.mark.parametrize("pairs", [3, 6, 7, 10, 31])
def test_students_t(pairs):
    for share in (0.90, 0.95):
        value = evidence.quantile(pairs, share)
        x = np.linspace(-value, value, 200_001)
        y = t_density(x, pairs - 1)
        inside = float(np.sum((y[1:] + y[:-1]) / 2) * (x[1] - x[0]))
        assert inside == pytest.approx(share, abs=1e-8)


def test_students_t_of_two_pairs():
    """With one degree of freedom it is Cauchy's, whose quantiles are tangents."""
    assert evidence.quantile(2, 0.90) == pytest.approx(np.tan(0.90 * np.pi / 2))


def test_a_difference_in_pairs_by_hand():
    # Differences 1, 2, 3: mean 2, standard deviation 1, standard error 1 / sqrt(3).
    pairs, mean, half_90, half_95 = evidence.difference(
        {0: 11.0, 1: 22.0, 2: 33.0, 7: 0.0}, {2: 30.0, 0: 10.0, 1: 20.0}
    )
    assert (pairs, mean) == (3, 2)
    assert half_90 == pytest.approx(2.919986 / 3**0.5)
    assert half_95 == pytest.approx(4.302653 / 3**0.5)


@pytest.mark.parametrize(
    "mean, half_90, half_95, says",
    [
        (2.0, 0.5, 0.7, "an effect"),
        (-2.0, 0.5, 0.7, "an effect"),
        (0.5, 0.3, 0.4, "an effect, smaller than the margin"),
        (0.1, 0.5, 0.7, "no effect that matters"),
        (-0.6, 0.5, 0.7, "undecided"),
        (0.0, 1.1, 1.4, "undecided"),
    ],
)
def test_the_rule(mean, half_90, half_95, says):
    assert evidence.verdict(mean, half_90, half_95) == says


def test_a_table_is_put_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- table: a b -->\nold\n<!-- end -->\nbetween\n"
        "<!-- table: c -->\nkept\n<!-- end -->\n"
    )
    evidence.insert(page, {"a b": r"| \1 |", "not there": "x"})
    assert page.read_text() == (
        "before\n<!-- table: a b -->\n| \\1 |\n<!-- end -->\nbetween\n"
        "<!-- table: c -->\nkept\n<!-- end -->\n"
    )


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


# ----------------------------------------------------------------------------- where runs come from


def a_run(trial, **about):
    """The files of a finished run of which `collect` makes its rows."""
    folder = attention.RUNS / trial.name
    folder.mkdir(parents=True)
    columns = ("loss top1 eval_cross_entropy eval_top1 eval_top5 learning_rate seconds").split()
    attention.write_rows(
        folder / "log.csv",
        [{"epoch": e + 1, **dict.fromkeys(columns, 1.5)} for e in range(trial.epochs)],
    )
    (folder / "run.json").write_text(
        json.dumps(
            {"recipe": {}, "versions": {}, "machine": "m", "started": "2026-11-30 10:00:00 +0000"}
        )
    )
    if about:
        (folder / "origin.json").write_text(json.dumps(about))


@pytest.fixture
def nothing_collected(tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(attention, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(attention, "todays_md5", lambda: "today's")
    (tmp_path / "results").mkdir()


def test_collect_keeps_what_each_run_was_made_with(nothing_collected):
    elsewhere, old, new, bare = GROUPS["main"][:4]
    row = next(r for r in read_rows(RESULTS / "runs.csv") if r["run"] == elsewhere.name)
    row = {k: v for k, v in row.items() if k not in ("commit", "started")}  # as it was written
    attention.write_rows(
        attention.RESULTS / "runs.csv",
        [{**row, "data_md5": "its own"}, {**row, "data_md5": "old", "run": old.name}],
    )
    a_run(old)
    a_run(new, commit="c" * 40, started="2026-11-30T10:00:00+00:00", data_md5="at its start")
    a_run(bare)
    for _ in range(2):  # and a second time, from its own rows
        attention.collect()
        found = {
            r["run"]: (r["data_md5"], r["commit"], r["started"])
            for r in read_rows(attention.RESULTS / "runs.csv")
        }
        assert found == {
            elsewhere.name: ("its own", "", ""),
            old.name: ("old", "", ""),
            new.name: ("at its start", "c" * 40, "2026-11-30T10:00:00+00:00"),
            bare.name: ("today's", "", ""),
        }


def test_the_origin_of_a_run_is_written_once(nothing_collected, tmp_path, monkeypatch):
    def git(*command):
        return subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t", *command],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    monkeypatch.setattr(attention, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="the commit is unknown"):
        attention.commit()
    git("init", "-q")
    (tmp_path / "nam_edu").mkdir()
    (tmp_path / "experiments").mkdir()
    (tmp_path / "nam_edu" / "a.py").write_text("1")
    with pytest.raises(SystemExit, match="not committed"):
        attention.commit()
    git("add", "nam_edu")
    git("commit", "-qm", "one")
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    attention.write_origin(folder)
    first = attention.origin(folder)
    assert first["commit"] == git("rev-parse", "HEAD").strip() and len(first["commit"]) == 40
    assert first["data_md5"] == "today's"
    assert datetime.datetime.fromisoformat(first["started"]).tzinfo is not None
    git("commit", "-qm", "two", "--allow-empty")
    attention.write_origin(folder)
    assert attention.origin(folder) == first
    older = tmp_path / "runs" / "older"
    older.mkdir()
    (older / "run.json").write_text("{}")  # begun before there were origins
    attention.write_origin(older)
    assert attention.origin(older) == {}


def test_what_the_experiments_import_is_there():
    """Imports inside functions, too, which no test runs."""
    import ast
    import importlib

    for path in (ROOT / "experiments").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("nam_edu."):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{path.name}: {node.module}.{alias.name}"
    assert dataclasses.asdict(GROUPS["main"][0].recipe())["name"] == "evidence"
