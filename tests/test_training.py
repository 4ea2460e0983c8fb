"""Recipes, the learning rate, and runs: what they keep, what they refuse, how they go on."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import paddle
import pytest

from nam_edu import checkpoint
from nam_edu.attention import nam_layers
from nam_edu.augmentation import Augmentation
from nam_edu.data import Archive, ArchiveError, write_archive
from nam_edu.machinery.checks import checked
from nam_edu.machinery.recorder import Recorder
from nam_edu.recipes import recipe_of
from nam_edu.resnet import resnet
from nam_edu.training import (
    RECIPES,
    Batches,
    CrossEntropyWithPenalty,
    Recipe,
    Stopped,
    TrainingError,
    build_network,
    build_optimizer,
    fit,
    learning_rate,
    load_network,
    open_run,
    recipe,
    saved_recipe,
    train_step,
)

TINY = recipe("ci", width=4, epochs=2, batch_size=64, train_images=256, validation=64)


# ----------------------------------------------------------------------------------- recipes


def test_recipes_are_frozen_printable_and_changed_by_copy():
    quick = recipe("quick")
    with pytest.raises(dataclasses.FrozenInstanceError):
        quick.epochs = 3
    assert recipe("quick", epochs=3, attention="se").attention == "se"
    assert quick == RECIPES["quick"] and "learning_rate" in str(quick)
    # What JSON makes of a recipe is a recipe again.
    assert (
        Recipe(**json.loads(json.dumps(dataclasses.asdict(RECIPES["official"]))))
        == RECIPES["official"]
    )


def test_the_settings_of_the_original_tutorial():
    r = RECIPES["tutorial"]
    assert (r.depth, r.stem, r.attention, r.data) == (50, "imagenet", "nam", "cifar100")
    assert (r.epochs, r.batch_size, r.learning_rate, r.warmup_steps) == (300, 128, 0.001, 2000)
    assert (r.momentum, r.nesterov, r.weight_decay, r.schedule) == (0.9, False, 5e-4, "cosine")
    assert (r.crop_padding, r.brightness, r.contrast, r.flip, r.rotation) == (4, 0.1, 0.1, True, 15)
    assert r.std == (0.1942, 0.1918, 0.1958) and r.validation == 0


def test_the_settings_of_the_authors_script():
    r = RECIPES["official"]
    assert (r.depth, r.stem, r.attention) == (50, "cifar", "nam-detached")
    assert (r.epochs, r.batch_size, r.learning_rate, r.warmup_steps) == (200, 128, 0.1, 0)
    assert (r.schedule, r.milestones, r.decay) == ("multistep", (60, 120, 160), 0.2)
    assert (r.momentum, r.nesterov, r.weight_decay, r.penalty) == (0.9, False, 5e-4, 0)
    assert (r.crop_padding, r.brightness, r.contrast, r.flip, r.rotation) == (4, 0, 0, True, 0)
    assert r.validation == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"attention": "senet"},
            "unknown attention 'senet': choose one of none, half, quarter, nam",
        ),
        ({"depth": 20}, "unknown depth 20: choose one of 18, 34"),
        ({"stem": "vgg"}, "unknown stem 'vgg': choose one of imagenet, cifar"),
        ({"schedule": "linear"}, "unknown schedule"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"std": (0.2, 0.2, 0)}, "std must be three numbers"),
        ({"speed": 3}, "no field 'speed'"),
        ({"flip": "no"}, "flip must be True or False, not 'no'"),
        ({"nesterov": 1}, "nesterov must be True or False, not 1"),
        ({"amp": None}, "amp must be True or False"),
        ({"gamma_decay": True}, "gamma_decay must be a number of at least 0, not True"),
        ({"gamma_decay": -1}, "gamma_decay must be a number of at least 0"),
        ({"last_gamma": "0"}, "last_gamma must be a number"),
        ({"learning_rate": 10**400}, "learning_rate must be a number"),
        ({"penalty": np.bool_(True)}, "penalty must be a number"),
        (
            {"milestones": ("a",)},
            "each of milestones must be a whole number of at least 0, not 'a'",
        ),
        ({"milestones": "12"}, "milestones must be a list of whole numbers, not '12'"),
        ({"milestones": 3}, "milestones must be a list of whole numbers, not 3"),
        ({"milestones": None}, "milestones must be a list"),
        ({"mean": 0.5}, "mean must be three numbers, one per colour, not 0.5"),
        ({"mean": ("0", "1", "2")}, "mean must be three numbers"),
        ({"std": (0.2, True, 0.2)}, "std must be three numbers above 0"),
        ({"std": {0.1, 0.2, 0.3}}, "std must be three numbers"),
        ({"seed": True}, "seed must be a whole number of 0 to 4294967295, not True"),
        ({"seed": 2**32}, "seed must be a whole number"),
        ({"depth": 18.0}, "unknown depth 18.0"),
        ({"depth": [18]}, r"unknown depth \[18\]"),
        ({"stem": None}, "unknown stem None"),
        ({"attention": ["nam"]}, r"unknown attention \['nam'\]"),
        ({"data": None}, "data must be a text"),
        ({"decay_gamma": 3}, "decay_gamma must be True or False, not 3"),
    ],
)
def test_wrong_recipes(changes, message):
    with pytest.raises(TrainingError, match=message):
        recipe("quick", **changes)


def test_numbers_of_numpy_become_pythons():
    changed = recipe(
        "quick",
        epochs=np.int64(3),
        depth=np.int32(34),
        penalty=np.float32(0.5),
        flip=np.bool_(False),
        milestones=np.array([1, 2]),
        mean=np.full(3, 0.5),
    )
    assert changed == recipe(
        "quick",
        epochs=3,
        depth=34,
        penalty=0.5,
        flip=False,
        milestones=(1, 2),
        mean=(0.5, 0.5, 0.5),
    )
    assert recipe_of(json.loads(json.dumps(dataclasses.asdict(changed)))) == changed


def test_every_field_has_a_kind_and_a_default_that_passes():
    for field in dataclasses.fields(Recipe):
        assert field.metadata["kind"] and (field.metadata["help"] or field.name == "name")
        if field.default is not dataclasses.MISSING:
            assert checked(field, field.default) == field.default


@pytest.mark.parametrize("old, new", [(True, 1.0), (False, 0.0)])
def test_recipes_of_version_0_1_0_can_be_read(run, small_archive, tmp_path, old, new):
    """Their decay_gamma, a switch, is gamma_decay now; last_gamma was not there."""
    shutil.copytree(run.folder, tmp_path / "old")
    about = json.loads((tmp_path / "old" / "run.json").read_text())
    del about["recipe"]["gamma_decay"], about["recipe"]["last_gamma"]
    about["recipe"]["decay_gamma"] = old
    (tmp_path / "old" / "run.json").write_text(json.dumps(about))
    opened = open_run(tmp_path / "old")
    assert (opened.recipe.gamma_decay, opened.recipe.last_gamma) == (new, 1.0)
    assert saved_recipe(tmp_path / "old") == opened.recipe
    assert recipe("quick", decay_gamma=old) == recipe("quick", gamma_decay=new)
    again = fit(
        dataclasses.replace(run.recipe, gamma_decay=new),
        small_archive,
        tmp_path / "old",
        resume=True,
        progress=False,
    )
    assert again.log == run.log
    arrays = checkpoint.state_arrays(run.network)
    checkpoint.write_arrays(tmp_path / "w.npz", arrays, {"recipe": about["recipe"]})
    assert load_network(tmp_path / "w.npz")[1] == opened.recipe


def test_an_unknown_recipe():
    with pytest.raises(TrainingError, match="unknown recipe 'quik': choose one of tutorial, "):
        recipe("quik")


# ------------------------------------------------------------------------------ learning rate


def paddles_rates(epochs, steps, warmup, rate, t_max):
    """The rates of the original tutorial: Paddle's own schedulers, stepped by batch during the
    warm-up and by epoch afterwards, as its callback does."""
    scheduler = paddle.optimizer.lr.LinearWarmup(
        paddle.optimizer.lr.CosineAnnealingDecay(rate, t_max), warmup, 0.0, rate
    )
    warm = True
    for _ in range(epochs):
        for _ in range(steps):
            yield scheduler()
            if warm:
                scheduler.step()
            warm = warm and scheduler.last_epoch < warmup
        if not warm:
            scheduler.step()


@pytest.mark.parametrize("steps, warmup", [(39, 200), (10, 30), (7, 5), (12, 500)])
def test_the_rate_is_the_original_tutorials(steps, warmup):
    """Also where a run is shorter than its warm-up (the last case)."""
    r = recipe("tutorial", epochs=30, warmup_steps=warmup)
    expected = list(paddles_rates(30, steps, warmup, r.learning_rate, 30))
    actual = [learning_rate(r, step, steps) for step in range(30 * steps)]
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
    if warmup > 30 * steps:
        assert max(actual) < r.learning_rate and np.diff(actual).min() > 0


def test_the_rate_of_the_authors_script():
    scheduler = paddle.optimizer.lr.MultiStepDecay(0.1, [60, 120, 160], 0.2)
    r = RECIPES["official"]
    for epoch in range(200):
        for step in (0, 390):
            assert learning_rate(r, 391 * epoch + step, 391) == pytest.approx(scheduler())
        scheduler.step()


# ------------------------------------------------------------------------- batches and loss


def test_batches_depend_on_seed_epoch_and_step_alone(archive):
    def make(seed=0, epoch=0):
        batches = Batches(
            archive.train, 128, ((0, 0, 0), (1, 1, 1)), Augmentation(4, flip=True), seed
        )
        batches.epoch = epoch
        return list(batches)

    first = make()
    assert [len(labels) for _, labels in first] == [128, 128, 64]
    for (a, la), (b, lb) in zip(first, make()):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(la, lb)
    assert (first[0][1] != make(epoch=1)[0][1]).any() and (first[0][1] != make(seed=1)[0][1]).any()
    # Every image once.
    counts = np.bincount(np.concatenate([labels[:, 0] for _, labels in first]), minlength=100)
    np.testing.assert_array_equal(counts, np.bincount(archive.train.fine, minlength=100))


def test_the_loss_is_cross_entropy_plus_the_penalty():
    network = build_network(TINY)
    logits, labels = np.random.default_rng(0).normal(size=(6, 100)), np.arange(6)
    terms = CrossEntropyWithPenalty(network, 0.01)(
        paddle.to_tensor(logits, "float32"), paddle.to_tensor(labels[:, None])
    )
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert float(terms[0]) == pytest.approx(-np.log(softmax[np.arange(6), labels]).mean(), 1e-5)
    gammas = sum(layer.bn.weight.shape[0] for _, layer in nam_layers(network))
    assert float(terms[1]) == pytest.approx(0.01 * gammas, 1e-5)  # every gamma starts at 1


@pytest.mark.parametrize("gamma_decay", [1.0, 0.25, 3.0, 0.0])
def test_weight_decay_by_hand(gamma_decay):
    """Two steps of Momentum with Nesterov, in float64 NumPy; gamma decays by its own factor."""
    r = dataclasses.replace(
        TINY, weight_decay=0.1, gamma_decay=gamma_decay, learning_rate=0.5, schedule="constant"
    )
    network = build_network(r)
    optimizer = build_optimizer(r, network, 4)
    gamma = dict(nam_layers(network))["layer1.0.attention.channel"].bn.weight
    decays = {gamma: 0.1 * gamma_decay, network.conv1.weight: 0.1}
    expected = {p: [p.numpy().astype("float64"), 0.0] for p in decays}
    rng = np.random.default_rng(0)
    for _ in range(2):
        coefs = {p: rng.normal(size=p.shape).astype("float32") for p in decays}
        sum((p * paddle.to_tensor(coefs[p])).sum() for p in decays).backward()
        optimizer.step()
        optimizer.clear_grad()
        for p, decay in decays.items():
            value, velocity = expected[p]
            gradient = coefs[p] + decay * value
            velocity = 0.9 * velocity + gradient
            expected[p] = [value - 0.5 * (gradient + 0.9 * velocity), velocity]
    for p, (value, _) in expected.items():
        np.testing.assert_allclose(p.numpy(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("depth, last", [(18, "bn2"), (50, "bn3")])
def test_where_the_last_batch_norms_start(depth, last):
    """Nothing else changes: the weights that are drawn are the same."""
    usual = build_network(dataclasses.replace(TINY, depth=depth)).state_dict()
    network = build_network(dataclasses.replace(TINY, depth=depth, last_gamma=0.2))
    changed = 0
    for name, value in network.state_dict().items():
        if name.startswith("layer") and name.endswith(f".{last}.weight"):
            changed += 1
            np.testing.assert_array_equal(value.numpy(), np.full(value.shape, 0.2, "float32"))
        else:
            np.testing.assert_array_equal(value.numpy(), usual[name].numpy(), err_msg=name)
    assert changed == {18: 8, 50: 16}[depth]


def test_building_a_network_leaves_the_random_numbers_alone():
    """Its weights are those of its seed all the same."""
    paddle.seed(5)
    expected = [paddle.randn([3]).numpy() for _ in range(2)]
    paddle.seed(5)
    first = paddle.randn([3]).numpy()
    one, other = build_network(TINY), build_network(TINY)
    np.testing.assert_array_equal([first, paddle.randn([3]).numpy()], expected)
    np.testing.assert_array_equal(one.conv1.weight.numpy(), other.conv1.weight.numpy())
    paddle.seed(TINY.seed)
    drawn = resnet(18, width=4)
    np.testing.assert_array_equal(one.conv1.weight.numpy(), drawn.conv1.weight.numpy())


def test_opening_and_training_leave_the_random_numbers_alone(run, small_archive, tmp_path):
    paddle.seed(5)
    expected = paddle.randn([3]).numpy()
    for use in (
        lambda: open_run(run.folder).network,
        lambda: open_run(run.folder).best,
        lambda: fit(TINY, small_archive, tmp_path / "run", progress=False),
    ):
        paddle.seed(5)
        use()
        np.testing.assert_array_equal(paddle.randn([3]).numpy(), expected)


@pytest.mark.parametrize("penalty", [0.0, 1e-2])
def test_train_step_does_what_fit_does(small_archive, tmp_path, penalty):
    """One epoch of it, written out, against the first epoch of `fit`."""
    r = dataclasses.replace(
        TINY,
        epochs=1,
        penalty=penalty,
        gamma_decay=0.5,
        warmup_steps=2,
        validation=0,
        train_images=0,
    )
    run = fit(r, small_archive, tmp_path / "run", progress=False)
    r = run.recipe
    network = build_network(r)
    batches = Batches(
        small_archive.train,
        r.batch_size,
        network.normalization,
        Augmentation(r.crop_padding, flip=r.flip),
        r.seed,
    )
    optimizer = build_optimizer(r, network, len(batches))
    losses = []
    for images, labels in batches:
        loss = train_step(
            network, optimizer, paddle.to_tensor(images), paddle.to_tensor(labels), penalty
        )
        optimizer._learning_rate.step()
        losses.append(float(loss))
    for name, value in weights(network).items():
        np.testing.assert_allclose(
            value, weights(run.network)[name], rtol=1e-4, atol=1e-5, err_msg=name
        )
    assert np.mean(losses) == pytest.approx(run.log[0]["loss"], rel=1e-5)


def test_the_loss_scaler_is_saved_and_restored(small_archive, tmp_path):
    """Mixed precision itself needs a GPU; its scaler's state can be set and read without one."""

    def scaler():
        made = paddle.amp.GradScaler(enable=False)
        made._enable = True
        made.load_state_dict(
            {
                "scale": np.array([65536.0], "float32"),
                "incr_ratio": 2.0,
                "decr_ratio": 0.5,
                "incr_every_n_steps": 2000,
                "decr_every_n_nan_or_inf": 1,
                "incr_count": 0,
                "decr_count": 0,
                "use_dynamic_loss_scaling": True,
            }
        )
        return made

    def recorder(scaler):
        network = build_network(TINY)
        optimizer = build_optimizer(TINY, network, 4)
        network(paddle.randn([2, 3, 32, 32])).sum().backward()
        optimizer.step()
        return Recorder(TINY, tmp_path, network, optimizer, [None] * 4, "validation", scaler=scaler)

    used = scaler()
    used.load_state_dict(
        {**used.state_dict(), "scale": np.array([2.0**13], "float32"), "incr_count": 1234}
    )
    with paddle.utils.unique_name.guard():
        recorder(used).save()
    fresh = scaler()
    with paddle.utils.unique_name.guard():
        recorder(fresh).restore(*checkpoint.read_arrays(tmp_path / "last.npz"))
    assert {k: np.ravel(v).tolist() for k, v in fresh.state_dict().items()} == {
        k: np.ravel(v).tolist() for k, v in used.state_dict().items()
    }
    assert fresh.state_dict()["incr_count"] == 1234 and fresh.state_dict()["scale"] == [2.0**13]


