"""Which network the lessons take, and where they find this course's own measurements."""

import csv
import re
import shlex
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from experiments import tints as control

from nam_edu import backend, lessons
from nam_edu.attention import ChannelNAM
from nam_edu.machinery.errors import NamEduError
from nam_edu.resnet import BasicBlock, BottleneckBlock
from nam_edu.runs import Run

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
    assert {name: run.recipe.attention for name, run in pair.items()} == {
        "nam": "nam",
        "none": "none",
    }
    assert nothing_trained == []


def test_without_cifar100_small_ones_are_trained(nothing_trained, monkeypatch):
    monkeypatch.setattr(lessons, "locate_cifar100", lambda: None)
    assert lessons.lesson_run() == "small"
    assert lessons.lesson_pair() == {"nam": "pair-nam", "none": "pair-none"}
    assert nothing_trained == ["small", "pair-nam", "pair-none"]


def test_a_network_without_nam_is_not_looked_at(nothing_trained, monkeypatch, capsys):
    """Who trained lesson 4 with another attention finds lesson 6 in order all the same."""
    recipe = lessons.lesson_recipe(small=True, attention="eca")
    kept = Run(Path(), recipe, log=[], gamma_history={}, about={})
    monkeypatch.setattr(lessons, "finished_run", lambda name: kept)
    monkeypatch.setattr(lessons, "locate_cifar100", lambda: None)
    assert lessons.lesson_run() == "small"
    assert capsys.readouterr().out == (
        "The network of lesson 4 has no NAM layer: a small network is trained instead.\n"
    )
    kept.gamma_history["layer1.0.attention.channel"] = np.ones((1, 8))
    assert lessons.lesson_run() is kept


def test_gates_of_a_new_network():
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 4), dtype=np.uint8)
    network = paddle.nn.Sequential(ChannelNAM(3), paddle.nn.Flatten())
    network.eval()
    ((channels, gate, most),) = lessons.gates_of_a_new_network(network, images, 4).values()
    x = images[:4].astype("float64")
    x_hat = (x - x.mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True)
    assert channels == 3 and network.training
    np.testing.assert_allclose(gate, 1 / (1 + np.exp(-x_hat / 3)), atol=1e-4)
    np.testing.assert_allclose(most, np.abs(x_hat).max(), rtol=1e-4)
    assert not network[0]._forward_post_hooks  # they are gone


@pytest.mark.parametrize("name", ("runs", "curves", "gates", "fixed", "removed"))
def test_results(name):
    rows = lessons.results(name)
    with open(ROOT / "results" / f"{name}.csv", newline="") as file:
        assert rows == list(csv.DictReader(file)) and rows
    assert {row["run"] for row in rows} <= {row["run"] for row in lessons.results("runs")}


@pytest.mark.parametrize(
    "below, runs",
    [
        ("notebooks", "runs"),
        ("notebooks/solutions", "../runs"),
        ("notebooks/zh/solutions", "../../runs"),
        ("elsewhere", "runs"),
    ],
)
def test_runs_lie_in_the_folder_of_the_notebooks(below, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "AISTUDIO_WORK", tmp_path / "no such folder")
    monkeypatch.delenv("NAM_EDU_RUNS", raising=False)
    (tmp_path / below).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / below)
    folder = lessons.lesson_folder("lesson4")
    assert folder.parent == Path(runs)
    assert folder.name.startswith("lesson4-ci-")
    words = shlex.split(lessons.visualdl_command())
    assert words[:1] == ["visualdl"] and words[-2:] == ["--logdir", runs]


def test_runs_lie_where_they_are_kept_or_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "AISTUDIO_WORK", tmp_path)
    monkeypatch.delenv("NAM_EDU_RUNS", raising=False)
    assert lessons.lesson_folder("a").parent == tmp_path / "runs"
    monkeypatch.setenv("NAM_EDU_RUNS", str(tmp_path / "mine"))
    assert lessons.lesson_folder("a").parent == tmp_path / "mine"
    assert shlex.split(lessons.visualdl_command())[-1] == str(tmp_path / "mine")


@pytest.mark.parametrize(
    "read, name", [(lessons.golden, "square_channel"), (lessons.results, "runs")]
)
def test_an_installed_package_says_that_a_clone_is_needed(read, name, tmp_path, monkeypatch):
    assert len(read(name))
    monkeypatch.setattr(lessons, "__file__", str(tmp_path / "nam_edu" / "lessons.py"))
    with pytest.raises(NamEduError, match="a clone of the repository"):
        read(name)


@pytest.mark.parametrize(
    "guess, found, said",
    [
        (..., 0.43, "no guess"),
        (0.5, 0.43, "your guess: 0.5   found: 0.43\n off by 0.07"),
        (
            [1, 0.5],
            np.array([2.0, 0.5]),
            "your guess: 1, 0.5   found: 2, 0.5\n 2 times too small, exactly",
        ),
        (30, 3.0, "10 times too large"),
        (-1, 2, "off by 3"),
        (1e-3, 0.0, "off by 0.001"),
        (" Smaller", "smaller", "right"),
        ([1, "same"], [0.5, "other"], "2 times too large, not so"),
        ([1], [1, 2], "asks for 2, your guess has 1"),
        (None, 2, "not so"),
        ([..., 1], [1, 1], "not so, exactly"),
    ],
)
def test_a_guess_is_compared(guess, found, said, capsys):
    lessons.compare(guess, found)
    assert said in re.sub(r"\n +", "\n ", capsys.readouterr().out)


def test_steps_of_a_block_are_those_of_the_forward_pass():
    paddle.seed(0)
    steps, shortcut = lessons.block_steps(
        BasicBlock(4, 6, 2, "nam", size=(3, 3)), paddle.randn([2, 4, 6, 6])
    )
    assert [what for what, _ in steps] == (
        "x|conv 3×3|batch norm|relu|conv 3×3|batch norm|attention|+|relu|y".split("|")
    )
    assert [shape for _, shape in steps] == [(4, 6, 6)] + 9 * [(6, 3, 3)]
    assert shortcut == "a 1×1 convolution with stride 2, and a batch norm"
    steps, shortcut = lessons.block_steps(
        BottleneckBlock(8, 2, 1, "none", size=(3, 3)), paddle.randn([2, 8, 3, 3])
    )
    convolutions = [(what, shape[0]) for what, shape in steps if what.startswith("conv")]
    assert convolutions == [("conv 1×1", 2), ("conv 3×3", 2), ("conv 1×1", 8)]
    assert shortcut == "x as it is"


def test_turns_are_taken_and_the_first_round_is_left_out():
    calls = []
    times = lessons.take_turns(
        {"a": lambda: calls.append("a"), "b": lambda: (calls.append("b"), time.sleep(0.01))}, 3
    )
    assert calls == 4 * ["a", "b"]
    assert times["a"].shape == times["b"].shape == (3,)
    assert times["b"].min() >= 10 and np.median(times["a"]) < 10  # milliseconds


def test_tinted_images_of_lesson_7(monkeypatch):
    recipe, tints, choose_on = lessons.lesson_tints()
    assert (len(tints.train), len(tints.test), len(choose_on)) == (640, 300, 300)
    assert (choose_on.images != tints.test.images).any()
    assert recipe.validation == 0 and recipe.epochs == 1  # nothing is cut off the training images
    drawn = []
    monkeypatch.setattr(lessons, "profile", lambda: "full")
    monkeypatch.setattr(lessons, "tint_archive", lambda *n, **seed: drawn.append(n) or tints)
    assert lessons.lesson_tints()[0] == control.GATED and drawn[-1] == (12_000, 2000)
