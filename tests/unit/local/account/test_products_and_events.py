from __future__ import annotations

import json
from typing import Any

import pytest

from nodeyard.local.account.catalogue import description
from nodeyard.local.account.events import message
from nodeyard.local.account.prices import on_demand_usd_per_hour
from nodeyard.local.account.products import PricingError, answer

ONE = {"regionCode": "eu-west-1", "instanceType": "m5.large"}


def ask(token: str | None = None, size: int = 100, **fields: str) -> dict[str, Any]:
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in fields.items()]
    body = {"ServiceCode": "AmazonEC2", "Filters": filters, "MaxResults": size, "NextToken": token}
    return answer("GetProducts", body, description)


def usd(entry: str) -> float:
    term = next(iter(json.loads(entry)["terms"]["OnDemand"].values()))
    return float(next(iter(term["priceDimensions"].values()))["pricePerUnit"]["USD"])


def test_the_linux_shared_price_is_the_accounts():
    rows = ask(**ONE, operatingSystem="Linux", tenancy="Shared", capacitystatus="Used")["PriceList"]
    assert len(rows) == 1
    assert usd(rows[0]) == pytest.approx(on_demand_usd_per_hour(description("m5.large") or {}, "eu-west-1"))


def test_a_forgotten_filter_gives_other_prices_too():
    assert {usd(row) for row in ask(**ONE)["PriceList"]} > {0.0}


def test_pages_are_complete_and_have_no_doubles():
    seen, token = [], None
    while True:
        page = ask(token, size=30, regionCode="eu-west-1", instanceFamily="m5")
        seen.extend(page["PriceList"])
        token = page.get("NextToken")
        if not token:
            break
    assert len(seen) == len(set(seen)) == len(ask(regionCode="eu-west-1", instanceFamily="m5")["PriceList"])


def test_metal_is_another_product_family():
    rows = ask(regionCode="eu-west-1", instanceType="m5.metal", productFamily="Compute Instance (bare metal)")
    assert rows["PriceList"]
    assert not ask(regionCode="eu-west-1", instanceType="m5.metal", productFamily="Compute Instance")[
        "PriceList"
    ]


@pytest.mark.parametrize(
    ("action", "body", "code"),
    [
        ("GetProducts", {"ServiceCode": "AmazonS3"}, "NotFoundException"),
        ("GetProducts", {"ServiceCode": "AmazonEC2", "MaxResults": 0}, "InvalidParameterException"),
        ("GetProducts", {"ServiceCode": "AmazonEC2", "NextToken": "x"}, "InvalidNextTokenException"),
        ("GetPriceListFileUrl", {}, "UnknownOperationException"),
    ],
)
def test_bad_questions_are_refused(action: str, body: dict[str, Any], code: str):
    with pytest.raises(PricingError) as refused:
        answer(action, body, description)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("kind", "source", "title"),
    [
        ("spot", "aws.ec2", "EC2 Spot Instance Interruption Warning"),
        ("rebalance", "aws.ec2", "EC2 Instance Rebalance Recommendation"),
        ("state-change", "aws.ec2", "EC2 Instance State-change Notification"),
        ("scheduled-change", "aws.health", "AWS Health Event"),
    ],
)
def test_events_have_eventbridges_shape(kind: str, source: str, title: str):
    text = message(
        kind, event_id="e", account_id="1", region="eu-west-1", at=0.0, instance_id="i-1", state="running"
    )
    body = json.loads(text)
    assert (body["source"], body["detail-type"], body["time"]) == (source, title, "1970-01-01T00:00:00Z")
    assert "i-1" in json.dumps(body["detail"])
    assert any("i-1" in resource for resource in body["resources"])
