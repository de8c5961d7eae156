"""The codec: ids against transformers, and what training sees against what serving feeds."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ptune.codecs.chat import ChatCodec, Example
from ptune.errors import TemplateError

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
QUESTION = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "world!"}
SKIPPED = {"role": "assistant", "content": "world!", "train": False}

many = settings(max_examples=60)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def target_texts(codec: ChatCodec, example: Example) -> list[str]:
    """The text of each run of targets, special tokens included."""
    starts = [*first_targets(example), len(example)]
    runs = [
        [token for token, target in zip(example.ids[a:b], example.targets[a:b], strict=True) if target]
        for a, b in itertools.pairwise(starts)
    ]
    return [codec.tokenizer.decode(run, skip_special_tokens=False) for run in runs]


def first_targets(example: Example) -> list[int]:
    """Where each run of targets begins."""
    return [i for i, target in enumerate(example.targets) if target and not (i and example.targets[i - 1])]


def renders(codec: ChatCodec, messages: list[dict[str, Any]]) -> bool:
    assert codec.template is not None
    try:
        codec.template.render(messages)
    except TemplateError:
        return False
    return True


# Ids, as transformers gives them


@many
@given(data=st.data())
def test_prompts_have_the_ids_that_transformers_gives(source, chats, byte_level, byte_codec, reference, data):
    messages, codec = data.draw(chats), byte_codec(source)
    assume(renders(codec, messages))
    expected = reference(byte_level).apply_chat_template(
        messages, chat_template=source, add_generation_prompt=True, return_dict=False
    )
    assert codec.encode_prompt(messages) == expected


@many
@given(data=st.data())
def test_sentencepiece_prompts_have_the_ids_that_transformers_gives(
    codec_of, templates, chats, sentencepiece, reference, data
):
    source, messages = (
        data.draw(st.sampled_from(["llama2", "mistral", "vicuna", "zephyr", "phi3"])),
        data.draw(chats),
    )
    codec = codec_of(sentencepiece, templates[source])
    expected = reference(sentencepiece).apply_chat_template(
        messages, chat_template=templates[source], add_generation_prompt=True, return_dict=False
    )
    assert codec.encode_prompt(messages) == expected


@many
@given(data=st.data())
def test_smollm2_examples_have_the_ids_that_transformers_gives(smollm2, smollm2_codec, chats, data):
    messages = [{**message, "content": message["content"].strip()} for message in data.draw(chats)]
    assume(messages[-1]["role"] == "assistant")
    expected = smollm2.apply_chat_template(messages, return_dict=False)
    assert list(smollm2_codec.encode_example(messages).ids) == expected


def test_tools_reach_the_template(codec_of, templates, byte_level, reference, tools):
    messages = [
        QUESTION,
        {
            "role": "assistant",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"place": "Oslo"}}}],
        },
        {"role": "tool", "content": "4 C"},
    ]
    expected = reference(byte_level).apply_chat_template(
        messages, tools, chat_template=templates["qwen2_5"], add_generation_prompt=True, return_dict=False
    )
    codec = codec_of(byte_level, templates["qwen2_5"])
    # The template writes <tool_call> itself; in the tools' and the user's text it would be hidden.
    assert codec.encode_prompt(messages, tools=tools) == expected


def test_tool_arguments_may_be_json_text(codec_of, templates, byte_level):
    codec = codec_of(byte_level, templates["qwen2_5"])
    prompts = [
        codec.encode_prompt(
            [
                QUESTION,
                {"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": arguments}}]},
            ]
        )
        for arguments in ('{"a": 1}', {"a": 1})
    ]
    assert prompts[0] == prompts[1]


# Targets


EXPECTED_TARGETS = {
    "alpaca": ["Paris", "answer</s>"],  # no token ends a turn: the last one gets eos_token
    "chatml_generation": ["Paris<|im_end|>", "answer<|im_end|>"],
    "controls": ["Paris<|im_end|>", "answer<|im_end|>"],
    "gemma": ["Paris<end_of_turn>", "answer<end_of_turn>"],
    "gemma3": ["Paris<end_of_turn>", "answer<end_of_turn>"],
    "llama2": [" Paris </s>", " answer </s>"],
    "llama3": ["Paris<|eot_id|>", "answer<|eot_id|>"],
    "mistral": [" Paris</s>", " answer</s>"],
    "mistral_tools": [" Paris</s>", " answer</s>"],
    "neox": ["Paris</s>", "answer</s>"],
    "phi3": ["Paris<|end|>", "answer<|end|>"],
    "qwen2_5": ["Paris<|im_end|>", "answer<|im_end|>"],
    # Two examples: asked last, an answer begins with its reasoning; once another follows, it is shown without.
    "qwen3": ["<think>\n\n</think>\n\nParis<|im_end|>", "<think>\n\n</think>\n\nanswer<|im_end|>"],
    "smollm2": ["Paris<|im_end|>", "answer<|im_end|>"],
    "vicuna": [" Paris</s>", " answer</s>"],
    "zephyr": ["Paris</s>", "answer</s>"],
}


def test_targets_are_the_answers_and_their_end(codec_of, request, source, byte_level):
    codec = codec_of(byte_level, source)
    examples = codec.encode_examples(
        [QUESTION, {**ANSWER, "content": "Paris"}, QUESTION, {**ANSWER, "content": "answer"}]
    )
    found = [text for example in examples for text in target_texts(codec, example)]
    assert found == EXPECTED_TARGETS[request.node.callspec.id]
    for example in examples:
        last = max(i for i, target in enumerate(example.targets) if target)
        assert example.ids[last] in codec.eos_ids


@many
@given(data=st.data())
def test_every_answer_follows_the_prompt_that_serving_feeds(request, source, chats, byte_codec, data):
    codec, messages = byte_codec(source), data.draw(chats)
    messages = [{**message, "content": message["content"].strip()} for message in messages]
    if request.node.callspec.id == "mistral_tools":  # once the question is answered, it leaves this out
        messages = [message for message in messages if message["role"] != "system"]
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    assume(answers and renders(codec, messages))
    examples = codec.encode_examples(messages)
    prompts = [tuple(codec.encode_prompt(messages[:index])) for index in answers]
    asked = [example.ids[:start] for example in examples for start in first_targets(example)]
    if (
        request.node.callspec.id != "alpaca"
    ):  # it ends no turn, so an empty answer in the middle has no target
        assert asked == prompts
    assert set(asked) <= set(prompts)
    for example in examples:
        last = max(index for index, target in enumerate(example.targets) if target)
        assert example.ids[last] in codec.eos_ids


@many
@given(question=text, answer=text)
def test_smollm2_prompt_and_targets_are_the_example(smollm2_codec, question, answer):
    """Whatever an answer begins with, a line feed that would join the prompt's last token included."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    example = smollm2_codec.encode_example(messages)
    prompt = smollm2_codec.encode_prompt(messages[:1])
    targets = [token for token, target in zip(example.ids, example.targets, strict=True) if target]
    assert list(example.ids[: len(prompt) + len(targets)]) == prompt + targets
    # Some bytes have no token in SmolLM2; they are lost, wherever they stand.
    spelled = smollm2_codec.decode(smollm2_codec.encode_text(answer))
    assert smollm2_codec.tokenizer.decode(targets, skip_special_tokens=False) == spelled + "<|im_end|>"


