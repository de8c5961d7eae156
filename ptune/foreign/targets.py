"""Which layers an adapter goes beside."""

from __future__ import annotations

import re

from ptune.foreign.draft import Draft, names

_EVERYTHING = {"all", "all-linear", "all_linear"}


def targets(draft: Draft, name: str, everything: str = "") -> None:
    """`method.target_modules`. everything: a switch that takes all linear layers, whatever the list says."""
    if draft.on(everything):
        draft.set(everything, "method.target_modules", "all-linear")
        if draft.has(name):
            draft.needless(name, "all linear layers are adapted")
        return
    if draft.has(everything):
        draft.needless(everything, "off, as here")
    if not draft.has(name):
        return
    value = draft.get(name)
    if isinstance(value, str) and re.search(r"[\[\](|)*^$\\+]", value):
        draft.look(
            name,
            "a regular expression, which is not read: all linear layers are adapted unless method.target_modules names endings",
        )
        return
    wanted = names(value)
    if _EVERYTHING.intersection(wanted):
        draft.set(name, "method.target_modules", "all-linear")
    else:
        draft.set(name, "method.target_modules", wanted)
