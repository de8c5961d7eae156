"""The hop "alone → in company": what a sequence is answered must not depend on who shares its steps, or on how it is cut.

Two measurements. Step by step, without a scheduler: a long sequence in one piece, against the same sequence in pieces of many
sizes, down to single tokens (as it is generated, and as it is computed again after it gave way), beside a neighbour whose
positions are the last of the context. And through the engine: greedy answers to prompts that are asked alone, then all at once
among others, in other chunks, and once more with their prompts found in the prefix cache.

The bare base must give the same bits. An adapter's may differ by what float32 rounds, as the products with its factors are of one
row or of several: its tokens must be the same, a tie aside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

import numpy as np

from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.kv_cache import KvCache
from ptune.engine.decoder.request import NO_TOKEN, Request, Token
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.decoder.step import Step
from ptune.engine.sampling import Sampling
from ptune.formats.bundle import BASE, FP32, Bundle, Hop
from ptune.parity import Array, log_softmax

WATCHED, NEIGHBOURS = 8, 24  # sequences that are asked alone and in company, and that company
PROMPT = 48  # tokens of each
ANSWER = {
    FP32: 16
}  # tokens of each answer; of a profile that rounds activations more, as it is held to this alone
ROUNDED_ANSWER = 64
ALONE_CHUNK, CROWDED_CHUNK = 256, 13  # prompt tokens a step
LONG = 320  # tokens of the sequence that is computed in pieces
# Tokens of the pieces; the last repeats until the sequence ends or STEPS are computed.
PIECES = (1, 7, 33, 2, 41, 65, 1, 1)
STEPS = 24
CACHE_BYTES = 1 << 30  # of the two sequences of that measurement
TIE = 1e-3  # between two log-probabilities, where nothing more was seen to move


def hop(bundle: Bundle, profile: str, held: Sequence[Sequence[int]], *, threads: int) -> Hop:
    """held: sequences of tokens, one at least, that prompts are taken from."""
    moved, longest = in_pieces(bundle, profile, held, threads=threads)
    names, alone, crowded = _answers(bundle, profile, held, threads)
    return _compared(profile, names, alone, crowded, moved, longest)


def in_pieces(
    bundle: Bundle, profile: str, held: Sequence[Sequence[int]], *, threads: int
) -> tuple[float, int]:
    """max |Δ log p| between a sequence in one piece, alone, and in many beside another at the context's end.

    Returns it with that neighbour's length in tokens.
    """
    signature = bundle.decoder
    tokens = CACHE_BYTES // signature.cache_bytes_per_token() // 2
    cache = KvCache(signature, 2, min(signature.context, max(tokens - 1, LONG)))
    least = bundle.manifest.graphs[profile].least_tokens
    step = Step(Graphs.open(bundle.graph_path(profile), signature, threads, least), signature, cache)
    ids = _long(held, min(LONG, cache.capacity))
    whole = _computed(step, ids, (len(ids),), None)
    neighbour = TokenSequence([ids[0]] * cache.capacity)
    neighbour.slot, neighbour.cached = 1, cache.capacity - 1
    pieces = _computed(step, ids, PIECES, neighbour)
    worst = max(float(np.abs(log_softmax(whole[at]) - log_softmax(row)).max()) for at, row in pieces.items())
    return worst, cache.capacity


def _long(held: Sequence[Sequence[int]], length: int) -> list[int]:
    """The held-out tokens one after another, as often as it takes."""
    flat = [token for ids in held for token in ids][:length]
    return (flat * (-(-length // len(flat))))[:length]


def _computed(
    step: Step, ids: list[int], pieces: Sequence[int], neighbour: TokenSequence | None
) -> dict[int, Array]:
    """Position -> logits [vocab] after it, computed piece by piece in slot 0."""
    sequence = TokenSequence(ids, all_logits=True)
    sequence.slot = 0
    found: dict[int, Array] = {}
    for number in range(STEPS):
        count = min(pieces[min(number, len(pieces) - 1)], sequence.uncached)
        if not count:
            break
        chunks = [Chunk(sequence, sequence.cached, count)]
        if neighbour is not None:
            chunks.append(Chunk(neighbour, neighbour.cached, 1))
        logits = step(chunks)[0]
        found |= {sequence.cached + at: np.array(row) for at, row in enumerate(logits)}
        sequence.cached += count
    return found


def _answers(
    bundle: Bundle, profile: str, held: Sequence[Sequence[int]], threads: int
) -> tuple[list[str], list[list[Token]], list[list[Token]]]:
    """Whose adapters are watched, and their answers: alone; and in company, each of these twice."""
    random = np.random.default_rng(0)
    names = [BASE, *bundle.manifest.adapters]
    prompts = [list(held[index % len(held)][:PROMPT]) for index in range(WATCHED + NEIGHBOURS)]
    watched = [(prompt, names[index % len(names)]) for index, prompt in enumerate(prompts[:WATCHED])]
    others = [
        (prompt[: int(random.integers(1, len(prompt) + 1))], names[int(random.integers(len(names)))])
        for prompt in prompts[WATCHED:]
    ]
    most = ANSWER.get(profile, ROUNDED_ANSWER)
    alone: list[list[Token]] = []
    with closing(_engine(bundle, profile, threads, ALONE_CHUNK)) as engine:
        for prompt, name in watched:
            alone += engine.generate_all([_greedy(prompt, name, engine.context, most)])
    begin = len(others[::2])
    with closing(_engine(bundle, profile, threads, CROWDED_CHUNK)) as engine:
        crowd = [_greedy(*one, engine.context, most) for one in (*others[::2], *watched, *others[1::2])]
        crowded = engine.generate_all(crowd)[begin : begin + len(watched)]
        again = engine.generate_all(crowd[begin : begin + len(watched)])  # their prompts are in the cache
    return [name for _, name in watched] * 2, alone * 2, crowded + again


def _engine(bundle: Bundle, profile: str, threads: int, chunk: int) -> Engine:
    return Engine.open(
        bundle, profile=profile, threads=threads, prefill_chunk=chunk, max_rows=32, replay_golden=False
    )


def _greedy(prompt: Sequence[int], name: str, context: int, most: int) -> Request:
    tokens = min(most, context - len(prompt))
    return Request(tuple(prompt), name, Sampling(temperature=0), max_tokens=tokens, logprobs=1)


def _compared(
    profile: str,
    names: Sequence[str],
    alone: Sequence[list[Token]],
    crowded: Sequence[list[Token]],
    moved: float,
    longest: int,
) -> Hop:
    worst: Mapping[bool, list[float]] = {True: [moved], False: [0.0]}  # of the bare base, of adapters
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
        note=f"{NEIGHBOURS} others, and one of {longest:,} tokens; the base's moved by {base:g}",
    )
