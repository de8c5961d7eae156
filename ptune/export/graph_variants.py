"""Variants of a decoder's graph on the same weights, for steps that need less."""

from __future__ import annotations

from pathlib import Path

from ptune.export.grouped_attention import write_grouped
from ptune.export.without_adapters import write_bare
from ptune.formats.bundle import BARE, GROUPED, GROUPED_BARE
from ptune.formats.signature import Signature


def write_lighter(path: Path, signature: Signature) -> None:
    """Writes beside the graph at `path` the bare one and, if heads share keys, the grouped ones with and without sockets."""
    write_bare(path, path.with_name(BARE), signature)
    if (grouped := write_grouped(path, path.with_name(GROUPED))) is not None:
        write_bare(grouped, path.with_name(GROUPED_BARE), signature)
