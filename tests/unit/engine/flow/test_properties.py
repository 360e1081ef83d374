"""Whatever comes in, nothing but the typed errors comes out."""

import datetime
import json
import string
from collections.abc import Callable
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.engine.flow.expressions import ExpressionFailed, ExpressionInvalid, compile_expression
from server.engine.flow.loader import compile_flow
from server.engine.flow.model import SLOT_TYPES, FlowInvalid, Slot
from server.engine.flow.slots import SlotInvalid, explain, normalise, read_slot
from server.engine.flow.templates import compile_json_template, compile_template
from server.engine.flow.understanding import Understanding
from server.engine.flow.zones import iso

E = TypeVar("E", bound=Exception)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["2026-11-21", "1h", "2026-11-21T00:00:00Z", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
_PIECES = (
    "slots.a slots.b variables.l variables.m.k today now value x 1 0 -1 1.5 1u 9223372036854775807 true "
    "false null 'a' '' \"é\" r'\\d' b'a' [] {} + - * / % == != < > <= >= && || in ? : , . ! ( ) [ ] { } "
    "size( string( int( has( timestamp( duration( .map(x, .filter(x, .all(x, .exists(x, .size() "
    ".matches('a+') .getHours() // \n \\ ' \" $ = and ${ $${ "
)
PIECES = st.sampled_from(_PIECES.split(" "))
SOURCES = (
    st.lists(PIECES, max_size=25).map(" ".join)
    | st.lists(PIECES, max_size=25).map("".join)
    | st.text(max_size=60)
)
MORE = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def context(a: Any, b: Any) -> dict[str, Any]:
    return {
        "slots": {"a": a, "b": b},
        "variables": {"l": b, "m": {"k": a}},
        "today": "2026-11-21",
        "now": "2026-11-21T04:00:00.000Z",
        "value": a,
    }


def error_of(kind: type[E], action: Callable[[], object]) -> E | None:
    """Return the error of this kind that the action raises; any other one is raised."""
    try:
        action()
    except kind as error:
        return error
    return None


@MORE
@given(SOURCES, JSON, JSON)
def test_an_expression_raises_nothing_untyped(source: str, a: Any, b: Any) -> None:
    refusal = error_of(ExpressionInvalid, lambda: compile_expression(source))
    if refusal is not None:
        assert 1 <= refusal.column <= len(source) + 1
        assert refusal.message
        return
    expression = compile_expression(source)
    assert expression.roots == {path[0] for path in expression.references}
    failure = error_of(ExpressionFailed, lambda: expression.evaluate(context(a, b)))
    assert failure is None or failure.message


@MORE
@given(SOURCES, JSON, JSON)
def test_a_template_raises_nothing_untyped(source: str, a: Any, b: Any) -> None:
    refusal = error_of(ExpressionInvalid, lambda: compile_template(source))
    if refusal is not None:
        assert 1 <= refusal.column <= len(source) + 1
        return
    template, tree = compile_template(source), compile_json_template({"x": [source]})
    failure = error_of(ExpressionFailed, lambda: template.render(context(a, b)))
    assert failure is None or failure.message
    assert (failure is None) == (error_of(ExpressionFailed, lambda: tree.value(context(a, b))) is None)


@MORE
@given(st.text(max_size=80))
def test_a_text_without_expressions_is_itself(text: str) -> None:
    if "${" not in text:
        template = compile_template(text)
        assert template.render({}) == template.value({}) == text
        assert template.is_constant
    assert (
        compile_template(text.replace("${", "$${")).render({}) == text.replace("$${", "${") or "$${" in text
    )


_WORDS = (
    "yes no 1 2 31 2026 -3 4.5 1,000 monday mon tomorrow today may 5 Nov 21st of in days weeks a the last "
    "second checkup consult not me@x.org x@y 21.11. 11/12/2026 2026-02-30 guests option after before "
    "29 feb é 😀 @ . at noon midnight 2pm 14:30 2:30 half past to from now next week months ago hour minutes "
    "tonight morning o'clock 02:30 2027-03-28 2026-10-25T02:30 Z +01:00 uhr h +4930901820 +1 (202) 555-0143 "
    "https://x.org/a www.x.org http:// , ; завтра через две недели 明日 午後3時"
)
WORDS = st.sampled_from(_WORDS.split(" "))
MESSAGES = st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=100)
ZONES = st.sampled_from(
    [None, "", "Europe/Paris", "Asia/Kolkata", "Bad/Zone", "/etc/passwd", "\0"]
) | st.text(max_size=8)
LOCALES = st.sampled_from([None, "", "en", "en-US", "de-DE", "fr", "x", "-"])
NOW_MS = int(datetime.datetime(2026, 11, 21, 9, tzinfo=datetime.UTC).timestamp() * 1000)
TIMES = st.integers(0, int(datetime.datetime(9999, 12, 1, tzinfo=datetime.UTC).timestamp() * 1000))


@MORE
@given(st.sampled_from(SLOT_TYPES), MESSAGES, TIMES, ZONES, LOCALES, st.booleans())
def test_reading_a_slot_raises_nothing_and_gives_a_normal_value(
    kind: Any, text: str, now_ms: int, timezone: str | None, locale: str | None, focused: bool
) -> None:
    options = ("consultation", "checkup", "2") if kind == "choice" else ()
    items = Slot("guests", "date") if kind == "list" else None
    slot = Slot("guests", kind, options, {"checkup": ("check",)} if options else {}, items=items)
    found = read_slot(slot, text, now_ms=now_ms, timezone=timezone, locale=locale, focused=focused)
    assert explain(slot, text, now_ms=now_ms, timezone=timezone, locale=locale)
    if found is not None:
        assert 0 <= found.start < found.end <= len(text)
        assert normalise(slot, found.value) == found.value


