"""From text to flow: what is read, what a folder makes of its files, and texts that are hardly YAML."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.engine.flow.loader import compile_flow, load_folder
from server.engine.flow.model import Flow, FlowInvalid, Problem
from server.engine.flow.source import MAX_SOURCE_BYTES

BOOKING = """\
flow: book_appointment
description: Book, with a person's approval
triggers:
  intents: [{name: book, keywords: [book, appointment], examples: [I need an appointment], min: 0.6}]
interruptible_by: [faq]
slots:
  service: {type: choice, options: [consultation, checkup], aliases: {consultation: [consult]}}
  date:    {type: date, validate: [{if: "value < today", say: "That day has passed."}]}
  email:   {type: email, pii: true}
variables: {offers: [], booking: null}
timeout: 2m
steps:
  - id: who
    collect: [service, date, email]
    ask: {service: "Which service?", date: "Which day?", email: "Your email?"}
    max_attempts: 3
    on_exhausted: human
  - id: find
    action: calendar.search
    effect: read
    with: {service: "${slots.service}", day: "${slots.date}"}
    timeout: 5s
    retry: {max: 4, delay: 500ms, factor: 2, on: [timeout, unavailable]}
    save: variables.offers
    on_error: human
  - id: any
    branch:
      - {if: "size(variables.offers) == 0", goto: none_left}
      - {else: reserve}
  - id: reserve
    action: calendar.reserve
    with: {offer: "${variables.offers[0].id}"}
    effect: write
    on_unknown: {reconcile: calendar.lookup, found: confirm, missing: retry}
    save: variables.booking
    expose: true
  - {id: confirm, say: "Booked: ${variables.booking.ref}"}
  - {id: done, end: completed, output: "${variables.booking}"}
  - {id: none_left, say: "Nothing was booked.", goto: done}
  - {id: human, say: "Somebody will call you.", goto: done}
