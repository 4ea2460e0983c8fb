"""The command line as a user meets it: exit codes, one clear sentence, no traceback."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from nam_edu.__main__ import main, parser, recipe_options
from nam_edu.checkpoint import save_weights
from nam_edu.data import write_archive
from nam_edu.resnet import resnet18
from nam_edu.training import Recipe

TINY = [
    "--recipe",
    "ci",
    "--width",
    "4",
    "--batch-size",
    "64",
    "--train-images",
    "128",
    "--validation",
    "64",
    "--epochs",
    "1",
]


@pytest.fixture
def data(archive, tmp_path):
    return str(write_archive(tmp_path / "data.tar.gz", archive))


def test_train_evaluate_gamma(data, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert (
        main(
            [
                "train",
                *TINY,
                "--data",
                data,
                "--seed",
                "3",
                "--penalty",
                "1e-4",
                "--no-flip",
                "--out",
                out,
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "epoch 1/1: loss" in printed and "validation top-1" in printed

    assert main(["evaluate", out, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 <= result["top1"] <= result["top5"] <= 100 and result["images"] == 200
    assert result["recipe"]["penalty"] == 1e-4 and result["recipe"]["flip"] is False
    assert main(["evaluate", out, "--best", "--data", data]) == 0
    assert "95 % interval" in capsys.readouterr().out

    assert main(["gamma", out]) == 0
    assert "layer4.1.channel" in capsys.readouterr().out

    assert main(["train", *TINY, "--data", data, "--out", out]) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", out]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["train", "--resume", "--out", out, "--seed", "4"]) == 1
    assert "seed (3 there, 4 asked for)" in capsys.readouterr().err


def test_every_field_of_a_recipe_has_an_option():
    options = {name[2:].replace("-", "_") for name, _ in recipe_options()}
    assert options | {"name", "data"} == set(Recipe.__dataclass_fields__)


def one_sentence(arguments, capsys):
    """The exit code and the error of a command, which must be one line without a traceback."""
    code = main(arguments)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return code, error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--data", "nowhere.tar.gz"], "there is no file nowhere.tar.gz"),
        (["train", "--recipe", "quik"], "unknown recipe 'quik': choose one of"),
        (["train", "--attention", "senet"], "unknown attention 'senet': choose one of none, half"),
        (["train", "--depth", "20"], "unknown depth 20"),
        (["train", "--stem", "vgg"], "unknown stem 'vgg'"),
        (["train", "--epochs", "0"], "epochs must be a whole number"),
        (["train", "--seed", "-1"], "seed must be a whole number of 0 to 4294967295, not -1"),
        (["train", "--seed", "4294967296"], "seed must be a whole number"),
        (["train", "--attention", "own: Mine"], "Mine, is not in the registry: go on in Python"),
        (["data", "make-shapes100", "--seed", "-1"], "seed must be a whole number of at least 0"),
        (["evaluate", "nowhere"], "there is no run in nowhere"),
        (["evaluate"], "give the folder of a run"),
        (["evaluate", "--weights", "nowhere.npz"], "there is no weights file nowhere.npz"),
        (["gamma", "nowhere"], "there is no run in nowhere"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, error = one_sentence(arguments, capsys)
    assert code == 1 and message in error
    assert os.listdir(tmp_path) == []


def test_options_are_made_from_the_fields(tmp_path, capsys):
    options = dict(recipe_options())
    assert options["--depth"]["help"] == "layers: 18, 34, 50, 101 or 152"
    assert "nam-times-c" in options["--attention"]["help"]
    args = parser(options.items()).parse_args(
        [
            "train",
            "--no-flip",
            "--milestones",
            "3",
            "5",
            "--std",
            ".1",
            ".2",
            ".3",
            "--depth",
            "34",
            "--gamma-decay",
            "0.5",
            "--stem",
            "cifar",
        ]
    )
    assert (args.flip, args.milestones, args.std, args.depth, args.gamma_decay, args.stem) == (
        False,
        [3, 5],
        [0.1, 0.2, 0.3],
        34,
        0.5,
        "cifar",
    )
    assert args.nesterov is args.mean is args.epochs is None


@pytest.mark.skipif(os.name == "nt", reason="reads the commands as a POSIX shell does")
def test_printed_commands_can_be_copied(data, tmp_path, capsys):
    """Of a folder whose name a shell would take apart."""
    out = str(tmp_path / "my first run; it's $HOME")
    assert main(["train", *TINY, "--data", data, "--out", out]) == 0
    printed = capsys.readouterr().out
    command = printed[printed.index("evaluate it:") :].splitlines()[0].split(":", 1)[1]
    assert shlex.split(command) == ["python", "-m", "nam_edu", "evaluate", out]
    command = printed[printed.index("see its curves:") :].split(":", 1)[1]
    assert shlex.split(command)[-1] == os.path.join(out, "visualdl")
    _, error = one_sentence(["gamma", out + "/nowhere"], capsys)
    assert shlex.split(error.split("one with: ")[1])[-2:] == ["--out", out + "/nowhere"]


def test_an_error_of_another_library_keeps_its_traceback(data, tmp_path, monkeypatch):
    """A ValueError of Paddle's says nothing to a person, and its place is needed to mend it."""
    from nam_edu import evaluation

    out = str(tmp_path / "run")
    assert main(["train", *TINY, "--data", data, "--out", out]) == 0
    for error in (ValueError("(InvalidArgument) dims"), OSError("no number, no name")):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(evaluation, "evaluate", fail)
        with pytest.raises(type(error)) as raised:
            main(["evaluate", out])
        assert raised.value is error


