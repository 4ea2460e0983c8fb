"""Every exercise: its stub does not pass, its solution and other right answers do, and mistakes get
a message that helps."""

import ast
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from nam_edu.exercises import CHECKERS, check

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"


def tagged(folder, kind):
    """{number: (source of the cell tagged `kind`-number, imports of the lesson's solutions)}"""
    found = {}
    for path in sorted(folder.glob("0*.ipynb")):
        solutions = nbformat.read(NOTEBOOKS / "solutions" / path.name, as_version=4)
        for cell in nbformat.read(path, as_version=4).cells:
            for tag in cell.metadata.get("tags", ()):
                if tag.startswith(f"{kind}-"):
                    found[tag.split("-")[1]] = cell.source, solutions.cells[2].source
    return found


STUBS = tagged(NOTEBOOKS, "exercise")
SOLUTIONS = tagged(NOTEBOOKS / "solutions", "solution")
# The stubs of these hold code with mistakes to find, instead of dots.
TO_MEND = {
    "1.2": "has become",
    "2.5": "its W is still",
    "3.4": "attention comes after the addition",
    "4.5": "even the first loss",
    "5.5": "need not list its seeds in order",
    "6.3": "no channel is gone",
    "7.4": "two things are wrong",
}


def checked(number, source, capsys):
    """What check says of the answer that a source defines: (True or False, its line)."""
    names = {}
    exec(SOLUTIONS[number][1], names)
    name = re.search(rf'check\("{re.escape(number)}", (\w+)\)', STUBS[number][0]).group(1)
    exec(re.sub(r"^(assert )?check\(.*$", "", source, flags=re.M), names)
    capsys.readouterr()
    return check(number, names[name]), capsys.readouterr().out


def test_every_exercise_has_a_stub_a_solution_mistakes_and_right_answers():
    assert list(CHECKERS) == sorted(STUBS) == sorted(SOLUTIONS) == sorted(MISTAKES) == sorted(RIGHT)
    for lesson in "1234567":
        assert sum(number.startswith(lesson) for number in STUBS) == 5
        assert sum(number.startswith(lesson) for number in TO_MEND) == 1
    assert all(len(mistakes) >= 3 for mistakes in MISTAKES.values())
    assert all(len(answers) >= 2 for answers in RIGHT.values())


@pytest.mark.parametrize("number", CHECKERS)
def test_stub(number, capsys):
    right, said = checked(number, STUBS[number][0], capsys)
    assert not right and TO_MEND.get(number, "not solved yet") in said


@pytest.mark.parametrize("number", CHECKERS)
def test_solution(number, capsys):
    right, said = checked(number, SOLUTIONS[number][0], capsys)
    assert right and said.startswith(f"✓ {number}: ")


@pytest.mark.parametrize("number", CHECKERS)
@pytest.mark.parametrize("notebooks", [NOTEBOOKS, NOTEBOOKS / "zh"])
def test_the_text_of_an_exercise_stands_beside_its_solution_too(notebooks, number):
    def before(folder, kind):
        for path in sorted(folder.glob("0*.ipynb")):
            cells = nbformat.read(path, as_version=4).cells
            for text, cell in zip(cells, cells[1:]):
                if f"{kind}-{number}" in cell.metadata.get("tags", ()):
                    return text.source

    assert before(notebooks, "exercise").endswith(before(notebooks / "solutions", "solution"))


def test_unknown_exercise_and_an_answer_that_raises(capsys):
    assert not check("9.9", None)
    assert "There is no exercise '9.9'" in capsys.readouterr().out
    assert not check("1.2", lambda gamma: 1 / 0)
    assert "your code raised ZeroDivisionError" in capsys.readouterr().out
    assert not check("1.2", lambda gamma: "half")
    assert "not str" in capsys.readouterr().out


