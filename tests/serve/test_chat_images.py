"""Chats with images, from a trained run to HTTP: answers are what transformers and peft generate from the same pictures."""

from __future__ import annotations

import base64
import io
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from support.fake_chat_model import serving, wait_until
from support.tiny_images import picture
from support.tiny_vision import ROWS, build, seen_conversations, write_rows
from transformers import AutoModelForImageTextToText

import ptune
from ptune import publish
from ptune.config.chat import Chat
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.engine.decoder.request import Request, Token
from ptune.engine.decoder.ticket import until_finish
from ptune.engine.sampling import Sampling
from ptune.fine_tune import train
from ptune.methods.lora import Lora
from ptune.tasks.chat.infer import ChatModel
from ptune.tasks.chat.seen import encoded
from ptune_serve.app import create_app
from ptune_serve.service import Settings

NAME, TOKENS = "looker", 12


@dataclass
class Served:
    http: httpx.Client
    model: ChatModel
    proof: Any
    peft: PeftModel

    def ask(self, *parts: Any, **fields: Any) -> httpx.Response:
        content = [part if isinstance(part, dict) else _part(part) for part in parts]
        body = {
            "model": NAME,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": TOKENS,
            **fields,
        }
        return self.http.post("/v1/chat/completions", json={"temperature": 0, **body})

    def tokens(self, *parts: Any, **fields: Any) -> list[int]:
        response = self.ask(*parts, return_token_ids=True, **fields)
        response.raise_for_status()
        found: list[int] = response.json()["choices"][0]["token_ids"]
        return found

    @property
    def image(self) -> int:
        """The model's token for images."""
        assert self.model.codec.vision is not None
        return self.model.codec.vision.token

    @property
    def computed(self) -> int:
        """Images that went through the vision graph."""
        assert self.model.engine.tower is not None
        return self.model.engine.tower.computed

    def expected(self, *parts: Any, adapter: bool = True) -> list[int]:
        """The greedy answer of transformers, which gets the pictures as pixels."""
        vision = self.model.codec.vision
        assert vision is not None
        shown = [part for part in parts if isinstance(part, Image.Image)]
        content = [
            {"type": "image", "first_row": 1 << 30, "size": part.size}
            if isinstance(part, Image.Image)
            else {"type": "text", "text": part}
            for part in parts
        ]
        ids = vision.plain(self.model.codec.encode_prompt([{"role": "user", "content": content}]))
        pixels = {}
        if shown:
            pixels["pixel_values"] = torch.from_numpy(np.stack([vision.preprocessing(one) for one in shown]))
        ends = sorted(self.model.codec.eos_ids)
        off = self.peft.disable_adapter() if not adapter else torch.no_grad()
        with off:
            answer = self.peft.generate(
                input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), **pixels,
                max_new_tokens=TOKENS, do_sample=False, eos_token_id=ends, pad_token_id=ends[0],
            )  # fmt: skip
        found: list[int] = answer[0, len(ids) :].tolist()
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("seen")
    build(folder / "model")
    file = write_rows(folder / "data.jsonl", seen_conversations(folder, 24))
    run = train(
        Recipe(
            name="tiny",
            task=Chat(max_length=256),
            backbone=Backbone(model=str(folder / "model"), dtype="float32"),
            method=Lora(r=4, alpha=16),
            data=Data(files=(file,), validation_share=0.3),
            train=Train(max_steps=6, lr=2e-2, batch_size=4),
        ),
        folder / "run",
    )
    proof = publish.export_run(run, folder / "bundle", name=NAME, threads=1, anyway=True)
    base = AutoModelForImageTextToText.from_pretrained(folder / "model").eval()
    peft = PeftModel.from_pretrained(base, str(run.adapter_path)).eval()
    model = ptune.load(folder / "bundle", threads=1, max_rows=6)
    try:
        with serving(create_app(model, Settings())) as url, httpx.Client(base_url=url, timeout=60) as http:
            yield Served(http, model, proof, peft)
    finally:
        model.close()


