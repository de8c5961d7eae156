"""A canary over a real engine: scores by the answers' ids move its alias, and only those of who got the answers count."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.living_adapters import Living, completed, living

import ptune
from ptune.formats.bundle import Bundle
from ptune_serve.access.auth import ApiKeys
from ptune_serve.app import create_app
from ptune_serve.bundles.service import HostService
from ptune_serve.rollout import waiting
from ptune_serve.rollout.waiting import Judged, Waiting
from ptune_serve.service import Settings


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Living:
    return living(tmp_path_factory.mktemp("rollout"))


@pytest.fixture
def http(there: Living) -> Iterator[Any]:
    model = ptune.load(there.folder, threads=1, max_rows=4)
    with TestClient(create_app(model, Settings(adapters_api=True))) as client:
        yield client
        client.delete("/v1/aliases/prod")
    model.close()


def begin(http: Any, **rule: float) -> dict[str, Any]:
    canary = {"name": "narrow", "share": 0.5, "decide": {"users": rule}}
    response = http.post("/v1/adapters/wide/alias", json={"alias": "prod", "canary": canary})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def state(http: Any) -> dict[str, Any]:
    [alias] = http.get("/v1/aliases").json()["data"]
    return dict(alias)


def traffic(http: Any, means: dict[str, float], most: int) -> int:
    """Answers, each scored as its adapter deserves, until the canary is decided; how many that took."""
    drawn = random.Random(0)
    for number in range(most):
        answer = completed(http, "prod", 1, user=f"user {number}")
        adapter = answer.headers["x-ptune-adapter"].partition("@")[0]
        score = {"id": answer.json()["id"], "score": float(drawn.random() < means[adapter])}
        assert http.post("/v1/feedback", json=score).json()["counted"]
        if state(http)["canary"] is None:
            return number
    raise AssertionError(f"nothing decided: {state(http)}")


def test_a_better_canary_is_promoted(http: Any, there: Living) -> None:
    begun = begin(http, margin=0.1, error=0.2)
    assert begun["trial"]["users"]["narrow"] == {"scores": 0, "mean": None, "lower": 0.0, "upper": 1.0}
    took = traffic(http, {"wide": 0.2, "narrow": 1.0}, 200)
    assert took > 5
    assert (state(http)["name"], state(http)["previous"]) == ("narrow", "wide")
    assert Bundle.open(there.folder).manifest.aliases["prod"].name == "narrow"
    told = http.get("/metrics").text
    assert 'ptune_rollouts_total{decision="promoted"} 1.0' in told
    assert http.post("/v1/aliases/prod/rollback").json()["name"] == "wide"  # a person may still


def test_a_worse_one_is_rolled_back(http: Any) -> None:
    begin(http, error=0.2)
    http.post("/v1/feedback", json={"id": "x", "score": 1})
    traffic(http, {"wide": 1.0, "narrow": 0.1}, 200)
    assert state(http)["name"] == "wide"
    assert 'ptune_rollouts_total{decision="rolled_back"} 1.0' in http.get("/metrics").text


def test_a_score_counts_once_and_only_while_its_trial_runs(http: Any) -> None:
    begin(http)
    first = completed(http, "prod", 1, user="a")
    score = {"id": first.headers["x-request-id"], "score": 0.5}
    assert [http.post("/v1/feedback", json=score).json()["counted"] for _ in range(2)] == [True, False]
    adapter = first.headers["x-ptune-adapter"].partition("@")[0]
    assert state(http)["trial"]["users"][adapter]["scores"] == 1
    assert f'ptune_rollout_scores{{adapter="{adapter}",alias="prod"}} 1.0' in http.get("/metrics").text
    other = completed(http, "wide", 1)  # not through the alias
    assert not http.post("/v1/feedback", json={"id": other.json()["id"], "score": 1}).json()["counted"]
    late = completed(http, "prod", 1, user="b").json()["id"]
    http.post("/v1/adapters/wide/alias", json={"alias": "prod"})
    assert not http.post("/v1/feedback", json={"id": late, "score": 1}).json()["counted"]
    assert "trial" not in state(http)


def test_an_answer_counts_whatever_its_alias_was_called(http: Any, there: Living) -> None:
    begin(http)
    answer = completed(http, f"{there.folder.name}:prod", 1)
    assert http.post("/v1/feedback", json={"id": answer.json()["id"], "score": 1}).json()["counted"]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
        ("/v1/responses", {"input": "a", "max_output_tokens": 1}),
    ],
)
def test_a_score_is_of_the_answers_own_id_in_every_api(http: Any, path: str, asked: dict[str, Any]) -> None:
    begin(http)
    answer = http.post(path, json={"model": "prod", **asked})
    assert answer.status_code == 200, answer.text
    ids = (answer.json()["id"], answer.json()["id"], answer.headers["x-request-id"])
    told = [http.post("/v1/feedback", json={"id": one, "score": 1}).json()["counted"] for one in ids]
    assert told == [True, False, False]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"id": "a"}, "score"),
        ({"id": "a", "score": 2}, "score"),
        ({"id": "a", "score": "good"}, "score"),
        ({"id": "", "score": 1}, "id"),
        ({"id": "a", "score": 1, "note": "x"}, "note"),
    ],
)
def test_what_is_no_score(http: Any, body: dict[str, Any], told: str) -> None:
    refused = http.post("/v1/feedback", json=body)
    assert refused.status_code == 400
    assert told in refused.json()["error"]["message"]


def test_a_rule_that_means_nothing_is_refused(http: Any) -> None:
    rules = ({"margin": 1}, {"error": 0}, {"error": 0.5}, {"margn": 0.1})
    for decide in (*({"users": rule} for rule in rules), {}, {"margin": 0.1}):
        canary = {"name": "narrow", "share": 0.5, "decide": decide}
        refused = http.post("/v1/adapters/wide/alias", json={"alias": "prod", "canary": canary})
        assert refused.status_code == 400, decide


def test_another_key_cannot_judge(there: Living, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-one-0123456789abcdef\nsk-two-0123456789abcdef\n")
    keys.chmod(0o600)
    model = ptune.load(there.folder, threads=1, max_rows=4)
    settings = Settings(adapters_api=True, api_keys=ApiKeys.read(keys))
    one, two = ({"authorization": f"Bearer sk-{name}-0123456789abcdef"} for name in ("one", "two"))
    with TestClient(create_app(model, settings), headers=one) as http:
        begin(http)
        score = {"id": completed(http, "prod", 1, user="a").json()["id"], "score": 1}
        assert not http.post("/v1/feedback", json=score, headers=two).json()["counted"]
        assert http.post("/v1/feedback", json=score).json()["counted"]
        assert http.post("/v1/feedback", json=score, headers={"authorization": ""}).status_code == 401
        http.delete("/v1/aliases/prod")
    model.close()


def test_the_oldest_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MOST_WAITING", 2)
    answers = Waiting()
    for number in range(3):
        answers.add(str(number), Judged("prod", "a", "key"))
    assert answers.take("0", "key") is None
    assert answers.take("2", "other") is None
    assert answers.take("2", "key") == Judged("prod", "a", "key")


def test_an_id_is_one_keys_own() -> None:
    answers = Waiting()
    answers.add("5", Judged("prod", "a", "one"))
    answers.add("5", Judged("prod", "b", "two"))
    assert answers.take("5", "one") == Judged("prod", "a", "one")
    assert answers.take("5", "two") == Judged("prod", "b", "two")


@pytest.mark.parametrize("second", ["5", "cmpl-5"], ids=["the same", "as an answer to the first is called"])
@pytest.mark.parametrize("judged", [False, True])
def test_no_score_counts_under_an_id_that_two_requests_had(second: str, judged: bool) -> None:
    """It could be for either; a late second score for the first is none for the other."""
    answers = Waiting()
    answers.add("5", Judged("prod", "a", "key"))
    assert not judged or answers.take("5", "key") is not None
    other = answers.add(second, Judged("prod", "b", "key"))
    answers.call_also(other, "resp_own")
    assert answers.take("cmpl-5", "key") is None
    assert answers.take("5", "key") is None
    assert answers.take("resp_own", "key") == Judged("prod", "b", "key"), "the server chose this one"
    assert answers.take("resp_own", "key") is None


def test_a_request_that_was_refused_may_come_again_under_its_id(http: Any) -> None:
    begin(http)
    headers = {"x-request-id": "again"}
    body = {"model": "prod", "prompt": [5, 6, 7], "max_tokens": 2}
    for wrong, status in ({"max_tokens": 10**6}, 400), ({}, 200):
        assert http.post("/v1/completions", json={**body, **wrong}, headers=headers).status_code == status
    score = {"id": "again", "score": 1}
    assert http.post("/v1/feedback", json=score).json()["counted"]
    assert http.post("/v1/completions", json=body, headers=headers).status_code == 200
    assert not http.post("/v1/feedback", json=score).json()["counted"], "whose it is nobody can say"


def test_of_several_bundles_none_gets_a_score_that_could_be_anothers() -> None:
    @dataclass
    class Bundle:
        waiting: Waiting
        scores: list[float]

        async def judged(self, answer_id: str, key: str, score: float) -> bool:
            self.scores.append(score)
            return True

    first, second = Bundle(Waiting(), []), Bundle(Waiting(), [])
    loaded = [(name, SimpleNamespace(service=one)) for name, one in (("a", first), ("b", second))]
    host: Any = SimpleNamespace(bundles=SimpleNamespace(in_memory=lambda: loaded))
    for one, answer_id in ((first, "1"), (second, "2"), (first, "3"), (second, "3")):
        one.waiting.add(answer_id, Judged("prod", "a", "key"))
    counted = [asyncio.run(HostService.judged(host, number, "key", float(number))) for number in "1234"]
    assert counted == [True, True, False, False]
    assert (first.scores, second.scores) == ([1.0], [2.0])


def test_one_replica_of_many_does_not_judge(there: Living) -> None:
    model = ptune.load(there.folder, threads=1, max_rows=4)
    settings = Settings(adapters_api=True, judges_canaries=False)
    canary = {"name": "narrow", "share": 0.5, "decide": {"users": {}}}
    with TestClient(create_app(model, settings)) as http:
        refused = http.post("/v1/adapters/wide/alias", json={"alias": "prod", "canary": canary})
        assert refused.status_code == 400
        assert "judged by one server" in refused.json()["error"]["message"]
        del canary["decide"]
        assert (
            http.post("/v1/adapters/wide/alias", json={"alias": "prod", "canary": canary}).status_code == 200
        )
        http.delete("/v1/aliases/prod")
    model.close()
