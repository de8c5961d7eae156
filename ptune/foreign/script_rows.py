"""What turns a recipe's rows into TRL's, copied into the script that `ptune script` writes: nothing of ptune is imported here."""

from __future__ import annotations

import json
from typing import Any

ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool"}


def messages_of(value: Any) -> list[dict[str, Any]]:
    """Messages in OpenAI's form, out of these or of ShareGPT's turns, or of their JSON."""
    turns = json.loads(value) if isinstance(value, str) else value
    turns = [turns] if isinstance(turns, dict) else turns
    if any(turn.get("tool_calls") or turn.get("from") == "function_call" for turn in turns):
        raise SystemExit(
            f"this script does not hand on tool calls: leave rows with them out, such as {turns}"
        )
    return [
        turn if "role" in turn else {"role": ROLES.get(turn["from"], turn["from"]), "content": turn["value"]}
        for turn in turns
    ]


def asked_in(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of an Alpaca row before its answer."""
    messages = [
        {"role": role, "content": text}
        for pair in row.get("history") or []
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    question = "\n\n".join(filter(None, (row["instruction"], row.get("input"))))
    return [*messages, {"role": "user", "content": question}]


def led(row: dict[str, Any], messages: list[dict[str, Any]], system: str | None) -> list[dict[str, Any]]:
    """With the system message of the row, or of the recipe, before those that have none."""
    text = row.get("system") or system
    return (
        messages
        if not text or messages[0]["role"] == "system"
        else [{"role": "system", "content": text}, *messages]
    )


def examples_of(row: dict[str, Any], system: str | None, last_only: bool) -> list[dict[str, Any]]:
    """TRL's rows for supervised fine-tuning: one for each answer that is learnt, after all that stands before it; none of weight 0."""
    if row.get("weight") is not None and float(row["weight"]) == 0:
        return []
    if row.get("prompt") is not None and isinstance(row["prompt"], str):
        if isinstance(row["completion"], str):
            return [{"prompt": row["prompt"], "completion": row["completion"]}]
        row = {**row, "prompt": [{"role": "user", "content": row["prompt"]}]}
    if row.get("prompt") is not None:
        prompt = led(row, messages_of(row["prompt"]), system)
        answer = row["completion"]
        answered = (
            [{"role": "assistant", "content": answer}] if isinstance(answer, str) else messages_of(answer)
        )
        return [{"prompt": prompt, "completion": answered}]
    turns = row.get("messages") or row.get("conversations")
    if row.get("instruction") is not None:
        turns = [*asked_in(row), {"role": "assistant", "content": row["output"]}]
    if turns is None:
        return [{"text": row["text"]}]
    messages = led(row, messages_of(turns), system)
    plain = [{"role": one["role"], "content": one.get("content") or ""} for one in messages]
    learnt = [
        at
        for at, one in enumerate(messages)
        if one["role"] == "assistant" and at > 0 and one.get("train") is not False and one.get("weight") != 0
    ]
    return [
        {"prompt": plain[:at], "completion": [plain[at]]} for at in (learnt[-1:] if last_only else learnt)
    ]


def pairs_of(row: dict[str, Any], system: str | None, last_only: bool) -> list[dict[str, Any]]:
    """TRL's rows for preferences: one. last_only: of no use here."""
    if row.get("preferred_output") is not None:
        row = {
            "messages": row["input"]["messages"],
            "chosen": row["preferred_output"],
            "rejected": row["non_preferred_output"],
        }
    chosen, rejected = (
        messages_of(row[side])
        if not isinstance(row[side], str) or row[side].lstrip().startswith("[{")
        else row[side]
        for side in ("chosen", "rejected")
    )
    prompt = row.get("prompt")
    if isinstance(prompt, str) and isinstance(chosen, str):
        return [{"prompt": prompt, "chosen": chosen, "rejected": rejected}]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if prompt is None and row.get("instruction") is not None:
        prompt = asked_in(row)
    prompt = prompt or row.get("messages") or row.get("conversations")
    sides = [
        [{"role": "assistant", "content": side}] if isinstance(side, str) else side
        for side in (chosen, rejected)
    ]
    whole = sides[0][0]["role"] in ("system", "user") and sides[1][0]["role"] in ("system", "user")
    if prompt is None or whole:  # whole conversations, which begin alike
        alike = next(
            (at for at, (one, other) in enumerate(zip(*sides, strict=False)) if one != other),
            min(map(len, sides)) - 1,
        )
        prompt, sides = sides[0][:alike], [side[alike:] for side in sides]
    return [{"prompt": led(row, messages_of(prompt), system), "chosen": sides[0], "rejected": sides[1]}]
