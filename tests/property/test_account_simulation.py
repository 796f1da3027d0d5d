"""Laws of the simulated account: its wire reader against botocore's writer, its prices, its books of pods."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import botocore.session
import msgspec
from botocore.awsrequest import prepare_request_dict
from botocore.serialize import create_serializer
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeyard.local.account import wire
from nodeyard.local.account.machines.admission import Load, requests
from nodeyard.local.account.machines.seen import Pod
from nodeyard.local.account.prices import SpotMarket

MODEL = botocore.session.Session().get_service_model("ec2")
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)

TAGS = st.lists(st.fixed_dictionaries({"Key": TEXT, "Value": TEXT}), min_size=1, max_size=3)
OVERRIDE = st.fixed_dictionaries(
    {"InstanceType": TEXT},
    optional={
        "SubnetId": TEXT,
        "Priority": st.floats(0, 1e6).map(lambda number: round(number, 3)),
        "WeightedCapacity": st.integers(1, 9).map(float),
    },
)
FLEET = st.fixed_dictionaries(
    {
        "LaunchTemplateConfigs": st.lists(
            st.fixed_dictionaries(
                {
                    "LaunchTemplateSpecification": st.fixed_dictionaries(
                        {"LaunchTemplateName": TEXT, "Version": TEXT}
                    ),
                    "Overrides": st.lists(OVERRIDE, min_size=1, max_size=12),
                }
            ),
            min_size=1,
            max_size=3,
        ),
        "TargetCapacitySpecification": st.fixed_dictionaries({"TotalTargetCapacity": st.integers(0, 9)}),
        "Type": st.just("instant"),
    },
    optional={
        "DryRun": st.booleans(),
        "ClientToken": TEXT,
        "TagSpecifications": st.lists(
            st.fixed_dictionaries({"ResourceType": st.just("instance"), "Tags": TAGS}), min_size=1, max_size=2
        ),
    },
)


def sent(action: str, parameters: dict[str, Any]) -> list[tuple[str, str]]:
    """The form that botocore sends for the parameters."""
    serializer = create_serializer("ec2", include_validation=False)
    request = serializer.serialize_to_request(parameters, MODEL.operation_model(action))
    prepare_request_dict(request, endpoint_url="http://x")
    body = request["body"]
    if isinstance(body, dict):
        return [(key, str(value)) for key, value in body.items()]
    return parse_qsl(body, keep_blank_values=True)


@given(FLEET)
@settings(max_examples=60, deadline=None)
def test_what_botocore_writes_is_read_back_as_it_was(parameters: dict[str, Any]) -> None:
    assert wire.parsed("CreateFleet", sent("CreateFleet", parameters)) == parameters


@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(["m5.large", "c6g.xlarge", "p4d.24xlarge"]),
    zone=st.sampled_from(["a", "b"]),
    at=st.floats(0, 1e7),
    speed=st.floats(0, 5000),
)
@settings(deadline=None)
def test_a_spot_price_is_a_share_of_the_on_demand_price(
    seed: int, name: str, zone: str, at: float, speed: float
) -> None:
    market = SpotMarket(lambda _name: 2.0, seed, started=0.0)
    market.turn(0.0, speed=speed)
    assert 0.25 * 2 - 1e-6 <= market.price(name, zone, at) <= 0.70 * 2 + 1e-6


@given(seed=st.integers(0, 99), start=st.floats(0, 1e6), length=st.floats(0, 50_000), place=st.floats(0, 1))
@settings(deadline=None)
def test_history_and_price_agree_at_every_moment(
    seed: int, start: float, length: float, place: float
) -> None:
    market = SpotMarket(lambda _name: 2.0, seed, started=0.0)
    changes = market.changes("m5.large", "a", start, start + length)
    moment = start + place * length
    in_force = next(price for since, price in changes if since <= moment + 1e-6)
    assert in_force in (market.price("m5.large", "a", moment), market.price("m5.large", "a", moment + 1e-3))


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(1, 4000)), max_size=40))
def test_a_load_is_the_sum_of_the_pods_it_holds(steps: list[tuple[int, bool, int]]) -> None:
    load, held = Load(), {}
    for number, adds, millicores in steps:
        uid = f"u{number}"
        if adds:
            requested = {"requests": {"cpu": f"{millicores}m", "memory": "1Mi"}}
            raw = {
                "metadata": {"name": "p", "uid": uid},
                "spec": {"containers": [{"name": "c", "resources": requested}]},
            }
            pod = msgspec.convert(raw, Pod)
            load.add(pod)
            held.setdefault(uid, pod)
        else:
            load.remove(uid)
            held.pop(uid, None)
    assert load.used.get("cpu", 0) == sum(requests(pod)["cpu"] for pod in held.values())
    assert set(load.pods) == set(held)
