"""The tasks that one begins with: their words, the shipped recipe that each starts from, and the columns of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ptune.data.shapes.conversations import SHAPES
from ptune.data.shapes.judged import JUDGED
from ptune.data.shapes.labelled import LABEL, TAGS, TEXT, WORDS
from ptune.data.shapes.pairs import ANCHOR, POSITIVE
from ptune.data.shapes.preferences import PREFERENCES

Word: TypeAlias = Literal[
    "chat",
    "classify",
    "tag",
    "images",
    "embed",
    "rerank",
    "translate",
    "preferences",
    "thumbs",
    "rewards",
    "rewarded",
]
Columns: TypeAlias = tuple[tuple[str, ...], ...]
"""For each column the names that it usually has."""


@dataclass(frozen=True)
class Start:
    """A task to begin with. rows: the columns of each shape that its data may have; empty: no table is read."""

    recipe: str
    what: str
    rows: tuple[Columns, ...] = ()
    suffixes: tuple[str, ...] = ()  # of files that are this task's whatever is in them


def _alone(names: Sequence[str]) -> Columns:
    return tuple((name,) for name in names)


STARTS: Mapping[Word, Start] = {
    "chat": Start("chat_lora", "answers: conversations, questions with answers, or raw text", tuple(_alone(shape.columns) for shape in SHAPES)),
    "classify": Start("sentiment_lora", "a label for each text", ((TEXT, LABEL),)),
    "tag": Start("ner_lora", "a tag for each word: names, places", ((WORDS, TAGS),), (".conll", ".bio", ".iob", ".iob2")),
    "images": Start("images_lora", "a label for each image: a folder with a folder for each label"),
    "embed": Start("embed_lora", "vectors for search: texts that belong together", ((ANCHOR, POSITIVE),)),
    "rerank": Start("rerank_lora", "a score for a question and a passage", ((ANCHOR, POSITIVE),)),
    "translate": Start("translate_lora", "translations", ((("source",), ("target",)),), (".po", ".tmx")),
    "preferences": Start("dpo_lora", "a better and a worse answer to each prompt (DPO)", tuple(_alone(shape.columns) for shape in PREFERENCES)),
    "thumbs": Start("kto_lora", "answers with thumbs up or down (KTO)", tuple(_alone(shape.columns) for shape in JUDGED)),
    "rewards": Start("reward_lora", "a reward model, out of better and worse answers", tuple(_alone(shape.columns) for shape in PREFERENCES)),
    "rewarded": Start("grpo_lora", "prompts, and functions that reward the model's own answers (GRPO)", ((("messages", "prompt", "question", "conversations", "instruction"),),)),
}  # fmt: skip
LIKELIEST: tuple[Word, ...] = (
    "preferences",
    "thumbs",
    "tag",
    "classify",
    "embed",
    "translate",
    "chat",
    "rewarded",
)
"""The order in which data is tried: what needs more columns first."""