def _png(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    uri = "data:image/png;base64," + base64.b64encode(_png(part)).decode()
    return {"type": "image_url", "image_url": {"url": uri}}


ONE, TWO = picture(61, 40, seed=11), picture(33, 70, seed=12)


def test_every_hop_is_proved(served: Served) -> None:
    assert served.proof.passed
    names = [hop.name for hop in served.proof.base]
    assert names[0] == "torch → ONNX, features of images"
    assert {"torch → ONNX base", "ONNX → engine", "engine → server"} <= {*names}
    assert served.proof.base[0].prompts >= 3
    assert "vision/features.onnx" in served.model.engine.bundle.manifest.vision


@pytest.mark.parametrize(
    "parts", [(ONE, "What is it?"), ("Before", TWO, "and", ONE, "after"), ("Only words?",)]
)
def test_answers_are_those_of_transformers_and_peft(served: Served, parts: tuple[Any, ...]) -> None:
    assert served.tokens(*parts) == served.expected(*parts)
    assert served.tokens(*parts, model="base") == served.expected(*parts, adapter=False)


def test_another_image_gives_another_answer_and_the_same_one_is_found_in_the_cache(served: Served) -> None:
    engine = served.model.engine
    asked = "Tell me a long story about what is to be seen here."
    first = served.tokens(ONE, asked)
    reused, computed = engine.stats().reused, served.computed
    assert served.tokens(ONE, asked) == first
    assert engine.stats().reused - reused > ROWS
    assert served.computed == computed
    reused = engine.stats().reused
    other = picture(61, 40, seed=15)
    assert served.tokens(other, asked) == served.expected(other, asked) != first
    assert engine.stats().reused - reused < ROWS


def test_images_of_many_at_once_never_mix(served: Served) -> None:
    """More conversations than slots, under the base and an adapter: each is answered as alone."""
    pictures = [picture(30 + at, 44, seed=20 + at) for at in range(8)]
    jobs = [(one, name) for one in pictures for name in (NAME, "base")]
    with ThreadPoolExecutor(16) as pool:
        answers = [*pool.map(lambda job: served.tokens(job[0], "What?", model=job[1]), jobs)]
    for (one, name), answer in zip(jobs, answers, strict=True):
        assert answer == served.expected(one, "What?", adapter=name == NAME)
    assert len({tuple(answer) for answer in answers}) > 8


def test_usage_counts_the_rows_and_tokens_are_the_models_own(served: Served) -> None:
    body = served.ask(ONE, TWO, "What?", return_token_ids=True).json()
    image = served.image
    assert body["prompt_token_ids"].count(image) == 2 * ROWS
    assert body["usage"]["prompt_tokens"] == len(body["prompt_token_ids"])
    messages = [{"role": "user", "content": [_part(ONE), _part("What?")]}]
    counted = served.http.post("/tokenize", json={"model": NAME, "messages": messages}).json()
    assert counted["tokens"].count(image) == ROWS


def test_a_user_cannot_write_an_image(served: Served) -> None:
    body = served.ask("<image> is a word here", return_token_ids=True).json()
    assert served.image not in body["prompt_token_ids"]
    refused = served.http.post(
        "/v1/completions", json={"model": NAME, "prompt": [5, 1 << 30], "max_tokens": 1}
    )
    assert refused.status_code == 400


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}, "fetches nothing"),
        ({"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64,AAAA"}}, "not supported"),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            "not an image of a format",
        ),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}, "not valid base64"),
        ({"type": "image_url", "image_url": "data:image/png;base64,AAAA"}, "must be"),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "high"}},
            "detail",
        ),
        ({"type": "image", "first_row": 1 << 30}, "type 'image' is not supported"),
    ],
)
def test_a_bad_image_is_refused_in_one_sentence(served: Served, part: dict[str, Any], told: str) -> None:
    response = served.ask(part, "What?")
    assert response.status_code == 400
    error = response.json()["error"]
    assert told in error["message"]
    assert error["param"].startswith("messages")


def test_limits_and_what_is_told_of_texts_alone(served: Served) -> None:
    small = Image.fromarray(np.zeros((2, 2, 3), np.uint8))
    assert "more than 32 images" in served.ask(*[small] * 33, "What?").json()["error"]["message"]
    assert "num_beams" in served.ask(ONE, "What?", num_beams=2).json()["error"]["message"]
    assert "prompt_logprobs" in served.ask(ONE, "What?", prompt_logprobs=1).json()["error"]["message"]
    body = {"model": NAME, "messages": [{"role": "system", "content": [_part(ONE)]}], "max_tokens": 1}
    assert "role system holds no images" in served.http.post("/v1/chat/completions", json=body).text


