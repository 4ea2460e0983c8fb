"""The fast convolutions against Paddle's own kernel, and networks with and without them."""

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nam_edu.machinery import channels_last, convolution, inference
from nam_edu.baselines import ATTENTIONS
from nam_edu.resnet import resnet, resnet18


def values_and_gradients(conv, x, weight, bias, coefficients, **options):
    """Output and gradients of sum(coefficients * conv(x, weight, bias)), all as (N, C, H, W)."""
    tensors = [paddle.to_tensor(v) for v in (x, weight, bias) if v is not None]
    for tensor in tensors:
        tensor.stop_gradient = False
    y = conv(tensors[0], tensors[1], tensors[2] if bias is not None else None, **options)
    (y * paddle.to_tensor(coefficients)).sum().backward()
    return [y.numpy()] + [tensor.grad.numpy() for tensor in tensors]


def ours(x, weight, bias, **options):
    y = convolution.conv2d(x.transpose([0, 2, 3, 1]), weight, bias, **options)
    return y.transpose([0, 3, 1, 2])


def compare(n, c_in, c_out, h, w, kernel, stride, padding, bias, seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, c_in, h, w)).astype(dtype)
    weight = rng.normal(size=(c_out, c_in, *kernel)).astype(dtype)
    bias = rng.normal(size=c_out).astype(dtype) if bias else None
    out = [(s + 2 * p - k) // t + 1 for s, p, k, t in zip((h, w), padding, kernel, stride)]
    coefficients = rng.normal(size=(n, c_out, *out)).astype(dtype)
    options = {"stride": stride, "padding": padding}
    actual = values_and_gradients(ours, x, weight, bias, coefficients, **options)
    # The oracle: Paddle's own kernel in float64.
    exact = values_and_gradients(
        F.conv2d,
        x.astype("float64"),
        weight.astype("float64"),
        None if bias is None else bias.astype("float64"),
        coefficients.astype("float64"),
        **options,
    )
    for name, a, e in zip(("output", "input", "weight", "bias"), actual, exact):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4 * np.abs(e).max(), err_msg=name)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_random_shapes(data):
    def number(low, high):
        return data.draw(st.integers(low, high))

    h, w = number(1, 10), number(1, 10)
    kernel = data.draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (1, 3), (2, 2), (5, 5)]))
    padding = (number(0, kernel[0] // 2), number(0, kernel[1] // 2))
    if h + 2 * padding[0] < kernel[0] or w + 2 * padding[1] < kernel[1]:
        return
    compare(
        number(1, 5),
        number(1, 20),
        number(1, 20),
        h,
        w,
        kernel,
        data.draw(st.sampled_from([(1, 1), (2, 2), (1, 2)])),
        padding,
        data.draw(st.booleans()),
        seed=number(0, 100),
    )


@pytest.mark.parametrize(
    "size, c_in, c_out, kernel, stride",
    [
        (8, 64, 64, 3, 1),
        (8, 64, 128, 3, 2),
        (4, 128, 128, 3, 1),
        (4, 128, 256, 3, 2),
        (2, 256, 256, 3, 1),
        (2, 256, 512, 3, 2),
        (1, 512, 512, 3, 1),
        (8, 64, 256, 1, 1),
        (8, 256, 512, 1, 2),
        (2, 1024, 512, 1, 1),
        (32, 3, 64, 7, 2),
    ],
)
def test_the_shapes_of_the_networks(size, c_in, c_out, kernel, stride):
    compare(
        6,
        c_in,
        c_out,
        size,
        size,
        (kernel, kernel),
        (stride, stride),
        (kernel // 2, kernel // 2),
        False,
    )


@pytest.mark.parametrize("frozen", ["x", "weight"])
@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (1, 1)])
def test_frozen_inputs_and_weights(frozen, kernel, stride):
    rng = np.random.default_rng(0)
    x = paddle.to_tensor(rng.normal(size=(3, 4, 4, 5)).astype("float32"))
    weight = paddle.to_tensor(rng.normal(size=(6, 5, kernel, kernel)).astype("float32"))
    x.stop_gradient, weight.stop_gradient = frozen == "x", frozen == "weight"
    options = {"stride": (stride, stride), "padding": (kernel // 2, kernel // 2)}
    gradients = []
    for conv in (
        convolution.conv2d,
        lambda v, *a, **k: F.conv2d(v.transpose([0, 3, 1, 2]), *a, **k).transpose([0, 2, 3, 1]),
    ):
        conv(x, weight, **options).square().sum().backward()
        (wanted, other) = (weight, x) if frozen == "x" else (x, weight)
        assert other.grad is None
        gradients.append(wanted.grad.numpy())
        wanted.clear_grad()
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [16, 15])
def test_max_pool_is_paddles_to_the_last_bit(size):
    """Also where values are equal, as after a ReLU."""
    pool = nn.MaxPool2D(3, stride=2, padding=1)
    values = np.maximum(np.random.default_rng(0).normal(size=(4, 7, size, size)), 0)
    results = []
    for last in (False, True):
        x = paddle.to_tensor(values.astype("float32"), stop_gradient=False)
        if last:
            y = channels_last._computed(pool, x.transpose([0, 2, 3, 1]), True)
            y = y.transpose([0, 3, 1, 2])
        else:
            y = pool(x)
        y.square().sum().backward()
        results.append((y.numpy(), x.grad.numpy()))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_other_types_groups_and_dilation_go_to_paddles_kernel():
    compare(2, 4, 6, 5, 5, (3, 3), (1, 1), (1, 1), True, dtype="float64")
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 6, 5, 5)), rng.normal(size=(4, 3, 3, 3))
    for options in ({"groups": 2}, {"groups": 2, "dilation": (2, 2), "padding": (2, 2)}):
        out = F.conv2d(paddle.to_tensor(x), paddle.to_tensor(weight), **options)
        a = values_and_gradients(ours, x, weight, None, np.ones(out.shape), **options)
        e = values_and_gradients(F.conv2d, x, weight, None, np.ones(out.shape), **options)
        for one, other in zip(a, e):
            np.testing.assert_allclose(one, other, rtol=1e-10)


