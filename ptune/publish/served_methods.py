"""Which runs have adapters that can be served, and how."""

from __future__ import annotations

from ptune.errors import UsageError
from ptune.kinds import DECODER, SEQ2SEQ, Kind
from ptune.methods.lora import Lora
from ptune.methods.peft_method import PeftMethod
from ptune.publish.publishable import FinishedRun


def refuse_unserved(run: FinishedRun, kind: Kind, *, merge: bool) -> None:
    """Raises: UsageError for an adapter that is none of a low-rank update, gains and virtual tokens, where it is not to be merged, or
    cannot be."""
    method, folder = run.recipe.method, run.files.folder
    if merge and isinstance(method, Lora) and method.invocation and run.files.has_adapter:
        raise UsageError(
            f"{folder} was trained with method.invocation, before which its adapter is off, so it cannot be merged: ptune export"
            f" {folder} serves it beside its base"
        )
    if not run.files.has_adapter or not isinstance(method, PeftMethod) or method.plain:
        return
    name, in_peft = type(method).__name__, f"load {folder}/adapter in PEFT"
    if method.beside(chat=kind is DECODER) and not merge:
        return
    if method.virtual_tokens:
        raise UsageError(
            f"{folder} was trained by {name}, whose virtual tokens cannot be merged: ptune export {folder} serves them beside"
            " their base"
        )
    if not method.mergeable:
        raise UsageError(
            f"{folder} was trained by {name}, whose adapters ptune neither merges nor serves: {in_peft}"
        )
    if kind is SEQ2SEQ:
        instead = "leave out --merge" if method.folds else in_peft
        raise UsageError(
            f"{folder} is of an encoder-decoder, of which ptune merges adapters of Lora alone, and none of {name}: {instead}"
        )
    if not merge:
        raise UsageError(
            f"{folder} was trained by {name}, whose adapters are served merged: add --merge, or ptune merge {folder}"
        )
