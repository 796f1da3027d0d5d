"""Which subnet a launch goes to, while EC2's count of free addresses lags behind."""

import itertools

from nodeyard.provisioning.addresses import FULL_S, KNOWN_S, Addresses

BOTH = ("small", "large")


def book() -> Addresses:
    addresses = Addresses()
    addresses.described({"small": 100, "large": 200}, asked_at=0.0)
    return addresses


def test_the_subnet_with_the_most_free_addresses_is_taken() -> None:
    assert book().best(BOTH, 1.0) == "large"
    assert book().best(("large", "small"), 1.0) == "large"


def test_launches_under_way_count_before_ec2_shows_them() -> None:
    addresses = book()
    addresses.hold("a", {"large": 150, "small": 10}, 1.0)
    assert (addresses.left("large", 2.0), addresses.left("small", 2.0)) == (50, 90)
    assert addresses.best(BOTH, 2.0) == "small"


def test_the_reply_gives_back_what_was_not_used() -> None:
    addresses = book()
    addresses.hold("a", {"large": 150, "small": 10}, 1.0)
    addresses.hold("b", {"large": 29}, 1.0)
    addresses.settle("a", "small", 2.0)
    addresses.settle("b", "", 2.0)
    assert (addresses.left("large", 3.0), addresses.left("small", 3.0)) == (200, 90)


def test_a_count_taken_after_the_reply_has_the_launch_in_it() -> None:
    addresses = book()
    addresses.hold("answered", {"large": 50}, 1.0)
    addresses.settle("answered", "large", 5.0)
    addresses.hold("under way", {"large": 20}, 6.0)
    addresses.described({"large": 199}, asked_at=4.0)
    assert addresses.left("large", 7.0) == 129
    addresses.described({"large": 150}, asked_at=7.0)
    assert addresses.left("large", 8.0) == 130


def test_launches_stay_with_a_subnet_until_another_has_much_more_left() -> None:
    addresses = Addresses()
    addresses.described({"small": 100, "large": 104}, asked_at=0.0)
    taken = []
    for number in range(12):
        taken.append(addresses.best(BOTH, 1.0))
        addresses.hold(str(number), {str(taken[-1]): 8}, 1.0)
    assert taken[0] == "large"
    assert 1 <= sum(one != other for one, other in itertools.pairwise(taken)) <= 4
    assert abs(addresses.left("small", 1.0) - addresses.left("large", 1.0)) <= 30


def test_a_full_subnet_is_left_alone_for_a_while_and_the_zone_with_the_last() -> None:
    addresses = book()
    addresses.full("large", 1.0)
    assert addresses.best(BOTH, 2.0) == "small"
    addresses.full("small", 1.0)
    assert addresses.best(BOTH, 2.0) is None
    assert addresses.best(BOTH, 1.0 + FULL_S) == "large"


def test_old_counts_and_launches_that_were_never_answered_are_forgotten() -> None:
    addresses = book()
    addresses.hold("lost", {"large": 150}, 1.0)
    assert addresses.left("small", KNOWN_S + 2.0) == 0
    addresses.described({"large": 200}, asked_at=KNOWN_S)
    assert addresses.left("large", KNOWN_S + 2.0) == 200


def test_without_any_count_the_first_that_is_not_full_is_taken() -> None:
    assert Addresses().best(BOTH, 0.0) == "small"
    assert Addresses().best((), 0.0) is None