"""
ACTIONS = {"calendar.search", "calendar.reserve", "calendar.lookup"}
SMALL = "flow: {id}\nsteps: [{{say: Hi}}]\n"


def compiled(source: str, name: str = "flow.yaml") -> Flow:
    return compile_flow(source, name, actions=ACTIONS)


def problems_of(source: str, name: str = "flow.yaml") -> list[tuple[str, int, int]]:
    with pytest.raises(FlowInvalid) as refusal:
        compiled(source, name)
    return [(p.rule, p.line, p.column) for p in refusal.value.problems]


def test_the_flow_of_the_design_compiles() -> None:
    """As far as its steps exist."""
    flow = compiled(BOOKING)
    assert (flow.flow_id, flow.name, flow.timeout_ms) == ("book_appointment", "book_appointment", 120_000)
    assert flow.interruptible_by == ("faq",)
    assert flow.warnings == ()
    assert [step.common.step_id for step in flow.steps] == [
        "who",
        "find",
        "any",
        "reserve",
        "confirm",
        "done",
        "none_left",
        "human",
    ]
    intent = flow.triggers[0]
    assert (intent.name, intent.keywords, intent.minimum) == ("book", ("book", "appointment"), 0.6)
    assert flow.slots["service"].options == ("consultation", "checkup")
    assert flow.slots["service"].aliases == {"consultation": ("consult",)}
    assert flow.slots["email"].pii
    rule = flow.slots["date"].validate[0]
    assert rule.if_.test({"value": "2026-11-20", "today": "2026-11-21"})
    assert rule.say.render({}) == "That day has passed."
    assert flow.variables == {"offers": [], "booking": None}
    assert flow.exposed == {"booking"}
    assert len(flow.sha256) == 64


def test_the_common_fields_of_a_step() -> None:
    common = compiled(BOOKING).step("find").common
    assert (common.timeout_ms, common.effect, common.save, common.on_error) == (
        5_000,
        "read",
        ("variables", "offers"),
        "human",
    )
    assert common.retry is not None
    assert (common.retry.max, common.retry.delay_ms, common.retry.factor) == (4, 500, 2.0)
    assert common.retry.on == ("timeout", "unavailable")
    assert common.line == 18


def test_where_a_step_leads() -> None:
    flow = compiled(BOOKING)
    assert flow.next_of("who") == "find"
    assert flow.next_of("human") == "done"
    assert compiled("flow: f\nsteps: [{say: Hi}]\n").next_of("step_1") is None
    with pytest.raises(KeyError):
        flow.step("nowhere")


def test_json_is_a_flow_too() -> None:
    source: dict[str, Any] = {
        "flow": "json_flow",
        "name": 'With "quotes" and \U0001f600',
        "variables": {"a/b": 1} and {"a": [1, 2.5, None, True, "x: y"]},
        "steps": [{"id": "hi", "say": "Hello ${variables.a[0]}"}, {"end": "completed"}],
    }
    for text in (
        json.dumps(source),
        json.dumps(source, indent=2),
        json.dumps(source, indent="\t", ensure_ascii=False),
    ):
        flow = compiled(text, "flow.json")
        assert flow.name == source["name"]
        assert flow.variables == source["variables"]
        assert [step.common.step_id for step in flow.steps] == ["hi", "step_2"]


def test_yaml_reads_as_yaml_1_2_does() -> None:
    flow = compiled(
        "flow: f\nvariables:\n  a: yes\n  b: 2026-11-21\n  c: 012\n  d: 1_000\n  e: 1e3\n  f: ~\n"
        "  g: 'true'\n  h: 0x10\n  i: -4\n  j: .5\nsteps:\n  - say: 5\n"
    )
    assert flow.variables == {
        "a": "yes",
        "b": "2026-11-21",
        "c": 12,
        "d": "1_000",
        "e": 1000.0,
        "f": None,
        "g": "true",
        "h": "0x10",
        "i": -4,
        "j": 0.5,
    }


def test_anchors_are_fine_within_bounds() -> None:
    flow = compiled("flow: f\nvariables: {a: &a [1, 2], b: *a}\nsteps: [{say: Hi}]\n")
    assert flow.variables == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("", "empty-file"),
        ("# nothing\n", "empty-file"),
        ("---\n", "empty-file"),
        ("~", "empty-file"),
        ("text", "wrong-type"),
        ("5", "wrong-type"),
        ("flow: \x00", "syntax"),
        ("flow: \ud800", "syntax"),
        ('flow: "\\ud800"', "syntax"),
        ("flow: \x07", "syntax"),
        ("%YAML 9.9\n---\nflow: f", "syntax"),
        ("%%", "syntax"),
        ("@", "syntax"),
        ("a: b: c", "syntax"),
        ("? {a: b}\n: c", "wrong-type"),
        ("a: &x\n  b: *x\n", "syntax"),
        ("[" * 100_000, "too-deep"),
        ("{a: " * 10_000, "too-deep"),
        ("- " * 50_000, "too-deep"),
        ("a: !!binary aGk=", "syntax"),
        ("a: 'x" * 1_000, "syntax"),
        ("x" * (MAX_SOURCE_BYTES + 1), "too-large"),
        ("é" * (MAX_SOURCE_BYTES // 2 + 1), "too-large"),
    ],
)
def test_a_text_that_is_no_flow_is_one_problem(source: str, rule: str) -> None:
    assert [found[0] for found in problems_of(source)] == [rule]


@pytest.mark.parametrize(
    ("source", "line", "columns"),
    [
        ('{"flow": "f",}', 1, {13, 14}),  # Python 3.13 blames the comma, 3.11 what follows it
        ('{\n  "flow": f\n}', 2, {11}),
        ("flow: f", 1, {1}),
        ("[" * 3_000, 1, set(range(1, 3_002))),  # as deep as the parser got
    ],
)
def test_json_errors_have_a_place(source: str, line: int, columns: set[int]) -> None:
    [(_, found_line, found_column)] = problems_of(source, "flow.json")
    assert found_line == line
    assert found_column in columns


def test_problems_come_in_file_order_and_read_well() -> None:
    with pytest.raises(FlowInvalid) as refusal:
        compiled("flow: f\nsteps:\n  - {say: Hi, goto: don}\n  - {id: done, end: complete}\n", "flows/a.yaml")
    assert str(refusal.value) == (
        'flows/a.yaml:3:21: error [unknown-step] there is no step "don" (did you mean done?)\n'
        'flows/a.yaml:4:21: error [unknown-option] "end" should be one of: completed, failed, cancelled'
        " (did you mean completed?)"
    )


def test_warnings_do_not_stop_a_flow() -> None:
    flow = compiled(
        "flow: f\nsteps:\n  - {say: Hi, goto: done}\n  - say: Lost\n  - {id: done, end: completed}\n"
    )
    assert [(w.rule, w.severity) for w in flow.warnings] == [("unreachable", "warning")]


def test_actions_are_not_checked_where_they_are_not_known() -> None:
    source = "flow: f\nsteps:\n  - {action: any.thing, effect: read}\n"
    assert compile_flow(source, "f.yaml").flow_id == "f"
    with pytest.raises(FlowInvalid):
        compile_flow(source, "f.yaml", actions=())


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_any_line_break_counts(line_break: str) -> None:
    source = "flow: f\nsteps:\n  - say: Hi\n  - say: '${slots.x}'\n".replace("\n", line_break)
    assert problems_of(source) == [("unknown-slot", 4, 13)]


@pytest.mark.parametrize("number", range(0, len(BOOKING), 37))
def test_a_truncated_flow_never_crashes(number: int) -> None:
    try:
        compiled(BOOKING[:number])
    except FlowInvalid as refusal:
        found = refusal.problems
    else:
        return
    assert found


def test_a_thousand_steps_compile() -> None:
    steps = "".join(f"  - {{id: s{n}, say: 'Step ${{variables.n + {n}}}'}}\n" for n in range(1_000))
    assert len(compiled("flow: f\nvariables: {n: 0}\nsteps:\n" + steps).steps) == 1_000
    assert problems_of("flow: f\nvariables: {n: 0}\nsteps:\n" + steps + "  - say: One more\n") == [
        ("too-large", 4, 3)
    ]


# -- folders -----------------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(text)


def rules(problems: tuple[Problem, ...]) -> list[tuple[str, str]]:
    return [(Path(problem.file).name, problem.rule) for problem in problems]


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    write(
        tmp_path,
        b_yaml=SMALL.format(id="b"),
        a_yml=SMALL.format(id="a"),
        c_json='{"flow": "c", "steps": [{"say": "Hi"}]}',
        d_txt="no flow",
    )
    (tmp_path / ".hidden.yaml").write_text("[")
    report = load_folder(tmp_path)
    assert [loaded.flow.flow_id for loaded in report.flows] == ["a", "b", "c"]
    assert [loaded.path.name for loaded in report.flows] == ["a.yml", "b.yaml", "c.json"]
    assert report.flows[0].source == SMALL.format(id="a")
    assert not any(loaded.flow.is_default for loaded in report.flows)
    assert report.problems == ()
    assert report.ok


def test_a_lone_flow_is_the_default(tmp_path: Path) -> None:
    write(tmp_path, a_yaml=SMALL.format(id="a"))
    assert load_folder(tmp_path).flows[0].flow.is_default


def test_a_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    write(tmp_path, a_yaml="flow: [", b_yaml=SMALL.format(id="b"), c_yaml=SMALL.format(id="c"))
    (tmp_path / "d.yaml").write_bytes(b"flow: f\nname: \xff\n")
    (tmp_path / "e.yaml").mkdir()
    report = load_folder(tmp_path)
    assert [loaded.flow.flow_id for loaded in report.flows] == ["b", "c"]
    assert rules(report.problems) == [("a.yaml", "syntax"), ("d.yaml", "syntax"), ("e.yaml", "unreadable")]
    assert (report.problems[1].line, report.problems[1].column) == (2, 7)
    assert not report.ok


def test_a_second_flow_of_the_same_id_is_refused(tmp_path: Path) -> None:
    write(tmp_path, a_yaml=SMALL.format(id="same"), b_yaml="# two\n" + SMALL.format(id="same"))
    report = load_folder(tmp_path)
    assert [loaded.path.name for loaded in report.flows] == ["a.yaml"]
    assert [(p.rule, p.line, p.column) for p in report.problems] == [("duplicate-flow", 2, 7)]
    assert "a.yaml" in report.problems[0].message


def test_a_second_default_is_refused(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_yaml="default: true\n" + SMALL.format(id="a"),
        b_yaml="default: true\n" + SMALL.format(id="b"),
    )
    report = load_folder(tmp_path)
    assert [loaded.flow.is_default for loaded in report.flows] == [True, False]
    assert rules(report.problems) == [("b.yaml", "two-defaults")]


def test_a_flow_that_nobody_knows_may_not_interrupt(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_yaml="interruptible_by: [fag, b]\n" + SMALL.format(id="a"),
        b_yaml=SMALL.format(id="b"),
        c_yaml=SMALL.format(id="faq"),
    )
    report = load_folder(tmp_path)
    assert [(p.rule, p.severity, p.suggestion) for p in report.problems] == [
        ("unknown-flow", "warning", "faq")
    ]
    assert report.ok


def test_a_flow_that_is_called_but_not_there_is_a_warning_where_it_is_named(tmp_path: Path) -> None:
    """A called flow is looked for in the folder, and its variables for what the call sets."""
    (tmp_path / "adder.yaml").write_text("flow: adder\nvariables: {first: 0}\nsteps: [{say: Hi}]\n")
    (tmp_path / "outer.yaml").write_text(
        "flow: outer\nsteps:\n  - call: addr\n  - {call: adder, with: {frist: 1}}\n  - link: adder\n"
    )
    report = load_folder(tmp_path)
    assert [(p.line, p.column, p.rule, p.suggestion) for p in report.problems] == [
        (3, 11, "unknown-flow", "adder"),
        (4, 26, "unknown-argument", "first"),
    ]
    assert report.ok
    outer = next(loaded.flow for loaded in report.flows if loaded.flow.flow_id == "outer")
    assert outer.subflows == ("addr", "adder")


def test_a_missing_folder_is_a_problem(tmp_path: Path) -> None:
    report = load_folder(tmp_path / "nowhere")
    assert rules(report.problems) == [("nowhere", "no-folder")]
    assert report.flows == ()


def test_an_empty_folder_is_empty(tmp_path: Path) -> None:
    report = load_folder(tmp_path)
    assert (report.flows, report.problems) == ((), ())
