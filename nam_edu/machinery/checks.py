"""Checks of values that a person gives: whole numbers, and the settings of a recipe.

A setting is declared once, as a field of a dataclass: `setting` keeps its kind, its help and its
range in the field's metadata. `checked` reads a value by them, `option` makes an option of the
command line from them.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from numbers import Integral, Real

import numpy as np

from .errors import ArgumentError, TrainingError
from .language import words


def whole_number(name, value, low=1, high=None, error=ArgumentError):
    """`value` as an int, if it is a whole number from low to high; Python's and NumPy's integers
    are, True and 3.0 are not. Raises `error`, which names the argument."""
    if (
        isinstance(value, bool)
        or not isinstance(value, Integral)
        or value < low
        or (high is not None and value > high)
    ):
        limits = (
            words("at least {low}", low=low)
            if high is None
            else words("{low} to {high}", low=low, high=high)
        )
        raise error(
            words(
                "{name} must be a whole number of {limits}, not {value!r}",
                name=name,
                limits=limits,
                value=value,
            )
        )
    return int(value)


def number(name, value, low=0, error=ArgumentError):
    """`value` as a float, if it is a finite number of at least `low`. Raises `error`, which names
    the argument."""
    if not _is_number(value) or value < low:
        raise error(
            words(
                "{name} must be a number of at least {low}, not {value!r}",
                name=name,
                low=low,
                value=value,
            )
        )
    return float(value)


def _is_number(value):
    """Whether a value is a finite number: True and "3" are none."""
    try:
        return (
            isinstance(value, Real)
            and not isinstance(value, (bool, np.bool_))
            and math.isfinite(value)
        )
    except OverflowError:  # an int beyond every float
        return False


# ---------------------------------------------------------------------------------- settings


def setting(kind, default=dataclasses.MISSING, help="", **limits):
    """A field of a dataclass. Kinds and their limits:

    "whole" (low, high), "number" (low), "switch", "text", "choice" (choices; or_prefix: what other
    names start with), "epochs" (a tuple of whole numbers), "colours" (three numbers or None; above:
    what each must exceed).
    """
    return dataclasses.field(default=default, metadata={"kind": kind, "help": help, **limits})


def checked(field, value):
    """The value as the field keeps it; raises TrainingError where the field cannot take it."""
    return _CHECKS[field.metadata["kind"]](field.name, value, field.metadata)


def _whole(name, value, limits):
    return whole_number(name, value, limits.get("low", 0), limits.get("high"), TrainingError)


def _number(name, value, limits):
    return number(name, value, limits.get("low", 0), TrainingError)


def _switch(name, value, limits):
    if not isinstance(value, (bool, np.bool_)):
        raise TrainingError(
            words("{name} must be True or False, not {value!r}", name=name, value=value)
        )
    return bool(value)


def _text(name, value, limits):
    if not isinstance(value, (str, os.PathLike)):
        raise TrainingError(words("{name} must be a text, not {value!r}", name=name, value=value))
    return os.fspath(value)


def _choice(name, value, limits):
    choices, prefix = list(limits["choices"]), limits.get("or_prefix")
    if isinstance(value, (str, Integral)) and not isinstance(value, bool):
        if value in choices:
            return choices[choices.index(value)]
        if prefix is not None and isinstance(value, str) and value.startswith(prefix):
            return value
    raise TrainingError(
        words(
            "unknown {name} {value!r}: choose one of {names}",
            name=name,
            value=value,
            names=", ".join(map(str, choices)),
        )
    )


def _epochs(name, value, limits):
    if not isinstance(value, (tuple, list, np.ndarray)):
        raise TrainingError(
            words("{name} must be a list of whole numbers, not {value!r}", name=name, value=value)
        )
    return tuple(
        whole_number(words("each of {name}", name=name), v, 0, None, TrainingError) for v in value
    )


def _colours(name, value, limits):
    if value is None:
        return None
    above = limits.get("above", -math.inf)
    if (
        not isinstance(value, (tuple, list, np.ndarray))
        or len(value) != 3
        or not all(_is_number(v) and v > above for v in value)
    ):
        limit = "" if above == -math.inf else words(" above {above}", above=above)
        raise TrainingError(
            words(
                "{name} must be three numbers{limit}, one per colour, not {value!r}",
                name=name,
                limit=limit,
                value=value,
            )
        )
    return tuple(float(v) for v in value)


_CHECKS = {
    "whole": _whole,
    "number": _number,
    "switch": _switch,
    "text": _text,
    "choice": _choice,
    "epochs": _epochs,
    "colours": _colours,
}


# --------------------------------------------------------------------------------- options

_OPTIONS = {
    "whole": dict(type=int, metavar="INT"),
    "number": dict(type=float, metavar="FLOAT"),
    "switch": dict(action=argparse.BooleanOptionalAction),
    "text": dict(metavar="TEXT"),
    "epochs": dict(type=int, nargs="*", metavar="EPOCH"),
    "colours": dict(type=float, nargs=3, metavar="X"),
}


def option(field):
    """(name, keyword arguments of `add_argument`) of the option that changes a field."""
    kind, text = field.metadata["kind"], field.metadata["help"]
    if kind == "choice":
        *most, last = choices = list(field.metadata["choices"])
        text += f": {', '.join(map(str, most))} or {last}"
        kind = {str: "text", int: "whole"}[type(choices[0])]
    return (
        f"--{field.name.replace('_', '-')}",
        {**_OPTIONS[kind], "default": None, "help": text.replace("%", "%%")},
    )
