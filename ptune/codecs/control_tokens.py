"""Control tokens steer the model (`<|im_end|>`, `</s>`); text from a user must never become one.

While a template is rendered, private-use characters replace the control tokens in user text. So the rendered text contains
only the template's own control tokens; `TextEncoder` then encodes the others as ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from tokenizers import Tokenizer

from ptune.codecs.messages import map_strings
from ptune.codecs.private_use import unused_characters


class ControlTokens:
    """Patterns that match control tokens.

    `special` matches those that decoding leaves out. `every` also matches those that the template writes although the
    tokenizer treats them as ordinary (`<tool_call>`, `<think>`): decoding shows these, so an answer may contain them.

    named: tokens that the model's configuration names, e.g. its eos_token.
    written: all text that the template itself can write.
    """

    def __init__(self, tokenizer: Tokenizer, named: Collection[str], written: str) -> None:
        added = tokenizer.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special} | set(named)
        # Runs of white space may be added tokens too; they always count as text.
        marks = {token.content for token in added if token.content in written and not token.content.isspace()}
        self.special = any_of(special)
        self.every = any_of(special | marks)
        ids = {tokenizer.token_to_id(token) for token in special | marks}
        self.ids = ids - {None}


class Placeholders:
    """Hides control tokens in user text; `literals` maps each placeholder to its text.

    user_input: all the text to hide tokens in, so that no placeholder equals one of its characters.
    """

    def __init__(self, control: ControlTokens, user_input: Any) -> None:
        self.literals: dict[str, str] = {}
        self._control = control
        self._placeholders: dict[str, str] = {}
        self._free = unused_characters(user_input)

    def hide(self, value: Any, path: str = "text") -> Any:
        """A JSON-like value with placeholders in all its strings. Raises: TemplateError for any other value."""
        return self._hide(self._control.every, value, path)

    def mark(self, template: str) -> str:
        """A character that occurs neither in what users wrote nor in the template, and is no placeholder."""
        return next(character for character in self._free if character not in template)

    def hide_message(self, message: dict[str, Any]) -> dict[str, Any]:
        """A checked message with placeholders; in an assistant's message only special tokens are hidden."""
        pattern = self._control.special if message["role"] == "assistant" else self._control.every
        hidden: dict[str, Any] = self._hide(pattern, message, "message")
        return hidden

    def _hide(self, pattern: re.Pattern[str], value: Any, path: str) -> Any:
        return map_strings(value, lambda text: pattern.sub(self._placeholder, text), path)

    def _placeholder(self, match: re.Match[str]) -> str:
        token = match[0]
        if token not in self._placeholders:
            placeholder = next(self._free)
            self._placeholders[token] = placeholder
            self.literals[placeholder] = token
        return self._placeholders[token]


def any_of(tokens: Collection[str]) -> re.Pattern[str]:
    """A pattern that matches any of the tokens, the longest first, as tokenizers do."""
    return re.compile(
        "|".join(map(re.escape, sorted(filter(None, tokens), key=len, reverse=True))) or r"(?!)"
    )
