"""Templates: text with expressions in it, and JSON of such texts."""

from typing import Any

import pytest

from server.engine.flow.expressions import ExpressionFailed, ExpressionInvalid
from server.engine.flow.templates import JsonTemplate, compile_json_template, compile_template

CONTEXT: dict[str, Any] = {
    "slots": {"name": "Ann", "n": 4, "price": 5.0, "half": 2.5, "yes": True},
    "variables": {"list": [1, "a"], "map": {"k": None}, "none": None},
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", ""),
        ("Hello.", "Hello."),
        ("Hello ${slots.name}!", "Hello Ann!"),
        ("${slots.name}${slots.n}", "Ann4"),
        ("${ slots.name }", "Ann"),
        ("${slots.unfilled}", ""),
        ("[${variables.none}]", "[]"),
        ("${slots.price} / ${slots.half} / ${slots.yes}", "5 / 2.5 / true"),
        ("${variables.list} ${variables.map}", '[1, "a"] {"k": null}'),
        ("$${slots.name}", "${slots.name}"),
        ("$$${slots.name}", "$${slots.name}"),
        ("costs $5 {really} $", "costs $5 {really} $"),
        ("}{ ${slots.n} }{", "}{ 4 }{"),
        ("${'}'}", "}"),
        ("${'{'}${\"}\"}", "{}"),
        ("${{'a': {'b': slots.n}}.a.b}", "4"),
        ("${'it\\'s } fine'}", "it's } fine"),
        ("${'''a}b'''}", "a}b"),
        ("line\n${slots.n}\n", "line\n4\n"),
        ("😀 ${slots.name} é", "😀 Ann é"),
        ("${slots.n == 4 ? 'four' : 'more'}", "four"),
    ],
)
def test_rendering(source: str, text: str) -> None:
    assert compile_template(source).render(CONTEXT) == text


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("${slots.n}", 4),
        ("${slots.n + 1}", 5),
        ("${variables.list}", [1, "a"]),
        ("${slots.unfilled}", None),
        (" ${slots.n}", " 4"),
        ("${slots.n}${slots.n}", "44"),
        ("plain", "plain"),
        ("$${x}", "${x}"),
        ("", ""),
    ],
)
def test_a_template_that_is_one_expression_has_its_value(source: str, value: Any) -> None:
    assert compile_template(source).value(CONTEXT) == value


@pytest.mark.parametrize(
    ("source", "column"),
    [
        ("${slots.name", 1),
        ("Hi ${slots.name + }", 19),
        ("Hi ${}", 6),
        ("a ${ '}", 6),
        ("${slots.a} ${slots.b =}", 22),
        ("${{}", 1),
    ],
)
def test_a_broken_template_is_refused_at_its_column(source: str, column: int) -> None:
    with pytest.raises(ExpressionInvalid) as refusal:
        compile_template(source)
    assert refusal.value.column == column


def test_references_and_constancy() -> None:
    template = compile_template("${slots.name} has ${size(variables.list)}")
    assert template.references == {("slots", "name"), ("variables", "list")}
    assert not template.is_constant
    assert compile_template("Hello $${you}").is_constant


def test_json_keeps_its_shape() -> None:
    template = compile_json_template(
        {
            "a": "${slots.n}",
            "b": ["x ${slots.name}", 1, None, True, {"${key}": "${variables.list}"}],
            "c": 1.5,
        }
    )
    assert template.value(CONTEXT) == {
        "a": 4,
        "b": ["x Ann", 1, None, True, {"${key}": [1, "a"]}],
        "c": 1.5,
    }
    assert template.references == {("slots", "n"), ("slots", "name"), ("variables", "list")}
    assert len(template.expressions) == 3
    assert not template.is_constant
    assert compile_json_template([1, "a"]).is_constant


def test_a_json_constant_is_taken_as_it_is() -> None:
    assert JsonTemplate.constant({"a": 1}).value({}) == {"a": 1}
    assert JsonTemplate.constant(None).value({}) is None


def test_a_failing_expression_fails_the_template() -> None:
    with pytest.raises(ExpressionFailed, match=r"variables\.gone"):
        compile_template("a ${variables.gone}").render(CONTEXT)
    with pytest.raises(ExpressionFailed):
        compile_json_template({"a": ["${variables.gone}"]}).value(CONTEXT)


def test_an_endless_template_is_refused() -> None:
    with pytest.raises(ExpressionInvalid, match="at most"):
        compile_template("x" * 20_001)
