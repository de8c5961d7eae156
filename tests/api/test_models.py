"""Opened models: `with`, methods by kind, the adapter that is meant, and the twins for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import (
    encoder_bundles,
    recommendation_runs,
    retrieval_runs,
    seq2seq_bundles,
    tiny_bundle,
    tiny_models,
)

import ptune
from ptune.api.model import listed
from ptune.codecs.chat import ChatCodec
from ptune.formats.bundle import Bundle
from ptune.formats.whole_write import sha256_of

MESSAGES = [{"role": "user", "content": "Define love."}]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 8}


@pytest.fixture(scope="module")
def chat_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "bundle"
    made = tiny_bundle.make(folder)
    model = tiny_models.build(folder.parent / "model", "llama")
    from ptune.backbone.load import load_codec

    codec: ChatCodec = load_codec(ptune.Backbone(model=str(model)))
    codec.save(folder / "codec")
    bundle = Bundle.open(made.folder)
    files = {f"codec/{path.name}": sha256_of(path) for path in (folder / "codec").iterdir()}
    bundle.write_manifest(bundle.manifest.model_copy(update={"codec": files}))
    return folder


@pytest.fixture(scope="module")
def chat(chat_bundle: Path) -> Iterator[ptune.ChatModel]:
    with ptune.ChatModel.open(chat_bundle, threads=1, max_rows=4, replay_golden=False) as model:
        yield model


@pytest.fixture(scope="module")
def encoder() -> Iterator[ptune.EncoderModel]:
    with ptune.EncoderModel.open(encoder_bundles.tiny().bundle.folder, threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def retrieval() -> Iterator[ptune.EncoderModel]:
    with ptune.EncoderModel.open(retrieval_runs.bundle(), threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ptune.Seq2SeqModel]:
    made = seq2seq_bundles.make(tmp_path_factory.mktemp("translator"), "t5")
    with ptune.Seq2SeqModel.open(made.bundle.folder, threads=1) as model:
        yield model


def test_with_closes_the_engine(chat_bundle: Path) -> None:
    with ptune.load(chat_bundle, threads=1, max_rows=2, replay_golden=False) as model:
        assert isinstance(model, ptune.ChatModel)
        assert repr(model) == f"ChatModel({str(chat_bundle)!r}, adapters: wide, narrow)"
        assert model.chat("Define love.", **GREEDY).text
    with pytest.raises(ptune.RequestError, match="shut"):
        model.chat("Define love.")


def test_an_answer_and_a_delta_print_as_their_text(chat: ptune.ChatModel) -> None:
    answer = chat.chat("Define love.", adapter="wide", **GREEDY)
    assert str(answer) == answer.text
    assert answer == chat.chat(MESSAGES, adapter="wide", **GREEDY)
    assert "".join(map(str, chat.chat(MESSAGES, adapter="wide", stream=True, **GREEDY))) == answer.text


def test_of_several_adapters_none_is_meant_but_the_only_one_is(chat: ptune.ChatModel) -> None:
    from ptune.api.model import adapter_or_base

    assert adapter_or_base(chat.engine, None) == "base"
    assert chat.chat(MESSAGES, **GREEDY).text == chat.chat(MESSAGES, adapter="base", **GREEDY).text


@pytest.mark.parametrize(
    ("kind", "method", "said"),
    [
        (
            "chat",
            "classify",
            "a bundle of a decoder, which has chat, complete; classify needs one of an encoder",
        ),
        ("chat", "aembed", "aembed needs one of an encoder"),
        ("encoder", "chat", "which has classify, tag, embed, rerank, recommend; chat needs one of a decoder"),
        ("encoder", "translate", "translate needs one of an encoder-decoder"),
    ],
)
def test_a_method_of_another_kind_says_what_there_is(
    kind: str, method: str, said: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(kind)
    with pytest.raises(AttributeError) as caught:
        getattr(model, method)
    assert said in str(caught.value)
    assert not hasattr(model, method)


def test_an_option_of_another_kind_is_refused(encoder: ptune.EncoderModel) -> None:
    with pytest.raises(
        ptune.UsageError, match="a bundle of an encoder takes no kv_bytes; it takes adapter_bytes"
    ):
        ptune.load(encoder.engine.bundle.folder, kv_bytes=3)


def test_the_only_adapter_that_can_do_it_does_it(encoder: ptune.EncoderModel) -> None:
    texts = [*encoder_bundles.TEXTS[:5], ""]
    assert encoder.classify(texts[:5]) == encoder.classify(texts[:5], "mood")
    assert encoder.tag(texts) == encoder.tag(texts, "names")
    with pytest.raises(
        ptune.RequestError, match=r"no adapter of .* makes vectors; its adapters: mood \(text-class"
    ):
        encoder.embed(texts)


def test_vectors_and_ranks_are_methods(retrieval: ptune.EncoderModel) -> None:
    from ptune.tasks.retrieval.infer import embed, rerank

    texts = ["the devil", "love of war", "money"]
    np.testing.assert_array_equal(retrieval.embed(texts), embed(retrieval, texts, "finder"))
    assert retrieval.embed(texts, dimensions=8).shape == (3, 8)
    assert retrieval.embed([]).shape == (0, 64)
    np.testing.assert_array_equal(retrieval.rerank("war", texts), rerank(retrieval, "war", texts, "judge"))
    np.testing.assert_array_equal(
        retrieval.rerank("war", texts, adapter="finder"), rerank(retrieval, "war", texts, "finder")
    )


def test_a_single_text_is_a_list_of_one_as_over_http(
    encoder: ptune.EncoderModel, retrieval: ptune.EncoderModel, translator: ptune.Seq2SeqModel
) -> None:
    """Not of its letters."""
    text = "the devil"
    assert encoder.classify(text) == encoder.classify([text])
    assert encoder.tag(text) == encoder.tag([text])
    assert retrieval.embed(text).shape == (1, 64)
    assert retrieval.rerank("war", text).shape == (1,)
    assert translator.translate(text, "base") == translator.translate([text], "base")

    async def asked() -> None:
        assert len(await encoder.aclassify(text)) == len(await encoder.atag(text)) == 1
        assert (await retrieval.aembed(text)).shape == (1, 64)
        assert (await retrieval.arerank("war", text)).shape == (1,)
        assert len(await translator.atranslate(text, "base")) == 1

    asyncio.run(asked())


def test_a_single_picture_is_a_list_of_one_too() -> None:
    picture = pytest.importorskip("PIL.Image").new("RGB", (4, 4))
    for one in (picture, b"GIF8", Path("a.png")):
        assert listed(one) == [one]
    assert listed([picture, picture]) == [picture, picture]


def test_recommendations_are_a_method_and_its_twin() -> None:
    with ptune.EncoderModel.open(recommendation_runs.bundle(), threads=1) as model:
        found = model.recommend(["i1", "i2"])
        assert len(found) == 10
        assert found == model.recommend(ptune.RecommendQuery(["i1", "i2"]), "shop")
        assert asyncio.run(model.arecommend(["i1", "i2"])) == found
        named = ptune.RecommendQuery([ptune.Title("virtue of the king")], k=2)
        assert asyncio.run(model.arecommend(named)) == model.recommend(named)


def test_the_twins_of_an_encoder_say_the_same(
    encoder: ptune.EncoderModel, retrieval: ptune.EncoderModel
) -> None:
    texts = list(encoder_bundles.TEXTS) * 5  # more than are queued at once

    async def asked() -> None:
        labels, entities = await asyncio.gather(encoder.aclassify(texts), encoder.atag([*texts, ""]))
        assert [one.label for one in labels] == [one.label for one in encoder.classify(texts)]
        assert [[(e.label, e.begin) for e in one] for one in entities] == [
            [(e.label, e.begin) for e in one] for one in encoder.tag([*texts, ""])
        ]
        whole, cut = await retrieval.aembed(texts, truncate=True), retrieval.embed(texts, truncate=True)
        np.testing.assert_allclose(whole, cut, atol=1e-5)
        np.testing.assert_allclose(
            await retrieval.arerank("war", texts[:9], truncate=True),
            retrieval.rerank("war", texts[:9], truncate=True),
            atol=1e-5,
        )
        with pytest.raises(ptune.RequestError, match="truncate=True"):
            await retrieval.aembed(["war " * 100])
        with pytest.raises(ptune.RequestError, match="use tag"):
            await encoder.aclassify(texts, "names")

    asyncio.run(asked())


def test_translations_and_their_twin(translator: ptune.Seq2SeqModel) -> None:
    texts = seq2seq_bundles.SOURCES
    assert asyncio.run(translator.atranslate(texts, "one")) == translator.translate(texts, "one")
    assert translator.translate(texts) == translator.translate(texts, "base")


def test_async_chat_answers_whole_and_in_deltas(chat: ptune.ChatModel) -> None:
    async def asked() -> None:
        answer = await chat.achat(MESSAGES, adapter="wide", **GREEDY)
        assert answer == chat.chat(MESSAGES, adapter="wide", **GREEDY)
        deltas = [delta async for delta in chat.achat(MESSAGES, adapter="wide", stream=True, **GREEDY)]
        assert "".join(map(str, deltas)) == answer.text
        assert deltas[-1].finish == answer.finish
        several = await asyncio.gather(*(chat.acomplete("Love", adapter="wide", **GREEDY) for _ in range(6)))
        assert {one.text for one in several} == {chat.complete("Love", adapter="wide", **GREEDY).text}
        with pytest.raises(ptune.RequestError, match="temperature"):
            await chat.achat(MESSAGES, temperature=-1)

    asyncio.run(asked())


LONG: dict[str, Any] = {"temperature": 0.0, "max_tokens": 400, "logit_bias": {2: -100.0, 4: -100.0}}


def test_a_task_that_is_cancelled_cancels_its_request(chat: ptune.ChatModel) -> None:
    async def asked() -> None:
        task = asyncio.create_task(chat.achat(MESSAGES, **LONG))
        await until(lambda: chat.engine.stats().running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        before = chat.engine.stats().tokens
        await until(lambda: chat.engine.stats().running == 0)
        assert chat.engine.stats().tokens - before < 400

    asyncio.run(asked())


def test_a_stream_that_is_left_cancels_its_request(chat: ptune.ChatModel) -> None:
    async def asked() -> None:
        stream = chat.achat(MESSAGES, stream=True, **LONG)
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]
        await until(lambda: chat.engine.stats().running == 0)

    asyncio.run(asked())


async def until(true: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.005)
