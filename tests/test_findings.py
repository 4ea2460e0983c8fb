"""What the lessons read from results/, and the words, against the report's own code, which counts
by itself and takes Student's t from SciPy."""

import csv
import random
import statistics

import numpy as np
import pytest
from experiments import evidence, protocol
from experiments.attention import RESULTS, read_rows

from nam_edu import findings, lessons
from nam_edu.evaluation import mean_interval, student_t, verdict

RUNS = read_rows(RESULTS / "runs.csv")


def draws(count=300):
    """Lists of differences, around 0 and the margin, some narrow."""
    rng = random.Random(0)
    for _ in range(count):
        mean, spread = rng.choice((-1, -0.5, 0, 0.2, 0.5, 1)), rng.choice((0.05, 0.2, 0.4, 1))
        yield [rng.gauss(mean, spread) for _ in range(rng.choice((3, 6, 10, 14)))]


@pytest.mark.parametrize("confidence", (0.9, 0.95, 0.99))
def test_student_t(confidence):
    for n in (2, 3, 4, 5, 6, 7, 10, 14, 33, 200):
        assert student_t(n, confidence) == pytest.approx(protocol.quantile(n, confidence), rel=1e-9)


@pytest.mark.parametrize("n, confidence", [(1, 0.9), (6, 0), (6, 1), (6, 95)])
def test_student_t_needs_two_values_and_a_share(n, confidence):
    with pytest.raises(ValueError, match="at least two values and a confidence between 0 and 1"):
        student_t(n, confidence)


def test_intervals_and_words_are_those_of_the_protocol():
    said = set()
    for values in draws():
        assert mean_interval(values, 0.9) == pytest.approx(protocol.interval(values, 0.9))
        for margin in (0.5, 1.0):
            assert verdict(values, margin) == protocol.equality(values, margin)
            said.add(verdict(values, margin))
        assert findings.useful(values) == protocol.useful(values)
        assert findings.used(values) == protocol.used(values)
    assert said == {"equal", "equal, not zero", "above", "below", "higher", "lower", "undecided"}


@pytest.mark.parametrize(
    "spreads", [{"a": [0.01, 0.06], "b": [0.05]}, {"a": [0.049]}, {"a": [0.2], "b": [0.01]}]
)
def test_alive_is_that_of_the_protocol(spreads):
    rows = [{"run": run, "gate_std": str(s)} for run, of_run in spreads.items() for s in of_run]
    assert findings.alive(rows) == protocol.alive(spreads)


def test_the_constants_are_those_of_the_protocol():
    assert findings.MARGIN == evidence.MARGIN and findings.MARGIN_2 == protocol.MARGIN
    assert (findings.ALIVE, findings.USED) == (protocol.ALIVE, protocol.USED)


def test_the_pilot_in_pairs():
    for title, a, b in evidence.main_pairs():
        a, b = evidence.by_seed(RUNS, **a), evidence.by_seed(RUNS, **b)
        top1 = findings.pilot()
        assert a in top1.values() and b in top1.values()
        names = [name for seeds in (a, b) for name in top1 if top1[name] == seeds]
        d = findings.in_pairs(top1, *names)
        assert d.mean() == pytest.approx(evidence.difference(a, b)[1]), title
    assert findings.in_pairs({"a": {1: 2.0, 2: 5.0}, "b": {2: 1.0, 3: 0.0}}, "a", "b") == [4.0]
    assert len(findings.in_pairs({}, "a", "b")) == 0


def test_the_table_of_words():
    table = findings.words()
    rows = {line[:22].strip(): line[22:].split() for line in table.splitlines()[1:]}
    fixed = [r for r in read_rows(RESULTS / "fixed.csv") if r["images"] == "10000"]
    for title, end in evidence.nam_kinds(RUNS, [r for r in fixed if r["layer"] == "all"]):
        cost = statistics.mean(float(r["top1"]) - float(r["top1_half"]) for r in end)
        changed = statistics.mean(float(r["changed_half"]) for r in end)
        name = title.replace("NAM, W detached", "nam-detached").replace("NAM", "nam")
        name = name.replace("nam, channel + spatial", "nam-spatial")
        runs, _, costs, changes = rows[name][:4]
        assert int(runs) == len(end) and float(costs) == pytest.approx(cost, abs=0.006)
        assert float(changes) == pytest.approx(changed, abs=0.51)
    assert len(rows) == len(list(evidence.nam_kinds(RUNS, fixed)))
    assert rows["nam"][-4:] == ["alive", "not", "used", "undecided"]
    assert rows["nam-spatial"][-3:] == ["alive", "used", "undecided"]


def test_settings_and_channels_removed():
    gates = read_rows(RESULTS / "gates.csv")
    for setting, (recipe, low, high, pairs) in findings.settings().items():
        kind = evidence.kind("nam", setting)
        assert (low, high) == evidence.span(evidence.at_the_end(gates, RUNS, kind), "gamma_mean")
        own, plain = (evidence.by_seed(RUNS, **k) for k in (kind, evidence.kind("nam")))
        assert sorted(pairs) == pytest.approx(sorted(own[s] - plain[s] for s in own))
        assert (recipe.penalty > 0) == setting.startswith("penalty")
        assert (recipe.gamma_decay == 0) == (setting == "no decay on gamma")
    end = evidence.at_the_end(gates, RUNS, evidence.kind("nam"))
    assert findings.weight_range() == evidence.span(end, "weight_low", "weight_high")
    removed = read_rows(RESULTS / "removed.csv")
    scores = evidence.removed_scores(RUNS, removed, evidence.kind("nam"))
    for (of, order), by_share in findings.channels_removed().items():
        for share, values in by_share.items():
            own, chance = scores[of, order, f"{share:g}"], scores["", "random", f"{share:g}"]
            assert sorted(values) == pytest.approx(sorted(own[r] - chance[r] for r in own))


