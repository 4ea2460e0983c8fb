"""Lesson 3: the checkers of its exercises."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from ..attention import NAM
from ..resnet import BottleneckBlock, resnet18
from .checking import Wrong, call, checker, closed, finite, numbers, refuse, right, same, whole


@checker("3.1")
def exercise_3_1(answer):
    def sides(image, stem, halve=lambda s: (s + 1) // 2, pool=True):
        side = image
        if stem == "imagenet":
            side = halve(halve(side)) if pool else halve(side)
        return [side, halve(side), halve(halve(side)), halve(halve(halve(side)))]

    for image, stem in (
        (32, "cifar"),
        (32, "imagenet"),
        (224, "imagenet"),
        (28, "cifar"),
        (50, "imagenet"),
    ):
        got = finite(numbers(call(answer, image, stem), (4,))).tolist()
        want = sides(image, stem)
        if got == want:
            continue
        if got == sides(image, "cifar" if stem == "imagenet" else "imagenet"):
            raise Wrong("the two stems are swapped, or the stem is not looked at")
        if got == sides(image, stem, pool=False):
            raise Wrong("the 7x7 stem halves twice: the convolution and the max-pool")
        if got == sides(image, stem, halve=lambda s: s // 2):
            raise Wrong(
                "an odd side rounds up: try {image} pixels and stem {stem!r} by hand",
                image=image,
                stem=stem,
            )
        if got == sides(image, stem, halve=lambda s: s / 2):
            raise Wrong("there is no half a pixel: {got}", got=got)
        if got == [(s + 1) // 2 for s in want]:
            raise Wrong("the first stage does not halve the map: the strides are 1, 2, 2, 2")
        if got == want[::-1]:
            raise Wrong("the order is turned round: the first stage comes first")
        raise Wrong(
            "{image} pixels and stem {stem!r} do not give {got}: follow the picture of section 3.3",
            image=image,
            stem=stem,
            got=got,
        )
    return right("that is why a 32x32 image leaves one pixel after the 7x7 stem.")


@checker("3.2")
def exercise_3_2(answer):
    channels = 3 * 256 + 4 * 512 + 23 * 1024 + 3 * 2048
    got = whole(answer)
    if got == 2 * channels:
        return right("beside more than 42 million in the rest of the network.")
    if got == 4 * channels:
        raise Wrong("you count the running statistics too: they are kept, not trained")
    if got == channels:
        raise Wrong("each channel has a gamma and a beta")
    if got in (channels // 2, channels // 4):
        raise Wrong("a bottleneck block ends with four times its width: 256, 512, 1024, 2048")
    if got == 2 * (256 + 512 + 1024 + 2048):
        raise Wrong("every block has a layer of its own: the stages have 3, 4, 23 and 3")
    if got == 30_208:
        raise Wrong("that is a ResNet-50; the third stage of a ResNet-101 is longer")
    raise Wrong("not {got:,}: two values per channel, for every block of the four stages", got=got)


@checker("3.3")
def exercise_3_3(answer):
    first, second = call(answer, 8, (4, 4)), call(answer, 8, (4, 4))
    if isinstance(first, type):
        raise Wrong(
            "you return the class {name}: a layer is wanted, built with the number of channels",
            name=first.__name__,
        )
    if isinstance(first, str):
        raise Wrong("a layer is wanted, not its name {name!r}", name=first)
    if first is second and isinstance(first, NAM):
        raise Wrong("the same layer comes back twice: every block needs one of its own")
    small = answer(8, (1, 1))
    if isinstance(small, NAM):
        raise Wrong("on a map of 1x1 pixels there should be no NAM")
    if isinstance(small, type):
        raise Wrong("you return the class {name}: a layer is wanted, {name}()", name=small.__name__)
    if not isinstance(small, nn.Layer):
        raise Wrong("where there is no attention return nn.Identity(), which changes nothing")
    one = np.arange(-8, 8, dtype="float32").reshape(2, 8, 1, 1)  # a relu would change it
    if not np.array_equal(small(paddle.to_tensor(one)).numpy(), one):
        raise Wrong("on a map of 1x1 pixels nothing should change: nn.Identity()")
    if not isinstance(first, NAM):
        raise Wrong("on a map of 4x4 pixels there should be a NAM")
    for size in ((1, 4), (3, 1), (2, 2), (1, 2)):
        if not isinstance(answer(8, size), NAM):
            raise Wrong(
                "a map of {height}x{width} has more than one pixel: there should be a NAM",
                height=size[0],
                width=size[1],
            )
    if not isinstance(answer(512, (4, 4)), NAM):
        raise Wrong("the size of the map decides, not the number of channels")
    if first.channel.bn.weight.shape[0] != 8 or answer(6, (4, 4)).channel.bn.weight.shape[0] != 6:
        raise Wrong("each layer has to have the number of channels of its block")
    network = resnet18(attention=answer, width=4)
    layers = sum(isinstance(layer, NAM) for layer in network.sublayers())
    if layers != 6:
        raise Wrong(
            "a ResNet-18 for 32x32 images gets {layers} NAM layers, it should get 6: its last "
            "stage has maps of 1x1",
            layers=layers,
        )
    numbers(network(paddle.zeros([2, 3, 32, 32])), (2, 100))
    return right("six NAM layers, and none in the last stage.")


def _bottleneck(in_channels, width, stride, size):
    """A block whose batch norms all differ, in values and in statistics, as after training."""
    block = BottleneckBlock(in_channels, width, stride, "nam", size)
    for layer in block.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            for values, low, high in (
                (layer.weight, 0.5, 2.0),
                (layer.bias, -1.0, 1.0),
                (layer._mean, -0.3, 0.3),
                (layer._variance, 0.5, 2.0),
            ):
                values.set_value(paddle.uniform(values.shape, min=low, max=high))
    block.eval()
    return block


def _ways(block, x):
    """What the right forward pass gives, and [(what a mistake gives, Wrong), ...]."""
    shortcut = x if block.downsample is None else block.downsample(x)
    attend, bn3 = block.attention, block.bn3

    def nothing(out):
        return out

    def forward(end, bn1=block.bn1, bn2=block.bn2, relu=F.relu, relu1=F.relu):
        """The branch up to its last convolution, then `end` of it."""
        out = relu1(bn1(block.conv1(x)))
        return end(block.conv3(relu(bn2(block.conv2(out))))).numpy()

    def whole(out):
        return F.relu(attend(bn3(out)) + shortcut)

    def after_relu(out):
        return attend(F.relu(bn3(out) + shortcut))

    after = Wrong(
        "attention comes after the addition: there it holds back the shortcut too (section 3.2)"
    )
    bn = Wrong(
        "one of the batch norms is used in another's place, twice, or not at all; in a new network "
        "all are alike, here they are not"
    )
    mistakes = [
        (forward(after_relu), after),
        (forward(after_relu, bn2=block.bn1), after),
        (forward(lambda out: F.relu(attend(bn3(out) + shortcut))), after),
        (forward(whole, bn2=block.bn1), bn),
        (forward(whole, bn1=block.bn2), bn),
        (forward(whole, bn1=block.bn2, bn2=block.bn1), bn),
        (forward(whole, bn1=nothing), bn),
        (forward(whole, bn2=nothing), bn),
        (forward(lambda out: F.relu(attend(out) + shortcut)), bn),
        (
            forward(lambda out: F.relu(bn3(attend(out)) + shortcut)),
            Wrong("attention comes before the last batch norm; it belongs after it"),
        ),
        (forward(lambda out: F.relu(bn3(out) + shortcut)), Wrong("the attention is missing")),
        (
            forward(lambda out: attend(bn3(out)) + shortcut),
            Wrong("the last relu, after the addition, is missing"),
        ),
        (forward(lambda out: F.relu(attend(bn3(out)))), Wrong("the shortcut is missing")),
        (
            forward(lambda out: F.relu(F.relu(attend(bn3(out))) + shortcut)),
            Wrong("no relu before the addition: the branch must be able to take away"),
        ),
        (
            forward(lambda out: F.relu(attend(F.relu(bn3(out))) + shortcut)),
            Wrong("no relu before the addition: the branch must be able to take away"),
        ),
        (forward(whole, relu=nothing), Wrong("a relu is missing between two convolutions")),
        (forward(whole, relu1=nothing), Wrong("a relu is missing between two convolutions")),
        (
            forward(whole, relu=nothing, relu1=nothing),
            Wrong("a relu is missing between two convolutions"),
        ),
    ]
    return forward(whole), mistakes


@checker("3.4")
def exercise_3_4(answer):
    state = paddle.get_rng_state()
    paddle.seed(0)
    cases = [
        (_bottleneck(4, 4, 2, (3, 3)), paddle.randn([2, 4, 6, 6])),
        (_bottleneck(16, 4, 1, (3, 3)), paddle.randn([2, 16, 3, 3])),
    ]
    paddle.set_rng_state(state)
    with paddle.no_grad():
        for block, x in cases:
            want, mistakes = _ways(block, x)  # before an answer can change the block or x
            got = finite(numbers(call(answer, block, x), (2, 16, 3, 3)))
            if not same(got, want, 1e-4):
                refuse(got, mistakes, 1e-4)
                raise Wrong(
                    "the numbers differ from those of the block: convolve and normalise three "
                    "times, attend, add the shortcut, relu"
                )
    return right("convolve, convolve, convolve, attend, add.")


@checker("3.5")
def exercise_3_5(answer):
    got = whole(closed(answer))
    first, other = 128 * 64, 128 * 128  # kernels of the last stage: of 64 channels, and of 128
    want = 5 * first + 8 * 3 * other
    if want <= got <= want + 1000:  # in a small batch a few more are 0 by luck
        return right(
            "a kernel of 3x3 that meets a single pixel learns with one weight of its nine; the "
            "stage's first convolution meets 2x2 pixels, with four."
        )
    if got == 8 * first + 8 * 3 * other:
        raise Wrong(
            "not all four 3x3 convolutions of the last stage meet a map of one pixel: how large is "
            "the map that its first one reads?"
        )
    if got == 8 * 2 * other + 5 * first:
        raise Wrong("the last stage has two blocks with two 3x3 convolutions each")
    if 0 <= got < 1000:
        raise Wrong(
            "none? look at the gradients after a backward pass in training mode, with the 7x7 stem"
        )
    if got == 5_505_024:
        raise Wrong("that is a ResNet-50 of full width; this one is a ResNet-18 of width 16")
    if 0 <= got - 16 * want <= 16000:
        raise Wrong("that is a ResNet-18 of width 64; this one has width 16")
    if got == 9 * (first + 3 * other) - want:
        raise Wrong("you count the weights of the last stage that do have a gradient")
    if got < want:
        raise Wrong(
            "there are more than {got:,}: look at every convolution, and count values, not kernels",
            got=got,
        )
    raise Wrong(
        "there are fewer than {got:,}: use a batch of some dozens of images, and count only "
        "gradients that are exactly 0",
        got=got,
    )
