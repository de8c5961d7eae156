"""The known shapes of conversations, recognised by their columns, and ptune's own shape."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import Any, Literal, TypeAlias

from ptune.codecs.chat import ChatCodec, Example
from ptune.codecs.vision import is_image
from ptune.data.images.columns import COLUMNS as IMAGES
from ptune.data.images.columns import pictured
from ptune.data.shapes.json_text import messages_or_text, objects_of
from ptune.data.shapes.row_weights import weight_of
from ptune.data.shapes.sharegpt import turn_of
from ptune.errors import DataError, TemplateError

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Messages, the last of which is the answer, and the tools on offer."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] | None = None

    def examples(self, codec: ChatCodec, train_on: Literal["assistant", "last"]) -> list[Example]:
        """Tokens and targets; several examples if the template shows an answer only while it is the last.

        Raises: TemplateError.
        """
        return codec.encode_examples(self.messages, tools=self.tools, train_on=train_on)

    def example(self, codec: ChatCodec, train_on: Literal["assistant", "last"]) -> Example:
        """The only one of `examples`. Raises: TemplateError, also if there are several."""
        return codec.encode_example(self.messages, tools=self.tools, train_on=train_on)

    def prompt(self, codec: ChatCodec) -> list[int]:
        """Tokens of the prompt for the last answer. Raises: TemplateError."""
        return codec.encode_prompt(self.before_answer, tools=self.tools)

    @property
    def question(self) -> str:
        """The last message before the last answer."""
        return _shown(self.messages[self._last_answer - 1].get("content"))

    @property
    def answer(self) -> str:
        """The last answer."""
        return _shown(self.messages[self._last_answer].get("content"))

    @property
    def before_answer(self) -> tuple[dict[str, Any], ...]:
        """The messages before the last answer."""
        return self.messages[: self._last_answer]

    @property
    def _last_answer(self) -> int:
        return max(index for index, message in enumerate(self.messages) if message["role"] == "assistant")


@dataclass(frozen=True)
class Completion:
    """A plain prompt and its continuation, without a chat template."""

    question: str
    answer: str

    def examples(self, codec: ChatCodec, train_on: Literal["assistant", "last"]) -> list[Example]:
        """Tokens and targets. Raises: TemplateError."""
        return [self.example(codec, train_on)]

    def example(self, codec: ChatCodec, train_on: Literal["assistant", "last"]) -> Example:
        """Tokens and targets. Raises: TemplateError."""
        return codec.encode_completion(self.question, self.answer)

    def prompt(self, codec: ChatCodec) -> list[int]:
        """Tokens of the plain prompt. Raises: TemplateError."""
        return codec.encode_text(self.question)


@dataclass(frozen=True)
class Document:
    """Raw text for continued pretraining: all of it is a target."""

    text: str
    ends: bool = True  # else the text continues in the next row

    def examples(self, codec: ChatCodec, train_on: Literal["assistant", "last"]) -> list[Example]:
        """Tokens, all of them targets; eos_token closes a document. Raises: TemplateError."""
        return [self.example(codec, train_on)]

    def example(self, codec: ChatCodec, train_on: Literal["assistant", "last"]) -> Example:
        """Tokens, all of them targets; eos_token closes a document. Raises: TemplateError."""
        ids = codec.encode_text(self.text)
        if self.ends:
            eos = codec.tokenizer.token_to_id(codec.special_tokens.get("eos_token", ""))
            if eos is None:
                raise TemplateError("nothing ends a document: the tokenizer has no eos_token")
            ids += [eos] if ids[-1:] != [eos] else []
        return Example(tuple(ids), (False, *[True] * (len(ids) - 1))[: len(ids)])


def _shown(content: Any) -> str:
    """A message as a reader sees it: its text, with a mark for each image."""
    if not isinstance(content, list | tuple):
        return str(content or "")
    shown = ("[image]" if is_image(part) else str(part.get("text") or "") for part in content)
    return " ".join(filter(None, shown))


Askable: TypeAlias = Conversation | Completion
"""What has a question and an answer."""


def _asked(answered: Askable) -> str | tuple[Row, ...]:
    """What stands before an answer, where nothing of it is a target."""
    if isinstance(answered, Completion):
        return answered.question
    return tuple(takewhile(lambda message: message.get("train") is False, answered.messages))


@dataclass(frozen=True)
class Preferred:
    """Two answers to one prompt, the better one first."""

    chosen: Askable
    rejected: Askable

    def examples(self, codec: ChatCodec, train_on: Literal["assistant", "last"]) -> list[Example]:
        """Tokens and targets of both, in that order. Raises: TemplateError."""
        return [side.example(codec, train_on) for side in (self.chosen, self.rejected)]

    @property
    def prompt(self) -> str | tuple[Row, ...]:
        """What was asked: the text, or the messages, before the answers."""
        return _asked(self.chosen)

    @property
    def question(self) -> str:
        """The last message before the answers."""
        return self.chosen.question

    @property
    def answer(self) -> str:
        """The better answer."""
        return self.chosen.answer


@dataclass(frozen=True)
class Judged:
    """An answer that was judged by itself."""

    answered: Askable
    desirable: bool

    def examples(self, codec: ChatCodec, train_on: Literal["assistant", "last"]) -> list[Example]:
        """Tokens and targets. Raises: TemplateError."""
        return [self.answered.example(codec, train_on)]

    @property
    def prompt(self) -> str | tuple[Row, ...]:
        """What was asked: the text, or the messages, before the answer."""
        return _asked(self.answered)

    @property
    def question(self) -> str:
        """The last message before the answer."""
        return self.answered.question

    @property
    def answer(self) -> str:
        """The answer."""
        return self.answered.answer


Convertible: TypeAlias = Askable | Document | Preferred | Judged
"""What a row can be."""


def as_json(conversation: Askable) -> str:
    """Serialises to one line of JSON for `from_json`."""
    return json.dumps(asdict(conversation), default=str)


def from_json(text: str) -> Askable:
    """Reads the JSON of `as_json`."""
    value = json.loads(text)
    if "messages" not in value:
        return Completion(**value)
    tools = value["tools"]
    return Conversation(tuple(value["messages"]), None if tools is None else tuple(tools))


SOURCE_AND_TARGET = "source and target"
"""The name of the shape of translations."""
RAW_TEXT = "raw text"
"""The name of the shape of documents."""


@dataclass(frozen=True)
class Shape:
    """A known layout of rows with required `columns` and `optional` ones. `convert` raises DataError for a row
    that does not fit."""

    name: str
    columns: tuple[str, ...]
    convert: Callable[[Row], Convertible]
    optional: tuple[str, ...] = ()
    weight: str | None = None  # the column that says how often a row counts; one of the optional ones

    def weighted(self, column: str) -> Shape:
        """This shape where rows may say how often they count."""
        return replace(self, optional=(*self.optional, column), weight=column)

    def weight_of(self, row: Row, *, text: bool) -> float:
        """How often a row counts, see `row_weights.weight_of`. Raises: DataError."""
        return weight_of(row, self.weight, text=text)

    def converted(self, row: Row) -> Convertible:
        """What a row holds. Raises: DataError if it lacks a column, or does not fit."""
        if missing := [column for column in self.columns if row.get(column) is None]:
            raise DataError(f"has no {' and no '.join(missing)}{_of_another_shape(row, self)}")
        return self.convert(row)

    def renamed(self, names: Mapping[str, str]) -> Shape:
        """This shape in files that have other names for its columns. names: column -> its name in the files."""

        def convert(row: Row) -> Convertible:
            own = {column: names.get(column, column) for column in (*self.columns, *self.optional)}
            return self.convert({column: row[name] for column, name in own.items() if name in row})

        columns, optional = (
            tuple(names.get(column, column) for column in kept) for kept in (self.columns, self.optional)
        )
        return Shape(self.name, columns, convert, optional)

    def unread(self, columns: Iterable[str]) -> list[str]:
        """Columns that this shape does not use."""
        return sorted(set(columns) - set(self.columns) - set(self.optional))


def recognise(columns: Iterable[str], shapes: Sequence[Shape] | None = None) -> Shape:
    """Finds the shape with these columns among `shapes` (default: all). Raises: DataError that lists both."""
    present, shapes = set(columns), shapes or SHAPES
    for shape in shapes:
        if present.issuperset(shape.columns):
            return shape
    known = "; ".join(f"{' + '.join(shape.columns)} ({shape.name})" for shape in shapes)
    raise DataError(f"no known shape: its columns are {', '.join(sorted(present))}; known are {known}")


def openai_conversation(row: Row) -> Conversation:
    """A row of OpenAI's messages. Raises: DataError."""
    messages = pictured(row, objects_of(row["messages"], "messages"))
    return Conversation(messages_of(led(row, messages), "messages"), tools_of(row))


