"""Executions that are over: folded from the log once, and remembered for a while by all instances.

What is current is always read freshly. An execution that another has followed changes no more, so what
was folded of it stays right as long as its conversation lives; who may see it is decided on the fresh
record each time.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from server.delivery.executions import former_execution
from server.handlers.services import Services
from storage.codec import encode_json, execution_from_json, execution_to_json
from storage.models import ENDED, Conversation, Execution

TTL_MS: Final = 300_000
KEPT: Final = 20
"""So many executions of a conversation are remembered, under the one key that its deletion deletes."""
_VERSION: Final = 1


async def past_execution(
    services: Services, record: Conversation, execution_id: str, *, after: int
) -> Execution | None:
    """Return an execution that is not the current one of ``record``, as ``former_execution`` does.

    ``after`` is right before its first event.
    """
    key = _key(record.tenant_id, record.conversation_id)
    known = _read(await services.cache.get(key), record.epoch)
    if execution_id in known:
        try:
            return execution_from_json(known[execution_id])
        except (KeyError, TypeError, ValueError):
            known = {}  # of another release
    execution = await former_execution(services.store, record, execution_id, after=after)
    if execution is not None and execution.status in ENDED:
        kept = dict([*known.items()][-KEPT + 1 :])
        kept[execution_id] = execution_to_json(execution)
        said = encode_json({"v": _VERSION, "epoch": record.epoch, "executions": kept})
        await services.cache.set(key, said, TTL_MS)
    return execution


async def forget(services: Services, tenant_id: str, conversation_id: str) -> None:
    """Forget what is remembered of a conversation that was deleted."""
    await services.cache.delete(_key(tenant_id, conversation_id))


def _key(tenant_id: str, conversation_id: str) -> str:
    return f"past:{tenant_id}:{conversation_id}"


def _read(said: bytes | None, epoch: str) -> Mapping[str, Any]:
    if said is None:
        return {}
    try:
        document = orjson.loads(said)
        if document["v"] == _VERSION and document["epoch"] == epoch:
            executions: Mapping[str, Any] = document["executions"]
            return executions
    except (ValueError, TypeError, KeyError):
        pass
    return {}
