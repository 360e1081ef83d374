"""Whatever is sent to a REST route, the answer is an answer: typed, and never a fault of the server's."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protocol.errors import ERRORS, ErrorCode
from server.app import Application, build
from storage.memory.store import MemoryStore
from tests.support.server import test_settings, token, write_flows

FLOWS = {
    "form": "flow: form\nslots: {n: {type: number}}\nsteps: [{id: a, collect: [n], ask: {n: N?}}]",
    "wait": "flow: wait\nvariables: {v: null}\nsteps: [{id: a, wait: {event: e}, save: variables.v}]",
    "help": "flow: help\nsteps: [{id: a, handoff: support}]",
    "gate": "flow: gate\nslots: {n: {type: number}}\nsteps:\n  - {id: a, rejected: b, accept: {title: Sure?, "
    "by: {scope: 'acceptance:decide', quorum: 2}, editable: [slots.n]}}\n  - {id: b, end: completed}",
    "asks": "flow: asks\nsteps: [{id: a, clarify: {questions: [{id: n, text: N?, type: number}]}}]",
    "fails": 'flow: fails\nvariables: {v: []}\nsteps: [{id: a, set: {variables.v: "${variables.v[0]}"}}]',
}
COMMANDS = ("acceptance", "clarification", "pause", "resume", "cancel", "retry", "signal")
NAMES = st.sampled_from(
    ["accepted", "answers", "pending_id", "edits", "digest", "comment", "reason", "deadline_ms", "name",
     "payload", "initial_context", "input", "version", "conversation_id", "user_id", "tenant_id",
     "project_id", "channel", "on_busy", "correlation_id", "request_id", "n", "v", "e"]
)  # fmt: skip
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
    | st.sampled_from(["e", "api", "interrupt", "enqueue", "c1", "u1", "t1", "\x00", "😀"])
)
JSON = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=12,
)
BODIES = (
    st.dictionaries(NAMES, JSON, max_size=6).map(orjson.dumps)
    | JSON.map(orjson.dumps)
    | st.binary(max_size=60)
)
QUERIES = st.lists(
    st.tuples(
        st.sampled_from(["limit", "cursor", "status", "since", "until", "user_id", "flow_id", "nope"]),
        st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="&#"), max_size=30),
    ),
    max_size=3,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))


class App:
    """The application without sockets: requests go straight into it."""

    def __init__(self, application: Application, runner: asyncio.Runner) -> None:
        self.application = application
        self.runner = runner
        self.executions: list[str] = []

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        query: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Return the status and the parsed body of the answer."""
        return self.runner.run(self._ask(method, path, body, query, headers or {}))

    async def _ask(
        self, method: str, path: str, body: bytes, query: str, headers: Mapping[str, str]
    ) -> tuple[int, Any]:
        sent: list[Any] = []
        given = {"authorization": f"Bearer {OPERATOR}", "content-type": "application/json", **headers}
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
            "query_string": query.encode(), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8765),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
        }  # fmt: skip

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.application.asgi(scope, receive, send)
        return sent[0]["status"], orjson.loads(b"".join(m["body"] for m in sent[1:]))


OPERATOR = token("op", role="operator", scopes=("users:act",))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("rest")
    write_flows(folder, FLOWS)
    application = build(test_settings(folder, message_max_chars=500), store=MemoryStore())
    with asyncio.Runner() as runner:
        runner.run(application.startup())
        app = App(application, runner)
        for flow_id in FLOWS:
            _, started = app.ask("POST", f"/v1/flows/{flow_id}/start", b"{}")
            app.executions.append(started["execution_id"])
        yield app
        runner.run(application.shutdown())


def check(status: int, answer: Any) -> None:
    assert status < 500, answer
    if status >= 400:
        error = answer["error"]
        assert ERRORS[ErrorCode(error["code"])].http_status == status or status == 405
        assert answer["request_id"]
        assert len(orjson.dumps(answer)) < 4000


once = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(
    place=st.integers(0, 6), command=st.sampled_from(COMMANDS), body=BODIES, key=st.none() | st.just("k" * 8)
)
@example(place=1, command="signal", body=b'{"name": "e", "payload": {"n": [null, -0.0]}}', key=None)
@example(place=0, command="acceptance", body=b'{"accepted": true, "edits": {"n": {}}}', key="k" * 8)
@once
def test_no_command_is_a_fault_of_the_servers(
    app: App, place: int, command: str, body: bytes, key: str | None
) -> None:
    execution_id = [*app.executions, "missing"][place]
    headers = {"idempotency-key": key} if key else {}
    check(*app.ask("POST", f"/v1/executions/{execution_id}/{command}", body, headers=headers))


@given(flow_id=st.sampled_from([*FLOWS, "missing"]), body=BODIES)
@example(flow_id="form", body=b'{"initial_context": {"n": "x"}, "conversation_id": "c1"}')
@once
def test_no_start_is_a_fault_of_the_servers(app: App, flow_id: str, body: bytes) -> None:
    check(*app.ask("POST", f"/v1/flows/{flow_id}/start", body))


@given(path=st.sampled_from(["/v1/executions", "/v1/inbox", "/v1/executions/x"]), query=QUERIES)
@example(path="/v1/inbox", query="cursor=WzFlOTksImEiXQ")
@example(path="/v1/executions", query="until=9999-12-31T23:59:59-23:00")
@example(path="/v1/executions", query="since=0001-01-01T00:00:00%2B23:00")
@example(path="/v1/executions", query="cursor=" + "W1" * 300)
@once
def test_no_question_is_a_fault_of_the_servers(app: App, path: str, query: str) -> None:
    check(*app.ask("GET", path, query=query))
