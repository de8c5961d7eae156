"""The kinds of models that a bundle can hold, a row each, and where each kind's parts are.

A part is named as "module:attribute" and imported when it is used: who serves a decoder loads no encoder, and no torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What is said and imported of one kind of model."""

    name: str
    task: str  # `task` of a bundle's manifest, format 1
    noun: str  # for messages: "… is of an encoder"
    engine: str  # computes what it serves
    model: str  # opens a bundle for use: `ptune.load`
    app: str  # makes the HTTP app of an opened model
    publishable: str  # a `ptune.publish.publishable.Publishable`: from a run to a bundle
    no_kv_cache: str = ""  # why the server's --kv-gb says nothing to it


DECODER = Kind(
    name="decoder",
    task="chat",
    noun="a causal language model",
    engine="ptune.engine.decoder.engine:Engine",
    model="ptune.tasks.chat.infer:load",
    app="ptune_serve.app:create_app",
    publishable="ptune.publish.decoder:Decoder",
)
ENCODER = Kind(
    name="encoder",
    task="encoder",
    noun="an encoder",
    engine="ptune.engine.encoder.engine:EncoderEngine",
    model="ptune.tasks.encoder.infer:load",
    app="ptune_serve.app:create_encoder_app",
    publishable="ptune.publish.encoder:Encoder",
    no_kv_cache="has no KV cache",
)
SEQ2SEQ = Kind(
    name="seq2seq",
    task="seq2seq",
    noun="an encoder-decoder",
    engine="ptune.engine.seq2seq.engine:Seq2SeqEngine",
    model="ptune.tasks.translation.seq2seq_infer:load",
    app="ptune_serve.app:create_seq2seq_app",
    publishable="ptune.publish.seq2seq:EncoderDecoder",
    no_kv_cache="limits its cache by --max-rows alone",
)
KINDS = (DECODER, ENCODER, SEQ2SEQ)


def of_task(task: str) -> Kind:
    """The kind of a manifest's `task`. What this version does not know is left to the decoder's parts, which refuse it."""
    return next((kind for kind in KINDS if kind.task == task), DECODER)


def imported(part: str) -> Any:
    """What a row names as "module:attribute"."""
    module, _, attribute = part.partition(":")
    return getattr(importlib.import_module(module), attribute)
