"""One server test for every kind of decoder: dense, mixtures of experts, hybrids that keep states, and one that sees images.

Each is exported by ptune, given two adapters that peft wrote, and asked over HTTP: what is answered in company, after others were
given up, preempted, or from a kept beginning is what is answered alone, of the base to the bit.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import torch
from peft import PeftModel
from support.bundles import peft_folder, tiny_bundle, with_peft
from support.fake_chat_model import serving, wait_until
from support.living_adapters import peft_files
from support.tiny_images import picture
from support.tiny_models import adapted
from support.tiny_vision import build
from transformers import AutoModelForImageTextToText

import ptune
from ptune.backbone.load import load
from ptune.config.recipe import Backbone
from ptune.engine.adapters.folder import install
from ptune.export.decoder.image_features import write_image_features
from ptune.export.weights import ModelWeights
from ptune.export.write import write_bundle
from ptune.formats.bundle import BASE, Bundle, hashes
from ptune.formats.signature import IMAGES
from ptune.tasks.chat.infer import ChatModel
from ptune_serve.app import create_app
from ptune_serve.service import Settings

MANY = {"num_experts": 8, "num_experts_per_tok": 6}  # chosen by a token, as in published mixtures
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "olmoe": {**MANY, "norm_topk_prob": True},
    "qwen3_next": MANY,  # a mixture, too
    "lfm2": {},
    "granitemoehybrid_experts": {},  # likewise
    "llava": {},  # sees images
}
SEES, MIXED = "llava", "olmoe"
ALIKE = (
    "lfm2",
    "granitemoehybrid_experts",
)  # hybrids that add little to the one above; run with the long forms
ADAPTERS = ("one", "two")
NAMES = (BASE, *ADAPTERS)
COUNT = 6  # prompts
ROWS, MEMORY_TOKENS = 8, 300  # memory for a third of eight sequences
LONG = "Tell me, and leave nothing out, how it came to this, who was there, and what they said of it afterwards. "


@dataclass
class Served:
    """A server with little memory, and what it has answered when it was asked alone."""

    kind: str
    http: httpx.Client
    model: ChatModel
    base: Path
    folders: dict[str, Path]  # of peft
    alone: dict[tuple[int, str], tuple[Any, ...]] = field(default_factory=dict)

    def body(self, number: int, name: str, **fields: Any) -> dict[str, Any]:
        asked: Any = f"{LONG * (number % 3)}What is number {number}?"
        if self.kind == SEES and number % 2:
            asked = [_image(number), {"type": "text", "text": asked}]
        body = {
            "model": name,
            "messages": [{"role": "user", "content": asked}],
            "max_tokens": (12, 60)[number % 2],
        }
        return {
            **body,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "logprobs": True,
            **fields,
        }

    def answer(self, number: int, name: str, **fields: Any) -> tuple[Any, ...]:
        """Tokens and their log-probabilities."""
        response = self.http.post("/v1/chat/completions", json=self.body(number, name, **fields))
        assert response.status_code == 200, response.text
        (choice,) = response.json()["choices"]
        return choice["token_ids"], [token["logprob"] for token in choice["logprobs"]["content"]]

    def assert_as_alone(self, number: int, name: str, found: tuple[Any, ...]) -> None:
        tokens, logprobs = self.alone[number, name]
        assert found[0] == tokens, (number, name)
        if name == BASE:
            assert found[1] == logprobs, "the same bits"


def _image(number: int) -> dict[str, Any]:
    written = io.BytesIO()
    picture(30 + number, 44, seed=number).save(written, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": uri}}


def _seeing(place: Path) -> tuple[Path, Bundle]:
    """A model that sees images, and its bundle."""
    base = build(place / "model")
    loaded = load(Backbone(model=str(base)), device="cpu")
    weights, config = ModelWeights(loaded.model), loaded.model.config
    bundle = write_bundle(place / "bundle", config, weights, loaded.codec, loaded.identity, ends=(IMAGES,))
    assert loaded.codec.vision is not None
    write_image_features(bundle.folder, loaded.model, loaded.codec.vision)
    bundle.write_manifest(bundle.manifest.model_copy(update={"vision": hashes(bundle.folder, "vision")}))
    return base, Bundle.open(bundle.folder)


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=pytest.mark.slow if kind in ALIKE else ()) for kind in KINDS],
)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    kind, place = request.param, tmp_path_factory.mktemp("served")
    if kind == SEES:
        base, bundle = _seeing(place)
        where = {
            "target_modules": r".*language_model.*\.(q_proj|v_proj|down_proj)",
            "kind": AutoModelForImageTextToText,
        }
    else:
        base, _, bundle = tiny_bundle(place, kind, **KINDS[kind])
        where = {"target_modules": adapted(kind)}
    folders = {
        name: peft_folder(base, place / name, r=2 + 2 * at, seed=at, spread=0.3, **where)
        for at, name in enumerate(ADAPTERS)
    }
    for name, folder in folders.items():
        install(bundle, folder, name)
    with _opened(bundle, max_rows=1) as (http, model):
        lonely = Served(kind, http, model, base, folders)
        asked = [(number, name) for number in range(COUNT) for name in NAMES]
        alone = {(number, name): lonely.answer(number, name) for number, name in asked}
    signature = Bundle.open(bundle.folder).decoder
    little = MEMORY_TOKENS * signature.cache_bytes_per_token() + 3 * ROWS * signature.state_bytes()
    with _opened(bundle, max_rows=ROWS, kv_bytes=little) as (http, model):
        yield Served(kind, http, model, base, folders, alone)


@contextlib.contextmanager
def _opened(bundle: Bundle, **options: Any) -> Iterator[tuple[httpx.Client, ChatModel]]:
    model = ptune.load(bundle.folder, threads=1, prefill_chunk=24, replay_golden=False, **options)
    assert isinstance(model, ChatModel)
    try:
        with (
            serving(create_app(model, Settings(adapters_api=True))) as url,
            httpx.Client(base_url=url, timeout=60) as http,
        ):
            yield http, model
    finally:
        model.close()


def test_answers_are_those_of_transformers_and_peft(served: Served) -> None:
    """Images are compared in test_chat_images.py."""
    messages = served.body(1 if served.kind != SEES else 2, BASE)["messages"]
    ids = served.model.codec.encode_prompt(messages)
    for name in NAMES:
        tokens, _ = served.alone[1 if served.kind != SEES else 2, name]
        model = _reference(served, name)
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *tokens]])).logits[0, len(ids) - 1 : -1]
        assert logits.argmax(-1).tolist() == tokens, name
    assert len({str(served.alone[1, name][0]) for name in NAMES}) == len(NAMES), "adapters must matter"


def _reference(served: Served, name: str) -> torch.nn.Module:
    if served.kind != SEES:
        return with_peft(served.base, served.folders.get(name))
    model = AutoModelForImageTextToText.from_pretrained(served.base, dtype=torch.float32).eval()
    return model if name == BASE else PeftModel.from_pretrained(model, str(served.folders[name])).eval()


def test_in_company_each_is_answered_as_alone(served: Served) -> None:
    """More requests than rows, under mixed adapters, with memory for few: some are preempted, others begin from what is kept."""
    before = after = served.model.engine.stats()
    asked = [*served.alone] * 2
    Random(0).shuffle(asked)
    for _ in range(10):  # until enough of them have met
        with ThreadPoolExecutor(16) as pool:
            found = [*pool.map(lambda job: served.answer(*job), asked)]
        for (number, name), answer in zip(asked, found, strict=True):
            served.assert_as_alone(number, name, answer)
        after = served.model.engine.stats()
        if after.preempted > before.preempted and after.reused > before.reused:
            break
    assert after.preempted > before.preempted
    assert after.reused > before.reused


def test_a_kept_beginning_is_gone_on_from(served: Served) -> None:
    served.assert_as_alone(2, "one", served.answer(2, "one"))
    before = served.model.engine.stats().reused
    served.assert_as_alone(2, "one", served.answer(2, "one"))
    assert served.model.engine.stats().reused > before


def test_streams_that_are_left_leave_no_trace(served: Served) -> None:
    """One while its prompt is read, one in its answer; meanwhile and afterwards others are answered as alone."""
    for name, events in ((BASE, 0), ("two", 3)):
        body = served.body(5, name, stream=True, max_tokens=100)
        with served.http.stream("POST", "/v1/chat/completions", json=body) as stream:
            assert stream.status_code == 200
            lines = (line for line in stream.iter_lines() if line)
            assert len([next(lines) for _ in range(events)]) == events
            served.assert_as_alone(4, BASE, served.answer(4, BASE))
        wait_until(lambda: served.model.engine.stats().running == 0)
        wait_until(lambda: served.model.engine.stats().kv_used_tokens == 0)
        for number in (4, 5):
            served.assert_as_alone(number, name, served.answer(number, name))


def test_a_stream_says_what_the_whole_answer_says(served: Served) -> None:
    with served.http.stream(
        "POST", "/v1/chat/completions", json=served.body(3, "two", stream=True)
    ) as stream:
        events = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    assert events.pop() == "[DONE]"
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    assert [token for choice in choices for token in choice.get("token_ids") or []] == served.alone[3, "two"][
        0
    ]


def test_an_adapter_of_experts_is_refused_in_one_sentence(served: Served, tmp_path: Path) -> None:
    """It is served merged alone; whoever is being answered goes on."""
    if served.kind != MIXED:
        pytest.skip("has no experts, or is like the one that is tried")
    folder = peft_folder(
        served.base,
        tmp_path / "experts",
        r=2,
        seed=9,
        target_modules=["q_proj"],
        target_parameters=["mlp.experts.gate_up_proj"],
    )
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(served.answer, number, BASE) for number in range(4)]
        refused = served.http.post("/v1/adapters", data={"name": "experts"}, files=peft_files(folder))
        for number, other in enumerate(others):
            served.assert_as_alone(number, BASE, other.result())
    assert refused.status_code == 400, refused.text
    assert "target_parameters" in refused.json()["error"]["message"]
