"""Lesson 2: the checkers of its exercises."""

from __future__ import annotations

import numpy as np
import paddle

from ..attention import ChannelNAM
from .checking import Wrong, call, checker, finite, numbers, parts, refuse, right, same, whole


@checker("2.1")
def exercise_2_1(answer):
    gamma, beta = np.array([2.0, -1.0, 1.0]), np.array([0.5, 1.0, -1.0])
    mean, var = np.array([1.0, -2.0, 0.5]), np.array([4.0, 0.25, 1e-5])
    w, root = np.abs(gamma) / np.abs(gamma).sum(), np.sqrt(var + 1e-5)

    def line(scale, shift=w * beta):
        return np.stack([scale, shift - scale * mean])

    want = line(w * gamma / root)
    got = parts(call(answer, gamma, beta, mean, var), 2, (3,))
    if same(got, want):
        return right("in inference the whole logit is one straight line for each channel.")
    refuse(
        got,
        [
            (want[::-1], Wrong("the two are swapped: the scale comes first, then the shift")),
            (
                line(gamma / gamma.sum() * gamma / root, gamma / gamma.sum() * beta),
                Wrong("W has magnitudes, above and below"),
            ),
            (line(gamma / root, beta), Wrong("that is the batch norm alone: W is missing")),
            (
                line(w * gamma / root, beta),
                Wrong("the shift beta has to be multiplied by W too: W (gamma x_hat + beta)"),
            ),
            (line(w / root), Wrong("gamma itself is missing in the scale: it is W times gamma")),
            (
                line(w * gamma / np.sqrt(var)),
                Wrong("eps (0.00001) is missing under the root: a quiet channel shows it"),
            ),
            (
                line(w * gamma / (var + 1e-5)),
                Wrong("you divide by the variance; the standard deviation is its root"),
            ),
            (
                np.stack([w * gamma, w * beta]),
                Wrong("that is for x_hat; x itself still has to be standardised by mean and var"),
            ),
            (
                np.stack([want[0], w * beta]),
                Wrong(
                    "the mean is missing: x - mean stands in x_hat, so the shift has a part of it"
                ),
            ),
            (
                np.stack([want[0], w * beta - mean]),
                Wrong("the mean is multiplied by the scale before it joins the shift"),
            ),
            (
                np.stack([want[0], w * beta + want[0] * mean]),
                Wrong(
                    "the mean is taken off, not added: look at the sign of its part in the shift"
                ),
            ),
        ],
    )
    if same(got[0], want[0]):
        raise Wrong("the scale is right, the shift is not: put x = 0 into W (gamma x_hat + beta)")
    if same(got[1], want[1]):
        raise Wrong("the shift is right, the scale is not: what stands before x?")
    raise Wrong("the line differs from W (gamma x_hat + beta); write x_hat out, then sort by x")


@checker("2.2")
def exercise_2_2(answer):
    x = np.arange(2 * 3 * 4 * 5, dtype=np.float64).reshape(2, 3, 4, 5)
    pixels = x.reshape(2, 3, 20).transpose(0, 2, 1)
    got = numbers(call(answer, pixels, 4, 5), x.shape)
    if same(got, x):
        return right("every gate is back above its pixel.")
    refuse(
        got,
        [
            (
                pixels.reshape(2, 3, 4, 5),
                Wrong(
                    "a reshape alone does not bring the channels to the front: it cuts the same "
                    "numbers into other pieces"
                ),
            ),
            (
                pixels.reshape(2, 5, 4, 3).transpose(0, 3, 2, 1),
                Wrong("height and width are mixed up: in row h * W + w the width runs fastest"),
            ),
            (
                pixels.transpose(0, 2, 1).reshape(2, 3, 5, 4).transpose(0, 1, 3, 2),
                Wrong("height and width are mixed up: in row h * W + w the width runs fastest"),
            ),
        ],
    )
    raise Wrong("[n, c, h, w] should hold row h * W + w, column c, of image n")


@checker("2.3")
def exercise_2_3(answer):
    for momentum, within in ((0.9, 0.3), (0.9, 0.01), (0.5, 0.1), (0.99, 0.2)):
        want = int(np.ceil(np.log(within) / np.log(momentum)))
        got = whole(call(answer, momentum, within))
        if got == want:
            continue
        values = {"momentum": momentum, "within": within, "got": got}
        if momentum == 0.9 and got == np.ceil(np.log(within) / np.log(0.1)):
            raise Wrong("the factors are swapped: Paddle's momentum 0.9 weighs the old value")
        if momentum != 0.9 and got == np.ceil(np.log(within) / np.log(0.9)):
            raise Wrong("right for a momentum of 0.9; this one was {momentum}", **values)
        if got < want:
            away = momentum ** max(got, 0)
            raise Wrong(
                "momentum {momentum}: after {got} passes the running mean is still {away:.4f} of "
                "the batch's mean away, more than {within}",
                away=away,
                **values,
            )
        raise Wrong(
            "momentum {momentum}: {got} passes are more than it takes to come within {within}; "
            "stop as soon as it is reached",
            **values,
        )
    return right("with Paddle's 0.9 that is 44 passes for one per cent.")


