"""Sums of adapters as `model`: resolved, permitted part by part, counted, kept in receipts, and not listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from support.fake_chat_model import FakeChatModel
from support.living_adapters import Living, living
from support.several_bundles import several, write_all

import ptune
from ptune.cli import main
from ptune.formats.bundle import Alias
from ptune_serve.access.auth import ApiKeys
from ptune_serve.access.keys import Key, plain
from ptune_serve.app import create_app
from ptune_serve.receipts.store import Receipts
from ptune_serve.service import Settings

SUM = "wide+0.5*narrow"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Living:
    return living(tmp_path_factory.mktemp("sums"))


@pytest.fixture(scope="module")
def http(there: Living, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    model = ptune.load(there.folder, threads=1, max_rows=4)
    receipts = Receipts(tmp_path_factory.mktemp("kept") / "receipts", 30)
    with TestClient(create_app(model, Settings(receipts=receipts))) as client:
        yield client
    model.close()


def ask(http: Any, model: str, **fields: Any) -> Any:
    body = {"model": model, "prompt": "ab cd", "temperature": 0, "max_tokens": 6, "return_token_ids": True}
    return http.post("/v1/completions", json={**body, **fields})


def test_a_sum_answers_as_the_library_does(http: TestClient, there: Living) -> None:
    answers = {name: ask(http, name) for name in (SUM, "wide + .50*narrow", "wide", "narrow", "base")}
    ids = {name: answer.json()["choices"][0]["token_ids"] for name, answer in answers.items()}
    with ptune.load(there.folder, threads=1) as model:
        expected = model.complete("ab cd", adapter=SUM, temperature=0, max_tokens=6)
    assert ids[SUM] == ids["wide + .50*narrow"] == [token.id for token in expected.tokens]
    assert len({tuple(one) for one in ids.values()}) == 4
    usage = answers[SUM].json()["usage"]
    assert usage["completion_tokens"] == len(ids[SUM])
    headers = {answers[name].headers["x-ptune-adapter"] for name in (SUM, "wide + .50*narrow")}
    (told,) = headers
    assert told.startswith(f"{SUM}@")
    assert ask(http, "wide+0.6*narrow").headers["x-ptune-adapter"] != told


def test_it_is_not_listed_and_has_one_label(http: TestClient) -> None:
    ask(http, SUM)
    ask(http, "0.25*narrow")
    assert [one["id"] for one in http.get("/v1/models").json()["data"]] == ["base", "wide", "narrow"]
    assert http.get(f"/v1/models/{SUM}").json()["id"] == SUM
    metrics = http.get("/metrics").text
    assert 'ptune_requests_total{adapter="sum"' in metrics
    labels = {line for line in metrics.splitlines() if line.startswith("ptune_") and 'adapter="' in line}
    assert not any("narrow" in line and "*" in line for line in labels)


def test_what_is_unknown_or_too_much_is_said(http: TestClient) -> None:
    for model, status, code, words in (
        ("wide+nobody", 404, "model_not_found", "no model 'nobody' here; served: base, wide, narrow"),
        ("wide+-1*wide", 404, "model_not_found", "no model 'wide+-1*wide' here"),
        ("wide+base", 400, "invalid_sum", "the base is in every sum; name adapters alone"),
    ):
        answer = ask(http, model)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert words in answer.json()["error"]["message"]


def test_its_receipt_is_replayed(
    http: TestClient, there: Living, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answer = ask(http, SUM)
    folder = http.app.state.service.settings.receipts._folder  # type: ignore[attr-defined]
    name = answer.headers["x-request-id"]
    assert main(["replay", str(folder), name, "--bundle", str(there.folder), "--threads", "1", "--json"]) == 0
    receipt = json.loads(capsys.readouterr().out)["result"]["receipt"]
    assert receipt["body"]["model"] == SUM
    assert receipt["adapter"] is not None


def test_a_key_may_use_a_sum_of_what_it_may_use() -> None:
    model = FakeChatModel()
    model.engine.adapters = ["pirate", "devil", "pirate+devil"]
    model.engine.bundle.manifest.adapters["pirate+devil"] = "ef" * 32
    model.engine.bundle.manifest.aliases["prod"] = Alias(name="devil")
    both = Key("both", plain("both").digest, frozenset({"infer"}), frozenset({"pirate", "devil"}))
    one = Key("one", plain("one").digest, frozenset({"infer"}), frozenset({"pirate", "prod"}))
    keys = ApiKeys([both, one])
    with TestClient(create_app(model, Settings(api_keys=keys))) as http:

        def status(key: str, name: str) -> tuple[int, str]:
            response = http.post(
                "/v1/completions",
                json={"model": name, "prompt": "hi"},
                headers={"authorization": f"Bearer {key}"},
            )
            return response.status_code, response.headers.get("x-ptune-adapter", "").partition("@")[0]

        assert status("both", "devil+2*pirate") == (200, "devil+2*pirate")
        assert status("both", "0.5*pirate") == (200, "0.5*pirate")
        assert status("both", "pirate+prod") == (404, "")  # an alias must be listed itself
        assert status("both", "pirate+devil") == (404, "")  # the name of an adapter that it may not use
        assert status("one", "devil+2*pirate") == (404, "")
        assert status("one", "pirate+0.5*prod") == (200, "pirate+0.5*devil")


def test_where_there_are_several_bundles(tmp_path: Path) -> None:
    with several(write_all(tmp_path)) as served:
        assert served.said("chat:sql+0.5*pirate") == "sql+0.5*pirate heard: ahoy"
        assert served.said("sql+pirate") == "sql+pirate heard: ahoy"  # in one bundle alone
        assert served.said("chat:prod+pirate") == "sql+pirate heard: ahoy"
        body = {"model": "chat:sql+nobody", "messages": [{"role": "user", "content": "ahoy"}]}
        assert served.http.post("/v1/chat/completions", json=body).status_code == 404
        assert served.http.get("/v1/models/small:2*sql").json()["id"] == "small:2*sql"
