"""The errors that speak to a person: what is wrong, where, and what to do."""
from __future__ import annotations


class NamEduError(ValueError):
    """The base class of this package's own errors; the command line prints them in one line."""


class TrainingError(NamEduError):
    """A recipe, run folder or run that cannot go on; says why and what to do."""


class Stopped(TrainingError):
    """A run that was asked to stop (Ctrl-C, SIGTERM) and saved its state; `signal`: its number."""

    def __init__(self, message, signal):
        super().__init__(message)
        self.signal = signal
