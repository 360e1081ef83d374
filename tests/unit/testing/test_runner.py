"""The runner finds what is wrong, and only that: each kind of expectation met and not met."""

import pytest

from tests.unit.testing.orders import FLOW, HEAD, outcome_of, outcomes_of, told

ASKED = "- user: hello\n"
BOUGHT = "- user: milk\n- user: yes\n"

MET = [
    "- user: hello\n  reply: What?",
    "- user: hello\n  reply: {contains: hat}",
    '- user: hello\n  reply: {matches: "^Wh.t\\\\?$"}',
    "- user: hello\n  reply: {any_of: [Which?, {contains: What}]}",
    "- user: hello\n  reply: [What?]",
    "- user: hello\n  buttons: [milk, bread]",
    "- user: hello\n  state: ask\n  status: waiting_input\n  flow: order",
    "- user: milk\n  slots: {what: milk, sure: null}\n  variables: {found: {name: {present: true}}}",
    "- user: milk\n  calls: [{action: shop.look, with: {what: milk}}]\n  called: {shop.look: 1}",
    "- user: hello\n  calls: []\n  called: {shop.look: 0}",
    "- user: hello\n  pending: {kind: input, questions: [{id: what, options: {contains: bread}}]}",
    "- user: milk\n  events: [execution.started, {type: step.completed, step: look}, execution.waiting]",
    "- user: hello\n  no_events: [execution.completed, {type: step.started, step: look}]",
    BOUGHT + "  reply: Thanks.\n  pending: []\n  status: completed\n  output: {bought: milk}\n  state: idle",
    BOUGHT + "- press: Again\n  reply: What?",
    "- cancel:\n  refused: conversation_not_found",
    "- user: hello\n- cancel: enough\n  status: cancelled\n- cancel:\n  refused: {code: wrong_state}",
    "- user: hello\n- user: x\n- user: x\n  fails: step_failed",
    "- user: hello\n  flow_id: none\n  refused: flow_not_found",
    "- user: milk\n- reset:\n  slots: {equals: {}}\n  status: idle",
]

NOT_MET = [
    ("- user: hello\n  reply: Who?", (2, "reply", '"Who?"', '"What?"')),
    ("- user: hello\n  reply: []", (2, "reply", "nothing", '"What?"')),
    ("- user: hello\n  reply: [What?, More?]", (2, "reply[1]", '"More?"', "nothing")),
    ("- user: hello\n  reply:\n    - Who?", (3, "reply[0]", '"Who?"', '"What?"')),
    ("- user: hello\n  reply: {contains: who}", (2, "reply", 'something that contains "who"', '"What?"')),
    ("- user: hello\n  reply: {matches: ^at}", (2, "reply", "something that matches ^at", '"What?"')),
    ("- user: hello\n  reply: {any_of: [A, B]}", (2, "reply", 'one of: "A", "B"', '"What?"')),
    ("- user: hello\n- cancel:\n  reply: Bye.", (3, "reply", '"Bye."', "nothing")),
    ("- user: hello\n  buttons: [milk]", (2, "buttons", "nothing more", '"bread"')),
    ("- user: hello\n  state: look", (2, "state", '"look"', '"ask"')),
    ("- user: hello\n  status: paused", (2, "status", '"paused"', '"waiting_input"')),
    ("- user: hello\n  flow: other", (2, "flow", '"other"', '"order"')),
    ("- user: milk\n  slots: {what: bread}", (2, "slots.what", '"bread"', '"milk"')),
    ("- user: milk\n  slots: {equals: {}}", (2, "slots", "{}", '{"what": "milk"}')),
    ("- user: milk\n  variables:\n    found: {name: 1}", (3, "variables.found.name", "1", '"milk"')),
    ("- user: milk\n  variables: {found: {present: false}}",
     (2, "variables.found", "nothing", '{"name": "milk"}')),
    ("- user: hello\n  output: 1", (2, "output", "1", "null")),
    ("- user: milk\n  calls: []", (2, "calls", "no calls", 'shop.look {"what": "milk", "most": 2}')),
    ("- user: hello\n  calls: [shop.look]", (2, "calls", "shop.look", "no call")),
    ("- user: milk\n  calls: [{action: shop.look, times: 2}]",
     (2, "calls", "shop.look", 'shop.look {"what": "milk", "most": 2}')),
    ("- user: milk\n  calls:\n  - action: shop.look\n    with: {most: 3}", (4, "shop.look.most", "3", "2")),
    ("- user: milk\n  called: {shop.look: 2}", (2, "called shop.look", "2 times", "1 time")),
    ("- user: milk\n  called: {shop.look: 0}", (2, "called shop.look", "0 times", "1 time")),
    ("- user: hello\n  pending: []",
     (2, "pending", "[]", None)),
    ("- user: hello\n  pending: {kind: acceptance}", (2, "pending[0].kind", '"acceptance"', '"input"')),
    ("- user: hello\n  events: [execution.waiting, execution.started]",
     (2, "events", "execution.started", None)),
    ("- user: hello\n  no_events: [{type: step.started, step: ask}]",
     (2, "no_events", 'no step.started {step: "ask"}', None)),
    ("- user: hello\n  refused: wrong_state", (2, "refused", '"wrong_state"', "it was accepted")),
    ("- cancel:\n  refused: wrong_state", (2, "refused", '"wrong_state"', '"conversation_not_found"')),
    ("- user: hello\n  fails: step_failed", (2, "fails", '"step_failed"', "it went well")),
]  # fmt: skip

