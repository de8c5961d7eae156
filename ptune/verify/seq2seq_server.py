"""An encoder-decoder's last hop: a real server process, asked with texts, against the engine in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from ptune.engine.seq2seq.golden import Pair
from ptune.engine.seq2seq.request import Seq2SeqRequest
from ptune.formats.bundle import Bundle, Hop
from ptune.tasks.translation.seq2seq_infer import Seq2SeqModel
from ptune.verify.probes import WITHOUT_DATA
from ptune.verify.server import TIE, TOKENS, Agreement, agreements, hop, post


@dataclass(frozen=True)
class Question:
    """A text, as a client sends it, and what the engine writes under a name, greedily."""

    name: str
    text: str
    ids: tuple[int, ...]
    tied: tuple[bool, ...]  # of each token, whether another one was as likely


def questions(model: Seq2SeqModel, pairs: Sequence[Pair], names: Sequence[str]) -> list[Question]:
    """The held-out sources, turned back into what a client would send, under every name."""
    asked = [(name, _text(model, pair, name, at)) for at, pair in enumerate(pairs) for name in names]
    sentences = [model.sentence(text, name, TOKENS) for name, text in asked]
    written = [one.ids for one in model.engine.generate(sentences)]
    again = [
        Seq2SeqRequest(one.source, one.adapter, forced_ids=ids)
        for one, ids in zip(sentences, written, strict=True)
    ]
    banned = list(model.codec.writing.banned_ids)
    asked_of_server = []
    for one, (name, text) in zip(model.engine.generate(again), asked, strict=True):
        assert one.logits is not None
        logits = one.logits.copy()
        logits[:, banned] = -np.inf
        best = np.sort(logits, -1)[:, -2:]
        tied = tuple((best[:, 1] - best[:, 0] <= TIE).tolist())
        asked_of_server.append(Question(name, text, one.ids, tied))
    return asked_of_server


def served_hops(bundle: Bundle, asked: Sequence[Question], threads: int) -> dict[str, Hop]:
    """The same texts over HTTP, many at once, against the engine's own tokens; a hop a name."""
    by_name = agreements(bundle.folder, threads, asked, _ask, agreement)
    return {name: hop(answers, "tokens", measured=None) for name, answers in by_name.items()}


def agreement(one: Question, ids: Sequence[int]) -> Agreement:
    """How many tokens agree. A first divergence at a tie ends the comparison, agreed."""
    for at, (here, there, tied) in enumerate(zip(one.ids, ids, one.tied, strict=False)):
        if here != there:
            return Agreement(at + tied, at + 1)
    return Agreement(min(len(one.ids), len(ids)), max(len(one.ids), len(ids)))


def _ask(client: httpx.Client, one: Question) -> list[int]:
    body = {"model": one.name, "text": one.text, "max_tokens": TOKENS, "return_token_ids": True}
    ids: list[int] = post(client, "/v1/translate", body)["data"][0]["token_ids"]
    return ids


def _text(model: Seq2SeqModel, pair: Pair, name: str, number: int) -> str:
    """What a source's tokens spell, without the instruction; one of our own texts where they spell nothing."""
    record, codec, system = model.engine.record(name), model.codec, model.instruction(name)
    text = codec.decode(pair.source).removeprefix(system).replace("\0", " ")
    limit = min(model.engine.context, (record and record.max_length) or model.engine.context)
    while text and codec.source(system + text, limit).truncated:  # another adapter's instruction is longer
        text = text[: len(text) // 2]
    return text if text.strip() else WITHOUT_DATA[number % len(WITHOUT_DATA)]
