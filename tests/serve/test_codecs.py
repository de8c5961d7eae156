"""Which codec a request meets: what it makes of the messages is what it makes of them in training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.testclient import TestClient
from support.byte_codec import ByteCodec
from support.fake_chat_model import FakeChatModel
from support.real_codec import real_codec

from ptune.engine.decoder.request import Token
from ptune.errors import FormatError
from ptune.formats.bundle import AdapterRecord
from ptune.formats.request_defaults import RequestDefaults
from ptune.tasks.chat import infer
from ptune.tasks.chat.infer import ChatModel
from ptune_serve.app import create_app

PLAIN = (
    "{% for m in messages %}[{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}]{{ m.content }}{% endfor %}"
)
KNOWS_DEVELOPER = "{% if messages[0].role == 'developer' %}!{% endif %}" + PLAIN
ENDS_TURNS = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
MESSAGES: list[dict[str, Any]] = [
    {"role": "developer", "content": "brief"},
    {"role": "user", "content": PARTS, "name": "Ann"},
    {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None},
    {"role": "user", "content": "d"},
]


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (PLAIN, "[system]brief[user Ann]ab[assistant]c[user]d"),
        (KNOWS_DEVELOPER, "![developer]brief[user Ann]ab[assistant]c[user]d"),
    ],
)
def test_the_codec_gets_the_messages_as_they_were_sent(template: str, prompt: str) -> None:
    codec = real_codec(template)
    model = FakeChatModel(codecs={"base": codec})
    response = TestClient(create_app(model)).post(
        "/v1/chat/completions", json={"model": "base", "messages": MESSAGES}
    )
    response.raise_for_status()
    ids = model.engine.requests[-1].prompt
    assert list(ids) == codec.encode_prompt(MESSAGES)
    assert codec.decode(ids) == prompt


def test_a_chat_that_two_messages_lead_is_answered_where_the_template_refuses_two() -> None:
    template = "{% for m in messages %}{% if m.role == 'system' and loop.index > 1 %}{{ raise_exception('no') }}{% endif %}"
    codec = real_codec(f"{template}{PLAIN.partition('%}')[2]}")
    model = FakeChatModel(codecs={"base": codec})
    lead = [{"role": "system", "content": PARTS}, {"role": "developer", "content": "c"}]
    body = {"model": "base", "messages": [*lead, {"role": "user", "content": "d"}]}
    TestClient(create_app(model)).post("/v1/chat/completions", json=body).raise_for_status()
    assert codec.decode(model.engine.requests[-1].prompt) == "[system]ab\n\nc[user]d"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_the_codec_gets_the_reasoning_of_earlier_answers(name: str) -> None:
    template = "{% for m in messages %}<{{ m.reasoning_content }}>{{ m.content }}{% endfor %}"
    codec = real_codec(template)
    model = FakeChatModel(codecs={"base": codec})
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", name: "why"}]
    body = {"model": "base", "messages": [*messages, {"role": "user", "content": "c", name: None}]}
    TestClient(create_app(model)).post("/v1/chat/completions", json=body).raise_for_status()
    assert codec.decode(model.engine.requests[-1].prompt) == "<>a<why>b<>c"


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ],
)
def test_both_endpoints_stop_where_the_adapters_codec_says(path: str, asked: dict[str, Any]) -> None:
    other = ByteCodec()
    other.eos_ids = frozenset({7, 256})
    model = FakeChatModel(codecs={"devil": other})
    client = TestClient(create_app(model))
    for adapter, ends in (("base", {256}), ("devil", {7, 256})):
        client.post(path, json={"model": adapter, **asked}).raise_for_status()
        assert model.engine.requests[-1].stop_ids == ends


class Engine:
    """What ChatModel needs of an engine; it answers with one token that ends."""

    context = 64

    def longest(self, beams: int = 1, adapter: str = "base") -> int:
        return self.context

    signature = SimpleNamespace(vocab_size=260)
    vocab_size = staticmethod(lambda adapter: 260)

    def __init__(self, **records: Any) -> None:
        self.records = {name: AdapterRecord(name=name, **fields) for name, fields in records.items()}
        self.requests: list[Any] = []
        self.closed = False

    @property
    def adapters(self) -> list[str]:
        return list(self.records)

    @property
    def bundle(self) -> SimpleNamespace:
        manifest = SimpleNamespace(adapters={name: f"hash of {name}" for name in self.records})
        return SimpleNamespace(manifest=manifest, adapter=self.records.__getitem__)

    def record(self, name: str) -> AdapterRecord | None:
        return self.records.get(name)

    def generate(self, request: Any) -> Any:
        self.requests.append(request)
        yield Token(0, finish="stop")

    def close(self) -> None:
        self.closed = True


def test_an_adapters_codec_is_its_records() -> None:
    bundles = real_codec(PLAIN, system="bundle")
    engine = Engine(
        plain={},
        templated={"template": KNOWS_DEVELOPER},
        own={"own_prompt": True, "template": KNOWS_DEVELOPER, "system": "own"},
        bare={"own_prompt": True},
    )
    model = ChatModel(cast("Any", engine), bundles)
    engine.records["later"] = AdapterRecord(name="later", own_prompt=True, template=PLAIN)
    assert model.codec_for("base") is bundles
    assert model.codec_for("plain") is bundles
    found = {name: model.codec_for(name) for name in ("templated", "own", "bare", "later")}
    assert {name: (c.template and c.template.source, c.system) for name, c in found.items()} == {
        "templated": (KNOWS_DEVELOPER, "bundle"),
        "own": (KNOWS_DEVELOPER, "own"),
        "bare": (None, None),
        "later": (PLAIN, None),
    }
    assert all(model.codec_for(name) is codec for name, codec in found.items())


def test_an_adapters_defaults_are_those_it_was_trained_with() -> None:
    source = "{{ messages[0].content }}{{ mood }}"
    bundles = real_codec(source)
    trained = RequestDefaults(chat_template_kwargs={"mood": "calm"}, thinking_token_budget=5)
    own = {"own_prompt": True, "template": source}
    engine = Engine(own={**own, "defaults": trained}, bare=own)
    model = ChatModel(cast("Any", engine), bundles)
    assert model.codec_for("own").defaults == trained
    asked = [model.codec_for(name).encode_prompt([{"role": "user", "content": "x"}]) for name in ("own", "bare")]  # fmt: skip
    assert [bundles.decode(ids) for ids in asked] == ["xcalm", "x"]


def test_a_text_ends_where_the_adapters_codec_says() -> None:
    engine = Engine(ending={"own_prompt": True, "template": ENDS_TURNS})
    model = ChatModel(cast("Any", engine), real_codec(PLAIN))
    model.complete("x", adapter="ending")
    model.complete("x")
    assert [request.stop_ids for request in engine.requests] == [{256, 257}, {256}]


def test_a_template_that_is_none_is_found_when_the_bundle_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = Engine(good={}, bad={"own_prompt": True, "template": "{% for %}"})
    manifest = SimpleNamespace(task="chat", codec={})
    bundle = SimpleNamespace(manifest=manifest, check_files=lambda files: None, codec_path=tmp_path)
    monkeypatch.setattr("ptune.tasks.chat.infer.Bundle.open", lambda path: bundle)
    monkeypatch.setattr("ptune.tasks.chat.infer.Engine.open", lambda bundle, *options, **keywords: engine)
    real_codec(PLAIN).save(tmp_path)
    with pytest.raises(FormatError, match="chat template of adapter 'bad'"):
        infer.load(tmp_path)
    assert engine.closed