def step(network, x):
    """Logits, and the gradients of their squares' sum by name; running statistics as they end."""
    logits = network(x)
    network.clear_gradients()
    logits.square().sum().backward()
    gradients = {
        name: p.grad.numpy() for name, p in network.named_parameters() if not p.stop_gradient
    }
    buffers = {name: v.numpy() for name, v in network.state_dict().items() if "._" in name}
    return logits.numpy(), gradients, buffers


def assert_close(a, b, name):
    np.testing.assert_allclose(
        a, b, rtol=2e-3, atol=2e-3 * max(np.abs(b).max(), 1e-6), err_msg=name
    )


@pytest.mark.parametrize("image_size", [32, 64])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("depth", [18, 50])
def test_a_network_with_and_without(depth, stem, image_size, monkeypatch):
    """In inference mode and eight classes, where nothing amplifies the rounding."""
    if stem == "cifar" and (image_size == 64 or depth == 50):
        pytest.skip("large maps take Paddle's kernel; one network shows it")
    paddle.seed(3)
    network = resnet(depth, num_classes=8, stem=stem, width=16, image_size=image_size)
    network.eval()
    x = paddle.randn([8, 3, image_size, image_size])
    monkeypatch.setenv("NAM_EDU_CONVOLUTION", "paddle")
    plain = step(network, x)
    monkeypatch.delenv("NAM_EDU_CONVOLUTION")
    fast = step(network, x)
    assert_close(fast[0], plain[0], "logits")
    for name in plain[1]:
        assert_close(fast[1][name], plain[1][name], name)


