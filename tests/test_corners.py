"""What a learner does who goes a step beyond the lessons: nothing is lost, nothing is silently
wrong, and an error says in one sentence what to do."""

import dataclasses
import functools

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest

from nam_edu import plots
from nam_edu.__main__ import main
from nam_edu.attention import NAM, SpatialNAM, gamma_weights
from nam_edu.augmentation import Augmentation
from nam_edu.checkpoint import CheckpointError, load_weights, save_weights
from nam_edu.data import Split
from nam_edu.evaluation import (
    constant_gates,
    evaluate,
    gates,
    mean_interval,
    predict,
    slot_gates,
    verdict,
)
from nam_edu.exercises import check
from nam_edu.findings import useful
from nam_edu.judge import judge
from nam_edu.machinery.cifar_archive import ArchiveError, write_archive
from nam_edu.machinery.errors import ArgumentError, NamEduError, TrainingError
from nam_edu.recipes import own_name
from nam_edu.resnet import resnet18
from nam_edu.runs import load_network
from nam_edu.training import build_optimizer, change, fit, open_run, recipe

TINY = recipe("ci", width=4, epochs=1, train_images=64, validation=32, batch_size=32)


class Own(nn.Layer):
    """NAM's W, made from a batch norm that is not called: its shift never gets a gradient."""

    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2D(channels)

    def forward(self, x):
        return x * F.sigmoid(gamma_weights(self.bn.weight).reshape([1, -1, 1, 1]) * x)


def own(channels, size):
    return Own(channels)


# ------------------------------------------------------------------------------ what is kept


def test_a_parameter_without_a_gradient_is_saved_and_resumed(archive, tmp_path):
    longer = change(TINY, epochs=2)
    whole = fit(longer, archive, tmp_path / "whole", progress=False, attention=own)
    first = fit(TINY, archive, tmp_path / "one", progress=False, attention=own)
    assert first.network.layer1[0].attention.bn.bias.numpy().any() == False  # noqa: E712
    again = fit(longer, archive, tmp_path / "whole", resume=True, progress=False, attention=own)
    assert len(whole.log) == len(again.log) == 2


def test_a_run_whose_folder_was_taken_gives_no_other_weights(archive, tmp_path):
    out = tmp_path / "runs"
    runs = [fit(change(TINY, seed=s), archive, out, overwrite=True, progress=False) for s in (0, 1)]
    for which in ("network", "best"):
        with pytest.raises(TrainingError, match="does not hold this run any more"):
            getattr(runs[0], which)
    assert runs[1].network is runs[1].network
    kept = open_run(out)
    for path in out.iterdir():
        if path.is_file():
            path.unlink()
    with pytest.raises(TrainingError, match="does not hold this run any more"):
        kept.network  # noqa: B018


