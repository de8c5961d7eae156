"""The gate of a decoder's profile: it must say what fp32 says, and say it whoever shares its batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing

import numpy as np

from ptune.engine.adapters.lora import load_adapter
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.lora_slots import LoraSlots
from ptune.engine.decoder.request import NO_TOKEN, Request, Token
from ptune.engine.sampling import Sampling
from ptune.export.write import NF4
from ptune.formats.bundle import BASE, FLOAT, Bundle, Hop
from ptune.parity import Array, compare
from ptune.verify.graph import Factors, PlainGraph
from ptune.verify.limits import (
    INT4_KEPT_KL,
    INT4_KEPT_TOP1,
    INT4_KL,
    INT4_TOP1,
    MAX_ABS_SAME_WEIGHTS,
    PROFILE_KL,
    PROFILE_TOP1,
)
from ptune.verify.prove import Proof

Progress = Callable[[str, float], None]
WATCHED, NEIGHBOURS = 4, 28  # sequences that are asked alone and in company, and that company
PROMPT, ANSWER = 48, 64  # tokens of each
ALONE_CHUNK, CROWDED_CHUNK = 256, 13  # prompt tokens a step
MEASURED = 48  # tokens
TIE = 1e-3  # between two log-probabilities, where nothing more was seen to move


def prove_profile(
    bundle: Bundle,
    profile: str,
    adapters: Sequence[str],
    held: Sequence[Sequence[int]],
    *,
    threads: int,
    base: bool = True,
    progress: Progress = lambda *_: None,
) -> Proof:
    """Compares a profile with fp32 over held-out tokens, for the base and for each adapter, then with itself in company.

    base: whether the bare base is compared, too.
    """
    progress(f"{profile} against {FLOAT}", 0.0)
    signature = bundle.decoder
    graphs = [PlainGraph(bundle.graph_path(one), signature, threads) for one in (FLOAT, profile)]
    limits, note = _held_to(bundle, profile)
    found: dict[str, list[Hop]] = {}
    for name in [*([BASE] if base else []), *adapters]:
        factors = None if name == BASE else _factors(bundle, name)
        floats, rounded = (_said(graph, held, factors) for graph in graphs)
        hop = compare(f"{FLOAT} → {profile}", floats, rounded, note=note, **limits)
        found[name] = [hop]
    del graphs
    progress(f"{profile} alone and in company", 0.5)
    crowd = in_company(bundle, profile, held, threads=threads)
    first = BASE if base else next(iter(adapters), BASE)
    found.setdefault(first, []).append(crowd)
    return Proof(tuple(found.pop(BASE, ())), {name: tuple(hops) for name, hops in found.items()})


def _held_to(bundle: Bundle, profile: str) -> tuple[dict[str, float], str]:
    """A profile's limits, and what there is to say of its weights."""
    if profile == NF4:
        return {"max_abs_logprob": MAX_ABS_SAME_WEIGHTS}, "the very weights of fp32, on the bytes of nf4"
    kept = bundle.manifest.graphs[profile].kept
    if kept is None:
        return {"mean_kl": PROFILE_KL, "top1": PROFILE_TOP1}, ""
    if kept == 1:
        return {"mean_kl": INT4_KEPT_KL, "top1": INT4_KEPT_TOP1}, "weights as the source has them in 4 bits"
    return {"mean_kl": INT4_KL, "top1": INT4_TOP1}, f"{1 - kept:.1%} of the weights rounded to 4 bits"


def _said(graph: PlainGraph, held: Sequence[Sequence[int]], factors: Factors | None) -> Iterator[Array]:
    return (graph.logprobs(ids, range(len(ids)), factors) for ids in held)


def _factors(bundle: Bundle, name: str) -> Factors:
    """An adapter's, of the same rank in every socket."""
    adapter = load_adapter(bundle.adapter_path(name), bundle.decoder)
    inputs = LoraSlots(bundle.decoder, 1).of([adapter]).inputs
    return {socket: (inputs[f"{socket}.A"][0], inputs[f"{socket}.B"][0]) for socket in adapter.factors}


