"""Lesson 4: everything that decides how a network is trained, and the recipes of the course."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from dataclasses import dataclass

import paddle
import paddle.nn as nn

from .baselines import ATTENTIONS
from .data import CIFAR100_MEAN, CIFAR100_STD
from .machinery.checks import checked, setting
from .machinery.errors import TrainingError
from .machinery.language import words
from .resnet import DEPTHS, STEMS, BasicBlock, BottleneckBlock, resnet

SCHEDULES = ("constant", "cosine", "multistep")
OWN = "own: "  # what the name of an attention that is not in the registry starts with


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained. Frozen; saved beside the run.

    Each field says of what kind it is, its default, its meaning and its range; the checks and the
    command line's options are made from that. Rates and factors are plain numbers. `mean` and `std`
    are per colour of pixels scaled to 0-1; None takes those of the training images.
    """

    name: str = setting("text")
    data: str = setting("text", help="cifar100, shapes100 or the path of an archive")
    depth: int = setting("choice", 18, "layers", choices=DEPTHS)
    width: int = setting("whole", 64, "channels of the first stage", low=1)
    stem: str = setting("choice", "imagenet", "7x7, stride 2, max-pool; or 3x3", choices=STEMS)
    attention: str = setting(
        "choice", "nam", "the module in every block", choices=ATTENTIONS, or_prefix=OWN
    )
    epochs: int = setting("whole", 1, "passes over the training images", low=1)
    batch_size: int = setting("whole", 128, "images per step", low=1)
    learning_rate: float = setting("number", 0.1, "the rate at its highest")
    schedule: str = setting(
        "choice", "cosine", "of the rate, by epoch, after the warm-up", choices=SCHEDULES
    )
    milestones: tuple = setting(
        "epochs", (), "epochs at which multistep multiplies the rate by decay"
    )
    decay: float = setting("number", 0.2, "factor of multistep")
    warmup_steps: int = setting(
        "whole", 0, "batches in which the rate grows in a straight line from 0"
    )
    momentum: float = setting("number", 0.9, "of the optimizer")
    nesterov: bool = setting("switch", False, "Nesterov's momentum")
    weight_decay: float = setting("number", 5e-4, "L2 penalty on all parameters")
    gamma_decay: float = setting(
        "number",
        1.0,
        "factor on the weight decay of NAM's own gamma and lambda; 0 leaves them alone",
    )
    last_gamma: float = setting(
        "number", 1.0, "where the scale of the last batch norm of every residual branch starts"
    )
    amp: bool = setting("switch", False, "mixed precision, on a GPU only")
    penalty: float = setting(
        "number", 0.0, "p of equation (4): weight of sum |gamma| + sum |lambda|"
    )
    crop_padding: int = setting(
        "whole", 4, "pixels of border for the random crop; 0 switches it off"
    )
    flip: bool = setting("switch", True, "mirror images at random")
    brightness: float = setting("number", 0.0, "change by up to this share")
    contrast: float = setting("number", 0.0, "change by up to this share")
    rotation: float = setting("number", 0.0, "turn by up to so many degrees")
    mean: tuple | None = setting(
        "colours", None, "three numbers, of pixels scaled to 0-1; default: the training images'"
    )
    std: tuple | None = setting("colours", None, "three numbers, likewise", above=0)
    train_images: int = setting("whole", 0, "train on so many images only; 0 is all")
    validation: int = setting(
        "whole", 0, "images cut from the training set to choose the best epoch"
    )
    seed: int = setting("whole", 0, "of weights, order and augmentation", high=2**32 - 1)

    def __post_init__(self):
        if callable(self.attention):
            raise TrainingError(
                words(
                    "a recipe keeps names only: give an attention of your own to fit(recipe, "
                    "attention=...) or build_network"
                )
            )
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(field, getattr(self, field.name)))

    def __str__(self):
        width = max(len(f.name) for f in dataclasses.fields(self))
        return "\n".join(
            f"{f.name:<{width}}  {getattr(self, f.name)}" for f in dataclasses.fields(self)
        )


