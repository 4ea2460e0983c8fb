"""Lessons 5 and 6: what a network is worth on a split, with intervals, and what its gates do.

Gamma, weights and gates of a trained network; the accuracy that is left when gates are fixed or
channels removed.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from numbers import Real

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from .attention import ChannelNAM, nam_layers
from .baselines import ChannelNAMGateOnly, ConstantGate
from .data import Split, normalise
from .machinery.checks import whole_number
from .machinery.errors import ArgumentError
from .machinery.inference import inference_mode, outputs
from .machinery.language import words
from .resnet import BasicBlock, BottleneckBlock, ResNet


@dataclass(frozen=True)
class Evaluation:
    """What a network does on a split. Accuracies and intervals are in per cent.

    top1, top5: share of images whose class is the first, or among the first five, of the network's
    ranking. top1_interval, top5_interval: 95 % Wilson intervals (low, high).
    superclass_top1: share whose first choice lies in the right superclass; a first choice whose
    superclass the split does not know (`Split.superclass_of`) counts as wrong.
    per_class, per_superclass: name -> accuracy, None for a class without an image in the split;
    for a superclass that of its fine classes.
    confusion: (20, 20), images of the row's superclass whose first choice lies in the column's;
    first choices of an unknown superclass are left out.
    predicted: (N,), first choices; confidence: (N,), their softmax probabilities.
    unknown_superclass: how many first choices are of an unknown superclass; where there are any,
    the printed evaluation says so.
    """

    images: int
    top1: float
    top5: float
    top1_interval: tuple
    top5_interval: tuple
    superclass_top1: float
    per_class: dict
    per_superclass: dict
    confusion: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    unknown_superclass: int = 0

    def as_dict(self):
        """Plain values for JSON; without what is there once per image."""
        return {
            "images": self.images,
            "top1": self.top1,
            "top5": self.top5,
            "top1_interval": list(self.top1_interval),
            "top5_interval": list(self.top5_interval),
            "superclass_top1": self.superclass_top1,
            "unknown_superclass": self.unknown_superclass,
            "per_class": self.per_class,
            "per_superclass": self.per_superclass,
            "confusion": {
                "superclasses": list(self.per_superclass),
                "counts": self.confusion.tolist(),
            },
        }

    def __str__(self):
        def interval(low_high):
            return f"(95 % interval {low_high[0]:.2f} to {low_high[1]:.2f})"

        known = {n: a for n, a in self.per_class.items() if a is not None}
        ranked = sorted(known, key=known.get)
        lines = [
            f"{self.images} images",
            f"top-1 {self.top1:6.2f} % {interval(self.top1_interval)}",
            f"top-5 {self.top5:6.2f} % {interval(self.top5_interval)}",
            f"first choice in the right superclass {self.superclass_top1:.2f} %",
            *(
                [
                    f"  but the superclass of {self.unknown_superclass} first choices is unknown: "
                    "they count as wrong, and are not in the table"
                ]
                if self.unknown_superclass
                else []
            ),
            "best classes   " + ", ".join(f"{n} {known[n]:.0f} %" for n in ranked[:-6:-1]),
            "worst classes  " + ", ".join(f"{n} {known[n]:.0f} %" for n in ranked[:5]),
            "",
            f"{'superclass':<32}{'images':>7}{'top-1 %':>9}{'in superclass %':>17}"
            "  most often taken for",
        ]
        names = list(self.per_superclass)
        for row, name in enumerate(names):
            images = self.confusion[row].sum()
            if not images:
                continue
            wrong = self.confusion[row].copy()
            right, wrong[row] = wrong[row], 0
            other = f"{names[wrong.argmax()]} ({wrong.max()})" if wrong.any() else "-"
            lines.append(
                f"{name:<32}{images:>7}{self.per_superclass[name]:>9.1f}"
                f"{100 * right / images:>17.1f}  {other}"
            )
        return "\n".join(lines)


def wilson_interval(right, n, z=1.959964):
    """The 95 % Wilson score interval of a share right/n, in per cent: (low, high).

    Raises ValueError unless n is at least 1 and right lies between 0 and n.
    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927).
    """
    right, n = float(right), float(n)  # NumPy's small whole numbers would overflow
    if not 1 <= n < math.inf:
        raise ValueError(words("an interval needs at least one image, not {n:g}", n=n))
    if not 0 <= right <= n:
        raise ValueError(
            words(
                "the number right must lie between 0 and the {n:g} images, not {right:g}",
                n=n,
                right=right,
            )
        )
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


def student_t(n, confidence=0.95):
    """Student's t of n values, two-sided: what a normal interval's 1.96 becomes where the spread is
    estimated from the same n values. 6 values and 0.95 give 2.5706.

    Raises ValueError for fewer than two values or a confidence that is not between 0 and 1.
    """
    if n < 2 or not 0 < confidence < 1:
        raise ValueError(
            words("Student's t needs at least two values and a confidence between 0 and 1")
        )
    freedom = n - 1

    def inside(angle):
        """The probability between -t and t, t = sqrt(freedom) * tan(angle): a finite sum."""
        term, total = 1.0, 0.0
        odd = freedom % 2
        if odd:
            term = math.cos(angle)
        for k in range(freedom // 2):
            total += term
            term *= math.cos(angle) ** 2 * (2 * k + 1 + odd) / (2 * k + 2 + odd)
        total *= math.sin(angle)
        return 2 / math.pi * (angle + total) if odd else total

    low, high = 0.0, math.pi / 2
    for _ in range(80):  # halved until it is exact
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def mean_interval(values, confidence=0.95):
    """The interval of the mean of at least two values by Student's t: (low, high). Raises
    ValueError for fewer, and for NaN or infinity among them."""
    values = np.asarray(values, float)
    if not np.isfinite(values).all():
        raise ValueError(words("a value is NaN or infinite: there is no interval of these"))
    half = student_t(len(values), confidence) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def verdict(values, margin):
    """The word that differences in pairs earn against a margin, by the rule of this course's second
    round (results/protocol.md):

    "equal": the 90 % interval of the mean lies between -margin and +margin; "equal, not zero": the
    same, and the 95 % interval leaves out 0; "above", "below": the 90 % interval lies beyond the
    margin; "higher", "lower": the 95 % interval leaves out 0, and no more can be said; "undecided".
    """
    (low, high), (low_95, high_95) = mean_interval(values, 0.90), mean_interval(values, 0.95)
    zero = low_95 <= 0 <= high_95
    if -margin < low and high < margin:
        return "equal" if zero else "equal, not zero"
    if low >= margin or high <= -margin:
        return "above" if low >= margin else "below"
    if zero:
        return "undecided"
    return "higher" if low_95 > 0 else "lower"


def predict(network, images, batch_size=256):
    """Logits of uint8 images: (N, 3, 32, 32) -> (N, classes) float32, in inference mode, with the
    normalisation that the network carries."""
    if not isinstance(network, nn.Layer):
        raise TypeError(
            words(
                "a network is wanted, not {kind}: of a run take run.network",
                kind=type(network).__name__,
            )
        )
    if isinstance(images, Split):
        raise TypeError(words("images are wanted, not a Split: take split.images"))
    if not len(images):
        raise ValueError(words("there are no images"))
    if not hasattr(network, "normalization"):
        raise ArgumentError(
            words(
                "the network does not say how its images are normalised: set "
                "network.normalization = (mean, std), three numbers each, of pixels scaled to 0-1"
            )
        )
    batch_size = whole_number("batch_size", batch_size)
    batches = (
        paddle.to_tensor(normalise(images[start : start + batch_size], *network.normalization))
        for start in range(0, len(images), batch_size)
    )
    with inference_mode(network):
        logits = outputs(network, batches, parallel=isinstance(network, ResNet))
    return np.concatenate([batch.numpy() for batch in logits])


def evaluate(network, split, batch_size=256):
    """Evaluate a network on a split in one pass, and return an `Evaluation`.

    Raises ArgumentError, a ValueError, when the network has not one logit per class or gives NaN.
    """
    if not isinstance(split, Split):
        raise TypeError(
            words(
                "a Split is wanted, not {kind}: of an Archive take archive.test",
                kind=type(split).__name__,
            )
        )
    logits = predict(network, split.images, batch_size)
    classes = len(split.fine_names)
    if logits.shape[1] != classes:
        raise ArgumentError(
            words(
                "the network has {count} logits but the data has {classes} classes: build it "
                "with num_classes={classes}",
                count=logits.shape[1],
                classes=classes,
            )
        )
    if np.isnan(logits).any():
        image = int(np.isnan(logits).any(1).argmax())
        raise ArgumentError(
            words(
                "the network gives NaN for image {image}: its weights are damaged or its "
                "training diverged",
                image=image,
            )
        )
    n = len(split)
    ranking = np.argsort(-logits, axis=1, kind="stable")[:, :5]  # (N, classes) -> (N, 5)
    predicted = ranking[:, 0]
    right = predicted == split.fine
    among_five = (ranking == split.fine[:, None]).any(1)
    odds = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    confidence = 1 / odds.sum(1)  # of the first choice, whose odds are 1

    predicted_super = split.superclass_of[predicted]  # -1: unknown
    confusion = np.zeros((len(split.coarse_names),) * 2, np.int64)
    known = predicted_super >= 0
    np.add.at(confusion, (split.coarse[known], predicted_super[known]), 1)

    def by_name(names, labels):
        return {
            name: float(100 * right[labels == i].mean()) if (labels == i).any() else None
            for i, name in enumerate(names)
        }

    return Evaluation(
        images=n,
        top1=100 * float(right.mean()),
        top5=100 * float(among_five.mean()),
        top1_interval=wilson_interval(int(right.sum()), n),
        top5_interval=wilson_interval(int(among_five.sum()), n),
        superclass_top1=100 * float((predicted_super == split.coarse).mean()),
        per_class=by_name(split.fine_names, split.fine),
        per_superclass=by_name(split.coarse_names, split.coarse),
        confusion=confusion,
        predicted=predicted,
        confidence=confidence,
        unknown_superclass=int((~known).sum()),
    )


def weight_shares(gamma):
    """|gamma_i| / sum_j |gamma_j| in NumPy, (C,) -> (C,) float64; all-zero gamma -> 1/C each.

    The W of equations (2) and (3), as `attention.gamma_weights` has it for Paddle's tensors.
    """
    magnitude = np.abs(np.asarray(gamma, np.float64))
    total = magnitude.sum()
    return magnitude / total if total != 0 else np.full(len(magnitude), 1 / len(magnitude))


def gamma_table(history):
    """A text table of the gamma of every NAM layer, from a run's `gamma_history`: before training
    and after the last epoch the mean and spread (standard deviation over the channels) of |gamma|,
    and the smallest and largest weight W times C, which is 1 where all channels weigh the same."""
    lines = [f"{'layer':<18}{'C':>5}{'|gamma|, first':>16}{'|gamma|, last':>16}{'W * C':>17}"]
    for name, rows in history.items():
        first, last = np.abs(rows[0]), np.abs(rows[-1])
        share = weight_shares(last) * len(last)
        lines.append(
            f"{name.replace('.attention', ''):<18}{len(last):>5}"
            f"{first.mean():>7.3f} +- {first.std():.3f}{last.mean():>7.3f} +- {last.std():.3f}"
            f"{share.min():>9.3f} - {share.max():.3f}"
        )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------- the gates


@dataclass(frozen=True)
class Gate:
    """What the gate of one NAM layer does over a set of images.

    low, high: its smallest and largest value. mean, std: over images, channels and pixels.
    per_channel, of a ChannelNAM (C,), or per_pixel, of a SpatialNAM (H*W,): `profile`, the mean
    gate of each; `profile_std` is the spread of these means, and is what a fixed gate could do.
    weights_low, weights_high: of W times the number of channels (pixels): 1 where all are equal.
    """

    low: float
    high: float
    mean: float
    std: float
    profile: np.ndarray
    weights_low: float
    weights_high: float

    @property
    def profile_std(self):
        return float(self.profile.std())


def gates(network, images, batch_size=256):
    """{name of the NAM layer: Gate} over uint8 images (N, 3, H, W), in inference mode; empty for a
    network without NAM."""
    sums, counts = {}, {}

    def watch(name):
        def hook(layer, inputs, _):
            gate = F.sigmoid(layer.logits(inputs[0])).numpy().astype(np.float64)  # (N, C, H, W)
            axes = (0, 2, 3) if isinstance(layer, ChannelNAM) else (0, 1)
            profile = gate.sum(axes).ravel()
            low, high, total, squares, profiles = sums.get(name, (1.0, 0.0, 0.0, 0.0, 0.0))
            # Squares of what differs from 1/2: differences are small beside 1/2 itself.
            sums[name] = (
                min(low, gate.min()),
                max(high, gate.max()),
                total + gate.sum(),
                squares + ((gate - 0.5) ** 2).sum(),
                profiles + profile,
            )
            counts[name] = counts.get(name, 0) + gate.size

        return hook

    layers = dict(nam_layers(network))
    if not layers:
        return {}
    hooks = [layer.register_forward_post_hook(watch(name)) for name, layer in layers.items()]
    try:
        predict(network, images, batch_size)
    finally:
        for hook in hooks:
            hook.remove()
    result = {}
    for name, (low, high, total, squares, profiles) in sums.items():
        mean, n = total / counts[name], len(profiles)
        weights = weight_shares(layers[name].bn.weight.numpy()) * n
        result[name] = Gate(
            float(low),
            float(high),
            mean,
            math.sqrt(max(0.0, squares / counts[name] - (mean - 0.5) ** 2)),
            profiles * n / counts[name],
            float(weights.min()),
            float(weights.max()),
        )
    return result


def gate_maps(network, images, layer, batch_size=256):
    """The gates of one NAM layer, by its name, over uint8 images (N, 3, H, W), in inference mode:
    (N, C, h, w). Raises ValueError where the network has no NAM layer of this name."""
    layers, kept = dict(nam_layers(network)), []
    if not layers:
        raise ValueError(words("the network has no NAM layer"))
    if layer not in layers:
        raise ValueError(
            words(
                "no NAM layer is called {layer!r}: choose one of {names}",
                layer=layer,
                names=", ".join(layers),
            )
        )
    hook = layers[layer].register_forward_post_hook(
        lambda nam, inputs, _: kept.append(F.sigmoid(nam.logits(inputs[0])).numpy())
    )
    try:
        predict(network, images, batch_size)
    finally:
        hook.remove()
    return np.concatenate(kept)


class FixedGate(nn.Layer):
    """gate * x, or without product the gate itself, with numbers that do not depend on x:
    (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, gate, product=True):
        super().__init__()
        self.gate = paddle.to_tensor(gate)
        self.product = product

    def forward(self, x):
        return self.gate * x if self.product else self.gate.expand_as(x)


