"""The table of model kinds that a bundle can hold, with the code for each.

Code is named as "module:attribute" and imported on use, so that serving a decoder loads neither the encoder nor torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One kind of model: its names and its code."""

    name: str
    task: str  # `task` in a bundle's manifest, format 1
    noun: str  # for messages: "… is of an encoder"
    model: str  # opens a bundle for use: `ptune.load`
    app: str  # makes the HTTP app of an opened model
    publishable: str  # a `ptune.publish.publishable.Publishable`: turns a run into a bundle
    no_kv_cache: str = ""  # why the server's --kv-gb does not apply


DECODER = Kind(
    name="decoder",
    task="chat",
    noun="a causal language model",
    model="ptune.tasks.chat.infer:load",
    app="ptune_serve.app:create_app",
    publishable="ptune.publish.decoder:Decoder",
)
ENCODER = Kind(
    name="encoder",
    task="encoder",
    noun="an encoder",
    model="ptune.tasks.encoder.infer:load",
    app="ptune_serve.app:create_encoder_app",
    publishable="ptune.publish.encoder:Encoder",
    no_kv_cache="has no KV cache",
)
SEQ2SEQ = Kind(
    name="seq2seq",
    task="seq2seq",
    noun="an encoder-decoder",
    model="ptune.tasks.translation.seq2seq_infer:load",
    app="ptune_serve.app:create_seq2seq_app",
    publishable="ptune.publish.seq2seq:EncoderDecoder",
    no_kv_cache="limits its cache by --max-rows alone",
)
KINDS = (DECODER, ENCODER, SEQ2SEQ)


def of_task(task: str) -> Kind:
    """The kind for a manifest's `task`. An unknown task gives the decoder, whose code refuses the bundle."""
    return next((kind for kind in KINDS if kind.task == task), DECODER)


def imported(place: str) -> Any:
    """Imports "module:attribute" and returns the attribute."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
