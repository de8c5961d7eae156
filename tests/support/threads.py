"""Conversations of the chat page, and what can be done to one, for its tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ptune_serve.ui.thread import Answer, Call, Thread

Step = tuple[str, Any, int]


def answer(text: str, **fields: Any) -> Answer:
    return Answer(model="pirate", text=text, **fields)


def talk(*texts: str, columns: int = 1) -> Thread:
    thread = Thread()
    for text in texts:
        thread = thread.asked(text, columns=columns).answered([answer(f"to {text}")] * columns)
    return thread


texts = st.text(max_size=6)
answers = st.none() | st.builds(
    Answer,
    model=texts, system=texts, text=texts, thought=texts, thought_s=st.floats(0, 9), tools=st.sampled_from(["", '[{"type": "function"}]']),
    calls=st.lists(st.builds(Call, id=texts, name=texts, arguments=texts), max_size=2).map(tuple),
    liked=st.none() | st.booleans(), correction=st.none() | texts,
)  # fmt: skip
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), texts, st.integers(0, 9)),
        st.tuples(st.just("edit"), texts, st.integers(0, 9)),
        st.tuples(st.just("answer"), st.lists(answers, min_size=2, max_size=2), st.just(0)),
        st.tuples(st.just("again"), st.just(""), st.just(0)),
        st.tuples(st.just("step"), st.just(""), st.integers(-3, 3)),
    ),
    max_size=12,
)


def stepped(thread: Thread, step: Step) -> Thread:
    """The conversation after a step; as it is where that cannot be."""
    what, value, number = step
    if what == "ask":
        return thread.asked(value, columns=2)
    if what == "step":
        return thread.stepped(number)
    if not thread.turns:
        return thread
    if what == "edit":
        return thread.asked(value, columns=2, instead_of=number % len(thread.turns))
    return thread.answered(value) if what == "answer" else thread.asked_again()
