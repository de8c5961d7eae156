"""The last hop: a real server process, asked over HTTP, against the engine in this process."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from ptune.codecs.chat import ChatCodec
from ptune.engine.engine import Engine
from ptune.engine.request import Request, Sampling
from ptune.errors import ParityError
from ptune.formats.bundle import Bundle, Hop
from ptune.verify import limits
from ptune.verify.torch_side import Probe

TOKENS = 8  # generated for each prompt
START_S = 180.0


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


def served_hops(
    bundle: Bundle, engine: Engine, probes: Sequence[Probe], names: Sequence[str], threads: int
) -> dict[str, Hop]:
    """Greedy continuations of every probe under every name, all at once over HTTP, against the engine's own."""
    jobs = [(name, probe.ids[: probe.prompt_tokens]) for probe in probes for name in names]
    with (
        serving(bundle.folder, threads) as url,
        httpx.Client(base_url=url, timeout=120) as client,
        ThreadPoolExecutor(len(names) * 4) as pool,
    ):
        answers = list(pool.map(lambda job: _ask(client, *job), jobs))
    stop_ids = ChatCodec.open(bundle.codec_path).eos_ids
    found: dict[str, tuple[int, int, float, int]] = dict.fromkeys(names, (0, 0, 0.0, 0))
    for (name, prompt), answer in zip(jobs, answers, strict=True):
        same, total, worst = _agreement(engine, stop_ids, name, prompt, answer)
        tokens, agreed, so_far, prompts = found[name]
        found[name] = tokens + total, agreed + same, max(so_far, worst), prompts + 1
    return {
        name: Hop(
            name="engine → server",
            prompts=prompts,
            positions=tokens,
            max_abs_logprob=worst,
            top1=agreed / tokens,
            limit=f"same tokens, max |Δ log p| ≤ {limits.MAX_ABS_LOGPROB:g}",
            passed=worst <= limits.MAX_ABS_LOGPROB and agreed == tokens,
        )
        for name, (tokens, agreed, worst, prompts) in found.items()
    }


def _ask(client: httpx.Client, name: str, prompt: tuple[int, ...]) -> list[tuple[int, float]]:
    body: dict[str, Any] = {"model": name, "prompt": list(prompt), "max_tokens": TOKENS, "temperature": 0}
    response = client.post("/v1/completions", json=body | {"logprobs": 0, "return_token_ids": True})
    if response.status_code != 200:
        raise ParityError(f"the server answered {response.status_code}: {response.text[:500]}")
    choice = response.json()["choices"][0]
    return list(zip(choice["token_ids"], choice["logprobs"]["token_logprobs"], strict=True))


def _agreement(
    engine: Engine,
    stop_ids: frozenset[int],
    name: str,
    prompt: tuple[int, ...],
    answer: list[tuple[int, float]],
) -> tuple[int, int, float]:
    """Tokens that agree, tokens compared, worst |Δ log p|. A first divergence at a tie ends the comparison, agreed."""
    request = Request(
        prompt, name, Sampling(temperature=0.0), max_tokens=TOKENS, stop_ids=stop_ids, logprobs=2
    )
    same, worst = 0, 0.0
    expected = list(engine.generate(request))
    for here, (token, logprob) in zip(expected, answer, strict=False):
        if here.id != token:
            gap = here.top[0][1] - here.top[1][1]
            tie = gap <= 2 * limits.MAX_ABS_LOGPROB
            return same + tie, same + 1, worst
        worst = max(worst, abs((here.logprob if here.logprob is not None else math.nan) - logprob))
        same += 1
    return same, max(len(expected), len(answer)), worst
