"""Lesson 3: ResNet-18 to 152 (He et al., arXiv 1512.03385) with a slot for attention in each block.

The parts keep the names of `paddle.vision.models.resnet`, so ImageNet weights load; the module in
the slot is called `attention` and stands after the last batch norm of the residual branch, before
the addition, as in NAM's figure and the authors' code.
"""

from __future__ import annotations

import paddle.nn as nn
import paddle.nn.functional as F

from . import checkpoint
from .baselines import build_attention
from .data import CIFAR100_MEAN, CIFAR100_STD
from .machinery.channels_last import residual_block, through
from .machinery.checks import whole_number
from .machinery.language import words


@residual_block("conv1", "bn1", "relu", "conv2", "bn2")
class BasicBlock(nn.Layer):
    """Two 3x3 convolutions: relu(attention(bn2(conv2(relu(bn1(conv1(x)))))) + shortcut(x))."""

    expansion = 1

    def __init__(self, in_channels, width, stride, attention, size):
        super().__init__()
        self.conv1 = nn.Conv2D(in_channels, width, 3, stride=stride, padding=1, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(width)
        self.conv2 = nn.Conv2D(width, width, 3, padding=1, bias_attr=False)
        self.bn2 = nn.BatchNorm2D(width)
        self.downsample = _downsample(in_channels, width, stride)
        self.attention = build_attention(attention, width, size)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.attention(out) + shortcut)


@residual_block("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3", "bn3")
class BottleneckBlock(nn.Layer):
    """1x1, 3x3 and 1x1 convolutions; the last widens the map to four times the block's width."""

    expansion = 4

    def __init__(self, in_channels, width, stride, attention, size):
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2D(in_channels, width, 1, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(width)
        self.conv2 = nn.Conv2D(width, width, 3, stride=stride, padding=1, bias_attr=False)
        self.bn2 = nn.BatchNorm2D(width)
        self.conv3 = nn.Conv2D(width, out_channels, 1, bias_attr=False)
        self.bn3 = nn.BatchNorm2D(out_channels)
        self.downsample = _downsample(in_channels, out_channels, stride)
        self.attention = build_attention(attention, out_channels, size)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.attention(out) + shortcut)


