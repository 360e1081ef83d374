"""Executions over REST: started, listed, shown, held, ended; who may, and what is answered twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from storage.memory import MemoryStore
from storage.models import EventBatch
from tests.support.rest import Answer, call
from tests.support.server import FLOW, RunningServer, running_server, token

ORDER = """
flow: order
slots:
  item: {type: text}
  size: {type: choice, options: [small, large]}
variables: {note: null}
steps:
  - {id: paid, wait: {event: paid}, save: variables.note}
  - {id: thanks, say: "One ${slots.item}."}
  - {id: done, end: completed, output: "${variables.note}"}
"""
HELP = """
flow: help
steps:
  - {id: human, handoff: support}
  - {id: done, end: completed}
"""
BROKEN = """
flow: broken
variables: {list: []}
steps:
  - {id: look, set: {variables.list: "${variables.list[3]}"}}
  - {id: done, end: completed}
"""
FLOWS = {"greet": FLOW, "order": ORDER, "help": HELP, "broken": BROKEN}
OPERATOR = token("op", role="operator")
SERVICE = token("svc", role="service")
STRANGER = token("u2")
FOREIGN = token("u1", tenant_id="t2", role="admin")
KEY = "key-0123456789"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with running_server(tmp_path, flows=FLOWS) as running:
        yield running


async def started(server: RunningServer, flow_id: str = "order", who: str = SERVICE, **body: Any) -> str:
    answer = await call(server, "POST", f"/flows/{flow_id}/start", body, who=who)
    assert answer.status == 202, answer.json
    return str(answer.json["execution_id"])


async def shown(server: RunningServer, execution_id: str, who: str = OPERATOR) -> dict[str, Any]:
    answer = await call(server, "GET", f"/executions/{execution_id}", who=who)
    assert answer.status == 200, answer.json
    return answer.json  # type: ignore[no-any-return]


async def act(
    server: RunningServer, execution_id: str, what: str, who: str = OPERATOR, **body: Any
) -> Answer:
    return await call(server, "POST", f"/executions/{execution_id}/{what}", body, who=who)


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["error"]["code"]


# --- starting -------------------------------------------------------------------------------------


async def test_a_start_says_where_it_runs_and_goes_on_by_itself(server: RunningServer) -> None:
    body = {"initial_context": {"item": "tea", "size": "small"}, "project_id": "p1"}
    answer = await call(server, "POST", "/flows/order/start", body, who=SERVICE, X_Correlation_ID="corr-1")
    assert answer.status == 202
    assert answer.json.keys() == {"execution_id", "conversation_id", "correlation_id"}
    assert len(answer.json["conversation_id"]) == 32
    assert answer.json["correlation_id"] == answer.headers["x-correlation-id"] == "corr-1"
    execution = await shown(server, answer.json["execution_id"])
    assert execution["status"] == "waiting_event"
    assert execution["awaits"] == "paid"
    assert (execution["flow_id"], execution["flow_version"]) == ("order", 1)
    assert (execution["project_id"], execution["correlation_id"]) == ("p1", "corr-1")
    assert execution["request_id"] == answer.headers["x-request-id"]


async def test_a_run_that_nobody_is_named_for_is_nobodys(server: RunningServer) -> None:
    execution_id = await started(server)
    assert (await shown(server, execution_id))["user_id"] is None
    assert refusal(await call(server, "GET", f"/executions/{execution_id}")) == (404, "execution_not_found")


async def test_a_plain_user_starts_for_themselves(server: RunningServer) -> None:
    execution_id = await started(server, who=token("u1"))
    assert (await shown(server, execution_id, token("u1")))["user_id"] == "u1"
    refused = await call(server, "POST", "/flows/order/start", {"user_id": "u2"})
    assert refusal(refused) == (403, "permission_denied")
    assert refused.json["error"]["field"] == "user_id"


async def test_a_service_starts_for_a_user(server: RunningServer) -> None:
    execution_id = await started(server, user_id="u1")
    assert (await shown(server, execution_id, token("u1")))["user_id"] == "u1"


async def test_a_start_sent_again_is_the_same_run(server: RunningServer) -> None:
    body = {"initial_context": {"item": "tea"}}
    first = await call(server, "POST", "/flows/order/start", body, Idempotency_Key=KEY)
    again = await call(server, "POST", "/flows/order/start", body, Idempotency_Key=KEY)
    assert first.headers["idempotency-key"] == KEY
    assert again.json == first.json
    other = await call(server, "POST", "/flows/order/start", {}, Idempotency_Key=KEY)
    assert refusal(other) == (422, "idempotency_conflict")
    without = await call(server, "POST", "/flows/order/start", body)
    assert without.json["conversation_id"] != first.json["conversation_id"]


async def test_a_key_belongs_to_who_sent_it(server: RunningServer) -> None:
    mine = await call(server, "POST", "/flows/order/start", {}, Idempotency_Key=KEY)
    theirs = await call(server, "POST", "/flows/order/start", {}, who=STRANGER, Idempotency_Key=KEY)
    assert mine.json["conversation_id"] != theirs.json["conversation_id"]


async def test_the_body_may_bring_its_own_ids(server: RunningServer) -> None:
    execution_id = await started(server, correlation_id="c.1", request_id="r_1")
    execution = await shown(server, execution_id)
    assert (execution["correlation_id"], execution["request_id"]) == ("c.1", "r_1")


async def test_a_conversation_at_work_refuses_a_start_unless_told_to_interrupt(server: RunningServer) -> None:
    first = await started(server, conversation_id="c1")
    refused = await call(server, "POST", "/flows/order/start", {"conversation_id": "c1"}, who=SERVICE)
    assert refusal(refused) == (409, "conversation_busy")
    second = await started(server, conversation_id="c1", on_busy="interrupt")
    assert second != first
    assert (await shown(server, first))["status"] == "cancelled"


async def test_anothers_conversation_is_missing_for_a_start(server: RunningServer) -> None:
    await started(server, conversation_id="c1", user_id="u1")
    refused = await call(server, "POST", "/flows/order/start", {"conversation_id": "c1"}, who=STRANGER)
    assert refusal(refused) == (404, "conversation_not_found")


async def test_a_run_is_watched_over_the_socket(server: RunningServer) -> None:
    client = await server.connect(token("u1"))
    execution_id = await started(server, user_id="u1", initial_context={"item": "tea"})
    assert (await client.ask("subscribe", execution_id=execution_id))["type"] == "ack"
    await act(server, execution_id, "signal", SERVICE, name="paid", payload={"sum": 3})
    events = (await client.until("events"))["events"]
    assert "One tea." in [event["data"].get("text") for event in events]


# --- showing and listing --------------------------------------------------------------------------


async def test_frames_are_shown_to_who_may_inspect_only(server: RunningServer) -> None:
    execution_id = await started(server, user_id="u1")
    full = await shown(server, execution_id)
    assert full["frames"][0]["variables"] == {"note": None}
    assert full["attempts"] == []
    for who in (token("u1"), SERVICE):
        assert not {"frames", "attempts"} & (await shown(server, execution_id, who)).keys()


async def test_another_owners_and_another_tenants_execution_is_missing(server: RunningServer) -> None:
    execution_id = await started(server, user_id="u1")
    missing = await call(server, "GET", "/executions/nothing")
    for who in (STRANGER, FOREIGN):
        answer = await call(server, "GET", f"/executions/{execution_id}", who=who)
        assert refusal(answer) == (404, "execution_not_found")
        assert answer.json["error"] == missing.json["error"]
        for what in ("pause", "resume", "cancel", "retry"):
            assert refusal(await act(server, execution_id, what, who)) == (404, "execution_not_found")


async def test_a_former_execution_is_folded_from_the_log(server: RunningServer) -> None:
    first = await started(server, conversation_id="c1", user_id="u1", initial_context={"item": "tea"})
    await act(server, first, "signal", SERVICE, name="paid", payload="thanks")
    current = await shown(server, first)
    await started(server, conversation_id="c1", user_id="u1")
    former = await shown(server, first)
    told = (
        "status",
        "output",
        "error",
        "flow_id",
        "flow_version",
        "completed_steps",
        "started_at",
        "user_id",
    )
    assert {name: former[name] for name in told} == {name: current[name] for name in told}
    assert former["status"] == "completed"
    assert former["completed_at"] == current["completed_at"] is not None
    assert former["pending"] == []
    assert refusal(await act(server, first, "cancel")) == (409, "wrong_state")


class ReadingStore(MemoryStore):
    """Counts how often a log is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def events(self, *args: Any, **kwargs: Any) -> list[EventBatch]:
        self.reads += 1
        return await super().events(*args, **kwargs)


