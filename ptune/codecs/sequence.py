"""The codec of a text encoder: a text, a pair, words or steps to tokens, the same in training and serving."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from tokenizers import Encoding, Tokenizer
from tokenizers.processors import Sequence as OneAfterTheOther
from tokenizers.processors import TemplateProcessing

from ptune.errors import FormatError
from ptune.formats.bundle import parse
from ptune.formats.whole_write import read_json, write_json, write_text

FORMAT = 1
_STAND_IN = "?"  # replaces a word that the tokenizer drops, such as a zero-width space


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text, or a pair, in tokens."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]  # 1 for tokens of the second text, for models that use it
    offsets: tuple[
        tuple[int, int], ...
    ]  # characters of the token's text; (0, 0) for the tokenizer's own tokens
    length: int  # tokens before it was cut

    @property
    def truncated(self) -> bool:
        return self.length > len(self.ids)


@dataclass(frozen=True, slots=True)
class EncodedWords:
    """Words, or a prompt and its steps, in tokens."""

    ids: tuple[int, ...]
    first: tuple[
        int | None, ...
    ]  # index of each word's first token, or step's last; None if that was cut off
    type_ids: tuple[int, ...]
    length: int  # tokens before it was cut

    @property
    def truncated(self) -> bool:
        return self.length > len(self.ids)


class SequenceRecord(BaseModel):
    """codec.json"""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = FORMAT
    kind: Literal["sequence"]
    context: int | None = None
    type_ids: bool = False
    pad_id: int = 0
    special_tokens: dict[str, str] = {}


class SequenceCodec:
    """A tokenizer with the tokens that it adds around and between texts.

    tokenizer: owned by the codec from now on, which switches off its truncation and padding, and makes it spell special
        tokens within a text: user text never steers the model. A tokenizer that puts nothing between two texts gets a
        line feed between them.
    context: longest sequence of the model, in tokens; None if unknown.
    type_ids: whether the model uses the information which of two texts a token belongs to.
    pad_id: the padding token.
    special_tokens: by transformers' names: cls_token, pad_token, …
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        context: int | None,
        type_ids: bool,
        pad_id: int,
        special_tokens: Mapping[str, str],
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        _part_pairs(tokenizer)
        self.tokenizer = tokenizer
        self.context, self.type_ids, self.pad_id = context, type_ids, pad_id
        self.special_tokens = dict(special_tokens)
        self._unknown = tokenizer.token_to_id(self.special_tokens.get("unk_token", ""))
        added = tokenizer.get_added_tokens_decoder()
        special = {token for token, known in added.items() if known.special}
        self._control = special - {self._unknown}
        self._spaced = _wants_spaces(tokenizer)

    @classmethod
    def open(cls, folder: str | Path) -> SequenceCodec:
        """Opens a folder written by `save`. Raises: FormatError if a file is missing or damaged."""
        folder = Path(folder)
        record = parse(SequenceRecord, read_json(folder / "codec.json"), folder / "codec.json")
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the tokenizer's reader raises bare Exceptions
            raise FormatError(f"{folder}: its tokenizer.json cannot be read: {error}") from None
        return cls(
            tokenizer,
            context=record.context,
            type_ids=record.type_ids,
            pad_id=record.pad_id,
            special_tokens=record.special_tokens,
        )

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and codec.json."""
        folder = Path(folder)
        write_text(folder / "tokenizer.json", self.tokenizer.to_str())
        record = SequenceRecord(
            kind="sequence",
            context=self.context,
            type_ids=self.type_ids,
            pad_id=self.pad_id,
            special_tokens=self.special_tokens,
        )
        write_json(folder / "codec.json", record.model_dump(mode="json"))

    def limit(self, max_length: int | None) -> int | None:
        """Longest sequence in tokens: `max_length`, or the model's context if that is shorter."""
        known = [length for length in (max_length, self.context) if length is not None]
        return min(known) if known else None

    def encode(self, text: str, pair: str | None = None, max_length: int | None = None) -> Encoded:
        """Encodes a text or a pair in at most `max_length` tokens; in a pair the longer text is cut."""
        encoding = self.tokenizer.encode(text, pair)
        kept = self._kept(encoding, max_length)
        return Encoded(
            ids=tuple(self._harmless(encoding, place) for place in kept),
            type_ids=tuple(encoding.type_ids[place] for place in kept) if self.type_ids else (0,) * len(kept),
            offsets=tuple(encoding.offsets[place] for place in kept),
            length=len(encoding.ids),
        )

    def encode_words(self, words: Sequence[str], max_length: int | None = None) -> EncodedWords:
        """Encodes words in at most `max_length` tokens; every word that is not cut off has a first token."""
        encoding = self._words(words)
        if len(words) > len({word for word in encoding.word_ids if word is not None}):
            read = set(encoding.word_ids)
            encoding = self._words([word if at in read else _STAND_IN for at, word in enumerate(words)])
        kept = self._kept(encoding, max_length)
        first: dict[int, int] = {}
        for at, place in enumerate(kept):
            word = encoding.word_ids[place]
            if word is not None:
                first.setdefault(word, at)
        return EncodedWords(
            ids=tuple(self._harmless(encoding, place) for place in kept),
            first=tuple(map(first.get, range(len(words)))),
            type_ids=(0,) * len(kept),
            length=len(encoding.ids),
        )

    def encode_steps(
        self, prompt: str, steps: Sequence[str], separator: str, max_length: int | None = None
    ) -> EncodedWords:
        """Encodes a prompt and the steps of an answer, each with the separator after it, in at most `max_length` tokens.

        Each part is encoded by itself, as TRL does it. What goes before is the tokenizer's own, else its BOS token if it has one.
        """
        before, after = self._around
        ids, ends = self._part(prompt), []
        for step in steps:
            ids += (self._part(step) + self._part(separator)) or self._part(_STAND_IN)
            ends.append(len(before) + len(ids) - 1)
        limit = self.limit(max_length)
        room = len(ids) if limit is None else max(limit - len(before) - len(after), 0)
        kept = (*before, *ids[:room], *after)
        return EncodedWords(
            ids=kept,
            first=tuple(end if end < len(before) + room else None for end in ends),
            type_ids=(0,) * len(kept),
            length=len(before) + len(ids) + len(after),
        )

    def _part(self, text: str) -> list[int]:
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return [self._harmless(encoding, place) for place in range(len(encoding.ids))]

    @functools.cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The tokens before and after any text."""
        encoding = self.tokenizer.encode("a")
        own = _places(encoding, 0)
        begins = self.tokenizer.token_to_id(self.special_tokens.get("bos_token", ""))
        before = encoding.ids[: own[0]] or ([] if begins is None else [begins])
        return before, encoding.ids[own[-1] + 1 :]

    def _words(self, words: Sequence[str]) -> Encoding:
        spaced = [word if at == 0 else f" {word}" for at, word in enumerate(words)]
        return self.tokenizer.encode(spaced if self._spaced else list(words), is_pretokenized=True)

    def _kept(self, encoding: Encoding, max_length: int | None) -> Sequence[int]:
        """Indices of the tokens to keep: all of the tokenizer's own, and as many of each text as fit."""
        limit = self.limit(max_length)
        if limit is None or len(encoding.ids) <= limit:
            return range(len(encoding.ids))
        texts = [_places(encoding, 0), _places(encoding, 1)]
        room = max(limit - len(encoding.ids) + sum(map(len, texts)), 0)
        shorter, longer = sorted(texts, key=len)  # of two equally long texts the first counts as the shorter
        share = min(len(shorter), room // 2)
        cut = {*shorter[share:], *longer[room - share :]}
        return [place for place in range(len(encoding.ids)) if place not in cut]

    def _harmless(self, encoding: Encoding, place: int) -> int:
        """The token, or the unknown token if plain letters of a text gave a special token, as Unigram models can."""
        token = encoding.ids[place]
        if token in self._control and not encoding.special_tokens_mask[place]:
            return self.pad_id if self._unknown is None else self._unknown
        return token


def _places(encoding: Encoding, text: int) -> list[int]:
    return [place for place, of in enumerate(encoding.sequence_ids) if of == text]


def _wants_spaces(tokenizer: Tokenizer) -> bool:
    """Whether words that are encoded one by one need a space before them, as in byte-level tokenizers."""
    together = tokenizer.encode("a b", add_special_tokens=False).ids
    apart, spaced = (
        tokenizer.encode(words, is_pretokenized=True, add_special_tokens=False).ids
        for words in (["a", "b"], ["a", " b"])
    )
    return apart != together and spaced == together


def _part_pairs(tokenizer: Tokenizer) -> None:
    """Makes a tokenizer that would join two texts put a line feed between them."""
    encoding = tokenizer.encode("a", "a")
    first, second = _places(encoding, 0), _places(encoding, 1)
    if not first or not second or second[0] - first[-1] > 1:
        return
    named: dict[str, dict[str, Any]] = {}

    def own(places: Sequence[int]) -> list[str]:
        for place in places:
            token = encoding.tokens[place]
            named[token] = {"id": token, "ids": [encoding.ids[place]], "tokens": [token]}
        return [encoding.tokens[place] for place in places]

    before, after = own(range(first[0])), own(range(second[-1] + 1, len(encoding.ids)))
    feed = tokenizer.encode("\n", add_special_tokens=False)
    if not feed.ids:
        return
    named["line feed"] = {"id": "line feed", "ids": feed.ids, "tokens": feed.tokens}
    template = TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", "line feed", "$B:1", *(f"{token}:1" for token in after)],
        special_tokens=list(named.values()),
    )
    given = tokenizer.post_processor
    keeps = given is not None and not isinstance(given, TemplateProcessing)
    tokenizer.post_processor = OneAfterTheOther([given, template]) if keeps else template
