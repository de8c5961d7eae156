"""Blind votes: the order is the seed's, a vote survives whatever comes between, and the count is right."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.errors import FormatError
from ptune.formats.run import Run
from ptune.studio.judge.votes import VOTES, Ballot, Pair, against_base, against_run

texts = st.text(max_size=8)  # with what JSON and files find hard: quotes, surrogates, U+2028
pairs = st.lists(st.builds(Pair, texts, st.tuples(texts, texts)), max_size=8)
SIDES = ("base", "mine")


@contextmanager
def file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "votes" / "base.jsonl"


@given(pairs, st.lists(st.sampled_from(VOTES), min_size=8, max_size=8), st.integers(0, 8))
def test_votes_are_counted_and_taken_up_again(found: list[Pair], votes: list[str], reload_at: int) -> None:
    """Counted by hand from what was seen: the side whose answer stood where the vote went."""
    with file() as path:
        ballot = Ballot.open(path, SIDES, found)
        won, both, neither, seen = [0, 0], 0, 0, []
        for number, vote in enumerate(votes):
            if number == reload_at:
                ballot = Ballot.open(path, SIDES, found)
            if (shown := ballot.next()) is None:
                break
            seen.append(shown.pair)
            assert (shown.left, shown.right) == tuple(shown.pair.answers[side] for side in shown.sides)
            chosen = {"left": shown.left, "right": shown.right}.get(vote)
            if chosen is None:
                both, neither = both + (vote == "both"), neither + (vote == "neither")
            else:
                won[shown.pair.answers.index(chosen)] += 1
            ballot = ballot.cast(shown.pair.key, vote)
        different = {pair for pair in found if pair.answers[0] != pair.answers[1]}
        assert len(seen) == len({*seen}) == min(len(different), len(votes))
        tally = Ballot.open(path, SIDES, found).tally()
        assert (tally.won, tally.both, tally.neither) == (tuple(won), both, neither)
        assert tally.left == len(different) - len(seen)
        assert tally.same == len({*found} - different)


@given(pairs.filter(bool), pairs)
def test_a_vote_belongs_to_the_answers_that_were_seen(before: list[Pair], after: list[Pair]) -> None:
    """After another evaluation votes on pairs that stay count, the others wait until they come back."""
    with file() as path:
        ballot = Ballot.open(path, SIDES, before)
        while (shown := ballot.next()) is not None:
            ballot = ballot.cast(shown.pair.key, "left")
        asked = {pair for pair in before if pair.answers[0] != pair.answers[1]}
        assert Ballot.open(path, SIDES, after).tally().decided == len(asked & {*after})
        assert Ballot.open(path, SIDES, before).tally() == ballot.tally()


def test_the_order_is_the_seeds_and_no_side_stands_left_always(tmp_path: Path) -> None:
    many = [Pair(f"prompt {number}", ("one", "other")) for number in range(200)]
    orders = []
    for name in ("a", "b"):
        ballot, lefts = Ballot.open(tmp_path / name, SIDES, many), 0
        order: list[str] = []
        while (shown := ballot.next()) is not None and len(order) < 60:
            lefts += shown.sides[0] == 0
            order.append(shown.pair.prompt)
            ballot = ballot.cast(shown.pair.key, "both")
        assert 12 < lefts < 48, "a fair coin misses that once in a million times"
        assert order != sorted(order)
        orders.append(order)
    assert orders[0] != orders[1], "each ballot has a seed of its own"
    seed = json.loads((tmp_path / "a").read_text().splitlines()[0])["seed"]
    (tmp_path / "c").write_text(json.dumps({"format": 1, "seed": seed, "sides": SIDES}) + "\n")
    again = Ballot.open(tmp_path / "c", SIDES, list(reversed(many)))
    assert [again.next().pair.prompt] == orders[0][:1]  # type: ignore[union-attr]


def test_two_windows_lose_no_vote(tmp_path: Path) -> None:
    found = [Pair(name, ("one", "other")) for name in "abcd"]
    first, second = (Ballot.open(tmp_path / "votes", SIDES, found) for _ in range(2))
    shown = first.next()
    assert shown == second.next()
    assert shown is not None
    first = first.cast(shown.pair.key, "left")
    second = second.cast(shown.pair.key, "right")  # the same pair, in the other window
    other = second.next()
    assert other is not None
    first.cast(other.pair.key, "neither")
    tally = Ballot.open(tmp_path / "votes", SIDES, found).tally()
    assert (tally.decided, tally.neither, tally.left) == (1, 1, 2)


def test_a_vote_can_be_taken_back(tmp_path: Path) -> None:
    ballot = Ballot.open(tmp_path / "votes", SIDES, [Pair("a", ("one", "other"))])
    shown = ballot.next()
    assert shown is not None
    voted = ballot.cast(shown.pair.key, "left")
    assert voted.next() is None
    assert voted.take_back().next() == shown
    assert ballot.take_back().take_back().tally().voted == 0


def test_the_sentence_has_the_exact_interval(tmp_path: Path) -> None:
    found = [Pair(str(number), ("one", "other")) for number in range(8)]
    ballot = Ballot.open(tmp_path / "votes", SIDES, found)
    while (shown := ballot.next()) is not None:
        mine = "left" if shown.sides[0] == 1 else "right"
        ballot = ballot.cast(shown.pair.key, mine)
    told = ballot.tally().told()  # 8 of 8: Clopper and Pearson's lower bound is 0.025 ** (1 / 8)
    assert f"mine wins 100% [{0.025 ** (1 / 8):.0%}, 100%]" in told
    assert "mine is better by more than luck" in told


@given(st.binary(max_size=80))
def test_a_damaged_file_is_an_error_of_a_sentence(content: bytes) -> None:
    with file() as path:
        path.parent.mkdir()
        path.write_bytes(content)
        with pytest.raises(FormatError, match="votes"):
            Ballot.open(path, SIDES, [])
        assert path.read_bytes() == content


@pytest.mark.parametrize(("key", "vote"), [("nothing", "left"), (Pair("a", ("1", "2")).key, "middle")])
def test_what_is_no_vote_is_refused(tmp_path: Path, key: str, vote: str) -> None:
    ballot = Ballot.open(tmp_path / "votes", SIDES, [Pair("a", ("1", "2"))])
    with pytest.raises(FormatError, match="no vote"):
        ballot.cast(key, vote)


def evaluated(folder: Path, *answers: tuple[str, str, str]) -> Run:
    folder.mkdir(parents=True)
    lines = [{"prompt": prompt, "base": base, "adapter": adapter} for prompt, base, adapter in answers]
    (folder / "evaluation.json").write_text(json.dumps({"answers": lines}))
    return Run(folder)


def test_the_pairs_are_those_of_the_evaluation(tmp_path: Path) -> None:
    run = evaluated(tmp_path / "mine", ("a", "base a", "mine a"), ("b", "base b", "mine b"))
    other = evaluated(tmp_path / "theirs", ("b", "base b", "theirs b"), ("c", "base c", "theirs c"))
    sides, found, path = against_base(run)
    assert (sides, path) == (("base", "mine"), run.folder / "votes" / "base.jsonl")
    assert found == [Pair("a", ("base a", "mine a")), Pair("b", ("base b", "mine b"))]
    sides, found, path = against_run(run, other)
    assert (sides, path) == (("theirs", "mine"), run.folder / "votes" / "run-theirs.jsonl")
    assert found == [Pair("b", ("theirs b", "mine b"))]
    with pytest.raises(FormatError, match="no prompt in common"):
        against_run(run, evaluated(tmp_path / "far", ("z", "1", "2")))
    with pytest.raises(FormatError, match="has not been evaluated"):
        against_base(Run(tmp_path / "new"))
    with pytest.raises(FormatError, match="holds no answers"):
        against_base(evaluated(tmp_path / "labels"))


def test_a_run_that_is_called_base_is_another_side_than_its_base(tmp_path: Path) -> None:
    run = evaluated(tmp_path / "base", *((f"p{n}", "from the base", "tuned") for n in range(20)))
    sides, found, path = against_base(run)
    ballot = Ballot.open(path, sides, found)
    while (shown := ballot.next()) is not None:  # the tuned answer is always the better one
        ballot = ballot.cast(shown.pair.key, "left" if shown.left == "tuned" else "right")
    assert Ballot.open(path, sides, found).tally().won == (0, 20)
