"""The index of items: its figures are those of dense matrices and scikit-learn; a damaged one is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from ptune.errors import FormatError, RequestError
from ptune.tasks.recommendation.index import ARRAYS, TITLES, ItemIndex, best, together
from ptune.tasks.recommendation.infer import New, RecommendQuery, Title, answer
from ptune.tasks.recommendation.train import chosen_weight

CHANCE = np.random.default_rng(0)
HISTORIES = [sorted(CHANCE.choice(12, size, replace=False).tolist()) for size in (3, 5, 2, 4, 6, 1, 4, 3)]
VECTORS = CHANCE.standard_normal((12, 6)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def index(weight: float = 0.3) -> ItemIndex:
    items = [f"i{at}" for at in range(12)]
    return ItemIndex(items, [f"title {at}" for at in range(12)], VECTORS, *together(HISTORIES, 12), weight)


def dense() -> np.ndarray:
    """Cosines of the columns of users x items, by scikit-learn, without an item's own."""
    had = np.zeros((len(HISTORIES), 12))
    for row, history in enumerate(HISTORIES):
        had[row, history] = 1
    found = cosine_similarity(had.T)
    np.fill_diagonal(found, 0)
    return found


def test_what_is_had_together_is_scikit_learns_cosine() -> None:
    found = np.stack([index(1.0).scores([at]) for at in range(12)])
    np.testing.assert_allclose(found, dense(), atol=1e-6)


def test_a_score_is_the_mean_of_nearness_over_the_history() -> None:
    history = [1, 4, 7]
    expected = (0.7 * VECTORS[history] @ VECTORS.T + 0.3 * dense()[history]).mean(0)
    found = index().scores(history)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for at in range(12):
        assert index().nearness(at, history).mean() == pytest.approx(found[at], abs=1e-6)


def test_things_with_titles_only_count_by_their_vectors() -> None:
    more = VECTORS[[9]]
    expected = (0.7 * VECTORS[[2, 9]] @ VECTORS.T + 0.3 * np.stack([dense()[2], np.zeros(12)])).mean(0)
    np.testing.assert_allclose(index().scores([2], more), expected, atol=1e-6)
    assert index().nearness(5, [2], more).mean() == pytest.approx(expected[5], abs=1e-6)


def test_the_best_are_those_of_a_full_sort() -> None:
    scores = CHANCE.integers(0, 6, 40).astype(np.float32)  # with many that are equal
    left_out = [0, 5, 17]
    order = [at for at in np.argsort(-scores, kind="stable").tolist() if at not in left_out]
    for count in (1, 7, 37, 100):
        assert best(scores, left_out, count) == order[:count]
    assert best(scores, range(40), 3) == []


def test_it_reads_back_the_same_and_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        index().save(tmp_path / name)
    assert (tmp_path / "a" / ARRAYS).read_bytes() == (tmp_path / "b" / ARRAYS).read_bytes()
    again = ItemIndex.open(tmp_path / "a")
    assert (again.items, again.titles) == (index().items, index().titles)
    assert again.weight == pytest.approx(0.3)
    np.testing.assert_array_equal(again.scores([1, 3]), index().scores([1, 3], weight=again.weight))


def test_titles_may_hold_what_other_programs_end_lines_at(tmp_path: Path) -> None:
    titles = [f"one\u2028two\x85three\x0b{at}\nfour" for at in range(12)]
    plain = index()
    ItemIndex(plain.items, titles, VECTORS, *together(HISTORIES, 12), 0.3).save(tmp_path)
    assert ItemIndex.open(tmp_path).titles == titles


@pytest.mark.parametrize(
    "changed",
    [
        {"vectors": VECTORS[:11]},
        {"vectors": np.full_like(VECTORS, np.nan)},
        {"starts": np.zeros(3, np.int64)},
        {"columns": np.full(2, 99, np.int32)},
        {"weight": np.float32(2)},
        {"vectors": np.array(["a"] * 12)},
        {"vectors": np.array([{}] * 12, object)},
    ],
)
def test_damaged_items_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    index().save(tmp_path)
    with np.load(tmp_path / ARRAYS) as found:
        arrays = {**found, **changed}
    np.savez(tmp_path / ARRAYS, **arrays)
    with pytest.raises(FormatError, match="cannot be used"):
        ItemIndex.open(tmp_path)


