"""Paddle's own oneDNN, called directly, against Paddle itself; skipped where there is none."""

import concurrent.futures
import contextlib
import os
import subprocess
import sys

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nam_edu.machinery import convolution, dnnl, onednn

needs_it = pytest.mark.skipif(not onednn.available(), reason=f"no oneDNN: {onednn.why_not()}")

PLAIN = (1, 1), (0, 0, 0, 0)  # stride and padding


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
@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_convolutions_of_random_shapes(data):
    def number(low, high):
        return data.draw(st.integers(low, high))

    n, h, w, groups = number(1, 5), number(1, 13), number(1, 13), data.draw(st.sampled_from([1, 2]))
    c, c_out = groups * number(1, 33), groups * number(1, 33)
    kh, kw = data.draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 2), (5, 5)]))
    stride = number(1, 3), number(1, 3)
    dilation = data.draw(st.sampled_from([(1, 1), (1, 1), (2, 1)]))
    padding = number(0, kh // 2), number(0, kw // 2)
    if h + 2 * padding[0] < dilation[0] * (kh - 1) + 1 or w + 2 * padding[1] < kw:
        return
    tensors = tensor(n, h, w, c), tensor(c_out, c // groups, kh, kw), tensor(c_out)
    for t in tensors[: number(0, 2)]:
        t.stop_gradient = True
    ends = padding[0], padding[0], padding[1], padding[1]

    def theirs(x, weight, bias):
        maps = x.transpose([0, 3, 1, 2])
        y = F.conv2d(maps, weight, bias, stride, padding, dilation, groups)
        return y.transpose([0, 2, 3, 1])

    def ours(x, weight, bias):
        return onednn.conv2d(x, weight, bias, stride, ends, dilation, groups)

    expected = values_and_gradients(theirs, *tensors)
    with contextlib.suppress(onednn.Refused):
        assert_same(values_and_gradients(ours, *tensors), expected)
        inference = onednn.Inference(
            tuple(tensors[0].shape), tuple(tensors[1].shape), stride, ends, dilation, groups, True
        )
        with paddle.no_grad():
            y = inference(tensors[0], inference.packed(tensors[1]), tensors[2])
        assert_same([y.numpy()], [np.maximum(expected[0], 0)])


def with_layer(shape):
    """(batch norm layer with statistics of its own, tensor of the shape, scale, shift)"""
    bn = paddle.nn.BatchNorm2D(shape[3])
    bn._mean.set_value(tensor(shape[3], seed=3).detach())
    bn._variance.set_value(tensor(shape[3], seed=4).detach() ** 2 + 0.5)
    return bn, tensor(*shape), tensor(shape[3], seed=1), tensor(shape[3], seed=2)


def statistics(bn):
    return bn._mean.numpy(), bn._variance.numpy()


def normalised(bn, x, scale, shift):
    momentum, epsilon = bn._momentum, bn._epsilon
    kept = bn._mean, bn._variance
    return F.batch_norm(x, *kept, scale, shift, bn.training, momentum, epsilon, "NHWC")


SHAPES = [
    (6, 1, 1, 16),
    (3, 5, 4, 16),
    (8, 7, 7, 64),
    (4, 3, 3, 12),
    (5, 8, 8, 12),
    (16, 4, 4, 24),
    (3, 5, 7, 6),
    (128, 8, 8, 40),
]


@needs_it
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm(shape, relu):
    (ours, *tensors), (theirs, *_) = with_layer(shape), with_layer(shape)
    found = values_and_gradients(lambda *t: onednn.batch_norm(ours, *t, relu)[0], *tensors)
    expected = values_and_gradients(
        lambda *t: F.relu(normalised(theirs, *t)) if relu else normalised(theirs, *t), *tensors
    )
    assert_same(found, expected)
    assert_same(statistics(ours), statistics(theirs))


@needs_it
@pytest.mark.parametrize("shape", SHAPES)
def test_moments_that_follow_from_scale_and_shift(shape):
    bn, *tensors = with_layer(shape)
    y, (mean, variance) = onednn.batch_norm(bn, *tensors)
    flat = y.numpy().reshape(-1, shape[3]).astype("float64")
    np.testing.assert_allclose(mean, flat.mean(0), atol=1e-4)
    np.testing.assert_allclose(variance, flat.var(0), rtol=1e-3, atol=1e-4)


@needs_it
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 1, 1), (3, 5, 4, 10)])
def test_the_gate_and_what_follows_it(shape, training):
    if training and np.prod(shape[:3]) == 1:
        return
    (ours, *tensors), (theirs, *_) = with_layer(shape), with_layer(shape)
    shortcut = tensor(*shape, seed=7)
    ours.training = theirs.training = training

    def theirs_gate(x, scale, shift, shortcut):
        return F.relu(F.sigmoid(normalised(theirs, x, scale, shift)) * x + shortcut)

    def ours_gate(*tensors):
        return onednn.gate(ours, *tensors)

    if training:
        found, expected = (
            values_and_gradients(f, *tensors, shortcut) for f in (ours_gate, theirs_gate)
        )
    else:
        with paddle.no_grad():
            found, expected = ([f(*tensors, shortcut).numpy()] for f in (ours_gate, theirs_gate))
    assert_same(found, expected)
    assert_same(statistics(ours), statistics(theirs))


