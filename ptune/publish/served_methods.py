"""Which runs have adapters that can be served, and how."""

from __future__ import annotations

from ptune.errors import UsageError
from ptune.kinds import SEQ2SEQ, Kind
from ptune.methods.peft_method import PeftMethod
from ptune.publish.publishable import FinishedRun


def refuse_unserved(run: FinishedRun, kind: Kind, *, merge: bool) -> None:
    """Raises: UsageError for an adapter that is no low-rank update, where it is not to be merged or cannot be."""
    method, folder = run.recipe.method, run.files.folder
    if not run.files.has_adapter or not isinstance(method, PeftMethod) or method.plain:
        return
    name = type(method).__name__
    if not method.mergeable:
        raise UsageError(
            f"{folder} was trained by {name}, whose adapters ptune neither merges nor serves: load {folder}/adapter in PEFT"
        )
    if kind is SEQ2SEQ:
        raise UsageError(
            f"{folder} is of an encoder-decoder, for which ptune serves adapters of Lora alone, and none of {name}: load"
            f" {folder}/adapter in PEFT"
        )
    if not merge:
        raise UsageError(
            f"{folder} was trained by {name}, whose adapters are served merged: add --merge, or ptune merge {folder}"
        )
