"""What must be true of a ``world`` once it is calm: each promise of the engine as a check of the log.

The checks read what the clients were told, what the log holds, and what the world saw of effects, and
believe none of them alone.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from protocol.errors import ErrorCode, Refused
from server.engine.types import Accepted
from server.engine.views import state_view
from storage.base import Store
from storage.models import Conversation
from tests.support.decisions import CLOSES, Request, digest_of, requests_of
from tests.support.durable_log import STATE_FIELDS, TURN_ENDS, Log
from tests.support.errand import BUY
from tests.support.world import TENANT, Ran, Sent, World


async def check_world(world: World, store: Store, conversations: Sequence[str]) -> None:
    """Hold a world that has come to rest to everything that was promised."""
    for conversation_id in conversations:
        log = await Log.read(store, TENANT, conversation_id)
        if log is None or log.record.deleted_at is not None:
            continue
        sent = [one for one in world.sent if one.conversation_id == conversation_id]
        check_log(log)
        check_commands(sent, log)
        check_publications(world, log)
        check_fold(log)
        check_requests(log)
        check_decisions(sent, log)
        check_approvals([ran for ran in world.effects if ran.name == "buy"], log)
    check_effects(world)


def check_log(log: Log) -> None:
    """Offsets are contiguous from 1 to the record's; the execution came to rest."""
    record = log.record
    assert [event.offset for event in log.events] == list(range(1, record.offset + 1))
    assert not record.inbox
    assert record.lease is None
    assert record.execution is None or record.execution.status != "running"


def check_commands(sent: Sequence[Sent], log: Log) -> None:
    """What was acknowledged is in the log once and ended once; what was refused is not there at all."""
    keys = Counter(batch.key for batch in log.batches if batch.key is not None)
    ends = Counter(event.command_id for event in log.events if event.type in TURN_ENDS)
    received = Counter(event.command_id for event in log.events if event.type == "message.received")
    assert all(count == 1 for count in keys.values()), keys
    assert all(count == 1 for count in ends.values()), ends
    assert all(count == 1 for count in received.values()), received
    for one in sent:
        key = one.command.key
        if one.accepted:
            assert keys[key] == 1, f"{key} was acknowledged and is lost"
            assert ends[key] == 1, f"{key} never ended"
            final = one.answers[-1]
            assert isinstance(final, Accepted)
            assert final.duplicate
            assert final.status in ("completed", "failed")
            assert final.result is not None
        elif keys[key]:
            assert ends[key] == 1


def check_publications(world: World, log: Log) -> None:
    """Whatever was published is what the store holds."""
    stored = {batch.first_offset: batch for batch in log.batches}
    for publication in world.published:
        batch = publication.batch
        if (
            batch is None
            or publication.record.conversation_id != log.conversation_id
            or batch.epoch != log.epoch
        ):
            continue
        assert stored[batch.first_offset].commit_id == batch.commit_id


def check_fold(log: Log) -> None:
    """Folding the events gives the state."""
    *_, folded = log.states("full")
    shown = state_view(log.record, "full")
    for name in STATE_FIELDS:
        assert shown[name] == folded[name], f"{name} is {shown[name]}, the fold says {folded[name]}"


# --- people ---------------------------------------------------------------------------------------


def check_requests(log: Log) -> None:
    """A request ends once, decided or not; before that it was shown, after that it is not shown any more."""
    still = _open(log.record)
    for pending_id, request in requests_of(log).items():
        assert request.shown, f"{pending_id} was closed and never asked"
        assert len(request.closed) == (pending_id not in still), f"{pending_id}: {request.closed}"
        for closed in request.closed:
            assert request.shown[-1].offset < closed.offset
            assert (closed.type == "pending.resolved") == (closed.data["decided"]["by"] is not None)


def _open(record: Conversation) -> set[str]:
    known = record.execution.pending if record.execution is not None else ()
    return {p.pending_id for p in known if p.kind != "input" and p.decided is None}


