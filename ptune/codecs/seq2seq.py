"""The codec of an encoder-decoder: sources and targets to tokens, and the tokens that begin and end a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ptune.codecs.sequence import Encoded, SequenceCodec
from ptune.codecs.stream import whole
from ptune.codecs.vocabulary import Vocabulary
from ptune.formats.bundle import parse
from ptune.formats.whole_write import read_json, write_json

FORMAT = 1
FILE = "seq2seq.json"


class Writing(BaseModel):
    """seq2seq.json: the fixed properties of targets, from the generation config, and the base's own instruction."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = FORMAT
    start_id: int  # decoder input before the first token
    eos_ids: tuple[int, ...]  # each ends a target; training targets end with the first
    forced_bos_id: int | None = None  # the first token, whatever the model predicts
    forced_eos_id: int | None = None  # the last token if the limit is reached
    banned_ids: tuple[int, ...] = ()  # never generated
    system: str | None = None  # precedes every source, if the base itself was trained that way

    @classmethod
    def open(cls, folder: str | Path) -> Writing:
        """Reads seq2seq.json from a codec's folder. Raises: FormatError."""
        path = Path(folder) / FILE
        return parse(cls, read_json(path), path)

    def shifted(self, target: Sequence[int]) -> tuple[int, ...]:
        """Decoder inputs that predict `target`: `start_id`, then the target without its last token."""
        return (self.start_id, *target[:-1])


@dataclass(frozen=True)
class Seq2SeqCodec:
    """Texts <-> tokens; sources and targets share one tokenizer."""

    texts: SequenceCodec
    writing: Writing

    @classmethod
    def open(cls, folder: str | Path) -> Seq2SeqCodec:
        """Opens a folder written by `save`. Raises: FormatError if a file is missing or damaged."""
        return cls(SequenceCodec.open(folder), Writing.open(folder))

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json, codec.json and seq2seq.json."""
        self.texts.save(folder)
        write_json(Path(folder) / FILE, self.writing.model_dump(mode="json"))

    def source(self, text: str, max_length: int | None = None) -> Encoded:
        """Encodes a source in at most `max_length` tokens, including those that the tokenizer adds."""
        return self.texts.encode(text, max_length=max_length)

    def target(self, text: str, max_length: int | None = None) -> Encoded:
        """Encodes a target in at most `max_length` tokens; it ends with an end token even if the tokenizer adds none."""
        encoded = self.texts.encode(text, max_length=max_length)
        if encoded.ids and encoded.ids[-1] in self.writing.eos_ids:
            return encoded
        limit = self.texts.limit(max_length)
        kept = len(encoded.ids) if limit is None else min(len(encoded.ids), max(limit - 1, 0))
        end = self.writing.eos_ids[0]
        return Encoded(
            ids=(*encoded.ids[:kept], end),
            type_ids=(*encoded.type_ids[:kept], 0),
            offsets=(*encoded.offsets[:kept], (0, 0)),
            length=encoded.length + 1,
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without start and end tokens and without an incomplete character."""
        return whole(self.texts.tokenizer, self._vocabulary, ids).strip()

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.texts.tokenizer)
