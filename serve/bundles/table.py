"""The table of a server's bundles: what each takes, who uses it, and which makes room for another. No I/O, one thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ptune.errors import RequestError

if TYPE_CHECKING:
    from .loaded import LoadedBundle

State = Literal["unloaded", "loading", "loaded", "unloading"]
Why = Literal["room", "idle", "asked"]
"""Why a bundle was unloaded: another needs its memory, nobody has used it for long, or somebody said so."""


@dataclass
class Entry:
    """One bundle. users: requests that use it or wait for it; a bundle with users is never unloaded."""

    name: str
    needed_bytes: int  # predicted; once it was loaded: measured
    measured: bool = False
    state: State = "unloaded"
    loaded: LoadedBundle | None = None  # where the state is "loaded"
    users: int = 0
    used: int = 0  # when it was used last: the table's count of uses
    loads: int = 0
    load_s: float = 0.0  # of all loads
    failures: int = 0
    unloads: Counter[Why] = field(default_factory=Counter)

    @property
    def idle(self) -> bool:
        """Whether it could be unloaded now."""
        return self.state == "loaded" and not self.users


class Table:
    """All bundles, and the memory that they may take together. budget_bytes: of all that are not unloaded."""

    def __init__(self, entries: Iterable[Entry], budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._entries = {entry.name: entry for entry in entries}
        self._uses = 0

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    @property
    def taken_bytes(self) -> int:
        """What bundles take that are loaded, or on their way in or out."""
        return sum(entry.needed_bytes for entry in self if entry.state != "unloaded")

    def enter(self, entry: Entry) -> None:
        """Counts a request that uses a bundle, or waits for it."""
        entry.users += 1
        self._touch(entry)

    def leave(self, entry: Entry) -> None:
        """Counts it as ended."""
        entry.users -= 1
        self._touch(entry)

    def next_to_go(self, entry: Entry, more_bytes: int) -> Entry | None:
        """The bundle that has to be unloaded next so that `entry` may take so many bytes more; None if they are free.

        It is the one among the idle ones that was used least recently.
        Raises: RequestError(503) if there is not room enough even without all that are idle, so that none goes in vain.
        """
        missing = self.taken_bytes + more_bytes - self.budget_bytes
        if missing <= 0:
            return None
        idle = sorted((one for one in self if one.idle and one is not entry), key=lambda one: one.used)
        if sum(one.needed_bytes for one in idle) < missing:
            raise self._no_room(entry, more_bytes)
        return idle[0]

    def _touch(self, entry: Entry) -> None:
        self._uses += 1
        entry.used = self._uses

    def _no_room(self, entry: Entry, more_bytes: int) -> RequestError:
        whole_bytes = more_bytes + (0 if entry.state == "unloaded" else entry.needed_bytes)
        if whole_bytes > self.budget_bytes:
            message = (
                f"bundle {entry.name!r} takes {gigabytes(whole_bytes)}, and this server may take "
                f"{gigabytes(self.budget_bytes)} for all bundles (--memory-gb)"
            )
            return RequestError(message, param="model", code="bundle_too_large", status=503)
        busy = ", ".join(
            one.name for one in self if one.state != "unloaded" and one is not entry and not one.idle
        )
        message = f"there is no room for bundle {entry.name!r} while requests for {busy} are being answered; try again later"
        return RequestError(message, param="model", code="no_room", status=503)


def gigabytes(size_bytes: int) -> str:
    """A size for messages, in GB of 2^30 bytes as in the options."""
    return f"{size_bytes / 2**30:.2f} GB"
