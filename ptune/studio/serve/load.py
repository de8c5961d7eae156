"""How busy a server is, and each of its adapters: read from its metrics, whatever kind of model it serves."""

from __future__ import annotations

from dataclasses import dataclass

from ptune.studio.serve.exposition import Scrape

REQUESTS = "ptune_requests_total"
GENERATED = "ptune_generation_tokens_total"
INPUTS = "ptune_inputs_total"
OF_ANSWERS, OF_INPUTS = "ptune_e2e_request_latency_seconds", "ptune_request_seconds"
UNTIL_FIRST = "ptune_time_to_first_token_seconds"
AT_HAND = "ptune_lora_requests_info"


@dataclass(frozen=True)
class AdapterLoad:
    """What was asked of an adapter. Latencies in seconds, of all requests since the server's start; None: not known."""

    name: str
    requests: int
    requests_per_s: float | None  # since the last look, as all rates
    tokens: int | None  # generated; None of an encoder
    tokens_per_s: float | None
    inputs_per_s: float | None  # of an encoder
    median_s: float | None
    slow_s: float | None  # 95 of 100 requests are no slower
    at_hand: bool  # in memory


@dataclass(frozen=True)
class Load:
    """A server's load."""

    running: int
    waiting: int
    tokens_per_s: float | None
    requests_per_s: float | None
    first_token_s: float | None  # median
    median_s: float | None
    hits: int | None  # requests whose adapter was in memory
    reads: int | None  # adapters that were read from disk
    cache: float | None  # share of the KV cache in use
    adapters: tuple[AdapterLoad, ...]


def load_of(now: Scrape, before: Scrape | None = None) -> Load:
    """The load at one look. before: the look that rates are taken since."""
    at_hand = {*_listed(now)}
    names = dict.fromkeys([*now.values(REQUESTS, "adapter"), *at_hand])
    latency = OF_ANSWERS if now.total(f"{OF_ANSWERS}_count") is not None else OF_INPUTS
    return Load(
        running=int(now.total("ptune_num_requests_running") or 0),
        waiting=int(now.total("ptune_num_requests_waiting") or 0),
        tokens_per_s=now.rate(before, GENERATED),
        requests_per_s=now.rate(before, REQUESTS),
        first_token_s=now.quantile(UNTIL_FIRST, 0.5),
        median_s=now.quantile(latency, 0.5),
        hits=_whole(now.total("ptune_adapter_hits_total")),
        reads=_whole(now.total("ptune_adapter_loads_total")),
        cache=now.total("ptune_kv_cache_usage_perc"),
        adapters=tuple(_adapter(name, now, before, name in at_hand) for name in names),
    )


def _adapter(name: str, now: Scrape, before: Scrape | None, at_hand: bool) -> AdapterLoad:
    return AdapterLoad(
        name,
        int(now.total(REQUESTS, adapter=name) or 0),
        now.rate(before, REQUESTS, adapter=name),
        _whole(now.total(GENERATED, adapter=name)),
        now.rate(before, GENERATED, adapter=name),
        now.rate(before, INPUTS, adapter=name),
        now.quantile(OF_ANSWERS, 0.5, adapter=name),
        now.quantile(OF_ANSWERS, 0.95, adapter=name),
        at_hand,
    )


def _listed(now: Scrape) -> list[str]:
    """The adapters in memory, as the server lists them."""
    return [name for name in now.labels(AT_HAND).get("running_lora_adapters", "").split(",") if name]


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
