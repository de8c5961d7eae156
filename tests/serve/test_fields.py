"""No field of a request is dropped in silence: each that OpenAI and vLLM know works, or is refused by name.

The tables say for each field which. A field that a newer `openai` package has, and no table, fails here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params

from ptune.engine.decoder.request import Request
from ptune_serve.encoders.retrieval_schemas import EmbeddingsRequest
from ptune_serve.fields.known_fields import INSTEAD, NOT_BUILT, THINKING

Effect = Callable[[Request, dict[str, Any]], object]
Answer = dict[str, Any]

# Both endpoints' fields of vLLM's request types (ChatCompletionRequest, CompletionRequest, SamplingParams), late in 2026.
VLLM = [
    "allowed_token_ids",
    "bad_words",
    "cache_salt",
    "ec_transfer_params",
    "guided_choice",
    "guided_decoding_backend",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "guided_whitespace_pattern",
    "ignore_eos",
    "include_stop_str_in_output",
    "kv_transfer_params",
    "length_penalty",
    "logits_processors",
    "logprob_token_ids",
    "max_repetition_pattern_size",
    "min_p",
    "min_repetition_pattern_size",
    "min_tokens",
    "priority",
    "prompt_logprobs",
    "repetition_detection",
    "repetition_min_count",
    "repetition_penalty",
    "request_id",
    "return_token_ids",
    "return_token_offsets",
    "return_tokens_as_token_ids",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop_token_ids",
    "stream",
    "structured_outputs",
    "thinking_token_budget",
    "top_k",
    "truncate_prompt_tokens",
    "truncation_side",
    "use_beam_search",
    "vllm_xargs",
    "watermarking",
    "add_special_tokens",
    "echo",
    "response_format",
]
VLLM_CHAT = [
    "add_generation_prompt",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "include_reasoning",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "return_prompt_text",
    "routed_experts_prompt_start",
    "session_id",
    "stream_interval",
]
VLLM_COMPLETION = ["prompt_embeds"]

# What a value of a field does: to the request that the engine gets, or to the answer.
BOTH: dict[str, tuple[Any, Effect]] = {
    "allowed_token_ids": ([65, 66], lambda request, _: request.allowed_token_ids == frozenset({65, 66})),
    "bad_words": (["ab"], lambda request, _: request.bad_words == ((97, 98),)),
    "frequency_penalty": (0.5, lambda request, _: request.sampling.frequency_penalty == 0.5),
    "guided_choice": (["yes"], lambda _, answer: said(answer) == "yes"),
    "guided_grammar": ('start: "a" rest\nrest: "b"', lambda _, answer: said(answer) == "ab"),
    "guided_json": ({"const": 5}, lambda _, answer: said(answer) == "5"),
    "guided_regex": ("ab", lambda _, answer: said(answer) == "ab"),
    "ignore_eos": (True, lambda request, _: request.stop_ids == frozenset()),
    "logit_bias": ({"65": 5}, lambda request, _: request.sampling.logit_bias == {65: 5}),
    "max_tokens": (3, lambda _, answer: answer["usage"]["completion_tokens"] == 3),
    "min_p": (0.5, lambda request, _: request.sampling.min_p == 0.5),
    "min_tokens": (2, lambda request, _: request.min_tokens == 2),
    "model": ("devil", lambda _, answer: said(answer).startswith("devil")),
    "n": (2, lambda _, answer: len(answer["choices"]) == 2),
    "presence_penalty": (0.5, lambda request, _: request.sampling.presence_penalty == 0.5),
    "prompt_logprobs": (2, lambda request, _: request.prompt_logprobs == 2),
    "repetition_penalty": (1.5, lambda request, _: request.sampling.repetition_penalty == 1.5),
    "response_format": ({"type": "json_object"}, lambda request, _: request.grammar is not None),
    "return_token_ids": (True, lambda _, answer: answer["choices"][0]["token_ids"]),
    "seed": (7, lambda request, _: request.sampling.seed == 7),
    "stop": ("heard", lambda _, answer: said(answer) == "pirate "),
    "stop_token_ids": ([104], lambda request, _: request.stop_ids == {104, 256}),
    "structured_outputs": ({"regex": "ab"}, lambda _, answer: said(answer) == "ab"),
    "temperature": (0.5, lambda request, _: request.sampling.temperature == 0.5),
    "top_k": (5, lambda request, _: request.sampling.top_k == 5),
    "top_p": (0.5, lambda request, _: request.sampling.top_p == 0.5),
    "truncate_prompt_tokens": (2, lambda request, _: bytes(request.prompt) == b"oy"),
}
CHAT: dict[str, tuple[Any, Effect]] = {
    "add_generation_prompt": (False, lambda request, _: b"<open>" in bytes(request.prompt)),
    "chat_template_kwargs": (
        {"enable_thinking": False},
        lambda request, _: b"<enable_thinking=False>" in bytes(request.prompt),
    ),
    "logprobs": (True, lambda _, answer: answer["choices"][0]["logprobs"]["content"]),
    "max_completion_tokens": (3, lambda _, answer: answer["usage"]["completion_tokens"] == 3),
    "messages": ([{"role": "user", "content": "hi"}], lambda _, answer: said(answer) == "pirate heard: hi"),
    "reasoning_effort": ("low", lambda request, _: b"<reasoning_effort=low>" in bytes(request.prompt)),
    "tools": (
        [{"type": "function", "function": {"name": "now"}}],
        lambda request, _: b"<tool now>" in bytes(request.prompt),
    ),
}
COMPLETION: dict[str, tuple[Any, Effect]] = {
    "echo": (True, lambda _, answer: said(answer) == "ahoypirate heard: ahoy"),
    "logprobs": (2, lambda _, answer: len(answer["choices"][0]["logprobs"]["top_logprobs"][0]) == 3),
    "prompt": ("hi", lambda _, answer: said(answer) == "pirate heard: hi"),
}
ELSEWHERE = {
    "add_special_tokens": "test_special_tokens_of_a_completion",
    "best_of": "test_refusals.py",
    "continue_final_message": "test_an_answer_is_continued",
    "length_penalty": "test_beams.py",
    "parallel_tool_calls": "test_tools.py",
    "stream": "test_chat.py, test_completions.py",
    "stream_options": "test_chat.py, test_completions.py",
    "tool_choice": "test_tools.py",
    "top_logprobs": "test_chat.py",
    "truncation_side": "test_prompts_are_cut_on_either_side",
    "user": "test_adapter_aliases.py: it selects the version of an alias",
    "safety_identifier": "test_the_safety_identifier_is_the_caller",
}
HINTS = {"prompt_cache_key": "prefixes are reused whatever it says"}
CHAT_ONLY = {"include_reasoning", "thinking_token_budget"}  # how these work: test_thinking.py
REFUSED = set(NOT_BUILT) - CHAT_ONLY
REFUSED_IN_CHAT = {"add_special_tokens", "echo", *THINKING}

PATHS = {
    "/v1/chat/completions": (
        {*chat_create_params.CompletionCreateParamsBase.__annotations__, *VLLM, *VLLM_CHAT},
        {**BOTH, **CHAT},
    ),
    "/v1/completions": (
        {*completion_create_params.CompletionCreateParamsBase.__annotations__, *VLLM, *VLLM_COMPLETION},
        {**BOTH, **COMPLETION},
    ),
}


def said(answer: Answer) -> str:
    choice = answer["choices"][0]
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text


def post(served: Any, path: str, **fields: Any) -> Any:
    asked = (
        {"messages": [{"role": "user", "content": "ahoy"}]}
        if "chat" in path
        else {"prompt": "ahoy", "max_tokens": 99}
    )
    return served.http.post(path, json={"model": "pirate", **asked, **fields})


def refusal(response: Any, field: str, code: str = "unsupported_parameter") -> str:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (field, code)
    assert field in error["message"]
    message: str = error["message"]
    return message


@pytest.mark.parametrize("path", PATHS)
def test_a_table_has_each_field_once(path: str) -> None:
    fields, works = PATHS[path]
    refused = REFUSED | (REFUSED_IN_CHAT if "chat" in path else CHAT_ONLY)
    elsewhere = {*ELSEWHERE, *CHAT_ONLY} - refused
    tables = {"works": {*works}, "elsewhere": elsewhere, "hints": {*HINTS}, "refused": refused}
    for field in fields:
        assert [name for name, table in tables.items() if field in table] != [], f"no table has {field}"
        assert len([name for name, table in tables.items() if field in table]) == 1, field


@pytest.mark.parametrize(
    ("path", "field"), [(path, field) for path in PATHS for field in sorted(PATHS[path][1])]
)
def test_a_field_does_what_it_says(served: Any, path: str, field: str) -> None:
    value, effect = PATHS[path][1][field]
    plain, changed = post(served, path), post(served, path, **{field: value})
    assert changed.status_code == 200, changed.text
    before, after = served.engine.requests[0], served.engine.requests[-1]
    assert effect(after, changed.json())
    assert not _happens(effect, before, plain.json()), "the effect is there without the field"


def _happens(effect: Effect, request: Request, answer: Answer) -> bool:
    try:
        return bool(effect(request, answer))
    except (KeyError, TypeError):
        return False


@pytest.mark.parametrize(
    ("path", "field"),
    [(path, field) for path in PATHS for field in sorted(REFUSED)]
    + [("/v1/chat/completions", field) for field in sorted(REFUSED_IN_CHAT)]
    + [("/v1/completions", field) for field in sorted(CHAT_ONLY)],
)
def test_a_field_that_is_not_built_is_named(served: Any, path: str, field: str) -> None:
    message = refusal(post(served, path, **{field: {"any": "thing"}}), field)
    assert "not supported yet" in message
    assert post(served, path, **{field: None}).status_code == 200
    assert field not in THINKING or INSTEAD[field] in message
    for harmless in {**NOT_BUILT, **THINKING}.get(field, ()):
        assert post(served, path, **{field: harmless}).status_code == 200, harmless


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("field", HINTS)
def test_a_hint_changes_nothing(served: Any, path: str, field: str) -> None:
    plain, hinted = post(served, path, seed=1), post(served, path, seed=1, **{field: "x"})
    assert hinted.status_code == 200
    assert plain.json()["choices"] == hinted.json()["choices"]
    assert served.engine.requests[0] == served.engine.requests[1]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("field", "meant"), [("temprature", "temperature"), ("chat_template_kwarg", None), ("zzz", None)]
)
def test_an_unknown_field_is_named_with_the_nearest(
    served: Any, path: str, field: str, meant: str | None
) -> None:
    message = refusal(post(served, path, **{field: 1}), field, "unknown_parameter")
    assert meant is None or f"did you mean {meant}?" in message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": "x", "prefix": True}]}, "messages[0].prefix"),
        ({"response_format": {"type": "text", "shema": {}}}, "response_format.shema"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {}, "stric": 1},
                }
            },
            "response_format.json_schema.stric",
        ),
    ],
)
def test_an_unknown_key_within_a_field_is_named(served: Any, fields: dict[str, Any], param: str) -> None:
    refusal(post(served, "/v1/chat/completions", **fields), param, "unknown_parameter")


def test_an_unknown_key_of_a_text_part_is_named(served: Any) -> None:
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}, "annotations": None}

    def answer(**more: object) -> Any:
        return post(
            served, "/v1/chat/completions", messages=[{"role": "user", "content": [{**part, **more}]}]
        )

    assert answer().status_code == 200
    assert "'weight'" in refusal(answer(weight=2), "messages[0].content", "unknown_parameter")


def test_keys_of_an_answer_that_is_sent_back_are_known(served: Any) -> None:
    answer: dict[str, Any] = {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None, "reasoning_content": None}  # fmt: skip
    messages = [{"role": "user", "content": "x"}, answer, {"role": "user", "content": "y"}]
    schema = {"name": "x", "description": "A word.", "schema": {"const": 5}, "strict": True}
    form = {"type": "json_schema", "json_schema": schema}
    path = "/v1/chat/completions"
    assert said(post(served, path, messages=messages, response_format=form).json()) == "5"


def test_embeddings_know_each_field_of_openai() -> None:
    openais = set(embedding_create_params.EmbeddingCreateParams.__annotations__)
    assert openais <= EmbeddingsRequest.model_fields.keys()


def test_an_answer_is_continued(served: Any) -> None:
    messages = [{"role": "user", "content": "ahoy"}, {"role": "assistant", "content": "arr"}]
    fields = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    assert post(served, "/v1/chat/completions", **fields).status_code == 200
    assert bytes(served.engine.requests[-1].prompt) == b"<user>ahoy<assistant>arr"
    tokens = served.http.post("/tokenize", json=fields).json()["tokens"]
    assert tokens == list(served.engine.requests[-1].prompt)
    both = post(served, "/v1/chat/completions", **{**fields, "add_generation_prompt": True})
    refusal(both, "continue_final_message", "invalid_value")
    asked = post(served, "/v1/chat/completions", continue_final_message=True)
    refusal(asked, "continue_final_message", "invalid_value")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_are_cut_on_either_side(served: Any, path: str, side: str) -> None:
    """-1 leaves as much as there is room for beside the answer."""
    post(served, path)
    whole, context = bytes(served.engine.requests[-1].prompt), served.engine.context
    for most, max_tokens, kept in ((3, 9, 3), (400, 9, len(whole)), (-1, context - 3, 3)):
        fields = {"truncate_prompt_tokens": most, "truncation_side": side, "max_tokens": max_tokens}
        assert post(served, path, **fields).status_code == 200
        found = bytes(served.engine.requests[-1].prompt)
        assert found == (whole[-kept:] if side == "left" else whole[:kept])


@pytest.mark.parametrize("most", [0, -2, 1.5, True])
def test_a_prompt_cannot_be_cut_to_nothing(served: Any, most: Any) -> None:
    response = post(served, "/v1/completions", truncate_prompt_tokens=most)
    refusal(response, "truncate_prompt_tokens", "invalid_value")


def test_stop_texts_count_after_min_tokens(served: Any) -> None:
    for path in PATHS:
        early = post(served, path, stop=["e"]).json()
        late = post(served, path, stop=["e"], min_tokens=6).json()
        assert (said(early), said(late)) == ("pirat", "pirate h")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"min_tokens": 1, "guided_regex": "a"}, "min_tokens"),
        ({"ignore_eos": True, "guided_regex": "a"}, "ignore_eos"),
        ({"bad_words": ["a"], "guided_regex": "a"}, "bad_words"),
        ({"bad_words": ["a"], "num_beams": 2}, "bad_words"),
        ({"bad_words": [""]}, "bad_words"),
        ({"bad_words": [" "]}, "bad_words"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [65], "num_beams": 2}, "allowed_token_ids"),
        ({"stop_token_ids": [257]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stream": True, "stream_options": {"include_usag": True}}, "include_usag"),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_token_rules_that_cannot_be_obeyed_are_named(
    served: Any, path: str, fields: dict[str, Any], param: str
) -> None:
    response = post(served, path, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].startswith(param)


def test_a_template_is_given_only_what_it_reads(served: Any) -> None:
    path = "/v1/chat/completions"
    wrong: dict[str, Any]
    for wrong in ({"thinking": True}, {"messages": 1}, {"enable_thinking": []}):
        refusal(post(served, path, chat_template_kwargs=wrong), "chat_template_kwargs", "invalid_value")
    tokens = served.http.post(
        "/tokenize",
        json={
            "messages": [{"role": "user", "content": "x"}],
            "chat_template_kwargs": {"enable_thinking": True},
        },
    ).json()["tokens"]
    assert bytes(tokens) == b"<enable_thinking=True><user>x"


def test_the_safety_identifier_is_the_caller() -> None:
    from ptune_serve.openai.schemas import CompletionRequest

    asked = CompletionRequest(model="m", prompt=["x"], safety_identifier="me", seed=1)
    assert asked.caller == "me"
    assert asked.model_copy(update={"user": "you"}).caller == "you"


def test_special_tokens_of_a_completion(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = type(served.service.model.codec)
    monkeypatch.setattr(
        codec, "encode_text", lambda _, text, *, special=True: [*text.encode(), *([33] if special else [])]
    )
    for special, prompt in ((True, b"ahoy!"), (False, b"ahoy")):
        assert post(served, "/v1/completions", add_special_tokens=special).status_code == 200
        assert bytes(served.engine.requests[-1].prompt) == prompt
