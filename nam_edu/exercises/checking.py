"""All lessons: what the checkers of the exercises share.

A checker is registered for the number of its exercise, takes the answer, and either raises `Wrong`
or returns `right`. The first argument of both is the whole message as one plain literal, with
{names} where values go in: the catalogues of `locale/` translate these literals.
"""

from __future__ import annotations

import copy
import warnings

import numpy as np

from ..machinery.language import words

CHECKERS = {}


class Wrong(Exception):
    """What is wrong with an answer: a literal message, and the values for its {names}."""

    def __init__(self, message, **values):
        super().__init__(message)
        self.message, self.values = message, values

    def __str__(self):
        return words(self.message, **self.values)


def right(message, **values):
    """What a checker returns for a right answer."""
    return words(message, **values)


def check(number, answer):
    """Check an answer to exercise `number` ("1.1"), print what is wrong or that it is right, and
    return True or False."""
    number = str(number).strip()
    if number not in CHECKERS:
        there = ", ".join(CHECKERS)
        print(
            words("There is no exercise {number!r}; there are {there}.", number=number, there=there)
        )
        return False
    try:
        praise = CHECKERS[number](answer)
    except Wrong as wrong:
        print(f"✗ {number}: {wrong}")
        return False
    except Exception as error:  # raised by the answer; a learner wants the sentence, not the trace
        print(f"✗ {number}: {_of_error(error)}")
        return False
    print(f"✓ {number}: {praise}")
    return True


def _of_error(error):
    kind, lines = type(error).__name__, [line for line in str(error).splitlines() if line.strip()]
    # Paddle's errors are a page long; the line that matters names the kind in brackets.
    said = next((line for line in lines if line.startswith("(")), lines[0] if lines else "")
    if "broadcast" in str(error).lower():
        return words(
            "your code raised {kind}: {said} (The shapes do not fit. Is a reshape missing? "
            "To meet a map, a vector (C,) needs the shape (1, C, 1, 1).)",
            kind=kind,
            said=said,
        )
    return words("your code raised {kind}: {said}", kind=kind, said=said)


def checker(number):
    """Register the checker of an exercise."""

    def register(function):
        CHECKERS[number] = function
        return function

    return register


def is_open(answer):
    """Whether an answer, or a part of it, was left as the dots of the stub."""
    if isinstance(answer, (list, tuple)):
        return any(is_open(part) for part in answer)
    return answer is Ellipsis


def closed(answer):
    """The answer, which must have been given."""
    if answer is None or is_open(answer):
        raise Wrong("not solved yet: put your answer in place of the dots")
    return answer


def call(answer, *inputs):
    """answer(*inputs), which must be something. Arrays are copied before they are given away."""
    closed(answer)
    if not callable(answer):
        raise Wrong(
            "write a function and give its name without calling it: check got {kind} instead",
            kind=type(answer).__name__,
        )
    if hasattr(answer, "sublayers") and not isinstance(answer, type):
        raise Wrong("that is a layer, built already: give the function or the class that builds it")
    result = answer(*(_copied(value) for value in inputs))
    if result is None or (isinstance(result, (list, tuple)) and any(r is None for r in result)):
        raise Wrong("your function gives back None: is a `return` missing, or a value after it?")
    return closed(result)


def _copied(value):
    plain = isinstance(value, (np.ndarray, list, dict))
    return copy.deepcopy(value) if plain else value


def numbers(result, shape=None):
    """A result as a float64 array; `shape` is the shape it should have."""
    closed(result)
    if callable(result):
        raise Wrong("a number or an array is wanted, not a function or a class")
    try:
        if hasattr(result, "numpy"):
            result = result.numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = np.asarray(result, np.float64)
            if np.asarray(result).dtype.kind in "US":
                raise TypeError  # NumPy would read "3" as a number
    except (TypeError, ValueError, OverflowError):
        raise Wrong(
            "a number or an array is wanted, not {kind}", kind=type(result).__name__
        ) from None
    if shape is None or values.shape == tuple(shape):
        return values
    if shape == () and values.size == 1:
        return values.reshape(())
    if shape == ():
        raise Wrong("one number is wanted, not an array of shape {got}", got=values.shape)
    if values.size == np.prod(shape):
        raise Wrong(
            "the result has shape {got}, it should have {shape}: the count of the values is right, "
            "so a reshape or a transpose may be missing",
            got=values.shape,
            shape=tuple(shape),
        )
    raise Wrong(
        "the result has shape {got}, it should have {shape}", got=values.shape, shape=tuple(shape)
    )


def finite(values):
    """The values, none of which may be NaN or infinite."""
    if not np.isfinite(values).all():
        raise Wrong("a finite number is wanted; NaN or infinity came out")
    return values


def number(result):
    """A result as one finite float."""
    return float(finite(numbers(result, shape=())))


def whole(result):
    """A result as an int."""
    value = number(result)
    if value != int(value):
        raise Wrong("a whole number is wanted, not {value:.6g}", value=value)
    return int(value)


def parts(result, count, shape):
    """The `count` arrays that an answer returned, as one (count, ...)."""
    try:
        found = list(result)
    except TypeError:
        found = []
    if len(found) != count or isinstance(result, (str, dict, set)):
        raise Wrong("{count} results are wanted, with commas between them", count=count)
    return finite(np.stack([numbers(part, shape=shape) for part in found]))


def same(result, want, tolerance=1e-5):
    """Whether two arrays are alike in shape and values."""
    return result.shape == want.shape and np.allclose(result, want, rtol=tolerance, atol=tolerance)


def refuse(result, mistakes, tolerance=1e-5):
    """Raise the `Wrong` of the first of [(what a mistake gives, Wrong), ...] that is the result."""
    for values, wrong in mistakes:
        if same(result, np.asarray(values, np.float64), tolerance):
            raise wrong
