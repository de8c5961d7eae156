"""What a model answered while it trained, prompt by prompt and step by step, as HTML. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ptune.evaluation.style import text

TITLE = "What it answered while it trained"
MOST_STEPS = 12  # that are shown of a prompt


def sampled(entries: Sequence[Mapping[str, Any]]) -> str:
    """An article for each prompt of samples.jsonl: what the data answers, and the model after each validation, the newest
    first. Empty without entries."""
    prompts: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        prompts.setdefault(str(entry["prompt"]), []).append(entry)
    return "".join(_prompt(prompt, answers) for prompt, answers in prompts.items())


def _prompt(prompt: str, answers: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><th class=number>step {int(one['step']):,}</th><td>{text(one['answer'])}{_cut(one)}</td></tr>"
        for one in reversed(_spread(answers))
    )
    expected = str(answers[0].get("expected") or "")
    data = f"<tr><th class=number>in the data</th><td>{text(expected)}</td></tr>" if expected else ""
    return f"<article class=sampled><p>{text(prompt)}</p><div class=scroll><table>{rows}{data}</table></div></article>"


def _cut(entry: Mapping[str, Any]) -> str:
    return "" if entry.get("ended") else " <span class=dim>… (cut)</span>"


def _spread(answers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most so many of the answers, spread evenly; the first and the last are among them."""
    if len(answers) <= MOST_STEPS:
        return list(answers)
    places = (round(at * (len(answers) - 1) / (MOST_STEPS - 1)) for at in range(MOST_STEPS))
    return [answers[place] for place in places]