def test_an_answer_is_cut_off_where_its_first_token_would_straddle(smollm2, smollm2_codec):
    messages = [QUESTION, {"role": "assistant", "content": "\n"}]
    whole = smollm2.apply_chat_template(messages, return_dict=False)
    prompt = smollm2_codec.encode_prompt(messages[:1])
    assert whole[: len(prompt)] != prompt  # the trap: "\n\n" is one token
    assert list(smollm2_codec.encode_example(messages).ids[: len(prompt)]) == prompt


def test_each_answer_is_trained_with_its_own_reasoning_and_without_earlier_ones(
    codec_of, templates, byte_level
):
    codec = codec_of(byte_level, templates["qwen3"])
    messages = [
        QUESTION,
        {"role": "assistant", "content": "<think>\none\n</think>\n\nfirst"},
        QUESTION,
        {"role": "assistant", "content": "second", "reasoning_content": "two"},
    ]
    first, second = codec.encode_examples(messages)
    assert target_texts(codec, first) == ["<think>\none\n</think>\n\nfirst<|im_end|>"]
    assert target_texts(codec, second) == ["<think>\ntwo\n</think>\n\nsecond<|im_end|>"]
    assert second == codec.encode_example(messages, train_on="last")
    assert "one" not in codec.decode(second.ids)
    assert codec.tokenizer.token_to_id("<think>") in second.ids


def test_tool_calls_are_targets(codec_of, templates, byte_level):
    codec = codec_of(byte_level, templates["llama3"], eos_ids=[byte_level.token_to_id("<|eom_id|>")])
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": {}}}]}
    example = codec.encode_example([QUESTION, call, {"role": "tool", "content": "noon"}, ANSWER])
    assert target_texts(codec, example) == ['{"name": "now", "parameters": {}}<|eom_id|>', "world!<|eot_id|>"]


