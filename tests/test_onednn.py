"""Convolutions, batch norms and gates by oneDNN: values and gradients are Paddle's in float64."""
import os
import subprocess
import sys
import threading

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nam_edu.machinery import onednn

pytestmark = pytest.mark.skipif(not onednn.available(), reason=str(onednn.why_not()))
QUICK = settings(max_examples=25, deadline=None, derandomize=True)
CHANNELS = st.sampled_from([1, 3, 8, 12, 16, 24, 48, 64])
SIZES = st.integers(1, 9)


def numbers(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape)


def both(ours, theirs, arrays, wanted=None, seed=0):
    """Compares results and gradients of two functions of the same arrays; gradients that are not
    wanted must be missing."""
    found = []
    for function, dtype in (ours, "float32"), (theirs, "float64"):
        tensors = [paddle.to_tensor(a.astype(dtype)) for a in arrays]
        for i, tensor in enumerate(tensors):
            tensor.stop_gradient = not (wanted is None or wanted[i])
        y = function(*tensors)
        if not y.stop_gradient:
            y.backward(paddle.to_tensor(numbers(seed, *y.shape).astype(dtype)))
        found.append([y, *(tensor.grad for tensor in tensors)])
    for mine, right in zip(*found):
        assert (mine is None) == (right is None)
        if mine is not None:
            near(mine, right)


def near(mine, right, tolerance=3e-5):
    mine, right = mine.numpy(), right.numpy()
    assert mine.shape == right.shape
    assert np.abs(mine - right).max() <= tolerance * max(1, np.abs(right).max())


def plain_conv2d(x, weight, bias, stride, padding, dilation=(1, 1), groups=1):
    top, bottom, left, right = padding
    y = F.conv2d(F.pad(x.transpose([0, 3, 1, 2]), [left, right, top, bottom]), weight, bias, stride,
                 0, dilation, groups)
    return y.transpose([0, 2, 3, 1])


@QUICK
@given(n=st.integers(1, 5), h=SIZES, w=SIZES, c=CHANNELS, c_out=CHANNELS,
       kernel=st.sampled_from([(1, 1), (3, 3), (7, 7), (1, 3)]), stride=st.sampled_from([1, 2]),
       biased=st.booleans(), more=st.sampled_from([0, 1]))
def test_convolution(n, h, w, c, c_out, kernel, stride, biased, more):
    padding = kernel[0] // 2 + more, kernel[0] // 2, kernel[1] // 2, kernel[1] // 2
    how = (stride, stride), padding
    arrays = [numbers(0, n, h, w, c), numbers(1, c_out, c, *kernel) / c]
    if biased:
        arrays.append(numbers(2, c_out))
    both(lambda x, weight, bias=None: onednn.conv2d(x, weight, bias, *how),
         lambda x, weight, bias=None: plain_conv2d(x, weight, bias, *how), arrays)