@needs_it
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 4, 12), (2, 8, 8, 16)])
def test_the_sum_behind_relu(shape):
    x, shortcut = (tensor(*shape, seed=s) for s in range(2))
    assert_same(
        values_and_gradients(onednn.add_relu, x, shortcut),
        values_and_gradients(lambda x, s: F.relu(x + s), x, shortcut),
    )


@needs_it
@pytest.mark.parametrize("kernel, stride, padding", [(3, 2, 1), (2, 2, 0), (3, 1, 1), (3, 2, 0)])
@pytest.mark.parametrize("shape", [(2, 16, 16, 16), (3, 7, 5, 3), (1, 4, 4, 20)])
def test_max_pooling(shape, kernel, stride, padding):
    x = tensor(*shape)

    def theirs(x):
        y = F.max_pool2d(x.transpose([0, 3, 1, 2]), kernel, stride, padding)
        return y.transpose([0, 2, 3, 1])

    pairs = [(v, v) for v in (kernel, stride, padding)]
    assert_same(
        values_and_gradients(lambda x: onednn.max_pool(x, *pairs), x),
        values_and_gradients(theirs, x),
    )


@needs_it
def test_primitives_work_in_a_scratchpad_of_the_thread():
    """In oneDNN's own, see below, errors come to light late and elsewhere."""
    dnnl.thread().buffers.clear()
    values_and_gradients(
        lambda *t: onednn.conv2d(*t, (2, 2), (0, 0, 0, 0)),
        *(tensor(3, 9, 6, 9), tensor(17, 9, 1, 1), tensor(17)),
    )
    assert "scratchpad" in dnnl.thread().buffers


@needs_it
def test_threads_that_end_leave_the_others_intact():
    """oneDNN's own scratchpad belongs to a thread, and who counts its users is the thread that
    destroys a primitive: with it this test ended the process, or gave wrong gradients."""
    code = """
import gc, threading
import numpy as np
import nam_edu; nam_edu.setup()
import paddle
import paddle.nn.functional as F
from nam_edu.machinery import onednn
random = np.random.RandomState(0)

def case():
    kernel = int(random.choice([1, 3]))
    numbers = [int(random.randint(a, b)) for a, b in [(1, 9), (8, 80), (1, 80), (3, 17), (3, 17)]]
    return *numbers, kernel, (int(random.randint(1, 3)), int(random.randint(1, 3))), kernel // 2

def theirs(x, w, b, stride, p):
    return F.conv2d(x.transpose([0, 3, 1, 2]), w, b, stride, p).transpose([0, 2, 3, 1])

def check(n, c, c_out, h, w, k, stride, p):
    given = [paddle.randn(shape) for shape in ([n, h, w, c], [c_out, c, k, k], [c_out])]
    results = []
    for function in (lambda *t: onednn.conv2d(*t, stride, (p, p, p, p)),
                     lambda *t: theirs(*t, stride, p)):
        tensors = [t.detach() for t in given]
        for t in tensors:
            t.stop_gradient = False
        y = function(*tensors)
        (y * y).sum().backward()
        results.append([y, *(t.grad for t in tensors)])
    for ours, expected in zip(*results):
        assert float((ours - expected).abs().max()) <= 1e-3 * float(expected.abs().max())

def work():
    for _ in range(12):
        check(*case())

cases = [(3, 9, 16, 9, 6, 1, (1, 2), 0)] + [case() for _ in range(10)]
for turn in range(40):
    for c in cases:
        check(*c)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    gc.collect()
    for c in cases:
        check(*c)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-1000:]


@needs_it
def test_several_threads_at_once():
    cases = [(tensor(4, 9, 9, 8 + i), tensor(8, 8 + i, 3, 3)) for i in range(4)] * 4

    for case in cases:
        for t in case:
            t.stop_gradient = True
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda c: onednn.conv2d(*c, None, *PLAIN).numpy(), cases))
    for result, case in zip(results, cases):
        np.testing.assert_allclose(
            result, onednn.conv2d(*case, None, *PLAIN).numpy(), rtol=1e-5, atol=1e-5
        )


@needs_it
@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_a_forked_process_computes_the_same():
    code = """
import os
import nam_edu; nam_edu.setup()
import paddle
from nam_edu.machinery import onednn
x, w = paddle.ones([4, 9, 9, 8]), paddle.ones([8, 8, 3, 3])
expected = onednn.conv2d(x, w, None, (1, 1), (0,) * 4).numpy()
child = os.fork()
same = bool((onednn.conv2d(x, w, None, (1, 1), (0,) * 4).numpy() == expected).all())
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-1000:]


@needs_it
@pytest.mark.parametrize("largest", ["SSE41", "AVX2"])
def test_older_instruction_sets(largest):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        [*command, "-k", "convolutions or norm or gate or sum or pooling"],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": largest},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:]


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

    monkeypatch.setattr(onednn, "_Convolution", refuse)
    assert_same(values_and_gradients(lambda x, w: convolution.conv2d(x, w), x, weight), expected)