def check_decisions(sent: Sequence[Sent], log: Log) -> None:
    """A decision that was accepted is the one in the log; who lost was told what is in the log."""
    requests = requests_of(log)
    for one in sent:
        if one.command.type not in ("acceptance", "clarification"):
            continue
        request = requests.get(one.command.body["pending_id"])
        if one.accepted:
            assert request is not None
            _check_counted(one, request)
        for answer in one.answers:
            if isinstance(answer, Refused):
                _check_told(one, answer, request)
    senders = {one.command.key: one for one in sent}
    for request in requests.values():
        for closed in request.closed:
            if closed.type == "pending.resolved":  # nobody decides unasked
                one = senders[str(closed.command_id)]
                assert closed.data["decided"]["by"] == one.who.user_id


def _check_counted(one: Sent, request: Request) -> None:
    """Accepted: it closed the request, as was said, or is a vote in it; and nothing else did."""
    body, key = one.command.body, one.command.key
    closed = [event for event in request.closed if event.command_id == key]
    counted = [event for event in request.shown if event.command_id == key]
    assert len(closed) + len(counted) == 1, f"{key} decided nothing, or twice"
    if closed:
        decided = closed[0].data["decided"]
        assert decided["by"] == one.who.user_id
        if "answers" in body:
            assert decided["answers"] == body["answers"]
        else:
            assert decided["accepted"] == body["accepted"]
            assert decided["edits"] == body["edits"]
    else:
        assert counted[0].data["votes"][-1]["by"] == one.who.user_id
        assert body["accepted"]


def _check_told(one: Sent, answer: Refused, request: Request | None) -> None:
    """Refused because it was decided, or too late: exactly that stands in the log."""
    details = answer.details or {}
    if answer.code is ErrorCode.PENDING_RESOLVED:
        assert request is not None
        if "vote" in details:
            votes = [vote for shown in request.shown for vote in shown.data["votes"]]
            assert details["vote"] in votes
            assert details["vote"]["by"] == one.who.user_id
        else:
            assert request.closed[0].type == "pending.resolved"
            assert details["decided"] == request.decided
    elif answer.code is ErrorCode.PENDING_EXPIRED:
        assert request is not None
        assert request.closed, f"{one.command.key} was told that {one.command.body} is over, and it is not"
        assert request.closed[0].type == "pending.expired", f"{one.command.key} was told another outcome"
        assert details["decided"] == request.decided


def check_approvals(bought: Sequence[Ran], log: Log) -> None:
    """What was bought was accepted before, once for each time, and is what was accepted, to the byte."""
    approved = dict(_approvals(log))
    for ran in bought:
        execution_id, _, step_id, visit = ran.key.split(":")
        if any(event.execution_id == execution_id for event in log.events):
            digest = approved.get((execution_id, step_id, int(visit)))
            assert digest is not None, f"{ran.key} ran without an approval"
            assert digest == digest_of(BUY, ran.arguments), f"{ran.key} ran otherwise than it was approved"


def _approvals(log: Log) -> Iterator[tuple[tuple[str | None, str | None, int], str]]:
    """Yield the digest that was approved for each visit of the write; an approval is good for one visit."""
    digests: dict[str | None, str] = {}
    for event in log.events:
        if event.type in CLOSES and event.data["kind"] == "acceptance" and event.data["decided"]["accepted"]:
            digests[event.execution_id] = event.data["decided"]["digest"]
        elif event.type == "step.started" and event.step_id == "buy":
            digest = digests.pop(event.execution_id, None)
            if digest is not None:
                yield (event.execution_id, event.step_id, event.data["visit"]), digest


def check_effects(world: World) -> None:
    """A ``write`` is never run twice: its ``on_unknown`` does not allow it."""
    writes = Counter(ran.key for ran in world.effects if ran.name == "buy")
    assert all(count == 1 for count in writes.values()), writes
