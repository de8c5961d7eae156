"""The chat codec: conversations to tokens and tokens to text, the same in training and serving."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from ptune.codecs.answers import RenderedConversation
from ptune.codecs.control_tokens import ControlTokens, Placeholders, any_of
from ptune.codecs.ends_of_turn import tokens_that_end_turns
from ptune.codecs.example import Example as Example
from ptune.codecs.lead import led
from ptune.codecs.messages import answers_to_train, check_text, normalise
from ptune.codecs.reading import Reading, reading_after
from ptune.codecs.reasoning import ReasoningFormat, reasoning_format
from ptune.codecs.stream import TokenStream, whole
from ptune.codecs.template import ChatTemplate, Message, Tools
from ptune.codecs.template_request import NO_VARIABLES, Variables, render_open, require_variables
from ptune.codecs.text_encoder import TextEncoder
from ptune.codecs.tool_calls import ToolFormat, tool_format
from ptune.codecs.vision import FIRST_ROW, Vision, placed_in
from ptune.codecs.vocabulary import Vocabulary
from ptune.errors import FormatError, TemplateError
from ptune.formats.bundle import parse
from ptune.formats.codec_json import CodecRecord
from ptune.formats.request_defaults import NO_DEFAULTS, RequestDefaults
from ptune.formats.whole_write import read_json, write_json, write_text


class ChatCodec:
    """A tokenizer and a chat template.

    tokenizer: owned by the codec from now on, which switches off its truncation and padding.
    template: Jinja source; None if the model has none: then only plain text can be encoded.
    special_tokens: variables of the template by name: bos_token, eos_token, pad_token, …
    eos_ids: tokens at which generation ends, in addition to eos_token and the template's own end-of-turn tokens.
    context: longest sequence of the model, in tokens; None if unknown.
    system: a system message for conversations that have none.
    defaults: what a request asks for unless it says otherwise; its template variables hold in training, too.
    vision: how prompts show images; None if the model sees none.

    Raises: TemplateError where the template is not valid Jinja.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None,
        special_tokens: Mapping[str, str],
        eos_ids: Collection[int],
        context: int | None,
        system: str | None = None,
        defaults: RequestDefaults = NO_DEFAULTS,
        vision: Vision | None = None,
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.special_tokens = dict(special_tokens)
        self.context = context
        self.system = system
        self.defaults = defaults
        self.vision = vision
        self.template = None if template is None else ChatTemplate(template, self.special_tokens)
        if vision is not None and self.template is not None:
            self.template.expect_parts()
        self._vocabulary = Vocabulary(tokenizer)
        self._model_eos_ids = frozenset(eos_ids)
        shown = () if vision is None else (vision.token,)
        known = filter(None, map(tokenizer.id_to_token, (*eos_ids, *shown)))
        named = {*self.special_tokens.values(), *known}
        written = "" if self.template is None else self.template.literals
        ends_of_turn = set[str]()
        if self.template is not None:
            ends_of_turn = tokens_that_end_turns(self.template, ControlTokens(tokenizer, named, written))
        self._control = ControlTokens(tokenizer, named | ends_of_turn, written)
        self._encoder = TextEncoder(tokenizer, self._control, self.special_tokens.get("unk_token"))
        self._eos: int | None = tokenizer.token_to_id(self.special_tokens.get("eos_token", ""))
        ends = (*eos_ids, self._eos, *map(tokenizer.token_to_id, ends_of_turn))
        self.eos_ids = frozenset(token for token in ends if token is not None)
        added = tokenizer.get_added_tokens_decoder()
        self._ends = any_of({added[token].content for token in self.eos_ids if token in added})

    @classmethod
    def open(cls, folder: str | Path) -> ChatCodec:
        """Opens a folder written by `save`. Raises: FormatError if a file is missing or damaged."""
        folder = Path(folder)
        record = parse(CodecRecord, read_json(folder / "codec.json"), folder / "codec.json")
        template = folder / "chat_template.jinja"
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            source = template.read_text(encoding="utf-8") if template.is_file() else None
            vision = None if record.vision is None else Vision.model_validate(record.vision)
        except Exception as error:  # the tokenizer's reader raises bare Exceptions
            raise FormatError(
                f"{folder}: its tokenizer.json or chat_template.jinja cannot be read: {error}"
            ) from None
        prompt = (record.system, record.defaults)
        return cls(tokenizer, source, record.special_tokens, record.eos_ids, record.context, *prompt, vision)

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json, codec.json and, if there is a template, chat_template.jinja."""
        folder = Path(folder)
        write_text(folder / "tokenizer.json", self.tokenizer.to_str())
        if self.template is None:
            (folder / "chat_template.jinja").unlink(missing_ok=True)
        else:
            write_text(folder / "chat_template.jinja", self.template.source)
        record = CodecRecord(
            special_tokens=self.special_tokens,
            eos_ids=tuple(sorted(self._model_eos_ids)),
            context=self.context,
            system=self.system,
            defaults=self.defaults,
            vision=None if self.vision is None else self.vision.model_dump(mode="json"),
        )
        write_json(folder / "codec.json", record.model_dump(mode="json"))

    def with_template(
        self,
        source: str | None,
        *,
        system: str | None = None,
        defaults: RequestDefaults = NO_DEFAULTS,
        tokenizer: Tokenizer | None = None,
    ) -> ChatCodec:
        """This codec with another chat template, system message (None: without) and defaults, and another tokenizer if given.

        Raises: TemplateError where the template is not valid Jinja.
        """
        own, ends = tokenizer or self.tokenizer, self._model_eos_ids
        return ChatCodec(own, source, self.special_tokens, ends, self.context, system, defaults, self.vision)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, including added ones; the model may have more rows."""
        size: int = self.tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    def encode_text(self, text: str, *, special: bool = True) -> list[int]:
        """Encodes a plain prompt, with the tokens that the tokenizer puts around any text (such as BOS).

        special: whether to add those. Raises: TemplateError if the text is not valid Unicode.
        """
        placeholders = Placeholders(self._control, text)
        ids = self._encoder.encode(placeholders.hide(check_text(text, "the prompt")), placeholders.literals)
        return [*self._encoder.before, *ids, *self._encoder.after] if special else list(ids)

    def encode_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        asking: bool = True,
        continued: bool = False,
        variables: Variables = NO_VARIABLES,
    ) -> list[int]:
        """Encodes a conversation up to where the answer begins, with the generation prompt.

        asking: whether with that. continued: without it; the last message is an answer that goes on where it ends.
        variables: further variables of the template, each in place of its default.
        Raises: TemplateError where the messages are malformed or the template refuses them; RequestError for
        variables that the template may not be given, or does not read.
        """
        template = self._templated()
        self.check_variables(variables)
        chat = self._ready(messages, tools, variables)
        if continued:
            mark = chat.placeholders.mark(template.source)
            text = render_open(template, chat.messages, mark, chat.tools, chat.variables)
        else:
            text = template.render(
                chat.messages, tools=chat.tools, add_generation_prompt=asking, **chat.variables
            )
        ids = self._encoder.encode(text, chat.literals)
        return ids if self.vision is None else self.vision.prompt(ids, placed_in(chat.messages))

    def check_variables(self, variables: Variables) -> None:
        """Raises: RequestError that names a variable which the template may not be given, or does not read."""
        if variables:
            require_variables(self._templated(), self.special_tokens, variables)

    def encode_examples(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        train_on: Literal["assistant", "last"] = "assistant",
    ) -> list[Example]:
        """Encodes a conversation as examples whose targets are its answers and their end-of-turn tokens.

        train_on: every answer, or only the last one. Answers marked `"train": false`, or before any question, are not
            targets. If the template writes no token at the end of the last answer, eos_token is appended.

        The result is one example if the template shows each answer as it was asked for, however the conversation continues.
        Otherwise (for example, a template that leaves out earlier reasoning) it is as few examples as possible: the ids are
        those of the conversation rendered up to some answer, and for each target they begin with `encode_prompt` of the
        messages before it (see `TextEncoder.encode_with_spans`).

        Raises: TemplateError if the messages are malformed or have no target, or if the targets cannot be located.
        """
        chat = self._ready(messages, tools)
        wanted = [index + chat.added for index in answers_to_train(messages, train_on)]
        wanted = [index for index in wanted if index > 0]
        if not wanted:
            raise TemplateError(
                "nothing to train on: no assistant message that answers something and may be trained on"
            )
        rendered = RenderedConversation(
            self._templated(), chat.messages, chat.tools, self._ends, chat.variables
        )
        examples = []
        for shown in rendered.shown(wanted):
            last = shown.answers[-1]
            text = shown.text if last.ended else shown.text[: last.end]
            spans = [(answer.start, answer.end) for answer in shown.answers]
            examples.append(self._example(text, chat.literals, spans, open_ended=not last.ended))
        if self.vision is None:
            return examples
        return self.vision.examples(examples, placed_in(chat.messages[: wanted[-1]]))

    def encode_example(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        train_on: Literal["assistant", "last"] = "assistant",
    ) -> Example:
        """The single example of `encode_examples`. Raises: TemplateError, also if there are several."""
        examples = self.encode_examples(messages, tools=tools, train_on=train_on)
        if len(examples) > 1:
            raise TemplateError(
                f"the chat template shows earlier answers differently once others follow, so this conversation is"
                f" {len(examples)} examples: train on the last answer only (train_on: last)"
            )
        return examples[0]

    def encode_completion(self, prompt: str, completion: str) -> Example:
        """Encodes plain text and its completion; targets are the completion and the eos_token after it.

        Raises: TemplateError where a text is not valid Unicode, or there is no eos_token.
        """
        placeholders = Placeholders(self._control, [prompt, completion])
        start = placeholders.hide(check_text(prompt, "prompt"))
        text = start + placeholders.hide(check_text(completion, "completion"))
        example = self._example(text, placeholders.literals, [(len(start), len(text))], open_ended=True)
        before = self._encoder.before
        return Example((*before, *example.ids), (*(False for _ in before), *example.targets))

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def decode_answer(self, ids: Sequence[int]) -> str:
        """An answer's text, without special tokens and without an incomplete character at the end."""
        return whole(self.tokenizer, self._vocabulary, ids)

    def stream(self, shown: Collection[int] = frozenset(), after: int | None = None) -> TokenStream:
        """A decoder for tokens that come one by one.

        shown: special tokens that it writes out nevertheless. after: the token of a text that they go on from, so that
        a space between the two is kept.
        """
        return TokenStream(self.tokenizer, self._vocabulary, shown, after)

    def spell(self, ids: Sequence[int]) -> str:
        """Text including special tokens."""
        text: str = self.tokenizer.decode(
            [token for token in ids if token < FIRST_ROW], skip_special_tokens=False
        )
        return text

    def token_table(self, size: int) -> list[bytes]:
        """The bytes of each of the model's `size` tokens; for special tokens, their names."""
        return self._vocabulary.table(size)

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are not part of an answer's text."""
        return self._vocabulary.special

    @property
    def takes_first_space(self) -> bool:
        """Whether decoding loses a space at the beginning of an answer."""
        return self._vocabulary.takes_first_space()

    @cached_property
    def tool_format(self) -> ToolFormat | None:
        """The format in which the template writes tool calls; None if it writes none in a known format."""
        return None if self.template is None else tool_format(self.template, self._control.special)

    @cached_property
    def reasoning_format(self) -> ReasoningFormat | None:
        """How answers mark what is thought: as the defaults name it, or as the template writes it; None if unmarked."""
        if self.defaults.reasoning_marks is not None:
            return ReasoningFormat(*self.defaults.reasoning_marks)
        variables = self.defaults.chat_template_kwargs
        return None if self.template is None else reasoning_format(self.template, variables)

    def reading(self, prompt: Sequence[int], answer: str | None = None) -> Reading | None:
        """How answers to a prompt are read; None if they hold no reasoning. answer: what is there of an answer that goes on."""
        form = self.reasoning_format
        if form is None:
            return None
        reading = Reading(form, False, self._closing, self.silent_mark)
        return reading_after(reading, self.spell(prompt[-form.longest :]), answer)

    @cached_property
    def _closing(self) -> tuple[int, ...]:
        """The mark that ends what is thought, as tokens behind other text."""
        end = "" if self.reasoning_format is None else self.reasoning_format.end
        return tuple(self._encoder.encode(end, {}, continues=True))

    def mark(self, text: str) -> int | None:
        """The added token whose text is `text`, e.g. `<tool_call>`."""
        return self._vocabulary.token_of(text)

    def silent_mark(self, text: str) -> int | None:
        """The added token whose text is `text`, if decoding leaves it out."""
        token = self.mark(text)
        return token if token is not None and self._vocabulary.is_silent(token) else None

    def pieces(self, text: str) -> list[str | int]:
        """A text cut at the tokens that decoding leaves out, each of which is its id."""
        pieces: list[str | int] = []
        at = 0
        for found in self._control.special.finditer(text):
            token = self.silent_mark(found[0])
            if token is not None:
                pieces += [text[at : found.start()], token]
                at = found.end()
        return [piece for piece in (*pieces, text[at:]) if piece != ""]

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token, possibly only part of a character; nothing if its own decoder does not know it."""
        return self._vocabulary.written(token)

    def token_text(self, token: int) -> str:
        """One token as text; U+FFFD for part of a character."""
        return self.token_bytes(token).decode(errors="replace")

    def _templated(self) -> ChatTemplate:
        if self.template is None:
            raise TemplateError("this model has no chat template: name one with --task.template FILE")
        return self.template

    def _ready(
        self, messages: Sequence[Message], tools: Tools | None, variables: Variables = NO_VARIABLES
    ) -> _Chat:
        """Checked messages with their control tokens hidden, led by a system message where one is due."""
        checked = normalise(messages, images=self.vision is not None)
        given = {**self.defaults.chat_template_kwargs, **variables}
        shown = led(self._templated(), checked, self.system, given)
        placeholders = Placeholders(self._control, [self.system, messages, tools, given])
        return _Chat(
            messages=[placeholders.hide_message(message) for message in shown],
            tools=placeholders.hide(tools, "tools"),
            variables=placeholders.hide(given, "chat_template_kwargs") if given else {},
            placeholders=placeholders,
            literals=placeholders.literals,
            added=len(shown) - len(messages),
        )

    def _example(
        self, text: str, literals: Mapping[str, str], spans: Sequence[tuple[int, int]], open_ended: bool
    ) -> Example:
        """An example of text whose spans are targets; unfinished text gets eos_token, which is a target too."""
        ids, token_spans = self._encoder.encode_with_spans(text, literals, spans)
        targets = [False] * len(ids)
        for first, end in token_spans:
            targets[first:end] = [True] * (end - first)
        if not open_ended:
            return Example(tuple(ids), tuple(targets))
        if self._eos is None:
            raise TemplateError(
                "nothing ends an answer, so the model could not learn to stop: the chat template writes no"
                " end-of-turn token and the tokenizer has no eos_token"
            )
        return Example((*ids, self._eos), (*targets, True))


@dataclass(frozen=True)
class _Chat:
    """Messages ready for the template."""

    messages: list[dict[str, Any]]
    tools: Tools | None
    variables: dict[str, Any]
    placeholders: Placeholders
    literals: dict[str, str]  # what the placeholders in them stand for
    added: int  # messages put before the user's own; below 0 where some were joined
