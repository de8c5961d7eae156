"""Every metric that the dashboard, the alerts and the autoscaler name is one that a server has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from support.deploy_files import CHART, DEPLOY, ROOT, read_yaml
from support.fake_chat_model import FakeChatModel
from support.fake_encoder_model import TEXTS
from support.served_encoder import encoder

from ptune_serve.app import create_app

SAMPLES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "ptune.json"
Metrics = dict[str, set[str]]


def names_in(exposition: str) -> set[str]:
    """The names of samples, also of those whose labels nobody has used yet."""
    families = text_string_to_metric_families(exposition)
    return {family.name + ending for family in families for ending in SAMPLES[family.type]}


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    """The names of a decoder's samples, and of an encoder's."""
    with TestClient(create_app(FakeChatModel())) as chat, encoder(TEXTS) as encodes:
        return {
            "decoder": names_in(chat.get("/metrics").text),
            "encoder": names_in(encodes.http.get("/metrics").text),
        }


def named_in(expression: str) -> set[str]:
    return set(re.findall(r"\bptune_[a-z0-9_]+", expression))


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each panel of the dashboard with the title of its row."""
    row = ""
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        else:
            yield row, panel


@pytest.mark.parametrize(("row", "panel"), [pytest.param(*both, id=both[1]["title"]) for both in panels()])
def test_a_panel_shows_what_is_measured(row: str, panel: dict[str, Any], metrics: Metrics) -> None:
    kinds = {"Models that generate": ("decoder",), "Encoders": ("encoder",)}.get(row, ("decoder", "encoder"))
    assert panel["targets"]
    for target in panel["targets"]:
        assert (named := named_in(target["expr"]))
        for kind in kinds:
            assert named <= metrics[kind]


def test_panels_do_not_lie_over_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for _, panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells
        taken |= cells


def test_the_choices_of_the_dashboard_are_read_from_labels_that_exist(metrics: Metrics) -> None:
    variables = json.loads(DASHBOARD.read_text("utf-8"))["templating"]["list"]
    queries = [one["definition"] for one in variables if one["type"] == "query"]
    assert named_in(" ".join(queries)) == {"ptune_build_info", "ptune_requests_total"}
    assert named_in(" ".join(queries)) <= metrics["decoder"] & metrics["encoder"]


def test_alerts_are_about_what_every_kind_of_server_measures(metrics: Metrics) -> None:
    groups = read_yaml(DEPLOY / "prometheus" / "rules.yml")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    named = set().union(*(named_in(rule["expr"]) for rule in rules))
    assert len(named) >= 4
    assert named <= metrics["decoder"] & metrics["encoder"]


def test_servers_are_added_by_a_metric_of_every_kind(metrics: Metrics) -> None:
    metric = read_yaml(CHART / "values.yaml")["autoscaling"]["metric"]
    assert metric in metrics["decoder"] & metrics["encoder"]


def test_the_documentation_names_no_other(metrics: Metrics) -> None:
    said = named_in((ROOT / "docs" / "containers.md").read_text("utf-8"))
    assert said <= metrics["decoder"] | metrics["encoder"]
