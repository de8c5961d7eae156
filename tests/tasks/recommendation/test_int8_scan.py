"""Search in int8 among many items: its products are exact, what it finds is what float32 finds, whatever may not come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.errors import FormatError
from ptune.formats.bundle import AdapterRecord
from ptune.formats.whole_write import sha256_of
from ptune.tasks.recommendation import infer, int8_scan, train
from ptune.tasks.recommendation.index import ARRAYS, RECALL, TITLES, ItemIndex, together
from ptune.tasks.recommendation.infer import New, RecommendQuery, Title, answer, index_of
from ptune.tasks.recommendation.int8_scan import Int8Scan, recall, rounded

pytest.importorskip("numkong")

COUNT, WIDTH = 700, 48
CHANCE = np.random.default_rng(0)
VECTORS = CHANCE.standard_normal((COUNT, WIDTH)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
HISTORIES = [CHANCE.choice(COUNT, 12, replace=False).tolist() for _ in range(200)]
EXACT = ItemIndex(
    [f"i{at}" for at in range(COUNT)],
    [f"title {at}" for at in range(COUNT)],
    VECTORS,
    *together(HISTORIES, COUNT),
    0.3,
)
SCANNED = replace(EXACT, scan=Int8Scan(VECTORS, threads=3))


def test_products_are_those_of_the_codes() -> None:
    codes, scales = rounded(VECTORS)
    assert np.abs(codes).max() == 127
    np.testing.assert_allclose(codes * scales[:, None], VECTORS, atol=float(scales.max()) / 2 + 1e-7)
    vector = 3 * VECTORS[5]
    (asked,), (scale,) = rounded(vector[None])
    expected = (codes.astype(np.int64) @ asked.astype(np.int64)) * scales * scale
    np.testing.assert_allclose(Int8Scan(VECTORS, threads=2).products(vector), expected, rtol=1e-6)
    nothing = Int8Scan(VECTORS, threads=1).products(np.zeros(WIDTH, np.float32))
    assert not nothing.any()


ITEMS = st.lists(st.integers(0, COUNT - 1), max_size=30)


@given(
    history=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=8, unique=True),
    exclude=ITEMS,
    among=st.none() | st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=60),
    k=st.sampled_from([1, 3, 10, 50, COUNT]),
    weight=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_filters_leave_as_many_items_as_there_are_and_the_same_ones(
    history: list[int], exclude: list[int], among: list[int] | None, k: int, weight: float
) -> None:
    def names(places: list[int]) -> list[str]:
        return [f"i{at}" for at in places]

    question = RecommendQuery(
        names(history), k, names(exclude), None if among is None else names(among), weight=weight
    )
    nothing = np.zeros((0, WIDTH), np.float32)
    found, expected = answer(SCANNED, question, nothing), answer(EXACT, question, nothing)
    may = set(range(COUNT) if among is None else among) - set(history) - set(exclude)
    assert len(found) == min(k, len(may))
    assert {int(one.item[1:]) for one in found} <= may
    assert len({one.item for one in found}) == len(found)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    # At a weight of 1 nearly all scores are 0; which of equal ones come is left to both.
    np.testing.assert_allclose(scores, [one.score for one in expected], atol=1e-6)


@given(k=st.integers(1, 20), seed=st.integers(0, 1000))
def test_new_items_come_among_the_others(k: int, seed: int) -> None:
    """As if they had been in the catalogue from the beginning."""
    chance = np.random.default_rng(seed)
    new = VECTORS[chance.choice(COUNT, 3)] + np.float32(0.05) * chance.standard_normal((3, WIDTH))
    new = (new / np.linalg.norm(new, axis=1, keepdims=True)).astype(np.float32)
    title = VECTORS[[int(chance.integers(COUNT))]]
    question = RecommendQuery(
        [Title("x"), "i3", "new 0"],
        k,
        exclude=["new 1"],
        new=[New(f"new {at}", "y") for at in range(3)],
        weight=0.0,
    )
    found = answer(SCANNED, question, np.concatenate([title, new]))
    every = np.concatenate([VECTORS, new])
    scores = every @ (title[0] + VECTORS[3] + new[0]) / 3
    scores[[3, COUNT, COUNT + 1]] = -np.inf
    np.testing.assert_allclose([one.score for one in found], np.sort(scores)[::-1][:k], atol=1e-6)
    assert "new 2" in {
        one.item for one in answer(SCANNED, replace(question, k=COUNT), np.concatenate([title, new]))
    }
    assert {why.item for one in found for why in one.reasons} <= {None, "i3", "new 0"}


def test_recall_is_measured_and_falls_where_codes_tell_too_little() -> None:
    queries = VECTORS[:20]
    assert recall(VECTORS, queries) == 1.0
    offset = np.zeros(WIDTH, np.float32)
    offset[0] = 1.0
    close = (offset + np.float32(1e-4) * VECTORS).astype(
        np.float32
    )  # nearer to each other than a step of int8
    found = recall(close, np.float32(1e-4) * VECTORS[:20])
    assert found < int8_scan.LEAST_RECALL


def test_a_run_with_many_items_says_what_a_scan_finds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Measured when the items are written, and kept in the adapter's record; below .95 float32 is served, with a word."""
    from support import recommendation_runs as runs

    from ptune.fine_tune import train as fine_tune
    from ptune.tasks.encoder.facts import Facts

    told: list[str] = []
    monkeypatch.setattr(train, "say", told.append)
    monkeypatch.setattr(train, "LEAST_ITEMS", 20)
    run = fine_tune(runs.recipe(max_steps=1), tmp_path / "a")
    said = Facts.open(run.adapter_path).embedding or {}
    assert (said["items"], said[RECALL]) == (20, 1.0)
    assert any("100.0% of the first ten" in line and "it is served" in line for line in told)
    monkeypatch.setattr(train, "recall", lambda *_: 0.9)
    run = fine_tune(runs.recipe(max_steps=1), tmp_path / "b")
    assert (Facts.open(run.adapter_path).embedding or {})[RECALL] == 0.9
    assert "float32 is" in told[-1]
    assert "below 95%" in told[-1]