UNCALLED_FOR = [
    ("- cancel:", (1, "the command was refused", "it is accepted")),
    ("- user: hello\n- user: x\n- user: x", (3, "the turn failed", "it goes well")),
    ("- user: hello\n- press: eggs", (2, "there is no such button", '"eggs"')),
    ("- user: hello\n- accept:", (2, "there is no acceptance to accept", "a request")),
    ("- user: hello\n- answer: {a: b}", (2, "there is no clarification to answer", "a request")),
]


@pytest.mark.parametrize("lines", MET)
def test_what_is_as_expected_passes(lines: str) -> None:
    assert told(outcome_of(lines)) == []


@pytest.mark.parametrize(("lines", "failure"), NOT_MET)
def test_what_is_not_as_expected_is_told_at_its_line(
    lines: str, failure: tuple[int, str, str, str | None]
) -> None:
    ((line, what, expected, got),) = told(outcome_of(lines))
    assert (line, what, expected) == failure[:3]
    assert failure[3] is None or got == failure[3]


@pytest.mark.parametrize(("lines", "failure"), UNCALLED_FOR)
def test_what_goes_wrong_fails_unless_it_is_expected(lines: str, failure: tuple[int, str, str]) -> None:
    ((*found, _),) = told(outcome_of(lines))
    assert tuple(found) == failure


def test_a_test_ends_at_the_line_that_fails_with_all_that_fails_there() -> None:
    outcome = outcome_of("- user: hello\n  reply: Who?\n  state: look\n- user: milk\n  reply: Never seen.")
    assert [(line, what) for line, what, *_ in told(outcome)] == [(2, "reply"), (3, "state")]


def test_a_call_that_no_stub_answers_fails_first_of_all() -> None:
    source = HEAD.replace("returns: {name: milk}", "with: {what: bread}, returns: null")
    (outcome,), _ = outcomes_of(source + "      - user: milk\n        reply: Buy milk?\n")
    assert told(outcome)[0][:3] == (1, "an action was called that has no stub", "no such call")
    assert told(outcome)[0][3] == 'shop.look {"what": "milk", "most": 2}'


def test_called_is_checked_in_the_end_too() -> None:
    (outcome,), _ = outcomes_of(HEAD + "      - user: milk\n    called: {shop.look: 3}\n")
    assert told(outcome) == [(2, "called shop.look", "3 times", "1 time")]


def test_tests_of_a_file_know_nothing_of_each_other() -> None:
    body = "    conversation: [{user: milk, called: {shop.look: 1}, reply: Buy milk?}]\n"
    outcomes, _ = outcomes_of(
        f"actions: {{shop.look: {{returns: {{name: milk}}}}}}\ntests:\n  - name: a\n{body}  - name: b\n{body}"
    )
    assert [outcome.ok for outcome in outcomes] == [True, True]


def test_a_skipped_test_does_not_run() -> None:
    (outcome,), _ = outcomes_of(HEAD.replace("- name", "- skip: later\n    name") + "      - cancel:\n")
    assert (outcome.ok, outcome.skipped) == (True, "later")


