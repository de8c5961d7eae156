"""The last hop of every proof: a real server process over HTTP against the engine in this process."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import numpy as np

from ptune.child import module_command
from ptune.errors import ParityError
from ptune.formats.bundle import Bundle, Hop
from ptune.progress import Progress
from ptune.verify import limits

TOKENS = 8  # generated for each prompt
START_S = 180.0
ANSWER_S = 600.0
AT_ONCE = 12  # requests in flight
TIE = 2 * limits.MAX_ABS_LOGPROB  # two answers this close may swap


class Asked(Protocol):
    """A question to a server, with the engine's answer."""

    @property
    def name(self) -> str:
        """The adapter to ask, or `base`."""
        ...


Question = TypeVar("Question", bound=Asked)
Answer = TypeVar("Answer")


@contextlib.contextmanager
def serving(bundle: Path, threads: int, *arguments: str) -> Iterator[str]:
    """Starts `ptune serve BUNDLE` on a free port and yields its URL; stops it afterwards.

    Raises: ParityError with the server's output if it does not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        ready, log = Path(folder) / "ready", Path(folder) / "log"
        command = module_command("ptune", "serve", str(bundle), "--port", "0", "--no-ui")
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
    *arguments: str,
) -> list[Answer]:
    """Starts a server of a bundle's reference graph and asks many questions at once. arguments: further ones of the server.

    Raises: ParityError if one has no answer.
    """
    with (
        serving(bundle, threads, "--profile", Bundle.open(bundle).reference, *arguments) as url,
        httpx.Client(base_url=url, timeout=ANSWER_S) as client,
        ThreadPoolExecutor(AT_ONCE) as pool,
        Progress("  the server", len(questions), unit="answers") as progress,
    ):
        answers = []
        for answer in pool.map(partial(ask, client), questions):
            answers.append(answer)
            progress.advance()
        return answers


def post(client: httpx.Client, path: str, body: Mapping[str, Any]) -> Any:
    """Posts a request and returns the JSON answer. Raises: ParityError with the server's message if it refuses."""
    try:
        response = client.post(path, json=body)
    except httpx.HTTPError as error:
        raise ParityError(f"the server gave no answer: {type(error).__name__}: {error}") from None
    if response.status_code != 200:
        raise ParityError(f"the server answered {response.status_code}: {response.text[:500]}")
    return response.json()


@dataclass(frozen=True)
class Agreement:
    """The comparison of an answer over HTTP with the engine's."""

    same: int  # tokens, labels, entities that agree
    compared: int
    worst: float = 0.0  # |Δ log p|; for a regression |Δ|, relative for numbers above 1


def agreements(
    bundle: Path,
    threads: int,
    questions: Sequence[Question],
    ask: Callable[[httpx.Client, Question], Answer],
    compare: Callable[[Question, Answer], Agreement],
    *arguments: str,
) -> dict[str, list[Agreement]]:
    """Starts a server, asks all questions, and compares the answers with the engine's; by adapter name."""
    by_name: dict[str, list[Agreement]] = {}
    answers = ask_all(bundle, threads, questions, ask, *arguments)
    for question, answer in zip(questions, answers, strict=True):
        by_name.setdefault(question.name, []).append(compare(question, answer))
    return by_name


def hop(
    answers: Sequence[Agreement],
    compared: str,
    measured: str | None = "max |Δ log p|",
    limit: float = limits.MAX_ABS_LOGPROB,
) -> Hop:
    """Makes one hop of all answers under a name.

    compared: the things that must be equal, such as "tokens". measured: the number that must be within `limit`, in
    words; None if answers have none.
    """
    same, total = sum(one.same for one in answers), sum(one.compared for one in answers)
    worst = float(np.max([one.worst for one in answers]))  # keeps a NaN
    finite = bool(np.isfinite(worst))
    return Hop(
        name="engine → server",
        prompts=len(answers),
        positions=total,
        max_abs_logprob=worst if finite and measured is not None else None,
        top1=same / total,
        limit=f"same {compared}" + ("" if measured is None else f", {measured} ≤ {limit:g}"),
        passed=finite and worst <= limit and same == total,
        note="" if finite else "some values are not finite",
    )
