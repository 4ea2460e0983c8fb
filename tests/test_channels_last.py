"""The fast path against Paddle's own operations: whatever a user does with a network."""

import concurrent.futures
import subprocess
import sys

import numpy as np
import paddle
import paddle.nn as nn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nam_edu.attention import NAM
from nam_edu.evaluation import predict
from nam_edu.machinery import channels_last, inference
from nam_edu.resnet import BasicBlock, resnet, resnet18


def images(n, size=32, seed=0):
    values = np.random.default_rng(seed).normal(size=(n, 3, size, size))
    return paddle.to_tensor(values.astype("float32"))


def as_paddle(monkeypatch, function):
    """The function's result where Paddle computes everything."""
    with monkeypatch.context() as patch:
        patch.setenv("NAM_EDU_CONVOLUTION", "paddle")
        return function()


def assert_same(actual, expected, tolerance=1e-3):
    assert np.linalg.norm(actual - expected) <= tolerance * max(np.linalg.norm(expected), 1e-3)


# ------------------------------------------------------------------- what gradients cannot do


def test_a_second_backward_is_refused_where_paddle_would_end_the_process():
    """In a process of its own: without the refusal it ends by SIGSEGV."""
    code = """
import nam_edu; nam_edu.setup()
import paddle
from nam_edu.resnet import resnet18
network = resnet18(width=4)
for _ in range(2):
    loss = network(paddle.rand([8, 3, 32, 32])).sum()
    try:
        loss.backward(retain_graph=True)
        loss.backward()
    except Exception as error:
        assert "add the losses up" in str(error), error
        print("refused")
loss = network(paddle.rand([8, 3, 32, 32])).sum()
loss.backward()  # goes on afterwards
print("right")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    on_cpu = paddle.device.get_device() == "cpu"
    assert done.stdout.count("refused") == (2 if on_cpu else 0) and "right" in done.stdout


def test_paddle_grad_keeps_the_graph(monkeypatch):
    network, x = resnet18(width=4), images(8)
    network.eval()
    weight = network.layer4[1].conv2.weight

    def gradients():
        logits = network(x)
        return [
            paddle.grad([logits[:, i].sum()], [weight], retain_graph=True)[0].numpy()
            for i in (0, 1)
        ]

    for actual, expected in zip(gradients(), as_paddle(monkeypatch, gradients)):
        assert_same(actual, expected)


@pytest.mark.skipif(paddle.device.get_device() != "cpu", reason="the fast path is for a CPU")
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2D(8, 8, 3, padding=1),
        nn.Conv2D(8, 8, 3, stride=2, padding=1),
        NAM(8),
        BasicBlock(8, 8, 1, "nam", (8, 8)),
    ],
    ids=["winograd", "gathered", "gate", "block"],
)
def test_a_gradient_of_a_gradient_through_the_fast_path_is_refused(layer):
    x = paddle.randn([8, 8, 8, 8])
    x.stop_gradient = False
    with pytest.raises(Exception, match="NAM_EDU_CONVOLUTION=paddle"):
        paddle.grad([channels_last.through([layer], x).sum()], [x], create_graph=True)
    channels_last.through([layer], x).sum().backward()  # nothing stays behind
    assert x.grad is not None


def test_a_gradient_of_a_gradient_through_a_nam_layer_against_finite_differences(double):
    layer = NAM(4)
    rng = np.random.default_rng(0)
    layer.channel.bn.weight.set_value(rng.normal(size=4))
    layer.channel.bn.bias.set_value(rng.normal(size=4))
    values = rng.normal(size=(8, 4, 3, 3))
    direction = paddle.to_tensor(rng.normal(size=(8, 4, 3, 3)))
    gamma = layer.channel.bn.weight

    def inner():
        x = paddle.to_tensor(values, stop_gradient=False)
        (grad,) = paddle.grad([(layer(x) ** 2).sum()], [x], create_graph=True)
        return (grad * direction).sum()

    inner().backward()
    actual, start = gamma.grad.numpy().copy(), gamma.numpy().copy()
    for i in range(4):
        ends = []
        for step in (1e-6, -1e-6):
            moved = start.copy()
            moved[i] += step
            gamma.set_value(moved)
            ends.append(float(inner()))
        assert actual[i] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-6)


# ------------------------------------------------------------------------------------- export


@pytest.mark.filterwarnings("ignore:Tensor do not have 'place'")  # of Paddle's ones_like
@pytest.mark.parametrize("attention", ["nam", "nam-spatial"])
def test_a_network_is_exported(attention, tmp_path):
    network = resnet18(width=4, attention=attention)
    network.eval()
    x = images(8)
    expected = network(x).numpy()
    spec = [paddle.static.InputSpec([None, 3, 32, 32], "float32")]
    paddle.jit.save(network, str(tmp_path / "network"), input_spec=spec)
    np.testing.assert_allclose(
        paddle.jit.load(str(tmp_path / "network"))(x).numpy(), expected, rtol=1e-3, atol=1e-4
    )
    static = paddle.jit.to_static(network, full_graph=True)
    np.testing.assert_allclose(static(x).numpy(), expected, rtol=1e-3, atol=1e-4)


# --------------------------------------------------------------- modes, threads, weights, hooks


def test_predict_leaves_every_mode_as_it_was():
    network = resnet18(width=4)
    network.train()
    network.layer1.eval()  # frozen
    before = [layer.training for layer in network.sublayers(include_self=True)]
    predict(network, np.zeros((3, 3, 32, 32), np.uint8))
    assert before == [layer.training for layer in network.sublayers(include_self=True)]


def test_predict_in_two_threads_and_changed_weights_afterwards(monkeypatch):
    network = resnet18(width=8)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8) for _ in range(4)]
    network.train()
    expected = as_paddle(monkeypatch, lambda: [predict(network, p, 16) for p in pictures])
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for actual, right in zip(
                pool.map(lambda p: predict(network, p, 16), pictures), expected
            ):
                assert_same(actual, right)
        assert network.training
    network.layer1[0].conv1.weight.set_value(network.layer1[0].conv1.weight * 3)
    network.eval()
    with paddle.no_grad():
        actual = network(images(8)).numpy()
        assert_same(actual, as_paddle(monkeypatch, lambda: network(images(8)).numpy()))


def test_a_hook_on_a_gates_batch_norm_sees_the_logits(monkeypatch):
    network, seen = resnet18(width=4), []
    network.eval()
    bn = network.layer3[0].attention.channel.bn
    bn.weight.set_value(paddle.to_tensor(np.linspace(-1, 2, 16).astype("float32")))
    bn.register_forward_post_hook(lambda layer, inputs, output: seen.append(output))

    def logits():
        seen.clear()
        with paddle.no_grad():
            network(images(8))
        return seen[0].numpy()

    assert logits().shape == (8, 16, 2, 2)
    assert_same(logits(), as_paddle(monkeypatch, logits))


def test_omp_num_threads_may_be_a_list(monkeypatch):
    for value, threads in (("2,1", 2), ("3", 3), ("", 1), ("0", 1), ("many", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert inference.thread_count() == threads


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_random_networks(data):
    """Depths, widths, stems, sizes, batches, modes, hooks, frozen parts, changed weights."""

    def one_of(*values):
        return data.draw(st.sampled_from(values))

    monkeypatch = pytest.MonkeyPatch()
    seed = data.draw(st.integers(0, 1000))
    depth, stem = one_of(18, 18, 50), one_of("imagenet", "imagenet", "cifar")
    size = one_of(16, 32, 32, 40, 17) if stem == "imagenet" else one_of(4, 8, 9)
    attention = one_of("nam", "nam", "nam-spatial", "se", "half", "none", "nam-detached")
    paddle.seed(seed)
    network = resnet(depth, 7, attention, stem, width=one_of(3, 4, 8), image_size=size)
    for layer in network.sublayers():  # statistics and scales that are not those of a new network
        if isinstance(layer, nn.BatchNorm2D):
            layer.weight.set_value(paddle.rand(layer.weight.shape) + 0.5)
            layer.bias.set_value(paddle.randn(layer.bias.shape) * 0.3)
            layer._variance.set_value(paddle.rand(layer._variance.shape) + 0.5)
    x = images(one_of(7, 8, 9, 16), size, seed)
    x.stop_gradient = one_of(True, False)
    network.eval()
    if one_of(True, False):
        for parameter in network.layer2.parameters():
            parameter.stop_gradient = True
    if one_of(True, False):
        network.layer3[0].bn1.train()
    hooked = one_of(None, "layer2", "layer3.0.conv1", "layer4.1.attention", "bn1")
    shapes = []
    if hooked:
        dict(network.named_sublayers())[hooked].register_forward_post_hook(
            lambda layer, i, o: shapes.append(o.shape[0])
        )
    start = {name: value.numpy() for name, value in network.state_dict().items()}

    def step():
        network.set_state_dict({name: paddle.to_tensor(v) for name, v in start.items()})
        network.layer1[0].conv1.weight.set_value(network.layer1[0].conv1.weight * 1.5)
        network.clear_gradients()
        x.clear_gradient()
        logits = network(x)
        logits.square().sum().backward()
        found = {"logits": logits.numpy()}
        found.update(
            {
                n: p.grad.numpy()
                for n, p in network.named_parameters()
                if p.grad is not None and not p.stop_gradient
            }
        )
        found.update({n: v.numpy() for n, v in network.state_dict().items() if "._" in n})
        if not x.stop_gradient:
            found["x"] = x.grad.numpy()
        return found

    actual, expected = step(), as_paddle(monkeypatch, step)
    assert actual.keys() == expected.keys()
    for name in expected:
        assert_same(actual[name], expected[name], 5e-3)
    assert len(shapes) == (2 if hooked else 0)


def test_nothing_is_known_but_exact_types():
    """A subclass, an instance with a forward of its own, a hook: each is called as it is."""

    class Own(nn.ReLU):
        pass

    hooked, patched = nn.ReLU(), nn.ReLU()
    hooked.register_forward_post_hook(lambda *a: None)
    patched.forward = lambda x: x
    assert channels_last.is_plain(nn.ReLU())
    assert not any(map(channels_last.is_plain, (Own(), hooked, patched, nn.GELU())))
