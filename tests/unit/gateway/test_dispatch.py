"""The one error ladder, and the one answer of each frame."""

from typing import Any, get_args

import orjson
import pytest
import structlog

from protocol.codec import CodecLimits, decode
from protocol.errors import ErrorCode, Refused
from protocol.frames import ClientFrame, Hello, Pong
from server.auth.credentials import Credentials
from server.auth.keys import Keys
from server.auth.origins import OriginPolicy
from server.auth.principal import Principal
from server.auth.tokens import TokenVerifier, Trust
from server.delivery.hub import Hub
from server.dispatch import HANDLERS, dispatch, refusal_of
from server.engine.types import Accepted, Command
from server.handlers.services import Services
from server.telemetry.metrics import Metrics
from storage.base import CommitUnknown, StoreUnavailable
from storage.memory import MemoryCache, MemoryPresence, MemoryStore
from storage.models import Conversation
from tests.support.delivery import TENANT, FakeWatcher, Log, hub_over

SECRET = "secret detail"


class FakeEngine:
    """Answers every command as it is told to."""

    def __init__(self, answer: Accepted | Exception) -> None:
        self.answer = answer
        self.commands: list[Command] = []

    async def submit(self, command: Command, principal: Principal) -> Accepted:
        self.commands.append(command)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def read(self, tenant_id: str, conversation_id: str) -> Conversation | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer.record

    async def delete(self, tenant_id: str, conversation_id: str, principal: Principal) -> bool:
        return False


class FakeCaller(FakeWatcher):
    """A connection that has said hello."""

    connection_id = "n1"
    bearer: str | None = None
    locale: str | None = "fr"
    timezone: str | None = None
    origin: str | None = None

    def enter(self, principal: Principal) -> None:
        self.principal = principal

    def renew(self, principal: Principal) -> None:
        self.principal = principal


def services(engine: FakeEngine, hub: Hub | None = None) -> Services:
    log = Log()

    store = MemoryStore()
    verifier = TokenVerifier(Trust(b"k" * 32))
    credentials = Credentials(verifier, Keys(store), OriginPolicy([]), lambda: 0.0)
    return Services(
        engine=engine, hub=hub or hub_over(log), store=store, presence=MemoryPresence(), cache=MemoryCache(),
        credentials=credentials, wall_s=lambda: 0.0,
        limits=CodecLimits(), frames_per_second=20, metrics=Metrics(),
    )  # fmt: skip


def frame(**fields: Any) -> Any:
    return decode(orjson.dumps({"id": "7", "conversation_id": "c1", **fields}), CodecLimits())


def accepted(**changes: Any) -> Accepted:
    fields: dict[str, Any] = {
        "duplicate": False, "command_id": "k", "status": "completed", "execution_id": "x1", "epoch": "e1",
        "offset": 7, "result": None, "record": Conversation(TENANT, "c1", "u1", "e1"),
    }  # fmt: skip
    return Accepted(**{**fields, **changes})


def test_every_client_frame_has_a_handler() -> None:
    frames = set(get_args(get_args(ClientFrame)[0]))
    assert frames - HANDLERS.keys() == {Hello, Pong}  # these two are the session's


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused(ErrorCode.WRONG_STATE, "no"), "wrong_state"),
        (StoreUnavailable(SECRET), "store_unavailable"),
        (CommitUnknown(SECRET), "store_unavailable"),
        (RuntimeError(SECRET), "internal"),
        (KeyError(SECRET), "internal"),
        (TimeoutError(SECRET), "internal"),
        (RecursionError(SECRET), "internal"),
    ],
)
async def test_whatever_is_raised_becomes_one_typed_error(error: Exception, code: str) -> None:
    used = services(FakeEngine(error))
    with structlog.testing.capture_logs() as lines:
        answer = await dispatch(frame(type="reset"), FakeCaller(), used)
    assert answer is not None
    told = orjson.loads(answer)
    assert (told["type"], told["id"], told["error"]["code"]) == ("error", "7", code)
    assert SECRET not in answer.decode()
    assert used.metrics.errors == {code: 1}
    assert [line["log_level"] for line in lines] == {
        "wrong_state": [], "store_unavailable": ["warning"], "internal": ["error"],
    }[code]  # fmt: skip


def test_a_refusal_is_passed_on_as_it_is() -> None:
    refused = Refused(ErrorCode.INBOX_FULL, "full", retry_after_ms=5)
    assert refusal_of(refused) is refused


async def test_a_command_reaches_the_engine_whole() -> None:
    engine = FakeEngine(accepted())
    content = {"type": "text", "text": "hi"}
    await dispatch(frame(type="process", content=content), FakeCaller(), services(engine))
    command = engine.commands[0]
    assert (command.type, command.conversation_id, len(command.key)) == ("process", "c1", 32)
    assert command.body["content"] == {"type": "text", "text": "hi", "payload": None, "metadata": {}}
    assert (command.body["user_id"], command.body["on_busy"], command.locale) == ("u1", "enqueue", "fr")


async def test_the_hash_covers_what_was_said_but_not_where_from() -> None:
    async def hash_of(locale: str, **fields: str) -> str:
        engine, caller = FakeEngine(accepted()), FakeCaller()
        caller.locale = locale
        await dispatch(frame(type="reset", **fields), caller, services(engine))
        return engine.commands[0].body_hash

    first = await hash_of("fr")
    assert await hash_of("en", id="8", idempotency_key="k" * 8) == first
    assert await hash_of("fr", reason="another") != first


async def test_an_ack_says_what_the_engine_said() -> None:
    engine = FakeEngine(accepted(duplicate=True, status="running"))
    answer = await dispatch(frame(type="cancel"), FakeCaller(), services(engine))
    assert answer is not None
    assert orjson.loads(answer) == {
        "type": "ack", "id": "7", "duplicate": True, "command_id": "k", "status": "running",
        "execution_id": "x1", "epoch": "e1", "offset": 7, "result": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("who", "shown"),
    [
        (Principal("u1", TENANT), {"a": 1}),
        (Principal("x", TENANT, scopes=frozenset({"conversations:write"})), {}),
        (Principal("x", TENANT, scopes=frozenset({"conversations:inspect"})), {"a": 1}),
    ],
)
async def test_a_result_is_filtered_for_who_asks(who: Principal, shown: dict[str, int]) -> None:
    turn = {"context_updates": {"slots": {"a": 1}, "variables": {}}, "actions_performed": []}
    answer = await dispatch(frame(type="reset"), FakeCaller(who), services(FakeEngine(accepted(result=turn))))
    assert answer is not None
    assert orjson.loads(answer)["result"]["context_updates"]["slots"] == shown


async def test_typing_has_no_answer_even_where_it_fails() -> None:
    typing = decode(b'{"type":"typing","conversation_id":"c1","typing":true}', CodecLimits())
    assert await dispatch(typing, FakeCaller(), services(FakeEngine(RuntimeError("x")))) is None