def sharegpt_conversation(row: Row) -> Conversation:
    """A row of ShareGPT's turns. Raises: DataError."""
    turns = objects_of(row["conversations"], "conversations")
    messages = [turn_of(turn, f"conversations[{index}]") for index, turn in enumerate(turns)]
    return Conversation(messages_of(led(row, pictured(row, messages)), "conversations"), tools_of(row))


def prompt_and_completion(row: Row) -> Askable:
    """A row of a prompt and its completion, texts or messages. Raises: DataError."""
    prompt, completion = (messages_or_text(row[name], name) for name in ("prompt", "completion"))
    if isinstance(prompt, str) and isinstance(completion, str):
        return Completion(prompt, completion)
    # Messages, too: only the completion is a target.
    prompt_messages = [{**message, "train": False} for message in messages_of(prompt, "prompt")]
    answered = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    return Conversation((*prompt_messages, *messages_of(answered, "completion")), tools_of(row))


def alpaca_conversation(row: Row) -> Conversation:
    """A row of Alpaca's columns. Raises: DataError."""
    return Conversation((*alpaca_prompt(row), {"role": "assistant", "content": text_of(row, "output")}))


def alpaca_prompt(row: Row) -> list[Row]:
    """The messages before the answer of an Alpaca row."""
    parts = [text_of(row, "instruction"), text_of(row, "input") if row.get("input") else ""]
    earlier = [
        {"role": role, "content": text}
        for pair in _history(row.get("history") or [])
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return led(row, [*earlier, {"role": "user", "content": "\n\n".join(filter(None, parts))}])


def _history(value: Any) -> list[tuple[str, str]]:
    """Earlier turns of an Alpaca row: [question, answer] each."""
    try:
        pairs = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise DataError("history is text, but not JSON") from None
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in pairs
    ):
        raise DataError("history must be a list of [question, answer]")
    return [(question, answer) for question, answer in pairs]


