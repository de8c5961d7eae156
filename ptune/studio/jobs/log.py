"""What the log of a command tells of its end."""

from __future__ import annotations

ERRORS = ("error: ", "ptune: ")
"""How a command begins the sentence on why it failed."""


def problem_in(log: str) -> str:
    """Why a command failed: its last error with the indented lines below it, or else the log's last line; empty of an empty
    log."""
    lines = [line for line in log.strip().splitlines() if line.strip()]
    errors = [at for at, line in enumerate(lines) if line.startswith(ERRORS)]
    if not errors:
        return lines[-1].strip() if lines else ""
    first, *rest = lines[errors[-1] :]
    end = next((at for at, line in enumerate(rest) if not line[0].isspace()), len(rest))
    return "\n".join([first.partition(": ")[2], *rest[:end]])


def last_error(log: str) -> str:
    """The same as a sentence of any job that has failed."""
    return problem_in(log) or "it ended without a word, as a process that is killed does"
