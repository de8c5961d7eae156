"""Sentences of the tab Data: what is still to be chosen, what errors mean for a training, and what a chat template skips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.begin.look import Look
from ptune.errors import PtuneError
from ptune.studio.data.choice import Choice


def missing(files: Sequence[str], task: str | None) -> str | None:
    """What is to be chosen before anything can be done; None if all is."""
    if not files:
        return "Choose files." if task else "Choose files, and what the model is to learn."
    return None if task else "Choose what the model is to learn."


def renamed(uploaded: Sequence[Path], taken: Sequence[str]) -> list[str]:
    """A sentence for each file that is called otherwise here, since its name has other content already."""
    pairs = zip((path.name for path in uploaded), (Path(name).name for name in taken), strict=True)
    return [
        f"{asked} is here already with other content, so this file is called {name}."
        for asked, name in pairs
        if Path(name).stem.startswith(f"{Path(asked).stem}-")
    ]


def refused(path: Path, error: PtuneError) -> str:
    """Why a file that was dropped is not kept."""
    return f"{path.name}: {str(error).removeprefix(str(path)).removeprefix(': ')}. It was not kept."


def useless(why: str) -> str:
    """That a file that is chosen cannot be trained on."""
    return f"A file that is chosen cannot be used: {why}"


def errors_in(document: Mapping[str, Any]) -> int:
    """How many findings of an examination are errors."""
    return sum(one["severity"] == "error" for one in document.get("findings", ()))


def before_training(errors: int) -> str:
    """What errors of an examination mean for a training."""
    told = "an error" if errors == 1 else f"{errors} errors"
    return f"The examination shows {told}: training will stop at them, unless you make a clean copy or mend the data."


def without_template(found: Look | str, choice: Choice) -> str | None:
    """That rows of a prompt and a completion are learnt as they stand; None for other rows."""
    if choice.task != "chat" or isinstance(found, str) or not found.rows:
        return None
    if not choice.columns and {"messages", "conversations"}.intersection(found.columns or ()):
        return None
    names = [choice.columns.get(column, column) for column in ("prompt", "completion")]
    if not all(isinstance(found.rows[0].get(name), str) for name in names):
        return None
    return (
        "Rows of a prompt and a completion get no chat template: the model learns the texts as they stand. For a chat"
        ' model write them as messages, [{"role": "user", "content": …}, {"role": "assistant", "content": …}],'
        " in a column messages."
    )
