"""What a table says of a field: a rule, which notes in the draft what has become of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ptune.foreign.draft import Draft, is_off, is_on, names, number, shown

Rule: TypeAlias = Callable[[Draft, str, Any], None]
"""(draft, the field's name, its value), for a field that is not empty."""
Table: TypeAlias = Mapping[str, Rule]


def apply(table: Table, draft: Draft) -> None:
    """Notes every field that was not noted yet; one that the table does not know is left, never dropped."""
    for name, value in draft.config.items():
        if name in draft.done:
            continue
        if not draft.has(name):
            draft.empty.append(name)
        elif (rule := _rule(table, name)) is not None:
            rule(draft, name, value)
        else:
            draft.leave(name, f"ptune does not know this field of {draft.tool}'s")


def _rule(table: Table, name: str) -> Rule | None:
    """The rule of a field, or of the section that it stands in: "fsdp_config.*"."""
    section = name
    while name not in table and "." in section:
        section = section.rpartition(".")[0]
        if (found := table.get(f"{section}.*")) is not None:
            return found
    return table.get(name)


def to(path: str, look: str = "") -> Rule:
    """The same value in the recipe's field `path`."""
    return lambda draft, name, value: draft.set(name, path, value, look)


def switch(path: str, look: str = "") -> Rule:
    """A switch that is on or off."""
    return lambda draft, name, value: draft.set(name, path, is_on(value), look if is_on(value) else "")


def one_of(path: str, known: Mapping[str, Any], near: Mapping[str, tuple[Any, str]], use: str) -> Rule:
    """A name that is another here. near: names whose nearest differs, and in what. use: what to do about all others."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        said = str(value).strip().lower()
        if said in known:
            draft.set(name, path, known[said])
        elif said in near:
            draft.set(name, path, *near[said])
        else:
            draft.leave(name, f"ptune has no {shown(value)}: {use}")

    return rule


def to_names(path: str) -> Rule:
    """A list of names."""
    return lambda draft, name, value: draft.set(name, path, names(value))


def count_above_zero(path: str) -> Rule:
    """A number, of which 0 and less mean that there is none."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        found = number(value)
        if found is not None and found <= 0:
            draft.needless(name, "off, as here")
        else:
            draft.set(name, path, value)

    return rule


def left(why: str) -> Rule:
    """No counterpart, and why, unless it is off."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        if is_off(value):
            draft.needless(name, "off, as here")
        else:
            draft.leave(name, why)

    return rule


def only(one: float, so_here: str, why: str) -> Rule:
    """A number of which one value means what ptune does; the others have no counterpart, and why."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        if number(value) == one:
            draft.needless(name, so_here)
        else:
            draft.leave(name, why)

    return rule


def needless(why: str) -> Rule:
    """Changes nothing here, and why."""
    return lambda draft, name, value: draft.needless(name, why)


def always(look_if_off: str) -> Rule:
    """What ptune does always; off it would mean something else."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        if is_on(value):
            draft.needless(name, "always so here")
        else:
            draft.look(name, look_if_off)

    return rule


def never(why_if_on: str) -> Rule:
    """What ptune never does."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        if is_on(value):
            draft.leave(name, why_if_on)
        else:
            draft.needless(name, "never so here")

    return rule


def looked_at(said: str) -> Rule:
    """Sets nothing, and should be looked at."""
    return lambda draft, name, value: draft.look(name, said)


def fields(rule: Rule, *of: str) -> dict[str, Rule]:
    """The same rule for several fields."""
    return dict.fromkeys(of, rule)
