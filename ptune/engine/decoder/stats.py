"""What a decoder's engine says of itself, for /metrics and /health."""

from __future__ import annotations

from dataclasses import dataclass

from ptune.engine.base import QueueStats
from ptune.engine.decoder.cache.block_folder import DiskStats


@dataclass(frozen=True, slots=True)
class EngineStats(QueueStats):
    """The engine at one moment, in sequences; the last four count from its start."""

    kv_used_tokens: int  # of running sequences
    kv_capacity_tokens: int  # that fit into the memory of the cache
    kv_resident_bytes: int  # of that memory in use, kept prefixes included
    steps: int
    tokens: int  # computed: prompt, output and drafts
    reused: int = 0  # prompt tokens found in the cache
    preempted: int = 0  # sequences that lost their slots to another tenant's, or because the cache was full
    drafted: int = 0  # tokens that were proposed
    accepted: int = 0  # of these, tokens of answers
    slid_bytes: int = 0  # of the cache that layers with a window gave back while sequences went on
    disk: DiskStats | None = None  # where idle conversations are kept on disk
