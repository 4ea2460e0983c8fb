"""The tables of the evidence against numbers computed another way."""

import csv
import dataclasses
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import attention, evidence, markdown, protocol, round2
from experiments.attention import GROUPS, RESULTS, read_rows
from nam_edu.data import write_archive

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
        value = protocol.quantile(pairs, share)
        x = np.linspace(-value, value, 200_001)
        y = t_density(x, pairs - 1)
        inside = float(np.sum((y[1:] + y[:-1]) / 2) * (x[1] - x[0]))
        assert inside == pytest.approx(share, abs=1e-8)


def test_students_t_of_two_pairs():
    """With one degree of freedom it is Cauchy's, whose quantiles are tangents."""
    assert protocol.quantile(2, 0.90) == pytest.approx(np.tan(0.90 * np.pi / 2))


def test_a_difference_in_pairs_by_hand():
    # Differences 1, 2, 3: mean 2, standard deviation 1, standard error 1 / sqrt(3).
    pairs, mean, half_90, half_95 = evidence.difference(
        {0: 11.0, 1: 22.0, 2: 33.0, 7: 0.0}, {2: 30.0, 0: 10.0, 1: 20.0}
    )
    assert (pairs, mean) == (3, 2)
    assert half_90 == pytest.approx(2.919986 / 3**0.5)
    assert half_95 == pytest.approx(4.302653 / 3**0.5)


@pytest.mark.parametrize(
    "pairs, mean, half_90, half_95, says",
    [
        (6, 2.0, 0.5, 0.7, "an effect"),
        (6, -2.0, 0.5, 0.7, "an effect"),
        (6, 0.5, 0.3, 0.4, "an effect, smaller than 1 point"),
        (3, 0.1, 0.5, 0.7, "equal to within 1 point"),
        (6, -0.6, 0.5, 0.7, "undecided"),
        (6, 0.0, 1.1, 1.4, "undecided"),
        (2, 2.0, 0.5, 0.7, "too few pairs"),
    ],
)
def test_the_rule(pairs, mean, half_90, half_95, says):
    assert evidence.verdict(pairs, mean, half_90, half_95) == says


def test_a_table_is_put_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- table: a b -->\nold\n<!-- end -->\nbetween\n"
        "<!-- table: c -->\nkept\n<!-- end -->\n"
    )
    markdown.insert(page, {"a b": r"| \1 |", "not there": "x"})
    assert page.read_text() == (
        "before\n<!-- table: a b -->\n| \\1 |\n<!-- end -->\nbetween\n"
        "<!-- table: c -->\nkept\n<!-- end -->\n"
    )


