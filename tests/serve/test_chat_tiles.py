"""Chats about images that are cut into tiles by their shape, from training to HTTP, against transformers and peft on pixels."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import torch
from peft import PeftModel
from PIL import Image
from support.fake_chat_model import serving
from support.tiny_images import picture
from support.tiny_tiles import TILED, with_pillow
from support.tiny_vision import data_uri, seen_conversations, write_rows
from transformers import AutoModelForImageTextToText

import ptune
from ptune import publish
from ptune.config.chat import Chat
from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.evaluation.evaluate import evaluate
from ptune.fine_tune import train
from ptune.methods.lora import Lora
from ptune.tasks.chat.infer import ChatModel
from ptune_serve.app import create_app
from ptune_serve.service import Settings

NAME, TOKENS = "looker", 10
WIDE, TALL, SMALL = picture(90, 30, seed=1), picture(30, 70, seed=2), picture(20, 20, seed=3)


@dataclass
class Served:
    http: httpx.Client
    model: ChatModel
    proof: Any
    evaluation: dict[str, Any]
    peft: PeftModel
    processor: Any

    def ask(self, *parts: Any, model: str = NAME, **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": _asked(parts, data_uri), "max_tokens": TOKENS, "temperature": 0}
        return self.http.post("/v1/chat/completions", json={**body, **fields})

    def tokens(self, *parts: Any, **fields: Any) -> list[int]:
        response = self.ask(*parts, return_token_ids=True, **fields)
        response.raise_for_status()
        found: list[int] = response.json()["choices"][0]["token_ids"]
        return found

    def expected(self, *parts: Any, adapter: bool = True) -> list[int]:
        """The greedy answer of transformers, which gets what its own processor makes of the pictures."""
        text = self.processor.apply_chat_template(
            _asked(parts, lambda _: {"type": "image"}), tokenize=False, add_generation_prompt=True
        )
        images = [part for part in parts if isinstance(part, Image.Image)]
        inputs = self.processor(text=[text], images=images or None, return_tensors="pt")
        ends = sorted(self.model.codec.eos_ids)
        with torch.no_grad() if adapter else self.peft.disable_adapter():
            answer = self.peft.generate(
                **inputs, max_new_tokens=TOKENS, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
            )
        found: list[int] = answer[0, inputs["input_ids"].shape[1] :].tolist()
        return found


def _asked(parts: tuple[Any, ...], shown: Any) -> list[dict[str, Any]]:
    content = [
        shown(part) if isinstance(part, Image.Image) else {"type": "text", "text": part} for part in parts
    ]
    return [{"role": "user", "content": content}]


@pytest.fixture(
    scope="module",
    params=[
        "idefics3",
        "qwen2_vl",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("llava_next", "qwen2_5_vl")),
    ],
)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("tiles")
    TILED[request.param](folder / "model")
    file = write_rows(folder / "data.jsonl", seen_conversations(folder, 20))
    recipe = Recipe(
        name="tiny",
        task=Chat(max_length=400),
        backbone=Backbone(model=str(folder / "model"), dtype="float32"),
        method=Lora(r=4, alpha=16),
        data=Data(files=(file,), validation_share=0.3),
        train=Train(max_steps=5, lr=2e-2, batch_size=4),
        evaluate=Evaluate(answers=1, answer_tokens=4, in_context=1),
    )
    run = train(recipe, folder / "run")
    evaluation = evaluate(run)
    proof = publish.export_run(run, folder / "bundle", name=NAME, threads=1, anyway=True)
    base = AutoModelForImageTextToText.from_pretrained(folder / "model").eval()
    peft = PeftModel.from_pretrained(base, str(run.adapter_path)).eval()
    processor = with_pillow(folder / "model")
    model = ptune.load(folder / "bundle", threads=1, max_rows=6)
    try:
        with serving(create_app(model, Settings())) as url, httpx.Client(base_url=url, timeout=60) as http:
            yield Served(http, model, proof, evaluation, peft, processor)
    finally:
        model.close()


def test_it_learns_and_every_hop_of_its_proof_passes(served: Served) -> None:
    assert served.evaluation["after"]["loss"] < served.evaluation["before"]["loss"]
    assert served.proof.passed
    images = served.proof.base[0]
    assert images.name == "torch → ONNX, features of images"
    assert images.positions > 8 * images.prompts


def test_answers_are_those_of_transformers_on_pixels(served: Served) -> None:
    """Images of several shapes, alone, together and among text, with the adapter and without, all at once."""
    asked: list[tuple[Any, ...]] = [
        (WIDE, "What?"), (TALL, "What?"), (SMALL, "Which?"), (WIDE, "or", TALL, "or", SMALL), ("No image here.",),
    ]  # fmt: skip
    with ThreadPoolExecutor(10) as pool:
        tuned = [pool.submit(served.tokens, *parts) for parts in asked]
        plain = [pool.submit(served.tokens, *parts, model="base") for parts in asked]
    for parts, one, other in zip(asked, tuned, plain, strict=True):
        assert one.result() == served.expected(*parts)
        assert other.result() == served.expected(*parts, adapter=False)
    assert len({tuple(one.result()) for one in tuned[:3]}) > 1


def test_a_second_question_about_an_image_is_served_from_the_cache(served: Served) -> None:
    engine, image = served.model.engine, picture(110, 50, seed=9)
    assert engine.tower is not None
    served.tokens(image, "What is it?")
    computed, reused = engine.tower.computed, engine.stats().reused
    assert served.tokens(image, "Who made it?") == served.expected(image, "Who made it?")
    assert engine.tower.computed == computed
    assert engine.stats().reused - reused > 25
    reused = engine.stats().reused
    assert served.tokens(picture(110, 50, seed=10), "Who made it?")
    assert engine.stats().reused - reused < 25


def test_usage_counts_the_tokens_of_every_tile(served: Served) -> None:
    token = served.processor.image_token
    for image in (WIDE, TALL, SMALL):
        expected = served.processor(text=[token], images=[image], return_tensors="np")["input_ids"].shape[1]
        asked, alone = (
            served.ask(*parts).json()["usage"]["prompt_tokens"] for parts in ((image, "x"), ("x",))
        )
        assert expected <= asked - alone <= expected + 3  # with what the template writes around it


def test_images_that_fill_the_context_are_refused_before_they_are_looked_at(served: Served) -> None:
    engine, context = served.model.engine, served.model.codec.context
    assert engine.tower is not None
    assert context is not None
    one = served.processor(
        text=[served.processor.image_token], images=[picture(500, 300)], return_tensors="np"
    )
    images = [picture(500, 300, seed=100 + at) for at in range(context // one["input_ids"].shape[1] + 1)]
    before = engine.tower.computed
    response = served.ask(*images, "What?")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert engine.tower.computed - before < len(images)
