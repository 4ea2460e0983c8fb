"""Which network the lessons take, and where they find this course's own measurements."""
import csv
from pathlib import Path

import pytest

from nam_edu import lessons

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def nothing_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = []
    monkeypatch.setattr(lessons, "small_run", lambda name, **more: trained.append(name) or name)
    return trained


def test_with_cifar100_the_shipped_network_takes_the_place(nothing_trained, monkeypatch, capsys):
    monkeypatch.setattr(lessons, "locate_cifar100", lambda: Path("somewhere"))
    run = lessons.lesson_run()
    assert run.recipe.name == "shipped" and run.recipe.attention == "nam"
    assert "comes with the course" in capsys.readouterr().out
    pair = lessons.lesson_pair()
    assert {name: run.recipe.attention for name, run in pair.items()} == {"nam": "nam",
                                                                          "none": "none"}
    assert nothing_trained == []


def test_without_cifar100_small_ones_are_trained(nothing_trained, monkeypatch):
    monkeypatch.setattr(lessons, "locate_cifar100", lambda: None)
    assert lessons.lesson_run() == "small"
    assert lessons.lesson_pair() == {"nam": "pair-nam", "none": "pair-none"}
    assert nothing_trained == ["small", "pair-nam", "pair-none"]


@pytest.mark.parametrize("name", ("runs", "curves", "gates", "fixed", "removed"))
def test_results(name):
    rows = lessons.results(name)
    with open(ROOT / "results" / f"{name}.csv", newline="") as file:
        assert rows == list(csv.DictReader(file)) and rows
    assert {row["run"] for row in rows} <= {row["run"] for row in lessons.results("runs")}
