"""The reference page of REST says what there is: every route, and every field of every body."""

import re
from pathlib import Path

import pytest

from server.app import build
from server.gateway.rest import bodies
from storage.memory.store import MemoryStore
from tests.support.server import test_settings

PAGE = (Path(__file__).parents[2] / "docs/reference/rest.md").read_text()
ROW = re.compile(r"^\| (GET|POST|PATCH|PUT|DELETE) \| `([^`]+)` \|", re.MULTILINE)


def test_every_route_is_on_the_page_and_nothing_else(tmp_path: Path) -> None:
    settings = test_settings(tmp_path, default_tenant="t1")
    application = build(settings, store=MemoryStore(), dev=True)
    there = {
        (method, route.path) for route in application.routes for method in route.methods - {"HEAD", "OPTIONS"}
    }
    assert there == set(ROW.findall(PAGE))


@pytest.mark.parametrize("model", bodies.Body.__subclasses__())
def test_every_field_of_a_body_is_on_the_page(model: type[bodies.Body]) -> None:
    assert [name for name in model.model_fields if not re.search(rf"\b{name}\b", PAGE)] == []
