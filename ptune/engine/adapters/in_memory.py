"""Adapters that are put into a running engine out of memory: what `ptune add` does with a folder, without any file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ptune.engine.adapters.fold.fold import folded
from ptune.engine.adapters.lora import Adapter, read_adapter, standing_before
from ptune.engine.adapters.prefix import compute_prefix, stands_before
from ptune.engine.adapters.source import Array, Source
from ptune.errors import AdapterError
from ptune.formats.bundle import BASE, AdapterRecord
from ptune.formats.signature import Signature


def adapter_of(
    name: str, config: Mapping[str, Any], tensors: Mapping[str, Array], signature: Signature
) -> Adapter:
    """An adapter of a decoder: LoRA, and what becomes LoRA, gains or virtual tokens without the base's weights.

    config: content of adapter_config.json. tensors: of adapter_model.safetensors; they are copied.
    Raises: AdapterError that lists everything about it that does not fit the base or cannot be served.
    """
    _check_name(name)
    source = Source.memory(name, config, tensors)
    if stands_before(source):
        return standing_before(name, compute_prefix(source, signature))
    adapter = read_adapter(
        folded(source, {socket.name: socket for socket in signature.sockets}, signature.ends), signature
    )
    if adapter.ends is not None and adapter.ends.vocab > signature.vocab_size:
        raise AdapterError(
            f"{source.place} brings tokens of its own, whose texts lie in a folder beside it: add that with `ptune add`"
        )
    return adapter


def record_of(adapter: Adapter) -> AdapterRecord:
    """What an engine needs to know of it."""
    return AdapterRecord(
        name=adapter.name,
        rank=adapter.rank,
        virtual_tokens=0 if adapter.prefix is None else adapter.prefix.tokens,
        in_sums=adapter.is_update,
        invocation=adapter.invocation,
    )


def _check_name(name: str) -> None:
    """Raises: AdapterError for a name that an adapter in a folder could not have either."""
    if name == BASE or name != os.path.basename(name) or not name or name.startswith("."):
        raise AdapterError(f"adapter name {name!r}: must be a plain folder name other than {BASE!r}")
