"""The hop "alone → in company": an answer must not depend on the sequences in its steps, nor on how its prompt is cut.

It is measured twice. Step by step, without a scheduler: a long sequence in one piece, against the same sequence in pieces of
many sizes, down to single tokens (as in generation), beside a neighbour at the last positions of the
context. And through the engine: greedy answers to prompts one at a time; then all at once among others with another chunk
size; once more from the prefix cache; and once more while another tenant takes slots, so that some of them are preempted and
resumed.

The bare base must give the same bits. An adapter's logits may differ by float32 rounding, because the plain graph's products with
its factors have one row or several; its tokens must be the same, except at a tie. With own operators they are the same bits, too.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np

from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.inputs.images import Picture
from ptune.engine.decoder.request import NO_TOKEN, Request, Token
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.decoder.step import Step
from ptune.engine.decoder.ticket import until_finish
from ptune.engine.kernels import kernels_for
from ptune.engine.sampling import Sampling
from ptune.formats.bundle import BASE, FLOAT_CACHE, FP32, NF4, Bundle, CacheType, Hop
from ptune.parity import Array, log_softmax

WATCHED, NEIGHBOURS = 8, 24  # sequences computed alone and in company; the company
ROWS = WATCHED + NEIGHBOURS  # of the engine that computes both
PROMPT = 48  # tokens of each
# Tokens of each answer; more for profiles that round activations, which have only this check.
ANSWER = {FP32: 16, NF4: 16}
ROUNDED_ANSWER = 64
ALONE_CHUNK, CROWDED_CHUNK = 256, 13  # prompt tokens a step
LONG = 320  # tokens of the sequence computed in pieces
# Tokens of the pieces; the last repeats until the sequence ends or STEPS are computed.
PIECES = (1, 7, 33, 2, 41, 65, 1, 1)
STEPS = 24
CACHE_BYTES = 1 << 30  # for the two sequences of that measurement
UNDER_WAY = 4  # tokens that every sequence has when another tenant takes slots
TIE = 1e-3  # between two log-probabilities, unless they were seen to move more


def hop(
    bundle: Bundle,
    profile: str,
    held: Sequence[Sequence[int]],
    *,
    threads: int,
    cache: CacheType = FLOAT_CACHE,
    pictures: Sequence[Picture] = (),
) -> Hop:
    """Measures the hop. held: at least one sequence of tokens to take prompts from. cache: type of keys and values.

    pictures: whose rows may be among them.
    """
    moved, longest = in_pieces(bundle, profile, held, threads=threads, cache=cache, pictures=pictures)
    most = ANSWER.get(profile, ROUNDED_ANSWER) if cache == FLOAT_CACHE else ROUNDED_ANSWER
    open_engine = partial(_engine, bundle, profile, threads, cache)
    names, alone, crowded, preempted = _answers(bundle, held, most, open_engine, pictures)
    note = f"{NEIGHBOURS} others, and one of {longest:,} tokens; {preempted} preempted"
    title = profile if cache == FLOAT_CACHE else f"{profile}, {cache} cache"
    return _compared(title, names, alone, crowded, moved, note)


def in_pieces(
    bundle: Bundle,
    profile: str,
    held: Sequence[Sequence[int]],
    *,
    threads: int,
    cache: CacheType = FLOAT_CACHE,
    pictures: Sequence[Picture] = (),
) -> tuple[float, int]:
    """Measures max |Δ log p| between a sequence alone in one piece, and in many pieces beside one at the context's end.

    Returns it with the neighbour's length in tokens.
    """
    signature = bundle.decoder
    tokens = CACHE_BYTES // max(1, signature.cache_bytes_per_token()) // 2
    room = KvCache(signature, 2, min(signature.context, max(tokens - 1, LONG)), dtype=cache)
    least = bundle.manifest.graphs[profile].least_tokens
    path = bundle.graph_path(profile, cache)
    graphs = Graphs.open(path, signature, threads, least, kernels_for(path, exact=True))
    step = Step(graphs, signature, room)
    ids = _long(held, min(LONG, room.capacity))
    whole = _computed(step, ids, (len(ids),), None, pictures)
    neighbour = TokenSequence([ids[0]] * room.capacity, pictures=pictures)
    neighbour.slot, neighbour.cached = 1, room.capacity - 1
    pieces = _computed(step, ids, PIECES, neighbour, pictures)
    apart = [np.abs(log_softmax(whole[at]) - log_softmax(row)).max() for at, row in pieces.items()]
    return float(np.max(apart)), room.capacity  # np.max keeps a NaN, Python's max may not


def _long(held: Sequence[Sequence[int]], length: int) -> list[int]:
    """Concatenates the held-out tokens, repeated up to `length`."""
    flat = [token for ids in held for token in ids][:length]
    return (flat * (-(-length // len(flat))))[:length]


def _computed(
    step: Step,
    ids: list[int],
    pieces: Sequence[int],
    neighbour: TokenSequence | None,
    pictures: Sequence[Picture],
) -> dict[int, Array]:
    """Computes `ids` piece by piece in slot 0; returns position -> logits [vocab] after it."""
    sequence = TokenSequence(ids, all_logits=True, pictures=pictures)
    sequence.slot = 0
    logits_at: dict[int, Array] = {}
    for number in range(STEPS):
        count = min(pieces[min(number, len(pieces) - 1)], sequence.uncached)
        if not count:
            break
        chunks = [Chunk(sequence, sequence.cached, count)]
        if neighbour is not None:
            chunks.append(Chunk(neighbour, neighbour.cached, 1))
        logits = step(chunks)[0]
        logits_at |= {sequence.cached + at: np.array(row) for at, row in enumerate(logits)}
        sequence.cached += count
    return logits_at


def _answers(
    bundle: Bundle,
    held: Sequence[Sequence[int]],
    most: int,
    open_engine: Callable[[int], Engine],
    pictures: Sequence[Picture],
) -> tuple[list[str], list[list[Token]], list[list[Token]], int]:
    """Returns the adapter of each watched answer, the answers alone, those in company, and how often one was preempted.

    most: tokens of an answer. open_engine: of a chunk's tokens.

    Each watched prompt stands there once for each way in which it is answered in company.
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
    with closing(open_engine(ALONE_CHUNK)) as engine:
        for prompt, name in watched:
            alone += engine.generate_all(
                [_greedy(prompt, name, engine.longest(adapter=name), most, pictures)]
            )
    begin = len(others[::2])
    with closing(open_engine(CROWDED_CHUNK)) as engine:
        crowd = [
            _greedy(prompt, name, engine.longest(adapter=name), most, pictures)
            for prompt, name in (*others[::2], *watched, *others[1::2])
        ]
        crowded = engine.generate_all(crowd)[begin : begin + len(watched)]
        again = crowd[begin : begin + len(watched)]
        crowded += engine.generate_all(again)  # from the prefix cache
        crowded += _while_preempted(engine, again * (ROWS // WATCHED), crowd[:begin])
        preempted = engine.stats().preempted
    ways = len(crowded) // len(watched)
    return [name for _, name in watched] * ways, alone * ways, crowded, preempted


def _while_preempted(
    engine: Engine, watched: Sequence[Request], others: Sequence[Request]
) -> list[list[Token]]:
    """Answers requests that fill the engine; when all are under way, another tenant's requests take slots from them."""
    queues: list[queue.SimpleQueue[Token]] = [queue.SimpleQueue() for _ in watched]
    waiting = [replace(request, tenant="another", max_tokens=2) for request in others]
    missing = dict.fromkeys(range(len(watched)), UNDER_WAY)  # tokens, of those that are not under way yet
    submitted = threading.Event()

    def deliver(index: int, token: Token) -> None:
        submitted.wait()
        queues[index].put(token)
        if index in missing:
            missing[index] -= 1
            if not missing[index] or token.finish:
                del missing[index]
        while waiting and not missing:
            engine.submit(waiting.pop(), lambda _: None)

    for index, request in enumerate(watched):
        engine.submit(request, partial(deliver, index))
    submitted.set()
    return [list(until_finish(tokens)) for tokens in queues]


def _engine(bundle: Bundle, profile: str, threads: int, cache: CacheType, chunk: int) -> Engine:
    return Engine.open(
        bundle,
        profile=profile,
        threads=threads,
        kv_cache_dtype=cache,
        prefill_chunk=chunk,
        max_rows=ROWS,
        kernels="exact",
        replay_golden=False,
    )


def _greedy(
    prompt: Sequence[int], name: str, context: int, most: int, pictures: Sequence[Picture]
) -> Request:
    tokens = min(most, context - len(prompt))
    shown = tuple(one for one in pictures if any(token in one.tokens for token in prompt))
    greedy = Sampling(temperature=0)
    return Request(tuple(prompt), name, greedy, max_tokens=tokens, logprobs=1, pictures=shown)


def _compared(
    profile: str,
    names: Sequence[str],
    alone: Sequence[list[Token]],
    crowded: Sequence[list[Token]],
    moved: float,
    note: str,
) -> Hop:
    worst: Mapping[bool, list[float]] = {True: [moved], False: [0.0]}  # for the bare base, for adapters
    same = positions = 0
    for name, expected, answer in zip(names, alone, crowded, strict=True):
        here, there = ([one for one in side if one.id != NO_TOKEN] for side in (expected, answer))
        for token, other in zip(here, there, strict=False):
            positions += 1
            gap = abs((token.logprob or 0.0) - (other.logprob or 0.0))
            if token.id != other.id:
                tie = gap <= 2 * max(*worst[False], TIE) and name != BASE
                same += tie  # the texts differ from here on
                break
            same += 1
            worst[name == BASE].append(gap)
        else:
            positions += abs(len(here) - len(there))  # of an answer that ended early, as one with an error
    base, adapters = (float(np.max(worst[kind])) for kind in (True, False))
    finite = bool(np.isfinite((base, adapters)).all())
    return Hop(
        name=f"{profile}: alone → in company",
        prompts=len(names),
        positions=positions,
        max_abs_logprob=max(base, adapters) if finite else None,
        top1=same / max(positions, 1),
        limit="same tokens; the base's the same bits",
        passed=finite and same == positions and base == 0.0,
        note=f"{note}; the base's moved by {base:g}" if finite else "some values are not finite",
    )