# number: {words of the message: a change (old, new) of the solution, or a whole answer}
MISTAKES = {
    "1.1": {
        "you normalise each channel": ("(0, 1)", "(0, 2, 3)"),
        "each image by itself": ("(0, 1)", "(1,)"),
        "one mean for everything": ("(0, 1)", "(0, 1, 2, 3)"),
        "eps is missing": (" + 1e-5", ""),
        "eps stands beside the root": ("np.sqrt(var + 1e-5)", "(np.sqrt(var) + 1e-5)"),
        "divide by the variance": ("np.sqrt(var + 1e-5)", "(var + 1e-5)"),
        "divide by n - 1": ("x.var((0, 1), ", "x.var((0, 1), ddof=1, "),
        "lambda and beta are still": ("lambda_ * x_hat + beta", "x_hat"),
        "lambda and beta are swapped": ("lambda_ * x_hat + beta", "beta * x_hat + lambda_"),
        "shift beta is missing": ("lambda_ * x_hat + beta", "lambda_ * x_hat"),
        "with its sign": ("lambda_ * x_hat", "abs(lambda_) * x_hat"),
        "is a `return` missing": ("return lambda_", "lambda_"),
        "Is a reshape missing": (
            "lambda_ * x_hat + beta",
            "lambda_.ravel() * x_hat + beta.ravel()",
        ),
    },
    "1.2": {
        "has become": ("magnitude = np.abs(gamma)", "gamma *= np.sign(gamma); magnitude = gamma"),
        "magnitudes, above and below": ("np.abs(gamma)", "gamma.copy()"),
        "is a softmax": ("np.abs(gamma) ", "np.exp(gamma) "),
        "3 gammas that are all 0": ("if magnitude.sum() == 0:", "if False:"),
        "5 gammas that are all 0": (
            "magnitude = np.ones_like(magnitude)",
            "return np.full(len(gamma), 1 / 3)",
        ),
        "let each weigh 1/3": (
            "magnitude = np.ones_like(magnitude)",
            "return np.full(4, 0.25)[:len(gamma)]",
        ),
        "NumPy warned on the way": """
def my_weights(gamma):
    magnitude = np.abs(gamma)
    w = magnitude / magnitude.sum()
    return np.where(np.isnan(w), 1 / len(gamma), w)
""",
        "small, not zero": ("magnitude.sum() == 0", "magnitude.sum() < 1e-6"),
        "the largest magnitude": ("magnitude / magnitude.sum()", "magnitude / magnitude.max()"),
        "write a function": "my_weights = np.array([0.5, 0.25, 0.25, 0.0])",
    },
    "1.3": {
        "not the straight line": "my_widest = lambda x, gate: round(x / (4 * (gate - 0.5)))",
        "no fraction of a channel": ("int(x_hat / logit)", "x_hat / logit"),
        "which is below 0.51": ("int(x_hat / logit)", "int(x_hat / logit) + 1"),
        "is not the widest": ("int(x_hat / logit)", "int(x_hat / logit) - 1"),
        "a pixel of x_hat = 6": ("int(x_hat / logit)", "int(4 / logit)"),
        "that is the logit": ("int(x_hat / logit)", "logit"),
    },
    "1.4": {
        "the matrix is turned": """
def my_gradient(gamma, upstream):
    total, w = np.abs(gamma).sum(), np.abs(gamma) / np.abs(gamma).sum()
    return (np.eye(4) - w[:, None]) * np.sign(gamma) / total @ upstream
""",
        "the signs are wrong": ("np.sign(gamma) / total", "1 / total"),
        "the sum below the line": (" - (upstream * w).sum()", ""),
        "a factor is missing": (" / total * (", " * ("),
        "not only its own": ("(upstream - (upstream * w).sum())", "(1 - w) * upstream"),
    },
    "1.5": {
        "one of the changes in your list moves": ("if moved < 0.001:", "if True:"),
        "there are more": ("assert check", "unchanged = unchanged[:1]\nassert check"),
        "is none of the changes": ("append(name)", "append(name.upper())"),
        "a list of names": "unchanged = 'times 10'",
    },
    "2.1": {
        "the two are swapped": (
            "return scale, w_gamma * beta - scale * mean",
            "return w_gamma * beta - scale * mean, scale",
        ),
        "W is missing": ("np.abs(gamma) / np.abs(gamma).sum()", "1"),
        "multiplied by W too": ("w_gamma * beta", "beta"),
        "gamma itself is missing": ("w_gamma * gamma", "w_gamma"),
        "eps (0.00001) is missing": (" + 1e-5", ""),
        "divide by the variance": ("np.sqrt(var + 1e-5)", "(var + 1e-5)"),
        "the mean is missing": (" - scale * mean", ""),
        "taken off, not added": ("- scale * mean", "+ scale * mean"),
        "before it joins the shift": ("- scale * mean", "- mean"),
        "that is for x_hat": "my_scale_and_shift = lambda g, b, m, v: "
        "(abs(g) / abs(g).sum() * g, abs(g) / abs(g).sum() * b)",
        "W has magnitudes": ("np.abs(gamma) / np.abs(gamma).sum()", "gamma / gamma.sum()"),
        "2 results are wanted": ("return scale, w_gamma * beta - scale * mean", "return scale"),
    },
    "2.2": {
        "a reshape alone": (".transpose(0, 2, 1)", ""),
        "height and width are mixed up": (
            "pixels.transpose(0, 2, 1).reshape(n, c, height, width)",
            "pixels.reshape(n, width, height, c).transpose(0, 3, 2, 1)",
        ),
        "a reshape or a transpose may be missing": (".reshape(n, c, height, width)", ""),
        "is a `return` missing": ("return pixels", "pixels"),
    },
    "2.3": {
        "the factors are swapped": ("momentum=momentum", "momentum=1 - momentum"),
        "still": ("return passes", "return passes - 1"),
        "more than it takes": ("return passes", "return passes + 1"),
        "right for a momentum of 0.9": ("momentum=momentum", "momentum=0.9"),
        "a whole number": "my_passes = lambda m, within: np.log(within) / np.log(m)",
        "write a function": "my_passes = 44",
    },
    "2.4": {
        "still flows through W": (".detach()", ""),
        "no gradient reaches gamma": ("self.bn(x) *", "self.bn(x).detach() *"),
        "in training the values differ": (" * w_gamma.reshape([1, -1, 1, 1])", ""),
        "that is the gate": ("F.sigmoid(logits) * x", "F.sigmoid(logits)"),
        "still depends on": (
            "self.bn(x) *",
            "F.batch_norm(x, self.bn._mean, self.bn._variance, self.bn.weight, self.bn.bias, "
            "training=True) *",
        ),
        "the running mean was not kept": (
            "self.bn(x) *",
            "F.batch_norm(x, self.bn._mean * 1, self.bn._variance * 1, self.bn.weight, "
            "self.bn.bias, training=self.training) *",
        ),
        "forward gives back None": ("return F.sigmoid", "F.sigmoid"),
        "Is a reshape missing": (".reshape([1, -1, 1, 1])", ""),
        "as many channels": ("BatchNorm2D(channels)", "BatchNorm2D(8)"),
        "under the name .bn": ("self.bn", "self.norm"),
    },
    "2.5": {
        "its W is still": (
            "w_gamma = attention.gamma_weights(self.bn.weight)",
            "w_gamma = (paddle.ones([3]) / 3)",
        ),
        "still depends on": ("training=self.training", "training=True"),
        "in training the values differ": ("training=self.training", "training=False"),
        "no gradient reaches gamma": (
            "scale, shift = w_gamma * self.bn.weight, w_gamma",
            "scale, shift = (w_gamma * self.bn.weight).detach(), w_gamma.detach()",
        ),
    },
    "3.1": {
        "halves twice": ("halve(halve(image_size))", "halve(image_size)"),
        "rounds up": ("(side + 1) // 2", "side // 2"),
        "half a pixel": ("(side + 1) // 2", "side / 2"),
        "the first stage does not halve": ("return sides", "return [halve(s) for s in sides]"),
        "the two stems are swapped": ('== "imagenet"', '== "cifar"'),
        "the order is turned": ("return sides", "return sides[::-1]"),
        "it should have (4,)": ("range(3)", "range(2)"),
    },
    "3.2": {
        "running statistics": ("2 * (", "4 * ("),
        "a gamma and a beta": ("2 * (", "1 * ("),
        "four times its width": (
            "3 * 256 + 4 * 512 + 23 * 1024 + 3 * 2048",
            "3 * 64 + 4 * 128 + 23 * 256 + 3 * 512",
        ),
        "every block has a layer": (
            "3 * 256 + 4 * 512 + 23 * 1024 + 3 * 2048",
            "256 + 512 + 1024 + 2048",
        ),
        "not str": "nam_adds = '65024'",
        "that is a ResNet-50": ("23 * 1024", "6 * 1024"),
    },
    "3.3": {
        "you return the class": ("NAM(channels) if", "NAM if"),
        "a layer is wanted, Identity()": ("nn.Identity()", "nn.Identity"),
        "there should be no NAM": (" if height * width > 1 else nn.Identity()", ""),
        "comes back twice": (
            "def my_attention(channels, size):",
            "one = NAM(8)\ndef my_attention(channels, size):\n"
            "    return one\ndef unused(channels, size):",
        ),
        "a map of 1x4": ("height * width > 1", "height > 1"),
        "a map of 3x1": ("height * width > 1", "width > 1"),
        "the size of the map decides": (
            "height * width > 1",
            "channels < 32 and height * width > 1",
        ),
        "its name 'nam'": ("NAM(channels) if", "'nam' if"),
        "number of channels of its block": ("NAM(channels)", "NAM(8)"),
        "built already": "my_attention = NAM(8)",
        "return nn.Identity(), which": ("nn.Identity()", "0"),
        "nothing should change": ("nn.Identity()", "nn.Sigmoid()"),
        "is a `return` missing": ("return NAM", "NAM"),
    },
    "3.4": {
        "after the addition": (
            "out = block.attention(block.bn3(block.conv3(out)))\n    return F.relu(out + shortcut)",
            "out = block.bn3(block.conv3(out))\n    return F.relu(block.attention(out + shortcut))",
        ),
        "in another's place": ("block.bn2", "block.bn1"),
        "twice, or not at all": ("block.bn3(block.conv3(out))", "block.conv3(out)"),
        "in a new network all are alike": ("block.bn2(block.conv2(out))", "block.conv2(out)"),
        "before the last batch norm": (
            "block.attention(block.bn3(block.conv3(out)))",
            "block.bn3(block.attention(block.conv3(out)))",
        ),
        "the last relu": ("return F.relu(out + shortcut)", "return out + shortcut"),
        "the attention is missing": (
            "block.attention(block.bn3(block.conv3(out)))",
            "block.bn3(block.conv3(out))",
        ),
        "the shortcut is missing": ("return F.relu(out + shortcut)", "return F.relu(out)"),
        "no relu before the addition": ("F.relu(out + shortcut)", "F.relu(F.relu(out) + shortcut)"),
        "between two convolutions": (
            "F.relu(block.bn2(block.conv2(out)))",
            "block.bn2(block.conv2(out))",
        ),
        "a relu is missing": ("F.relu(block.bn1(block.conv1(x)))", "block.bn1(block.conv1(x))"),
        "able to take away": (
            "block.attention(block.bn3(block.conv3(out)))",
            "block.attention(F.relu(block.bn3(block.conv3(out))))",
        ),
        "the numbers differ": ("block.bn3(", "0.5 * block.bn3("),
    },
    "3.5": {
        "not all four": "zero_gradients = 8 * (128 * 64 + 3 * 128 * 128)",
        "none?": ("width=16)", "width=16, stem='cifar')"),
        "full width": "zero_gradients = 5_505_024",
        "this one has width 16": ("width=16", "width=64"),
        "that do have a gradient": "zero_gradients = 4 * 128 * 64 + 3 * 128 * 128",
        "there are more than": ("zero_gradients += zeros", "zero_gradients = zeros"),
        "there are fewer than": "zero_gradients = 10**6",
    },
    "4.1": {
        "the two are swapped": (
            "return mean, np.sqrt(squares / count - mean**2)",
            "return np.sqrt(squares / count - mean**2), mean",
        ),
        "divide by 255": ("batch / 255", "batch / 1.0"),
        "not of one size": """
def my_statistics(batches):
    return (np.mean([(b / 255).mean((0, 2, 3)) for b in batches], axis=0),
            np.mean([(b / 255).std((0, 2, 3)) for b in batches], axis=0))
""",
        "cannot be averaged": """
def my_statistics(batches):
    return ((np.concatenate(batches) / 255).mean((0, 2, 3)),
            np.mean([(b / 255).std((0, 2, 3)) for b in batches], axis=0))
""",
        "within each image": """
def my_statistics(batches):
    values = np.concatenate(batches) / 255
    return values.mean((0, 2, 3)), values.std((2, 3)).mean(0)
""",
        "is the variance": ("np.sqrt(squares / count - mean**2)", "squares / count - mean**2"),
        "without the mean": (" - mean**2", ""),
        "the last batch alone": """
def my_statistics(batches):
    for batch in batches:
        values = batch / 255
    return values.mean((0, 2, 3)), values.std((0, 2, 3))
""",
        "NaN or infinity": ("(values**2)", "((batch**2) / 255**2)"),
        "2 results are wanted": ("return mean, np.sqrt(squares / count - mean**2)", "return mean"),
    },
    "4.2": {
        "the warm-up is missing": ("if step < warmup:", "if False:"),
        "jumps below": ("(step - warmup) / (total - warmup)", "step / total"),
        "does not reach 0": ("(step - warmup) / (total - warmup)", "(step - warmup) / total"),
        "a whole cosine": ("np.pi * done", "2 * np.pi * done"),
        "in a straight line": ("highest * (1 + np.cos(np.pi * done)) / 2", "highest * (1 - done)"),
        "a quarter of a cosine": ("(1 + np.cos(np.pi * done)) / 2", "np.cos(np.pi * done / 2)"),
        "becomes negative": ("(1 + np.cos(np.pi * done)) / 2", "np.cos(np.pi * done)"),
        "you divide by zero": ("step < warmup", "step <= warmup"),
        "should not give": ("highest * step / warmup", "highest * (step + 1) / warmup"),
        "is a `return` missing": ("return highest * (1", "highest * (1"),
    },
    "4.3": {
        "that is the first step": ("range(2000)", "range(1)"),
        "that is the second step": ("range(2000)", "range(2)"),
        "is too little": ("range(2000)", "range(20)"),
        "momentum 0.99:": ("range(2000)", "range(100)"),
        "without the sign": ("return v", "return -v"),
        "right for a momentum of 0.9": "my_stride = lambda m: 2.0 if m == 0.5 else 10.0",
        "divide it by the rate": ("return v", "return 0.1 * v"),
        "not the length of one step": ("return v", "return -2000 * v"),
        "is too far": ("return v", "return v * 2000"),
        "write a function": "my_stride = 10",
    },
    "4.4": {
        "no gradient flows": (".abs().sum() for", ".abs().sum().item() for"),
        "of both signs cancel": (".abs()", ""),
        "the backbone's": "my_penalty = lambda network: sum(layer.weight.abs().sum() for layer in "
        "network.sublayers() if 'BatchNorm' in str(type(layer).__mro__))",
        "sum of squares": (".abs().sum()", ".square().sum()"),
        "the means of the layers": (".abs().sum()", ".abs().mean()"),
        "the lambdas": ("nam_layers(network))", "nam_layers(network) if 'channel' in _)"),
        "one layer alone": ("return sum(", "return next("),
        "should not be": ("return sum(", "return 2 * sum("),
    },
    "4.5": {
        "even the first loss": ("network(images)", "F.softmax(network(images))"),
        "what is left over": ("        optimizer.clear_grad()\n", ""),
        "never learns": ("        optimizer.step()\n", ""),
        "the losses after each step": (
            "losses.append(float(loss))",
            "losses.append(float(F.cross_entropy(network(images), labels)))",
        ),
        "the later ones differ": ("rate, 0.9", "rate, 0.0"),
        "it should have (6,)": ("losses.append", "losses[:] = []; losses.append"),
        "is a `return` missing": ("return losses", "losses"),
    },
    "5.1": {
        "per cent are wanted": ("100 * ", ""),
        "the usual top-1": ("coarse_of[answer] == coarse_of[fine]", "answer == fine"),
        "the smallest logit": ("argmax", "argmin"),
        "a superclass with a class": ("== coarse_of[fine]", "== fine"),
        "a class with a superclass": ("coarse_of[answer] ==", "answer =="),
        "that is the error": ("100 * (coarse_of[answer] ==", "100 * (coarse_of[answer] !="),
        "a number of images": (
            "100 * (coarse_of[answer] == coarse_of[fine]).mean()",
            "(coarse_of[answer] == coarse_of[fine]).sum()",
        ),
    },
    "5.2": {
        "more than half": "my_enough = lambda n: n // 2 + 1",
        "the upper end": ("[0] <= 50", "[1] <= 50"),
        "the plain interval": """
def my_enough(n):
    right = 0
    while right / n - 1.96 * np.sqrt(right / n * (1 - right / n) / n) <= 0.5:
        right += 1
    return right
""",
        "the number of right images": ("return right", "return right / n"),
        "begins at": ("return right", "return right - 1"),
        "one image fewer": ("return right", "return right + 1"),
        "all of the images": "my_enough = lambda n: n",
    },
    "5.3": {
        "swapped": ("table[i, j]", "table[j, i]"),
        "counted once": (
            "    for i, j in zip(true, predicted):\n        table[i, j] += 1",
            "    table[true, predicted] += 1",
        ),
        "the last two do not occur": """
def my_confusion(true, predicted, classes):
    return np.bincount(classes * true + predicted).reshape(classes, classes)
""",
        "should still be a table of 5 x 5": """
def my_confusion(true, predicted, classes):
    names = np.unique(true)
    return np.array([[np.sum((true == i) & (predicted == j)) for j in names] for i in names])
""",
        "shares of each row": ("return table", "return table / table.sum(1, keepdims=True)"),
        "the diagonal is missing": ("table[i, j] += 1", "table[i, j] += i != j"),
    },
    "5.4": {
        "two calls give two answers": "my_bonus = lambda runs, spread: "
        "np.random.normal(0, spread, runs).max()",
        "right for a spread of 1": ("(0, spread, ", "(0, 1, "),
        "right for the better of two": ("(20000, runs)", "(20000, 2)"),
        "the best of them": (".max(axis=1).mean()", ".mean()"),
        "less than 0": (".max(axis=1)", ".min(axis=1)"),
        "are too many": (".max(axis=1).mean()", ".max(axis=0).mean()"),
        "take off the true accuracy": (".max(axis=1).mean()", ".max(axis=1).mean() + 50"),
        "are too few": ("return above", "return 0.5 * above"),
    },
    "5.5": {
        "in order": (
            "np.array([a[seed] - b[seed] for seed in a])",
            "np.array(list(a.values())) - np.array(list(b.values()))",
        ),
        "comes out too small": ("ddof=1", "ddof=0"),
        "1.96 is for": ("half_width = t *", "half_width = 1.96 *"),
        "by sqrt(n)": (" / np.sqrt(len(d))", ""),
        "the sign is turned": ("a[seed] - b[seed]", "b[seed] - a[seed]"),
        "which pairs, which spread": (
            "np.array([a[seed] - b[seed] for seed in a])",
            "np.sort(list(a.values())) - np.sort(list(b.values()))",
        ),
        "low and high are swapped": ("half_width = t", "half_width = -t"),
        "the mean comes first": (
            "return d.mean(), d.mean() - half_width, d.mean() + half_width",
            "return d.mean() - half_width, d.mean(), d.mean() + half_width",
        ),
        "3 results are wanted": ("return d.mean(), ", "return "),
    },
    "6.1": {
        "as they come": (
            "np.sort(np.abs(gamma) / np.abs(gamma).sum())[::-1]",
            "np.abs(gamma) / np.abs(gamma).sum()",
        ),
        "you start with the smallest": ("[::-1]", ""),
        "90 % of the channels": "my_channels_for_90 = lambda gamma: int(np.ceil(0.9 * len(gamma)))",
        "one too few": (" + 1", ""),
        "one too many": (" + 1", " + 2"),
        "shares of the squares": (
            "np.abs(gamma) / np.abs(gamma).sum()",
            "gamma**2 / (gamma**2).sum()",
        ),
        "whose sum is not 1": ("np.abs(gamma) / np.abs(gamma).sum()", "np.abs(gamma)"),
        "of 8 channels": ("int(np.searchsorted(np.cumsum(w), 0.9)) + 1", "5"),
        "negative gammas weigh": (
            "np.abs(gamma) / np.abs(gamma).sum()",
            "np.maximum(gamma, 0) / np.maximum(gamma, 0).sum()",
        ),
        "a share of the channels": ("+ 1", "* 1 / len(gamma) + 1 / len(gamma)"),
        "above a tenth": "my_channels_for_90 = lambda g: np.sum(abs(g) / abs(g).sum() >= 0.1)",
    },
    "6.2": {
        "momentum is missing": (" * (1 - momentum)", ""),
        "the sign is turned": ("-np.log", "np.log"),
        "a share of what is left": ("-np.log(end)", "(1 - end)"),
        "the rates are missing": (" / np.sum(rates)", ""),
        "one single step": ("np.sum(rates)", "np.mean(rates)"),
        "the rate changes": ("np.sum(rates)", "(len(rates) * rates[0])"),
        "np.log10": ("np.log(", "np.log10("),
        "gamma would end at": (" * (1 - momentum)", " * momentum"),
    },
    "6.3": {
        "no channel is gone": ("output[:, np.argsort(np.abs(gamma))[:count]] = 0", "output *= 1"),
        "whose gamma is -2": ("np.abs(gamma)", "gamma"),
        "the largest |gamma| are gone": ("np.abs(gamma)", "-np.abs(gamma)"),
        "two channels should be gone": ("[:count]", "[:1]"),
        "the others changed too": (
            "    output = layer(x).numpy().copy()                       # (N, C, H, W)\n",
            "    g = layer.bn.weight.numpy().copy()\n"
            "    g[np.argsort(np.abs(g))[:count]] = 0\n"
            "    layer.bn.weight.set_value(g)\n"
            "    output = layer(x).numpy().copy()\n",
        ),
        "the layer itself is changed": (
            "    return output",
            "    layer.bn.weight.set_value(gamma * 2)\n    return output",
        ),
        "|gamma| of channel 3 is smaller": """
def my_output_without(layer, x, count):
    output = layer(x).numpy().copy()
    output[:, [0, 2]] = 0
    return output
""",
        "it should have (4, 6, 5, 5)": (
            "output[:, np.argsort(np.abs(gamma))[:count]] = 0",
            "output = np.delete(output, np.argsort(np.abs(gamma))[:count], axis=1)",
        ),
        "is a `return` missing": ("return output", "output"),
    },
    "6.4": {
        "W is missing": ("-w * np.abs(gamma)", "-np.abs(gamma)"),
        "gamma itself": ("-w * np.abs(gamma)", "-w"),
        "for a negative x_hat": ("-w * np.abs(gamma)", "-w * gamma"),
        "W is 1/C only where": ("np.abs(gamma) / np.abs(gamma).sum()", "1 / len(gamma)"),
        "how low": ("-w * np.abs(gamma)", "w * np.abs(gamma)"),
        "that is the logit": (
            "1 / (1 + np.exp(-w * np.abs(gamma) * reach))",
            "w * np.abs(gamma) * reach",
        ),
        "the straight line": (
            "1 / (1 + np.exp(-w * np.abs(gamma) * reach))",
            "0.5 + w * np.abs(gamma) * reach / 4",
        ),
        "a new network": ("-w * np.abs(gamma) * reach", "-np.full(len(gamma), reach) / len(gamma)"),
        "it should have (4,)": "my_highest_gate = lambda gamma, reach: 0.6",
    },
    "6.5": {
        "the sum of |gamma| grows too": ("gamma / (gamma + channels - 1)", "gamma / channels"),
        "W does not stay 1/C": ("gamma / (gamma + channels - 1)", "1 / channels"),
        "gamma stands twice": "my_needed_gamma = lambda c, x, gate: "
        "np.log(gate / (1 - gate)) * (c - 1) / (x - np.log(gate / (1 - gate)))",
        "the gate is 0.5": ("gamma += 0.001", "return 1.0"),
        "not 0.9": ("return gamma", "return 1.05 * gamma"),
    },
    "7.1": {
        "NaN came out": ("max(spreads)", "max(spreads) * np.nan"),
        "no value of the input is 0; where it is, 0/0": """
def my_spread(maps):
    with np.errstate(invalid="ignore"):
        return max((y / x).std() for x, y in maps.values())
""",
        "it is neither 0 nor any other number": "my_spread = lambda maps: "
        "max((y / np.where(x == 0, 1, x)).std() for x, y in maps.values())",
        "the mean over the blocks": ("max(spreads)", "np.mean(spreads)"),
        "varies least": ("max(spreads)", "min(spreads)"),
        "the last block": ("max(spreads)", "spreads[-1]"),
        "how the output varies": ("y[seen] / x[seen]", "y[seen]"),
        "output over input": ("y[seen] / x[seen]", "x[seen] / y[seen]"),
        "do not subtract": ("y[seen] / x[seen]", "y[seen] - x[seen]"),
        "that is the variance": (".std()", ".var()"),
        "how the channels' means differ": "my_spread = lambda maps: "
        "max((y / x).mean((0, 2, 3)).std() for x, y in maps.values())",
        "the channels differ among themselves": "my_spread = lambda maps: "
        "max((y / x).std((0, 2, 3)).mean() for x, y in maps.values())",
        "stand for themselves": "my_spread = lambda maps: "
        "np.concatenate([(y / x).ravel() for x, y in maps.values()]).std()",
        "over all channels, not the largest": "my_spread = lambda maps: "
        "max((y / x).std((0, 2, 3)).max() for x, y in maps.values())",
        "over all images, not the largest": "my_spread = lambda maps: "
        "max((y / x).std((1, 2, 3)).max() for x, y in maps.values())",
        "divides by n - 1": (".std()", ".std(ddof=1)"),
        "and no others": ("x != 0", "y != 0"),
    },
    "7.2": {
        "cost most": ("fixed.max", "fixed.min"),
        "not the mean of the constants": ("fixed.max", "fixed.mean"),
        "the first constant": ("fixed.max(axis=0)", "fixed[0]"),
        "one constant for all networks": ("fixed.max(axis=0)", "fixed[fixed.mean(1).argmax()]"),
        "compare each network with itself": ("fixed.max(axis=0)", "fixed.max()"),
        "the sign is turned": ("gated - fixed.max(axis=0)", "fixed.max(axis=0) - gated"),
        "a cost may be negative": (
            "gated - fixed.max(axis=0)",
            "np.maximum(gated - fixed.max(axis=0), 0)",
        ),
        "what is left": ("gated - fixed.max", "fixed.max"),
        "it should have (4,)": ("fixed.max(axis=0)", "fixed.max(axis=1, keepdims=True)"),
        "what each network loses": ("gated - ", "2 * gated - "),
    },
    "7.3": {
        "not in one of them": (".all()", ".any()"),
        "not on average": ("(spread >= 0.05).all()", "spread.mean() >= 0.05"),
        "0.05 itself is enough": ("spread >= 0.05", "spread > 0.05"),
        "the mean cost alone": ("mean_interval(cost, 0.90)[0]", "cost.mean()"),
        "the 90 % interval is asked for": ("(cost, 0.90)", "(cost, 0.95)"),
        "above half a point, not above 0": ("> 0.5", "> 0"),
        "used: the whole interval": ("(cost, 0.90)[0]", "(cost, 0.90)[1]"),
        "the mean gain alone": (
            "mean_interval(gated - constant, 0.95)[0]",
            "(gated - constant).mean()",
        ),
        "the 95 % interval is asked for": ("constant, 0.95", "constant, 0.90"),
        "the gate's accuracy minus the constant's": ("gated - constant", "constant - gated"),
        "without the other network": ("gated - constant", "gated"),
        "useful: the whole interval": ("0.95)[0]", "0.95)[1]"),
        "not the single pairs": (
            "mean_interval(gated - constant, 0.95)[0] > 0",
            "(gated > constant).all()",
        ),
        "each of them True or False": ("return alive, used, useful", "return 0.5, used, useful"),
        "3 results are wanted": ("return alive, used, useful", "return alive and used and useful"),
        "not above half a point": ("0.95)[0] > 0", "0.95)[0] > 0.5"),
        "whatever the gate costs": (
            "return alive, used, useful",
            "return alive, used, useful and used",
        ),
        "compare in pairs": (
            "mean_interval(gated - constant, 0.95)[0] > 0",
            "mean_interval(gated, 0.95)[0] > constant.mean()",
        ),
        "used: not True where": ("return alive, used, useful", "return alive, True, useful"),
    },
    "7.4": {
        "two things are wrong": (
            "F.sigmoid(self.bn(z))                       # (N, 1, H, W)\n        return x * gate",
            "F.sigmoid(self.bn(z)).mean(0)\n        return x + gate",
        ),
        "the mean over the batch": ("F.sigmoid(self.bn(z)) ", "F.sigmoid(self.bn(z)).mean(0) "),
        "you add the gate": ("x * gate", "x + gate"),
        "the gate alone": ("return x * gate", "return gate.expand_as(x)"),
        "one gate for each image": ("x.mean(1, keepdim", "x.mean([1, 2, 3], keepdim"),
        "one gate for each channel": """
class MyPixelGate(nn.Layer):
    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2D(1)

    def forward(self, x):
        n, c = x.shape[:2]
        z = x.mean([2, 3]).reshape([n * c, 1, 1, 1])
        return x * F.sigmoid(self.bn(z)).reshape([n, c, 1, 1])
""",
        "the sigmoid is missing": ("F.sigmoid(self.bn(z))", "self.bn(z)"),
        "turned round": ("F.sigmoid(self.bn(z))", "F.sigmoid(-self.bn(z))"),
        "of one single feature": ("BatchNorm2D(1)", "BatchNorm2D(channels)"),
        "first image's first pixel": ("F.sigmoid(self.bn(z))", "F.sigmoid(2 * self.bn(z))"),
        "a layer is wanted": "MyPixelGate = lambda channels: 3",
        "built already": "MyPixelGate = nn.ReLU()",
    },
    "7.5": {
        "one too many": ("return channels", "return channels + 1"),
        "one too few": ("return channels", "return channels - 1"),
        "right for times = 1": ("-times * x_hat", "-x_hat"),
        "the spread of the logit": (
            "(1 / (1 + np.exp(-times * x_hat / (channels + 1)))).std()",
            "(times * x_hat / (channels + 1)).std()",
        ),
        "divides the logit": (
            "(1 / (1 + np.exp(-times * x_hat / (channels + 1)))).std()",
            "(1 / (1 + np.exp(-times * x_hat))).std() / (channels + 1)",
        ),
        "a little flatter": "my_widest = lambda times: int(times / 4 / 0.05 + 1e-9)",
        "the last number of channels": ("return channels", "return 2 * channels"),
        "a number of channels is wanted": ("return channels", "return channels + 0.5"),
    },
}


