"""The shelf against a plain model: a list in the order of use."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ptune.engine.adapters.cache import AdapterCache

LIMIT = 10
NAMES = st.sampled_from("abcdef")


@dataclass(eq=False)
class Thing:
    name: str
    size: int
    users: int = 0
    given: bool = True  # whether it is given to new users
    pinned: bool = False


@dataclass
class Model:
    """Things in memory, least recently used first."""

    things: list[Thing] = field(default_factory=list)

    def find(self, name: str) -> Thing | None:
        return next((thing for thing in self.things if thing.name == name and thing.given), None)

    def total(self, *, staying: bool = False) -> int:
        return sum(thing.size for thing in self.things if thing.given or not staying)

    def leave(self, thing: Thing) -> None:
        thing.given = False
        if not thing.users:
            self.things.remove(thing)

    def make_room(self, size: int, instead_of: Thing | None = None) -> bool:
        if instead_of is not None and not instead_of.users:
            size -= instead_of.size
        movable = [thing for thing in self.things if not thing.pinned and thing is not instead_of]
        for thing in [thing for thing in movable if not thing.users]:
            if self.total() + size > LIMIT:
                self.things.remove(thing)
        for thing in [thing for thing in movable if thing.users and thing.given]:
            if self.total(staying=True) + size > LIMIT:
                thing.given = False
        return self.total() + size <= LIMIT


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.shelf: AdapterCache[Thing] = AdapterCache(LIMIT)
        self.model = Model()

    @rule(name=NAMES)
    def take(self, name: str) -> None:
        thing = self.model.find(name)
        assert self.shelf.take(name) is thing
        if thing is not None:
            thing.users += 1
            self.model.things.remove(thing)
            self.model.things.append(thing)

    @precondition(lambda self: any(thing.users for thing in self.model.things))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        used = [thing for thing in self.model.things if thing.users]
        thing = used[data.draw(st.integers(0, len(used) - 1))]
        self.shelf.give_back(thing)
        thing.users -= 1
        if not thing.given:
            self.model.leave(thing)

    @rule(name=NAMES, size=st.integers(1, LIMIT))
    def bring(self, name: str, size: int) -> None:
        """Reads one that is not there, as soon as there is room."""
        if self.model.find(name) is not None:
            return
        found = self.shelf.make_room(size)
        assert found == self.model.make_room(size)
        if found:
            self.shelf.reserve(size)
            assert self.shelf.bytes == self.model.total() + size
            self.shelf.release(size)
            thing = Thing(name, size)
            self.shelf.put(name, thing, size)
            self.model.things.append(thing)

    @rule(name=NAMES, size=st.integers(1, LIMIT))
    def pin(self, name: str, size: int) -> None:
        """Brings one that is never evicted, in place of the one of its name, which stays where there is no room."""
        before = self.model.find(name)
        found = self.shelf.make_room(size, instead_of=name)
        assert found == self.model.make_room(size, before)
        assert self.model.find(name) is before
        if found:
            thing = Thing(name, size, pinned=True)
            self.shelf.put(name, thing, size, pinned=True)
            if before is not None:
                self.model.leave(before)
            self.model.things.append(thing)

    @rule(name=NAMES)
    def drop(self, name: str) -> None:
        self.shelf.drop(name)
        if (thing := self.model.find(name)) is not None:
            self.model.leave(thing)

    @invariant()
    def they_agree(self) -> None:
        assert self.shelf.names == [thing.name for thing in self.model.things if thing.given]
        assert self.shelf.bytes == self.model.total() <= LIMIT

    @invariant()
    def what_is_pinned_is_counted(self) -> None:
        pinned = {thing.name: thing.size for thing in self.model.things if thing.pinned and thing.given}
        for name in "abcdef":
            assert self.shelf.pinned_bytes(but=name) == sum(pinned.values()) - pinned.get(name, 0)

    @invariant()
    def who_asks_gets_a_place_once_all_is_given_back(self) -> None:
        assert all(thing.users for thing in self.model.things if not thing.given)


TestShelf = Machine.TestCase
TestShelf.settings = settings(max_examples=60, stateful_step_count=40)


def test_without_a_limit_everything_stays() -> None:
    shelf: AdapterCache[str] = AdapterCache()
    for name in "abc":
        assert shelf.make_room(1 << 60)
        shelf.put(name, name, 1 << 60)
    assert shelf.names == ["a", "b", "c"]
