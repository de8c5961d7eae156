"""More adapters than memory, over HTTP: python -m benchmarks.adapter_traffic --work FOLDER      (8 GB of disk)

SmolLM2-135M with 200 LoRA adapters, r16 on all linear layers, each another (19.5 MB in memory, 3.9 GB together), served with
`--adapter-bytes 1GB`. 16 clients ask one after the other, streamed, each for an adapter by Zipf's law (exponent 1); one more
asks only for adapters that are not in memory (/v1/adapters says so, and nobody has asked for them since), so its times to
the first token are those of a cold adapter under traffic. Client and server share the cores.

hit_rate            requests whose adapter was in memory when they came (the server's own count)
cold_first_token_s  p50 and p95 of the one who asks for cold adapters; first_token_s those of the others
dropped             requests that had no whole answer: 0 is what must be
peak_rss_mb         of the server, weights and KV cache included

Writes results/adapter_traffic.json. `--bundle B` takes another bundle; `--adapters 4 --adapter-bytes 50MB --requests 20
--dry-run` tries whether everything works.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import random_adapters
from benchmarks.decode import DATA, exported
from benchmarks.decode_tables import MODEL
from benchmarks.goals import host
from benchmarks.http_streams import ask_one
from benchmarks.sides import write

PACKAGES = ("ptune", "onnxruntime", "uvicorn", "fastapi")
COUNTED = (
    "adapter_hits_total",
    "adapter_loads_total",
    "adapter_evictions_total",
    "adapter_load_seconds_total",
)
WORDS = 24


@dataclass
class Seen:
    """What the clients saw."""

    warm_s: list[float] = field(default_factory=list)
    cold_s: list[float] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    asked_at_s: dict[str, float] = field(default_factory=dict)  # when somebody asked for an adapter last
    using: dict[str, int] = field(default_factory=dict)


class Clients:
    """All of them together ask `requests` times; the one for cold adapters goes on as long as they do."""

    def __init__(self, url: str, names: Sequence[str], requests: int, new_tokens: int, seed: int) -> None:
        self._url, self._new_tokens = url, new_tokens
        self._random = Random(seed)
        ranked = self._random.sample([*names], len(names))
        weights = [1 / rank for rank in range(1, len(names) + 1)]
        self._left = self._random.choices(ranked, weights, k=requests)
        text = " ".join(
            one["content"]
            for line in DATA.read_text(encoding="utf-8").splitlines()
            for one in json.loads(line)["messages"]
        )
        self._words = text.split()
        self.seen = Seen()

    async def run(self, streams: int) -> Seen:
        """Asks all; the last one for cold adapters is answered, too."""
        asking = [asyncio.create_task(self._ask_what_is_left()) for _ in range(streams)]
        cold = asyncio.create_task(self._ask_for_cold_ones(asking))
        await asyncio.gather(*asking, cold)
        return self.seen

    async def _ask_what_is_left(self) -> None:
        while self._left:
            await self._ask(self._left.pop(), self.seen.warm_s)

    async def _ask_for_cold_ones(self, others: Sequence[asyncio.Task[None]]) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=120) as http:
            while not all(other.done() for other in others):
                looked_s = time.perf_counter()
                cards = (await http.get("/v1/adapters")).json()["data"]
                cold = [card["name"] for card in cards if not card["loaded"]]
                cold = [one for one in cold if not self.seen.using.get(one)]
                name = self._random.choice(cold) if cold else None
                if name is None or self.seen.asked_at_s.get(name, 0) > looked_s:
                    await asyncio.sleep(0.05)
                else:
                    await self._ask(name, self.seen.cold_s)

    async def _ask(self, name: str, times_s: list[float]) -> None:
        begin = self._random.randrange(len(self._words) - WORDS)
        body = {
            "model": name,
            "messages": [{"role": "user", "content": " ".join(self._words[begin : begin + WORDS])}],
            "max_tokens": self._new_tokens,
            "temperature": 0,
        }
        seen = self.seen
        seen.asked_at_s[name] = time.perf_counter()
        seen.using[name] = seen.using.get(name, 0) + 1
        try:
            times_s.append((await ask_one(self._url, body)).times[0])
        except Exception as error:
            seen.dropped.append(f"{name}: {error}")
        finally:
            seen.using[name] -= 1


@contextlib.contextmanager
def served(bundle: Path, threads: int, *options: str) -> Iterator[tuple[str, int]]:
    """`ptune serve` on a free port: its URL and its process's number."""
    with tempfile.TemporaryDirectory() as folder:
        ready, log = Path(folder) / "ready", Path(folder) / "log"
        command = [sys.executable, "-m", "ptune", "serve", str(bundle), "--port", "0", "--no-ui"]
        command += ["--threads", str(threads), "--ready-file", str(ready), *options]
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            try:
                while not ready.exists():
                    if process.poll() is not None:
                        raise SystemExit(f"the server did not start: {log.read_text(errors='replace')}")
                    time.sleep(0.05)
                yield ready.read_text().strip(), process.pid
            finally:
                process.terminate()


