"""Paddle's own oneDNN, called directly, against Paddle itself; skipped where there is none."""

import concurrent.futures
import subprocess
import sys

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nam_edu.machinery import convolution, onednn

needs_it = pytest.mark.skipif(not onednn.available(), reason=f"no oneDNN: {onednn.why_not()}")


def tensor(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape)
    return paddle.to_tensor(values.astype("float32"), stop_gradient=False)


def values_and_gradients(function, *tensors):
    """[result, gradients of a random sum of it]; those of tensors that want none are left out."""
    for t in tensors:
        t.clear_gradient()
    y = function(*tensors)
    (y * tensor(*y.shape, seed=9).detach()).sum().backward()
    return [y.numpy(), *(t.grad.numpy() for t in tensors if not t.stop_gradient)]


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-4 * max(np.abs(e).max(), 1e-6))


@needs_it
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_convolutions_of_random_shapes(data):
    def number(low, high):
        return data.draw(st.integers(low, high))

    n, h, w, groups = number(1, 5), number(1, 11), number(1, 11), data.draw(st.sampled_from([1, 2]))
    c, c_out = groups * number(1, 17), groups * number(1, 17)
    kh, kw = data.draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 2), (5, 5)]))
    stride = number(1, 2), number(1, 2)
    dilation = data.draw(st.sampled_from([(1, 1), (1, 1), (2, 1)]))
    padding = number(0, kh // 2), number(0, kw // 2)
    if h + 2 * padding[0] < dilation[0] * (kh - 1) + 1 or w + 2 * padding[1] < kw:
        return
    x, weight, bias = tensor(n, h, w, c), tensor(c_out, c // groups, kh, kw), tensor(c_out)
    for t in (x, weight, bias)[: number(0, 2)]:
        t.stop_gradient = True
    ends = padding[0], padding[0], padding[1], padding[1]

    def theirs(x, weight, bias):
        maps = x.transpose([0, 3, 1, 2])
        y = F.conv2d(maps, weight, bias, stride, padding, dilation, groups)
        return y.transpose([0, 2, 3, 1])

    assert_same(
        values_and_gradients(
            lambda *t: onednn.conv2d(*t, stride, ends, dilation, groups), x, weight, bias
        ),
        values_and_gradients(theirs, x, weight, bias),
    )


@needs_it
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 16), (3, 5, 4, 16), (8, 7, 7, 64), (2, 3, 3, 12)])
def test_batch_norm(shape, relu):
    x, scale, shift = tensor(*shape), tensor(shape[3]), tensor(shape[3], seed=1)
    running = [[paddle.zeros([shape[3]]), paddle.ones([shape[3]])] for _ in range(2)]

    def theirs(x, scale, shift):
        y = F.batch_norm(x, *running[1], scale, shift, True, 0.9, 1e-5, "NHWC")
        return F.relu(y) if relu else y

    if np.prod(shape[:3]) > 1:
        assert_same(
            values_and_gradients(
                lambda x, a, b: onednn.batch_norm(x, *running[0], a, b, 0.9, 1e-5, relu),
                x,
                scale,
                shift,
            ),
            values_and_gradients(theirs, x, scale, shift),
        )
        for ours, its in zip(*running):
            np.testing.assert_allclose(ours.numpy(), its.numpy(), rtol=1e-5, atol=1e-6)


@needs_it
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 4, 12), (2, 8, 8, 16)])
def test_the_gate_and_what_follows_it(shape):
    x, logits, shortcut = (tensor(*shape, seed=s) for s in range(3))
    assert_same(
        values_and_gradients(onednn.gate_add_relu, x, logits, shortcut),
        values_and_gradients(lambda x, z, s: F.relu(F.sigmoid(z) * x + s), x, logits, shortcut),
    )
    assert_same(
        values_and_gradients(onednn.add_relu, x, shortcut),
        values_and_gradients(lambda x, s: F.relu(x + s), x, shortcut),
    )


@needs_it
def test_several_threads_at_once():
    cases = [(tensor(4, 9, 9, 8 + i), tensor(8, 8 + i, 3, 3)) for i in range(4)] * 4

    for case in cases:
        for t in case:
            t.stop_gradient = True
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda c: onednn.conv2d(*c).numpy(), cases))
    for result, case in zip(results, cases):
        np.testing.assert_allclose(result, onednn.conv2d(*case).numpy(), rtol=1e-5, atol=1e-5)


@needs_it
@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_a_forked_process_computes_the_same():
    code = """
import os
import nam_edu; nam_edu.setup()
import paddle
from nam_edu.machinery import onednn
x, w = paddle.ones([4, 9, 9, 8]), paddle.ones([8, 8, 3, 3])
expected = onednn.conv2d(x, w).numpy()
child = os.fork()
same = bool((onednn.conv2d(x, w).numpy() == expected).all())
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.parametrize("value", ["paddle", "products"])
def test_it_is_switched_off(value, monkeypatch):
    monkeypatch.setenv("NAM_EDU_CONVOLUTION", value)
    assert not onednn.available() and value in onednn.why_not()


@needs_it
def test_what_it_refuses_paddle_computes(monkeypatch):
    x, weight = tensor(4, 9, 9, 8), tensor(8, 8, 3, 3)
    expected = values_and_gradients(lambda x, w: convolution.conv2d(x, w), x, weight)

    def refuse(*arguments):
        raise onednn.Refused("as an older library would")

    monkeypatch.setattr(onednn, "_convolve", refuse)
    assert_same(values_and_gradients(lambda x, w: convolution.conv2d(x, w), x, weight), expected)
