"""All lessons: the checkers of the exercises; check("1.1", your_answer) says what is wrong with an
answer, and never raises."""

from . import (  # noqa: F401, they register
    lesson1,
    lesson2,
    lesson3,
    lesson4,
    lesson5,
    lesson6,
    lesson7,
)
from .checking import CHECKERS, check

__all__ = ["CHECKERS", "check"]
