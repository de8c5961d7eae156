"""Where a model whose layers keep states finds a beginning again: at the end of what a slot computed, and at snapshots."""

from __future__ import annotations

from itertools import count

import pytest

from ptune.engine.adapters.lora import Adapter
from ptune.engine.decoder.cache.budget import CacheBudget
from ptune.engine.decoder.cache.slots import Slots
from ptune.engine.decoder.cache.snapshots import Snapshots
from ptune.engine.decoder.scheduler import Scheduler
from ptune.engine.decoder.sequence import TokenSequence

SYSTEM = list(range(100, 140))


class Served:
    """A scheduler whose model says one new token after another."""

    def __init__(self, slots: int = 4, snapshots: int = 4, chunk: int = 64) -> None:
        self.copied: list[tuple[int, int]] = []
        self.snapshots = Snapshots(range(slots, slots + snapshots), lambda *rows: self.copied.append(rows))
        self.scheduler = Scheduler(slots, chunk, 99, snapshots=self.snapshots)
        self._fresh = count(1000)

    def begin(self, tokens: list[int], adapter: Adapter | None = None) -> TokenSequence:
        sequence = TokenSequence([*tokens])
        sequence.begin(adapter)
        self.scheduler.submit(sequence)
        return sequence

    def step(self) -> list[tuple[int, int]]:
        """Returns from where to where each sequence was computed."""
        chunks = self.scheduler.plan()
        self.scheduler.computed(chunks)
        for chunk in chunks:
            if not chunk.sequence.uncached:
                chunk.sequence.tokens.append(next(self._fresh))
        return [(chunk.start, chunk.start + chunk.count) for chunk in chunks]

    def answer(
        self, tokens: list[int], output: int = 3, adapter: Adapter | None = None
    ) -> tuple[int, list[int]]:
        """Answers a prompt; returns how many of its tokens were found, and all tokens."""
        before, sequence = self.scheduler.slots.reused, self.begin(tokens, adapter)
        while len(sequence.tokens) < len(tokens) + output:
            self.step()
        self.scheduler.release([sequence])
        return self.scheduler.slots.reused - before, sequence.tokens


def test_a_prompt_is_cut_before_its_last_token() -> None:
    served = Served(chunk=16)
    served.begin(SYSTEM)
    assert [served.step() for _ in range(5)] == [[(0, 16)], [(16, 32)], [(32, 39)], [(39, 40)], [(40, 41)]]
    assert [source for source, _ in served.copied] == [0]


def test_the_next_turn_of_a_chat_goes_on_where_the_answer_ended() -> None:
    served = Served()
    _, tokens = served.answer(SYSTEM)
    assert served.answer([*tokens, 7, 8])[0] == len(SYSTEM) + 2, "all but the token that was said last"


def test_an_answer_that_is_rendered_otherwise_goes_on_where_the_prompt_ended() -> None:
    served = Served()
    _, tokens = served.answer(SYSTEM)
    assert served.answer([*tokens[:-2], 7, 8, 9])[0] == len(SYSTEM) - 1


def test_the_same_prompt_again_computes_one_token() -> None:
    served = Served()
    assert [served.answer(SYSTEM)[0] for _ in range(3)] == [0, len(SYSTEM) - 1, len(SYSTEM) - 1]


def test_a_beginning_that_is_shared_is_found_from_the_third_time_on() -> None:
    served = Served(snapshots=8)
    ends = [[*range(at, at + 30)] for at in (200, 300, 400, 500)]
    assert [served.answer(SYSTEM + end)[0] for end in ends] == [0, 0, len(SYSTEM), len(SYSTEM)]


def test_of_no_snapshot_but_the_slots_own_end() -> None:
    served = Served(snapshots=0)
    _, tokens = served.answer(SYSTEM)
    assert served.answer(SYSTEM)[0] == 0
    assert served.answer([*tokens, 7])[0] == len(SYSTEM) + 2
    assert not len(served.snapshots)


def test_choices_that_come_together_wait_for_the_first_to_leave_its_states() -> None:
    served = Served(chunk=16)
    sequences = [served.begin(SYSTEM) for _ in range(3)]
    while any(len(sequence.tokens) == len(SYSTEM) for sequence in sequences):
        served.step()
    assert served.scheduler.slots.reused == 2 * (len(SYSTEM) - 1)


def test_prompts_that_come_together_share_their_beginning() -> None:
    served = Served(chunk=16)
    sequences = [served.begin([*SYSTEM, at, *range(30)]) for at in (1, 2, 3)]
    while any(len(sequence.tokens) == len(SYSTEM) + 31 for sequence in sequences):
        served.step()
    assert served.scheduler.slots.reused == 2 * len(SYSTEM)


def test_the_snapshot_that_was_used_longest_ago_goes_first() -> None:
    served = Served(slots=6, snapshots=2)
    prompts = [[at, *SYSTEM] for at in range(3)]
    served.answer(prompts[0])
    served.answer(prompts[1])
    assert served.answer(prompts[0])[0] == len(SYSTEM)
    served.answer(prompts[2])  # in place of the second's
    assert [served.answer(prompts[at])[0] for at in (0, 1)] == [len(SYSTEM), 0]


def test_states_of_an_adapter_are_not_the_bases() -> None:
    served, adapter = Served(), Adapter("a", 1, {}, 0)
    served.answer(SYSTEM)
    assert served.answer(SYSTEM, adapter=adapter)[0] == 0
    assert served.answer(SYSTEM, adapter=adapter)[0] == len(SYSTEM) - 1


def test_an_adapter_that_acts_late_takes_the_bases_beginning() -> None:
    served = Served(snapshots=8)
    one, other = (Adapter(name, 1, {}, 0, invocation=(7, 7)) for name in "ab")
    found = [served.answer([*SYSTEM, 7, 7, 9], 20, adapter)[0] for adapter in (one, other, one)]
    assert found == [0, len(SYSTEM), len(SYSTEM) + 2], (
        "the base's beginning of both, then its own to the last token"
    )
    assert served.answer([*SYSTEM, 7, 7, 8, 8], adapter=other)[0] == len(SYSTEM) + 2


@pytest.mark.parametrize("failed", [False, True])
def test_after_a_failed_step_nothing_is_found(failed: bool) -> None:
    served = Served()
    served.answer(SYSTEM)
    if failed:
        served.scheduler.invalidate_cache()
    assert served.answer(SYSTEM)[0] == (0 if failed else len(SYSTEM) - 1)


def test_what_is_left_of_a_slot_that_gave_memory_back_has_no_states() -> None:
    budget = CacheBudget(tokens=1000, slot=900)
    slots = Slots(2, lambda *_: None, budget=budget, snapshots=Snapshots(range(0), lambda *_: None))
    first, other = TokenSequence([*range(700)]), TokenSequence([9] * 400)
    slots.allocate(first)
    first.cached = 700
    slots.give_back(first)
    slots.allocate(other)  # takes 100 positions, and 256 are cut at once
    slots.give_back(other)
    again = TokenSequence([*range(444), 7])
    slots.allocate(again)
    assert again.slot is not None
    assert again.cached == 0
