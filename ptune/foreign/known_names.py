"""What a field of another tool is called in a recipe, by the tables that read their configs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from ptune.errors import PtuneError
from ptune.foreign import axolotl_table, llama_factory_table, torchtune_table, training_arguments, trl_table
from ptune.foreign.draft import Draft

_TABLES = {
    "TRL": trl_table.TABLE,
    "transformers": training_arguments.TABLE,
    "Axolotl": axolotl_table.TABLE,
    "LLaMA-Factory": llama_factory_table.TABLE,
    "torchtune": torchtune_table.TABLE,
}
_CLOSE = 0.8  # a typing error or two in a name


def meant_by(name: str) -> str | None:
    """The path of the recipe's field ("train.epochs") that another tool calls `name`, or almost so; None if there is none."""
    known = _paths()
    close = difflib.get_close_matches(
        "_".join(name.lower().replace("-", "_").split()), known, n=1, cutoff=_CLOSE
    )
    return known[close[0]] if close else None


@lru_cache(maxsize=1)
def _paths() -> Mapping[str, str]:
    """Name -> path, of the fields that are taken over as they are: each rule is asked what it makes of a 1."""
    paths = dict[str, str]()
    for tool, table in _TABLES.items():
        for name, rule in table.items():
            draft = Draft(tool, Path(), {name: 1})
            try:
                rule(draft, name, 1)
            except (PtuneError, AttributeError, KeyError, TypeError, ValueError):
                continue  # it needs other fields beside it, or a value of another kind
            if len(draft.values) == 1 and next(iter(draft.values.values())) == 1:
                paths.setdefault(name.rpartition(".")[2], next(iter(draft.values)))
    return paths