# ------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def small_archive(tmp_path_factory):
    from helpers import random_split

    train, test = random_split(320, 0), random_split(100, 1)
    return Archive(train, test, train.fine_names, train.coarse_names)


@pytest.fixture(scope="module")
def run(small_archive, tmp_path_factory):
    """A run of two epochs with equation (4)."""
    r = dataclasses.replace(TINY, penalty=1e-3, attention="nam-spatial")
    return fit(r, small_archive, tmp_path_factory.mktemp("runs") / "a", progress=False)


def weights(network):
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def assert_same_run(a, b):
    for name, value in weights(a.network).items():
        np.testing.assert_array_equal(value, weights(b.network)[name], err_msg=name)
    for name, value in weights(a.best).items():
        np.testing.assert_array_equal(value, weights(b.best)[name], err_msg=name)
    for name, rows in a.gamma_history.items():
        np.testing.assert_array_equal(rows, b.gamma_history[name])
    assert [{**row, "seconds": 0} for row in a.log] == [{**row, "seconds": 0} for row in b.log]
    one, _ = checkpoint.read_arrays(a.folder / "last.npz")
    other, _ = checkpoint.read_arrays(b.folder / "last.npz")
    assert one.keys() == other.keys() and any(name.startswith("optimizer/") for name in one)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_what_a_run_leaves_behind(run, small_archive):
    assert {
        "run.json",
        "log.csv",
        "gamma.npz",
        "last.npz",
        "previous.npz",
        "best.npz",
        "visualdl",
    } <= set(os.listdir(run.folder))
    rows = list(csv.DictReader(open(run.folder / "log.csv")))
    assert [row["epoch"] for row in rows] == ["1", "2"] and len(run.log) == 2
    for row, saved in zip(rows, run.log):
        assert float(row["loss"]) == saved["loss"]
        assert saved["loss"] == pytest.approx(saved["cross_entropy"] + saved["penalty"])
        assert saved["penalty"] == pytest.approx(1e-3 * 2 * (16 + 1 + 4 * 15 + 64), rel=0.5)
        assert saved["evaluated_on"] == "validation" and 0 <= saved["eval_top1"] <= 100
    about = json.loads((run.folder / "run.json").read_text())
    assert about["versions"]["paddle"] == paddle.__version__ and about["machine"]
    assert about["data"]["train"] == 256 and about["data"]["validation"] == 64
    assert Recipe(**about["recipe"]) == run.recipe and run.recipe.mean is not None
    # gamma of every NAM layer: before training all ones, then once per epoch.
    assert list(run.gamma_history) == [name for name, _ in nam_layers(run.network)]
    for name, layer in nam_layers(run.network):
        history = run.gamma_history[name]
        assert history.shape == (3, layer.bn.weight.shape[0]) and (history[0] == 1).all()
        np.testing.assert_array_equal(history[-1], layer.bn.weight.numpy())
        np.testing.assert_array_equal(history, np.load(run.folder / "gamma.npz")[name])
    # The best epoch was chosen on the validation split.
    best = max(run.log, key=lambda row: row["eval_top1"])["epoch"]
    assert checkpoint.read_arrays(run.folder / "best.npz")[1]["epoch"] == best


