"""Examples on disk are the examples that were written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.codecs.chat import Example
from ptune.data.examples.store import Writer, conversations_in, examples_in, spooled
from ptune.data.shapes.conversations import Completion, Conversation

TOKEN = st.tuples(st.integers(0, 2**31 - 1), st.booleans())
EXAMPLES = st.lists(
    st.lists(TOKEN, max_size=9).map(
        lambda tokens: Example(tuple(t for t, _ in tokens), tuple(w for _, w in tokens))
    ),
    max_size=8,
)


@settings(max_examples=100)
@given(EXAMPLES)
def test_examples_come_back_by_index_and_by_slice(examples):
    stored = spooled(examples)
    assert list(stored) == examples
    assert len(stored) == len(examples)
    assert stored.lengths.tolist() == [len(example) for example in examples]
    for cut in (slice(2, None), slice(None, None, -1), slice(1, -1, 2), slice(-3, None)):
        assert list(stored[cut]) == examples[cut]
        assert stored[cut].lengths.tolist() == [len(example) for example in examples[cut]]
    assert list(stored[1:][1:3]) == examples[1:][1:3]
    if examples:
        assert stored[-1] == examples[-1]
    with pytest.raises(IndexError):
        stored[len(examples)]


def test_conversations_come_back_as_they_were(tmp_path):
    tools = ({"type": "function", "function": {"name": "f"}},)
    conversations: list[Conversation | Completion] = [
        Conversation(
            (
                {"role": "user", "content": "q \ud800 å"},
                {"role": "assistant", "content": None, "train": False},
            )
        ),
        Completion("question", ""),
        Conversation(({"role": "user", "content": "\n"},), tools),
    ]
    with Writer(tmp_path / "x") as writer:
        for conversation in conversations:
            writer.add_conversation(conversation)
    assert list(conversations_in(tmp_path / "x")) == conversations
    assert list(examples_in(tmp_path / "x")) == []


def test_what_is_mapped_outlives_its_folder():
    stored = spooled(Example((number, 1), (False, True)) for number in range(1000))
    assert isinstance(stored._data, np.memmap)
    assert stored[999].ids == (999, 1)
