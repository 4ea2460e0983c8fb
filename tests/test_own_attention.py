"""An attention of one's own is a layer like any other: whatever it does, a network that holds it
computes what Paddle alone computes, and no layer is changed afterwards.

Each entry of two tables is run as it is and with NAM_EDU_CONVOLUTION=paddle, the oracle, from the
same weights, running statistics and seed, in training mode and in inference mode.
"""

import contextlib
import os
import threading
import types

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest
from paddle.autograd import PyLayer

from nam_edu.attention import NAM, ChannelNAM, SpatialNAM
from nam_edu.baselines import ConstantGate
from nam_edu.resnet import BasicBlock, BottleneckBlock, resnet18, resnet50

IMAGES = 16
SHIFT = 3.0  # see `build`
TOLERANCE = 5e-2  # of the norm; a ReLU that flips makes up to 3e-2, what is wrong 0.26 and more
FLOOR = 1e-2  # of the largest norm among the gradients: below, rounding is all there is

SEEN = []  # what layers and hooks saw during a pass


def see(x):
    SEEN.append(x.numpy().copy())


def twist(x):
    """A map of the same shape; no two axes can be exchanged without changing it."""
    return x * F.sigmoid(x.mean(1, keepdim=True)) + 0.5 * x.flip(3) - 0.2 * x.cumsum(2)


class Own(nn.Layer):
    """function(x, *layers) as a layer."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function = function
        self.held = nn.LayerList(layers)

    def forward(self, x):
        return self.function(x, *self.held)


def plain(function, *make):
    """An attention function(x, *layers), where each of `make` is f(channels, size) -> layer."""
    return lambda channels, size: Own(function, *(f(channels, size) for f in make))


def gate(x, layer):
    return x * F.sigmoid(layer(x))


def subclass(base, forward=None):
    """A subclass with a forward of its own; by default it twists the map beforehand."""

    def twisted(self, x):
        return base.forward(self, twist(x))

    return type("Own" + base.__name__, (base,), {"forward": forward or twisted})


def in_instance(layer):
    """The layer itself, with a forward of its own in the instance."""
    normal = layer.forward
    layer.forward = lambda x: normal(twist(x))
    return layer


def as_method(layer):
    layer.forward = types.MethodType(lambda self, x: type(self).forward(self, twist(x)), layer)
    return layer


def watched(layer):
    """Hooks before and after that look on."""
    layer.register_forward_pre_hook(lambda _, inputs: see(inputs[0]))
    layer.register_forward_post_hook(lambda _, inputs, output: see(output))
    return layer


def changing(layer):
    """Hooks before and after that change the map."""
    layer.register_forward_pre_hook(lambda _, inputs: (twist(inputs[0]),))
    layer.register_forward_post_hook(lambda _, inputs, output: output * output.mean(1, True))
    return layer


def conv(c, kernel=3, padding=1, **options):
    return nn.Conv2D(c, c, kernel, padding=padding, **options)


class Shared:
    """make(channels, size) once for all blocks of a width; `start` forgets the layers built."""

    def __init__(self, make, use=lambda layer: layer):
        self.make, self.use = make, use

    def start(self):
        self.built = {}
        return self

    def __call__(self, channels, size):
        if (channels, size) not in self.built:
            self.built[channels, size] = self.make(channels, size)
        return self.use(self.built[channels, size])


class Dictionary(nn.Layer):
    def __init__(self, c):
        super().__init__()
        self.parts = nn.LayerDict({"conv": conv(c), "bn": nn.BatchNorm2D(c)})

    def forward(self, x):
        return x * F.sigmoid(self.parts["bn"](self.parts["conv"](twist(x))))


class Parameter(nn.Layer):
    def __init__(self, c):
        super().__init__()
        self.scale = self.create_parameter([1, c, 1, 1])

    def forward(self, x):
        return x * F.sigmoid(self.scale)


class Noted(nn.Layer):
    """Attributes that Paddle's own layers have too; here they mean nothing."""

    def __init__(self, **noted):
        super().__init__()
        for name, value in noted.items():
            setattr(self, name, value)

    def forward(self, x):
        return twist(x)