def test_what_visualdl_is_given(run):
    from visualdl import LogReader

    (path,) = (run.folder / "visualdl").iterdir()
    reader = LogReader(file_path=str(path))
    tags = reader.get_tags()
    expected = {
        f"train/{name}"
        for name in ("loss", "cross_entropy", "penalty", "top1", "top5", "learning_rate")
    }
    assert expected | {"validation/top1"} <= set(tags["scalar"])
    assert "gamma/layer1.0.attention.channel" in tags["histogram"]
    losses = reader.get_data("scalar", "train/loss")
    assert [record.id for record in losses] == list(range(8))  # 4 batches in each of 2 epochs
    assert losses[-1].value == pytest.approx(
        reader.get_data("scalar", "train/cross_entropy")[-1].value
        + reader.get_data("scalar", "train/penalty")[-1].value,
        rel=1e-5,
    )
    rates = [record.value for record in reader.get_data("scalar", "train/learning_rate")]
    expected = [learning_rate(run.recipe, step, 4) for step in range(8)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    top1 = [record.value for record in reader.get_data("scalar", "train/top1")]
    assert np.mean(top1[:4]) == pytest.approx(run.log[0]["top1"], abs=1e-4)
    np.testing.assert_allclose(np.mod(np.array(top1) * 64 / 100 + 0.5, 1), 0.5, atol=1e-3)
    assert len(reader.get_data("histogram", "gamma/layer1.0.attention.channel")) == 3


def test_the_same_seed_gives_the_same_run(run, small_archive, tmp_path):
    paddle.seed(99)  # whatever was drawn before does not matter
    build_network(TINY)
    again = fit(
        dataclasses.replace(run.recipe, mean=None, std=None),
        small_archive,
        tmp_path / "b",
        progress=False,
    )
    assert_same_run(run, again)


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 5, 7])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    run, small_archive, tmp_path, monkeypatch, stop_at
):
    """Stopped in mid-epoch before the first state was saved, after it, and near the end."""
    from nam_edu import training

    count = 0
    normal = training.Recorder.on_train_batch_end

    def stop(self, step, logs=None):
        nonlocal count
        normal(self, step, logs)
        count += 1
        if count == stop_at:
            raise Stop

    monkeypatch.setattr(training.Recorder, "on_train_batch_end", stop)
    with pytest.raises(Stop):
        fit(run.recipe, small_archive, tmp_path / "c", progress=False)
    monkeypatch.undo()
    resumed = fit(run.recipe, small_archive, tmp_path / "c", resume=True, progress=False)
    assert_same_run(run, resumed)


