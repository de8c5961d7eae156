"""A run's held-out data: its test files if it has any, else its validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ptune.codecs.album import Album
from ptune.codecs.chat import ChatCodec, Example
from ptune.config.preference import Preference
from ptune.config.recipe import Recipe
from ptune.config.reinforcement import Reinforcement
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.data.examples import dataset
from ptune.data.examples.judged import JudgedExample, judged_examples
from ptune.data.shapes.conversations import Askable
from ptune.data.shapes.preferences import Pair, Pairs
from ptune.data.shapes.prompts import read_prompts
from ptune.errors import DataError
from ptune.formats.run import Run
from ptune.training.folder import check_same_data


@dataclass(frozen=True)
class HeldOut:
    """Examples that training never saw, their conversations, and the training conversations."""

    split: Literal["test", "validation"]
    examples: Sequence[Example]  # each has a target; of a run on judged answers the desirable ones
    conversations: Sequence[Askable]  # fewer than examples if some were cut; none for raw text
    train: Sequence[Askable]
    codec: ChatCodec
    pairs: Sequence[Pair] = ()  # of a preference run, whose examples are their better sides
    judged: Sequence[JudgedExample] = ()  # all of them
    images: Album | None = None  # of a model that sees them: those of all splits


def held_out(run: Run) -> HeldOut:
    """Reads a run's data again, with its training codec.

    Raises: DataError if a file is gone or has changed, or nothing is held out; FormatError if data.json is gone.
    """
    recipe, codec = Recipe.load(run.recipe_path), ChatCodec.open(run.codec_path)
    if isinstance(recipe.task, Reinforcement):
        return _prompts(run, recipe, recipe.task, codec)
    data = dataset.load(recipe.data, recipe.chat, codec, recipe.train.seed)
    check_same_data(run, data.summary)
    test = bool(data.test)
    examples: Sequence[Example] = data.test if test else data.validation
    conversations = data.test_conversations if test else data.validation_conversations
    limit, split = recipe.evaluate.limit, "test" if test else "validation"
    pairs: Sequence[Pair] = ()
    if isinstance(recipe.task, Preference):
        pairs = Pairs(data.test if test else data.validation, split)[:limit]
        examples = examples[::2]
    judged: Sequence[JudgedExample] = ()
    if isinstance(recipe.task, UnpairedPreference):
        judged = judged_examples(data, split, recipe.train.seed)[:limit]
        examples = [answer.own for answer in judged if answer.desirable]
        if not examples:
            raise DataError(f"{run.folder} has no held-out desirable answer: name some with --data.test")
    if not examples:
        raise DataError(f"{run.folder} has no held-out example with a target: name some with --data.test")
    if limit is not None:
        most = len(examples) if judged else limit
        examples, conversations = first_rows(examples, conversations, most, codec, recipe.chat.train_on)
    return HeldOut(
        split="test" if test else "validation",
        examples=examples,
        conversations=conversations,
        train=data.train_conversations,
        codec=codec,
        pairs=pairs,
        judged=judged,
        images=data.images,
    )


def first_rows(
    examples: Sequence[Example],
    conversations: Sequence[Askable],
    limit: int,
    codec: ChatCodec,
    train_on: Literal["assistant", "last"],
) -> tuple[Sequence[Example], list[Askable]]:
    """The first `limit` examples, and the conversations that they are. One of several examples is used as a whole: there are
    fewer then, or more if it is the first.

    Rows that were cut, and raw text, are examples without a conversation, so the two are not numbered alike.
    """
    whole: list[Askable] = []
    at, limit = 0, min(limit, len(examples))
    for conversation in conversations:
        own = [one for one in conversation.examples(codec, train_on) if any(one.targets[1:])]
        while own and at < limit and examples[at].ids != own[0].ids:
            at += 1
        if at >= limit:
            break
        if at + len(own) > limit:
            limit = at or len(own)
        if at + len(own) <= limit:
            whole.append(conversation)
            at += len(own)
    return examples[:limit], whole


def _prompts(run: Run, recipe: Recipe, task: Reinforcement, codec: ChatCodec) -> HeldOut:
    """Of a run without answers in its data: its prompts, all of whose tokens are targets."""
    data = read_prompts(recipe.data, task, codec, recipe.train.seed)
    check_same_data(run, data.summary)
    prompts = (data.test or data.validation)[: recipe.evaluate.limit]
    examples = [prompt.example for prompt in prompts]
    return HeldOut("test" if data.test else "validation", examples, (), (), codec)
