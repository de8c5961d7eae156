"""Variants of a graph on the same weights, for steps that need less."""

from __future__ import annotations

from pathlib import Path

from ptune.export.decoder.grouped_attention import write_grouped
from ptune.export.without_adapters import write_bare, write_without_gains
from ptune.formats.bundle import BARE, GROUPED, GROUPED_BARE, GROUPED_NO_GAINS, NO_GAINS
from ptune.formats.signature import EncoderSignature, Signature


def write_lighter(path: Path, signature: Signature | EncoderSignature) -> None:
    """Writes beside a decoder's graph the bare one and, if heads share keys, the grouped ones with and without sockets. Of a graph with gains
    also those with sockets and without gains.

    Beside a body of images with sockets the bare one. A body of texts needs none: there, empty sockets cost next to nothing.
    """
    if isinstance(signature, EncoderSignature):
        if signature.modality == "image" and signature.sockets:
            write_bare(path, path.with_name(BARE), signature)
        return
    write_bare(path, path.with_name(BARE), signature)
    if (grouped := write_grouped(path, path.with_name(GROUPED))) is not None:
        write_bare(grouped, path.with_name(GROUPED_BARE), signature)
    if signature.ends is not None and signature.ends.has_gains:
        write_without_gains(path, path.with_name(NO_GAINS), signature)
        if grouped is not None:
            write_without_gains(grouped, path.with_name(GROUPED_NO_GAINS), signature)
