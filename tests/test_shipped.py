"""The weights that come with the package do what is said of them."""

import json
import re

import numpy as np
import pytest

from nam_edu import checkpoint
from nam_edu.__main__ import main
from nam_edu.runs import SHIPPED
from nam_edu.training import TrainingError, load_network, recipe, shipped

NAMES = {"nam": "shipped", "none": "shipped-none"}


@pytest.mark.parametrize("attention", NAMES)
def test_a_shipped_run_is_a_finished_run_of_its_recipe(attention):
    run = shipped(attention)
    assert run.recipe == recipe("shipped", attention=attention)
    assert [row["epoch"] for row in run.log] == list(range(1, run.recipe.epochs + 1))
    assert {row["evaluated_on"] for row in run.log} == {"test"}
    assert len(run.gamma_history) == (8 if attention == "nam" else 0)
    for name, rows in run.gamma_history.items():
        assert rows.shape[0] == run.recipe.epochs + 1 and (rows[0] == 1).all()
        layer = dict(run.network.named_sublayers())[name]
        np.testing.assert_array_equal(layer.bn.weight.numpy(), rows[-1])
    files = list((SHIPPED / attention).iterdir())
    assert {path.name for path in files} == {"README.md", "run.json", "log.csv", "last.npz"}
    assert sum(path.stat().st_size for path in files) < 2_000_000


@pytest.mark.parametrize("attention", NAMES)
def test_only_matrices_are_rounded(attention):
    arrays, _ = checkpoint.read_arrays(SHIPPED / attention / "last.npz")
    for name, array in arrays.items():
        rounded = name.startswith("network/") and array.ndim > 1
        assert array.dtype == ("float16" if rounded else "float32"), name


def test_the_twins_differ_in_the_attention_alone():
    nam, none = (dict(shipped(a).network.state_dict()) for a in NAMES)
    assert {n for n in nam if n not in none} == {n for n in nam if ".attention." in n}
    assert set(none) <= set(nam)


@pytest.mark.parametrize("attention", NAMES)
def test_the_card_says_what_run_json_says(attention):
    stated = json.loads((SHIPPED / attention / "run.json").read_text())["shipped"]
    card = (SHIPPED / attention / "README.md").read_text()
    assert f"| top-1 | **{stated['top1']:.2f} %**" in card
    assert f"| top-5 | {stated['top5']:.2f} % |" in card
    assert f"--weights {NAMES[attention]} " in card
    assert not re.search(r"/(tmp|home|work|root)/", card + json.dumps(stated))


@pytest.mark.parametrize("attention", NAMES)
def test_the_stated_accuracy_comes_out_again_to_the_last_digit(attention, cifar100, capsys):
    assert main(["evaluate", "--weights", NAMES[attention], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stated = json.loads((SHIPPED / attention / "run.json").read_text())["shipped"]
    assert (round(found["top1"], 2), round(found["top5"], 2)) == (stated["top1"], stated["top5"])
    assert found["images"] == 10_000


def test_names(capsys):
    network, found = load_network("shipped-none")
    assert found.attention == "none" and not network.training
    with pytest.raises(TrainingError, match="'se' comes with the package: there is nam and none"):
        shipped("se")
    assert main(["gamma", "shipped"]) == 0
    assert "layer4.1.channel" in capsys.readouterr().out