class TestStubs:
    def run(self, stubs: str, *lines: str) -> list[tuple[int, str, str, str | None]]:
        conversation = "".join(f"      {line}\n" for line in lines)
        source = f"actions:\n  shop.look: {stubs}\ntests:\n  - name: a\n    conversation:\n{conversation}"
        (outcome,), _ = outcomes_of(source)
        return told(outcome)

    def test_entries_of_a_list_answer_one_call_each_and_the_last_all_that_follow(self) -> None:
        stubs = "[{returns: null}, {returns: {name: b}}, {returns: {name: c}}]"
        said = ["There is none.", "Buy b?", "Buy c?", "Buy c?"]
        lines = [line for reply in said for line in ("- user: milk", f"  reply: {reply}", "- reset:")]
        assert self.run(stubs, *lines) == []

    def test_an_entry_with_arguments_answers_all_calls_that_fit(self) -> None:
        stubs = "[{with: {what: bread}, returns: {name: rye}}, {returns: null}]"
        lines = ["- user: milk", "  reply: There is none.", "- user: bread", "  reply: Buy rye?"]
        assert self.run(stubs, *lines) == []

    def test_times_bounds_an_entry(self) -> None:
        stubs = "[{times: 2, fails: unavailable}, {returns: {name: milk}}]"
        assert self.run(stubs, "- user: milk", "  reply: Buy milk?", "  called: {shop.look: 3}") == []

    @pytest.mark.parametrize(
        "stub", ["{fails: error}", "{fails: timeout}", "{after: 6s, returns: {name: x}}"]
    )
    def test_a_failure_goes_where_the_flow_says(self, stub: str) -> None:
        assert self.run(stub, "- user: milk", "  reply: I am lost.", "  fails: step_failed") == []


class TestTime:
    def test_waiting_takes_none(self) -> None:
        """Two back-offs of a minute, and a year."""
        source = HEAD.replace("{returns", "[{fails: unavailable, times: 2}, {returns").replace("}}}", "}}]}")
        lines = ["- user: milk", "  reply: Buy milk?", "- wait: 365d", "  status: expired"]
        (outcome,), _ = outcomes_of(source + "".join(f"      {line}\n" for line in lines))
        assert told(outcome) == []
        assert outcome.seconds < 30

    def test_it_begins_when_the_file_says_in_the_zone_that_it_says(self) -> None:
        flow = 'flow: day\nsteps: [{id: a, say: "${today} ${now}"}]\n'
        source = (
            "now: 2031-05-19T23:30:00Z\ntimezone: Europe/Paris\ntests:\n  - name: a\n    conversation:\n"
            '      - user: hi\n        reply: {contains: "2031-05-20 2031-05-20T01:30"}\n'
            '      - wait: 90m\n      - user: hi\n        reply: {contains: "2031-05-20T03:00"}\n'
        )
        (outcome,), _ = outcomes_of(source, flow)
        assert told(outcome) == []

    @pytest.mark.parametrize(("hours", "status"), [(23, "waiting_input"), (26, "expired")])
    def test_a_session_lasts_as_long_as_the_file_says(self, hours: int, status: str) -> None:
        lines = f"      - user: hi\n      - wait: {hours}h\n        status: {status}\n"
        (outcome,), _ = outcomes_of("session: 24h\n" + HEAD + lines)
        assert told(outcome) == []

    def test_the_next_line_may_come_while_an_action_runs(self) -> None:
        source = HEAD.replace("{returns", "{after: 4s, returns")
        lines = [
            "- user: milk", "  at_once: true", "  status: running", "  reply: []",
            "- user: yes", "  at_once: true",
            "- wait: 3s", "  status: running", "  reply: []",
            "- wait: 1s", "  reply: [Buy milk?, Thanks.]", "  status: completed",
        ]  # fmt: skip
        (outcome,), _ = outcomes_of(source + "".join(f"      {line}\n" for line in lines))
        assert told(outcome) == []


def test_a_flow_that_goes_round_is_a_failure_not_a_hang() -> None:
    flow = (
        "flow: round\nvariables: {n: 0}\nsteps:\n  - {id: a, set: {variables.n: 1}}\n"
        "  - {id: b, if: 'variables.n == 1', say: again, goto: a}\n"
    )
    source = "tests: [{name: a, conversation: [{user: hi, fails: loop_detected}]}]"
    (outcome,), _ = outcomes_of(source, flow)
    assert told(outcome) == []


