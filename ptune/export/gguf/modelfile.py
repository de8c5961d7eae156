"""An Ollama Modelfile beside the GGUF files: what Ollama would otherwise guess.

Its prompts are Go templates. One is made of a chat template only where that writes each message between fixed pieces of text, which
rendering says: the pieces are taken from short conversations and have to make up longer ones, character by character.
A Modelfile's values have no escapes, and of characters that Go does not print, such as a no-break space, Ollama reads none: these
are written as constants of the Go template.
https://docs.ollama.com/modelfile
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from ptune.codecs.chat import ChatCodec
from ptune.codecs.template import ChatTemplate
from ptune.errors import TemplateError
from ptune.export.gguf.vocabulary import around_text

LARGEST_CONTEXT = 8192  # tokens: Ollama's cache takes memory for all of them
Turn = tuple[str, str]
_SYSTEM, _USER, _ASSISTANT = "system", "user", "assistant"
_QUOTES = '"""'
_ANOTHER_DAY = datetime.datetime(1999, 2, 3, 4, 5, 6)


@dataclass(frozen=True)
class Pieces:
    """What a chat template writes around messages."""

    around: Mapping[str, tuple[str, str]]  # role -> before, after
    default: str  # where no system message comes first
    asking: str  # before the answer
    trims: bool = False  # spaces around a message are cut off, as no Go template of Ollama's can
    dated: bool = False  # some of it is the date, as it was when this was taken apart

    def rendered(self, turns: Sequence[Turn]) -> str:
        """What the Go template makes of a conversation."""
        lead = self.default if turns[0][0] != _SYSTEM else ""
        body = "".join(f"{self.around[role][0]}{text}{self.around[role][1]}" for role, text in turns)
        return lead + body + self.asking

    def go(self) -> str:
        """As a Go template over Ollama's `.Messages`."""
        around = {role: (_in_go(before), _in_go(after)) for role, (before, after) in self.around.items()}
        (system, user, assistant) = (around.get(role) for role in (_SYSTEM, _USER, _ASSISTANT))
        assert user is not None
        assert assistant is not None
        lead = (
            f'{{{{ if and (eq $i 0) (ne .Role "system") }}}}{_in_go(self.default)}{{{{ end }}}}'
            if self.default
            else ""
        )
        first = (
            f'{{{{ if eq .Role "system" }}}}{system[0]}{{{{ .Content }}}}{system[1]}{{{{ else if'
            if system
            else "{{ if"
        )
        return (
            "{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}"
            f'{lead}{first} eq .Role "user" }}}}{user[0]}{{{{ .Content }}}}{user[1]}'
            f'{{{{ else if eq .Role "assistant" }}}}{assistant[0]}{{{{ .Content }}}}'
            f"{{{{ if not $last }}}}{assistant[1]}{{{{ end }}}}{{{{ end }}}}"
            f'{{{{ if and $last (ne .Role "assistant") }}}}{_in_go(self.asking)}{{{{ end }}}}{{{{ end }}}}'
        )


def _in_go(text: str) -> str:
    """A piece of text in a Go template: what would be read otherwise as a constant."""

    def constant(found: re.Match[str]) -> str:
        escaped = "".join(rf"\U{ord(one):08x}" for one in found[0])
        return f'{{{{ "{escaped}" }}}}'

    lost = "".join(re.escape(one) for one in sorted({*text}) if not _is_read(one))
    return re.sub(rf'[{{{lost}]+|"{{3,}}', constant, text)


def _is_read(character: str) -> bool:
    """Whether Ollama keeps a character of a Modelfile: those that Go prints, and blanks."""
    return character in " \t\n\r" or unicodedata.category(character)[0] in "LMNPS"


def _is_value(text: str) -> bool:
    """Whether Ollama reads a text as it is, between quotes."""
    return _QUOTES not in text and all(map(_is_read, text))


def pieces_of(codec: ChatCodec) -> Pieces | None:
    """None where the chat template is not made of such pieces, or there is none."""
    if codec.template is None:
        return None
    try:
        found = _taken_apart(codec)
        fits = found is not None and all(
            found.rendered(turns) == _text(codec, turns) for turns in _conversations(_SYSTEM in found.around)
        )
    except (TemplateError, ValueError):
        return None
    if found is None or not fits:
        return None
    spaced = [(_USER, " A word \n")]
    trims = found.rendered(spaced) != _text(codec, spaced)
    return replace(found, trims=trims, dated=_is_dated(codec))


def _is_dated(codec: ChatCodec) -> bool:
    """Whether the chat template writes what day it is."""
    assert codec.template is not None
    then = ChatTemplate(codec.template.source, codec.special_tokens, now=lambda: _ANOTHER_DAY)
    then.expect_parts()
    told = [{"role": _USER, "content": "A word"}]
    variables: dict[str, Any] = {**codec.defaults.chat_template_kwargs}
    return then.render(told, **variables) != codec.template.render(told, **variables)


