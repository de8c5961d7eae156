"""A recipe as HTML: how it differs from its preset, its plan of memory, and what a model can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ptune.studio.recipe.forms import Option

PARTS = {
    "weights": "model weights",
    "quantisation_state": "scales of quantised weights",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimiser": "optimiser",
    "activations": "activations",
    "loss_workspace": "loss",
    "allocator_slack": "held in reserve",
    "runtime": "code",
    "baseline": "libraries",
}
"""The parts of `ptune plan`'s ledger."""
SEEN_BYTES = 500_000
"""Less is 0 MB, and has no bar."""


def diff(differences: Sequence[tuple[str, str, str]], preset: str) -> str:
    """What differs from the preset."""
    if not differences:
        return f"<p class=quiet>Just the preset <b>{escape(preset)}</b>: nothing is changed.</p>"
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(old) or '–'}</td><td>{escape(new) or '–'}</td></tr>"
        for name, old, new in differences
    )
    return f"<div class=scroll><table class=diff><tr><th>changed</th><th>{escape(preset)}</th><th>here</th></tr>{rows}</table></div>"


def plan(document: Mapping[str, Any], where: str) -> str:
    """Whether a training fits, and what takes the memory."""
    needed, there = document["needed_bytes"], document["memory_bytes"]
    verdict = "fits" if document["fits"] else "does not fit"
    head = (
        f"<p class={'good-news' if document['fits'] else 'problem'}>{gigabytes(needed)} of {gigabytes(there)} ({escape(where)}):"
        f" {verdict}.</p>"
    )
    changes = document.get("changes")
    told = "".join(f"<li>{escape(str(one))}</li>" for one in changes or ())
    advice = f"<p>With <code>plan.auto</code> it is made to fit by:</p><ul>{told}</ul>" if told else ""
    parts = [(name, document[key]) for key, name in PARTS.items() if document.get(key, 0) >= SEEN_BYTES]
    most = max([amount for _, amount in parts], default=1)
    bars = "".join(_bar(name, amount, most) for name, amount in sorted(parts, key=lambda part: -part[1]))
    more = "".join(
        f"<tr><td>{escape(row['command'])}</td><td class=number>{gigabytes(row['main_memory'])}</td>"
        f"<td class=number>{gigabytes(row['card']) if row['card'] else '–'}</td>"
        f"<td class=number>{gigabytes(row['disk']) if row['disk'] else '–'}</td></tr>"
        for row in document.get("commands", ())
    )
    table = (
        "<h3>What each command needs</h3><div class=scroll><table><tr><th></th><th class=number>memory</th>"
        f"<th class=number>card</th><th class=number>disk</th></tr>{more}</table></div>"
        if more
        else ""
    )
    time = document.get("time")
    known = "" if time is None else lasts(time, beside=False)
    return f"{head}{known}{advice}<div class=bars>{bars}</div>{table}"


def lasts(document: Mapping[str, Any], *, beside: bool) -> str:
    """How long a training takes. beside: whether another job ran while its steps were timed."""
    told = str(document["told"])
    slower = " Another job ran meanwhile: alone it is faster." if beside else ""
    return f"<p>{escape(told[:1].upper() + told[1:])}.{slower}</p>"


def model(document: Mapping[str, Any]) -> str:
    """What can be done with a model here."""
    verdicts = [
        *((f"train: {name}", one) for name, one in document.get("train", {}).items()),
        ("export", document.get("export")),
        *((f"profile {name}", one) for name, one in document.get("profiles", {}).items()),
        ("serve", document.get("serve")),
    ]
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{_verdict(one)}</td></tr>" for name, one in verdicts if one
    )
    size = f"{document['parameters']:,} parameters" if document.get("parameters") else "size unknown"
    family = escape(str(document.get("family", "")))
    return (
        f"<p><b>{escape(str(document.get('model', '')))}</b> · {family} · {escape(str(document.get('kind', '')))} · {size}</p>"
        f"<div class=scroll><table>{rows}</table></div>"
    )


def about(option: Option) -> str:
    """An option's description, without the marks of code."""
    return option.about.replace("`", "")


def gigabytes(amount: float) -> str:
    """An amount of memory in GB or MB of 10^9 and 10^6 bytes."""
    return f"{amount / 1e9:.1f} GB" if amount >= 999.5e6 else f"{amount / 1e6:.0f} MB"


def _bar(name: str, amount: int, most: int) -> str:
    return (
        f"<div class=bar><span class=label>{escape(name)}</span><span class=track><i style='width:{100 * amount / most:.1f}%'></i>"
        f"</span><span class=share>{gigabytes(amount)}</span></div>"
    )


def _verdict(one: Mapping[str, Any]) -> str:
    why = escape(str(one.get("why", "")))
    if one.get("works"):
        return f"<span class=good-news>yes</span>{f', {why}' if why else ''}"
    return f"<span class=problem>no</span>: {why}"