@pytest.mark.parametrize("attention", list(ATTENTIONS) + ["callable"])
def test_every_attention_in_training_mode(attention):
    """Also modules that know nothing of the layout, such as SE or a user's own."""

    class Own(nn.Layer):
        def forward(self, x):
            assert x.shape[1] == 8 * 2 ** ["8", "4", "2", "1"].index(str(x.shape[2]))
            return x * F.sigmoid(x.mean([2, 3], keepdim=True))

    kind = (lambda channels, size: Own()) if attention == "callable" else attention
    paddle.seed(3)
    network = resnet18(num_classes=8, attention=kind, width=8)
    start = {name: value.numpy() for name, value in network.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(32, 3, 32, 32))

    # The oracle: the same network in float64, which takes Paddle's kernel.
    paddle.set_default_dtype("float64")
    exact_network = resnet18(num_classes=8, attention=kind, width=8)
    paddle.set_default_dtype("float32")
    exact_network.set_state_dict({name: value.astype("float64") for name, value in start.items()})
    exact = step(exact_network, paddle.to_tensor(x))
    fast = step(network, paddle.to_tensor(x, "float32"))

    for actual, expected in zip(fast[1:], exact[1:]):
        for name in expected:
            off = np.linalg.norm(actual[name] - expected[name])
            # Below 2e-2 it is rounding: "nam-gate-only" has no use for a batch norm's scale.
            assert off < 3e-4 * max(np.linalg.norm(expected[name]), 2e-2), name
    np.testing.assert_allclose(fast[0], exact[0], rtol=1e-3, atol=1e-4)


def test_hooks_see_channels_first_and_switch_the_fast_way_off():
    network = resnet18(width=4)
    network.eval()
    x = paddle.randn([8, 3, 32, 32])
    before = network(x)
    shapes = []
    hook = network.layer2.register_forward_post_hook(lambda _, i, o: shapes.append(list(o.shape)))
    after = network(x)
    hook.remove()
    assert shapes == [[8, 8, 4, 4]]
    np.testing.assert_allclose(before.numpy(), after.numpy(), rtol=1e-3, atol=1e-4)


def test_the_network_is_left_as_it_was():
    network = resnet18(width=4, attention="nam-spatial")
    names = list(network.state_dict())
    formats = [
        (type(p), p.__dict__.get("_data_format"), "forward" in p.__dict__)
        for p in network.sublayers()
    ]
    network(paddle.randn([8, 3, 32, 32]))
    with pytest.raises(ValueError, match="built for maps of"):
        network(paddle.randn([8, 3, 48, 48]))  # an error inside leaves nothing behind either
    assert list(network.state_dict()) == names
    assert formats == [
        (type(p), p.__dict__.get("_data_format"), "forward" in p.__dict__)
        for p in network.sublayers()
    ]


def test_it_is_really_used(monkeypatch):
    """Otherwise the comparisons above would compare Paddle with itself."""
    monkeypatch.setenv("NAM_EDU_CONVOLUTION", "products")
    used = []
    normal = convolution._convolve
    monkeypatch.setattr(convolution, "_convolve", lambda *a: used.append(1) or normal(*a))
    network = resnet18(width=4)
    network(paddle.randn([8, 3, 32, 32]))
    assert len(used) == (20 if paddle.device.get_device() == "cpu" else 0)


def test_outputs_in_threads_are_those_of_the_network(monkeypatch):
    network = resnet18(width=8, attention="cbam")
    network.eval()
    batches = [paddle.randn([n, 3, 32, 32]) for n in (16, 16, 16, 5, 16, 16, 16, 3)]
    with paddle.no_grad():
        expected = [network(batch).numpy() for batch in batches]
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        actual = list(inference.outputs(network, iter(batches), parallel=True))
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected):
            np.testing.assert_allclose(a.numpy(), e, rtol=1e-3, atol=1e-4)
            assert a.stop_gradient
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with pytest.raises(ValueError):  # an error in a thread comes out, and nothing stays changed
        list(inference.outputs(network, [paddle.zeros([2, 5])], parallel=True))
    list(inference.outputs(network, batches[:1], parallel=True))


def test_fixed_weights_are_made_once_and_forgotten_afterwards(monkeypatch):
    network = resnet18(width=4)
    network.eval()
    x = paddle.randn([8, 3, 32, 32])
    monkeypatch.setenv("NAM_EDU_CONVOLUTION", "products")
    made = []
    normal = convolution._winograd_weight
    monkeypatch.setattr(convolution, "_winograd_weight", lambda *a: made.append(1) or normal(*a))
    with paddle.no_grad():
        expected = network(x)
        one_pass = len(made)
        with convolution.fixed_weights({}):
            for _ in range(3):
                np.testing.assert_array_equal(network(x).numpy(), expected.numpy())
        assert one_pass > 0 and len(made) == 2 * one_pass
        network.layer1[0].conv1.weight.set_value(network.layer1[0].conv1.weight * 2)
        assert (network(x).numpy() != expected.numpy()).any()
