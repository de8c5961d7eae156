"""KServe's runtime: its pod against Kubernetes' schema, its command, and the shape that KServe asks for."""

from __future__ import annotations

import pytest
from support.deploy_files import DEPLOY, read_yaml, served_by

RUNTIME = read_yaml(DEPLOY / "kserve" / "serving-runtime.yaml")
SPEC = RUNTIME["spec"]
[CONTAINER] = SPEC["containers"]


def test_it_serves_what_kserve_put_where_kserve_asks() -> None:
    served = served_by(CONTAINER["command"])
    assert str(served.bundle) == "/mnt/models"
    assert served.host == "0.0.0.0"
    [port] = CONTAINER["ports"]
    probes = [CONTAINER[name]["httpGet"]["port"] for name in CONTAINER if name.endswith("Probe")]
    assert {served.port, *probes} == {port["containerPort"]} == {8080}
    assert SPEC["annotations"]["prometheus.kserve.io/port"] == "8080"


def test_its_names_are_those_that_kserve_looks_for() -> None:
    assert (RUNTIME["apiVersion"], RUNTIME["kind"]) == ("serving.kserve.io/v1alpha1", "ServingRuntime")
    assert CONTAINER["name"] == "kserve-container"
    [shape] = SPEC["supportedModelFormats"]
    assert shape == {"name": "ptune", "version": "1", "autoSelect": True}
    assert set(SPEC["protocolVersions"]) <= {"v1", "v2", "grpc-v1", "grpc-v2"}


def test_its_pod_is_one_that_kubernetes_takes() -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="needs pip install kubernetes-validate")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": SPEC["containers"], "volumes": SPEC["volumes"]},
    }
    schemas.validate(pod, schemas.latest_version(), strict=True)


def test_it_is_confined_as_the_charts_server_is() -> None:
    context = CONTAINER["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
