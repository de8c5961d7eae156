"""Writes an encoder-decoder's bundle: both graphs, their weights, codec and manifest. `verify` measures it."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

from ptune.codecs.seq2seq import Seq2SeqCodec
from ptune.export.seq2seq.trace import TracedSeq2Seq
from ptune.export.weights import save
from ptune.export.write import versions
from ptune.formats.bundle import FP32, BaseIdentity, Bundle, Graph, Manifest, hashes
from ptune.formats.seq2seq import DECODER, ENCODER
from ptune.kinds import SEQ2SEQ


def write_seq2seq(
    folder: Path,
    traced: TracedSeq2Seq,
    codec: Seq2SeqCodec,
    identity: BaseIdentity,
    *,
    report: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Writes a bundle of the bare base into `folder`, which must be empty or absent."""
    place = folder / "graphs" / FP32
    for name, graph in ((ENCODER, traced.encoder), (DECODER, traced.decoder)):
        report("writing the weights")
        save(graph, place / name)
    codec.save(folder / "codec")
    report("hashing the files")
    manifest = Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=versions(),
        task=SEQ2SEQ.task,
        base=identity,
        signature=traced.signature,
        graphs={FP32: Graph(profile=FP32, files=hashes(folder, f"graphs/{FP32}"))},
        codec=hashes(folder, "codec"),
        golden={},
    )
    bundle = Bundle(folder, manifest)
    bundle.write_manifest(manifest)
    return bundle
