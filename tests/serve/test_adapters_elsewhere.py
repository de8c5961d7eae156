"""Two servers on one bundle: what one changes in the folder, the other follows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.living_adapters import Living, living

import ptune
from ptune.errors import RequestError
from ptune.tasks.chat.infer import ChatModel
from ptune_serve.adapters.store import AdapterStore

ASKED = [{"role": "user", "content": "ahoy"}]


@pytest.fixture
def made(tmp_path: Path) -> Living:
    return living(tmp_path)


@pytest.fixture
def two(made: Living) -> Iterator[tuple[ChatModel, ChatModel]]:
    models = [ptune.load(made.folder, threads=1, max_rows=2) for _ in range(2)]
    yield models[0], models[1]
    for model in models:
        model.close()


def store(model: ChatModel) -> AdapterStore:
    return AdapterStore(model.engine, 10, model.codec_for)


def test_adapters_and_aliases_are_followed(made: Living, two: tuple[ChatModel, ChatModel]) -> None:
    here, there = two
    changing, following = store(here), store(there)
    following.follow()
    assert there.engine.adapters == ["wide", "narrow"], "nothing has changed"
    changing.add(made.adapter("new", seed=3), "new", "latest")
    following.follow()
    assert following.aliases()["latest"].name == "new"
    expected = here.chat(ASKED, adapter="new", max_tokens=5, temperature=0).text
    assert there.chat(ASKED, adapter="new", max_tokens=5, temperature=0).text == expected
    changing.point("latest", "wide", None)
    changing.remove("new")
    following.follow()
    assert following.aliases()["latest"].name == "wide"
    with pytest.raises(RequestError, match="no adapter 'new' here"):
        there.chat(ASKED, adapter="new", max_tokens=5)


def test_an_adapter_that_is_replaced_answers_as_the_new_one(
    made: Living, two: tuple[ChatModel, ChatModel]
) -> None:
    here, there = two
    changing, following = store(here), store(there)
    changing.add(made.adapter("first", seed=3), "new")
    following.follow()
    changing.remove("new")
    changing.add(made.adapter("second", seed=4), "new")
    following.follow()
    assert there.engine.record("new") == here.engine.record("new")