def test_values_are_put_into_sentences(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("about <!-- =a b -->old<!-- --> and <!-- =c --><!-- -->.")
    markdown.insert(page, {}, {"a b": r"+0.5 \1", "c": "undecided", "d": "not there"})
    assert (
        page.read_text() == "about <!-- =a b -->+0.5 \\1<!-- --> and <!-- =c -->undecided<!-- -->."
    )
    with pytest.raises(ValueError, match="nothing is known of the value 'c'"):
        markdown.insert(page, {}, {"a b": "x"})


PAGES = [
    RESULTS / "attention.md",
    *(ROOT / f"{page}{of}.md" for page in ("README", "QUESTIONS") for of in ("", ".zh-CN")),
]


def test_the_pages_are_up_to_date(tmp_path, monkeypatch):
    """A report from the rows that are committed changes nothing, in figures' stead their names."""
    for page in (*PAGES, *RESULTS.glob("*.csv")):
        shutil.copy(page, tmp_path / page.name)
    monkeypatch.setattr(evidence, "save_picture", lambda figure, path: None)
    evidence.report(tmp_path, [tmp_path / page.name for page in PAGES])
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert (tmp_path / page.name).read_text(encoding="utf-8") == text
        # At the start of a line Markdown would take the comment for a block of its own.
        assert not re.search(r"(?m)^ *<!-- =", text)


def value(name, page=PAGES[0]):
    """What stands in a page at the places of a value, which is the same at all of them."""
    text = page.read_text(encoding="utf-8")
    found = set(re.findall(rf"<!-- ={re.escape(name)} -->(.*?)<!-- -->", text))
    assert len(found) == 1, (name, found)
    return found.pop()


def test_the_words_about_the_pilot():
    """Computed apart, by NumPy and SciPy, from the rows."""
    from scipy import stats

    def rows(name):
        with open(RESULTS / f"{name}.csv", newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    runs = [r for r in rows("runs") if r["network"] == "resnet18-width32"]

    def top1(name, setting="", n=6):
        found = {
            int(r["seed"]): float(r["top1"])
            for r in runs
            if (r["attention"], r["setting"]) == (name, setting)
        }
        return np.array([found[s] for s in range(n)])

    def interval(d, level):
        low, high = stats.ttest_1samp(d, 0).confidence_interval(level)
        return f"{low:+.2f} to {high:+.2f}"

    nam, half, none, se = (top1(name) for name in ("nam", "half", "none", "se"))
    assert value("nam-none") == f"{(nam - none).mean():.2f} (95 %: {interval(nam - none, 0.95)})"
    assert value("half-none") == f"{(half - none).mean():.2f} (95 %: {interval(half - none, 0.95)})"
    d = nam - half
    assert value("nam-half") == f"{d.mean():+.2f}" == value("nam-half", PAGES[2])
    assert value("nam-half 90") == interval(d, 0.90) and value("nam-half 95") == interval(d, 0.95)
    assert value("nam-half 90 zh", PAGES[2]) == interval(d, 0.90).replace("to", "至")
    assert value("positive") == f"{(d > 0).sum()} of 6" and value("passes") == "0.54"

    def equal(margin, d=d):
        return max(
            stats.ttest_1samp(d, -margin, alternative="greater").pvalue,
            stats.ttest_1samp(d, margin, alternative="less").pvalue,
        )

    assert equal(1) < 0.05 < equal(0.53) and equal(0.545) < 0.05
    assert value("nam-half word") == "equal to within 1 point"
    assert value("nam-half at half") == "undecided"
    assert equal(1, d[3:]) < 0.05
    assert value("unknown") == (
        f"{d[3:].mean():+.2f} (90 %: {interval(d[3:], 0.90)}): equal to within 1 point"
    )
    curves = {(r["run"], int(r["epoch"])): r for r in rows("curves")}

    def curve(name, column, epochs):
        return np.array(
            [
                [float(curves[f"resnet18-width32-10-{name}-{s}", e][column]) for e in epochs]
                for s in range(6)
            ]
        ).mean(1)

    late = curve("nam", "eval_top1", range(6, 11)) - curve("half", "eval_top1", range(6, 11))
    assert value("late") == f"{late.mean():+.2f} (95 %: {interval(late, 0.95)})"
    for name, epoch in (("lead first", 1), ("lead last", 10)):
        lead = (curve("none", "loss", [epoch]) - curve("half", "loss", [epoch])).mean()
        assert value(name) == f"{lead:.3f}"

    gates = [r for r in rows("gates") if re.fullmatch(r"resnet18-width32-10-nam-\d", r["run"])]
    end = [r for r in gates if r["epoch"] == "10"]

    def span(of, low, high, digits=3):
        ends = min(float(r[low]) for r in of), max(float(r[high]) for r in of)
        return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"

    assert value("gate") == span(end, "gate_low", "gate_high") == value("gate", PAGES[1])
    assert value("gate ever") == span(gates, "gate_low", "gate_high") == "0.440 to 0.561"
    assert value("gamma") == span(end, "gamma_mean", "gamma_mean")
    far = max(max(1 - float(r["weight_low"]), float(r["weight_high"]) - 1) for r in end)
    assert value("weight") == f"{100 * far:.0f} %"
    whole = [r for r in rows("fixed") if (r["images"], r["layer"]) == ("10000", "all")]
    fixed = [r for r in whole if re.fullmatch(r"resnet18-width32-10-nam-\d", r["run"])]
    change = np.array([float(r["top1_half"]) - float(r["top1"]) for r in fixed])
    assert len(change) == 6 and value("change") == f"{change.mean():+.3f}"
    assert value("change size") == f"{abs(change).mean():.3f}" == "0.045"
    assert value("change most") == f"{abs(change).max():.2f}"
    assert value("changed") == f"{np.mean([int(r['changed_half']) for r in fixed]):.0f}"
    spatial = [r for r in whole if "nam-spatial" in r["run"]]
    learned, at_half, at_mean = (
        np.mean([float(r[c]) for r in spatial]) for c in ("top1", "top1_half", "top1_mean")
    )
    assert value("spatial half") == f"{learned - at_half:.1f}"
    assert value("spatial recovered") == f"{at_mean - at_half:.1f}"
    assert value("spatial mean") == f"{learned - at_mean:.1f}"
    both = top1("nam-spatial", n=3) - nam[:3]
    assert value("spatial-nam") == (f"{both.mean():+.2f} (95 %: {interval(both, 0.95)}): undecided")
    cbam = top1("cbam", n=3) - half[:3]
    assert value("cbam-half") == f"{cbam.mean():+.2f} (95 %: {interval(cbam, 0.95)}): undecided"
    for title, a, b in (("NAM - constant ½", nam, half), ("SE - constant ½", se, half)):
        alone = np.hypot(a.std(ddof=1), b.std(ddof=1))
        assert f"{title} {(a - b).std(ddof=1):.2f} in place of {alone:.2f}" in value("pairing")

    def decay(*rates):
        return 10 * 5e-4 * 391 * sum(rates)

    cosine = [[0.05 * (1 + np.cos(np.pi * e / n)) for e in range(n)] for n in (10, 20)]
    official = decay(*[0.1] * 60, *[0.02] * 60, *[0.004] * 40, *[0.0008] * 40)
    assert value("D") == f"{decay(*cosine[0]):.2f}"
    assert value("D shipped") == f"{decay(*cosine[1]):.2f}"
    assert value("D official") == f"{official:.1f}" == "14.5"
    assert value("predicted") == f"{np.exp(-decay(*cosine[0])):.3f}"
    assert float(value("gamma official")) == pytest.approx(np.exp(-official), rel=0.1)

    # Every difference of the tables, from the top-1 of each pair: which survive Holm's correction?
    wide = [r for r in rows("runs") if r["network"] == "resnet18-width64"]
    wide = {(r["attention"], int(r["seed"])): float(r["top1"]) for r in wide}
    wide = {k: np.array([wide[k, s] for s in (0, 1)]) for k in ("nam", "none", "half")}
    p = {}
    for title, d in (
        ("NAM - none", nam - none),
        ("constant ½ - none", half - none),
        ("NAM - constant ½", nam - half),
        ("SE - constant ½", se - half),
        ("NAM - SE", nam - se),
        ("wide 1", wide["nam"] - wide["none"]),
        ("wide 2", wide["half"] - wide["none"]),
        ("wide 3", wide["nam"] - wide["half"]),
    ):
        p[title] = stats.ttest_1samp(d, 0).pvalue
    for name, setting, n in (
        ("cbam", "", 3),
        ("eca", "", 3),
        ("nam-detached", "", 3),
        ("nam-spatial", "", 3),
        ("nam", "penalty 1e-05", 2),
        ("nam", "penalty 0.0001", 3),
        ("nam", "penalty 0.001", 2),
        ("nam", "no decay on gamma", 3),
    ):
        for other in (half, nam):
            d = top1(name, setting, n) - other[:n]
            p[f"{name} {setting} {other[0]}"] = stats.ttest_1samp(d, 0).pvalue
    assert value("contrasts") == str(len(p)) == "24"
    kept = []
    for rank, title in enumerate(sorted(p, key=p.get)):
        if p[title] >= 0.05 / (len(p) - rank):
            break
        kept.append(title)
    assert sorted(value("survivors").split(", ")) == sorted(kept)


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


@pytest.mark.parametrize("number", ["", "2"])
def test_every_run_of_the_tables_is_complete(number):
    rows = read_rows(RESULTS / f"runs{number}.csv")
    planned = {trial.name: trial for trials in GROUPS.values() for trial in trials}
    assert len({row["run"] for row in rows}) == len(rows)
    epochs = {}
    for row in read_rows(RESULTS / f"curves{number}.csv"):
        epochs.setdefault(row["run"], []).append(row)
    for row in rows:
        trial = planned[row["run"]]
        assert (row["attention"], int(row["seed"])) == (trial.attention, trial.seed)
        curve = epochs[row["run"]]
        assert [int(e["epoch"]) for e in curve] == list(range(1, trial.epochs + 1))
        assert float(curve[-1]["eval_top1"]) == pytest.approx(float(row["top1"]), abs=0.01)
        assert row["machine"] and row["date"] and row["data_md5"] and row["command"]
        assert bool(trial.part) == bool(row["commit"]) == bool(row["started"])


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
        attention.origin_file(folder).write_text(json.dumps(about))


@pytest.fixture
def nothing_collected(tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(attention, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(attention, "todays_md5", lambda: "today's")
    (tmp_path / "results").mkdir()


def test_collect_keeps_what_each_run_was_made_with(nothing_collected):
    elsewhere, old, new, bare = (t for t in GROUPS["wide"] if t.attention != "nam")
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


@pytest.fixture
def git(tmp_path, monkeypatch):
    """A function that calls git in an empty repository, which is taken for ours."""

    def call(*command):
        return subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t", *command],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    monkeypatch.setattr(attention, "ROOT", tmp_path)
    return call


def test_a_checkout_with_changes_is_refused(git, tmp_path):
    with pytest.raises(SystemExit, match="the commit is unknown"):
        attention.commit()
    git("init", "-q")
    (tmp_path / "a.py").write_text("1")
    with pytest.raises(SystemExit, match="not committed.*a.py"):
        attention.commit()
    git("add", "a.py")
    git("commit", "-qm", "one")
    first = attention.commit()
    assert first == git("rev-parse", "HEAD").strip() and len(first) == 40
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs2.csv").write_text("rows may come here while runs are made")
    assert attention.commit() == first
    (tmp_path / "a.py").write_text("2")
    with pytest.raises(SystemExit, match="not committed.*a.py"):
        attention.commit()


def test_the_origin_of_a_run_is_written_once(tmp_path):
    here = {"commit": "c" * 40, "data_md5": "d"}
    attention.write_origin(tmp_path, here)
    first = attention.origin(tmp_path)
    assert {k: first[k] for k in here} == here
    assert datetime.datetime.fromisoformat(first["started"]).tzinfo is not None
    attention.write_origin(tmp_path, {**here, "commit": "e" * 40})
    assert attention.origin(tmp_path) == first
    older = tmp_path / "older"
    older.mkdir()
    (older / "run.json").write_text("{}")  # begun before there were origins
    attention.write_origin(older, here)
    assert attention.origin(older) == {}


# ------------------------------------------------------------------------------- the second round


def small(part="a", **changes):
    return attention.Trial(**{"width": 4, "epochs": 2, "part": part, **changes})


def test_the_arms_of_a_seed_share_weights_order_and_augmentation(archive, tmp_path):
    """What goes into the network, and the weights that all arms have, before the first step."""
    from paddle.callbacks import Callback

    from nam_edu.training import fit

    class Witness(Callback):
        def on_train_begin(self, logs=None):
            network = self.model.network
            state = {n: v.numpy().copy() for n, v in network.state_dict().items()}
            self.weights = {n: a for n, a in state.items() if ".attention." not in n}
            self.inputs = []
            network.register_forward_pre_hook(
                lambda layer, inputs: self.inputs.append(inputs[0].numpy().tobytes())
            )

    for name in ("a", "rates", "b", "c"):
        trials = GROUPS[f"round2-{name}"]
        seeds = [trial.seed for trial in trials]
        arms = len(trials) // len(set(seeds))
        assert seeds == [seed for seed in protocol.SEEDS[name] for _ in range(arms)]
        first = trials[:arms]
        assert len({trial.name for trial in first}) == arms
        known = None
        for trial in first:
            trial = dataclasses.replace(
                trial, width=4, epochs=1, validation=64 if trial.validation else 0
            )
            witness = Witness()
            fit(trial.recipe(), archive, tmp_path / trial.name, progress=False, callbacks=[witness])
            known = known or witness
            assert witness.inputs == known.inputs and len(known.inputs) > 2
            assert witness.weights.keys() == known.weights.keys()
            for weight, array in witness.weights.items():
                gamma = weight.endswith("bn2.weight")
                expected = known.weights[weight] * (trial.last_gamma if gamma else 1)
                np.testing.assert_array_equal(array, expected, err_msg=weight)


def test_the_raised_decay_of_gamma_is_that_of_the_official_schedule():
    """D by hand: the sum of the rates is 391 batches times those of the epochs."""
    cosine = sum(0.1 * (1 + np.cos(np.pi * epoch / 10)) / 2 for epoch in range(10))
    official = 0.1 * (60 + 0.2 * 60 + 0.04 * 40 + 0.008 * 40)
    assert 10 * 5e-4 * 391 * official == pytest.approx(14.45, abs=0.005)
    ours = 10 * 5e-4 * 391 * cosine * protocol.GAMMA_DECAY
    assert ours == pytest.approx(10 * 5e-4 * 391 * official, rel=1e-3)
    arm = next(t for t in GROUPS["round2-a"] if t.setting.startswith("gamma decay"))
    assert arm.recipe().gamma_decay == protocol.GAMMA_DECAY


def finished_rows(part, **top1):
    """Rows of runs2.csv: kind=[top-1 of the first seed of the part, of the second, ...]."""
    return [
        {
            "run": f"{part}-{kind}-{seed}",
            "group": f"round2-{part}",
            "top1": str(value),
            "epochs": {"b": "60", "c": "20"}.get(part, "10"),
        }
        for kind, values in top1.items()
        for seed, value in zip(protocol.SEEDS[part], values)
    ]


def test_the_seeds_of_part_b(monkeypatch):
    """14 where the spread of NAM - 1/2 over the first four exceeds 0.4, else 10; its mean is
    nothing to the rule, nor are later seeds, nor the first four before all are there."""
    # Differences -s, s, -s, s around any mean have the standard deviation s * sqrt(4 / 3).
    for mean in (-3, 0, 5):
        for spread, seeds in ((0.39, 10), (0.41, 14)):
            s = spread / np.sqrt(4 / 3)
            rows = finished_rows("b", half=[50] * 6, nam=50 + mean + s * np.array([-1, 1] * 3))
            assert protocol.seeds_of("b", rows) == list(range(16, 16 + seeds))
            missing = [row for row in rows if row["run"] != "b-half-17"]
            assert protocol.seeds_of("b", missing) == list(range(16, 26))
    wild = finished_rows("b", half=[50] * 5, nam=[50, 50, 50, 50, 99])
    assert protocol.seeds_of("b", wild) == list(range(16, 26))
    monkeypatch.setattr(protocol, "CUT", {})
    asked = [t for t in GROUPS["round2-b"] if attention.wanted(t, {r["run"]: r for r in rows})]
    assert len(asked) == 3 * 14


def test_a_part_that_was_cut(monkeypatch):
    """The tables that it was cut in ask for fewer seeds, the others for all."""
    for tables, runs in (("runs2", 2 * 5), ("runs-gpu", 2 * 9)):
        monkeypatch.setattr(protocol, "CUT", {tables: {"c": 5}})
        asked = [t for t in GROUPS["round2-c"] if attention.wanted(t, {})]
        assert len(asked) == runs
    assert protocol.seeds_of("c", [], {"c": 5}) == list(range(30, 35))
    assert protocol.seeds_of("c", [], {"b": 5}) == list(range(30, 39))


def samples():
    rng = np.random.default_rng(3)
    for n in (4, 6, 10, 14):
        for mean in (-2, -0.6, -0.3, 0, 0.1, 0.3, 0.5, 0.9, 2):
            for spread in (0.1, 0.4, 1.0):
                yield list(rng.normal(mean, spread, n))


def test_the_words_of_the_protocol_are_those_of_its_tests():
    """By SciPy's own t-tests, one- and two-sided, in place of intervals."""
    from scipy.stats import ttest_1samp

    def p(values, against, alternative):
        return ttest_1samp(values, against, alternative=alternative).pvalue

    seen = set()
    for values in samples():
        higher = p(values, -0.5, "greater") < 0.05
        lower = p(values, 0.5, "less") < 0.05
        effect = p(values, 0, "two-sided") < 0.05
        if higher and lower:
            word = "equal, not zero" if effect else "equal"
        elif p(values, 0.5, "greater") < 0.05:
            word = "above"
        elif p(values, -0.5, "less") < 0.05:
            word = "below"
        elif effect:
            word = "higher" if np.mean(values) > 0 else "lower"
        else:
            word = "undecided"
        assert protocol.equality(values, 0.5) == word
        seen.add(word)
        above = p(values, 0.5, "greater") < 0.05
        assert protocol.against(values, 0.5) == (
            "above" if above else "below" if lower else "undecided"
        )
        assert protocol.used(values) == ("used" if above else "not used" if lower else "undecided")
        better = effect and np.mean(values) > 0
        small = higher and lower
        useful = "useful" + (", by less than the margin" if small else "")
        if not better:
            useful = "not useful" if lower or effect else "undecided"
        assert protocol.useful(values) == useful, (values, word)
        assert protocol.p_value(values) == pytest.approx(p(values, 0, "two-sided"))
        assert protocol.interval(values, 0.95) == pytest.approx(
            tuple(ttest_1samp(values, 0).confidence_interval(0.95))
        )
    assert seen == set(protocol.SENTENCES[protocol.QUESTION_B])


def test_holm():
    """By definition: the sorted p-values against 0.05 / 4, / 3, ..., until one is not below."""
    assert protocol.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    rng = np.random.default_rng(0)
    for _ in range(100):
        values = list(rng.beta(0.3, 3, 8))
        rejected = set()
        for rank, i in enumerate(np.argsort(values)):
            if values[i] >= 0.05 / (8 - rank):
                break
            rejected.add(i)
        assert {i for i, p in enumerate(protocol.holm(values)) if p < 0.05} == rejected


def test_a_gate_is_alive():
    assert protocol.alive({"a": [0.001, 0.06], "b": [0.2, 0.0]}) == "alive"
    assert protocol.alive({"a": [0.001, 0.049], "b": [0.0, 0.02]}) == "not alive"
    assert protocol.alive({"a": [0.001, 0.06], "b": [0.0, 0.02]}) == "alive in 1 of 2"


def test_the_2x2_by_hand():
    rows = finished_rows("a", **{"none": [45], "half": [47], "none-last-gamma-0.5": [46.5]})
    rows += finished_rows("a", **{"half-last-gamma-2": [45.4]})
    found = {name: protocol.combination(rows, w) for name, w in protocol.CONTRASTS.items()}
    # Scale: 46.5 - 45 and 47 - 45.4. Gate: 45.4 - 45 and 47 - 46.5. Means: 1.55 and 0.45.
    assert found["initial scale ½ - 1 (2x2)"] == {6: pytest.approx(1.55)}
    assert found["gate ½ - 1 at the same initial scale (2x2)"] == {6: pytest.approx(0.45)}
    kinds = {t.name.rpartition("-")[0] for t in GROUPS["round2-a"]}
    assert kinds == {kind for weights in protocol.CONTRASTS.values() for kind in weights}


def test_the_protocol_holds_its_numbers_and_sentences():
    text = (RESULTS / "protocol.md").read_text(encoding="utf-8")
    for question, sentences in protocol.SENTENCES.items():
        part = text.split(f"<!-- table: sentences {question} -->")[1].split("<!-- end -->")[0]
        for word, sentence in sentences.items():
            assert f"- *{word}*: {sentence}." in part
    for number in (protocol.SPREAD, protocol.GAMMA_DECAY, protocol.ALIVE, protocol.USED):
        assert f"{number:g}" in text


def test_the_power_of_the_protocol():
    """One row of part C by drawing each experiment alone and asking the rule itself."""
    rng = np.random.default_rng(8)
    words = [protocol.equality(list(rng.normal(0.45, 0.7, 9)), 1.0) for _ in range(2000)]
    equal = np.mean([word.startswith("equal") for word in words])
    text = (RESULTS / "protocol.md").read_text(encoding="utf-8")
    part = text.split("<!-- table: power c -->")[1].split("<!-- end -->")[0]
    row = next(line for line in part.splitlines() if line.startswith("| 0.7 | 0.45 |"))
    assert 100 * equal == pytest.approx(float(row.split("|")[3].strip(" %")), abs=3.5)


SHIFTS = {  # of part A, in points beside none
    "none": 0.0,
    "none-last-gamma-0.5": 1.9,
    "half": 2.0,
    "half-last-gamma-2": 0.1,
    "quarter": 2.02,
    "nam": 2.1,
    "nam-times-c": 0.5,
    "nam-gamma-decay-13.44": 2.05,
    "nam-gate-only": -9.0,
}


def a_round(seed, b=(0.0, 1.0), c=0.0, spread=0.2):
    """Rows of a whole second round. b: NAM - 1/2 and 1/2 - none of part B; c: NAM - 1/2 of C."""
    rng = np.random.default_rng(seed)

    def runs(part, shifts):
        base = {s: 50 + rng.normal() for s in protocol.SEEDS[part]}
        for s in protocol.seeds_of(part, rows) if part != "b" else protocol.SEEDS["b"][:10]:
            for kind, shift in shifts.items():
                top1 = base[s] + shift + rng.normal(0, spread / 2**0.5)
                rows.append(
                    {
                        "run": f"{part}-{kind}-{s}",
                        "attention": kind.split("-rate")[0].split("-last")[0],
                        "seed": str(s),
                        "top1": f"{top1:.4f}",
                        "top5": "77",
                        "cross_entropy": "2",
                        "train_top1": "60",
                        "epochs": {"b": "60", "c": "20"}.get(part, "10"),
                        "commit": "c" * 40,
                        "started": "2026-11-30T10:00:00+00:00",
                        "data_md5": "d",
                        "machine": "m",
                        "versions": "v",
                    }
                )

    rows = []
    runs("a", SHIFTS)
    rates = {0.05: 1.0, 0.1: 0.0, 0.2: -1.0}
    runs(
        "rates",
        {
            f"{k}-rate-{r:g}": (k == "half") * 1.5 + v
            for r, v in rates.items()
            for k in ("none", "half")
        },
    )
    runs("b", {"none": 0.0, "half": b[1], "nam": b[1] + b[0]})
    runs("c", {"nam": c, "half": 0.0})
    gated = [r for r in rows if "nam" in r["run"]]
    gates = [
        {
            "run": r["run"],
            "epoch": epoch,
            "layer": layer,
            "gamma_mean": "0.5",
            "weight_low": "0.9",
            "weight_high": "1.1",
            "gate_low": "0.4",
            "gate_high": "0.6",
            "gate_std": std,
            "gate_profile_std": "0.001",
        }
        for r in gated
        for epoch, std in (
            ("1", "0.4"),
            (r["epochs"], "0.21" if "times-c" in r["run"] else "0.003"),
        )
        for layer in ("layer1", "layer2")
    ]
    fixed = [
        {
            "run": r["run"],
            "layer": layer,
            "top1": r["top1"],
            "top1_half": f"{float(r['top1']) - (7 if 'times-c' in r['run'] else 0.01):.4f}",
            "top1_layer": f"{float(r['top1']) - (3 if 'times-c' in r['run'] else 0.02):.4f}",
            "top1_mean": r["top1"],
        }
        for r in gated
        for layer in ("all", "layer1")
    ]
    for i, row in enumerate(fixed):  # costs that are not all the same
        row["top1_half"] = f"{float(row['top1_half']) + 0.01 * (i % 3):.4f}"
    return SimpleNamespace(runs=rows, curves=[], gates=gates, fixed=fixed, cut={})


def paired(rows, a, b):
    top1 = {r["run"]: float(r["top1"]) for r in rows}
    seeds = [r["run"].rpartition("-")[2] for r in rows if r["run"].rpartition("-")[0] == a]
    return np.array([top1[f"{a}-{s}"] - top1[f"{b}-{s}"] for s in seeds])


def test_what_is_inside_the_networks_of_part_b():
    """The numbers of the page against results/*-gpu.csv, counted here by other means."""
    from scipy import stats

    numbers = {"epochs", "seed", "top1", "epoch", "gamma_mean", "weight_low", "weight_high"}
    numbers |= {"gate_low", "gate_high", "gate_std"}

    def columns(name):
        with open(ROOT / "results" / f"{name}-gpu.csv", newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
        return {
            c: np.array([float(r[c]) if c in numbers else r[c] for r in found]) for c in found[0]
        }

    gates, runs = columns("gates"), columns("runs")
    last = np.char.startswith(gates["run"], "b-nam-") & (gates["epoch"] == 60)
    end = {column: values[last] for column, values in gates.items()}
    assert last.sum() == 8 * 12
    assert value("b gamma") == f"{end['gamma_mean'].min():.4f} to {end['gamma_mean'].max():.4f}"
    assert value("b weights") == f"{end['weight_low'].min():.0f} to {end['weight_high'].max():.0f}"
    assert value("b gates") == f"{end['gate_low'].min():.2f} to {end['gate_high'].max():.2f}"
    assert value("b spread") == f"{end['gate_std'].max():.4f}"
    d = 10 * 5e-4 * 391 * sum(0.05 * (1 + np.cos(np.pi * e / 60)) for e in range(60))
    assert (value("b D"), value("b decay")) == (f"{d:.2f}", f"{np.exp(-d):.4f}")
    by_seed = np.argsort(runs["seed"])
    nam, half, none = (
        runs["top1"][by_seed][((runs["epochs"] == 60) & (runs["attention"] == k))[by_seed]]
        for k in ("nam", "half", "none")
    )
    assert value("b apart") == f"{(nam - half).std(ddof=1):.2f}"
    questions = ROOT / "QUESTIONS.md"
    for name, page, found, confidence in (
        ("b pair", questions, nam - half, 0.90),
        ("b half", PAGES[0], half - none, 0.95),
    ):
        low, high = stats.t.interval(confidence, 11, found.mean(), stats.sem(found))
        of = f"{100 * confidence:.0f} %"
        assert value(name, page) == f"{found.mean():+.2f} ({of}: {low:+.2f} to {high:+.2f})"
    page = (ROOT / "results" / "attention.md").read_text(encoding="utf-8")
    line = re.search(r"<!-- table: gpu inside -->.*?\n\| layer1\.0 \| (.*?) \|\n", page, re.S)[1]
    first = end["layer"] == "layer1.0.attention.channel"
    for said, low, high, digits in zip(
        line.split(" | "), ("gamma_mean", "weight_low"), ("gamma_mean", "weight_high"), (4, 2)
    ):
        low, high = end[low][first].min(), end[high][first].max()
        assert said == f"{low:.{digits}f} to {high:.{digits}f}"


def test_what_the_page_says_of_the_rates():
    from scipy import stats

    with open(ROOT / "results" / "runs2.csv", newline="", encoding="utf-8") as file:
        runs = {row["run"]: float(row["top1"]) for row in csv.DictReader(file)}
    best = {}
    for name in ("none", "half"):
        tried = {
            rate: np.array([runs[f"rates-{name}-rate-{rate}-{seed}"] for seed in (12, 13, 14, 15)])
            for rate in ("0.05", "0.1", "0.2")
        }
        rate = max(tried, key=lambda rate: tried[rate].mean())
        assert value(f"rate {name}") == rate
        best[name] = tried[rate]
    d = best["half"] - best["none"]
    low, high = stats.t.interval(0.95, 3, d.mean(), stats.sem(d))
    assert value("rates") == f"{d.mean():+.2f} (95 %: {low:+.2f} to {high:+.2f})"


def test_what_the_questions_say_of_the_gate_alone():
    from scipy import stats

    data = a_round(1)
    d = paired(data.runs, "a-nam-gate-only", "a-nam")
    low, high = stats.t.interval(0.95, len(d) - 1, d.mean(), stats.sem(d))
    numbers = [f"{d.mean():+.2f}", str(len(d)), "95", f"{low:+.2f}", f"{high:+.2f}"]
    nothing = a_round(1)
    nothing.runs = []
    said = {n: text.replace("top-1", "") for n, text in round2.values(nothing, data).items()}
    assert re.findall(r"[+-]?\d+(?:\.\d+)?", said["gate only"]) == numbers
    assert sorted(re.findall(r"[+-]?\d+(?:\.\d+)?", said["gate only zh"])) == sorted(numbers)
    top1 = {row["run"]: float(row["top1"]) for row in data.runs}
    d = np.array([top1[f"a-nam-times-c-{s}"] - top1[f"a-half-{s}"] for s in protocol.SEEDS["a"]])
    low, high = stats.t.interval(0.95, len(d) - 1, d.mean(), stats.sem(d))
    both = round2.values(data, nothing)
    assert both["a moving"] == f"{d.mean():+.2f} (95 %: {low:+.2f} to {high:+.2f})"
    assert both["a moving zh"] == f"{d.mean():+.2f}（95 %：{low:+.2f} 至 {high:+.2f}）"
    assert round2.values(nothing, data)["a scale"] == "?"
    data.runs = [row for row in data.runs if row["run"] != "a-nam-6"]
    text = "5 of 6 pairs are finished so far in Paddle, and there is no verdict"
    assert text in round2.values(data, nothing)["gate only"]
    assert text in round2.values(data, data)["gate only"]
    whole = a_round(1)
    assert round2.values(whole, data)["gate only"].startswith("in Paddle the gate alone")
    assert round2.values(data, whole)["gate only"].startswith("in PyTorch the gate alone")


def test_the_outcomes_of_a_round():
    """By SciPy, for rounds with differences that are known, undecided ones included."""
    from scipy import stats

    def tost(d, margin):
        return max(
            stats.ttest_1samp(d, -margin, alternative="greater").pvalue,
            stats.ttest_1samp(d, margin, alternative="less").pvalue,
        )

    cases = {
        "equal": (a_round(1), True, False),
        "above": (a_round(2, b=(1.5, 0.0), c=3.0), False, True),
        "undecided": (a_round(26, b=(0.3, 0.5), c=0.8, spread=0.5), False, False),
    }
    for expected, (data, equal, better) in cases.items():
        b, c = round2.part_of("b", data), round2.part_of("c", data)
        assert b.finished and c.finished and (len(b.runs), len(c.runs)) == (30, 18)
        (_, d, word), (_, gain, gain_word) = round2.outcomes(b)
        assert d == pytest.approx(list(paired(data.runs, "b-nam", "b-half")))
        assert (tost(d, 0.5) < 0.05) == word.startswith("equal") == equal
        above = stats.ttest_1samp(d, 0.5, alternative="greater").pvalue < 0.05
        assert above == (word == "above") == better
        assert (word == "undecided") == (expected == "undecided")
        more = stats.ttest_1samp(gain, 0.5, alternative="greater").pvalue < 0.05
        assert (gain_word == "above") == more == (expected == "equal")
        ((_, wide, wide_word),) = round2.outcomes(c)
        assert (tost(wide, 1.0) < 0.05) == wide_word.startswith("equal")
        text = round2.in_short(data)
        low, high = stats.ttest_1samp(d, 0).confidence_interval(0.95)
        said = protocol.SENTENCES[protocol.QUESTION_B][word]
        assert f"- **{said}**: {np.mean(d):+.2f} (95 %: {low:+.2f} to {high:+.2f};" in text
        # The second question is confirmed only behind an equality.
        second = protocol.SENTENCES[protocol.SECOND_B][gain_word]
        assert (
            f"**{second}** (exploratory, since the first did not come out as equal)" in text
        ) == (not equal)
        assert "no verdict" not in text


def test_part_a_and_the_rates_of_a_round():
    from scipy import stats

    data = a_round(4)
    found = round2.outcomes(round2.part_of("a", data))
    words = {title: word for title, _, word in found}
    p = [stats.ttest_1samp(values, 0).pvalue for _, values, _ in found]
    order = np.argsort(p)
    rejected = set()
    for rank, i in enumerate(order):
        if p[i] >= 0.05 / (8 - rank):
            break
        rejected.add(found[i][0])
    assert {title for title, word in words.items() if word != "undecided"} == rejected
    assert words["constant ½ - none"] == words["initial scale ½ - 1 (2x2)"] == "higher"
    assert words["NAM, W times C - constant ½"] == words["NAM, gate only - NAM"] == "lower"
    assert words["constant ¼ - constant ½"] == "undecided"
    rates = round2.part_of("rates", data)
    assert round2.best_rates(rates) == {
        "none": "rates-none-rate-0.05",
        "half": "rates-half-rate-0.05",
    }
    ((_, values, word),) = round2.outcomes(rates)
    assert values == pytest.approx(
        list(paired(data.runs, "rates-half-rate-0.05", "rates-none-rate-0.05"))
    )
    assert word == "higher"


def test_alive_used_and_useful_of_a_round():
    data = a_round(5, b=(0.0, 1.0))
    *_, alive, used, useful = round2.gate_words(data, "a-nam-times-c")
    assert (alive, used, useful) == ("alive", "used", "not useful")
    networks, spread, costs, alive, used, useful = round2.gate_words(data, "b-nam")
    assert (networks, spread, alive, used) == (10, (0.003, 0.003), "not alive", "not used")
    assert useful == "not useful" and costs[1] == pytest.approx(0.02)
    assert round2.gate_words(a_round(5, b=(1.5, 1.0)), "b-nam")[-1] == "useful"
    line = "- The gate of NAM (part B): not alive; not used; not useful."
    assert line in round2.gates_in_short(data).splitlines()
    # A gate whose layers' means do as well is not used, however much 1/2 costs.
    for row in data.fixed:
        if row["run"].startswith("a-nam-times-c"):
            row["top1_layer"] = f"{float(row['top1']) - 0.1 - 0.01 * int(row['run'][-1]):.4f}"
    assert round2.gate_words(data, "a-nam-times-c")[4] == "not used"


def test_a_round_that_is_not_finished(tmp_path):
    """Nothing, a single run, half of each part, all but one: no verdict, and no error."""
    whole = a_round(6)
    lacking = [r for r in whole.runs if r["run"] != "b-none-25"]
    for runs in ([], whole.runs[:1], whole.runs[::2], lacking):
        names = {r["run"] for r in runs}
        data = SimpleNamespace(
            runs=runs,
            curves=[],
            gates=[r for r in whole.gates if r["run"] in names],
            fixed=[r for r in whole.fixed if r["run"] in names],
            cut={},
        )
        found = round2.tables(data, [])
        assert "no verdict before all of them are finished" in found["round2 b"]
        for line in found["round2 b"].splitlines():
            if line.startswith("| NAM -") or line.startswith("| constant ½ -"):
                assert line.endswith("| no verdict |")
        assert protocol.SENTENCES[protocol.QUESTION_B]["equal"] not in found["round2 answers"]
        assert (round2.figure(data) is not None) == (len(runs) > 1)
        if len(runs) > 1:
            round2.figure(data).savefig(tmp_path / "figure.png")
    assert "Part B: 29 of 30 runs finished so far" in found["round2 answers"]
    assert (
        "| no verdict |" not in found["round2 c"] and "All 18 runs finished." in found["round2 c"]
    )


def test_a_part_that_is_cut_is_judged_by_its_complete_seeds():
    data = a_round(7)
    data.runs = [r for r in data.runs if r["run"] not in ("c-half-38", "c-nam-37")]
    assert not round2.part_of("c", data).finished
    data.cut = {"c": 7}
    part = round2.part_of("c", data)
    assert part.finished and len(round2.outcomes(part)[0][1]) == 7
    assert part.progress.startswith("cut after 7 of 9 seeds, for want of time; all 14 runs")
    assert "(cut after 7 of 9 seeds)" in round2.in_short(data)
    assert "cut" not in round2.part_of("b", data).progress


@pytest.mark.parametrize("seeds, runs", [(4, 8), (3, 6), (0, 0)])
def test_a_verdict_needs_four_seeds(seeds, runs):
    data = a_round(7)
    data.cut = {"c": seeds}
    part = round2.part_of("c", data)
    assert len(part.runs) == runs and part.finished == (seeds == 4)
    text = round2.tables(data, [])["round2 c"]
    said = {
        4: "Cut after 4 of 9 seeds, for want of time; all 8 runs finished.",
        3: "needs at least 4",
        0: "Not made, for want",
    }
    assert said[seeds] in text
    assert ("| no verdict |" in text) == (seeds == 3)
    assert ("- Not made, for want of time: part C." in round2.in_short(data)) == (seeds == 0)
    spoken = protocol.SENTENCES[protocol.QUESTION_C].values()
    assert any(s in round2.in_short(data) for s in spoken) == (seeds == 4)


def test_the_run_that_is_repeated():
    pilot = [{"run": "resnet18-width32-10-nam-0", "eval_top1": "20", "loss": "3.5"}] * 10
    data = a_round(8)
    assert round2.repeat_table(data, pilot) == ""
    data.curves = [{"run": "repeat-nam-0", "eval_top1": "21.5", "loss": "3.25"}] * 10
    last = round2.repeat_table(data, pilot).splitlines()[-1]
    assert last == "| 10 | 20.00 | 21.50 | 3.500 | 3.250 |"


@pytest.fixture
def small_round(archive, nothing_collected, tmp_path, monkeypatch):
    """Runs on a small archive, whose commit is taken for known."""
    path = write_archive(tmp_path / "data.tar.gz", archive)
    monkeypatch.setenv("NAM_EDU_CIFAR100", str(path))
    monkeypatch.setattr(attention, "commit", lambda: "c" * 40)
    trials = [small(attention="nam", seed=6, epochs=11), small(attention="half", seed=6, epochs=80)]
    for groups in (attention.GROUPS, attention.ROUND_2):
        monkeypatch.setitem(groups, "round2-a", trials)
    return trials


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


def test_a_round_is_stopped_goes_on_and_is_kept(small_round, capfd):
    """SIGTERM in mid-run; then on to the end; then the folders of the runs are lost."""
    nam, half = small_round
    log = attention.RUNS / half.name / "log.csv"

    def kill():
        give_up = time.monotonic() + 60
        while len(read_rows(log)) < 3 and time.monotonic() < give_up:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    made = attention.run(["round2-a"], processes=2)
    thread.join()
    assert made
    assert 3 <= len(read_rows(log)) < half.epochs
    assert f"{half.name}: stopped" in capfd.readouterr().out
    assert attention.run(["round2-a"], processes=1)
    out = capfd.readouterr().out
    assert f"{half.name}: done" in out
    assert "going on after epoch" in (attention.RUNS / f"{half.name}.log").read_text()

    rows = {row["run"]: row for row in read_rows(attention.RESULTS / "runs2.csv")}
    assert set(rows) == {nam.name, half.name}
    for row in rows.values():
        assert row["commit"] == "c" * 40 and row["data_md5"] == "today's"
        assert datetime.datetime.fromisoformat(row["started"]).tzinfo is not None
        assert row["evaluated_on"] == "test"
    curves = read_rows(attention.RESULTS / "curves2.csv")
    for trial in (nam, half):
        epochs = [int(row["epoch"]) for row in curves if row["run"] == trial.name]
        assert epochs == list(range(1, trial.epochs + 1))
    gates = read_rows(attention.RESULTS / "gates2.csv")
    assert [int(row["epoch"]) for row in gates[::8]] == list(range(1, 11))  # 8 layers; not the 11th
    fixed = read_rows(attention.RESULTS / "fixed2.csv")
    assert [row["layer"] for row in fixed][0] == "all" and len(fixed) == 9
    assert {row["images"] for row in fixed} == {"200"}
    assert fixed[0]["top1"] == rows[nam.name]["top1"]

    kept = bytes_of(attention.RESULTS)
    attention.collect()
    assert bytes_of(attention.RESULTS) == kept
    shutil.rmtree(attention.RUNS)
    attention.RUNS.mkdir()
    assert attention.run(["round2-a"], processes=2)
    assert "0 runs to make" in capfd.readouterr().out
    assert bytes_of(attention.RESULTS) == kept
    attention.status()
    assert "round2-a         2 of   2 done" in capfd.readouterr().out


def test_a_round_of_two_commits_is_refused(small_round, monkeypatch):
    made = {"run": "a-half-6", "group": "round2-a", "network": "resnet18-width4", "top1": "1"}
    made.update(commit="d" * 40, data_md5="today's")
    attention.write_rows(attention.RESULTS / "runs2.csv", [made])
    with pytest.raises(SystemExit, match="a-half-6 was made with commit ddd.*worktree"):
        attention.run(["round2-a"], processes=2)
    made.update(commit="c" * 40, data_md5="another")
    attention.write_rows(attention.RESULTS / "runs2.csv", [made])
    with pytest.raises(SystemExit, match="made with data_md5 another"):
        attention.run(["round2-a"], processes=2)


def test_a_run_that_fails_is_named_and_the_others_are_made(small_round, capfd):
    nam, half = small_round
    folder = attention.RUNS / nam.name
    folder.mkdir(parents=True)
    (folder / "stranger").write_text("this is no run")
    assert not attention.run(["round2-a"], processes=2)
    out = capfd.readouterr().out
    assert f"{nam.name}: FAILED" in out and f"{half.name}: done" in out


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