def record_of(folder: Path, **embedding: float) -> AdapterRecord:
    EXACT.save(folder)
    files = {name: sha256_of(folder / name) for name in (ARRAYS, TITLES)}
    return AdapterRecord(name=folder.name, task="feature-extraction", files=files, embedding=dict(embedding))


@pytest.mark.parametrize(
    ("embedding", "scanned"), [({}, False), ({RECALL: 0.94}, False), ({RECALL: 0.99}, True)]
)
def test_the_record_decides_how_is_searched(
    tmp_path: Path, embedding: dict[str, float], scanned: bool
) -> None:
    folder = tmp_path / "adapters" / "shop"
    folder.mkdir(parents=True)
    found = index_of(tmp_path, record_of(folder, **embedding))
    assert (found.scan is not None) == scanned


def test_without_the_package_float32_is_searched_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "adapters" / "shop"
    folder.mkdir(parents=True)
    monkeypatch.setattr(infer, "available", lambda: False)
    assert index_of(tmp_path, record_of(folder, **{RECALL: 1.0})).scan is None
    assert "ptune[items]" in caplog.text


@pytest.mark.parametrize("name", [ARRAYS, TITLES])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "adapters" / "shop"
    folder.mkdir(parents=True)
    record = record_of(folder, **{RECALL: 1.0})
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(FormatError, match=f"{name} is damaged"):
        index_of(tmp_path, record)


def test_items_are_found_by_words_of_their_titles() -> None:
    index = replace(EXACT, items=["a1", "b2", "c3"], titles=["The Red Door", "red wine", "A door, blue"])
    assert index.find("", 2) == [0, 1]
    assert index.find(" RED ", 5) == [1, 0]
    assert index.find("door", 1) == [0]
    assert index.find("c3", 5) == [2]
    assert index.find("green", 5) == []
