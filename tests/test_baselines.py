"""The modules NAM is compared with, against float64 NumPy written straight from their papers."""

import numpy as np
import paddle
import paddle.nn as nn
import pytest

from nam_edu.attention import NAM, nam_layers, sparsity_penalty
from nam_edu.baselines import (
    ATTENTIONS,
    CBAM,
    ECA,
    SE,
    CBAMChannel,
    CBAMSpatial,
    ChannelNAMGateOnly,
    ChannelNAMTimesC,
    ConstantGate,
    SimAM,
    build_attention,
    eca_kernel_size,
)

NAMES = [
    "none",
    "half",
    "quarter",
    "nam",
    "nam-detached",
    "nam-spatial",
    "nam-times-c",
    "nam-gate-only",
    "se",
    "cbam",
    "eca",
    "simam",
]

# Square, oblong both ways, and maps of one pixel.
SHAPES = [
    (3, 4, 5, 5),
    (2, 4, 1, 6),
    (2, 16, 3, 7),
    (3, 16, 1, 1),
    (2, 64, 4, 2),
    (2, 64, 1, 1),
    (2, 256, 2, 3),
]


# The oracle. One image at a time: x is (C, H, W), p holds the parameters by name.


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def mlp(z, p, first, second):
    hidden = np.maximum(z @ p[f"{first}.weight"] + p[f"{first}.bias"], 0)
    return hidden @ p[f"{second}.weight"] + p[f"{second}.bias"]


def se(x, p):
    gate = sigmoid(mlp(x.mean((1, 2)), p, "fc1", "fc2"))
    return gate[:, None, None] * x


def cbam_channel(x, p):
    average, maximum = x.mean((1, 2)), x.max((1, 2))
    gate = sigmoid(mlp(average, p, "mlp.0", "mlp.2") + mlp(maximum, p, "mlp.0", "mlp.2"))
    return gate[:, None, None] * x


def cbam_spatial(x, p):
    _, height, width = x.shape
    padded = np.pad(np.stack([x.mean(0), x.max(0)]), ((0, 0), (3, 3), (3, 3)))
    logits = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            logits[i, j] = (padded[:, i : i + 7, j : j + 7] * p["conv.weight"][0]).sum()
    return sigmoid(logits) * x


def cbam(x, p):
    def part(name):
        return {k[len(name) + 1 :]: v for k, v in p.items() if k.startswith(f"{name}.")}

    return cbam_spatial(cbam_channel(x, part("channel")), part("spatial"))


