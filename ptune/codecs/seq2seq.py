"""The codec of an encoder-decoder: a source and a target as tokens, and how the model begins and ends what it writes."""

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
    """seq2seq.json: what the family fixes about a target, as its generation config says, and the base's own instruction."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = FORMAT
    start_id: int  # what the decoder is given before the first token
    eos_ids: tuple[int, ...]  # each ends a target; the first is what targets are trained to end with
    forced_bos_id: int | None = None  # the first token, whatever the model says
    forced_eos_id: int | None = None  # the last token where the limit is reached
    banned_ids: tuple[int, ...] = ()  # never written
    system: str | None = None  # put before every source, where the base itself was trained so

    @classmethod
    def open(cls, folder: str | Path) -> Writing:
        """Reads it from a codec's folder. Raises: FormatError."""
        path = Path(folder) / FILE
        return parse(cls, read_json(path), path)

    def shifted(self, target: Sequence[int]) -> tuple[int, ...]:
        """What the decoder is given to predict `target`: the same one place later, behind `start_id`."""
        return (self.start_id, *target[:-1])


@dataclass(frozen=True)
class Seq2SeqCodec:
    """Texts <-> tokens; sources and targets share one tokenizer."""

    texts: SequenceCodec
    writing: Writing

    @classmethod
    def open(cls, folder: str | Path) -> Seq2SeqCodec:
        """Opens what `save` wrote. Raises: FormatError where a file is missing or damaged."""
        return cls(SequenceCodec.open(folder), Writing.open(folder))

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json, codec.json and seq2seq.json."""
        self.texts.save(folder)
        write_json(Path(folder) / FILE, self.writing.model_dump(mode="json"))

    def source(self, text: str, max_length: int | None = None) -> Encoded:
        """A source in at most `max_length` tokens, those that the tokenizer puts around it included."""
        return self.texts.encode(text, max_length=max_length)

    def target(self, text: str, max_length: int | None = None) -> Encoded:
        """A target in at most `max_length` tokens; it ends with an end token, also where the tokenizer writes none."""
        found = self.texts.encode(text, max_length=max_length)
        if found.ids and found.ids[-1] in self.writing.eos_ids:
            return found
        limit = self.texts.limit(max_length)
        kept = len(found.ids) if limit is None else min(len(found.ids), max(limit - 1, 0))
        end = self.writing.eos_ids[0]
        return Encoded(
            ids=(*found.ids[:kept], end),
            type_ids=(*found.type_ids[:kept], 0),
            offsets=(*found.offsets[:kept], (0, 0)),
            length=found.length + 1,
        )

    def decode(self, ids: Sequence[int]) -> str:
        """What was written, without the tokens that begin and end it and without a character that is not complete."""
        return whole(self.texts.tokenizer, self._vocabulary, ids).strip()

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.texts.tokenizer)
