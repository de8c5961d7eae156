"""Writes an encoder-decoder's bundle: both graphs, their weights, codec and manifest. What it is worth, `verify` measures."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

from ptune.codecs.seq2seq import Seq2SeqCodec
from ptune.export.seq2seq import TracedSeq2Seq
from ptune.export.weights import save
from ptune.export.write import PROFILE, hashes, versions
from ptune.formats.bundle import BaseIdentity, Bundle, Graph, Manifest
from ptune.formats.seq2seq import DECODER, ENCODER

TASK = "seq2seq"  # of the manifest


def write_seq2seq(
    folder: Path,
    traced: TracedSeq2Seq,
    codec: Seq2SeqCodec,
    identity: BaseIdentity,
    *,
    progress: Callable[[str, float], None] = lambda *_: None,
) -> Bundle:
    """Writes a bundle of the bare base into `folder`, which must be empty or absent."""
    place = folder / "graphs" / PROFILE
    for name, graph in ((ENCODER, traced.encoder), (DECODER, traced.decoder)):
        progress("writing the weights", 0.0)
        save(graph, place / name)
    codec.save(folder / "codec")
    progress("hashing the files", 0.0)
    manifest = Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=versions(),
        task=TASK,
        base=identity,
        signature=traced.signature,
        graphs={PROFILE: Graph(profile=PROFILE, files=hashes(folder, f"graphs/{PROFILE}"))},
        codec=hashes(folder, "codec"),
        golden={},
    )
    bundle = Bundle(folder, manifest)
    bundle.write_manifest(manifest)
    return bundle
