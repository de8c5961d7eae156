"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient
from support.byte_codec import EOS, ByteCodec
from support.fake_chat_model import FakeChatModel

from ptune_serve.app import create_app

USER = {"role": "user", "content": "ahoy"}
NOW = {"type": "function", "function": {"name": "now"}}


def post(served: Any, path: str, **body: Any) -> Any:
    return served.http.post(path, json=body)


def test_a_text(served: Any) -> None:
    response = post(served, "/tokenize", model="pirate", prompt="é!", return_token_strs=True)
    assert response.json() == {
        "count": 3,
        "max_model_len": served.engine.context,
        "tokens": [*"é!".encode()],
        "token_strs": ["\ufffd", "\ufffd", "!"],
    }
    assert response.headers["x-ptune-adapter"] == "pirate@abababababab"


def test_the_tokenizers_own_tokens_can_be_left_out() -> None:
    with TestClient(create_app(FakeChatModel(codecs={"base": ByteCodec(after=[EOS])}))) as http:
        for asked, tokens in ({}, [*b"abc", EOS]), ({"add_special_tokens": False}, [*b"abc"]):
            assert http.post("/tokenize", json={"prompt": "abc", **asked}).json()["tokens"] == tokens


def test_a_conversation_is_what_a_chat_computes(served: Any) -> None:
    served.chat("ahoy", tools=[NOW])
    found = post(served, "/tokenize", messages=[USER], tools=[NOW]).json()
    assert tuple(found["tokens"]) == served.engine.requests[-1].prompt
    assert found["count"] == len(found["tokens"])
    told = post(served, "/tokenize", messages=[USER], add_generation_prompt=False).json()
    assert bytes(told["tokens"]) == b"<user>ahoy<open>"


def test_back_to_text(served: Any) -> None:
    response = post(served, "/detokenize", tokens=[*"☠".encode(), 256])
    assert response.json() == {"prompt": "☠<end>"}
    assert response.headers["x-ptune-adapter"] == "base@0123456789ab"
    assert post(served, "/detokenize", tokens=[]).json() == {"prompt": ""}


def test_what_the_tokenizer_is(served: Any) -> None:
    response = served.http.get("/tokenizer_info", params={"model": "devil"})
    assert response.json() == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": served.engine.context,
        "eos_token": "<end>",
        "chat_template": None,
    }
    assert response.headers["x-ptune-adapter"].startswith("devil@")
    assert served.http.get("/tokenizer_info", params={"model": "gpt-5"}).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": [USER]}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "a\0"}, "prompt"),
        ("/tokenize", {"messages": [{"role": "x"}]}, "messages"),
        ("/tokenize", {"messages": [USER], "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"messages": [{"role": "assistant", "content": "no"}]}, "messages"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [257]}, "tokens"),
        ("/detokenize", {"tokens": [True]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
    ],
)
def test_what_cannot_be_is_named(served: Any, path: str, body: dict[str, Any], param: str) -> None:
    response = post(served, path, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param)
    assert post(served, path, **body, model="gpt-5").status_code in (400, 404)
