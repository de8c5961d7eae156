"""The last hop: a real server process, asked over HTTP, against the engine in this process; of chat, its greedy tokens."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np

from ptune.codecs.chat import ChatCodec
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request, Token
from ptune.engine.sampling import Sampling
from ptune.errors import ParityError
from ptune.formats.bundle import FLOAT, Bundle, Hop
from ptune.verify import limits
from ptune.verify.torch_side import Probe

TOKENS = 8  # generated for each prompt
START_S = 180.0
ANSWER_S = 600.0
AT_ONCE = 12  # requests in flight
Question = TypeVar("Question")
Answer = TypeVar("Answer")


@contextlib.contextmanager
def serving(bundle: Path, threads: int, *arguments: str) -> Iterator[str]:
    """Starts `ptune serve BUNDLE` on a free port and yields its URL; stops it afterwards.

    Raises: ParityError with the server's own words where it does not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        ready, log = Path(folder) / "ready", Path(folder) / "log"
        command = [sys.executable, "-m", "ptune", "serve", str(bundle), "--port", "0", "--no-ui"]
        command += ["--ready-file", str(ready), "--threads", str(threads), *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + START_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ParityError(
                        f"the server did not start: {log.read_text(errors='replace').strip()[-2000:]}"
                    )
                time.sleep(0.05)
            yield ready.read_text().strip()
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def ask_all(
    bundle: Path,
    threads: int,
    questions: Sequence[Question],
    ask: Callable[[httpx.Client, Question], Answer],
) -> list[Answer]:
    """Asks a fresh server of a bundle's fp32 graph many questions at once.

    Raises: ParityError where one has no answer.
    """
    with (
        serving(bundle, threads, "--profile", FLOAT) as url,
        httpx.Client(base_url=url, timeout=ANSWER_S) as client,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        return list(pool.map(partial(ask, client), questions))


def post(client: httpx.Client, path: str, body: Mapping[str, Any]) -> Any:
    """The JSON that a server answers. Raises: ParityError with the server's own words where it refuses."""
    try:
        response = client.post(path, json=body)
    except httpx.HTTPError as error:
        raise ParityError(f"the server gave no answer: {type(error).__name__}: {error}") from None
    if response.status_code != 200:
        raise ParityError(f"the server answered {response.status_code}: {response.text[:500]}")
    return response.json()


@dataclass(frozen=True)
class Agreement:
    """How an answer over HTTP compares with the engine's own."""

    same: int  # tokens, labels, entities that agree
    compared: int
    worst: float  # |Δ log p|; of a regression |Δ|, as a share of the number where that is more than 1


def hop(
    found: Sequence[Agreement],
    compared: str,
    measured: str = "max |Δ log p|",
    limit: float = limits.MAX_ABS_LOGPROB,
) -> Hop:
    """One hop of all answers under a name. compared: what must be the same: "tokens"."""
    same, total = sum(one.same for one in found), sum(one.compared for one in found)
    worst = float(np.max([one.worst for one in found]))  # keeps a NaN
    finite = bool(np.isfinite(worst))
    return Hop(
        name="engine → server",
        prompts=len(found),
        positions=total,
        max_abs_logprob=worst if finite else None,
        top1=same / total,
        limit=f"same {compared}, {measured} ≤ {limit:g}",
        passed=finite and worst <= limit and same == total,
        note="" if finite else "some values are not finite",
    )


@dataclass(frozen=True)
class Continuation:
    """What the engine answers to a prompt under a name, greedily."""

    name: str
    prompt: tuple[int, ...]
    tokens: list[Token]


def continuations(
    bundle: Bundle, engine: Engine, probes: Sequence[Probe], names: Sequence[str]
) -> list[Continuation]:
    """Every probe's prompt under every name, in one batch."""
    stop_ids = ChatCodec.open(bundle.codec_path).eos_ids
    jobs = [(name, probe.ids[: probe.prompt_tokens]) for probe in probes for name in names]
    greedy = Sampling(temperature=0.0)
    requests = [Request(prompt, name, greedy, TOKENS, stop_ids, logprobs=2) for name, prompt in jobs]
    answers = engine.generate_all(requests)
    return [Continuation(*job, list(answer)) for job, answer in zip(jobs, answers, strict=True)]


def served_hops(bundle: Bundle, expected: Sequence[Continuation], threads: int) -> dict[str, Hop]:
    """The same prompts over HTTP, many at once, against the engine's own continuations."""
    answers = ask_all(bundle.folder, threads, expected, _ask)
    found: dict[str, list[Agreement]] = {}
    for one, answer in zip(expected, answers, strict=True):
        found.setdefault(one.name, []).append(_agreement(one.tokens, answer))
    return {name: hop(agreements, "tokens") for name, agreements in found.items()}


def _ask(client: httpx.Client, one: Continuation) -> list[tuple[int, float]]:
    body = {"model": one.name, "prompt": list(one.prompt), "max_tokens": TOKENS, "temperature": 0}
    answer = post(client, "/v1/completions", {**body, "logprobs": 0, "return_token_ids": True})
    choice = answer["choices"][0]
    return list(zip(choice["token_ids"], choice["logprobs"]["token_logprobs"], strict=True))


def _agreement(expected: Sequence[Token], answer: Sequence[tuple[int, float]]) -> Agreement:
    """How many tokens agree. A first divergence at a tie ends the comparison, agreed."""
    same, worst = 0, 0.0
    for here, (token, logprob) in zip(expected, answer, strict=False):
        if here.id != token:
            tie = here.top[0][1] - here.top[1][1] <= 2 * limits.MAX_ABS_LOGPROB
            return Agreement(same + tie, same + 1, worst)
        assert here.logprob is not None
        worst = max(worst, abs(here.logprob - logprob))
        same += 1
    return Agreement(same, max(len(expected), len(answer)), worst)
