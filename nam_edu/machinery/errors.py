"""The errors that speak to a person: what is wrong, where, and what to do."""

from __future__ import annotations

import os
import shlex
import subprocess


class NamEduError(ValueError):
    """The base class of this package's own errors; the command line prints them in one line."""


class ArgumentError(NamEduError):
    """An argument with a value that it cannot take; says which values it can."""


class TrainingError(NamEduError):
    """A recipe, run folder or run that cannot go on; says why and what to do."""


class Stopped(TrainingError):
    """A run that was asked to stop (Ctrl-C, SIGTERM) and saved its state.

    signal: its number. done: how far the run had come. go_on: what to do in a
    notebook; None stands for running the cell again.
    """

    def __init__(self, message, signal, done):
        super().__init__(message)
        self.signal, self.done = signal, done
        self.go_on = None

    def _render_traceback_(self):
        return [str(self)]  # all that IPython shows of it


def shell_command(*words):
    """A command line of these words that can be copied into a terminal: what a terminal would split
    or read in another way, such as a path with spaces, is quoted."""
    words = [str(word) for word in words]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
