"""A codec without a tokenizer: bytes are tokens. And what stands for a vision tower. For tests of the server."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, cast

from PIL import Image

from ptune.codecs.reading import Reading, reading_after
from ptune.codecs.reasoning import ReasoningFormat
from ptune.codecs.template import ChatTemplate
from ptune.codecs.template_request import NO_VARIABLES, open_answer, require_variables
from ptune.codecs.tool_calls import ToolFormat
from ptune.errors import TemplateError
from ptune.formats.request_defaults import NO_DEFAULTS, RequestDefaults

EOS = 256
CONTEXT = 512
TEMPLATE = ChatTemplate("{{ enable_thinking }}{{ reasoning_effort }}")  # only for the names of its variables
HERMES = ToolFormat(
    kind="hermes",
    begin="<tool_call>",
    head='\n{"name": "',
    middle='", "arguments": ',
    between='}\n</tool_call>\n<tool_call>\n{"name": "',
    tail="}\n</tool_call>",
)


class ByteCodec:
    """A token is a byte of UTF-8; 256 ends an answer. Calls are written as Hermes and Qwen do."""

    eos_ids = frozenset({EOS})
    special_ids = frozenset({EOS})
    vocab_size = 257
    context = CONTEXT
    takes_first_space = False
    special_tokens: ClassVar = {"eos_token": "<end>"}
    template = None
    system = None
    vision: Any = None

    def __init__(
        self,
        tool_format: ToolFormat | None = HERMES,
        after: Sequence[int] = (),
        reasoning: ReasoningFormat | None = None,
        defaults: RequestDefaults = NO_DEFAULTS,
    ) -> None:
        self.tool_format = tool_format
        self.reasoning_format = reasoning
        self.defaults = defaults
        self._after = after  # what the tokenizer puts after a text

    def encode_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        asking: bool = True,
        continued: bool = False,
        variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> list[int]:
        require_variables(TEMPLATE, self.special_tokens, variables)
        if continued:
            open_answer(messages)
        if messages[0]["role"] == "assistant":
            raise TemplateError("a conversation must not begin with the assistant")
        shown = "".join(f"<tool {tool['function']['name']}>" for tool in tools or ())
        turns = (f"<{message['role']}>{_turn(message)}" for message in messages)
        shown += "".join(f"<{name}={value}>" for name, value in variables.items())
        return self.encode_text(shown + "".join(turns) + ("" if asking or continued else "<open>"))

    def encode_text(self, text: str, *, special: bool = True) -> list[int]:
        return [*text.encode(), *(self._after if special else ())]

    def spell(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def token_table(self, size: int) -> list[bytes]:
        return [self.token_bytes(token) for token in range(size)]

    def reading(self, prompt: Sequence[int], answer: str | None = None) -> Reading | None:
        if self.reasoning_format is None:
            return None
        closing = tuple(self.reasoning_format.end.encode())
        return reading_after(
            Reading(self.reasoning_format, False, closing, self.silent_mark), self.spell(prompt), answer
        )

    def mark(self, text: str) -> int | None:
        return None

    silent_mark = mark

    def pieces(self, text: str) -> list[str | int]:
        return [text] if text else []

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token != EOS).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return b"<end>" if token == EOS else bytes([token])

    def token_text(self, token: int) -> str:
        return self.token_bytes(token).decode(errors="replace")

    def stream(self, shown: Collection[int] = (), after: int | None = None) -> _ByteStream:
        return _ByteStream()


class SeeingCodec(ByteCodec):
    """A codec of a model that sees images: a prompt shows each as `<image NUMBER>`."""

    vision = SimpleNamespace(
        tiles=lambda image: image,
        layout=lambda size: SimpleNamespace(written=(0,)),
        preprocessing=SimpleNamespace(normalised=lambda image: image),
        plain=list,
    )


class FakeTower:
    """Remembers what it saw: the width, height and first pixel of each image, by their numbers."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, tuple[int, int, int]]] = []

    def see(self, image: Image.Image, layout: object) -> SimpleNamespace:
        self.seen.append((image.width, image.height, cast(tuple[int, int, int], image.getpixel((0, 0)))))
        return SimpleNamespace(first=len(self.seen) - 1)


def _turn(message: Mapping[str, Any]) -> str:
    calls = "".join(f"<calls {call['function']['name']}>" for call in message.get("tool_calls", ()))
    content = message.get("content", "")
    if isinstance(content, list) and any(part["type"] == "image" for part in content):
        content = "".join(part.get("text") or f"<image {part['first_row']}>" for part in content)
    return f"{content}{calls}"


class _ByteStream:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(bytes([token]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)