def eca(x, p):
    kernel = p["conv.weight"][0, 0]
    z = np.pad(x.mean((1, 2)), len(kernel) // 2)
    gate = sigmoid(np.array([z[c : c + len(kernel)] @ kernel for c in range(len(x))]))
    return gate[:, None, None] * x


def simam(x, p, lambda_=1e-4):
    y = np.empty_like(x)
    for c, t in enumerate(x):
        mu = t.mean()
        variance = ((t - mu) ** 2).sum() / max(t.size - 1, 1)
        # Equation (5): the least energy of each neuron t.
        energy = 4 * (variance + lambda_) / ((t - mu) ** 2 + 2 * variance + 2 * lambda_)
        y[c] = sigmoid(1 / energy) * t
    return y


MODULES = {
    "se": (SE, se),
    "cbam_channel": (CBAMChannel, cbam_channel),
    "cbam_spatial": (lambda channels: CBAMSpatial(), cbam_spatial),
    "cbam": (CBAM, cbam),
    "eca": (ECA, eca),
    "simam": (lambda channels: SimAM(), simam),
}


def case(name, shape):
    """A module with parameters drawn at random, these parameters in float64, an input, the oracle.

    The logits are of order 1: neither a gate of 1/2 nor a saturated one could hide a mistake.
    """
    rng = np.random.default_rng(sum(shape))
    build, oracle = MODULES[name]
    module, params = build(shape[1]), {}
    for key, parameter in module.named_parameters():
        if key.endswith("bias"):
            scale = 0.3
        else:  # a linear layer's weight is (in, out), a convolution's (out, in, *kernel)
            scale = parameter.shape[0] ** -0.5 if parameter.ndim == 2 else 0.5
        value = rng.normal(0, scale, parameter.shape).astype("float32")  # exact in both types
        parameter.set_value(value.astype(paddle.get_default_dtype()))
        params[key] = value.astype("float64")
    x = rng.normal(0.3, 1.5, shape).astype("float32").astype("float64")
    return module, params, x, oracle


def count(module):
    return sum(parameter.size for parameter in module.parameters())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_output_in_float32(name, shape):
    module, params, x, oracle = case(name, shape)
    y = module(paddle.to_tensor(x.astype("float32")))
    assert y.dtype == paddle.float32 and tuple(y.shape) == shape
    np.testing.assert_allclose(
        y.numpy(), [oracle(image, params) for image in x], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_output_and_gradients_in_float64(name, shape, double):
    module, params, x, oracle = case(name, shape)
    rng = np.random.default_rng(1)
    coef = rng.normal(0, 1, shape)
    tensor = paddle.to_tensor(x, stop_gradient=False)
    y = module(tensor)
    # Paddle 2.6 rounds the 1e-4 of `variance + 1e-4` to float32, which is seen at 1e-12.
    np.testing.assert_allclose(
        y.numpy(), [oracle(image, params) for image in x], rtol=1e-10, atol=1e-10
    )
    (y * paddle.to_tensor(coef)).sum().backward()

    # Central differences of the oracle at twelve places of the input and of each parameter.
    def loss():
        return sum((c * oracle(image, params)).sum() for c, image in zip(coef, x))

    step = 1e-6
    analytic = {"x": tensor.grad, **{k: v.grad for k, v in module.named_parameters()}}
    for key, array in {"x": x, **params}.items():
        gradient = analytic[key].numpy()
        for flat in rng.permutation(array.size)[:12]:
            place = np.unravel_index(flat, array.shape)
            value = array[place]
            array[place] = value + step
            above = loss()
            array[place] = value - step
            below = loss()
            array[place] = value
            np.testing.assert_allclose(
                gradient[place],
                (above - below) / (2 * step),
                rtol=1e-5,
                atol=1e-6,
                err_msg=f"{key}{place}",
            )


@pytest.mark.parametrize("channels, hidden", [(4, 1), (16, 1), (64, 4), (256, 16), (2048, 128)])
def test_numbers_of_parameters(channels, hidden):
    two_layers = 2 * channels * hidden + hidden + channels
    assert count(SE(channels)) == two_layers
    assert count(CBAM(channels).channel) == two_layers
    assert count(CBAM(channels)) == two_layers + 2 * 7 * 7
    assert count(ECA(channels)) == eca_kernel_size(channels)
    assert count(SimAM()) == 0


def test_reduction_sets_the_hidden_layer():
    assert count(SE(64, reduction=4)) == 2 * 64 * 16 + 16 + 64
    assert count(CBAM(64, reduction=4).channel) == 2 * 64 * 16 + 16 + 64


@pytest.mark.parametrize(
    "channels, size",
    [(1, 1), (4, 1), (16, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)],
)
def test_eca_kernel_size_by_hand(channels, size):
    assert eca_kernel_size(channels) == size
    assert ECA(channels).conv.weight.shape == [1, 1, size]


def test_eca_kernel_size_is_the_nearest_odd_number():
    for channels in range(1, 5000):
        exact = abs(np.log2(channels) / 2 + 1 / 2)
        nearest = min(range(1, 15, 2), key=lambda k: (abs(k - exact), -k))
        assert eca_kernel_size(channels) == nearest


def test_simam_on_one_pixel_is_a_constant_gate():
    x = paddle.to_tensor([[[[-3.0]], [[0.0]], [[1e4]]]], stop_gradient=False)
    y = SimAM()(x)
    y.sum().backward()
    gate = 1 / (1 + np.exp(-0.5))
    np.testing.assert_allclose(y.numpy(), gate * x.numpy(), rtol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), np.full((1, 3, 1, 1), gate), rtol=1e-6)


def test_simam_lambda():
    _, params, x, _ = case("simam", (2, 4, 3, 5))
    y = SimAM(0.1)(paddle.to_tensor(x.astype("float32")))
    np.testing.assert_allclose(
        y.numpy(), [simam(image, params, 0.1) for image in x], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name, gate", [("none", 1.0), ("half", 0.5), ("quarter", 0.25)])
def test_controls_are_exact(name, gate):
    x = paddle.randn([2, 4, 3, 5])
    x.stop_gradient = False
    module = build_attention(name, 4, (3, 5))
    y = module(x)
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), np.float32(gate) * x.numpy())
    np.testing.assert_array_equal(x.grad.numpy(), np.full(x.shape, gate, "float32"))
    assert count(module) == 0


# Variants of NAM. The oracle takes the whole batch, (N, C, H, W), whose statistics it uses.


def nam_variant(name, x, gamma, beta):
    mean = x.mean((0, 2, 3), keepdims=True)
    x_hat = (x - mean) / np.sqrt(((x - mean) ** 2).mean((0, 2, 3), keepdims=True) + 1e-5)
    bn = gamma[:, None, None] * x_hat + beta[:, None, None]
    w = np.abs(gamma) / np.abs(gamma).sum()
    if name == "nam-times-c":
        return sigmoid(len(gamma) * w[:, None, None] * bn) * x
    return sigmoid(w[:, None, None] * bn)