def test_penalties_and_streams_with_images(served: Served) -> None:
    whole = served.tokens(ONE, "What?", repetition_penalty=1.3)
    assert whole
    assert whole == served.tokens(ONE, "What?", repetition_penalty=1.3)
    with served.http.stream(
        "POST",
        "/v1/chat/completions",
        json={
            "model": NAME, "stream": True, "temperature": 0, "max_tokens": TOKENS,
            "messages": [{"role": "user", "content": [_part(ONE), _part("What?")]}],
        },
    ) as stream:  # fmt: skip
        assert stream.read().decode().rstrip().endswith("data: [DONE]")


def test_a_stream_that_is_left_ends_its_answer(served: Served) -> None:
    messages = [{"role": "user", "content": [_part(ONE), _part("Count to a thousand.")]}]
    body = {"model": NAME, "stream": True, "max_tokens": 400, "ignore_eos": True, "messages": messages}
    with served.http.stream("POST", "/v1/chat/completions", json=body) as stream:
        next(stream.iter_lines())
    wait_until(lambda: served.model.engine.stats().running == 0)
    assert served.tokens(ONE, "What is it?") == served.expected(ONE, "What is it?")


def test_a_preempted_conversation_goes_on_with_its_image(served: Served) -> None:
    """Another tenant takes all slots while answers are under way: they are computed again, with their images."""
    engine, tower = served.model.engine, served.model.engine.tower
    codec = served.model.codec_for(NAME)
    expected, prompts = [], []
    for at in range(6):
        one = picture(40 + at, 35, seed=40 + at)
        written = [{"type": "image", "bytes": _png(one)}, {"type": "text", "text": "What?"}]
        prompts.append(encoded(codec, tower, [{"role": "user", "content": written}]))
        expected.append(served.expected(one, "What?"))
    greedy = Sampling(temperature=0)
    before = engine.stats().preempted
    missing = dict.fromkeys(range(len(prompts)), 2)  # tokens, of those that are not under way yet
    received: list[queue.SimpleQueue[Token]] = [queue.SimpleQueue() for _ in prompts]
    other = [Request(tuple(range(5, 9)), max_tokens=2, tenant="another") for _ in range(4)]

    def deliver(at: int, token: Token) -> None:
        received[at].put(token)
        if at in missing:
            missing[at] -= 1
            if not missing[at] or token.finish:
                del missing[at]
        while other and not missing:
            engine.submit(other.pop(), lambda _: None)

    for at, prompt in enumerate(prompts):
        request = Request(
            tuple(prompt), NAME, greedy, TOKENS, codec.eos_ids, tenant="one", pictures=prompt.pictures
        )
        engine.submit(request, partial(deliver, at))
    answers = [[token.id for token in until_finish(one)] for one in received]
    assert engine.stats().preempted > before
    assert answers == expected


def test_from_python_with_a_file(served: Served, tmp_path: Path) -> None:
    ONE.save(tmp_path / "one.png")
    content = [{"type": "image", "path": str(tmp_path / "one.png")}, {"type": "text", "text": "What is it?"}]
    answer = served.model.chat(
        [{"role": "user", "content": content}], adapter=NAME, temperature=0, max_tokens=TOKENS
    )
    assert [token.id for token in answer.tokens] == served.tokens(ONE, "What is it?")


def test_other_apis_show_the_model_the_same_image(served: Served) -> None:
    asked = served.ask(ONE, "What is it?")
    expected = asked.json()["choices"][0]["message"]["content"]
    data = base64.b64encode(_png(ONE)).decode()
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    part = {"type": "input_image", "image_url": f"data:image/png;base64,{data}"}
    said = {"type": "text", "text": "What is it?"}, {"type": "input_text", "text": "What is it?"}

    def post(path: str, **fields: Any) -> Any:
        response = served.http.post(path, json={"model": NAME, **fields})
        response.raise_for_status()
        return response.json()

    messages = post(
        "/v1/messages", max_tokens=TOKENS, temperature=0, messages=[{"role": "user", "content": [image, said[0]]}]
    )  # fmt: skip
    assert "".join(block["text"] for block in messages["content"]) == expected
    items = [{"role": "user", "content": [part, said[1]]}]
    response = post("/v1/responses", max_output_tokens=TOKENS, temperature=0, input=items)
    assert response["output"][-1]["content"][0]["text"] == expected
    turn = {"role": "user", "content": "What is it?", "images": [data]}
    options = {"temperature": 0, "num_predict": TOKENS}
    chat = post("/api/chat", stream=False, options=options, messages=[turn])
    assert chat["message"]["content"] == expected
