"""``subscribe``: watches a conversation, by its id or by one of its executions."""

from typing import Any

from protocol.errors import ErrorCode, Refused
from protocol.frames import Subscribe
from server.delivery import frames
from server.delivery.hub import Standing
from server.handlers.reading import existing
from server.handlers.services import Caller, Services


async def handle(frame: Subscribe, caller: Caller, services: Services) -> None:
    """Send the ``ack`` and what it announces (``docs/reference/protocol.md``, rule 9), or raise Refused."""

    def reply(standing: Standing) -> bytes:
        return frames.ack(frame.id, epoch=standing.epoch, offset=standing.offset, result=_result(standing))

    if frame.execution_id is None:
        assert frame.conversation_id is not None  # the codec sees to it that it is one of the two
        await services.hub.subscribe(caller, frame.conversation_id, frame.resume, reply)
        return
    tenant_id = caller.principal.tenant_id
    place = await services.store.find_execution(tenant_id, frame.execution_id)
    if place is None:
        raise execution_not_found()
    conversation_id = place.conversation_id
    try:
        await existing(services, caller.principal, conversation_id)
        await services.hub.subscribe(caller, conversation_id, frame.resume, reply)
    except Refused as refused:
        if refused.code is ErrorCode.CONVERSATION_NOT_FOUND:
            raise execution_not_found() from None
        raise


def _result(standing: Standing) -> dict[str, Any]:
    return {
        "conversation_id": standing.conversation_id,
        "epoch": standing.epoch,
        "offset": standing.offset,
        "recovered": standing.recovered,
    }


def execution_not_found() -> Refused:
    """Return the one refusal that a missing, a deleted and a foreign execution have in common."""
    return Refused(ErrorCode.EXECUTION_NOT_FOUND, "There is no such execution.", field="execution_id")