def test_users_have_roles() -> None:
    source = (
        "users: {clerk: {role: operator}, stranger: {}}\n" + HEAD + "      - user: hello\n"
        "      - user: May I help?\n        as: clerk\n        reply: []\n"
        "        events: [{type: message.received, data: {role: agent, user_id: clerk}}]\n"
        "      - user: me too\n        as: stranger\n        refused: conversation_not_found\n"
    )
    (outcome,), _ = outcomes_of(source)
    assert told(outcome) == []


def test_variables_of_the_test_stand_for_what_they_hold() -> None:
    source = (
        "vars: {thing: milk, found: {name: milk}}\n"
        "actions: {shop.look: {returns: '${vars.found}'}}\n"
        "tests:\n  - name: a\n    vars: {reply: 'Buy ${vars.thing}?'}\n    conversation:\n"
        "      - user: ${vars.thing} please\n        reply: ${vars.reply}\n"
    )
    (outcome,), _ = outcomes_of(source, FLOW)
    assert told(outcome) == []


class TestWhatWaitsAndIsSteered:
    FLOWS = (
        """\
flow: pay
default: true
slots: {name: {type: text}}
variables: {payment: null, greeting: null}
steps:
  - {id: who, collect: [name], ask: {name: "Who?"}}
  - id: paid
    wait: {event: payment.received, for: 2h}
    save: variables.payment
    while_waiting: "I am waiting for your payment."
  - branch: [{if: "variables.payment == null", goto: late}, {else: thanks}]
  - {id: late, say: "There was no payment.", goto: over}
  - {id: thanks, call: thank, with: {amount: "${variables.payment.amount}"}, save: variables.greeting}
  - {id: told, emit: payment.thanked, goto: over}
  - {id: over, end: completed, output: "${variables.greeting}"}
""",
        """\
flow: thank
variables: {amount: 0}
steps:
  - {id: say, say: "Thank you for ${variables.amount}."}
  - {id: done, end: completed, output: "thanked"}
""",
    )

    def run(self, lines: str) -> None:
        users = "users: {olga: {role: operator}}\n"
        conversation = "".join(f"      {line}\n" for line in lines.strip("\n").split("\n"))
        source = f"{users}tests:\n  - name: a\n    conversation:\n{conversation}"
        (outcome,), _ = outcomes_of(source, *self.FLOWS)
        assert told(outcome) == []

    def test_a_timer_ends_when_its_time_has_come(self) -> None:
        self.run(
            "- start: pay\n  with: {name: Ada}\n  status: waiting_event\n"
            "- user: well?\n  reply: I am waiting for your payment.\n"
            "- wait: 119m\n  reply: []\n"
            "- wait: 1m\n  reply: There was no payment.\n  status: completed\n  output: null\n"
        )

    def test_a_signal_brings_its_payload_and_flows_call_each_other(self) -> None:
        self.run(
            "- user: hello\n  reply: Who?\n- user: Ada\n"
            "- signal: payment.sent\n  as: olga\n  refused: wrong_state\n"
            "- signal: payment.received\n  as: olga\n  payload: {amount: 12}\n  reply: Thank you for 12.\n"
            "  events: [{type: flow.custom, data: {name: payment.thanked}}]\n  output: thanked\n"
        )

    def test_operators_pause_and_resume(self) -> None:
        self.run(
            "- user: hello\n- pause: a moment\n  refused: permission_denied\n"
            "- pause: a moment\n  as: olga\n  deadline: 1h\n  status: paused\n"
            "- user: Ada\n  reply: []\n"
            "- resume: go on\n  as: olga\n  status: waiting_input\n  reply: Who?\n"
            "- pause:\n  as: olga\n  deadline: 1h\n- wait: 1h\n  status: waiting_input\n"
        )

    def test_what_failed_is_tried_again(self) -> None:
        source = HEAD.replace("{returns: {name: milk}}", "[{returns: {no: name}}, {returns: null}]")
        lines = "      - user: milk\n        fails: step_failed\n      - retry:\n        fails: step_failed\n"
        (outcome,), _ = outcomes_of(source + lines)
        assert told(outcome) == []

    def test_both_flows_are_covered(self) -> None:
        source = (
            "tests: [{name: a, conversation: [{start: pay, with: {name: A}}, "
            "{signal: payment.received, payload: {amount: 1}}]}]"
        )
        outcomes, flows = outcomes_of(source, *self.FLOWS)
        assert [outcome.failures for outcome in outcomes] == [()]
        entered = [(flow.flow_id, flow.steps_entered, flow.steps) for flow in flows]
        assert entered == [("pay", 6, 7), ("thank", 2, 2)]
