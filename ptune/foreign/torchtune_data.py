"""torchtune's data sets: builders, each with a source of its own unless another is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ptune.foreign.draft import Draft, is_empty, is_on, shown
from ptune.foreign.sources import Source, files_of, set_files


@dataclass(frozen=True)
class Builder:
    """source: its usual one. columns: ptune's column -> the key of torchtune's `column_map`, and its usual name."""

    source: str = ""
    columns: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    config: str = ""


_PROMPTED = {"prompt": ("input", "input"), "completion": ("output", "output")}
BUILDERS: Mapping[str, Builder] = {
    "alpaca_dataset": Builder("tatsu-lab/alpaca"),
    "alpaca_cleaned_dataset": Builder("yahma/alpaca-cleaned"),
    "grammar_dataset": Builder("liweili/c4_200m", _PROMPTED),
    "samsum_dataset": Builder(
        "Samsung/samsum", {"prompt": ("input", "dialogue"), "completion": ("output", "summary")}
    ),
    "slimorca_dataset": Builder("Open-Orca/SlimOrca-Dedup"),
    "cnn_dailymail_articles_dataset": Builder("ccdv/cnn_dailymail", {"text": ("", "article")}, "3.0.0"),
    "wikitext_dataset": Builder(
        "EleutherAI/wikitext_document_level", {"text": ("", "page")}, "wikitext-103-v1"
    ),
    "text_completion_dataset": Builder(columns={"text": ("", "text")}),
    "instruct_dataset": Builder(columns=_PROMPTED),
    "chat_dataset": Builder(),
    "preference_dataset": Builder(
        columns={"chosen": ("chosen", "chosen"), "rejected": ("rejected", "rejected")}
    ),
    "hh_rlhf_helpful_dataset": Builder("RLHFlow/HH-RLHF-Helpful-standard"),
    "stack_exchange_paired_dataset": Builder(
        "lvwerra/stack-exchange-paired",
        {
            "prompt": ("prompt", "question"),
            "chosen": ("chosen", "response_j"),
            "rejected": ("rejected", "response_k"),
        },
    ),
}
_KNOWN = {"_component_", "source", "split", "subset", "name", "data_files", "column_map", "column", "conversation_column",
          "conversation_style", "packed", "train_on_input", "new_system_prompt", "data_dir", "add_eos", "split_across_pack"}  # fmt: skip


def read_dataset(draft: Draft, name: str, path: str, columns: bool = True) -> None:
    """Notes field `name`, a data set or a list of them. path: of the recipe's field."""
    value = draft.get(name)
    entries = value if isinstance(value, list) else [value]
    set_files(draft, name, path, [_source(entry) for entry in entries], columns)


def _source(entry: Any) -> Source:
    if not isinstance(entry, dict):
        return Source(left=(f"{shown(entry)} names no data set",))
    kind = str(entry.get("_component_", "")).rpartition(".")[2]
    builder = BUILDERS.get(kind)
    if builder is None:
        return Source(
            left=(
                f"ptune does not know the data set {shown(kind or entry.get('source', ''))}: name its files in data.files",
            )
        )
    config = entry.get("subset") or entry.get("name") or builder.config
    found = files_of(
        entry.get("source") or builder.source, config, entry.get("split"), entry.get("data_files")
    )
    looks = [*found.look]
    if is_on(entry.get("train_on_input", kind in ("alpaca_dataset", "alpaca_cleaned_dataset"))):
        looks.append("the prompt is learnt, too, there; only answers here")
    left = [*found.left]
    if not is_empty(entry.get("new_system_prompt")):
        left.append(f"the system prompt {shown(entry['new_system_prompt'])} is set by task.system")
    left += [
        f"{one}: ptune does not know this field of a data set" for one in map(str, entry) if one not in _KNOWN
    ]
    return Source(found.files, _columns(builder, kind, entry), tuple(looks), tuple(left))


def _columns(builder: Builder, kind: str, entry: Mapping[str, Any]) -> dict[str, str]:
    if kind == "chat_dataset":
        shape = "messages" if entry.get("conversation_style") == "openai" else "conversations"
        return {shape: str(entry.get("conversation_column") or shape)}
    said = entry.get("column_map")
    said = said if isinstance(said, dict) else {}
    found = {column: str(said.get(key, usual)) for column, (key, usual) in builder.columns.items()}
    if "text" in found and not is_empty(entry.get("column")):
        found["text"] = str(entry["column"])
    if not builder.columns:  # Alpaca's, whose keys are the columns
        found = {
            str(key): str(value) for key, value in said.items() if key in ("instruction", "input", "output")
        }
    return found
