"""An Ollama Modelfile beside the GGUF files: what Ollama would otherwise guess.

Its prompts are Go templates. One is made of a chat template only where that writes each message between fixed pieces of text, which
rendering says: the pieces are taken from short conversations and have to make up longer ones, character by character.
https://docs.ollama.com/modelfile
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from ptune.codecs.chat import ChatCodec
from ptune.errors import TemplateError
from ptune.export.gguf.vocabulary import around_text

LARGEST_CONTEXT = 8192  # tokens: Ollama's cache takes memory for all of them
Turn = tuple[str, str]
_SYSTEM, _USER, _ASSISTANT = "system", "user", "assistant"


@dataclass(frozen=True)
class Pieces:
    """What a chat template writes around messages."""

    around: Mapping[str, tuple[str, str]]  # role -> before, after
    default: str  # where no system message comes first
    asking: str  # before the answer
    trims: bool = False  # spaces around a message are cut off, as no Go template of Ollama's can

    def rendered(self, turns: Sequence[Turn]) -> str:
        """What the Go template makes of a conversation."""
        lead = self.default if turns[0][0] != _SYSTEM else ""
        body = "".join(f"{self.around[role][0]}{text}{self.around[role][1]}" for role, text in turns)
        return lead + body + self.asking

    def go(self) -> str:
        """As a Go template over Ollama's `.Messages`."""
        (system, user, assistant) = (self.around.get(role) for role in (_SYSTEM, _USER, _ASSISTANT))
        assert user is not None
        assert assistant is not None
        lead = (
            f'{{{{ if and (eq $i 0) (ne .Role "system") }}}}{self.default}{{{{ end }}}}'
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
            f'{{{{ if and $last (ne .Role "assistant") }}}}{self.asking}{{{{ end }}}}{{{{ end }}}}'
        )


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
    literals = [] if found is None else [found.default, found.asking, *sum(found.around.values(), ())]
    plain = not any(mark in text for text in literals for mark in ("{{", "}}", '"""'))
    if found is None or not fits or not plain:
        return None
    spaced = [(_USER, " A word \n")]
    return replace(found, trims=found.rendered(spaced) != _text(codec, spaced))


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
    if pieces is not None:
        lines += [f'TEMPLATE """{pieces.go()}"""']
        if pieces.trims:
            lines += ["# The model's own template cuts spaces around a message off; this one cannot."]
    elif codec.template is not None:
        lines += [
            "# No TEMPLATE: the model's own chat template is no sequence of fixed pieces of text, so that a Go template would",
            "# write other prompts. Ollama guesses one from the base's chat template; llama-server renders that itself.",
        ]
    if codec.system is not None and '"""' not in codec.system:
        lines += [f'SYSTEM """{codec.system}"""']
    added = codec.tokenizer.get_added_tokens_decoder()
    stops = [codec.tokenizer.id_to_token(token) for token in sorted(codec.eos_ids) if token in added]
    lines += [f"PARAMETER stop {json.dumps(text, ensure_ascii=False)}" for text in stops]
    lines += [
        "# Ollama's own default of 1.1 would change the distribution that was trained.",
        "PARAMETER repeat_penalty 1",
        f"PARAMETER num_ctx {min(context, LARGEST_CONTEXT)}",
    ]
    return "\n".join(lines) + "\n"
