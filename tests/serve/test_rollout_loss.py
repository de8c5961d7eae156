"""A canary that is judged by its loss on held-out texts, over real engines: the losses are those of `ptune evaluate`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.http_client import Client
from support.judged_canaries import begin, decided, ended, state, until, until_told
from support.living_adapters import Living, completed, living
from support.tiny_tokenizers import CHATML

import ptune
from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.engine.adapters.folder import install
from ptune.engine.options import EngineOptions
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.formats.whole_write import sha256_of
from ptune.methods.lora import Lora
from ptune_serve.access.audit import AuditLog
from ptune_serve.app import create_app
from ptune_serve.bundles.app import Host
from ptune_serve.bundles.folder import find_bundles
from ptune_serve.lifecycle import opened
from ptune_serve.service import Settings

TEXTS = 96
OWN_TEMPLATE = CHATML.replace("{% for", "{{ 'Read this. ' }}{% for", 1)


@dataclass
class Trained:
    """A bundle with adapters that were trained well, hardly, and the first under another name; and where texts lie."""

    living: Living
    runs: dict[str, Run]
    root: Path


def held_out_rows() -> list[dict[str, Any]]:
    """Conversations of one turn and of several, with a system message, and with answers that do not count."""
    from support.tiny_models import conversations

    found = conversations(40 + TEXTS + 30)[40:]
    rows: list[dict[str, Any]] = [{"messages": messages} for messages in found[: TEXTS - 20]]
    for number in range(TEXTS - 20, TEXTS):
        first, second = found[number], found[number + 20]
        if number % 2:
            first = [first[0], {**first[1], "weight": 0}]  # type: ignore[dict-item]
        system: dict[str, Any] = {"system": "Be brief."} if number % 3 else {}
        rows.append({"messages": [*first, *second], **system})
    return rows


def train(folder: Path, name: str, steps: int) -> Run:
    from support import tiny_models

    from ptune.fine_tune import train

    recipe = Recipe(
        backbone=Backbone(model=str(folder / "model"), dtype="float32"),
        method=Lora(r=4, alpha=16),
        data=Data(
            files=(tiny_models.write_jsonl(folder / "train.jsonl", tiny_models.conversations(40)),),
            test=(folder / "root" / "heldout.jsonl",),
        ),
        train=Train(max_steps=steps, lr=1e-2, batch_size=8, micro_batch_tokens=512),
        evaluate=Evaluate(answers=0, in_context=0),
    )
    return train(recipe, folder / name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from support import tiny_models

    folder = tmp_path_factory.mktemp("loss")
    tiny_models.build(folder / "model", "llama")
    root = folder / "root"
    root.mkdir()
    (root / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out_rows()))
    runs = {name: train(folder, name, steps) for name, steps in (("good", 30), ("hardly", 2))}
    served = living(folder / "served")
    codec = Bundle.open(served.folder).codec_path
    shutil.rmtree(codec)
    shutil.copytree(runs["good"].codec_path, codec)
    bundle = Bundle.open(served.folder)
    files = {f"codec/{file.name}": sha256_of(file) for file in codec.iterdir()}
    bundle.write_manifest(bundle.manifest.model_copy(update={"codec": files}))
    for name, run in (("good", "good"), ("hardly", "hardly"), ("twin", "good"), ("own", "good")):
        plain = shutil.copytree(runs[run].adapter_path, folder / "plain" / name)
        (plain / "ptune.json").unlink()  # whose base has another hash than the living bundle's
        (plain / "chat_template.jinja").write_text(OWN_TEMPLATE if name == "own" else CHATML)
        install(Bundle.open(served.folder), plain, name)
    return Trained(served, runs, root)


@contextmanager
def served(trained: Trained, **settings: Any) -> Iterator[Client]:
    model = ptune.load(trained.living.folder, threads=1, max_rows=4)
    given = {"adapters_api": True, "adapter_root": trained.root, **settings}
    try:
        with TestClient(create_app(model, Settings(**given))) as http:
            yield http
            http.delete("/v1/aliases/prod")
    finally:
        model.close()


@pytest.fixture
def http(trained: Trained) -> Iterator[Client]:
    with served(trained) as http:
        yield http


def test_losses_are_those_of_evaluate_and_what_is_uncertain_stays(http: Any, trained: Trained) -> None:
    from ptune.evaluation.evaluate import evaluate

    begun = begin(http, "hardly", "good", error=1e-30).json()
    assert begun["canary"]["decide"] == {
        "loss": {"texts": "heldout.jsonl", "train_on": "assistant", "margin": 0.02, "error": 1e-30}
    }
    card = until(http, ended)
    found = card["trial"]["loss"]
    assert (found["state"], found["texts"], found["compared"]) == ("undecided", TEXTS, TEXTS)
    for name, run in trained.runs.items():
        assert found["loss"][name] == pytest.approx(evaluate(run)["after"]["loss"], abs=1e-4)
    assert found["difference"]["mean"] < 0
    assert (card["name"], card["canary"]["name"]) == ("hardly", "good"), "nothing was certain"
    told = http.get("/metrics").text
    assert f'ptune_rollout_texts{{alias="prod"}} {float(TEXTS)}' in told
    assert 'ptune_rollout_texts_left{alias="prod"} 0.0' in told
    assert f'ptune_rollout_loss{{adapter="good",alias="prod"}} {found["loss"]["good"]}' in told
    for name, value in (("", "mean"), ("_lower", "lower"), ("_upper", "upper")):
        assert f'ptune_rollout_loss_difference{name}{{alias="prod"}} {found["difference"][value]}' in told


def test_the_last_answer_alone_is_what_evaluate_would_count(http: Any, trained: Trained) -> None:
    begin(http, "good", "twin", train_on="last", error=1e-30)
    last = until(http, ended)["trial"]["loss"]["loss"]
    begin(http, "good", "twin", error=1e-30)
    every = until(http, ended)["trial"]["loss"]["loss"]
    assert last["good"] == last["twin"]
    assert abs(last["good"] - every["good"]) > 1e-4


def test_each_adapter_reads_texts_in_its_own_template(http: Any, trained: Trained) -> None:
    """The loss by transformers and peft, of tokens that the tokenizer makes of the rendered text."""
    import torch
    from peft import PeftModel
    from support import tiny_models
    from transformers import AutoModelForCausalLM

    rows = [{"messages": messages} for messages in tiny_models.conversations(50)[40:]]
    (trained.root / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    begin(http, "good", "own", texts="few.jsonl", error=1e-30)
    found = until(http, ended)["trial"]["loss"]["loss"]
    run = trained.runs["good"]
    base = AutoModelForCausalLM.from_pretrained(run.record().base.source, dtype=torch.float32)
    model, tokenizer = PeftModel.from_pretrained(base, run.adapter_path).eval(), tiny_models.tokenizer()
    for name, template in (("good", CHATML), ("own", OWN_TEMPLATE)):
        nats, count = 0.0, 0
        for row in rows:
            given = {"tokenize": False, "chat_template": template}
            asked = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, **given)
            whole = tokenizer.apply_chat_template(row["messages"], **given).removesuffix("\n")
            ids, prompt = tokenizer(whole)["input_ids"], len(tokenizer(asked)["input_ids"])
            with torch.no_grad():
                logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            nats -= sum(float(logprobs[place - 1, ids[place]]) for place in range(prompt, len(ids)))
            count += len(ids) - prompt
        assert found[name] == pytest.approx(nats / count, abs=1e-4)
    assert abs(found["good"] - found["own"]) > 1e-3


def test_one_that_was_trained_worse_is_rolled_back(http: Any) -> None:
    assert begin(http, "good", "hardly").json()["trial"]["loss"]["state"] == "running"
    card = until(http, decided)
    assert (card["name"], card["previous"]) == ("good", None)
    assert "trial" not in card
    told = until_told(http, 'ptune_rollouts_total{decision="rolled_back"} 1.0')
    assert 'ptune_rollout_texts{alias="prod"}' not in told


def test_what_was_decided_is_in_the_audit_log(trained: Trained, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    with served(trained, audit=AuditLog(log)) as http:
        begin(http, "good", "hardly")
        until_told(http, 'ptune_rollouts_total{decision="rolled_back"} 1.0')
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line.get("route") for line in lines] == ["/v1/adapters/{name}/alias", None]
    told = {name: lines[1][name] for name in ("alias", "name", "canary", "decision")}
    assert told == {"alias": "prod", "name": "good", "canary": "hardly", "decision": "rolled back"}
    assert " texts, difference " in lines[1]["why"]


def test_the_same_under_another_name_is_promoted_within_a_margin(http: Any, trained: Trained) -> None:
    begin(http, "good", "twin", margin=0.2)
    card = until(http, decided)
    assert (card["name"], card["previous"]) == ("twin", "good")
    assert Bundle.open(trained.living.folder).manifest.aliases["prod"].name == "twin"
    begin(http, "good", "twin", margin=0.0)
    card = until(http, ended)
    assert card["trial"]["loss"]["difference"]["mean"] == pytest.approx(0, abs=1e-6)
    assert card["name"] == "good", "without a margin no number of equal losses is certain"


def test_a_trial_goes_on_after_a_restart_without_a_request(trained: Trained) -> None:
    model = ptune.load(trained.living.folder, threads=1, max_rows=4)
    with TestClient(create_app(model, Settings(adapters_api=True, adapter_root=trained.root))) as http:
        begin(http, "good", "twin", error=1e-30)
    model.close()
    bundle = Bundle.open(trained.living.folder)
    alias = bundle.manifest.aliases["prod"]
    assert alias.canary is not None
    with served(trained) as http:
        assert 'ptune_rollout_loss_difference_lower{alias="prod"}' in http.get("/metrics").text
        assert until(http, ended)["trial"]["loss"]["compared"] == TEXTS


def test_what_a_person_does_ends_the_trial(http: Any) -> None:
    begin(http, "good", "hardly", error=1e-30)
    store = http.app.state.service.store
    tried = store.aliases()["prod"]
    assert http.delete("/v1/adapters/hardly").status_code == 409, "it is tried"
    moved = http.post("/v1/adapters/twin/alias", json={"alias": "prod"}).json()
    assert "trial" not in moved
    assert not store.settle("prod", ("good", tried.canary), "hardly")
    assert state(http)["name"] == "twin"
    begin(http, "good", "hardly", error=1e-30)
    assert http.post("/v1/aliases/prod/rollback").json()["canary"] is None
    begin(http, "good", "hardly", error=1e-30)
    assert 'ptune_rollout_texts{alias="prod"}' in http.get("/metrics").text
    http.delete("/v1/aliases/prod")
    assert 'ptune_rollout_texts{alias="prod"}' not in http.get("/metrics").text
    assert sum(http.app.state.service.trials.decided.values()) == 0


def test_users_decide_where_losses_do_not(http: Any) -> None:
    begin(http, "good", "twin", margin=0.0, users={"margin": 0.3, "error": 0.2})
    until(http, ended)
    for number in range(300):
        answer = completed(http, "prod", 1, user=f"user {number}")
        assert http.post("/v1/feedback", json={"id": answer.json()["id"], "score": 1}).json()["counted"]
        if decided(card := state(http)):
            break
    assert card["name"] == "twin"


def test_answers_wait_for_no_score_where_losses_alone_decide(http: Any) -> None:
    begin(http, "good", "twin", error=1e-30)
    answer = completed(http, "prod", 1)
    assert not http.post("/v1/feedback", json={"id": answer.json()["id"], "score": 1}).json()["counted"]


def test_setting_it_again_begins_anew(http: Any, trained: Trained) -> None:
    file = trained.root / "changing.jsonl"
    lines = (trained.root / "heldout.jsonl").read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:5]))
    begin(http, "good", "hardly", texts="changing.jsonl")
    assert until(http, ended)["trial"]["loss"]["texts"] == 5
    file.write_text("".join(lines[5:]))
    begin(http, "good", "hardly", texts="changing.jsonl")
    assert until(http, decided)["name"] == "good"


def test_texts_are_scored_by_a_tenant_of_their_own_that_gives_way(http: Any, monkeypatch: Any) -> None:
    engine, asked = http.app.state.service.model.engine, list[Any]()
    submit = engine.submit

    def heard(request: Any, deliver: Any) -> Any:
        asked.append(request)
        return submit(request, deliver)

    monkeypatch.setattr(engine, "submit", heard)
    begin(http, "good", "hardly")
    until(http, decided)
    assert {request.adapter for request in asked} == {"good", "hardly"}
    assert {(request.tenant, request.weight) for request in asked} == {("/canaries", 0.1)}


def test_one_of_several_bundles_stays_loaded_while_its_trial_runs(trained: Trained, tmp_path: Path) -> None:
    for name in ("first", "second"):
        shutil.copytree(trained.living.folder, tmp_path / name)
    places = {place.name: place for place in find_bundles([tmp_path])}
    options = EngineOptions(threads=1, max_rows=4, kv_bytes=2**26)
    host = Host(places, options, opened, 2**40, 0.01)  # idle after 10 ms
    app = host.create(Settings(adapters_api=True, adapter_root=trained.root))
    try:
        with TestClient(app) as http:
            assert begin(http, "good", "hardly", query="?bundle=second").status_code == 200
            ends_s = time.monotonic() + 60
            while Bundle.open(tmp_path / "second").manifest.aliases["prod"].canary is not None:
                assert time.monotonic() < ends_s
                time.sleep(0.02)
            assert state(http, "?bundle=second")["name"] == "good"
            assert http.get("/v1/aliases?bundle=first").json()["data"] == []
            begin(http, "good", "twin", query="?bundle=second", error=1e-30)
            assert 'ptune_rollout_texts_left{alias="prod",bundle="second"}' in http.get("/metrics").text
    finally:
        host.close()
