"""The numbers of coverage are those of what ran."""

import pytest

from server.testing.coverage import FlowCoverage, percent
from tests.unit.testing.orders import outcomes_of


def covered(*conversations: str, stub: str = "{returns: {name: milk}}") -> FlowCoverage:
    tests = "".join(
        f"  - name: t{number}\n    conversation: [{said}]\n" for number, said in enumerate(conversations)
    )
    outcomes, (flow,) = outcomes_of(f"actions: {{shop.look: {stub}}}\ntests:\n{tests}")
    assert [outcome.failures for outcome in outcomes if not outcome.ok] == []
    return flow


def test_what_was_not_reached_is_named_with_its_line() -> None:
    """``order`` has ten steps; four of them have two ways out each."""
    flow = covered("{user: hello}")
    assert (flow.steps, flow.steps_entered, flow.branches, flow.branches_taken) == (10, 1, 8, 0)
    assert [str(missing) for missing in flow.missing][:4] == ["ask (-> lost)", "ask (-> look)", "look", "any"]
    assert [missing.line for missing in flow.missing][:4] == [7, 7, 12, 20]
    assert flow.percent == pytest.approx(100 / 18)


def test_tests_add_up() -> None:
    flow = covered("{user: milk}, {user: yes}", "{user: hello}, {user: x}, {user: x, fails: step_failed}")
    assert flow.steps_entered == 8
    assert [str(missing) for missing in flow.missing] == [
        "look (on_error)", "any (-> none)", "sure (if is not met)", "none", "over",
    ]  # fmt: skip


def test_everything_is_everything() -> None:
    flow = covered(
        "{user: milk}, {user: yes}, {user: milk}, {user: milk}, {user: milk, fails: step_failed}, "
        "{user: hi}, {user: x}, {user: x, fails: step_failed}",
        stub="[{returns: {name: a}}, {returns: {name: free}}, {returns: null}, {fails: error}]",
    )
    assert flow.missing == ()
    assert (flow.percent, percent([flow])) == (100.0, 100.0)


def test_a_skipped_step_is_not_entered_but_its_way_is_taken() -> None:
    flow = covered("{user: milk, reply: Thanks.}", stub="{returns: {name: free}}")
    assert "sure" in [str(missing) for missing in flow.missing]
    assert "sure (if is not met)" not in [str(missing) for missing in flow.missing]
    assert flow.branches_taken == 4


def test_a_flow_that_nobody_asked_for_counts_too() -> None:
    flow = "flow: a\ndefault: true\nsteps: [{id: x, say: hi}]\n"
    _, flows = outcomes_of(
        "tests: [{name: a, conversation: [{user: hi}]}]",
        flow,
        flow.replace("flow: a\ndefault: true", "flow: b"),
    )
    assert [(f.flow_id, f.percent) for f in flows] == [("a", 100.0), ("b", 0.0)]
    assert percent(flows) == 50.0


def test_what_an_acceptance_only_looks_ahead_at_is_not_covered() -> None:
    """Its digest is made by walking to the first effect behind ``accepted``."""
    flow = (
        'flow: a\nsteps:\n  - {id: gate, accept: {title: "Buy?"}, accepted: told, rejected: over}\n'
        "  - {id: told, say: Wait.}\n  - {id: buy, action: shop.buy, effect: write}\n"
        "  - {id: over, end: completed}\n"
    )
    outcomes, (found,) = outcomes_of("tests: [{name: a, conversation: [{user: hi}, {reject: }]}]", flow)
    assert [outcome.failures for outcome in outcomes] == [()]
    assert [str(missing) for missing in found.missing] == ["gate (-> told)", "told", "buy"]