# number: other right answers, written another way than the solution
RIGHT = {
    "1.1": [
        """
def my_pixel_norm(x, lambda_, beta):          # in place
    x -= x.mean((0, 1))
    x /= np.sqrt((x**2).mean((0, 1)) + 1e-5)
    x *= lambda_
    x += beta
    return x
""",
        """
def my_pixel_norm(x, lambda_, beta):          # turned, as in lesson 1
    n, c, h, w = x.shape
    rows = x.reshape(n * c, h * w)
    rows = (rows - rows.mean(0)) / (rows.var(0) + 1e-5) ** 0.5
    return (rows * lambda_.reshape(-1) + beta.reshape(-1)).reshape(n, c, h, w)
""",
    ],
    "1.2": [
        """
def my_weights(gamma):
    total = np.abs(gamma).sum()
    return np.abs(gamma) / total if total > 0 else np.full(len(gamma), 1 / len(gamma))
""",
        """
def my_weights(gamma):
    if not gamma.any():
        return [1 / gamma.size] * gamma.size
    return [abs(g) / sum(abs(h) for h in gamma) for g in gamma]
""",
        """
def my_weights(gamma):
    with np.errstate(invalid="ignore"):
        w = np.abs(gamma) / np.abs(gamma).sum()
    return np.where(np.isnan(w), 1 / len(gamma), w)
""",
    ],
    "1.3": [
        """
def my_widest(x_hat, gate):
    channels = 1
    while 1 / (1 + np.exp(-x_hat / (channels + 1))) >= gate:
        channels += 1
    return channels
""",
        """
def my_widest(x_hat, gate):
    c = np.arange(1, 5000)
    return c[1 / (1 + np.exp(-x_hat / c)) >= gate].max()
""",
        "my_widest = lambda x_hat, gate: np.floor(x_hat / -np.log(1 / gate - 1))",
    ],
    "1.4": [
        """
def my_gradient(gamma, upstream):             # the matrix of 1.10, turned
    total, w = np.abs(gamma).sum(), np.abs(gamma) / np.abs(gamma).sum()
    jacobian = np.sign(gamma) / total * (np.eye(len(gamma)) - w[:, None])
    return jacobian.T @ upstream
""",
        """
def my_gradient(gamma, upstream):             # finite differences
    def loss(g):
        return (upstream * np.abs(g) / np.abs(g).sum()).sum()
    steps = 1e-5 * np.eye(len(gamma))
    return [(loss(gamma + s) - loss(gamma - s)) / 2e-5 for s in steps]
""",
        """
import paddle
def my_gradient(gamma, upstream):             # autograd
    g = paddle.to_tensor(gamma, stop_gradient=False)
    loss = (paddle.to_tensor(upstream) * g.abs() / g.abs().sum()).sum()
    return paddle.grad([loss], [g])[0]
""",
    ],
    "1.5": [
        "unchanged = ('plus 3', 'channel 0 times 10', 'times 10')",
        "unchanged = {'plus 3', 'channel 0 times 10', 'times 10'}",
    ],
    "2.1": [
        """
def my_scale_and_shift(gamma, beta, mean, var):    # from the values at 0 and at 1
    def logit(x):
        w = abs(gamma) / sum(abs(gamma))
        return w * (gamma * (x - mean) / np.sqrt(var + 1e-5) + beta)
    return [logit(1) - logit(0), logit(0)]
""",
        """
def my_scale_and_shift(gamma, beta, mean, var):
    w = np.abs(gamma) / np.abs(gamma).sum()
    k = gamma / np.sqrt(var + 1e-5)
    return np.stack([w * k, w * (beta - k * mean)])
""",
    ],
    "2.2": [
        "my_map = lambda p, h, w: p.reshape(len(p), h, w, -1).transpose(0, 3, 1, 2)",
        """
def my_map(pixels, height, width):
    out = np.zeros((pixels.shape[0], pixels.shape[2], height, width))
    for h in range(height):
        for w in range(width):
            out[:, :, h, w] = pixels[:, h * width + w]
    return out
""",
        "my_map = lambda p, h, w: np.moveaxis(p, 2, 1).reshape(p.shape[0], p.shape[2], h, w)",
    ],
    "2.3": [
        """
def my_passes(momentum, within):
    running, passes = 0.0, 0
    while 1 - running > within:
        running = momentum * running + (1 - momentum) * 1
        passes += 1
    return passes
""",
        "my_passes = lambda m, within: int(np.ceil(np.log(within) / np.log(m)))",
    ],
    "2.4": [
        """
class MyDetachedNAM(nn.Layer):                # folded
    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2D(channels)

    def forward(self, x):
        w = attention.gamma_weights(self.bn.weight).detach()
        logits = F.batch_norm(x, self.bn._mean, self.bn._variance, w * self.bn.weight,
                              w * self.bn.bias, training=self.training)
        return x * F.sigmoid(logits)
""",
        """
class MyDetachedNAM(nn.Layer):                # turned, without a graph for W
    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2D(channels)

    def forward(self, x):
        with paddle.no_grad():
            w = self.bn.weight.abs() / self.bn.weight.abs().sum()
        y = self.bn(x).transpose([0, 2, 3, 1]) * w
        return F.sigmoid(y.transpose([0, 3, 1, 2])) * x
""",
        """
def MyDetachedNAM(channels):
    return attention.ChannelNAM(channels, detach_weights=True)
""",
    ],
    "2.5": [
        """
class MyMendedNAM(nn.Layer):
    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2D(channels)

    def forward(self, x):
        w = (self.bn.weight.abs() / self.bn.weight.abs().sum()).reshape([1, -1, 1, 1])
        return F.sigmoid(w * self.bn(x)) * x
""",
        """
class MyMendedNAM(nn.Layer):                  # W detached, as the stub has it
    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2D(channels)

    def forward(self, x):
        w = attention.gamma_weights(self.bn.weight).detach()
        scale, shift = w * self.bn.weight, w * self.bn.bias
        logits = F.batch_norm(x, self.bn._mean, self.bn._variance, scale, shift,
                              training=self.bn.training)
        return F.sigmoid(logits) * x
""",
    ],
    "3.1": [
        """
def my_sides(image_size, stem):
    first = image_size if stem == "cifar" else -(-image_size // 4)
    return np.array([first, -(-first // 2), -(-first // 4), -(-first // 8)])
import numpy as np
""",
        """
import math
def my_sides(image_size, stem):
    strides = [4 if stem == "imagenet" else 1, 2, 2, 2]
    side, sides = image_size, ()
    for stride in strides:
        side = math.ceil(side / stride)
        sides += (side,)
    return sides
""",
    ],
    "3.2": [
        "nam_adds = sum(2 * n * c for n, c in zip([3, 4, 23, 3], [256, 512, 1024, 2048]))",
        "nam_adds = paddle.to_tensor(65024)",
        "nam_adds = 65_024.0",
    ],
    "3.3": [
        """
def my_attention(channels, size):
    if tuple(size) == (1, 1):
        return nn.Identity()
    return NAM(channels)
""",
        "my_attention = lambda channels, size: "
        "nn.Identity() if max(size) == 1 else NAM(channels, size)",
        "my_attention = lambda c, size: nn.Sequential() if size[0] * size[1] == 1 else NAM(c)",
    ],
    "3.4": [
        """
def my_forward(block, x):
    out = x
    for conv, bn in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
        out = F.relu(bn(conv(out)))
    out = block.attention(block.bn3(block.conv3(out)))
    if block.downsample is not None:
        x = block.downsample(x)
    return F.relu(x + out)
""",
        "my_forward = lambda block, x: block(x)",
    ],
    "3.5": [
        "zero_gradients = 5 * 64 * 128 + 8 * 3 * 128 * 128",
        """
network = resnet18(width=16, attention="none")
x, y = paddle.randn([64, 3, 32, 32]), paddle.randint(0, 100, [64])
F.cross_entropy(network(x), y).backward()
zero_gradients = sum((p.grad.numpy() == 0).sum() for p in network.parameters() if p.ndim == 4)
""",
    ],
    "4.1": [
        """
def my_statistics(batches):
    values = np.concatenate(batches) / 255
    return values.mean((0, 2, 3)), values.std((0, 2, 3))
""",
        """
def my_statistics(batches):                   # the mean first, then the distances from it
    n = sum(b.size // 3 for b in batches)
    mean = sum((b / 255).sum((0, 2, 3)) for b in batches) / n
    centred = [b / 255 - mean[:, None, None] for b in batches]
    return np.array([mean, np.sqrt(sum((c**2).sum((0, 2, 3)) for c in centred) / n)])
""",
    ],
    "4.2": [
        """
def my_rate(step, highest, warmup, total):
    if warmup and step <= warmup:
        return step / warmup * highest
    return highest * np.cos(np.pi / 2 * (step - warmup) / (total - warmup)) ** 2
""",
        """
import math
def my_rate(step, highest, warmup, total):
    up = step / max(warmup, 1)
    down = 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (total - warmup))
    return highest * (up if step < warmup else down)
""",
    ],
    "4.3": [
        "my_stride = lambda momentum: 1 / (1 - momentum)",
        """
def my_stride(momentum):                      # with Paddle's own optimizer
    p = paddle.create_parameter([1], "float32")
    optimizer = paddle.optimizer.Momentum(0.1, momentum, parameters=[p])
    for _ in range(700):
        before = p.item()
        p.sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    return (before - p.item()) / 0.1
""",
        "my_stride = lambda momentum: sum(momentum**k for k in range(1000))",
    ],
    "4.4": [
        """
from nam_edu.attention import sparsity_penalty
my_penalty = sparsity_penalty
""",
        """
def my_penalty(network):
    total = paddle.zeros([])
    for name, layer in nam_layers(network):
        total = total + paddle.abs(layer.bn.weight).sum()
    return total
""",
        """
def my_penalty(network):
    return paddle.concat([l.bn.weight for _, l in nam_layers(network)]).abs().sum(keepdim=True)
""",
    ],
    "4.5": [
        """
def my_training(network, batches, rate):
    optimizer = paddle.optimizer.Momentum(rate, 0.9, parameters=network.parameters())
    losses = []
    for images, labels in batches:
        optimizer.clear_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)
""",
        """
def my_training(network, batches, rate):
    optimizer = paddle.optimizer.Momentum(rate, 0.9, parameters=network.parameters())
    losses = []
    for images, labels in batches:
        loss = F.nll_loss(F.log_softmax(network(images)), labels)
        loss.backward()
        optimizer.step()
        network.clear_gradients()
        losses.append(float(loss))
    return tuple(losses)
""",
    ],
    "5.1": [
        """
def my_coarse_top1(logits, fine, coarse_of):
    hits = 0
    for row, label in zip(logits, fine):
        hits += coarse_of[np.argmax(row)] == coarse_of[label]
    return 100 * hits / len(fine)
""",
        """
def my_coarse_top1(logits, fine, coarse_of):
    first = np.argsort(-logits, axis=1)[:, 0]
    return np.mean(np.take(coarse_of, first) == np.take(coarse_of, fine)) * 100
""",
    ],
    "5.2": [
        "my_enough = lambda n: min(k for k in range(n + 1) if wilson_interval(k, n)[0] > 50)",
        """
def my_enough(n, z=1.96):                     # the formula of 5.2, every number at once
    right = np.arange(n + 1)
    p = right / n
    low = p + z**2 / (2 * n) - z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return right[low / (1 + z**2 / n) > 0.5][0]
""",
        """
def my_enough(n):
    lows = np.array([wilson_interval(k, n)[0] for k in range(n + 1)])
    return np.flatnonzero(lows > 50)[:1]
""",
    ],
    "5.3": [
        """
def my_confusion(true, predicted, classes):
    table = np.zeros((classes, classes))
    np.add.at(table, (true, predicted), 1)
    return table
""",
        """
def my_confusion(true, predicted, classes):
    counts = np.bincount(classes * true + predicted, minlength=classes**2)
    return counts.reshape(classes, classes)
""",
        """
def my_confusion(true, predicted, classes):
    return [[np.sum((true == i) & (predicted == j)) for j in range(classes)]
            for i in range(classes)]
""",
    ],
    "5.4": [
        """
def my_bonus(runs, spread):                   # without a seed, one group after the other
    return np.mean([max(np.random.normal(50, spread, runs)) for _ in range(20000)]) - 50
""",
        """
def my_bonus(runs, spread):
    rng = np.random.default_rng(5)
    total = 0
    for _ in range(10000):
        best = -np.inf
        for _ in range(runs):
            best = max(best, rng.standard_normal() * spread)
        total += best
    return total / 10000
""",
    ],
    "5.5": [
        """
def my_paired(a, b):
    seeds = sorted(a)
    d = np.array([a[s] for s in seeds]) - np.array([b[s] for s in seeds])
    n = len(d)
    error = np.sqrt(((d - d.mean()) ** 2).sum() / (n - 1) / n)
    t = {3: 4.303, 6: 2.571}[n]
    return np.array([d.mean(), d.mean() - t * error, d.mean() + t * error])
""",
        """
import statistics
def my_paired(a, b):
    d = [value - b[seed] for seed, value in a.items()]
    mean = sum(d) / len(d)
    half = {3: 4.30, 6: 2.57}[len(d)] * statistics.stdev(d) / len(d) ** 0.5
    return [mean, mean - half, mean + half]
""",
    ],
    "6.1": [
        """
def my_channels_for_90(gamma):
    w = np.sort(np.abs(gamma) / np.abs(gamma).sum())[::-1]
    return np.argmax(np.cumsum(w) >= 0.9) + 1
""",
        """
def my_channels_for_90(gamma):
    magnitude = sorted(np.abs(gamma), reverse=True)
    held = count = 0
    while held < 0.9 * sum(magnitude):
        held += magnitude[count]
        count += 1
    return count
""",
        """
def my_channels_for_90(gamma):
    w = np.sort(np.abs(gamma) / np.abs(gamma).sum())[::-1]
    return int(np.sum(np.cumsum(w) < 0.9 - 1e-9)) + 1
""",
    ],
    "6.2": [
        """
def my_decay(rates, momentum, end):           # simulated, step by step, and halved in
    def left(decay):
        gamma, v = 1.0, 0.0
        for rate in rates:
            v = momentum * v + decay * gamma
            gamma -= rate * v
        return gamma
    low, high = 0.0, 0.02
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) > end else (low, middle)
    return middle
""",
        """
def my_decay(rates, momentum, end):           # Nesterov's step
    def left(decay):
        gamma, v = 1.0, 0.0
        for rate in rates:
            v = momentum * v + decay * gamma
            gamma -= rate * (decay * gamma + momentum * v)
        return gamma
    decays = np.exp(np.linspace(np.log(1e-4), np.log(0.02), 500))
    low, high = 0, 499
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if left(decays[middle]) > end else (low, middle)
    return decays[high]
""",
        "my_decay = lambda rates, m, end: np.log(1 / end) / sum(rates / (1 - m))",
    ],
    "6.3": [
        """
import paddle
def my_output_without(layer, x, count):       # a mask, with tensors
    keep = np.ones(x.shape[1], "float32")
    keep[np.argsort(np.abs(layer.bn.weight.numpy()))[:count]] = 0
    return layer(x) * paddle.to_tensor(keep).reshape([1, -1, 1, 1])
""",
        """
def my_output_without(layer, x, count):
    gamma = [abs(float(g)) for g in layer.bn.weight]
    gone = sorted(range(len(gamma)), key=gamma.__getitem__)[:count]
    output = layer(x)
    for channel in gone:
        output[:, channel] = 0
    return output
""",
    ],
    "6.4": [
        """
def my_highest_gate(gamma, reach):
    return [1 / (1 + np.exp(-(g**2) / sum(abs(gamma)) * reach)) for g in gamma]
""",
        """
def my_highest_gate(gamma, reach):            # the higher of both ends
    w = np.abs(gamma) / np.abs(gamma).sum()
    return np.maximum(*(1 / (1 + np.exp(-w * gamma * x_hat)) for x_hat in (-reach, reach)))
""",
    ],
    "6.5": [
        """
def my_needed_gamma(channels, x_hat, gate):   # solved
    logit = np.log(gate / (1 - gate))
    return (logit + np.sqrt(logit**2 + 4 * x_hat * logit * (channels - 1))) / (2 * x_hat)
""",
        """
def my_needed_gamma(channels, x_hat, gate):
    grid = np.arange(1, 100, 0.005)
    gates = 1 / (1 + np.exp(-(grid**2) / (grid + channels - 1) * x_hat))
    return grid[np.searchsorted(gates, gate)]
""",
    ],
    "7.1": [
        """
def my_spread(maps):                          # sums over the values that count
    largest = 0
    for x, y in maps.values():
        gate = [b / a for a, b in zip(x.ravel(), y.ravel()) if a != 0]
        mean = sum(gate) / len(gate)
        largest = max(largest, (sum((g - mean) ** 2 for g in gate) / len(gate)) ** 0.5)
    return largest
""",
        """
def my_spread(maps):                          # NaN where nothing is known
    with np.errstate(invalid="ignore", divide="ignore"):
        return max(np.nanstd(y / x) for x, y in maps.values())
""",
    ],
    "7.2": [
        "my_cost = lambda gated, fixed: (gated - fixed).min(0)",
        """
def my_cost(gated, fixed):
    return [g - max(column) for g, column in zip(gated, fixed.T)]
""",
    ],
    "7.3": [
        """
def my_answers(gated, constant, spread, cost):          # by hand
    t = {0.90: 2.3534, 0.95: 3.1824}                    # Student's t for four pairs
    def low(v, confidence):
        return v.mean() - t[confidence] * v.std(ddof=1) / np.sqrt(len(v))
    return [min(spread) >= 0.05, low(cost, 0.90) > 0.5, low(gated - constant, 0.95) > 0]
""",
        """
def my_answers(gated, constant, spread, cost):          # as numbers
    gains = [g - c for g, c in zip(gated, constant)]
    lows = mean_interval(cost, 0.90)[0], mean_interval(gains, 0.95)[0]
    return np.array([int(all(s >= 0.05 for s in spread)), int(lows[0] > 0.5), int(lows[1] > 0)])
""",
    ],
    "7.4": [
        """
def MyPixelGate(channels):                    # a function that builds the layer
    class Gate(nn.Layer):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1D(1)
        def forward(self, x):
            n, c, h, w = x.shape
            z = x.mean(1).reshape([n * h * w, 1])
            return F.sigmoid(self.norm(z)).reshape([n, 1, h, w]) * x
    return Gate()
""",
        """
class MyPixelGate(nn.Layer):                  # the sigmoid written out
    def __init__(self, channels):
        super().__init__()
        self.bn, self.channels = nn.BatchNorm2D(1), channels
    def forward(self, x):
        z = self.bn(x.sum(1, keepdim=True) / self.channels)
        return x / (1 + (-z).exp())
""",
    ],
    "7.5": [
        """
def my_widest(times):                         # on a grid instead of random numbers
    z = np.linspace(-8, 8, 2001)
    p = np.exp(-z**2 / 2) / np.exp(-z**2 / 2).sum()
    return max(c for c in range(1, 100)
               if np.sqrt((p * (1 / (1 + np.exp(-times / c * z)) - 0.5) ** 2).sum()) >= 0.05)
""",
        """
def my_widest(times):                         # from the wide end
    x_hat, c = np.random.default_rng(1).normal(size=300_000), 100
    while np.std(1 / (1 + np.exp(-times * x_hat / c))) < 0.05:
        c -= 1
    return float(c)
""",
    ],
}


