"""The names that a task's columns have in the user's files: `--task.columns.text message`. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

from pydantic import ValidationError, model_serializer, model_validator

from ptune.errors import UsageError
from ptune.spec import Spec

USUAL: Mapping[str, str] = MappingProxyType({})
"""No column has a name of its own."""


class Columns(Spec):
    """One field for each column of a task: its name in the files. A column without one is looked for by its usual names."""

    @property
    def named(self) -> dict[str, str]:
        """The columns that have a name of their own: {"text": "message"}."""
        return {column: name for column in type(self).model_fields if (name := getattr(self, column))}

    def names(self, column: str, usual: Sequence[str]) -> tuple[str, ...]:
        """The names to look for: the one that was given, else the usual ones."""
        given = self.named.get(column)
        return (given,) if given else tuple(usual)

    def changed(self, names: Mapping[str, str]) -> Self:
        """These columns with other names. Raises: UsageError for a column that the task does not have."""
        known = list(type(self).model_fields)
        for column in names:
            if column not in known:
                has = f"it has {', '.join(known)}" if known else "its columns have fixed names"
                raise UsageError(f"the task has no column {column!r}: {has}")
        try:
            return type(self).model_validate({**self.named, **names})
        except ValidationError as error:
            raise UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None

    @model_validator(mode="after")
    def _different_columns(self) -> Self:
        columns_of: dict[str, str] = {}
        for column, name in self.named.items():
            if name in columns_of:
                raise ValueError(f"{columns_of[name]} and {column} are the same column, {name!r}")
            columns_of[name] = column
        return self

    @model_serializer
    def _only_named(self) -> dict[str, Any]:
        return self.named


class ChatColumns(Columns):
    """Conversations come in several shapes; name the columns of one."""

    messages: str | None = None
    """Messages in OpenAI's form."""
    conversations: str | None = None
    """Turns in ShareGPT's form."""
    prompt: str | None = None
    """The prompt; its answer is `completion`."""
    completion: str | None = None
    """The answer to `prompt`."""
    instruction: str | None = None
    """The question in Alpaca's form; its answer is `output`."""
    input: str | None = None
    """What follows the instruction, in Alpaca's form."""
    output: str | None = None
    """The answer to `instruction`."""
    history: str | None = None
    """Earlier questions and answers, in Alpaca's form."""
    text: str | None = None
    """Raw text, for continued pretraining."""
    system: str | None = None
    """The system message."""
    tools: str | None = None
    """The tools on offer."""
    weight: str | None = None
    """How often a row counts in the training loss; default: weight where there is one. For task Chat."""


class PreferenceColumns(Columns):
    """Pairs of answers come in several shapes; name the columns of one."""

    prompt: str | None = None
    """The prompt: a text or messages."""
    messages: str | None = None
    """The messages before the answers, in OpenAI's form."""
    conversations: str | None = None
    """The turns before the answers, in ShareGPT's form."""
    instruction: str | None = None
    """The question in Alpaca's form."""
    input: str | None = None
    """What follows the instruction, in Alpaca's form; the prompt in OpenAI's."""
    history: str | None = None
    """Earlier questions and answers, in Alpaca's form."""
    chosen: str | None = None
    """The better answer, or the whole conversation that ends with it."""
    rejected: str | None = None
    """The worse one."""
    preferred_output: str | None = None
    """The better answer in OpenAI's form."""
    non_preferred_output: str | None = None
    """The worse one."""
    system: str | None = None
    """The system message."""
    tools: str | None = None
    """The tools on offer."""


class PromptColumns(Columns):
    """Prompts without answers. All other columns go to the reward functions."""

    prompt: str | None = None
    """The prompt: a text or messages; default: messages, prompt, question, conversations or instruction."""


class RewardColumns(PreferenceColumns):
    """Pairs of answers come in several shapes; name the columns of one."""

    margin: str | None = None
    """By how much the better answer is better; default: margin where there is one."""


class UnpairedPreferenceColumns(PreferenceColumns):
    """Judged answers come in several shapes, pairs among them; name the columns of one."""

    completion: str | None = None
    """The answer to `prompt`."""
    output: str | None = None
    """The answer to `instruction`."""
    label: str | None = None
    """Whether the answer is desirable: true or false."""
    kto_tag: str | None = None
    """The same, by another name."""


class TextColumns(Columns):
    """The columns of text classification."""

    text: str | None = None
    """The text; default: text, else sentence."""
    text_pair: str | None = None
    """The second of two texts; default: text_pair where there is one."""
    label: str | None = None
    """The label, or several; default: label, else labels."""
    weight: str | None = None
    """How often a row counts in the training loss; default: weight where there is one."""


class WordColumns(Columns):
    """The columns of token classification."""

    tokens: str | None = None
    """The words; default: tokens."""
    tags: str | None = None
    """A tag for each word; default: tags, else ner_tags, else labels."""


class StepColumns(Columns):
    """The columns of process rewards."""

    prompt: str | None = None
    """The question; default: prompt."""
    completions: str | None = None
    """The steps of the answer; default: completions."""
    labels: str | None = None
    """Whether each step is right; default: labels."""


class ImageColumns(Columns):
    """The columns of a table of images."""

    image: str | None = None
    """The image's path; default: image, else path, else file_name."""
    label: str | None = None
    """The label; default: label."""


class PairColumns(Columns):
    """The columns of embeddings and reranking."""

    anchor: str | None = None
    """The query; default: anchor, else query, else question."""
    positive: str | None = None
    """A passage that belongs to it; default: positive, else passage, else answer."""
    negative: str | None = None
    """Passages that do not; default: negative, else negatives."""


class InteractionColumns(Columns):
    """The columns of recommendation: of the interactions, and of the catalogue."""

    user: str | None = None
    """The user; default: user, else user_id."""
    item: str | None = None
    """The item, in both files; default: item, else item_id."""
    time: str | None = None
    """When the user had it; default: time, else timestamp."""
    title: str | None = None
    """The item's title in the catalogue; default: title, else name."""


class TranslationColumns(Columns):
    """The columns of translation; in TMX files the codes of their languages, e.g. en."""

    source: str | None = None
    """The text to translate; default: source."""
    target: str | None = None
    """Its translation; default: target."""

    @model_validator(mode="after")
    def _two_columns(self) -> Self:
        source, target = (self.names(column, (column,))[0] for column in ("source", "target"))
        if source.casefold() == target.casefold():
            raise ValueError(f"source and target are the same column, {source!r}")
        return self
