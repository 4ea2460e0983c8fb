"""The course speaks English, byte for byte as its sources say, or Chinese, and lacks no message."""

import ast
import gettext
import os
import re
import string
import subprocess
import sys
from pathlib import Path

import chinese
import numpy as np
import pytest
import translation

import nam_edu
from nam_edu import lessons, plots
from nam_edu.data import ArchiveError, load_data
from nam_edu.exercises import check
from nam_edu.machinery import language
from nam_edu.machinery.errors import ArgumentError
from nam_edu.machinery.language import choose_language, words
from nam_edu.machinery.run_folder import locked
from nam_edu.recipes import recipe
from nam_edu.training import TrainingError, fit

PACKAGE = Path(nam_edu.__file__).parent


def said():
    """{message: file} of the package, by Python's own parser, and of the lessons' cells."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if name in ("counted", "words_in"):
                found[node.args[1].value] = path.name
            elif name in CALLS:
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found[first.value] = path.name
                else:  # what hands a message on
                    hands_on = {"checking.py": ("message", "self.message"), "plots.py": ("alt",)}
                    assert ast.unparse(first) in hands_on[path.name]
    for path in translation.lessons():
        found.update(
            dict.fromkeys(translation.messages_of_cells(translation.read(path)), path.name)
        )
    return found


CALLS = ("words", "Wrong", "right")
SAID = said()
CHINESE = gettext.translation("nam_edu", PACKAGE / "locale", languages=["zh"])


def gaps(message):
    return sorted((n, s, c) for _, n, s, c in string.Formatter().parse(message) if n is not None)


@pytest.fixture(autouse=True)
def english_afterwards(monkeypatch):
    monkeypatch.delenv("NAM_EDU_LANG", raising=False)
    yield
    language._chosen = None


@pytest.fixture
def in_chinese():
    choose_language("zh")


def test_every_message_has_a_twin_and_no_twin_is_stale():
    """In the compiled catalogue, the one that is used."""
    assert len(SAID) > 450
    compiled = {message for message in CHINESE._catalog if message}
    assert compiled == set(SAID)


@pytest.mark.parametrize("message", SAID)
def test_twin(message):
    ours = CHINESE.gettext(message)
    assert gaps(ours) == gaps(message)
    assert ours != message
    filled = re.sub(r"\{[^}]*\}", "字", ours)
    ours_alone = not re.fullmatch(r"[字\s，；：（）。/]*", filled)
    assert not ours_alone or re.search(f"[{chinese.HAN}]", filled.replace("字", "")), ours
    if message[-1] in ".?:" and not message.endswith("..."):
        assert ours[-1] in "。？："


def test_the_catalogue_reads_well():
    wrong = {}
    for message in SAID:
        filled = re.sub(r"\{\w+\}(x\{\w+\}|\(\))|\{[^}]*\}", "字", CHINESE.gettext(message))
        found = [c for c in chinese.complaints(filled, markdown=False) if not IS_CODE.search(c)]
        if found:
            wrong[message] = found
    assert wrong == {}


# Lists and calls of Python keep their commas and brackets.
IS_CODE = re.compile(r"no space beside full-width punctuation: ….*[(\[]|, -?[\d/]|'times 10'")


def test_english_is_what_the_source_says():
    for message in SAID:
        fields = {name.split(".")[0]: Anything() for name, _, _ in gaps(message)}
        assert words(message, **fields) == message.format(**fields)


class Anything:
    def __format__(self, spec):
        return "…"

    __repr__ = __str__ = lambda self: "…"


def test_the_language_is_chosen(monkeypatch, capsys):
    assert language.language() == "en" and not check("1.1", ...)
    assert (
        capsys.readouterr().out == "✗ 1.1: not solved yet: put your answer in place of the dots\n"
    )
    for name in ("zh", "zh_CN.UTF-8", "zh-CN"):
        monkeypatch.setenv("NAM_EDU_LANG", name)
        assert not check("1.1", ...)
        assert capsys.readouterr().out == "✗ 1.1: 还没有做：请用你的答案替换那三个点\n"
    nam_edu.setup(language="en")  # the lesson's own word counts
    assert "seed 0" in capsys.readouterr().out
    nam_edu.setup(language="zh")
    out = capsys.readouterr().out
    assert "随机种子 0" in out and "规模：" in out and out.startswith("nam_edu ")
    with pytest.raises(ArgumentError, match="language is 'fr': choose one of en, zh"):
        nam_edu.setup(language="fr")
    monkeypatch.setenv("NAM_EDU_LANG", "fr")
    with pytest.raises(ArgumentError, match="NAM_EDU_LANG is 'fr'"):
        nam_edu.setup()


def test_a_command_with_a_wrong_language_ends_with_one_line():
    run = subprocess.run(
        [sys.executable, "-m", "nam_edu", "gamma", "shipped"],
        env={**os.environ, "NAM_EDU_LANG": "fr", "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0 and run.stderr.count("\n") == 1 and "NAM_EDU_LANG" in run.stderr


def test_without_a_catalogue_all_is_english(monkeypatch, tmp_path, in_chinese):
    monkeypatch.setattr(language, "LOCALE", tmp_path)
    language.catalogue.cache_clear()
    try:
        assert words("seed {seed}", seed=3) == "seed 3"
    finally:
        language.catalogue.cache_clear()


def test_errors_that_a_learner_meets(in_chinese, tmp_path, monkeypatch):
    monkeypatch.setattr("nam_edu.data.known_places", lambda: iter(()))
    with pytest.raises(ArchiveError, match="没有找到 CIFAR-100；可以这样得到它"):
        load_data("cifar100")
    with locked(tmp_path / "run"), pytest.raises(TrainingError, match="另一个进程正在"):
        with locked(tmp_path / "run"):
            pass
    small = dict(width=4, epochs=1, train_images=640, validation=0, batch_size=32)
    with pytest.raises(TrainingError, match="损失在第 1 轮第 . 步变成了 nan"):
        fit(recipe("ci", learning_rate=1e30, **small), out=tmp_path / "nan", progress=False)
    with pytest.raises(TrainingError, match="epochs 必须是整数（不小于 1）"):
        recipe("ci", epochs=0)
    with pytest.raises(ValueError, match="SpatialNAM 是为 4x4 像素"):
        import paddle

        from nam_edu.attention import SpatialNAM

        SpatialNAM((4, 4))(paddle.zeros([1, 2, 5, 5]))


def test_guesses_and_pictures(in_chinese, capsys):
    lessons.compare(..., 3)
    lessons.compare(1, 3)
    lessons.compare(3, 3)
    out = capsys.readouterr().out
    assert "你没有写下猜测" in out and "你的猜测：1   结果：3" in out and "完全正确" in out
    figure = plots.lines([0, 1, 2], {"γ": np.array([1.0, 3.0, 2.0])}, "epoch", "|γ|")
    assert figure.alt == "|γ|，横轴 epoch：γ 从 1 到 2，最高 3。"
    assert translation.said_in_chinese("|γ| over epoch: γ from 1 to 2, highest 3.") == figure.alt


# What the copying tool makes of an English output is what a Chinese lesson says by itself.
FIGURES = {
    "bars": lambda: plots.bars(["a", "b"], {"γ": [1, -2.5]}, "", "value"),
    "histograms": lambda: plots.histograms({"t": {"γ": [1.0, 2], "β": [0, 1]}}, "x̂"),
    "scatter": lambda: plots.scatter([1, 2], [1, 3], "|γ|", "std", diagonal=True),
    "images": lambda: plots.images(np.zeros((2, 3, 8, 8), np.uint8), ["a", "b"], 2),
    "points": lambda: plots.points(
        {"a": ([1, 2], [3, 4])}, "x", "y", lines_at={"l": ([1, 2], [3, 4])}
    ),
    "seeds": lambda: plots.seeds({"none": {0: 1.0, 1: 2.0}, "NAM": {0: 2.0, 1: 3.0}}, "top-1"),
    "intervals": lambda: plots.intervals({"a − b": [0.1, 0.2, -0.1], "c": [3, 4, 5]}, 1),
    "intervals of half a point": lambda: plots.intervals({"a": [0.1, 0.2, -0.1]}, 0.5),
    "spreads": lambda: plots.spreads({"a": [1, 2, 3]}, "time", band=(0.5, 1.5), band_label="noise"),
    "maps": lambda: plots.map_rows({"s": np.ones((2, 3, 3)), "t": np.eye(3)[None]}),
    "gamma": lambda: plots.gamma_at(
        {"layer1": np.array([[1.0, 1], [0.5, 2]])}, "layer1", 1, [1, 0.4]
    ),
    "weights": lambda: plots.weights_by_layer({"l1": np.array([[1.0, 2]]), "l2": np.ones((1, 3))}),
    "heatmap": lambda: plots.gamma_heatmap(np.array([[1.0, 1], [0.5, 2]])),
    "stages": lambda: plots.stage_sizes({"stem": [8, 4]}, ["a", "b"]),
}


@pytest.mark.parametrize("figure", FIGURES)
def test_a_copied_output_says_what_a_run_would_say(figure):
    choose_language("en")
    english = FIGURES[figure]().alt
    choose_language("zh")
    ours = FIGURES[figure]().alt
    assert ours != english and re.search(f"[{chinese.HAN}]", ours)
    assert translation.said_in_chinese(english) == ours


def test_a_copied_line_of_setup_says_what_a_run_would_say(capsys):
    nam_edu.setup()
    english = capsys.readouterr().out
    nam_edu.setup(language="zh")
    assert translation.line_in_chinese(english.rstrip("\n")) == capsys.readouterr().out.rstrip("\n")
