"""An encoder-decoder's two graphs in onnxruntime. See `ptune.formats.seq2seq` for what they take and give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ptune.engine.onnx_graph import Array, check_names, open_graph
from ptune.formats.seq2seq import DECODER, ENCODER, READER_INPUTS, WRITER_INPUTS, Seq2SeqSignature


class Seq2SeqSession:
    """The reader and the writer. They may share a stack of factors: each takes those that are its own."""

    def __init__(self, folder: Path, signature: Seq2SeqSignature, threads: int | None = None) -> None:
        """Opens what lies in a profile's folder.

        Raises: FormatError where onnxruntime cannot load a graph or its inputs are not the signature's.
        """
        self._reader = open_graph(folder / ENCODER, threads)
        self._writer = open_graph(folder / DECODER, threads)
        self._reads, self._writes = signature.reader_factors(), signature.writer_factors()
        self._cross, self._new = signature.layers("cross"), signature.layers("new")
        check_names(self._reader, folder / ENCODER, {*READER_INPUTS, *self._reads}, {*self._cross})
        given = {*WRITER_INPUTS, *signature.layers("past"), *self._cross, *self._writes}
        check_names(self._writer, folder / DECODER, given, {"logits", *self._new})

    def read(self, inputs: Mapping[str, Array], factors: Mapping[str, Array]) -> list[Array]:
        """Keys and values of the sources, in the order of `layers("cross")`: [batch, heads, source, dim] each."""
        own = {name: factors[name] for name in self._reads}
        found: list[Array] = self._reader.run(self._cross, {**inputs, **own})
        return found

    def write(self, inputs: Mapping[str, Array], factors: Mapping[str, Array]) -> tuple[Array, list[Array]]:
        """Logits [batch, tokens, vocab], and the new keys and values in the order of `layers("new")`."""
        own = {name: factors[name] for name in self._writes}
        logits, *new = self._writer.run(["logits", *self._new], {**inputs, **own})
        return logits, new
