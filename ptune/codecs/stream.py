"""Text out of tokens as they come, and never half a character."""

from __future__ import annotations

from collections.abc import Collection

from tokenizers import Tokenizer

from ptune.codecs.vocabulary import Vocabulary

_INCOMPLETE = "\ufffd"


class TokenStream:
    """Decodes one token after another. All that `push` and `finish` return, joined, is what decoding all tokens gives.

    Only the tokens of the last text and those still held back are decoded again (as in vLLM and TGI), so a token costs
    the same however long the text is.

    shown: special tokens that are written out nevertheless.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocabulary: Vocabulary, shown: Collection[int] = frozenset()
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._marks = shown
        self._ids: list[int] = []
        self._shown = 0  # so many of _ids are out already; they are the context of the others

    def push(self, token: int) -> str:
        """The text that is certain now; empty while a character is incomplete."""
        if token in self._marks:
            before, self._ids, self._shown = self.finish(), [], 0
            return before + self._vocabulary.bytes_of(token).decode()
        if self._vocabulary.is_silent(token):
            return ""
        self._ids.append(token)
        # Whether a run of byte tokens is valid UTF-8, and thus what any of it says, is known only at its end.
        if self._vocabulary.is_byte(token):
            return ""
        text = self._tokenizer.decode(self._ids)
        return "" if text.endswith(_INCOMPLETE) else self._show(text)

    def finish(self) -> str:
        """What was held back."""
        return self._show(self._tokenizer.decode(self._ids)) if self._shown < len(self._ids) else ""

    def _show(self, text: str) -> str:
        before: str = self._tokenizer.decode(self._ids[: self._shown])
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return text[len(before) :]
