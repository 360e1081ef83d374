"""Reading a conversation that must exist: one refusal for missing, deleted and foreign alike."""

from server.auth.principal import Principal
from server.delivery.audience import audience_of
from server.engine.reducer import conversation_not_found
from server.handlers.services import Services
from storage.models import Audience, Conversation


async def existing(
    services: Services, principal: Principal, conversation_id: str
) -> tuple[Conversation, Audience]:
    """Return the record and as whom ``principal`` sees it.

    Raises:
        Refused: ``conversation_not_found``, the same to the byte in all three cases.
    """
    record = await services.engine.read(principal.tenant_id, conversation_id)
    if record is None or record.deleted_at is not None:
        raise conversation_not_found()
    audience = audience_of(principal, record)
    if audience is None:
        raise conversation_not_found()
    return record, audience
