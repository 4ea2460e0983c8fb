"""Lesson 4: everything that decides how a network is trained, and the recipes of the course."""
from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import paddle

from .baselines import ATTENTIONS
from .data import CIFAR100_MEAN, CIFAR100_STD
from .machinery.errors import TrainingError
from .resnet import DEPTHS, STEMS, resnet


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained. Frozen; saved beside the run.

    Rates and factors are plain numbers, `rotation` is in degrees, `crop_padding` in pixels,
    `warmup_steps` in batches, `milestones` and `epochs` in epochs. `mean` and `std` are per colour
    of pixels scaled to 0-1; None takes those of the training images.
    """

    name: str
    data: str                      # "cifar100", "shapes100" or the path of an archive
    depth: int = 18
    width: int = 64
    stem: str = "imagenet"
    attention: str = "nam"
    epochs: int = 1
    batch_size: int = 128
    learning_rate: float = 0.1
    schedule: str = "cosine"       # "constant", "cosine" or "multistep"; by epoch, after warm-up
    milestones: tuple = ()         # of "multistep": the rate is multiplied by `decay` at each
    decay: float = 0.2
    warmup_steps: int = 0          # the rate grows in a straight line from 0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    amp: bool = False              # mixed precision; on a GPU only
    decay_gamma: bool = True       # whether weight decay acts on NAM's own scale factors too
    penalty: float = 0.0           # p of equation (4)
    crop_padding: int = 4
    flip: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    rotation: float = 0.0
    mean: tuple | None = None
    std: tuple | None = None
    train_images: int = 0          # train on so many images only; 0 is all
    validation: int = 0            # images cut from the training set to choose the best epoch
    seed: int = 0

    def __post_init__(self):
        for name, choices in (("depth", DEPTHS), ("stem", STEMS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in choices:
                raise TrainingError(f"unknown {name} {getattr(self, name)!r}: choose one of "
                                    f"{', '.join(map(str, choices))}")
        if self.attention not in ATTENTIONS:
            raise TrainingError(f"unknown attention {self.attention!r}: choose one of "
                                f"{', '.join(ATTENTIONS)}")
        for name, low in (("epochs", 1), ("batch_size", 1), ("width", 1), ("warmup_steps", 0),
                          ("crop_padding", 0), ("train_images", 0), ("validation", 0),
                          ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise TrainingError(f"{name} must be a whole number of at least {low}, "
                                    f"not {value!r}")
        for name in ("learning_rate", "decay", "momentum", "weight_decay", "penalty", "brightness",
                     "contrast", "rotation"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise TrainingError(f"{name} must be a number of at least 0, not {value!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None and (len(value) != 3 or not all(map(math.isfinite, value))
                                      or (name == "std" and min(value) <= 0)):
                raise TrainingError(f"{name} must be three numbers, one per colour, not {value!r}")
        # JSON and the command line give lists.
        for name in ("mean", "std", "milestones"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def __str__(self):
        width = max(len(f.name) for f in dataclasses.fields(self))
        return "\n".join(f"{f.name:<{width}}  {getattr(self, f.name)}"
                         for f in dataclasses.fields(self))


SCHEDULES = ("constant", "cosine", "multistep")

RECIPES = {r.name: r for r in (
    # All settings of the original tutorial (AI Studio project 4204121), its std included.
    Recipe("tutorial", "cifar100", depth=50, epochs=300, learning_rate=0.001, warmup_steps=2000,
           brightness=0.1, contrast=0.1, rotation=15.0, mean=CIFAR100_MEAN,
           std=(0.1942, 0.1918, 0.1958)),
    # The authors' released script (Christian-lyc/NAM), its CIFAR-10 mean and std included. Its
    # penalty changes no gradient as released, so here it is 0.
    Recipe("official", "cifar100", depth=50, stem="cifar", attention="nam-detached", epochs=200,
           schedule="multistep", milestones=(60, 120, 160), mean=(0.4914, 0.4822, 0.4465),
           std=(0.2023, 0.1994, 0.2010)),
    # The networks of nam_edu/weights: this one, and its twin with attention="none".
    Recipe("shipped", "cifar100", width=12, stem="cifar", epochs=20, nesterov=True,
           mean=CIFAR100_MEAN, std=CIFAR100_STD),
    # Half a minute on two cores of a server with AVX-512 (29 s measured).
    Recipe("quick", "shapes100", width=16, epochs=12, nesterov=True, crop_padding=2,
           validation=1000),
    # Seconds: for tests and for notebooks in continuous integration.
    Recipe("ci", "shapes100", width=8, epochs=2, nesterov=True, crop_padding=2, train_images=1280,
           validation=256),
)}


def recipe(name, **changes):
    """The recipe of this name, with the given fields changed: recipe("quick", epochs=3).

    Raises TrainingError for an unknown recipe or field, or a value that cannot be.
    """
    if name not in RECIPES:
        raise TrainingError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return change(RECIPES[name], **changes)


def change(base, **changes):
    """A copy of a recipe with some fields changed."""
    fields = [f.name for f in dataclasses.fields(Recipe)]
    unknown = [name for name in changes if name not in fields]
    if unknown:
        raise TrainingError(f"a recipe has no field {unknown[0]!r}; its fields are "
                            f"{', '.join(fields)}")
    return dataclasses.replace(base, **changes)


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


def build_network(recipe):
    """The network of a recipe, weights drawn with its seed."""
    paddle.seed(recipe.seed)
    network = resnet(recipe.depth, attention=recipe.attention, stem=recipe.stem,
                     width=recipe.width)
    if recipe.mean is not None and recipe.std is not None:
        network.normalization = (recipe.mean, recipe.std)
    return network