ITEM = st.sampled_from(["text", "integer", "choice", "date", "time", "datetime", "email", "phone", "url"])
PHONES = st.sampled_from(["+4930901820", "+12025550143", "+33612345678"])
HOSTS = st.from_regex(r"[a-z]{1,9}(\.[a-z]{2,6}){1,2}", fullmatch=True)
DAYS = st.dates(datetime.date(1900, 1, 1), datetime.date(2110, 1, 1))
MOMENTS = st.datetimes(
    datetime.datetime(1970, 1, 1),  # noqa: DTZ001 - the strategy adds the timezone
    datetime.datetime(2110, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([datetime.UTC, ZoneInfo("Europe/Paris"), ZoneInfo("Asia/Kolkata")]),
)


@MORE
@given(
    st.one_of(
        DAYS.map(lambda day: ("date", day.isoformat())),
        st.times().map(lambda time: ("time", time.isoformat("minutes"))),
        st.times().map(lambda time: ("time", time.isoformat("seconds").removesuffix(":00"))),
        MOMENTS.map(lambda moment: ("datetime", iso(moment))),
        PHONES.map(lambda number: ("phone", number)),
        HOSTS.map(lambda host: ("url", f"https://{host}/")),
        HOSTS.map(lambda host: ("email", f"a.b@{host}")),
        st.integers(-(10**6), 10**6).map(lambda number: ("integer", number)),
        st.booleans().map(lambda value: ("boolean", value)),
    ),
    LOCALES,
)
def test_what_is_stored_is_read_as_itself(kind_and_value: tuple[Any, Any], locale: str | None) -> None:
    """A user who writes what a flow shows of a slot means that value."""
    kind, value = kind_and_value
    zone = "Europe/Paris"
    shown = ("no", "yes")[value] if kind == "boolean" else str(value)
    found = read_slot(Slot("s", kind), shown, now_ms=NOW_MS, timezone=zone, locale=locale, focused=True)
    assert found is not None
    if kind == "datetime":  # the same moment, in the conversation's timezone
        assert datetime.datetime.fromisoformat(found.value) == datetime.datetime.fromisoformat(value)
    else:
        assert found.value == value
    assert normalise(Slot("s", kind), found.value) == found.value


@MORE
@given(ITEM, MESSAGES, st.integers(0, 2), st.integers(2, 5), st.booleans())
def test_a_list_that_is_read_is_normal_and_within_its_bounds(
    kind: Any, text: str, minimum: int, maximum: int, focused: bool
) -> None:
    items = Slot("s", kind, ("checkup", "2") if kind == "choice" else ())
    slot = Slot("s", "list", items=items, minimum=minimum, maximum=maximum)
    found = read_slot(slot, text, now_ms=NOW_MS, timezone=None, locale=None, focused=focused)
    assert explain(slot, text, now_ms=NOW_MS)
    if found is not None:
        assert minimum <= len(found.value) <= maximum
        assert 0 <= found.start < found.end <= len(text)
        assert normalise(slot, found.value) == found.value


@MORE
@given(st.sampled_from(SLOT_TYPES), JSON)
def test_normalising_raises_nothing_untyped_and_is_idempotent(kind: Any, value: Any) -> None:
    slot = Slot("s", kind, ("a", "b") if kind == "choice" else (), items=Slot("s", "integer"))
    refusal = error_of(SlotInvalid, lambda: normalise(slot, value))
    if refusal is not None:
        assert refusal.message
        return
    stored = normalise(slot, value)
    assert normalise(slot, stored) == stored


@MORE
@given(st.text(max_size=60), st.text(max_size=10) | st.none())
def test_understanding_raises_nothing(text: str, payload: str | None) -> None:
    triggers = "triggers: {intents: [{name: a, keywords: [x y, é], examples: [a b c]}]}"
    flow = compile_flow(f"flow: f\n{triggers}\nsteps: [{{say: Hi}}]", "f.yaml")
    match = Understanding([flow]).match(text, payload)
    assert match is None or match.flow_id == "f"


LINES = st.sampled_from(
    [
        "flow: f",
        "slots: {a: {type: text}}",
        "slots:",
        "  a: {type: choice, options: [x]}",
        "variables: {n: 1}",
        "steps:",
        "  - say: 'Hi ${slots.a}'",
        "  - {collect: [a], ask: {a: b}}",
        "  - {branch: [{if: 'true', goto: x}, {else: x}], id: x}",
        "  - {set: {variables.n: 1}, save: variables.m}",
        "  - {action: a.b, effect: read, retry: {max: 1}}",
        "  - end:",
        "    goto: x",
        "triggers: {intents: [{name: a}]}",
        "default: true",
        "timeout: 1s",
        "- x",
        "\t",
        "&a [*a]",
        "? x",
        "'",
        "{",
        "|",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES | st.text(string.printable, max_size=20), max_size=14).map("\n".join))
def test_compiling_raises_nothing_untyped(source: str) -> None:
    refusal = error_of(FlowInvalid, lambda: compile_flow(source, "f.yaml", actions=["a.b"]))
    if refusal is None:
        assert compile_flow(source, "f.yaml", actions=["a.b"]).steps
        return
    assert any(problem.severity == "error" for problem in refusal.problems)
    assert all(problem.line >= 1 and problem.column >= 1 for problem in refusal.problems)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["flow", "steps", "slots", "variables", "triggers", "default"]), JSON))
def test_compiling_json_raises_nothing_untyped(value: Any) -> None:
    refusal = error_of(FlowInvalid, lambda: compile_flow(json.dumps(value), "f.json"))
    assert refusal is None or refusal.problems