@pytest.mark.parametrize("shape", [(3, 4, 5, 5), (2, 16, 3, 7), (4, 3, 1, 1)], ids=str)
@pytest.mark.parametrize("name", ["nam-times-c", "nam-gate-only"])
def test_variants_of_nam_in_float64(name, shape, double):
    rng = np.random.default_rng(sum(shape))
    values = {
        "x": rng.normal(0.3, 1.5, shape),
        "gamma": rng.normal(1, 0.5, shape[1]),
        "beta": rng.normal(0, 0.3, shape[1]),
    }
    coef = rng.normal(0, 1, shape)
    module = build_attention(name, shape[1], shape[2:])
    bn = module.channel.bn
    bn.weight.set_value(values["gamma"])
    bn.bias.set_value(values["beta"])
    x = paddle.to_tensor(values["x"], stop_gradient=False)
    y = module(x)
    np.testing.assert_allclose(y.numpy(), nam_variant(name, **values), rtol=1e-9, atol=1e-9)
    (y * paddle.to_tensor(coef)).sum().backward()

    step = 1e-6
    for key, gradient in (("x", x.grad), ("gamma", bn.weight.grad), ("beta", bn.bias.grad)):
        array = values[key]
        for flat in rng.permutation(array.size)[:12]:
            place = np.unravel_index(flat, array.shape)
            value, losses = array[place], []
            for moved in (value + step, value - step):
                array[place] = moved
                losses.append((coef * nam_variant(name, **values)).sum())
            array[place] = value
            np.testing.assert_allclose(
                gradient.numpy()[place], (losses[0] - losses[1]) / (2 * step), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("name", ["nam-times-c", "nam-gate-only"])
def test_variants_of_nam_are_found_as_nam_is(name):
    """By gamma history and penalty, under NAM's names, with NAM's first numbers."""
    variant, nam = build_attention(name, 16, (3, 5)), build_attention("nam", 16, (3, 5))
    assert list(variant.state_dict()) == list(nam.state_dict())
    assert [found for found, _ in nam_layers(variant)] == ["channel"]
    assert float(sparsity_penalty(variant)) == 16
    with pytest.raises(TypeError, match="was replaced by"):
        variant.channel.bn = nn.BatchNorm2D(16)
        variant(paddle.randn([2, 16, 3, 5]))


def test_constant_gate_of_another_value():
    x = paddle.randn([2, 4, 3, 5])
    np.testing.assert_array_equal(ConstantGate(0.25)(x).numpy(), np.float32(0.25) * x.numpy())


def test_registry_names_and_order():
    assert list(ATTENTIONS) == NAMES


def test_registry_builds_what_the_names_say():
    built = {name: build_attention(name, 16, (3, 5)) for name in NAMES}
    kinds = {
        "none": nn.Identity,
        "half": ConstantGate,
        "quarter": ConstantGate,
        "nam": NAM,
        "nam-detached": NAM,
        "nam-spatial": NAM,
        "nam-times-c": nn.Sequential,
        "nam-gate-only": nn.Sequential,
        "se": SE,
        "cbam": CBAM,
        "eca": ECA,
        "simam": SimAM,
    }
    assert {name: type(layer) for name, layer in built.items()} == kinds
    assert (built["half"].value, built["quarter"].value) == (0.5, 0.25)
    assert [built[name].channel.bn.detach_weights for name in NAMES[3:8]] == [
        False,
        True,
        False,
        False,
        False,
    ]
    assert type(built["nam-times-c"].channel) is ChannelNAMTimesC
    assert type(built["nam-gate-only"].channel) is ChannelNAMGateOnly
    assert built["nam"].spatial is None and built["nam-detached"].spatial is None
    assert built["nam-spatial"].spatial.size == (3, 5)
    assert build_attention("se", 16, (3, 5)) is not build_attention("se", 16, (3, 5))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_keeps_the_shape(name):
    y = build_attention(name, 16, (3, 5))(paddle.randn([2, 16, 3, 5]))
    assert y.shape == [2, 16, 3, 5]


def test_a_callable_gets_channels_and_size():
    calls = []

    def build(channels, size):
        calls.append((channels, size))
        return nn.Identity()

    assert isinstance(build_attention(build, 16, (3, 5)), nn.Identity)
    assert calls == [(16, (3, 5))]
    assert build_attention(NAM, 16, (3, 5)).spatial.size == (3, 5)  # a class is a callable


@pytest.mark.parametrize("attention", ["SE", "nam_spatial", "", None, 3, ["se"]])
def test_unknown_name_lists_the_choices(attention):
    with pytest.raises(ValueError) as error:
        build_attention(attention, 16, (3, 5))
    assert str(error.value).startswith(
        f"unknown attention {attention!r}: choose one of "
        "none, half, quarter, nam, nam-detached, nam-spatial, "
    )
    assert error.value.__context__ is None  # one error, not a chain


def test_a_callable_must_return_a_layer():
    with pytest.raises(TypeError, match="must return a paddle.nn.Layer, not int"):
        build_attention(lambda channels, size: channels, 16, (3, 5))


def test_a_layer_is_not_a_callable_that_builds_one():
    with pytest.raises(TypeError, match="attention is a SE that is built already"):
        build_attention(SE(16), 16, (3, 5))


@pytest.mark.parametrize("channels", [0, -4, 2.5, 64.0, "64", True, None, [64]], ids=repr)
@pytest.mark.parametrize("module", [SE, CBAM, ECA])
def test_bad_channels_are_refused(module, channels):
    with pytest.raises(ValueError) as error:
        module(channels)
    assert str(error.value) == f"channels must be a whole number of at least 1, not {channels!r}"


def test_numpy_integers_are_channels():
    for module in (SE, CBAM, ECA):
        assert count(module(np.int64(64))) == count(module(64))