def test_a_damaged_newest_state_falls_back_to_the_one_before(run, small_archive, tmp_path, capsys):
    first = fit(run.recipe, small_archive, tmp_path / "d", progress=False)
    path = tmp_path / "d" / "last.npz"
    path.write_bytes(path.read_bytes()[:-100])
    again = fit(run.recipe, small_archive, tmp_path / "d", resume=True, progress=False)
    assert "going back to the state before it" in capsys.readouterr().err
    assert_same_run(first, again)


def test_resume_on_a_finished_run_says_so(run, small_archive, capsys):
    again = fit(run.recipe, small_archive, run.folder, resume=True)
    assert "is finished: 2 of 2 epochs" in capsys.readouterr().out
    assert_same_run(run, again)


def test_another_run_is_not_destroyed(run, small_archive, tmp_path):
    with pytest.raises(TrainingError, match="holds a run already"):
        fit(run.recipe, small_archive, run.folder)
    with pytest.raises(TrainingError, match=r"another recipe: attention \(nam-spatial there, se"):
        fit(dataclasses.replace(run.recipe, attention="se"), small_archive, run.folder, resume=True)
    from helpers import random_split

    other = dataclasses.replace(small_archive, train=random_split(320, 7))
    with pytest.raises(TrainingError, match="trained on other images"):
        fit(run.recipe, other, run.folder, resume=True)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(TrainingError, match="not empty and holds no run"):
        fit(run.recipe, small_archive, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "leftover", [".run.json.k2j_9xqa", ".last.npz.abcdefgh", "lock", "visualdl"]
)
def test_what_a_kill_left_before_the_run_was_there(small_archive, tmp_path, leftover):
    if leftover == "visualdl":  # `overwrite` had removed its files
        (tmp_path / leftover).mkdir()
    else:
        (tmp_path / leftover).write_text('{"recipe": {"na')
    for more in ({}, {"resume": True}):
        fit(dataclasses.replace(TINY, epochs=1), small_archive, tmp_path, progress=False, **more)
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_what_kills_left_in_a_run(small_archive, tmp_path):
    """Half-written states do not pile up."""
    r = dataclasses.replace(TINY, epochs=1)
    fit(r, small_archive, tmp_path, progress=False)
    for name in (".new.npz.k2j_9xqa", ".best.npz.12345678", ".log.csv.abcdefgh", ".my-notes.txt"):
        (tmp_path / name).write_bytes(b"PK")
    fit(r, small_archive, tmp_path, progress=False, resume=True)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [".my-notes.txt"]


