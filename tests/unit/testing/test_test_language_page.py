"""What ``docs/reference/test-language.md`` says is what the code does."""

import re
from pathlib import Path

import pytest

from server.testing.expectations import EXPECTATIONS
from server.testing.matching import OPERATORS
from server.testing.suite import DOINGS, FAILURE_KINDS
from tests.unit.testing.orders import outcomes_of, told

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "test-language.md").read_text()
FLOW, *SUITES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("source", SUITES, ids=lambda source: source.split("name: ")[-1].split("\n")[0])
def test_each_snippet_passes(source: str) -> None:
    outcomes, _ = outcomes_of(source, FLOW)
    assert [told(outcome) for outcome in outcomes if not outcome.ok] == []


def test_the_page_names_everything_that_a_line_may_have() -> None:
    for name in (*DOINGS, *EXPECTATIONS, *OPERATORS, *FAILURE_KINDS, "as", "at_once"):
        assert re.search(rf"`\{{?{name}\b", PAGE), name