@contextlib.contextmanager
def _in_place_of(network, layers):
    """Inside, the network has these layers, {name: layer}, in place of its own of those names."""
    before = {}
    try:
        for name, layer in layers.items():
            *path, last = name.split(".")
            parent = network
            for part in path:
                parent = getattr(parent, part)
            before[name] = parent, last, getattr(parent, last)
            setattr(parent, last, layer)
        yield
    finally:
        for parent, last, layer in before.values():
            setattr(parent, last, layer)


def fixed_gates(network, gate=0.5, only=None):
    """Inside `with fixed_gates(network):` the gate of every NAM layer is a constant.

    gate: one number for all, or the `gates` of this network: then each channel (pixel) gets its
    own mean gate, the same for every image. only: the name of the one layer that is meant.
    Raises ValueError for a network without NAM, or another network's `gates`.
    """
    layers, found = {}, dict(nam_layers(network))
    if not found:
        raise ValueError(
            words(
                "the network has no NAM layer, so it has no gate that could be fixed: build it "
                'with attention="nam"'
            )
        )
    if only is not None and only not in found:
        raise ValueError(
            words(
                "no NAM layer is called {layer!r}: choose one of {names}",
                layer=only,
                names=", ".join(found),
            )
        )
    for name, layer in found.items():
        if only not in (None, name):
            continue
        product = not isinstance(layer, ChannelNAMGateOnly)
        if not isinstance(gate, dict):
            constant = np.full((1, 1, 1, 1), gate, np.float32)
            layers[name] = ConstantGate(gate) if product else FixedGate(constant, product)
            continue
        if name not in gate:
            raise ValueError(
                words(
                    "there is no gate for the layer {name!r}: measure the gates of this very "
                    "network",
                    name=name,
                )
            )
        profile = gate[name].profile.astype(np.float32)
        shape = [1, -1, 1, 1] if isinstance(layer, ChannelNAM) else [1, 1, *layer.size]
        layers[name] = FixedGate(profile.reshape(shape), product)
    return _in_place_of(network, layers)