def _filled(layer, gamma, beta):
    if not isinstance(getattr(layer, "bn", None), paddle.nn.BatchNorm2D):
        raise Wrong("the layer needs a batch norm under the name .bn, made in __init__")
    if layer.bn.weight.shape[0] != len(gamma):
        raise Wrong("the batch norm needs as many channels as the layer is built for")
    layer.bn.weight.set_value(gamma)
    layer.bn.bias.set_value(beta)
    return layer


def _run(layer, x, coef):
    """Values in training, gradient of gamma, running mean; then the values in inference, before and
    after gamma has changed once more; gradient of the map."""
    layer.train()
    given = paddle.to_tensor(x, stop_gradient=False)
    out = layer(given)
    if out is None:
        raise Wrong("the layer's forward gives back None: is a `return` missing?")
    values = finite(numbers(out, x.shape))
    (out * paddle.to_tensor(coef)).sum().backward()
    grad = layer.bn.weight.grad
    running = layer.bn._mean.numpy().copy()
    layer.eval()
    inference = numbers(layer(paddle.to_tensor(x)))
    layer.bn.weight.set_value(layer.bn.weight.flip(0))
    return (
        values,
        None if grad is None else grad.numpy(),
        running,
        inference,
        numbers(layer(paddle.to_tensor(x))),
        None if given.grad is None else given.grad.numpy(),
    )


def _layers(answer, make_right):
    """What the answer's layer and the right one do with the same values and the same map."""
    rng = np.random.default_rng(0)
    x, coef = rng.normal(1, 2, (2, 4, 3, 5, 6)).astype("float32")
    gamma, beta = np.array([2.0, -1.0, 1.0], "float32"), np.array([0.5, -1.0, 2.0], "float32")
    layer = call(answer, 3)
    if not isinstance(layer, paddle.nn.Layer):
        raise Wrong("give the class of a layer, built with the number of channels")
    return _run(_filled(layer, gamma, beta), x, coef), _run(
        _filled(make_right(3), gamma, beta), x, coef
    )


def _same_in_inference(mine, theirs):
    if mine[5] is None or not same(mine[5], theirs[5], 1e-3):
        raise Wrong(
            "the values are right, but the gradient that goes back to the map is not: x itself "
            "must not be a constant"
        )
    if not same(mine[2], theirs[2], 1e-4):
        raise Wrong(
            "the running mean was not kept as a batch norm keeps it: in training it moves a tenth "
            "of the way to the batch's mean"
        )
    if not same(mine[3], theirs[3], 1e-4):
        raise Wrong(
            "right in training; but in inference, after layer.eval(), the result still depends on "
            "the other images of the batch"
        )
    if not same(mine[4], theirs[4], 1e-4):
        raise Wrong("right the first time; when gamma changes after that, W stays what it was")


@checker("2.4")
def exercise_2_4(answer):
    mine, right_one = _layers(answer, lambda c: ChannelNAM(c, detach_weights=True))
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (2, 4, 3, 5, 6)).astype("float32")[0]
    if same(mine[0] * x, right_one[0], 1e-4):
        raise Wrong("that is the gate: the layer gives back the gate times its input")
    if not same(mine[0], right_one[0], 1e-4):
        raise Wrong("in training the values differ from sigmoid(W * BN(x)) * x")
    if mine[1] is None or not np.any(mine[1]):
        raise Wrong(
            "no gradient reaches gamma at all: only W is to be a constant, not the batch norm"
        )
    flows = _layers(lambda c: ChannelNAM(c), ChannelNAM)[0][1]
    if same(mine[1], flows, 1e-3):
        raise Wrong("the gradient still flows through W")
    if not same(mine[1], right_one[1], 1e-3):
        raise Wrong(
            "the gradient of gamma differs from the authors': W is a constant, the gamma in the "
            "batch norm is not"
        )
    _same_in_inference(mine, right_one)
    return right("the same gate, another gradient.")


@checker("2.5")
def exercise_2_5(answer):
    mine, right_one = _layers(answer, ChannelNAM)
    old_w = (
        np.random.default_rng(0).normal(1, 2, (2, 4, 3, 5, 6)).astype("float32")[0].astype(float)
    )
    gamma, beta = np.array([2.0, -1.0, 1.0]).reshape(1, 3, 1, 1), np.array([0.5, -1.0, 2.0])
    x_hat = (old_w - old_w.mean((0, 2, 3), keepdims=True)) / np.sqrt(
        old_w.var((0, 2, 3), keepdims=True) + 1e-5
    )
    stale = old_w / (1 + np.exp(-(gamma * x_hat + beta.reshape(1, 3, 1, 1)) / 3))
    if same(mine[0], stale, 1e-4):
        raise Wrong(
            "gamma became (2, -1, 1) after the layer was built, but its W is still (1/3, 1/3, 1/3)"
        )
    if not same(mine[0], right_one[0], 1e-4):
        raise Wrong("in training the values differ from sigmoid(W * BN(x)) * x")
    if mine[1] is None or not np.any(mine[1]):
        raise Wrong("no gradient reaches gamma: the layer would never learn it")
    _same_in_inference(mine, right_one)
    return right("W follows gamma, and an image's result no longer depends on its neighbours.")