@pytest.mark.parametrize("dilation, groups", [((2, 2), 1), ((1, 1), 4), ((2, 1), 2), ((1, 1), 12)])
def test_dilation_and_groups(dilation, groups):
    how = (1, 1), (2, 2, 2, 2), dilation, groups
    both(lambda x, w: onednn.conv2d(x, w, None, *how), lambda x, w: plain_conv2d(x, w, None, *how),
         [numbers(0, 2, 7, 6, 12), numbers(1, 24, 12 // groups, 3, 3)])


@QUICK
@given(n=st.integers(1, 4), h=SIZES, w=SIZES, c=CHANNELS, relu=st.booleans(),
       training=st.booleans())
def test_batch_norm(n, h, w, c, relu, training):
    if n * h * w < 8:
        n = 8  # of fewer numbers the gradient is badly conditioned
    running = []

    def norm(x, scale, shift, ours):
        mean, variance = (paddle.to_tensor(a.astype(x.numpy().dtype))
                          for a in (numbers(3, c), numbers(4, c)**2 + 0.5))
        running.extend([mean, variance])
        if ours:
            return onednn.batch_norm(x, mean, variance, scale, shift, training, 0.9, 1e-5, relu)
        y = F.batch_norm(x, mean, variance, scale, shift, training, 0.9, 1e-5, "NHWC")
        return F.relu(y) if relu else y

    both(lambda *a: norm(*a, True), lambda *a: norm(*a, False),
         [2 * numbers(0, n, h, w, c) + 1, numbers(1, c), numbers(2, c)])
    near(running[0], running[2])
    near(running[1], running[3])


@QUICK
@given(n=st.integers(1, 4), h=SIZES, w=SIZES, c=CHANNELS, relu=st.booleans(),
       training=st.booleans(), shortcut=st.booleans(), known=st.booleans())
def test_gate(n, h, w, c, relu, training, shortcut, known):
    """On the result of a batch norm, whose moments may be handed on."""
    if n * h * w < 8:
        n = 8
    running = []

    def gate(x, scale, shift, other=None, ours=False):
        mean, variance = (paddle.to_tensor(a.astype(x.numpy().dtype))
                          for a in (numbers(3, c), numbers(4, c)**2 + 0.5))
        how = training, 0.9, 1e-5
        running.extend([mean, variance])
        if ours:
            y, moments = onednn.batch_norm(x, mean, variance, scale, shift, *how, moments=True)
            return onednn.nam_gate(y, mean, variance, shift, scale, *how, other, relu,
                                   moments if known else None)
        y = F.batch_norm(x, mean, variance, scale, shift, *how, "NHWC")
        y = F.sigmoid(F.batch_norm(y, mean, variance, shift, scale, *how, "NHWC")) * y
        y = y if other is None else y + other
        return F.relu(y) if relu else y

    arrays = [2 * numbers(0, n, h, w, c) + 1, 0.5 + numbers(1, c)**2, numbers(2, c)]
    if shortcut:
        arrays.append(numbers(5, n, h, w, c))
    both(lambda *a: gate(*a, ours=True), lambda *a: gate(*a), arrays)
    near(running[0], running[2])
    near(running[1], running[3])


def test_a_gate_of_many_chunks():
    """Larger than what is worked on at a time, and not a multiple of it."""
    shape = 7, 33, 31, 24
    mean, variance = paddle.zeros([24]), paddle.ones([24])

    def plain(y, scale, shift, other):
        logits = F.batch_norm(y, mean.astype("float64"), variance.astype("float64"), scale, shift,
                              True, 0.9, 1e-5, "NHWC")
        return F.relu(F.sigmoid(logits) * y + other)

    both(lambda y, scale, shift, other: onednn.nam_gate(
        y, mean, variance, scale, shift, True, 0.9, 1e-5, other, True), plain,
        [numbers(0, *shape), numbers(1, 24), numbers(2, 24), numbers(3, *shape)])


@QUICK
@given(n=st.integers(1, 3), h=st.integers(2, 9), w=st.integers(2, 9), c=CHANNELS)
def test_pooling_and_addition(n, h, w, c):
    x, other = numbers(0, n, h, w, c), numbers(1, n, h, w, c)
    both(lambda x: onednn.max_pool(x, (3, 3), (2, 2), (1, 1)),
         lambda x: F.max_pool2d(x.transpose([0, 3, 1, 2]), 3, 2, 1).transpose([0, 2, 3, 1]), [x])
    both(onednn.global_average, lambda x: x.mean([1, 2], keepdim=True), [x])
    both(onednn.add_relu, lambda x, other: F.relu(x + other), [x, other])


@pytest.mark.parametrize("wanted", [(0, 1, 1), (1, 0, 0), (0, 0, 1), (0, 0, 0), (1, 0, 1)])
def test_gradients_that_nobody_wants(wanted):
    how = (1, 1), (1, 1, 1, 1)
    both(lambda *a: onednn.conv2d(*a, *how), lambda *a: plain_conv2d(*a, *how),
         [numbers(0, 2, 5, 5, 12), numbers(1, 16, 12, 3, 3), numbers(2, 16)], wanted)
    mean, variance = paddle.zeros([12]), paddle.ones([12])

    def gate(y, scale, shift):
        if y.dtype == paddle.float32:
            return onednn.nam_gate(y, mean, variance, scale, shift, True, 1.0, 1e-5)
        centred = y - y.mean([0, 1, 2])  # F.batch_norm forgets shift where scale wants no gradient
        normalised = centred / (centred.square().mean([0, 1, 2]) + 1e-5).sqrt()
        return y * F.sigmoid(normalised * scale + shift)

    both(gate, gate, [numbers(0, 4, 5, 5, 12), numbers(1, 12), numbers(2, 12)], wanted)


def folded(kept=None):
    how = (1, 1), (1, 1, 1, 1)
    x, weight, bias, *norm = (paddle.to_tensor(a.astype("float32")) for a in (
        numbers(0, 3, 6, 5, 12), numbers(1, 24, 12, 3, 3), numbers(2, 24), numbers(3, 24),
        numbers(4, 24)**2 + 1, numbers(5, 24), numbers(6, 24)))
    y = onednn.conv2d_folded(x, weight, bias, (*norm, 1e-5), *how, relu=True, kept=kept)
    right = F.relu(F.batch_norm(onednn.conv2d(x, weight, bias, *how), *norm, epsilon=1e-5,
                                data_format="NHWC"))
    return y, right


def test_a_folded_batch_norm():
    kept = {}
    with paddle.no_grad():
        for _ in range(2):
            near(*folded(kept))
        near(*folded())
    assert len(kept) == 1


def test_maps_that_are_views():
    """transpose returns a view that is not contiguous."""
    x, weight = paddle.randn([2, 12, 6, 5]), paddle.randn([8, 12, 3, 3])
    how = (1, 1), (1, 1, 1, 1)
    near(onednn.conv2d(x.transpose([0, 2, 3, 1]), weight, None, *how),
         plain_conv2d(x.transpose([0, 2, 3, 1]), weight, None, *how))


def step(seed=0):
    x = paddle.to_tensor(numbers(seed, 4, 8, 8, 12).astype("float32"), stop_gradient=False)
    weight = paddle.to_tensor(numbers(1, 16, 12, 3, 3).astype("float32"), stop_gradient=False)
    scale, shift, mean, variance = (paddle.full([16], v) for v in (0.5, 0.1, 0.0, 1.0))
    y = onednn.conv2d(x, weight, None, (1, 1), (1, 1, 1, 1))
    y = onednn.batch_norm(y, mean, variance, scale, shift, True, 0.9, 1e-5, True)
    y = onednn.nam_gate(y, mean, variance, scale, shift, True, 0.9, 1e-5)
    y.sum().backward()
    return y.numpy(), x.grad.numpy(), weight.grad.numpy()


def test_several_threads_at_once():
    right = [step(seed) for seed in range(4)]
    wrong = []

    def work(seed):
        for _ in range(5):
            if not all(np.allclose(a, b, atol=1e-3, rtol=1e-4)
                       for a, b in zip(step(seed), right[seed])):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_backward_in_another_thread_than_forward():
    x = paddle.randn([2, 6, 6, 8])
    x.stop_gradient = False
    y = onednn.max_pool(onednn.conv2d(x, paddle.randn([8, 8, 3, 3]), None, (1, 1), (1, 1, 1, 1)),
                        (3, 3), (2, 2), (1, 1))
    thread = threading.Thread(target=y.sum().backward)
    thread.start()
    thread.join()
    assert x.grad is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore")
def test_a_forked_process():
    right = step()
    child = os.fork()
    if child == 0:
        try:
            good = all(np.allclose(a, b, atol=1e-3, rtol=1e-4) for a, b in zip(step(), right))
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    step()


def test_more_than_the_first_gradient_is_refused():
    x, weight = paddle.randn([2, 6, 6, 8]), paddle.randn([8, 8, 3, 3])
    x.stop_gradient = False

    def loss():
        return (onednn.conv2d(x, weight, None, (1, 1), (1, 1, 1, 1))**2).sum()

    with pytest.raises((RuntimeError, OSError), match="create_graph"):
        paddle.grad(loss(), x, create_graph=True)
    with pytest.raises((RuntimeError, OSError), match="retain_graph"):
        loss().backward(retain_graph=True)
    assert x.grad is None
    total = loss()
    first, = paddle.grad(total, x, retain_graph=True)
    total.backward()
    assert bool((first == x.grad).all())


def test_after_a_refusal_everything_works():
    with pytest.raises(RuntimeError, match="oneDNN refuses"):
        onednn.conv2d(paddle.randn([2, 5, 5, 8]), paddle.randn([8, 4, 3, 3]), None, (1, 1),
                      (1, 1, 1, 1))
    step()


def test_few_primitives_are_kept(monkeypatch):
    monkeypatch.setattr(onednn, "MOST_KEPT", 3)
    right = step()
    for n in range(1, 6):
        onednn.add_relu(paddle.randn([n, 4, 4, 8]), paddle.randn([n, 4, 4, 8]))
    assert all(np.allclose(a, b, atol=1e-3) for a, b in zip(step(), right))


def test_switched_off(monkeypatch):
    for choice in "paddle", "products":
        monkeypatch.setenv("NAM_EDU_CONVOLUTION", choice)
        assert not onednn.available()
        assert choice in onednn.why_not()


@pytest.mark.parametrize("instructions", ["AVX2", "SSE41"])
def test_older_processors(instructions):
    code = ("import test_onednn as t; t.test_several_threads_at_once(); "
            "t.test_a_folded_batch_norm(); t.test_gradients_that_nobody_wants((1, 1, 1)); "
            "t.test_a_gate_of_many_chunks()")
    run = subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(__file__), text=True,
                         env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions,
                              "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                         capture_output=True)
    assert run.returncode == 0, run.stderr