async def test_what_is_over_is_folded_once_in_a_while_and_forgotten_with_its_conversation(
    tmp_path: Path,
) -> None:
    store = ReadingStore()
    async with running_server(tmp_path, flows=FLOWS, store=store) as server:
        ids = []
        for _ in range(3):
            ids.append(await started(server, conversation_id="c1", user_id="u1"))
            await act(server, ids[-1], "signal", SERVICE, name="paid")
        before = store.reads
        first = [await shown(server, execution_id) for execution_id in ids[:2]]
        assert store.reads > before
        before = store.reads
        assert [await shown(server, execution_id) for execution_id in ids[:2]] == first
        assert store.reads == before
        assert refusal(await call(server, "GET", f"/executions/{ids[0]}", who=STRANGER)) == (
            404,
            "execution_not_found",
        )
        cache = server.application.gateway.services.cache
        assert await cache.get("past:t1:c1") is not None
        admin = token("ad", role="admin")
        assert (await call(server, "DELETE", "/conversations/c1", who=admin)).status == 204
        again = await call(server, "GET", f"/executions/{ids[0]}", who=OPERATOR)
        assert refusal(again) == (404, "execution_not_found")
        assert await cache.get("past:t1:c1") is None


async def test_what_was_before_a_reset_is_shown_to_who_may_inspect_only(server: RunningServer) -> None:
    execution_id = await started(server, conversation_id="c1", user_id="u1")
    client = await server.connect(token("u1"))
    assert (await client.ask("reset", conversation_id="c1"))["type"] == "ack"
    gone = await call(server, "GET", f"/executions/{execution_id}")
    assert refusal(gone) == (404, "execution_not_found")
    assert (await shown(server, execution_id))["status"] == "cancelled"


