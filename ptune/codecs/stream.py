"""Decodes tokens to text, streamed or at once, without incomplete characters."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tokenizers import Tokenizer

from ptune.codecs.vocabulary import Vocabulary

_INCOMPLETE = "\ufffd"


def whole(tokenizer: Tokenizer, vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """The text of tokens, without special tokens and without an incomplete character at the end.

    An answer that was cut may end in an incomplete character. Other bytes that are not UTF-8 become U+FFFD.
    """
    shown = [token for token in ids if not vocabulary.is_silent(token)]
    begun = vocabulary.begun(shown)
    if begun and vocabulary.is_byte(shown[-1]):  # each byte is a token
        return str(tokenizer.decode(shown[:-begun]))
    text = str(tokenizer.decode(shown))
    return text.removesuffix(_INCOMPLETE) if begun else text


class TokenStream:
    """Decodes token by token. The results of `push` and `finish`, joined, equal `whole` of all tokens.

    Only the tokens of the last text and those still held back are decoded again (as in vLLM and TGI), so the cost per token
    does not grow with the text.

    shown: special tokens that are written out nevertheless.
    after: the token before the first one, if it is part of the same text; it is not written out.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocabulary: Vocabulary,
        shown: Collection[int] = frozenset(),
        after: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self.shown = shown
        known = after is not None and not (vocabulary.is_silent(after) or vocabulary.is_byte(after))
        self._ids: list[int] = [after] if after is not None and known else []
        self._shown = len(self._ids)  # so many of _ids are out already; they are the context of the others

    def push(self, token: int) -> str:
        """Adds a token and returns the text that is certain now; empty while a character is incomplete."""
        if token in self.shown:
            before = self._show(self._tokenizer.decode(self._ids)) if self._shown < len(self._ids) else ""
            self._ids, self._shown = [], 0
            return before + self._vocabulary.bytes_of(token).decode()
        if self._vocabulary.is_silent(token):
            return ""
        self._ids.append(token)
        # Only at its end is it known whether a run of byte tokens is valid UTF-8, and thus what its text is.
        if self._vocabulary.is_byte(token):
            return ""
        text = self._tokenizer.decode(self._ids)
        return "" if text.endswith(_INCOMPLETE) else self._show(text)

    def finish(self) -> str:
        """The text held back, without an incomplete character at the end."""
        if self._shown == len(self._ids):
            return ""
        return self._show(whole(self._tokenizer, self._vocabulary, self._ids))

    def _show(self, text: str) -> str:
        before: str = self._tokenizer.decode(self._ids[: self._shown])
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return text[len(before) :]
