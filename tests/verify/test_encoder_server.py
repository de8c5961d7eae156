"""The hop from an encoder's engine to a real server process: what agrees passes, and each kind of difference does not."""

from __future__ import annotations

import copy
from contextlib import closing
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from support.encoder_bundles import NAMES, SENTIMENT, tiny

from ptune.engine.encoder.engine import EncoderEngine
from ptune.engine.encoder.golden import load_inputs
from ptune.errors import ParityError
from ptune.formats.bundle import AdapterRecord
from ptune.tasks.encoder.infer import classification, entities
from ptune.verify.encoder.server import Question, _ask, _classified, _hop, _tagged, questions
from ptune.verify.server import hop, post, serving
from ptune_serve.encoders.classify import _described

LIMIT = 1e-3


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    bundle = tiny().bundle
    with closing(EncoderEngine.open(bundle, threads=1)) as engine:
        return questions(bundle, engine, load_inputs(bundle.folder), ["mood", "names"])


@pytest.fixture(scope="module")
def answers(asked: list[Question]) -> list[Any]:
    """Of a real server; it is asked for what it does not have, too."""
    with serving(tiny().bundle.folder, 1) as url, httpx.Client(base_url=url, timeout=600) as client:
        with pytest.raises(ParityError, match=r"the server answered 404: .*no model 'gone' here"):
            post(client, "/v1/classify", {"model": "gone", "input": ["a"]})
        found = [_ask(client, one) for one in asked]
    with pytest.raises(ParityError, match="the server gave no answer"), httpx.Client(base_url=url) as client:
        post(client, "/v1/classify", {})
    return found


def pairs(asked: list[Question], answers: list[Any], name: str) -> list[tuple[Question, Any]]:
    both = zip(asked, copy.deepcopy(answers), strict=True)
    return [(one, answer) for one, answer in both if one.adapter.name == name]


def test_a_servers_answers_are_the_engines(asked: list[Question], answers: list[Any]) -> None:
    assert len(asked) == 32
    for name, compare in (("mood", _classified), ("names", _tagged)):
        own = pairs(asked, answers, name)
        found = _hop(own[0][0].adapter, [compare(*pair) for pair in own])
        assert (found.passed, found.prompts, found.top1) == (True, 16, 1)
        assert found.max_abs_logprob is not None
        assert found.max_abs_logprob < 1e-4
    assert any(answer["entities"] for _, answer in pairs(asked, answers, "names"))


def test_a_classifiers_other_answers_are_found_out(asked: list[Question], answers: list[Any]) -> None:
    one, answer = pairs(asked, answers, "mood")[0]
    assert _classified(one, answer).worst < LIMIT
    moved = {**answer, "probs": [answer["probs"][0] + 0.01, *answer["probs"][1:]]}
    assert _classified(one, moved).worst > LIMIT
    other = next(name for name in one.adapter.labels if name != answer["label"])
    assert _classified(one, {**answer, "label": other}).same == 0
    with pytest.raises(ParityError, match="gave 2 numbers for 3 labels"):
        _classified(one, {**answer, "probs": answer["probs"][:2]})
    lost = {**answer, "probs": [float("nan"), *answer["probs"][1:]]}
    assert not hop([_classified(one, lost), _classified(one, answer)], "labels").passed


@pytest.mark.parametrize("field", ["label", "begin", "end", "text", "score"])
def test_an_entity_that_differs_is_found_out(field: str, asked: list[Question], answers: list[Any]) -> None:
    one, answer = next(pair for pair in pairs(asked, answers, "names") if pair[1]["entities"])
    entity = answer["entities"][0]
    entity[field] = {"score": entity["score"] * 0.99}.get(field, 99 if field in ("begin", "end") else "other")
    assert not hop([_tagged(one, answer)], "entities").passed
    assert not hop([_tagged(one, {"entities": answer["entities"][1:]})], "entities").passed


def test_what_lies_at_a_tie_may_change_places(asked: list[Question], answers: list[Any]) -> None:
    (one, _), *_ = pairs(asked, answers, "mood")
    tied = replace(one, logits=np.array([0.5, 0.5 - 1e-4, -2], np.float32))
    served = {"label": tied.adapter.labels[1], "probs": [0.5 - 1e-4, 0.5, -2.0]}
    assert hop([_classified(tied, served)], "labels").passed
    assert not hop(
        [_classified(replace(tied, logits=np.array([0.5, 0.4, -2], np.float32)), served)], "labels"
    ).passed


@pytest.mark.parametrize("problem", ["single", "multi", "regression", "tags"])
def test_every_problem_is_compared_as_the_server_tells_it(problem: Any) -> None:
    """Both sides from the same logits, told by the server's own code; then one of them moved."""
    facts = NAMES if problem == "tags" else SENTIMENT
    labels = facts.labels[:1] if problem == "regression" else facts.labels
    record = AdapterRecord(name="x", task=facts.task, labels=labels, problem=problem)
    random = np.random.default_rng(0)
    for logits in random.normal(0, 2, (20, 4, len(labels))).astype(np.float32):
        if problem == "tags":
            one = Question(record, "Anna saw Zoë 🙂", logits)
            there = entities(one.given, logits, record)  # type: ignore[arg-type]
            answer = {"entities": [{name: getattr(each, name) for name in each.__slots__} for each in there]}
            assert hop([_tagged(one, answer)], "entities").passed
            continue
        one = Question(record, "a text", logits[0])
        answer = _described(record, False, classification(logits[0], record))
        assert _hop(record, [_classified(one, answer)]).passed
        moved = _described(
            record,
            False,
            classification(logits[0] + np.array([0.02] + [0] * (len(labels) - 1), np.float32), record),
        )
        assert not _hop(record, [_classified(one, moved)]).passed
