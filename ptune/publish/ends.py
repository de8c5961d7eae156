"""What a bundle's adapters may bring at its decoder's ends, as it was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from ptune.errors import UsageError
from ptune.formats.signature import END_KINDS, EndKind
from ptune.kinds import DECODER, Kind
from ptune.publish.publishable import Publishable


def end_kinds(asked: Sequence[str], kind: Kind, source: str) -> tuple[EndKind, ...]:
    """The sockets that were asked for. Raises: UsageError for unknown ones, and for another kind of model."""
    known = ", ".join(END_KINDS)
    if unknown := [name for name in asked if name not in END_KINDS]:
        raise UsageError(f"--sockets {unknown[0]!r}: there are {known}")
    if asked and kind is not DECODER:
        raise UsageError(f"--sockets: {source} is of {kind.noun}, and only chat models have {known}")
    return tuple(name for name in END_KINDS if name in asked)


def give_ends(model: Publishable, kinds: Sequence[EndKind]) -> None:
    """Adds sockets to those that the adapter in a model needs anyway."""
    if kinds:
        from ptune.publish.decoder import Decoder

        assert isinstance(model, Decoder)
        model.ends = tuple(kind for kind in END_KINDS if kind in (*model.ends, *kinds))
