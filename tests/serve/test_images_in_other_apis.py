"""Images in Anthropic's Messages, OpenAI's Responses and Ollama's API: their own packages, unmodified, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.byte_codec import FakeTower, SeeingCodec
from support.fake_chat_model import ADAPTERS, FakeChatModel, FakeEngine, serving

from ptune_serve.app import create_app
from ptune_serve.fields.image_part import media_type_of


def file_of(colour: str, width: int, height: int, form: str = "PNG") -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(written, form)
    return written.getvalue()


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


RED, BLUE = file_of("red", 3, 2), file_of("blue", 5, 4, "GIF")
SEEN = [(3, 2, (255, 0, 0)), (5, 4, (0, 0, 255))]


@dataclass
class Seeing:
    url: str
    http: httpx.Client
    engine: FakeEngine

    @property
    def seen(self) -> list[tuple[int, int, tuple[int, int, int]]]:
        assert self.engine.tower is not None
        return self.engine.tower.seen

    @property
    def prompt(self) -> str:
        return bytes(self.engine.requests[-1].prompt).decode()


@pytest.fixture(scope="module")
def _one_server() -> Iterator[Seeing]:
    model = FakeChatModel(codecs=dict.fromkeys(("base", *ADAPTERS), SeeingCodec()))
    with serving(create_app(model)) as url, httpx.Client(base_url=url, timeout=20) as http:
        yield Seeing(url, http, model.engine)


@pytest.fixture
def seeing(_one_server: Seeing) -> Seeing:
    _one_server.engine.__init__()  # type: ignore[misc]
    _one_server.engine.tower = FakeTower()
    _one_server.engine.bundle.manifest.vision = {"vision/features.onnx": "sha256:" + "0" * 64}
    return _one_server


def anthropics(content: bytes, media_type: str = "image/png", **more: Any) -> Any:
    source = {"type": "base64", "media_type": media_type, "data": text_of(content)}
    return {"type": "image", "source": source, **more}


def test_anthropics_client_sends_images(seeing: Seeing) -> None:
    client = anthropic.Anthropic(base_url=seeing.url, api_key="any", max_retries=0)
    content: list[Any] = [
        anthropics(RED, cache_control={"type": "ephemeral"}),
        {"type": "text", "text": " and "},
        anthropics(BLUE, "image/gif"),
        {"type": "text", "text": "?"},
    ]
    answer = client.messages.create(
        model="pirate", max_tokens=100, messages=[{"role": "user", "content": content}]
    )
    assert [block.to_dict() for block in answer.content] == [
        {"type": "text", "text": "pirate heard: <image 0> and <image 1>?"}
    ]
    assert seeing.seen == SEEN
    counted = client.messages.count_tokens(model="pirate", messages=[{"role": "user", "content": content}])
    assert counted.input_tokens == len(seeing.prompt.encode())


def test_openais_client_sends_images_and_goes_on_from_them(seeing: Seeing) -> None:
    client = openai.OpenAI(base_url=f"{seeing.url}/v1", api_key="any", max_retries=0)
    url = f"data:image/png;base64,{text_of(RED)}"
    content: list[Any] = [
        {"type": "input_text", "text": "what is "},
        {"type": "input_image", "image_url": url, "detail": "auto"},
    ]
    first = client.responses.create(model="pirate", input=[{"role": "user", "content": content}])
    assert first.output_text == "pirate heard: what is <image 0>"
    after = client.responses.create(model="pirate", input="sure?", previous_response_id=first.id)
    assert after.output_text == "pirate heard: sure?"
    assert seeing.prompt == f"<user>what is <image 1><assistant>{first.output_text}<user>sure?"
    assert seeing.seen == [SEEN[0]] * 2


def test_ollamas_client_sends_images(seeing: Seeing) -> None:
    client = ollama.Client(host=seeing.url)
    answer = client.chat(
        model="pirate", messages=[{"role": "user", "content": "what?", "images": [RED, BLUE]}]
    )
    assert answer.message.content == "pirate heard: <image 0><image 1>what?"
    assert client.generate(model="pirate", images=[RED]).response == "pirate heard: <image 2>"
    assert seeing.seen == [*SEEN, SEEN[0]]
    assert client.show("pirate").capabilities == ["completion", "vision", "tools"]


def test_the_card_of_a_model_says_what_it_takes(seeing: Seeing) -> None:
    cards = seeing.http.get("/v1/models").json()["data"]
    assert [card["input_modalities"] for card in cards] == [["text", "image"]] * 3
    seeing.engine.bundle.manifest.vision = {}
    assert seeing.http.get("/v1/models/base").json()["input_modalities"] == ["text"]


def messages(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"max_tokens": 9, "messages": [{"role": role, "content": list(blocks)}]}


def items(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"input": [{"role": role, "content": list(parts)}]}


def turns(*images: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "x", "images": list(images)}]}


def source(**fields: Any) -> dict[str, Any]:
    return {"type": "image", "source": fields}


MESSAGES, RESPONSES, CHAT = "/v1/messages", "/v1/responses", "/api/chat"
URL = "https://elsewhere.invalid/cat.png"
HERE = f"data:image/png;base64,{text_of(RED)}"
USER_CALL = {"type": "tool_use", "id": "a", "name": "look", "input": {}}
BAD: list[tuple[str, dict[str, Any], str]] = [
    (MESSAGES, messages(source(type="url", url=URL)), "messages[0].content[0]: source: an image must be sent as base64"),
    (MESSAGES, messages(source(type="base64", media_type="image/svg+xml", data="AAAA")), "image/svg+xml are not supported"),
    (MESSAGES, messages(source(type="base64", media_type="image/png")), "source.data: Field required"),
    (MESSAGES, messages(source(type="base64", media_type="image/png", data="AAAA", made="up")), "source.made: there is no such field"),
    (MESSAGES, messages({"type": "image"}), "content[0]: source: Field required"),
    (MESSAGES, messages(source(type="base64", media_type="image/png", data="%%%%")), "messages: image 1: the data after 'base64,' is not valid"),
    (MESSAGES, messages(source(type="base64", media_type="image/png", data="AAAA")), "messages: image 1: "),
    (MESSAGES, messages(source(type="base64", media_type="image/png", data="é")), "messages: image 1: the data after 'base64,' is not valid"),
    (MESSAGES, messages(anthropics(RED), role="assistant"), "content[0]: an image block cannot be in a message of role assistant"),
    (
        MESSAGES,
        {"max_tokens": 9, "messages": [
            {"role": "user", "content": "x"}, {"role": "assistant", "content": [USER_CALL]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [anthropics(RED)]}]},
        ]},
        "a block of type 'image' is not supported; send text",
    ),
    (RESPONSES, items({"type": "input_image", "image_url": URL}), "image_url: an image must be a data URI"),
    (RESPONSES, items({"type": "input_image", "file_id": "file_1"}), "image_url: Field required"),
    (RESPONSES, items({"type": "input_image", "image_url": HERE, "detail": "high"}), "detail: Input should be 'auto'"),
    (RESPONSES, items({"type": "input_image", "image_url": HERE}, role="system"), "input[0]: a message of role system holds no images"),
    (RESPONSES, items({"type": "input_image", "image_url": "data:image/png;base64,AAAA"}), "input: image 1: "),
    (RESPONSES, items({"type": "input_image", "image_url": "data:image/png;base64,é"}), "input: image 1: the data after"),
    (CHAT, turns("aGk="), "messages[0].images[0]: an image must be in a format of image/png"),
    (CHAT, turns(HERE), "messages[0].images[0]: an image must be its file in base64, without data: before it"),
    (CHAT, turns("é"), "messages[0].images[0]: an image must be its file in base64"),
    (CHAT, turns(5), "messages[0].images[0]: an image must be its file in base64"),
    (CHAT, turns(text_of(RED), role="system"), "messages[0]: a message of role system holds no images"),
    (CHAT, turns(*[text_of(RED)] * 33), "messages[0].images: "),
    (CHAT, turns(text_of(RED)[:40]), "messages: image 1: "),
    (CHAT, {"images": [text_of(RED)], **turns()}, "images is not supported yet; put them into a message"),
    ("/api/generate", {"prompt": "x", "images": ["aGk="]}, "images[0]: an image must be in a format of"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "told"), BAD, ids=[f"{path} {told}" for path, _, told in BAD])
def test_a_bad_image_is_refused_in_one_sentence(
    seeing: Seeing, path: str, body: dict[str, Any], told: str
) -> None:
    response = seeing.http.post(path, json={"model": "pirate", **body})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    said = error if isinstance(error, str) else error["message"]
    assert told in said
    assert "\n" not in said
    assert "AAAA" not in said


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (MESSAGES, messages(anthropics(RED))),
        (RESPONSES, items({"type": "input_image", "image_url": HERE})),
        (CHAT, turns(text_of(RED))),
    ],
)
def test_a_model_that_sees_none_says_so(seeing: Seeing, path: str, body: dict[str, Any]) -> None:
    seeing.engine.tower = None
    response = seeing.http.post(path, json={"model": "pirate", **body})
    assert response.status_code == 400
    assert "this model sees no images: send text alone" in response.text


@given(st.text(max_size=40) | st.binary(max_size=40).map(text_of))
def test_any_text_is_an_image_of_a_known_type_or_refused(data: str) -> None:
    with contextlib.suppress(ValueError):  # and nothing else
        assert media_type_of(data).startswith("image/")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_the_type_of_a_file_is_known_by_its_beginning(form: str) -> None:
    assert media_type_of(text_of(file_of("red", 8, 8, form))) == f"image/{form.lower()}"
