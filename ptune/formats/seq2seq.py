"""The signature of an encoder-decoder's two graphs: the contract between exporter and engine.

The encoder reads a source once and computes the keys and values of every cross-attention layer, which are inputs of each
decoder step. A step appends any number of tokens to each row; rows may differ in length.

The encoder, graphs/PROFILE/encoder.onnx:

Inputs                          type   shape                       meaning
input_ids                       int64  [batch, source]             the sources, padded on the right (with any token)
lengths                         int64  [batch]                     tokens of each source
lora_mask                          float  [batch, R]                  which low-rank columns each row uses (0 or 1)
SOCKET.A, SOCKET.B              float  [in, R], [R, out]           low-rank factors, B scaled; R = 0 is the bare base

Outputs: cross_key.L, cross_value.L float [batch, heads, source, dim] of decoder layer L.

The decoder, graphs/PROFILE/decoder.onnx:

Inputs                          type   shape                       meaning
input_ids                       int64  [batch, tokens]             the latest target tokens; the first is the model's start token
past_lengths                    int64  [batch]                     tokens of each row in the cache
lengths                         int64  [batch]                     tokens of each row's source
past_key.L, past_value.L        float  [batch, heads, C, dim]      cache; cells from past_lengths on are ignored; C >= 1
cross_key.L, cross_value.L      float  [batch, heads, source, dim] outputs of the encoder
lora_mask, SOCKET.A, SOCKET.B      as above

Outputs: logits float [batch, tokens, vocab]; new_key.L, new_value.L float [batch, heads, tokens, dim], to be written into
the cache at past_lengths.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from ptune.formats.signature import CacheLayer, Socket

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
ENCODER_INPUTS = ("input_ids", "lengths", "lora_mask")
DECODER_INPUTS = ("input_ids", "past_lengths", "lengths", "lora_mask")


class Seq2SeqSignature(BaseModel):
    """Everything that an engine needs to feed both graphs."""

    model_config = ConfigDict(frozen=True)
    kind: Literal["seq2seq"] = "seq2seq"
    vocab_size: int
    context: int  # longest source and longest target, in tokens
    cache: tuple[CacheLayer, ...]  # one per decoder layer; cross-attention has the same heads
    reader_sockets: tuple[Socket, ...]  # encoder sockets, and cross-attention's keys and values
    writer_sockets: tuple[Socket, ...]

    @property
    def sockets(self) -> tuple[Socket, ...]:
        """The sockets of both graphs."""
        return (*self.reader_sockets, *self.writer_sockets)

    def layers(self, kind: str) -> list[str]:
        """Names of all arrays of one kind ("past", "cross" or "new") in graph order: key then value of each layer."""
        return [f"{kind}_{side}.{layer}" for layer in range(len(self.cache)) for side in ("key", "value")]

    def encoder_factors(self) -> list[str]:
        """Adapter inputs of the encoder in graph order: A then B of each socket."""
        return factor_names(self.reader_sockets)

    def decoder_factors(self) -> list[str]:
        """Adapter inputs of the decoder."""
        return factor_names(self.writer_sockets)


def factor_names(sockets: tuple[Socket, ...]) -> list[str]:
    """A then B of each socket."""
    return [f"{socket.name}.{factor}" for socket in sockets for factor in ("A", "B")]
