"""Every exercise: its stub does not pass, its solution does, mistakes get a message that helps."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from nam_edu.exercises import CHECKERS, check

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def tagged(folder, kind):
    """{number: (source of the cell tagged `kind`-number, imports of the lesson's solutions)}"""
    found = {}
    for path in sorted(folder.glob("*.ipynb")):
        solutions = nbformat.read(NOTEBOOKS / "solutions" / path.name, as_version=4)
        for cell in nbformat.read(path, as_version=4).cells:
            for tag in cell.metadata.get("tags", ()):
                if tag.startswith(f"{kind}-"):
                    found[tag.split("-")[1]] = cell.source, solutions.cells[2].source
    return found


STUBS = tagged(NOTEBOOKS, "exercise")
SOLUTIONS = tagged(NOTEBOOKS / "solutions", "solution")


def checked(number, source, capsys):
    """What check says of the answer that a cell's source defines: (True or False, its line)."""
    names = {}
    exec(SOLUTIONS[number][1], names)
    name = re.search(rf'check\("{re.escape(number)}", (\w+)\)', STUBS[number][0]).group(1)
    exec(re.sub(r"^(assert )?check\(.*$", "", source, flags=re.M), names)
    capsys.readouterr()
    return check(number, names[name]), capsys.readouterr().out


def test_every_exercise_has_a_stub_a_solution_and_mistakes():
    assert list(CHECKERS) == sorted(STUBS) == sorted(SOLUTIONS) == sorted(MISTAKES)
    for lesson in "123456":
        assert 3 <= sum(number.startswith(lesson) for number in STUBS) <= 5
    assert all(len(mistakes) >= 2 for mistakes in MISTAKES.values())


@pytest.mark.parametrize("number", CHECKERS)
def test_stub(number, capsys):
    right, said = checked(number, STUBS[number][0], capsys)
    assert not right and "not solved yet" in said


@pytest.mark.parametrize("number", CHECKERS)
def test_solution(number, capsys):
    right, said = checked(number, SOLUTIONS[number][0], capsys)
    assert right and said.startswith(f"✓ {number}: ")


def test_unknown_exercise_and_an_answer_that_raises(capsys):
    assert not check("9.9", None)
    assert "There is no exercise '9.9'" in capsys.readouterr().out
    assert not check("1.2", lambda gamma: 1 / 0)
    assert "your code raised ZeroDivisionError" in capsys.readouterr().out
    assert not check("1.2", lambda gamma: "half")
    assert "not str" in capsys.readouterr().out


# number: {words of the message: a change (old, new) of the solution that a learner might make}
MISTAKES = {
    "1.1": {
        "each image by itself": ("(0, 2, 3)", "(2, 3)"),
        "eps is missing": (" + 1e-5", ""),
        "gamma and beta are still": (
            "return gamma.reshape(1, -1, 1, 1) * x_hat + beta.reshape(1, -1, 1, 1)",
            "return x_hat",
        ),
    },
    "1.2": {
        "take magnitudes": ("np.abs(gamma)", "gamma"),
        "softmax": (
            "return magnitude / magnitude.sum()",
            "return np.exp(gamma) / np.exp(gamma).sum()",
        ),
        "let each weigh 1/4": ("if magnitude.sum() == 0:", "if False:"),
    },
    "1.3": {
        "W is missing": ("x_hat / channels", "x_hat"),
        "straight line": ("return 1 / (1 + np.exp(-logit))", "return 0.5 + logit / 4"),
        "that is the logit": ("return 1 / (1 + np.exp(-logit))", "return logit"),
    },
    "1.4": {
        "rows and columns are swapped": (
            "return (np.eye(len(gamma)) - w[:, None]) * np.sign(gamma)[None, :] / total",
            "return ((np.eye(len(gamma)) - w[:, None]) * np.sign(gamma)[None, :] / total).T",
        ),
        "the sign is missing": (" * np.sign(gamma)[None, :]", ""),
        "every W_i depends on every": ("(np.eye(len(gamma)) - w[:, None])", "np.eye(len(gamma))"),
    },
    "2.1": {
        "the shift has to be multiplied": ("w_gamma * beta", "beta"),
        "say training=True": (", training=True", ""),
        "without W": (
            "w_gamma * gamma,\n                        w_gamma * beta",
            "gamma,\n                        beta",
        ),
    },
    "2.2": {
        "a reshape alone": ("x.reshape(n, c, h * w).transpose(0, 2, 1)", "x.reshape(n, h * w, c)"),
        "down the columns": (
            "x.reshape(n, c, h * w).transpose(0, 2, 1)",
            "x.transpose(0, 3, 2, 1).reshape(n, h * w, c)",
        ),
    },
    "2.3": {
        "the factors are swapped": (
            "0.9 * mean + 0.1 * batch.mean((0, 2, 3))\n        var = 0.9 * var + 0.1",
            "0.1 * mean + 0.9 * batch.mean((0, 2, 3))\n        var = 0.1 * var + 0.9",
        ),
        "divides by n": ("batch.var((0, 2, 3))", "batch.var((0, 2, 3), ddof=1)"),
    },
    "2.4": {
        "still flows through W": (".detach()", ""),
        "no gradient reaches gamma": ("self.bn(x) *", "self.bn(x).detach() *"),
        "the values differ": (" * w_gamma.reshape([1, -1, 1, 1])", ""),
    },
    "3.1": {
        "halves twice": ("halve(halve(image_size))", "halve(image_size)"),
        "rounds up": ("(side + 1) // 2", "side // 2"),
        "the first stage does not halve": ("return sides", "return [halve(s) for s in sides]"),
    },
    "3.2": {
        "running statistics": ("2 * (", "4 * ("),
        "four times its width": (
            "3 * 256 + 4 * 512 + 23 * 1024 + 3 * 2048",
            "3 * 64 + 4 * 128 + 23 * 256 + 3 * 512",
        ),
        "every block has a layer": (
            "3 * 256 + 4 * 512 + 23 * 1024 + 3 * 2048",
            "256 + 512 + 1024 + 2048",
        ),
    },
    "3.3": {
        "you return the class": ("NAM(channels) if", "NAM if"),
        "there should be no NAM": (" if height * width > 1 else nn.Identity()", ""),
        "comes back twice": (
            "def my_attention(channels, size):",
            "one = NAM(8)\ndef my_attention(channels, size):\n"
            "    return one\ndef unused(channels, size):",
        ),
    },
    "3.4": {
        "hold back the shortcut": (
            "return F.relu(out + block.downsample(x))",
            "out = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))\n"
            "    return F.relu(block.attention(out + block.downsample(x)))",
        ),
        "the last relu": ("F.relu(out + block.downsample(x))", "out + block.downsample(x)"),
        "the attention is missing": (
            "block.attention(block.bn2(block.conv2(out)))",
            "block.bn2(block.conv2(out))",
        ),
    },
    "4.1": {
        "within each image": ("values.std((0, 2, 3))", "values.std((2, 3)).mean(0)"),
        "divide by 255": ("images / 255", "images"),
        "is the variance": ("values.std", "values.var"),
    },
    "4.2": {
        "the warm-up is missing": ("if step < warmup:", "if False:"),
        "jumps below": ("(step - warmup) / (total - warmup)", "step / total"),
        "a whole cosine": ("np.pi * done", "2 * np.pi * done"),
    },
    "4.3": {
        "all images are mirrored": (
            "np.where(mask[:, None, None, None], images[..., ::-1], images)",
            "images[..., ::-1]",
        ),
        "upside down": ("images[..., ::-1]", "images[:, :, ::-1]"),
        "the input was changed": (
            "return np.where",
            "images[mask] = images[mask][..., ::-1]\n    return images\n    return np.where",
        ),
    },
    "4.4": {
        "no gradient flows": (".abs().sum() for", ".abs().sum().item() for"),
        "gammas of both signs cancel": (".abs()", ""),
        "the backbone's": (
            "return sum(layer.bn.weight.abs().sum() for _, layer in nam_layers(network))",
            "return sum(layer.weight.abs().sum() for layer in "
            "network.sublayers() if 'BatchNorm' in str(type(layer).__mro__))",
        ),
    },
    "5.1": {
        "argsort sorts upwards": ("-logits", "logits"),
        "k is not used": ("[:, :k]", "[:, :1]"),
        "per cent are wanted": ("100 * ", ""),
    },
    "5.2": {
        "plain interval": (
            "    return scale",
            "    e = z * np.sqrt(p * (1 - p) / n)\n"
            "    return 100 * (p - e), 100 * (p + e)\n    return scale",
        ),
        "those are shares": ("scale = 100 /", "scale = 1 /"),
    },
    "5.3": {
        "swapped": ("(true, predicted)", "(predicted, true)"),
        "counted once": ("np.add.at(table, (true, predicted), 1)", "table[true, predicted] += 1"),
    },
    "5.4": {
        "round up": (
            "int(np.ceil(((1.96 + 0.84) * spread / difference) ** 2))",
            "((1.96 + 0.84) * spread / difference) ** 2",
        ),
        "add 0.84": ("(1.96 + 0.84)", "1.96"),
        "the square is missing": (" ** 2", ""),
    },
    "6.1": {
        "start with the largest": (
            "np.sort(np.abs(gamma) / np.abs(gamma).sum())[::-1]",
            "np.sort(np.abs(gamma) / np.abs(gamma).sum())",
        ),
        "a number of channels": ("return int(", "return 0.9 or int("),
    },
    "6.2": {
        "momentum is missing": (" / (1 - momentum)", ""),
        "a share of what is left": ("np.exp(-weight_decay", "1 + (-weight_decay"),
    },
    "6.3": {
        "order by magnitude": ("np.abs(gamma)", "gamma"),
        "the most important ones": (
            "np.argsort(np.abs(gamma))[:count]",
            "np.argsort(-np.abs(gamma))[:count]",
        ),
        "you return gammas": (
            "np.argsort(np.abs(gamma))[:count]",
            "gamma[np.argsort(np.abs(gamma))[:count]]",
        ),
    },
    "6.4": {
        "W is missing": ("-w * np.abs(gamma)", "-np.abs(gamma)"),
        "gamma itself": ("-w * np.abs(gamma)", "-w"),
        "use its magnitude": ("-w * np.abs(gamma)", "-w * gamma"),
    },
}


@pytest.mark.parametrize("number, words", [(n, words) for n, m in MISTAKES.items() for words in m])
def test_mistake(number, words, capsys):
    old, new = MISTAKES[number][words]
    source = SOLUTIONS[number][0]
    assert old in source, "the solution no longer holds what the mistake changes"
    right, said = checked(number, source.replace(old, new), capsys)
    assert not right and words in said, said


@pytest.mark.parametrize(
    "answer",
    [
        ...,
        None,
        lambda *inputs: ...,
        lambda *inputs: None,
        lambda *inputs: (..., 1.0),
        lambda *inputs: [1.0, None],
    ],
)
@pytest.mark.parametrize("number", CHECKERS)
def test_an_answer_left_open(number, answer, capsys):
    assert check(number, answer) is False
    assert "not solved yet: put your answer in place of the dots" in capsys.readouterr().out


@pytest.mark.parametrize(
    "junk",
    [
        3,
        "x",
        (),
        (1,),
        [1, 2, 3],
        {},
        {1, 2},
        [[1], [1, 2]],
        [float("nan")] * 2,
        float("nan"),
        float("inf"),
    ],
)
@pytest.mark.parametrize("number", CHECKERS)
def test_a_junk_answer_is_not_said_to_have_raised(number, junk, capsys):
    for answer in (junk, lambda *inputs: junk):
        assert check(number, answer) is False
        assert "your code raised" not in capsys.readouterr().out


def test_two_rows_of_an_array_are_two_arrays(capsys):
    def averages(batches):
        both = np.stack([np.zeros(3), np.ones(3)])
        for batch in batches:
            both = 0.9 * both + 0.1 * np.stack([batch.mean((0, 2, 3)), batch.var((0, 2, 3))])
        return both

    assert check("2.3", averages)


def test_a_value_where_a_function_is_wanted(capsys):
    assert check("2.3", 5) is False
    assert "a function is wanted, not int" in capsys.readouterr().out


def test_checkers_have_names():
    for number, checker in CHECKERS.items():
        assert checker.__name__ == f"exercise_{number.replace('.', '_')}"
