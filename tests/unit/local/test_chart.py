"""The chart renders without Helm, grants no more than is written down, and agrees with the services' settings."""

import importlib
import itertools
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeyard.adapters.kubernetes.paths import COLLECTIONS
from nodeyard.local import install
from nodeyard.local.binaries import cache_root
from nodeyard.local.chart import ChartError, chart_root, render, render_rbac
from nodeyard.local.services import SERVICES, command
from nodeyard.local.versions import KUBERNETES
from nodeyard.runtime.settings import ServiceSettings, load

PASSWORD = {"redis": {"password": "sesame"}}
EVERYTHING = {
    **PASSWORD,
    "aws": {"region": "eu-west-1", "endpointUrl": "http://account:5000", "interruptionQueue": "nodeyard"},
    "placementMode": "bind",
    "allocator": {"serviceAccountAnnotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/a"}},
}
Objects = list[dict[str, Any]]


def of_kind(objects: Objects, kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pod_spec(deployment: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def settings_class(service: str) -> type[ServiceSettings]:
    module = importlib.import_module(f"services.{service}.settings")
    (found,) = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, ServiceSettings) and each is not ServiceSettings
    ]
    return found


def test_there_are_five_deployments_each_with_service_budget_account_and_policy() -> None:
    objects = render("here", values=PASSWORD)
    names = {f"nodeyard-{service}" for service in SERVICES}
    assert set(of_kind(objects, "Deployment")) == names | {"nodeyard-redis"}
    assert set(of_kind(objects, "Service")) == names | {"nodeyard-redis"}
    assert set(of_kind(objects, "PodDisruptionBudget")) == names
    assert set(of_kind(objects, "ServiceAccount")) == names
    assert set(of_kind(objects, "NetworkPolicy")) == names | {"nodeyard-redis"}
    assert all(
        each["metadata"]["namespace"] == "here" for each in objects if not each["kind"].startswith("Cluster")
    )


def test_no_container_can_write_its_root_or_be_root() -> None:
    for name, deployment in of_kind(render(values=PASSWORD), "Deployment").items():
        spec = pod_spec(deployment)
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name


def test_only_services_that_talk_to_the_api_server_get_a_token() -> None:
    mounted = {
        name
        for name, each in of_kind(render(values=PASSWORD), "Deployment").items()
        if pod_spec(each)["automountServiceAccountToken"]
    }
    assert mounted == {"nodeyard-watcher", "nodeyard-allocator", "nodeyard-reallocator"}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("values", [PASSWORD, EVERYTHING], ids=["plain", "everything"])
def test_every_variable_is_one_that_the_service_reads_and_understands(
    service: str, values: dict[str, Any]
) -> None:
    import msgspec

    spec = pod_spec(of_kind(render(values=values), "Deployment")[f"nodeyard-{service}"])
    (container,) = spec["containers"]
    environ = {each["name"]: each.get("value", "x") for each in container["env"]}
    read = {field.encode_name for field in msgspec.structs.fields(settings_class(service))}
    assert {name for name in environ if name.startswith("NODEYARD_")} <= read
    load(settings_class(service), environ)


@pytest.mark.parametrize("service", SERVICES)
def test_the_command_is_the_one_that_the_stand_starts(service: str) -> None:
    (container,) = pod_spec(of_kind(render(values=PASSWORD), "Deployment")[f"nodeyard-{service}"])[
        "containers"
    ]
    assert container["args"] == command(service)[2:]


def test_peers_are_called_where_their_services_listen() -> None:
    objects = render("here", values=PASSWORD)
    services = of_kind(objects, "Service")
    for deployment in of_kind(objects, "Deployment").values():
        for each in pod_spec(deployment)["containers"][0].get("env", []):
            host, _, port = each.get("value", "").partition(".here.svc:")
            if port and not host.startswith("redis"):
                ports = {p["port"] for p in services[host]["spec"]["ports"]}
                assert int(port) in ports, each


def test_no_right_is_a_wildcard_and_nobody_may_escalate() -> None:
    for mode in ("nominate", "bind"):
        objects = render_rbac(placement_mode=mode)
        for role in itertools.chain(
            of_kind(objects, "ClusterRole").values(), of_kind(objects, "Role").values()
        ):
            for rule in role["rules"]:
                granted = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
                assert "*" not in granted
                assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
                assert not {"secrets", "pods/exec", "roles", "clusterroles"} & set(rule["resources"])


def test_bindings_may_be_created_by_those_only_that_are_told_to() -> None:
    def may_bind(mode: str, *, returning: bool) -> list[str]:
        roles = of_kind(
            render_rbac(placement_mode=mode, reallocator={"bindReturningPods": returning}), "ClusterRole"
        )
        return sorted(
            n for n, role in roles.items() for rule in role["rules"] if "pods/binding" in rule["resources"]
        )

    assert may_bind("nominate", returning=False) == []
    assert may_bind("bind", returning=False) == ["nodeyard-allocator"]
    assert may_bind("nominate", returning=True) == ["nodeyard-reallocator"]
    assert may_bind("bind", returning=True) == ["nodeyard-allocator", "nodeyard-reallocator"]


@pytest.mark.parametrize("given", [True, False])
def test_the_reallocator_is_told_what_it_has_the_right_to(given: bool) -> None:
    named = {
        "bindReturningPods": "NODEYARD_BIND_RETURNING_PODS",
        "surge": "NODEYARD_SURGE",
        "markLeavingPods": "NODEYARD_MARK_LEAVING_PODS",
    }
    values = {**PASSWORD, "reallocator": dict.fromkeys(named, given)}
    (container,) = pod_spec(of_kind(render(values=values), "Deployment")["nodeyard-reallocator"])[
        "containers"
    ]
    told = {each["name"]: each.get("value") for each in container["env"]}
    assert {told[name] for name in named.values()} == {str(given).lower()}


