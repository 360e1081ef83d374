"""The sans-I/O session: its rules one by one, and all of them together under a network that misbehaves."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_client import IdempotencyConflict, OutboxFull
from parley_client._outputs import (
    Accepted,
    Answer,
    Close,
    Complaint,
    Delta,
    Detached,
    Dispatch,
    NeedToken,
    Offline,
    Online,
    Output,
    Refusal,
    Replace,
    Retry,
    Send,
    Settled,
    Typing,
    Watching,
)
from parley_client._session import MAX_STREAMS, MAX_TRIES, Session

CHAT = "c1"
NOW = 1_000_000
Frame = dict[str, Any]


def process(key: str, chat: str = CHAT, **more: Any) -> Frame:
    content = {"type": "text", "text": key}
    return {"type": "process", "conversation_id": chat, "idempotency_key": key, "content": content, **more}


def welcome(frame_id: str, **more: Any) -> Frame:
    limits = {"max_frame_bytes": 65536, "frames_per_second": 100_000}
    plain = {"type": "welcome", "id": frame_id, "conversation_id": None, "epoch": None, "offset": 0}
    return {**plain, "recovered": True, "ping_interval": 25, "limits": limits, **more}


def ack(frame_id: str, **more: Any) -> Frame:
    plain = {"type": "ack", "id": frame_id, "duplicate": False, "command_id": None, "status": "running"}
    return {**plain, "execution_id": None, "epoch": "e1", "offset": 0, "result": None, **more}


def error(frame_id: str | None, code: str, **more: Any) -> Frame:
    return {
        "type": "error",
        "id": frame_id,
        "error": {"code": code, "message": "no", "temporary": False, **more},
    }


def events(first: int, last: int, *found: Frame, epoch: str = "e1", chat: str = CHAT) -> Frame:
    head = {"type": "events", "conversation_id": chat, "epoch": epoch, "from": first, "to": last}
    return {**head, "events": list(found)}


def event(offset: int, kind: str = "flow.custom", key: str | None = None, **data: Any) -> Frame:
    return {"type": kind, "offset": offset, "command_id": key, "data": data}


def snapshot(epoch: str | None, offset: int, **more: Any) -> Frame:
    head = {"type": "snapshot", "conversation_id": CHAT, "epoch": epoch, "offset": offset}
    state = None if epoch is None else {"status": "idle"}
    return {**head, "state": state, "messages": [], "before": None, "pending": [], "partials": [], **more}


class Talk:
    """A session with its outputs collected; ``sent`` are the frames that left, newest last."""

    def __init__(self, **options: Any) -> None:
        self.session = Session(**options)
        self.now = NOW
        self.sent: list[Frame] = []
        self.out: list[Output] = []

    def do(self, outputs: list[Output]) -> list[Output]:
        self.out += outputs
        self.sent += [json.loads(output.text) for output in outputs if isinstance(output, Send)]
        return [output for output in outputs if not isinstance(output, Send)]

    def open(self, **more: Any) -> None:
        self.do(self.session.opened("token", self.now))
        self.do(self.session.receive(json.dumps(welcome(self.sent[-1]["id"], **more)), self.now))

    def live(self, offset: int = 5) -> "Talk":
        """Watch ``c1``, at this offset of epoch e1."""
        self.do(self.session.watch(CHAT, self.now, resume=("e1", offset)))
        self.open(conversation_id=CHAT, epoch="e1", offset=offset)
        assert self.session.live(CHAT)
        return self

    def receive(self, frame: Frame) -> list[Output]:
        return self.do(self.session.receive(json.dumps(frame), self.now))

    def submit(self, frame: Frame) -> list[Output]:
        return self.do(self.session.submit(frame, self.now))

    def pass_(self, ms: int) -> list[Output]:
        self.now += ms
        return self.do(self.session.tick(self.now))

    def close(self, code: int = 1006) -> Offline:
        outputs = self.do(self.session.closed(code, "", self.now))
        return next(output for output in outputs if isinstance(output, Offline))

    def kinds(self, since: int = 0) -> list[str]:
        return [frame["type"] for frame in self.sent[since:]]


# --- the cursor ------------------------------------------------------------------------------------


def test_three_resumes_that_move_nothing_ask_for_a_snapshot_and_three_more_give_up() -> None:
    talk = Talk().live()
    asked = []
    for _ in range(6):
        talk.receive(events(9, 9))
        asked.append(talk.sent[-1].get("resume"))
        talk.receive(ack(talk.sent[-1]["id"], result={"recovered": True}))
    assert asked == [{"epoch": "e1", "offset": 5}] * 3 + [None] * 3
    (close,) = talk.receive(events(9, 9))
    assert isinstance(close, Close)
    assert talk.close(close.code).reconnect


def test_what_moves_the_cursor_ends_the_count_of_resumes() -> None:
    talk = Talk().live()
    for offset in range(6, 30):
        talk.receive(events(offset + 3, offset + 3))
        talk.receive(ack(talk.sent[-1]["id"], result={"recovered": True}))
        assert talk.receive(events(offset, offset)) == [Dispatch(CHAT, "e1", offset, [])]
    assert all("resume" in frame for frame in talk.sent if frame["type"] == "subscribe")


def test_nothing_counts_between_an_unrecovered_ack_and_its_snapshot() -> None:
    talk = Talk().live()
    talk.receive(events(9, 9))
    talk.receive(ack(talk.sent[-1]["id"], result={"recovered": False}))
    assert talk.receive(events(6, 6, event(6))) == []
    assert talk.session.cursor(CHAT) == ("e1", 5)
    assert isinstance(talk.receive(snapshot("e1", 9))[0], Replace)
    assert isinstance(talk.receive(events(10, 10, event(10)))[0], Dispatch)


@pytest.mark.parametrize("answered", [False, True])
def test_an_answer_or_a_snapshot_that_does_not_come_is_asked_for_again(answered: bool) -> None:
    talk = Talk().live()
    talk.receive(events(9, 9))
    if answered:
        talk.receive(ack(talk.sent[-1]["id"], result={"recovered": False}))
    talk.receive({"type": "ping", "offsets": {CHAT: 9}})
    assert talk.kinds()[-1] == "pong"
    talk.receive({"type": "ping", "offsets": {CHAT: 9}})
    assert talk.kinds()[-2:] == ["pong", "subscribe"]


def test_the_answer_to_an_older_subscription_is_ignored() -> None:
    talk = Talk().live()
    talk.receive(events(9, 9))
    older = talk.sent[-1]["id"]
    for _ in range(2):
        talk.receive({"type": "ping", "offsets": {CHAT: 9}})
    assert talk.receive(ack(older, result={"recovered": True})) == []
    assert talk.receive(ack(talk.sent[-1]["id"], result={"recovered": True})) == [Watching(CHAT, True)]


def test_a_subscription_is_retried_after_a_temporary_error_and_given_up_after_some() -> None:
    talk = Talk()
    talk.open()
    talk.do(talk.session.watch(CHAT, talk.now))
    for _ in range(MAX_TRIES):
        assert talk.receive(error(talk.sent[-1]["id"], "store_unavailable", temporary=True)) == []
        talk.pass_(8_000)
    outputs = talk.receive(error(talk.sent[-1]["id"], "store_unavailable", temporary=True))
    assert [type(output) for output in outputs] == [Detached]
    assert talk.kinds().count("subscribe") == MAX_TRIES + 1


def test_a_subscription_outlasts_an_outage_whose_end_the_server_does_not_know() -> None:
    talk = Talk()
    talk.open()
    talk.do(talk.session.watch(CHAT, talk.now))
    away = {"temporary": True, "retry_after_ms": 1_000}
    for _ in range(5 * MAX_TRIES):
        asked = talk.kinds().count("subscribe")
        assert talk.receive(error(talk.sent[-1]["id"], "store_unavailable", **away)) == []
        talk.pass_(999)
        assert talk.kinds().count("subscribe") == asked
        talk.pass_(1)
        assert talk.kinds().count("subscribe") == asked + 1
    assert talk.receive(ack(talk.sent[-1]["id"], result={"recovered": True})) == [Watching(CHAT, True)]


def test_unwatching_ends_the_subscription_and_the_events() -> None:
    talk = Talk().live()
    talk.do(talk.session.unwatch(CHAT, talk.now))
    assert talk.kinds()[-1] == "unsubscribe"
    assert talk.receive(events(6, 6, event(6))) == []


def test_unwatching_before_welcome_is_told_behind_it() -> None:
    talk = Talk()
    talk.do(talk.session.watch(CHAT, talk.now))
    talk.do(talk.session.opened("token", talk.now))
    talk.do(talk.session.unwatch(CHAT, talk.now))
    talk.receive(welcome(talk.sent[-1]["id"], conversation_id=CHAT))
    assert talk.kinds() == ["hello", "unsubscribe"]


def test_watching_anew_before_welcome_keeps_the_subscription() -> None:
    talk = Talk()
    talk.do(talk.session.watch(CHAT, talk.now))
    talk.do(talk.session.opened("token", talk.now))
    talk.do(talk.session.unwatch(CHAT, talk.now))
    talk.do(talk.session.watch(CHAT, talk.now))
    talk.receive(welcome(talk.sent[-1]["id"], conversation_id=CHAT))
    assert talk.kinds() == ["hello"]
    assert talk.session.live(CHAT)


def test_losing_a_scope_ends_the_subscription_and_those_who_wait_for_its_events() -> None:
    talk = Talk().live()
    talk.submit(process("key-1"))
    talk.receive(ack(talk.sent[-1]["id"]))
    talk.submit(process("key-2"))
    outputs = talk.receive({"type": "unsubscribed", "conversation_id": CHAT, "code": "permission_denied"})
    assert [type(output) for output in outputs] == [Detached, Refusal]
    assert talk.session.cursor(CHAT) == ("e1", 5)
    assert talk.receive(error(talk.sent[-1]["id"], "permission_denied"))[0] == Refusal(
        CHAT, "key-2", error(None, "permission_denied")["error"]
    )


def test_every_watched_conversation_is_resumed_on_a_new_connection() -> None:
    talk = Talk().live()
    talk.do(talk.session.watch("c2", talk.now, resume=("e2", 7)))
    talk.close()
    mark = len(talk.sent)
    talk.open(conversation_id=CHAT, epoch="e1", offset=5)
    hello, subscribe = talk.sent[mark:]
    assert (hello["conversation_id"], hello["resume"]) == (CHAT, {"epoch": "e1", "offset": 5})
    assert (subscribe["conversation_id"], subscribe["resume"]) == ("c2", {"epoch": "e2", "offset": 7})


# --- commands --------------------------------------------------------------------------------------


def test_a_command_waits_for_the_subscription_so_that_it_sees_its_events() -> None:
    talk = Talk()
    talk.open()
    talk.do(talk.session.watch(CHAT, talk.now))
    talk.submit(process("key-1"))
    assert talk.kinds() == ["hello", "subscribe"]
    talk.receive(ack(talk.sent[-1]["id"], result={"recovered": True}))
    assert talk.kinds() == ["hello", "subscribe", "process"]


def test_a_command_whose_turn_a_snapshot_may_have_skipped_is_asked_for_behind_its_ack() -> None:
    talk = Talk().live()
    talk.submit(process("key-1"))
    first = talk.sent[-1]
    talk.receive(snapshot("e1", 20))
    assert [type(output) for output in talk.receive(ack(first["id"], status="completed"))] == [Accepted]
    again = talk.sent[-1]
    assert again["idempotency_key"] == "key-1"
    assert again["id"] != first["id"]
    outputs = talk.receive(ack(again["id"], status="completed", duplicate=True, result={"success": True}))
    assert isinstance(outputs[-1], Settled)


def test_what_is_open_is_asked_for_in_order_before_what_is_new() -> None:
    talk = Talk().live()
    for key in ("key-1", "key-2"):
        talk.submit(process(key))
        talk.receive(ack(talk.sent[-1]["id"]))
    mark = len(talk.sent)
    talk.receive(snapshot("e1", 20))
    talk.submit(process("key-3"))
    while len(asked := talk.sent[mark:]) < 3:
        talk.receive(ack(asked[-1]["id"], duplicate=True))
    assert [frame["idempotency_key"] for frame in asked] == ["key-1", "key-2", "key-3"]


def test_a_ping_that_does_not_name_the_conversation_makes_one_ask_for_what_is_open() -> None:
    talk = Talk().live()
    talk.submit(process("key-1"))
    talk.receive(ack(talk.sent[-1]["id"]))
    talk.receive({"type": "ping", "offsets": {CHAT: 5}})
    assert talk.kinds()[-1] == "pong"
    talk.receive({"type": "ping", "offsets": {}})
    assert talk.kinds()[-2:] == ["pong", "process"]


def test_a_command_that_nobody_waits_for_is_sent_and_forgotten() -> None:
    talk = Talk(outbox_limit=1).live()
    talk.submit(process("key-1"))
    talk.session.abandon(CHAT, "key-1")
    with pytest.raises(OutboxFull):
        talk.submit(process("key-2"))
    talk.receive(ack(talk.sent[-1]["id"]))
    talk.receive(snapshot("e1", 20))
    assert talk.kinds().count("process") == 1
    talk.submit(process("key-2"))
    assert talk.sent[-1]["idempotency_key"] == "key-2"


def test_what_was_accepted_and_nobody_waits_for_any_more_is_not_asked_for() -> None:
    talk = Talk().live()
    talk.submit(process("key-1"))
    talk.receive(ack(talk.sent[-1]["id"]))
    talk.session.abandon(CHAT, "key-1")
    talk.receive(snapshot("e1", 20))
    assert talk.kinds().count("process") == 1
    assert talk.receive(events(21, 21, event(21, "turn.completed", "key-1"))) != []
    assert not any(isinstance(output, Settled) for output in talk.out)


def test_the_outbox_counts_over_all_conversations_and_only_what_is_unacknowledged() -> None:
    talk = Talk(outbox_limit=2)
    talk.open()
    talk.submit(process("key-1", "a"))
    talk.submit(process("key-2", "b"))
    with pytest.raises(OutboxFull):
        talk.submit(process("key-3", "c"))
    talk.receive(ack(talk.sent[-1]["id"]))
    talk.submit(process("key-3", "c"))
    assert talk.session.unacknowledged == 2


def test_one_key_means_one_command() -> None:
    talk = Talk().live()
    talk.submit(process("key-1"))
    talk.submit(process("key-1"))
    with pytest.raises(IdempotencyConflict):
        talk.submit(process("key-1", flow_id="other"))
    assert talk.kinds().count("process") == 1
    assert talk.session.unacknowledged == 1


def test_busy_is_final_only_for_who_asked_for_it() -> None:
    talk = Talk().live()
    talk.submit(process("key-1", on_busy="reject"))
    outputs = talk.receive(error(talk.sent[-1]["id"], "conversation_busy", temporary=True))
    assert [type(output) for output in outputs] == [Refusal]
    talk.submit(process("key-2"))
    outputs = talk.receive(error(talk.sent[-1]["id"], "conversation_busy", temporary=True))
    assert outputs == [Retry(CHAT, "key-2", 250, error(None, "conversation_busy", temporary=True)["error"])]


def test_retries_wait_longer_each_time_and_end() -> None:
    talk = Talk().live()
    talk.submit(process("key-1"))
    waits = []
    for _ in range(MAX_TRIES):
        (retry,) = talk.receive(error(talk.sent[-1]["id"], "overloaded", temporary=True))
        assert isinstance(retry, Retry)
        waits.append(retry.after_ms)
        talk.pass_(retry.after_ms - 1)
        count = len(talk.sent)
        talk.pass_(1)
        assert len(talk.sent) == count + 1
        talk.now += 1
    assert waits == [250, 500, 1000, 2000, 4000, 8000]
    assert isinstance(talk.receive(error(talk.sent[-1]["id"], "overloaded", temporary=True))[0], Refusal)


def test_a_server_that_asks_for_more_than_thirty_seconds_is_believed_and_the_caller_told() -> None:
    talk = Talk().live()
    talk.submit(process("key-1"))
    limit = error(talk.sent[-1]["id"], "rate_limited", temporary=True, retry_after_ms=40_000)
    (refusal,) = talk.receive(limit)
    assert isinstance(refusal, Refusal)
    assert refusal.error["retry_after_ms"] == 40_000


def test_a_command_that_waits_for_its_retry_goes_out_at_once_on_a_new_connection() -> None:
    talk = Talk().live()
    talk.submit(process("key-1"))
    talk.receive(error(talk.sent[-1]["id"], "store_unavailable", temporary=True, retry_after_ms=9_000))
    talk.close()
    talk.open(conversation_id=CHAT, epoch="e1", offset=5)
    assert talk.kinds()[-1] == "process"
    count = len(talk.sent)
    talk.pass_(9_000)
    assert len(talk.sent) == count


def test_a_frame_that_the_server_would_not_take_does_not_leave() -> None:
    talk = Talk().live()
    (refusal,) = talk.submit(process("key-1", metadata="ä" * 40_000))
    assert isinstance(refusal, Refusal)
    assert refusal.error["code"] == "payload_too_large"
    assert talk.session.unacknowledged == 0
    talk.submit(process("key-2"))
    assert talk.sent[-1]["idempotency_key"] == "key-2"


def test_an_expired_token_in_an_answer_asks_for_a_fresh_one_and_tries_again() -> None:
    talk = Talk().live()
    talk.submit(process("key-1"))
    outputs = talk.receive(error(talk.sent[-1]["id"], "token_expired"))
    assert [type(output) for output in outputs] == [NeedToken, Retry]
    talk.do(talk.session.token("fresh", talk.now))
    assert talk.sent[-1]["type"] == "auth"
    talk.pass_(250)
    assert talk.sent[-1]["idempotency_key"] == "key-1"


# --- requests, streams, notices --------------------------------------------------------------------


def test_requests_are_answered_by_number_and_asked_again_after_a_break() -> None:
    talk = Talk()
    number, outputs = talk.session.request({"type": "state", "conversation_id": CHAT}, talk.now)
    talk.do(outputs)
    talk.open()
    talk.close()
    talk.open()
    assert talk.kinds() == ["hello", "state", "hello", "state"]
    assert talk.receive(ack(talk.sent[-1]["id"], result={"a": 1})) == [Answer(number, {"a": 1}, None)]


def test_a_withdrawn_request_is_not_asked_again() -> None:
    talk = Talk()
    number, outputs = talk.session.request({"type": "state", "conversation_id": CHAT}, talk.now)
    talk.do(outputs)
    talk.session.withdraw(number)
    talk.open()
    assert talk.kinds() == ["hello"]


def test_requests_are_bounded() -> None:
    session = Session(outbox_limit=1)
    session.request({"type": "state", "conversation_id": CHAT}, NOW)
    with pytest.raises(OutboxFull):
        session.request({"type": "state", "conversation_id": CHAT}, NOW)


def test_a_request_is_retried_while_its_error_is_temporary() -> None:
    talk = Talk()
    talk.open()
    number, outputs = talk.session.request({"type": "state", "conversation_id": CHAT}, talk.now)
    talk.do(outputs)
    assert talk.receive(error(talk.sent[-1]["id"], "overloaded", temporary=True, retry_after_ms=10)) == []
    talk.pass_(10)
    final = error(talk.sent[-1]["id"], "conversation_not_found")
    assert talk.receive(final) == [Answer(number, None, final["error"])]
    assert talk.kinds().count("state") == 2


def test_a_retry_that_was_due_on_the_old_connection_is_not_asked_twice_on_the_new_one() -> None:
    talk = Talk()
    talk.open()
    _, outputs = talk.session.request({"type": "state", "conversation_id": CHAT}, talk.now)
    talk.do(outputs)
    talk.receive(error(talk.sent[-1]["id"], "overloaded", temporary=True, retry_after_ms=10))
    talk.close()
    talk.open()
    talk.pass_(10)
    assert talk.kinds() == ["hello", "state", "hello", "state"]


def test_unfinished_streams_are_bounded_the_oldest_goes_first() -> None:
    talk = Talk().live()
    delta = {"type": "message.delta", "conversation_id": CHAT, "execution_id": "x1", "delta": "a"}
    for number in range(MAX_STREAMS + 1):
        assert isinstance(talk.receive({**delta, "message_id": f"m{number}", "index": 0})[0], Delta)
    assert len(talk.session.partials(CHAT)) == MAX_STREAMS
    assert talk.receive({**delta, "message_id": "m0", "index": 1}) == []
    assert talk.session.partials(CHAT)["m1"] == "a"


def test_partials_go_on_over_a_break_when_nothing_was_missed() -> None:
    talk = Talk().live()
    delta = {"type": "message.delta", "conversation_id": CHAT, "execution_id": "x1", "message_id": "m1"}
    talk.receive({**delta, "index": 0, "delta": "a"})
    talk.close()
    talk.open(conversation_id=CHAT, epoch="e1", offset=5)
    assert isinstance(talk.receive({**delta, "index": 1, "delta": "b"})[0], Delta)
    assert talk.session.partials(CHAT) == {"m1": "ab"}


def test_typing_leaves_only_when_online_and_comes_only_from_what_is_watched() -> None:
    talk = Talk()
    talk.do(talk.session.typing(CHAT, True, talk.now))
    assert talk.sent == []
    talk.live()
    talk.do(talk.session.typing(CHAT, True, talk.now))
    assert talk.sent[-1] == {"type": "typing", "conversation_id": CHAT, "typing": True}
    notice = {"type": "typing", "conversation_id": CHAT, "user_id": "agent", "typing": True}
    assert talk.receive(notice) == [Typing(CHAT, notice)]
    assert talk.receive({**notice, "conversation_id": "c2"}) == []


# --- the connection --------------------------------------------------------------------------------


def test_nothing_leaves_behind_disconnect_and_the_socket_is_given_up_after_five_seconds() -> None:
    talk = Talk().live()
    notice = {"type": "disconnect", "code": 4001, "reason": "shutdown", "reconnect": True}
    talk.receive({**notice, "reconnect_within_ms": 15000})
    count = len(talk.sent)
    talk.submit(process("key-1"))
    assert len(talk.sent) == count
    assert talk.session.wakeup_ms() == talk.now + 5_000
    assert [type(output) for output in talk.pass_(5_000)] == [Close]
    offline = talk.close()
    assert offline.reconnect
    assert offline.within_ms == 15_000


def test_a_close_that_was_announced_but_cut_off_is_the_one_announced() -> None:
    talk = Talk().live()
    talk.receive({"type": "disconnect", "code": 4503, "reason": "tenant", "reconnect": False})
    offline = talk.close(1006)
    assert (offline.code, offline.reason, offline.reconnect) == (4503, "tenant", False)


def test_pings_do_not_put_off_the_welcome() -> None:
    talk = Talk()
    talk.do(talk.session.opened("token", talk.now))
    for _ in range(3):
        talk.now += 3_000
        talk.receive({"type": "ping", "offsets": {}})
    assert talk.session.wakeup_ms() == NOW + 10_000
    assert [type(output) for output in talk.pass_(1_000)] == [Close]


def test_the_ping_interval_of_welcome_counts() -> None:
    talk = Talk()
    talk.open(ping_interval=5)
    assert talk.pass_(14_999) == []
    assert [type(output) for output in talk.pass_(1)] == [Close]
    assert talk.receive({"type": "ping", "offsets": {}}) == []


def test_a_long_rest_does_not_save_up_more_than_the_burst() -> None:
    talk = Talk()
    talk.open(limits={"max_frame_bytes": 65536, "frames_per_second": 10})
    for _ in range(10):
        talk.now += 20_000
        talk.receive({"type": "ping", "offsets": {}})
    for number in range(30):
        talk.submit(process(f"key-{number}", f"c{number}"))
    assert talk.kinds().count("process") == 15
    assert talk.session.wakeup_ms() is not None
    talk.pass_(1_000)
    assert talk.kinds().count("process") == 25


def test_progress_is_what_was_acknowledged_or_dispatched() -> None:
    talk = Talk().live()
    assert not talk.close().progress
    talk.open(conversation_id=CHAT, epoch="e1", offset=5)
    talk.receive(events(6, 6))
    assert talk.close().progress


def test_errors_that_belong_to_nothing_are_handed_on() -> None:
    talk = Talk().live()
    assert [type(output) for output in talk.receive(error(None, "invalid_frame"))] == [Complaint]
    talk.do(talk.session.token("bad", talk.now))
    assert [type(output) for output in talk.receive(error(talk.sent[-1]["id"], "unauthorized"))] == [
        Complaint
    ]


def test_frame_ids_are_never_used_twice() -> None:
    talk = Talk().live()
    for number in range(5):
        talk.submit(process(f"key-{number}"))
        talk.receive(ack(talk.sent[-1]["id"]))
        talk.close()
        talk.open(conversation_id=CHAT, epoch="e1", offset=5)
    ids = [frame["id"] for frame in talk.sent if "id" in frame]
    assert len(ids) == len(set(ids))


# --- everything at once ----------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["c1", "e1", "1", "2", "k", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "offset"]), inner),
    max_leaves=4,
)
fields = st.sampled_from(
    [
        "id",
        "conversation_id",
        "epoch",
        "offset",
        "from",
        "to",
        "events",
        "recovered",
        "result",
        "error",
        "ping_interval",
        "limits",
        "offsets",
        "code",
        "reason",
        "message_id",
        "index",
        "delta",
        "partials",
        "messages",
        "state",
        "status",
        "duplicate",
        "typing",
        "expires_in",
    ]
)
types = st.sampled_from(
    [
        "welcome",
        "ack",
        "error",
        "events",
        "message.delta",
        "snapshot",
        "unsubscribed",
        "ping",
        "auth.required",
        "typing",
        "disconnect",
        "other",
    ]
)


@given(st.lists(st.tuples(types, st.dictionaries(fields, json_values, max_size=6)), max_size=8))
@settings(max_examples=400)
def test_whatever_a_server_says_is_taken_or_ends_the_connection(frames: list[tuple[str, Frame]]) -> None:
    talk = Talk().live()
    talk.submit(process("key-1"))
    for kind, frame in frames:
        outputs = talk.receive({**frame, "type": kind})
        if any(isinstance(output, Close) for output in outputs):
            talk.close()
            talk.open(conversation_id=CHAT, epoch="e1", offset=5)
        talk.pass_(100)


@given(st.text(max_size=20) | st.binary(max_size=20))
def test_whatever_is_no_frame_ends_the_connection(text: str | bytes) -> None:
    talk = Talk().live()
    outputs = talk.do(talk.session.receive(text, talk.now))
    assert [type(output) for output in outputs] == [Close]


class World:
    """A server that keeps a log, a wire that may fail, and a reader who must not notice.

    What leaves the server lies in ``wire`` until the test delivers it; the test may drop, double and swap
    ``events`` frames there (a broken bus behind the server), cut the connection, and let commands fail.
    """

    def __init__(self, replayable: int, telling: bool) -> None:
        self.talk = Talk()
        self.replayable = replayable
        self.telling = telling
        self.log: list[Frame] = []
        self.visible: set[int] = set()
        self.processed: list[str] = []
        self.outcomes: dict[str, Frame] = {}
        self.refuse_next = 0
        self.wire: list[Frame] = []
        self.answered: set[str] = set()
        self.connected = False
        self.watched = False
        # what the reader saw
        self.position = 0
        self.settled: dict[str, int] = {}
        self.asked: list[str] = []
        self.do(self.talk.session.watch(CHAT, self.talk.now))

    # what the server does

    def commit(self, size: int, hidden: bool, key: str | None = None) -> None:
        first = len(self.log) + 1
        for number in range(size):
            offset = len(self.log) + 1
            last = key is not None and number == size - 1
            self.log.append(event(offset, "turn.completed" if last else "flow.custom", key, success=True))
            if last or not hidden:
                self.visible.add(offset)
        if self.watched:
            self.wire.append(self._events(first, len(self.log)))

    def _events(self, first: int, last: int) -> Frame:
        found = [each for each in self.log[first - 1 : last] if each["offset"] in self.visible]
        return events(first, last, *found)

    def serve(self, frame: Frame) -> None:
        match frame["type"]:
            case "hello":
                recovered, follow = self._attach(frame)
                offset = len(self.log)
                head = welcome(frame["id"], conversation_id=CHAT, epoch="e1" if offset else None)
                self.wire += [{**head, "offset": offset, "recovered": recovered}, *follow]
            case "subscribe":
                recovered, follow = self._attach(frame)
                result = {"conversation_id": CHAT, "recovered": recovered}
                self.wire += [ack(frame["id"], status="completed", result=result), *follow]
            case "process":
                self._process(frame)
            case "pong":
                pass
            case other:
                raise AssertionError(other)

    def _attach(self, frame: Frame) -> tuple[bool, list[Frame]]:
        self.watched = True
        resume, end = frame.get("resume"), len(self.log)
        if not end:
            return (True, []) if resume is None else (False, [snapshot(None, 0)])
        if resume is None or resume["epoch"] != "e1" or end - resume["offset"] > self.replayable:
            return False, [snapshot("e1", end)]
        first = resume["offset"] + 1
        return True, [self._events(first, end)] if first <= end else []

    def _process(self, frame: Frame) -> None:
        key = frame["idempotency_key"]
        if self.refuse_next:
            self.refuse_next -= 1
            self.wire.append(error(frame["id"], "overloaded", temporary=True, retry_after_ms=5))
            return
        duplicate = key in self.outcomes
        if not duplicate:
            self.processed.append(key)
            self.outcomes[key] = {"success": True}
            self.commit(2, hidden=False, key=key)
        result = {"result": self.outcomes[key], "status": "completed"} if duplicate or self.telling else {}
        self.wire.append(ack(frame["id"], duplicate=duplicate, offset=len(self.log), **result))

    # what happens to the client

    def do(self, outputs: list[Output]) -> None:
        queue = list(outputs)
        while queue:
            output = queue.pop(0)
            match output:
                case Send():
                    self.serve(json.loads(output.text))
                case Dispatch():
                    self._saw(output)
                case Replace():
                    self.position = output.snapshot["offset"]
                case Settled():
                    self.settled[output.key] = self.settled.get(output.key, 0) + 1
                case Close():
                    self.cut()
                case Offline():
                    assert output.reconnect
                case Refusal() | Detached() | Complaint():
                    raise AssertionError(output)
                case (
                    Online() | Watching() | Accepted() | Retry() | Delta() | Typing() | NeedToken() | Answer()
                ):
                    pass

    def _saw(self, output: Dispatch) -> None:
        """What is handed out is all that is visible between where the reader stood and stands now."""
        expected = [offset for offset in range(self.position + 1, output.to + 1) if offset in self.visible]
        assert [each["offset"] for each in output.events] == expected
        self.position = output.to

    def connect(self) -> None:
        self.connected = True
        self.do(self.talk.session.opened("token", self.talk.now))

    def cut(self) -> None:
        if self.connected:
            self.connected = self.watched = False
            self.wire.clear()
            self.do(self.talk.session.closed(1006, "", self.talk.now))

    def say(self) -> None:
        key = f"key-{len(self.asked)}"
        self.asked.append(key)
        self.do(self.talk.session.submit(process(key), self.talk.now))

    def deliver(self) -> None:
        if self.wire:
            self.do(self.talk.session.receive(json.dumps(self.wire.pop(0)), self.talk.now))

    def ping(self) -> None:
        offsets = {CHAT: len(self.log)} if self.watched and self.log else {}
        self.wire.append({"type": "ping", "offsets": offsets})

    def spoil(self, how: str, where: int) -> None:
        """Do something to an ``events`` frame on the wire that the protocol promises to heal."""
        places = [number for number, frame in enumerate(self.wire) if frame["type"] == "events"]
        if not places:
            return
        place = places[where % len(places)]
        match how:
            case "drop":
                del self.wire[place]
            case "double":
                self.wire.insert(place, self.wire[place])
            case "swap" if place + 1 in places:
                self.wire[place : place + 2] = reversed(self.wire[place : place + 2])
            case "stretch":  # an overlap, as when a commit is entered in its middle
                frame = self.wire[place]
                self.wire[place] = self._events(max(1, frame["from"] - 2), frame["to"])

    def wait(self, ms: int) -> None:
        self.talk.now += ms
        self.do(self.talk.session.tick(self.talk.now))

    def settle(self) -> None:
        """The network is whole again: let everything come to its end."""
        self.refuse_next = 0
        for _ in range(60):
            if not self.connected:
                self.connect()
            while self.wire:
                self.deliver()
            self.wait(10)
            self.ping()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 4), st.booleans()),
        st.tuples(st.just("say")),
        st.tuples(st.just("deliver")),
        st.tuples(st.just("deliver")),
        st.tuples(st.just("ping")),
        st.tuples(
            st.just("spoil"), st.sampled_from(["drop", "double", "swap", "stretch"]), st.integers(0, 5)
        ),
        st.tuples(st.just("cut")),
        st.tuples(st.just("connect")),
        st.tuples(st.just("refuse"), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.integers(1, 40)),
    ),
    max_size=80,
)


@given(steps, st.sampled_from([0, 3, 1000]), st.booleans())
@settings(max_examples=500)
def test_every_event_is_seen_once_in_order_and_every_command_takes_effect_once(
    script: list[tuple[Any, ...]], replayable: int, telling: bool
) -> None:
    world = World(replayable, telling)
    for name, *arguments in script:
        if name == "connect":
            if not world.connected:
                world.connect()
        elif name == "refuse":
            world.refuse_next = arguments[0]
        else:
            getattr(world, name)(*arguments)
    world.settle()
    assert world.position == len(world.log)
    assert world.talk.session.cursor(CHAT) == ("e1" if world.log else None, len(world.log))
    assert world.processed == world.asked
    assert world.settled == dict.fromkeys(world.asked, 1)
    assert world.talk.session.unacknowledged == 0