# ----------------------------------------------------------------- the gate of whatever attention


def blocks(network):
    """(name, block) of every residual block of a ResNet."""
    for name, layer in network.named_sublayers():
        if isinstance(layer, (BasicBlock, BottleneckBlock)):
            yield name, layer


def slot_gates(network, images, batch_size=256):
    """{name of the block: (mean, std)} of the gate of its attention, whatever layer that is, over
    uint8 images (N, 3, H, W), all channels and all pixels, in inference mode.

    The gate is what the layer multiplies its map by: output / input, wherever the input is not 0.
    Raises ValueError for a layer that does something other than to multiply its map.
    """
    sums = {}  # of each block: values, their sum, the sum of their squares

    def watch(name):
        def hook(layer, inputs, output):
            x, y = (map_.numpy().astype(np.float64) for map_ in (inputs[0], output))
            seen = x != 0
            gate = y[seen] / x[seen]
            if not np.abs(gate).max(initial=0) < 1000 or np.any(y[~seen]):
                raise ValueError(
                    words(
                        "the attention of {name} is not a gate: its output is not its map times "
                        "moderate numbers, so nothing can be said of what it multiplies by",
                        name=name,
                    )
                )
            # Squares of what differs from 1/2, as in `gates`.
            new = gate.size, gate.sum(), ((gate - 0.5) ** 2).sum()
            sums[name] = [a + b for a, b in zip(sums.get(name, (0, 0.0, 0.0)), new)]

        return hook

    hooks = [
        block.attention.register_forward_post_hook(watch(name)) for name, block in blocks(network)
    ]
    try:
        predict(network, images, batch_size)
    finally:
        for hook in hooks:
            hook.remove()
    result = {}
    for name, (n, total, squares) in sums.items():
        mean = total / n if n else math.nan
        result[name] = mean, math.sqrt(max(0.0, squares / n - (mean - 0.5) ** 2)) if n else 0.0
    return result