RECIPES = {
    r.name: r
    for r in (
        # All settings of the original tutorial (AI Studio project 4204121), its std included.
        Recipe(
            "tutorial",
            "cifar100",
            depth=50,
            epochs=300,
            learning_rate=0.001,
            warmup_steps=2000,
            brightness=0.1,
            contrast=0.1,
            rotation=15.0,
            mean=CIFAR100_MEAN,
            std=(0.1942, 0.1918, 0.1958),
        ),
        # The authors' released script (Christian-lyc/NAM), its CIFAR-10 mean and std included. Its
        # penalty changes no gradient as released, so here it is 0.
        Recipe(
            "official",
            "cifar100",
            depth=50,
            stem="cifar",
            attention="nam-detached",
            epochs=200,
            schedule="multistep",
            milestones=(60, 120, 160),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
        ),
        # The networks of nam_edu/weights: this one, and its twin with attention="none".
        Recipe(
            "shipped",
            "cifar100",
            width=12,
            stem="cifar",
            epochs=20,
            nesterov=True,
            mean=CIFAR100_MEAN,
            std=CIFAR100_STD,
        ),
        # Half a minute on two cores of a server with AVX-512 (29 s measured).
        Recipe(
            "quick",
            "shapes100",
            width=16,
            epochs=12,
            nesterov=True,
            crop_padding=2,
            validation=1000,
        ),
        # Seconds: for tests and for notebooks in continuous integration.
        Recipe(
            "ci",
            "shapes100",
            width=8,
            epochs=2,
            nesterov=True,
            crop_padding=2,
            train_images=1280,
            validation=256,
        ),
    )
}


def recipe(name, **changes):
    """The recipe of this name, with the given fields changed: recipe("quick", epochs=3).

    Raises TrainingError for an unknown recipe or field, or a value out of its range.
    """
    if name not in RECIPES:
        raise TrainingError(
            words(
                "unknown recipe {name!r}: choose one of {names}",
                name=name,
                names=", ".join(RECIPES),
            )
        )
    return change(RECIPES[name], **changes)


def refuse_no_recipe(recipe):
    """Raise TrainingError for anything but a `Recipe`, such as the name of one."""
    if not isinstance(recipe, Recipe):
        raise TrainingError(
            words(
                'recipe must be a Recipe, as recipe("quick") gives one, not {kind}',
                kind=type(recipe).__name__,
            )
        )


def change(base, **changes):
    """A copy of a recipe with some fields changed."""
    changes = _renamed(changes)
    fields = [f.name for f in dataclasses.fields(Recipe)]
    unknown = [name for name in changes if name not in fields]
    if unknown:
        raise TrainingError(
            words(
                "a recipe has no field {unknown!r}; its fields are {names}",
                unknown=unknown[0],
                names=", ".join(fields),
            )
        )
    return dataclasses.replace(base, **changes)


def recipe_of(values):
    """The `Recipe` of a dictionary of plain values, as a run folder keeps it; fields that an older
    version of this package named otherwise are translated.

    Raises TrainingError for a value out of its range, TypeError for an unknown or missing field.
    """
    return Recipe(**_renamed(values))


def _renamed(values):
    values = dict(values)
    if "decay_gamma" in values:  # until version 0.1 a switch
        decays = values.pop("decay_gamma")
        if not isinstance(decays, bool):
            raise TrainingError(
                words("decay_gamma must be True or False, not {decays!r}", decays=decays)
            )
        values["gamma_decay"] = float(decays)
    return values