class Depending(nn.Layer):
    def forward(self, x):
        return x * x.mean(1, keepdim=True) if self.training else x.flip(2)


class Keeps(nn.Layer):
    def forward(self, x):
        self.kept = [x, x.mean(1, keepdim=True)]
        return gate(x, twist)


class Hold(nn.Layer):
    """Another network in the attention."""

    def __init__(self, channels, attention):
        super().__init__()
        self.network = resnet18(num_classes=channels, width=8, attention=attention)

    def forward(self, x):
        image = F.interpolate(x[:, :3], size=[32, 32], mode="nearest")
        return x * F.sigmoid(0.1 * self.network(image)).unsqueeze([2, 3])


class RowScale(PyLayer):
    """x * weight over the rows of a map, with a backward pass of its own."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight.reshape([1, 1, -1, 1])

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensor()
        return grad * weight.reshape([1, 1, -1, 1]), (grad * x).sum([0, 1, 3])


class Rows(nn.Layer):
    def __init__(self, rows):
        super().__init__()
        self.weight = self.create_parameter(
            [rows], default_initializer=nn.initializer.Uniform(0.5, 1.5)
        )

    def forward(self, x):
        return RowScale.apply(x, self.weight)


class Calling(nn.Sequential):
    """A __call__ of its own."""

    def __call__(self, x):
        return super().__call__(twist(x))


def over_channels(x, norm):
    """A LayerNorm over the channels of each pixel."""
    return gate(x, lambda v: norm(v.transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2]))


def concatenated(x):
    a, b = x.split(2, axis=1)
    x = paddle.concat([b, 0.5 * a], axis=1)
    if x.shape[3] == 1:
        return x
    left, right = x.chunk(2, axis=3)
    return paddle.concat([right, left], axis=3)


def gradient_seen(x):
    if not x.stop_gradient:
        x.register_hook(lambda grad: see(grad))
    return twist(x)


def spectral(c, size):
    return nn.utils.spectral_norm(conv(c))


def inner_hooks(c, size):
    return nn.Sequential(watched(conv(c)), watched(nn.ReLU()), nn.BatchNorm2D(c))


# name -> f(channels, size) -> layer
ATTENTIONS = {
    # subclasses of what the backbone is made of, with a forward of their own
    "subclass Sequential": lambda c, s: subclass(nn.Sequential)(conv(c), nn.Sigmoid()),
    "subclass Sequential, empty": lambda c, s: subclass(nn.Sequential, lambda _, x: twist(x))(),
    "subclass ReLU": lambda c, s: subclass(nn.ReLU)(),
    "subclass Identity": lambda c, s: subclass(nn.Identity)(),
    "subclass Sigmoid": lambda c, s: subclass(nn.Sigmoid)(),
    "subclass Conv2D": lambda c, s: subclass(nn.Conv2D)(c, c, 3, padding=1),
    "subclass Conv2D, gate": lambda c, s: subclass(
        nn.Conv2D, lambda self, x: gate(x, lambda v: nn.Conv2D.forward(self, v))
    )(c, c, 1),
    "subclass BatchNorm2D": lambda c, s: subclass(nn.BatchNorm2D)(c),
    "subclass BatchNorm2D, per pixel": lambda c, s: subclass(
        nn.BatchNorm2D,
        lambda self, x: (
            nn.BatchNorm2D.forward(self, x.flatten(2).unsqueeze(3).transpose([0, 2, 1, 3]))
            .transpose([0, 2, 1, 3])
            .reshape(x.shape)
        ),
    )(s[0] * s[1]),
    "subclass MaxPool2D": lambda c, s: subclass(nn.MaxPool2D)(3, stride=1, padding=1),
    "subclass AdaptiveAvgPool2D": lambda c, s: subclass(
        nn.AdaptiveAvgPool2D,
        lambda self, x: gate(twist(x), lambda v: nn.AdaptiveAvgPool2D.forward(self, v)),
    )(1),
    "subclass NAM": lambda c, s: subclass(NAM)(c, s),
    "subclass ChannelNAM": lambda c, s: subclass(ChannelNAM)(c),
    "subclass SpatialNAM": lambda c, s: subclass(SpatialNAM)(s),
    "subclass ConstantGate": lambda c, s: subclass(ConstantGate)(0.7),
    "subclass ChannelNAM, own logits": lambda c, s: type(
        "OwnLogits",
        (ChannelNAM,),
        {"logits": lambda self, x: ChannelNAM.logits(self, x) + x.mean(1, keepdim=True)},
    )(c),
    "subclasses inside a Sequential": lambda c, s: nn.Sequential(
        conv(c), subclass(nn.ReLU)(), nn.BatchNorm2D(c), subclass(nn.Sequential)(nn.Sigmoid())
    ),
    "subclass with its own __call__": lambda c, s: Calling(conv(c), nn.Sigmoid()),
    "subclass without a forward": lambda c, s: type("Same", (nn.Conv2D,), {})(c, c, 3, padding=1),
    "subclass BasicBlock": lambda c, s: subclass(BasicBlock)(c, c, 1, "nam", s),
    "subclass BottleneckBlock": lambda c, s: subclass(BottleneckBlock)(c, c // 4, 1, "nam", s),
    "a BasicBlock": lambda c, s: BasicBlock(c, c, 1, "nam-spatial", s),
    # exact types
    "Conv2D": lambda c, s: conv(c),
    "Identity": lambda c, s: nn.Identity(),
    "NAM with pixels": lambda c, s: NAM(c, s),
    "Sequential(Conv2D, ReLU, Sigmoid)": lambda c, s: nn.Sequential(
        conv(c), nn.ReLU(), nn.Sigmoid()
    ),
    "Sequential as a gate": plain(
        gate, lambda c, s: nn.Sequential(conv(c), nn.ReLU(), nn.Sigmoid())
    ),
    "Sequential in Sequential": lambda c, s: nn.Sequential(
        nn.Sequential(conv(c), nn.BatchNorm2D(c)), Own(twist), nn.Sequential(nn.Sigmoid())
    ),
    "MaxPool2D": lambda c, s: nn.MaxPool2D(3, stride=1, padding=1),
    "MaxPool2D, ceil_mode": lambda c, s: nn.MaxPool2D(3, stride=1, padding=1, ceil_mode=True),
    "MaxPool2D, padding of a list": lambda c, s: nn.MaxPool2D(3, stride=1, padding=[1, 1]),
    "AvgPool2D": lambda c, s: nn.AvgPool2D(3, stride=1, padding=1),
    "AdaptiveAvgPool2D": lambda c, s: nn.AdaptiveAvgPool2D(s[0]),
    "AdaptiveAvgPool2D as a gate": plain(gate, lambda c, s: nn.AdaptiveAvgPool2D((None, 1))),
    "Softmax over channels": lambda c, s: nn.Softmax(axis=1),
    "PReLU per channel": lambda c, s: nn.PReLU(c),
    "Pad2D": plain(
        lambda x, pad: twist(pad(x))[:, :, :-1, 2:], lambda c, s: nn.Pad2D([1, 1, 0, 1], value=0.5)
    ),
    "PixelShuffle": plain(
        lambda x, up: F.avg_pool2d(up(paddle.concat([x] * 4, 1)), 2),
        lambda c, s: nn.PixelShuffle(2),
    ),
    # shared
    "one layer per width": Shared(lambda c, s: Own(gate, conv(c))),
    "one NAM per width": Shared(lambda c, s: NAM(c)),
    "one Sequential per width": Shared(lambda c, s: nn.Sequential(conv(c), nn.Sigmoid())),
    "a convolution in several attentions": Shared(
        lambda c, s: conv(c), lambda one: nn.Sequential(one, Own(gate, one), nn.Sigmoid())
    ),
    # containers
    "LayerList": plain(
        lambda x, *parts: x * F.sigmoid(parts[1](parts[0](twist(x)))),
        lambda c, s: conv(c),
        lambda c, s: nn.BatchNorm2D(c),
    ),
    "LayerDict": lambda c, s: Dictionary(c),
    # norms
    "BatchNorm2D": lambda c, s: nn.BatchNorm2D(c),
    "BatchNorm2D without affine": lambda c, s: nn.BatchNorm2D(
        c, weight_attr=False, bias_attr=False
    ),
    "BatchNorm2D without shift": lambda c, s: nn.BatchNorm2D(c, bias_attr=False),
    "BatchNorm2D, global statistics": lambda c, s: nn.BatchNorm2D(c, use_global_stats=True),
    "BatchNorm (old)": lambda c, s: nn.BatchNorm(c),
    "InstanceNorm2D": lambda c, s: nn.InstanceNorm2D(c),
    "InstanceNorm2D without affine": lambda c, s: nn.InstanceNorm2D(
        c, weight_attr=False, bias_attr=False
    ),
    "GroupNorm": lambda c, s: nn.GroupNorm(4, c),
    "GroupNorm without affine": lambda c, s: nn.GroupNorm(4, c, weight_attr=False, bias_attr=False),
    "LayerNorm over channels": plain(over_channels, lambda c, s: nn.LayerNorm(c)),
    "LayerNorm over the map": lambda c, s: nn.LayerNorm([c, *s]),
    "LocalResponseNorm": lambda c, s: nn.LocalResponseNorm(3, alpha=0.5),
    # convolutions
    "depthwise": lambda c, s: conv(c, groups=c),
    "grouped": lambda c, s: conv(c, groups=4),
    "dilated": lambda c, s: conv(c, padding=2, dilation=2),
    "padding_mode reflect": lambda c, s: conv(c, padding_mode="reflect") if s[0] > 1 else conv(c),
    "padding_mode circular": lambda c, s: conv(c, padding_mode="circular"),
    "padding same": lambda c, s: conv(c, padding="same"),
    "padding asymmetric": lambda c, s: conv(c, padding=[2, 0, 0, 2]),
    "padding of pairs": lambda c, s: conv(c, padding=[[0, 0], [0, 0], [0, 2], [1, 1]]),
    "kernel of one row": lambda c, s: conv(c, (1, 3), (0, 1), bias_attr=False),
    "kernel 7": plain(gate, lambda c, s: conv(c, 7, 3)),
    "Conv2DTranspose": lambda c, s: nn.Conv2DTranspose(c, c, 3, padding=1),
    "weight_norm": lambda c, s: nn.utils.weight_norm(conv(c)),
    "spectral_norm": spectral,
    "spectral_norm in a Sequential": lambda c, s: nn.Sequential(spectral(c, s), nn.Sigmoid()),
    # operations along an axis
    **{
        f"mean over {axis}": plain(lambda x, axis=axis: x * F.sigmoid(x.mean(axis, True)))
        for axis in (1, 2, 3)
    },
    **{
        f"softmax over {axis}": plain(lambda x, axis=axis: 4 * x * F.softmax(0.1 * x, axis))
        for axis in (1, -1)
    },
    **{f"cumsum over {axis}": plain(lambda x, axis=axis: 0.5 * x.cumsum(axis)) for axis in (1, 2)},
    "flip on H": plain(lambda x: x + 0.5 * x.flip(2)),
    "roll on W": plain(lambda x: x + 0.5 * x.roll(1, 3)),
    "create_parameter": lambda c, s: Parameter(c),
    # chance, modes, autograd
    "Dropout2D": lambda c, s: nn.Dropout2D(0.3),
    "Dropout": lambda c, s: nn.Sequential(conv(c, 1, 0), nn.Dropout(0.3)),
    "Dropout2D in a layer": plain(
        lambda x, drop: gate(x, lambda v: drop(twist(v))), lambda c, s: nn.Dropout2D(0.3)
    ),
    "noise": plain(lambda x: x + 0.1 * paddle.randn(x.shape)),
    "PyLayer": lambda c, s: Rows(s[0]),
    "depends on training": lambda c, s: Depending(),
    "stops the gradient": plain(lambda x: x * F.sigmoid(twist(x).detach())),
    "looks at the gradient": plain(gradient_seen),
    # hooks
    "hooks on the attention": lambda c, s: watched(Own(gate, conv(c))),
    "hooks on an exact type": lambda c, s: watched(conv(c)),
    "hooks on inner layers": inner_hooks,
    "hooks on inner layers of a layer": plain(gate, inner_hooks),
    "hooks that change": lambda c, s: nn.Sequential(changing(conv(c)), changing(nn.Sigmoid())),
    # a forward in the instance
    "instance forward, Conv2D": lambda c, s: in_instance(conv(c)),
    "instance forward, BatchNorm2D": lambda c, s: in_instance(nn.BatchNorm2D(c)),
    "instance forward, Identity": lambda c, s: in_instance(nn.Identity()),
    "instance forward, Sequential": lambda c, s: in_instance(nn.Sequential(conv(c))),
    "instance forward, NAM": lambda c, s: in_instance(NAM(c)),
    "instance forward, inside": lambda c, s: nn.Sequential(as_method(conv(c)), nn.Sigmoid()),
    # attributes
    "data_format NCHW": lambda c, s: Noted(data_format="NCHW"),
    "_data_format NCHW": lambda c, s: Noted(_data_format="NCHW"),
    "data_format NHWC": lambda c, s: Noted(data_format="NHWC"),
    "BatchNorm2D over columns": lambda c, s: nn.BatchNorm2D(s[1], data_format="NHWC"),
    "Conv2D over columns": lambda c, s: nn.Conv2D(s[1], s[1], 1, data_format="NHWC"),
    "MaxPool2D over columns": lambda c, s: nn.MaxPool2D(3, 1, 1, data_format="NHWC"),
    "NHWC layers between transposes": plain(
        lambda x, c, b: b(c(x.transpose([0, 2, 3, 1]))).transpose([0, 3, 1, 2]),
        lambda c, s: conv(c, data_format="NHWC"),
        lambda c, s: nn.BatchNorm2D(c, data_format="NHWC"),
    ),
    # what it returns
    "x itself": plain(lambda x: x),
    "a strided view": plain(lambda x: x.transpose([0, 1, 3, 2])),
    "concat and split": plain(concatenated),
    "in place": plain(lambda x: x.scale_(0.5)),
    "a gate of one row": plain(lambda x: x * F.sigmoid(x[:, :, :1])),
    "keeps x": lambda c, s: Keeps(),
    "holds a network": lambda c, s: Hold(c, "nam") if s[0] in (8, 4) else nn.Identity(),
}


def conv1_in_instance(network):
    in_instance(network.layer1[0].conv1)


def bn1_in_instance(network):
    in_instance(network.layer1[0].bn1)


def several_in_instance(network):
    for layer in (
        network.conv1,
        network.relu,
        network.layer2[0].attention,
        network.layer3,
        network.layer2[1],
        network.layer2[0].downsample[0],
    ):
        in_instance(layer)


def pool_in_instance(network):
    in_instance(network.maxpool)
    normal = network.avgpool.forward
    network.avgpool.forward = lambda x: normal(x * x.mean(1, keepdim=True))


def own_block(network):
    block = type(network.layer1[0])
    for stage in (network.layer1, network.layer3):
        c = stage[1].conv1.weight.shape[1]
        size = (8, 8) if stage is network.layer1 else (2, 2)
        stage[1] = subclass(block)(c, c // block.expansion, 1, "nam", size)


def own_stage(network):
    network.layer2 = subclass(nn.Sequential)(*network.layer2)


def stage_of_own_layers(network):
    network.layer2 = nn.Sequential(Own(twist), *network.layer2, Own(twist))


def no_bn1(network):
    network.bn1 = nn.Identity()


def group_norm(network):
    network.layer1[0].bn1 = nn.GroupNorm(2, network.layer1[0].conv1.weight.shape[0])


def leaky(network):
    network.relu = nn.LeakyReLU(0.2)


def average_pool(network):
    network.maxpool = nn.AvgPool2D(3, stride=2, padding=1)


def own_parts(network):
    network.relu = subclass(nn.ReLU)()
    network.maxpool = subclass(nn.MaxPool2D)(3, stride=2, padding=1)
    network.avgpool = subclass(nn.AdaptiveAvgPool2D)(1)


def own_convolutions(network):
    for block in (network.layer1[0], network.layer2[1]):
        c = block.conv2.weight.shape
        block.conv2 = subclass(nn.Conv2D)(c[1], c[0], 3, padding=1)
        block.bn2 = subclass(nn.BatchNorm2D)(c[0])


def weight_norm(network):
    nn.utils.weight_norm(network.layer1[0].conv1)
    nn.utils.spectral_norm(network.layer2[0].conv2)


def hooks(network):
    for layer in (
        network.conv1,
        network.bn1,
        network.relu,
        network.maxpool,
        network.layer1,
        network.layer1[0],
        network.layer2[0].conv1,
        network.layer2[0].bn1,
        network.layer2[0].attention,
        network.layer2[0].downsample,
        network.avgpool,
    ):
        watched(layer)


def hooks_that_change(network):
    for layer in (network.layer1[0].conv1, network.layer2[0].bn1, network.layer3):
        changing(layer)


def frozen_norms(network):
    """See `prepare`: these stay in inference mode while the network trains."""
    for layer in network.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer.stays = True


def frozen_weights(network):
    for parameter in [*network.layer1.parameters(), *network.layer2[0].attention.parameters()]:
        parameter.stop_gradient = True


# change(network) of a network with NAM
CHANGES = {
    change.__name__.replace("_", " "): change
    for change in (
        conv1_in_instance,
        bn1_in_instance,
        several_in_instance,
        pool_in_instance,
        own_block,
        own_stage,
        stage_of_own_layers,
        no_bn1,
        group_norm,
        leaky,
        average_pool,
        own_parts,
        own_convolutions,
        weight_norm,
        hooks,
        hooks_that_change,
        frozen_norms,
        frozen_weights,
    )
}


def build(depth, attention="nam", change=None):
    """A network whose scales and shifts are away from where they start.

    Rounding must not decide which values a ReLU lets pass, since one such value more or less
    changes the gradients of a small network: the norms of all blocks are shifted upwards.
    """
    paddle.seed(1)
    if isinstance(attention, Shared):
        attention.start()
    make, width = (resnet18, 8) if depth == 18 else (resnet50, 4)
    network = make(num_classes=8, width=width, attention=attention)
    if change is not None:
        change(network)
    rng = np.random.default_rng(0)
    for name, value in network.state_dict().items():
        noise = rng.normal(size=value.shape).astype("float32")
        if value.ndim == 1 and "._" not in name:
            value.set_value(value.numpy() + 0.2 * np.tanh(noise))
            if name.endswith((*(f"bn{i}.bias" for i in (1, 2, 3)), "downsample.1.bias")):
                value.set_value(value.numpy() + SHIFT)
    return network


def prepare(network, training):
    """The mode; in inference mode running statistics that fit, so that values stay moderate."""
    norms = [layer for layer in network.sublayers() if hasattr(layer, "_momentum")]
    frozen = [layer for layer in norms if getattr(layer, "stays", False)]
    network.train()
    if not training or frozen:
        momenta = [layer._momentum for layer in norms]
        for layer in norms:
            layer._momentum = 0.0
        with paddle.no_grad(), convolutions("paddle"):
            network(paddle.to_tensor(images(2)))
        for layer, momentum in zip(norms, momenta):
            layer._momentum = momentum
    for layer in frozen if training else [network]:
        layer.eval()


def images(seed=0):
    return np.random.default_rng(seed).normal(size=(IMAGES, 3, 32, 32)).astype("float32")


@contextlib.contextmanager
def convolutions(choice):
    """Inside, NAM_EDU_CONVOLUTION is `choice`, or not set at all for None."""
    before = os.environ.pop("NAM_EDU_CONVOLUTION", None)
    if choice is not None:
        os.environ["NAM_EDU_CONVOLUTION"] = choice
    try:
        yield
    finally:
        os.environ.pop("NAM_EDU_CONVOLUTION", None)
        if before is not None:
            os.environ["NAM_EDU_CONVOLUTION"] = before


def step(network, values, choice):
    """All that a pass forward and backward computes, by name; the state is then as before."""
    # running statistics, and the vectors of spectral_norm
    state = {
        name: value
        for name, value in network.state_dict().items()
        if "._" in name or name.endswith(("_u", "_v"))
    }
    start = {name: value.numpy().copy() for name, value in state.items()}
    try:
        with convolutions(choice):
            return _step(network, state, values)
    finally:
        for name, value in state.items():
            value.set_value(start[name])


def _step(network, state, values):
    network.clear_gradients()
    SEEN.clear()
    paddle.seed(5)
    x = paddle.to_tensor(values, stop_gradient=False)
    logits = network(x)
    weights = np.random.default_rng(9).normal(size=logits.shape).astype("float32")
    (logits * paddle.to_tensor(weights)).sum().backward()
    result = {"logits": logits.numpy(), "gradient of x": x.grad.numpy(), "x": x.numpy()}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            result[f"gradient of {name}"] = parameter.grad.numpy()
    for name, value in state.items():
        result[f"state {name}"] = value.numpy().copy()
    for layer in network.sublayers():
        for kept in getattr(layer, "kept", ()):
            see(kept)
    for i, seen in enumerate(SEEN):
        result[f"seen {i}"] = seen
    return result


def shape_of(network):
    """What may not change: every layer's attributes, hooks, parts, modes and data formats."""

    def outline(value):
        if isinstance(value, dict):
            return list(value)
        simple = value is None or isinstance(value, (bool, int, float, str, tuple))
        return value if simple or callable(value) else type(value)

    return [
        (name, id(layer), type(layer), {key: outline(value) for key, value in vars(layer).items()})
        for name, layer in network.named_sublayers(include_self=True)
    ]