def in_company(bundle: Bundle, profile: str, held: Sequence[Sequence[int]], *, threads: int) -> Hop:
    """Greedy answers to the same prompts, each alone and all of them among others, in prompt chunks of other sizes.

    The base's own must be the same bits. An adapter's may differ by what float32 rounds, as the products with its
    factors are of one row or of several: its tokens must be the same, a tie aside.
    """
    random = np.random.default_rng(0)
    names = [BASE, *bundle.manifest.adapters]
    prompts = [list(held[index % len(held)][:PROMPT]) for index in range(WATCHED + NEIGHBOURS)]
    watched = [(prompt, names[index % len(names)]) for index, prompt in enumerate(prompts[:WATCHED])]
    others = [
        (prompt[: int(random.integers(1, len(prompt) + 1))], names[int(random.integers(len(names)))])
        for prompt in prompts[WATCHED:]
    ]
    alone: list[list[Token]] = []
    with closing(_engine(bundle, profile, threads, ALONE_CHUNK)) as engine:
        for one in watched:
            alone += engine.generate_all([_greedy(*one, engine.context)])
    with closing(_engine(bundle, profile, threads, CROWDED_CHUNK)) as engine:
        crowd = [_greedy(*one, engine.context) for one in (*others[::2], *watched, *others[1::2])]
        begin = len(others[::2])
        crowded = engine.generate_all(crowd)[begin : begin + len(watched)]
    return _compared(profile, [name for _, name in watched], alone, crowded)


def seconds_a_token(bundle: Bundle, profile: str, threads: int) -> float:
    """How long a sequence waits for its next token when it is alone: the median of MEASURED, after a few."""
    arrivals: list[float] = []
    with closing(_engine(bundle, profile, threads, ALONE_CHUNK)) as engine:
        prompt = tuple(range(min(8, engine.signature.vocab_size)))
        most = min(MEASURED, engine.context - len(prompt))
        for _ in engine.generate(Request(prompt, sampling=Sampling(temperature=0), max_tokens=most)):
            arrivals.append(time.perf_counter())
    return float(np.median(np.diff(arrivals)))


def _engine(bundle: Bundle, profile: str, threads: int, chunk: int) -> Engine:
    return Engine.open(
        bundle, profile=profile, threads=threads, prefill_chunk=chunk, max_rows=32, replay_golden=False
    )


def _greedy(prompt: Sequence[int], name: str, context: int) -> Request:
    most = min(ANSWER, context - len(prompt))
    return Request(tuple(prompt), name, Sampling(temperature=0), max_tokens=most, logprobs=1)


def _compared(
    profile: str, names: Sequence[str], alone: Sequence[list[Token]], crowded: Sequence[list[Token]]
) -> Hop:
    worst: Mapping[bool, list[float]] = {True: [0.0], False: [0.0]}  # of the bare base, of adapters
    same = positions = 0
    for name, expected, found in zip(names, alone, crowded, strict=True):
        pairs = [(a, b) for a, b in zip(expected, found, strict=False) if NO_TOKEN not in (a.id, b.id)]
        for one, other in pairs:
            positions += 1
            gap = abs((one.logprob or 0.0) - (other.logprob or 0.0))
            if one.id != other.id:
                tie = gap <= 2 * max(*worst[False], TIE) and name != BASE
                same += tie  # what follows is another text
                break
            same += 1
            worst[name == BASE].append(gap)
    base, adapters = (max(worst[kind]) for kind in (True, False))
    return Hop(
        name=f"{profile}: alone → in company",
        prompts=len(names),
        positions=positions,
        max_abs_logprob=max(base, adapters),
        top1=same / max(positions, 1),
        limit="same tokens; the base's the same bits",
        passed=same == positions and base == 0.0,
        note=f"{len(names)} answers of {ANSWER} tokens, {NEIGHBOURS} others; the base's moved by {base:g}",
    )