def test_an_error_of_the_system_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    _, error = one_sentence(
        ["data", "make-shapes100", "--out", str(tmp_path / "file" / "x")], capsys
    )
    assert "file" in error and "Errno" not in error


def test_a_batch_above_the_data_set(data, tmp_path, capsys):
    code, error = one_sentence(
        ["train", *TINY, "--data", data, "--batch-size", "4096", "--out", str(tmp_path / "run")],
        capsys,
    )
    assert code == 1 and "a batch of 4096 images is more than" in error


def test_a_file_for_a_folder(data, tmp_path, capsys):
    code, error = one_sentence(["train", *TINY, "--data", data, "--out", data], capsys)
    assert code == 1 and "is a file" in error


def test_weights_of_another_architecture(data, tmp_path, capsys):
    save_weights(resnet18(width=4), tmp_path / "small.npz")
    code, error = one_sentence(
        ["evaluate", "--weights", str(tmp_path / "small.npz"), "--data", data], capsys
    )
    assert code == 1 and "carries no recipe" in error and "save_weights(network" in error


def test_weights_that_carry_their_recipe(data, tmp_path, capsys):
    recipe = {
        "name": "mine",
        "data": data,
        "width": 4,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    }
    save_weights(resnet18(width=4), tmp_path / "small.npz", {"recipe": recipe})
    assert main(["evaluate", "--weights", str(tmp_path / "small.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["mean"] == [0.5, 0.5, 0.5]


def test_a_network_without_nam_has_no_gamma(data, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", *TINY, "--data", data, "--attention", "none", "--out", out]) == 0
    code, error = one_sentence(["gamma", out], capsys)
    assert code == 1 and "has no NAM layer" in error


def test_data(tmp_path, capsys):
    assert main(["data", "make-shapes100", "--out", str(tmp_path / "s.tar.gz")]) == 0
    assert (tmp_path / "s.tar.gz").exists()
    assert main(["data"]) == 0
    assert "Paddle's cache" in capsys.readouterr().out


def test_help_and_wrong_commands_in_a_process_of_their_own():
    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "nam_edu", *arguments], capture_output=True, text=True
        )

    assert "first steps" in call("--help").stdout
    assert "equation (4)" in call("train", "--help").stdout
    wrong = call("trian")
    assert wrong.returncode == 2 and "invalid choice" in wrong.stderr


def test_shapes_of_the_confusion(data, tmp_path, capsys):
    out = str(tmp_path / "run")
    main(["train", *TINY, "--data", data, "--out", out])
    capsys.readouterr()
    main(["evaluate", out, "--json"])
    confusion = json.loads(capsys.readouterr().out)["confusion"]
    assert np.shape(confusion["counts"]) == (20, 20) and len(confusion["superclasses"]) == 20
