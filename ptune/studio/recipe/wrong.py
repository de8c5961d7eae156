"""What is wrong with a draft, in sentences: of an option beside its field, and of the rest on top."""

from __future__ import annotations

import contextlib

from ptune.errors import PtuneError
from ptune.studio.recipe.drafts import Draft
from ptune_serve.ui.labels import problem


def beside(draft: Draft) -> dict[str, str]:
    """HTML for each option whose value is wrong, by its name."""
    try:
        return {name: problem(told) for name, told in draft.wrong_options().items()}
    except PtuneError:  # of the recipe, not of an option: `unusable` says it
        return {}


def unusable(draft: Draft) -> str:
    """Why the recipe cannot be used, empty if it can; of wrong options only where they are, as `beside` says the rest."""
    try:
        draft.recipe()
        return ""
    except PtuneError as error:
        said = str(error)
    with contextlib.suppress(PtuneError):
        if wrong := draft.wrong_options():
            return f"{' and '.join(wrong)} cannot be used as written: see All options."
    return said
