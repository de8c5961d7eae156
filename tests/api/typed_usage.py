"""How the API is used, for mypy alone: test_names.py checks this file, nothing runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import ptune
from ptune.api.export import ProvedBundle
from ptune.tasks.chat.infer import Answer
from ptune.tasks.chat.text_stream import Delta
from ptune.tasks.encoder.infer import Classification, Entity
from ptune.tasks.recommendation.infer import Recommended


def each_step(info: ptune.StepInfo) -> None:
    assert_type(info.validation_loss, float | None)
    info.stop()


def trained() -> ProvedBundle:
    recipe = ptune.recipe("chat_lora", train={"max_steps": 3}, method=ptune.Full())
    assert_type(recipe, ptune.Recipe)
    run = ptune.train(recipe, "runs/x", data=[{"text": "a"}], callbacks=each_step, train={"lr": 1e-3})
    assert_type(run, ptune.Run)
    assert_type(ptune.evaluate(run, require="loss<=3"), ptune.Evaluation)
    return ptune.export(run, profiles=["fp32", "int8"])


async def used(bundle: ptune.Bundle) -> None:
    with ptune.load(bundle, threads=2, kv_bytes=1 << 20) as model:
        assert_type(model, ptune.Model)
        assert_type(model.chat("Hello"), Answer)
        assert_type(model.chat("Hello", stream=True), Iterator[Delta])
        assert_type(model.classify(["a"]), list[Classification])
        assert_type(model.recommend(["a"]), list[Recommended])
    with ptune.ChatModel.open("bundles/x", max_rows=4) as chat:
        assert_type(await chat.achat("Hello", temperature=0.0), Answer)
        assert_type(chat.achat("Hello", stream=True), AsyncIterator[Delta])
    with ptune.EncoderModel.open("bundles/y", max_rows=4) as encoder:
        assert_type(await encoder.atag(["a"]), list[list[Entity]])
    with ptune.Seq2SeqModel.open("bundles/z") as translator:
        assert_type(await translator.atranslate(["a"]), list[str])
