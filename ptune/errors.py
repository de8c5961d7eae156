"""Errors that speak to the user: what happened, which value, what to do. Nothing here is shown as a traceback."""

from __future__ import annotations


class PtuneError(Exception):
    """Base of all errors that ptune raises on purpose. `str(error)` is the whole message for the user."""

    exit_code = 1


class UsageError(PtuneError):
    """A command or an option is wrong."""

    exit_code = 2


class RecipeError(PtuneError):
    """A recipe's field has a value that is not allowed."""

    exit_code = 2


class DataError(PtuneError):
    """A data file cannot be used. Names the file and, where there is one, the line."""

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None) -> None:
        place = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        super().__init__(place + message)
        self.file = file
        self.line = line


class BackboneError(PtuneError):
    """A pretrained model cannot be found, read or used."""


class FormatError(PtuneError):
    """A run, a bundle or a checkpoint is missing, damaged or of another major format."""


class AdapterError(PtuneError):
    """An adapter does not fit the base it is to be added to. Lists every mismatch, not only the first."""


class TemplateError(PtuneError):
    """A chat template cannot render these messages, or its targets cannot be derived."""


class ParityError(PtuneError):
    """A hop from training to serving drifted beyond its limit."""


class RequestError(PtuneError):
    """A request to the engine or server is not valid; becomes a 4xx error object over HTTP."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


def in_one_line(error: BaseException) -> str:
    """What another library's error says, in its first line; its type if it says nothing."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__
