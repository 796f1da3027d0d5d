"""The picture of results: well-formed, with every policy and the bound in it."""

from xml.etree import ElementTree

from nodeyard.replay.bound import hourly_bound
from nodeyard.replay.market import market_of
from nodeyard.replay.plot import svg
from nodeyard.replay.policy import POLICIES
from nodeyard.replay.simulation import planner_options, replay
from tests.support.replaying import allowed, job, market_types, shape, trace


def test_every_policy_and_the_bound_are_drawn() -> None:
    any_ = shape("any")
    played, market = trace([job(any_, "j", 0.0, 4000.0)], any_), market_of(market_types())
    bound = hourly_bound(played, market, allowed(), planner_options(POLICIES["nodeyard"]))
    results = [replay(played, market, allowed(), POLICIES[p], bound=bound) for p in ("nodeyard", "baseline")]
    root = ElementTree.fromstring(svg(results))
    text = " ".join(node.text or "" for node in root.iter())
    assert {"nodeyard", "baseline", "bound"} <= set(text.split())
    lines = [node for node in root.iter() if node.tag.endswith("polyline")]
    assert len(lines) == 4 * 2 + 1


def test_nothing_to_draw_is_an_empty_picture() -> None:
    ElementTree.fromstring(svg([]))
