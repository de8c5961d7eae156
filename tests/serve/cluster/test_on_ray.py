"""A bundle on Ray Serve: two replicas on a small cluster of this machine, over HTTP, as a client sees them.

The tests share one cluster, and each leaves two replicas behind; what one of them changes, later ones find.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import ray
import yaml
from prometheus_client.parser import text_string_to_metric_families
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.schema import ServeDeploySchema
from support.living_adapters import Living, living

import ptune
from ptune.errors import PtuneError
from ptune.kinds import imported
from ptune_serve.cluster.arguments import Arguments
from ptune_serve.cluster.launch import NAME, deploy, write_config

ADMIN = {"authorization": "Bearer all-may-be-done"}
KEYS = """
[[keys]]
name = "admin"
key = "all-may-be-done"
scopes = ["infer", "metrics", "admin"]
[[keys]]
name = "two"
key = "two-a-minute"
requests_per_minute = 2
"""


@dataclass
class OnRay:
    cluster: Cluster
    arguments: dict[str, Any]
    made: Living
    http: httpx.Client

    def run(self, **changed: Any) -> None:
        """Deploys, or updates what runs; returns when all replicas are new."""
        self.arguments |= changed
        deploy(Arguments.read(self.arguments), "127.0.0.1", self.http.base_url.port or 0)

    def chat(self, content: str = "hi", /, headers: dict[str, str] = ADMIN, **fields: Any) -> httpx.Response:
        body = {"model": "wide", "max_tokens": 4, "temperature": 0, **fields}
        body["messages"] = [{"role": "user", "content": content}]
        return self.http.post("/v1/chat/completions", json=body, headers=headers)

    def many(self, count: int, **fields: Any) -> list[httpx.Response]:
        """Different conversations, all at once."""
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda number: self.chat(f"number {number}", **fields), range(count)))

    def ready(self, replicas: int) -> None:
        """Waits for so many replicas."""
        wait_for(lambda: self.http.get("/ready").json().get("replicas") == replicas)


def wait_for(met: Callable[[], bool], limit_s: float = 300) -> None:
    ends_s = time.monotonic() + limit_s
    while not met():
        assert time.monotonic() < ends_s, "it did not happen in time"
        time.sleep(0.1)


def replica_of(response: httpx.Response) -> str:
    return response.headers["x-ptune-replica"]


def kill(replica: str) -> None:
    actor = ray.get_actor(f"SERVE_REPLICA::{NAME}#Replica#{replica}", namespace="serve")
    ray.kill(actor)


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRay]:
    folder = tmp_path_factory.mktemp("ray")
    (folder / "keys.toml").write_text(KEYS)
    (folder / "keys.toml").chmod(0o600)
    made = living(folder)
    arguments = {
        "bundle": str(made.folder),
        "replicas": 2,
        "replica_cpus": 1,
        "api_key_file": str(folder / "keys.toml"),
        "engine": {"max_rows": 6, "threads": 1, "kv_bytes": 2**26},
        "settings": {"adapters_api": True, "adapter_root": str(made.outside), "drain_s": 20},
    }
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            found = OnRay(cluster, arguments, made, http)
            found.run()
            yield found
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def test_the_openai_client_gets_what_the_model_answers(on_ray: OnRay) -> None:
    """Whole and streamed, from either adapter, as from the model in this process."""
    client = openai.OpenAI(base_url=str(on_ray.http.base_url.join("v1")), api_key="all-may-be-done")
    asked: Any = {
        "messages": [{"role": "user", "content": "Where is Oslo?"}],
        "max_tokens": 12,
        "temperature": 0,
    }
    model = ptune.load(on_ray.made.folder, threads=1)
    for adapter in ("wide", "narrow"):
        expected = model.chat(asked["messages"], adapter=adapter, max_tokens=12, temperature=0).text
        whole = client.chat.completions.create(model=adapter, **asked)
        assert whole.choices[0].message.content == expected
        stream = client.chat.completions.create(model=adapter, stream=True, **asked)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert len(pieces) > 3, "piece by piece"
        assert "".join(pieces) == expected
    model.close()


def test_a_config_file_makes_the_same_application(on_ray: OnRay, tmp_path: Path) -> None:
    write_config(Arguments.read(on_ray.arguments), tmp_path / "serve.yaml", "127.0.0.1", 8000)
    config = ServeDeploySchema.model_validate(yaml.safe_load((tmp_path / "serve.yaml").read_text()))
    [described] = config.applications
    made = imported(described.import_path)(described.args)
    assert isinstance(made, serve.Application)
    assert set(serve.status().applications[NAME].deployments) == {"Ingress", "Replica", "Ledger"}


def test_errors_are_those_of_one_server(on_ray: OnRay) -> None:
    assert on_ray.chat(headers={}).status_code == 401
    unknown = on_ray.chat(model="nobody")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    broken = on_ray.http.post(
        "/v1/chat/completions", content=b"{", headers={**ADMIN, "content-type": "application/json"}
    )
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")
    large = on_ray.http.post("/v1/chat/completions", content=b" " * (2**25 + 1), headers=ADMIN)
    assert large.status_code == 413
    elsewhere = on_ray.http.post("/v1/messages", json={}, headers=ADMIN)
    assert elsewhere.json()["type"] == "error", "in the form of the API that was asked"


def test_a_crowd_spreads_and_a_conversation_stays(on_ray: OnRay) -> None:
    """In this order: what becomes popular gets more replicas, and some of its conversations go along."""
    crowd = on_ray.many(40, max_tokens=40, ignore_eos=True)
    assert [response.status_code for response in crowd] == [200] * 40
    assert len({replica_of(response) for response in crowd}) == 2
    assert len({replica_of(on_ray.chat("the same")) for _ in range(4)}) == 1


def test_limits_hold_over_all_replicas(on_ray: OnRay) -> None:
    """Also when the replica that had let the first request in is no more. The next may come after half a minute."""
    two = {"authorization": "Bearer two-a-minute"}
    first = on_ray.chat(headers=two)
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    kill(replica_of(first))
    assert [on_ray.chat(headers=two).status_code for _ in range(2)] == [200, 429]
    on_ray.ready(2)


def test_an_adapter_is_added_to_all_and_removed_from_all(on_ray: OnRay) -> None:
    on_ray.made.adapter("new", seed=7)
    added = on_ray.http.post(
        "/v1/adapters", json={"name": "new", "path": "new", "alias": "latest"}, headers=ADMIN
    )
    assert added.status_code == 200, added.text
    for model in ("new", "latest"):
        answers = on_ray.many(40, model=model, max_tokens=40, ignore_eos=True)
        assert [answer.status_code for answer in answers] == [200] * 40
        assert len({replica_of(answer) for answer in answers}) == 2
    assert on_ray.http.delete("/v1/aliases/latest", headers=ADMIN).status_code == 200
    assert on_ray.http.delete("/v1/adapters/new", headers=ADMIN).status_code == 200
    answers = on_ray.many(20, model="new")
    assert [answer.status_code for answer in answers] == [404] * 20


def test_metrics_are_added_up(on_ray: OnRay) -> None:
    assert on_ray.http.get("/metrics").status_code == 401
    before = requests_counted(on_ray)
    answers = on_ray.many(40, model="narrow", max_tokens=40, ignore_eos=True)
    assert len({replica_of(answer) for answer in answers}) == 2
    assert requests_counted(on_ray) == before + 40
    kill(replica_of(answers[0]))
    on_ray.ready(2)
    assert requests_counted(on_ray) == before + 40, "what a replica has counted outlives it"


def requests_counted(on_ray: OnRay) -> float:
    text = on_ray.http.get("/metrics", headers=ADMIN).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return sum(
        sample.value for sample in families["ptune_requests"].samples if sample.labels["adapter"] == "narrow"
    )


def test_no_request_is_lost_with_a_replica(on_ray: OnRay) -> None:
    """None of whose answer nothing was sent yet: others are answered again, by another replica."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(on_ray.many, 16, max_tokens=300, ignore_eos=True)
        time.sleep(0.5)
        kill(replica_of(on_ray.chat("number 0")))
        answers = asked.result()
    assert [answer.status_code for answer in answers] == [200] * 16
    assert all(answer.json()["usage"]["completion_tokens"] == 300 for answer in answers)
    on_ray.ready(2)


