"""Held-out sources that an encoder-decoder translates while it trains."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ptune.codecs.seq2seq import Seq2SeqCodec
from ptune.config.recipe import Recipe
from ptune.data.examples.seq2seq import Seq2SeqData
from ptune.tasks.translation.greedy import translated
from ptune.training.journal.samples import Answer, Asked, room_for_prompt


@dataclass(frozen=True)
class Translating:
    """See `ptune.training.journal.samples.Answering`."""

    asked: tuple[Asked, ...]
    sources: tuple[tuple[int, ...], ...]
    codec: Seq2SeqCodec
    tokens: int  # of a translation, at most

    def answers(self, model: nn.Module, most_s: float) -> list[Answer]:
        limits = [self.tokens] * len(self.sources)
        ends = {*self.codec.writing.eos_ids}
        rows = translated(model, self.codec, self.sources, limits, most_s)
        # A model may be made to write an end at its limit: that is none of its own.
        return [Answer(self.codec.decode(row), ended=bool(ends & {*row[: self.tokens - 1]})) for row in rows]


def translating(recipe: Recipe, codec: Seq2SeqCodec, data: Seq2SeqData) -> Translating | None:
    """What translates the first held-out sources that are short enough; None if there are none, or the recipe wants none."""
    count, tokens = recipe.evaluate.samples, recipe.evaluate.sample_tokens
    held, room = (
        data.splits["validation"],
        room_for_prompt(count, tokens, recipe.train.micro_batch_tokens, None),
    )
    chosen = [
        (Asked(pair.source, pair.target), example.source)
        for pair, example in zip(held.pairs, held.examples, strict=True)
        if len(example.source) <= room
    ][:count]
    if not chosen:
        return None
    asked, sources = zip(*chosen, strict=True)
    return Translating(asked, sources, codec, tokens)