def largest_difference(actual, expected):
    """(relative to the norm, name)"""
    assert list(actual) == list(expected)
    norms = {name: np.linalg.norm(value) for name, value in expected.items()}
    floor = FLOOR * max(
        norm
        for name, norm in norms.items()
        if name.startswith("gradient") and name != "gradient of x"
    )
    worst = 0.0, ""
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        assert np.isfinite(value).all(), name
        off = np.linalg.norm(actual[name] - value)
        norm = max(norms[name], floor if name.startswith("gradient") else 1e-3)
        worst = max(worst, (off / norm if np.isfinite(off) else np.inf, name))
    return worst


def compare(network, training):
    """What differs, in words, and what Paddle computes."""
    prepare(network, training)
    expected = step(network, images(), "paddle")
    before, problems = shape_of(network), []
    try:
        off, name = largest_difference(step(network, images(), None), expected)
        if not off < TOLERANCE:
            problems.append(f"off by {off:.1e} of the norm: {name}")
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
    if shape_of(network) != before:
        problems.append("a layer stays changed")
    mode = "training: " if training else "inference: "
    return [mode + problem for problem in problems], expected


def assert_as_paddles_own(network, training):
    problems, expected = compare(network, training)
    assert not problems, problems
    return expected


def problems_in_both_modes(network):
    problems, _ = compare(network, True)
    if any("stays changed" in problem for problem in problems):
        return problems
    return problems + compare(network, False)[0]


