"""The chart, rendered by Helm's own engine, against Kubernetes' own schemas; and what a cluster needs of its values."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from support.deploy_files import CHART, ROOT, entrypoint, read_yaml, served_by, stages

helm = pytest.importorskip(
    "helm_python", reason="needs pip install helm-python-sdk, which is for Linux on x86-64"
)
schemas = pytest.importorskip("kubernetes_validate", reason="needs pip install kubernetes-validate")

Resource = dict[str, Any]
KUBERNETES = ("1.27", "1.34", schemas.latest_version())
PLAIN: Resource = {"bundle": {"existingClaim": "models"}}
FULL: Resource = {
    "image": {"repository": "registry/ptune", "tag": "2", "pullSecrets": ["pull"]},
    "bundle": {"create": {"enabled": True, "storageClass": "fast", "accessModes": ["ReadWriteMany"]}},
    "keys": {"toml": "[[keys]]\nname = 'a: \"b\"'\n"},
    "args": ["--kv-gb", "2"],
    "autoscaling": {"enabled": True, "target": 8},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "keySecret": {"name": "metrics"}},
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "models", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
}  # fmt: skip
OF_OTHERS = {"ServiceMonitor"}  # Kubernetes has no schema of it


def rendered(values: Resource) -> dict[str, Resource]:
    """The resources by their kind."""
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name="demo", namespace="models")
    found = [
        one for name, text in files.items() if name.endswith(".yaml") for one in yaml.safe_load_all(text)
    ]
    return {one["kind"]: one for one in found if one}


def pod(values: Resource) -> Resource:
    spec: Resource = rendered(values)["Deployment"]["spec"]["template"]["spec"]
    return spec


def server(values: Resource) -> Resource:
    [container] = pod(values)["containers"]
    return dict(container)


def test_helm_has_nothing_to_say_against_it() -> None:
    said = helm.lint(str(CHART))
    assert said["errors"] == []
    assert [message["error"] for message in said["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("values", [PLAIN, FULL], ids=["plain", "full"])
def test_kubernetes_takes_every_resource(values: Resource, version: str) -> None:
    for kind, resource in rendered(values).items():
        if kind not in OF_OTHERS:
            schemas.validate(resource, version, strict=True)


def test_kubernetes_refuses_what_it_does_not_know() -> None:
    resource = rendered(PLAIN)["Service"]
    resource["spec"]["prot"] = 1
    with pytest.raises(schemas.ValidationError, match="prot"):
        schemas.validate(resource, KUBERNETES[0], strict=True)


def test_what_is_made_only_when_it_is_asked_for() -> None:
    always = {"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"}
    assert set(rendered(PLAIN)) == always
    asked = {"HorizontalPodAutoscaler", "PersistentVolumeClaim", "Secret", "ServiceMonitor"}
    assert set(rendered(FULL)) == always | asked
    assert "NetworkPolicy" not in rendered({**PLAIN, "networkPolicy": {"enabled": False}})


@pytest.mark.parametrize("values", [PLAIN, FULL], ids=["plain", "full"])
def test_its_options_are_those_of_ptune_serve(values: Resource) -> None:
    served = served_by([*entrypoint("serve"), *server(values)["args"]])
    assert served.log_json == (values is PLAIN)
    assert served.api_key_file is None if values is PLAIN else str(served.api_key_file) == "/keys/keys.toml"
    spec = pod(values)
    assert spec["terminationGracePeriodSeconds"] >= served.drain_s + 5 + 10  # preStop, and the last step


def test_no_bundle_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(helm.HelmError, match=r"bundle\.existingClaim names the volume"):
        rendered({})


@pytest.mark.parametrize(
    "wrong", [{"replica": 3}, {"image": {"pullPolicy": "Sometimes"}}, {"drainSeconds": 0}]
)
def test_a_value_that_means_nothing_is_refused(wrong: Resource) -> None:
    with pytest.raises(helm.HelmError, match="schema"):
        rendered({**PLAIN, **wrong})


def test_every_value_is_in_the_schema() -> None:
    schema = read_yaml(CHART / "values.schema.json")
    assert set(read_yaml(CHART / "values.yaml")) == set(schema["properties"]) - {"global"}


def test_nobody_in_the_pod_is_root_or_writes_beside_tmp() -> None:
    spec, container = pod(PLAIN), server(PLAIN)
    uid, gid = (
        int(number) for number in dict(stages((ROOT / "Dockerfile").read_text())["serve"])["USER"].split(":")
    )
    context = spec["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == (uid, gid, True)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"] is True
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert spec["automountServiceAccountToken"] is False
    writable = [one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")]
    assert writable == ["/tmp"]


def test_probes_ask_what_each_is_for() -> None:
    container = server({**PLAIN, "startupSeconds": 601})
    paths = {
        name: container[name]["httpGet"]["path"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths == {"startupProbe": "/ready", "readinessProbe": "/ready", "livenessProbe": "/health"}
    startup = container["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 601
    assert container["ports"][0]["containerPort"] == served_by(entrypoint("serve")).port


def test_all_that_speaks_of_pods_means_the_deployments() -> None:
    resources = rendered(FULL)
    labels = resources["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        resources["Deployment"]["spec"]["selector"]["matchLabels"],
        resources["Service"]["spec"]["selector"],
        resources["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        resources["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    scraped = resources["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert scraped.items() <= resources["Service"]["metadata"]["labels"].items()
    scaled = resources["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert scaled["name"] == resources["Deployment"]["metadata"]["name"]
    assert "replicas" not in resources["Deployment"]["spec"]


def test_keys_and_bundle_come_from_where_they_were_put() -> None:
    resources = rendered(FULL)
    volumes = {one["name"]: one for one in resources["Deployment"]["spec"]["template"]["spec"]["volumes"]}
    assert volumes["keys"]["secret"]["secretName"] == resources["Secret"]["metadata"]["name"]
    assert resources["Secret"]["stringData"]["keys.toml"] == FULL["keys"]["toml"]
    claim = resources["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["bundle"]["persistentVolumeClaim"]["claimName"] == claim
    given = pod({"bundle": {"existingClaim": "models"}, "keys": {"existingSecret": "mine"}})["volumes"]
    assert given[0]["persistentVolumeClaim"]["claimName"] == "models"
    assert given[-1]["secret"]["secretName"] == "mine"


def test_the_server_may_ask_nobody() -> None:
    policy = rendered(PLAIN)["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
