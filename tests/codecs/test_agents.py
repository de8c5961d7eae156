"""Tool calls and reasoning: what is a target, for templates in the manner of the well-known ones (agents/*.jinja)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from ptune.codecs.chat import ChatCodec, Example
from ptune.errors import TemplateError

AGENTS = {
    path.stem: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("agents/*.jinja")
}
SPECIAL = ("<|python_tag|>", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")  # fmt: skip
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

FIRST = {"role": "user", "content": "How warm is it in Oslo?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": {"place": "Oslo"}}}],
}  # fmt: skip
RESULT = {"role": "tool", "content": "4 C", "tool_call_id": "call12345", "name": "weather"}
ANSWER = {"role": "assistant", "content": "It is 4 C."}
SECOND = {"role": "user", "content": "Is that cold?"}
LAST = {"role": "assistant", "content": "Yes."}
PLAIN: list[dict[str, Any]] = [FIRST, CALL, RESULT, ANSWER, SECOND, LAST]
THOUGHT: list[dict[str, Any]] = [
    FIRST,
    {**CALL, "reasoning_content": "I must ask."},
    RESULT,
    {**ANSWER, "reasoning_content": "There it is."},
    SECOND,
    {**LAST, "reasoning_content": "Four is little."},
]

JSON_CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Oslo"}}\n</tool_call>'
LLAMA_CALL = '{"name": "weather", "parameters": {"place": "Oslo"}}<|eot_id|>'
MISTRAL_CALL = '[TOOL_CALLS][{"name": "weather", "arguments": {"place": "Oslo"}, "id": "call12345"}]</s>'


@pytest.fixture(scope="module")
def tokenizer(byte_level: Tokenizer) -> Tokenizer:
    copy = Tokenizer.from_str(byte_level.to_str())
    copy.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return copy


def codec_of(tokenizer: Tokenizer, name: str) -> ChatCodec:
    return ChatCodec(tokenizer, AGENTS[name], SPECIAL_TOKENS, (), None)


def runs(example: Example) -> list[tuple[int, int]]:
    """Where each run of targets begins and ends."""
    edges = [i for i, (a, b) in enumerate(itertools.pairwise((False, *example.targets, False))) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))


def target_texts(codec: ChatCodec, examples: list[Example]) -> list[list[str]]:
    return [
        [codec.tokenizer.decode(e.ids[a:b], skip_special_tokens=False) for a, b in runs(e)] for e in examples
    ]


def thought(reasoning: str, rest: str) -> str:
    return f"<think>\n{reasoning}\n</think>\n\n{rest}<|im_end|>"


CASES: dict[str, tuple[list[dict[str, Any]], list[list[str]]]] = {
    "hermes": (PLAIN, [[JSON_CALL + "<|im_end|>", "It is 4 C.<|im_end|>", "Yes.<|im_end|>"]]),
    # The answers to the first question are shown with their reasoning only until the second is asked.
    "forgets_reasoning": (
        THOUGHT,
        [
            [thought("I must ask.", JSON_CALL), thought("There it is.", "It is 4 C.")],
            [thought("Four is little.", "Yes.")],
        ],
    ),
    # Its prompt opens the reasoning, so that is no target.
    "opens_reasoning": (
        THOUGHT,
        [
            [
                thought("I must ask.", JSON_CALL).removeprefix("<think>\n"),
                thought("There it is.", "It is 4 C.").removeprefix("<think>\n"),
            ],
            [thought("Four is little.", "Yes.").removeprefix("<think>\n")],
        ],
    ),
    "llama31": (
        PLAIN,
        [[LLAMA_CALL, "It is 4 C.<|eot_id|>", "Yes.<|eot_id|>"]],
    ),
    # The tools move to the last question, so what was asked before the second one is another text.
    "mistral": (PLAIN, [[MISTRAL_CALL, "It is 4 C.</s>"], ["Yes.</s>"]]),
    "smollm3": (
        [FIRST, {**ANSWER, "content": "<think>\nThere it is.\n</think>\nIt is 4 C."}, SECOND, LAST],
        [["<think>\nThere it is.\n</think>\nIt is 4 C.<|im_end|>", "Yes.<|im_end|>"]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_targets_are_what_the_model_is_asked_to_write(tokenizer, tools, name):
    codec, (messages, expected) = codec_of(tokenizer, name), CASES[name]
    examples = codec.encode_examples(messages, tools=tools)
    assert target_texts(codec, examples) == expected
    asked = [codec.encode_prompt(messages[:i], tools=tools) for i, m in enumerate(messages) if m["role"] == "assistant"]  # fmt: skip
    assert [list(example.ids[:start]) for example in examples for start, _ in runs(example)] == asked
    assert all(example.ids[end - 1] in codec.eos_ids for example in examples for _, end in runs(example))
    assert [examples[-1].ids] == [codec.encode_example(messages, tools=tools, train_on="last").ids]


@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_transformers(tokenizer, reference, tools, name):
    codec, (messages, _) = codec_of(tokenizer, name), CASES[name]
    for upto in range(1, len(messages) + 1):
        asks = messages[upto - 1]["role"] in ("user", "tool")
        expected = reference(tokenizer).apply_chat_template(
            messages[:upto], tools, chat_template=AGENTS[name], add_generation_prompt=asks, return_dict=False
        )
        found = (
            codec.encode_prompt(messages[:upto], tools=tools)
            if asks
            else list(codec.encode_examples(messages[:upto], tools=tools)[-1].ids)
        )
        assert found == expected


@pytest.mark.parametrize("name", ["hermes", "smollm3"])
def test_targets_are_what_the_template_marks(tokenizer, reference, tools, name):
    codec, (messages, _) = codec_of(tokenizer, name), CASES[name]
    example = codec.encode_example(messages, tools=tools)
    theirs = reference(tokenizer).apply_chat_template(
        messages, tools, chat_template=AGENTS[name], return_dict=True, return_assistant_tokens_mask=True
    )
    marked = [bool(mask) for mask in theirs["assistant_masks"]]
    if name == "hermes":
        assert marked == list(example.targets)
    # smollm3 marks the line of the role as well, which the prompt brings, and the line feed after the end.
    assert all(marked[i] for i, target in enumerate(example.targets) if target)
    extra = [example.ids[i] for i, mark in enumerate(marked) if mark and not example.targets[i]]
    assert codec.decode(extra).split() == (["assistant", "assistant"] if name == "smollm3" else [])


words = st.text(st.characters(codec="ascii", exclude_characters="<>"), min_size=1, max_size=8).map(
    lambda text: text.strip() or "x"
)
turns = st.lists(st.tuples(words, words, words, st.booleans(), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=60)
@given(turns=turns, name=st.sampled_from(["hermes", "forgets_reasoning", "opens_reasoning", "mistral"]))
def test_every_answer_is_once_a_target_after_the_prompt_that_serving_feeds(tokenizer, tools, turns, name):
    codec, messages = codec_of(tokenizer, name), []
    for question, reasoning, answer, calls, trained in turns:
        thinks = {"reasoning_content": reasoning} if "reasoning" in name else {}
        flag = {} if trained else {"train": False}
        messages.append({"role": "user", "content": question})
        messages += [{**CALL, **thinks, **flag}, RESULT] if calls else []
        messages.append({"role": "assistant", "content": answer, **thinks, **flag})
    wanted = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("train", True)]
    assume(wanted)
    examples = codec.encode_examples(messages, tools=tools)
    found = [list(example.ids[:end]) for example in examples for _, end in runs(example)]
    asked = [list(example.ids[:start]) for example in examples for start, _ in runs(example)]
    assert asked == [codec.encode_prompt(messages[:i], tools=tools) for i in wanted]
    # Each is what it is when it is the last: prompt, reasoning, answer, end.
    alone = [codec.encode_example(messages[: i + 1], tools=tools, train_on="last") for i in wanted]
    assert found == [list(example.ids[: runs(example)[-1][1]]) for example in alone]
    if name == "hermes":
        assert len(examples) == 1


def test_reasoning_can_be_switched_off(tokenizer):
    codec = codec_of(tokenizer, "smollm3")
    messages = [{"role": "system", "content": "Be brief. /no_think"}, FIRST, ANSWER]
    assert target_texts(codec, codec.encode_examples(messages)) == [["It is 4 C.<|im_end|>"]]
    assert codec.decode(codec.encode_prompt(messages[:2])).endswith("<think>\n\n</think>\n")


def test_a_call_of_code_ends_with_its_own_token(tokenizer):
    ends = [tokenizer.token_to_id("<|eom_id|>")]  # only the model's configuration can name it
    codec = ChatCodec(tokenizer, AGENTS["llama31"], SPECIAL_TOKENS, ends, None)
    call = {"function": {"name": "python", "arguments": {"code": "2 + 2"}}}
    messages: list[dict[str, Any]] = [
        FIRST,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "4"},
        ANSWER,
    ]
    expected = [["<|python_tag|>python.call(2 + 2)<|eom_id|>", "It is 4 C.<|eot_id|>"]]
    assert target_texts(codec, codec.encode_examples(messages)) == expected


def test_the_token_that_ends_a_call_ends_generation(tokenizer, templates):
    codec = ChatCodec(tokenizer, templates["llama3"], SPECIAL_TOKENS, (), None)
    assert tokenizer.token_to_id("<|eom_id|>") in codec.eos_ids
    assert tokenizer.token_to_id("</tool_call>") not in codec_of(tokenizer, "hermes").eos_ids


def test_several_calls_and_results_are_one_answer_and_one_question(tokenizer, tools):
    codec = codec_of(tokenizer, "mistral")
    calls = [{"id": f"call{n}", "function": {"name": "weather", "arguments": {"n": n}}} for n in (1, 2)]
    results = [{"role": "tool", "content": f"{n}", "tool_call_id": f"call{n}"} for n in (1, 2)]
    examples = codec.encode_examples(
        [FIRST, {"role": "assistant", "tool_calls": calls}, *results, ANSWER], tools=tools
    )
    (call, answer), *others = target_texts(codec, examples)
    assert call.count("weather") == 2
    assert answer == "It is 4 C.</s>"
    assert not others


def test_a_template_that_never_shows_what_it_asks_for_is_refused(tokenizer):
    messages = [FIRST, {**ANSWER, "content": "<think>\nHm.\n</think>\n\nIt is 4 C."}]
    with pytest.raises(TemplateError, match=r"answer 1 of 1 cannot be located.*<think>.*--task\.template"):
        codec_of(tokenizer, "r1").encode_examples(messages)


@pytest.mark.parametrize(
    ("name", "answer", "left_out"),
    [
        ("hermes", THOUGHT[3], "reasoning_content of answer 1 of 1"),
        ("llama31", {**CALL, "content": "Let me look."}, "content of answer 1 of 1"),
        ("smollm3", CALL, "tool call 'weather' of answer 1 of 1"),
    ],
)
def test_what_an_answer_holds_and_the_template_leaves_out_is_not_dropped_silently(
    tokenizer, name, answer, left_out
):
    with pytest.raises(TemplateError, match=f"leaves out the {left_out}"):
        codec_of(tokenizer, name).encode_examples([FIRST, answer])
    asked = [FIRST, {**answer, "train": False}, SECOND, LAST]
    assert len(codec_of(tokenizer, name).encode_examples(asked)) == 1


def test_tools_that_the_template_leaves_out_are_not_dropped_silently(tokenizer, templates, tools):
    codec = ChatCodec(tokenizer, templates["smollm2"], SPECIAL_TOKENS, (), None)
    with pytest.raises(TemplateError, match=r"leaves out the tool 'weather'.*--task\.template"):
        codec.encode_examples([FIRST, ANSWER], tools=tools)


def test_one_example_where_it_takes_several_is_refused(tokenizer):
    with pytest.raises(TemplateError, match=r"2 examples.*train_on: last"):
        codec_of(tokenizer, "forgets_reasoning").encode_example(THOUGHT)