@pytest.mark.parametrize(
    ("messages", "train_on", "expected"),
    [
        ([QUESTION, SKIPPED, QUESTION, ANSWER], "assistant", 1),
        ([QUESTION, ANSWER, QUESTION, SKIPPED], "assistant", 1),
        ([QUESTION, ANSWER, QUESTION, ANSWER], "last", 1),
        ([QUESTION, ANSWER, QUESTION, ANSWER, QUESTION], "last", 1),
        ([QUESTION, ANSWER, QUESTION], "assistant", 1),
        ([ANSWER, QUESTION, ANSWER], "assistant", 1),  # nothing asks for the first
    ],
)
def test_which_answers_are_targets(codec_of, templates, byte_level, messages, train_on, expected):
    for name in ("chatml_generation", "alpaca", "neox"):
        codec = codec_of(byte_level, templates[name])
        assert len(first_targets(codec.encode_example(messages, train_on=train_on))) == expected


@pytest.mark.parametrize(
    "messages", [[QUESTION], [ANSWER], [QUESTION, SKIPPED], [QUESTION, ANSWER, QUESTION, SKIPPED]]
)
def test_an_example_without_a_target_is_refused(codec_of, templates, byte_level, messages):
    with pytest.raises(TemplateError, match="nothing to train on"):
        codec_of(byte_level, templates["smollm2"]).encode_example(messages, train_on="last")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        # Its generation prompt opens reasoning that it leaves out of the conversation (as DeepSeek-R1's does).
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
            "answer 1 of 1 cannot be located.*differently when it asks.*--task.template",
        ),
        # It counts the messages up front, so that no prompt is the beginning of the conversation.
        (
            "{{ messages | length }}{% for m in messages %}{{ m.content }}</s>{% endfor %}",
            "differently when it asks",
        ),
        # Its mark includes the role's line, which its generation prompt writes as well.
        (
            "{% for m in messages %}{% generation %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>"
            "{% endgeneration %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
            "marks 2 answers",
        ),
        (
            "{% for m in messages %}{% if m.role == 'assistant' %}Sure: {% generation %}{{ m.content }}</s>"
            "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
            "contradicts itself",
        ),
    ],
)
def test_a_template_whose_targets_cannot_be_told_is_refused(codec_of, byte_level, template, reason):
    with pytest.raises(TemplateError, match=f"(?s){reason}"):
        codec_of(byte_level, template).encode_example([QUESTION, ANSWER])


def test_without_any_end_there_is_nothing_to_learn_to_stop_with(codec_of, templates, byte_level):
    codec = codec_of(byte_level, templates["alpaca"], special_tokens={})
    with pytest.raises(TemplateError, match="no eos_token"):
        codec.encode_example([QUESTION, ANSWER])


def test_generation_ends_with_the_turn(codec_of, templates, byte_level):
    end_of_turn, eos = byte_level.token_to_id("<|im_end|>"), byte_level.token_to_id("</s>")
    assert codec_of(byte_level, templates["smollm2"]).eos_ids == {end_of_turn, eos}
    assert codec_of(byte_level, templates["neox"]).with_template(templates["smollm2"]).eos_ids == {
        end_of_turn,
        eos,
    }
    assert codec_of(byte_level, None, eos_ids=[7]).eos_ids == {7, eos}


# Plain text


@many
@given(prompt=text, completion=text)
def test_completions_follow_the_prompt_that_serving_feeds(codec_of, byte_level, prompt, completion):
    codec = codec_of(byte_level, None)
    example, head = codec.encode_completion(prompt, completion), codec.encode_text(prompt)
    assert list(example.ids[: len(head)]) == head
    assert example.targets == (False,) * len(head) + (True,) * (len(example) - len(head))
    assert example.ids[-1] == byte_level.token_to_id("</s>")
    assert byte_level.decode(example.ids[len(head) : -1]) == completion


def test_a_sentencepiece_completion_gets_no_space_of_its_own(codec_of, sentencepiece):
    codec = codec_of(sentencepiece, None)
    for prompt, completion in [("answer:", " Paris"), ("answer: ", "Paris"), ("answer:\n", "Paris")]:
        example = codec.encode_completion(prompt, completion)
        head = codec.encode_text(prompt)
        assert list(example.ids[: len(head)]) == head
        assert codec.decode(example.ids) == prompt + completion


@many
@given(prompt=text)
def test_plain_text_gets_what_the_tokenizer_puts_around_it(codec_of, sentencepiece, prompt):
    codec = codec_of(sentencepiece, None)
    assert codec.encode_text(prompt)[0] == sentencepiece.token_to_id("<s>")
    added = sentencepiece.get_added_tokens_decoder().values()
    if not any(token.content in prompt for token in added):  # those are spelled as text
        assert codec.encode_text(prompt) == sentencepiece.encode(prompt).ids
