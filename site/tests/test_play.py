"""The pictures to play with compute what the package computes, to 1e-6.

Needs node and, other than the site, Paddle: python -m pytest site/tests/test_play.py.
"""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

np = pytest.importorskip("numpy")
paddle = pytest.importorskip("paddle")
sys.path.insert(0, str(ROOT))
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node here")


def played(picture, settings):
    """The numbers of a picture for each of the settings, from its own script."""
    program = (
        f"const play = require({json.dumps(str(ROOT / 'site' / 'static' / 'play.js'))});"
        f"console.log(JSON.stringify({{map: play.MAP, numbers: {json.dumps(settings)}.map("
        f"(at) => play.pictures.{picture}.numbers(at))}}))"
    )
    return json.loads(subprocess.run([NODE, "-e", program], capture_output=True, check=True).stdout)


@pytest.fixture
def float64():
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")


def layer(channels, gamma, beta=0.0):
    """A NAM layer of the package: this gamma and beta in channel 0, 1 and 0 in all others."""
    from nam_edu.attention import ChannelNAM

    nam = ChannelNAM(channels)
    gammas, betas = np.ones(channels), np.zeros(channels)
    gammas[0], betas[0] = gamma, beta
    nam.bn.weight.set_value(gammas)
    nam.bn.bias.set_value(betas)
    return nam


@pytest.mark.parametrize("channels", [1, 2, 16, 512])
def test_gate(float64, channels):
    from nam_edu.attention import gamma_weights

    settings = [
        {"channels": channels, "gamma": gamma, "beta": beta, "xHat": x}
        for gamma in (-8, -0.5, 0, 1, 3.3)
        for beta in (-1.5, 0, 2)
        for x in (-3, 0.1, 2)
    ]
    for at, found in zip(settings, played("gate", settings)["numbers"]):
        nam = layer(channels, at["gamma"], at["beta"])
        nam.eval()
        nam.bn._variance.set_value(np.full(channels, 1 - nam.bn._epsilon))  # so that x is x_hat
        x = paddle.full([1, channels, 1, 1], at["xHat"], dtype="float64")
        wanted = {
            "weight": gamma_weights(nam.bn.weight)[0],
            "logit": nam.logits(x)[0, 0, 0, 0],
            "gate": paddle.nn.functional.sigmoid(nam.logits(x))[0, 0, 0, 0],
            "output": nam(x)[0, 0, 0, 0],
        }
        for name, value in wanted.items():
            assert found[name] == pytest.approx(float(value), rel=1e-6, abs=1e-9), (at, name)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"penalty": 1e-3, "epochs": 30},
        {"momentum": 0, "rate": 0.2},
        {"weightDecay": 0, "penalty": 1e-4},
        {"momentum": 0.95, "weightDecay": 2e-3, "epochs": 10},
    ],
)
def test_decay(float64, changes):
    """Against Paddle's own optimizer, the package's penalty and the package's schedule."""
    from nam_edu.attention import sparsity_penalty
    from nam_edu.recipes import learning_rate, recipe

    at = {
        "epochs": 5,
        "rate": 0.1,
        "weightDecay": 5e-4,
        "momentum": 0.9,
        "penalty": 0,
        "steps": 7,
        **changes,
    }
    found = played("decay", [at])["numbers"][0]
    rates = recipe("quick", learning_rate=at["rate"], epochs=at["epochs"], warmup_steps=0)
    assert rates.schedule == "cosine"
    nam = layer(1, 1.0)
    nam.bn.bias.stop_gradient = True
    optimizer = paddle.optimizer.Momentum(
        learning_rate=1.0,
        momentum=at["momentum"],
        use_nesterov=True,
        weight_decay=paddle.regularizer.L2Decay(at["weightDecay"]),
        parameters=[nam.bn.weight],
    )
    gammas, total = [1.0], 0.0
    for step in range(at["epochs"] * at["steps"]):
        rate = learning_rate(rates, step, at["steps"])
        total += rate
        optimizer.set_lr(rate)
        (at["penalty"] * sparsity_penalty(nam)).backward()
        optimizer.step()
        optimizer.clear_grad()
        if (step + 1) % at["steps"] == 0:
            gammas.append(float(nam.bn.weight[0]))
    assert found["simulated"] == pytest.approx(gammas, abs=1e-6)
    exponent = at["weightDecay"] / (1 - at["momentum"]) * total
    assert found["decay"] == pytest.approx(exponent, rel=1e-6)
    assert found["formula"][-1] == pytest.approx(np.exp(-exponent), rel=1e-6)


def test_constant(float64):
    from nam_edu.baselines import ConstantGate

    settings = [
        {"channels": channels, "gamma": gamma, "constant": constant}
        for channels in (1, 16, 256)
        for gamma in (0, 1, 6.5)
        for constant in (0, 0.5, 0.83)
    ]
    answer = played("constant", settings)
    for at, found in zip(settings, answer["numbers"]):
        nam = layer(at["channels"], at["gamma"])  # in training: the statistics are those of the map
        x = np.zeros((1, at["channels"], 8, 8))
        x[0, 0] = answer["map"]
        x = paddle.to_tensor(x)
        gate = paddle.nn.functional.sigmoid(nam.logits(x))[0, 0].numpy()
        output, instead = nam(x)[0, 0].numpy(), ConstantGate(at["constant"])(x)[0, 0].numpy()
        difference = np.sqrt(((output - instead) ** 2).mean())
        assert found["gate"] == pytest.approx(gate.ravel(), abs=1e-6)
        assert found["output"] == pytest.approx(output.ravel(), abs=1e-6)
        assert found["instead"] == pytest.approx(instead.ravel(), abs=1e-6)
        assert found["mean"] == pytest.approx(gate.mean(), abs=1e-6)
        assert found["spread"] == pytest.approx(gate.std(), abs=1e-6)
        assert found["difference"] == pytest.approx(difference, abs=1e-6)
        share = difference / np.sqrt((output**2).mean())
        assert found["share"] == pytest.approx(share, rel=1e-6, abs=1e-6)