def test_pixels_of_the_pixel_attention():
    for layer, pixels, low, high in findings.pixel_gates():
        assert 0 <= low < 0.5 < high <= 1 and pixels == {1: 64, 2: 16, 3: 4, 4: 1}[int(layer[5])]


ROUNDS = pytest.mark.parametrize("which, end", [("round2", "2"), ("gpu", "-gpu")])


def test_rounds_have_their_tables():
    assert set(findings.ROUNDS.values()) == {"round2", "gpu"}
    for which in findings.ROUNDS.values():
        assert "- Part A" in findings.said(f"{which} answers")


@ROUNDS
def test_the_second_round_before_and_after_its_first_runs(which, end, tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    (tmp_path / "nam_edu").mkdir()
    for name in ("attention.md", "runs.csv"):
        (tmp_path / "results" / name).write_text((RESULTS / name).read_text(encoding="utf-8"))
    for module in (lessons, findings):
        monkeypatch.setattr(module, "__file__", str(tmp_path / "nam_edu" / "lessons.py"))
    assert lessons.results(f"runs{end}") == []
    assert findings.second_round_in_pairs(which) == {}
    rows = ["run,top1", "b-nam-16,60", "b-half-16,59.5", "b-nam-17,61", "b-half-17,61.25"]
    (tmp_path / "results" / f"runs{end}.csv").write_text("\n".join([*rows, "c-nam-30,70"]))
    ((title, d),) = findings.second_round_in_pairs(which).items()
    assert title == "60 epochs: NAM − constant ½" and np.allclose(d, [0.5, -0.25])
    assert findings.said("no such table") == ""


@ROUNDS
def test_gates_of_part_a_as_far_as_they_are_there(which, end, tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    (tmp_path / "nam_edu").mkdir()
    for module in (lessons, findings):
        monkeypatch.setattr(module, "__file__", str(tmp_path / "nam_edu" / "lessons.py"))
    (tmp_path / "results" / "attention.md").touch()
    assert findings.gates_in_pairs(which) == {}
    assert len(findings.spreads_of_round_two(which, "a-nam-times-c")) == 0
    rows = ["run,top1,epochs", "a-half-6,49,10", "a-half-7,50,10", "a-nam-6,50,10"]
    rows += ["a-nam-times-c-6,48.5,10", "a-nam-times-c-7,50.5,10", "a-none-last-gamma-0.5-7,49,10"]
    (tmp_path / "results" / f"runs{end}.csv").write_text("\n".join(rows))
    found = findings.gates_in_pairs(which)
    assert {title: list(d) for title, d in found.items()} == {
        "no gate, last γ starts at ½": [-1],
        "NAM": [1],
        "NAM with W times C": [-0.5, 0.5],
    }
    rows = ["run,epoch,layer,gate_std", "a-nam-times-c-6,10,a,0.02", "a-nam-times-c-6,10,b,0.07"]
    rows += ["a-nam-times-c-6,9,b,0.9", "a-nam-6,10,a,0.8", "a-nam-times-c-7,10,a,0.04"]
    (tmp_path / "results" / f"gates{end}.csv").write_text("\n".join(rows))
    assert list(findings.spreads_of_round_two(which, "a-nam-times-c")) == [0.07, 0.04]


@ROUNDS
def test_layers_of_the_second_round(which, end, tmp_path, monkeypatch):
    tables = {
        f"runs{end}": "run,epochs\nb-nam-16,60\nb-nam-17,60\na-nam-6,10",
        f"gates{end}": (
            "run,epoch,layer,gamma_mean,weight_low,weight_high,gate_low,gate_high,gate_std\n"
            "b-nam-16,60,a.attention.channel,0.2,0.9,1.2,0.4,0.6,0.01\n"
            "b-nam-16,60,b.attention.channel,0.5,1,1,0.5,0.5,0\n"
            "b-nam-17,59,a.attention.channel,9,9,9,9,9,9\n"
            "b-nam-17,60,a.attention.channel,0.1,0.8,1.1,0.45,0.7,0.02\n"
            "a-nam-6,10,a.attention.channel,8,8,8,8,8,8"
        ),
    }
    read = {name: list(csv.DictReader(text.splitlines())) for name, text in tables.items()}
    monkeypatch.setattr(findings, "results", lambda name: read.get(name, []))
    assert findings.layers_of_round_two(which, "b-nam") == {
        "a": {
            "gamma": (0.1, 0.2),
            "weight": (0.8, 1.2),
            "gate": (0.4, 0.7),
            "spread": (0.01, 0.02),
        },
        "b": {"gamma": (0.5, 0.5), "weight": (1, 1), "gate": (0.5, 0.5), "spread": (0, 0)},
    }
    assert findings.layers_of_round_two(which, "c-nam") == {}