async def test_executions_are_listed_in_pages(server: RunningServer) -> None:
    ids = [await started(server, user_id=f"u{n % 2}", project_id="p") for n in range(5)]
    await started(server, "help", user_id="u1")
    first = await call(server, "GET", "/executions?limit=4&flow_id=order", who=OPERATOR)
    assert first.json.keys() == {"executions", "cursor"}
    cursor = first.json["cursor"]
    second = await call(server, "GET", f"/executions?limit=4&flow_id=order&cursor={cursor}", who=OPERATOR)
    listed = [*first.json["executions"], *second.json["executions"]]
    assert {execution["execution_id"] for execution in listed} == set(ids)
    assert second.json["cursor"] is None
    assert len({execution["execution_id"] for execution in listed}) == len(listed)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 4),
        ("?status=waiting_event", 3),
        ("?status=paused", 1),
        ("?status=failed", 0),
        ("?user_id=u1", 2),
        ("?project_id=p1&flow_id=order", 1),
        ("?since=2020-01-01T00:00:00Z&until=2020-01-02T00:00:00Z", 0),
        ("?since=2020-01-01T00:00:00%2B02:00", 4),
    ],
)
async def test_lists_are_filtered(server: RunningServer, query: str, count: int) -> None:
    await started(server, user_id="u1", project_id="p1")
    await started(server, user_id="u1")
    await started(server)
    await started(server, "help", user_id="u3")
    listed = (await call(server, "GET", f"/executions{query}", who=OPERATOR)).json["executions"]
    assert len(listed) == count


async def test_a_list_has_ones_own_without_a_scope(server: RunningServer) -> None:
    mine = await started(server, user_id="u1")
    await started(server, user_id="u2")
    for query in ("", "?user_id=u1"):
        listed = (await call(server, "GET", f"/executions{query}")).json["executions"]
        assert [execution["execution_id"] for execution in listed] == [mine]
    page = (await call(server, "GET", "/executions?limit=1")).json
    assert ([execution["execution_id"] for execution in page["executions"]], page["cursor"]) == ([mine], None)
    assert (await call(server, "GET", "/executions?user_id=u2")).json["executions"] == []
    assert (await call(server, "GET", "/executions", who=FOREIGN)).json["executions"] == []


# --- commands -------------------------------------------------------------------------------------


