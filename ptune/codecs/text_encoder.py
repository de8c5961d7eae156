"""Encodes text to token ids. Every id that a chat codec feeds to a model comes from here."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from ptune.codecs.control_tokens import ControlTokens
from ptune.errors import TemplateError


class TextEncoder:
    """Encodes text in which placeholders stand for control tokens typed by a user.

    unknown: the token for characters that the tokenizer cannot spell; it is not a control token.

    `before` and `after` are the tokens that the tokenizer's post-processor adds around any text, such as BOS.
    """

    def __init__(self, tokenizer: Tokenizer, control: ControlTokens, unknown: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._control = control
        self._control_ids = control.ids - {None if unknown is None else tokenizer.token_to_id(unknown)}
        self.before, self.after = _post_processor_ids(tokenizer)

    def encode(self, text: str, literals: Mapping[str, str], *, continues: bool = False) -> list[int]:
        """Token ids of `text`, without those added by the tokenizer's post-processor.

        literals: placeholder -> its text, which is encoded as ordinary text.
        continues: the text follows other text, so no space may be added before it.

        Raises: TemplateError if this tokenizer would turn ordinary text into a control token.
        """
        ids: list[int] = []
        for piece in re.split(f"([{''.join(literals)}])", text) if literals else [text]:
            follows = continues or bool(ids)
            if piece in literals:
                ids += self._spell(literals[piece], follows)
            else:
                ids += _encode(self._tokenizer, piece, follows)
        if sum(token in self._control_ids for token in ids) > len(self._control.every.findall(text)):
            raise TemplateError("a text holds what this tokenizer cannot tell from one of its control tokens")
        return ids

    def encode_with_spans(
        self, text: str, literals: Mapping[str, str], spans: Sequence[tuple[int, int]]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of `text`, and its character spans (in order) as spans of tokens.

        The text is encoded as a whole, but cut where a token would straddle the start of a span: in serving, the text before
        the start is encoded by itself, and the model continues from that boundary. A token that straddles the end of a
        span is outside.

        Raises: TemplateError as `encode` does.
        """
        done: list[int] = []  # tokens before the last cut
        cut = 0
        rest = self.encode(text, literals)
        token_spans = []
        for start, end in spans:
            head = self.encode(text[cut:start], literals, continues=cut > 0)
            if rest[: len(head)] != head:
                done, cut = done + head, start
                head, rest = [], self.encode(text[cut:], literals, continues=True)
            upto = self.encode(text[cut:end], literals, continues=cut > 0)
            token_spans.append((len(done) + len(head), len(done) + shared_length(upto, rest)))
        return done + rest, token_spans

    def _spell(self, token: str, continues: bool) -> list[int]:
        """A control token's text, encoded as ordinary text."""
        ids = _encode(self._plain, token, continues)
        if self._control_ids.isdisjoint(ids):
            return ids
        # A Unigram model has its control tokens among its pieces and prefers them to their letters.
        return [piece for character in token for piece in _encode(self._plain, character, True)]

    @functools.cached_property
    def _plain(self) -> Tokenizer:
        """A copy of the tokenizer that treats every added token as ordinary text."""
        plain = Tokenizer.from_str(self._tokenizer.to_str())
        plain.add_special_tokens([token.content for token in plain.get_added_tokens_decoder().values()])
        plain.encode_special_tokens = True
        return plain


def _encode(tokenizer: Tokenizer, text: str, continues: bool) -> list[int]:
    """Encodes text; if it continues other text, after a line feed, so that SentencePiece adds no space before it."""
    if continues:
        line_feed = _ids(tokenizer, "\n")
        ids = _ids(tokenizer, "\n" + text)
        if ids[: len(line_feed)] == line_feed:
            return ids[len(line_feed) :]
    return _ids(tokenizer, text)


def _post_processor_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer adds before and after any text."""
    bare, whole = _ids(tokenizer, "a"), tokenizer.encode("a").ids
    at = next(at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
    return whole[:at], whole[at + len(bare) :]


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def shared_length(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Length of the common prefix of two sequences."""
    if right[: len(left)] == left:
        return len(left)
    pairs = zip(left, right, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