def led(row: Row, messages: list[Row]) -> list[Row]:
    """Prepends the system message of a separate column, if there is one and the messages have none."""
    system = row.get("system")
    if not system or (messages and messages[0].get("role") == "system"):
        return messages
    return [{"role": "system", "content": text_of(row, "system")}, *messages]


def _document(row: Row) -> Document:
    ends = row.get("end_of_document", True)
    if not isinstance(ends, bool):
        raise DataError(f"end_of_document must be true or false, not {ends!r}")
    return Document(text_of(row, "text"), ends)


SHAPES = (
    Shape("OpenAI messages", ("messages",), openai_conversation, ("tools", "system", *IMAGES)),
    Shape("ShareGPT", ("conversations",), sharegpt_conversation, ("tools", "system", *IMAGES)),
    Shape("prompt and completion", ("prompt", "completion"), prompt_and_completion, ("tools",)),
    Shape("Alpaca", ("instruction", "output"), alpaca_conversation, ("input", "system", "history")),
    Shape(RAW_TEXT, ("text",), _document, ("end_of_document",)),
)


def _of_another_shape(row: Row, than: Shape) -> str:
    """A clause for a row that another shape would read: files have one shape each, which their first row tells."""
    for shape in SHAPES:
        if shape.name != than.name and all(row.get(column) is not None for column in shape.columns):
            return (
                f", but {' and '.join(shape.columns)} ({shape.name}): all rows of a file have one shape, so put these"
                " into a file of their own; data.files takes several"
            )
    return ""


def messages_of(value: Any, path: str) -> tuple[Row, ...]:
    """Messages; only checked to be objects."""
    return tuple(_message(message) for message in objects_of(value, path))


def _message(message: Row) -> Row:
    """Converts OpenAI's `"weight": 0`, an answer that is not a target, and tool calls in JSON text."""
    kept = {key: value for key, value in message.items() if key != "weight"}
    if message.get("weight") not in (None, 0, 1):
        raise DataError(f"weight is {message['weight']!r}: an answer is learned (1) or not (0)")
    if isinstance(kept.get("tool_calls"), str):
        kept["tool_calls"] = objects_of(kept["tool_calls"], "tool_calls")
    return {**kept, "train": False} if message.get("weight") == 0 else kept


def tools_of(row: Row) -> tuple[Row, ...] | None:
    """The tools on offer."""
    tools = row.get("tools")
    return tuple(map(_described, objects_of(tools, "tools"))) or None if tools else None


def _described(tool: Row) -> Row:
    """A tool as OpenAI describes it; LLaMA-Factory's files leave `{"type": "function"}` away."""
    bare = "function" not in tool and isinstance(tool.get("name"), str)
    return {"type": "function", "function": tool} if bare else tool


def text_of(row: Row, column: str) -> str:
    """A row's text in a column. Raises: DataError if it is not text."""
    value = row[column]
    if not isinstance(value, str):
        raise DataError(f"{column} must be text, not {type(value).__name__}")
    return value