def _downsample(in_channels, out_channels, stride):
    """The shortcut where the map changes its shape: a 1x1 convolution and a batch norm."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2D(in_channels, out_channels, 1, stride=stride, bias_attr=False),
        nn.BatchNorm2D(out_channels),
    )


DEPTHS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (BottleneckBlock, (3, 4, 6, 3)),
    101: (BottleneckBlock, (3, 4, 23, 3)),
    152: (BottleneckBlock, (3, 8, 36, 3)),
}
STEMS = ("imagenet", "cifar")

# paddle.vision's ImageNet weights and their md5.
_HOST = "https://paddle-hapi.bj.bcebos.com/models"
IMAGENET_WEIGHTS = {
    18: (f"{_HOST}/resnet18.pdparams", "cf548f46534aa3560945be4b95cd11c4"),
    34: (f"{_HOST}/resnet34.pdparams", "8d2275cf8706028345f78ac0e1d31969"),
    50: (f"{_HOST}/resnet50.pdparams", "ca6f485ee1ab0492d38f323885b0ad80"),
    101: (f"{_HOST}/resnet101.pdparams", "02f35f034ca3858e1e54d4036443c92d"),
    152: (f"{_HOST}/resnet152.pdparams", "7ad16a2f1e7333859ff986138630fd7a"),
}


class ResNet(nn.Layer):
    """A residual network: stem, four stages of blocks, average pooling, one linear layer.

    Shape: (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_classes: number of logits.
        attention: a name of `baselines.ATTENTIONS` or a callable f(channels, size) -> Layer.
        stem: "imagenet" (7x7 convolution with stride 2, then max-pool with stride 2) or "cifar"
            (3x3 convolution with stride 1).
        in_channels: 3 for colour, 1 for grey images.
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        image_size: side of the images in pixels; used only by attention that depends on the size
            of the map.

    `normalization` is the (mean, std) that the network's images are to be normalised with;
    CIFAR-100's unless training or a checkpoint says otherwise.
    """

    def __init__(
        self,
        depth,
        num_classes=100,
        attention="nam",
        stem="imagenet",
        in_channels=3,
        width=64,
        image_size=32,
    ):
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(
                words(
                    "unknown depth {depth!r}: choose one of {names}",
                    depth=depth,
                    names=", ".join(map(str, DEPTHS)),
                )
            )
        if stem not in STEMS:
            raise ValueError(
                words(
                    "unknown stem {stem!r}: choose one of {names}",
                    stem=stem,
                    names=", ".join(STEMS),
                )
            )
        for name, value in (
            ("num_classes", num_classes),
            ("in_channels", in_channels),
            ("width", width),
            ("image_size", image_size),
        ):
            whole_number(name, value)
        block, counts = DEPTHS[depth]
        self.normalization = (CIFAR100_MEAN, CIFAR100_STD)
        if in_channels != 3:  # of all colours together
            self.normalization = tuple(
                (sum(values) / 3,) * in_channels for values in self.normalization
            )

        if stem == "imagenet":
            self.conv1 = nn.Conv2D(in_channels, width, 7, stride=2, padding=3, bias_attr=False)
            self.maxpool = nn.MaxPool2D(3, stride=2, padding=1)
            size = _halve(_halve(image_size))
        else:
            self.conv1 = nn.Conv2D(in_channels, width, 3, padding=1, bias_attr=False)
            self.maxpool = nn.Identity()
            size = image_size
        self.bn1 = nn.BatchNorm2D(width)
        self.relu = nn.ReLU()

        channels = width
        stages = []
        for stage, count in enumerate(counts):
            blocks = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                size = _halve(size) if stride == 2 else size
                blocks.append(block(channels, width * 2**stage, stride, attention, (size, size)))
                channels = width * 2**stage * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2D(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = through(
            [
                self.conv1,
                self.bn1,
                self.relu,
                self.maxpool,
                self.layer1,
                self.layer2,
                self.layer3,
                self.layer4,
                self.avgpool,
            ],
            x,
        )
        return self.fc(x.flatten(1))  # (N, C, 1, 1) -> (N, C) -> (N, classes)


def _halve(size):
    """The side of a map after a stride of 2."""
    return (size + 1) // 2


def resnet(
    depth,
    num_classes=100,
    attention="nam",
    stem="imagenet",
    pretrained=False,
    in_channels=3,
    width=64,
    image_size=32,
):
    """A `ResNet` of the given depth; the other arguments are those of `ResNet`.

    pretrained: True loads ImageNet weights of paddle.vision (downloaded once), a path loads such a
    file from disk. What the file does not hold, or holds for another number of classes, starts
    fresh, and a printed line names it: the classifier and the attention.
    """
    network = ResNet(depth, num_classes, attention, stem, in_channels, width, image_size)
    if pretrained is True:
        from paddle.utils.download import get_weights_path_from_url

        pretrained = get_weights_path_from_url(*IMAGENET_WEIGHTS[depth])
    if pretrained:
        load_imagenet_weights(network, pretrained)
    return network


def _at_depth(depth):
    def build(
        num_classes=100,
        attention="nam",
        stem="imagenet",
        pretrained=False,
        in_channels=3,
        width=64,
        image_size=32,
    ):
        return resnet(
            depth, num_classes, attention, stem, pretrained, in_channels, width, image_size
        )

    build.__name__ = build.__qualname__ = f"resnet{depth}"
    build.__doc__ = f"ResNet-{depth}: see `resnet` for the arguments."
    return build


resnet18, resnet34, resnet50, resnet101, resnet152 = map(_at_depth, DEPTHS)


def load_imagenet_weights(network, path):
    """Load a backbone's weights; return and print the names of what starts fresh.

    Fresh may be the classifier (`fc`), the attention, and the first convolution of the "cifar"
    stem, whose kernel is 3x3. Anything else that is missing or has another shape raises
    CheckpointError, and nothing is loaded.
    """
    arrays, _ = checkpoint.read_weights(path)
    missing, extra, _ = checkpoint.differences(network, arrays)
    state = network.state_dict()
    reshaped = [n for n in state if n in arrays and list(arrays[n].shape) != list(state[n].shape)]
    may_be_fresh = ("fc.", "conv1.") if network.conv1.weight.shape[2] == 3 else ("fc.",)
    fresh = missing + reshaped
    strangers = [
        name for name in fresh if not name.startswith(may_be_fresh) and ".attention." not in name
    ]
    if strangers or extra:
        raise checkpoint.CheckpointError(
            words(
                "{path} does not fit this network; first tensors that differ: {names}",
                path=path,
                names=", ".join((strangers + extra)[:3]),
            )
        )
    checkpoint.assign(network, {n: a for n, a in arrays.items() if n not in reshaped})
    if fresh:
        print(
            words(
                "ImageNet weights loaded from {path}; not in that file, start fresh: {names}",
                path=path,
                names=", ".join(fresh),
            )
        )
    return fresh