def constant_gates(network, values):
    """Inside `with constant_gates(network, 0.5):` the attention of every block, whatever it is, is
    a constant gate. values: one number for all, or {name of the block: number} for some. Raises
    ValueError for other names and values, and for a network without such blocks."""
    names = [name for name, _ in blocks(network)]
    if not names:
        raise ValueError(words("the network has no residual block of nam_edu.resnet with a gate"))
    values = values if isinstance(values, dict) else dict.fromkeys(names, values)
    for name, value in values.items():
        if name not in names:
            raise ValueError(
                words(
                    "no block is called {name!r}: choose one of {names}",
                    name=name,
                    names=", ".join(names),
                )
            )
        if not isinstance(value, Real):
            raise ValueError(
                words("the gate of {name} must be a number, not {value!r}", name=name, value=value)
            )
    return _in_place_of(
        network, {f"{name}.attention": ConstantGate(value) for name, value in values.items()}
    )


# --------------------------------------------------------------------------- channels removed


def importance(block, of="nam"):
    """|gamma| of each channel of a residual branch, (C,): "nam", of its ChannelNAM; "bn", of the
    last ordinary batch norm before it. Raises ValueError for "nam" where the block has none."""
    if of not in ("nam", "bn"):
        raise ValueError(words("unknown importance of={of!r}: choose nam or bn", of=of))
    if of == "bn":
        bn = block.bn3 if isinstance(block, BottleneckBlock) else block.bn2
    else:
        bn = next(
            (layer.bn for _, layer in nam_layers(block.attention) if isinstance(layer, ChannelNAM)),
            None,
        )
        if bn is None:
            raise ValueError(
                words(
                    "the block has no NAM over its channels, so no gamma of NAM says what they "
                    'weigh: choose of="bn" or another network'
                )
            )
    return np.abs(bn.weight.numpy())


