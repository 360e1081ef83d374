"""Expressions: what they mean, what is refused, and that the native library is never asked the unbearable."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from server.engine.flow.expressions import (
    ExpressionFailed,
    ExpressionInvalid,
    compile_expression,
)

CONTEXT: dict[str, Any] = {
    "slots": {
        "service": "checkup",
        "date": "2026-11-21",
        "guests": 4,
        "price": 12.5,
        "agreed": True,
        "no": None,
    },
    "variables": {
        "offers": [{"id": "a", "price": 10}, {"id": "b", "price": 20}],
        "booking": {"ref": "R1", "by": {"name": "Ann"}},
        "empty": [],
        "text": "Füße 😀",
        "big": 2**53,
    },
    "input": {"text": "hello"},
    "today": "2026-11-22",
    "now": "2026-11-22T10:00:00.000+01:00",
    "value": "2026-11-30",
}


def value_of(source: str, **more: Any) -> Any:
    return compile_expression(source).evaluate({**CONTEXT, **more})


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("slots.service", "checkup"),
        ("slots['service']", "checkup"),
        ('slots["service"] == "checkup"', True),
        ("slots.service != 'checkup'", False),
        ("'checkup' == slots.service", True),
        ("slots.guests >= 4", True),
        ("slots.price > 12", True),
        ("slots.price < 12.5", False),
        ("slots.guests == 4.0", True),
        ("slots.guests == '4'", False),
        ("slots.agreed", True),
        ("!slots.agreed", False),
        ("slots.agreed == 1", False),
        ("slots.agreed && slots.guests > 3", True),
        ("slots.agreed ? 'y' : 'n'", "y"),
        ("slots.date < today", True),
        ("value < today", False),
        ("timestamp(now) > timestamp('2026-11-22T08:59:59Z')", True),
        ("timestamp(now)", "2026-11-22T10:00:00+01:00"),
        ("timestamp(today + 'T00:00:00Z') + duration('36h')", "2026-11-23T12:00:00Z"),
        ("duration('90s')", "90s"),
        ("size(variables.offers)", 2),
        ("size(variables.offers) > 1", True),
        ("variables.offers.size() == 2", True),
        ("size(variables.empty) == 0", True),
        ("size(variables.text)", 6),
        ("variables.text.size()", 6),
        ("size(variables.booking)", 2),
        ("variables.offers[1].id", "b"),
        ("variables.offers[0]", {"id": "a", "price": 10}),
        ("variables.booking.by.name", "Ann"),
        ("variables.offers.map(o, o.id)", ["a", "b"]),
        ("variables.offers.filter(o, o.price > 15)[0].id", "b"),
        ("variables.offers.exists(o, o.id == slots.service)", False),
        ("variables.offers.all(o, o.price > 5)", True),
        ("variables.offers.exists_one(o, o.price == 20)", True),
        ("'b' in variables.offers.map(o, o.id)", True),
        ("variables.booking", {"ref": "R1", "by": {"name": "Ann"}}),
        ("'ref' in variables.booking", True),
        ("has(variables.booking.ref)", True),
        ("has(variables.booking.nothing)", False),
        ("string(slots.guests) + ' guests'", "4 guests"),
        ("string(true) + string(null) + string(5.0)", "true5"),
        ("slots.service.startsWith('check')", True),
        ("slots.service.matches('^[a-z]+$')", True),
        ("slots.date.matches(r'^\\d{4}-')", True),
        ("int('7') + 1", 8),
        ("7 / 2", 3),
        ("[1, 2] + [3]", [1, 2, 3]),
        ("{'a': slots.guests}", {"a": 4}),
        ("{1: 'x'}", {"1": "x"}),
        ("1 // a comment", 1),
        ("slots.service == 'it\\'s'", False),
        ("'map(' + 'slots.nothing'", "map(slots.nothing"),
        ("r'\\' + slots.service", "\\checkup"),
        ("variables.big + 1", 2**53 + 1),
    ],
)
def test_value(source: str, value: Any) -> None:
    found = value_of(source)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("slots.unfilled", None),
        ("slots.no == null", True),
        ("slots.unfilled == null", True),
        ("slots.unfilled != null && slots.unfilled > 3", False),
        ("slots.unfilled == 'x'", False),
        ("has(slots.unfilled)", False),
        ("has(slots.no)", False),
        ("has(slots.service)", True),
        ("!has( slots . service )", False),
        ("has(slots.service // filled?\n)", True),
        ("size(slots.service) > 0 && !has(slots.unfilled)", True),
    ],
)
def test_a_slot_that_is_not_filled_is_null(source: str, value: Any) -> None:
    assert value_of(source) == value
    if "service" not in source:
        assert compile_expression(source).evaluate({}) == value


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("variables.nothing", "variables.nothing: there is no 'nothing'"),
        ("variables.booking.nothing", "variables.booking.nothing: there is no 'nothing'"),
        ("nowhere", "nowhere: there is no 'nowhere'"),
        ("variables.offers[7].id", "variables.offers[7].id: the list has no such item"),
        ("1 / (slots.guests - 4)", "1 / (slots.guests - 4): division by zero"),
        ("9223372036854775807 + slots.guests", "9223372036854775807 + slots.guests: the number is too large"),
        ("slots.service + slots.guests", "string + int does not work; convert one of them"),
        ("slots.unfilled > 3", "slots.unfilled > 3: the values do not fit the operation"),
        ("slots.unfilled.name", "slots.unfilled.name: the values do not fit the operation"),
        ("size(slots.unfilled)", "size(slots.unfilled): size() does not take such a value"),
        ("size(slots.guests) == 1", "size() does not take such a value"),
        ("int(slots.service)", "int() does not take such a value"),
        ("timestamp('soon')", "timestamp() does not take such a value"),
        ("1.0 / 0.0", "1.0 / 0.0 is not a finite number"),
        ("b'raw'", "b'raw' has no JSON value"),
    ],
)
def test_failure_is_told_without_values(source: str, message: str) -> None:
    with pytest.raises(ExpressionFailed) as failure:
        value_of(source)
    assert message in failure.value.message
    assert str(failure.value) == failure.value.message


@pytest.mark.parametrize(
    ("source", "column", "suggestion"),
    [
        ("", 1, None),
        ("   ", 1, None),
        ("slots.a =", 9, "=="),
        ("slots.a = 1", 9, "=="),
        ("slots.a & slots.b", 9, "&&"),
        ("slots.a and slots.b", 9, "&&"),
        ("not slots.a", 1, "!"),
        ("slots.a == None", 12, "null"),
        ("slots.a ==", 11, None),
        ("(slots.a", 1, None),
        ("slots.a)", 8, None),
        ("(slots.a]", 9, None),
        ("'open", 1, None),
        ("slots.a $ 1", 9, None),
        ("slots..a", 6, None),
        (".slots.a", 1, None),
        ("len(slots.a)", 1, "size"),
        ("siez(slots.a)", 1, "size"),
        ("slots.a.startswith('x')", 9, "startsWith"),
        ("Offer{id: 1}", 6, None),
        ("if", 1, None),
        ("slots.a.matches(input.text)", 17, None),
        ("slots.a.matches('" + "a" * 300 + "')", 17, None),
        ("slots.a.matches('(a{100}){100}')", 17, None),
        ("slots.a.matches('(a')", 17, None),
        ("slots.a.matches(r'[\\d') || slots.a.matches('a')", 17, None),
        ("has(1)", 5, None),
        ("9223372036854775808", 1, None),
        ("1\n+\n*", 5, None),
    ],
)
def test_what_is_no_expression_is_refused_at_its_column(
    source: str, column: int, suggestion: str | None
) -> None:
    with pytest.raises(ExpressionInvalid) as refusal:
        compile_expression(source)
    assert (refusal.value.column, refusal.value.suggestion) == (column, suggestion)
    assert refusal.value.message


@pytest.mark.parametrize(
    "source",
    [
        "variables.a.map(x, variables.b.map(y, y))",
        "variables.a.filter(x, x.b.exists(y, y))",
        "variables.a.all(x, [x].all(x, x))",
        "variables.a.map(x, variables.b.filter(y, y).size() > 0, x)",
    ],
)
def test_macros_inside_macros_are_refused(source: str) -> None:
    with pytest.raises(ExpressionInvalid, match="inside another macro"):
        compile_expression(source)


def test_macros_one_after_the_other_are_fine() -> None:
    assert value_of("variables.offers.filter(o, o.price > 5).map(p, p.id)") == ["a", "b"]


def test_the_name_of_a_macros_item_may_not_hide_the_context() -> None:
    with pytest.raises(ExpressionInvalid, match="taken"):
        compile_expression("variables.a.map(slots, slots.x)")


@pytest.mark.parametrize(
    "source",
    [
        "1" + "+1" * 1_000,
        "(" * 17 + "1" + ")" * 17,
        "[" * 500,
        "!" * 1_999 + "a",
        "slots" + ".a" * 900,
        "x" * 2_001,
    ],
)
def test_long_and_deep_sources_are_refused(source: str) -> None:
    with pytest.raises(ExpressionInvalid):
        compile_expression(source)


def test_references_name_what_is_read() -> None:
    expression = compile_expression(
        "slots.a == slots['b'] && variables.list[0].id != '' && today < now"
        " && variables.list.exists(item, item.x == input.text) && has(slots.c)"
    )
    assert expression.references == {
        ("slots", "a"),
        ("slots", "b"),
        ("slots", "c"),
        ("variables", "list"),
        ("today",),
        ("now",),
        ("input", "text"),
    }
    assert expression.roots == {"slots", "variables", "today", "now", "input"}
    assert compile_expression("slots[today]").references == {("slots",), ("today",)}


def test_only_the_referenced_part_is_converted() -> None:
    """What CEL could not even convert does no harm beside the path."""
    context = {"slots": {"a": 1, "b": object()}, "variables": object()}
    assert compile_expression("slots.a + 1").evaluate(context) == 2


def test_a_condition_is_true_or_false() -> None:
    assert compile_expression("slots.guests == 4").test(CONTEXT) is True
    with pytest.raises(ExpressionFailed, match="a condition is true or false"):
        compile_expression("slots.guests").test(CONTEXT)
    with pytest.raises(ExpressionFailed, match="is null"):
        compile_expression("slots.unfilled").test(CONTEXT)


def test_a_path_is_the_value_itself_and_a_computed_one_is_fresh() -> None:
    assert compile_expression("variables.offers").evaluate(CONTEXT) is CONTEXT["variables"]["offers"]


@pytest.mark.parametrize("operator", ["==", "!=", "<", "<=", ">", ">="])
def test_the_fast_path_agrees_with_the_library(operator: str) -> None:
    """For every pair of values: the same value, or both fail."""
    values = [
        None,
        True,
        False,
        0,
        1,
        -1,
        4,
        4.0,
        4.5,
        "",
        "a",
        "b",
        "é",
        "😀",
        [],
        [1],
        {},
        {"k": 1},
        2**62,
        2**80,
    ]
    fast = compile_expression(f"variables.a {operator} variables.b")
    native = compile_expression(f"true && (variables.a {operator} variables.b)")
    for a in values:
        for b in values:
            context = {"variables": {"a": a, "b": b}}
            assert _outcome(fast, context) == _outcome(native, context), (a, operator, b)


def _outcome(expression: Any, context: dict[str, Any]) -> Any:
    try:
        return expression.evaluate(context)
    except ExpressionFailed:
        return "failed"


@pytest.mark.parametrize(
    "data",
    [
        {"list": [{"n": n, "text": "x" * 50} for n in range(5_000)]},
        {"list": list(range(3_000))},
        {"list": [0] * 25_000},
        {"list": [[0] * 100] * 900},
    ],
    ids=["records", "numbers", "many", "wide"],
)
def test_too_much_data_for_a_macro_fails_instead_of_blocking(data: dict[str, Any]) -> None:
    """The library copies the list for each item that map adds: 5,000 records would take ten seconds."""
    with pytest.raises(ExpressionFailed, match="too much data"):
        compile_expression("variables.list.map(x, variables.list)").evaluate({"variables": data})


def test_data_that_is_nested_too_deeply_fails() -> None:
    deep: Any = 0
    for _ in range(2_000):
        deep = [deep]
    with pytest.raises(ExpressionFailed, match="deep"):
        compile_expression("variables.deep == 1 || true").evaluate({"variables": {"deep": deep}})


def test_values_that_the_library_cannot_take_fail() -> None:
    for odd in (2**70, "\ud800", object(), {1: 2}):
        with pytest.raises(ExpressionFailed):
            compile_expression("[variables.odd, variables.odd.a]").evaluate({"variables": {"odd": odd}})


def test_the_native_stack_is_not_overrun() -> None:
    """The deepest sources that pass the grammar, in a thread with a small stack; a crash has no traceback."""
    program = """
        import threading
        from server.engine.flow.expressions import ExpressionFailed, ExpressionInvalid, compile_expression

        def run():
            for piece in ["1 +", "1 <", "a .", "1 ? 2 :", "true &&", "-", "!", "1 in"]:
                attempt(piece * (399 // len(piece.split())) + "1")
                attempt(piece * (399 // len(piece.split())) + "a")
            for opening in ["(", "[", "size(", "{1:", "-(", "[1].map(x,"]:
                closing = {"(": ")", "[": "]", "{": "}", ":": "}", ",": ")"}[opening[-1]]
                attempt(opening * 16 + "1" + closing * 16)

        def attempt(source):
            try:
                compile_expression(source).evaluate({"a": {}})
            except (ExpressionFailed, ExpressionInvalid):
                pass

        threading.stack_size(160 * 1024)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        print("alive")
    """
    root = Path(__file__).parents[4]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr[-500:]
