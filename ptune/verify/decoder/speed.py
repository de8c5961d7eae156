"""How fast each profile of a bundle answers on this machine, one request after the other, as a server here would."""

from __future__ import annotations

import itertools
import time
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request
from ptune.engine.encoder.batch import Item
from ptune.engine.encoder.engine import EncoderEngine
from ptune.engine.encoder.golden import load_inputs
from ptune.engine.sampling import Sampling
from ptune.errors import UsageError
from ptune.formats.bundle import BASE, Bundle
from ptune.kinds import DECODER, ENCODER, of_task

TOKENS = 48  # generated
PROMPT = 8  # tokens before them
LONGEST_S = 10.0  # that inputs are given for
PASSES = 64  # at most


@dataclass(frozen=True)
class Speed:
    """The median of what one request after the other gets."""

    per_s: float
    unit: str  # tokens or inputs


def speeds(bundle: Bundle, threads: int) -> dict[str, Speed]:
    """Each profile's speed with the bundle's first adapter, or the base. threads: of onnxruntime.

    Raises: UsageError for an encoder-decoder, which has one profile.
    """
    kind = of_task(bundle.manifest.task)
    adapter = next(iter(bundle.manifest.adapters), BASE)
    if kind is DECODER:
        return {one: _of_tokens(bundle, one, adapter, threads) for one in bundle.manifest.graphs}
    if kind is ENCODER:
        return {one: _of_inputs(bundle, one, adapter, threads) for one in bundle.manifest.graphs}
    raise UsageError(
        f"{bundle.folder} is of an encoder-decoder, which has one profile: there is nothing to choose by"
    )


def _of_tokens(bundle: Bundle, profile: str, adapter: str, threads: int) -> Speed:
    arrivals: list[float] = []
    with closing(Engine.open(bundle, profile=profile, threads=threads, replay_golden=False)) as engine:
        prompt = tuple(range(min(PROMPT, engine.signature.vocab_size)))
        most = min(TOKENS, engine.longest(adapter=adapter) - len(prompt))
        greedy = Sampling(temperature=0)
        asked = Request(prompt, adapter=adapter, sampling=greedy, max_tokens=most, stop_ids=frozenset())
        for _ in engine.generate(asked):
            arrivals.append(time.perf_counter())
    return Speed(1 / float(np.median(np.diff(arrivals))), "tokens")


def _of_inputs(bundle: Bundle, profile: str, adapter: str, threads: int) -> Speed:
    inputs = load_inputs(bundle.folder)
    times: list[float] = []
    with closing(EncoderEngine.open(bundle, profile=profile, threads=threads, replay_golden=False)) as engine:
        engine.logits([Item(inputs[0], adapter)])
        for one in itertools.islice(itertools.cycle(inputs), PASSES):
            begun = time.perf_counter()
            engine.logits([Item(one, adapter)])
            times.append(time.perf_counter() - begun)
            if sum(times) > LONGEST_S:
                break
    return Speed(1 / float(np.median(times)), "inputs")