@pytest.mark.parametrize(
    "name",
    [".run.json", ".run.json.abcdefgh/x", ".run.json.bak", "run.json.bak", ".notes.abcdefgh"],
)
def test_files_of_others_are_no_leftovers(small_archive, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("years of work")
    with pytest.raises(TrainingError, match="not empty and holds no run"):
        fit(TINY, small_archive, tmp_path, progress=False)
    assert (tmp_path / name).read_text() == "years of work"


def test_overwriting_that_is_killed_can_be_done_again(small_archive, tmp_path, monkeypatch):
    r = dataclasses.replace(TINY, epochs=1)
    fit(r, small_archive, tmp_path / "run", progress=False)
    unlink, removed = type(tmp_path).unlink, 0

    def kill(path, *args, **kwargs):
        nonlocal removed
        if path.parent == tmp_path / "run":
            removed += 1
            if removed > 3:
                raise Stop
        unlink(path, *args, **kwargs)

    monkeypatch.setattr(type(tmp_path), "unlink", kill)
    with pytest.raises(Stop):
        fit(r, small_archive, tmp_path / "run", overwrite=True, progress=False)
    monkeypatch.undo()
    assert fit(r, small_archive, tmp_path / "run", overwrite=True, progress=False).log


def test_overwrite(small_archive, tmp_path):
    fit(dataclasses.replace(TINY, epochs=1), small_archive, tmp_path / "e", progress=False)
    run = fit(
        dataclasses.replace(TINY, epochs=1, attention="none"),
        small_archive,
        tmp_path / "e",
        overwrite=True,
        progress=False,
    )
    assert run.recipe.attention == "none" and run.gamma_history == {}
    assert open_run(tmp_path / "e").recipe.attention == "none"


def test_a_loss_that_becomes_nan_stops_the_run(small_archive, tmp_path):
    r = dataclasses.replace(TINY, learning_rate=1e30, epochs=3)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step \d+ of epoch 1;"):
        fit(r, small_archive, tmp_path / "f", progress=False)
    with pytest.raises(TrainingError, match="has not saved an epoch yet"):
        open_run(tmp_path / "f")


def test_a_batch_larger_than_the_data(small_archive, tmp_path):
    with pytest.raises(TrainingError, match="a batch of 512 images is more than the 256"):
        fit(dataclasses.replace(TINY, batch_size=512), small_archive, tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_cifar100_asked_for_and_not_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delenv("NAM_EDU_CIFAR100", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArchiveError, match="data download.*--data PATH.*76994.*shapes100"):
        fit(recipe("tutorial"), out=tmp_path / "h")


def test_no_run(tmp_path):
    with pytest.raises(TrainingError, match="there is no run in"):
        open_run(tmp_path)


def test_killed_in_mid_epoch_and_resumed(small_archive, tmp_path):
    """The command line, killed with SIGKILL, ends where an undisturbed run ends, bit for bit."""
    data = write_archive(tmp_path / "data.tar.gz", small_archive)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NAM_EDU_CPU_TUNING": "0"}

    def command(out):
        return [
            sys.executable,
            "-m",
            "nam_edu",
            "train",
            "--recipe",
            "ci",
            "--width",
            "4",
            "--batch-size",
            "32",
            "--train-images",
            "256",
            "--validation",
            "64",
            "--epochs",
            "8",
            "--data",
            str(data),
            "--out",
            str(tmp_path / out),
            "--resume",
        ]

    subprocess.run(command("whole"), env=environment, check=True, capture_output=True)
    process = subprocess.Popen(
        command("killed"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    state = tmp_path / "killed" / "previous.npz"
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.communicate()
    assert process.returncode != 0, "it ended before it could be killed"
    second = subprocess.run(
        command("killed"), env=environment, check=True, capture_output=True, text=True
    )
    assert "going on after epoch" in second.stdout
    assert_same_run(open_run(tmp_path / "whole"), open_run(tmp_path / "killed"))


def test_weight_decay_of_gamma_has_a_factor(archive, tmp_path):
    """The mean of |gamma| follows (1 - rate * factor * decay)^steps; with 0 it stays near 1."""
    base = dict(
        weight_decay=2.0,
        learning_rate=0.01,
        momentum=0.0,
        nesterov=False,
        schedule="constant",
        epochs=2,
    )
    means = {}
    for factor in (1, 0.5, 0):
        run = fit(
            recipe(
                "ci",
                width=4,
                batch_size=64,
                train_images=256,
                validation=64,
                gamma_decay=factor,
                **base,
            ),
            archive,
            tmp_path / str(factor),
            progress=False,
        )
        means[factor] = np.mean([np.abs(rows[-1]).mean() for rows in run.gamma_history.values()])
    for factor, mean in means.items():  # 2 epochs of 4 steps
        assert mean == pytest.approx((1 - 0.02 * factor) ** 8, abs=0.005)


def test_further_callbacks_see_the_network(archive, tmp_path):
    class Count(paddle.callbacks.Callback):
        epochs = 0

        def on_eval_end(self, logs=None):
            self.epochs += 1
            assert self.model.network.fc.weight.shape[1] == 100

    count = Count()
    fit(TINY, archive, tmp_path / "run", progress=False, callbacks=[count])
    assert count.epochs == 2


# -------------------------------------------------------------- asked to stop, locked, disk full


class Raise(paddle.callbacks.Callback):
    """Sends this process a signal at a step, counted over the whole run."""

    def __init__(self, at, number=signal.SIGINT):
        super().__init__()
        self.steps, self.at, self.number = 0, at, number

    def on_train_batch_begin(self, step, logs=None):
        self.steps += 1
        if self.steps == self.at:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 3, 4, 6, 8])  # of 2 epochs of 4 steps
def test_asked_to_stop(small_archive, tmp_path, at, number):
    """The step is finished and saved; what follows is as if nothing had happened."""
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    whole = fit(TINY, small_archive, tmp_path / "whole", progress=False)
    stopped = tmp_path / "stopped"
    if at < 8:
        where = {
            1: "step 1 of 4 of epoch 1",
            3: "step 3 of 4 of epoch 1",
            4: "epoch 1 of 2",
            6: "step 2 of 4 of epoch 2",
        }[at]
        with pytest.raises(Stopped, match=f"stopped after {where}.*--resume") as raised:
            fit(TINY, small_archive, stopped, progress=False, callbacks=[Raise(at, number)])
        assert raised.value.signal == number
        assert len(open_run(stopped).log) == at // 4
    else:  # in the last step: the run is finished
        fit(TINY, small_archive, stopped, progress=False, callbacks=[Raise(at, number)])
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    resumed = fit(TINY, small_archive, stopped, progress=False, resume=True)
    assert_nearly_same_run(whole, resumed)


def assert_nearly_same_run(a, b):
    """Equal but for the order in which several threads add up."""
    for name, value in a.network.state_dict().items():
        np.testing.assert_allclose(value.numpy(), b.network.state_dict()[name].numpy(), atol=1e-4)
    for row, other in zip(a.log, b.log):
        for column in row:
            if column not in ("seconds", "evaluated_on"):
                assert row[column] == pytest.approx(other[column], rel=1e-3, abs=1e-3), column
    assert len(a.log) == len(b.log)


def test_a_second_ctrl_c_ends_at_once(small_archive, tmp_path):
    class Twice(paddle.callbacks.Callback):
        def on_train_batch_begin(self, step, logs=None):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(TINY, small_archive, tmp_path / "run", progress=False, callbacks=[Twice()])


def test_sigterm_to_the_command_line(small_archive, tmp_path):
    data = write_archive(tmp_path / "data.tar.gz", small_archive)
    process = subprocess.Popen(
        [
            sys.executable,
            "-u",
            "-m",
            "nam_edu",
            "train",
            "--recipe",
            "ci",
            "--width",
            "4",
            "--batch-size",
            "16",
            "--train-images",
            "256",
            "--validation",
            "64",
            "--epochs",
            "500",
            "--data",
            str(data),
            "--out",
            str(tmp_path / "run"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "epoch 1/500" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "its state is saved in" in said and "Traceback" not in said
    assert open_run(tmp_path / "run").log


def test_a_second_run_in_the_same_folder(small_archive, tmp_path):
    class Second(paddle.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            for more in ({}, {"resume": True}, {"overwrite": True}):
                with pytest.raises(TrainingError, match="another process is training in"):
                    fit(TINY, small_archive, tmp_path / "run", progress=False, **more)

    run = fit(TINY, small_archive, tmp_path / "run", progress=False, callbacks=[Second()])
    assert len(run.log) == 2


def test_a_full_disk(small_archive, tmp_path, monkeypatch):
    """One error that says what is safe; what was saved before is intact."""
    folder, write = tmp_path / "run", checkpoint.write_arrays

    def full(path, arrays, meta):
        if meta["epoch"] == 2:
            with open(path, "wb") as half_written:
                half_written.write(b"PK")
            raise OSError(28, "No space left on device")
        write(path, arrays, meta)

    monkeypatch.setattr(checkpoint, "write_arrays", full)
    with pytest.raises(TrainingError, match="No space left on device; the last good state is"):
        fit(TINY, small_archive, folder, progress=False)
    assert len(open_run(folder).log) == 1
    monkeypatch.undo()
    resumed = fit(TINY, small_archive, folder, progress=False, resume=True)
    assert_nearly_same_run(fit(TINY, small_archive, tmp_path / "whole", progress=False), resumed)


def test_gammas_that_hardly_move_can_be_drawn(archive, tmp_path):
    """They differ in the last bits only, between which VisualDL finds no room for buckets."""
    run = fit(
        recipe("ci", width=4, batch_size=64, train_images=256, validation=64, learning_rate=1e-6),
        archive,
        tmp_path / "run",
        progress=False,
    )
    last = np.concatenate([rows[-1] for rows in run.gamma_history.values()])
    assert 0 < np.ptp(last) < 1e-5


# ------------------------------------------------------------------------ numbers that go wrong


def test_a_last_batch_of_one_image(archive, tmp_path):
    """Its maps of one pixel have no variance; the run goes on with finite numbers."""
    run = fit(
        recipe("ci", width=4, batch_size=64, train_images=65, validation=64, epochs=2),
        archive,
        tmp_path / "run",
        progress=False,
    )
    assert np.isfinite([row["loss"] for row in run.log]).all()
    assert all(np.isfinite(value.numpy()).all() for value in run.network.state_dict().values())


def test_images_of_one_colour(archive, tmp_path):
    grey = np.full_like(archive.train.images, 128)
    constant = dataclasses.replace(archive, train=dataclasses.replace(archive.train, images=grey))
    r = recipe("ci", width=4, batch_size=64, train_images=256, validation=64, epochs=1)
    with pytest.raises(TrainingError, match="all training images have the same .* --std"):
        fit(r, constant, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    run = fit(
        dataclasses.replace(r, std=(1.0, 1.0, 1.0)), constant, tmp_path / "run", progress=False
    )
    assert np.isfinite(run.log[-1]["loss"])


def test_a_class_that_is_missing(archive, tmp_path):
    rows = np.flatnonzero(archive.train.fine != 7)
    lacking = dataclasses.replace(archive, train=archive.train.take(rows))
    run = fit(
        recipe("ci", width=4, batch_size=64, train_images=256, validation=32, epochs=1),
        lacking,
        tmp_path / "run",
        progress=False,
    )
    assert run.network.fc.weight.shape[1] == 100 and np.isfinite(run.log[-1]["loss"])


def test_weights_that_became_nan(archive, tmp_path):
    """A NaN that appears in the weights shows in the next loss, and the run stops there."""

    class Spoil(paddle.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                weight = self.model.network.fc.weight
                weight.set_value(weight * float("nan"))

    with pytest.raises(TrainingError, match="the loss became nan at step 1 of epoch 2; .* kept"):
        fit(TINY, archive, tmp_path / "run", progress=False, callbacks=[Spoil()])
    assert len(open_run(tmp_path / "run").log) == 1


def test_weights_that_the_last_step_of_an_epoch_spoils(archive, tmp_path):
    """No next loss shows the NaN; the run stops all the same, and the epoch before is kept."""

    class Spoil(paddle.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, step, logs=None):
            if self.epoch == 1:
                for _, layer in nam_layers(self.model.network):
                    layer.bn.weight.set_value(layer.bn.weight * float("nan"))

    one_step = dataclasses.replace(TINY, train_images=TINY.batch_size, epochs=2)
    with pytest.raises(TrainingError, match="bn.weight holds NaN .* epoch 2; .* epoch 1 is kept"):
        fit(one_step, archive, tmp_path / "run", progress=False, callbacks=[Spoil()])
    assert len(open_run(tmp_path / "run").log) == 1


def test_mixed_precision_on_a_cpu_says_so(archive, tmp_path, capsys):
    run = fit(
        dataclasses.replace(TINY, amp=True, epochs=1), archive, tmp_path / "run", progress=False
    )
    if not paddle.device.get_device().startswith("gpu"):
        assert "mixed precision (amp) needs a GPU" in capsys.readouterr().err
    assert len(run.log) == 1


def test_a_folder_that_cannot_be_written_to(archive, tmp_path, monkeypatch):
    if os.name == "posix" and os.geteuid() != 0:
        tmp_path.chmod(0o500)
    else:  # root may write everywhere

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(TrainingError, match="cannot write to .*run: Permission denied; choose"):
        fit(TINY, archive, tmp_path / "run", progress=False)
    monkeypatch.undo()
    tmp_path.chmod(0o700)
    assert not (tmp_path / "run").exists()
