"""What a pod counts with when it is evicted: never less than it has, and what its autoscaler gives otherwise."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nodeyard.api import objects
from nodeyard.api.autoscaling import autoscaler_of, successor_of
from nodeyard.api.quantity import parse_all
from nodeyard.api.reading import read
from nodeyard.api.shape import pod_requests, shape_of

NAMES = ("cpu", "memory")
amounts = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9).map(str))
policies = st.fixed_dictionaries(
    {
        "containerName": st.sampled_from(["a", "b", "*"]),
        "mode": st.sampled_from(["Auto", "Off"]),
        "minAllowed": amounts,
        "maxAllowed": amounts,
        "controlledValues": st.sampled_from(["RequestsOnly", "RequestsAndLimits"]),
    }
)
containers = st.fixed_dictionaries({"requests": amounts, "limits": amounts})
recommended = st.dictionaries(st.sampled_from(["a", "b", "side", "init"]), amounts)


def pod_of(bodies: list[Any], starting: list[Any]) -> objects.Pod:
    spec = {
        "containers": [{"name": n, "resources": r} for n, r in zip("ab", bodies, strict=False)],
        "initContainers": [
            {
                "name": "side" if always else "init",
                "resources": r,
                **({"restartPolicy": "Always"} if always else {}),
            }
            for always, r in starting
        ],
        "overhead": {"cpu": "1"},
    }
    return read({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}, objects.Pod)


def under(found: dict[str, Any], rules: list[Any]) -> Any:
    body = {
        "metadata": {"name": "v", "namespace": "n"},
        "spec": {"targetRef": {"kind": "D", "name": "d"}, "resourcePolicy": {"containerPolicies": rules}},
        "status": {
            "recommendation": {
                "containerRecommendations": [{"containerName": c, "target": t} for c, t in found.items()]
            }
        },
    }
    return autoscaler_of(body)


def admitted(pod: objects.Pod, found: dict[str, Any], rules: list[Any]) -> objects.PodSpec:
    """The oracle: the pod's containers with requests as the admission webhook would write them."""
    by_name: dict[str, Any] = {}
    for rule in rules:
        by_name[rule["containerName"]] = rule
    spec = pod.spec
    for container in (*spec.containers, *(c for c in spec.init_containers if c.restart_policy)):
        rule = by_name.get(container.name) or by_name.get("*") or {}
        if container.name not in found or rule.get("mode") == "Off":
            continue
        assert container.resources is not None
        for name, text in found[container.name].items():
            amount = int(text)
            least, most = (int(rule.get(bound, {}).get(name, 0)) for bound in ("minAllowed", "maxAllowed"))
            amount = max(amount, least) if least else amount
            amount = min(amount, most) if most else amount
            if rule.get("controlledValues") == "RequestsOnly" and name in container.resources.limits:
                amount = min(amount, int(container.resources.limits[name]))
            container.resources.requests = {**container.resources.requests, name: str(amount)}
    return spec


@given(
    st.lists(containers, min_size=1, max_size=2),
    st.lists(st.tuples(st.booleans(), containers), max_size=2, unique_by=lambda one: one[0]),
    recommended,
    st.lists(policies, max_size=3, unique_by=lambda one: one["containerName"]),
)
def test_it_counts_with_the_most_of_what_it_has_and_what_it_will_be_given(
    bodies: list[Any], starting: list[Any], found: dict[str, Any], rules: list[Any]
) -> None:
    shape = shape_of(pod_of(bodies, starting))
    given_ = pod_requests(admitted(pod_of(bodies, starting), found, rules))
    back = successor_of(shape, under(found, rules))
    for name in (*NAMES, "pods"):
        assert back.requests.get(name, 0) == max(shape.requests.get(name, 0), given_.get(name, 0))
    assert (back is shape) == (back.id == shape.id)
    assert successor_of(back, under(found, rules)) is back


@given(containers, amounts, amounts)
def test_it_never_grows_beyond_what_the_policy_allows(body: Any, target: Any, most: Any) -> None:
    shape = shape_of(pod_of([body], []))
    rule = {"containerName": "a", "maxAllowed": most}
    back = successor_of(shape, under({"a": target}, [rule]))
    for name, bound in parse_all(most).items():
        own, overhead = shape.requests.get(name, 0), 1000 if name == "cpu" else 0
        if bound:
            assert own <= back.requests.get(name, 0) <= max(own, bound + overhead)
