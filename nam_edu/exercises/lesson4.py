"""Lesson 4: the checkers of its exercises."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from ..attention import nam_layers
from ..resnet import resnet18
from .checking import Wrong, call, checker, finite, number, numbers, parts, refuse, right, same


@checker("4.1")
def exercise_4_1(answer):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(9, 3, 8, 8)) * 20 + rng.integers(60, 190, (9, 3, 1, 1))
    images = images.clip(0, 255).astype(np.uint8)
    batches = [images[:1], images[1:3], images[3:]]
    values, pieces = images / 255, [batch / 255 for batch in batches]
    want = np.stack([values.mean((0, 2, 3)), values.std((0, 2, 3))])
    got = parts(call(answer, batches), 2, (3,))
    if same(got, want):
        return right("each pixel counts once, whatever its batch.")
    of_each = np.stack([[p.mean((0, 2, 3)), p.std((0, 2, 3))] for p in pieces]).mean(0)
    refuse(
        got,
        [
            (want[::-1], Wrong("the two are swapped: the mean comes first")),
            (255 * want, Wrong("scale the pixels to 0-1 first: divide by 255")),
            (of_each, Wrong("you average over the batches, but they are not of one size")),
            (
                [want[0], of_each[1]],
                Wrong("the mean is right; the standard deviations of batches cannot be averaged"),
            ),
            (
                [want[0], values.std((2, 3)).mean(0)],
                Wrong("that is the standard deviation within each image, averaged (section 4.1)"),
            ),
            (
                [want[0], want[1] ** 2],
                Wrong("the second is the variance; the standard deviation is its root"),
            ),
            (
                [want[0], np.sqrt(want[1] ** 2 + want[0] ** 2)],
                Wrong(
                    "the mean is right; the second is the root of the mean square, without the mean"
                ),
            ),
            (
                [pieces[-1].mean((0, 2, 3)), pieces[-1].std((0, 2, 3))],
                Wrong("that is the last batch alone"),
            ),
        ],
    )
    if same(got[0], want[0]):
        raise Wrong(
            "the mean is right, the standard deviation is not (is uint8 too small for a sum?)"
        )
    raise Wrong(
        "the numbers differ from mean and standard deviation over all pixels of all batches"
    )


@checker("4.2")
def exercise_4_2(answer):
    def rate(step, highest, warmup, total):
        if step < warmup:
            return highest * step / warmup
        return highest * (1 + np.cos(np.pi * (step - warmup) / (total - warmup))) / 2

    highest, warmup, total = 0.2, 10, 110
    steps = np.arange(0, 111, 5)

    def curve(rate):
        return np.array([rate(int(step)) for step in steps])

    def warm(after):
        return curve(lambda s: highest * s / warmup if s < warmup else after(s))

    want = curve(lambda s: rate(s, highest, warmup, total))
    got = curve(lambda s: number(call(answer, s, highest, warmup, total)))
    if not same(got, want):
        if np.isclose(got[0], highest, rtol=0.05):
            raise Wrong("at step 0 the rate should be 0: the warm-up is missing")
        refuse(
            got,
            [
                (
                    warm(lambda s: highest * (1 + np.cos(np.pi * s / total)) / 2),
                    Wrong(
                        "at the end of the warm-up the rate jumps below the highest: from which "
                        "step does the cosine count?"
                    ),
                ),
                (
                    warm(lambda s: highest * (1 + np.cos(np.pi * (s - warmup) / total)) / 2),
                    Wrong("the cosine does not reach 0 at the last step: how many steps has it?"),
                ),
                (
                    warm(lambda s: highest * (1 + np.cos(2 * np.pi * (s - 10) / 100)) / 2),
                    Wrong(
                        "that is a whole cosine, which rises again: half of one goes from 1 to -1"
                    ),
                ),
                (
                    warm(lambda s: highest * np.cos(np.pi / 2 * (s - warmup) / (total - warmup))),
                    Wrong("that is a quarter of a cosine, from 1 to 0: half of one goes on to -1"),
                ),
                (
                    warm(lambda s: highest * (1 - (s - warmup) / (total - warmup))),
                    Wrong("after the warm-up you go down in a straight line, not along a cosine"),
                ),
            ],
        )
        if np.any(got < -1e-9):
            raise Wrong("the rate becomes negative; it should end at 0 and not go below")
        first = int(np.flatnonzero(~np.isclose(got, want, atol=1e-6))[0])
        raise Wrong(
            "step {step} of 110 (warm-up 10, highest 0.2) should not give {got:.4f}",
            step=int(steps[first]),
            got=got[first],
        )
    try:
        without = number(call(answer, 0, 0.1, 0, 50)), number(call(answer, 25, 0.1, 0, 50))
    except ZeroDivisionError:
        raise Wrong("right with a warm-up; with a warm-up of 0 steps you divide by zero") from None
    if not np.allclose(without, (0.1, 0.05)):
        raise Wrong(
            "right with a warm-up; with a warm-up of 0 steps the rate starts at the highest"
        )
    return right("up in a straight line, down along a cosine.")


@checker("4.3")
def exercise_4_3(answer):
    for momentum in (0.5, 0.9, 0.99):
        got, want = number(call(answer, momentum)), 1 / (1 - momentum)
        if abs(got - want) < 0.01 * want:
            continue
        values = {"got": got, "momentum": momentum}
        if abs(got + want) < 0.01 * want:
            raise Wrong("how far is wanted, without the sign")
        if got < 0:
            raise Wrong("that is not the length of one step: it is negative, {got:.4g}", **values)
        if abs(got - 1) < 0.01:
            raise Wrong("that is the first step; how far does a step go after many of them?")
        if momentum != 0.9 and abs(got - 10) < 0.1:
            raise Wrong("right for a momentum of 0.9; this one was {momentum}", **values)
        if any(abs(got - rate * want) < 0.01 * rate * want for rate in (0.1, 0.01, 0.001)):
            raise Wrong("that is how far the step goes; divide it by the rate")
        if abs(got - 1 / momentum) < 0.01 or abs(got - (1 + momentum)) < 0.01:
            raise Wrong("not yet: that is the second step at the most; let it go on", **values)
        if got > want:
            raise Wrong(
                "momentum {momentum}: {got:.4g} times the rate is too far: is it the length of one "
                "step, divided by the rate, with a gradient of 1?",
                **values,
            )
        raise Wrong(
            "momentum {momentum}: {got:.4g} times the rate is too little: take one step, not a "
            "mean over all, and more of them, until its length no longer grows",
            **values,
        )
    return right("each push goes on acting: 10 times itself with 0.9, 100 times with 0.99.")


@checker("4.4")
def exercise_4_4(answer):
    state = paddle.get_rng_state()
    paddle.seed(0)
    network = resnet18(width=4, attention="nam-spatial", image_size=32)
    layers = [(name, layer.bn) for name, layer in nam_layers(network)]
    for layer in network.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer.weight.set_value(paddle.randn(layer.weight.shape))
    paddle.set_rng_state(state)
    total = call(answer, network)
    got = numbers(total)
    if got.size != 1:
        raise Wrong("one number is wanted, not an array of shape {got}: add up", got=got.shape)
    got = number(total)

    def near(values):
        value = float(sum(values))
        return abs(got - value) < 1e-3 * abs(value)

    weights = [bn.weight for _, bn in layers]
    if not near(w.abs().sum() for w in weights):
        every = [m.weight for m in network.sublayers() if isinstance(m, nn.BatchNorm2D)]
        if near(w.abs().sum() for w in every):
            raise Wrong("you count the backbone's batch norms too: only NAM's belong there")
        if near(w.abs().sum() for w, (name, _) in zip(weights, layers) if "channel" in name):
            raise Wrong(
                "the lambdas of the pixel attention are missing: equation (4) has both sums"
            )
        if near(w.sum() for w in weights):
            raise Wrong(
                "the magnitudes are missing: scale factors of both signs cancel in your sum"
            )
        if near((w**2).sum() for w in weights):
            raise Wrong("that is the sum of squares; equation (4) has magnitudes")
        if near(w.abs().mean() for w in weights):
            raise Wrong("that adds up the means of the layers; equation (4) has sums")
        if near([weights[-1].abs().sum()]) or near([weights[0].abs().sum()]):
            raise Wrong("that is one layer alone: add up over all of them")
        if near(bn.bias.abs().sum() + bn.weight.abs().sum() for _, bn in layers):
            raise Wrong("the shifts beta do not belong into the penalty")
        raise Wrong("the sum should not be {got:.4f}", got=got)
    if not isinstance(total, paddle.Tensor) or total.stop_gradient:
        raise Wrong(
            "the value is right, but no gradient flows: stay with Paddle's tensors all the way"
        )
    grads = paddle.grad([total], weights, allow_unused=True)
    if any(
        g is None or not np.allclose(g.numpy(), np.sign(w.numpy())) for g, w in zip(grads, weights)
    ):
        raise Wrong("the value is right, but its gradient is not the sign of each scale factor")
    return right("and its gradient is the sign of each scale factor.")


@checker("4.5")
def exercise_4_5(answer):
    rng = np.random.default_rng(0)
    batches = [
        (
            paddle.to_tensor(rng.normal(size=(16, 6)).astype("float32")),
            paddle.to_tensor(rng.integers(0, 3, 16)),
        )
        for _ in range(6)
    ]
    start = rng.normal(size=(6, 3)).astype("float32")

    def network():
        layer = nn.Linear(6, 3)
        layer.weight.set_value(start)
        layer.bias.set_value(np.zeros(3, "float32"))
        return layer

    def train(soft=False, clear=True, rate=0.5, learn=True, after=False):
        net, losses = network(), []
        optimizer = paddle.optimizer.Momentum(rate, 0.9, parameters=net.parameters())
        for images, labels in batches:
            logits = net(images)
            loss = F.cross_entropy(F.softmax(logits) if soft else logits, labels)
            if learn:
                loss.backward()
                optimizer.step()
            if clear:
                optimizer.clear_grad()
            losses.append(float(F.cross_entropy(net(images), labels) if after else loss))
        return losses

    net = network()
    got = finite(numbers(call(answer, net, list(batches), 0.5), (6,)))
    if same(got, np.array(train()), 1e-4):
        if np.array_equal(net.weight.numpy(), start):
            raise Wrong("the losses are right, but the network that was given did not change")
        return right("now every step follows the gradient of its own batch.")
    twice = Wrong(
        "even the first loss, before any step, is not the cross-entropy of the network's answer: "
        "what does F.cross_entropy expect?"
    )
    added = Wrong(
        "the first two losses are right, the later ones are not: what is left over from the "
        "batches before, when the next gradient is computed?"
    )
    never = Wrong("the losses are those of a network that never learns")
    refuse(
        got,
        [
            (train(soft=True, clear=False), twice),
            (train(soft=True), twice),
            (train(clear=False), added),
            (train(learn=False), never),
            (train(after=True), Wrong("those are the losses after each step; before it is wanted")),
        ],
        1e-4,
    )
    if abs(got[0] - train()[0]) > 1e-4:
        raise Wrong(
            "the first loss, before any step, should be {want:.4f}, not {got:.4f}",
            want=train()[0],
            got=got[0],
        )
    raise Wrong("the first loss is right, the later ones differ: rate 0.5 as given, momentum 0.9?")
