"""When a course is looked for, and when single commands have the time."""

from nodeyard.disruption.methods import LIVE, METHODS, URGENT, WITHOUT_COURSES
from nodeyard.disruption.model import Outcome, View
from services.reallocator.patience import CALM_S, LONGEST_REST_S, Patience
from tests.support.disruption import NOW, Builder


def view(after_s: float = 0.0, *, calm: bool = True) -> View:
    build = Builder(NOW + after_s)
    if not calm:
        build.pod("waits")
    return build.view()


def test_a_calm_cluster_is_asked_for_a_course_first() -> None:
    assert Patience().methods(view(), 1) is LIVE


def test_single_commands_wait_for_calm_but_not_for_ever() -> None:
    patience = Patience()
    assert patience.methods(view(calm=False), 1) is URGENT
    assert patience.methods(view(CALM_S - 1, calm=False), 1) is URGENT
    assert patience.methods(view(CALM_S, calm=False), 1) is METHODS
    assert patience.methods(view(CALM_S + 1), 1) is LIVE
    assert patience.methods(view(CALM_S + 2, calm=False), 1) is URGENT


def test_other_terms_begin_the_wait_anew() -> None:
    patience = Patience()
    patience.methods(view(calm=False), 1)
    assert patience.methods(view(CALM_S, calm=False), 2) is URGENT


def test_a_search_in_vain_is_not_repeated_at_once_unless_the_terms_change() -> None:
    patience = Patience()
    patience.fruitless(NOW, 1, took_s=2.0)
    assert patience.methods(view(19), 1) is METHODS
    assert patience.methods(view(19), 2) is LIVE
    assert patience.methods(view(20), 1) is LIVE


def test_a_course_given_up_is_looked_for_again_at_once_and_the_second_leaves_a_while_to_single_commands() -> (
    None
):
    patience = Patience()
    patience.given_up(NOW, 1)
    assert patience.methods(view(), 1) is LIVE
    patience.given_up(NOW, 1)
    assert patience.methods(view(LONGEST_REST_S - 1), 1) is METHODS
    assert patience.methods(view(LONGEST_REST_S), 1) is LIVE


def test_a_course_that_arrives_makes_up_for_those_given_up() -> None:
    patience = Patience()
    patience.given_up(NOW, 1)
    patience.arrived()
    patience.given_up(NOW, 1)
    assert patience.methods(view(), 1) is LIVE


def test_where_no_course_is_possible_single_commands_never_wait() -> None:
    patience, found = Patience(courses=False), Outcome(quiet=True)
    assert patience.methods(view(), 1) is WITHOUT_COURSES
    assert patience.methods(view(calm=False), 1) is WITHOUT_COURSES
    assert patience.awake(found, WITHOUT_COURSES, NOW) == found


def test_a_wait_that_ends_by_itself_lets_no_pass_rest_beyond_it() -> None:
    patience, found = Patience(), Outcome(quiet=True)
    assert not patience.awake(found, URGENT, NOW).quiet
    assert patience.awake(found, METHODS, NOW).recheck_at == NOW + CALM_S
    assert patience.awake(found, LIVE, NOW) == found
