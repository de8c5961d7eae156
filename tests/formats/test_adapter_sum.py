"""Sums of adapters by name: what is one, and the one way to write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.formats.adapter_sum import AdapterSum, digest_of, parts_of

NAMES = st.text("abcXYZ019._-", min_size=1, max_size=6)
FACTORS = st.decimals(-9999, 9999, places=3).filter(bool)


@given(st.dictionaries(NAMES, FACTORS, min_size=1, max_size=8), st.booleans())
def test_what_is_written_is_read(parts: dict[str, object], spaced: bool) -> None:
    joint = (" + ", " * ") if spaced else ("+", "*")
    text = joint[0].join(f"{factor}{joint[1]}{name}" for name, factor in parts.items())
    found = AdapterSum.parsed(text)
    assert found is not None
    assert dict(found.parts) == {name: float(str(factor)) for name, factor in parts.items()}
    again = AdapterSum.parsed(found.name)
    if "+" in found.name or "*" in found.name:
        assert again == found
    else:
        assert (again, found.parts) == (None, ((found.name, 1.0),))


@given(st.text("ab+*.-0 1e", max_size=12))
def test_any_text_is_a_sum_or_none(text: str) -> None:
    found = AdapterSum.parsed(text)
    if found is not None:
        assert found.parts
        assert len({*found.names}) == len(found.names)
        assert all(factor for _, factor in found.parts)
        assert not any(set("+*") & {*name} for name in found.names)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sft+0.5*dpo", "sft+0.5*dpo"),
        ("sft+.50*dpo", "sft+0.5*dpo"),
        ("1*sft", "sft"),
        ("a+b+a", "2*a+b"),
        ("a+-0.25*b", "a+-0.25*b"),
        ("-1*a", "-1*a"),
        ("0.1*a+0.2*a", "0.3*a"),
        ("a+b+-1*a", "b"),
    ],
)
def test_there_is_one_way_to_write_it(text: str, name: str) -> None:
    found = AdapterSum.parsed(text)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "text",
    [
        "sft",
        "",
        "+",
        "a+",
        "*a",
        "a*0.5",
        "a*b",
        "0*a",
        "a+-1*a",
        "1e3*a",
        "nan*a",
        "inf*a",
        "12345*a",
        "+".join("abcdefghi"),
    ],
)
def test_what_is_none(text: str) -> None:
    assert AdapterSum.parsed(text) is None


def test_the_name_of_an_adapter_is_no_sum() -> None:
    known = {"a": "1", "b": "2", "a+b": "3"}
    assert parts_of("a+b", known) == (("a+b", 1.0),)
    assert parts_of("b+a", known) == (("b", 1.0), ("a", 1.0))
    assert parts_of("a+c", known) == ()
    assert (digest_of("a+b", known), digest_of("a", known), digest_of("c", known)) == ("3", "1", None)
    sums = {digest_of(name, known) for name in ("b+a", "b+2*a", "2*a", "2*b", "a")}
    assert len(sums) == 5
    assert digest_of("b+2*a", known) == digest_of("1.0*b+2.00*a", known)
    assert digest_of("b+2*a", known) != digest_of("b+2*a", {**known, "a": "4"})
