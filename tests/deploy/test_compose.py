"""The compose file, Prometheus and Grafana fit each other and the image; their own programs read them, where there are any."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.deploy_files import DEPLOY, ROOT, entrypoint, program, read_yaml, served_by, stages

COMPOSE: dict[str, Any] = read_yaml(DEPLOY / "compose.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("server", "page")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined_and_answers_this_machine_alone(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", OURS)
def test_what_is_built_is_a_stage_of_the_dockerfile(name: str) -> None:
    build = SERVICES[name]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert build["target"] in stages((ROOT / "Dockerfile").read_text("utf-8"))


@pytest.mark.parametrize("name", sorted(set(SERVICES) - set(OURS)))
def test_what_is_not_built_has_a_version(name: str) -> None:
    assert SERVICES[name]["image"].rpartition(":")[2] not in ("", "latest")


def test_the_server_is_given_time_to_drain() -> None:
    served = served_by([*entrypoint("serve"), *SERVICES["server"].get("command", [])])
    assert int(SERVICES["server"]["stop_grace_period"].removesuffix("s")) > served.drain_s + 10


@pytest.mark.parametrize("name", SERVICES)
def test_files_that_are_mounted_exist(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source = volume.rsplit("}", 1)[-1].split(":")[0] if volume.startswith("${") else volume.split(":")[0]
        if source.startswith("."):
            assert (DEPLOY / source).exists()
        elif source:
            assert source in COMPOSE["volumes"]


def test_prometheus_asks_the_server_and_grafana_asks_prometheus() -> None:
    [job] = read_yaml(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    [target] = job["static_configs"][0]["targets"]
    assert target == f"server:{served_by(entrypoint('serve')).port}"
    provisioning = DEPLOY / "grafana" / "provisioning"
    [source] = read_yaml(provisioning / "datasources" / "prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = read_yaml(provisioning / "dashboards" / "ptune.yaml")["providers"]
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted


def said_by(*command: str | Path) -> str:
    """What a program says; ends the test where it refuses the file, and skips it where there is no such program."""
    if (path := program(str(command[0]))) is None:
        pytest.skip(f"needs {command[0]} (Debian: apt install {command[0]})")
    bundle = {"BUNDLE": "/bundle"}
    said = subprocess.run(
        [path, *command[1:]], capture_output=True, text=True, cwd=DEPLOY, env={**os.environ, **bundle}
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def test_compose_reads_its_file() -> None:
    assert "target: /bundle" in said_by("docker-compose", "-f", "compose.yaml", "config")


def test_prometheus_reads_its_files() -> None:
    assert "rules found" in said_by("promtool", "check", "config", "prometheus/prometheus.yml")


def test_prometheus_can_read_what_the_dashboard_asks(tmp_path: Path) -> None:
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "ptune.json").read_text("utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    filled = [expr.replace("$__rate_interval", "5m") for expr in asked]
    rules = [{"record": f"panel:{at}", "expr": expr} for at, expr in enumerate(filled)]
    file = tmp_path / "panels.json"  # JSON is YAML, too
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    assert f"{len(asked)} rules found" in said_by("promtool", "check", "rules", file)


def test_alerts_come_when_they_should() -> None:
    said_by("promtool", "test", "rules", Path(__file__).parent / "alerts.yml")
