"""Lesson 7: does a gate earn its place? Three answers, from pairs of networks over several seeds.

    alive    the gate varies
    used     a constant in its place, without further training, costs accuracy
    useful   the network trained with it beats the one that is trained with a constant

In each pair both networks start from the same weights, and see the same images in the same order.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import math
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
import paddle

from . import plots
from .baselines import ConstantGate, build_attention
from .data import Split, channel_statistics, load_data
from .evaluation import constant_gates, mean_interval, predict, slot_gates
from .findings import ALIVE, MARGIN_2, used, useful
from .machinery.channels_last import check_shape_kept
from .machinery.checks import whole_number
from .machinery.errors import ArgumentError
from .machinery.language import words
from .machinery.progress import counted
from .recipes import OWN, build_network, change, own_name, random_numbers_kept, refuse_no_recipe
from .resnet import resnet
from .training import fit

LOOK = 1000  # images on which the gates are measured


# ---------------------------------------------------------------------------------- the answers


@dataclass(frozen=True)
class Pair:
    """What was found with one seed; accuracies are top-1 in per cent.

    gated, constant: of the network trained with the gate, and of that trained with a constant.
    spread: of the block whose gate varies most, the standard deviation over images, channels and
    pixels. cost: what the network trained with the gate loses where constants take the place of
    its gates, 1/2 in all blocks or each block's mean gate, whichever costs less.
    """

    seed: int
    gated: float
    constant: float
    spread: float
    cost: float


@dataclass(frozen=True)
class Judgement:
    """The pairs, and the three answers that follow from them, by the rules of this course's second
    round (results/protocol.md)."""

    name: str
    pairs: tuple

    @property
    def costs(self):
        """What a constant in place of the gate costs: (pairs,), points of top-1."""
        return np.array([pair.cost for pair in self.pairs])

    @property
    def gains(self):
        """The network with the gate minus the one with the constant: (pairs,), points of top-1."""
        return np.array([pair.gated - pair.constant for pair in self.pairs])

    @property
    def alive(self):
        """ "alive" where the gate varies in every network, "not alive" where in none, or how many
        there are: it varies where its standard deviation is 0.05 or more in some block."""
        varies = sum(pair.spread >= ALIVE for pair in self.pairs)
        if varies in (0, len(self.pairs)):
            return "alive" if varies else "not alive"
        return f"alive in {varies} of {len(self.pairs)}"

    @property
    def used(self):
        """ "used", "not used" or "undecided": see `findings.used`."""
        return used(self.costs)

    @property
    def useful(self):
        """ "useful", "not useful", "undecided" and the like: see `findings.useful`."""
        return useful(self.gains)

    def __str__(self):
        lines = [
            self.name,
            f"{'seed':>6}{'gate':>9}{'constant':>10}{'gain':>8}{'cost':>8}{'spread':>9}",
        ]
        for pair, gain in zip(self.pairs, self.gains):
            lines.append(
                f"{pair.seed:>6}{pair.gated:>9.2f}{pair.constant:>10.2f}"
                f"{gain:>8.2f}{pair.cost:>8.2f}{pair.spread:>9.4f}"
            )
        spreads = [pair.spread for pair in self.pairs]
        lines += [
            f"alive?   {self.alive}: spread {min(spreads):.4f} to {max(spreads):.4f}",
            f"used?    {self.used}: cost {_points(self.costs, 0.90)}",
            f"useful?  {self.useful}: gain {_points(self.gains, 0.95)}",
        ]
        return "\n".join(lines)

    def picture(self):
        """A figure: cost and gain with their intervals, on the band that does not matter."""
        values = {f"cost ({self.used})": self.costs, f"gain ({self.useful})": self.gains}
        return plots.intervals(values, MARGIN_2, f"{self.name}: {self.alive}")


def _points(values, confidence):
    low, high = mean_interval(values, confidence)
    mean, percent = np.mean(values), 100 * confidence
    return f"{mean:.2f} points, {percent:.0f} % interval {low:.2f} to {high:.2f}"


# -------------------------------------------------------------------------------------- the arms


def named(attention):
    """The callable f(channels, size) of an attention: of a name of `ATTENTIONS`, or of a callable.
    It checks what that returns, and has its name, which a recipe keeps."""

    def f(channels, size):
        return build_attention(attention, channels, size)

    f.__qualname__ = (
        attention if isinstance(attention, str) else own_name(attention).removeprefix(OWN)
    )
    return f


def with_own_numbers(f, seed):
    """f, whose layers draw their first weights from random numbers of their own. Whatever they
    draw, the rest of the network starts as it would without them."""
    block = itertools.count(1)

    def attention(channels, size):
        with random_numbers_kept():
            paddle.seed(zlib.crc32(f"{seed} {next(block)}".encode()))
            return f(channels, size)

    attention.__qualname__ = f.__qualname__
    return attention


def slots_of(recipe):
    """The (channels, size) of the attentions in a network of this recipe, each once, as a tuple."""
    return _slots(recipe.depth, recipe.stem, recipe.width)


@functools.lru_cache
def _slots(depth, stem, width):
    found = {}

    def note(channels, size):
        found[channels, tuple(size)] = True
        return ConstantGate(0.5)

    with random_numbers_kept(), paddle.utils.unique_name.guard():
        resnet(depth, attention=note, stem=stem, width=width)
    return tuple(found)


def fingerprint(f, slots=((8, (6, 6)),)):
    """Eight digits that change with what the layers of f compute in these slots: their first
    weights, outputs and gradients on maps of noise. The kept runs of a gate that was changed since
    are not its own.

    Raises ArgumentError for a layer that changes the shape of its map, for one that makes NaN or
    infinity of it, and for one that makes something else of a 0 than 0: it adds, where a gate
    multiplies.
    """
    f, numbers = with_own_numbers(f, 0), []
    with paddle.utils.unique_name.guard(), random_numbers_kept():
        paddle.seed(0)  # for layers that draw random numbers, such as dropout
        for channels, size in slots:
            numbers += _numbers_of(f(channels, size), channels, size)
    return f"{zlib.crc32(' '.join(f'{n:.4g}' for n in numbers).encode()):08x}"


def _numbers_of(layer, channels, size):
    """What tells a layer from others; its weights are changed on the way."""
    rng = np.random.default_rng(0)
    x = paddle.to_tensor(rng.normal(size=(4, channels, *size)).astype(np.float32))
    x.stop_gradient = False
    numbers = [float(p.abs().sum()) for p in layer.parameters()]
    for parameter in layer.parameters():  # a weight that starts at 0 may hide what it multiplies
        noise = rng.normal(size=tuple(parameter.shape)).astype(np.float32)
        if not parameter.stop_gradient:  # else a running variance, which would become negative
            parameter.set_value(parameter + paddle.to_tensor(noise))
    for mode in (layer.train, layer.eval):
        mode()
        y = layer(x)
        check_shape_kept(x, y)
        weights = paddle.to_tensor(rng.normal(size=tuple(x.shape)).astype(np.float32))
        (y * weights).sum().backward()
        slopes = [t.grad for t in (x, *layer.parameters()) if t.grad is not None]
        numbers += [float((y * weights).sum()), *(float(g.abs().sum()) for g in slopes)]
    holes = paddle.to_tensor(rng.random(tuple(x.shape)) < 0.7).astype("float32")
    y = layer(x.detach() * holes)
    if not bool(paddle.isfinite(y).all()):
        raise ArgumentError(
            words(
                "the layer makes NaN or infinity of a map of shape {shape}, some of whose values "
                "are 0: does it divide by 0, or take the standard deviation of one pixel?",
                shape=tuple(x.shape),
            )
        )
    if float((y * (1 - holes)).abs().max()) != 0:
        raise ArgumentError(
            words(
                "the layer adds something to its map: where the map is 0, what it gives out is "
                "not. A gate multiplies the map, and 0 times whatever is 0: let forward return "
                "gate * x"
            )
        )
    return numbers


def first_gate(recipe, f, split, seed):
    """The mean gate of a new network over all its blocks, to three digits: what the gate starts at,
    its own scale. split: the training images."""
    mean, std = channel_statistics(split.images)
    f = with_own_numbers(f, seed)
    mean, std = recipe.mean or mean, recipe.std or std
    recipe = change(recipe, attention=own_name(f), seed=seed, mean=mean, std=std)
    found = slot_gates(build_network(recipe, f), split.images[:LOOK])
    return float(f"{np.mean([mean for mean, _ in found.values()]):.3g}")


def constant_gate(value):
    """The callable of constant gates of this value."""

    def f(channels, size):
        return ConstantGate(value)

    f.__qualname__ = f"constant {value:g}"
    return f


def train_arm(attention, recipe, data, out, seed):
    """The network of a recipe with this attention and this seed, trained, resumed, or opened where
    it is finished. Its folder in `out` has the attention's name, its `fingerprint` and the seed.

    attention, recipe, data: as in `judge`.
    """
    f = named(attention)
    name = re.sub(r"[^\w.]+", "-", f.__qualname__).strip("-")
    folder = Path(out) / f"{name}-{fingerprint(f, slots_of(recipe))}-{seed}"
    f = with_own_numbers(f, seed)
    recipe = change(recipe, attention=own_name(f), seed=seed)
    with contextlib.redirect_stdout(io.StringIO()):  # of a kept run: "is finished"
        return fit(recipe, data, folder, resume=True, progress=False, attention=f).network


# ------------------------------------------------------------------------------------- the judge


def judge(
    attention,
    recipe,
    data=None,
    out="runs/judge",
    *,
    seeds=range(6),
    constant=0.5,
    constant_recipe=None,
    split=None,
):
    """Train pairs of networks, with a gate and with a constant in its place, and return the
    `Judgement`. Runs are kept in `out`: what is there already is opened, or resumed.

    Args:
        attention: f(channels, size) -> Layer, the gate; or a name of `ATTENTIONS`.
        recipe: how all of them are trained; its attention and its seed do not count.
        data: an `Archive`, or what `recipe.data` may be.
        out: a folder; each run has one of its own in it.
        seeds: two whole numbers or more.
        constant: the gate of the others: a number, or "own", the mean gate before training, with
            the first seed. It is one number for all blocks, also where the gates of one block start
            elsewhere than those of another; `slot_gates` of a new network tells.
        constant_recipe: the recipe of the others where it is another one, such as a wider network
            or another learning rate. A network of another width starts from other weights.
        split: the `Split` to judge on; by default the test images. Choose on others beforehand.

    Raises ArgumentError for what cannot be judged, and what `fit` raises.
    """
    refuse_no_recipe(recipe)
    refuse_no_recipe(constant_recipe or recipe)
    if not isinstance(seeds, Iterable) or isinstance(seeds, str):
        raise ArgumentError(
            words("seeds must be a list of whole numbers, not {seeds!r}", seeds=seeds)
        )
    if not isinstance(split, (Split, type(None))):
        raise ArgumentError(
            words(
                "a Split is wanted, not {kind}: of an Archive take archive.test",
                kind=type(split).__name__,
            )
        )
    seeds = [whole_number("each of seeds", seed, 0) for seed in seeds]
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ArgumentError(
            words("a judge needs two seeds or more, each of them once, not {seeds}", seeds=seeds)
        )
    if constant != "own" and not (isinstance(constant, Real) and 0 < constant < math.inf):
        raise ArgumentError(
            words('constant must be a number above 0 or "own", not {constant!r}', constant=constant)
        )
    gate = named(attention)
    fingerprint(gate, slots_of(recipe))  # before anything is trained: it refuses what is no gate
    archive = load_data(recipe.data if data is None else data)
    split = archive.test if split is None else split
    if not len(split):
        raise ArgumentError(words("there are no images"))
    if constant == "own":
        constant = first_gate(recipe, gate, archive.train, seeds[0])
    control = constant_gate(constant)

    def top1(network):
        return 100 * float((predict(network, split.images).argmax(1) == split.fine).mean())

    pairs = []
    for seed in counted(seeds, "pairs"):
        gated = train_arm(gate, recipe, archive, out, seed)
        other = train_arm(control, constant_recipe or recipe, archive, out, seed)
        measured = slot_gates(gated, split.images[:LOOK])
        left = []  # of the accuracy, with constants in place of the gates
        for value in (0.5, {block: mean for block, (mean, _) in measured.items()}):
            with constant_gates(gated, value):
                left.append(top1(gated))
        accuracy, spread = top1(gated), max(std for _, std in measured.values())
        pairs.append(Pair(seed, accuracy, top1(other), spread, accuracy - max(left)))
    return Judgement(gate.__qualname__, tuple(pairs))
