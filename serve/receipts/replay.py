"""Computes an answer again from its receipt, with the same bundle, and compares it token by token."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.engine.options import EngineOptions
from ptune.errors import PtuneError
from ptune.formats.adapter_sum import digest_of
from ptune.formats.bundle import Bundle
from ptune.tasks.chat import infer

from ..access.keys import ANYBODY
from ..app import create_app
from ..batches.ask import AskApp
from ..service import Settings


@dataclass(frozen=True)
class Replayed:
    """tokens: of all answers. differs: of the first answer that does, its number and the place of the token."""

    tokens: int
    answers: int
    differs: tuple[int, int] | None


def replay(receipt: dict[str, Any], bundle: Path, options: EngineOptions) -> Replayed:
    """Raises: PtuneError where the bundle holds another base or adapter, or the request is refused."""
    _check_same(receipt, Bundle.open(bundle))
    model = infer.load(bundle, options=options)
    try:
        settings = Settings(thinking_token_budget=receipt["thinking_token_budget"])
        app = create_app(model, settings)
        ask = AskApp(app, app.state.service)
        answer = asyncio.run(_asked(ask, receipt))
    finally:
        model.close()
    return _compared([choice["token_ids"] for choice in answer["choices"]], receipt["answers"])


async def _asked(ask: AskApp, receipt: dict[str, Any]) -> dict[str, Any]:
    answer = await ask(ANYBODY.name, receipt["endpoint"], receipt["body"], receipt["id"], asyncio.Event())
    if answer is None or answer.status != 200:
        why = "" if answer is None else f": {answer.body['error']['message']}"
        raise PtuneError(f"the request of {receipt['id']} is not answered now{why}")
    return answer.body


def _check_same(receipt: dict[str, Any], bundle: Bundle) -> None:
    name = receipt["body"]["model"]
    for what, then, now in (
        ("base", receipt["base"], bundle.manifest.base.hash),
        (f"adapter {name}", receipt["adapter"], digest_of(name, bundle.manifest.adapters)),
    ):
        if then != now:
            raise PtuneError(
                f"{receipt['id']} was answered by another {what}: {then} there, {now} in {bundle.folder}"
            )


def _compared(again: list[list[int]], answers: list[dict[str, Any]]) -> Replayed:
    """An answer that was cancelled is compared as far as it went."""
    tokens = sum(len(answer["tokens"]) for answer in answers)
    for number, (ids, answer) in enumerate(zip(again, answers, strict=True)):
        then = answer["tokens"]
        ids = ids[: len(then)] if answer["finish"] in (None, "cancelled", "error") else ids
        if ids != then:
            at = next((i for i, (a, b) in enumerate(zip(ids, then, strict=False)) if a != b), min(len(ids), len(then)))  # fmt: skip
            return Replayed(tokens, len(answers), (number, at))
    return Replayed(tokens, len(answers), None)
