"""The language in which the course speaks to a learner: English, or one of the catalogues in
`locale/` (GNU gettext), whose messages are the literals that `words` is called with."""

from __future__ import annotations

import functools
import gettext
import os
import re
from pathlib import Path

from .errors import ArgumentError

LOCALE = Path(__file__).resolve().parent.parent / "locale"
LANGUAGES = ("en", "zh")
_chosen = None


def choose_language(name):
    """Speak this language from now on: "en" or "zh"; None stands for NAM_EDU_LANG, or English.
    Raises ArgumentError for another."""
    global _chosen
    refuse_other_languages(name)
    _chosen = name


def refuse_other_languages(name=None):
    """Raise ArgumentError for a language that there is not; None stands for NAM_EDU_LANG."""
    wanted = name if name is not None else os.environ.get("NAM_EDU_LANG")
    if wanted and _short(wanted) not in LANGUAGES:
        what = "language" if name is not None else "NAM_EDU_LANG"
        raise ArgumentError(f"{what} is {wanted!r}: choose one of {', '.join(LANGUAGES)}")


def language():
    """The language in use: the one that was chosen, that of NAM_EDU_LANG, or English."""
    name = _short(_chosen or os.environ.get("NAM_EDU_LANG") or "en")
    return name if name in LANGUAGES else "en"


def _short(name):
    """ "zh" of zh, zh_CN.UTF-8 or zh-CN."""
    return re.split("[-_.]", str(name))[0].lower()


@functools.lru_cache
def catalogue(name):
    """The messages of a language; those that it lacks stay English."""
    return gettext.translation("nam_edu", LOCALE, languages=[name], fallback=True)


def noun(text):
    """A text without {names} in the language in use; English where that lacks it."""
    return catalogue(language()).gettext(text)


def words(message, **values):
    """A message, one plain literal with {names}, in the language in use, with its values put in."""
    return noun(message).format(**values)


def words_in(name, message, **values):
    """The same in a given language, "en" or "zh", for somebody else."""
    return catalogue(name).gettext(message).format(**values)