def learning_rate(recipe, step, steps_per_epoch):
    """The learning rate of a step, counted from 0 over the whole run.

    Warm-up goes by step, in a straight line from 0; then the schedule goes by epoch, counted from
    the epoch in which the warm-up ended, as in the original tutorial. A run that is shorter than
    its warm-up stays on that line.
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * step / recipe.warmup_steps
    epoch = step // steps_per_epoch - max(recipe.warmup_steps - 1, 0) // steps_per_epoch
    if recipe.schedule == "cosine":
        return recipe.learning_rate * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
    if recipe.schedule == "multistep":
        passed = sum(epoch >= milestone for milestone in recipe.milestones)
        return recipe.learning_rate * recipe.decay**passed
    return recipe.learning_rate


# ----------------------------------------------------------------------------------- network


def own_name(attention):
    """What a recipe calls a callable attention that is not in the registry: "own: " and its
    qualified name; of a `functools.partial` also the arguments it fixes."""
    if isinstance(attention, nn.Layer) or not callable(attention):
        raise TrainingError(
            words(
                "attention must be a callable f(channels, size) that returns a new "
                "paddle.nn.Layer, not {described}",
                described=_described(attention),
            )
        )
    return OWN + _qualified_name(attention)


def _described(attention):
    if isinstance(attention, nn.Layer):
        return f"a {type(attention).__name__} that is built already: every block needs its own"
    if isinstance(attention, str):
        return f"a name: put it into the recipe, recipe(..., attention={attention!r})"
    return repr(attention)


def _qualified_name(f):
    if isinstance(f, functools.partial):

        def said(value):  # of a function the name: its repr has an address
            return _qualified_name(value) if callable(value) else repr(value)

        fixed = [*map(said, f.args), *(f"{k}={said(v)}" for k, v in f.keywords.items())]
        return f"{_qualified_name(f.func)}({', '.join(fixed)})"
    return getattr(f, "__qualname__", None) or type(f).__qualname__


def choose_attention(recipe, attention):
    """What to build the blocks of a recipe with: the callable that was handed over, or the name in
    the recipe.

    Raises TrainingError where the recipe's attention is not in the registry and its callable was
    not handed over, or another one was.
    """
    if attention is None:
        if recipe.attention.startswith(OWN):
            name = recipe.attention[len(OWN) :]
            raise TrainingError(
                words(
                    "the attention of this network, {name}, is not in the registry: go on in "
                    "Python and hand over the callable it was built with, attention=... (fit, "
                    "open_run, build_network)",
                    name=name,
                )
            )
        return recipe.attention
    given = own_name(attention)
    if given != recipe.attention:
        raise TrainingError(
            words(
                "the attention of this network is {attention!r}, not {given!r}: hand over the "
                "callable it was built with, or none where it is in the registry",
                attention=recipe.attention,
                given=given,
            )
        )
    return attention


@contextlib.contextmanager
def random_numbers_kept():
    """Inside, Paddle's global random numbers may be seeded and drawn; afterwards they go on as if
    nothing had happened."""
    cpu = paddle.base.core.default_cpu_generator()
    kept, gpus = cpu.get_state(), paddle.get_cuda_rng_state()  # an empty list without a GPU
    try:
        yield
    finally:
        cpu.set_state(kept)
        paddle.set_cuda_rng_state(gpus)


def build_network(recipe, attention=None):
    """The network of a recipe, weights drawn with its seed; Paddle's global random numbers go on as
    if none had been drawn.

    attention: the callable f(channels, size) -> Layer of a recipe whose attention is not in the
    registry ("own: ..."). Raises TrainingError without it, or with another one.
    """
    with random_numbers_kept():
        paddle.seed(recipe.seed)
        network = resnet(
            recipe.depth,
            attention=choose_attention(recipe, attention),
            stem=recipe.stem,
            width=recipe.width,
        )
    if recipe.last_gamma != 1:
        for block in network.sublayers():
            if isinstance(block, (BasicBlock, BottleneckBlock)):
                last = block.bn3 if isinstance(block, BottleneckBlock) else block.bn2
                last.weight.set_value(paddle.full_like(last.weight, recipe.last_gamma))
    if recipe.mean is not None and recipe.std is not None:
        network.normalization = (recipe.mean, recipe.std)
    return network
