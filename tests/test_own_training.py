"""`fit` with an attention that is not in the registry: what is kept, how the run goes on."""

import functools
import json

import numpy as np
import paddle
import paddle.nn as nn
import pytest
from helpers import random_split
from test_training import TINY, Stop, assert_same_run

from nam_edu import training
from nam_edu.__main__ import main
from nam_edu.attention import NAM
from nam_edu.baselines import SE
from nam_edu.data import Archive, write_archive
from nam_edu.recipes import own_name
from nam_edu.training import (
    Recipe,
    TrainingError,
    build_network,
    change,
    fit,
    load_network,
    open_run,
)


class Gate(nn.Layer):
    """Shrinks the map by a factor that is learned, drops parts of it, and has a NAM inside."""

    def __init__(self, channels, size):
        super().__init__()
        self.factor = self.create_parameter([1], default_initializer=nn.initializer.Normal())
        self.drop = nn.Dropout(0.3)
        self.nam = NAM(channels)

    def forward(self, x):
        return self.drop(self.nam(x)) * paddle.nn.functional.sigmoid(self.factor)


def other(channels, size):
    return SE(channels)


@pytest.fixture(scope="module")
def small_archive():
    train, test = random_split(320, 0), random_split(100, 1)
    return Archive(train, test, train.fine_names, train.coarse_names)


@pytest.fixture(scope="module")
def run(small_archive, tmp_path_factory):
    return fit(
        TINY, small_archive, tmp_path_factory.mktemp("own") / "a", progress=False, attention=Gate
    )


def test_the_run_says_that_its_attention_is_not_in_the_registry(run):
    about = json.loads((run.folder / "run.json").read_text())
    assert about["recipe"]["attention"] == "own: Gate" == run.recipe.attention
    assert Recipe(**about["recipe"]) == run.recipe and run.attention is Gate
    assert any(isinstance(layer, Gate) for layer in run.network.sublayers())


def test_without_its_callable_a_run_shows_log_and_gamma_history(run):
    opened = open_run(run.folder)
    assert opened.log == run.log and opened.gamma_history.keys() == run.gamma_history.keys()
    for load in (
        lambda: opened.network,
        lambda: opened.best,
        lambda: load_network(run.folder / "best.npz"),
        lambda: build_network(run.recipe),
    ):
        with pytest.raises(TrainingError, match="Gate, is not in the registry.* attention=..."):
            load()
    assert_same_run(run, open_run(run.folder, attention=Gate))
    network, _ = load_network(run.folder / "best.npz", attention=Gate)
    np.testing.assert_array_equal(network.fc.weight.numpy(), run.best.fc.weight.numpy())


def test_another_callable_is_refused(run, small_archive, tmp_path):
    with pytest.raises(TrainingError, match="is 'own: Gate', not 'own: other'"):
        open_run(run.folder, attention=other)
    with pytest.raises(TrainingError, match="is 'own: Gate', not 'own: other'"):
        fit(run.recipe, small_archive, run.folder, resume=True, attention=other)
    with pytest.raises(TrainingError, match=r"attention \(own: Gate there, own: other asked for"):
        fit(TINY, small_archive, run.folder, resume=True, attention=other)
    with pytest.raises(TrainingError, match="hand the same callable to fit again"):
        fit(TINY, small_archive, run.folder, resume=True)
    with pytest.raises(TrainingError, match="Gate, is not in the registry"):
        fit(run.recipe, small_archive, run.folder, resume=True)
    registered = fit(change(TINY, epochs=1), small_archive, tmp_path / "nam", progress=False)
    with pytest.raises(TrainingError, match="is 'nam', not 'own: Gate'.*none where it is in the"):
        open_run(registered.folder, attention=Gate)


@pytest.mark.parametrize("stop_at", [2, 4, 6])
def test_it_goes_on_as_if_it_had_not_been_stopped(
    run, small_archive, tmp_path, monkeypatch, stop_at
):
    """Its dropout included, whose random numbers depend on seed, epoch and step alone."""
    count = 0
    normal = training.Recorder.on_train_batch_end

    def stop(self, step, logs=None):
        nonlocal count
        normal(self, step, logs)
        count += 1
        if count == stop_at:
            if stop_at % 4:
                self.save()
            raise Stop

    monkeypatch.setattr(training.Recorder, "on_train_batch_end", stop)
    with pytest.raises(Stop):
        fit(TINY, small_archive, tmp_path / "c", progress=False, attention=Gate)
    monkeypatch.undo()
    paddle.seed(stop_at)
    resumed = fit(TINY, small_archive, tmp_path / "c", resume=True, progress=False, attention=Gate)
    assert_same_run(run, resumed)


@pytest.mark.parametrize(
    "attention, message",
    [
        ("se", r"not a name: put it into the recipe, recipe\(..., attention='se'\)"),
        (3, "callable .* not 3"),
    ],
)
def test_what_is_no_callable(attention, message, small_archive, tmp_path):
    with pytest.raises(TrainingError, match=message):
        fit(TINY, small_archive, tmp_path / "run", attention=attention)
    assert not (tmp_path / "run").exists()


def test_a_layer_that_is_built_already(small_archive, tmp_path):
    with pytest.raises(TrainingError, match="not a SE that is built already"):
        fit(TINY, small_archive, tmp_path / "run", attention=SE(16))


def test_a_callable_in_a_recipe_is_sent_to_fit():
    with pytest.raises(TrainingError, match=r"fit\(recipe, attention=...\)"):
        change(TINY, attention=Gate)


def test_names_of_callables():
    class Callable:
        def __call__(self, channels, size):
            return SE(channels)

    assert own_name(other) == "own: other" and own_name(NAM) == "own: NAM"
    assert own_name(functools.partial(Gate, size=(1, 2))) == "own: Gate(size=(1, 2))"
    assert own_name(Callable()).endswith("Callable")


def test_the_command_line_sends_one_to_python(run, small_archive, tmp_path, capsys):
    data = str(write_archive(tmp_path / "data.tar.gz", small_archive))
    folder = str(run.folder)
    for arguments in (
        ["train", "--resume", "--out", folder, "--data", data],
        ["evaluate", folder, "--data", data],
    ):
        assert main(arguments) == 1
        assert "Gate, is not in the registry: go on in Python" in capsys.readouterr().err
    assert main(["gamma", folder]) == 0
    assert "attention own: Gate" in capsys.readouterr().out
