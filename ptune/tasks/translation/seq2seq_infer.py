"""Texts -> an encoder-decoder's engine -> their translations. Torch-free.

model = ptune.load("bundles/en_es")
model.translate(["Open the window."], "en_es")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from ptune.codecs.seq2seq import Seq2SeqCodec
from ptune.engine.job import Finish
from ptune.engine.options import BatchKeywords, BatchOptions
from ptune.engine.seq2seq.engine import Seq2SeqEngine
from ptune.engine.seq2seq.request import Seq2SeqRequest
from ptune.errors import FormatError, RequestError
from ptune.formats.bundle import BASE, Bundle
from ptune.kinds import SEQ2SEQ
from ptune.tasks.translation.infer import LONGER, MORE


class Seq2SeqModel:
    """An engine with its codec."""

    def __init__(self, engine: Seq2SeqEngine, codec: Seq2SeqCodec) -> None:
        self.engine, self.codec = engine, codec

    def translate(
        self, texts: Sequence[str], adapter: str = BASE, max_tokens: int | None = None
    ) -> list[str]:
        """Translates each text by greedy decoding. All texts are in flight at once.

        Raises: RequestError for an unknown adapter, or a text that is too long.
        """
        return [text for text, _ in self.written(texts, adapter, max_tokens)]

    def written(
        self, texts: Sequence[str], adapter: str = BASE, max_tokens: int | None = None
    ) -> list[tuple[str, Finish]]:
        """Translates each text; returns each translation with its finish reason."""
        sentences = [self.sentence(text, adapter, max_tokens) for text in texts]
        return [(self.codec.decode(one.ids), one.finish) for one in self.engine.generate(sentences)]

    def sentence(
        self, text: str, adapter: str = BASE, max_tokens: int | None = None, deadline_s: float | None = None
    ) -> Seq2SeqRequest:
        """The engine's request for a text, in the form that the adapter was trained on. Raises: RequestError."""
        record, engine = self.engine.record(adapter), self.engine
        limit = None if record is None else record.max_length
        found = self.codec.source(self.instruction(adapter) + text, limit)
        if found.truncated:
            raise RequestError(
                f"the text has {found.length} tokens, {adapter} takes {len(found.ids)}: send it in parts",
                param="text",
                code="context_length_exceeded",
            )
        most = min(LONGER * len(found.ids) + MORE, engine.context)
        asked = most if max_tokens is None else max_tokens
        sentence = Seq2SeqRequest(found.ids, adapter, asked, deadline_s=deadline_s)
        sentence.require_servable(engine.signature.vocab_size, engine.context)
        return sentence

    def instruction(self, adapter: str) -> str:
        """What is put before every source; of an adapter that says nothing of its own the bundle's."""
        record, bundles = self.engine.record(adapter), self.codec.writing.system
        return (bundles if record is None or not record.own_prompt else record.system) or ""

    def close(self) -> None:
        """Ends the engine, and what is on its way with an error."""
        self.engine.close()


def load(
    path: str | Path,
    options: BatchOptions = BatchOptions(),
    *,
    replay_golden: bool = True,
    **keywords: Unpack[BatchKeywords],
) -> Seq2SeqModel:
    """Opens an encoder-decoder's bundle for use. keywords: options that replace those of `options`.

    Raises: FormatError, AdapterError, UsageError, ParityError, as `Seq2SeqEngine.open`.
    """
    bundle = Bundle.open(path)
    if bundle.manifest.task != SEQ2SEQ.task:
        raise FormatError(f"{path} is a bundle for {bundle.manifest.task!r}, not of an encoder-decoder")
    bundle.check_files(bundle.manifest.codec)
    engine = Seq2SeqEngine.open(bundle, options, replay_golden=replay_golden, **keywords)
    return Seq2SeqModel(engine, Seq2SeqCodec.open(bundle.codec_path))
