"""Text out of tokens, as they come or as a whole, and never half a character."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tokenizers import Tokenizer

from ptune.codecs.vocabulary import Vocabulary

_INCOMPLETE = "\ufffd"


def whole(tokenizer: Tokenizer, vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """The text of tokens, without special ones and without a character at the end that is not complete.

    Such a character is what an answer's last token may leave behind where the answer was cut. Other bytes that are no
    UTF-8 are U+FFFD.
    """
    shown = [token for token in ids if not vocabulary.is_silent(token)]
    begun = vocabulary.begun(shown)
    if begun and vocabulary.is_byte(shown[-1]):  # each byte is a token
        return str(tokenizer.decode(shown[:-begun]))
    text = str(tokenizer.decode(shown))
    return text.removesuffix(_INCOMPLETE) if begun else text


class TokenStream:
    """Decodes one token after another. All that `push` and `finish` return, joined, is what `whole` makes of all tokens.

    Only the tokens of the last text and those still held back are decoded again (as in vLLM and TGI), so a token costs
    the same however long the text is.

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
        self._marks = shown
        known = after is not None and not (vocabulary.is_silent(after) or vocabulary.is_byte(after))
        self._ids: list[int] = [after] if after is not None and known else []
        self._shown = len(self._ids)  # so many of _ids are out already; they are the context of the others

    def push(self, token: int) -> str:
        """The text that is certain now; empty while a character is incomplete."""
        if token in self._marks:
            before = self._show(self._tokenizer.decode(self._ids)) if self._shown < len(self._ids) else ""
            self._ids, self._shown = [], 0
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
        """What was held back, without a character at the end that is not complete."""
        if self._shown == len(self._ids):
            return ""
        return self._show(whole(self._tokenizer, self._vocabulary, self._ids))

    def _show(self, text: str) -> str:
        before: str = self._tokenizer.decode(self._ids[: self._shown])
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return text[len(before) :]
