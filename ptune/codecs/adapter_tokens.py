"""Tokens that an adapter brings, and the codec of an adapter."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from ptune.codecs.chat import ChatCodec
from ptune.errors import FormatError
from ptune.formats.bundle import AdapterRecord, NewToken
from ptune.formats.whole_write import read_json

FILE = "tokenizer.json"
OWN = "ptune.json"  # ptune's training names the new tokens there


def new_tokens_of(folder: Path, base: Tokenizer) -> tuple[NewToken, ...]:
    """The tokens that FOLDER/ptune.json or else FOLDER/tokenizer.json adds to those of `base`.

    Raises: FormatError where a file is damaged, or gives a new text a number of the base's tokens.
    """
    facts = read_json(folder / OWN) if (folder / OWN).is_file() else {}
    try:
        listed = [NewToken(id=number, text=text) for text, number in facts.get("new_tokens", {}).items()]
        if not listed and (folder / FILE).is_file():
            listed = [
                NewToken(id=entry["id"], text=entry["content"], special=bool(entry.get("special")))
                for entry in read_json(folder / FILE).get("added_tokens", ())
            ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{folder}: its new tokens cannot be read from {OWN} or {FILE}: {error!r}"
        ) from None
    new = [token for token in listed if base.token_to_id(token.text) != token.id]
    for token in new:
        if (there := base.id_to_token(token.id)) is not None:
            raise FormatError(
                f"{folder}: token {token.id} is {token.text!r} there and {there!r} in the base's tokenizer"
            )
    return tuple(sorted(new, key=lambda token: token.id))


def extended(base: Tokenizer, tokens: Iterable[NewToken]) -> Tokenizer:
    """A copy of a tokenizer with more tokens. Raises: FormatError where one gets another number than its adapter says."""
    tokenizer = Tokenizer.from_str(base.to_str())
    for token in tokens:
        tokenizer.add_tokens([AddedToken(token.text, special=token.special, normalized=False)])
        if (found := tokenizer.token_to_id(token.text)) != token.id:
            raise FormatError(
                f"the adapter's token {token.text!r} has number {token.id}, behind the base's tokens it would be {found}"
            )
    return tokenizer


def codec_of_record(base: ChatCodec, record: AdapterRecord) -> ChatCodec:
    """A bundle's codec with an adapter's own template, system message and tokens; the same object where it has none.

    Raises: TemplateError where the template is not valid; FormatError, as `extended`.
    """
    if not (record.own_prompt or record.template is not None or record.new_tokens):
        return base
    source = None if base.template is None else base.template.source
    if record.own_prompt or record.template is not None:
        source = record.template
    own = record if record.own_prompt else base
    tokenizer = extended(base.tokenizer, record.new_tokens) if record.new_tokens else None
    return base.with_template(source, system=own.system, defaults=own.defaults, tokenizer=tokenizer)
