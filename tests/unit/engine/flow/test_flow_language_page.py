"""What ``docs/reference/flow-language.md`` says is what the code does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from server.engine.flow.expressions import CONTEXT_ROOTS, compile_expression
from server.engine.flow.grammar import FUNCTIONS, METHODS
from server.engine.flow.lint import RULES
from server.engine.flow.loader import compile_flow
from server.engine.flow.model import RETRY_REASONS, SLOT_TYPES
from server.engine.flow.templates import compile_template
from server.engine.steps import step_types

PAGE = (Path(__file__).parents[4] / "docs" / "reference" / "flow-language.md").read_text()
SECTIONS = dict(
    zip(
        re.findall(r"^## (.+)$", PAGE, re.MULTILINE),
        re.split(r"^## .+$", PAGE, flags=re.MULTILINE)[1:],
        strict=True,
    )
)
FLOWS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CONTEXT: dict[str, Any] = json.loads(re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0])
PAIR = re.compile(r"^\| `(.+?)` \| `(.+?)` \|$", re.MULTILINE)


@pytest.mark.parametrize("source", FLOWS, ids=lambda source: source.split("\n")[0])
def test_each_flow_compiles_without_a_warning(source: str) -> None:
    assert compile_flow(source, "page.yaml").warnings == ()


@pytest.mark.parametrize(
    ("source", "value"), PAIR.findall(SECTIONS["Expressions"].split("With this context")[1])
)
def test_each_expression_has_its_value(source: str, value: str) -> None:
    found = compile_expression(source).evaluate(CONTEXT)
    assert found == json.loads(value)
    assert type(found) is type(json.loads(value))


@pytest.mark.parametrize(("source", "text"), PAIR.findall(SECTIONS["Templates"]))
def test_each_template_has_its_text(source: str, text: str) -> None:
    assert compile_template(source).render(CONTEXT) == text


def test_the_page_lists_every_rule() -> None:
    listed = re.findall(r"^\| `([\w-]+)` \| (error|warning) \| (.+) \|$", SECTIONS["Problems"], re.MULTILINE)
    assert listed == [(rule, severity, text) for rule, (severity, text) in RULES.items()]


def test_the_page_names_every_step_slot_type_function_and_root() -> None:
    for name in step_types():
        assert f"### `{name}`" in PAGE
    for name in SLOT_TYPES:
        assert f"| `{name}` |" in SECTIONS["Slots"]
    for name in (*CONTEXT_ROOTS, *FUNCTIONS, *METHODS):
        assert re.search(rf"\b{name}\b", SECTIONS["Expressions"]), name
    for name in RETRY_REASONS:
        assert f"`{name}`" in SECTIONS["Steps"]


def test_the_page_shows_what_rests_on_what_in_its_first_flow() -> None:
    def shown(names: frozenset[tuple[str, ...]]) -> str:
        return " ".join(f"`{'.'.join(name)}`" for name in sorted(names))

    rows = re.findall(r"^\| `(\w+)` \|(.*)\|(.*)\|$", SECTIONS["Corrections"], re.MULTILINE)
    listed = [(step_id, reads.strip(), saves.strip()) for step_id, reads, saves in rows]
    flow = compile_flow(FLOWS[0], "page.yaml")
    assert listed == [(link.step_id, shown(link.reads), shown(link.saves)) for link in flow.links]
