"""What a pod requests, against an oracle that plays the pod's life: at every moment some containers run together, and
the most that any moment needs is what must be reserved.
"""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nodeyard.api import objects
from nodeyard.api.quantity import Resources
from nodeyard.api.reading import read
from nodeyard.api.shape import pod_requests

NAMES = ("cpu", "memory", "nvidia.com/gpu", "hugepages-2Mi")
amounts = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9), max_size=4)
containers = st.fixed_dictionaries({"requests": amounts, "limits": amounts})
init_containers = st.tuples(containers, st.booleans())


def _unit(name: str, amount: int) -> int:
    return amount * 1000 if name == "cpu" else amount


def _wanted(container: dict[str, dict[str, int]], name: str) -> int:
    """A request, else the limit, else nothing."""
    return container["requests"].get(name, container["limits"].get(name, 0))


def life(running: list[Any], starting: list[Any], overhead: dict[str, int], pod: Any) -> Resources:
    """The oracle: the sets of containers alive at each moment, one after the other."""
    moments: list[list[Any]] = []
    sidecars: list[Any] = []
    for container, sidecar in starting:
        moments.append([*sidecars, container])
        if sidecar:
            sidecars.append(container)
    moments.append([*sidecars, *running])
    needs: Resources = {}
    for name in NAMES:
        need = max(sum(_wanted(container, name) for container in alive) for alive in moments)
        mentioned = any(
            name in one["requests"] or name in one["limits"] for one in (*running, *(c for c, _ in starting))
        )
        if pod is not None and name != "nvidia.com/gpu":
            if name in pod["requests"]:
                need = pod["requests"][name]
            elif name in pod["limits"] and not mentioned:
                need = pod["limits"][name]
        needs[name] = _unit(name, need + overhead.get(name, 0))
    return {name: amount for name, amount in {**needs, "pods": 1}.items() if amount}


def _container(container: dict[str, dict[str, int]], sidecar: bool = False) -> dict[str, Any]:
    resources = {kind: {n: str(a) for n, a in container[kind].items()} for kind in ("requests", "limits")}
    return {"resources": resources, **({"restartPolicy": "Always"} if sidecar else {})}


@given(
    st.lists(containers, min_size=1, max_size=4),
    st.lists(init_containers, max_size=5),
    amounts,
    st.none() | containers,
)
def test_requests_are_the_most_that_any_moment_of_the_pods_life_needs(
    running: list[Any], starting: list[Any], overhead: dict[str, int], pod: Any
) -> None:
    spec = {
        "containers": [_container(one) for one in running],
        "initContainers": [_container(one, sidecar) for one, sidecar in starting],
        "overhead": {name: str(amount) for name, amount in overhead.items()},
    }
    if pod is not None:
        spec["resources"] = _container(pod)["resources"]
    assert pod_requests(read(spec, objects.PodSpec)) == life(running, starting, overhead, pod)


@given(st.lists(containers, min_size=1, max_size=4), st.lists(init_containers, max_size=4))
def test_a_pod_never_requests_less_than_its_containers_together(
    running: list[Any], starting: list[Any]
) -> None:
    spec = {
        "containers": [_container(one) for one in running],
        "initContainers": [_container(one, sidecar) for one, sidecar in starting],
    }
    requests = pod_requests(read(spec, objects.PodSpec))
    for name in NAMES:
        assert requests.get(name, 0) >= _unit(name, sum(_wanted(one, name) for one in running))