def test_the_home_folder_is_meant_wherever_a_path_is_written(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fit(TINY, archive, "~/runs/first", progress=False)
    assert open_run("~/runs/first").folder == tmp_path / "runs" / "first"
    network = resnet18(width=2)
    save_weights(network, "~/w.npz")
    load_weights(network, "~/w.npz")
    assert not (tmp_path / "~").exists()


def test_an_attempt_that_failed_does_not_block_the_next(archive, tmp_path):
    def broken(channels, size):
        return nn.Sequential(nn.Linear(3, 3))

    for wrong in (dict(attention=broken), dict(attention=own, callbacks=3)):
        with pytest.raises(Exception):  # noqa: B017, of many kinds
            fit(TINY, archive, tmp_path / "own", progress=False, **wrong)
    assert len(fit(TINY, archive, tmp_path / "own", progress=False, attention=own).log) == 1
    with pytest.raises(TrainingError, match="holds a run already"):
        fit(TINY, archive, tmp_path / "own", progress=False, attention=own)


def test_a_partial_has_the_same_name_in_every_process():
    def gate(f, channels, size):
        return own(channels, size)

    name = own_name(functools.partial(gate, F.sigmoid))
    assert "sigmoid" in name and "0x" not in name


# --------------------------------------------------------------------- silently wrong before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_earns_no_verdict(value):
    values = [0.1, -0.2, value, 0.3]
    for judged in (mean_interval, useful, lambda v: verdict(v, 0.5)):
        with pytest.raises(ValueError, match="NaN or infinite"):
            judged(values)


def test_constant_gates_are_for_blocks_that_are_there():
    network = resnet18(width=2)
    for values, said in (
        ({"layer1.0.attention.channel": 0.5}, "no block is called 'layer1.0.attention.channel'"),
        ({"layer1.0": (0.5, 0.1)}, "must be a number, not \\(0.5, 0.1\\)"),
    ):
        with pytest.raises(ValueError, match=said):
            constant_gates(network, values)
    with pytest.raises(ValueError, match="no residual block"):
        constant_gates(paddle.vision.models.LeNet(), 0.5)


def test_weights_bring_their_normalisation(tmp_path):
    network, other = resnet18(width=2), resnet18(width=2)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    meta = {"recipe": {"mean": list(mean), "std": list(std)}}
    save_weights(network, tmp_path / "w.npz", meta)
    load_weights(other, tmp_path / "w.npz")
    assert other.normalization == (mean, std) != network.normalization
    with pytest.raises(CheckpointError, match="only an .npz can carry meta"):
        save_weights(network, tmp_path / "w.pdparams", meta)


def test_an_optimizer_leaves_no_mark_for_the_next():
    network = resnet18(width=2, attention="nam")
    gamma = network.layer1[0].attention.channel.bn.weight
    build_optimizer(change(TINY, gamma_decay=0.0), network, 1)
    assert gamma.regularizer is not None
    build_optimizer(TINY, network, 1)
    assert gamma.regularizer is None


def test_only_raw_images_are_augmented():
    rng = np.random.default_rng(0)
    for images in (np.zeros((2, 3, 8, 8), np.float32), np.zeros((2, 1, 8, 8), np.uint8)):
        with pytest.raises(ArgumentError, match="augment first, then normalise"):
            Augmentation(4, contrast=0.5)(images, rng)


def test_a_gate_of_another_width_reads_no_foreign_memory():
    """Maps large enough for the few passes of oneDNN; Paddle's own error, or ours, not numbers."""
    network = resnet18(width=16, stem="cifar", attention=lambda channels, size: NAM(channels // 2))
    x = paddle.randn([128, 3, 32, 32])
    for mode in (network.train, network.eval):
        mode()
        with pytest.raises(Exception), paddle.no_grad():  # noqa: B017
            network(x)


# ------------------------------------------------------------------------------ plain errors


class Forgets(nn.Layer):
    def forward(self, x):
        F.sigmoid(x)


class Alone(nn.Layer):
    def forward(self, x):
        return F.sigmoid(x.mean([2, 3], keepdim=True))


@pytest.mark.parametrize("layer, said", [(Forgets, "NoneType"), (Alone, "4, 1, 1")])
def test_an_attention_keeps_the_shape_of_its_map(layer, said, archive, tmp_path):
    with pytest.raises(ArgumentError, match=f"the layer makes .*{said}.* keeps the shape"):
        fit(TINY, archive, tmp_path / "x", progress=False, attention=lambda c, s: layer())


def test_images_of_other_kinds(archive):
    network, images = resnet18(width=2), archive.test.images[:4]
    noisy = images + np.zeros(images.shape)
    np.testing.assert_array_equal(predict(network, noisy), predict(network, images))
    for look in (predict, gates, slot_gates):
        with pytest.raises(ValueError, match="there are no images"):
            look(resnet18(width=2, attention="nam"), images[:0])
    with pytest.raises(ValueError, match="there are no images"):
        evaluate(network, archive.test.take([]))
    grey = resnet18(width=2, in_channels=1)
    assert predict(grey, images[:, :1]).shape == (4, 100)


def test_the_wrong_kind_of_argument_is_named(archive, tmp_path):
    network = resnet18(width=2)
    run = fit(TINY, archive, tmp_path / "run", progress=False)
    calls = {
        'recipe must be a Recipe, as recipe."quick". gives one, not str': lambda: fit("quick"),
        "data must be an Archive, a path, or the name of a data set, not Split": lambda: fit(
            TINY, archive.train
        ),
        "a Split is wanted, not Archive": lambda: evaluate(network, archive),
        "a network is wanted, not Run": lambda: evaluate(run, archive.test),
        "seeds must be a list of whole numbers, not 2": lambda: judge("se", TINY, seeds=2),
        "of an Archive take archive.test": lambda: judge("se", TINY, split=archive),
        "none is left to train on: lower --validation": lambda: fit(
            change(TINY, validation=len(archive.train)), archive, tmp_path / "v"
        ),
        "SpatialNAM takes maps": lambda: SpatialNAM((5, 5))(paddle.zeros([3, 5, 5])),
    }
    for said, call in calls.items():
        with pytest.raises((TypeError, ValueError), match=said):
            call()
    assert SpatialNAM(np.int64(5)).size == (5, 5)


def test_a_split_is_checked(archive, tmp_path):
    good = archive.test
    for change_, said in (
        (dict(images=good.images / 255), "images must be uint8"),
        (dict(images=good.images[:, :1]), "images must be uint8"),
        (dict(fine=good.fine[:-1]), "each image needs one of both"),
        (dict(fine=good.fine + 100), "fine labels lie between 0 and 99"),
        (dict(fine=good.fine - 100), "fine labels lie between 0 and 99"),
        (dict(coarse=good.coarse + 20), "coarse labels lie between 0 and 19"),
    ):
        with pytest.raises(ArchiveError, match=said):
            dataclasses.replace(good, **change_)
    for names, said in ((("猫", *good.fine_names[1:]), "Latin letters"), (("a",), "has 100")):
        splits = [
            Split(s.images, s.fine, s.coarse, names, s.coarse_names, s.superclass_of)
            for s in (archive.train, archive.test)
        ]
        other = type(archive)(*splits, names, archive.coarse_names)
        with pytest.raises(ArchiveError, match=said):
            write_archive(tmp_path / "x.tar.gz", other)
    assert not list(tmp_path.iterdir())


def test_a_weights_file_without_a_recipe_says_so(tmp_path, capsys):
    save_weights(resnet18(width=2), tmp_path / "w.npz")
    with pytest.raises(CheckpointError, match="carries no recipe"):
        load_network(tmp_path / "w.npz")
    assert main(["evaluate", "--weights", str(tmp_path / "w.npz")]) != 0
    assert "carries no recipe" in capsys.readouterr().err


def test_a_network_with_nan_ends_in_a_sentence(archive):
    network = resnet18(width=2)
    network.fc.bias.set_value(np.full(100, np.nan, "float32"))
    with pytest.raises(NamEduError, match="gives NaN"):
        evaluate(network, archive.test)


def test_the_runs_of_the_package_by_name(capsys):
    assert main(["gamma", "shipped-none"]) != 0
    assert "has no NAM layer (attention none)" in capsys.readouterr().err


def test_the_number_of_an_exercise_without_quotes(capsys):
    check(1.1, lambda *values: ...)
    assert "1.1: " in capsys.readouterr().out


def test_pictures_of_nothing_and_of_much():
    for call, said in (
        (lambda: plots.images([]), "there are no images"),
        (lambda: plots.training_curves([]), "no epoch is finished yet"),
        (lambda: plots.gate_ranges({}), "no NAM layer"),
        (lambda: plots.weights_by_layer({}), "no NAM layer"),
        (lambda: plots.gamma_explorer({}), "no NAM layer"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    groups = {f"group {i}": [i, 1] for i in range(10)}
    assert plots.bars(["a", "b"], groups, "", "value") is not None
    assert plots.histograms({"all": {name: np.arange(9.0) for name in groups}}, "value") is not None
