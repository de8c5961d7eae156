"""An encoder-decoder's bundle as an object: `model.translate(["Open the window."])`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, get_type_hints

from ptune.api.awaiting import AT_ONCE
from ptune.api.model import EncoderOptions, OpenModel, adapter_or_base, check_options, listed
from ptune.engine.seq2seq.request import Seq2SeqJob
from ptune.tasks.translation import seq2seq_infer as infer

if TYPE_CHECKING:
    from typing import Self


class Seq2SeqModel(OpenModel, infer.Seq2SeqModel):
    """An open encoder-decoder's bundle. Default of `adapter`: the bundle's only adapter, else the base."""

    kind = "an encoder-decoder"

    @classmethod
    def open(cls, path: str | Path, **options: Unpack[EncoderOptions]) -> Self:
        """Opens an encoder-decoder's bundle. Raises: FormatError, AdapterError, UsageError, ParityError."""
        check_options(cls.kind, {**options}, get_type_hints(EncoderOptions))
        opened = infer.load(path, **options)
        return cls(opened.engine, opened.codec)

    def translate(
        self, texts: Sequence[str], adapter: str | None = None, max_tokens: int | None = None
    ) -> list[str]:
        """Translates each text by greedy decoding. All texts are in flight at once.

        Raises: RequestError for an unknown adapter, or a text that is too long.
        """
        return super().translate(listed(texts), adapter_or_base(self.engine, adapter), max_tokens)

    async def atranslate(
        self, texts: Sequence[str], adapter: str | None = None, max_tokens: int | None = None
    ) -> list[str]:
        """`translate` for asyncio. Cancelling its task cancels all texts in flight."""
        name, texts = adapter_or_base(self.engine, adapter), listed(texts)
        translations: list[str] = []
        for start in range(0, len(texts), AT_ONCE):
            jobs: list[Seq2SeqJob] = []
            try:
                part = [self.sentence(text, name, max_tokens) for text in texts[start : start + AT_ONCE]]
                jobs += map(self.engine.submit, part)
                written = await asyncio.gather(*(asyncio.wrap_future(job.done) for job in jobs))
            finally:
                for job in jobs:
                    job.cancel()  # does nothing if the job has finished
            translations += [self.codec.decode(one.ids) for one in written]
        return translations
