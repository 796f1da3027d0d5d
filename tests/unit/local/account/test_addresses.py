from __future__ import annotations

import pytest

from nodeyard.local.account.machines.pods import Addresses
from nodeyard.local.account.seed import RestingAddresses


def test_an_address_rests_until_enough_others_came_back():
    resting = RestingAddresses(resting=2)
    for address in ("a", "b"):
        resting.add(address)
    with pytest.raises(KeyError):
        resting.pop()
    resting.add("c")
    assert resting.pop() == "a"
    resting.remove("b")
    with pytest.raises(KeyError):
        resting.remove("b")


def test_every_pod_gets_an_address_of_its_own():
    addresses = Addresses()
    given = [addresses.take() for _ in range(70_000)]
    assert len(set(given)) == len(given)
    assert all(0 <= int(part) <= 255 for address in given[::500] for part in address.split("."))
