"""An encoder-decoder's last hop: a real server process against the engine in this process, for texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from ptune.engine.seq2seq.golden import Pair
from ptune.engine.seq2seq.request import Seq2SeqRequest
from ptune.formats.bundle import Bundle, Hop
from ptune.tasks.translation.seq2seq_infer import Seq2SeqModel
from ptune.verify.decoder.probes import WITHOUT_DATA
from ptune.verify.server import TIE, TOKENS, Agreement, agreements, hop, post


@dataclass(frozen=True)
class Question:
    """A text, as a client sends it, with the engine's greedy output under a name."""

    name: str
    text: str
    ids: tuple[int, ...]
    tied: tuple[bool, ...]  # for each token, whether another one was as likely


def questions(model: Seq2SeqModel, pairs: Sequence[Pair], names: Sequence[str]) -> list[Question]:
    """Turns the held-out sources back into client texts under every name, with the engine's outputs."""
    texts = [(name, _text(model, pair, name, at)) for at, pair in enumerate(pairs) for name in names]
    sentences = [model.sentence(text, name, TOKENS) for name, text in texts]
    written = [answer.ids for answer in model.engine.generate(sentences)]
    again = [
        Seq2SeqRequest(answer.source, answer.adapter, forced_ids=ids)
        for answer, ids in zip(sentences, written, strict=True)
    ]
    banned = list(model.codec.writing.banned_ids)
    server_questions = []
    for answer, (name, text) in zip(model.engine.generate(again), texts, strict=True):
        assert answer.logits is not None
        logits = answer.logits.copy()
        logits[:, banned] = -np.inf
        best = np.sort(logits, -1)[:, -2:]
        tied = tuple((best[:, 1] - best[:, 0] <= TIE).tolist())
        server_questions.append(Question(name, text, answer.ids, tied))
    return server_questions


def served_hops(bundle: Bundle, server_questions: Sequence[Question], threads: int) -> dict[str, Hop]:
    """Compares the same texts over HTTP, many at once, with the engine's tokens; one hop per name."""
    by_name = agreements(bundle.folder, threads, server_questions, _ask, agreement)
    return {name: hop(answers, "tokens", measured=None) for name, answers in by_name.items()}


def agreement(question: Question, ids: Sequence[int]) -> Agreement:
    """Counts agreeing tokens, up to the first difference; a difference at a tie counts as agreement."""
    for at, (here, there, tied) in enumerate(zip(question.ids, ids, question.tied, strict=False)):
        if here != there:
            return Agreement(at + tied, at + 1)
    return Agreement(min(len(question.ids), len(ids)), max(len(question.ids), len(ids)))


def _ask(client: httpx.Client, question: Question) -> list[int]:
    body = {"model": question.name, "text": question.text, "max_tokens": TOKENS, "return_token_ids": True}
    ids: list[int] = post(client, "/v1/translate", body)["data"][0]["token_ids"]
    return ids


def _text(model: Seq2SeqModel, pair: Pair, name: str, number: int) -> str:
    """Decodes a source without the instruction; one of our own texts if it is blank."""
    record, codec, system = model.engine.record(name), model.codec, model.instruction(name)
    text = codec.decode(pair.source).removeprefix(system).replace("\0", " ")
    limit = min(model.engine.context, (record and record.max_length) or model.engine.context)
    while (
        text and codec.source(system + text, limit).truncated
    ):  # another adapter's instruction may be longer
        text = text[: len(text) // 2]
    return text if text.strip() else WITHOUT_DATA[number % len(WITHOUT_DATA)]
