"""The meaning of single tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer

_SPACE = "\u2581"  # SentencePiece's space
LONGEST = 3  # most bytes of an incomplete character


class Vocabulary:
    """The single tokens of a tokenizer, as its decoder reads them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._added = {token: known.content for token, known in added.items()}
        self._special = {token for token, known in added.items() if known.special}
        decoders = list(_decoders(tokenizer))
        self._byte_level = _byte_level_alphabet() if "ByteLevel" in decoders else None
        spellings = [f"<0x{byte:02X}>" for byte in range(256)] if "ByteFallback" in decoders else []
        self._bytes = {tokenizer.token_to_id(spelling): byte for byte, spelling in enumerate(spellings)}

    def is_silent(self, token: int) -> bool:
        """Whether decoding leaves the token out because it is special or unknown to the tokenizer."""
        return token in self._special or self._tokenizer.id_to_token(token) is None

    def is_byte(self, token: int) -> bool:
        """Whether the token is one byte of a character that the vocabulary lacks (SentencePiece's byte fallback)."""
        return token in self._bytes

    def bytes_of(self, token: int) -> bytes:
        """The token's bytes, possibly only part of a character; the name of a special token; nothing for an unknown one."""
        if token in self._added:
            return self._added[token].encode()
        if token in self._bytes:
            return bytes([self._bytes[token]])
        spelling: str = self._tokenizer.id_to_token(token) or ""
        if self._byte_level is not None:
            return bytes(self._byte_level[character] for character in spelling)
        return spelling.replace(_SPACE, " ").encode()

    def written(self, token: int) -> bytes:
        """The same; nothing for a spelling that is unknown to its own decoder."""
        try:
            return self.bytes_of(token)
        except KeyError:
            return b""

    def begun(self, tokens: Sequence[int]) -> int:
        """Number of bytes (0 to 3) of an incomplete character at the end of the tokens."""
        return _begun(b"".join(self.written(token) for token in tokens[-LONGEST:]))

    def table(self, size: int) -> list[bytes]:
        """The bytes of each of `size` tokens; for special tokens, their names."""
        return [self.written(token) for token in range(size)]

    @property
    def special(self) -> frozenset[int]:
        """Tokens that decoding leaves out."""
        return frozenset(self._special)

    def token_of(self, text: str) -> int | None:
        """The added token whose text is `text`."""
        return next((token for token, content in self._added.items() if content == text), None)

    def takes_first_space(self) -> bool:
        """Whether decoding removes a space at the beginning of a text."""
        spaced = (token for token in range(self._tokenizer.get_vocab_size()) if self._begins_word(token))
        token = next(spaced, None)
        return token is not None and not self._tokenizer.decode([token]).startswith(" ")

    def _begins_word(self, token: int) -> bool:
        written = b"" if token in self._added or self.is_silent(token) else self.written(token)
        return written.startswith(b" ") and len(written) > 1


def _decoders(tokenizer: Tokenizer) -> Iterator[str]:
    """Names of the decoder's parts; their pickled state is their JSON in tokenizer.json."""
    waiting: list[dict[str, Any]] = (
        [json.loads(tokenizer.decoder.__getstate__())] if tokenizer.decoder else []
    )
    for decoder in waiting:
        yield decoder["type"]
        waiting += decoder.get("decoders", [])


def _begun(text: bytes) -> int:
    for count in range(1, min(len(text), LONGEST) + 1):
        first = text[-count]
        if first & 0xC0 != 0x80:  # the first byte of a character
            missing = (first >= 0xC2) + (first >= 0xE0) + (first >= 0xF0) + 1 - count
            ends = (text[-count:] + fill * missing for fill in (b"\x80", b"\xbf"))
            return count if missing > 0 and any(_is_utf8(end) for end in ends) else 0
    return 0


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _byte_level_alphabet() -> dict[str, int]:
    """The character for each byte in byte-level BPE: itself if it is printable (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + number): byte for number, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted
