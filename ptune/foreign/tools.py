"""The tools whose configs are read, and which of them wrote a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ptune.errors import UsageError
from ptune.foreign import (
    axolotl,
    axolotl_table,
    llama_factory,
    llama_factory_table,
    torchtune,
    torchtune_table,
    trl,
    trl_table,
)
from ptune.foreign.draft import Draft, is_empty
from ptune.foreign.reading import flattened
from ptune.foreign.rules import apply

Tool: TypeAlias = Literal["axolotl", "llamafactory", "trl", "torchtune"]
MARKS: Mapping[Tool, frozenset[str]] = {
    "axolotl": axolotl.MARKS,
    "llamafactory": llama_factory.MARKS,
    "trl": trl.MARKS,
    "torchtune": torchtune.MARKS,
}
_LAUNCHERS = {"distributed_type", "compute_environment", "zero_optimization", "fsdp_config"}


def tool_of(config: Mapping[str, Any], command: str, file: Path) -> Tool:
    """Which tool wrote a config, by its fields. Raises: UsageError where they do not tell."""
    if "llamafactory" in command:
        return "llamafactory"
    if re.search(r"\btrl\b|/scripts/", command):
        return "trl"
    if any(isinstance(value, dict) and torchtune.COMPONENT in value for value in config.values()):
        return "torchtune"
    score = {tool: len(marks.intersection(config)) for tool, marks in MARKS.items()}
    best = max(score, key=lambda tool: score[tool])
    if score[best] > max(value for tool, value in score.items() if tool != best):
        return best
    if _LAUNCHERS.intersection(config):
        raise UsageError(
            f"{file} is accelerate's or DeepSpeed's, not a training's: accelerate launch --config_file FILE RECIPE.py takes"
            " accelerate's as it is"
        )
    raise UsageError(
        f"{file}: its fields do not tell which tool reads it; say --from axolotl, llamafactory, trl or torchtune"
    )


def drafted(
    tool: Tool, config: dict[str, Any], command: str, file: Path, devices: int, trainer: str | None
) -> Draft:
    """What the tool's table makes of a config. trainer: of TRL, where neither command nor fields tell it.

    Raises: UsageError for a config that is for something else than a training.
    """
    if tool == "axolotl":
        return _axolotl(config, file, devices)
    if tool == "llamafactory":
        return _llama_factory(config, file, devices)
    if tool == "torchtune":
        return _torchtune(config, file, devices)
    return _trl(config, command, file, devices, trainer)


def _axolotl(config: dict[str, Any], file: Path, devices: int) -> Draft:
    _needs(config, file, "base_model")
    draft = Draft(axolotl.NAME, file, flattened(config, axolotl.SECTIONS), devices)
    axolotl.begin(draft)
    apply(axolotl_table.TABLE, draft)
    return draft


def _llama_factory(config: dict[str, Any], file: Path, devices: int) -> Draft:
    _needs(config, file, "model_name_or_path", "model")
    draft = Draft(llama_factory.NAME, file, flattened(config, llama_factory.SECTIONS), devices)
    trains = any(draft.has(name) for name in ("dataset", "train_dataset", "do_train", "learning_rate"))
    if not trains or draft.on("do_predict"):
        raise UsageError(
            f"{file} trains nothing: ptune merge, ptune serve, ptune chat and ptune evaluate are for a model that is there"
        )
    llama_factory.begin(draft)
    apply(llama_factory_table.TABLE, draft)
    return draft


def _torchtune(config: dict[str, Any], file: Path, devices: int) -> Draft:
    sections = tuple(name for name in config if name not in ("dataset", "dataset_val", "datasets"))
    draft = Draft(torchtune.NAME, file, torchtune.resolved(flattened(config, sections)), devices)
    torchtune.begin(draft)
    apply(torchtune_table.TABLE, draft)
    return draft


def _trl(config: dict[str, Any], command: str, file: Path, devices: int, trainer: str | None) -> Draft:
    trainer = trainer or trl.trainer_of(config, command)
    if trainer not in trl.TASKS:
        raise UsageError(
            f"{file} is for the trainer {trainer}, which has no counterpart here:"
            f" {trl.INSTEAD.get(trainer, 'docs/coming-from.md says what has')}"
        )
    draft = Draft(trl.NAME, file, flattened(config, trl.SECTIONS), devices)
    trl.begin(draft, trainer)
    apply(trl_table.table_of(draft), draft)
    return draft


def _needs(config: Mapping[str, Any], file: Path, *names: str) -> None:
    if all(is_empty(config.get(name)) for name in names):
        raise UsageError(f"{file} names no model ({' or '.join(names)}): it is no config of a training")
