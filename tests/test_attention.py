"""The layers against the golden arrays, closed forms and Paddle's own rules."""

import numpy as np
import paddle
import pytest
from helpers import GOLDEN

from nam_edu.attention import (
    NAM,
    ChannelNAM,
    SpatialNAM,
    gamma_weights,
    nam_layers,
    sparsity_penalty,
)
from nam_edu.resnet import resnet18, resnet50

CASES = sorted(path.stem for path in GOLDEN.glob("*.npz"))
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def load_case(name, dtype, detach):
    """The golden arrays of a case, the layer with their parameters, and its parts by name."""
    golden = {key: value.astype(dtype) for key, value in np.load(GOLDEN / f"{name}.npz").items()}
    n, c, h, w = golden["x"].shape
    both = NAM(c, (h, w), detach_weights=detach)
    parts = {
        kind: part
        for kind, part in (("channel", both.channel), ("spatial", both.spatial))
        if f"{kind}_weight" in golden
    }
    for kind, part in parts.items():
        for ours, theirs in (
            ("weight", "weight"),
            ("bias", "bias"),
            ("_mean", "mean"),
            ("_variance", "var"),
        ):
            getattr(part.bn, ours).set_value(golden[f"{kind}_{theirs}"])
    return golden, both if len(parts) == 2 else next(iter(parts.values())), parts


def close(actual, expected, tolerance):
    np.testing.assert_allclose(
        actual, expected, rtol=tolerance, atol=tolerance * max(1, np.abs(expected).max())
    )


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    paddle.set_default_dtype(request.param)
    yield request.param
    paddle.set_default_dtype("float32")


@pytest.mark.parametrize("convention", ["flow", "detach"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", CASES)
def test_golden_arrays(name, mode, convention, dtype):
    golden, layer, parts = load_case(name, dtype, convention == "detach")
    layer.train() if mode == "train" else layer.eval()
    x = paddle.to_tensor(golden["x"], stop_gradient=False)
    y = layer(x)
    (y * paddle.to_tensor(golden["coef"])).sum().backward()

    tolerance = TOLERANCE[dtype]
    assert y.dtype == x.dtype
    close(y.numpy(), golden[f"y_{mode}"], tolerance)
    close(x.grad.numpy(), golden[f"dx_{mode}_{convention}"], tolerance)
    for kind, part in parts.items():
        for parameter in ("weight", "bias"):
            close(
                getattr(part.bn, parameter).grad.numpy(),
                golden[f"d{kind}_{parameter}_{mode}_{convention}"],
                tolerance,
            )
        # Paddle's momentum weighs the old value, and its running variance is biased. It is a
        # float32 number, 0.9 + 2e-8, whatever the type of the data.
        for ours, old, batch in (
            ("_mean", "mean", "batch_mean"),
            ("_variance", "var", "batch_var_biased"),
        ):
            expected = golden[f"{kind}_{old}"]
            if mode == "train":
                momentum = np.float64(np.float32(0.9))
                expected = (
                    momentum * expected.astype(np.float64)
                    + (1 - momentum) * golden[f"{kind}_{batch}"]
                )
            close(getattr(part.bn, ours).numpy(), expected, tolerance)


def test_batch_statistics_to_float64_precision(double):
    """Momentum 0 leaves the batch's own statistics in the running ones."""
    for name in CASES:
        golden, layer, parts = load_case(name, "float64", False)
        for part in parts.values():
            part.bn._momentum = 0.0
        layer.train()
        layer(paddle.to_tensor(golden["x"]))
        for kind, part in parts.items():
            close(part.bn._mean.numpy(), golden[f"{kind}_batch_mean"], 1e-12)
            close(part.bn._variance.numpy(), golden[f"{kind}_batch_var_biased"], 1e-12)


@pytest.mark.parametrize(
    "gamma, expected",
    [
        ([1, 1, 1, 1], [0.25, 0.25, 0.25, 0.25]),
        ([1, -2, 0, 1], [0.25, 0.5, 0, 0.25]),
        ([0, 0, 0], [1 / 3, 1 / 3, 1 / 3]),
        ([-3e-30, 1e-30], [0.75, 0.25]),
    ],
)
def test_gamma_weights(gamma, expected):
    np.testing.assert_allclose(
        gamma_weights(paddle.to_tensor(gamma, "float32")).numpy(), expected, rtol=1e-6
    )


def test_zero_gamma_gives_a_gate_of_one_half_and_finite_gradients():
    layer = ChannelNAM(5)
    layer.bn.weight.set_value(np.zeros(5, "float32"))
    x = paddle.randn([4, 5, 3, 3])
    x.stop_gradient = False
    y = layer(x)
    np.testing.assert_array_equal(y.numpy(), x.numpy() / 2)
    y.sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
    assert np.isfinite(layer.bn.weight.grad.numpy()).all()


def test_a_common_factor_leaves_the_weights_as_they_are():
    gamma = paddle.to_tensor([0.5, -1.5, 2.0, 0.25])
    np.testing.assert_allclose(
        gamma_weights(0.1 * gamma).numpy(), gamma_weights(gamma).numpy(), rtol=1e-6
    )


def test_spatial_layer_refuses_another_size():
    with pytest.raises(ValueError, match="built for maps of 4x6 pixels but got 6x4"):
        SpatialNAM((4, 6))(paddle.zeros([2, 3, 6, 4]))


def test_one_number_means_a_square_map():
    assert SpatialNAM(7).size == (7, 7)


def test_a_replaced_batch_norm_is_refused():
    """convert_sync_batchnorm would drop W without a word."""
    layer = NAM(4)
    layer.channel.bn = paddle.nn.BatchNorm2D(4)
    with pytest.raises(TypeError, match="does not apply the weights W"):
        layer(paddle.zeros([2, 4, 3, 3]))


def wrapped(network):
    """What data parallelism makes of a network: the network as the sublayer `_layers`."""

    class Wrapper(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self._layers = network

    return Wrapper()


@pytest.mark.parametrize(
    "wrap",
    [lambda network: network, wrapped, paddle.DataParallel],
    ids=["plain", "wrapper", "DataParallel"],
)
def test_penalty_reaches_every_gamma_and_lambda_and_nothing_else(wrap):
    network = resnet18(attention="nam-spatial", width=4, image_size=32)
    model = wrap(network)
    p = 1e-3
    (p * sparsity_penalty(model)).backward()
    layers = dict(nam_layers(model))
    assert len(layers) == 2 * 8 and set(layers) == set(dict(nam_layers(network)))
    ours = {id(layer.bn.weight) for layer in layers.values()}
    for name, parameter in network.named_parameters():
        if id(parameter) in ours:  # gamma starts at 1: the gradient of p |gamma| is p
            np.testing.assert_allclose(parameter.grad.numpy(), p, rtol=1e-6, err_msg=name)
        else:
            assert parameter.grad is None or not parameter.grad.numpy().any(), name


def test_penalty_is_the_sum_of_magnitudes():
    layer = NAM(3, (1, 2))
    layer.channel.bn.weight.set_value(np.array([1, -2, 0.5], "float32"))
    layer.spatial.bn.weight.set_value(np.array([-0.25, 4], "float32"))
    assert float(sparsity_penalty(layer)) == 7.75
    assert float(sparsity_penalty(resnet18(attention="none", width=4))) == 0


def test_summary_counts_the_batch_norms_of_nam(capsys):
    channels = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    with_nam = paddle.summary(resnet50(), (1, 3, 32, 32))["total_params"]
    without = paddle.summary(resnet50(attention="none"), (1, 3, 32, 32))["total_params"]
    assert with_nam - without == 4 * sum(channels)