both_modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
both_depths = pytest.mark.parametrize("depth", [18, 50])


@both_depths
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention(name, depth):
    assert problems_in_both_modes(build(depth, ATTENTIONS[name])) == []


@both_depths
@pytest.mark.parametrize("name", CHANGES)
def test_changed_backbone(name, depth):
    assert problems_in_both_modes(build(depth, change=CHANGES[name])) == []


@both_modes
@both_depths
def test_hooks_between_two_calls(depth, training):
    """They see (N, C, H, W) from then on, and nothing after they are removed."""
    network = build(depth)
    assert_as_paddles_own(network, training)
    removers = []
    for layer in (network.layer2[0].conv1, network.layer2[0].attention.channel.bn):
        removers += [
            layer.register_forward_pre_hook(lambda _, inputs: see(inputs[0])),
            layer.register_forward_post_hook(lambda _, inputs, output: see(output)),
        ]
    seen = assert_as_paddles_own(network, training)
    channels = network.layer2[0].attention.channel.bn.weight.shape[0]
    assert seen["seen 3"].shape == (IMAGES, channels, 4, 4)
    for remover in removers:
        remover.remove()
    assert "seen 0" not in assert_as_paddles_own(network, training)


@both_modes
@both_depths
def test_an_error_comes_out_and_nothing_stays_changed(depth, training):
    armed = []

    def fails(x, layer):
        if armed and x.shape[2] == 4:
            raise KeyError("on purpose")
        return gate(x, layer)

    network = build(depth, plain(fails, lambda c, s: nn.Sequential(conv(c), nn.Sigmoid())))
    assert_as_paddles_own(network, training)
    state = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    before = shape_of(network)
    armed.append(True)
    with convolutions(None), pytest.raises(KeyError, match="on purpose"):
        network(paddle.to_tensor(images()))
    assert shape_of(network) == before
    armed.clear()
    network.set_state_dict(state)
    assert_as_paddles_own(network, training)