@pytest.mark.parametrize("number, words", [(n, words) for n, m in MISTAKES.items() for words in m])
def test_mistake(number, words, capsys):
    source = MISTAKES[number][words]
    if isinstance(source, tuple):
        old, new = source
        assert old in SOLUTIONS[number][0], "the solution no longer holds what the mistake changes"
        source = SOLUTIONS[number][0].replace(old, new)
    right, said = checked(number, source, capsys)
    assert not right and words in said, said
    assert words == "Is a reshape missing" or "your code raised" not in said


@pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning")
@pytest.mark.parametrize("number, at", [(n, i) for n, a in RIGHT.items() for i in range(len(a))])
def test_another_right_answer(number, at, capsys):
    right, said = checked(number, RIGHT[number][at], capsys)
    assert right, said


@pytest.mark.parametrize("answer", [..., None, lambda *inputs: ..., lambda *inputs: (..., 1.0)])
@pytest.mark.parametrize("number", CHECKERS)
def test_an_answer_left_open(number, answer, capsys):
    if callable(answer) and number in ("1.5", "3.2", "3.5"):  # these want no function
        answer = ...
    assert check(number, answer) is False
    assert "not solved yet: put your answer in place of the dots" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [lambda *inputs: None, lambda *inputs: [1.0, None]])
