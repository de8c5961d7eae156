"""A server's load, its models and its keys as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ptune.errors import PtuneError
from ptune.studio.serve.load import Load
from ptune.studio.sheet import Cell, Content, note, sheet
from ptune_serve.access.keys import read

OF_MODELS = ("model", "task", "requests", "a second", "tokens", "tokens/s", "median", "95 %", "in memory")
OF_WRITING = ("tokens/s", "first token", "adapter hits", "adapter reads")
OF_KEYS = ("key", "may", "adapters", "requests a minute", "tokens a minute", "at once")


def figures(load: Load, *, writes: bool = True) -> str:
    """The server's own numbers, as HTML. writes: whether any of its models writes text; where none does, what is 0 by nature
    is left out."""
    shown = [
        ("running", str(load.running), "requests now"),
        ("waiting", str(load.waiting), "in its queue"),
        ("tokens/s", _rate(load.tokens_per_s), "generated"),
        ("requests/s", _rate(load.requests_per_s), ""),
        ("first token", _seconds(load.first_token_s), "median"),
        ("answer", _seconds(load.median_s), "median"),
        ("adapter hits", _count(load.hits), "found in memory"),
        ("adapter reads", _count(load.reads), "from disk"),
    ]
    if load.cache is not None:
        shown.append(("cache", f"{load.cache:.0%}", "of the KV cache in use"))
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)} <small>{escape(below)}</small></dd></div>"
        for name, value, below in shown
        if value != "–" and (writes or name not in OF_WRITING or float(value.replace(",", "")))
    )
    return f'<dl class="facts">{items}</dl>'


def models(cards: Sequence[Mapping[str, Any]], load: Load) -> str:
    """Every model that may be asked for, with what was asked of it."""
    known = {one.name: one for one in load.adapters}
    rows: list[tuple[Content, ...]] = []
    for card in cards:
        name, one = str(card["id"]), known.get(str(card["id"]))
        told = Cell(name, str(card.get("fingerprint") or ""))
        if one is None:
            rows.append((told, str(card.get("task", "–")), "0", "–", "–", "–", "–", "–", "–"))
            continue
        rate = one.tokens_per_s if one.tokens_per_s is not None else one.inputs_per_s
        rows.append(
            (
                told, str(card.get("task", "–")), f"{one.requests:,}", _rate(one.requests_per_s), _count(one.tokens),
                _rate(rate), _seconds(one.median_s), _seconds(one.slow_s), "yes" if one.at_hand else "–",
            )
        )  # fmt: skip
    return sheet("Models", OF_MODELS, rows, words=(0, 1))


def keys(file: Path | None) -> str:
    """The keys of a server's file and their limits; never a key itself."""
    if file is None:
        return note("No key is asked for: only this machine reaches the server.")
    try:
        found = read(file)
    except PtuneError as problem:
        return note(str(problem), "bad")
    rows: list[tuple[Content, ...]] = []
    for key in found.keys:
        adapters = "all" if key.adapters is None else ", ".join(sorted(key.adapters))
        limits = (key.limits.requests_per_minute, key.limits.tokens_per_minute, key.limits.concurrent)
        rows.append(
            (
                key.name,
                ", ".join(sorted(key.scopes)),
                adapters,
                *("any" if one is None else f"{one:,}" for one in limits),
            )
        )
    return sheet(f"Keys of {file.name}", OF_KEYS, rows, words=(0, 1, 2)) + "".join(
        note(warning, "bad") for warning in found.warnings
    )


def limits(headers: Mapping[str, str]) -> str:
    """What the server says is left of a key's limits, in a sentence; empty where it has none."""
    told = []
    for kind in ("requests", "tokens"):
        most, left = (headers.get(f"x-ratelimit-{what}-{kind}") for what in ("limit", "remaining"))
        if most is not None:
            told.append(
                f"{left} of {most} {kind} a minute are left, all again in {headers.get(f'x-ratelimit-reset-{kind}')}"
            )
    return "; ".join(told)


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"