@both_modes
def test_two_networks_in_turn(training):
    """Of one class of attention, with other weights, and with one layer in both."""
    common = Own(gate, conv(16))
    networks = [
        build(18, lambda c, s: common if c == 16 else subclass(nn.ReLU)()),
        build(18, lambda c, s: common if c == 16 else Own(twist)),
    ]
    for network in (*networks, *networks):
        assert_as_paddles_own(network, training)


@both_modes
@both_depths
def test_a_layer_used_alone_after_the_network(depth, training):
    """A layer that a network has used takes (N, C, H, W) elsewhere, as it did before."""
    network = build(depth, lambda c, s: nn.Sequential(conv(c), subclass(nn.ReLU)(), NAM(c, s)))
    prepare(network, training)
    block = network.layer2[1]
    c = block.conv1.weight.shape[1]
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(16, c, 4, 4)).astype("float32"))
    with convolutions(None):
        before = block(x).numpy()
        network(paddle.to_tensor(images()))
        after = block(x).numpy()
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(
    "attention",
    ["Sequential(Conv2D, ReLU, Sigmoid)", "subclass NAM", "NAM with pixels", "MaxPool2D"],
)
def test_in_two_threads_at_once(attention):
    network = build(18, ATTENTIONS[attention])
    network.eval()
    batches = [images(seed) for seed in (0, 1)]
    expected, results = [], [[], []]
    with paddle.no_grad(), convolutions("paddle"):
        expected = [network(paddle.to_tensor(batch)).numpy() for batch in batches]
    before = shape_of(network)

    def work(i):
        try:
            with paddle.no_grad():
                for _ in range(8):
                    results[i].append(network(paddle.to_tensor(batches[i])).numpy())
        except Exception as error:
            results[i].append(error)

    with convolutions(None):
        threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert shape_of(network) == before
    for result, e in zip(results, expected):
        assert len(result) == 8
        for a in result:
            assert not isinstance(a, Exception), repr(a)
            np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-3 * np.abs(e).max())


@both_modes
def test_the_input_may_need_no_gradient(training):
    """Without gradients, as in an evaluation: logits and running statistics alone."""
    for name in ("subclass Sequential", "Sequential as a gate", "in place", "Dropout2D"):
        network = build(18, ATTENTIONS[name])
        prepare(network, training)
        results = []
        start = {name: value.numpy().copy() for name, value in network.state_dict().items()}
        for choice in ("paddle", None):
            network.set_state_dict(start)
            paddle.seed(5)
            with paddle.no_grad(), convolutions(choice):
                results.append(
                    [network(paddle.to_tensor(images())).numpy()]
                    + [value.numpy() for value in network.state_dict().values()]
                )
        for e, a in zip(*results):
            assert np.linalg.norm(a - e) <= TOLERANCE * max(np.linalg.norm(e), 1e-3), name