def test_what_would_unpack_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    index().save(tmp_path)
    with np.load(tmp_path / ARRAYS) as found:
        arrays = dict(found)
    np.savez_compressed(tmp_path / ARRAYS, **arrays)
    with pytest.raises(FormatError, match="compressed"):
        ItemIndex.open(tmp_path)
    with zipfile.ZipFile(tmp_path / ARRAYS, "w") as file:
        file.writestr("nothing", "")
    with pytest.raises(FormatError, match="cannot be used"):
        ItemIndex.open(tmp_path)
    (tmp_path / TITLES).write_text("[]\n")
    with pytest.raises(FormatError, match="cannot be used"):
        ItemIndex.open(tmp_path)


def test_the_weight_is_the_one_that_finds_what_was_held_back() -> None:
    """Where what comes next is always what was had together, titles weigh nothing; and the other way round."""
    by_users = index()
    rows = dense()
    users = [([at], int(rows[at].argmax())) for at in range(12) if rows[at].max() > 0]
    many = 40
    far = CHANCE.standard_normal((many, 6)).astype(np.float32)
    far /= np.linalg.norm(far, axis=1, keepdims=True)
    wide = ItemIndex(
        [f"i{at}" for at in range(12 + many)],
        ["x"] * (12 + many),
        np.concatenate([by_users.vectors, far]),
        np.concatenate([by_users.starts, np.repeat(by_users.starts[-1:], many)]),
        by_users.columns,
        by_users.values,
        0.0,
    )
    assert chosen_weight(wide, users) > 0.5
    near = wide.vectors @ wide.vectors.T
    np.fill_diagonal(near, -1)
    titles = [([at], int(near[at].argmax())) for at in range(12)]
    assert chosen_weight(wide, titles) < 0.5


NOTHING = np.zeros((0, 6), np.float32)


def test_seen_and_excluded_items_never_come() -> None:
    found = answer(index(), RecommendQuery(["i1", "i2"], k=50, exclude=["i3", "unknown"]), NOTHING)
    assert {one.item for one in found} == {f"i{at}" for at in (0, *range(4, 12))}
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    among = answer(index(), RecommendQuery(["i1"], among=["i1", "i5", "i6"]), NOTHING)
    assert {one.item for one in among} == {"i5", "i6"}
    assert len(answer(index(), RecommendQuery(["i1"], k=3), NOTHING)) == 3


def test_reasons_are_the_nearest_of_the_history() -> None:
    history = [0, 3, 6, 8, 10]
    found = answer(index(), RecommendQuery([f"i{at}" for at in history], k=1), NOTHING)[0]
    near = index().nearness(int(found.item[1:]), history)
    order = [history[at] for at in np.argsort(-near) if near[at] > 0][:3]
    assert [one.item for one in found.reasons] == [f"i{at}" for at in order]
    assert found.reasons[0].title == f"title {order[0]}"


def test_a_new_item_comes_by_its_title() -> None:
    near = VECTORS[[1]]
    question = RecommendQuery(["i1"], k=1, new=[New("fresh", "like title 1")], weight=0.0)
    assert question.texts == ["like title 1"]
    (found,) = answer(index(), question, near)
    assert (found.item, found.title) == ("fresh", "like title 1")
    assert found.score == pytest.approx(1.0, abs=1e-6)
    by_title = answer(index(), RecommendQuery([Title("like title 1")], k=1, weight=0.0), near)[0]
    assert by_title.item == "i1"
    assert (by_title.reasons[0].item, by_title.reasons[0].title) == (None, "like title 1")


@pytest.mark.parametrize(
    ("question", "param"),
    [
        (RecommendQuery([]), "history"),
        (RecommendQuery(["i1", "gone"]), "history[1]"),
        (RecommendQuery(["i1"], among=["gone"]), "among[0]"),
        (RecommendQuery(["i1"], new=[New("i2", "x")]), "new[0].item"),
    ],
)
def test_what_cannot_be_answered_is_said(question: RecommendQuery, param: str) -> None:
    with pytest.raises(RequestError) as error:
        answer(index(), question, np.zeros((len(question.texts), 6), np.float32))
    assert error.value.param == param
