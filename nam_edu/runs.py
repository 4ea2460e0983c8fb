"""Lessons 4 to 6: a run folder opened again, and the runs that come with the package."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from . import checkpoint
from .machinery.errors import TrainingError
from .machinery.files import named
from .machinery.language import words
from .machinery.run_folder import newest_state, read_about
from .recipes import RECIPES, Recipe, build_network, choose_attention, recipe_of


@dataclass(frozen=True)
class Run:
    """A run folder, opened.

    folder: its path. recipe: the recipe as trained, mean and std filled in. log: one dictionary
    per epoch (columns of log.csv; accuracies in per cent). gamma_history: for every NAM layer an
    array (epochs + 1, C), the first row from before training. network: with the weights of the
    last epoch. best: with those of the best epoch on the validation split (of the last epoch in a
    run without one). attention: the callable that the network was built with, where it is not in
    the registry; without it network and best raise TrainingError.
    """

    folder: Path
    recipe: Recipe
    log: list
    gamma_history: dict
    about: dict
    attention: object = None

    def __post_init__(self):
        object.__setattr__(self, "_at", self.folder.absolute())  # wherever Python goes later

    @cached_property
    def network(self):
        self._refuse_another_run()
        state = newest_state(self._at)
        if state is None:
            raise self._gone()
        return self._load(*state)

    @cached_property
    def best(self):
        self._refuse_another_run()
        path = self._at / "best.npz"
        return self._load(*checkpoint.read_weights(path)) if path.exists() else self.network

    def _refuse_another_run(self):
        """Weights are read when they are asked for: by then the folder may be gone, or hold the
        weights of a later run."""
        if not (self._at / "run.json").exists() or read_about(self._at) != self.about:
            raise self._gone()

    def _gone(self):
        return TrainingError(
            words(
                "{folder} does not hold this run any more: ask for its network before "
                "another run takes the folder, or train that into a folder of its own (out=)",
                folder=self.folder,
            )
        )

    def _load(self, arrays, meta):
        network = build_network(self.recipe, self.attention)
        checkpoint.assign_all(network, checkpoint.weights_of(arrays), self.folder)
        network.eval()
        return network


def open_run(folder, attention=None):
    """Open the folder of a run, finished or not, and return a `Run`.

    attention: the callable of a run whose attention is not in the registry; log and gamma history
    can be read without it. Raises TrainingError where there is no run, nothing was saved yet, or
    the callable is not the one that the run was trained with.
    """
    folder = named(folder)
    about = read_about(folder)
    state = newest_state(folder)
    if state is None:
        raise TrainingError(
            words(
                "the run in {folder} has not saved an epoch yet: continue it with --resume "
                "(resume=True)",
                folder=folder,
            )
        )
    recipe = recipe_of(about["recipe"])
    if attention is not None:
        choose_attention(recipe, attention)
    arrays, meta = state
    history = {name[len("gamma/") :]: a for name, a in arrays.items() if name.startswith("gamma/")}
    return Run(folder, recipe, meta["log"], history, about, attention)


def saved_recipe(folder):
    """The recipe of the run in a folder; raises TrainingError where there is none."""
    return recipe_of(read_about(named(folder))["recipe"])


SHIPPED_NAMES = ("shipped", "shipped-none")  # of the command line
SHIPPED = Path(__file__).resolve().parent / "weights"  # the runs that come with the package


def shipped(attention="nam"):
    """The `Run` that comes with the package: trained on CIFAR-100 by the recipe "shipped", with
    "nam" or "none". Its weights are rounded to float16; the README in its folder tells how it was
    made.
    """
    if not (SHIPPED / attention).is_dir():
        raise TrainingError(
            words(
                "no run with attention {attention!r} comes with the package: there is {names}",
                attention=attention,
                names=" and ".join(sorted(p.name for p in SHIPPED.glob("*"))),
            )
        )
    return open_run(SHIPPED / attention)


def load_network(path, attention=None):
    """The network of a weights file and its recipe: (network, Recipe).

    "shipped" and "shipped-none" are those that come with the package (see `shipped`). An .npz of
    this package carries its recipe; any other file is taken for the original tutorial's
    ResNet-50-NAM. attention: the callable of a network whose attention is not in the registry.
    Raises CheckpointError, and TrainingError without that callable.
    """
    if path in SHIPPED_NAMES:
        run = shipped("none" if path == "shipped-none" else "nam")
        return run.network, run.recipe
    arrays, meta = checkpoint.read_weights(path)
    try:
        recipe = recipe_of(meta["recipe"]) if "recipe" in meta else RECIPES["tutorial"]
    except (TypeError, ValueError) as error:
        raise checkpoint.CheckpointError(
            words("{path}: its recipe cannot be used: {error}", path=path, error=error)
        ) from None
    network = build_network(recipe, attention)
    try:
        checkpoint.assign_all(network, arrays, path)
    except checkpoint.CheckpointError:
        if "recipe" in meta or Path(path).suffix != ".npz":
            raise
        raise checkpoint.CheckpointError(
            words(
                "{path} carries no recipe, and is not of the original tutorial's network: give the "
                "folder of its run, or save it with its recipe, {how}",
                path=path,
                how="save_weights(network, path, {'recipe': dataclasses.asdict(recipe)})",
            )
        ) from None
    network.eval()
    return network, recipe
