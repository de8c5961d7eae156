"""Held-out prompts that a chat model answers while it trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Recipe
from ptune.tasks.chat.answers import answered
from ptune.training.journal.samples import Answer, Asked, room_for_prompt
from ptune.training.rows.segments import attending


@dataclass(frozen=True)
class ChatAnswering:
    """See `ptune.training.journal.samples.Answering`."""

    asked: tuple[Asked, ...]
    prompts: tuple[tuple[int, ...], ...]
    codec: ChatCodec
    tokens: int  # of an answer, at most
    base: PreTrainedModel
    attention: str  # the model's own; packed rows are trained with another

    def answers(self, model: nn.Module, most_s: float) -> list[Answer]:
        with attending(self.base, self.attention):
            return answered(model, self.codec, self.prompts, self.tokens, self.base.device, most_s)


def answering(
    recipe: Recipe, codec: ChatCodec, prompts: Iterable[tuple[Asked, list[int]]], base: PreTrainedModel
) -> ChatAnswering | None:
    """What answers the first of `prompts` that are short enough; None if there are none, or the recipe wants none.

    A base whose layers are read as they run would be read once for each token.
    """
    count, tokens = recipe.evaluate.samples, recipe.evaluate.sample_tokens
    if not count or recipe.backbone.stream:
        return None
    room = room_for_prompt(count, tokens, recipe.train.micro_batch_tokens, codec.context)
    chosen: list[tuple[Asked, list[int]]] = []
    for asked, ids in prompts:
        if 0 < len(ids) <= room:
            chosen.append((asked, ids))
        if len(chosen) == count:
            break
    if not chosen:
        return None
    return ChatAnswering(
        asked=tuple(asked for asked, _ in chosen),
        prompts=tuple(tuple(ids) for _, ids in chosen),
        codec=codec,
        tokens=tokens,
        base=base,
        attention=base.config._attn_implementation,
    )