@pytest.mark.parametrize("number", sorted(set(CHECKERS) - {"1.5", "3.2", "3.5"}))
def test_a_forgotten_return(number, answer, capsys):
    assert check(number, answer) is False
    assert "is a `return` missing" in capsys.readouterr().out


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
        10**400,
        object(),
        np.float64,
        len,
        np.zeros(3),
    ],
    ids=lambda junk: type(junk).__name__,
)
@pytest.mark.parametrize("number", CHECKERS)
def test_a_junk_answer_is_not_said_to_have_raised(number, junk, capsys):
    for answer in (junk, lambda *inputs: junk):
        assert check(number, answer) is False
        said = capsys.readouterr().out
        assert callable(junk) or "your code raised" not in said, said


def test_a_value_where_a_function_is_wanted(capsys):
    assert check("2.3", 5) is False
    assert "write a function" in capsys.readouterr().out


def test_an_answer_cannot_spoil_the_data_of_the_checker(capsys):
    def zeroed(x, lambda_, beta):
        y = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5) * lambda_ + beta
        x[:], lambda_[:], beta[:] = 0, 0, 0
        return y

    assert check("1.1", zeroed), capsys.readouterr().out


def test_a_long_error_of_paddle_becomes_one_line(capsys):
    import paddle

    assert not check("4.4", lambda network: paddle.ones([2, 3]) @ paddle.ones([2, 3]))
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "your code raised ValueError" in said