def without_channels(network, share, order="lowest", of="nam", seed=0):
    """Inside `with without_channels(network, 0.3):` three tenths of the channels of every residual
    branch are zero.

    A channel is removed by setting the output of the attention module to zero there: a gamma of
    zero would only halve it. order: "lowest" or "highest" `importance` first, or "random"; of:
    "nam" or "bn", see `importance`. In every block the same share.
    Raises ValueError for what it does not know, and for a network without such gammas or blocks.
    """
    if order not in ("lowest", "highest", "random"):
        raise ValueError(
            words("unknown order {order!r}: choose lowest, highest or random", order=order)
        )
    if not 0 <= share <= 1:
        raise ValueError(
            words("the share of the channels must lie between 0 and 1, not {share}", share=share)
        )
    if not any(blocks(network)):
        raise ValueError(
            words("the network has no residual block of nam_edu.resnet to take channels of")
        )
    rng = np.random.default_rng(seed)
    layers = {}
    for name, block in blocks(network):
        scores = importance(block, of) if order != "random" else None
        channels = len(importance(block, "bn"))
        ranking = rng.permutation(channels) if scores is None else np.argsort(scores, kind="stable")
        if order == "highest":
            ranking = ranking[::-1]
        keep = np.ones((1, channels, 1, 1), np.float32)
        keep[0, ranking[: round(share * channels)]] = 0
        layers[f"{name}.attention"] = nn.Sequential(block.attention, FixedGate(keep))
    return _in_place_of(network, layers)