async def test_pause_resume_signal_and_the_end(server: RunningServer) -> None:
    execution_id = await started(server, initial_context={"item": "tea"})
    paused = await act(server, execution_id, "pause", reason="a check")
    assert paused.status == 200
    assert paused.json.keys() == {
        "duplicate", "command_id", "status", "conversation_id", "execution_id", "epoch", "offset", "result",
    }  # fmt: skip
    execution = await shown(server, execution_id)
    assert execution["status"] == "paused"
    assert (execution["pause"]["by"], execution["pause"]["reason"]) == ("op", "a check")
    assert refusal(await act(server, execution_id, "pause")) == (409, "wrong_state")
    assert (await act(server, execution_id, "resume", comment="fine")).status == 200
    assert refusal(await act(server, execution_id, "signal", name="other")) == (409, "wrong_state")
    answer = await act(server, execution_id, "signal", name="paid", payload={"sum": 3})
    assert answer.json["status"] == "completed"
    execution = await shown(server, execution_id)
    assert (execution["status"], execution["output"]) == ("completed", {"sum": 3})
    assert refusal(await act(server, execution_id, "resume")) == (409, "wrong_state")
    assert refusal(await act(server, execution_id, "cancel")) == (409, "wrong_state")


async def test_the_owner_cancels_but_does_not_pause(server: RunningServer) -> None:
    execution_id = await started(server, user_id="u1")
    assert refusal(await act(server, execution_id, "pause", token("u1"))) == (403, "permission_denied")
    assert (await act(server, execution_id, "cancel", token("u1"), reason="no need")).status == 200
    assert (await shown(server, execution_id, token("u1")))["status"] == "cancelled"


async def test_a_failed_execution_is_tried_again(server: RunningServer) -> None:
    execution_id = await started(server, "broken")
    execution = await shown(server, execution_id)
    assert (execution["status"], execution["error"]["step_id"]) == ("failed", "look")
    again = await act(server, execution_id, "retry")
    assert (again.status, again.json["status"]) == (200, "failed")
    assert again.json["execution_id"] == execution_id
    assert refusal(await act(server, await started(server), "retry")) == (409, "wrong_state")


async def test_a_command_sent_again_answers_the_first_outcome(server: RunningServer) -> None:
    execution_id = await started(server, conversation_id="c1")

    async def cancel(**body: Any) -> Answer:
        path = f"/executions/{execution_id}/cancel"
        return await call(server, "POST", path, body, who=OPERATOR, Idempotency_Key=KEY)

    first = await cancel(reason="a")
    assert (first.json["duplicate"], first.json["command_id"]) == (False, KEY)
    await started(server, conversation_id="c1")
    again = await cancel(reason="a")
    assert (again.status, again.json["duplicate"], again.json["result"]) == (200, True, first.json["result"])
    assert refusal(await cancel(reason="b")) == (422, "idempotency_conflict")


