"""The documents say what there is, and every answer is as they say."""

import re
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from protocol import asyncapi
from protocol.errors import ERRORS
from protocol.frames import CLIENT_FRAME_TYPES
from protocol.schema import schema
from server.app import Application, build
from server.gateway.rest import answers
from server.gateway.rest.openapi import document, refusals
from server.gateway.rest.operations import OPERATIONS, Operation
from storage.memory.store import MemoryStore
from tests.support.rest import ask
from tests.support.server import (
    FLOW,
    ServerProcess,
    running_server,
    server_process,
    test_settings,
    token,
)

FLOWS = {
    "greet": FLOW,
    "gate": "flow: gate\nsteps: [{id: a, rejected: b, accept: {title: Sure?}}, {id: b, end: completed}]",
}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 8
NAMES = [op.operation_id for op in OPERATIONS if not op.endless]


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    folder: Path = tmp_path_factory.mktemp("app")
    return build(test_settings(folder, default_tenant="t1"), store=MemoryStore(), dev=True)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, ServerProcess]]:
    """The served document, narrowed to ids that are there as often as not, and its server."""
    folder: Path = tmp_path_factory.mktemp("api")
    with server_process(
        folder, flows=FLOWS, command="dev", PARLEY_STORE="memory:", PARLEY_DEFAULT_TENANT="t1"
    ) as server:
        served = fetch(server, "/v1/openapi.json")
        begun = [
            fetch(server, f"/v1/flows/{flow}/start", {"user_id": "u1"})["execution_id"]
            for flow in (*FLOWS, *FLOWS)
        ]
        page = {"publishable": True, "origins": ["https://shop.example"]}
        keys = [fetch(server, "/v1/keys", page)["key_id"] for _ in range(3)]
        narrow(
            served,
            flow_id=[*FLOWS, "none"],
            conversation_id=["c1", "c2", "none"],
            execution_id=begun,
            key_id=[*keys, "key_none"],
        )
        made = schemathesis.openapi.from_dict(served)
        made.config.update(base_url=server.url)
        yield made, server


HEADERS = {"Authorization": f"Bearer {token('u1', role='admin')}", "Content-Type": "application/json"}


def fetch(server: ServerProcess, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else orjson.dumps(body)
    with urllib.request.urlopen(
        urllib.request.Request(server.url + path, data, HEADERS), timeout=10
    ) as answer:
        return orjson.loads(answer.read())


def narrow(served: dict[str, Any], **ids: list[str]) -> None:
    for item in served["paths"].values():
        for operation in item.values():
            for parameter in operation["parameters"]:
                if parameter.get("in") == "path":
                    parameter["schema"] = {"enum": ids[parameter["name"]]}


# --- the document ---------------------------------------------------------------------------------


def test_every_route_is_described_and_nothing_else(application: Application) -> None:
    there = {
        (method, route.path) for route in application.routes for method in route.methods - {"HEAD", "OPTIONS"}
    }
    assert there == {op.key for op in OPERATIONS}
    assert len({op.operation_id for op in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.operation_id)
def test_every_status_of_an_operation_is_described(op: Operation) -> None:
    """Its successes, and the HTTP status of each code that it may refuse by."""
    shown = document("1")["paths"][op.path][op.method.lower()]
    statuses = {*op.replies, *(ERRORS[code].http_status for codes in refusals(op).values() for code in codes)}
    assert set(map(int, shown["responses"])) >= statuses
    assert {500} <= statuses
    if not op.open:
        assert {400, 401, 403, 503} <= statuses
        assert shown["security"] == [{"bearer": []}]
    if op.body is not None:
        assert {400, 413, 415} <= statuses
        op.body.model_validate(op.example)


def test_the_document_has_no_loose_reference() -> None:
    for made in (document("1"), asyncapi.document("1")):
        for ref in set(re.findall(r'"\$ref": ?"#/([^"]+)"', orjson.dumps(made).decode())):
            place: Any = made
            for part in ref.split("/"):
                place = place[part]


def test_the_socket_document_has_every_frame_and_each_validates_as_the_wires_own() -> None:
    made = asyncapi.document("1")
    frames = {name.removeprefix("client.") for name in made["components"]["messages"] if name[0] == "c"}
    assert frames == CLIENT_FRAME_TYPES
    assert set(made["components"]["schemas"]) == set(schema()["$defs"])
    process = {
        **made["components"]["messages"]["client.process"]["payload"],
        "components": made["components"],
    }
    judge = jsonschema_rs.validator_for(process)
    frame: dict[str, Any] = {
        "type": "process", "id": "1", "conversation_id": "c", "content": {"type": "text", "text": "hi"},
    }  # fmt: skip
    assert judge.is_valid(frame)
    assert not judge.is_valid({**frame, "nope": 1})


@pytest.mark.parametrize("model", [answers.ReceiptAnswer, answers.ExecutionAnswer, answers.InboxItem])
def test_what_is_answered_has_every_field_written_out(model: Any) -> None:
    schemas = document("1")["components"]["schemas"]
    assert set(schemas[model.__name__]["required"]) == set(model.model_fields)


# --- the pages ------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page refers to, and where it can be entered."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.styled = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.add(value or "")
            elif name == "id":
                self.ids.add(value or "")
            self.styled |= name == "style" or name.startswith("on")


async def test_the_pages_need_nothing_but_this_server(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        for path in ("/docs", "/docs/socket"):
            answer = await ask(server, "GET", path)
            assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "style-src 'self'" in policy
            assert "script" not in policy
            page = Page(answer.body.decode())
            assert not page.tags & {"script", "style", "img", "iframe"}
            assert not page.styled
            for link in page.links:
                if link.startswith("#"):
                    assert link[1:] in page.ids, link
                else:
                    assert (await ask(server, "GET", link)).status == 200


async def test_the_served_document_is_of_what_is_served(tmp_path: Path) -> None:
    """Outside development there are no recordings; the committed document has them."""
    async with running_server(tmp_path) as server:
        served = (await ask(server, "GET", "/v1/openapi.json")).json
        socket = (await ask(server, "GET", "/v1/asyncapi.json")).json
    in_development = {"/v1/conversations/{conversation_id}/recording"}
    assert not in_development & set(served["paths"])
    committed = orjson.loads((Path(__file__).parents[2] / "docs/reference/openapi.json").read_bytes())
    assert {*served["paths"], *in_development} == set(committed["paths"])
    assert socket["info"]["title"] == "Parley parley.v1"


# --- every answer ---------------------------------------------------------------------------------


def tried(api: Any, name: str, mode: GenerationMode) -> None:
    made, server = api
    op = next(op for op in OPERATIONS if op.operation_id == name)

    @given(case=made[op.path][op.method].as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def try_out(case: Any) -> None:
        answer = case.call(headers={"Authorization": HEADERS["Authorization"]})
        case.validate_response(answer, checks=CHECKS)

    try_out()
    assert server.process.poll() is None


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_as_documented(api: tuple[Any, ServerProcess], name: str) -> None:
    tried(api, name, GenerationMode.POSITIVE)


@pytest.mark.parametrize("name", [op.operation_id for op in OPERATIONS if op.body is not None])
def test_what_the_document_forbids_is_answered_as_documented(
    api: tuple[Any, ServerProcess], name: str
) -> None:
    tried(api, name, GenerationMode.NEGATIVE)
