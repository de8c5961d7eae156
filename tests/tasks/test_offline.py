"""Many rows at once: each gets its answer, or the reason why it has none, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fake_chat_model import wait_until
from support.tiny_bundle import add_codec, make

from ptune.errors import PtuneError
from ptune.tasks.chat.infer import ChatModel, load
from ptune.tasks.chat.offline import answer_all

OPTIONS = {"max_tokens": 3, "temperature": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make(tmp_path_factory.mktemp("offline")).folder
    add_codec(made, "{% for message in messages %}{{ message['content'] }}{% endfor %}")
    return made


@pytest.fixture
def model(folder: Path) -> Iterator[ChatModel]:
    with closing(load(folder, threads=1, replay_golden=False, max_waiting=2, max_rows=1)) as opened:
        yield opened


def finishes(model: ChatModel, rows: list[dict[str, Any]]) -> list[str]:
    return [row["finish"] for row in answer_all(model, rows, "base", None, OPTIONS)]


def test_more_rows_than_may_wait_are_answered(model: ChatModel) -> None:
    rows = [{"prompt": "ahoy"}] * 12
    assert set(finishes(model, rows)) == {"length"}


def test_a_row_that_the_engine_cannot_answer_fails_alone(
    model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = model.engine._step

    def broken(chunks: Any) -> Any:
        found = step(chunks)
        return [
            rows * np.nan if chunk.sequence.adapter else rows
            for chunk, rows in zip(chunks, found, strict=True)
        ]

    monkeypatch.setattr(model.engine, "_step", broken)
    rows = [{"prompt": "ahoy"}, {"prompt": "ahoy", "adapter": "wide"}, {"prompt": "ahoy"}]
    told = list(answer_all(model, rows, "base", None, OPTIONS))
    assert [row["finish"] for row in told] == ["length", "error", "length"]
    assert "is not a number" in told[1]["answer"]


def test_an_engine_that_has_stopped_ends_it(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect() -> None:
        raise MemoryError

    monkeypatch.setattr(model.engine._scheduler, "plan", defect)
    with pytest.raises(PtuneError, match="the engine has stopped"):
        finishes(model, [{"prompt": "ahoy"}] * 2)


@pytest.mark.parametrize("begun", [False, True])
def test_an_answer_that_nobody_goes_on_reading_is_cancelled(model: ChatModel, begun: bool) -> None:
    before = model.engine.stats().tokens
    stream = model.complete("ahoy", stream=True, max_tokens=400, temperature=0.0, ignore_eos=True)
    assert isinstance(stream, Generator)
    if begun:
        next(stream)
    stream.close()
    wait_until(lambda: not model.engine.stats().running + model.engine.stats().waiting)
    assert model.engine.stats().tokens - before < 400