def _taken_apart(codec: ChatCodec) -> Pieces | None:
    """Raises: ValueError where a message's text is not found where it should be; TemplateError."""
    user, assistant = (_USER, "U0u"), (_ASSISTANT, "A0a")
    alone, after_user = _text(codec, [user], asking=False).split("U0u")
    _, between, after_assistant = _parted(_text(codec, [user, assistant], asking=False), "U0u", "A0a")
    twice = _text(codec, [user, assistant, (_USER, "V0v")], asking=False)
    before_user = twice.split("A0a")[1].split("V0v")[0].removeprefix(after_assistant)
    around = {
        _USER: (before_user, after_user),
        _ASSISTANT: (between.removeprefix(after_user), after_assistant),
    }
    asking = _text(codec, [user]).removeprefix(_text(codec, [user], asking=False))
    try:
        head, then, _ = _parted(_text(codec, [(_SYSTEM, "S0s"), user], asking=False), "S0s", "U0u")
        around[_SYSTEM] = (head, then.removesuffix(before_user))
    except TemplateError:  # a template that knows no system message
        pass
    return Pieces(around, alone.removesuffix(before_user), asking)


def _parted(text: str, first: str, second: str) -> tuple[str, str, str]:
    head, rest = text.split(first)
    between, end = rest.split(second)
    return head, between, end


def _conversations(system: bool) -> list[list[Turn]]:
    """Short and long ones, with and without a system message."""
    starts: list[list[Turn]] = [[], [(_SYSTEM, "Be brief.\nBe kind.")]] if system else [[]]
    middle: list[Turn] = [(_USER, "What is it?"), (_ASSISTANT, "A thing:\n\n1. one\n2. two")]
    return [
        [*start, *middle * rounds, (_USER, 'Why? {x} "y"')] for start, rounds in product(starts, (0, 1, 3))
    ]


def _text(codec: ChatCodec, turns: Sequence[Turn], *, asking: bool = True) -> str:
    """A conversation as the template writes it, without the BOS that llama.cpp puts before a text anyway."""
    assert codec.template is not None
    messages = [{"role": role, "content": text} for role, text in turns]
    variables: dict[str, Any] = {**codec.defaults.chat_template_kwargs}
    text = codec.template.render(messages, add_generation_prompt=asking, **variables)
    bos = codec.special_tokens.get("bos_token", "")
    first, _ = around_text(codec)
    return text.removeprefix(bos) if first and codec.tokenizer.token_to_id(bos) == first[0] else text


def modelfile(codec: ChatCodec, base: str, adapter: str | None, context: int, pieces: Pieces | None) -> str:
    """base, adapter: names of the files beside it."""
    lines = [f"FROM ./{base}"]
    if adapter:
        lines += [
            "# Ollama from 0.34.1 on is said to refuse ADAPTER; `ptune export RUN --gguf --merge` makes one model."
        ]
        lines += [f"ADAPTER ./{adapter}"]
    pieces, said = _with_system(codec, pieces)
    lines += _template(codec, pieces) + said
    added = codec.tokenizer.get_added_tokens_decoder()
    stops = [added[token].content for token in sorted(codec.eos_ids) if token in added]
    lines += [f"PARAMETER stop {_quoted(text)}" for text in stops if _is_value(text)]
    lines += [
        "# Ollama's own default of 1.1 would change the distribution that was trained.",
        "PARAMETER repeat_penalty 1",
        f"PARAMETER num_ctx {min(context, LARGEST_CONTEXT)}",
    ]
    return "\n".join(lines) + "\n"


def _template(codec: ChatCodec, pieces: Pieces | None) -> list[str]:
    """The lines that say how prompts are written."""
    if pieces is not None:
        lines = [f"TEMPLATE {_QUOTES}{pieces.go()}{_QUOTES}"]
        if pieces.trims:
            lines += ["# The model's own template cuts spaces around a message off; this one cannot."]
        if pieces.dated:
            lines += [
                "# The model's own template writes today's date; this one that of the day of the export."
            ]
        return lines
    if codec.template is None:
        return []
    return [
        "# No TEMPLATE: the model's own chat template is no sequence of fixed pieces of text, so that a Go template would",
        "# write other prompts. Ollama guesses one from the base's chat template; llama-server renders that itself.",
    ]


def _with_system(codec: ChatCodec, pieces: Pieces | None) -> tuple[Pieces | None, list[str]]:
    """The pieces, and the lines that bring the run's system message. What no value can hold is a part of the template."""
    if codec.system is None:
        return pieces, []
    if _is_value(codec.system):
        return pieces, [f"SYSTEM {_QUOTES}{codec.system}{_QUOTES}"]
    if pieces is None or _SYSTEM not in pieces.around:
        return pieces, [
            "# No SYSTEM: Ollama would read another text than the run's system message, which has three quotes in a row or",
            "# characters that Ollama leaves out. Send it as the first message of each conversation.",
        ]
    before_user = pieces.around[_USER][0]
    lead, _ = _text(codec, [(_SYSTEM, codec.system), (_USER, "U0u")], asking=False).rsplit("U0u", 1)
    return replace(pieces, default=lead.removesuffix(before_user)), []


def _quoted(text: str) -> str:
    """A value of a Modelfile."""
    return f"{_QUOTES}{text}{_QUOTES}" if '"' in text or "\n" in text else f'"{text}"'
