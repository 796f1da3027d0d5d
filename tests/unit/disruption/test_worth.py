"""What pods are worth, and how long that is taken to be so."""

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.disruption.model import View
from nodeyard.disruption.worth import Appraisal, worth_of
from nodeyard.provisioning.model import Options, Problem
from tests.support.disruption import TYPES, Builder, catalogue

OPTIONS = Options(node_charge_usd_per_hour=0.0)


def problem_of(view: View) -> Problem:
    return Problem(view.snapshot, tuple(sorted(view.snapshot.pods)), view.catalogues, view.now)


def running(pods: int = 100) -> Builder:
    made = Builder()
    made.pool()
    made.shape("small", 250)
    made.shape("large", 2000)
    made.node("n", "m5.4xlarge", capacity_type=keys.SPOT)
    for n in range(pods):
        made.pod(f"small{n}", "n", shape="small")
    made.pod("large", "n", shape="large")
    return made


def test_worth_is_kept_while_the_same_runs_and_is_on_offer() -> None:
    made, known = running(), Appraisal()
    problem = problem_of(made.view())
    first = known.of(problem, OPTIONS)
    assert first == worth_of(problem, OPTIONS).of_shape
    made.pod("another", "n", shape="small")
    assert known.of(problem_of(made.view(catalogues=dict(problem.catalogues))), OPTIONS) is first


@pytest.mark.parametrize("change", ["prices", "pool", "options", "new shape", "many pods", "all gone"])
def test_worth_is_found_out_anew_once_something_it_hangs_on_has_changed(change: str) -> None:
    made, known = running(), Appraisal()
    before = problem_of(made.view())
    first = known.of(before, OPTIONS)
    options, sold = OPTIONS, dict(before.catalogues)
    if change == "prices":
        sold = {"default": catalogue({name: (cpu, 2 * price) for name, (cpu, price) in TYPES.items()})}
    elif change == "pool":
        made.pool(weight=7)
    elif change == "options":
        options = msgspec.structs.replace(OPTIONS, node_charge_usd_per_hour=1.0)
    elif change == "new shape":
        made.shape("tiny", 100)
        made.pod("tiny", "n", shape="tiny")
    else:
        made = running(150 if change == "many pods" else 0)
    now = problem_of(made.view(catalogues=sold))
    again = known.of(now, options)
    assert again is not first
    assert again == worth_of(now, options).of_shape
