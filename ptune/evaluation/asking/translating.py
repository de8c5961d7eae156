"""Asks a translator: an encoder-decoder, or a causal model as in `ptune.evaluation.asking.writing`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from torch import nn

from ptune.codecs.seq2seq import Seq2SeqCodec
from ptune.config.recipe import Recipe
from ptune.evaluation.asking import writing
from ptune.evaluation.asking.question import Asker, Question, Said, Side
from ptune.evaluation.translation.seq2seq import models_of
from ptune.formats.run import Run
from ptune.tasks.translation.facts import is_seq2seq_run
from ptune.tasks.translation.greedy import translated
from ptune.tasks.translation.infer import LONGER, MORE
from ptune.tasks.translation.seq2seq_work import translation_of
from ptune.training.layers.adapter_off import adapter_off


@dataclass(frozen=True)
class Translator:
    """See `Asker`. With an adapter both models are one."""

    base: nn.Module
    tuned: nn.Module
    codec: Seq2SeqCodec
    prefix: str

    def __call__(self, side: Side, question: Question) -> Said:
        """The translation, in greedy steps; a source's own length bounds it, too."""
        source = self.codec.source(self.prefix + question.text).ids
        longest = LONGER * len(source) + MORE
        most = min(question.max_tokens, longest, self.codec.texts.limit(None) or longest)
        model = self.base if side == "base" else self.tuned
        with adapter_off(model) if side == "base" else nullcontext():
            [ids] = translated(model, self.codec, [source], [most], question.max_s)
        return Said(self.codec.decode(ids))


def of_run(run: Run) -> Asker:
    """Loads base and tuned model of a run. Raises: FormatError if it has not finished; BackboneError."""
    if not is_seq2seq_run(run):
        return writing.of_run(run)
    run.finished_record()
    recipe = Recipe.load(run.recipe_path)
    base, tuned = models_of(run, recipe)
    prefix = translation_of(recipe).system or ""
    return Translator(base, tuned, Seq2SeqCodec.open(run.codec_path), prefix)
