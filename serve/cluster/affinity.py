"""Which replicas a request prefers: those where its adapter and the beginning of its prompt are warm.

A request has *levels*: its adapter, then ever longer beginnings of its prompt. Each level ranks the replicas by rendezvous
hashing (Thaler and Ravishankar, 1998) and keeps as many as its share of the recent requests needs: a rare adapter stays on
one replica, an adapter or a system message that everybody uses spreads over all. So every ingress finds the same replicas
without asking anybody, also after a restart, and a replica that comes or goes moves only its own share.
"""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

BEGINNINGS = (500, 2_000, 8_000)
"""Lengths of a prompt's beginnings, in characters; shorter ones are not worth a detour."""
WINDOW = 1_000
"""So many of the last requests say what is popular."""
SPREAD = 8
"""Times the number of replicas that a level would fill: else two popular ones that meet on a replica would overload it."""
FEW_RUNNING = 8
"""A replica that answers fewer requests is never too busy for what it has warm."""
MOST_OVER_MEAN = 1.5
"""Times the mean: beyond it a replica is too busy ("consistent hashing with bounded loads", Mirrokni et al., 2018)."""
DEEPEST = 8
"""Lists and objects that a text may stand in; a message's parts are 4 deep, and what is deeper is no text of a prompt."""

Replica = TypeVar("Replica")
_MASK = (1 << 64) - 1


class Route(NamedTuple):
    """What the router is told of a request."""

    levels: tuple[int, ...] = ()  # hashes; none: any replica will do
    pinned: bool = False  # always the first in rank, however busy: one replica makes all changes


PINNED = Route((0,), pinned=True)


def route_of(body: bytes) -> Route:
    """The route of a request to a model, by its body; of anything else, one without levels."""
    try:
        fields = json.loads(body)
        model = fields["model"]
        text = _beginning(fields)
    except (ValueError, RecursionError, KeyError, TypeError):
        return Route()
    cuts = [length for length in BEGINNINGS if length < len(text)]
    return Route(tuple(_hashes([str(model), *(text[:length] for length in cuts), *([text] if text else [])])))


def _beginning(fields: Mapping[str, Any]) -> str:
    """The part of a prompt that all turns of its conversation share: up to the first message of the user."""
    parts = [_text(fields.get(name)) for name in ("system", "instructions", "prompt", "input")]
    messages = fields.get("messages")
    for message in messages if isinstance(messages, list) else ():
        parts.append(_text(message))
        if isinstance(message, dict) and message.get("role") == "user":
            break
    return "\n".join(filter(None, parts))[: 4 * BEGINNINGS[-1]]


def _text(value: Any, depth: int = DEEPEST) -> str:
    """The text in a message, or in a list of its parts; of tokens, their numbers."""
    if value is None or not depth:
        return ""
    if isinstance(value, list):
        return " ".join(_text(part, depth - 1) for part in value[:1000])
    if isinstance(value, dict):
        return _text(value.get("content", value.get("text")), depth - 1)
    return str(value)


def _hashes(texts: Iterable[str]) -> Iterator[int]:
    """64 bits of each, and of all before it: a beginning under another adapter is another."""
    whole = blake2b(digest_size=8)
    for text in texts:
        whole.update(text.encode("utf-8", "surrogatepass") + b"\0")
        yield int.from_bytes(whole.digest())


class Popularity:
    """Shares of levels among the last requests."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, ...]] = deque()
        self._counts: Counter[int] = Counter()

    def add(self, levels: tuple[int, ...]) -> None:
        """Counts a request."""
        self._recent.append(levels)
        self._counts.update(levels)
        if len(self._recent) > WINDOW:
            for level in self._recent.popleft():
                self._counts[level] -= 1
                if not self._counts[level]:
                    del self._counts[level]

    def share(self, level: int) -> float:
        """From 0 to 1; of the first requests nothing is said to be popular yet."""
        return self._counts[level] / max(len(self._recent), WINDOW // 10)


def ranked(
    levels: Sequence[int],
    replicas: Iterable[Replica],
    seed: Callable[[Replica], int],
    share: Callable[[int], float],
) -> list[Replica]:
    """All replicas, the one to prefer first. seed: a number of 64 bits that belongs to a replica."""
    homes, passed_over = list(replicas), list[Replica]()
    total = len(homes)
    for level in levels:
        homes.sort(key=lambda replica: _mixed(level ^ seed(replica)))
        keep = max(1, math.ceil(SPREAD * share(level) * total))
        homes, passed_over = homes[:keep], homes[keep:] + passed_over
    return homes + passed_over


def not_too_busy(replicas: Sequence[Replica], running: Callable[[Replica], int]) -> list[Replica]:
    """The same, but those that answer far more requests than the others come last, the least busy of them first."""
    loads = [running(replica) for replica in replicas]
    limit = max(FEW_RUNNING, math.ceil(MOST_OVER_MEAN * (sum(loads) + 1) / max(len(loads), 1)))
    busy = sorted((load, index) for index, load in enumerate(loads) if load >= limit)
    return [replica for replica, load in zip(replicas, loads, strict=True) if load < limit] + [
        replicas[index] for _, index in busy
    ]


def seed_of(name: str) -> int:
    """The number that belongs to a replica of this name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())


def _mixed(number: int) -> int:
    """SplitMix64's mixing of 64 bits: neighbours become unlike."""
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB & _MASK
    return number ^ (number >> 31)
