"""A conversation of the page as a tree: branches keep what was, and the browser's copy reads back as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.threads import Step, answer, stepped, steps, talk

from ptune_serve.ui.thread import Thread, first_words, read


def questions(thread: Thread) -> list[str]:
    return [thread.turns[place].question for place in thread.path]


def test_a_question_follows_the_last_answer() -> None:
    thread = talk("one", "two")
    assert questions(thread) == ["one", "two"]
    assert (thread.title, thread.columns, len(thread.branches)) == ("one", 1, 1)


def test_an_edited_question_keeps_the_earlier_branch() -> None:
    thread = talk("one", "two", "three")
    other = thread.asked("2", columns=1, instead_of=1)
    assert questions(other) == ["one", "2"]
    assert (other.branch, len(other.branches)) == (1, 2)
    back = other.answered([answer("to 2")]).stepped(-1)
    assert (questions(back), back.branch) == (["one", "two", "three"], 0)
    assert questions(back.stepped(1)) == questions(back.stepped(-1)) == ["one", "2"], "it goes round"


def test_what_is_asked_again_keeps_the_answer_before() -> None:
    again = talk("one").asked_again()
    assert [turn.question for turn in again.turns] == ["one", "one"]
    assert again.turns[0].answers != (None,)
    assert again.turns[1].after is None
    unanswered = Thread().asked("one", columns=1)
    assert len(unanswered.asked_again().turns) == 1, "what has no answer is asked itself"


def test_a_question_without_any_answer_is_passed_by() -> None:
    thread = talk("one").asked("two", columns=1).asked("three", columns=1)
    assert questions(thread) == ["one", "three"]
    assert questions(thread.stepped(1)) == ["one", "two"]


def test_a_column_passes_by_what_it_did_not_answer() -> None:
    thread = Thread().asked("one", columns=2).answered([answer("1"), None]).asked("two", columns=2)
    shown = [[turn.question for _, turn, _ in thread.shown_turns(column)] for column in (0, 1)]
    assert shown == [["one", "two"], ["two"]]


def test_verdicts_and_corrections_change_one_answer() -> None:
    thread = talk("one", "two", columns=2).judged(0, 1, liked=True).judged(0, 1, correction="better")
    first = thread.turns[0].answers
    assert first[0] == answer("to one")
    assert first[1] == answer("to one", liked=True, correction="better")
    assert first[1] is not None
    assert first[1].said == "better"
    assert thread.judged(1, 0, liked=False).turns[0] == thread.turns[0]
    unanswered = Thread().asked("x", columns=1)
    assert unanswered.judged(0, 0, liked=True) == unanswered


def test_what_was_under_way_is_settled() -> None:
    thinking = Thread().asked("x", columns=1).answered([answer("", thought="hm", thinking=True)])
    settled = thinking.settled().turns[0].answers[0]
    assert settled is not None
    assert not settled.thinking
    empty = Thread()
    assert empty.settled() is empty


def test_two_conversations_that_begin_with_nothing_are_two() -> None:
    empty = Thread()
    assert empty.asked("one", columns=1).id != empty.asked("one", columns=1).id
    begun = empty.asked("one", columns=1)
    assert begun.asked("two", columns=1).id == begun.id


@settings(max_examples=200)
@given(steps)
def test_whatever_is_done_it_stays_a_tree_that_reads_back(done: list[Step]) -> None:
    thread = Thread()
    for step in done:
        before, thread = thread, stepped(thread, step)
        asked = [turn.question for turn in thread.turns]
        assert asked[: len(before.turns)] == [turn.question for turn in before.turns], "nothing is lost"
        assert read(thread.model_dump_json()) == thread
        if thread.turns:
            assert 0 <= thread.branch < len(thread.branches)
            assert thread.at == thread.path[-1]
            assert thread.turns[thread.path[0]].after is None


TURN = {"after": None, "question": "x", "answers": [None]}


@pytest.mark.parametrize(
    "kept",
    [
        "",
        "null",
        "5",
        "{",
        {"id": "x"},
        {"id": "a" * 32, "turns": [TURN]},  # none of them is shown
        {"id": "a" * 32, "turns": [TURN], "at": 1},
        {"id": "a" * 32, "turns": [], "at": 0},
        {"id": "a" * 32, "turns": [{**TURN, "after": 0}], "at": 0},
        {"id": "a" * 32, "turns": [TURN, {**TURN, "answers": [None, None]}], "at": 0},
        {"id": "a" * 32, "turns": [{**TURN, "images": ["https://elsewhere.invalid/a.png"]}], "at": 0},
        {"id": "a" * 32, "turns": [{**TURN, "images": ['data:image/png;base64,"onload="x']}], "at": 0},
        {"id": "a" * 32, "turns": [{**TURN, "answers": ["x"]}], "at": 0},
        {"id": "a" * 32, "turns": [{**TURN, "answers": [{"model": "x", "tools": "{"}]}], "at": 0},
        {"id": "a" * 32, "turns": [{**TURN, "answers": [{"model": "x", "tools": "[1]"}]}], "at": 0},
    ],
)
def test_what_is_no_conversation_is_not_read(kept: Any) -> None:
    assert read(kept if isinstance(kept, str) else json.dumps(kept)) is None


def test_what_a_later_version_adds_is_ignored() -> None:
    thread = talk("one")
    assert read(json.dumps({**json.loads(thread.model_dump_json()), "new": 1})) == thread


@given(st.text(max_size=200))
def test_a_title_is_a_short_line(question: str) -> None:
    title = first_words(question)
    assert "\n" not in title
    assert len(title) <= 62


def test_a_title_can_be_changed_but_not_removed() -> None:
    assert talk("one").titled("  My\ntalk ").title == "My talk"
    assert talk("one").titled(" ").title == "one"
