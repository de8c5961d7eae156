"""Routing over many replicas, simulated: python -m benchmarks.cluster                        (minutes, one core, no model)

What `serve/cluster/affinity.py` is worth, up to 256 replicas and 100,000 adapters, which no machine here could hold. The
routing is the server's own code; everything else is a model of one replica, whose times are measured (results/serve.json,
adapter_traffic.json, prefix_ttft.json; SmolLM2-135M in int8 on two cores). It is a simulation: it says how ways of routing
compare, not what a cluster does.

Assumed: a step takes a fixed time, and more for each sequence, each adapter and each prompt token in it. Adapters are read one
after the other, without delaying steps, and as many stay in memory as in the measured run (1 GB, 51 of rank 16). A replica
keeps the prefixes of its last 32 conversations. There are 32 clients for each replica. A client holds conversations of three
turns of 200 tokens, answered by 16 to 112, each conversation under an adapter by Zipf's law (exponent 1), and thinks before each
turn for 5 seconds on average (exponential). The network, Ray's proxy and the ingress take no time. All adapters lie in a folder that all replicas share. One ingress
routes and knows all loads; several would know a little less.

round robin         each replica in turn
least busy          the replica with the fewest requests
warm                `affinity`: adapter, then the beginning of the conversation, unless too busy

tokens_per_s        generated, per replica
first_token_s       p50 and p95, from the request to its first token
adapter_hit_rate    requests whose adapter was in memory when they came
prefix_share        prompt tokens that were found in a cache

Writes results/cluster.json. `--replicas 1 4 --adapters 100 --rounds 2 --dry-run` tries whether everything works.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import itertools
import json
import statistics
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from benchmarks.sides import RESULTS, write
from ptune_serve.cluster.affinity import Popularity, not_too_busy, ranked, seed_of

CHUNK = 128


@dataclass(frozen=True)
class Traffic:
    """What clients do, and how much a replica holds."""

    clients: int = 32  # of each replica
    turns: int = 3
    first_tokens: int = 200  # of a conversation's first prompt
    turn_tokens: int = 200  # that each further turn adds to what was said
    think_s: float = 5.0
    new_tokens: tuple[int, int] = (16, 112)
    rows: int = 32  # sequences in a batch
    kept_prefixes: int = 32


@dataclass(frozen=True)
class Times:
    """Of one replica, in seconds."""

    step: float
    sequence: float
    adapter: float  # of each sequence with one
    prompt_token: float
    load: float
    adapters_in_memory: int
    on_the_way: float = 0.0  # from a client to the replica and back

    @classmethod
    def measured(cls) -> Times:
        """From the results of the benchmarks that measured them."""
        serve = _result("serve")

        def between(row: str) -> float:
            found: float = serve[row]["latency"]["ptune"]["between_p50_s"]
            return found

        one, many = between("http_loss_b1"), between("http_loss_b32")
        sequence = (many - one) / 31
        adapter = (between("streams16_lora16_vs_llama_server") - between("streams16_vs_llama_server")) / 16
        prefix, traffic = json.loads((RESULTS / "prefix_ttft.json").read_text()), _result("adapter_traffic")
        tokens = prefix["rows"]["prefix_ttft"]["tokens"]
        prompt_token = statistics.median(prefix["passes"]["first_s"]) / tokens
        return cls(one - sequence, sequence, adapter, prompt_token, traffic["mean_load_s"], 51)


def _result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())["rows"]


@dataclass
class Request:
    """A turn of a conversation."""

    client: int
    adapter: int
    conversation: int
    turn: int
    prompt_tokens: int
    new_tokens: int
    asked_s: float = 0.0
    to_read: int = 0  # prompt tokens that are not in the cache
    answered: int = 0  # tokens
    ready_s: float = 0.0  # when its adapter is in memory
    first_s: float = 0.0
    done_s: float = 0.0


@dataclass
class Replica:
    """One engine: a queue, a batch, adapters in memory and prefixes of conversations."""

    name: str
    times: Times
    traffic: Traffic = Traffic()
    adapters: OrderedDict[int, float] = field(default_factory=OrderedDict)  # when each is there
    prefixes: OrderedDict[int, int] = field(default_factory=OrderedDict)  # tokens of conversations
    waiting: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)
    reads_until_s: float = 0.0
    stepping: bool = False
    event: int = -1  # the one that is valid: the end of a step, or the coming of an adapter

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.running)

    def accept(self, request: Request, now_s: float) -> tuple[bool, int]:
        """Queues a request. Returns whether its adapter was in memory, and how many of its tokens were in the cache."""
        warm = self.adapters.get(request.adapter, float("inf")) <= now_s
        if request.adapter not in self.adapters:
            self.reads_until_s = max(self.reads_until_s, now_s) + self.times.load
            self.adapters[request.adapter] = self.reads_until_s
            if len(self.adapters) > self.times.adapters_in_memory:
                self.adapters.popitem(last=False)
        self.adapters.move_to_end(request.adapter)
        request.ready_s = self.adapters[request.adapter]
        found = self.prefixes.pop(request.conversation, 0)
        request.to_read = request.prompt_tokens - found
        self.waiting.append(request)
        return warm, found

    def step(self, now_s: float) -> float | None:
        """Begins a step. Returns when it ends; None where there is nothing to do."""
        for request in [one for one in self.waiting if one.ready_s <= now_s][
            : self.traffic.rows - len(self.running)
        ]:
            self.waiting.remove(request)
            self.running.append(request)
        if not self.running:
            return min((one.ready_s for one in self.waiting), default=None)
        budget, decoding = CHUNK, 0
        for request in self.running:
            if request.to_read:
                share = min(budget, request.to_read)
                request.to_read -= share
                budget -= share
                decoding += share > 0 and not request.to_read
            else:
                decoding += 1
        times = self.times
        busy = decoding * (times.sequence + times.adapter) + (CHUNK - budget) * times.prompt_token
        return now_s + times.step + busy

    def ended(self, now_s: float) -> list[Request]:
        """Ends a step: a token for each sequence whose prompt is read. Returns the requests that are answered."""
        for request in self.running:
            if not request.to_read:
                request.answered += 1
                request.first_s = request.first_s or now_s
        done = [request for request in self.running if request.answered == request.new_tokens]
        self.running = [request for request in self.running if request.answered < request.new_tokens]
        for request in done:
            self.prefixes[request.conversation] = request.prompt_tokens + request.new_tokens
            if len(self.prefixes) > self.traffic.kept_prefixes:
                self.prefixes.popitem(last=False)
        return done


Route = Callable[[Request, list[Replica]], Replica]


def round_robin() -> Route:
    turns = itertools.count()
    return lambda request, replicas: replicas[next(turns) % len(replicas)]


def least_busy() -> Route:
    return lambda request, replicas: min(replicas, key=lambda replica: replica.load)


def warm() -> Route:
    popularity, seeds = Popularity(), dict[str, int]()

    def seed(replica: Replica) -> int:
        return seeds.setdefault(replica.name, seed_of(replica.name))

    def route(request: Request, replicas: list[Replica]) -> Replica:
        levels = (seed_of(f"adapter {request.adapter}"), seed_of(f"conversation {request.conversation}"))
        popularity.add(levels)
        order = ranked(levels, replicas, seed, popularity.share)
        return not_too_busy(order, lambda replica: replica.load)[0]

    return route


ROUTES: dict[str, Callable[[], Route]] = {"round robin": round_robin, "least busy": least_busy, "warm": warm}


class Cluster:
    """Replicas and their clients, event by event: the end of a step, an adapter that is there, a client that asks."""

    def __init__(
        self,
        route: Route,
        count: int,
        adapters: int,
        rounds: int,
        times: Times,
        traffic: Traffic = Traffic(),
        seed: int = 0,
    ) -> None:
        self._route, self._traffic, self._random = route, traffic, Random(seed)
        self._replicas = [Replica(f"replica-{number}", times, traffic) for number in range(count)]
        self._popular = list(itertools.accumulate(1 / rank for rank in range(1, adapters + 1)))
        self._conversations, self._order = itertools.count(), itertools.count()
        self._events: list[tuple[float, int, Replica | Request]] = []
        self._left = dict.fromkeys(range(traffic.clients * count), rounds)
        self.now_s = 0.0
        self.done: list[Request] = []
        self.found: list[tuple[bool, int, int]] = []  # adapter in memory, tokens in the cache, tokens

    def run(self) -> dict[str, Any]:
        """Until all clients have held their conversations. The first third of the requests is not counted, nor the last tenth."""
        for client in self._left:
            self._begin(client)
        while self._events:
            at_s, event, who = heapq.heappop(self._events)
            if isinstance(who, Request):
                self.now_s = at_s
                self._ask(who)
            elif event == who.event:  # else a request came before the adapter that it waited for
                self.now_s, who.stepping = at_s, False
                for request in who.ended(at_s):
                    self._answered(request)
                self._go_on(who)
        first, last = len(self.done) // 3, len(self.done) * 9 // 10
        counted = self.done[first:last]
        hits, cached, tokens = map(sum, zip(*self.found[first:last], strict=True))
        on_the_way = self._replicas[0].times.on_the_way
        first_s = [request.first_s - request.asked_s + on_the_way for request in counted]
        per_s = sum(request.new_tokens for request in counted) / (counted[-1].done_s - counted[0].done_s)
        return {
            "tokens_per_s": round(per_s / len(self._replicas), 1),
            "first_token_s": {"p50": percentile(first_s, 0.5), "p95": percentile(first_s, 0.95)},
            "adapter_hit_rate": round(hits / len(counted), 4),
            "prefix_share": round(cached / tokens, 4),
        }

    def _begin(self, client: int) -> None:
        adapter = bisect.bisect_left(self._popular, self._random.random() * self._popular[-1])
        self._think(client, adapter, next(self._conversations), 0, self._traffic.first_tokens)

    def _think(self, client: int, adapter: int, conversation: int, turn: int, prompt_tokens: int) -> None:
        new_tokens = self._random.randint(*self._traffic.new_tokens)
        request = Request(client, adapter, conversation, turn, prompt_tokens, new_tokens)
        at_s = self.now_s + self._random.expovariate(1 / self._traffic.think_s)
        heapq.heappush(self._events, (at_s, next(self._order), request))

    def _ask(self, request: Request) -> None:
        request.asked_s = self.now_s
        replica = self._route(request, self._replicas)
        self.found.append((*replica.accept(request, self.now_s), request.prompt_tokens))
        self._go_on(replica)

    def _answered(self, request: Request) -> None:
        request.done_s = self.now_s
        self.done.append(request)
        if request.turn + 1 < self._traffic.turns:
            tokens = request.prompt_tokens + request.new_tokens + self._traffic.turn_tokens
            self._think(request.client, request.adapter, request.conversation, request.turn + 1, tokens)
            return
        self._left[request.client] -= 1
        if self._left[request.client]:
            self._begin(request.client)

    def _go_on(self, replica: Replica) -> None:
        if not replica.stepping and (end_s := replica.step(self.now_s)) is not None:
            replica.stepping, replica.event = bool(replica.running), next(self._order)
            heapq.heappush(self._events, (max(end_s, self.now_s), replica.event, replica))


def percentile(values: Iterable[float], share: float) -> float:
    found = sorted(values)
    return round(found[min(int(share * len(found)), len(found) - 1)], 4)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--replicas", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    options.add_argument("--adapters", type=int, nargs="+", default=[100, 100_000])
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--dry-run", action="store_true")
    chosen = options.parse_args()
    times, rows = Times.measured(), dict[str, Any]()
    for adapters, count in itertools.product(chosen.adapters, chosen.replicas):
        for name, make in ROUTES.items():
            found = Cluster(make(), count, adapters, chosen.rounds, times).run()
            rows[f"{name} replicas={count} adapters={adapters}"] = found
            print(f"{count:4} replicas {adapters:7,} adapters  {name:12}", json.dumps(found), flush=True)
    document = {
        "command": "python -m benchmarks.cluster",
        "simulated": True,
        "times_s": vars(times),
        "rows": rows,
    }
    if not chosen.dry_run:
        write("cluster", document, ("ptune",))


if __name__ == "__main__":
    main()
