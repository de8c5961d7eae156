"""Variants of a graph on the same weights, for steps that need less."""

from __future__ import annotations

from pathlib import Path

from ptune.export.grouped_attention import write_grouped
from ptune.export.without_adapters import write_bare
from ptune.formats.bundle import BARE, GROUPED, GROUPED_BARE
from ptune.formats.signature import EncoderSignature, Signature


def write_lighter(path: Path, signature: Signature | EncoderSignature) -> None:
    """Writes beside a decoder's graph the bare one and, if heads share keys, the grouped ones with and without sockets.

    Beside a body of images with sockets the bare one. A body of texts needs none: there, empty sockets cost next to nothing.
    """
    if isinstance(signature, EncoderSignature):
        if signature.modality == "image" and signature.sockets:
            write_bare(path, path.with_name(BARE), signature)
        return
    write_bare(path, path.with_name(BARE), signature)
    if (grouped := write_grouped(path, path.with_name(GROUPED))) is not None:
        write_bare(grouped, path.with_name(GROUPED_BARE), signature)