def test_a_stream_that_has_begun_ends_with_an_error(on_ray: OnRay) -> None:
    body = {"model": "wide", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    body |= {"max_tokens": 400, "ignore_eos": True}
    for _ in range(10):  # until one is killed before its stream has ended
        with on_ray.http.stream("POST", "/v1/chat/completions", json=body, headers=ADMIN) as response:
            lines = (line.removeprefix("data: ") for line in response.iter_lines() if line)
            next(lines)
            kill(replica_of(response))
            last = list(lines)[-1]
        on_ray.ready(2)
        if last != "[DONE]":
            break
    assert json.loads(last)["error"]["code"] == "replica_lost"


def test_an_update_on_a_larger_cluster_fails_no_request(on_ray: OnRay) -> None:
    """A node comes, then another bundle with more replicas: requests are answered all the while, and the node is used."""
    on_ray.cluster.add_node(num_cpus=2)  # the first has no core left for a third replica
    shutil.copytree(on_ray.made.folder, on_ray.made.folder.with_name("other"))
    with ThreadPoolExecutor(2) as pool:
        updated = pool.submit(on_ray.run, bundle=f"{on_ray.made.folder.with_name('other')}", replicas=3)
        codes = []
        while not updated.done():
            codes += [answer.status_code for answer in on_ray.many(4, max_tokens=20)]
        updated.result()
    assert set(codes) == {200}
    on_ray.ready(3)
    assert serve.status().applications[NAME].deployments["Replica"].replica_states == {"RUNNING": 3}


@pytest.mark.slow
def test_replicas_follow_the_load_between_bounds(on_ray: OnRay, monkeypatch: pytest.MonkeyPatch) -> None:
    soon = {"upscale_delay_s": 1.0, "downscale_delay_s": 1.0, "look_back_period_s": 11.0}
    monkeypatch.setattr("ptune_serve.cluster.application.DELAYS", soon)
    on_ray.run(replicas=1, max_replicas=2)
    on_ray.ready(1)

    def two_under_load() -> bool:
        assert {answer.status_code for answer in on_ray.many(12, max_tokens=400, ignore_eos=True)} == {200}
        return bool(on_ray.http.get("/ready").json()["replicas"] == 2)

    wait_for(two_under_load)


def test_an_update_that_cannot_be_leaves_what_there_is(on_ray: OnRay) -> None:
    """The machine says why, and the old replicas go on."""
    damaged = on_ray.made.folder.with_name("damaged")
    shutil.copytree(on_ray.made.folder, damaged)
    (damaged / "golden" / "golden.json").unlink()
    with pytest.raises(PtuneError, match=r"golden\.json is missing") as raised:
        on_ray.run(bundle=str(damaged))
    assert "\n" not in str(raised.value)
    assert on_ray.chat().status_code == 200
