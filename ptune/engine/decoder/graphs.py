"""One profile's graphs: the whole one, and beside it, on the same weights, those that compute less where less is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ptune.engine.decoder.attention_metadata import Heads
from ptune.engine.decoder.session import Session
from ptune.formats.bundle import BARE, GROUPED, GROUPED_BARE
from ptune.formats.signature import Signature

LIGHT = 512 << 20  # bytes of weights that may be in memory once for each graph


@dataclass(frozen=True)
class Graphs:
    """Sessions that say the same. bare: without sockets; grouped: with the grouped view of attention."""

    whole: Session
    bare: Session | None = None
    grouped: Session | None = None
    grouped_bare: Session | None = None
    least_tokens: int = 1  # cells that a step must have to say the same bits in any company

    @classmethod
    def open(
        cls, path: Path, signature: Signature, threads: int | None = None, least_tokens: int = 1
    ) -> Graphs:
        """The graph at `path`, and those beside it where the weights are light. Raises: FormatError."""
        weights = path.with_name(f"{path.name}.data")
        light = not weights.is_file() or weights.stat().st_size <= LIGHT

        def beside(name: str, *, sockets: bool = True, grouped: bool = False) -> Session | None:
            there = path.with_name(name)
            if not light or not there.is_file():
                return None
            return Session(there, signature, threads, sockets=sockets, grouped=grouped)

        return cls(
            Session(path, signature, threads),
            beside(BARE, sockets=False),
            beside(GROUPED, grouped=True),
            beside(GROUPED_BARE, sockets=False, grouped=True),
            least_tokens,
        )

    @property
    def heads(self) -> Heads | None:
        """Of the grouped graphs; None where there are none."""
        if self.grouped is None:
            return None
        return Heads(self.grouped.last_dimension("unpad_indices"), self.grouped.last_dimension("heads") // 3)

    def of(self, *, sockets: bool, grouped: bool) -> Session:
        """For a step that has adapters, or has none, in the view that was chosen."""
        whole, bare = (self.grouped, self.grouped_bare) if grouped else (self.whole, self.bare)
        assert whole is not None
        return whole if sockets else bare or whole