def test_checkers_leave_the_random_numbers_of_the_notebook_alone(capsys):
    import paddle

    state, drawn = np.random.get_state()[1].copy(), []
    for again in (False, True):
        paddle.seed(3)
        if again:
            for number in ("3.4", "4.4"):
                checked(number, SOLUTIONS[number][0], capsys)
        drawn.append(float(paddle.rand([])))
    assert drawn[0] == drawn[1] and np.array_equal(state, np.random.get_state()[1])


def test_checkers_have_names():
    for number, checker in CHECKERS.items():
        assert checker.__name__ == f"exercise_{number.replace('.', '_')}"


def test_messages_are_literals_for_a_catalogue():
    """Each message is one literal with {names}, so that it can be collected and translated."""
    count = 0
    for path in sorted((ROOT / "nam_edu" / "exercises").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "Wrong",
                "right",
                "words",
            ):
                message, count = node.args[0], count + 1
                if path.name == "checking.py" and isinstance(message, (ast.Name, ast.Attribute)):
                    continue  # where a message passes through
                assert isinstance(message, ast.Constant) and isinstance(message.value, str)
                names = set(re.findall(r"{(\w+)", message.value))
                given = {keyword.arg for keyword in node.keywords}
                assert names <= given or None in given, message.value
    assert count > 200
