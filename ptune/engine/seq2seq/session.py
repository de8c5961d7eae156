"""An encoder-decoder's two graphs in onnxruntime. `ptune.formats.seq2seq` defines their inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ptune.engine.onnx_graph import Array, check_names, open_graph
from ptune.formats.seq2seq import DECODER, DECODER_INPUTS, ENCODER, ENCODER_INPUTS, Seq2SeqSignature


class Seq2SeqSession:
    """The encoder and the decoder. They may share a stack of factors: each takes its own."""

    def __init__(self, folder: Path, signature: Seq2SeqSignature, threads: int | None = None) -> None:
        """Opens the graphs in a profile's folder.

        Raises: FormatError where onnxruntime cannot load a graph or its inputs are not the signature's.
        """
        self._encoder = open_graph(folder / ENCODER, threads)
        self._decoder = open_graph(folder / DECODER, threads)
        self._encoder_factors, self._decoder_factors = (
            signature.encoder_factors(),
            signature.decoder_factors(),
        )
        self._cross, self._new = signature.layers("cross"), signature.layers("new")
        encoder_inputs = {*ENCODER_INPUTS, *self._encoder_factors}
        check_names(self._encoder, folder / ENCODER, encoder_inputs, {*self._cross})
        caches = {*signature.layers("past"), *self._cross}
        decoder_inputs = {*DECODER_INPUTS, *caches, *self._decoder_factors}
        check_names(self._decoder, folder / DECODER, decoder_inputs, {"logits", *self._new})

    def encode(self, inputs: Mapping[str, Array], factors: Mapping[str, Array]) -> list[Array]:
        """Keys and values of the sources, in the order of `layers("cross")`: [batch, heads, source, dim] each."""
        own = {name: factors[name] for name in self._encoder_factors}
        cross: list[Array] = self._encoder.run(self._cross, {**inputs, **own})
        return cross

    def decode(self, inputs: Mapping[str, Array], factors: Mapping[str, Array]) -> tuple[Array, list[Array]]:
        """Logits [batch, tokens, vocab], and the new keys and values in the order of `layers("new")`."""
        own = {name: factors[name] for name in self._decoder_factors}
        logits, *new = self._decoder.run(["logits", *self._new], {**inputs, **own})
        return logits, new
