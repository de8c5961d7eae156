"""The simulation of benchmarks.cluster beside a real cluster of 1 to 3 replicas: python -m benchmarks.cluster_check --work FOLDER

`ptune serve --ray` with SmolLM2-135M in int8, one thread for each replica, and 24 LoRA adapters of rank 16 of which a replica
holds 6. Clients over HTTP do what those of the simulation do: conversations of three turns, each under an adapter by Zipf's law,
with time to think before each turn; few of them, for three replicas, Ray and the clients share this machine's cores.

First a cluster of one replica is measured: the time of a token for one stream and for four with an adapter each, of the first
token by how much of its prompt was not in the cache (the slope is a prompt token's time, and what is left at 0 the step and the way
there and back), and of reading an adapter. The simulation gets these times, and the prompts' mean lengths, and nothing else of the
real runs.

Writes results/cluster_check.json. Needs an idle machine, about ten minutes. `--rounds 1 --replicas 1 --dry-run` tries whether
everything works.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import random_adapters
from benchmarks.adapter_traffic import counted
from benchmarks.cluster import Cluster, Times, Traffic, percentile, warm
from benchmarks.decode import DATA, exported
from benchmarks.decode_tables import MODEL
from benchmarks.goals import host
from benchmarks.http_streams import Answer, ask_all, ask_one
from benchmarks.sides import write

ADAPTERS, IN_MEMORY = 24, 6
FOUND = ("adapter_hits_total", "prefix_cache_hits_total", "prefix_cache_queries_total")
TRAFFIC = Traffic(clients=3, think_s=4.0, new_tokens=(16, 32), rows=8, kept_prefixes=8)
FIRST_WORDS, TURN_WORDS = 40, 20
PROMPT_WORDS = (20, 60, 120, 240)


@contextlib.contextmanager
def served(bundle: Path, replicas: int) -> Iterator[str]:
    """`ptune serve --ray` with so many replicas: its URL."""
    size = random_adapters.bytes_of(bundle / "adapters" / random_adapters.names(1)[0])
    command = [sys.executable, "-m", "ptune", "serve", str(bundle), "--ray", "--replicas", str(replicas)]
    command += ["--replica-cpus", "0", "--threads", "1", "--profile", "int8", "--port", "0", "--no-ui"]
    command += ["--max-rows", str(TRAFFIC.rows), "--kv-gb", "0.3", "--adapter-bytes", str(size * IN_MEMORY)]
    with tempfile.TemporaryDirectory() as folder:
        ready, log = Path(folder) / "ready", Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen([*command, "--ready-file", str(ready)], stdout=output, stderr=output)
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise SystemExit(f"the server did not start: {log.read_text(errors='replace')}")
                time.sleep(0.1)
            yield ready.read_text().strip()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


class Words:
    """Text that no prompt before has begun with."""

    def __init__(self, seed: int) -> None:
        lines = DATA.read_text(encoding="utf-8").splitlines()
        self._words = " ".join(
            one["content"] for line in lines for one in json.loads(line)["messages"]
        ).split()
        self._random = Random(seed)

    def __call__(self, count: int) -> str:
        return " ".join(self._random.choices(self._words, k=count))


def body(adapter: str, messages: list[dict[str, str]], tokens: int) -> dict[str, Any]:
    return {
        "model": adapter, "messages": messages, "max_tokens": tokens, "temperature": 0, "ignore_eos": True
    }  # fmt: skip


def measured(url: str) -> Times:
    """A replica's times, from the client's side."""
    words, names = Words(1), random_adapters.names(4)

    def asked(streams: int, length: int, tokens: int) -> list[Answer]:
        return ask_all(
            url,
            [body(name, [{"role": "user", "content": words(length)}], tokens) for name in names[:streams]],
        )

    def between(answers: list[Answer]) -> float:
        """Median seconds from token to token, once all of them are answered."""
        gaps = [b - a for one in answers for a, b in itertools.pairwise(one.times[4:])]
        return statistics.median(gaps)

    asked(4, 10, 8)  # reads the adapters
    one = statistics.median(between(asked(1, 10, 48)) for _ in range(5))
    four = statistics.median(between(asked(4, 10, 48)) for _ in range(5))
    firsts = []
    for length in PROMPT_WORDS * 3:
        cached = counted(url, FOUND)["prefix_cache_hits_total"]
        [answer] = asked(1, length, 2)
        cached = counted(url, FOUND)["prefix_cache_hits_total"] - cached  # the template's preamble
        firsts.append((answer.prompt_tokens - cached, answer.times[0]))
    slope, left = statistics.linear_regression(*zip(*firsts, strict=True))
    before = counted(url)
    for name in random_adapters.names(ADAPTERS)[4:16]:
        ask_all(url, [body(name, [{"role": "user", "content": words(5)}], 1)])
    after = counted(url)
    loads = after["adapter_loads_total"] - before["adapter_loads_total"]
    load = (after["adapter_load_seconds_total"] - before["adapter_load_seconds_total"]) / loads
    each = (four - one) / 3
    return Times(one - each, each, 0.0, slope, load, IN_MEMORY, max(left - one, 0.0))


class Clients:
    """Those of the simulation, in real time."""

    def __init__(self, url: str, replicas: int, rounds: int) -> None:
        self._url, self._rounds, self._count = url, rounds, TRAFFIC.clients * replicas
        self._words, self._random = Words(2), Random(0)
        self._weights = [1 / rank for rank in range(1, ADAPTERS + 1)]
        self.done: list[Answer] = []
        self.grown: list[
            tuple[int, int]
        ] = []  # a first prompt's tokens; what each further turn adds to what was said
        self._before: dict[str, float] = {}

    async def run(self) -> dict[str, Any]:
        """What the simulation's `run` returns, of the same part of the requests."""
        requests = self._count * self._rounds * TRAFFIC.turns
        self._first = requests // 3
        await asyncio.gather(*(self._client() for _ in range(self._count)))
        after = await asyncio.to_thread(counted, self._url, FOUND)
        hits, cached, tokens = (after[name] - self._before[name] for name in FOUND)
        found = self.done[self._first : requests * 9 // 10]
        seconds = found[-1].ended_s - found[0].ended_s
        first_s = [one.times[0] for one in found]
        return {
            "tokens_per_s": round(
                sum(one.tokens for one in found) / seconds / (self._count / TRAFFIC.clients), 1
            ),
            "first_token_s": {"p50": percentile(first_s, 0.5), "p95": percentile(first_s, 0.95)},
            "adapter_hit_rate": round(hits / (requests - self._first), 4),
            "prefix_share": round(cached / tokens, 4),
        }

    async def _client(self) -> None:
        for _ in range(self._rounds):
            [name] = self._random.choices(random_adapters.names(ADAPTERS), self._weights)
            messages: list[dict[str, str]] = []
            said = 0
            for turn in range(TRAFFIC.turns):
                await asyncio.sleep(self._random.expovariate(1 / TRAFFIC.think_s))
                messages.append({"role": "user", "content": self._words(TURN_WORDS if turn else FIRST_WORDS)})
                answer = await ask_one(
                    self._url, body(name, messages, self._random.randint(*TRAFFIC.new_tokens))
                )
                messages.append({"role": "assistant", "content": answer.text})
                self.grown.append((turn, answer.prompt_tokens - said))
                said = answer.prompt_tokens + answer.tokens
                self.done.append(answer)
                if len(self.done) == self._first:
                    self._before = await asyncio.to_thread(counted, self._url, FOUND)


def simulated(clients: Clients, replicas: int, rounds: int, times: Times) -> dict[str, Any]:
    """The same, simulated; the mean of ten runs, for each is short."""
    firsts = [tokens for turn, tokens in clients.grown if not turn]
    turns = [tokens for turn, tokens in clients.grown if turn]
    traffic = Traffic(
        TRAFFIC.clients,
        TRAFFIC.turns,
        round(statistics.mean(firsts)),
        round(statistics.mean(turns)),
        TRAFFIC.think_s,
        TRAFFIC.new_tokens,
        TRAFFIC.rows,
        TRAFFIC.kept_prefixes,
    )
    runs = [Cluster(warm(), replicas, ADAPTERS, rounds, times, traffic, seed).run() for seed in range(10)]

    def mean(read: Any) -> float:
        return round(statistics.mean(read(run) for run in runs), 4)

    return {
        "tokens_per_s": mean(lambda run: run["tokens_per_s"]),
        "first_token_s": {name: mean(lambda run, name=name: run["first_token_s"][name]) for name in ("p50", "p95")},
        "adapter_hit_rate": mean(lambda run: run["adapter_hit_rate"]),
        "prefix_share": mean(lambda run: run["prefix_share"]),
        "first_token_p50_range_s": [pick(run["first_token_s"]["p50"] for run in runs) for pick in (min, max)],
        "first_token_p95_range_s": [pick(run["first_token_s"]["p95"] for run in runs) for pick in (min, max)],
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--work", type=Path, required=True, help="where the adapters lie, kept for the next time"
    )
    options.add_argument("--bundle", type=Path, default=None, help="default: exported to WORK/bundle")
    options.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--rounds", type=int, default=10, help="conversations of each client")
    options.add_argument("--dry-run", action="store_true", help="write no file")
    chosen = options.parse_args()
    bundle = exported(MODEL, chosen.bundle or chosen.work / "bundle", "fp32,int8", 2)
    adapted = random_adapters.with_adapters(bundle, chosen.work, ADAPTERS)
    with served(adapted, 1) as url:
        times = measured(url)
    print(times, flush=True)
    rows: dict[str, Any] = {}
    for replicas in chosen.replicas:
        with served(adapted, replicas) as url:
            clients = Clients(url, replicas, chosen.rounds)
            real = asyncio.run(clients.run())
        rows[str(replicas)] = {
            "real": real,
            "simulated": simulated(clients, replicas, chosen.rounds, times),
        }
        print(replicas, json.dumps(rows[str(replicas)], indent=1), flush=True)
    document = {
        "command": "python -m benchmarks.cluster_check --work FOLDER",
        "rounds": chosen.rounds,
        "clients_per_replica": TRAFFIC.clients,
        "think_s": TRAFFIC.think_s,
        "times_s": vars(times),
        "rows": rows,
    }
    if not chosen.dry_run:
        write("cluster_check", {**document, "host": host()}, ("ptune", "onnxruntime", "ray"))


if __name__ == "__main__":
    main()
