"""A decoder's last hop: a real server process against the engine's greedy answers, for prompts in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from ptune.codecs.chat import ChatCodec
from ptune.codecs.vision import FIRST_ROW
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request, Token
from ptune.engine.options import KernelChoice
from ptune.engine.sampling import Sampling
from ptune.formats.bundle import Bundle, Hop
from ptune.verify.decoder.torch_side import Probe
from ptune.verify.server import TIE, TOKENS, Agreement, agreements, hop, post


@dataclass(frozen=True)
class Continuation:
    """The engine's greedy answer to a prompt under a name."""

    name: str
    prompt: tuple[int, ...]
    tokens: list[Token]


def continuations(
    bundle: Bundle, engine: Engine, probes: Sequence[Probe], names: Sequence[str]
) -> list[Continuation]:
    """Continues every probe's prompt under every name that leaves room for it, in one batch."""
    stop_ids = ChatCodec.open(bundle.codec_path).eos_ids
    # The server is asked in tokens, which images are not sent as.
    prompts = [probe.ids[: probe.prompt_tokens] for probe in probes if max(probe.ids) < FIRST_ROW]
    jobs = [
        (name, prompt)
        for prompt in prompts
        for name in names
        if len(prompt) + TOKENS <= engine.longest(adapter=name)
    ]
    greedy = Sampling(temperature=0.0)
    requests = [Request(prompt, name, greedy, TOKENS, stop_ids, logprobs=2) for name, prompt in jobs]
    answers = engine.generate_all(requests)
    return [Continuation(*job, list(answer)) for job, answer in zip(jobs, answers, strict=True)]


def served_hops(
    bundle: Bundle, expected: Sequence[Continuation], threads: int, kernels: KernelChoice
) -> dict[str, Hop]:
    """Compares the same prompts over HTTP, many at once, with the engine's continuations. kernels: the server's operators."""
    by_name = agreements(bundle.folder, threads, expected, _ask, _agreement, "--kernels", kernels)
    return {name: hop(answers, "tokens") for name, answers in by_name.items()}


def _ask(client: httpx.Client, continuation: Continuation) -> list[tuple[int, float]]:
    body = {
        "model": continuation.name,
        "prompt": list(continuation.prompt),
        "max_tokens": TOKENS,
        "temperature": 0,
    }
    answer = post(client, "/v1/completions", {**body, "logprobs": 0, "return_token_ids": True})
    choice = answer["choices"][0]
    return list(zip(choice["token_ids"], choice["logprobs"]["token_logprobs"], strict=True))


def _agreement(continuation: Continuation, answer: Sequence[tuple[int, float]]) -> Agreement:
    """Counts agreeing tokens, up to the first difference; a difference at a tie counts as agreement."""
    same, worst = 0, 0.0
    for here, (token, logprob) in zip(continuation.tokens, answer, strict=False):
        if here.id != token:
            tie = here.top[0][1] - here.top[1][1] <= TIE
            return Agreement(same + tie, same + 1, worst)
        assert here.logprob is not None
        worst = float(np.maximum(worst, abs(here.logprob - logprob)))  # keeps a NaN
        same += 1
    return Agreement(same, max(len(continuation.tokens), len(answer)), worst)