async def test_of_several_who_cancel_at_once_one_does(server: RunningServer) -> None:
    execution_id = await started(server)
    answers = await asyncio.gather(*(act(server, execution_id, "cancel") for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409, 409, 409]


# --- what is wrong with a request -----------------------------------------------------------------

POSTS: dict[str, dict[str, Any]] = {
    "/flows/order/start": {},
    "/executions/x/acceptance": {"accepted": True},
    "/executions/x/clarification": {"answers": {}},
    "/executions/x/pause": {},
    "/executions/x/resume": {},
    "/executions/x/cancel": {},
    "/executions/x/retry": {},
    "/executions/x/signal": {"name": "paid"},
}
GETS = ("/executions", "/executions/x", "/inbox")


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_that_cannot_be_used_is_refused_by_name(server: RunningServer, path: str) -> None:
    unknown = await call(server, "POST", path, {**POSTS[path], "nope": 1})
    assert refusal(unknown) == (400, "bad_request")
    assert unknown.json["error"]["field"] == "nope"
    text = await call(server, "POST", path, POSTS[path], Content_Type="text/plain")
    assert refusal(text) == (415, "unsupported_media_type")
    large = await call(server, "POST", path, {"x": "y" * 70_000})
    assert refusal(large) == (413, "payload_too_large")
    assert refusal(await call(server, "GET", path)) == (405, "bad_request")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/flows/order/start", {"initial_context": []}, "initial_context"),
        ("/flows/order/start", {"conversation_id": "a b"}, "conversation_id"),
        ("/flows/order/start", {"user_id": ""}, "user_id"),
        ("/flows/order/start", {"channel": "fax"}, "channel"),
        ("/flows/order/start", {"on_busy": "wait"}, "on_busy"),
        ("/flows/order/start", {"version": "1"}, "version"),
        ("/flows/order/start", {"version": 0}, "version"),
        ("/flows/order/start", {"correlation_id": "a b"}, "correlation_id"),
        ("/flows/order/start", {"initial_context": {"size": "huge"}}, "initial_context.size"),
        ("/executions/x/acceptance", {}, "accepted"),
        ("/executions/x/acceptance", {"accepted": "yes"}, "accepted"),
        ("/executions/x/acceptance", {"accepted": True, "edits": 1}, "edits"),
        ("/executions/x/clarification", {}, "answers"),
        ("/executions/x/clarification", {"answers": None}, "answers"),
        ("/executions/x/pause", {"deadline_ms": 0}, "deadline_ms"),
        ("/executions/x/pause", {"reason": "y" * 1001}, "reason"),
        ("/executions/x/signal", {}, "name"),
        ("/executions/x/signal", {"name": ""}, "name"),
    ],
)
async def test_a_wrong_value_is_refused_by_its_field(
    server: RunningServer, path: str, body: dict[str, Any], field: str
) -> None:
    answer = await call(server, "POST", path, body)
    assert refusal(answer) == (400, "bad_request")
    assert answer.json["error"]["field"] == field


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("/executions?nope=1", "nope"),
        ("/executions?limit=0", "limit"),
        ("/executions?limit=101", "limit"),
        ("/executions?limit=x", "limit"),
        ("/executions?limit=1&limit=2", "limit"),
        ("/executions?cursor=x", "cursor"),
        ("/executions?cursor=W10", "cursor"),
        ("/executions?cursor=%C3%A9", "cursor"),
        ("/executions?cursor=WzEsMl0", "cursor"),
        ("/executions?status=odd", "status"),
        ("/executions?since=yesterday", "since"),
        ("/executions?since=2026-01-01", "since"),
        ("/executions?flow_id=", "flow_id"),
        ("/inbox?status=paused", "status"),
        ("/inbox?cursor=WyJhIiwxXQ", "cursor"),
        ("/executions/x?full=1", "full"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_name(server: RunningServer, query: str, field: str) -> None:
    answer = await call(server, "GET", query)
    assert refusal(answer) == (400, "bad_request")
    assert answer.json["error"]["field"] == field


@pytest.mark.parametrize("key", ["short", "a" * 129, "ümlaut-key"])
async def test_a_key_that_is_none_is_refused(server: RunningServer, key: str) -> None:
    answer = await call(server, "POST", "/flows/order/start", {}, Idempotency_Key=key)
    assert refusal(answer) == (400, "bad_request")
    assert answer.json["error"]["field"] == "Idempotency-Key"


@pytest.mark.parametrize("path", [*POSTS, *GETS])
async def test_without_a_token_nothing_is_told(server: RunningServer, path: str) -> None:
    method = "POST" if path in POSTS else "GET"
    for given in ("", "Bearer", "Bearer nonsense", "Basic dTpw"):
        answer = await call(server, method, path, POSTS.get(path), Authorization=given)
        assert refusal(answer) == (401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    old = await call(server, method, path, POSTS.get(path), who=token(ttl_s=-60))
    assert refusal(old) == (401, "token_expired")


async def test_an_unknown_flow_is_not_found(server: RunningServer) -> None:
    for flow_id in ("nothing", "UPPER", "a%00b", "x" * 200):
        answer = await call(server, "POST", f"/flows/{flow_id}/start", {})
        assert refusal(answer) == (404, "flow_not_found")
    newer = await call(server, "POST", "/flows/order/start", {"version": 9})
    assert refusal(newer) == (404, "flow_not_found")


async def test_another_tenant_in_the_body_is_denied(server: RunningServer) -> None:
    answer = await call(server, "POST", "/flows/order/start", {"tenant_id": "t2"})
    assert refusal(answer) == (403, "permission_denied")
    assert (await call(server, "POST", "/flows/order/start", {"tenant_id": "t1"})).status == 202


# --- pages of other origins -----------------------------------------------------------------------


async def test_an_allowed_page_may_ask_and_read_even_refusals(tmp_path: Path) -> None:
    page = "https://shop.example"
    async with running_server(tmp_path, flows=FLOWS, origins=(page,)) as server:
        preflight = await call(server, "OPTIONS", "/executions", Origin=page)
        assert preflight.status == 204
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        for path in ("/executions", "/executions/missing"):
            answer = await call(server, "GET", path, Origin=page)
            assert answer.headers["access-control-allow-origin"] == page
            assert answer.headers["vary"] == "origin"
        other = await call(server, "GET", "/executions", Origin="https://evil.example")
        assert refusal(other) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in other.headers
