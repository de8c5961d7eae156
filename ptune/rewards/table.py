"""The table of rewards that ship: one row a name. The code of a row is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Shipped:
    """make: "module:function"; given what stands behind the name's colon, or None, it returns the reward function, or raises
    ValueError that says what is wrong with that. form: how it is asked for."""

    make: str
    form: str


def _row(name: str, argument: str = "") -> Shipped:
    return Shipped(f"ptune.rewards.{name}:{name}", f"{name}{argument}")


SHIPPED: Mapping[str, Shipped] = {
    "exact": _row("exact", "[:COLUMN]"),
    "number": _row("number", "[:COLUMN]"),
    "regex": _row("regex", ":PATTERN"),
    "json_schema": _row("json_schema", "[:FILE]"),
    "length": _row("length", ":WORDS"),
    "overlong": _row("overlong", ":WORDS"),
    "repetition": _row("repetition", "[:N]"),
    "code": _row("code", "[:COLUMN]"),
    "reward_model": _row("reward_model", ":BUNDLE"),
    "process_reward": _row("process_reward", ":BUNDLE[:min|product|mean]"),
}
