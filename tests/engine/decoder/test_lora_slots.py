"""LoraSlots of adapters: each adapter's factors are where its window says, whatever came and went before."""

from __future__ import annotations

import gc
from weakref import ref

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.engine.adapters.lora import Adapter
from ptune.engine.decoder.inputs.lora_slots import WIDER, LoraSlots, Window
from ptune.formats.signature import Signature, Socket

SOCKETS = (
    Socket(name="up", in_features=5, out_features=7),
    Socket(name="down", in_features=7, out_features=5),
)
SIGNATURE = Signature(vocab_size=9, context=9, cache=(), sockets=SOCKETS)


def adapter(name: str, rank: int, *, leaves_out: str | None = None, lower: int = 0) -> Adapter:
    """Random factors; `lower`: by how much the first socket's rank is less."""
    random = np.random.default_rng(sum(map(ord, name)))
    factors = {}
    for socket in SOCKETS:
        r = rank - (lower if socket is SOCKETS[0] else 0)
        a = random.standard_normal((socket.in_features, r)).astype(np.float32)
        factors[socket.name] = (a, random.standard_normal((r, socket.out_features)).astype(np.float32))
    factors.pop(leaves_out or "", None)
    return Adapter(name, rank, factors, 0)


def check(window: Window, wanted: list[Adapter]) -> None:
    """Each has a place of its own, with its factors and zeros beyond them."""
    assert {*window.groups} == {*wanted}
    assert len({*window.groups.values()}) == len(wanted)
    assert 1 <= window.count <= max(1, WIDER * len(wanted))
    for one, group in window.groups.items():
        for socket in SOCKETS:
            a, b = (window.inputs[f"{socket.name}.{factor}"][group] for factor in "AB")
            assert a.shape == (socket.in_features, window.rank)
            assert b.shape == (window.rank, socket.out_features)
            expected = one.factors.get(socket.name)
            np.testing.assert_allclose(a @ b, 0 if expected is None else expected[0] @ expected[1], atol=1e-5)


@settings(max_examples=200)
@given(st.data())
def test_any_adapters_in_any_order(data: st.DataObject) -> None:
    """Of one rank, or of three; often as many as there are places."""
    count, ranks = data.draw(st.integers(1, 6)), data.draw(st.sampled_from((1, 3)))
    many = [
        adapter(f"n{n}", 5 - n % ranks, leaves_out="up" if n % 4 == 0 else None, lower=n % 3)
        for n in range(count + 3)
    ]
    places = LoraSlots(SIGNATURE, count)
    step = st.sets(st.integers(0, len(many) - 1), min_size=0, max_size=count)
    for chosen in data.draw(st.lists(step, min_size=1, max_size=40)):
        wanted = [many[n] for n in sorted(chosen)]
        window = places.of(wanted)
        if wanted:
            check(window, wanted)
            assert all(array.flags.c_contiguous for array in window.inputs.values())
        else:
            assert (window.count, window.rank) == (1, 0)


def test_an_adapter_that_holds_two_places_takes_no_other_ones() -> None:
    """The third step's window lies apart: adapter 4 or 7 is copied into it and keeps its place outside."""
    many = [adapter(f"n{n}", 2) for n in range(8)]
    places = LoraSlots(SIGNATURE, 6)
    for chosen in ([0, 1, 2, 3, 5, 7], [0, 2, 3, 4, 5, 7], [4, 7], [1, 2, 3, 4, 5, 7]):
        wanted = [many[n] for n in chosen]
        check(places.of(wanted), wanted)


def test_those_that_stay_are_not_copied_again() -> None:
    places = LoraSlots(SIGNATURE, 8)
    one, two, three = (adapter(name, 2) for name in ("one", "two", "three"))
    both = places.of([one, two])
    assert places.of([two, one]) is both
    for socket in SOCKETS:
        both.inputs[f"{socket.name}.A"][:] = 0.5  # whoever copies one of them again overwrites this
    more = places.of([one, two, three])
    for one_of_them in (one, two):
        assert (more.inputs["up.A"][more.groups[one_of_them]] == 0.5).all()
    check(places.of([three]), [three])


def test_an_adapter_that_is_dropped_is_gone_from_memory() -> None:
    places = LoraSlots(SIGNATURE, 4)
    one, two = adapter("one", 2), adapter("two", 2)
    gone = ref(two)
    window = places.of([one, two])
    del two
    gc.collect()
    assert gone() is None
    assert {*window.groups} == {one}
    check(places.of([one]), [one])
    check(places.of([one, again := adapter("two", 2)]), [one, again])


def test_a_wide_adapter_does_not_widen_the_others() -> None:
    places = LoraSlots(SIGNATURE, 4)
    narrow, wide = adapter("narrow", 1), adapter("wide", 40)
    assert places.of([narrow]).rank == 1
    assert places.of([narrow, wide]).rank == 40
    assert places.of([narrow]).rank == 1


def test_new_versions_of_an_adapter_take_the_memory_of_those_that_are_gone() -> None:
    """As in training, where each step brings new weights: a slot of its own for each would fill the memory of all slots."""
    places = LoraSlots(SIGNATURE, 8)
    kept = adapter("kept", 2)
    places.of([kept])
    seen = set()
    for version in range(6):
        window = places.of([new := adapter(f"v{version}", 2)])
        check(window, [new])
        seen.add(window.inputs["up.A"].ctypes.data)
        del new, window
    assert len(seen) <= 2, "the window before keeps one version in memory"
    check(places.of([kept]), [kept])