def counted(url: str, names: Sequence[str] = COUNTED) -> dict[str, float]:
    """The server's own counts: of what became of adapters."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=60).text)
    values = {sample.name: sample.value for family in families for sample in family.samples}
    return {name: values[f"ptune_{name}"] for name in names}


def percentiles(times_s: Sequence[float]) -> dict[str, float | int | None]:
    """p50, p95 and how many; None where there are too few."""
    if len(times_s) < 2:
        return {"p50": None, "p95": None, "count": len(times_s)}
    cuts = statistics.quantiles(times_s, n=20, method="inclusive")
    return {"p50": round(cuts[9], 4), "p95": round(cuts[18], 4), "count": len(times_s)}


def measured(bundle: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Serves a bundle and lets the clients at it."""
    names = random_adapters.names(chosen.adapters)
    options = ["--adapter-bytes", chosen.adapter_bytes, "--adapters-api", "--max-rows", "32"]
    options += [] if chosen.profile is None else ["--profile", chosen.profile]
    began_s = time.perf_counter()
    with served(bundle, chosen.threads, *options) as (url, process):
        started_s = time.perf_counter() - began_s
        before, began_s = counted(url), time.perf_counter()
        clients = Clients(url, names, chosen.requests, chosen.new_tokens, chosen.seed)
        seen = asyncio.run(clients.run(chosen.streams))
        seconds, after = time.perf_counter() - began_s, counted(url)
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    grown = {name: after[name] - before[name] for name in COUNTED}
    requests = len(seen.warm_s) + len(seen.cold_s) + len(seen.dropped)
    loads = grown["adapter_loads_total"]
    return {
        "requests": requests,
        "dropped": len(seen.dropped),
        "first_error": seen.dropped[0] if seen.dropped else None,
        "seconds": round(seconds, 2),
        "hit_rate": round(grown["adapter_hits_total"] / requests, 4),
        "first_token_s": percentiles(seen.warm_s),
        "cold_first_token_s": percentiles(seen.cold_s),
        "loads": int(loads),
        "evictions": int(grown["adapter_evictions_total"]),
        "mean_load_s": round(grown["adapter_load_seconds_total"] / max(loads, 1), 4),
        "start_s": round(started_s, 2),
        "peak_rss_mb": round(int(status.split("VmHWM:")[1].split()[0]) / 1024),
    }


def main() -> int:
    """Prints what was found and writes adapter_traffic.json; 1 where a request was dropped."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--work", type=Path, required=True, help="where the adapters lie, kept for the next time"
    )
    options.add_argument("--bundle", type=Path, default=None, help="default: exported to WORK/bundle")
    options.add_argument("--profile", default=None, help="default: the bundle's own choice")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--adapters", type=int, default=200)
    options.add_argument("--adapter-bytes", default="1GB")
    options.add_argument("--streams", type=int, default=16)
    options.add_argument("--requests", type=int, default=400, help="those for cold adapters not counted")
    options.add_argument("--new-tokens", type=int, default=16)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--dry-run", action="store_true", help="write no file")
    chosen = options.parse_args()
    bundle = exported(MODEL, chosen.bundle or chosen.work / "bundle", "fp32,int8", chosen.threads)
    chosen.work.mkdir(parents=True, exist_ok=True)
    adapted = random_adapters.with_adapters(bundle, chosen.work, chosen.adapters)
    found = measured(adapted, chosen)
    for name, value in found.items():
        print(f"{name:<20} {value}")
    settings = {
        name: getattr(chosen, name)
        for name in ("adapters", "adapter_bytes", "streams", "new_tokens", "threads", "profile", "seed")
    }
    document = {"command": "python -m benchmarks.adapter_traffic --work FOLDER", **settings, "rows": found}
    if not chosen.dry_run:
        write("adapter_traffic", {**document, "host": host()}, PACKAGES)
    return 1 if found["dropped"] else 0


if __name__ == "__main__":
    sys.exit(main())
