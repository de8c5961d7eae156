"""Reasoning: how templates mark it, prompts with it on and off, and answers split while they grow."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from ptune.codecs.chat import ChatCodec
from ptune.codecs.reasoning import ReasoningFormat, reasoning_format
from ptune.codecs.reasoning_reader import Event, Marked, ReasoningReader, Thought
from ptune.codecs.template import ChatTemplate
from ptune.codecs.template_request import with_defaults
from ptune.codecs.tool_reader import Said
from ptune.errors import RequestError, TemplateError
from ptune.formats.request_defaults import RequestDefaults

FOLDER = Path(__file__).parent
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
QWEN = ReasoningFormat("<think>\n", "\n</think>\n\n")
OSS = ReasoningFormat(
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
    "<|channel|>final<|message|>",
)
FORMATS = {
    "templates/qwen3": QWEN,
    "agents/forgets_reasoning": QWEN,
    "agents/opens_reasoning": QWEN,
    "agents/r1": QWEN,
    "agents/deepseek_v31": ReasoningFormat("<think>", "</think>"),
    "agents/gpt_oss": OSS,
    "agents/smollm3": None,  # only a word in the system message changes anything
    "templates/qwen2_5": None,
    "templates/llama3": None,
    "templates/mistral": None,
}
INLINE = """{%- for m in messages %}{{ '<|' + m.role + '|>' + m.content + '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' + ('<think>\n\n</think>\n' if enable_thinking is false else '') }}{% endif %}"""
BRACKETS = """{%- for m in messages %}{{ m.role + ': ' }}
{%- if m.reasoning_content %}{{ '[THINK]' + m.reasoning_content + '[/THINK]' }}{% endif %}{{ m.content + '</s>' }}{% endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""


def source_of(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def format_of(source: str, **variables: Any) -> ReasoningFormat | None:
    return reasoning_format(ChatTemplate(source, SPECIAL_TOKENS), variables)


@pytest.mark.parametrize("name", FORMATS)
def test_the_marks_are_those_that_the_template_writes(name: str) -> None:
    assert format_of(source_of(name)) == FORMATS[name]
    if name != "agents/deepseek_v31":
        assert format_of(source_of(name), enable_thinking=False) == FORMATS[name]


@pytest.mark.parametrize(
    ("jinja", "found"),
    [
        (INLINE, ReasoningFormat("<think>\n", "\n</think>\n")),
        (BRACKETS, ReasoningFormat("[THINK]", "[/THINK]")),
        ("{% for m in messages %}{{ m.reasoning_content }} {{ m.content }}{% endfor %}", None),
        ("{{ raise_exception('no') }}", None),
    ],
)
def test_other_ways_of_marking(jinja: str, found: ReasoningFormat | None) -> None:
    assert format_of(jinja) == found


def split(form: ReasoningFormat, pieces: list[str], *, begun: bool = False) -> tuple[str, str, str]:
    """What is thought, what is said, and all text."""
    reader = ReasoningReader(form, begun=begun)
    events: list[Event] = [event for piece in pieces for event in reader.push(piece)] + reader.finish()
    of = {
        kind: "".join(event.text for event in events if isinstance(event, kind))
        for kind in (Thought, Said, Marked)
    }
    assert all(event.text for event in events)
    return of[Thought], of[Said], "".join(event.text for event in events)


CASES = [
    (QWEN, False, "<think>\nHm.\n</think>\n\nYes.", "Hm.", "Yes."),
    (QWEN, False, "\n<think>Hm.</think>Yes.", "Hm.", "Yes."),
    (QWEN, False, "<think>\n\nHm.\n\n\n</think>\n\n\nYes.\n", "\nHm.\n\n", "\nYes.\n"),
    (QWEN, False, "<think>\n\n</think>\n\nYes.", "", "Yes."),
    (QWEN, False, "<think></think>", "", ""),
    (QWEN, False, "<think>\nHm.</thin", "Hm.</thin", ""),
    (QWEN, False, "<think>\nHm.\n", "Hm.\n", ""),
    (QWEN, False, "Yes. <think>No</think>", "", "Yes. <think>No</think>"),
    (QWEN, False, "<thin", "", "<thin"),
    (QWEN, False, " \n", "", " \n"),
    (QWEN, True, "Hm.\n</think>\n\nYes.</think>", "Hm.", "Yes.</think>"),
    (QWEN, True, "<think>\n</think>", "<think>", ""),
    (QWEN, True, "", "", ""),
    (OSS, False, f"{OSS.begin}Hm.{OSS.end}Yes.", "Hm.", "Yes."),
    (OSS, False, f"{OSS.plain}Yes.", "", "Yes."),
    (OSS, False, f"{OSS.begin}Hm.<|end|><|start|>assistant", "Hm.<|end|><|start|>assistant", ""),
]


@pytest.mark.parametrize(("form", "begun", "text", "thought", "said"), CASES)
def test_an_answer_is_split_at_the_marks(
    form: ReasoningFormat, begun: bool, text: str, thought: str, said: str
) -> None:
    assert split(form, [text], begun=begun) == (thought, said, text)
    assert split(form, [*text], begun=begun) == (thought, said, text)


marks = [
    QWEN.begin,
    QWEN.end,
    OSS.begin,
    OSS.end,
    OSS.plain,
    "<think>",
    "</think>",
    "<",
    "\n",
    "\n\n",
    "th",
    "☠",
    "x",
]


@settings(max_examples=300)
@given(
    parts=st.lists(st.sampled_from(marks) | st.text(max_size=3), max_size=12),
    cuts=st.lists(st.integers(0, 80), max_size=12),
    form=st.sampled_from([QWEN, OSS, ReasoningFormat("<t>\n\n", "\n\n</t>")]),
    begun=st.booleans(),
)
def test_pieces_join_to_the_text_however_it_is_cut(
    parts: list[str], cuts: list[int], form: ReasoningFormat, begun: bool
) -> None:
    text = "".join(parts)
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[begin:end] for begin, end in itertools.pairwise(places)]
    whole = split(form, [text], begun=begun)
    assert split(form, pieces, begun=begun) == whole
    assert whole[2] == text


# Prompts, in training and in serving, against transformers.

FIRST = {"role": "user", "content": "How warm is it in Oslo?"}
ANSWER = {"role": "assistant", "content": "It is 4 C.", "reasoning_content": "There it is."}
SECOND = {"role": "user", "content": "Is that cold?"}
LAST = {"role": "assistant", "content": "Yes.", "reasoning_content": "Four is little."}
WAYS: list[tuple[str, dict[str, Any]]] = [
    ("templates/qwen3", {}),
    ("templates/qwen3", {"enable_thinking": True}),
    ("templates/qwen3", {"enable_thinking": False}),
    ("agents/opens_reasoning", {}),
    ("agents/deepseek_v31", {}),
    ("agents/deepseek_v31", {"thinking": True}),
    ("agents/deepseek_v31", {"thinking": False}),
    ("agents/gpt_oss", {}),
    ("agents/gpt_oss", {"reasoning_effort": "high"}),
]


@pytest.fixture(scope="module")
def tokenizer(byte_level: Tokenizer) -> Tokenizer:
    copy = Tokenizer.from_str(byte_level.to_str())
    tokens = ("<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>")
    copy.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return copy


def codec_of(tokenizer: Tokenizer, name: str, variables: dict[str, Any] | None = None) -> ChatCodec:
    defaults = RequestDefaults(chat_template_kwargs=variables or {})
    return ChatCodec(tokenizer, source_of(name), SPECIAL_TOKENS, (), None, None, defaults)


def targets(codec: ChatCodec, messages: list[dict[str, Any]]) -> list[str]:
    """What is learnt, each example's in one text."""
    return [
        codec.spell([token for token, wanted in zip(one.ids, one.targets, strict=True) if wanted])
        for one in codec.encode_examples(messages)
    ]


@pytest.mark.parametrize(("name", "variables"), WAYS)
def test_prompts_have_the_ids_that_transformers_gives(
    tokenizer: Tokenizer, reference: Any, name: str, variables: dict[str, Any]
) -> None:
    """As a default of the adapter and as sent; the second question, too: earlier reasoning is dropped or kept as the template says."""
    trained, plain = codec_of(tokenizer, name, variables), codec_of(tokenizer, name)
    for messages in ([FIRST], [FIRST, ANSWER, SECOND]):
        expected = reference(tokenizer).apply_chat_template(
            messages,
            chat_template=source_of(name),
            add_generation_prompt=True,
            return_dict=False,
            **variables,
        )
        assert trained.encode_prompt(messages) == expected
        assert plain.encode_prompt(messages, variables=variables) == expected


@pytest.mark.parametrize(("name", "variables"), WAYS)
def test_other_programs_get_a_template_with_the_defaults(
    tokenizer: Tokenizer, reference: Any, name: str, variables: dict[str, Any]
) -> None:
    """They send none of the variables; and where they send some, these hold."""
    source = with_defaults(source_of(name), variables)
    for messages, sent in (([FIRST], {}), ([FIRST, ANSWER, SECOND], dict.fromkeys(variables, "low"))):
        found = reference(tokenizer).apply_chat_template(
            messages, chat_template=source, add_generation_prompt=True, return_dict=False, **sent
        )
        codec = codec_of(tokenizer, name, variables)
        assert found == codec.encode_prompt(messages, variables=sent)


def test_values_in_a_template_are_what_they_were(tokenizer: Tokenizer, reference: Any) -> None:
    values = {"a": "it's \"☠😀\\ {{ b }}\n", "b": None, "c": 1.5, "d": True, "e": -3}
    source = "".join(f"[{{{{ {name} }}}}]" for name in values)
    found = reference(tokenizer).apply_chat_template(
        [FIRST], chat_template=with_defaults(source, values), tokenize=False
    )
    assert found == "".join(f"[{value}]" for value in values.values())


def test_a_sent_variable_replaces_its_default_alone(tokenizer: Tokenizer) -> None:
    source = "{{ messages[0].content }}{{ a }}{{ b }}"
    defaults = RequestDefaults(chat_template_kwargs={"a": 1, "b": "x"})
    codec = ChatCodec(tokenizer, source, SPECIAL_TOKENS, (), None, None, defaults)
    assert codec.spell(codec.encode_prompt([FIRST])).endswith("Oslo?1x")
    assert codec.spell(codec.encode_prompt([FIRST], variables={"b": None})).endswith("Oslo?1None")


@pytest.mark.parametrize(("name", "variables"), WAYS)
def test_what_is_learnt_follows_the_prompt_that_is_served(
    tokenizer: Tokenizer, reference: Any, name: str, variables: dict[str, Any]
) -> None:
    codec = codec_of(tokenizer, name, variables)
    plain = [FIRST, {"role": "assistant", "content": "It is 4 C."}]
    messages = plain if "enable_thinking" in variables or "deepseek" in name else [FIRST, ANSWER]
    if variables == {"thinking": True}:  # it never shows what it opens
        with pytest.raises(TemplateError, match="cannot be located"):
            codec.encode_examples(messages)
        return
    example = codec.encode_example(messages)
    whole = reference(tokenizer).apply_chat_template(
        messages, chat_template=source_of(name), return_dict=False, **variables
    )
    ids = list(example.ids)
    assert ids == (whole if ids[-1] == whole[-1] else whole[:-1])  # without a line feed after the end
    begun = example.targets.index(True)
    assert ids[:begun] == codec.encode_prompt(messages[:1])


def test_targets_with_and_without_reasoning(tokenizer: Tokenizer) -> None:
    turns = [FIRST, ANSWER, SECOND, LAST]
    thought = [
        "<think>\nThere it is.\n</think>\n\nIt is 4 C.<|im_end|>",
        "<think>\nFour is little.\n</think>\n\nYes.<|im_end|>",
    ]
    assert targets(codec_of(tokenizer, "templates/qwen3"), turns) == thought
    channels = [
        f"{OSS.begin}There it is.{OSS.end}It is 4 C.<|return|>",
        f"{OSS.begin}Four is little.{OSS.end}Yes.<|return|>",
    ]
    assert targets(codec_of(tokenizer, "agents/gpt_oss"), turns) == channels
    off = codec_of(tokenizer, "templates/qwen3", {"enable_thinking": False})
    bare = [{"role": one["role"], "content": one["content"]} for one in turns]
    assert targets(off, bare) == ["It is 4 C.<|im_end|>", "Yes.<|im_end|>"]
    with pytest.raises(TemplateError, match="cannot be located"):  # reasoning that is asked not to be
        off.encode_examples(turns)


def test_defaults_are_kept_in_the_codecs_folder(tokenizer: Tokenizer, tmp_path: Path) -> None:
    codec = codec_of(tokenizer, "templates/qwen3", {"enable_thinking": False})
    codec.save(tmp_path)
    assert ChatCodec.open(tmp_path).encode_prompt([FIRST]) == codec.encode_prompt([FIRST])


def test_a_default_that_the_template_does_not_read_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="does not read 'thinking'"):
        codec_of(tokenizer, "templates/qwen3").check_variables({"thinking": True})
