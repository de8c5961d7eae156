"""Chat templates: sandboxed Jinja with Hugging Face's extensions, rendered to the same bytes as in transformers.

Source: https://huggingface.co/docs/transformers/chat_templating
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import meta, nodes
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro

from ptune.codecs.private_use import unused_characters
from ptune.codecs.template_bounds import BoundedEnvironment, bounded
from ptune.errors import TemplateError

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]

_MARKS = "_generation_marks"  # variable: the two characters that {% generation %} puts around its block
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of an answer's reasoning field; the first is the standard one."""


class ChatTemplate:
    """A compiled chat template. Rendering is pure and may run in several threads at once.

    special_tokens: variables of the template, e.g. {"bos_token": "<s>", "eos_token": "</s>"}.
    now: the clock behind `strftime_now`.

    Raises: TemplateError where the source is not valid Jinja.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        *,
        now: Callable[[], datetime.datetime] = datetime.datetime.now,
    ) -> None:
        self.source = source
        self._variables = dict(special_tokens or {})
        self._parts = False  # whether texts are handed over as lists of parts
        environment = _environment(now)
        try:
            tree = environment.parse(source)
            self.literals = "\0".join(_literals(tree))
            """All text that the template itself may write."""
            self.variables = frozenset(meta.find_undeclared_variables(tree))
            """Names of all variables that the template reads."""
            self._marks_answers = next(tree.find_all(nodes.ExtensionAttribute), None) is not None
            self._template = environment.bound(tree)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template is not valid Jinja: line {error.lineno}: {error.message}"
            ) from None
        except (RecursionError, MemoryError, SyntaxError):  # Python cannot compile the generated code
            raise TemplateError("the chat template is nested too deeply") from None

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Tools | None = None,
        **variables: Any,
    ) -> str:
        """The conversation as text.

        Raises: TemplateError if the template refuses these messages, fails on them, or tries to leave its sandbox.
        """
        try:
            with bounded():
                return self._template.render(
                    {
                        **self._variables,
                        "messages": [_as_templates_expect(message, self._parts) for message in messages],
                        "tools": tools,
                        "documents": None,
                        "add_generation_prompt": add_generation_prompt,
                        **variables,
                    }
                )
        except Exception as error:  # a template is a third party's program: it may fail in any way
            raise TemplateError(f"the chat template cannot render these messages: {error}") from None

    @property
    def takes_parts(self) -> bool:
        """Whether it shows a text as a list of parts alone, as `expect_parts` has found."""
        return self._parts

    def expect_parts(self) -> None:
        """Finds out whether the template shows a text only as a list of parts, as those of some models that see images do, and
        hands texts over as such from now on."""
        probe = "plain text"
        for self._parts in (False, True):
            with contextlib.suppress(TemplateError):
                if probe in self.render([{"role": "user", "content": probe}]):
                    return
        self._parts = False

    def render_with_spans(
        self, messages: Sequence[Message], *, tools: Tools | None = None, **variables: Any
    ) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as text, and the character spans of its {% generation %} blocks; [] without such blocks.

        Raises: TemplateError, like `render`, and if the template alters the output of a block.
        """
        text = self.render(messages, tools=tools, **variables)
        if not self._marks_answers:
            return text, []
        free = unused_characters([self.source, messages, tools, variables])
        marks = (next(free), next(free))
        marked = self.render(messages, tools=tools, **{**variables, _MARKS: marks})
        unmarked, spans = _cut_marks(marked, marks)
        if unmarked != text:
            raise TemplateError(
                "the chat template alters what its {% generation %} blocks wrote, so they mark no span"
            )
        return text, spans


def _as_templates_expect(message: Message, parts: bool = False) -> dict[str, Any]:
    """A message as transformers passes it to a template: without empty keys, with reasoning under each of its names."""
    present = {key: value for key, value in message.items() if value is not None}
    if parts and isinstance(present.get("content"), str):
        present["content"] = [{"type": "text", "text": present["content"]}]
    reasoning = next((present[name] for name in REASONING if name in present), None)
    if reasoning is None:
        return present
    return {"thinking": reasoning, **present, "reasoning_content": reasoning}


def _cut_marks(marked: str, marks: tuple[str, str]) -> tuple[str, list[tuple[int, int]]]:
    """Text without the marks, and the spans between them."""
    opening, closing = marks
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    length = 0
    for index, piece in enumerate(marked.split(opening)):
        inside, found, outside = piece.partition(closing)
        if index:
            spans.append((length, length + len(inside)))
        pieces += [inside, outside]
        length += len(inside) + len(outside)
        if bool(found) != bool(index):
            raise TemplateError("the chat template's {% generation %} blocks are nested or incomplete")
    return "".join(pieces), spans


def _literals(tree: nodes.Template) -> Iterator[str]:
    yield from (node.data for node in tree.find_all(nodes.TemplateData))
    yield from (node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))


class _Generation(jinja2.ext.Extension):
    """{% generation %}…{% endgeneration %}: text that the model itself should write."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own interface)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, context: Context, caller: Macro) -> str:
        opening, closing = context.get(_MARKS, ("", ""))
        return f"{opening}{caller()}{closing}"


def _environment(now: Callable[[], datetime.datetime]) -> BoundedEnvironment:
    """Immutable: a template cannot change its inputs. Sandboxed: no private attributes. Bounded: it must end."""
    environment = BoundedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
        to_json=_to_json,
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: now().strftime(form)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes, which Jinja's own filter would add and models have never seen."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
