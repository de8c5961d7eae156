"""Axolotl's `datasets`: prompt strategies are shapes here, which their columns tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptune.foreign.draft import Draft, is_empty, shown
from ptune.foreign.sources import Source, files_of, set_files

_OWN_TEMPLATE = "the model's own chat template writes the rows, not the wording of {}; a model without one needs task.template"
_ALPACA = {"instruction": "instruction", "input": "input", "output": "output"}
SHAPES: Mapping[str, Mapping[str, str]] = {
    "alpaca": _ALPACA,
    "alpaca_chat": _ALPACA,
    "alpaca_instruct": _ALPACA,
    "alpaca_w_system": {**_ALPACA, "system": "system"},
    "oasst": _ALPACA,
    "gpteacher": {**_ALPACA, "output": "response"},
    "reflection": _ALPACA,
    "explainchoice": {"prompt": "question", "completion": "explanation"},
    "summarizetldr": {"prompt": "article", "completion": "summary"},
    "alpaca_chat.load_qa": {"instruction": "question", "output": "answer"},
    "alpaca_w_system.load_open_orca": {
        "instruction": "question",
        "output": "response",
        "system": "system_prompt",
    },
    "sharegpt": {},
    "completion": {"text": "text"},
    "pretrain": {"text": "text"},
    "dpo.intel": {"prompt": "question"},
    "dpo.argilla": {
        "instruction": "instruction",
        "chosen": "chosen_response",
        "rejected": "rejected_response",
    },
    "dpo.icr": {"prompt": "input"},
    "dpo.ultra": {},
    "dpo.prompt_pairs": {},
    "dpo.argilla_chat": {},
    "dpo.default": {},
    "kto.argilla": {"prompt": "prompt"},
    "kto.argilla_chat": {},
    "kto.intel": {"prompt": "question"},
    "kto.prompt_pairs": {},
    "kto.ultra": {},
}
"""Strategy, or task and the function of its strategy -> columns. What is not in here is named to the user."""

_CUSTOM = {
    "field_instruction": "instruction", "field_input": "input", "field_output": "output", "field_system": "system",
    "field_prompt": "prompt", "field_chosen": "chosen", "field_rejected": "rejected", "field_completion": "completion",
    "field_label": "label",
}  # fmt: skip
_IGNORED = {
    "trust_remote_code", "type", "path", "name", "split", "data_files", "ds_type", "field", "shards", "shards_idx",
    "preprocess_shards", "message_property_mappings", "message_field_role", "message_field_content", "roles", "text_column",
    "conversation",
}  # fmt: skip


def read_datasets(draft: Draft, name: str, path: str, columns: bool = True) -> None:
    """Notes a list of data sets. path: of the recipe's field."""
    entries = draft.get(name)
    entries = entries if isinstance(entries, list) else [entries]
    sources = [_source(draft, entry, name) for entry in entries]
    set_files(draft, name, path, sources, columns)


def _source(draft: Draft, entry: Any, name: str) -> Source:
    if isinstance(entry, str):
        entry = {"path": entry}
    if not isinstance(entry, dict):
        return Source(left=(f"{shown(entry)} names no data set",))
    found = files_of(entry.get("path"), entry.get("name"), entry.get("split"), entry.get("data_files"))
    kind = entry.get("type") or ("completion" if name == "pretraining_dataset" else "")
    columns, looks, left = _shape(draft, kind, entry)
    return Source(found.files, columns, (*found.look, *looks), (*found.left, *left, *_others(entry)))


def _shape(draft: Draft, kind: Any, entry: dict[str, Any]) -> tuple[dict[str, str], list[str], list[str]]:
    """Columns, what to look at, and what is left, of an entry's `type`."""
    own = {column: str(entry[said]) for said, column in _CUSTOM.items() if not is_empty(entry.get(said))}
    if isinstance(kind, dict):
        return _custom(kind)
    strategy = str(kind).partition(":")[0]
    text = entry.get("field") or entry.get("text_column")
    if strategy in ("completion", "pretrain"):
        return {"text": str(text or "text")}, [], []
    function = strategy.rpartition(".")[2]
    if (
        strategy.startswith(("chat_template", "bradley_terry", "sharegpt", "orpo.chat_template"))
        or not strategy
    ):
        return {**_messages(draft, entry, function), **own}, [], []
    key = strategy if strategy in SHAPES else f"{_prefix(draft)}{function if '.' in strategy else 'default'}"
    if key in SHAPES:
        return {**SHAPES[key], **own}, [_OWN_TEMPLATE.format(strategy)], []
    return (
        own,
        [],
        [
            f"ptune does not know the strategy {shown(strategy)}: its rows are read by the shape that their columns tell"
        ],
    )


def _prefix(draft: Draft) -> str:
    return {"Preference": "dpo.", "UnpairedPreference": "kto."}.get(draft.task, "none.")


def _messages(draft: Draft, entry: dict[str, Any], function: str) -> dict[str, str]:
    """Columns of rows that hold messages: OpenAI's or ShareGPT's, by what a message's role is called."""
    if draft.task in ("Preference", "RewardModel") and "field_messages" not in entry:
        return {}  # chosen and rejected, with the prompt in them or beside them
    mappings = entry.get("message_property_mappings")
    role = mappings.get("role") if isinstance(mappings, dict) else entry.get("message_field_role")
    column = str(entry.get("field_messages") or "messages")
    if column == "conversations" or role == "from" or function == "sharegpt":
        return {"conversations": column}
    return {"messages": column}


def _custom(kind: dict[str, Any]) -> tuple[dict[str, str], list[str], list[str]]:
    """A prompt of the user's own: columns, and a format that a chat template takes the place of."""
    columns = {column: str(kind[said]) for said, column in _CUSTOM.items() if not is_empty(kind.get(said))}
    formats = [
        name
        for name in ("format", "no_input_format", "system_format", "prompt_format")
        if not is_empty(kind.get(name))
    ]
    looks = [_OWN_TEMPLATE.format(" and ".join(formats))] if formats else []
    system = kind.get("system_prompt")
    left = [f"the system prompt {shown(system)} is set by task.system"] if not is_empty(system) else []
    return columns, looks, left


def _others(entry: dict[str, Any]) -> list[str]:
    """What else an entry says, one sentence each."""
    said = {
        "revision": "a data set's revision cannot be named: download it",
        "roles_to_train": "task.train_on is assistant or last; a message with \"train\": false is never learnt",
        "train_on_eos": "the token that ends an answer is always learnt",
        "train_on_eot": "the token that ends an answer is always learnt",
        "message_field_training": "a message with \"train\": false is not learnt; the key has no other name",
        "message_field_training_detail": "parts of a message cannot be left out of what is learnt",
        "drop_system_message": "a system message in a row stays",
        "step_separator": "rewards of steps are not read: task ProcessReward has it, but must be written by hand",
        "train_on_last_step_only": "rewards of steps are not read: task ProcessReward has it, but must be written by hand",
        "field_thinking": "reasoning is read from reasoning_content or thinking",
        "chat_template": "the template is one for all data: task.template",
    }  # fmt: skip
    known = {*_IGNORED, *_CUSTOM, "field_messages", "field_tools", "template_thinking_key"}
    others = [name for name in entry if name not in known and not is_empty(entry[name])]
    return [
        f"{name}: {said.get(name, 'ptune does not know this field of a data set')}"
        for name in map(str, others)
    ]