def test_the_watcher_only_reads_and_pricing_and_admin_have_no_rights() -> None:
    objects = render_rbac()
    roles = of_kind(objects, "ClusterRole")
    assert {verb for rule in roles["nodeyard-watcher"]["rules"] for verb in rule["verbs"]} == {
        "list",
        "watch",
    }
    bound = {
        subject["name"]
        for kind in ("ClusterRoleBinding", "RoleBinding")
        for each in of_kind(objects, kind).values()
        for subject in each["subjects"]
    }
    assert bound == {"nodeyard-watcher", "nodeyard-allocator", "nodeyard-reallocator"}


def test_grpc_and_redis_are_reached_by_our_own_pods_only() -> None:
    for name, policy in of_kind(render(values=PASSWORD), "NetworkPolicy").items():
        for rule in policy["spec"]["ingress"]:
            ports = {each["port"] for each in rule["ports"]}
            if ports != {8080}:
                for peer in rule["from"]:
                    assert peer["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "nodeyard"}, name
                    assert "namespaceSelector" not in peer, name


def test_nothing_is_reached_from_outside_the_cluster() -> None:
    """No policy lets in what is no pod, and no Service has an address outside."""
    objects = render(values=PASSWORD)
    for name, policy in of_kind(objects, "NetworkPolicy").items():
        assert policy["spec"]["policyTypes"] == ["Ingress"], name
        for rule in policy["spec"]["ingress"]:
            assert rule["from"], name
            assert all(peer.keys() <= {"podSelector", "namespaceSelector"} for peer in rule["from"]), name
    assert {each["spec"]["type"] for each in of_kind(objects, "Service").values()} == {"ClusterIP"}
    assert not {"Ingress", "Gateway", "HTTPRoute"} & {each["kind"] for each in objects}


def test_helm_installs_the_custom_resources_that_the_services_read() -> None:
    """Helm takes them from the chart's own directory `crds`, and so does the stand."""
    served = {
        f"/apis/{each['spec']['group']}/{version['name']}/{each['spec']['names']['plural']}"
        for each in install.definitions()
        for version in each["spec"]["versions"]
        if version["served"]
    }
    assert served == {path for path in COLLECTIONS.values() if path.startswith("/apis/karpenter")}


def test_redis_wants_a_password_and_nobody_else_sees_it() -> None:
    with pytest.raises(ChartError, match=r"redis\.password or redis\.existingSecret"):
        render()
    objects = render(values=PASSWORD)
    assert of_kind(objects, "Secret")["nodeyard-redis"]["stringData"] == {"password": "sesame"}
    assert "sesame" not in str([each for each in objects if each["kind"] != "Secret"])
    existing = render(values={"redis": {"existingSecret": "mine"}})
    assert of_kind(existing, "Secret") == {}
    names = {
        each["valueFrom"]["secretKeyRef"]["name"]
        for deployment in of_kind(existing, "Deployment").values()
        for each in pod_spec(deployment)["containers"][0]["env"]
        if each["name"] == "REDIS_PASSWORD"
    }
    assert names == {"mine"}


def test_a_redis_of_ones_own_is_pointed_at() -> None:
    values = {"redis": {"enabled": False, "url": "cache.example:6380", "tls": True, "existingSecret": "mine"}}
    objects = render(values=values)
    assert "nodeyard-redis" not in of_kind(objects, "Deployment")
    (container,) = pod_spec(of_kind(objects, "Deployment")["nodeyard-allocator"])["containers"]
    urls = [each["value"] for each in container["env"] if each["name"] == "NODEYARD_REDIS_URL"]
    assert urls == ["rediss://:$(REDIS_PASSWORD)@cache.example:6380/0"]


def test_a_value_that_the_chart_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(ChartError, match=r"values\.allocator\.replica"):
        render(values={"allocator": {"replica": 1}})


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("a: {{ .Values.nothing }}", "t.yaml:1"),
        ("a: 1\n{{- if .Values.x }}", "an if without its end"),
        ("{{- end }}", "an end without an if"),
        ("a: {{ include \"x\" . }}", "not understood"),
        ("a: {{ .Values.x | b64enc }}", "b64enc"),
        ("{{- if and .Values.x .Values.x }}\n{{- end }}", "not understood"),
        ("a: [", "not YAML"),
    ],
)  # fmt: skip
def test_what_the_renderer_does_not_know_is_an_error_with_its_place(
    tmp_path: Path, template: str, says: str
) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("{name: c, version: 1.0.0, appVersion: 1.0.0}")
    (tmp_path / "values.yaml").write_text("x: 1")
    (tmp_path / "templates" / "t.yaml").write_text(template)
    with pytest.raises(ChartError, match=says):
        render(chart=tmp_path)


HELM = cache_root() / "tools" / "helm"


@pytest.mark.helm
@pytest.mark.parametrize("values", [PASSWORD, EVERYTHING], ids=["plain", "everything"])
def test_helm_renders_the_same_and_has_nothing_to_complain_about(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    options = ["--namespace", "here", "--values", str(file), "--kube-version", KUBERNETES]
    lint = subprocess.run(
        [str(HELM), "lint", str(chart_root()), *options], capture_output=True, text=True, check=False
    )
    assert lint.returncode == 0, lint.stdout
    said = subprocess.run(
        [str(HELM), "template", "nodeyard", str(chart_root()), *options],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    by_helm = [each for each in yaml.safe_load_all(said) if each]

    def ordered(objects: Objects) -> Objects:
        return sorted(objects, key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert ordered(by_helm) == ordered(render("here", values=values))
